//! Every query of the Grafana dashboard finds something on a node that has been asked.

use std::time::Duration;

use dunlin_tests::{
    HeldOut, Node, NodeOptions, Prometheus, Variant, pixels_json, repository, until_async,
};
use serde_json::{Value, json};

/// As Grafana fills in its variables.
fn filled_in(query: &str) -> String {
    query
        .replace("$deployment", ".*")
        .replace("$__rate_interval", "5s")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_finds_something() {
    let path = repository().join("docs/dashboards/dunlin.json");
    let dashboard: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut queries = Vec::new();
    for panel in panels {
        for target in panel["targets"].as_array().unwrap() {
            queries.push((
                panel["title"].clone(),
                filled_in(target["expr"].as_str().unwrap()),
            ));
        }
    }
    assert!(queries.len() > panels.len(), "{queries:?}");

    let node = Node::start(&NodeOptions::default());
    let Some(prometheus) = Prometheus::of(&node) else {
        return;
    };
    for (name, model_type, key) in [
        ("classes", "classification", "label"),
        ("values", "regression", "label"),
    ] {
        let monitored = Variant::of("digits", |yaml| {
            yaml["monitoring"] = json!({"model_type": model_type, "key": key});
        });
        node.deploy_as(name, &monitored.path()).await;
    }
    prometheus.until_some("dunlin_deployment_live").await;
    let pixels = pixels_json(&HeldOut::read().pixels[0]);
    for (panel, query) in queries {
        // A rate is one only while something happens.
        let asked = format!("{panel}: {query} gives something");
        until_async(&asked, Duration::from_secs(60), || async {
            for name in ["/classes", "/values"] {
                let _answer = node.post_json(name, &pixels).await.ok();
            }
            let found = prometheus.query(&query).await;
            found.iter().any(|(_, value)| !value.is_nan()).then_some(())
        })
        .await;
    }
}
