//! `--predictor rust`: a predictor that does what the node does without one, to be changed.

use std::fmt::Write as _;

use super::{Staging, TensorArg};
use crate::exit::{Exit, Failure};
use crate::sdk::Dependency;

const MANIFEST: &str = include_str!("../../template/predictor/Cargo.toml.in");
const IGNORED: &str = include_str!("../../template/predictor/gitignore");
const LIB: &str = include_str!("../../template/imported/lib.rs.in");
const NESTED: &str = include_str!("../../template/imported/nested.rs");

/// What `wasi:nn` carries, and how the SDK names it.
const CARRIED: [(&str, &str); 5] = [
    ("FP32", "f32"),
    ("FP64", "f64"),
    ("UINT8", "u8"),
    ("INT32", "i32"),
    ("INT64", "i64"),
];

/// The crate of a predictor for one model.
#[derive(Debug)]
pub(super) struct Crate<'a> {
    pub(super) name: &'a str,
    pub(super) sdk: &'a Dependency,
    pub(super) inputs: &'a [TensorArg],
    pub(super) outputs: &'a [TensorArg],
}

pub(super) fn write(staging: &Staging, of: &Crate<'_>) -> Result<(), Failure> {
    let manifest = MANIFEST
        .replace("{{name}}", of.name)
        .replace("{{sdk}}", of.sdk.in_manifest());
    staging.write("Cargo.toml", manifest)?;
    for (path, content) in of.sdk.files() {
        staging.write(&path, content)?;
    }
    staging.write(".gitignore", IGNORED)?;
    staging.write("src/lib.rs", lib(of)?)?;
    staging.write("src/nested.rs", NESTED)
}

fn lib(of: &Crate<'_>) -> Result<String, Failure> {
    let (mut fields, mut inputs, mut outputs) = (String::new(), String::new(), String::new());
    for (index, tensor) in of.inputs.iter().enumerate() {
        let make = carried(tensor)?;
        // The text of a Rust literal.
        let name = format!("{:?}", tensor.name);
        let shape = &tensor.shape;
        let _ = write!(
            fields,
            "    /// {} {shape:?}\n    #[serde(rename = {name})]\n    input_{index}: Value,\n",
            tensor.datatype
        );
        let _ = writeln!(
            inputs,
            "            ({name}, nested::{make}({name}, &inputs.input_{index})?),"
        );
    }
    for tensor in of.outputs {
        let make = carried(tensor)?;
        let name = format!("{:?}", tensor.name);
        let _ = writeln!(
            outputs,
            "            {name}: nested::lists(outputs.output({name})?.shape(), &outputs.output({name})?.as_{make}()?),"
        );
    }
    Ok(LIB
        .replace("{{name}}", of.name)
        .replace("{{fields}}\n", &fields)
        .replace("{{inputs}}\n", &inputs)
        .replace("{{outputs}}\n", &outputs))
}

fn carried(tensor: &TensorArg) -> Result<&'static str, Failure> {
    let found = CARRIED
        .iter()
        .find(|(datatype, _)| *datatype == tensor.datatype);
    found.map(|(_, make)| *make).ok_or_else(|| {
        let message = format!(
            "{} is {}, which this predictor cannot pass through wasi:nn",
            tensor.name, tensor.datatype
        );
        Failure::new(Exit::Refused, message)
            .next("leave --predictor away: the node itself serves every datatype")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crate_names_every_tensor() {
        let tensor = |text: &str| text.parse::<TensorArg>().unwrap();
        let (inputs, outputs) = ([tensor("a \"b\":INT64:-1,3")], [tensor("y:FP32:-1")]);
        let of = Crate {
            name: "ranker",
            sdk: &Dependency::embedded(),
            inputs: &inputs,
            outputs: &outputs,
        };
        let lib_rs = lib(&of).unwrap();
        assert!(
            lib_rs.contains(r#"nested::i64("a \"b\"", &inputs.input_0)?"#),
            "{lib_rs}"
        );
        assert!(
            lib_rs.contains(r#"outputs.output("y")?.as_f32()?"#),
            "{lib_rs}"
        );
        assert!(!lib_rs.contains("{{"), "{lib_rs}");
        let flags = [tensor("flags:BOOL:-1")];
        let refused = lib(&Crate {
            inputs: &flags,
            ..of
        })
        .unwrap_err();
        assert_eq!(refused.exit, Exit::Refused);
    }
}
