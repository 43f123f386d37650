//! Tensors in, through the model, tensors out: the frame for what is to be done with tensors on their
//! way. Every byte crosses the sandbox, so it also shows what the sandbox costs.
//!
//! `config` names the model and says what it takes and gives:
//!
//! ```yaml
//! config:
//!   model: resnet18
//!   inputs: [{name: image, datatype: FP32, shape: [-1, 3, 224, 224]}]
//!   outputs: [{name: logits, datatype: FP32, shape: [-1, 1000]}]
//! ```

use dunlin_sdk::{
    Config, DType, Error, ErrorCode, Model, Predictor, Request, Response, Signature,
    TensorPredictor, TensorSpec, Tensors,
};
use serde::{Deserialize, Deserializer, de};

/// A model, and the signature that it is offered with.
#[derive(Debug)]
pub struct Forward {
    model: Model,
    signature: Signature,
}

#[derive(Deserialize)]
struct Settings {
    model: String,
    inputs: Vec<Spec>,
    outputs: Vec<Spec>,
}

#[derive(Deserialize)]
struct Spec {
    name: String,
    #[serde(deserialize_with = "datatype")]
    datatype: DType,
    shape: Vec<i64>,
}

impl Predictor for Forward {
    fn init(config: Config) -> Result<Self, Error> {
        let Settings {
            model,
            inputs,
            outputs,
        } = config.parse()?;
        Ok(Self {
            model: Model::open(&model)?,
            signature: Signature {
                inputs: specs(inputs),
                outputs: specs(outputs),
            },
        })
    }

    fn predict(&mut self, _: Request) -> Result<Response, Error> {
        Err(Error::bad_request(
            "this predictor takes tensors; POST them to /v2/models/{deployment}/infer",
        ))
    }
}

impl TensorPredictor for Forward {
    fn describe(&self) -> Signature {
        self.signature.clone()
    }

    fn infer(&mut self, inputs: Tensors) -> Result<Tensors, Error> {
        self.model
            .infer(&inputs)
            .map_err(|error| match error.code() {
                // What the model does not take is the caller's.
                ErrorCode::InvalidArgument => Error::bad_request(error),
                _ => error.into(),
            })
    }
}

dunlin_sdk::export!(Forward: tensors);

fn specs(specs: Vec<Spec>) -> Vec<TensorSpec> {
    let specs = specs.into_iter();
    specs
        .map(|spec| TensorSpec::new(spec.name, spec.datatype, &spec.shape))
        .collect()
}

fn datatype<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DType, D::Error> {
    let name = String::deserialize(deserializer)?;
    DType::from_name(&name).ok_or_else(|| {
        de::Error::custom(format_args!(
            "`{name}` is no datatype; write FP32, INT64 or another of the Open Inference Protocol"
        ))
    })
}

#[cfg(test)]
mod tests {
    use dunlin_sdk::{Tensor, testing};

    use super::*;

    const CONFIG: &str = r#"{
        "model": "twice",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}]
    }"#;

    #[test]
    fn tensors_go_through_the_model() {
        testing::model("twice", |inputs| {
            let doubled: Vec<f32> = inputs
                .output("x")?
                .as_f32()?
                .iter()
                .map(|x| 2.0 * x)
                .collect();
            Ok(Tensors::from([(
                "y",
                Tensor::f32([doubled.len()], doubled)?,
            )]))
        });
        let mut forward = Forward::init(Config::from_json(CONFIG).unwrap()).unwrap();
        assert_eq!(forward.describe().outputs[0].name, "y");
        let inputs = Tensors::from([("x", Tensor::f32([2], vec![1.0, -3.0]).unwrap())]);
        let outputs = forward.infer(inputs).unwrap();
        assert_eq!(
            outputs.output("y").unwrap().as_f32().unwrap()[..],
            [2.0, -6.0]
        );
    }

    #[test]
    fn a_wrong_datatype_is_named() {
        let config = CONFIG.replacen("FP32", "FLOAT", 1);
        let error = Forward::init(Config::from_json(&config).unwrap()).unwrap_err();
        assert!(
            error.message().contains("inputs[0].datatype: `FLOAT`"),
            "{}",
            error.message()
        );
    }
}
