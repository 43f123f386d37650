//! What an author implements.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::dtype::DType;
use crate::tensors::Tensors;
use crate::{Error, Request, Response};

/// The code around a model. [`export!`](crate::export) makes a component of it.
pub trait Predictor: Sized + 'static {
    /// Runs once in each instance, before it sees a request: open the models and read the
    /// configuration here. A deployment whose `init` fails does not go live.
    fn init(config: Config) -> Result<Self, Error>;

    /// Answers one request. An instance has one call at a time, and after a panic it is discarded.
    fn predict(&mut self, request: Request) -> Result<Response, Error>;
}

/// A predictor that serves the Open Inference Protocol itself. Without it, `/v2/models/…/infer`
/// goes straight to the package's model.
pub trait TensorPredictor: Predictor {
    /// What `infer` takes and gives. Asked once, after `init`.
    fn describe(&self) -> Signature;

    /// Answers one inference. Read the caller's tensors with [`Tensors::input`].
    fn infer(&mut self, inputs: Tensors) -> Result<Tensors, Error>;
}

/// `predictor.config` of the deployment file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config(Map<String, Value>);

impl Config {
    /// Reads it into a type of your own.
    ///
    /// ```
    /// # use dunlin_sdk::{Config, Error};
    /// #[derive(serde::Deserialize)]
    /// struct Settings {
    ///     labels: Vec<String>,
    /// }
    ///
    /// let config = Config::from_json(r#"{"labels": ["cat", 7]}"#)?;
    /// let error = config.parse::<Settings>().err().unwrap();
    /// assert_eq!(
    ///     error.message(),
    ///     "predictor.config: labels[1]: invalid type: integer `7`, expected a string"
    /// );
    /// # Ok::<_, Error>(())
    /// ```
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_path_to_error::deserialize(Value::Object(self.0.clone())).map_err(|error| {
            Error::internal(format_args!(
                "predictor.config: {}",
                crate::request::located(&error)
            ))
        })
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// Reads a JSON object, as the node hands it over.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        serde_json::from_str(text)
            .map(Self)
            .map_err(|error| Error::internal(format_args!("predictor.config: {error}")))
    }
}

impl From<Map<String, Value>> for Config {
    fn from(object: Map<String, Value>) -> Self {
        Self(object)
    }
}

/// The tensors that [`TensorPredictor::infer`] takes and gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    pub inputs: Vec<TensorSpec>,
    pub outputs: Vec<TensorSpec>,
}

/// What is said of a tensor that is not there yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    pub name: String,
    pub dtype: DType,
    /// -1 is a dimension of any size.
    pub shape: Vec<i64>,
}

impl TensorSpec {
    pub fn new(name: impl Into<String>, dtype: DType, shape: &[i64]) -> Self {
        Self {
            name: name.into(),
            dtype,
            shape: shape.to_vec(),
        }
    }
}
