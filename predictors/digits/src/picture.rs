//! Turns a picture of a digit into the 8×8 pixels that the network was trained on.
//!
//! The rule for ink: a pixel of the network is 0 where there is none and 16 where there is most, so
//! brightness is ink, as on a blackboard. Where the outermost ring of the 8×8 is brighter than half
//! on average, the picture is taken for dark ink on light paper and inverted. (Among the 1,797
//! digits of the data set that mean is at most 4.8 of 16.) Whatever is transparent is paper: white.
//!
//! A picture of 8×8, or one in which each of 8×8 pixels is a block of equal size, comes back exactly
//! when it was drawn as grey = value · 255 / 16: every pixel is the mean of the area that it covers,
//! rounded to the whole numbers from 0 to 16 that the data set has. Other shapes are stretched to a
//! square.

use std::io::Cursor;

use dunlin_sdk::Error;
use image::{DynamicImage, GrayImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

/// 8 rows of 8 pixels from 0 to [`INK`].
pub(crate) type Pixels = [[f32; SIDE]; SIDE];

pub(crate) const SIDE: usize = 8;

/// The value of a pixel that is all ink.
pub(crate) const INK: f32 = 16.0;

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

pub(crate) fn pixels(body: &[u8], format: ImageFormat) -> Result<Pixels, Error> {
    let grey = decode(body, format)?;
    let mut pixels = shrink(&grey);
    if border_mean(&pixels) > INK / 2.0 {
        pixels
            .iter_mut()
            .flatten()
            .for_each(|pixel| *pixel = INK - *pixel);
    }
    Ok(pixels)
}

fn decode(body: &[u8], format: ImageFormat) -> Result<GrayImage, Error> {
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
    // A camera that was held upright says so beside the picture.
    let orientation = decoder.orientation().map_err(|error| unreadable(&error))?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|error| unreadable(&error))?;
    picture.apply_orientation(orientation);
    Ok(on_paper(picture))
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

fn on_paper(picture: DynamicImage) -> GrayImage {
    if !picture.color().has_alpha() {
        return picture.into_luma8();
    }
    let transparent = picture.into_luma_alpha8();
    GrayImage::from_fn(transparent.width(), transparent.height(), |x, y| {
        let [grey, alpha] = transparent.get_pixel(x, y).0.map(u32::from);
        image::Luma([((grey * alpha + 255 * (255 - alpha) + 127) / 255) as u8])
    })
}

/// The mean over the area of each of the 8×8 pixels, in whole numbers from 0 to 16.
///
/// All in integers: in units of an eighth of a pixel of the picture, cell `i` covers
/// `i·width … (i + 1)·width` and pixel `x` covers `8x … 8x + 8`.
fn shrink(grey: &GrayImage) -> Pixels {
    let (width, height) = (grey.width() as usize, grey.height() as usize);
    let mut sums = [[0_u64; SIDE]; SIDE];
    for (y, row) in grey.as_raw().chunks_exact(width.max(1)).enumerate() {
        let mut of_row = [0_u64; SIDE];
        for (x, value) in row.iter().enumerate() {
            for (cell, covered) in cells(x, width) {
                of_row[cell] += u64::from(*value) * covered;
            }
        }
        for (cell, covered) in cells(y, height) {
            for (sum, of_row) in sums[cell].iter_mut().zip(of_row) {
                *sum += of_row * covered;
            }
        }
    }
    let area = (width * height) as f64;
    sums.map(|row| row.map(|sum| (sum as f64 / area / 255.0 * f64::from(INK)).round() as f32))
}

/// The cells that the pixel at `at` lies in, with how much of it lies there. A picture of fewer than
/// 8 pixels has some that lie in more than two.
fn cells(at: usize, size: usize) -> impl Iterator<Item = (usize, u64)> {
    let (from, to) = (at * SIDE, (at + 1) * SIDE);
    (from / size..to.div_ceil(size)).map(move |cell| {
        let covered = to.min((cell + 1) * size) - from.max(cell * size);
        (cell, covered as u64)
    })
}

fn border_mean(pixels: &Pixels) -> f32 {
    let last = SIDE - 1;
    let mut ring = Vec::with_capacity(4 * last);
    for at in 0..last {
        ring.extend([
            pixels[0][at],
            pixels[at][last],
            pixels[last][at + 1],
            pixels[at + 1][0],
        ]);
    }
    ring.iter().sum::<f32>() / ring.len() as f32
}

#[cfg(test)]
mod tests {
    use image::{Luma, LumaA, Rgba};
    use proptest::prelude::*;

    use super::*;

    /// A seven: the top row and the border at its worst.
    const SEVEN: Pixels = [
        [0., 0., 16., 16., 16., 16., 2., 0.],
        [0., 0., 3., 4., 9., 15., 1., 0.],
        [0., 0., 0., 0., 13., 8., 0., 0.],
        [0., 0., 0., 5., 14., 1., 0., 0.],
        [0., 0., 0., 12., 7., 0., 0., 0.],
        [0., 0., 2., 16., 0., 0., 0., 0.],
        [0., 0., 10., 11., 0., 0., 0., 0.],
        [0., 0., 6., 6., 0., 0., 0., 0.],
    ];

    fn grey(value: f32) -> u8 {
        (value * 255.0 / INK).round() as u8
    }

    fn drawn(pixels: &Pixels, block: u32) -> GrayImage {
        GrayImage::from_fn(8 * block, 8 * block, |x, y| {
            Luma([grey(pixels[(y / block) as usize][(x / block) as usize])])
        })
    }

    fn file(picture: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        picture.into().write_to(&mut file, format).unwrap();
        file.into_inner()
    }

    fn check(picture: impl Into<DynamicImage>, expected: &Pixels) {
        let file = file(picture, ImageFormat::Png);
        assert_eq!(pixels(&file, format(&file).unwrap()).unwrap(), *expected);
    }

    #[test]
    fn a_drawn_digit_comes_back_exactly() {
        for block in [1, 2, 3, 20, 31] {
            check(drawn(&SEVEN, block), &SEVEN);
        }
    }

    #[test]
    fn every_held_out_digit_comes_back_exactly() {
        let held_out = include_bytes!("../models/heldout.safetensors");
        let tensors = safetensors::SafeTensors::deserialize(held_out).unwrap();
        let digits = tensors.tensor("pixels").unwrap();
        let digits = digits.data().chunks_exact(64);
        assert_eq!(digits.len(), 540);
        for digit in digits {
            let digit: Pixels =
                std::array::from_fn(|y| std::array::from_fn(|x| f32::from(digit[8 * y + x])));
            check(drawn(&digit, 1), &digit);
            check(drawn(&digit, 3), &digit);
        }
    }

    #[test]
    fn the_kind_of_picture_does_not_matter() {
        let light = drawn(&SEVEN, 5);
        let each = |of: fn(u8) -> Rgba<u8>| {
            image::RgbaImage::from_fn(40, 40, |x, y| of(light.get_pixel(x, y).0[0]))
        };
        check(each(|value| Rgba([value, value, value, 255])), &SEVEN);
        check(DynamicImage::from(light.clone()).to_rgb8(), &SEVEN);
        check(DynamicImage::from(light.clone()).to_luma16(), &SEVEN);
        // Dark ink on paper, and dark ink on nothing.
        check(
            each(|value| Rgba([255 - value, 255 - value, 255 - value, 255])),
            &SEVEN,
        );
        check(each(|value| Rgba([0, 0, 0, value])), &SEVEN);

        let jpeg = file(light, ImageFormat::Jpeg);
        let seen = pixels(&jpeg, format(&jpeg).unwrap()).unwrap();
        for (seen, drawn) in seen.iter().flatten().zip(SEVEN.iter().flatten()) {
            assert!((seen - drawn).abs() <= 2.0, "{seen} for {drawn}");
        }
    }

    #[test]
    fn any_size_is_scaled() {
        for (width, height) in [(1, 1), (3, 5), (7, 9), (100, 8), (333, 77)] {
            check(
                GrayImage::from_pixel(width, height, Luma([0])),
                &[[0.0; 8]; 8],
            );
            // All light is light paper without ink.
            check(
                GrayImage::from_pixel(width, height, Luma([255])),
                &[[0.0; 8]; 8],
            );
        }
        let half = image::GrayAlphaImage::from_fn(11, 11, |x, _| {
            LumaA([if x < 5 { 255 } else { 0 }, 255])
        });
        let file = file(half, ImageFormat::Png);
        let seen = pixels(&file, ImageFormat::Png).unwrap();
        // The fourth column covers 4.125 to 5.5: 0.875 of 1.375 is light.
        assert_eq!(seen[4], [16., 16., 16., 10., 0., 0., 0., 0.]);
    }

    fn check_refused(file: &[u8], part: &str) {
        let Err(Error::BadRequest(message)) = pixels(file, format(file).unwrap()) else {
            panic!("not refused");
        };
        assert!(message.contains(part), "{message}");
    }

    #[test]
    fn a_bomb_and_a_broken_file_are_refused() {
        let mut bomb = file(GrayImage::new(8, 8), ImageFormat::Png);
        // IHDR: width and height, then the checksum of it, which the decoder may not even look at.
        bomb[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
        check_refused(&bomb, "");
        let large = file(GrayImage::new(8192, 2049), ImageFormat::Png);
        assert!(large.len() < 100_000, "a bomb is small");
        check_refused(&large, "8192×2049 pixels");

        for format in [ImageFormat::Png, ImageFormat::Jpeg] {
            let whole = file(DynamicImage::from(drawn(&SEVEN, 2)).to_rgb8(), format);
            check_refused(&whole[..whole.len() / 2], "cannot be read");
            check_refused(&whole[..12], "cannot be read");
        }
        check_refused(b"\x89PNG\r\n\x1a\n", "cannot be read");
    }

    #[test]
    fn other_formats_are_not_known() {
        for body in [&b"GIF89a"[..], b"BM", b"", b"{}", b"RIFF....WEBP"] {
            assert_eq!(format(body), None);
        }
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(at in 0_usize..400, byte: u8, jpeg: bool) {
            let format = if jpeg { ImageFormat::Jpeg } else { ImageFormat::Png };
            let mut file = file(DynamicImage::from(drawn(&SEVEN, 2)).to_rgb8(), format);
            let at = at % file.len();
            file[at] = byte;
            let _ = pixels(&file, format);
        }
    }
}
