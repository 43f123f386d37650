//! What JSON becomes which tensor, what is refused, and what comes back.

use super::*;

fn parsed(dtype: DType, text: &str) -> Result<Vec<u8>, String> {
    let raw: &RawValue = serde_json::from_str(text).unwrap();
    parse(dtype, raw).map_err(|error| error.to_string())
}

#[test]
fn elements_become_bytes_however_they_are_nested() {
    let le = |values: &[f32]| {
        values
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        parsed(DType::F32, "[1, 2.5, -3e0]"),
        Ok(le(&[1.0, 2.5, -3.0]))
    );
    assert_eq!(
        parsed(DType::F32, "[[1], [[2.5]], -3]"),
        Ok(le(&[1.0, 2.5, -3.0]))
    );
    assert_eq!(parsed(DType::Bool, "[true, [false]]"), Ok(vec![1, 0]));
    assert_eq!(parsed(DType::I8, "[-128, 127]"), Ok(vec![0x80, 0x7f]));
    assert_eq!(
        parsed(DType::Bytes, r#"["", "é"]"#).unwrap(),
        [0, 0, 0, 0, 2, 0, 0, 0, 0xc3, 0xa9]
    );
    assert_eq!(
        parsed(DType::U64, "[18446744073709551615]"),
        Ok(vec![0xff; 8])
    );
    assert_eq!(parsed(DType::F16, "[1]"), Ok(vec![0x00, 0x3c]));
}

#[test]
fn what_does_not_fit_is_named() {
    let cases = [
        (DType::U8, "[256]", "256 is out of range for UINT8"),
        (DType::I32, "[1.5]", "a whole number for INT32"),
        (DType::F32, r#"["1"]"#, "a number for FP32"),
        (DType::F32, "[null]", "a number for FP32"),
        (DType::Bool, "[1]", "true or false for BOOL"),
        (DType::Bytes, "[1]", "a string for BYTES"),
        (DType::F32, r#"{"a": 1}"#, "a number for FP32"),
    ];
    for (dtype, text, reason) in cases {
        let error = parsed(dtype, text).unwrap_err();
        assert!(error.contains(reason), "{text}: {error}");
    }
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    assert!(
        parsed(DType::F32, &deep)
            .unwrap_err()
            .contains("recursion limit")
    );
}

#[test]
fn nesting_is_the_shape() {
    let shape = |text: &str| {
        let raw: &RawValue = serde_json::from_str(text).unwrap();
        let parsed = parse_nested(DType::F32, raw).map_err(|error| error.to_string());
        parsed.map(|(shape, bytes)| {
            assert_eq!(
                bytes.len() as u64,
                4 * shape.iter().product::<u64>(),
                "{text}"
            );
            shape
        })
    };
    let shapes: [(&str, &[u64]); 8] = [
        ("2.5", &[]),
        ("7", &[]),
        ("[1, 2.5]", &[2]),
        ("[]", &[0]),
        ("[[], []]", &[2, 0]),
        ("[[1, 2, 3], [4, 5, 6]]", &[2, 3]),
        ("[[[1], [2]]]", &[1, 2, 1]),
        ("[[[]]]", &[1, 1, 0]),
    ];
    for (text, expected) in shapes {
        assert_eq!(shape(text).as_deref(), Ok(expected), "{text}");
    }
    let ragged = [
        (
            "[[1, 2], [3]]",
            "a list has 1 elements, and another of the same depth 2",
        ),
        (
            "[[], [1]]",
            "a list has 1 elements, and another of the same depth 0",
        ),
        (
            "[[[1]], [[]]]",
            "a list has 0 elements, and another of the same depth 1",
        ),
        ("[[1], 2]", "an element stands beside lists"),
        ("[[], 2.5]", "an element stands beside lists"),
        ("[1, [2]]", "a list stands beside elements"),
        ("[[1], [[2]]]", "a list stands beside elements"),
    ];
    for (text, reason) in ragged {
        let error = shape(text).unwrap_err();
        assert!(error.contains(reason), "{text}: {error}");
    }
}

#[test]
fn a_tensor_is_nested_as_its_shape() {
    let nested = |tensor: &Tensor| serde_json::to_string(&Nested(tensor)).unwrap();
    let values: Vec<i64> = (0..6).collect();
    for (shape, expected) in [
        (&[6][..], "[0,1,2,3,4,5]"),
        (&[2, 3], "[[0,1,2],[3,4,5]]"),
        (&[3, 1, 2], "[[[0,1]],[[2,3]],[[4,5]]]"),
    ] {
        assert_eq!(
            nested(&Tensor::from_values(shape, &values).unwrap()),
            expected
        );
    }
    assert_eq!(
        nested(&Tensor::from_values(&[], &[-2.5f32]).unwrap()),
        "-2.5"
    );
    assert_eq!(
        nested(&Tensor::from_values(&[], &[f64::NAN]).unwrap()),
        "null"
    );
    assert_eq!(
        nested(&Tensor::new(DType::Bool, &[], vec![1]).unwrap()),
        "true"
    );
    assert_eq!(
        nested(&Tensor::zeros(DType::F32, &[2, 0]).unwrap()),
        "[[],[]]"
    );
    let words = Tensor::from_byte_strings(&[2, 2], ["a", "", "bc", "d"]).unwrap();
    assert_eq!(nested(&words), r#"[["a",""],["bc","d"]]"#);
    let word = Tensor::from_byte_strings(&[], ["a"]).unwrap();
    assert_eq!(nested(&word), r#""a""#);
}

#[test]
fn elements_come_back_as_json() {
    let flat = |tensor: &Tensor| serde_json::to_string(&Flat(tensor)).unwrap();
    let floats = Tensor::from_values(&[3], &[0.1f32, f32::NAN, -0.0]).unwrap();
    assert_eq!(flat(&floats), "[0.1,null,-0.0]");
    let flags = Tensor::new(DType::Bool, &[2], vec![1, 0]).unwrap();
    assert_eq!(flat(&flags), "[true,false]");
    let words = Tensor::from_byte_strings(&[2], ["a\"b", ""]).unwrap();
    assert_eq!(flat(&words), r#"["a\"b",""]"#);
}
