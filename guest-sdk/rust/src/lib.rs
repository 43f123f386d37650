//! Write a Dunlin predictor: the code around a model that parses a request, prepares the model's
//! input, calls it and shapes the answer. It becomes a WebAssembly component, and a node runs it in
//! a sandbox.
//!
//! A whole predictor, with its test:
//!
//! ```
//! use dunlin_sdk::{Config, Error, Model, Predictor, Request, Response, Tensor, log};
//! use serde::{Deserialize, Serialize};
//!
//! /// Three species of iris by four measures in centimetres.
//! struct Iris {
//!     model: Model,
//!     labels: Vec<String>,
//! }
//!
//! #[derive(Deserialize)]
//! struct Settings {
//!     labels: Vec<String>,
//! }
//!
//! #[derive(Deserialize)]
//! struct Flower {
//!     measures: [f32; 4],
//! }
//!
//! #[derive(Serialize)]
//! struct Species<'a> {
//!     label: &'a str,
//!     score: f32,
//! }
//!
//! impl Predictor for Iris {
//!     // Once in each instance: `config` and the models' names are those of dunlin.yaml.
//!     fn init(config: Config) -> Result<Self, Error> {
//!         let Settings { labels } = config.parse()?;
//!         Ok(Self { model: Model::open("iris")?, labels })
//!     }
//!
//!     fn predict(&mut self, request: Request) -> Result<Response, Error> {
//!         // What the caller got wrong is a 400 that says where; see `Request::json`.
//!         let flower: Flower = request.json()?;
//!         if flower.measures.iter().any(|measure| !(*measure > 0.0)) {
//!             return Err(Error::bad_request("`measures` are centimetres above 0"));
//!         }
//!
//!         let input = Tensor::f32([1, 4], &flower.measures)?;
//!         let outputs = self.model.infer(&[("measures", input)])?;
//!         let scores = outputs.output("scores")?.with_shape(&[1, self.labels.len()])?.as_f32()?;
//!
//!         let best = (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b]));
//!         let best = best.ok_or_else(|| Error::internal("no labels are configured"))?;
//!         log::info!("classified", label = self.labels[best]);
//!         Response::json(&Species { label: &self.labels[best], score: scores[best] })
//!     }
//! }
//!
//! dunlin_sdk::export!(Iris);
//!
//! // A test, on the machine you write it on: no WebAssembly, no node, and a fake model.
//! # fn main() -> Result<(), Error> {
//! use dunlin_sdk::{Tensors, testing};
//!
//! testing::model("iris", |inputs| {
//!     assert_eq!(inputs.output("measures")?.shape(), [1, 4]);
//!     Ok(Tensors::from([("scores", Tensor::f32([1, 3], &[0.1, 0.7, 0.2])?)]))
//! });
//! let labels = r#"{"labels": ["setosa", "versicolor", "virginica"]}"#;
//! let mut iris = Iris::init(Config::from_json(labels)?)?;
//!
//! let request = Request::post_json(&serde_json::json!({"measures": [5.9, 3.0, 4.2, 1.5]}));
//! let response = iris.predict(request)?;
//! assert_eq!(response.body(), br#"{"label":"versicolor","score":0.7}"#);
//!
//! let request = Request::post_json(&serde_json::json!({"measures": [5.9, "3", 4.2, 1.5]}));
//! let error = iris.predict(request).unwrap_err();
//! assert!(error.to_string().starts_with("bad request: measures[1]: invalid type: string"));
//! # Ok(())
//! # }
//! ```
//!
//! with the deployment file
//!
//! ```yaml
//! name: iris
//! predictor:
//!   path: .
//!   config: {labels: [setosa, versicolor, virginica]}
//!   models:
//!     - {name: iris, path: models/iris.onnx}
//! ```
//!
//! # Tensors
//! A [`Tensor`] is a shape, a [`DType`] and row-major little-endian data, checked against each other
//! when it is made; [`Tensor::with_shape`] and the views (`as_f32` and its kin) check what came back.
//! A constructor borrows a slice and moves a vector, and a view copies only where the bytes do not
//! lie as their type must, so that a request costs one copy into the host and one out of it.
//!
//! | constructor | view | datatype | `wasi:nn` |
//! |---|---|---|---|
//! | [`Tensor::f32`] | [`Tensor::as_f32`] | `FP32` | yes |
//! | [`Tensor::f64`] | [`Tensor::as_f64`] | `FP64` | yes |
//! | [`Tensor::f16_bits`] | [`Tensor::as_f16_bits`] | `FP16` as raw `u16` | yes |
//! | [`Tensor::bf16_bits`] | [`Tensor::as_bf16_bits`] | `BF16` as raw `u16` | yes |
//! | [`Tensor::u8`] | [`Tensor::as_u8`] | `UINT8` | yes |
//! | [`Tensor::i32`] | [`Tensor::as_i32`] | `INT32` | yes |
//! | [`Tensor::i64`] | [`Tensor::as_i64`] | `INT64` | yes |
//! | [`Tensor::byte_strings`] | [`Tensor::as_byte_strings`] | `BYTES` | no |
//! | [`Tensor::new`] | [`Tensor::bytes`] | all | |
//!
//! # Errors
//! | what happened | what `?` makes of it | the caller gets |
//! |---|---|---|
//! | the body is not what [`Request::json`], `text` or `form` wants | [`Error::BadRequest`] | 400 with the text |
//! | [`Tensors::input`] is missing | [`Error::BadRequest`] | 400 with the text |
//! | a model did not answer in time ([`ErrorCode::Timeout`]) | [`Error::Unavailable`] | 503 with the text |
//! | any other [`ModelError`], a [`TensorError`], a reply that is no JSON | [`Error::Internal`] | 500 with a request id; the text is in the log |
//! | the caller left, or the deadline is near ([`StreamError`]) | [`Error::Unavailable`] | what was sent before, broken off |
//! | a panic | none: the instance is discarded | 500 with a request id; message and place are in the log |
//!
//! # Imports
//! A component imports only what it calls: [`clock`] and [`random`] are absent from one that does
//! not use them, and then need no grant. Logging is always there, for panics.

// The macros name the SDK by its own name, also where wit-bindgen expands them in here.
#[cfg(target_family = "wasm")]
extern crate self as dunlin_sdk;

#[cfg(target_family = "wasm")]
pub mod bindings;
pub mod clock;
mod dtype;
mod error;
mod export;
mod form;
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
mod heap;
mod host;
pub mod log;
pub mod metrics;
mod model;
mod predictor;
pub mod random;
mod request;
mod response;
mod stream;
mod tensor;
mod tensors;
#[cfg(not(target_family = "wasm"))]
pub mod testing;

pub use self::dtype::DType;
pub use self::error::Error;
#[doc(hidden)]
pub use self::export::__private;
pub use self::form::{Form, FormField};
pub use self::model::{Encoding, ErrorCode, Model, ModelError};
pub use self::predictor::{Config, Predictor, Signature, TensorPredictor, TensorSpec};
pub use self::request::{Payload, Request};
pub use self::response::Response;
pub use self::stream::{BodyWriter, EventWriter, StreamError};
pub use self::tensor::{Tensor, TensorError};
pub use self::tensors::Tensors;
