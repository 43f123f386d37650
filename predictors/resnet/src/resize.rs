//! Scales a picture as Pillow does with its bilinear filter, which torchvision uses, to the last bit:
//! first along the rows, then along the columns, in whole numbers. Only what is wanted of the result
//! is computed.

use image::RgbImage;

/// The weights of a pixel are in units of 2⁻²².
const PRECISION: u32 = 22;

/// Red, green and blue.
pub(crate) type Pixel = [u8; 3];

/// What one pixel of the result is made of.
struct Window {
    from: usize,
    /// Of the pixels from `from` on, in units of 2^-[`PRECISION`]; their sum is about 1.
    weights: Vec<i32>,
}

/// The middle `side`×`side` of the picture after its shorter side was scaled to `shorter`, row by row.
pub(crate) fn middle(picture: &RgbImage, shorter: usize, side: usize) -> Vec<Pixel> {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    if width == 0 || height == 0 {
        return vec![Pixel::default(); side * side];
    }
    let columns = windows(width, width.min(height), shorter, side);
    let rows = windows(height, width.min(height), shorter, side);

    // Only the rows that the second pass looks at.
    let first = rows.first().map_or(0, |row| row.from);
    let last = rows.last().map_or(0, |row| row.from + row.weights.len());
    let (pixels, _) = picture.as_raw().as_chunks::<3>();
    let mut scaled = Vec::with_capacity((last - first) * side);
    for row in pixels.chunks_exact(width).take(last).skip(first) {
        let of_row = columns.iter().map(|column| mix(column, |at| row[at]));
        scaled.extend(of_row);
    }
    let mut result = Vec::with_capacity(side * side);
    for row in &rows {
        result.extend((0..side).map(|x| mix(row, |at| scaled[(at - first) * side + x])));
    }
    result
}

/// The windows of the middle `side` pixels of an axis of `size` pixels, in a picture whose shorter
/// axis, of `shortest` pixels, becomes `shorter`.
fn windows(size: usize, shortest: usize, shorter: usize, side: usize) -> Vec<Window> {
    // In 64 bits: a line of 16 megapixels becomes 2³² long.
    let scaled = (size as u64 * shorter as u64 / shortest as u64) as f64;
    let scale = size as f64 / scaled;
    // Where the picture becomes smaller, all pixels below the filter count.
    let reach = scale.max(1.0);
    // Half a pixel goes to the even side, as Python rounds.
    let margin = ((scaled - side as f64) / 2.0).round_ties_even();
    (0..side)
        .map(|at| {
            let centre = (margin + at as f64 + 0.5) * scale;
            let from = (centre - reach + 0.5).max(0.0) as usize;
            let to = ((centre + reach + 0.5) as usize).min(size);
            let weights = (from..to).map(|pixel| {
                let distance = (pixel as f64 - centre + 0.5) / reach;
                (1.0 - distance.abs()).max(0.0)
            });
            let weights: Vec<f64> = weights.collect();
            let sum: f64 = weights.iter().sum();
            let unit = f64::from(1 << PRECISION);
            let weights = weights
                .iter()
                .map(|weight| (weight / sum * unit).round() as i32);
            Window {
                from,
                weights: weights.collect(),
            }
        })
        .collect()
}

fn mix(window: &Window, pixel: impl Fn(usize) -> Pixel) -> Pixel {
    let mut sums = [1 << (PRECISION - 1); 3];
    for (at, weight) in (window.from..).zip(&window.weights) {
        for (sum, value) in sums.iter_mut().zip(pixel(at)) {
            *sum += i32::from(value) * weight;
        }
    }
    sums.map(|sum| (sum >> PRECISION).clamp(0, 255) as u8)
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    fn ramp(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| Rgb([x as u8, y as u8, (x + y) as u8]))
    }

    #[test]
    fn a_picture_of_the_right_size_is_only_cut() {
        // 256 and 7 more: half of 39 is 19.5, and the even side is 20.
        let result = middle(&ramp(256, 263), 256, 224);
        for (at, pixel) in result.iter().enumerate() {
            let (x, y) = (at % 224 + 16, at / 224 + 20);
            assert_eq!(*pixel, [x as u8, y as u8, (x + y) as u8]);
        }
        assert_eq!(
            middle(&ramp(261, 256), 256, 224)[0][0],
            18,
            "half of 37 is 18.5"
        );
    }

    #[test]
    fn scaling_down_counts_every_pixel() {
        // Alternating columns become grey; a filter of two pixels would keep some of them.
        let stripes = RgbImage::from_fn(1024, 1024, |x, _| Rgb([255 * (x % 2) as u8; 3]));
        for pixel in middle(&stripes, 256, 224) {
            assert!((127..=128).contains(&pixel[0]), "{pixel:?}");
        }
    }

    #[test]
    fn scaling_up_goes_evenly_between_pixels() {
        let two = RgbImage::from_fn(2, 2, |x, _| Rgb([255 * x as u8; 3]));
        let row = &middle(&two, 256, 224)[..224];
        assert!(row.is_sorted());
        // The first 64 of 256 lie before the middle of the first pixel; 16 of them are cut off.
        assert_eq!(
            (row[0][0], row[47][0], row[48][0], row[111][0]),
            (0, 0, 1, 127)
        );
    }

    #[test]
    fn any_shape_gives_a_square() {
        for (width, height) in [(1, 1), (1, 5000), (5000, 1), (3, 2), (255, 257)] {
            let grey = RgbImage::from_pixel(width, height, Rgb([77; 3]));
            assert_eq!(middle(&grey, 256, 224), vec![[77; 3]; 224 * 224]);
        }
        assert_eq!(middle(&RgbImage::new(0, 0), 256, 224).len(), 224 * 224);
    }
}
