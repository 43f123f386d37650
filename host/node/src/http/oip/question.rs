//! One inference, however it was asked for: the question is checked, answered within its deadline,
//! and the answer is made of the outputs that were wanted.

use std::{num::NonZeroU64, pin::pin, sync::Arc, time::Duration};

use dunlin_inference::{NamedTensors, Signature};
use dunlin_sandbox::Deadline;
use tokio::time::Instant;

use super::{address::Addressed, classification};
use crate::{
    deployment::TensorTarget,
    http::{data::Exchange, failure::Failure, predict},
    node::Node,
    traces::{PredictorCall, Trace},
};

/// A request's tensors, and what it wants of the answer.
#[derive(Debug, Default)]
pub(crate) struct Question {
    pub(crate) inputs: NamedTensors,
    /// Empty: all, in the model's order.
    pub(crate) outputs: Vec<Wanted>,
    pub(crate) parameters: Parameters,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) name: String,
    /// Instead of the tensor its so many greatest elements, with their indices.
    pub(crate) classes: Option<NonZeroU64>,
}

/// Of a request's parameters those that mean something to any transport.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Parameters {
    /// From Triton, in microseconds: an answer that comes later is of no use.
    pub(crate) timeout: Option<Duration>,
    /// Requests that belong together.
    pub(crate) in_sequence: bool,
}

/// Whom a question is for, and until when.
pub(crate) struct Asked<'a> {
    pub(crate) node: &'a Node,
    pub(crate) model: &'a Addressed,
    pub(crate) target: TensorTarget<'a>,
    pub(crate) request_id: &'a str,
    pub(crate) trace: Option<&'a Arc<Trace>>,
    pub(crate) started: std::time::Instant,
    pub(crate) deadline: Deadline,
}

impl<'a> Asked<'a> {
    /// As a request over HTTP asks.
    pub(crate) fn by(
        exchange: &'a Exchange,
        model: &'a Addressed,
        target: TensorTarget<'a>,
        deadline: Deadline,
    ) -> Self {
        Self {
            node: &exchange.node,
            model,
            target,
            request_id: &exchange.id,
            trace: exchange.trace(),
            started: exchange.started,
            deadline,
        }
    }

    fn failed(&self) {
        let stats = match &self.target {
            TensorTarget::Predictor(..) => &self.model.deployment.figures.tensors,
            TensorTarget::Model(model) => &**model.stats(),
        };
        stats.failed(self.started.elapsed());
    }
}

impl Question {
    /// The outputs that were wanted, in the order in which they were.
    pub(crate) async fn answer(self, asked: Asked<'_>) -> Result<NamedTensors, Failure> {
        let Asked { model, target, .. } = &asked;
        let signature = target.signature();
        let deadline = self.parameters.shorten(&asked);
        let in_time = || match Instant::now() < deadline.at() {
            true => Ok(()),
            false => Err(predict::late()),
        };
        // What does not get as far as the model fails, too.
        self.check(signature)
            .and_then(|()| in_time())
            .inspect_err(|_| asked.failed())?;
        let run = run(&asked, self.inputs, deadline);
        let share = &model.revision()?.share;
        let outputs = asked.node.turns.share(share, pin!(run)).await?;
        if let Some(predictions) = model.deployment.figures.predictions() {
            predict::monitor_tensors(predictions, &outputs);
        }
        choose(self.outputs, outputs, signature)
    }

    fn check(&self, signature: &Signature) -> Result<(), Failure> {
        if self.parameters.in_sequence {
            return Err(Failure::bad_request(
                "sequence_id: this node keeps no state from one request to the next; send each \
                 request by itself",
            ));
        }
        for (index, Wanted { name, classes }) in self.outputs.iter().enumerate() {
            let Some(spec) = signature.outputs.iter().find(|output| output.name == *name) else {
                let known: Vec<&str> = signature.outputs.iter().map(|o| &*o.name).collect();
                return Err(Failure::bad_request(format!(
                    "unexpected inference output '{name}'; the model has {}",
                    known.join(", ")
                )));
            };
            if self.outputs[..index]
                .iter()
                .any(|other| other.name == *name)
            {
                return Err(Failure::bad_request(format!(
                    "output '{name}' is asked for twice"
                )));
            }
            if classes.is_some() && !classification::has_order(spec.dtype) {
                return Err(Failure::bad_request(format!(
                    "output '{name}' is {}, which has no greatest elements; ask for it without \
                     classification",
                    spec.dtype
                )));
            }
        }
        Ok(())
    }
}

async fn run(
    asked: &Asked<'_>,
    inputs: NamedTensors,
    deadline: Deadline,
) -> Result<NamedTensors, Failure> {
    match &asked.target {
        TensorTarget::Predictor(predictor, signature) => {
            // A guest gets what it has said it takes, as a model does.
            let names = signature.inputs.iter().map(|spec| spec.name.clone());
            let ordered = signature.order_inputs(inputs)?;
            let inputs: NamedTensors = names.zip(ordered).collect();
            let figures = &asked.model.deployment.figures;
            let began = Instant::now();
            let traced = asked.trace.map(PredictorCall::begin);
            let runs = traced.as_ref().map(PredictorCall::runs);
            let called = predictor.infer(asked.request_id, &inputs, deadline, runs);
            let called = called.await;
            figures.called(&called.times);
            if let Some(traced) = traced {
                traced.end(&called.times);
            }
            match called.answer {
                Ok(_) => {
                    let waited = called.times.instance_wait;
                    figures
                        .tensors
                        .answered(waited, began.elapsed().saturating_sub(waited));
                }
                Err(_) => figures.tensors.failed(began.elapsed()),
            }
            Ok(called.answer?)
        }
        TensorTarget::Model(model) => predict::run(model, inputs, deadline, asked.trace).await,
    }
}

impl Parameters {
    fn shorten(&self, asked: &Asked<'_>) -> Deadline {
        let left = asked
            .deadline
            .at()
            .saturating_duration_since(Instant::now());
        let timeout = self.timeout;
        match timeout.map(|timeout| timeout.saturating_sub(asked.started.elapsed())) {
            Some(timeout) if timeout < left => Deadline::after(timeout),
            _ => asked.deadline,
        }
    }
}

fn choose(
    wanted: Vec<Wanted>,
    mut outputs: NamedTensors,
    signature: &Signature,
) -> Result<NamedTensors, Failure> {
    if wanted.is_empty() {
        return Ok(outputs);
    }
    let chosen = wanted.into_iter().map(|Wanted { name, classes }| {
        let Some(at) = outputs.iter().position(|(output, _)| *output == name) else {
            return Err(Failure::internal(
                "the predictor failed",
                format!("its infer did not return the output {name:?} that it describes"),
            ));
        };
        let (name, tensor) = outputs.swap_remove(at);
        match classes {
            Some(classes) => {
                let top = classification::top(&tensor, classes, signature.is_batched());
                Ok((name, top?))
            }
            None => Ok((name, tensor)),
        }
    });
    chosen.collect()
}
