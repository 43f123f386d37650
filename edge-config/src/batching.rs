//! How a model's calls wait and share runs. The names are Triton's.

use std::time::Duration;

use crate::section::Section;
use crate::yaml::Value;

pub(crate) const DYNAMIC_BATCHING_KEYS: &[&str] =
    &["preferred_batch_size", "max_queue_delay_microseconds"];

const BATCH_SIZE_MAX: u64 = 65_536;
const PREFERRED_MAX: usize = 64;
/// A call that waited longer would be over its deadline anyway.
const DELAY_MAX_MICROSECONDS: u64 = 60_000_000;

/// Calls share runs of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batching {
    /// Rows of one run, more than 1.
    pub max_batch_size: u64,
    /// Numbers of rows at which a run does not wait for more, each within the greatest.
    pub preferred_batch_size: Vec<u64>,
    /// How long the oldest call waits for others while the model has other work.
    pub max_queue_delay: Duration,
}

/// `None` where the model does not batch, and where a problem was reported.
pub(crate) fn check(model: &Section<'_>) -> Option<Batching> {
    check_over(model, None)
}

/// As [`check`], where keys that are absent mean what `before` says.
pub(crate) fn check_over(model: &Section<'_>, before: Option<&Batching>) -> Option<Batching> {
    let unsaid = before.map_or(0, |before| before.max_batch_size);
    let max_batch_size = model.count("max_batch_size", unsaid, 0..=BATCH_SIZE_MAX);
    let dynamic = model.section("dynamic_batching");
    if max_batch_size <= 1 {
        if model.has("dynamic_batching") {
            model.refuse(
                "dynamic_batching",
                "is of use only with a max_batch_size of 2 or more; write max_batch_size: 8, or drop it",
            );
        }
        return None;
    }
    let preferred_batch_size = dynamic.read("preferred_batch_size", |value| {
        preferred(value, max_batch_size)
    });
    let unsaid = before.map_or(Duration::ZERO, |before| before.max_queue_delay);
    let delay = dynamic.count(
        "max_queue_delay_microseconds",
        u64::try_from(unsaid.as_micros()).unwrap_or(DELAY_MAX_MICROSECONDS),
        0..=DELAY_MAX_MICROSECONDS,
    );
    Some(Batching {
        max_batch_size,
        preferred_batch_size: preferred_batch_size.unwrap_or_else(|| {
            let sizes = before.map(|before| before.preferred_batch_size.as_slice());
            let sizes = sizes.unwrap_or_default().iter().copied();
            sizes.filter(|size| *size <= max_batch_size).collect()
        }),
        max_queue_delay: Duration::from_micros(delay),
    })
}

fn preferred(value: &Value, max_batch_size: u64) -> Result<Vec<u64>, String> {
    let Value::List(sizes) = value else {
        return Err(format!(
            "{value} is not a list of sizes; write [{max_batch_size}]"
        ));
    };
    if sizes.len() > PREFERRED_MAX {
        return Err(format!(
            "has {} sizes; at most {PREFERRED_MAX} are of use",
            sizes.len()
        ));
    }
    let size = |value: &Value| {
        let size = match value {
            Value::Number(number) => number.as_u64(),
            _ => None,
        };
        let within = size.filter(|size| (1..=max_batch_size).contains(size));
        within.ok_or_else(|| {
            format!("{value} is not a number of rows from 1 to max_batch_size, {max_batch_size}")
        })
    };
    sizes.iter().map(|item| size(&item.value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Deployment;
    use crate::tests::check_said;

    fn deployment(model: &str) -> String {
        format!("name: a\npredictor:\n  models:\n    - name: m\n      path: m.onnx\n{model}")
    }

    #[test]
    fn what_is_written_and_what_is_not() {
        let batching = |lines: &str| {
            let mut deployment = Deployment::parse(&deployment(lines), "dunlin.yaml").unwrap();
            deployment.models.remove(0).batching
        };
        assert_eq!(batching(""), None);
        assert_eq!(batching("      max_batch_size: 1\n"), None);
        let plain = Batching {
            max_batch_size: 8,
            preferred_batch_size: vec![],
            max_queue_delay: Duration::ZERO,
        };
        assert_eq!(batching("      max_batch_size: 8\n"), Some(plain));
        let full = Batching {
            max_batch_size: 32,
            preferred_batch_size: vec![4, 32],
            max_queue_delay: Duration::from_micros(500),
        };
        assert_eq!(
            batching(
                "      max_batch_size: 32
      dynamic_batching: {preferred_batch_size: [4, 32], max_queue_delay_microseconds: 500}
"
            ),
            Some(full)
        );
    }

    #[test]
    fn what_is_said_of_batching() {
        let check = |lines: &str, said: &[&str]| {
            let text = deployment(lines);
            check_said(Deployment::parse(&text, "dunlin.yaml"), &text, said);
        };
        check(
            "      dynamic_batching: {preferred_batch_size: [4]}\n",
            &[
                "dunlin.yaml:6: predictor.models.m.dynamic_batching: is of use only with a max_batch_size",
            ],
        );
        check(
            "      max_batch_size: 8\n      dynamic_batching: {preferred_batch_size: [4, 16]}\n",
            &[
                "dunlin.yaml:7: predictor.models.m.dynamic_batching.preferred_batch_size: 16 is not a number of rows from 1 to max_batch_size, 8",
            ],
        );
        check(
            "      max_batch_size: 8\n      dynamic_batching: {preferred_batch_size: 4}\n",
            &[
                "dunlin.yaml:7: predictor.models.m.dynamic_batching.preferred_batch_size: 4 is not a list of sizes; write [8]",
            ],
        );
        check(
            "      max_batch_size: many\n",
            &[
                "dunlin.yaml:6: predictor.models.m.max_batch_size: many is not a whole number; write 0",
            ],
        );
        check(
            "      max_queue_size: 0\n",
            &["dunlin.yaml:6: predictor.models.m.max_queue_size: 0 is less than 1; write 256"],
        );
    }
}
