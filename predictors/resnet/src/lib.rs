//! Says what is in a picture: the classes that ResNet-18 finds most probable, for a PNG or JPEG of
//! any size.
//!
//! The model takes `image`, FP32 `[batch, 3, 224, 224]`, prepared as `picture.rs` does, and gives
//! `logits`, FP32 `[batch, classes]`.

mod picture;
mod resize;

use dunlin_sdk::{Config, Error, Model, Predictor, Request, Response, Tensor};
use serde::{Deserialize, Serialize};

use crate::picture::{CHANNELS, SIDE};

const EXPECTED: &str = "send one PNG or JPEG, as the body or as the file of a form";

/// How many classes an answer has where the request does not say.
const TOP: usize = 5;

#[derive(Debug)]
pub struct ResNet {
    model: Model,
    labels: Vec<String>,
}

/// `predictor.config` of the deployment file.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The names of the classes in their order. Without them a class has only its number.
    #[serde(default)]
    labels: Vec<String>,
}

#[derive(Serialize)]
struct Answer<'a> {
    predictions: Vec<Prediction<'a>>,
}

#[derive(Serialize)]
struct Prediction<'a> {
    class: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'a str>,
    probability: f32,
}

impl Predictor for ResNet {
    fn init(config: Config) -> Result<Self, Error> {
        let Settings { labels } = config.parse()?;
        Ok(Self {
            model: Model::open("resnet18")?,
            labels,
        })
    }

    fn predict(&mut self, request: Request) -> Result<Response, Error> {
        let top = top(&request)?;
        let image = Tensor::f32([1, CHANNELS, SIDE, SIDE], image(&request)?)?;
        let outputs = self.model.infer(&[("image", image)])?;
        let logits = outputs.output("logits")?.as_f32()?;
        let probabilities = softmax(&logits)?;
        if !self.labels.is_empty() && self.labels.len() != probabilities.len() {
            return Err(Error::internal(format_args!(
                "the model has {} classes, config.labels {}",
                probabilities.len(),
                self.labels.len()
            )));
        }

        let mut predictions: Vec<_> = probabilities.into_iter().enumerate().collect();
        predictions.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        let predictions = predictions.into_iter().take(top);
        let predictions = predictions.map(|(class, probability)| Prediction {
            class,
            label: self.labels.get(class).map(String::as_str),
            probability,
        });
        Response::json(&Answer {
            predictions: predictions.collect(),
        })
    }
}

dunlin_sdk::export!(ResNet);

/// How many classes the request asks for.
fn top(request: &Request) -> Result<usize, Error> {
    let Some(top) = request.query("top") else {
        return Ok(TOP);
    };
    match top.parse() {
        Ok(top) if top > 0 => Ok(top),
        _ => Err(Error::bad_request(format_args!(
            "top={top:?} is no number of classes; write ?top={TOP}"
        ))),
    }
}

/// What is in the body decides, and not its content type alone: tools send pictures under any.
fn image(request: &Request) -> Result<Vec<f32>, Error> {
    let form;
    let body = if request.content_type() == "multipart/form-data" {
        form = request.form()?;
        let file = form
            .file()
            .ok_or_else(|| Error::bad_request(format_args!("the form has no file; {EXPECTED}")))?;
        &file.value[..]
    } else {
        request.bytes()
    };
    if body.is_empty() {
        return Err(Error::bad_request(format_args!(
            "there is no picture; {EXPECTED}"
        )));
    }
    let format = picture::format(body).ok_or_else(|| {
        Error::bad_request(format_args!("that is neither PNG nor JPEG; {EXPECTED}"))
    })?;
    picture::tensor(body, format)
}

fn softmax(logits: &[f32]) -> Result<Vec<f32>, Error> {
    if logits.is_empty() || logits.iter().any(|logit| !logit.is_finite()) {
        return Err(Error::internal("the model gave logits that are not finite"));
    }
    // Less the largest, so that no exponential overflows.
    let largest = logits.iter().copied().fold(f32::MIN, f32::max);
    let exponentials: Vec<f32> = logits.iter().map(|logit| (logit - largest).exp()).collect();
    let sum: f32 = exponentials.iter().sum();
    Ok(exponentials
        .into_iter()
        .map(|exponential| exponential / sum)
        .collect())
}

#[cfg(test)]
mod tests {
    use dunlin_sdk::{Tensors, testing};
    use image::{ImageFormat, Rgb, RgbImage};
    use serde_json::{Value, json};

    use super::*;
    use crate::picture::tests::file;

    /// A model of three classes: how red, how green and how blue the picture is.
    fn resnet(config: &Value) -> ResNet {
        testing::model("resnet18", |inputs| {
            let image = inputs.output("image")?;
            let image = image.with_shape(&[1, CHANNELS, SIDE, SIDE])?.as_f32()?;
            let planes = image.chunks(SIDE * SIDE);
            let means = planes.map(|plane| plane.iter().sum::<f32>() / plane.len() as f32);
            let logits: Vec<f32> = means.collect();
            Ok(Tensors::from([("logits", Tensor::f32([1, 3], logits)?)]))
        });
        ResNet::init(Config::from_json(&config.to_string()).unwrap()).unwrap()
    }

    fn green() -> Vec<u8> {
        file(
            RgbImage::from_pixel(30, 20, Rgb([100, 250, 0])),
            ImageFormat::Png,
        )
    }

    fn answer(config: &Value, request: Request) -> Value {
        let response = resnet(config).predict(request).unwrap();
        serde_json::from_slice(response.body()).unwrap()
    }

    #[test]
    fn the_most_probable_classes_come_first() {
        let request = Request::new("POST", "/").with_body("image/png", green());
        let plain = answer(&json!({}), request.clone());
        let classes = plain["predictions"].as_array().unwrap().iter();
        let classes: Vec<&Value> = classes.map(|prediction| &prediction["class"]).collect();
        assert_eq!(classes, [1, 0, 2]);
        assert_eq!(plain["predictions"][0].get("label"), None);
        let sum = |answer: &Value| -> f64 {
            let all = answer["predictions"].as_array().unwrap().iter();
            all.map(|prediction| prediction["probability"].as_f64().unwrap())
                .sum()
        };
        assert!((sum(&plain) - 1.0).abs() < 1e-6);

        let labels = json!({"labels": ["red", "green", "blue"]});
        let one = answer(&labels, request.with_query("top", "1"));
        assert_eq!(one["predictions"].as_array().unwrap().len(), 1);
        assert_eq!(one["predictions"][0]["label"], "green");
    }

    #[test]
    fn a_picture_may_come_in_a_form() {
        let mut form =
            b"--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"green.png\"\
                         \r\nContent-Type: image/png\r\n\r\n"
                .to_vec();
        form.extend(green());
        form.extend(b"\r\n--x--\r\n");
        let request = Request::new("POST", "/").with_body("multipart/form-data; boundary=x", form);
        assert_eq!(answer(&json!({}), request)["predictions"][0]["class"], 1);
    }

    #[test]
    fn what_is_no_picture_is_refused_with_what_is() {
        let check = |request: Request, part: &str| {
            let Err(Error::BadRequest(message)) = resnet(&json!({})).predict(request) else {
                panic!("not refused: {part}");
            };
            assert!(message.contains(part), "{message}");
        };
        let post =
            |content_type, body: &[u8]| Request::new("POST", "/").with_body(content_type, body);
        check(
            post("image/png", b""),
            "there is no picture; send one PNG or JPEG",
        );
        check(
            post("image/gif", b"GIF89a"),
            "neither PNG nor JPEG; send one PNG or JPEG",
        );
        check(post("application/json", b"{}"), "neither PNG nor JPEG");
        check(
            post("multipart/form-data; boundary=x", b"--x--"),
            "the form has no file",
        );
        check(post("image/png", b"\x89PNG\r\n\x1a\n0"), "cannot be read");
        let green = post("image/png", &green());
        for top in ["0", "-1", "five", ""] {
            check(green.clone().with_query("top", top), "write ?top=5");
        }
    }

    #[test]
    fn what_is_wrong_with_the_deployment_is_not_the_callers_fault() {
        let request = Request::new("POST", "/").with_body("image/png", green());
        let mut resnet = resnet(&json!({"labels": ["red"]}));
        let Err(Error::Internal(message)) = resnet.predict(request.clone()) else {
            panic!("one label for three classes");
        };
        assert_eq!(message, "the model has 3 classes, config.labels 1");

        testing::model("resnet18", |_| {
            let logits = Tensor::f32([1, 2], &[f32::NAN, 0.0])?;
            Ok(Tensors::from([("logits", logits)]))
        });
        let mut resnet = ResNet::init(Config::default()).unwrap();
        assert!(matches!(resnet.predict(request), Err(Error::Internal(_))));
    }
}
