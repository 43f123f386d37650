//! What the comparison came to: a row for each route, whether or not it could run, and the best.

use serde::Serialize;

use super::difference::{Agreement, Difference, Tolerance};
use super::load::Speed;
use super::routes::Route;

/// Routes that are so much slower than the fastest are as fast as it: a repeated run may well order
/// them otherwise.
const NEARLY_AS_FAST: f64 = 0.95;

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    pub(crate) name: String,
    pub(crate) version: &'static str,
    pub(crate) debug_build: bool,
    pub(crate) machine: Machine,
    pub(crate) tolerance: Tolerance,
    pub(crate) golden_rows: u64,
    /// What was sent under load.
    pub(crate) timed: String,
    pub(crate) requests: usize,
    pub(crate) duration_seconds: f64,
    pub(crate) concurrency: u32,
    /// The route whose answers the others' were held against.
    pub(crate) reference: Option<Route>,
    pub(crate) routes: Vec<Row>,
    pub(crate) best: Option<Best>,
    pub(crate) within_tolerance: bool,
    /// What the user should know about how it was measured.
    pub(crate) notes: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    pub(crate) os: &'static str,
    pub(crate) architecture: &'static str,
    pub(crate) cpus: usize,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) route: Route,
    #[serde(flatten)]
    pub(crate) state: State,
}

#[derive(Debug, Clone, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub(crate) enum State {
    Ran(Box<Measured>),
    /// The node has not what runs it. The text ends with the command that installs it.
    NotInstalled {
        reason: String,
    },
    /// It could be tried, and does not work.
    Failed {
        reason: String,
    },
    /// There is no file for it. The text says how to have one.
    NotTried {
        reason: String,
    },
}

#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Measured {
    /// What a node says that runs the models, or the versions in Python.
    pub(crate) platform: String,
    /// From the golden samples.
    pub(crate) difference: Option<Difference>,
    pub(crate) labels: Option<Agreement>,
    /// Of the predictor, with those of the reference.
    pub(crate) answers: Option<Agreement>,
    pub(crate) first_disagreement: Option<String>,
    pub(crate) speed: Option<Speed>,
    pub(crate) load_ms: f64,
    pub(crate) resident_bytes: Option<u64>,
    /// Why it did not get through the whole comparison.
    pub(crate) problem: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Best {
    pub(crate) route: Route,
    pub(crate) why: String,
}

impl Measured {
    pub(crate) fn is_within_tolerance(&self) -> bool {
        let near = |difference: &Difference| difference.outside == 0;
        self.difference.as_ref().is_none_or(near) && self.answers.is_none_or(Agreement::is_whole)
    }

    /// In words, the furthest that it is off.
    pub(crate) fn worst(&self) -> Option<&str> {
        let outputs = self
            .difference
            .as_ref()
            .and_then(|difference| difference.worst.as_deref());
        outputs.or(self.first_disagreement.as_deref())
    }
}

impl State {
    /// In a word, where there are no numbers.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Ran(_) => "",
            Self::NotInstalled { .. } => "not-installed",
            Self::Failed { .. } => "failed",
            Self::NotTried { .. } => "not-tried",
        }
    }
}

impl Row {
    pub(crate) fn measured(&self) -> Option<&Measured> {
        match &self.state {
            State::Ran(measured) => Some(measured),
            _ => None,
        }
    }

    pub(crate) fn is_within_tolerance(&self) -> bool {
        self.measured().is_none_or(Measured::is_within_tolerance)
    }

    /// What can be said of it in words: that it is far off, or why it has no numbers.
    pub(crate) fn remark(&self) -> String {
        match &self.state {
            State::Ran(measured) => match (&measured.problem, measured.is_within_tolerance()) {
                (Some(problem), _) => format!("failed: {problem}"),
                (None, false) => {
                    format!("too far: {}", measured.worst().unwrap_or_default())
                }
                (None, true) => String::new(),
            },
            State::NotInstalled { reason } => format!("not installed: {reason}"),
            State::Failed { reason } => format!("failed: {reason}"),
            State::NotTried { reason } => format!("not tried: {reason}"),
        }
    }
}

/// Of the routes that a node serves and that are within the tolerance: the one that answers most
/// requests a second; of those that are nearly as fast, the one with the least memory.
pub(super) fn best(rows: &[Row]) -> Option<Best> {
    let candidates: Vec<(Route, f64, u64)> = rows
        .iter()
        .filter(|row| row.route != Route::Original && row.is_within_tolerance())
        .filter_map(|row| {
            let measured = row
                .measured()
                .filter(|measured| measured.problem.is_none())?;
            let speed = measured.speed?.requests_per_second;
            Some((
                row.route,
                speed,
                measured.resident_bytes.unwrap_or(u64::MAX),
            ))
        })
        .collect();
    let &(fastest, speed, memory) = candidates.iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let (route, why) = match candidates.len() {
        1 => (fastest, "the only one that could be measured".to_owned()),
        _ => {
            let near = candidates
                .iter()
                .filter(|other| other.1 >= speed * NEARLY_AS_FAST);
            let smallest = near.min_by_key(|other| other.2)?;
            if smallest.0 != fastest && smallest.2 < memory {
                let why = format!("the least memory of those as fast as {}", fastest.name());
                (smallest.0, why)
            } else {
                let others = candidates.iter().filter(|other| other.0 != fastest);
                let next = others.map(|other| other.1).fold(0.0, f64::max);
                let why = format!("the most requests a second, {:.1} × the next", speed / next);
                (fastest, why)
            }
        }
    };
    Some(Best { route, why })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(route: Route, requests_per_second: f64, resident_bytes: u64) -> Row {
        let speed = Speed {
            requests: 1,
            requests_per_second,
            p50_ms: 1.0,
            p99_ms: 1.0,
        };
        Row {
            route,
            state: State::Ran(Box::new(Measured {
                speed: Some(speed),
                resident_bytes: Some(resident_bytes),
                ..Measured::default()
            })),
        }
    }

    fn check(rows: &[Row], expected: Option<(Route, &str)>) {
        let found = best(rows);
        match expected {
            None => assert_eq!(found, None),
            Some((route, why)) => {
                let found = found.unwrap();
                assert_eq!(found.route, route);
                assert!(found.why.contains(why), "{}", found.why);
            }
        }
    }

    #[test]
    fn the_fastest_is_best_and_among_equals_the_smallest() {
        let ort = row(Route::OnnxOnOnnxRuntime, 1000.0, 90);
        let slow = row(Route::OnnxOnTract, 500.0, 40);
        let near = row(Route::OnnxOnTract, 990.0, 40);
        let python = row(Route::Original, 9000.0, 1);
        check(&[], None);
        check(std::slice::from_ref(&python), None);
        check(
            std::slice::from_ref(&ort),
            Some((Route::OnnxOnOnnxRuntime, "the only one")),
        );
        check(
            &[ort.clone(), slow, python],
            Some((Route::OnnxOnOnnxRuntime, "2.0 ×")),
        );
        check(
            &[ort.clone(), near],
            Some((Route::OnnxOnTract, "the least memory")),
        );

        let mut far = ort;
        if let State::Ran(measured) = &mut far.state {
            measured.difference = Some(Difference::incomparable("far".to_owned()));
        }
        assert_eq!(far.remark(), "too far: far");
        check(
            &[far, row(Route::OnnxOnTract, 1.0, 1)],
            Some((Route::OnnxOnTract, "only")),
        );
    }
}
