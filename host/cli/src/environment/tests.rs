//! The file of environments, and what is refused of it.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn store(folder: &tempfile::TempDir) -> Store {
    Store::open(folder.path().join("dunlin/environments.yaml")).unwrap()
}

fn edge(name: &str) -> Environment {
    Environment {
        name: name.to_owned(),
        data: parse_url("edge:1").unwrap(),
        admin: parse_url("edge:2").unwrap(),
        token: TokenSource::Text(Token::parse("secret\n").unwrap()),
    }
}

#[test]
fn a_store_without_a_file_has_the_local_node() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let local = store.get(None).unwrap();
    assert_eq!(local.name, "local");
    assert_eq!(local.data.as_str(), "http://127.0.0.1:8080/");
    assert_eq!(local.admin.as_str(), "http://127.0.0.1:8081/");
    assert_eq!(store.list().unwrap(), [local]);
    assert_eq!(store.get(Some("edge")).unwrap_err().exit, Exit::NotFound);
}

#[test]
fn what_was_saved_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut before = store(&folder);
    before.put(&edge("edge"));
    before.set_default("edge").unwrap();
    before.save().unwrap();
    // The second save replaces the file.
    before.put(&edge("zone"));
    before.save().unwrap();

    let after = store(&folder);
    assert_eq!(after.default_name(), "edge");
    assert_eq!(after.get(None).unwrap(), edge("edge"));
    let names: Vec<_> = after.list().unwrap().into_iter().map(|e| e.name).collect();
    assert_eq!(names, ["edge", "local", "zone"]);
    let mode = fs::metadata(after.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let files = fs::read_dir(after.path().parent().unwrap())
        .unwrap()
        .count();
    assert_eq!(files, 1, "no temporary file is left");
}

#[test]
fn deleting_the_default_makes_local_the_default() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(&folder);
    store.put(&edge("edge"));
    store.set_default("edge").unwrap();
    store.delete("edge").unwrap();
    assert_eq!(store.default_name(), "local");
    assert_eq!(store.delete("edge").unwrap_err().exit, Exit::NotFound);
    assert_eq!(store.delete("local").unwrap_err().exit, Exit::Refused);
    assert_eq!(store.set_default("edge").unwrap_err().exit, Exit::NotFound);
}

#[test]
fn local_can_be_configured_and_restored() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(&folder);
    store.put(&edge("local"));
    assert_eq!(store.get(None).unwrap(), edge("local"));
    store.delete("local").unwrap();
    assert_eq!(
        store.get(None).unwrap().data.as_str(),
        "http://127.0.0.1:8080/"
    );
}

#[test]
fn a_wrong_file_is_refused_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("environments.yaml");
    let table = [
        ("environments: [", "is not a file of environments"),
        ("surprise: 1", "is not a file of environments"),
        (
            "environments: {a: {data: 'x:1', admin: 'x:2'}}",
            "exactly one of token and token_file",
        ),
        (
            "environments: {a: {data: 'https://x', admin: 'x:2', token: t}}",
            "environments.a: data: https://x",
        ),
    ];
    for (text, expected) in table {
        fs::write(&path, text).unwrap();
        let error = Store::open(path.clone())
            .and_then(|store| store.get(Some("a")))
            .unwrap_err();
        assert_eq!(error.exit, Exit::Refused, "{text}");
        assert!(error.to_string().contains(expected), "{text}: {error}");
        assert!(
            error.to_string().contains("environments.yaml"),
            "{text}: {error}"
        );
    }
}

#[test]
fn urls_are_checked() {
    for text in [
        "10.0.0.5:8080",
        "http://10.0.0.5:8080",
        "http://10.0.0.5:8080/",
    ] {
        assert_eq!(parse_url(text).unwrap().as_str(), "http://10.0.0.5:8080/");
    }
    assert_eq!(parse_url("[::1]:80").unwrap().as_str(), "http://[::1]/");
    for text in [
        "",
        "https://x",
        "ftp://x",
        "x/path",
        "x?q",
        "x:notaport",
        "u:p@x",
        "http://",
    ] {
        assert_eq!(parse_url(text).unwrap_err().exit, Exit::Refused, "{text}");
    }
}

#[test]
fn names_and_tokens_are_checked() {
    for name in ["a", "edge-1", "A.b_c"] {
        check_name(name).unwrap();
    }
    for name in ["", "-a", "a b", "a/b", "é", &"a".repeat(64)] {
        assert!(check_name(name).is_err(), "{name}");
    }
    assert!(Token::parse(" \n").is_err());
    assert!(Token::parse("two words").is_err());
    assert_eq!(
        format!("{:?}", Token::parse("secret").unwrap()),
        "Token(..)"
    );
}

#[test]
fn a_token_file_is_read_at_each_use() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin-token");
    let environment = Environment {
        token: TokenSource::File(path.clone()),
        ..edge("edge")
    };
    assert_eq!(
        environment.token_from(&path).unwrap_err().exit,
        Exit::Unauthorised
    );
    fs::write(&path, "one\n").unwrap();
    assert_eq!(environment.token_from(&path).unwrap().as_str(), "one");
    fs::write(&path, vec![b'a'; 5000]).unwrap();
    assert_eq!(
        environment.token_from(&path).unwrap_err().exit,
        Exit::Unauthorised
    );
}
