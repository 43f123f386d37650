//! Questions that have answers.

use dunlin_tests::{
    Answer, Golden,
    infer::{INFER, asked, check_logits, digits_and_echo, question, with_input},
};
use serde_json::{Value, json};

use super::{Check, Row, post, run};

#[tokio::test(flavor = "multi_thread")]
async fn inferences_as_the_contract_has_them() {
    let node = digits_and_echo("none").await;
    let pixels: Vec<f32> = Golden::read().pixels[0].to_vec();
    let rows: Vec<Vec<f32>> = pixels.chunks(8).map(<[f32]>::to_vec).collect();
    let logits = || Check::Passes(check_logits);
    let nulls = asked(|q| {
        q["id"] = Value::Null;
        q["outputs"] = Value::Null;
        q["parameters"] = Value::Null;
        q["inputs"][0]["parameters"] = Value::Null;
    });
    let output = |parameters: Value| {
        asked(|q| q["outputs"] = json!([{"name": "logits", "parameters": parameters}]))
    };
    let with = |parameters: Value| asked(|q| q["parameters"] = parameters);
    let top = |answer: &Answer| {
        let output = &answer.json()["outputs"][0];
        assert_eq!(
            (&output["datatype"], &output["shape"]),
            (&json!("BYTES"), &json!([1, 3]))
        );
        let classes = output["data"].as_array().expect("a list");
        let best = classes[0].as_str().and_then(|class| class.split_once(':'));
        let (score, index) = best.expect("score:index");
        let golden = Golden::read().logits[0];
        let index: usize = index.parse().expect("an index");
        assert!(golden.iter().all(|logit| *logit <= golden[index]));
        let score: f32 = score.parse().expect("a number");
        assert!((score - golden[index]).abs() < 1e-4);
    };
    let raw = Golden::read().pixels[0];
    let raw: Vec<u8> = raw.iter().flat_map(|pixel| pixel.to_le_bytes()).collect();
    run(
        &node,
        vec![
            post("flat data", INFER, question(), 200, logits()),
            post(
                "nested data",
                INFER,
                with_input(|i| i["data"] = json!([[rows]])),
                200,
                logits(),
            ),
            post("nulls are absent", INFER, nulls, 200, logits()),
            post("a null for an output's parameters", INFER, output(Value::Null), 200, logits()),
            post("an output by name", INFER, output(json!({"binary_data": false})), 200, logits()),
            post("no classes", INFER, output(json!({"classification": 0})), 200, logits()),
            post(
                "the best three classes",
                INFER,
                output(json!({"classification": 3})),
                200,
                Check::Passes(top),
            ),
            post("a timeout that is long", INFER, with(json!({"timeout": 60_000_000})), 200, logits()),
            post("no timeout", INFER, with(json!({"timeout": 0})), 200, logits()),
            post("no sequence", INFER, with(json!({"sequence_id": 0})), 200, logits()),
            post("a parameter that we do not know", INFER, with(json!({"x": [1]})), 200, logits()),
            Row {
                headers: &[("inference-header-content-length", "0")],
                body: raw,
                ..post("a raw body", INFER, "", 200, Check::Passes(dunlin_tests::infer::check_binary_logits))
            },
            post(
                "KServe v1",
                "/v1/models/digits:predict",
                json!({"instances": [[rows], [rows]]}),
                200,
                Check::Passes(|answer| {
                    let predictions = &answer.json()["predictions"];
                    assert_eq!(predictions.as_array().map(Vec::len), Some(2));
                    assert_eq!(predictions[0].as_array().map(Vec::len), Some(10));
                    assert_eq!(predictions[0], predictions[1]);
                    let first = predictions[0][0].as_f64().expect("a number") as f32;
                    assert!((first - Golden::read().logits[0][0]).abs() < 1e-4);
                }),
            ),
            post(
                "KServe v1, several inputs",
                "/v1/models/echo:predict",
                json!({"instances": [{"numbers": 1, "words": "a"}, {"words": "é", "numbers": -2.5}]}),
                200,
                Check::Is(json!({"predictions": [
                    {"numbers": 1.0, "words": "a"}, {"numbers": -2.5, "words": "é"},
                ]})),
            ),
            post(
                "KServe v1, no rows",
                "/v1/models/digits:predict",
                json!({"instances": []}),
                200,
                Check::Is(json!({"predictions": []})),
            ),
            post("TorchServe", "/predictions/echo", "{}", 200, Check::Passes(|_| {})),
            post("TorchServe, a version", "/predictions/echo/1", "{}", 200, Check::Passes(|_| {})),
        ],
    )
    .await;
}
