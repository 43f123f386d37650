//! The host's side of `guest-sdk/wit`, generated.
//!
//! The world with the tensor export is the larger one; which exports a component has is looked up one
//! by one. Arguments of exports are borrowed, so that a request's body goes from the buffer it was
//! read into straight to the guest's memory.

mod generated {
    wasmtime::component::bindgen!({
        path: "../../guest-sdk/wit",
        world: "tensor-predictor",
        ownership: Borrowing { duplicate_if_necessary: true },
        imports: {
            "wasi:nn/graph.load": async | trappable,
            "dunlin:predictor/streaming.[method]body-writer.write": async | trappable,
            "wasi:nn/inference.[method]graph-execution-context.compute": async | trappable,
            default: trappable,
        },
        exports: { default: async },
        with: {
            "dunlin:predictor/streaming.body-writer": crate::streaming::GuestWriter,
            "wasi:nn/tensor.tensor": crate::wasi_nn::GuestTensor,
            "wasi:nn/graph.graph": crate::wasi_nn::GuestGraph,
            "wasi:nn/inference.graph-execution-context": crate::wasi_nn::GuestContext,
            "wasi:nn/errors.error": crate::wasi_nn::GuestError,
        },
    });
}

pub(crate) use generated::TensorPredictor as World;
pub(crate) use generated::dunlin::predictor::{clock, logging, metrics, random, streaming, types};
pub(crate) use generated::exports::dunlin::predictor::{handler, tensor_handler};
pub(crate) use generated::wasi::nn;
