//! What a node's `/metrics` says.

use crate::{Node, send};

/// One scrape.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub text: String,
}

impl Metrics {
    /// The value of a metric with exactly these labels, in the order in which they are written.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<f64> {
        let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
        self.text.lines().find_map(value)
    }

    /// As [`Metrics::get`].
    ///
    /// # Panics
    /// The node has no such metric.
    #[must_use]
    pub fn value(&self, name: &str) -> f64 {
        let value = self.get(name);
        value.unwrap_or_else(|| panic!("no {name} in\n{}", self.text))
    }
}

impl Node {
    /// Scrapes the node.
    ///
    /// # Panics
    /// It does not answer.
    pub async fn metrics(&self) -> Metrics {
        let url = format!("{}/metrics", self.admin_url());
        let answer = send(self.client().get(url)).await.ok();
        let content_type = answer.header("content-type");
        assert!(content_type.starts_with("text/plain; version=0.0.4"));
        Metrics {
            text: answer.text(),
        }
    }
}
