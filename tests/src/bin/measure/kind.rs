//! Who takes part.

use serde::{Serialize, Serializer};

/// A server, by what it is made of and how it is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// hyper, the answer a constant.
    Hello,
    /// hyper, the question of digits parsed by `serde_json`.
    ParseJson,
    /// hyper, `serde_json` and the node's engine, in one function and without Wasm.
    Native,
    /// The node: HTTP, sandbox, guest, model.
    Dunlin(Setup),
    FastApi {
        workers: usize,
    },
    /// The same program, its handler a `def` that runs in the pool of threads.
    FastApiInPool,
    LitServe {
        workers: usize,
    },
    BentoMl {
        workers: usize,
    },
    MlServer {
        workers: usize,
    },
    /// A component that parses the question of digits.
    WasmtimeServe(Reuse),
}

/// A deployment of the same predictor and model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setup {
    /// As it is shipped: calls that wait share runs.
    OnnxRuntime,
    Tract,
    /// ONNX Runtime, and each call is a run.
    Unbatched,
    /// ONNX Runtime, and a new instance for each request.
    Fresh,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reuse {
    Warm,
    Fresh,
}

impl Kind {
    pub(crate) fn name(self) -> String {
        let workers = |name: &str, workers| match workers {
            1 => format!("{name}, 1 worker"),
            more => format!("{name}, {more} workers"),
        };
        match self {
            Kind::Hello => "hyper, \"hello\"".to_owned(),
            Kind::ParseJson => "hyper + serde_json".to_owned(),
            Kind::Native => "hyper + serde_json + ONNX Runtime, no Wasm".to_owned(),
            Kind::Dunlin(Setup::OnnxRuntime) => "Dunlin, ONNX Runtime".to_owned(),
            Kind::Dunlin(Setup::Tract) => "Dunlin, tract".to_owned(),
            Kind::Dunlin(Setup::Unbatched) => "Dunlin, ONNX Runtime, without batching".to_owned(),
            Kind::Dunlin(Setup::Fresh) => "Dunlin, ONNX Runtime, fresh instances".to_owned(),
            Kind::FastApi { workers: count } => workers("FastAPI", count),
            Kind::FastApiInPool => "FastAPI, 1 worker, handler in its pool".to_owned(),
            Kind::LitServe { workers: count } => workers("LitServe", count),
            Kind::BentoMl { workers: count } => workers("BentoML", count),
            Kind::MlServer { workers: count } => workers("MLServer", count),
            Kind::WasmtimeServe(Reuse::Warm) => "wasmtime serve, instances reused".to_owned(),
            Kind::WasmtimeServe(Reuse::Fresh) => "wasmtime serve, fresh instances".to_owned(),
        }
    }

    /// Whether it answers with what the model says.
    pub(crate) fn infers(self) -> bool {
        !matches!(self, Kind::Hello | Kind::ParseJson | Kind::WasmtimeServe(_))
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.name())
    }
}
