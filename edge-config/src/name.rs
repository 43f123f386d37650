//! The names of deployments and of models: what they may look like.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

/// The longest name. A DNS label has the same bound.
const NAME_BYTES_MAX: usize = 63;

/// Path segments of the data plane that a deployment's name would hide.
const RESERVED: [&str; 6] = ["v1", "v2", "healthz", "metrics", "predictions", "ping"];

/// The name of a deployment on a node: a DNS label that is no path of the node's own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeploymentName(String);

/// The name under which a predictor and HTTP callers reach a model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelName(String);

/// A name that is none: the text says which rule it breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameError(String);

impl FromStr for DeploymentName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        if name.is_empty()
            || !name.bytes().all(inner)
            || name.starts_with('-')
            || name.ends_with('-')
        {
            return Err(NameError(
                "is not a name; write lower-case letters, digits and inner hyphens, such as digits"
                    .into(),
            ));
        }
        check_length(name)?;
        if RESERVED.contains(&name) {
            return Err(NameError(format!(
                "is a path of the node itself; write another name, such as {name}-model"
            )));
        }
        Ok(Self(name.to_owned()))
    }
}

impl FromStr for ModelName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        let inner = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'-';
        if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.bytes().all(inner) {
            return Err(NameError(
                "is not a model name; write letters, digits, _ and -, such as resnet-18".into(),
            ));
        }
        check_length(name)?;
        Ok(Self(name.to_owned()))
    }
}

fn check_length(name: &str) -> Result<(), NameError> {
    if name.len() > NAME_BYTES_MAX {
        return Err(NameError(format!(
            "has {} characters; a name has at most {NAME_BYTES_MAX}",
            name.len()
        )));
    }
    Ok(())
}

macro_rules! reads_as_str {
    ($($name:ident)*) => {$(
        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        // A map keyed by the name can be asked with the text of a request.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    )*};
}

reads_as_str!(DeploymentName ModelName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deployment_names() {
        let long = "a".repeat(63);
        for good in ["digits", "a", "0", "a-b", "v3", "x1-y2", long.as_str()] {
            assert_eq!(good.parse::<DeploymentName>().unwrap().as_str(), good);
        }
        let too_long = "a".repeat(64);
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a_b",
            "a.b",
            "a/b",
            "é",
            "v1",
            "v2",
            "healthz",
            "metrics",
            "predictions",
            "ping",
            "a b",
            "a\n",
            too_long.as_str(),
        ] {
            assert!(bad.parse::<DeploymentName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn model_names() {
        let long = "M".repeat(63);
        for good in ["digits", "ResNet-18", "0_a", long.as_str()] {
            assert_eq!(good.parse::<ModelName>().unwrap().as_str(), good);
        }
        let too_long = "M".repeat(64);
        for bad in ["", "_a", "-a", "a.b", "a/b", "..", "é", too_long.as_str()] {
            assert!(bad.parse::<ModelName>().is_err(), "{bad:?}");
        }
    }
}
