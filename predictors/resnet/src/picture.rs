//! From a PNG or JPEG to the tensor that the network takes, as torchvision prepares pictures: the
//! shorter side scaled to 256, the middle 224×224, colours from 0 to 1, less their mean and over their
//! deviation. Transparency is dropped. A picture that a camera says was taken upright is turned.

use std::io::Cursor;

use dunlin_sdk::Error;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage};

use crate::resize;

/// The pixels of a row and of a column of what the network takes.
pub(crate) const SIDE: usize = 224;

pub(crate) const CHANNELS: usize = 3;

/// What the shorter side is scaled to.
const SHORTER: usize = 256;

/// Of red, green and blue, over the pictures of ImageNet.
const MEAN: [f32; CHANNELS] = [0.485, 0.456, 0.406];
const DEVIATION: [f32; CHANNELS] = [0.229, 0.224, 0.225];

/// Above a photograph of 4096×4096 the answer is a 400: a small file can hold a picture larger than
/// any memory.
const PIXELS_MAX: u64 = 16 << 20;

/// 16 megapixels at the most that a PNG pixel takes, which is 8 bytes.
const DECODED_MAX: u64 = 128 << 20;

/// Which of the formats that the predictor knows a body is in, by its first bytes.
pub(crate) fn format(body: &[u8]) -> Option<ImageFormat> {
    let format = image::guess_format(body).ok()?;
    matches!(format, ImageFormat::Png | ImageFormat::Jpeg).then_some(format)
}

/// `[3, 224, 224]`, row-major.
pub(crate) fn tensor(body: &[u8], format: ImageFormat) -> Result<Vec<f32>, Error> {
    let picture = decode(body, format)?;
    let pixels = resize::middle(&picture, SHORTER, SIDE);
    let mut tensor = Vec::with_capacity(CHANNELS * pixels.len());
    for channel in 0..CHANNELS {
        tensor.extend(pixels.iter().map(|pixel| {
            let value = f32::from(pixel[channel]) / 255.0;
            (value - MEAN[channel]) / DEVIATION[channel]
        }));
    }
    Ok(tensor)
}

fn decode(body: &[u8], format: ImageFormat) -> Result<RgbImage, Error> {
    let mut reader = ImageReader::with_format(Cursor::new(body), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(DECODED_MAX);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|error| unreadable(&error))?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > PIXELS_MAX {
        return Err(Error::bad_request(format_args!(
            "the picture has {width}×{height} pixels; send at most 16 megapixels"
        )));
    }
    let orientation = decoder.orientation().map_err(|error| unreadable(&error))?;
    let picture = DynamicImage::from_decoder(decoder).map_err(|error| unreadable(&error))?;
    let mut picture = DynamicImage::from(picture.into_rgb8());
    picture.apply_orientation(orientation);
    Ok(picture.into_rgb8())
}

fn unreadable(error: &ImageError) -> Error {
    // A decoder that reads only the header may find out first that the picture is too large.
    if matches!(error, ImageError::Limits(_)) {
        return Error::bad_request("the picture is too large; send at most 16 megapixels");
    }
    Error::bad_request(format_args!(
        "the picture cannot be read: {error}; send a whole PNG or JPEG"
    ))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::{Path, PathBuf};

    use image::{GrayImage, Rgb};
    use proptest::prelude::*;
    use safetensors::SafeTensors;

    use super::*;

    pub(crate) fn file(picture: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        picture.into().write_to(&mut file, format).unwrap();
        file.into_inner()
    }

    #[test]
    fn colours_are_scaled_channel_by_channel() {
        let red = RgbImage::from_pixel(300, 500, Rgb([255, 0, 51]));
        let tensor = tensor(&file(red, ImageFormat::Png), ImageFormat::Png).unwrap();
        assert_eq!(tensor.len(), CHANNELS * SIDE * SIDE);
        let planes = tensor.chunks(SIDE * SIDE);
        for (plane, expected) in planes.zip([2.248_908_3, -2.035_714_4, -0.915_555_54_f32]) {
            assert!(plane.iter().all(|value| (value - expected).abs() < 1e-6));
        }
    }

    /// What export.py writes; none where it did not run.
    #[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
    fn models() -> Option<PathBuf> {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        if models.join("reference.safetensors").exists() {
            return Some(models);
        }
        let required = std::env::var_os("DUNLIN_REQUIRE_LIGHTNING");
        assert!(required.is_none(), "{} is empty", models.display());
        eprintln!("skipped: export.py did not run; run cargo xtask test --with lightning");
        None
    }

    /// The largest and the mean difference from what Pillow makes of it, in 255ths of a colour.
    fn difference(found: &[f32], expected: &[f32]) -> (f32, f32) {
        assert_eq!(found.len(), expected.len());
        let (mut largest, mut sum) = (0_f32, 0.0);
        for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
            let scale = 255.0 * DEVIATION[at / (SIDE * SIDE)];
            let difference = (found - expected).abs() * scale;
            largest = largest.max(difference);
            sum += difference;
        }
        (largest, sum / found.len() as f32)
    }

    #[test]
    fn pictures_become_what_python_makes_of_them() {
        let Some(models) = models() else { return };
        let reference = std::fs::read(models.join("reference.safetensors")).unwrap();
        let reference = SafeTensors::deserialize(&reference).unwrap();
        let mut seen = 0;
        for entry in std::fs::read_dir(models.join("pictures")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let body = std::fs::read(&path).unwrap();
            let found = tensor(&body, format(&body).unwrap()).unwrap();
            let expected = reference.tensor(&format!("image.{name}")).unwrap();
            let expected: Vec<f32> = expected
                .data()
                .as_chunks()
                .0
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect();
            let (largest, mean) = difference(&found, &expected);
            // PNG is without loss; two JPEG decoders may round a colour differently.
            let (largest_max, mean_max) = if name.ends_with(".png") {
                (1e-3, 1e-3)
            } else {
                (4.0, 0.5)
            };
            assert!(largest <= largest_max, "{name}: {largest} of 255");
            assert!(mean <= mean_max, "{name}: {mean} of 255 on average");
            seen += 1;
        }
        assert_eq!(seen, 8);
    }

    fn check_refused(file: &[u8], part: &str) {
        let Err(Error::BadRequest(message)) = tensor(file, format(file).unwrap()) else {
            panic!("not refused");
        };
        assert!(message.contains(part), "{message}");
    }

    #[test]
    fn a_bomb_and_a_broken_file_are_refused() {
        let large = file(GrayImage::new(8192, 2049), ImageFormat::Png);
        assert!(large.len() < 100_000, "a bomb is small");
        check_refused(&large, "8192×2049 pixels");
        for format in [ImageFormat::Png, ImageFormat::Jpeg] {
            let whole = file(RgbImage::new(20, 20), format);
            check_refused(&whole[..whole.len() / 2], "cannot be read");
            check_refused(&whole[..12], "cannot be read");
        }
        check_refused(b"\x89PNG\r\n\x1a\n", "cannot be read");
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(at in 0_usize..400, byte: u8, jpeg: bool) {
            let format = if jpeg { ImageFormat::Jpeg } else { ImageFormat::Png };
            let mut file = file(RgbImage::new(9, 5), format);
            let at = at % file.len();
            file[at] = byte;
            let _ = tensor(&file, format);
        }
    }
}
