//! What a load by the Open Inference Protocol may change of a model's settings: a JSON document with
//! the names of Triton's model configuration.

use std::time::Duration;

use serde_json::Value as Json;

use crate::batching::{self, Batching};
use crate::error::{ConfigError, Problem};
use crate::model::{Model, QUEUE_MAX, THREADS_MAX, check_queue_timeout};
use crate::section::{Layout, Report, Section};
use crate::yaml;

/// What messages call the document.
const ORIGIN: &str = "config";

const LAYOUT: Layout = &[
    ("", &ModelOverride::KEYS),
    (
        "dynamic_batching",
        &[
            "preferred_batch_size",
            "max_queue_delay_microseconds",
            "default_queue_policy",
        ],
    ),
    (
        "dynamic_batching.default_queue_policy",
        &["max_queue_size", "default_timeout_microseconds"],
    ),
    ("instance_group[]", &["count"]),
];

/// A checked override. What it does not name stays as the package says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelOverride {
    /// `Some(None)`: calls do not share runs.
    batching: Option<Option<Batching>>,
    max_queue_size: Option<u32>,
    /// `Some(None)`: calls wait for a run until their deadline.
    queue_timeout: Option<Option<Duration>>,
    instances: Option<u32>,
}

impl ModelOverride {
    /// What of a model's configuration a load can change.
    pub const KEYS: [&'static str; 3] = ["max_batch_size", "dynamic_batching", "instance_group"];

    /// Checks the text of an override against the model that it is for. Numbers may be written as
    /// texts, as some clients do.
    ///
    /// # Errors
    /// It is no JSON object, names what a load cannot change, or has a value out of its range.
    pub fn parse(text: &str, model: &Model) -> Result<Self, ConfigError> {
        let json = match serde_json::from_str::<Json>(text) {
            Ok(json @ Json::Object(_)) => numbers(json),
            Ok(_) => return Err(refuse("is not a JSON object".to_owned())),
            Err(error) => return Err(refuse(format!("is not JSON: {error}"))),
        };
        let report = Report::new(ORIGIN);
        // JSON is YAML.
        let tree = yaml::parse(&json.to_string(), ORIGIN)?;
        let checked = check(&Section::root(&tree, LAYOUT, &report), model);
        report.finish()?;
        Ok(checked)
    }

    /// The model with what the override changes.
    #[must_use]
    pub fn apply(&self, model: &Model) -> Model {
        let mut changed = model.clone();
        if let Some(batching) = &self.batching {
            changed.batching.clone_from(batching);
        }
        if let Some(size) = self.max_queue_size {
            changed.max_queue_size = size;
        }
        if let Some(timeout) = self.queue_timeout {
            changed.queue_timeout = timeout;
        }
        if let Some(instances) = self.instances {
            changed.instances = instances;
        }
        changed
    }
}

fn refuse(message: String) -> ConfigError {
    let problem = Problem {
        origin: ORIGIN.to_owned(),
        line: None,
        key: String::new(),
        message,
    };
    ConfigError::Invalid {
        problems: vec![problem],
        omitted: 0,
    }
}

/// The document with each text that is a number as that number.
fn numbers(json: Json) -> Json {
    match json {
        Json::String(text) => text.parse::<i64>().map_or(Json::String(text), Json::from),
        Json::Array(items) => items.into_iter().map(numbers).collect(),
        Json::Object(entries) => {
            let entries = entries.into_iter();
            Json::Object(entries.map(|(key, value)| (key, numbers(value))).collect())
        }
        other => other,
    }
}

fn check(root: &Section<'_>, model: &Model) -> ModelOverride {
    let dynamic = root.section("dynamic_batching");
    let policy = dynamic.section("default_queue_policy");
    let batches = root.has("max_batch_size") || dynamic.has("preferred_batch_size");
    let batches = batches || dynamic.has("max_queue_delay_microseconds");
    ModelOverride {
        batching: batches.then(|| batching::check_over(root, model.batching.as_ref())),
        max_queue_size: policy
            .has("max_queue_size")
            .then(|| policy.count_u32("max_queue_size", model.max_queue_size, 1..=QUEUE_MAX)),
        queue_timeout: policy
            .has("default_timeout_microseconds")
            .then(|| check_queue_timeout(&policy)),
        instances: instances(root, model),
    }
}

/// The sum of the groups, as Triton counts a model's instances.
fn instances(root: &Section<'_>, model: &Model) -> Option<u32> {
    let groups = root.sections("instance_group");
    let counts = groups
        .iter()
        .map(|group| group.count_u32("count", 1, 1..=THREADS_MAX));
    let instances: u32 = counts.sum();
    if instances > THREADS_MAX {
        root.refuse(
            "instance_group",
            format!("has {instances} instances; write {THREADS_MAX} at most"),
        );
        return Some(model.instances);
    }
    (!groups.is_empty()).then_some(instances)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::check_said;

    fn model() -> Model {
        let text = "name: a\npredictor:\n  models:\n    - name: m\n      path: m.onnx\n      \
            max_batch_size: 8\n      dynamic_batching: {preferred_batch_size: [2, 8]}\n";
        let mut deployment = crate::Deployment::parse(text, "dunlin.yaml").unwrap();
        deployment.models.remove(0)
    }

    fn applied(text: &str) -> Model {
        let model = model();
        ModelOverride::parse(text, &model).unwrap().apply(&model)
    }

    #[test]
    fn what_is_named_changes_and_the_rest_stays() {
        assert_eq!(applied("{}"), model());
        // Of the preferred sizes stay those that fit.
        let smaller = applied(r#"{"max_batch_size": "4"}"#);
        let batching = smaller.batching.clone().unwrap();
        assert_eq!(batching.max_batch_size, 4);
        assert_eq!(batching.preferred_batch_size, [2]);
        assert_eq!(smaller.instances, 1);
        assert_eq!(applied(r#"{"max_batch_size": 0}"#).batching, None);
        let full = applied(
            r#"{"max_batch_size": 16, "instance_group": [{"count": 2}, {"count": "1"}],
                "dynamic_batching": {"preferred_batch_size": ["16"],
                    "max_queue_delay_microseconds": 100,
                    "default_queue_policy":
                        {"max_queue_size": 7, "default_timeout_microseconds": "250"}}}"#,
        );
        let batching = Batching {
            max_batch_size: 16,
            preferred_batch_size: vec![16],
            max_queue_delay: Duration::from_micros(100),
        };
        assert_eq!(full.batching, Some(batching));
        assert_eq!((full.instances, full.max_queue_size), (3, 7));
        assert_eq!(full.queue_timeout, Some(Duration::from_micros(250)));
    }

    #[test]
    fn what_is_said_of_an_override() {
        let check = |text: &str, said: &[&str]| {
            check_said(ModelOverride::parse(text, &model()), text, said);
        };
        check("{", &["config: is not JSON: EOF while parsing"]);
        check("[]", &["config: is not a JSON object"]);
        check(
            r#"{"backend": "tensorrt"}"#,
            &["config:1: backend: there is no such key; the keys here are max_batch_size, "],
        );
        check(
            r#"{"max_batch_size": "many"}"#,
            &["config:1: max_batch_size: many is not a whole number; write "],
        );
        check(
            r#"{"max_batch_size": 2, "dynamic_batching": {"preferred_batch_size": [3]}}"#,
            &[
                "config:1: dynamic_batching.preferred_batch_size: 3 is not a number of rows from 1 to max_batch_size, 2",
            ],
        );
        check(
            r#"{"instance_group": [{"count": 200}, {"count": 200}]}"#,
            &["config:1: instance_group: has 400 instances; write 256 at most"],
        );
    }
}
