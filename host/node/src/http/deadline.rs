//! By when a request must have its answer: the deployment's `limits.deadline`, or less where the
//! client says that it does not wait for so long.

use std::time::{Duration, Instant};

use dunlin_sandbox::Deadline;
use edge_config::Limits;
use http::HeaderMap;

use super::failure::Failure;

/// Milliseconds that the client waits.
pub(crate) const HEADER: &str = "x-request-timeout-ms";

/// `started` is when the request's head was there.
pub(crate) fn of(
    headers: &HeaderMap,
    limits: &Limits,
    started: Instant,
) -> Result<Deadline, Failure> {
    let budget = of_client(headers)?.map_or(limits.deadline, |asked| asked.min(limits.deadline));
    Ok(Deadline::since(started, budget))
}

/// So long the client waits, where it says so.
pub(crate) fn of_client(headers: &HeaderMap) -> Result<Option<Duration>, Failure> {
    let value = headers.get(HEADER);
    value.map(|value| asked(value.as_bytes())).transpose()
}

fn asked(value: &[u8]) -> Result<Duration, Failure> {
    let text = str::from_utf8(value).unwrap_or_default();
    let milliseconds = text.trim().parse::<u32>().ok();
    let milliseconds = milliseconds.filter(|milliseconds| *milliseconds > 0);
    let milliseconds = milliseconds.ok_or_else(|| {
        Failure::bad_request(format!(
            "{HEADER} is not a whole number of milliseconds from 1 to {}",
            u32::MAX
        ))
    })?;
    Ok(Duration::from_millis(milliseconds.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_may_wait_for_less_and_not_for_more() {
        assert_eq!(asked(b"250").ok(), Some(Duration::from_millis(250)));
        assert_eq!(asked(b" 1 ").ok(), Some(Duration::from_millis(1)));
        for wrong in [
            &b""[..],
            b"0",
            b"-1",
            b"1.5",
            b"5s",
            b"99999999999",
            b"\xff",
        ] {
            assert!(asked(wrong).is_err(), "{wrong:?}");
        }
    }
}
