//! What of a deployment's answers is counted. The names are Cortex's.

use crate::section::{Section, text};

pub(crate) const KEYS: &[&str] = &["model_type", "key"];

/// The key of an answer is found this deep at most.
const DEPTH_MAX: usize = 16;

/// The predictions of a deployment are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Monitoring {
    pub model_type: ModelType,
    /// Where a JSON answer has the prediction: names from the outside in. Empty: the answer is the
    /// prediction.
    pub key: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelType {
    /// Predictions are labels, which are counted.
    Classification,
    /// Predictions are numbers, which go into a histogram.
    Regression,
}

/// `None` where nothing is monitored, and where a problem was reported.
pub(crate) fn check(root: &Section<'_>) -> Option<Monitoring> {
    if !root.has("monitoring") {
        return None;
    }
    let section = root.section("monitoring");
    if !section.has("model_type") {
        section.refuse(
            "model_type",
            "is missing; write model_type: classification or regression",
        );
    }
    let model_type = section.one_of(
        "model_type",
        ModelType::Classification,
        &[
            ("classification", ModelType::Classification),
            ("regression", ModelType::Regression),
        ],
    );
    let key = section.read("key", |value| {
        let key: Vec<String> = text(value)?.split('.').map(str::to_owned).collect();
        if key.iter().any(String::is_empty) || key.len() > DEPTH_MAX {
            return Err(format!(
                "{value} is no key of an answer; write a name such as label, or names with dots \
                 between them, at most {DEPTH_MAX}"
            ));
        }
        Ok(key)
    });
    Some(Monitoring {
        model_type,
        key: key.unwrap_or_default(),
    })
}
