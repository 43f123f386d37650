//! A package on its way in, and how slowly it may come.
//!
//! An upload takes one of few places (`uploads_max`) and a thread while it arrives: one that only
//! keeps its place, a byte now and then, is ended.

use std::{io, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use tokio::time::Instant;

use super::body::RequestBody;

/// In each such time of waiting for the client, so much must come: 1 KiB a second. A slow line is
/// a hundred times faster.
const WINDOW: Duration = Duration::from_secs(60);
const WINDOW_BYTES_MIN: u64 = 60 << 10;

/// The bytes of an upload, with an error in their place when too few come.
pub(super) fn frames(body: RequestBody) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::unfold((body, Pace::default()), |(mut body, mut pace)| async {
        loop {
            // Only the client's time counts: not that of a disk that is slow to take the bytes.
            let asked = Instant::now();
            let frame = tokio::time::timeout(pace.left(), body.frame()).await;
            let data = match frame {
                Ok(None) => return None,
                Ok(Some(Ok(frame))) => Frame::into_data(frame).unwrap_or_default(),
                Ok(Some(Err(error))) => return Some((Err(io::Error::other(error)), (body, pace))),
                Err(_elapsed) => Bytes::new(),
            };
            if let Err(slow) = pace.came(asked.elapsed(), data.len() as u64) {
                return Some((Err(slow), (body, pace)));
            }
            if !data.is_empty() {
                return Some((Ok(data), (body, pace)));
            }
        }
    })
    .fuse()
}

/// What came in the window that is under way.
#[derive(Debug, Default)]
struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    fn left(&self) -> Duration {
        WINDOW.saturating_sub(self.waited)
    }

    /// So many bytes came after so much waiting.
    fn came(&mut self, waited: Duration, bytes: u64) -> io::Result<()> {
        self.waited += waited;
        self.bytes += bytes;
        if self.waited < WINDOW {
            return Ok(());
        }
        let window = std::mem::take(self);
        if window.bytes >= WINDOW_BYTES_MIN {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!(
                "the upload is too slow: {} bytes came in {} s, and {WINDOW_BYTES_MIN} is the least",
                window.bytes,
                WINDOW.as_secs()
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether an upload lives through 1000 pieces of `bytes`, `gap` apart.
    fn lives(gap: Duration, bytes: u64) -> bool {
        let mut pace = Pace::default();
        (0..1000).all(|_| {
            // As `frames` does: no wait is longer than what is left of the window.
            let mut gap = gap;
            while gap > pace.left() {
                let left = pace.left();
                if pace.came(left, 0).is_err() {
                    return false;
                }
                gap -= left;
            }
            pace.came(gap, bytes).is_ok()
        })
    }

    #[test]
    fn only_what_stalls_is_ended() {
        let second = Duration::from_secs(1);
        for (gap, bytes, expected) in [
            // A byte keeps nothing alive.
            (second, 1, false),
            (Duration::from_secs(30), 1, false),
            (second, 900, false),
            (second, 1 << 10, true),
            (second / 1000, 16 << 10, true),
            // A pause within the window, and one that is longer than it.
            (Duration::from_secs(45), 1 << 20, true),
            (Duration::from_secs(130), 1 << 20, false),
            (Duration::ZERO, 1, true),
        ] {
            assert_eq!(lives(gap, bytes), expected, "{bytes} bytes every {gap:?}");
        }
        let mut pace = Pace::default();
        let slow = pace.came(WINDOW, 5).unwrap_err();
        assert_eq!(slow.kind(), io::ErrorKind::TimedOut);
        assert!(slow.to_string().contains("5 bytes came in 60 s"), "{slow}");
    }
}
