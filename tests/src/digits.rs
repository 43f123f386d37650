//! What the digits model is known to answer: the held-out images and the golden samples of the
//! original PyTorch module.

use std::fs;

use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::artifacts::repository;

const SIDE: usize = 8;
const PIXELS: usize = SIDE * SIDE;
/// The ink of scikit-learn's images goes from 0 to 16.
const INK: u16 = 16;

/// The part of the digits that the module was not trained on.
#[derive(Debug, Clone)]
pub struct HeldOut {
    /// Rows of 8×8 pixels from 0 to 16.
    pub pixels: Vec<[u8; PIXELS]>,
    pub labels: Vec<u8>,
    /// What the original module says.
    pub predicted: Vec<u8>,
    /// The share of `predicted` that is right.
    pub accuracy: f64,
}

/// Inputs of the model and the original module's outputs.
#[derive(Debug, Clone)]
pub struct Golden {
    pub pixels: Vec<[f32; PIXELS]>,
    pub logits: Vec<[f32; 10]>,
}

impl HeldOut {
    /// # Panics
    /// The file is not as `predictors/digits/train.py` writes it.
    #[must_use]
    pub fn read() -> Self {
        let file = model_file("heldout.safetensors");
        let tensors = SafeTensors::deserialize(&file).expect("it is a safetensors file");
        let bytes = |name| {
            let tensor = tensors.tensor(name).expect("it has the tensor");
            tensor.data().to_vec()
        };
        let (_, metadata) = SafeTensors::read_metadata(&file).expect("it has metadata");
        let accuracy = metadata
            .metadata()
            .as_ref()
            .and_then(|metadata| metadata.get("accuracy")?.parse().ok())
            .expect("the metadata has the accuracy");
        Self {
            pixels: bytes("pixels").as_chunks().0.to_vec(),
            labels: bytes("labels"),
            predicted: bytes("predicted"),
            accuracy,
        }
    }
}

impl Golden {
    /// # Panics
    /// The file is not as `predictors/digits/train.py` writes it.
    #[must_use]
    pub fn read() -> Self {
        let file = model_file("golden.safetensors");
        let tensors = SafeTensors::deserialize(&file).expect("it is a safetensors file");
        let floats = |name| -> Vec<f32> {
            let tensor = tensors.tensor(name).expect("it has the tensor");
            let chunks = tensor.data().as_chunks().0;
            chunks
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect()
        };
        Self {
            pixels: floats("input.pixels").as_chunks().0.to_vec(),
            logits: floats("output.logits").as_chunks().0.to_vec(),
        }
    }
}

fn model_file(name: &str) -> Vec<u8> {
    let path = repository().join("predictors/digits/models").join(name);
    fs::read(&path).expect("the repository has the digits model")
}

/// The request body that the digits predictor takes.
#[must_use]
pub fn pixels_json(pixels: &[u8; PIXELS]) -> Value {
    let rows: Vec<&[u8]> = pixels.chunks(SIDE).collect();
    json!({ "pixels": rows })
}

/// The image as a greyscale PNG, every pixel as a square of `scale`×`scale`: ink is white.
///
/// # Panics
/// A pixel is not from 0 to 16.
#[must_use]
pub fn png(pixels: &[u8; PIXELS], scale: usize) -> Vec<u8> {
    let side = SIDE * scale;
    let mut grey = Vec::with_capacity(side * side);
    for y in 0..side {
        for x in 0..side {
            let ink = u16::from(pixels[y / scale * SIDE + x / scale]);
            // Rounded, so that the way back gives the same ink.
            let value = (ink * 255 + INK / 2) / INK;
            grey.push(u8::try_from(value).expect("ink is from 0 to 16"));
        }
    }
    let mut file = Vec::new();
    let side = u32::try_from(side).expect("pictures are small");
    let mut encoder = png::Encoder::new(&mut file, side, side);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().expect("a Vec takes any bytes");
    writer
        .write_image_data(&grey)
        .expect("a Vec takes any bytes");
    writer.finish().expect("a Vec takes any bytes");
    file
}
