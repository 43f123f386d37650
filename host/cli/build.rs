//! Puts the SDK into the binary, so that `dunlin new` needs neither a checkout nor a registry: the
//! sources as they are, and a manifest of their own made from the workspace's. What cannot be
//! carried over stops the build, so the two cannot drift apart.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// What of the SDK a predictor is compiled from, besides its manifest.
const FOLDERS: [&str; 2] = ["rust/src", "wit"];

/// Tests of the SDK need more than a predictor does.
const LEFT_OUT: &str = "dev-dependencies";

fn main() {
    let own = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let root = own.join("../..").canonicalize().expect("the checkout");
    let sdk = root.join("guest-sdk");
    let mut files = BTreeMap::new();
    for folder in FOLDERS {
        collect(&sdk, &sdk.join(folder), &mut files);
    }
    files.insert("LICENSE".to_owned(), root.join("LICENSE"));

    let out = PathBuf::from(variable("OUT_DIR"));
    let manifest = manifest(
        &read(&sdk.join("rust/Cargo.toml")),
        &read(&root.join("Cargo.toml")),
    );
    let written = out.join("sdk-Cargo.toml");
    fs::write(&written, manifest).expect("the output folder is writable");
    files.insert("rust/Cargo.toml".to_owned(), written);

    let mut code = String::from("const SDK: &[(&str, &[u8])] = &[\n");
    for (name, path) in &files {
        writeln!(code, "    ({name:?}, include_bytes!({path:?})),").expect("a String takes it");
    }
    code.push_str("];\n");
    fs::write(out.join("sdk.rs"), code).expect("the output folder is writable");
}

/// Every file below `folder`, by its path in the SDK.
fn collect(sdk: &Path, folder: &Path, files: &mut BTreeMap<String, PathBuf>) {
    // A folder is watched too: a file may come to it.
    println!("cargo::rerun-if-changed={}", folder.display());
    for entry in fs::read_dir(folder).expect("the SDK is in the checkout") {
        let path = entry.expect("the folder can be read").path();
        if path.is_dir() {
            collect(sdk, &path, files);
        } else {
            let name = path.strip_prefix(sdk).expect("it lies in the SDK");
            let name = name.to_str().expect("the SDK's names are ASCII").to_owned();
            files.insert(name, path);
        }
    }
}

/// The SDK's manifest with everything that it inherits written out.
fn manifest(sdk: &str, workspace: &str) -> String {
    let workspace = sections(workspace);
    let inherited = |section: &str, key: &str| -> &str {
        let section = workspace.iter().find(|(name, _)| name == section);
        let entry = section.and_then(|(_, entries)| entries.iter().find(|(k, _)| k == key));
        &entry.expect("the workspace has what the SDK inherits").1
    };
    let mut made =
        String::from("# Made from the SDK's own manifest, for a copy outside of its workspace.\n");
    for (section, entries) in sections(sdk) {
        if section == LEFT_OUT {
            continue;
        }
        if section == "lints" {
            for (name, lints) in &workspace {
                if let Some(tool) = name.strip_prefix("workspace.lints.") {
                    write_section(&mut made, &format!("lints.{tool}"), lints);
                }
            }
            continue;
        }
        let from = match section.as_str() {
            "package" => "workspace.package",
            _ => "workspace.dependencies",
        };
        let entries = entries.into_iter().map(|(key, value)| {
            if let (Some(key), "true") = (key.strip_suffix(".workspace"), value.as_str()) {
                return (key.to_owned(), inherited(from, key).to_owned());
            }
            if !value.contains("workspace = true") {
                return (key, value);
            }
            let inherited = inherited(from, &key);
            let inner = inherited
                .strip_prefix('{')
                .and_then(|v| v.strip_suffix('}'));
            let inner =
                inner.map_or_else(|| format!("version = {inherited}"), |v| v.trim().to_owned());
            assert!(
                !inner.contains("features = ["),
                "features of {key} in two places"
            );
            let value = value.replace("workspace = true", &inner);
            (key, value)
        });
        let entries: Vec<_> = entries.collect();
        write_section(&mut made, &section, &entries);
    }
    assert!(
        !made.contains("workspace ="),
        "something is inherited still:\n{made}"
    );
    made
}

fn write_section(made: &mut String, name: &str, entries: &[(String, String)]) {
    writeln!(made, "\n[{name}]").expect("a String takes it");
    for (key, value) in entries {
        writeln!(made, "{key} = {value}").expect("a String takes it");
    }
}

/// The sections of a manifest, and their keys with the values as they are written.
fn sections(manifest: &str) -> Vec<(String, Vec<(String, String)>)> {
    let mut sections: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut open = None;
    for line in manifest.lines() {
        let line = line.split(" #").next().unwrap_or_default().trim_end();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'));
        if let (None, Some(name)) = (&open, name) {
            sections.push((name.to_owned(), Vec::new()));
            continue;
        }
        let (_, entries) = sections
            .last_mut()
            .expect("a manifest begins with a section");
        // A value goes on until its brackets are closed.
        let (key, value) = match open.take() {
            Some((key, value)) => (key, format!("{value}\n{line}")),
            None => {
                let (key, value) = line.split_once(" = ").expect("a key and a value");
                (key.to_owned(), value.to_owned())
            }
        };
        let count = |bracket: &[char]| value.matches(bracket).count();
        if count(&['[', '{']) > count(&[']', '}']) {
            open = Some((key, value));
        } else {
            entries.push((key, value));
        }
    }
    sections
}

fn read(path: &Path) -> String {
    println!("cargo::rerun-if-changed={}", path.display());
    fs::read_to_string(path).expect("the checkout has its manifests")
}

fn variable(name: &str) -> String {
    env::var(name).expect("Cargo sets it")
}
