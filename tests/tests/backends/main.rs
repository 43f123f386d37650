//! Native backends as an operator has them: installed, listed, diagnosed, broken, removed. What a
//! machine must have for it is made by `cargo xtask test`.

mod index;

use std::{
    fs,
    io::Read as _,
    net::TcpListener,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use dunlin_tests::{Cli, Node, NodeOptions, Ran, backends, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use index::{Index, Wheel, answer, start_install};

/// A debug build, a cold Python and a loaded machine.
const PATIENCE: Duration = Duration::from_secs(300);

const NATIVE: [&str; 2] = ["onnxruntime", "torchscript"];
const LIBRARIES: [&str; 2] = [
    "onnxruntime/libonnxruntime.so",
    "torchscript/libdunlin_torch.so",
];

/// A user whose node has its backends in `folder`, and listens where nobody else does.
fn user(folder: &Path) -> User {
    let cli = Cli::new();
    let config = cli.path("node.yaml");
    fs::write(
        &config,
        "data: {listen: '127.0.0.1:0'}\nadmin: {listen: '127.0.0.1:0'}\n",
    )
    .expect("the home is ours");
    User {
        cli,
        config,
        folder: folder.to_owned(),
    }
}

struct User {
    cli: Cli,
    config: PathBuf,
    folder: PathBuf,
}

impl User {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.cli.command();
        command
            .args(arguments)
            .env("DUNLIN_BACKENDS", &self.folder)
            .env("XDG_CACHE_HOME", self.cli.path("cache"))
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        ran(&mut self.command(arguments))
    }

    fn doctor(&self) -> (i32, Value) {
        let config = self.config.to_string_lossy();
        let ran = self.run(&["doctor", "--config", &config, "-o", "json"]);
        let code = ran.code.expect("it is not killed");
        let document = ran.json(code);
        assert_eq!(document["ready"] == true, code == 0, "{document}");
        (code, document)
    }

    fn list(&self) -> Value {
        let ran = self.run(&["backend", "list", "-o", "json"]);
        ran.json(0)
    }

    /// What is in the backend folder, and what was left in the cache.
    fn left(&self) -> [Vec<String>; 2] {
        [
            names(&self.folder),
            names(&self.cli.path("cache/dunlin/backends")),
        ]
    }
}

fn ran(command: &mut Command) -> Ran {
    command.output().expect("dunlin can be run").into()
}

/// What is in a folder, but for the lock that keeps two runs apart.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name != "lock").collect()
}

fn part<'a>(document: &'a Value, name: &str) -> &'a Value {
    let parts = document["parts"].as_array().expect("a list");
    let found = parts.iter().find(|part| part["name"] == name);
    found.expect("it is told of")
}

fn listed<'a>(document: &'a Value, name: &str) -> &'a Value {
    let backends = document["backends"].as_array().expect("a list");
    let found = backends.iter().find(|backend| backend["name"] == name);
    found.expect("it is told of")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

#[test]
fn without_a_backend_everything_else_is_in_order() {
    let empty = tempfile::tempdir().expect("a folder");
    let user = user(empty.path());
    let (code, document) = user.doctor();
    assert_eq!(code, 0, "{document}");
    for name in NATIVE {
        let missing = part(&document, &format!("backend {name}"));
        assert_eq!(missing["state"], "missing", "{missing}");
        assert_eq!(missing["required"], false, "{missing}");
        let install = format!("dunlin backend install {name}");
        assert!(text(&missing["next"]).contains(&install), "{missing}");
        let listed = listed(&user.list(), name).clone();
        assert_eq!(listed["state"], "not_installed", "{listed}");
        assert_eq!(listed["found"], Value::Null, "{listed}");
    }
    for name in ["backend tract", "rust compiler", "cargo", "data folder"] {
        let found = part(&document, name);
        assert_eq!(found["state"], "ok", "{found}");
        assert_eq!(found["required"], true, "{found}");
    }
    for target in ["wasm32-wasip2", "wasm32-unknown-unknown"] {
        let state = text(&part(&document, &format!("std for {target}"))["state"]);
        assert!(["ok", "later"].contains(&state), "{document}");
    }
    let config = user.config.to_string_lossy();
    let told = user.run(&["doctor", "--config", &config]);
    assert!(
        told.stdout.contains("dunlin backend install onnxruntime"),
        "{}",
        told.stdout
    );
    assert_eq!(names(empty.path()), [""; 0], "looking writes nothing");
    assert!(!user.cli.path("data").exists(), "looking writes nothing");
}

#[test]
fn installed_backends_run_a_model() {
    let Some(folder) = backends(&NATIVE) else {
        return;
    };
    let user = user(&folder);
    let (code, document) = user.doctor();
    assert_eq!(code, 0, "{document}");
    let list = user.list();
    for (name, library) in NATIVE.into_iter().zip(LIBRARIES) {
        let found = part(&document, &format!("backend {name}"));
        assert_eq!(found["state"], "ok", "{found}");
        let listed = listed(&list, name);
        assert_eq!(listed["state"], "ready", "{listed}");
        assert_eq!(listed["found"], "folder", "{listed}");
        assert_eq!(Path::new(text(&listed["path"])), folder.join(library));
        let manifest = fs::read(folder.join(name).join("backend.json")).expect("it is there");
        let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
        assert_eq!(listed["version"], manifest["version"]);
        assert_eq!(found["version"], manifest["version"]);
    }
    let library = folder.join(LIBRARIES[0]);
    let elsewhere = ran(user
        .command(&["backend", "list", "-o", "json"])
        .env("DUNLIN_BACKENDS", user.cli.home())
        .env("DUNLIN_ONNXRUNTIME_LIBRARY", &library));
    let document = elsewhere.json(0);
    let named = listed(&document, "onnxruntime");
    assert_eq!(
        (&named["state"], &named["found"]),
        (&"ready".into(), &"environment".into())
    );
    assert_eq!(Path::new(text(&named["path"])), library);
}

#[test]
fn installing_what_is_there_does_nothing() {
    let Some(folder) = backends(&NATIVE) else {
        return;
    };
    let user = user(&folder);
    let written = || {
        let manifests = NATIVE.map(|name| folder.join(name).join("backend.json"));
        manifests.map(|path| {
            fs::metadata(path)
                .and_then(|m| m.modified())
                .expect("it is there")
        })
    };
    let before = written();
    // Without an index nothing could be fetched.
    let again = ran(user
        .command(&[
            "backend",
            "install",
            "onnxruntime",
            "torchscript",
            "-o",
            "json",
        ])
        .env("PIP_NO_INDEX", "1"));
    let document = again.json(0);
    for name in NATIVE {
        assert_eq!(listed(&document, name)["installed"], false, "{document}");
    }
    assert_eq!(written(), before);
}

#[test]
fn a_broken_file_in_a_librarys_place_is_told_and_survived() {
    for (name, library) in NATIVE.into_iter().zip(LIBRARIES) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(library);
        fs::create_dir(path.parent().expect("a folder")).expect("the folder is ours");
        fs::write(&path, "not a library").expect("the folder is ours");
        check_broken(&user(folder.path()), name, &path);
    }
}

#[test]
fn a_library_that_ends_the_process_is_told_and_survived() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(LIBRARIES[0]);
    fs::create_dir(path.parent().expect("a folder")).expect("the folder is ours");
    let source = folder.path().join("crash.c");
    let code = "__attribute__((constructor)) static void crash(void) { __builtin_trap(); }";
    fs::write(&source, code).expect("the folder is ours");
    let mut compiler = Command::new("cc");
    let compiler = compiler.args(["-shared", "-fPIC", "-o"]).arg(&path);
    let compiled = compiler.arg(&source).status();
    assert!(compiled.is_ok_and(|status| status.success()), "cc is there");
    let user = user(folder.path());
    check_broken(&user, NATIVE[0], &path);
    let reason = listed(&user.list(), NATIVE[0])["reason"].clone();
    assert!(text(&reason).contains("crashes"), "{reason}");
}

#[test]
fn a_truncated_library_is_told_and_survived() {
    let Some(folder) = backends(&NATIVE) else {
        return;
    };
    let truncated = [
        ("onnxruntime", "libonnxruntime.so"),
        ("torchscript", "libdunlin_torch.so"),
        ("torchscript", "lib/libtorch_cpu.so"),
    ];
    for (name, library) in truncated {
        // With the record of what was installed its size tells; without it only opening it does.
        for with_record in [true, false] {
            let broken = tempfile::tempdir().expect("a folder");
            let dir = broken.path().join(name);
            lend(&folder.join(name), &dir);
            if !with_record {
                fs::remove_file(dir.join("backend.json")).expect("the folder is ours");
            }
            truncate(&folder.join(name).join(library), &dir.join(library));
            check_broken(&user(broken.path()), name, &dir);
        }
    }
}

/// `name` is broken by a file at `path` or below it, and nothing else is.
fn check_broken(user: &User, name: &str, path: &Path) {
    let (code, document) = user.doctor();
    assert_eq!(code, 1, "{document}");
    let broken = part(&document, &format!("backend {name}"));
    assert_eq!(broken["state"], "broken", "{broken}");
    let install = format!("dunlin backend install {name}");
    assert!(text(&broken["next"]).contains(&install), "{broken}");
    let others = document["parts"].as_array().expect("a list").iter();
    let others = others.filter(|part| *part != broken);
    assert!(
        others.clone().all(|part| part["state"] != "broken"),
        "{document}"
    );

    let list = user.list();
    let listed = listed(&list, name);
    assert_eq!(listed["state"], "broken", "{listed}");
    assert!(
        Path::new(text(&listed["path"])).starts_with(path),
        "{listed}"
    );
    assert_ne!(text(&listed["reason"]), "", "{listed}");
    let told = user.run(&["backend", "list"]);
    assert!(told.stderr.contains(&install), "{}", told.stderr);
}

/// The files of a backend, the large ones as links, in a folder that can be changed.
fn lend(from: &Path, to: &Path) {
    fs::create_dir(to).expect("the folder is ours");
    for entry in fs::read_dir(from).expect("it is there").flatten() {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            lend(&entry.path(), &to);
        } else if entry.metadata().expect("it is there").len() < 1 << 20 {
            fs::copy(entry.path(), to).expect("the folder is ours");
        } else {
            symlink(entry.path(), to).expect("the folder is ours");
        }
    }
}

/// The first third of a file.
fn truncate(from: &Path, to: &Path) {
    fs::remove_file(to).expect("it was lent");
    let file = fs::File::open(from).expect("it is there");
    let third = file.metadata().expect("it is open").len() / 3;
    let mut to = fs::File::create(to).expect("the folder is ours");
    std::io::copy(&mut file.take(third), &mut to).expect("there is space");
}

#[test]
fn a_library_that_was_named_is_not_replaced_by_another() {
    let empty = tempfile::tempdir().expect("a folder");
    let user = user(empty.path());
    let config = user.config.to_string_lossy().into_owned();
    let absent = user.cli.path("absent.so");
    let ran = ran(user
        .command(&["doctor", "--config", &config, "-o", "json"])
        .env("DUNLIN_ONNXRUNTIME_LIBRARY", &absent));
    let document = ran.json(1);
    let named = part(&document, "backend onnxruntime");
    assert_eq!(named["state"], "broken", "{named}");
    assert!(
        text(&named["next"]).contains("DUNLIN_ONNXRUNTIME_LIBRARY"),
        "{named}"
    );
}

#[test]
fn a_node_that_cannot_start_here_is_told() {
    let empty = tempfile::tempdir().expect("a folder");
    let user = user(empty.path());
    let file = user.cli.path("file");
    fs::write(&file, "").expect("the home is ours");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken_at = taken.local_addr().expect("it listens");
    // Somebody else's server: it answers, and is no node.
    thread::spawn(move || {
        for stream in taken.incoming().flatten() {
            answer(stream, "200 OK", b"hello");
        }
    });
    let node = Node::start(&NodeOptions::default());
    let node_at = node.data_url().trim_start_matches("http://").to_owned();
    let doctor = |data: &str, data_dir: &Path| {
        let config = user.cli.path("busy.yaml");
        let yaml = format!("data: {{listen: '{data}'}}\nadmin: {{listen: '127.0.0.1:0'}}\n");
        fs::write(&config, yaml).expect("the home is ours");
        let (config, data_dir) = (config.to_string_lossy(), data_dir.to_string_lossy());
        let ran = user.run(&[
            "doctor",
            "--config",
            &config,
            "--data-dir",
            &data_dir,
            "-o",
            "json",
        ]);
        let code = ran.code.expect("it is not killed");
        (code, ran.json(code))
    };
    let data_dir = user.cli.path("data");

    let (code, document) = doctor(&taken_at.to_string(), &data_dir);
    assert_eq!(code, 1);
    let port = part(&document, "port of the data plane");
    assert_eq!(port["state"], "missing", "{port}");
    assert!(text(&port["next"]).contains("--listen"), "{port}");
    let (code, document) = doctor(&node_at, &data_dir);
    assert_eq!(code, 0, "{document}");
    let port = part(&document, "port of the data plane");
    assert!(text(&port["found"]).contains("a node is there"), "{port}");
    let (code, document) = doctor("127.0.0.1:0", &file);
    assert_eq!(code, 1);
    assert_eq!(part(&document, "data folder")["state"], "missing");
}

#[test]
fn what_is_needed_to_install_is_named() {
    let empty = tempfile::tempdir().expect("a folder");
    let user = user(empty.path());
    let nothing = user.cli.path("nothing");
    fs::create_dir(&nothing).expect("the home is ours");
    for (backend, part) in [("onnxruntime", "python3-pip"), ("torchscript", "g++")] {
        let ran = ran(user
            .command(&["backend", "install", backend])
            .env_remove("CXX")
            .env("PATH", &nothing));
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        assert!(ran.stderr.contains(part), "{}", ran.stderr);
        assert_eq!(user.left(), [vec![""; 0], vec![""; 0]]);
    }
    let unknown = user.run(&["backend", "install", "tensorrt"]);
    assert_eq!(unknown.code, Some(2));
    assert!(unknown.stderr.contains("onnxruntime"), "{}", unknown.stderr);
}

#[test]
fn a_backend_is_removed_when_that_is_confirmed() {
    let Some(installed) = backends(&NATIVE[..1]) else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    lend(
        &installed.join("onnxruntime"),
        &folder.path().join("onnxruntime"),
    );
    let user = user(folder.path());
    let nobody = user.run(&["backend", "remove", "onnxruntime"]);
    assert_eq!(nobody.code, Some(2), "{}", nobody.stderr);
    assert_eq!(names(folder.path()), ["onnxruntime"]);
    let removed = user.run(&["backend", "remove", "onnxruntime", "-y", "-o", "json"]);
    assert_eq!(removed.json(0)["removed"], true);
    assert_eq!(names(folder.path()), [""; 0]);
    assert!(installed.join(LIBRARIES[0]).is_file());
    let again = user.run(&["backend", "remove", "onnxruntime", "-y"]);
    assert_eq!(again.code, Some(3), "{}", again.stderr);
}

#[test]
fn a_wheel_with_other_bytes_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let user = user(folder.path());
    let index = Index::start(Wheel::Other);
    let ran = ran(index.lend(&mut user.command(&["backend", "install", "onnxruntime"])));
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.to_lowercase().contains("hash"), "{}", ran.stderr);
    assert_eq!(user.left(), [vec![""; 0], vec![""; 0]]);
}

#[test]
fn ctrl_c_in_a_download_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let user = user(folder.path());
    let index = Index::start(Wheel::Endless);
    let mut child = start_install(&user, &index);
    kill_process(Pid::from_child(&child), Signal::INT).expect("it runs");
    let status = until("it ends", PATIENCE, || child.try_wait().expect("a child"));
    assert_eq!(status.code(), Some(130));
    index.wait_for_pip_to_end();
    assert_eq!(user.left(), [vec![""; 0], vec![""; 0]]);
}

#[test]
fn a_killed_download_leaves_nothing_installed_and_works_when_repeated() {
    let folder = tempfile::tempdir().expect("a folder");
    let user = user(folder.path());
    let index = Index::start(Wheel::Endless);
    let mut child = start_install(&user, &index);
    child.kill().expect("it runs");
    child.wait().expect("a child");
    index.wait_for_pip_to_end();
    assert_eq!(
        listed(&user.list(), "onnxruntime")["state"],
        "not_installed"
    );

    if backends(&NATIVE[..1]).is_none() {
        return;
    }
    let again = user.run(&["backend", "install", "onnxruntime", "-o", "json"]);
    assert_eq!(again.json(0)["backends"][0]["installed"], true);
    assert_eq!(user.left(), [vec!["onnxruntime"], vec![""; 0]]);
    assert_eq!(listed(&user.list(), "onnxruntime")["state"], "ready");

    // A file that somebody has changed is put right.
    let library = folder.path().join(LIBRARIES[0]);
    fs::write(&library, "not a library").expect("the folder is ours");
    let repaired = user.run(&["backend", "install", "onnxruntime", "-o", "json"]);
    assert_eq!(repaired.json(0)["backends"][0]["installed"], true);
    assert_eq!(listed(&user.list(), "onnxruntime")["state"], "ready");
}
