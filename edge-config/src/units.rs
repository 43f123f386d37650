//! Sizes (`64Mi`) and durations (`250ms`): read, and shown the way they are written.

use std::time::Duration;

const SIZE_UNITS: [(&str, u64); 10] = [
    ("Ti", 1 << 40),
    ("Gi", 1 << 30),
    ("Mi", 1 << 20),
    ("Ki", 1 << 10),
    ("T", 1_000_000_000_000),
    ("G", 1_000_000_000),
    ("M", 1_000_000),
    ("K", 1_000),
    ("k", 1_000),
    ("", 1),
];

/// In milliseconds. `ms` stands before `s` and `m`: the first unit that fits is taken.
const DURATION_UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

/// Bytes. `None` is no size, or one beyond 64 bits.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    parse(text, &SIZE_UNITS)
}

/// `None` is no duration: the unit is not optional, because a bare 60 reads as seconds to one
/// person and as milliseconds to the next.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    parse(text, &DURATION_UNITS).map(Duration::from_millis)
}

pub(crate) fn show_size(bytes: u64) -> String {
    show(bytes, &SIZE_UNITS[..4]).unwrap_or_else(|| bytes.to_string())
}

pub(crate) fn show_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let largest_first = [("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
    show(millis, &largest_first).unwrap_or_else(|| format!("{millis}ms"))
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits_end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    let (_, scale) = units.iter().find(|(name, _)| *name == unit)?;
    digits.parse::<u64>().ok()?.checked_mul(*scale)
}

/// In the largest unit that leaves no remainder.
fn show(value: u64, units: &[(&str, u64)]) -> Option<String> {
    let (name, scale) = units
        .iter()
        .find(|(_, scale)| value >= *scale && value.is_multiple_of(*scale))?;
    Some(format!("{}{name}", value / scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("17", Some(17)),
            ("512Ki", Some(512 << 10)),
            ("64Mi", Some(64 << 20)),
            ("1Gi", Some(1 << 30)),
            ("2Ti", Some(2 << 40)),
            ("10M", Some(10_000_000)),
            ("1k", Some(1_000)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("16777216Ti", None),
            ("", None),
            ("Mi", None),
            ("64 Mi", None),
            ("64MB", None),
            ("64MiB", None),
            ("-1", None),
            ("+1", None),
            ("1.5Gi", None),
            ("5 potatoes", None),
            ("٣", None),
        ] {
            assert_eq!(parse_size(text), bytes, "{text:?}");
        }
        for text in ["17", "512Ki", "64Mi", "1Gi", "1025", "0"] {
            assert_eq!(show_size(parse_size(text).unwrap()), text);
        }
    }

    #[test]
    fn durations() {
        for (text, millis) in [
            ("250ms", Some(250)),
            ("5s", Some(5_000)),
            ("2m", Some(120_000)),
            ("1h", Some(3_600_000)),
            ("0s", Some(0)),
            ("60", None),
            ("s", None),
            ("1.5s", None),
            ("1d", None),
            ("-1s", None),
            ("18446744073709551615h", None),
        ] {
            assert_eq!(
                parse_duration(text),
                millis.map(Duration::from_millis),
                "{text:?}"
            );
        }
        for text in ["250ms", "5s", "2m", "1h", "90s", "0ms"] {
            assert_eq!(show_duration(parse_duration(text).unwrap()), text);
        }
    }
}
