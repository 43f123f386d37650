//! Whether two answers of a predictor say the same: equal in everything but floats, and those near.
//!
//! A number is a float where one of the two answers writes it as one. An answer that is no JSON must
//! be the same bytes.

use serde_json::Value;

use super::difference::Tolerance;
use super::node::Answer;

/// The first place where the answers differ; `None` where they agree.
pub(super) fn disagreement(
    expected: &Answer,
    got: &Answer,
    tolerance: Tolerance,
) -> Option<String> {
    if expected.status != got.status {
        return Some(format!(
            "the status is {}, the reference's {}",
            got.status, expected.status
        ));
    }
    let parse = |answer: &Answer| serde_json::from_slice::<Value>(&answer.body).ok();
    match (parse(expected), parse(got)) {
        (Some(expected), Some(got)) => values(&expected, &got, tolerance, "answer"),
        _ if expected.body == got.body => None,
        _ => Some("the answers' bytes are not the same".to_owned()),
    }
}

fn values(expected: &Value, got: &Value, tolerance: Tolerance, at: &str) -> Option<String> {
    match (expected, got) {
        (Value::Object(expected), Value::Object(got)) => {
            let missing = expected.keys().find(|key| !got.contains_key(*key));
            let more = got.keys().find(|key| !expected.contains_key(*key));
            if let Some(key) = missing {
                return Some(format!("{at} has no {key}"));
            }
            if let Some(key) = more {
                return Some(format!("{at} has {key}, which the reference's has not"));
            }
            let mut both = expected.iter().map(|(key, value)| (key, value, &got[key]));
            both.find_map(|(key, expected, got)| {
                values(expected, got, tolerance, &format!("{at}.{key}"))
            })
        }
        (Value::Array(expected), Value::Array(got)) => {
            if expected.len() != got.len() {
                return Some(format!(
                    "{at} has {} elements, the reference's {}",
                    got.len(),
                    expected.len()
                ));
            }
            let mut both = expected.iter().zip(got).enumerate();
            both.find_map(|(index, (expected, got))| {
                values(expected, got, tolerance, &format!("{at}[{index}]"))
            })
        }
        (Value::Number(wanted), Value::Number(found)) if wanted.is_f64() || found.is_f64() => {
            let (wanted, found) = (wanted.as_f64()?, found.as_f64()?);
            let near = (wanted - found).abs() <= tolerance.allowed(wanted);
            (!near).then(|| format!("{at} is {found}, the reference's {wanted}"))
        }
        _ if expected == got => None,
        _ => Some(format!(
            "{at} is {}, the reference's {}",
            short(got),
            short(expected)
        )),
    }
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(expected: &Value, got: &Value, part: Option<&str>) {
        let answer = |body: &Value| Answer {
            status: 200,
            body: body.to_string().into(),
        };
        let tolerance = Tolerance {
            relative: 0.0,
            absolute: 0.01,
        };
        let found = disagreement(&answer(expected), &answer(got), tolerance);
        match part {
            None => assert_eq!(found, None, "{expected} {got}"),
            Some(part) => assert!(
                found.as_ref().is_some_and(|f| f.contains(part)),
                "{found:?}"
            ),
        }
    }

    #[test]
    fn floats_are_near_and_everything_else_is_equal() {
        let answer = json!({"label": 3, "p": [0.5, 1.0], "name": "three"});
        check(
            &answer,
            &json!({"label": 3, "p": [0.505, 1], "name": "three"}),
            None,
        );
        check(
            &answer,
            &json!({"label": 3, "p": [0.5, 0.9], "name": "three"}),
            Some("answer.p[1] is 0.9"),
        );
        check(
            &answer,
            &json!({"label": 4, "p": [0.5, 1.0], "name": "three"}),
            Some("answer.label is 4, the reference's 3"),
        );
        check(
            &answer,
            &json!({"label": 3, "p": [0.5]}),
            Some("answer has no name"),
        );
        check(&json!([1]), &json!([1, 2]), Some("answer has 2 elements"));
        check(&json!({}), &json!({"more": 1}), Some("has more, which"));
    }

    #[test]
    fn what_is_no_json_is_the_same_bytes() {
        let answer = |status, body: &'static [u8]| Answer {
            status,
            body: body.into(),
        };
        let tolerance = Tolerance {
            relative: 0.0,
            absolute: 0.0,
        };
        let check = |a: &Answer, b: &Answer| disagreement(a, b, tolerance);
        assert_eq!(check(&answer(200, b"\xff"), &answer(200, b"\xff")), None);
        assert!(check(&answer(200, b"\xff"), &answer(200, b"\xfe")).is_some());
        assert!(check(&answer(200, b"1"), &answer(500, b"1")).is_some());
    }
}
