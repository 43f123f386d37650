//! The id that follows a request through answers, logs and the predictor.

use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, HeaderName, HeaderValue};

pub(crate) const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// A caller's id longer than this is replaced: it goes into every log line.
const LENGTH_MAX: usize = 128;

/// Makes ids that do not repeat, neither in a process nor, in practice, between two.
pub(crate) struct RequestIds {
    seed: u64,
    next: AtomicU64,
}

impl RequestIds {
    pub(crate) fn new() -> Self {
        Self {
            // An id is for finding lines in logs, not a secret: any seed will do.
            seed: getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id())),
            next: AtomicU64::new(0),
        }
    }

    /// The caller's id, or a new one.
    pub(crate) fn of(&self, headers: &HeaderMap) -> String {
        headers
            .get(HEADER)
            .and_then(|value| value.to_str().ok())
            .filter(|id| !id.is_empty() && id.len() <= LENGTH_MAX)
            .map_or_else(|| self.make(), str::to_owned)
    }

    fn make(&self) -> String {
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        format!(
            "{:016x}",
            mix(self.seed.wrapping_add(count.wrapping_mul(GOLDEN)))
        )
    }
}

/// The constants of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): a bijection, so two counts never
/// give one id.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

pub(crate) fn stamp(headers: &mut HeaderMap, id: &str) {
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert(HEADER, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_id_is_kept_where_it_is_sane() {
        let ids = RequestIds::new();
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, HeaderValue::from_str(value).unwrap());
            ids.of(&headers)
        };
        assert_eq!(of("abc-1"), "abc-1");
        assert_eq!(of("").len(), 16);
        assert_eq!(of(&"x".repeat(LENGTH_MAX + 1)).len(), 16);
        assert_ne!(ids.make(), ids.make());
    }
}
