//! What was written: a YAML document as a tree whose nodes know their line.
//!
//! The tree exists, instead of structures derived by serde, because serde stops at the first thing
//! that does not fit, and an author wants to hear of everything at once. Of what the keys mean this
//! module knows nothing.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::localizer::Localizer;
use serde_saphyr::{Location, Spanned};

use crate::error::{ConfigError, Problem};

/// The largest document. A deployment file with a thousand labels has some 20 KiB.
const DOCUMENT_BYTES_MAX: usize = 1 << 20;

/// Levels of nesting, aliases not counted.
const DEPTH_MAX: usize = 32;
/// Scalars, lists and mappings as they are written.
const NODES_MAX: usize = 100_000;
/// What aliases may add to that, so that a small document cannot unfold to a large tree.
const ALIAS_EVENTS_MAX: usize = 10_000;
/// Aliases within the anchors of aliases: with `DEPTH_MAX` it bounds the depth of the tree.
const ALIAS_DEPTH_MAX: usize = 4;

/// A node and where it stands.
#[derive(Debug)]
pub(crate) struct Yaml {
    pub(crate) value: Value,
    /// Counted from 1.
    pub(crate) line: Option<u32>,
    /// The bytes of the document that the node was written as, where the parser tells.
    pub(crate) span: Option<Range<usize>>,
}

#[derive(Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    String(String),
    List(Vec<Yaml>),
    /// In the order of the document; the parser has refused keys that occur twice.
    Mapping(Vec<(Key, Yaml)>),
}

#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: String,
    pub(crate) line: Option<u32>,
}

/// The text of a configuration file.
pub(crate) fn read(path: &Path) -> Result<String, ConfigError> {
    let fail = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(fail)?;
    file.take(DOCUMENT_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    // Before the encoding: the cut may have gone through a character.
    if bytes.len() > DOCUMENT_BYTES_MAX {
        return Err(refuse(&path.display().to_string(), None, too_large()));
    }
    String::from_utf8(bytes).map_err(|error| fail(io::Error::new(ErrorKind::InvalidData, error)))
}

/// The tree of a document; what is no YAML, or too much of it, is the only problem then.
pub(crate) fn parse(document: &str, origin: &str) -> Result<Yaml, ConfigError> {
    Yaml::parse(document).map_err(|(line, message)| refuse(origin, line, message))
}

fn refuse(origin: &str, line: Option<u32>, message: String) -> ConfigError {
    let problem = Problem {
        origin: origin.to_owned(),
        line,
        key: String::new(),
        message,
    };
    ConfigError::Invalid {
        problems: vec![problem],
        omitted: 0,
    }
}

fn too_large() -> String {
    format!("is too large; a configuration file has at most {DOCUMENT_BYTES_MAX} bytes")
}

impl Yaml {
    /// A document without content is `Null`.
    fn parse(document: &str) -> Result<Self, (Option<u32>, String)> {
        if document.len() > DOCUMENT_BYTES_MAX {
            return Err((None, too_large()));
        }
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! {
                max_depth: DEPTH_MAX,
                flow_nesting_limit: DEPTH_MAX,
                max_nodes: NODES_MAX,
                max_documents: 1,
                max_merge_keys: 100,
            },
            alias_limits: serde_saphyr::alias_limits! {
                max_total_replayed_events: ALIAS_EVENTS_MAX,
                max_replay_stack_depth: ALIAS_DEPTH_MAX,
            },
            // `no` is a label like any other, and so is `007`.
            strict_booleans: true,
            leading_zero_numbers_as_strings: true,
            with_snippet: false,
        };
        // `Option`, because the parser takes a document without content for no value at all.
        serde_saphyr::from_str_with_options::<Option<Spanned<Value>>>(document, options)
            .map(|root| root.map_or(Self::NOTHING, Self::from))
            .map_err(|error| (error.location().and_then(line), message(&error)))
    }

    const NOTHING: Self = Self {
        value: Value::Null,
        line: None,
        span: None,
    };
}

impl Value {
    /// The value as JSON.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(value) => (*value).into(),
            Self::Number(value) => value.clone().into(),
            Self::String(value) => value.as_str().into(),
            Self::List(items) => items.iter().map(|item| item.value.to_json()).collect(),
            Self::Mapping(entries) => entries
                .iter()
                .map(|(key, entry)| (key.name.clone(), entry.value.to_json()))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        }
    }
}

/// As a message quotes it: short, on one line.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const CHARS_MAX: usize = 60;
        match self {
            Self::Null => f.write_str("nothing"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Number(value) => write!(f, "{value}"),
            Self::String(value) if value.trim() != value || value.is_empty() => {
                write!(
                    f,
                    "\"{}\"",
                    value
                        .chars()
                        .take(CHARS_MAX)
                        .collect::<String>()
                        .escape_debug()
                )
            }
            Self::String(value) => {
                for c in value.chars().take(CHARS_MAX) {
                    if c.is_control() {
                        write!(f, "{}", c.escape_debug())?;
                    } else {
                        write!(f, "{c}")?;
                    }
                }
                if value.chars().nth(CHARS_MAX).is_some() {
                    f.write_str("…")?;
                }
                Ok(())
            }
            Self::List(_) => f.write_str("a list"),
            Self::Mapping(_) => f.write_str("a mapping"),
        }
    }
}

impl From<Spanned<Value>> for Yaml {
    fn from(node: Spanned<Value>) -> Self {
        // An alias stands somewhere else than its value: a span would point into the wrong text.
        let span = (node.referenced == node.defined)
            .then(|| node.referenced.span())
            .and_then(|span| {
                let start = usize::try_from(span.byte_offset()?).ok()?;
                let len = usize::try_from(span.byte_len()?).ok()?;
                Some(start..start.checked_add(len)?)
            });
        Self {
            line: line(node.referenced),
            span,
            value: node.value,
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value, a list or a mapping")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Value, E> {
        Err(E::custom(format!(
            "{value} does not fit into 64 bits; write it in quotes"
        )))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Value, E> {
        Err(E::custom(format!(
            "{value} does not fit into 64 bits; write it in quotes"
        )))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        serde_json::Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| {
                E::custom(format!(
                    "{value} is not a finite number; write it in quotes"
                ))
            })
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element::<Spanned<Value>>()? {
            items.push(item.into());
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let value = map.next_value::<Spanned<Value>>()?;
            entries.push((
                Key {
                    line: line(key.referenced),
                    name: key.value,
                },
                value.into(),
            ));
        }
        Ok(Value::Mapping(entries))
    }
}

fn line(location: Location) -> Option<u32> {
    u32::try_from(location.line()).ok().filter(|line| *line > 0)
}

/// The parser's text without its "at line …": the line leads the message.
fn message(error: &serde_saphyr::Error) -> String {
    struct WithoutLocation;
    impl Localizer for WithoutLocation {
        fn attach_location<'a>(&self, base: Cow<'a, str>, _: Location) -> Cow<'a, str> {
            base
        }
    }
    let formatter = serde_saphyr::UserMessageFormatter.with_localizer(&WithoutLocation);
    error.render_with_formatter(&formatter)
}
