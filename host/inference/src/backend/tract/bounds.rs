//! tract's analysis of a graph, with a bound on what it computes meanwhile.
//!
//! The analysis runs every operator whose inputs are all known, and looks at the size of what came
//! out afterwards: of a file of a hundred bytes, a `ConstantOfShape` or a `Tile` could take all
//! memory of the node. So the graph is analysed here first, where such an operator must say how
//! large its outputs will be, and tract finds nothing left to run.

use std::collections::HashSet;
use std::num::NonZeroU64;

use tract_onnx::prelude::{
    DatumType, InferenceFact, InferenceModel, InferenceModelExt, OutletId, TVec, TractError,
    TractResult, TypedModel,
};
use tract_onnx::tract_hir::infer::Factoid;

/// As [`InferenceModelExt::into_typed`].
pub(super) fn into_typed(
    mut graph: InferenceModel,
    bytes_max: NonZeroU64,
) -> TractResult<TypedModel> {
    analyse(&mut graph, bytes_max)?;
    graph.into_typed()
}

/// Finds out what can be known of the graph's tensors: the nodes one after the other, and again
/// until nothing new comes of it.
pub(super) fn analyse(graph: &mut InferenceModel, bytes_max: NonZeroU64) -> TractResult<()> {
    let mut order = graph.eval_order()?;
    // tract analyses also what no output needs.
    let needed: HashSet<usize> = order.iter().copied().collect();
    order.extend((0..graph.nodes().len()).filter(|node| !needed.contains(node)));
    loop {
        let mut changed = false;
        for &node in &order {
            changed |= analyse_one(graph, node, bytes_max)?;
        }
        if !changed {
            return graph.analyse(false).map(drop);
        }
    }
}

/// Whether something new came of it.
fn analyse_one(
    graph: &mut InferenceModel,
    node: usize,
    bytes_max: NonZeroU64,
) -> TractResult<bool> {
    let mut operator = graph.node(node).op.clone();
    let inputs = graph.node(node).inputs.clone();
    let outputs = (0..graph.node(node).outputs.len()).map(|slot| OutletId::new(node, slot));
    let outputs: TVec<OutletId> = outputs.collect();
    let observed = operator.observe_outlets(graph, graph.node(node))?;
    let facts = |outlets: &[OutletId]| -> TractResult<TVec<InferenceFact>> {
        let facts = outlets.iter().map(|outlet| graph.outlet_fact(*outlet));
        facts.map(|fact| fact.cloned()).collect()
    };
    let (of_inputs, of_outputs) = (facts(&inputs)?, facts(&outputs)?);
    let of_observed = facts(&observed)?;
    let known = |fact: &InferenceFact| fact.value.is_concrete();
    if !of_inputs.is_empty() && of_inputs.iter().all(known) {
        let (_, sized, _) = operator.infer_facts(
            of_inputs.iter().collect(),
            of_outputs.iter().collect(),
            of_observed.iter().collect(),
        )?;
        if let Some(bytes) = sized.iter().filter_map(bytes).max()
            && bytes > u128::from(bytes_max.get())
        {
            return Err(TractError::msg(format!(
                "{} would make a tensor of {bytes} bytes; its bound is {bytes_max}",
                graph.node(node)
            )));
        }
    }
    let (of_inputs, of_outputs, of_observed) = graph.node_mut(node).op.infer(
        of_inputs.iter().collect(),
        of_outputs.iter().collect(),
        of_observed.iter().collect(),
    )?;
    let found = inputs.iter().zip(of_inputs);
    let found = found.chain(outputs.iter().zip(of_outputs));
    let mut changed = false;
    for (outlet, fact) in found.chain(observed.iter().zip(of_observed)) {
        let before = graph.outlet_fact(*outlet)?;
        let unified = before.unify(&fact)?;
        if unified != *before {
            graph.set_outlet_fact(*outlet, unified)?;
            changed = true;
        }
    }
    Ok(changed)
}

/// None where the shape is not known yet.
fn bytes(fact: &InferenceFact) -> Option<u128> {
    let element = fact.datum_type.concretize().unwrap_or(DatumType::F64);
    let sizes = fact.shape.as_concrete_finite().ok()??;
    let sizes = sizes.iter().map(|size| *size as u128);
    Some(sizes.fold(element.size_of() as u128, u128::saturating_mul))
}
