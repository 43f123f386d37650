//! Cryptographically secure randomness, for predictors whose deployment file grants `random`. A
//! predictor that does not call it does not import it.

use crate::host;

/// What the host gives in one call.
const CALL_MAX: usize = 64 * 1024;

/// Fills the buffer. In a native test the bytes are the same each time, and not secure.
pub fn fill(buffer: &mut [u8]) {
    for part in buffer.chunks_mut(CALL_MAX) {
        // At most `CALL_MAX`, which is far below `u32::MAX`.
        part.copy_from_slice(&host::random_bytes(part.len() as u32));
    }
}

/// That many bytes.
pub fn bytes<const LEN: usize>() -> [u8; LEN] {
    let mut bytes = [0; LEN];
    fill(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_buffer_larger_than_one_call_is_filled() {
        let mut buffer = vec![0; super::CALL_MAX * 2 + 3];
        super::fill(&mut buffer);
        assert!(
            buffer
                .chunks(64)
                .all(|part| part.len() < 64 || part.iter().any(|byte| *byte != 0))
        );
    }
}
