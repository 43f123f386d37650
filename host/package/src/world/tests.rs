use super::*;
use crate::testing::component;

const HANDLER_0_1: &str = "dunlin:predictor/handler@0.1.0";
const ALL: Grants = Grants {
    clock: true,
    random: true,
    load: true,
};
const NONE: Grants = Grants {
    clock: false,
    random: false,
    load: false,
};

#[test]
fn worlds_that_fit() {
    let fits = |imports: &[&str], exports: &[&str], tensor_handler: bool, wasi: bool| {
        let world = check(&component(imports, exports), &ALL).unwrap();
        assert_eq!(world.imports, imports);
        assert_eq!(
            (world.tensor_handler, world.wasi),
            (tensor_handler, wasi),
            "{imports:?}"
        );
    };
    fits(&[], &[HANDLER_0_1], false, false);
    fits(
        &[],
        &["dunlin:predictor/handler@0.1.17", "my:own/thing@1.0.0"],
        false,
        false,
    );
    fits(
        &[
            "dunlin:predictor/types@0.1.0",
            "dunlin:predictor/logging@0.1.3",
            "dunlin:predictor/metrics@0.1.0",
            "dunlin:predictor/clock@0.1.0",
            "dunlin:predictor/random@0.1.0",
            "wasi:nn/tensor@0.2.0-rc-2024-10-28",
            "wasi:nn/graph@0.2.0-rc-2024-10-28",
            "wasi:nn/inference@0.2.0-rc-2024-10-28",
            "wasi:nn/errors@0.2.0-rc-2024-10-28",
        ],
        &[HANDLER_0_1, "dunlin:predictor/tensor-handler@0.1.0"],
        true,
        false,
    );
    fits(
        &[
            "wasi:cli/environment@0.2.9",
            "wasi:io/streams@0.2.0",
            "wasi:clocks/wall-clock@0.2.3",
            "wasi:filesystem/preopens@0.2.6",
            "wasi:random/random@0.2.0",
        ],
        &[HANDLER_0_1],
        false,
        true,
    );
}

#[test]
fn imports_that_are_refused() {
    for (import, advice) in [
        ("wasi:http/types@0.2.0", "makes no HTTP requests"),
        ("wasi:sockets/tcp@0.2.0", "reaches no network"),
        ("wasi:cli/environment@0.3.0", "WASI 0.2"),
        ("wasi:cli/environment@0.2.0-rc-1", "WASI 0.2"),
        ("wasi:cli/environment", "WASI 0.2"),
        (
            "wasi:nn/graph@0.2.0-rc-2024-06-25",
            "has wasi:nn@0.2.0-rc-2024-10-28",
        ),
        ("wasi:nn/graph@0.2.0", "has wasi:nn@0.2.0-rc-2024-10-28"),
        ("wasi:nn/training@0.2.0-rc-2024-10-28", "does not have it"),
        ("wasi:keyvalue/store@0.2.0", "does not have it"),
        (
            "dunlin:predictor/clock@0.1.0",
            "write clock into predictor.grants",
        ),
        (
            "dunlin:predictor/random@0.1.0",
            "write random into predictor.grants",
        ),
        ("dunlin:predictor/logging@0.2.0", "fitting SDK"),
        ("dunlin:predictor/logging", "fitting SDK"),
        ("dunlin:predictor/handler@0.1.0", "no such interface"),
        ("dunlin:predictor/network@0.1.0", "no such interface"),
        ("dunlin:predictors/logging@0.1.0", "does not have it"),
        ("my-own", "no interface that a node has"),
    ] {
        let error = check(&component(&[import], &[HANDLER_0_1]), &NONE).unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("it imports {import}: ")),
            "{text}"
        );
        assert!(text.contains(advice), "{text}\nnot {advice}");
    }
    let error = check(
        &component(
            &[
                "wasi:http/types@0.2.0",
                "wasi:io/poll@0.2.0",
                "wasi:sockets/udp@0.2.0",
            ],
            &[],
        ),
        &ALL,
    );
    let said = matches!(&error, Err(WorldError::Imports(problems)) if problems.len() == 2);
    assert!(said, "all at once: {error:?}");
    let function = wat::parse_str("(component (import \"wasi:io/poll@0.2.0\" (func)))").unwrap();
    assert!(matches!(
        check(&function, &ALL),
        Err(WorldError::Imports(_))
    ));
}

#[test]
fn exports_that_are_missing() {
    let refusal = |exports: &[&str]| check(&component(&[], exports), &ALL).unwrap_err();
    assert_eq!(refusal(&[]), WorldError::NoHandler);
    assert_eq!(
        refusal(&["dunlin:predictor/tensor-handler@0.1.0"]),
        WorldError::NoHandler
    );
    assert_eq!(
        refusal(&["wasi:http/incoming-handler@0.2.0"]),
        WorldError::NoHandler
    );
    for found in ["dunlin:predictor/handler@0.2.0", "dunlin:predictor/handler"] {
        assert_eq!(
            refusal(&[found]),
            WorldError::HandlerVersion {
                found: found.to_owned()
            }
        );
    }
    // A function of that name is no interface.
    let function = wat::parse_str(
        "(component
            (core module $m (func (export \"f\")))
            (core instance $i (instantiate $m))
            (func $f (canon lift (core func $i \"f\")))
            (export \"dunlin:predictor/handler@0.1.0\" (func $f)))",
    );
    // An assembler may refuse it before this crate does.
    if let Ok(function) = function {
        assert_eq!(check(&function, &ALL).unwrap_err(), WorldError::NoHandler);
    }
}

#[test]
fn what_is_inside_does_not_count() {
    let text = "(component
        (core module (import \"env\" \"f\" (func)) (memory 1) (func))
        (component
            (import \"wasi:http/types@0.2.0\" (instance))
            (core module (func))
            (component $empty)
            (instance $i (instantiate $empty))
            (export \"dunlin:predictor/handler@0.1.0\" (instance $i)))
        (core module (func)))";
    let binary = wat::parse_str(text).unwrap();
    assert_eq!(check(&binary, &ALL).unwrap_err(), WorldError::NoHandler);
}

#[test]
fn binaries_that_are_damaged() {
    let good = component(&["dunlin:predictor/clock@0.1.0"], &[HANDLER_0_1]);
    for end in 0..good.len() {
        // The component's own end is that of its bytes: a cut between two sections is a component
        // that lacks something, and only one that lacks nothing of ours may pass.
        if let Ok(world) = check(&good[..end], &ALL) {
            assert_eq!(world.imports.len(), 1, "cut at {end}");
        }
    }
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut flipped = good.clone();
            flipped[at] ^= 1 << bit;
            let _ = check(&flipped, &ALL);
        }
    }
    assert_eq!(check(b"", &ALL), Err(WorldError::NotWasm));
    assert_eq!(
        check(b"\0asm", &ALL).map_err(|error| error.to_string().is_empty()),
        Err(false)
    );
    assert_eq!(
        check(&wat::parse_str("(module)").unwrap(), &ALL),
        Err(WorldError::CoreModule)
    );
}

/// The names in this module are those of the contract: a component that the official encoder makes
/// of the WIT files passes.
#[test]
fn the_contract_as_it_is_written() {
    let wit = concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest-sdk/wit");
    for (name, tensor_handler) in [("predictor", false), ("tensor-predictor", true)] {
        let mut resolve = wit_parser::Resolve::default();
        let (package, _) = resolve.push_dir(wit).unwrap();
        let world = resolve.select_world(&[package], Some(name)).unwrap();
        let mut module = wit_component::dummy_module(
            &resolve,
            world,
            wit_parser::ManglingAndAbi::Legacy(wit_parser::LiftLowerAbi::Sync),
        );
        let encoding = wit_component::StringEncoding::UTF8;
        wit_component::embed_component_metadata(&mut module, &resolve, world, encoding, true)
            .unwrap();
        let binary = wit_component::ComponentEncoder::default()
            .module(&module)
            .unwrap()
            .encode()
            .unwrap();
        let world = check(&binary, &ALL).unwrap();
        assert_eq!((world.tensor_handler, world.wasi), (tensor_handler, false));
        for import in [
            "dunlin:predictor/logging@0.1.0",
            "wasi:nn/graph@0.2.0-rc-2024-10-28",
        ] {
            assert!(
                world.imports.iter().any(|name| name == import),
                "{:?}",
                world.imports
            );
        }
        assert!(matches!(check(&binary, &NONE), Err(WorldError::Imports(_))));
    }
}
