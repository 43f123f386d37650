//! What a node counts is what was sent, and a real Prometheus reads it.

use dunlin_tests::{
    HeldOut, Node, NodeOptions, Prometheus, Variant, package, pixels_json, promtool_complaints,
};
use serde_json::json;

/// Seven pictures, three requests that are wrong, and two that end in a trap.
async fn traffic(node: &Node) {
    let held_out = HeldOut::read();
    for pixels in &held_out.pixels[..7] {
        let _answer = node.post_json("/digits", &pixels_json(pixels)).await.ok();
    }
    for _ in 0..3 {
        let _error = node.post_json("/digits", &json!({})).await.error(400);
    }
    for _ in 0..2 {
        let answer = node.post_json("/misbehave/trap", &json!({})).await;
        let _error = answer.error(500);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_count_what_was_sent() {
    let node = Node::start(&NodeOptions::default());
    node.deploy(&package("digits")).await;
    node.deploy(&package("misbehave")).await;
    traffic(&node).await;
    let metrics = node.metrics().await;
    let digits = "deployment=\"digits\",revision=\"1\"";
    let misbehave = "deployment=\"misbehave\",revision=\"1\"";
    let table = [
        (
            format!("dunlin_requests_total{{{digits},code=\"2xx\"}}"),
            7.0,
        ),
        (
            format!("dunlin_requests_total{{{digits},code=\"4xx\"}}"),
            3.0,
        ),
        (
            format!("dunlin_requests_total{{{digits},code=\"5xx\"}}"),
            0.0,
        ),
        (
            format!("dunlin_requests_total{{{misbehave},code=\"2xx\"}}"),
            0.0,
        ),
        (
            format!("dunlin_requests_total{{{misbehave},code=\"5xx\"}}"),
            2.0,
        ),
        (
            format!("dunlin_request_duration_seconds_count{{{digits}}}"),
            10.0,
        ),
        (
            format!("dunlin_instance_wait_seconds_count{{{digits}}}"),
            10.0,
        ),
        (
            format!("dunlin_guest_duration_seconds_count{{{digits}}}"),
            10.0,
        ),
        (
            format!("dunlin_model_inferences_total{{{digits},model=\"digits\"}}"),
            7.0,
        ),
        (
            format!("dunlin_model_queue_seconds_count{{{digits},model=\"digits\"}}"),
            7.0,
        ),
        (
            format!("dunlin_model_compute_seconds_count{{{digits},model=\"digits\"}}"),
            7.0,
        ),
        (
            format!("dunlin_model_batch_rows_bucket{{{digits},model=\"digits\",le=\"1\"}}"),
            7.0,
        ),
        // The same model, loaded once for both: each counts its own calls.
        (
            format!("dunlin_model_inferences_total{{{misbehave},model=\"digits\"}}"),
            0.0,
        ),
        (
            "nv_inference_request_success{model=\"digits\",version=\"1\"}".to_owned(),
            7.0,
        ),
        (
            "nv_inference_count{model=\"digits\",version=\"1\"}".to_owned(),
            7.0,
        ),
        ("dunlin_requests_in_flight".to_owned(), 0.0),
    ];
    for (name, expected) in table {
        assert_eq!(metrics.value(&name), expected, "{name}");
    }
    let guest = metrics.value(&format!("dunlin_guest_duration_seconds_sum{{{digits}}}"));
    let request = metrics.value(&format!("dunlin_request_duration_seconds_sum{{{digits}}}"));
    let compute = format!("dunlin_model_compute_seconds_sum{{{digits},model=\"digits\"}}");
    let compute = metrics.value(&compute);
    assert!(0.0 < compute && compute < guest && guest < request);
    let resident = metrics.value("process_resident_memory_bytes");
    let seen = node.rss_bytes() as f64;
    assert!(
        (resident / seen - 1.0).abs() < 0.2,
        "{resident} is not {seen}"
    );
    // A family is declared once, and no line is said twice.
    let mut lines: Vec<&str> = metrics.text.lines().collect();
    let count = lines.len();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), count, "{}", metrics.text);
}

/// A deploy begins new figures and keeps the old ones for a while.
#[tokio::test(flavor = "multi_thread")]
async fn each_revision_has_figures_of_its_own() {
    let node = Node::start(&NodeOptions::default());
    let pixels = pixels_json(&HeldOut::read().pixels[0]);
    for _ in 0..2 {
        node.deploy(&package("digits")).await;
        let _answer = node.post_json("/digits", &pixels).await.ok();
    }
    let _answer = node.post_json("/digits", &pixels).await.ok();
    let metrics = node.metrics().await;
    for (revision, expected) in [(1, 1.0), (2, 2.0)] {
        let labels = format!("deployment=\"digits\",revision=\"{revision}\"");
        let requests = metrics.value(&format!("dunlin_requests_total{{{labels},code=\"2xx\"}}"));
        let model = format!("dunlin_model_inferences_total{{{labels},model=\"digits\"}}");
        assert_eq!((requests, metrics.value(&model)), (expected, expected));
    }
    let described = node.get("digits").await.unwrap();
    assert_eq!(described["requests"]["total"], 3, "a name counts on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_has_its_reason() {
    let node = Node::start(&NodeOptions::default());
    let small = Variant::of("misbehave", |yaml| {
        yaml["limits"]["request_body"] = "1Ki".into();
        yaml["limits"]["deadline"] = "100ms".into();
    });
    node.deploy(&small.path()).await;
    let rejected = async |reason: &str| {
        let name =
            format!("dunlin_rejections_total{{deployment=\"misbehave\",reason=\"{reason}\"}}");
        node.metrics().await.value(&name)
    };
    assert_eq!(rejected("request_body").await, 0.0);
    let large = vec![b' '; 2 << 10];
    let answer = node.post("/misbehave", "application/json", large).await;
    let _error = answer.error(413);
    assert_eq!(rejected("request_body").await, 1.0);
    let answer = node.post_json("/misbehave/loop", &json!({})).await;
    let _error = answer.error(504);
    assert_eq!(rejected("deadline").await, 1.0);
    // What the predictor refuses is its own affair.
    let before = node.metrics().await;
    let _error = node.post_json("/misbehave/nothing", &json!({})).await;
    let after = node.metrics().await;
    let rejections = |text: &str| {
        let lines = text
            .lines()
            .filter(|line| line.starts_with("dunlin_rejections"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(rejections(&before.text), rejections(&after.text));
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_reads_what_was_sent() {
    let node = Node::start(&NodeOptions::default());
    let Some(prometheus) = Prometheus::of(&node) else {
        return;
    };
    node.deploy(&package("digits")).await;
    node.deploy(&package("misbehave")).await;
    prometheus.until_value("up", 1.0).await;
    traffic(&node).await;
    for (query, expected) in [
        ("sum(dunlin_requests_total{deployment='digits'})", 10.0),
        ("sum(dunlin_requests_total{code='5xx'})", 2.0),
        (
            "sum(nv_inference_request_success{model='digits',version='1'})",
            7.0,
        ),
        (
            "dunlin_request_duration_seconds_bucket{deployment='digits',le='+Inf'}",
            10.0,
        ),
    ] {
        prometheus.until_value(query, expected).await;
    }
    let p99 = "histogram_quantile(0.99, dunlin_model_compute_seconds_bucket{deployment='digits'})";
    let p99 = prometheus.until_some(p99).await;
    assert!(
        matches!(p99[..], [(_, seconds)] if 0.0 < seconds && seconds < 42.0),
        "{p99:?}"
    );

    // Triton's names are Triton's; nothing is to be said against ours.
    let text = node.metrics().await.text;
    let complaints = promtool_complaints(&text).expect("promtool comes with Prometheus");
    let ours: Vec<&String> = complaints
        .iter()
        .filter(|line| !line.starts_with("nv_inference_"))
        .collect();
    assert!(ours.is_empty(), "{ours:#?}");
    let broken = promtool_complaints("a_total 1\n").expect("as above");
    assert!(!broken.is_empty(), "promtool finds what is wrong");
}
