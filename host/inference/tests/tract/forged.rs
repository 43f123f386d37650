//! ONNX files of a few bytes, by hand.

/// A length-delimited field of a protobuf message.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    let mut length = content.len();
    while length >= 0x80 {
        field.push(length as u8 | 0x80);
        length >>= 7;
    }
    field.push(length as u8);
    field.extend_from_slice(content);
    field
}

fn varint(number: u8, mut value: u64) -> Vec<u8> {
    let mut field = vec![number << 3];
    while value >= 0x80 {
        field.push(value as u8 | 0x80);
        value >>= 7;
    }
    field.push(value as u8);
    field
}

/// An ONNX file of one operator, which makes `y` of the inputs. `x` is an input of the model, and
/// `shape` a list of integers in the file. What `y` is need not be declared.
pub(crate) fn forged(
    operator: &str,
    inputs: &[&str],
    x: Option<&[u64]>,
    constant: &[u64],
    y: Option<&[u64]>,
) -> Vec<u8> {
    let value = |name: &str, shape: Option<&[u64]>| {
        let Some(shape) = shape else {
            return field(1, name.as_bytes());
        };
        let dims = shape.iter().flat_map(|size| field(1, &varint(1, *size)));
        let dims: Vec<u8> = dims.collect();
        let tensor = [varint(1, 1), field(2, &dims)].concat();
        [field(1, name.as_bytes()), field(2, &field(1, &tensor))].concat()
    };
    let inputs = inputs.iter().flat_map(|name| field(1, name.as_bytes()));
    let node = [
        inputs.collect(),
        field(2, b"y"),
        field(4, operator.as_bytes()),
    ];
    let numbers = constant.iter().flat_map(|number| number.to_le_bytes());
    let numbers: Vec<u8> = numbers.collect();
    let constant = [
        varint(1, constant.len() as u64),
        varint(2, 7),
        field(8, b"shape"),
        field(9, &numbers),
    ];
    let graph = [
        field(1, &node.concat()),
        field(2, b"g"),
        field(5, &constant.concat()),
        x.map_or_else(Vec::new, |shape| field(11, &value("x", Some(shape)))),
        field(12, &value("y", y)),
    ];
    let opset = varint(2, 13);
    [varint(1, 8), field(7, &graph.concat()), field(8, &opset)].concat()
}
