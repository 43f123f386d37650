//! The JSON of the admin plane, as the CLI reads it.
//!
//! A field that an older or newer node does not send has its empty value, so that the CLI goes on
//! working across versions; only what every answer must have is required.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The answer to an upload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Uploaded {
    pub(crate) name: String,
    pub(crate) digest: String,
    #[serde(default)]
    pub(crate) revision: u64,
    #[serde(default)]
    pub(crate) status: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Deployments {
    pub(crate) deployments: Vec<Deployment>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Deployment {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) revision: u64,
    #[serde(default)]
    pub(crate) digest: String,
    #[serde(default)]
    pub(crate) status: String,
    /// Why it is not live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    #[serde(default)]
    pub(crate) created_at: String,
    #[serde(default)]
    pub(crate) requests: Requests,
    #[serde(default)]
    pub(crate) instances: Instances,
    #[serde(default)]
    pub(crate) models: Vec<Model>,
    #[serde(default)]
    pub(crate) predictor: bool,
}

impl Deployment {
    pub(crate) fn is_live(&self) -> bool {
        self.status == "live"
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Requests {
    pub(crate) total: u64,
    #[serde(rename = "2xx")]
    pub(crate) ok: u64,
    #[serde(rename = "4xx")]
    pub(crate) client_error: u64,
    #[serde(rename = "5xx")]
    pub(crate) server_error: u64,
    /// Absent or null where no request was answered yet.
    pub(crate) mean_ms: Option<f64>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Instances {
    pub(crate) idle: u64,
    pub(crate) busy: u64,
    pub(crate) max: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Model {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) platform: String,
    #[serde(default)]
    pub(crate) inputs: Vec<Tensor>,
    #[serde(default)]
    pub(crate) outputs: Vec<Tensor>,
}

/// A tensor in the words of the Open Inference Protocol; -1 is a variable dimension.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) datatype: String,
    #[serde(default)]
    pub(crate) shape: Vec<i64>,
}

impl std::fmt::Display for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}{:?}", self.name, self.datatype, self.shape)
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct Deleted {
    pub(crate) name: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LogLevel {
    pub(crate) level: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Logs {
    pub(crate) entries: Vec<LogEntry>,
    pub(crate) next: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LogEntry {
    #[serde(default)]
    pub(crate) seq: u64,
    #[serde(default)]
    pub(crate) time: String,
    #[serde(default)]
    pub(crate) level: String,
    #[serde(default)]
    pub(crate) request_id: Option<String>,
    #[serde(default)]
    pub(crate) message: String,
    #[serde(default)]
    pub(crate) fields: serde_json::Map<String, Value>,
}

/// What the node says of itself. Everything it says is passed on in JSON output.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Node {
    pub(crate) version: String,
    /// The largest package it takes, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) package_max: Option<u64>,
    #[serde(flatten)]
    pub(crate) other: serde_json::Map<String, Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_answers_are_read() {
        let full = r#"{"name":"digits","revision":3,"digest":"sha256:ab","status":"live",
            "created_at":"2026-01-02T03:04:05Z",
            "requests":{"total":9,"2xx":6,"4xx":2,"5xx":1,"mean_ms":0.25},
            "instances":{"idle":1,"busy":2,"max":8},
            "models":[{"name":"digits","platform":"onnx_tract",
                "inputs":[{"name":"x","datatype":"FP32","shape":[-1,64]}],"outputs":[]}],
            "predictor":true}"#;
        let deployment: Deployment = serde_json::from_str(full).unwrap();
        assert!(deployment.is_live());
        assert_eq!(deployment.requests.server_error, 1);
        assert_eq!(deployment.models[0].inputs[0].to_string(), "x FP32[-1, 64]");

        let small: Deployment = serde_json::from_str(r#"{"name":"a","new_field":1}"#).unwrap();
        assert_eq!(small.requests.mean_ms, None);
        assert!(serde_json::from_str::<Deployment>("{}").is_err());

        let node: Node = serde_json::from_str(r#"{"version":"0.1.0","data_dir":"/d"}"#).unwrap();
        assert_eq!(node.other["data_dir"], "/d");
    }
}
