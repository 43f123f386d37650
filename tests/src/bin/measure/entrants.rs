//! The contests: which servers answer which questions.

use std::{
    env, fs, iter,
    path::{Path, PathBuf},
    process::Command,
    rc::Rc,
    thread,
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use dunlin_tests::Variant;
use http::Method;
use serde_json::{Value, json};

use crate::{
    client::{Client, Question},
    contest::{self, Contest, Entrant, Idle, Limit, Missing},
    in_process::{self, Example},
    kind::{Kind, Reuse, Setup},
    load::Generator,
    node::{self, Engines, ms},
    overhead,
    plan::{Plan, Servers},
    python_servers,
    server::Server,
    spread::Spread,
    wasmtime_serve,
    workload::{Check, Form, Road, Workload},
};

/// The folder that `tests/python/reference_encoder.py` and `predictors/resnet/export.py` wrote.
const MODELS: &str = "DUNLIN_REFERENCE_MODELS";
/// An interpreter with onnxruntime.
const PYTHON: &str = "DUNLIN_BENCH_PYTHON";

/// What every contest needs.
pub(crate) struct Arena<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) client: &'a Client,
    pub(crate) generator: &'a Generator,
    /// For logs and for nodes' data.
    pub(crate) home: &'a Path,
    pub(crate) cores: usize,
}

/// The models that PyTorch writes, and a Python with ONNX Runtime.
#[derive(Clone, Debug)]
pub(crate) struct References {
    models: PathBuf,
    python: PathBuf,
}

#[derive(Default)]
struct Field {
    entrants: Vec<Entrant>,
    idle: Vec<Idle>,
    missing: Vec<Missing>,
}

impl References {
    /// None without `--with lightning`.
    pub(crate) fn find() -> Option<Self> {
        Some(Self {
            models: env::var_os(MODELS)?.into(),
            python: env::var_os(PYTHON)?.into(),
        })
    }

    /// The forward predictor with the model.
    pub(crate) fn package(&self, workload: Workload, workers: usize) -> Result<Variant> {
        self.package_as(workload, &forward(workload, workers)?)
    }

    /// The same with another deployment file.
    pub(crate) fn package_as(&self, workload: Workload, deployment: &Value) -> Result<Variant> {
        let file = workload.model(&self.models);
        ensure!(
            file.is_file(),
            "{} is missing; cargo xtask bench --with lightning makes it",
            file.display()
        );
        let deployment = deployment.to_string();
        Ok(Variant::of_folder("forward", |folder| {
            let model = folder.join("models/model.onnx");
            fs::copy(file, model).expect("the folder is the test's");
            fs::write(folder.join("dunlin.yaml"), deployment).expect("the folder is the test's");
        }))
    }
}

pub(crate) fn digits(arena: &Arena<'_>, infer_time: &Example) -> Result<Contest> {
    println!("\ndigits: {} servers and more", Kind::ParseJson.name());
    let workload = Workload::Digits;
    let mut field = Field::default();
    arena.yardsticks(&mut field)?;
    arena.native_digits(&mut field)?;
    arena.dunlin_digits(&mut field)?;
    let in_pool = iter::once(Kind::FastApiInPool);
    for kind in arena.python_kinds().into_iter().chain(in_pool) {
        arena.python(
            kind,
            workload,
            &workload.model(Path::new("")),
            &[],
            &mut field,
        )?;
    }
    for reuse in [Reuse::Warm, Reuse::Fresh] {
        arena.wasmtime(reuse, &mut field)?;
    }
    let model = workload.model(Path::new(""));
    let limit = |name, backend: &'static str| Limit {
        name,
        call: Box::new({
            let model = model.clone();
            move |duration| in_process::calls(infer_time, &model, duration, backend)
        }),
    };
    let mut limits = vec![limit("tract, one thread", "tract")];
    if has_onnxruntime() {
        limits.insert(0, limit("ONNX Runtime, one thread", "onnxruntime"));
    }
    let connections = arena.plan.digits_connections;
    arena.contest(workload, field, connections, &limits)
}

/// The first numbers of the right answer.
pub(crate) fn numbers(
    arena: &Arena<'_>,
    workload: Workload,
    references: &References,
) -> Result<Vec<f64>> {
    let tensors = workload.tensors().context("digits is no such model")?;
    let input = arena.home.join(workload.name()).with_extension("input");
    fs::write(&input, tensors.input.bytes())?;
    let file = workload.model(&references.models);
    let python = &references.python;
    let binding = in_process::binding(python, &file, &input, 1, arena.plan.warm_up)?;
    Ok(binding.output)
}

pub(crate) fn model(
    arena: &Arena<'_>,
    workload: Workload,
    references: &References,
) -> Result<Contest> {
    println!("\n{}", workload.name());
    let numbers = numbers(arena, workload, references)?;
    // Where `numbers` wrote it.
    let input = arena.home.join(workload.name()).with_extension("input");
    let file = workload.model(&references.models);
    let binding =
        |duration| in_process::binding(&references.python, &file, &input, arena.cores, duration);
    let mut field = Field::default();
    let home = arena.home.join(format!("node-{}", workload.name()));
    fs::create_dir(&home)?;
    let node = node::start(&home, Engines::Installed)?;
    let package = references.package(workload, arena.cores)?;
    node::upload(arena.client, &node, package.bytes())?;
    let path = format!("/v2/models/{}/infer", workload.name());
    let few = arena.plan.model_servers == Servers::Few;
    let node = Rc::new(node);
    for road in [Road::Binary, Road::Json] {
        if few && road == Road::Json {
            continue;
        }
        field.entrants.push(Entrant {
            kind: Kind::Dunlin(Setup::OnnxRuntime),
            road,
            server: Rc::clone(&node),
            question: match road {
                Road::Binary => workload.protocol_binary(&path)?,
                Road::Json => workload.json(&path, Form::Protocol)?,
            },
            check: workload.check(road, &numbers)?,
        });
    }
    for kind in arena.python_kinds() {
        if few && kind != (Kind::FastApi { workers: 1 }) {
            continue;
        }
        arena.python(kind, workload, &file, &numbers, &mut field)?;
    }
    let limits = [Limit {
        name: "ONNX Runtime",
        call: Box::new(move |duration| Ok(binding(duration)?.answers)),
    }];
    arena.contest(workload, field, arena.plan.model_connections, &limits)
}

impl Arena<'_> {
    fn contest(
        &self,
        workload: Workload,
        mut field: Field,
        connections: &[usize],
        limits: &[Limit<'_>],
    ) -> Result<Contest> {
        let plan = match workload {
            Workload::Digits => *self.plan,
            Workload::ResNet18 | Workload::Encoder => self.plan.of_large_models(),
        };
        let (entries, in_process) = contest::run(
            &plan,
            self.client,
            self.generator,
            &field.entrants,
            connections,
            limits,
        )?;
        for idle in &mut field.idle {
            let mut entrants = field.entrants.iter();
            if let Some(entrant) = entrants.find(|entrant| entrant.kind == idle.kind) {
                idle.memory_after = entrant.server.memory()?;
            }
        }
        Ok(Contest {
            workload,
            entries,
            in_process,
            idle: field.idle,
            missing: field.missing,
        })
    }

    fn log(&self, kind: Kind, workload: Workload) -> PathBuf {
        let name: String = kind
            .name()
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .collect();
        self.home.join(format!("{name}-{}.log", workload.name()))
    }

    /// hyper with the node's settings, this program again.
    fn yardsticks(&self, field: &mut Field) -> Result<()> {
        let hello = Question {
            method: Method::GET,
            path: "/".to_owned(),
            headers: Vec::new(),
            body: Bytes::new(),
        };
        let parse = Workload::Digits.json("/", Form::Plain)?;
        for (kind, more, question, answer) in [
            (Kind::Hello, None, hello, "hello"),
            (Kind::ParseJson, Some("--parse-json"), parse, "\"rows\":8"),
        ] {
            let mut command = Command::new(env::current_exe()?);
            command
                .args(["hello-server", "--threads", &self.cores.to_string()])
                .args(more);
            let server = Server::start(&mut command, &self.log(kind, Workload::Digits))?;
            field.entrants.push(Entrant {
                kind,
                road: Road::Json,
                server: Rc::new(server),
                question,
                check: Check::Text(answer),
            });
        }
        Ok(())
    }

    /// What somebody would write by hand, and whose answers are the node's.
    fn native_digits(&self, field: &mut Field) -> Result<()> {
        let kind = Kind::Native;
        if !has_onnxruntime() {
            field.missing.push(without_onnxruntime(kind));
            return Ok(());
        }
        let workload = Workload::Digits;
        let mut command = Example::find("native_server")?.command();
        command
            .args([overhead::components()?.as_str(), "onnxruntime"])
            .arg(workload.model(Path::new("")))
            .arg(self.cores.to_string());
        let server = Server::start(&mut command, &self.log(kind, workload))?;
        field.entrants.push(Entrant {
            kind,
            road: Road::Json,
            server: Rc::new(server),
            question: workload.json("/", Form::Plain)?,
            check: workload.check(Road::Json, &[])?,
        });
        Ok(())
    }

    /// The deployments of digits, on one node.
    fn dunlin_digits(&self, field: &mut Field) -> Result<()> {
        let home = self.home.join("node-digits");
        fs::create_dir(&home)?;
        let node = node::start(&home, Engines::Installed)?;
        let mut setups = Vec::new();
        for setup in [
            Setup::OnnxRuntime,
            Setup::Tract,
            Setup::Unbatched,
            Setup::Fresh,
        ] {
            let kind = Kind::Dunlin(setup);
            if setup != Setup::Tract && !has_onnxruntime() {
                field.missing.push(without_onnxruntime(kind));
                continue;
            }
            let package = digits_package(setup.deployment(), |yaml| setup.write(yaml));
            node::upload(self.client, &node, package.bytes())?;
            setups.push(setup);
        }
        let node = Rc::new(node);
        for setup in setups {
            let path = format!("/{}", setup.deployment());
            field.entrants.push(Entrant {
                kind: Kind::Dunlin(setup),
                road: Road::Json,
                server: Rc::clone(&node),
                question: Workload::Digits.json(&path, Form::Plain)?,
                check: Workload::Digits.check(Road::Json, &[])?,
            });
        }
        Ok(())
    }

    fn python_kinds(&self) -> Vec<Kind> {
        let mut kinds = vec![
            Kind::FastApi { workers: 1 },
            Kind::FastApi { workers: 2 },
            Kind::LitServe { workers: 1 },
            Kind::BentoMl { workers: 1 },
            Kind::MlServer { workers: 1 },
        ];
        if self.plan.model_servers == Servers::All {
            kinds.insert(3, Kind::LitServe { workers: 2 });
        }
        kinds
    }

    /// One of them, on each road that it has. One that does not come up is missing, and says why.
    fn python(
        &self,
        kind: Kind,
        workload: Workload,
        model: &Path,
        numbers: &[f64],
        field: &mut Field,
    ) -> Result<()> {
        let asks: Vec<(Road, Question, Check)> = [Road::Binary, Road::Json]
            .into_iter()
            .filter_map(|road| Some((road, python_servers::question(kind, workload, road)?)))
            .map(|(road, question)| Ok((road, question?, workload.check(road, numbers)?)))
            .collect::<Result<_>>()?;
        let (_, question, check) = asks.first().context("every server has a road")?;
        // Only digits is what the goals of start and memory are about.
        let starts = match workload {
            Workload::Digits => self.plan.starts,
            _ => 1,
        };
        let log = self.log(kind, workload);
        let mut first_answers = Vec::new();
        let mut server = None;
        for _ in 0..starts {
            drop(server.take());
            match python_servers::start(kind, workload, model, self.client, question, check, &log) {
                Ok(started) => {
                    first_answers.push(ms(started.first_answer));
                    server = Some(started.server);
                }
                Err(error) => {
                    let reason = format!("{error:#}");
                    println!("  {}: missing; {reason}", kind.name());
                    field.missing.push(Missing { kind, reason });
                    return Ok(());
                }
            }
        }
        let server = Rc::new(server.context("it is started at least once")?);
        thread::sleep(self.plan.settle);
        let memory = server.memory()?;
        field.idle.push(Idle {
            kind,
            memory,
            memory_after: memory,
            first_answer_ms: Some(Spread::of(first_answers)),
        });
        println!("  {}: {:.0} MiB idle", kind.name(), memory.resident_mib);
        for (road, question, check) in asks {
            field.entrants.push(Entrant {
                kind,
                road,
                server: Rc::clone(&server),
                question,
                check,
            });
        }
        Ok(())
    }

    fn wasmtime(&self, reuse: Reuse, field: &mut Field) -> Result<()> {
        let kind = Kind::WasmtimeServe(reuse);
        let question = Workload::Digits.json("/", Form::Plain)?;
        let log = self.log(kind, Workload::Digits);
        match wasmtime_serve::start(reuse, self.client, &question, &log) {
            Ok(server) => field.entrants.push(Entrant {
                kind,
                road: Road::Json,
                server: Rc::new(server),
                question,
                check: Check::Text("\"rows\":8"),
            }),
            Err(error) => {
                let reason = format!("{error:#}");
                println!("  {}: missing; {reason}", kind.name());
                field.missing.push(Missing { kind, reason });
            }
        }
        Ok(())
    }
}

impl Setup {
    fn deployment(self) -> &'static str {
        match self {
            Setup::OnnxRuntime => "digits",
            Setup::Tract => "digits-tract",
            Setup::Unbatched => "digits-unbatched",
            Setup::Fresh => "digits-fresh",
        }
    }

    fn write(self, yaml: &mut Value) {
        let model = &mut yaml["predictor"]["models"][0];
        model["backend"] = match self {
            Setup::Tract => "tract".into(),
            _ => "onnxruntime".into(),
        };
        match self {
            Setup::Unbatched => {
                yaml["predictor"]["models"][0]["max_batch_size"] = 1.into();
                // As many as it has with batches.
                yaml["instances"] = json!({"max": 32});
            }
            Setup::Fresh => yaml["instances"] = json!({"policy": "fresh"}),
            Setup::OnnxRuntime | Setup::Tract => {}
        }
    }
}

/// digits under another name, with another deployment file.
pub(crate) fn digits_package(name: &str, change: impl FnOnce(&mut Value)) -> Variant {
    Variant::of("digits", |yaml| {
        yaml["name"] = name.into();
        change(yaml);
    })
}

/// Whether `cargo xtask bench` could install it.
pub(crate) fn has_onnxruntime() -> bool {
    let folder = env::var_os("DUNLIN_BACKENDS").map(PathBuf::from);
    folder.is_some_and(|folder| folder.join("onnxruntime/backend.json").is_file())
}

fn without_onnxruntime(kind: Kind) -> Missing {
    Missing {
        kind,
        reason: "this machine has no ONNX Runtime; see dunlin doctor".to_owned(),
    }
}

/// The predictor that only hands tensors on.
pub(crate) fn forward(workload: Workload, workers: usize) -> Result<Value> {
    let tensors = workload.tensors().context("digits has its own predictor")?;
    let name = workload.name();
    Ok(json!({
        "name": name,
        "predictor": {
            "path": "predictor.wasm",
            "config": {
                "model": name,
                "inputs": [tensors.input.metadata()],
                "outputs": [tensors.output.metadata()],
            },
            "models": [{
                "name": name,
                "path": "models/model.onnx",
                "backend": "onnxruntime",
                "instance_group": {"count": workers},
                "threads": 1,
            }],
        },
    }))
}
