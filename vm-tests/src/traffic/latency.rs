//! Times of single operations, and the percentiles of them that are reported.

use std::time::Duration;

/// Every sample; a run is short enough to keep them all.
#[derive(Debug, Default)]
pub(super) struct Latencies {
    samples: Vec<Duration>,
}

impl Latencies {
    pub(super) fn push(&mut self, sample: Duration) {
        self.samples.push(sample);
    }

    pub(super) fn append(&mut self, mut other: Self) {
        self.samples.append(&mut other.samples);
    }

    pub(super) fn count(&self) -> usize {
        self.samples.len()
    }

    /// Microseconds that `percent` of the samples do not exceed; `null` without samples.
    pub(super) fn percentile_us(&mut self, percent: usize) -> serde_json::Value {
        self.samples.sort_unstable();
        let last = self.samples.len().saturating_sub(1);
        match self.samples.get(last * percent / 100) {
            Some(sample) => (sample.as_secs_f64() * 1e6).into(),
            None => serde_json::Value::Null,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Latencies;

    #[test]
    fn percentiles_are_samples() {
        let mut latencies = Latencies::default();
        assert!(latencies.percentile_us(50).is_null());
        for us in (1..=101).rev() {
            latencies.push(Duration::from_micros(us));
        }
        assert_eq!(latencies.percentile_us(50).as_f64().unwrap().round(), 51.0);
        assert_eq!(latencies.percentile_us(99).as_f64().unwrap().round(), 100.0);
        assert_eq!(latencies.percentile_us(100).as_f64().unwrap().round(), 101.0);
    }
}
