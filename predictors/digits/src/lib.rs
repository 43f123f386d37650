//! Reads a handwritten digit: from 8×8 pixels as JSON, or from a PNG or JPEG of any size.
//!
//! The model takes `pixels`, FP32 `[batch, 1, 8, 8]` with values from 0 to 16 as scikit-learn has
//! them, and gives `logits`, FP32 `[batch, 10]`; it scales by itself.

mod picture;

use dunlin_sdk::{Config, Error, Model, Predictor, Request, Response, Tensor};
use serde::{Deserialize, Serialize};

use crate::picture::{INK, Pixels, SIDE};

const EXPECTED: &str = "send {\"pixels\": 8 rows of 8 numbers from 0 (no ink) to 16} as JSON, or \
                        one PNG or JPEG";

/// The digits from 0 to 9.
const LABELS: usize = 10;

#[derive(Debug)]
pub struct Digits {
    model: Model,
}

#[derive(Deserialize)]
struct Question {
    pixels: Pixels,
}

#[derive(Serialize)]
struct Answer {
    label: usize,
    probabilities: [f32; LABELS],
}

impl Predictor for Digits {
    fn init(_: Config) -> Result<Self, Error> {
        Ok(Self {
            model: Model::open("digits")?,
        })
    }

    fn predict(&mut self, request: Request) -> Result<Response, Error> {
        let pixels = pixels(&request)?;
        let input = Tensor::f32([1, 1, SIDE, SIDE], pixels.as_flattened())?;
        let outputs = self.model.infer(&[("pixels", input)])?;
        let logits = outputs
            .output("logits")?
            .with_shape(&[1, LABELS])?
            .as_f32()?;

        let (label, probabilities) = softmax(&logits)?;
        Response::json(&Answer {
            label,
            probabilities,
        })
    }
}

dunlin_sdk::export!(Digits);

/// What is in the body decides, and not its content type alone: tools send JSON and pictures under
/// any.
fn pixels(request: &Request) -> Result<Pixels, Error> {
    if request.content_type() == "multipart/form-data" {
        let form = request.form()?;
        let Some(file) = form.file() else {
            return Err(Error::bad_request(format_args!(
                "the form has no file; {EXPECTED}"
            )));
        };
        return match picture::format(&file.value) {
            Some(format) => picture::pixels(&file.value, format),
            None => Err(Error::bad_request(format_args!(
                "the file in the form is neither PNG nor JPEG; {EXPECTED}"
            ))),
        };
    }

    let body = request.bytes();
    if let Some(format) = picture::format(body) {
        return picture::pixels(body, format);
    }
    let Some(first) = body.iter().find(|byte| !byte.is_ascii_whitespace()) else {
        return Err(Error::bad_request(format_args!(
            "the body is empty; {EXPECTED}"
        )));
    };
    if *first != b'{' && request.content_type() != "application/json" {
        return Err(Error::bad_request(format_args!(
            "the body is neither JSON nor a PNG or JPEG; {EXPECTED}"
        )));
    }
    let Question { pixels } = request
        .json()
        .map_err(|error| Error::bad_request(format_args!("{}; {EXPECTED}", error.message())))?;
    for (y, row) in pixels.iter().enumerate() {
        for (x, value) in row.iter().enumerate() {
            if !(0.0..=INK).contains(value) {
                return Err(Error::bad_request(format_args!(
                    "pixels[{y}][{x}] is {value}, not from 0 to {INK}; {EXPECTED}"
                )));
            }
        }
    }
    Ok(pixels)
}

/// The most probable label, and the probabilities of all.
fn softmax(logits: &[f32]) -> Result<(usize, [f32; LABELS]), Error> {
    if logits.len() != LABELS || logits.iter().any(|logit| !logit.is_finite()) {
        return Err(Error::internal(
            "the model gave logits that are not 10 finite numbers",
        ));
    }
    let mut label = 0;
    for (at, logit) in logits.iter().enumerate() {
        if *logit > logits[label] {
            label = at;
        }
    }
    // Less the largest, so that no exponential overflows.
    let exponentials: [f32; LABELS] = std::array::from_fn(|at| (logits[at] - logits[label]).exp());
    let sum: f32 = exponentials.iter().sum();
    Ok((label, exponentials.map(|exponential| exponential / sum)))
}

#[cfg(test)]
mod tests {
    use dunlin_sdk::{Tensors, testing};
    use serde_json::{Value, json};

    use super::*;

    /// A model that answers with the row that has the ink.
    fn digits() -> Digits {
        testing::model("digits", |inputs| {
            let pixels = inputs
                .output("pixels")?
                .with_shape(&[1, 1, 8, 8])?
                .as_f32()?;
            let mut logits = [0.0; LABELS];
            for (at, pixel) in pixels.iter().enumerate() {
                logits[at / 8] += pixel;
            }
            Ok(Tensors::from([(
                "logits",
                Tensor::f32([1, LABELS], &logits)?,
            )]))
        });
        Digits::init(Config::default()).unwrap()
    }

    fn row_of_ink(row: usize) -> Vec<Vec<f64>> {
        (0..8)
            .map(|y| vec![if y == row { 1.0 } else { 0.0 }; 8])
            .collect()
    }

    fn answer(request: Request) -> Value {
        let response = digits().predict(request).unwrap();
        assert_eq!(response.status(), 200);
        serde_json::from_slice(response.body()).unwrap()
    }

    fn check_refused(content_type: &str, body: impl Into<Vec<u8>>, part: &str) {
        let request = Request::new("POST", "/").with_body(content_type, body);
        let Err(Error::BadRequest(message)) = digits().predict(request) else {
            panic!("not refused: {part}");
        };
        assert!(message.contains(part), "{message}");
        assert!(
            message.contains("PNG or JPEG") || part.contains("picture"),
            "{message}"
        );
    }

    #[test]
    fn pixels_become_a_label_and_probabilities() {
        let answer = answer(Request::post_json(&json!({"pixels": row_of_ink(3)})));
        assert_eq!(answer["label"], 3);
        let probabilities: Vec<f64> =
            serde_json::from_value(answer["probabilities"].clone()).unwrap();
        assert_eq!(probabilities.len(), 10);
        assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-6);
        let expected = 8_f64.exp() / (8_f64.exp() + 9.0);
        assert!(
            (probabilities[3] - expected).abs() < 1e-6,
            "{probabilities:?}"
        );
    }

    #[test]
    fn the_content_type_of_json_does_not_matter() {
        let body = json!({"pixels": row_of_ink(5)}).to_string();
        for content_type in ["application/json", "application/x-www-form-urlencoded", ""] {
            let request = Request::new("POST", "/").with_body(content_type, body.clone());
            assert_eq!(answer(request)["label"], 5);
        }
    }

    #[test]
    fn a_picture_comes_as_the_body_or_in_a_form() {
        let seven = include_bytes!("../samples/seven.png");
        let plain = answer(Request::new("POST", "/").with_body("image/png", seven.as_slice()));
        let mut form =
            b"--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"seven.png\"\
                         \r\nContent-Type: image/png\r\n\r\n"
                .to_vec();
        form.extend(seven);
        form.extend(b"\r\n--x--\r\n");
        let request = Request::new("POST", "/").with_body("multipart/form-data; boundary=x", form);
        assert_eq!(answer(request), plain);
    }

    #[test]
    fn what_is_not_expected_is_refused_with_what_is() {
        let json = "application/json";
        let pixels = |change: fn(&mut Vec<Vec<f64>>)| {
            let mut pixels = row_of_ink(1);
            change(&mut pixels);
            json!({"pixels": pixels}).to_string()
        };
        check_refused(json, "", "the body is empty");
        check_refused(json, " \n", "the body is empty");
        check_refused(json, "{", "EOF");
        check_refused(json, "[1]", "pixels");
        check_refused(json, "{}", "missing field `pixels`");
        check_refused(
            json,
            r#"{"pixels": 1}"#,
            "pixels: invalid type: integer `1`",
        );
        check_refused(json, r#"{"pixels": [[NaN]]}"#, "pixels[0][0]");
        check_refused(
            json,
            r#"{"pixels": [["a"]]}"#,
            "pixels[0][0]: invalid type: string",
        );
        check_refused(json, r#"{"pixels": [[1e999]]}"#, "number out of range");
        check_refused(
            json,
            r#"{"pixels": [[null]]}"#,
            "pixels[0][0]: invalid type: null",
        );
        check_refused(json, pixels(|p| p.truncate(7)), "invalid length 7");
        check_refused(json, pixels(|p| p.push(vec![0.0; 8])), "pixels");
        check_refused(json, pixels(|p| p[2].truncate(7)), "pixels[2]");
        check_refused(json, pixels(|p| p[2].push(0.0)), "pixels[2]");
        check_refused(
            json,
            pixels(|p| p[2][1] = 16.5),
            "pixels[2][1] is 16.5, not from 0 to 16",
        );
        check_refused(json, pixels(|p| p[0][0] = -1.0), "pixels[0][0] is -1");
        check_refused(json, pixels(|p| p[7][7] = 1e300), "pixels[7][7] is inf");
        check_refused("image/gif", "GIF89a", "neither JSON nor a PNG or JPEG");
        check_refused("image/png", "\u{89}PNG", "neither JSON nor a PNG or JPEG");
        check_refused(
            "multipart/form-data; boundary=x",
            "--x--",
            "the form has no file",
        );
        check_refused("image/png", &b"\x89PNG\r\n\x1a\n0"[..], "picture");
    }

    #[test]
    fn a_model_that_answers_nonsense_is_not_the_callers_fault() {
        let _ = digits();
        testing::model("digits", |_| {
            Ok(Tensors::from([(
                "logits",
                Tensor::f32([1, LABELS], &[f32::NAN; LABELS])?,
            )]))
        });
        let mut digits = Digits::init(Config::default()).unwrap();
        let request = Request::post_json(&json!({"pixels": row_of_ink(3)}));
        assert!(matches!(digits.predict(request), Err(Error::Internal(_))));
    }

    #[test]
    fn large_logits_do_not_overflow() {
        let mut logits = [-1e30; LABELS];
        logits[4] = 1e30;
        let (label, probabilities) = softmax(&logits).unwrap();
        assert_eq!((label, probabilities[4], probabilities[0]), (4, 1.0, 0.0));
    }
}
