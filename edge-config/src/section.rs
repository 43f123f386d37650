//! From what was written to what is true: one mapping of a file, whose keys are asked for by name.
//!
//! Every question has an answer even where the file is wrong: the problem goes into the report and
//! the default comes back, so that the check goes on and finds the next one.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::error::{ConfigError, Problem};
use crate::units::{parse_duration, parse_size, show_duration, show_size};
use crate::yaml::{Key, Value, Yaml};

/// More problems than anybody reads at once; the rest is counted.
const PROBLEMS_MAX: usize = 50;

/// The keys of each mapping of a kind of file, by its path; `[]` stands for any item of a list.
pub(crate) type Layout = &'static [(&'static str, &'static [&'static str])];

/// What is wrong with one file.
pub(crate) struct Report {
    origin: String,
    found: RefCell<Found>,
}

#[derive(Default)]
struct Found {
    problems: Vec<Problem>,
    omitted: usize,
}

impl Report {
    pub(crate) fn new(origin: &str) -> Self {
        Self {
            origin: origin.to_owned(),
            found: RefCell::default(),
        }
    }

    pub(crate) fn add(&self, line: Option<u32>, key: &str, message: impl Into<String>) {
        let mut found = self.found.borrow_mut();
        if found.problems.len() == PROBLEMS_MAX {
            found.omitted += 1;
            return;
        }
        found.problems.push(Problem {
            origin: self.origin.clone(),
            line,
            key: key.to_owned(),
            message: message.into(),
        });
    }

    /// The error, when there was a problem.
    pub(crate) fn finish(self) -> Result<(), ConfigError> {
        let Found {
            mut problems,
            omitted,
        } = self.found.into_inner();
        if problems.is_empty() {
            return Ok(());
        }
        problems.sort_by_key(|problem| problem.line);
        Err(ConfigError::Invalid { problems, omitted })
    }
}

/// One mapping. A mapping that is absent has no entries.
pub(crate) struct Section<'a> {
    report: &'a Report,
    layout: Layout,
    /// The place in the layout, `predictor.models[]`.
    place: String,
    /// What messages say, `predictor.models.digits`.
    path: String,
    line: Option<u32>,
    entries: &'a [(Key, Yaml)],
    /// Something else stands where the mapping should: that was said, and what it lacks is not.
    broken: bool,
}

impl<'a> Section<'a> {
    pub(crate) fn root(yaml: &'a Yaml, layout: Layout, report: &'a Report) -> Self {
        Self::open(Some(yaml), String::new(), String::new(), layout, report)
    }

    fn open(
        yaml: Option<&'a Yaml>,
        place: String,
        path: String,
        layout: Layout,
        report: &'a Report,
    ) -> Self {
        let line = yaml.and_then(|yaml| yaml.line);
        let (entries, broken) = match yaml.map(|yaml| &yaml.value) {
            // A section whose keys are all commented out is null in YAML.
            None | Some(Value::Null) => (&[][..], false),
            Some(Value::Mapping(entries)) => (entries.as_slice(), false),
            Some(other) => {
                let keys = keys_at(layout, &place).join(", ");
                report.add(
                    line,
                    &path,
                    format!("{other} is not a mapping; its keys are {keys}"),
                );
                (&[][..], true)
            }
        };
        let section = Self {
            report,
            layout,
            place,
            path,
            line,
            entries,
            broken,
        };
        section.refuse_unknown_keys();
        section
    }

    fn refuse_unknown_keys(&self) {
        let known = keys_at(self.layout, &self.place);
        for (key, _) in self.entries {
            let name = key.name.as_str();
            if known.contains(&name) {
                continue;
            }
            let elsewhere = self.layout.iter().find(|(_, keys)| keys.contains(&name));
            let message = match (nearest(name, known), elsewhere) {
                (Some(near), _) => format!("there is no such key; write {near}"),
                (None, Some((place, _))) if !place.is_empty() => {
                    format!(
                        "there is no such key here; write it below {}",
                        place.replace("[]", "")
                    )
                }
                _ => format!(
                    "there is no such key; the keys here are {}",
                    known.join(", ")
                ),
            };
            self.report.add(
                key.line,
                &self.path_of(&Value::String(name.into()).to_string()),
                message,
            );
        }
    }

    pub(crate) fn line(&self) -> Option<u32> {
        self.line
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    pub(crate) fn find(&self, key: &str) -> Option<&'a Yaml> {
        debug_assert!(
            keys_at(self.layout, &self.place).contains(&key),
            "{key} is in no layout"
        );
        self.entries
            .iter()
            .find(|(known, _)| known.name == key)
            .map(|(_, yaml)| yaml)
    }

    pub(crate) fn section(&self, key: &str) -> Section<'a> {
        let place = join(&self.place, key);
        Self::open(
            self.find(key),
            place,
            self.path_of(key),
            self.layout,
            self.report,
        )
    }

    /// The items of a list of mappings. An item is called by its `name` where it has one.
    pub(crate) fn sections(&self, key: &str) -> Vec<Section<'a>> {
        let place = format!("{}[]", join(&self.place, key));
        self.list(key)
            .iter()
            .enumerate()
            .map(|(at, item)| {
                let path = match name_of(item) {
                    Some(name) => format!("{}.{name}", self.path_of(key)),
                    None => format!("{}[{at}]", self.path_of(key)),
                };
                Self::open(Some(item), place.clone(), path, self.layout, self.report)
            })
            .collect()
    }

    /// The items of a list; an absent one has none.
    pub(crate) fn list(&self, key: &str) -> &'a [Yaml] {
        match self.find(key).map(|yaml| (&yaml.value, yaml.line)) {
            None | Some((Value::Null, _)) => &[],
            Some((Value::List(items), _)) => items,
            Some((other, line)) => {
                let message = format!("{other} is not a list; write it as - items or in [ ]");
                self.report.add(line, &self.path_of(key), message);
                &[]
            }
        }
    }

    /// The value that `read` makes of the key; `None` where it is absent, or wrong and reported.
    pub(crate) fn read<T>(
        &self,
        key: &str,
        read: impl FnOnce(&'a Value) -> Result<T, String>,
    ) -> Option<T> {
        let yaml = self.find(key)?;
        let result = match yaml.value {
            Value::Null => Err("nothing is written here; write a value or drop the key".into()),
            _ => read(&yaml.value),
        };
        result
            .map_err(|message| self.report.add(yaml.line, &self.path_of(key), message))
            .ok()
    }

    /// As `read`, and an absent key is a problem: `example` is what to write.
    pub(crate) fn require<T>(
        &self,
        key: &str,
        example: &str,
        read: impl FnOnce(&'a Value) -> Result<T, String>,
    ) -> Option<T> {
        if !self.broken && !self.has(key) {
            self.report.add(
                self.line,
                &self.path_of(key),
                format!("is missing; write {key}: {example}"),
            );
        }
        self.read(key, read)
    }

    pub(crate) fn size(&self, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        self.read(key, |value| {
            let size = match value {
                Value::Number(number) => number.as_u64(),
                Value::String(text) => parse_size(text),
                _ => None,
            };
            let write = show_size(default);
            let size = size.ok_or_else(|| format!("{value} is not a size; write {write}"))?;
            within(value, size, &range, |size| show_size(*size), &write)
        })
        .unwrap_or(default)
    }

    pub(crate) fn duration(
        &self,
        key: &str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        self.read(key, |value| {
            let write = show_duration(default);
            let duration = match value {
                Value::Number(number) if number.is_u64() => {
                    return Err(format!("{value} has no unit; write {value}s or {value}ms"));
                }
                Value::String(text) => parse_duration(text),
                _ => None,
            }
            .ok_or_else(|| format!("{value} is not a duration; write {write}"))?;
            within(
                value,
                duration,
                &range,
                |duration| show_duration(*duration),
                &write,
            )
        })
        .unwrap_or(default)
    }

    pub(crate) fn count(&self, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        self.read(key, |value| {
            let number = match value {
                Value::Number(number) => number.as_u64(),
                _ => None,
            };
            let number =
                number.ok_or_else(|| format!("{value} is not a whole number; write {default}"))?;
            within(value, number, &range, u64::to_string, &default.to_string())
        })
        .unwrap_or(default)
    }

    /// A number of which a 32-bit type is enough, by its range.
    pub(crate) fn count_u32(&self, key: &str, default: u32, range: RangeInclusive<u32>) -> u32 {
        let range = u64::from(*range.start())..=u64::from(*range.end());
        u32::try_from(self.count(key, default.into(), range)).unwrap_or(default)
    }

    pub(crate) fn fraction(&self, key: &str, default: f64, range: RangeInclusive<f64>) -> f64 {
        self.read(key, |value| {
            let number = match value {
                Value::Number(number) => number.as_f64(),
                _ => None,
            };
            let number =
                number.ok_or_else(|| format!("{value} is not a number; write {default:e}"))?;
            within(
                value,
                number,
                &range,
                f64::to_string,
                &format!("{default:e}"),
            )
        })
        .unwrap_or(default)
    }

    pub(crate) fn flag(&self, key: &str, default: bool) -> bool {
        self.read(key, |value| match value {
            Value::Bool(flag) => Ok(*flag),
            _ => Err(format!(
                "{value} is neither true nor false; write {default}"
            )),
        })
        .unwrap_or(default)
    }

    pub(crate) fn one_of<T: Copy>(&self, key: &str, default: T, choices: &[(&str, T)]) -> T {
        self.read(key, |value| choose(value, choices))
            .unwrap_or(default)
    }

    /// Reports a problem of this section's key.
    pub(crate) fn refuse(&self, key: &str, message: impl Into<String>) {
        if self.broken {
            return;
        }
        let line = self
            .entries
            .iter()
            .find(|(known, _)| known.name == key)
            .map_or(self.line, |(key, yaml)| yaml.line.or(key.line));
        self.report.add(line, &self.path_of(key), message);
    }

    fn path_of(&self, key: &str) -> String {
        join(&self.path, key)
    }
}

/// The text of a value that has to be one.
pub(crate) fn text(value: &Value) -> Result<&str, String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Number(_) | Value::Bool(_) => {
            Err(format!("{value} is not a text to YAML; write \"{value}\""))
        }
        _ => Err(format!("{value} is not a text")),
    }
}

/// The member of a closed set.
pub(crate) fn choose<T: Copy>(value: &Value, choices: &[(&str, T)]) -> Result<T, String> {
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    let Value::String(text) = value else {
        return Err(format!("{value} is none of {}", names.join(", ")));
    };
    if let Some((_, choice)) = choices.iter().find(|(name, _)| name == text) {
        return Ok(*choice);
    }
    Err(match nearest(text, &names) {
        Some(near) => format!("{value} is none of {}; write {near}", names.join(", ")),
        None => format!("{value} is unknown; write one of {}", names.join(", ")),
    })
}

fn within<T: PartialOrd>(
    written: &Value,
    value: T,
    range: &RangeInclusive<T>,
    show: impl Fn(&T) -> String,
    write: &str,
) -> Result<T, String> {
    if value < *range.start() {
        return Err(format!(
            "{written} is less than {}; write {write}",
            show(range.start())
        ));
    }
    if value > *range.end() {
        return Err(format!(
            "{written} is more than {}; write {write}",
            show(range.end())
        ));
    }
    Ok(value)
}

fn keys_at(layout: Layout, place: &str) -> &'static [&'static str] {
    layout
        .iter()
        .find(|(at, _)| *at == place)
        .map_or(&[], |(_, keys)| keys)
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn name_of(item: &Yaml) -> Option<&str> {
    let Value::Mapping(entries) = &item.value else {
        return None;
    };
    let (_, name) = entries.iter().find(|(key, _)| key.name == "name")?;
    match &name.value {
        Value::String(name) if name.parse::<crate::ModelName>().is_ok() => Some(name),
        _ => None,
    }
}

/// The known word that `written` was probably meant to be.
fn nearest<'k>(written: &str, known: &[&'k str]) -> Option<&'k str> {
    // A longer text is no slip of the finger, and the distance costs its square.
    if written.len() > 40 {
        return None;
    }
    known
        .iter()
        .map(|word| {
            (
                distance(&written.to_lowercase().replace('-', "_"), word),
                *word,
            )
        })
        .filter(|(distance, word)| *distance <= 1.max(word.len() / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// Insertions, deletions, substitutions and swaps of neighbours between two words.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let substitute = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = substitute.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word() {
        let known = ["instances", "limits", "name", "predictor"];
        for (written, near) in [
            ("limit", Some("limits")),
            ("Limits", Some("limits")),
            ("limtis", Some("limits")),
            ("instance", Some("instances")),
            ("predicotr", Some("predictor")),
            ("nme", Some("name")),
            ("autoscaling", None),
            ("", None),
        ] {
            assert_eq!(nearest(written, &known), near, "{written}");
        }
    }
}
