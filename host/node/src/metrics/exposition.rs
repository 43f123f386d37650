//! Prometheus' text format, version 0.0.4: what every monitor reads.

use std::fmt::Write as _;

use dunlin_inference::HistogramSnapshot;

pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The text of one scrape, as it grows.
#[derive(Debug, Default)]
pub(super) struct Exposition(String);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// The samples of one name. A family without samples is not written.
pub(super) struct Family<'t> {
    text: &'t mut String,
    name: &'t str,
    help: &'t str,
    kind: Kind,
    begun: bool,
}

pub(super) type Label<'a> = (&'a str, &'a str);

impl Exposition {
    /// `help` is one line.
    pub(super) fn family<'t>(&'t mut self, name: &'t str, help: &'t str, kind: Kind) -> Family<'t> {
        Family {
            text: &mut self.0,
            name,
            help,
            kind,
            begun: false,
        }
    }

    pub(super) fn finish(self) -> String {
        self.0
    }
}

impl Family<'_> {
    pub(super) fn sample(&mut self, labels: &[Label<'_>], value: f64) {
        self.line("", labels, None, value);
    }

    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
    pub(super) fn count(&mut self, labels: &[Label<'_>], value: u64) {
        self.sample(labels, value as f64);
    }

    /// `unit` of the snapshot's numbers are one of the metric's: 1e9 for nanoseconds as seconds.
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
    pub(super) fn histogram(
        &mut self,
        labels: &[Label<'_>],
        snapshot: &HistogramSnapshot,
        unit: f64,
    ) {
        let bounds = snapshot.bounds.iter().map(|bound| *bound as f64 / unit);
        let buckets = bounds.zip(snapshot.counts.iter().copied());
        self.buckets(
            labels,
            buckets,
            snapshot.count(),
            snapshot.sum as f64 / unit,
        );
    }

    /// `buckets` are bounds with the values between them and the bound before, the smallest first.
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
    pub(super) fn buckets(
        &mut self,
        labels: &[Label<'_>],
        buckets: impl Iterator<Item = (f64, u64)>,
        count: u64,
        sum: f64,
    ) {
        let mut below = 0;
        for (bound, values) in buckets {
            below += values;
            self.line("_bucket", labels, Some(bound), below as f64);
        }
        self.line("_bucket", labels, Some(f64::INFINITY), count as f64);
        self.line("_sum", labels, None, sum);
        self.line("_count", labels, None, count as f64);
    }

    fn line(&mut self, suffix: &str, labels: &[Label<'_>], bound: Option<f64>, value: f64) {
        if !self.begun {
            self.begun = true;
            let kind = match self.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            let (name, help) = (self.name, self.help);
            let _written = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        }
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        let bound = bound.map(number);
        let bound = bound.as_deref().map(|bound| ("le", bound));
        let mut before = '{';
        for (name, value) in labels.iter().copied().chain(bound) {
            self.text.push(before);
            before = ',';
            self.text.push_str(name);
            self.text.push_str("=\"");
            escape(self.text, value);
            self.text.push('"');
        }
        if before == ',' {
            self.text.push('}');
        }
        let _written = writeln!(self.text, " {}", number(value));
    }
}

fn number(value: f64) -> String {
    if value == f64::INFINITY {
        "+Inf".to_owned()
    } else if value == f64::NEG_INFINITY {
        "-Inf".to_owned()
    } else {
        value.to_string()
    }
}

fn escape(text: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape() {
        let mut text = Exposition::default();
        let mut family = text.family("a_total", "Counted", Kind::Counter);
        family.sample(&[], 3.0);
        family.sample(&[("x", "1"), ("y", "\"\\\n")], 0.5);
        text.family("empty", "Nothing", Kind::Gauge);
        let mut family = text.family("t_seconds", "Took", Kind::Histogram);
        let snapshot = HistogramSnapshot {
            bounds: &[10_000, 2_000_000_000],
            counts: vec![1, 2, 3],
            sum: 1_500_000_000,
        };
        family.histogram(&[("d", "m")], &snapshot, 1e9);
        let expected = "\
# HELP a_total Counted
# TYPE a_total counter
a_total 3
a_total{x=\"1\",y=\"\\\"\\\\\\n\"} 0.5
# HELP t_seconds Took
# TYPE t_seconds histogram
t_seconds_bucket{d=\"m\",le=\"0.00001\"} 1
t_seconds_bucket{d=\"m\",le=\"2\"} 3
t_seconds_bucket{d=\"m\",le=\"+Inf\"} 6
t_seconds_sum{d=\"m\"} 1.5
t_seconds_count{d=\"m\"} 6
";
        assert_eq!(text.finish(), expected);
    }
}
