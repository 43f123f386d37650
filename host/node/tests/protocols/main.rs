//! Whatever is asked, in whatever form, over HTTP and over gRPC: the answer is that of the engine when
//! it is called directly.

#![expect(clippy::unwrap_used, reason = "a test ends with a panic")]

use std::{io::Read as _, path::Path, sync::LazyLock};

use dunlin_inference::{
    BackendKind, Backends, DType, LoadRequest, Model, ModelOptions, ModelSource, NamedTensors,
    Registry, Tensor,
};
use flate2::{
    Compression,
    read::{GzDecoder, GzEncoder, ZlibDecoder, ZlibEncoder},
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use proptest::{prelude::*, sample::Index};
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

mod tensors;

#[expect(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::enum_variant_names,
    unreachable_pub,
    unused_qualifications,
    reason = "generated"
)]
mod proto {
    tonic::include_proto!("inference");
}

use proto::{
    ModelInferRequest,
    grpc_inference_service_client::GrpcInferenceServiceClient,
    model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
};
use tensors::{contents, element, elements, nested, parsed, same};

/// Of `host/inference/tests/models`: every type of numbers, and several inputs and outputs at once.
const MODELS: [&str; 13] = [
    "identity_bool",
    "identity_u8",
    "identity_u16",
    "identity_u32",
    "identity_u64",
    "identity_i8",
    "identity_i16",
    "identity_i32",
    "identity_i64",
    "identity_f16",
    "identity_f32",
    "identity_f64",
    "several",
];

struct World {
    runtime: Runtime,
    http: reqwest::Client,
    url: String,
    grpc: GrpcInferenceServiceClient<Client<HttpConnector, tonic::body::Body>>,
    engines: Vec<Model>,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let runtime = Runtime::new().unwrap();
    let (url, grpc, engines) = runtime.block_on(async {
        let ready = start().await;
        deploy(&ready).await;
        let grpc = Client::builder(TokioExecutor::new())
            .http2_only(true)
            .build_http();
        let origin = format!("http://{}", ready.grpc.unwrap()).parse().unwrap();
        let grpc = GrpcInferenceServiceClient::with_origin(grpc, origin);
        let registry = Registry::new(Backends::default());
        let mut engines = Vec::new();
        for name in MODELS {
            engines.push(registry.get_or_load(load_request(name)).await.unwrap());
        }
        (format!("http://{}", ready.data), grpc, engines)
    });
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    World {
        runtime,
        http,
        url,
        grpc,
        engines,
    }
});

fn models() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../inference/tests/models")
}

fn load_request(name: &str) -> LoadRequest {
    LoadRequest {
        digest: name.to_owned(),
        source: ModelSource::path(models().join(format!("{name}.onnx"))),
        backend: BackendKind::Tract,
        options: ModelOptions::default(),
        golden: None,
    }
}

/// A node in this process, on a folder that stays until the system clears it.
async fn start() -> dunlin_node::Ready {
    let yaml = "data: {listen: '127.0.0.1:0'}\ngrpc: {listen: '127.0.0.1:0'}\nadmin: {listen: '127.0.0.1:0'}\n";
    let config = edge_config::Node::parse(yaml, "node.yaml").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (sender, receiver) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let on_ready = |ready: &dunlin_node::Ready| drop(sender.send(ready.clone()));
        let log = dunlin_node::Log::start(&config.log, false).unwrap();
        let run = dunlin_node::run(config, folder.path().to_owned(), None, log, on_ready);
        run.await.unwrap();
    });
    receiver.await.unwrap()
}

async fn deploy(ready: &dunlin_node::Ready) {
    let models_of = MODELS
        .map(|name| json!({ "name": name, "path": format!("{name}.onnx"), "backend": "tract" }));
    let yaml = json!({ "name": "all", "predictor": { "models": models_of } }).to_string();
    let source = dunlin_package::Source {
        yaml: &yaml,
        origin: "dunlin.yaml",
        base: &models(),
        predictor: None,
    };
    let mut package = Vec::new();
    dunlin_package::write(&source, &mut package).unwrap();
    let token = std::fs::read_to_string(&ready.token_file).unwrap();
    let answer = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = answer
        .post(format!("http://{}/v1/deployments", ready.admin))
        .bearer_auth(token.trim())
        .body(package)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
}

/// One request, before it has any form.
#[derive(Debug, Clone)]
struct Asked {
    model: Index,
    rows: u64,
    seed: Vec<u64>,
    /// For each input and each output, whether it is bytes.
    binary: Vec<bool>,
    all_binary: Option<bool>,
    nested: bool,
    /// Some of the outputs, in another order; none for all.
    outputs: Vec<Index>,
    sent: Encoding,
    accepted: Encoding,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Identity,
    Gzip,
    Deflate,
}

impl Encoding {
    fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }

    fn of(name: &str) -> Self {
        match name {
            "gzip" => Self::Gzip,
            "deflate" => Self::Deflate,
            _ => Self::Identity,
        }
    }

    fn encode(self, bytes: &[u8]) -> Vec<u8> {
        let mut encoded = Vec::new();
        let level = Compression::default();
        match self {
            Self::Identity => encoded.extend_from_slice(bytes),
            Self::Gzip => drop(
                GzEncoder::new(bytes, level)
                    .read_to_end(&mut encoded)
                    .unwrap(),
            ),
            Self::Deflate => drop(
                ZlibEncoder::new(bytes, level)
                    .read_to_end(&mut encoded)
                    .unwrap(),
            ),
        }
        encoded
    }

    fn decode(self, bytes: &[u8]) -> Vec<u8> {
        let mut decoded = Vec::new();
        match self {
            Self::Identity => decoded.extend_from_slice(bytes),
            Self::Gzip => drop(GzDecoder::new(bytes).read_to_end(&mut decoded).unwrap()),
            Self::Deflate => drop(ZlibDecoder::new(bytes).read_to_end(&mut decoded).unwrap()),
        }
        decoded
    }
}

fn asked() -> impl Strategy<Value = Asked> {
    let encoding = || {
        prop_oneof![
            Just(Encoding::Identity),
            Just(Encoding::Gzip),
            Just(Encoding::Deflate)
        ]
    };
    let each = (
        any::<Index>(),
        0..40_u64,
        prop::collection::vec(any::<u64>(), 1..20),
    );
    let form = (
        prop::collection::vec(any::<bool>(), 6),
        any::<Option<bool>>(),
        any::<bool>(),
        prop::collection::vec(any::<Index>(), 0..3),
    );
    (each, form, encoding(), encoding()).prop_map(
        |((model, rows, seed), (binary, all_binary, nested, outputs), sent, accepted)| Asked {
            model,
            rows,
            seed,
            binary,
            all_binary,
            nested,
            outputs,
            sent,
            accepted,
        },
    )
}

impl Asked {
    fn inputs(&self, model: &Model) -> NamedTensors {
        let inputs = model.signature().inputs.iter().enumerate();
        let tensors = inputs.map(|(position, spec)| {
            let shape = spec.shape_with(self.rows);
            let count = shape.iter().product::<u64>() as usize;
            let seeds = self.seed.iter().cycle().skip(position);
            let seeds = seeds
                .enumerate()
                .map(|(at, seed)| seed.rotate_left(at as u32 * 7));
            let mut data = Vec::new();
            for seed in seeds.take(count) {
                element(spec.dtype, seed, &mut data);
            }
            (
                spec.name.clone(),
                Tensor::new(spec.dtype, &shape, data).unwrap(),
            )
        });
        tensors.collect()
    }

    /// The names that are asked for, each once; empty for all.
    fn wanted(&self, model: &Model) -> Vec<String> {
        let outputs = &model.signature().outputs;
        let mut names: Vec<String> = Vec::new();
        for index in &self.outputs {
            let name = &index.get(outputs).name;
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }
}

impl World {
    async fn over_http(
        &self,
        asked: &Asked,
        name: &str,
        inputs: &NamedTensors,
        wanted: &[String],
    ) -> NamedTensors {
        let (mut described, mut tail) = (Vec::new(), Vec::new());
        for (position, (input, tensor)) in inputs.iter().enumerate() {
            let mut document = json!({
                "name": input, "datatype": tensor.dtype().name(), "shape": tensor.shape(),
            });
            if asked.binary[position] {
                document["parameters"] = json!({ "binary_data_size": tensor.data().len() });
                tail.extend_from_slice(tensor.data());
            } else if asked.nested {
                document["data"] = nested(&elements(tensor), tensor.shape());
            } else {
                document["data"] = json!(elements(tensor));
            }
            described.push(document);
        }
        let mut head = json!({ "inputs": described, "parameters": null });
        if let Some(all) = asked.all_binary {
            head["parameters"] = json!({ "binary_data_output": all });
        }
        let outputs = wanted.iter().enumerate().map(|(position, output)| {
            let binary = asked.binary[3 + position];
            json!({ "name": output, "parameters": { "binary_data": binary } })
        });
        if !wanted.is_empty() {
            head["outputs"] = outputs.collect();
        }
        let head = head.to_string();
        let body = [head.as_bytes(), &tail].concat();
        let answer = self
            .http
            .post(format!("{}/v2/models/all.{name}/infer", self.url))
            .header("inference-header-content-length", head.len())
            .header("content-encoding", asked.sent.name())
            .header("accept-encoding", asked.accepted.name())
            .body(asked.sent.encode(&body))
            .send()
            .await
            .unwrap();
        let status = answer.status();
        let header = |name: &str| {
            let value = answer.headers().get(name);
            value.map(|value| value.to_str().unwrap().to_owned())
        };
        let length = header("inference-header-content-length");
        let encoding = Encoding::of(&header("content-encoding").unwrap_or_default());
        let body = encoding.decode(&answer.bytes().await.unwrap());
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        let length = length.map_or(body.len(), |length| length.parse().unwrap());
        let (head, mut tail) = body.split_at(length);
        let head: Map<String, Value> = serde_json::from_slice(head).unwrap();
        let outputs = head["outputs"].as_array().unwrap().iter().map(|output| {
            let dtype = DType::from_name(output["datatype"].as_str().unwrap()).unwrap();
            let shape = output["shape"].as_array().unwrap().iter();
            let shape: Vec<u64> = shape.map(|size| size.as_u64().unwrap()).collect();
            let tensor = match output["parameters"]["binary_data_size"].as_u64() {
                Some(size) => {
                    let data;
                    (data, tail) = tail.split_at(size as usize);
                    Tensor::new(dtype, &shape, data.to_vec()).unwrap()
                }
                None => parsed(dtype, &shape, &output["data"]),
            };
            (output["name"].as_str().unwrap().to_owned(), tensor)
        });
        let outputs = outputs.collect();
        assert!(tail.is_empty());
        outputs
    }

    async fn over_grpc(
        &self,
        asked: &Asked,
        name: &str,
        inputs: &NamedTensors,
        wanted: &[String],
    ) -> NamedTensors {
        let has_contents = |tensor: &Tensor| !matches!(tensor.dtype(), DType::F16 | DType::BF16);
        let raw = asked.binary[0] || !inputs.iter().all(|(_, tensor)| has_contents(tensor));
        let mut request = ModelInferRequest {
            model_name: format!("all.{name}"),
            outputs: wanted
                .iter()
                .map(|name| InferRequestedOutputTensor {
                    name: name.clone(),
                    ..InferRequestedOutputTensor::default()
                })
                .collect(),
            ..ModelInferRequest::default()
        };
        for (name, tensor) in inputs {
            request.inputs.push(InferInputTensor {
                name: name.clone(),
                datatype: tensor.dtype().name().to_owned(),
                shape: tensor.shape().iter().map(|size| *size as i64).collect(),
                contents: (!raw).then(|| contents(tensor)),
                ..InferInputTensor::default()
            });
            if raw {
                request.raw_input_contents.push(tensor.data().clone());
            }
        }
        let answer = self
            .grpc
            .clone()
            .model_infer(request)
            .await
            .unwrap()
            .into_inner();
        let outputs = answer.outputs.into_iter().zip(answer.raw_output_contents);
        let tensors = outputs.map(|(output, data)| {
            let dtype = DType::from_name(&output.datatype).unwrap();
            let shape: Vec<u64> = output.shape.iter().map(|size| *size as u64).collect();
            (output.name, Tensor::new(dtype, &shape, data).unwrap())
        });
        tensors.collect()
    }
}

#[test]
fn a_timeout_of_the_transport_shortens_the_deadline() {
    let world = &*WORLD;
    let mut request = tonic::Request::new(ModelInferRequest {
        model_name: "all.several".to_owned(),
        ..ModelInferRequest::default()
    });
    let timeout = "1n".parse().unwrap();
    request.metadata_mut().insert("grpc-timeout", timeout);
    let mut client = world.grpc.clone();
    let late = world
        .runtime
        .block_on(client.model_infer(request))
        .unwrap_err();
    assert_eq!(late.code(), tonic::Code::DeadlineExceeded, "{late}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_form_of_a_question_has_the_engines_answer(asked in asked()) {
        let world = &*WORLD;
        let at = asked.model.index(MODELS.len());
        let (name, engine) = (MODELS[at], &world.engines[at]);
        let inputs = asked.inputs(engine);
        let wanted = asked.wanted(engine);
        let mut expected = engine.infer_blocking(inputs.clone()).unwrap();
        if !wanted.is_empty() {
            let find = |name: &String| {
                expected.iter().find(|(output, _)| output == name).unwrap().clone()
            };
            expected = wanted.iter().map(find).collect();
        }
        let (by_http, by_grpc) = world.runtime.block_on(async {
            tokio::join!(
                world.over_http(&asked, name, &inputs, &wanted),
                world.over_grpc(&asked, name, &inputs, &wanted),
            )
        });
        prop_assert!(same(&by_http, &expected), "{by_http:?} is not {expected:?}");
        prop_assert_eq!(&by_grpc, &expected);
    }
}
