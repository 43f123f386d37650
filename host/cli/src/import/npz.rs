//! Reads the samples that `numpy.savez` wrote: a zip of `.npy` files.
//!
//! A `.npy` file is a magic, a version, the length of a header, the header (a Python dictionary as
//! text) and the elements; see numpy.lib.format. Elements are numbers or booleans; everything that
//! would be a pickle is refused.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use dunlin_inference::{DType, Tensor};
use zip::ZipArchive;

use crate::exit::{Exit, Failure};
use crate::project::unreadable;

/// Of one array: samples are a handful of rows.
const ARRAY_BYTES_MAX: u64 = 1 << 30;
const MAGIC: &[u8] = b"\x93NUMPY";

/// The arrays by their names.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, Tensor>, Failure> {
    let refuse = |reason: String| {
        Failure::new(
            Exit::Refused,
            format!("{} is no .npz file of numbers: {reason}", path.display()),
        )
        .next("save one: numpy.savez(path, name_of_the_input=array)")
    };
    let file =
        File::open(path).map_err(|error| unreadable(path, &error).next("correct --samples"))?;
    let mut archive = ZipArchive::new(file).map_err(|error| refuse(error.to_string()))?;
    let mut arrays = BTreeMap::new();
    for index in 0..archive.len() {
        let entry = archive
            .by_index(index)
            .map_err(|error| refuse(error.to_string()))?;
        let name = entry.name().map_err(|error| refuse(error.to_string()))?;
        let name = name.trim_end_matches(".npy").to_owned();
        let mut bytes = Vec::new();
        entry
            .take(ARRAY_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| refuse(format!("{name}: {error}")))?;
        if bytes.len() as u64 > ARRAY_BYTES_MAX {
            return Err(refuse(format!(
                "{name} is larger than {ARRAY_BYTES_MAX} bytes"
            )));
        }
        let tensor = array(&bytes).map_err(|reason| refuse(format!("{name}: {reason}")))?;
        arrays.insert(name, tensor);
    }
    Ok(arrays)
}

fn array(file: &[u8]) -> Result<Tensor, String> {
    let whole = || "it ends early".to_owned();
    let rest = file.strip_prefix(MAGIC).ok_or("it is no array")?;
    let (version, rest) = rest.split_first_chunk::<2>().ok_or_else(whole)?;
    let (length, rest) = match version[0] {
        1 => {
            let (length, rest) = rest.split_first_chunk().ok_or_else(whole)?;
            (usize::from(u16::from_le_bytes(*length)), rest)
        }
        _ => {
            let (length, rest) = rest.split_first_chunk().ok_or_else(whole)?;
            (u32::from_le_bytes(*length) as usize, rest)
        }
    };
    let (header, data) = rest.split_at_checked(length).ok_or_else(whole)?;
    let header = String::from_utf8_lossy(header);
    let descr = field(&header, "descr").ok_or("its header has no descr")?;
    let descr = descr.trim_matches(['\'', '"']);
    let (order, kind) = descr.split_at_checked(1).unwrap_or(("", descr));
    let dtype = dtype(kind).ok_or_else(|| format!("elements of type {descr} are no numbers"))?;
    if order == ">" {
        return Err(
            "its elements are big-endian; save array.astype(array.dtype.newbyteorder('<'))"
                .to_owned(),
        );
    }
    let shape = field(&header, "shape").ok_or("its header has no shape")?;
    let sizes = shape.trim_matches(['(', ')']).split(',');
    let sizes = sizes.map(str::trim).filter(|size| !size.is_empty());
    let shape: Vec<u64> = sizes
        .map(|size| size.parse().map_err(|_| format!("its shape is {shape}")))
        .collect::<Result<_, _>>()?;
    if shape.len() > 1 && field(&header, "fortran_order") == Some("True") {
        return Err("it is in column order; save numpy.ascontiguousarray(array)".to_owned());
    }
    Tensor::new(dtype, &shape, data.to_vec()).map_err(|error| error.to_string())
}

/// The text of a value of the header's dictionary.
fn field<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    let at = header.find(&format!("'{key}':"))?;
    let value = header[at + key.len() + 3..].trim_start();
    let end = match value.starts_with('(') {
        true => value.find(')')? + 1,
        false => value.find([',', '}'])?,
    };
    Some(value[..end].trim())
}

fn dtype(kind: &str) -> Option<DType> {
    Some(match kind {
        "b1" => DType::Bool,
        "u1" => DType::U8,
        "u2" => DType::U16,
        "u4" => DType::U32,
        "u8" => DType::U64,
        "i1" => DType::I8,
        "i2" => DType::I16,
        "i4" => DType::I32,
        "i8" => DType::I64,
        "f2" => DType::F16,
        "f4" => DType::F32,
        "f8" => DType::F64,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use zip::write::{SimpleFileOptions, ZipWriter};

    use super::*;

    fn npy(header: &str, data: &[u8]) -> Vec<u8> {
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        let length = u16::try_from(header.len()).unwrap();
        file.extend_from_slice(&length.to_le_bytes());
        file.extend_from_slice(header.as_bytes());
        file.extend_from_slice(data);
        file
    }

    fn header(descr: &str, order: &str, shape: &str) -> String {
        format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}   \n")
    }

    #[test]
    fn arrays_become_tensors() {
        let floats: Vec<u8> = [1.0f32, -2.5]
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        let tensor = array(&npy(&header("<f4", "False", "(2, 1)"), &floats)).unwrap();
        assert_eq!(
            tensor,
            Tensor::from_values(&[2, 1], &[1.0f32, -2.5]).unwrap()
        );
        let tensor = array(&npy(&header("|b1", "False", "(2,)"), &[1, 0])).unwrap();
        assert_eq!((tensor.dtype(), tensor.shape()), (DType::Bool, &[2u64][..]));
        let scalar = array(&npy(&header("<i8", "True", "()"), &7i64.to_le_bytes())).unwrap();
        assert_eq!(scalar, Tensor::from_values(&[], &[7i64]).unwrap());
    }

    #[test]
    fn what_is_no_array_of_numbers_is_refused() {
        let table = [
            (b"NUMPY".to_vec(), "it is no array"),
            (npy("{'descr'", &[])[..12].to_vec(), "it ends early"),
            (
                npy(&header("|O", "False", "(1,)"), &[0; 8]),
                "are no numbers",
            ),
            (
                npy(&header("<U3", "False", "(1,)"), &[0; 12]),
                "are no numbers",
            ),
            (npy(&header(">f4", "False", "(1,)"), &[0; 4]), "big-endian"),
            (
                npy(&header("<f4", "True", "(2, 2)"), &[0; 16]),
                "column order",
            ),
            (
                npy(&header("<f4", "False", "(2, 2)"), &[0; 12]),
                "takes 16 bytes, got 12",
            ),
            (
                npy(&header("<f4", "False", "(-1,)"), &[]),
                "its shape is (-1,)",
            ),
        ];
        for (file, reason) in table {
            let said = array(&file).unwrap_err();
            assert!(said.contains(reason), "{reason}: {said}");
        }
    }

    #[test]
    fn a_zip_of_arrays_is_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("samples.npz");
        let mut zip = ZipWriter::new(File::create(&path).unwrap());
        for name in ["a", "b"] {
            zip.start_file(format!("{name}.npy"), SimpleFileOptions::default())
                .unwrap();
            zip.write_all(&npy(&header("|u1", "False", "(3,)"), &[1, 2, 3]))
                .unwrap();
        }
        zip.finish().unwrap();
        let arrays = read(&path).unwrap();
        assert_eq!(arrays.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(arrays["a"].shape(), [3]);

        std::fs::write(&path, "numbers").unwrap();
        assert_eq!(read(&path).unwrap_err().exit, Exit::Refused);
        let missing = read(&folder.path().join("none.npz")).unwrap_err();
        assert_eq!(missing.exit, Exit::NotFound);
    }
}
