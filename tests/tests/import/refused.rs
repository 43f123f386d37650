//! What cannot be imported.

use std::{collections::BTreeSet, fs};

use dunlin_tests::{Cli, lightning, python, repository};

use super::{digits, import, text, train};

/// The import must fail with `code`, say `part` and what to do, and leave nothing.
fn check_refused(cli: &Cli, arguments: &[&str], code: i32, part: &str) {
    let entries = || -> BTreeSet<_> {
        let entries = fs::read_dir(cli.home()).expect("the home is the test's");
        entries
            .map(|entry| entry.expect("it is there").file_name())
            .collect()
    };
    let before = entries();
    let ran = import(cli, arguments);
    assert_eq!(ran.code, Some(code), "{arguments:?}: {}", ran.stderr);
    assert!(ran.stderr.contains(part), "{arguments:?}: {}", ran.stderr);
    // What clap itself says has an example of its own.
    assert!(
        ran.stderr.contains("next: ") || ran.stderr.contains("--help"),
        "{}",
        ran.stderr
    );
    assert!(!ran.stderr.contains("Traceback"), "{}", ran.stderr);
    assert_eq!(entries(), before, "{arguments:?}");
}

#[test]
fn what_cannot_be_imported_is_told_without_python() {
    let cli = Cli::new();
    let put = |name: &str, content: &[u8]| {
        fs::write(cli.path(name), content).expect("the home is the test's");
    };
    let onnx = fs::read(digits("models/digits.onnx")).expect("the repository has it");
    put("cut.onnx", &onnx[..onnx.len() / 2]);
    put("none.onnx", b"PK\x03\x04");
    put("weights.pt", b"weights");
    put("model.h5", b"model");
    put("model.ckpt", b"weights");
    put("My Model.onnx", &onnx);
    fs::create_dir_all(cli.path("taken")).expect("the home is the test's");
    put("taken/thesis.txt", b"ten years");
    let digits_onnx = digits("models/digits.onnx");
    let other_python = text(&python());
    let table: [(&[&str], i32, &str); 16] = [
        (&["missing.onnx"], 3, "missing.onnx"),
        (&["cut.onnx"], 4, "cut.onnx"),
        (&["none.onnx"], 4, "none.onnx"),
        (&["model.h5"], 2, "is no model that import knows"),
        (&["model.ckpt"], 2, "--module train.py:DigitsModel"),
        (&["weights.pt"], 2, "--input pixels:FP32:-1,1,8,8"),
        (
            &["weights.pt", "--input", "x:FP32:-1,4"],
            4,
            "is no TorchScript module",
        ),
        (
            &["weights.pt", "--input", "x:decimal:4"],
            2,
            "is no datatype",
        ),
        (&[&digits_onnx, "--out", "taken"], 4, "is not empty"),
        (
            &[&digits_onnx, "--out", "taken", "--force"],
            4,
            "no folder of a deployment",
        ),
        (
            &[&digits_onnx, "--samples", "missing.npz"],
            3,
            "missing.npz",
        ),
        (
            &[&digits_onnx, "--samples", "weights.pt"],
            4,
            "is no .npz file",
        ),
        (&[&digits_onnx, "--name", "V 2"], 2, "--name"),
        (
            &[
                "model.ckpt",
                "--module",
                "train.py:M",
                "--python",
                "no-python",
            ],
            3,
            "no-python",
        ),
        (
            &[
                "model.ckpt",
                "--module",
                "train.py:M",
                "--python",
                &other_python,
            ],
            1,
            "pip install torch lightning onnx",
        ),
        (&[&digits_onnx, "--tolerance", "NaN"], 2, "write 1e-4"),
    ];
    for (arguments, code, part) in table {
        check_refused(&cli, arguments, code, part);
    }
    let made = import(&cli, &["My Model.onnx", "-o", "json"]).json(0);
    assert_eq!(made["name"], "my-model");
    check_refused(&cli, &["My Model.onnx"], 4, "--force");
    let _said = import(&cli, &["My Model.onnx", "--force", "--quiet"]).exit(0);
}

#[test]
fn what_cannot_be_imported_is_told_with_lightning() {
    let Some(lightning) = lightning() else { return };
    let cli = Cli::new();
    let source = repository().join("tests/python/lightning/broken.py");
    fs::copy(source, cli.path("broken.py")).expect("the home is the test's");
    train(&lightning, &cli, "broken.py");
    let python = text(&lightning);
    let table: [(&str, &str, &[&str], i32, &str); 9] = [
        ("none.ckpt", "Branch", &[], 3, "there is no file"),
        ("branch.ckpt", "Missing", &[], 3, "has no class Missing"),
        ("branch.ckpt", "Branch", &[], 4, "if measures.sum() > 0"),
        ("branch.ckpt", "NeedsWidth", &[], 4, "needs width"),
        (
            "needswidth.ckpt",
            "NeedsWidth",
            &["--set", "width=6"],
            4,
            "are not those of",
        ),
        ("text.ckpt", "Text", &[], 4, "forward returns str"),
        ("pickled.ckpt", "Pickled", &[], 4, "--trust"),
        ("pickled.ckpt", "Pickled", &[], 4, "broken.Settings"),
        (
            "branch.ckpt",
            "Branch",
            &["--samples", "none.npz"],
            3,
            "none.npz",
        ),
    ];
    for (checkpoint, class, more, code, part) in table {
        let module = format!("broken.py:{class}");
        let arguments = [checkpoint, "--module", &module, "--python", &python];
        check_refused(&cli, &[&arguments, more].concat(), code, part);
    }
    let works: [(&str, &str, &[&str]); 3] = [
        ("branch.ckpt", "Branch", &["--via", "torchscript"]),
        ("needswidth.ckpt", "NeedsWidth", &["--set", "width=5"]),
        ("pickled.ckpt", "Pickled", &["--trust"]),
    ];
    for (checkpoint, class, more) in works {
        let module = format!("broken.py:{class}");
        let arguments = [checkpoint, "--module", &module, "--python", &python];
        let _said = import(&cli, &[&arguments, more].concat()).exit(0);
    }
}
