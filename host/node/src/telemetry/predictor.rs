//! The metrics that a predictor reports of itself.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use dunlin_sandbox::Measurement;

/// Names beyond these are dropped: a predictor cannot fill the node's memory with them.
const METRICS_MAX: usize = 64;

/// A predictor's values can be anything: from a thousandth to a million, each ten times the one
/// before.
pub(crate) const VALUE_BOUNDS: [f64; 10] = [1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6];

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum PredictorMetric {
    Counter(f64),
    Gauge(f64),
    Histogram {
        /// One for each of [`VALUE_BOUNDS`], and one for what is above the last.
        counts: [u64; VALUE_BOUNDS.len() + 1],
        sum: f64,
    },
}

impl PredictorMetric {
    fn new(measurement: Measurement) -> Self {
        match measurement {
            Measurement::CounterAdd(_) => Self::Counter(0.0),
            Measurement::GaugeSet(_) => Self::Gauge(0.0),
            Measurement::HistogramObserve(_) => Self::Histogram {
                counts: Default::default(),
                sum: 0.0,
            },
        }
    }

    /// A metric keeps the kind it was first used with; what is of another kind is dropped.
    fn take(&mut self, measurement: Measurement) {
        match (self, measurement) {
            (Self::Counter(counter), Measurement::CounterAdd(value)) => *counter += value,
            (Self::Gauge(gauge), Measurement::GaugeSet(value)) => *gauge = value,
            (Self::Histogram { counts, sum }, Measurement::HistogramObserve(value)) => {
                counts[VALUE_BOUNDS.partition_point(|bound| *bound < value)] += 1;
                *sum += value;
            }
            _ => {}
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct PredictorMetrics(Mutex<BTreeMap<String, PredictorMetric>>);

impl PredictorMetrics {
    pub(crate) fn measure(&self, name: &str, measurement: Measurement) {
        let mut metrics = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(metric) = metrics.get_mut(name) {
            metric.take(measurement);
        } else if metrics.len() < METRICS_MAX {
            let mut metric = PredictorMetric::new(measurement);
            metric.take(measurement);
            metrics.insert(name.to_owned(), metric);
        }
    }

    pub(crate) fn all(&self) -> BTreeMap<String, PredictorMetric> {
        let metrics = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        metrics.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_names_is_bounded_and_a_name_keeps_its_kind() {
        let metrics = PredictorMetrics::default();
        metrics.measure("seen", Measurement::CounterAdd(1.0));
        metrics.measure("seen", Measurement::GaugeSet(9.0));
        metrics.measure("seen", Measurement::CounterAdd(2.0));
        metrics.measure("sizes", Measurement::HistogramObserve(10.0));
        for number in 0..1000 {
            metrics.measure(&format!("m{number}"), Measurement::GaugeSet(0.0));
        }
        let all = metrics.all();
        assert_eq!(all.len(), METRICS_MAX);
        assert_eq!(all["seen"], PredictorMetric::Counter(3.0));
        let PredictorMetric::Histogram { counts, sum } = &all["sizes"] else {
            unreachable!("it was used as a histogram")
        };
        assert_eq!((counts[4], *sum), (1, 10.0));
    }
}
