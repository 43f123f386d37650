//! Protocol buffers without a schema: enough to take a field out of a message and to put one in,
//! and to leave everything else as it was.

use prost::encoding::{decode_varint, encode_varint};

/// One field of a message.
pub(crate) struct Field<'m> {
    pub(crate) number: u64,
    /// With its tag.
    pub(crate) raw: &'m [u8],
    /// Of a field with a length; empty for a number.
    pub(crate) content: &'m [u8],
}

pub(crate) fn fields(message: &[u8]) -> Result<Vec<Field<'_>>, String> {
    let varint = |rest: &mut &[u8]| decode_varint(rest).map_err(|error| error.to_string());
    let mut fields = Vec::new();
    let mut rest = message;
    while !rest.is_empty() {
        let start = rest;
        let tag = varint(&mut rest)?;
        let length = match tag & 7 {
            0 => {
                varint(&mut rest)?;
                0
            }
            1 => 8,
            5 => 4,
            2 => usize::try_from(varint(&mut rest)?).map_err(|error| error.to_string())?,
            kind => return Err(format!("a field of kind {kind}")),
        };
        let content = rest.split_at_checked(length).ok_or("a field is cut off")?;
        rest = content.1;
        fields.push(Field {
            number: tag >> 3,
            raw: &start[..start.len() - rest.len()],
            content: content.0,
        });
    }
    Ok(fields)
}

/// A field with a length, as it stands in a message.
pub(crate) fn field(number: u64, content: &[u8]) -> Vec<u8> {
    let mut field = Vec::new();
    encode_varint(number << 3 | 2, &mut field);
    encode_varint(content.len() as u64, &mut field);
    field.extend_from_slice(content);
    field
}
