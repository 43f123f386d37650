//! One loaded module: what it takes and gives, and its runs.

use std::time::{Duration, Instant};

use super::shim::{Archive, Input, Module, Output, Shim};
use crate::backend::run_time::{RunTimes, sizes_of, sizes_with_rows};
use crate::backend::{ModelOptions, ModelSource, Session};
use crate::error::EngineText;
use crate::tensor::display_shape;
use crate::{DType, Dim, InferenceError, Signature, Tensor, TensorSpec};

pub(super) struct TorchSession {
    module: Module,
    signature: Signature,
    threads: i32,
    run_times: RunTimes,
}

/// What to write where a TorchScript file does not say it.
const WRITE_INPUTS: &str = "write the model's inputs into the deployment file, in the order of \
    forward's arguments: inputs: [{name: pixels, datatype: FP32, shape: [-1, 8]}]";

impl TorchSession {
    pub(super) fn load(
        shim: Shim,
        source: &ModelSource,
        options: &ModelOptions,
    ) -> Result<Self, InferenceError> {
        let bytes;
        let archive = match source.as_path() {
            Some(path) => Archive::File(path),
            None => {
                bytes = source.read_all()?;
                Archive::Bytes(&bytes)
            }
        };
        let module = shim
            .load(archive, options.torchscript.optimize_for_inference)
            .map_err(|text| InferenceError::Load {
                reason: "libtorch cannot load the model; a TorchScript file is what \
                    torch.jit.save writes, not torch.save"
                    .to_owned(),
                source: EngineText::cause(&text),
            })?;
        check_inputs(&module, &options.inputs)?;
        let threads = i32::try_from(options.threads_per_run.get()).unwrap_or(i32::MAX);
        let outputs = match options.outputs.is_empty() {
            true => find_outputs(&module, &options.inputs, threads)?,
            false => options.outputs.clone(),
        };
        Ok(TorchSession {
            module,
            signature: Signature {
                inputs: options.inputs.clone(),
                outputs,
            },
            threads,
            run_times: RunTimes::new(options.plans_max),
        })
    }
}

impl Session for TorchSession {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn run(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, InferenceError> {
        let started = Instant::now();
        let outputs = forward(&self.module, &self.signature.inputs, &inputs, self.threads)?;
        let took = started.elapsed();
        self.run_times
            .note(&sizes_of(&self.signature, &inputs), took);
        arrange(outputs, &self.signature.outputs)
    }

    fn estimate(&self, inputs: &[Tensor]) -> Option<Duration> {
        self.run_times.estimate(&sizes_of(&self.signature, inputs))
    }

    fn estimate_rows(&self, inputs: &[Tensor], rows: u64) -> Option<Duration> {
        let sizes = sizes_with_rows(&self.signature, inputs, rows);
        self.run_times.estimate(&sizes)
    }
}

fn check_inputs(module: &Module, inputs: &[TensorSpec]) -> Result<(), InferenceError> {
    let (needed, most) = module.arguments();
    let given = u32::try_from(inputs.len()).unwrap_or(u32::MAX);
    if given == 0 && needed > 0 {
        return Err(InferenceError::unsupported(format!(
            "a TorchScript file does not say what its inputs are; {WRITE_INPUTS}"
        )));
    }
    if given < needed || given > most {
        let takes = match needed == most {
            true => needed.to_string(),
            false => format!("{needed} to {most}"),
        };
        return Err(InferenceError::load(format!(
            "forward takes {takes} tensors, the deployment file has {given} inputs; {WRITE_INPUTS}"
        )));
    }
    match inputs.iter().find(|spec| spec.dtype == DType::Bytes) {
        Some(spec) => Err(InferenceError::unsupported(format!(
            "input {:?} is BYTES, and TorchScript has only tensors of numbers",
            spec.name
        ))),
        None => Ok(()),
    }
}

/// What a run gave, and whether the names are the module's own.
struct Forwarded {
    positional: bool,
    outputs: Vec<Output>,
}

fn forward(
    module: &Module,
    specs: &[TensorSpec],
    inputs: &[Tensor],
    threads: i32,
) -> Result<Forwarded, InferenceError> {
    let views = specs.iter().zip(inputs).map(|(spec, tensor)| {
        Input::new(tensor).ok_or_else(|| {
            InferenceError::unsupported(format!("input {:?} has no numbers", spec.name))
        })
    });
    let views = views.collect::<Result<Vec<Input<'_>>, InferenceError>>()?;
    let failed = |text: String| InferenceError::Runtime {
        reason: "the model failed in forward".to_owned(),
        source: EngineText::cause(what_was_thrown(&text)),
    };
    let outputs = module.run(&views, threads).map_err(failed)?;
    Ok(Forwarded {
        positional: outputs.is_positional(),
        outputs: outputs.take().map_err(failed)?,
    })
}

/// The end of TorchScript's traceback: the exception itself. The source lines before it are of use
/// to nobody who calls the model.
fn what_was_thrown(text: &str) -> &str {
    let Some(marker) = text.rfind("<--- HERE") else {
        return text;
    };
    // The source goes on, indented, behind the place that is marked.
    let mut rest = text[marker..].split_once('\n').map_or("", |(_, rest)| rest);
    while let Some((line, after)) = rest.split_once('\n')
        && (line.trim().is_empty() || line.starts_with(char::is_whitespace))
    {
        rest = after;
    }
    match rest.trim() {
        "" => text,
        exception => exception,
    }
}

/// The outputs in the declared order. Where the module has no names of its own, the declared ones
/// go by position.
fn arrange(forwarded: Forwarded, specs: &[TensorSpec]) -> Result<Vec<Tensor>, InferenceError> {
    let Forwarded {
        positional,
        mut outputs,
    } = forwarded;
    if outputs.len() != specs.len() {
        let names: Vec<&str> = outputs.iter().map(|output| output.name.as_str()).collect();
        return Err(InferenceError::runtime(format!(
            "forward gave {} outputs ({}), the model declares {}",
            outputs.len(),
            names.join(", "),
            specs.len()
        )));
    }
    let mut arranged = Vec::with_capacity(specs.len());
    for spec in specs {
        let position = match positional {
            true => 0,
            false => outputs
                .iter()
                .position(|output| output.name == spec.name)
                .ok_or_else(|| {
                    InferenceError::runtime(format!("forward gave no output {:?}", spec.name))
                })?,
        };
        let tensor = outputs.remove(position).tensor;
        if tensor.dtype() != spec.dtype {
            return Err(InferenceError::runtime(format!(
                "output {:?} is {}, the model declares {}",
                spec.name,
                tensor.dtype(),
                spec.dtype
            )));
        }
        if !spec.fits(tensor.shape()) {
            return Err(InferenceError::runtime(format!(
                "output {:?} has shape {}, the model declares {spec}",
                spec.name,
                display_shape(tensor.shape())
            )));
        }
        arranged.push(tensor);
    }
    Ok(arranged)
}

/// Runs the model on zeros of two sizes: a dimension that differs between the answers is variable.
fn find_outputs(
    module: &Module,
    inputs: &[TensorSpec],
    threads: i32,
) -> Result<Vec<TensorSpec>, InferenceError> {
    const SIZES: [u64; 2] = [2, 3];
    let varies = inputs.iter().any(|spec| spec.shape.contains(&Dim::Any));
    let unknown = |reason: &str, error: Option<InferenceError>| InferenceError::Load {
        reason: format!(
            "the model's outputs cannot be found by running it on zeros: {reason}; write them into \
             the deployment file: outputs: [{{name: logits, datatype: FP32, shape: [-1, 10]}}]"
        ),
        source: error.map(Into::into),
    };
    let mut found: Option<Vec<TensorSpec>> = None;
    for size in SIZES.into_iter().take(if varies { 2 } else { 1 }) {
        let zeros = inputs
            .iter()
            .map(|spec| Tensor::zeros(spec.dtype, &spec.shape_with(size)))
            .collect::<Result<Vec<Tensor>, _>>()?;
        let forwarded = forward(module, inputs, &zeros, threads)
            .map_err(|error| unknown("it failed", Some(error)))?;
        let given = forwarded.outputs.into_iter().map(|output| TensorSpec {
            dtype: output.tensor.dtype(),
            shape: output
                .tensor
                .shape()
                .iter()
                .copied()
                .map(Dim::Fixed)
                .collect(),
            name: output.name,
        });
        let given: Vec<TensorSpec> = given.collect();
        found = Some(match found {
            None => given,
            Some(before) => merged(before, given)
                .ok_or_else(|| unknown("they depend on the sizes of its inputs", None))?,
        });
    }
    let outputs = found.unwrap_or_default();
    if outputs.is_empty() {
        return Err(InferenceError::load("forward returns no tensor"));
    }
    let names = outputs.iter().map(|spec| &spec.name);
    let taken =
        |(position, name): (usize, &String)| outputs[..position].iter().any(|o| o.name == *name);
    match names.enumerate().find(|entry| taken(*entry)) {
        Some((_, name)) => Err(InferenceError::load(format!(
            "two outputs of forward are named {name:?}"
        ))),
        None => Ok(outputs),
    }
}

/// What two runs agree on, with a variable dimension where they do not. None if they differ in more
/// than sizes.
fn merged(first: Vec<TensorSpec>, second: Vec<TensorSpec>) -> Option<Vec<TensorSpec>> {
    if first.len() != second.len() {
        return None;
    }
    let pairs = first.into_iter().zip(second);
    let merged = pairs.map(|(mut first, second)| {
        let alike = first.name == second.name
            && first.dtype == second.dtype
            && first.shape.len() == second.shape.len();
        for (dim, other) in first.shape.iter_mut().zip(second.shape) {
            if *dim != other {
                *dim = Dim::Any;
            }
        }
        alike.then_some(first)
    });
    merged.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_traceback_is_left_out() {
        let thrown = "The following operation failed in the TorchScript interpreter.\n\
            Traceback of TorchScript, serialized code (most recent call last):\n  \
            File \"code/__torch__.py\", line 8, in forward\n    \
            ops.prim.RaiseException(\"boom\")\n    ~~~~~~~ <--- HERE\n\n\
            Traceback of TorchScript, original code (most recent call last):\n    \
            raise ValueError(\"boom\")\n    ~~~ <--- HERE\n    return x\nbuiltins.ValueError: boom\n";
        assert_eq!(what_was_thrown(thrown), "builtins.ValueError: boom");
        assert_eq!(what_was_thrown("size mismatch"), "size mismatch");
        assert_eq!(what_was_thrown("a <--- HERE\n"), "a <--- HERE\n");
    }

    #[test]
    fn a_dimension_that_differs_between_runs_is_variable() {
        let spec = |shape: &[Dim]| TensorSpec {
            name: "output".to_owned(),
            dtype: DType::F32,
            shape: shape.to_vec(),
        };
        let run = |rows: u64| vec![spec(&[Dim::Fixed(rows), Dim::Fixed(10)])];
        let expected = vec![spec(&[Dim::Any, Dim::Fixed(10)])];
        assert_eq!(merged(run(2), run(3)), Some(expected));
        assert_eq!(merged(run(2), vec![spec(&[Dim::Fixed(3)])]), None);
        assert_eq!(merged(run(2), Vec::new()), None);
    }
}
