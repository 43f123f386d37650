//! `cargo xtask demo`: from a fresh checkout to a prediction.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    guests::build_dunlin,
    process::{output, root, step, work_dir},
};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stay {
    UntilInterrupted,
    Once,
}

/// A handwritten seven that the model has not seen in training.
const IMAGE: &str = "predictors/digits/samples/seven.png";
const DIGIT: u64 = 7;

pub(crate) fn run(stay: Stay) -> Result<()> {
    let dunlin = build_dunlin()?;
    let node = DemoNode::start(&dunlin, stay)?;
    println!("\n==> Deploy predictors/digits");
    // As JSON: to people it tells commands for an environment that only the demo has.
    let deployed = output(
        node.dunlin(&dunlin)
            .args(["deploy", "--env", "demo", "-o", "json"])
            .arg(root().join("predictors/digits")),
    )?;
    println!("    {} is live", field(&deployed, "url")?);
    println!("\n==> Predict {IMAGE}");
    let prediction = output(
        node.dunlin(&dunlin)
            .args(["predict", "--env", "demo", "digits"])
            .arg(root().join(IMAGE)),
    )?;
    println!("{}", prediction.trim());
    let prediction: Value = serde_json::from_str(&prediction).context("the answer is not JSON")?;
    ensure!(
        prediction["label"] == DIGIT,
        "the image shows a {DIGIT}, and the predictor says {}",
        prediction["label"]
    );
    println!(
        "\nThe image shows a {DIGIT}, and that is what the predictor saw. Try it yourself:\n\n  \
         curl --data-binary @{IMAGE} -H 'content-type: image/png' {}/digits\n",
        node.data
    );
    match stay {
        Stay::Once => node.stop(),
        Stay::UntilInterrupted => {
            println!("The node stays up. Ctrl-C stops it.");
            node.wait()
        }
    }
}

/// A node with its own data and its own configuration: the demo touches nobody's.
struct DemoNode {
    process: Child,
    data: String,
    config_home: PathBuf,
}

impl DemoNode {
    fn start(dunlin: &Path, stay: Stay) -> Result<Self> {
        let dir = work_dir("demo")?;
        // What another version of this checkout left there is of no use.
        let old = dir.join("data");
        if old.exists() {
            fs::remove_dir_all(&old).with_context(|| format!("cannot remove {}", old.display()))?;
        }
        let [data, admin] = listen(stay);
        println!("\n==> Start a node");
        let mut process = Command::new(dunlin)
            .args([
                "serve",
                "-o",
                "json",
                "--log-level",
                "warn",
                "--listen",
                &data,
            ])
            .args(["--grpc-listen", "127.0.0.1:0"])
            .args(["--admin-listen", &admin, "--data-dir"])
            .arg(dir.join("data"))
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", dunlin.display()))?;
        let mut line = String::new();
        let stdout = process.stdout.take().context("the node has no output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        if line.is_empty() {
            bail!("the node did not come up: {}", process.wait()?);
        }
        let node = Self {
            process,
            data: field(&line, "data")?,
            config_home: dir.join("config"),
        };
        println!(
            "    data plane {}, admin plane {}",
            node.data,
            field(&line, "admin")?
        );
        step(
            "Name it `demo` for the command line",
            node.dunlin(dunlin)
                .args(["--quiet", "env", "configure", "demo"])
                .args(["--data", &node.data])
                .args(["--admin", &field(&line, "admin")?])
                .args(["--token-file", &field(&line, "token_file")?]),
        )?;
        Ok(node)
    }

    fn dunlin(&self, dunlin: &Path) -> Command {
        let mut command = Command::new(dunlin);
        command.env("XDG_CONFIG_HOME", &self.config_home);
        command
    }

    fn stop(mut self) -> Result<()> {
        // The node drains on SIGTERM; the standard library can only kill.
        let id = self.process.id().to_string();
        step("Stop the node", Command::new("kill").arg(&id))?;
        let status = self.process.wait()?;
        ensure!(status.success(), "the node ended with {status}");
        Ok(())
    }

    /// Ctrl-C reaches the node as well: it drains, and then this ends too.
    fn wait(mut self) -> Result<()> {
        let status = self.process.wait()?;
        ensure!(status.success(), "the node ended with {status}");
        Ok(())
    }
}

impl Drop for DemoNode {
    fn drop(&mut self) {
        // After a failed step the node must not stay behind; after a good one it is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A text in the JSON document that `dunlin` printed.
fn field(document: &str, key: &str) -> Result<String> {
    let value: Value = serde_json::from_str(document)?;
    let text = value[key].as_str().map(str::to_owned);
    text.with_context(|| format!("dunlin did not tell its {key}: {document}"))
}

/// The ports that the documentation names, where they are free and the node is to stay.
fn listen(stay: Stay) -> [String; 2] {
    ["127.0.0.1:8080", "127.0.0.1:8081"].map(|usual| {
        if stay == Stay::UntilInterrupted && TcpListener::bind(usual).is_ok() {
            usual.to_owned()
        } else {
            "127.0.0.1:0".to_owned()
        }
    })
}
