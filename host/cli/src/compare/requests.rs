//! Recorded requests: the files that are sent to every route in the same way.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::exit::{Exit, Failure};
use crate::project::unreadable;
use crate::verbs::predict::content_type;

/// Of all requests together.
const BYTES_MAX: u64 = 256 << 20;
const REQUESTS_MAX: usize = 10_000;

#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// What messages call it.
    pub(crate) name: String,
    pub(crate) content_type: &'static str,
    pub(crate) body: Bytes,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Recorded {
    pub(crate) requests: Vec<Request>,
    /// The user named them: one that is refused is an error. What was found beside dunlin.yaml and
    /// is refused is left out.
    pub(crate) given: bool,
}

/// The requests in the files and folders given, else in `samples/` and `sample.json` of `folder`.
pub(crate) fn recorded(given: &[PathBuf], folder: &Path) -> Result<Recorded, Failure> {
    let mut collected = Collected::default();
    for path in given {
        collected.add(path).map_err(|failure| {
            failure.next("give files to send, or folders of them: --requests FILE|FOLDER")
        })?;
    }
    if given.is_empty() {
        for name in ["samples", "sample.json"] {
            let path = folder.join(name);
            if path.exists() {
                collected.add(&path)?;
            }
        }
    } else if collected.requests.is_empty() {
        return Err(Failure::new(
            Exit::NotFound,
            "--requests names no file to send",
        ));
    }
    Ok(Recorded {
        requests: collected.requests,
        given: !given.is_empty(),
    })
}

#[derive(Default)]
struct Collected {
    requests: Vec<Request>,
    bytes: u64,
}

impl Collected {
    /// A file, or every file directly in a folder but the hidden ones, in the order of their names.
    fn add(&mut self, path: &Path) -> Result<(), Failure> {
        let metadata = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
        if !metadata.is_dir() {
            return self.add_file(path, metadata.len());
        }
        let entries = fs::read_dir(path).map_err(|error| unreadable(path, &error))?;
        let mut files = Vec::new();
        for entry in entries {
            let file = entry.map_err(|error| unreadable(path, &error))?.path();
            let hidden = file
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with('.'));
            if !hidden && file.is_file() {
                files.push(file);
            }
        }
        files.sort();
        for file in files {
            let size = fs::metadata(&file)
                .map_err(|error| unreadable(&file, &error))?
                .len();
            self.add_file(&file, size)?;
        }
        Ok(())
    }

    fn add_file(&mut self, path: &Path, size: u64) -> Result<(), Failure> {
        self.bytes += size;
        if self.bytes > BYTES_MAX {
            let message = format!("the requests have more than {BYTES_MAX} bytes together");
            return Err(Failure::new(Exit::Refused, message).next("give fewer of them"));
        }
        let body = Bytes::from(fs::read(path).map_err(|error| unreadable(path, &error))?);
        let name = path.file_name().unwrap_or(path.as_os_str());
        let name = name.to_string_lossy().into_owned();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if !matches!(extension, Some("jsonl" | "ndjson")) {
            return self.push(Request {
                name,
                content_type: content_type(extension, &body),
                body,
            });
        }
        for (index, line) in body.split(|byte| *byte == b'\n').enumerate() {
            if !line.trim_ascii().is_empty() {
                self.push(Request {
                    name: format!("{name}:{}", index + 1),
                    content_type: "application/json",
                    body: body.slice_ref(line.trim_ascii()),
                })?;
            }
        }
        Ok(())
    }

    fn push(&mut self, request: Request) -> Result<(), Failure> {
        if self.requests.len() == REQUESTS_MAX {
            let message = format!("there are more than {REQUESTS_MAX} requests");
            return Err(Failure::new(Exit::Refused, message).next("give fewer of them"));
        }
        self.requests.push(request);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_folders_and_lines_become_requests() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("samples")).unwrap();
        for (name, text) in [
            ("sample.json", "{}"),
            ("samples/b.png", "png"),
            ("samples/a.json", "[]"),
            ("samples/.hidden", ""),
            ("lines.jsonl", "{\"a\": 1}\n\n {\"a\": 2}\r\n"),
        ] {
            fs::write(path(name), text).unwrap();
        }
        let described = |given: &[PathBuf]| -> Vec<(String, &str)> {
            let found = recorded(given, folder.path()).unwrap();
            assert_eq!(found.given, !given.is_empty());
            let requests = found.requests.into_iter();
            requests
                .map(|request| (request.name, request.content_type))
                .collect()
        };
        let json = "application/json";
        assert_eq!(
            described(&[]),
            [
                ("a.json".to_owned(), json),
                ("b.png".to_owned(), "image/png"),
                ("sample.json".to_owned(), json)
            ]
        );
        assert_eq!(
            described(&[path("lines.jsonl")]),
            [
                ("lines.jsonl:1".to_owned(), json),
                ("lines.jsonl:3".to_owned(), json)
            ]
        );
        let missing = recorded(&[path("none")], folder.path()).unwrap_err();
        assert_eq!(missing.exit, Exit::NotFound);
        fs::create_dir(path("empty")).unwrap();
        assert!(recorded(&[path("empty")], folder.path()).is_err());
    }
}
