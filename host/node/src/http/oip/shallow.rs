//! JSON that is to be an object, and not deeper than anything that is meant.
//!
//! The parser itself stops at a depth only where it builds values: what is skipped may be of any.

/// As serde_json's own bound.
const DEPTH_MAX: usize = 128;

/// Says why it is none. Whether the rest is JSON at all is for the parser.
pub(super) fn object(json: &[u8]) -> Result<(), String> {
    if json.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err("it is not a JSON object".to_owned());
    }
    let mut depth = 0usize;
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err(format!("it is nested more than {DEPTH_MAX} levels deep"));
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'"' => break,
                        b'\\' => drop(bytes.next()),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_counted_outside_of_texts() {
        let nested =
            |depth: usize| format!("{{\"a\": {}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(object(nested(DEPTH_MAX - 1).as_bytes()), Ok(()));
        assert!(
            object(nested(DEPTH_MAX).as_bytes())
                .unwrap_err()
                .contains("128")
        );
        let text = format!("{{\"a\": \"\\\"{}\"}}", "[".repeat(1000));
        assert_eq!(object(text.as_bytes()), Ok(()));
        let flat = format!(" {{\"a\": [{}1]}}", "[2],".repeat(1000));
        assert_eq!(object(flat.as_bytes()), Ok(()));
        for no_object in ["", "  ", "[]", "\"{\""] {
            assert!(object(no_object.as_bytes()).is_err(), "{no_object}");
        }
    }
}
