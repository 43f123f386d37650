//! What a deployment predicts: labels counted, or values in a histogram, read from its JSON answers.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, PoisonError},
};

use edge_config::{ModelType, Monitoring};
use serde::{
    Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// Labels beyond these are counted together, as [`OTHER`].
const LABELS_MAX: usize = 100;
/// A label longer than this is cut.
const LABEL_BYTES_MAX: usize = 128;
pub(crate) const OTHER: &str = "__other__";

/// An answer longer than this is not read: it would hold up its caller.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Predictions of one answer that are read.
pub(crate) const PREDICTIONS_MAX: usize = 1 << 16;

/// 1, 2 and 5 of each power of ten from a thousandth to a million, of either sign.
pub(crate) const BOUNDS: [f64; BOUND_COUNT] = bounds();

const BOUND_COUNT: usize = 57;

#[derive(Debug)]
pub(crate) struct Predictions {
    monitoring: Monitoring,
    seen: Mutex<Seen>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) labels: BTreeMap<String, u64>,
    pub(crate) values: Option<Values>,
    /// Answers in which no prediction was found.
    pub(crate) unread: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Values {
    /// One for each of [`BOUNDS`], and one for what is above the last.
    pub(crate) counts: [u64; BOUND_COUNT + 1],
    pub(crate) sum: f64,
}

impl Predictions {
    pub(crate) fn new(monitoring: Monitoring) -> Self {
        let values = match monitoring.model_type {
            ModelType::Classification => None,
            ModelType::Regression => Some(Values {
                counts: [0; BOUND_COUNT + 1],
                sum: 0.0,
            }),
        };
        Self {
            monitoring,
            seen: Mutex::new(Seen {
                values,
                ..Seen::default()
            }),
        }
    }

    /// Counts what an answer predicts.
    pub(crate) fn answered(&self, body: &[u8]) {
        let found = self.find(body);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if found.is_empty() {
            seen.unread += 1;
        }
        found
            .into_iter()
            .for_each(|prediction| seen.count(prediction));
    }

    /// As [`Predictions::answered`], of an answer that need not have any.
    pub(crate) fn answered_if_there(&self, body: &[u8]) {
        let found = self.find(body);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        found
            .into_iter()
            .for_each(|prediction| seen.count(prediction));
    }

    pub(crate) fn seen(&self) -> Seen {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.clone()
    }

    fn find(&self, body: &[u8]) -> Vec<Prediction> {
        let mut found = Vec::new();
        if body.len() > ANSWER_BYTES_MAX {
            return found;
        }
        let mut json = serde_json::Deserializer::from_slice(body);
        let below = Below {
            key: &self.monitoring.key,
            labels: self.monitoring.model_type == ModelType::Classification,
            found: &mut found,
        };
        match below.deserialize(&mut json).and_then(|()| json.end()) {
            Ok(()) => found,
            Err(_) => Vec::new(),
        }
    }
}

impl Seen {
    fn count(&mut self, prediction: Prediction) {
        match (prediction, &mut self.values) {
            (Prediction::Value(value), Some(values)) => {
                values.counts[BOUNDS.partition_point(|bound| *bound < value)] += 1;
                values.sum += value;
            }
            (Prediction::Label(label), None) => {
                if let Some(count) = self.labels.get_mut(&label) {
                    *count += 1;
                } else if self.labels.len() < LABELS_MAX {
                    self.labels.insert(label, 1);
                } else {
                    *self.labels.entry(OTHER.to_owned()).or_default() += 1;
                }
            }
            _ => {}
        }
    }
}

enum Prediction {
    Label(String),
    Value(f64),
}

/// Takes the predictions below a key out of JSON, and keeps nothing of the rest. A list is as many
/// predictions as it has items.
struct Below<'k> {
    key: &'k [String],
    labels: bool,
    found: &'k mut Vec<Prediction>,
}

impl Below<'_> {
    fn take(&mut self, prediction: Prediction) {
        if self.key.is_empty() && self.found.len() < PREDICTIONS_MAX {
            self.found.push(prediction);
        }
    }

    fn number(&mut self, label: impl fmt::Display, value: f64) {
        if self.labels {
            self.take(Prediction::Label(label.to_string()));
        } else if value.is_finite() {
            self.take(Prediction::Value(value));
        }
    }
}

impl<'de> DeserializeSeed<'de> for Below<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Below<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            match self.key.split_first() {
                Some((first, rest)) if *first == *name => map.next_value_seed(Below {
                    key: rest,
                    labels: self.labels,
                    found: &mut *self.found,
                })?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        loop {
            let item = Below {
                key: self.key,
                labels: self.labels,
                found: &mut *self.found,
            };
            if items.next_element_seed(item)?.is_none() {
                return Ok(());
            }
        }
    }

    fn visit_str<E>(mut self, label: &str) -> Result<(), E> {
        if self.labels {
            let label = &label[..label.floor_char_boundary(LABEL_BYTES_MAX)];
            self.take(Prediction::Label(label.to_owned()));
        }
        Ok(())
    }

    fn visit_bool<E>(mut self, label: bool) -> Result<(), E> {
        if self.labels {
            self.take(Prediction::Label(label.to_string()));
        }
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "for a histogram")]
    fn visit_i64<E>(mut self, value: i64) -> Result<(), E> {
        self.number(value, value as f64);
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "for a histogram")]
    fn visit_u64<E>(mut self, value: u64) -> Result<(), E> {
        self.number(value, value as f64);
        Ok(())
    }

    fn visit_f64<E>(mut self, value: f64) -> Result<(), E> {
        self.number(value, value);
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

const fn bounds() -> [f64; BOUND_COUNT] {
    const POSITIVE: [f64; 28] = [
        1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1, 2e-1, 5e-1, 1e0, 2e0, 5e0, 1e1, 2e1, 5e1, 1e2,
        2e2, 5e2, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6,
    ];
    let mut bounds = [0.0; BOUND_COUNT];
    let mut at = 0;
    while at < POSITIVE.len() {
        bounds[29 + at] = POSITIVE[at];
        bounds[27 - at] = -POSITIVE[at];
        at += 1;
    }
    bounds
}

#[cfg(test)]
mod tests {
    use super::*;

    fn monitored(model_type: ModelType, key: &[&str]) -> Predictions {
        Predictions::new(Monitoring {
            model_type,
            key: key.iter().map(|&name| name.to_owned()).collect(),
        })
    }

    fn check_labels(key: &[&str], answers: &[&str], expected: &[(&str, u64)], unread: u64) {
        let predictions = monitored(ModelType::Classification, key);
        for answer in answers {
            predictions.answered(answer.as_bytes());
        }
        let seen = predictions.seen();
        let labels: Vec<(&str, u64)> = seen.labels.iter().map(|(l, n)| (&**l, *n)).collect();
        assert_eq!(
            (&labels[..], seen.unread),
            (expected, unread),
            "{answers:?}"
        );
    }

    #[test]
    fn labels_are_counted_where_the_key_says() {
        let answers = [r#"{"label":"a"}"#, r#"{"x":{"label":"b"},"label":"a"}"#];
        check_labels(&["label"], &answers, &[("a", 2)], 0);
        check_labels(&["x", "label"], &answers, &[("b", 1)], 1);
        check_labels(
            &[],
            &["7", "true", "\"é\""],
            &[("7", 1), ("true", 1), ("é", 1)],
            0,
        );
        let batch = [r#"{"rows":[{"label":1},{"label":2},{"label":1}]}"#];
        check_labels(&["rows", "label"], &batch, &[("1", 2), ("2", 1)], 0);
        check_labels(&["label"], &["{", "", r#"{"label":null}"#], &[], 3);
    }

    #[test]
    fn labels_have_a_bound() {
        let predictions = monitored(ModelType::Classification, &[]);
        for label in 0..LABELS_MAX + 50 {
            predictions.answered(label.to_string().as_bytes());
        }
        let long = format!("\"{}\"", "é".repeat(LABEL_BYTES_MAX));
        predictions.answered(long.as_bytes());
        let seen = predictions.seen();
        assert_eq!(seen.labels.len(), LABELS_MAX + 1);
        assert_eq!(seen.labels[OTHER], 51);
    }

    #[test]
    fn values_fall_into_buckets() {
        let predictions = monitored(ModelType::Regression, &["price"]);
        for price in ["-3", "0", "0.5", "2e9", "\"none\""] {
            predictions.answered(format!("{{\"price\":{price}}}").as_bytes());
        }
        let seen = predictions.seen();
        let values = seen.values.unwrap();
        let bucket = |bound: f64| values.counts[BOUNDS.iter().position(|b| *b == bound).unwrap()];
        assert_eq!((bucket(-2.0), bucket(0.0), bucket(0.5)), (1, 1, 1));
        assert_eq!((values.counts[BOUND_COUNT], seen.unread), (1, 1));
        assert!(BOUNDS.is_sorted());
    }

    #[test]
    fn an_answer_that_is_too_long_is_not_read() {
        let predictions = monitored(ModelType::Classification, &[]);
        predictions.answered(&vec![b'1'; ANSWER_BYTES_MAX + 1]);
        assert_eq!(predictions.seen().unread, 1);
    }
}
