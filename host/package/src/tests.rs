//! What an import takes, and everything it refuses.

use std::io::{self, Read};

use serde_json::json;
use tar::EntryType;

use crate::testing::*;
use crate::*;

#[test]
fn a_whole_package() {
    let test = TestStore::new();
    let forgery = Forgery::default();
    let package = test.import(&forgery.tar()).unwrap();
    assert_eq!(package.deployment().name.as_str(), "digits");
    assert_eq!(
        package.predictor().unwrap().title.as_str(),
        "predictor.wasm"
    );
    assert_eq!(package.files().count(), forgery.layers.len());
    for (title, media_type, content) in &forgery.layers {
        let blob = package.file(title).unwrap();
        assert_eq!(blob.kind.media_type(), media_type);
        assert_eq!(blob.size, content.len() as u64);
        assert_eq!(&test.store.read(&blob.digest).unwrap(), content);
    }
    assert!(package.file("models/none.onnx").is_none());

    let again = test.store.package(package.digest()).unwrap();
    assert_eq!(again.deployment(), package.deployment());
    assert!(again.files().eq(package.files()));
    assert_eq!(again.size(), package.size());

    // Once more is once.
    let before = test.files();
    assert_eq!(
        test.import(&forgery.tar()).unwrap().digest(),
        package.digest()
    );
    assert_eq!(test.files(), before);
}

#[test]
fn archives_that_other_tools_make() {
    let test = TestStore::new();
    for edit in [
        (|entries| entries.reverse()) as fn(&mut Vec<Entry>),
        |entries| {
            for entry in entries.iter_mut() {
                entry.name.splice(0..0, *b"./");
            }
            entries.insert(0, Entry::new("./", EntryType::Directory, b"", ""));
            entries.insert(1, Entry::new("./blobs/", EntryType::Directory, b"", ""));
            entries.insert(
                2,
                Entry::new("./blobs/sha256/", EntryType::Directory, b"", ""),
            );
        },
        |entries| {
            let times = b"22 mtime=1700000000.5\n";
            entries.insert(0, Entry::new("PaxHeader", EntryType::XHeader, times, ""));
        },
    ] {
        test.import(
            &Forgery {
                edit_entries: edit,
                ..Forgery::default()
            }
            .tar(),
        )
        .unwrap();
    }
    // Padded to the tape's blocks, and given byte by byte.
    let mut padded = Forgery::default().tar();
    padded.resize(padded.len().next_multiple_of(10_240), 0);
    import(OneByte(&padded), &test.store, NO_LIMIT).unwrap();
}

#[test]
fn cut_anywhere() {
    let test = TestStore::new();
    let tar = Forgery::default().tar();
    let cuts = (0..tar.len())
        .step_by(997)
        .chain((0..tar.len()).step_by(512));
    for cut in cuts.chain([1, tar.len() - 1, tar.len() - 513]) {
        let error = test.refuse(&format!("a cut at {cut}"), &tar[..cut]);
        assert!(
            matches!(error, PackageError::Truncated),
            "cut at {cut}: {}",
            chain(&error)
        );
    }
}

#[test]
fn a_bit_flipped_anywhere() {
    let tar = Forgery::default().tar();
    let test = TestStore::new();
    let digest = *TestStore::new().import(&tar).unwrap().digest();
    let (mut refused, mut taken) = (0, 0);
    for at in (0..tar.len()).step_by(61) {
        let mut flipped = tar.clone();
        flipped[at] ^= 1 << (at % 8);
        let before = test.files();
        match test.import(&flipped) {
            // What fills a block means nothing; everything that means something is the same.
            Ok(package) => {
                assert_eq!(*package.digest(), digest, "flipped at {at}");
                assert_eq!(tar[at], 0, "flipped at {at}");
                drop(package);
                test.store.collect().keep_only(&[]).unwrap();
                taken += 1;
            }
            Err(_) => refused += 1,
        }
        assert_eq!(test.files(), before, "flipped at {at}");
    }
    assert!(refused > 4 * taken, "{refused} refused, {taken} taken");
}

#[test]
fn the_size_is_bounded() {
    let test = TestStore::new();
    let tar = Forgery::default().tar();
    let len = tar.len() as u64;
    for (package_max, fits) in [
        (len, true),
        (len - 1, false),
        (len / 2, false),
        (1, false),
        (0, false),
    ] {
        let test = TestStore::new();
        let before = test.files();
        let result = import(&*tar, &test.store, ImportLimits { package_max });
        assert_eq!(result.is_ok(), fits, "{package_max}");
        if let Err(error) = result {
            assert!(
                matches!(error, PackageError::TooLarge { .. }),
                "{}",
                chain(&error)
            );
            assert_eq!(test.files(), before);
        }
    }
    // An upload without an end.
    let mut endless = tar[..512].to_vec();
    let mut header = tar::Header::new_gnu();
    header
        .set_path("blobs/sha256/".to_owned() + &"0".repeat(64))
        .unwrap();
    header.set_size(1 << 60);
    header.set_cksum();
    endless.clear();
    endless.extend(header.as_bytes());
    for reader in [
        &mut (&*endless).chain(io::repeat(7)) as &mut dyn Read,
        &mut (&*tar).chain(io::repeat(0)),
    ] {
        let error = import(
            reader,
            &test.store,
            ImportLimits {
                package_max: 1 << 20,
            },
        )
        .unwrap_err();
        assert!(
            matches!(error, PackageError::TooLarge { .. }),
            "{}",
            chain(&error)
        );
        assert_eq!(test.blobs(), 0);
    }
}

#[test]
fn a_reader_that_fails() {
    let test = TestStore::new();
    let tar = Forgery::default().tar();
    for cut in [0, 100, 512, 5_000, tar.len() - 600, tar.len()] {
        let reader = (&tar[..cut]).chain(Failing);
        let before = test.files();
        let error = import(reader, &test.store, NO_LIMIT).unwrap_err();
        assert!(
            matches!(error, PackageError::Read(_)),
            "{cut}: {}",
            chain(&error)
        );
        assert_eq!(test.files(), before);
    }
}

#[test]
fn archives_with_tricks() {
    let test = TestStore::new();
    let check = |said: &str, edit: fn(&mut Vec<Entry>)| {
        let tar = Forgery {
            edit_entries: edit,
            ..Forgery::default()
        }
        .tar();
        let error = test.refuse(said, &tar);
        assert!(
            matches!(error, PackageError::Invalid { .. }),
            "{}",
            chain(&error)
        );
        assert!(error.to_string().contains(said), "{error}\nnot {said}");
    };
    check("is there twice", |entries| entries.push(entries[0].clone()));
    check("index.json: is there twice", |entries| {
        entries.push(Entry::file("./index.json", b"{}"))
    });
    check("oci-layout: is there twice", |entries| {
        entries.push(Entry::file("oci-layout", b"{}"))
    });
    check("../evil: has no place", |entries| {
        entries.push(Entry::file("../evil", b"x"))
    });
    check("/etc/evil: has no place", |entries| {
        entries.push(Entry::file("/etc/evil", b"x"))
    });
    check("has no place", |entries| {
        entries.push(Entry::file("blobs/sha256/../../evil", b"x"))
    });
    check("has no place", |entries| {
        entries.push(Entry::file("blobs/sha256//", b"x"))
    });
    check("has no place", |entries| {
        entries.push(Entry::file(
            &format!("blobs/sha256/{}", "A".repeat(64)),
            b"x",
        ));
    });
    check("has no place", |entries| {
        entries.push(Entry::file(
            &format!("blobs/sha512/{}", "a".repeat(64)),
            b"x",
        ));
    });
    check("has no place", |entries| {
        entries.push(Entry::file("", b"x"))
    });
    check("a\\nb: has no place", |entries| {
        entries.push(Entry::file("a\nb", b"x"))
    });
    check("has no place", |entries| {
        entries[0].name = b"\xff\xfe".to_vec()
    });
    check("has no place", |entries| {
        entries.push(Entry::new("../up", EntryType::Directory, b"", ""));
    });
    check("is a link", |entries| {
        entries.push(Entry::new("blobs", EntryType::Symlink, b"", "/etc"));
    });
    check("is a link", |entries| {
        entries.push(Entry::new(
            "index.json",
            EntryType::Link,
            b"",
            "/etc/passwd",
        ));
    });
    check("is a link", |entries| entries[0].kind = EntryType::Symlink);
    for (kind, edit) in [
        (
            "device",
            (|entries| entries[0].kind = EntryType::Char) as fn(&mut Vec<Entry>),
        ),
        ("pipe", |entries| entries[0].kind = EntryType::Fifo),
        ("odd", |entries| entries[0].kind = EntryType::new(b'~')),
    ] {
        test.refuse(
            kind,
            &Forgery {
                edit_entries: edit,
                ..Forgery::default()
            }
            .tar(),
        );
    }
    check("is a sparse file", |entries| {
        entries[0].kind = EntryType::GNUSparse
    });
    check("is a long name", |entries| {
        entries.insert(
            0,
            Entry::new("././@LongLink", EntryType::GNULongName, b"blobs/evil\0", ""),
        );
    });
    check("unreasonable length", |entries| {
        entries.insert(0, Entry::new("x", EntryType::XHeader, &[b'a'; 70_000], ""));
    });
    check("more than 4096 entries", |entries| {
        let folder = Entry::new("blobs", EntryType::Directory, b"", "");
        entries.splice(0..0, std::iter::repeat_n(folder, 4100));
    });
    check("it has at most 65536", |entries| {
        entries.retain(|entry| entry.name != b"index.json");
        entries.push(Entry::file("index.json", &[b' '; 70_000]));
    });
    check("oci-layout: is missing", |entries| {
        entries.retain(|entry| entry.name != b"oci-layout");
    });
    check("index.json: is missing", |entries| {
        entries.retain(|entry| entry.name != b"index.json");
    });
    check("oci-layout: has version", |entries| {
        entries.pop();
        entries.push(Entry::file(
            "oci-layout",
            b"{\"imageLayoutVersion\":\"2.0.0\"}",
        ));
    });
    check("is named by nothing in the package", |entries| {
        let name = format!("blobs/sha256/{}", Digest::of(b"stowaway").as_hex());
        entries.push(Entry::file(&name, b"stowaway"));
    });

    let mut tail = Forgery::default().tar();
    tail.extend(b"tail");
    assert!(
        test.refuse("a tail", &tail)
            .to_string()
            .contains("behind the end")
    );
    let text = test.refuse("a text", &[b'a'; 5000]).to_string();
    assert!(text.contains("is not a tar archive"), "{text}");
    let mut gzip = vec![0x1f, 0x8b, 8, 0];
    gzip.extend(noise(3000));
    assert!(
        test.refuse("gzip", &gzip)
            .to_string()
            .contains("is not a tar archive")
    );
}

#[test]
fn blobs_that_are_not_what_they_are_called() {
    let test = TestStore::new();
    for at in 0..7 {
        let mut entries = Vec::new();
        let tar = Forgery::default().tar();
        for entry in tar::Archive::new(&*tar).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            entries.push(Entry::file(
                entry.path().unwrap().to_str().unwrap(),
                &content,
            ));
        }
        let mut other = entries.clone();
        other[at].content[0] ^= 1;
        let error = test.refuse("another byte", &archive(&other));
        assert!(
            matches!(error, PackageError::Tampered { .. }),
            "{}",
            chain(&error)
        );
        let mut longer = entries.clone();
        longer[at].content.push(0);
        let error = test.refuse("one byte more", &archive(&longer));
        assert!(
            matches!(error, PackageError::Tampered { .. }),
            "{}",
            chain(&error)
        );
        entries.remove(at);
        let error = test.refuse("a blob less", &archive(&entries));
        assert!(
            error.to_string().contains("is not in the package"),
            "{}",
            chain(&error)
        );
    }
}

#[test]
fn manifests_that_lie() {
    let test = TestStore::new();
    let check = |said: &str, edit: fn(&mut serde_json::Value)| {
        let tar = Forgery {
            edit_manifest: edit,
            ..Forgery::default()
        }
        .tar();
        let error = test.refuse(said, &tar);
        assert!(
            chain(&error).contains(said),
            "{}\nnot {said}",
            chain(&error)
        );
    };
    check("not a Dunlin package", |manifest| {
        manifest["artifactType"] = json!("image")
    });
    check("not a Dunlin package", |manifest| {
        manifest.as_object_mut().unwrap().remove("artifactType");
    });
    check("is not an OCI image manifest", |manifest| {
        manifest["schemaVersion"] = json!(1)
    });
    check("is not an OCI image manifest", |manifest| {
        manifest["mediaType"] = json!("x")
    });
    check("has a configuration of", |manifest| {
        manifest["config"]["mediaType"] = json!("x")
    });
    check("are announced", |manifest| {
        manifest["config"]["size"] = json!(3)
    });
    check("are announced", |manifest| {
        manifest["layers"][2]["size"] = json!(u64::MAX)
    });
    check("manifest: invalid value", |manifest| {
        manifest["layers"][2]["size"] = json!(-1)
    });
    check("is not a digest", |manifest| {
        manifest["layers"][2]["digest"] = json!("sha256:../..")
    });
    check("is not in the package", |manifest| {
        manifest["layers"][2]["digest"] = json!(Digest::of(b"elsewhere"));
    });
    check("unknown media type", |manifest| {
        manifest["layers"][2]["mediaType"] = json!("x/cwasm")
    });
    check("has no annotation", |manifest| {
        manifest["layers"][2]["annotations"] = json!({"title": "a"});
    });
    for (said, title) in [
        ("leaves the folder", "../../etc/cron.d/evil"),
        ("is absolute", "/etc/passwd"),
        ("is not written as", "./models/digits.data"),
        ("is there twice", "models/script.pt"),
        ("is a file, and", "models/script.pt/below"),
        ("backslash", "models\\digits.data"),
        ("not name a file", "models/"),
        ("is empty", ""),
    ] {
        let mut forgery = Forgery::default();
        forgery.layers[2].0 = title.to_owned();
        let error = test.refuse(title, &forgery.tar());
        assert!(error.to_string().contains(said), "{error}\nnot {said}");
    }
    let index = |said: &str, edit: fn(&mut serde_json::Value)| {
        let tar = Forgery {
            edit_index: edit,
            ..Forgery::default()
        }
        .tar();
        let error = test.refuse(said, &tar);
        assert!(error.to_string().starts_with("index.json: "), "{error}");
        assert!(error.to_string().contains(said), "{error}\nnot {said}");
    };
    index("has 0 manifests", |index| index["manifests"] = json!([]));
    index("has 2 manifests", |index| {
        index["manifests"] = json!([index["manifests"][0], index["manifests"][0]]);
    });
    index("names a", |index| {
        index["manifests"][0]["mediaType"] = json!("x")
    });
    index("is not an OCI image index", |index| {
        index["schemaVersion"] = json!(3)
    });
    index("invalid type", |index| *index = json!("no object"));
    let deep: fn(&mut serde_json::Value) = |manifest| {
        manifest["deep"] = (0..120).fold(json!(1), |inner, _| json!([inner]));
    };
    test.refuse(
        "deep JSON",
        &Forgery {
            edit_manifest: |m| m["layers"] = json!({}),
            ..Forgery::default()
        }
        .tar(),
    );
    let _ = test.import(
        &Forgery {
            edit_manifest: deep,
            ..Forgery::default()
        }
        .tar(),
    );
}

#[test]
fn deployment_files_that_do_not_fit() {
    let test = TestStore::new();
    let check = |said: &str, yaml: &str| {
        let forgery = Forgery {
            config: yaml.into(),
            ..Forgery::default()
        };
        let error = test.refuse(said, &forgery.tar());
        assert!(
            chain(&error).contains(said),
            "{}\nnot {said}",
            chain(&error)
        );
    };
    let edit = |from: &str, to: &str| {
        assert!(YAML.contains(from));
        YAML.replace(from, to)
    };
    check("name: is missing", "predictor: {path: predictor.wasm}");
    check(
        "dunlin.yaml in the package:4: predictor.grants",
        &edit("[clock]", "clock"),
    );
    check(
        "in a package it is predictor.wasm",
        &edit("path: predictor.wasm", "path: ../../bin/sh"),
    );
    check(
        "in a package it is predictor.wasm",
        &edit("path: predictor.wasm", "path: ."),
    );
    check(
        "model digits: models/none.onnx is not among",
        &edit("digits.onnx", "none.onnx"),
    );
    check(
        "is not among the golden samples",
        &edit("golden.safetensors", "gold.safetensors"),
    );
    check(
        "golden.safetensors is in the package and not named here",
        &edit(", golden: models/golden.safetensors", ""),
    );
    check(
        "predictor.wasm is in the package and not named here",
        &edit("  path: predictor.wasm\n  grants: [clock]\n", ""),
    );
    check(
        "is not among the package's models",
        &edit("models/script.pt", "predictor.wasm"),
    );
    check("it was not granted", &edit("  grants: [clock]\n", ""));
    let binary = Forgery {
        config: vec![0xff; 10],
        ..Forgery::default()
    };
    assert!(chain(&test.refuse("binary", &binary.tar())).contains("is not UTF-8"));
    let mut none = Forgery::default();
    none.layers.remove(0);
    assert!(chain(&test.refuse("none", &none.tar())).contains("predictor.wasm is not in the"));
    let huge = Forgery {
        config: vec![b' '; 5 << 20],
        ..Forgery::default()
    };
    assert!(chain(&test.refuse("huge", &huge.tar())).contains("it has at most"));
}

#[test]
fn predictors_that_are_none() {
    let test = TestStore::new();
    for (said, wasm) in [
        ("is not WebAssembly", b"#!/bin/sh".to_vec()),
        ("is not WebAssembly", Vec::new()),
        ("is a core module", wat::parse_str("(module)").unwrap()),
        ("does not export", component(&[], &[])),
        (
            "wasi:http/types@0.2.0: a predictor makes no HTTP",
            component(
                &["wasi:http/types@0.2.0"],
                &["dunlin:predictor/handler@0.1.0"],
            ),
        ),
        (
            "predictor.grants",
            component(
                &["dunlin:predictor/random@0.1.0"],
                &["dunlin:predictor/handler@0.1.0"],
            ),
        ),
    ] {
        let error = test.refuse(
            said,
            &Forgery::default().with("predictor.wasm", &wasm).tar(),
        );
        assert!(matches!(error, PackageError::World { .. }));
        assert!(
            chain(&error).contains(said),
            "{}\nnot {said}",
            chain(&error)
        );
    }
}

#[test]
fn models_that_reach_out() {
    let test = TestStore::new();
    for (said, model) in [
        (
            "keeps weights in \"/etc/passwd\"",
            onnx_model(&["/etc/passwd"]),
        ),
        (
            "keeps weights in \"../secret\"",
            onnx_model(&["digits.data", "../secret"]),
        ),
        (
            "keeps weights in \"other.data\"",
            onnx_model(&["other.data"]),
        ),
        ("is not an ONNX model", b"\x0b".to_vec()),
    ] {
        let tar = Forgery::default().with("models/digits.onnx", &model).tar();
        let error = test.refuse(said, &tar);
        assert!(error.to_string().contains(said), "{error}\nnot {said}");
    }
}

struct OneByte<'a>(&'a [u8]);

impl Read for OneByte<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = buffer.len().min(1);
        self.0.read(&mut buffer[..len])
    }
}

struct Failing;

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ConnectionReset.into())
    }
}
