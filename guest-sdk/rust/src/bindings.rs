//! The contract itself, as wit-bindgen makes it of `guest-sdk/wit`: for what the SDK has no word
//! for. Exists on WebAssembly only.

wit_bindgen::generate!({
    path: "../wit",
    world: "predictor",
    runtime_path: "::dunlin_sdk::__private::wit_bindgen::rt",
    export_macro_name: "export_predictor",
    pub_export_macro: true,
    default_bindings_module: "::dunlin_sdk::bindings",
    generate_all,
});

/// The second export, of a predictor that serves tensors itself: a world of its own beside the
/// first one, so that a predictor without it does not carry it.
pub mod tensors {
    wit_bindgen::generate!({
        path: "../wit",
        inline: "
            package dunlin:sdk;
            world tensors { export dunlin:predictor/tensor-handler@0.1.0; }
        ",
        world: "dunlin:sdk/tensors",
        with: {
            "dunlin:predictor/types@0.1.0": crate::bindings::dunlin::predictor::types,
        },
        runtime_path: "::dunlin_sdk::__private::wit_bindgen::rt",
        export_macro_name: "export_tensors",
        pub_export_macro: true,
        default_bindings_module: "::dunlin_sdk::bindings::tensors",
    });
}
