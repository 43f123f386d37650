//! `name:dtype:shape`, as the user writes a tensor that the model's file does not describe.

use std::fmt;
use std::str::FromStr;

use dunlin_inference::{DType, Dim, RANK_MAX, TensorSpec};
use serde::{Deserialize, Serialize};

/// A tensor of a signature: what is written in `dunlin.yaml` and given to the Python helper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TensorArg {
    pub(crate) name: String,
    /// As the Open Inference Protocol calls it.
    pub(crate) datatype: String,
    /// -1 differs from call to call.
    pub(crate) shape: Vec<i64>,
}

/// Names that people know from NumPy and PyTorch.
const ALIASES: [(&str, &str); 13] = [
    ("bool", "BOOL"),
    ("uint8", "UINT8"),
    ("int8", "INT8"),
    ("int16", "INT16"),
    ("int32", "INT32"),
    ("int64", "INT64"),
    ("long", "INT64"),
    ("float16", "FP16"),
    ("half", "FP16"),
    ("bfloat16", "BF16"),
    ("float32", "FP32"),
    ("float", "FP32"),
    ("float64", "FP64"),
];

impl FromStr for TensorArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "write name:dtype:shape, such as pixels:FP32:-1,1,8,8";
        // A name may have a colon; the others have none.
        let mut parts = text.rsplitn(3, ':');
        let (Some(shape), Some(datatype), Some(name)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(FORM.to_owned());
        };
        if name.is_empty() {
            return Err(format!("the name is empty; {FORM}"));
        }
        let lower = datatype.to_ascii_lowercase();
        let lower = lower.trim_start_matches("torch.");
        let datatype = match ALIASES.iter().find(|(alias, _)| *alias == lower) {
            Some((_, name)) => (*name).to_owned(),
            None => datatype.to_ascii_uppercase(),
        };
        if DType::from_name(&datatype).is_none() {
            let names = DType::ALL.map(DType::name).join(", ");
            return Err(format!("{datatype} is no datatype; write one of {names}"));
        }
        let shape = shape.trim_matches(['[', ']']);
        let sizes = shape.split([',', 'x']).map(str::trim);
        let sizes = sizes.filter(|size| !size.is_empty());
        let shape = sizes.map(size).collect::<Result<Vec<_>, _>>()?;
        if shape.len() > RANK_MAX {
            return Err(format!(
                "{} dimensions; at most {RANK_MAX} are taken",
                shape.len()
            ));
        }
        Ok(Self {
            name: name.to_owned(),
            datatype,
            shape,
        })
    }
}

fn size(text: &str) -> Result<i64, String> {
    match text.parse() {
        Ok(size) if size >= -1 => Ok(size),
        _ if text == "?" => Ok(-1),
        _ => Err(format!(
            "{text} is no size; write a number, or -1 for a dimension that varies"
        )),
    }
}

impl From<&TensorSpec> for TensorArg {
    fn from(spec: &TensorSpec) -> Self {
        let size = |dim: &Dim| match dim {
            Dim::Fixed(size) => i64::try_from(*size).unwrap_or(i64::MAX),
            Dim::Any => -1,
        };
        Self {
            name: spec.name.clone(),
            datatype: spec.dtype.name().to_owned(),
            shape: spec.shape.iter().map(size).collect(),
        }
    }
}

impl TensorArg {
    /// `None`: the datatype is none of the protocol's.
    pub(crate) fn spec(&self) -> Option<TensorSpec> {
        let dim = |size: &i64| u64::try_from(*size).map_or(Dim::Any, Dim::Fixed);
        Some(TensorSpec {
            name: self.name.clone(),
            dtype: DType::from_name(&self.datatype)?,
            shape: self.shape.iter().map(dim).collect(),
        })
    }
}

impl fmt::Display for TensorArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {:?}", self.name, self.datatype, self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<(String, String, Vec<i64>), String> {
        let arg: TensorArg = text.parse()?;
        Ok((arg.name, arg.datatype, arg.shape))
    }

    #[test]
    fn what_is_written_is_understood() {
        let table: [(&str, &str, &str, &[i64]); 6] = [
            ("pixels:FP32:-1,1,8,8", "pixels", "FP32", &[-1, 1, 8, 8]),
            ("ids:int64:[-1, 128]", "ids", "INT64", &[-1, 128]),
            (
                "x:torch.float32:?x3x224x224",
                "x",
                "FP32",
                &[-1, 3, 224, 224],
            ),
            ("serving:x:fp16:2", "serving:x", "FP16", &[2]),
            ("scale:float:", "scale", "FP32", &[]),
            ("scale:float:[]", "scale", "FP32", &[]),
        ];
        for (text, name, datatype, shape) in table {
            let expected = (name.to_owned(), datatype.to_owned(), shape.to_vec());
            assert_eq!(parsed(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_is_told_what_to_write() {
        let table = [
            ("pixels", "name:dtype:shape"),
            ("pixels:FP32", "name:dtype:shape"),
            (":FP32:1", "the name is empty"),
            ("x:decimal:1", "DECIMAL is no datatype; write one of BOOL"),
            ("x:FP32:a,2", "a is no size"),
            ("x:FP32:-2", "-2 is no size"),
        ];
        for (text, part) in table {
            let said = parsed(text).unwrap_err();
            assert!(said.contains(part), "{text}: {said}");
        }
        let many = format!("x:FP32:{}", vec!["1"; RANK_MAX + 1].join(","));
        assert!(parsed(&many).is_err());
    }
}
