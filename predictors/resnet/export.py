"""Makes ResNet-18, exports it to ONNX, and writes what its tests compare with.

    python export.py                          # writes models/
    python export.py --weights resnet18.pth   # with trained weights, as torchvision publishes them

Without --weights they are random, with a fixed seed: the answers depend on the picture and mean
nothing. README.md beside this file says what each written file is.
"""

import argparse
import sys
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image
from safetensors.numpy import save_file
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent

OPSET = 17
TOLERANCE = 1e-3
CLASSES = 1000

# As torchvision prepares pictures for its weights.
RESIZED = 256
CROPPED = 224
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride != 1 or channels_in != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + shortcut)


class ResNet18(nn.Module):
    """image `[N, 3, 224, 224]` to logits `[N, 1000]`: He et al., "Deep Residual Learning for Image
    Recognition", table 1, 18 layers. The parts have the names that published weights use."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels_in = 64
        for number, (channels, stride) in enumerate([(64, 1), (128, 2), (256, 2), (512, 2)], 1):
            blocks = nn.Sequential(Block(channels_in, channels, stride), Block(channels, channels, 1))
            self.add_module(f"layer{number}", blocks)
            channels_in = channels
        self.fc = nn.Linear(512, CLASSES)

    def features(self, image: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(image))), 3, 2, padding=1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return x.mean(dim=(2, 3))

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(self.features(image))


@torch.no_grad()
def seeded() -> ResNet18:
    """Random weights, with statistics of the layers measured on random pictures: no layer's values
    vanish or explode, and different pictures get different answers."""
    generator = torch.Generator().manual_seed(0)
    model = ResNet18()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            deviation = (2 / parameter[0].numel()) ** 0.5
            parameter.normal_(0, deviation, generator=generator)
    # Smooth and of any contrast, as pictures are.
    noise = torch.rand(16, 3, 12, 12, generator=generator)
    pictures = F.interpolate(noise, CROPPED, mode="bicubic").clamp(0, 1)
    mean, deviation = (torch.from_numpy(x).view(3, 1, 1) for x in (MEAN, DEVIATION))
    pictures = (pictures - mean) / deviation
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()
    model.features(pictures)
    model.eval()
    features = model.features(pictures)
    model.fc.weight *= 2 / model.fc(features).std(dim=0).mean()
    model.fc.bias.copy_(-model.fc.weight @ features.mean(dim=0))
    return model


def prepared(picture: Image.Image) -> np.ndarray:
    """The shorter side to 256, the middle 224 by 224, colours scaled: `[3, 224, 224]`."""
    picture = picture.convert("RGB")
    width, height = picture.size
    short = min(width, height)
    size = (RESIZED * width // short, RESIZED * height // short)
    picture = picture.resize(size, Image.Resampling.BILINEAR)
    left, top = (round((side - CROPPED) / 2) for side in size)
    picture = picture.crop((left, top, left + CROPPED, top + CROPPED))
    pixels = np.asarray(picture, np.float32) / 255
    # As it lies in memory, too: safetensors writes arrays as they lie.
    return np.ascontiguousarray(((pixels - MEAN) / DEVIATION).transpose(2, 0, 1))


def pictures() -> dict[str, bytes]:
    """Files made of the two photographs that scikit-learn carries."""
    temple, flower = (Image.fromarray(image) for image in load_sample_images().images)
    transparent = flower.resize((97, 61)).convert("RGBA")
    transparent.putalpha(Image.linear_gradient("L").resize(transparent.size))
    files = {
        "temple.jpg": (temple, {"quality": 90}),
        "flower.jpg": (flower.crop((101, 0, 400, 427)), {"quality": 75, "progressive": True}),
        "grey.jpg": (temple.convert("L").resize((501, 333)), {"quality": 90}),
        "flower.png": (flower.transpose(Image.Transpose.ROTATE_90), {}),
        "temple.png": (temple.resize((256, 256)), {}),
        "long.png": (temple.crop((0, 100, 640, 137)), {}),
        "small.png": (transparent, {}),
        "palette.png": (flower.quantize(64), {}),
    }
    written = {}
    for name, (picture, options) in files.items():
        file = BytesIO()
        picture.save(file, {"jpg": "JPEG", "png": "PNG"}[name.split(".")[1]], **options)
        written[name] = file.getvalue()
    return written


def export(model: ResNet18, path: Path) -> None:
    with warnings.catch_warnings():
        # The exporter that writes one file is announced to go.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.zeros(1, 3, CROPPED, CROPPED),),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        )


def main() -> int:
    parser = argparse.ArgumentParser(description="Make and export ResNet-18.")
    parser.add_argument("--out", type=Path, default=HERE / "models")
    parser.add_argument("--weights", type=Path, help="a state dictionary; random weights without it")
    arguments = parser.parse_args()
    models = arguments.out
    (models / "pictures").mkdir(parents=True, exist_ok=True)

    model = seeded()
    if arguments.weights:
        model.load_state_dict(torch.load(arguments.weights, map_location="cpu", weights_only=True))
    model.eval().requires_grad_(False)
    export(model, models / "resnet18.onnx")

    images, files = [], pictures()
    for name, file in files.items():
        (models / "pictures" / name).write_bytes(file)
        images.append(prepared(Image.open(BytesIO(file))))
    images = np.stack(images)
    logits = model(torch.from_numpy(images))
    probabilities = logits.softmax(dim=1).numpy()
    reference = {}
    for name, image, row in zip(files, images, probabilities):
        reference |= {f"image.{name}": image, f"probabilities.{name}": row}
        print(f"{name}: class {row.argmax()} with {row.max():.3f}")
    save_file(reference, models / "reference.safetensors")
    save_file(
        {"input.image": images[:2], "output.logits": logits[:2].numpy()},
        models / "golden.safetensors",
    )

    session = onnxruntime.InferenceSession(
        models / "resnet18.onnx", providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(["logits"], {"image": images})
    difference = float(np.abs(found - logits.numpy()).max())
    print(f"{len(images)} pictures in one batch: largest difference of a logit {difference:.1e}")
    # Written so that NaN fails, too.
    if not difference <= TOLERANCE:
        print(f"wrong: the export differs by {difference:.1e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
