//! Which other files an ONNX model keeps its weights in.
//!
//! An ONNX file is a protobuf `ModelProto` (onnx.proto of ONNX 1.x). A tensor whose weights are not
//! inline has `external_data` entries, of which `location` is a path relative to the model. Only
//! the fields on the way to them are read; everything else is skipped by its length, so the cost is
//! that of the structure and not of the weights.

use std::collections::BTreeSet;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use edge_config::{BackendChoice, Model};

/// Levels of nested messages. A graph inside a node's attribute adds three.
const DEPTH_MAX: u32 = 64;
/// Files that one model may refer to.
const LOCATIONS_MAX: usize = 4096;
const LOCATION_BYTES_MAX: u64 = 4096;

/// Why a file is not read as an ONNX model.
#[derive(Debug, thiserror::Error)]
pub enum OnnxError {
    #[error("cannot read the model")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Malformed(&'static str),
}

/// Whether the deployment file says that a model is an ONNX file.
pub(crate) fn is_format_of(model: &Model) -> bool {
    match model.backend {
        BackendChoice::Tract | BackendChoice::OnnxRuntime => true,
        BackendChoice::TorchScript => false,
        BackendChoice::Auto => model.path.as_str().ends_with(".onnx"),
    }
}

/// The files that an ONNX model keeps weights in, as it names them: relative to its own folder.
pub fn external_locations(mut model: impl Read + Seek) -> Result<BTreeSet<String>, OnnxError> {
    let len = model.seek(SeekFrom::End(0))?;
    model.seek(SeekFrom::Start(0))?;
    let mut walk = Walk {
        input: BufReader::with_capacity(64 << 10, model),
        locations: BTreeSet::new(),
    };
    walk.message(Message::Model, len, 0)?;
    Ok(walk.locations)
}

/// The messages that may lead to a tensor.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Message {
    Model,
    Graph,
    Function,
    Node,
    Attribute,
    SparseTensor,
    Tensor,
    ExternalData,
}

impl Message {
    /// The message in a field; `None` is skipped.
    fn field(self, number: u64) -> Option<Self> {
        match (self, number) {
            (Self::Model, 7) => Some(Self::Graph),
            (Self::Model, 25) => Some(Self::Function),
            (Self::Graph, 1) | (Self::Function, 7) => Some(Self::Node),
            (Self::Graph, 5) => Some(Self::Tensor),
            (Self::Graph, 15) => Some(Self::SparseTensor),
            (Self::Node, 5) | (Self::Function, 11) => Some(Self::Attribute),
            (Self::Attribute, 5 | 10) => Some(Self::Tensor),
            (Self::Attribute, 6 | 11) => Some(Self::Graph),
            (Self::Attribute, 22 | 23) => Some(Self::SparseTensor),
            (Self::SparseTensor, 1 | 2) => Some(Self::Tensor),
            (Self::Tensor, 13) => Some(Self::ExternalData),
            _ => None,
        }
    }
}

struct Walk<R> {
    input: BufReader<R>,
    locations: BTreeSet<String>,
}

impl<R: Read + Seek> Walk<R> {
    fn message(&mut self, message: Message, len: u64, depth: u32) -> Result<(), OnnxError> {
        if depth > DEPTH_MAX {
            return Err(OnnxError::Malformed(
                "is nested too deeply for an ONNX model",
            ));
        }
        let (mut left, mut key, mut value) = (len, None, None);
        while left > 0 {
            let tag = self.varint(&mut left)?;
            let number = tag >> 3;
            match tag & 7 {
                0 => {
                    self.varint(&mut left)?;
                }
                1 => self.skip(8, &mut left)?,
                5 => self.skip(4, &mut left)?,
                2 => {
                    let len = self.varint(&mut left)?;
                    if message == Message::ExternalData && (number == 1 || number == 2) {
                        let text = self.text(len, &mut left)?;
                        *(if number == 1 { &mut key } else { &mut value }) = Some(text);
                    } else if let Some(inner) = message.field(number) {
                        take(len, &mut left)?;
                        self.message(inner, len, depth + 1)?;
                    } else {
                        self.skip(len, &mut left)?;
                    }
                }
                _ => return Err(OnnxError::Malformed("is not an ONNX model")),
            }
        }
        if let (Some(b"location"), Some(location)) = (key.as_deref(), value) {
            let location = String::from_utf8(location)
                .map_err(|_| OnnxError::Malformed("names a file that is not UTF-8"))?;
            self.locations.insert(location);
            if self.locations.len() > LOCATIONS_MAX {
                return Err(OnnxError::Malformed("keeps its weights in too many files"));
            }
        }
        Ok(())
    }

    fn varint(&mut self, left: &mut u64) -> Result<u64, OnnxError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            take(1, left)?;
            let mut byte = [0];
            self.input.read_exact(&mut byte)?;
            value |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] < 0x80 {
                return Ok(value);
            }
        }
        Err(OnnxError::Malformed("is not an ONNX model"))
    }

    fn text(&mut self, len: u64, left: &mut u64) -> Result<Vec<u8>, OnnxError> {
        take(len, left)?;
        if len > LOCATION_BYTES_MAX {
            return Err(OnnxError::Malformed("names a file with too long a path"));
        }
        let mut text = Vec::new();
        (&mut self.input).take(len).read_to_end(&mut text)?;
        Ok(text)
    }

    fn skip(&mut self, len: u64, left: &mut u64) -> Result<(), OnnxError> {
        take(len, left)?;
        // `left` began as the file's length, which no file system lets beyond this.
        let len = i64::try_from(len).map_err(|_| OnnxError::Malformed("is too large"))?;
        Ok(self.input.seek_relative(len)?)
    }
}

/// A field never reaches past its message.
fn take(len: u64, left: &mut u64) -> Result<(), OnnxError> {
    *left = left
        .checked_sub(len)
        .ok_or(OnnxError::Malformed("is not a whole ONNX model"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::testing::{onnx_model, protobuf_field as field};

    fn locations(model: &[u8]) -> Result<Vec<String>, OnnxError> {
        external_locations(Cursor::new(model)).map(|found| found.into_iter().collect())
    }

    #[test]
    fn locations_in_every_place() {
        assert_eq!(locations(b"").unwrap(), Vec::<String>::new());
        assert_eq!(locations(&onnx_model(&[])).unwrap(), Vec::<String>::new());
        assert_eq!(
            locations(&onnx_model(&["a", "b/c", "a"])).unwrap(),
            ["a", "b/c"]
        );

        let entry = [field(1, b"location"), field(2, b"deep")].concat();
        let tensor = [field(9, &[0; 100_000]), field(13, &entry)].concat();
        // A constant in the body of a loop.
        let node = field(5, &field(6, &field(1, &field(5, &field(5, &tensor)))));
        let model = [
            vec![0x08, 0x0a],
            field(7, &field(1, &node)),
            vec![0x3d, 1, 2, 3, 4],
        ];
        assert_eq!(locations(&model.concat()).unwrap(), ["deep"]);

        // The offset and the length of a tensor in its file are no locations.
        let entry = [field(1, b"offset"), field(2, b"0")].concat();
        let model = field(7, &field(5, &field(13, &entry)));
        assert_eq!(locations(&model).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn malformed_models() {
        let model = onnx_model(&["weights.data"]);
        // The two fields before the graph have 8 bytes: cut there, it is a model without a graph.
        for cut in 9..model.len() {
            assert!(locations(&model[..cut]).is_err(), "cut at {cut}");
        }
        let mut nested = Vec::new();
        for _ in 0..40 {
            // A graph in an attribute of a node of a graph.
            nested = field(1, &field(5, &field(6, &nested)));
        }
        for bad in [
            field(7, &nested),
            vec![0xff; 20],
            vec![0x3b],
            b"not a model, but a text".to_vec(),
            [vec![0x3a], vec![0xff; 9], vec![0x01]].concat(),
            field(
                7,
                &field(
                    5,
                    &field(
                        13,
                        &[field(1, b"location"), field(2, &[b'a'; 5000])].concat(),
                    ),
                ),
            ),
            field(
                7,
                &field(
                    5,
                    &field(13, &[field(1, b"location"), field(2, b"\xff")].concat()),
                ),
            ),
        ] {
            assert!(locations(&bad).is_err(), "{:?}", &bad[..bad.len().min(20)]);
        }
    }
}
