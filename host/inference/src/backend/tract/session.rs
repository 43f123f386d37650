//! One loaded model: its graph with symbolic dimensions, and the plans made from it.

use std::collections::{HashMap, HashSet};
use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tract_onnx::prelude::multithread::Executor;
use tract_onnx::prelude::{
    InferenceModel, InferenceModelExt, RunOptions, Symbol, SymbolValues, TDim, TVec, TypedModel,
    TypedSimplePlan,
};
use tract_onnx::tract_hir::infer::{Factoid, ShapeFactoid};
use tract_onnx::tract_hir::internal::DimFact;

use super::binding::InputDims;
use super::onnx_file::{self, DeclaredOutput, NamedInputs, OnnxFile};
use super::plans::{Plan, Plans};
use super::{Failure, bounds, convert, guard};
use crate::backend::run_time::{Sizes, sizes_of, sizes_with_rows};
use crate::backend::{ModelOptions, ModelSource, Session};
use crate::{InferenceError, Signature, Tensor, TensorSpec};

pub(super) struct TractSession {
    signature: Signature,
    dims: InputDims,
    /// What plans are made from; none if the model has no symbols, and so one plan for ever.
    ///
    /// It is the graph before analysis, and each plan analyses it with numbers, because that is
    /// when tract checks shapes. Replacing the symbols of an analysed graph is a little quicker,
    /// but of `x[batch,n] × w[16,8]` the result answers whatever `n` is, where it must refuse.
    graph: Option<InferenceModel>,
    intermediates: Intermediates,
    plans: Plans,
    run_options: RunOptions,
    tensor_bytes_max: NonZeroU64,
}

impl TractSession {
    pub(super) fn load(
        source: &ModelSource,
        options: &ModelOptions,
    ) -> Result<Self, InferenceError> {
        let OnnxFile {
            model,
            outputs,
            weight_bytes,
        } = onnx_file::read(source)?;
        let Analysed {
            graph,
            typed,
            inputs,
        } = analyse(model, options.tensor_bytes_max)?;
        let run_options = RunOptions {
            executor: Some(executor(options.threads_per_run)?),
            ..RunOptions::default()
        };
        let mut session = TractSession {
            signature: Signature {
                outputs: output_specs(outputs, typed.as_ref())?,
                inputs: inputs.specs,
            },
            dims: inputs.dims,
            graph: None,
            intermediates: typed.as_ref().map(Intermediates::of).unwrap_or_default(),
            plans: Plans::new(plans_max(options.plans_max, weight_bytes)),
            run_options,
            tensor_bytes_max: options.tensor_bytes_max,
        };
        session.signature.check_bounds(options.tensor_bytes_max)?;
        match typed {
            Some(typed) if !session.dims.has_symbols() => {
                drop(graph);
                let largest = session.intermediates.largest(&SymbolValues::default());
                let plan = session
                    .check_tensor_bytes(largest)
                    .and_then(|()| session.optimise(typed));
                session
                    .plans
                    .get_or_prepare(Sizes::new(), || plan)
                    .map_err(|failure| failure.load("tract cannot prepare the model"))?;
            }
            _ => session.graph = Some(graph),
        }
        Ok(session)
    }

    fn plan(&self, inputs: &[Tensor]) -> Result<Arc<Plan>, InferenceError> {
        let sizes = sizes_of(&self.signature, inputs);
        let plan = match self.plans.ready(&sizes) {
            Some(plan) => plan,
            None => {
                // Sizes that contradict each other or ask for too much are refused before they can
                // push a plan out of the cache.
                let values = self.dims.solve(inputs)?;
                let largest = self.intermediates.largest(&values);
                self.check_tensor_bytes(largest)
                    .map_err(|failure| InferenceError::invalid(failure.to_string()))?;
                self.plans
                    .get_or_prepare(sizes, || self.prepare(inputs, &values))
            }
        };
        // The graph was analysed when it was loaded, so the shapes are what is new.
        plan.map_err(|failure| failure.invalid("the model cannot take inputs of these shapes"))
    }

    fn prepare(&self, inputs: &[Tensor], values: &SymbolValues) -> Result<Arc<Plan>, Failure> {
        let Some(graph) = &self.graph else {
            return Err(Failure::new("the model has one plan only"));
        };
        let typed = guard(|| {
            let mut bound = graph.clone();
            bound.set_symbols(&values.to_dim_map())?;
            // Also where a dimension is an expression that could not be solved for its symbols.
            for (position, tensor) in inputs.iter().enumerate() {
                let shape = tensor.shape().iter().map(|size| TDim::from(*size as i64));
                let shape: TVec<DimFact> = shape.map(DimFact::from).collect();
                let fact = bound.input_fact(position)?.clone();
                let fact = fact.with_shape(ShapeFactoid::closed(shape));
                bound.set_input_fact(position, fact)?;
            }
            bounds::into_typed(bound, self.tensor_bytes_max)
        })?;
        let largest = Intermediates::of(&typed).largest(&SymbolValues::default());
        self.check_tensor_bytes(largest)?;
        self.optimise(typed)
    }

    fn optimise(&self, model: TypedModel) -> Result<Arc<Plan>, Failure> {
        let plan = guard(|| {
            let model = model.into_optimized()?;
            TypedSimplePlan::new_with_options(model, &self.run_options)
        })?;
        Ok(Arc::new(Plan::new(plan)))
    }

    fn estimate_of(&self, sizes: &Sizes) -> Option<Duration> {
        let plan = self.plans.ready(sizes)?.ok()?;
        plan.run_time().estimate()
    }

    fn check_tensor_bytes(&self, largest: u128) -> Result<(), Failure> {
        if largest <= u128::from(self.tensor_bytes_max.get()) {
            return Ok(());
        }
        Err(Failure::new(&format!(
            "with inputs of these shapes the model would make a tensor of {largest} bytes; \
             its bound is {}",
            self.tensor_bytes_max
        )))
    }
}

impl Session for TractSession {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn run(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, InferenceError> {
        let plan = self.plan(&inputs)?;
        let started = Instant::now();
        let mut values = TVec::with_capacity(inputs.len());
        for (spec, tensor) in self.signature.inputs.iter().zip(&inputs) {
            values.push(convert::to_tract(&spec.name, tensor)?);
        }
        let values = plan
            .run(values)
            .map_err(|failure| failure.runtime("tract failed to run the model"))?;
        let outputs = &self.signature.outputs;
        if values.len() != outputs.len() {
            return Err(InferenceError::runtime(format!(
                "tract gave {} outputs, the model declares {}",
                values.len(),
                outputs.len()
            )));
        }
        let outputs = outputs
            .iter()
            .zip(values)
            .map(|(spec, value)| convert::from_tract(&spec.name, spec.dtype, value))
            .collect();
        plan.run_time().note(started.elapsed());
        outputs
    }

    fn estimate(&self, inputs: &[Tensor]) -> Option<Duration> {
        self.estimate_of(&sizes_of(&self.signature, inputs))
    }

    fn estimate_rows(&self, inputs: &[Tensor], rows: u64) -> Option<Duration> {
        self.estimate_of(&sizes_with_rows(&self.signature, inputs, rows))
    }

    fn prepares_sizes(&self) -> bool {
        self.graph.is_some()
    }
}

/// A graph that tract can work with, and what its inputs are.
struct Analysed {
    graph: InferenceModel,
    /// The graph with its symbols, if tract can analyse it so.
    typed: Option<TypedModel>,
    inputs: NamedInputs,
}

/// Sizes tried for a model that can only be analysed with numbers, to tell a model that tract
/// cannot run from one that needs its shapes first.
const PROBES: [i64; 3] = [1, 8, 64];

fn analyse(mut graph: InferenceModel, bytes_max: NonZeroU64) -> Result<Analysed, InferenceError> {
    let mut inputs = onnx_file::name_dimensions(&mut graph, bytes_max)?;
    let mut typed = guard(|| bounds::into_typed(graph.clone(), bytes_max));
    if typed.is_err() {
        let implied = implied_numbers(&graph, bytes_max);
        if !implied.is_empty() && guard(|| graph.set_symbols(&implied)).is_ok() {
            inputs = onnx_file::name_dimensions(&mut graph, bytes_max)?;
            typed = guard(|| bounds::into_typed(graph.clone(), bytes_max));
        }
    }
    let failure = match typed {
        Ok(typed) => {
            return Ok(Analysed {
                graph,
                typed: Some(typed),
                inputs,
            });
        }
        Err(failure) => failure,
    };
    let works_with = |size: &i64| {
        let symbols = inputs.dims.symbols().into_iter();
        let values = symbols.map(|symbol| (symbol, TDim::Val(*size))).collect();
        let typed = guard(|| {
            let mut bound = graph.clone();
            bound.set_symbols(&values)?;
            bounds::into_typed(bound, bytes_max)
        });
        typed.is_ok()
    };
    if inputs.dims.has_symbols() && PROBES.iter().any(works_with) {
        tracing::debug!(%failure, "tract cannot analyse the model with symbolic dimensions");
        return Ok(Analysed {
            graph,
            typed: None,
            inputs,
        });
    }
    Err(failure.load("tract cannot analyse the model"))
}

/// The symbols that can only be one number: some exporters name every dimension, also the 16
/// features of a product with 16 rows of weights. Found by forgetting all symbols and letting tract
/// fill in what follows from the graph.
fn implied_numbers(graph: &InferenceModel, bytes_max: NonZeroU64) -> HashMap<Symbol, TDim> {
    let mut relaxed = graph.clone();
    for output in relaxed
        .nodes_mut()
        .iter_mut()
        .flat_map(|node| &mut node.outputs)
    {
        let shape = &output.fact.shape;
        let number = |dim: &DimFact| dim.concretize().filter(|dim| dim.as_i64().is_some());
        let dims = shape
            .dims()
            .map(|dim| number(dim).map_or_else(DimFact::default, DimFact::from))
            .collect();
        output.fact.shape = match shape.is_open() {
            true => ShapeFactoid::open(dims),
            false => ShapeFactoid::closed(dims),
        };
    }
    let mut implied = HashMap::new();
    if guard(|| bounds::analyse(&mut relaxed, bytes_max)).is_err() {
        return implied;
    }
    for position in 0..graph.inputs.len() {
        let (Ok(named), Ok(found)) = (graph.input_fact(position), relaxed.input_fact(position))
        else {
            continue;
        };
        for (named, found) in named.shape.dims().zip(found.shape.dims()) {
            if let (Some(TDim::Sym(symbol)), Some(found)) = (named.concretize(), found.concretize())
                && found.as_i64().is_some()
            {
                implied.insert(symbol, found);
            }
        }
    }
    implied
}

fn output_specs(
    declared: Vec<DeclaredOutput>,
    typed: Option<&TypedModel>,
) -> Result<Vec<TensorSpec>, InferenceError> {
    let specs = declared.into_iter().enumerate().map(|(position, output)| {
        let inferred = typed.and_then(|model| model.output_fact(position).ok());
        let dtype = output
            .dtype
            .or_else(|| convert::dtype_of(inferred?.datum_type));
        let shape = output.shape.or_else(|| {
            let dims = inferred?.shape.dims();
            Some(dims.iter().map(convert::dim_of).collect())
        });
        let (Some(dtype), Some(shape)) = (dtype, shape) else {
            return Err(InferenceError::unsupported(format!(
                "output {:?} declares no datatype or no number of dimensions, and tract cannot \
                 find them out; export the model with output shapes, dynamic ones with a name",
                output.name
            )));
        };
        Ok(TensorSpec {
            name: output.name,
            dtype,
            shape,
        })
    });
    specs.collect()
}

/// The sizes of what a graph computes, to know them before it does. Weights do not count: they are
/// there already.
#[derive(Default)]
struct Intermediates {
    /// Bytes of an element, and the dimensions.
    tensors: HashSet<(usize, TVec<TDim>)>,
}

impl Intermediates {
    fn of(model: &TypedModel) -> Self {
        let outputs = model.nodes().iter().flat_map(|node| &node.outputs);
        let computed = outputs.filter(|output| output.fact.konst.is_none());
        let tensors = computed.map(|output| {
            let fact = &output.fact;
            (fact.datum_type.size_of(), fact.shape.to_tvec())
        });
        Intermediates {
            tensors: tensors.collect(),
        }
    }

    /// Bytes of the largest tensor, as far as the values determine it.
    fn largest(&self, values: &SymbolValues) -> u128 {
        let bytes = self.tensors.iter().filter_map(|(element, dims)| {
            let element = Some(*element as u128);
            dims.iter().fold(element, |bytes, dim| {
                let size = dim.eval(values).as_i64()?;
                bytes?.checked_mul(u128::try_from(size).ok()?)
            })
        });
        bytes.max().unwrap_or(0)
    }
}

/// Weights of all plans of a model together. A plan copies them, so of a large model only a few
/// can stay.
const PLANS_BYTES_MAX: u64 = 1 << 30;

fn plans_max(asked: NonZeroUsize, weight_bytes: u64) -> NonZeroUsize {
    let fitting = PLANS_BYTES_MAX / weight_bytes.max(1);
    let fitting = usize::try_from(fitting).unwrap_or(usize::MAX).max(2);
    NonZeroUsize::new(fitting).map_or(asked, |fitting| fitting.min(asked))
}

/// One pool for each number of threads that models ask for, however many models do.
fn executor(threads: NonZeroUsize) -> Result<Executor, InferenceError> {
    static POOLS: Mutex<Vec<(NonZeroUsize, Executor)>> = Mutex::new(Vec::new());

    if threads == NonZeroUsize::MIN {
        return Ok(Executor::SingleThread);
    }
    let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, pool)) = pools.iter().find(|(count, _)| *count == threads) {
        return Ok(pool.clone());
    }
    let pool = guard(|| Ok(Executor::multithread_with_name(threads.get(), "tract")))
        .map_err(|failure| failure.runtime("threads for tract cannot be started"))?;
    pools.push((threads, pool.clone()));
    Ok(pool)
}
