//! The two kinds of body that an HTML form sends.

use crate::Error;

/// More fields than any form of a predictor has; the answer at the bound is a 400.
const FIELDS_MAX: usize = 1000;

/// The fields of a form in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Form {
    fields: Vec<FormField>,
}

/// One field: text, or an uploaded file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FormField {
    pub name: String,
    /// The name that the caller gives the file; not a path to rely on.
    pub file_name: Option<String>,
    pub content_type: Option<String>,
    pub value: Vec<u8>,
}

impl Form {
    pub fn fields(&self) -> &[FormField] {
        &self.fields
    }

    /// The first field of that name.
    pub fn get(&self, name: &str) -> Option<&FormField> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// The first field of that name as text.
    pub fn text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(&self.get(name)?.value).ok()
    }

    /// The first uploaded file, whatever its name.
    pub fn file(&self) -> Option<&FormField> {
        self.fields.iter().find(|field| field.file_name.is_some())
    }

    pub(crate) fn from_urlencoded(body: &[u8]) -> Result<Self, Error> {
        let mut form = Self::default();
        for (name, value) in form_urlencoded::parse(body) {
            form.push(FormField {
                name: name.into_owned(),
                value: value.into_owned().into_bytes(),
                ..FormField::default()
            })?;
        }
        Ok(form)
    }

    /// RFC 7578.
    pub(crate) fn from_multipart(content_type: &str, body: &[u8]) -> Result<Self, Error> {
        let boundary = parameter(content_type, "boundary")
            .filter(|boundary| !boundary.is_empty() && boundary.len() <= 70)
            .ok_or_else(|| Error::bad_request("the content type of the form has no boundary"))?;
        let delimiter = format!("\r\n--{boundary}");
        // The first delimiter may stand at the very start, without the line break.
        let mut rest = match body.strip_prefix(&delimiter.as_bytes()[2..]) {
            Some(rest) => rest,
            None => split(body, delimiter.as_bytes()).ok_or_else(cut_short)?.1,
        };
        let mut form = Self::default();
        while !rest.starts_with(b"--") {
            let (_, part) = split(rest, b"\r\n").ok_or_else(cut_short)?;
            let (part, after) = split(part, delimiter.as_bytes()).ok_or_else(cut_short)?;
            form.push(field(part)?)?;
            rest = after;
        }
        Ok(form)
    }

    fn push(&mut self, field: FormField) -> Result<(), Error> {
        if self.fields.len() == FIELDS_MAX {
            return Err(Error::bad_request(format_args!(
                "the form has more than {FIELDS_MAX} fields"
            )));
        }
        self.fields.push(field);
        Ok(())
    }
}

/// One part: headers, an empty line, the value.
fn field(part: &[u8]) -> Result<FormField, Error> {
    let (headers, value) = match part.strip_prefix(b"\r\n") {
        Some(value) => (&b""[..], value),
        None => split(part, b"\r\n\r\n").ok_or_else(cut_short)?,
    };
    let headers = std::str::from_utf8(headers)
        .map_err(|_| Error::bad_request("a part of the form has headers that are not UTF-8"))?;
    let mut field = FormField {
        value: value.to_vec(),
        ..FormField::default()
    };
    let mut named = false;
    for (name, value) in headers
        .split("\r\n")
        .filter_map(|line| line.split_once(':'))
    {
        if name.eq_ignore_ascii_case("content-disposition") {
            if let Some(name) = parameter(value, "name") {
                field.name = name;
                named = true;
            }
            field.file_name = parameter(value, "filename");
        } else if name.eq_ignore_ascii_case("content-type") {
            field.content_type = Some(value.trim().to_owned());
        }
    }
    if named {
        Ok(field)
    } else {
        Err(Error::bad_request("a part of the form has no name"))
    }
}

fn cut_short() -> Error {
    Error::bad_request("the multipart form is cut short or has another boundary")
}

/// The value of `; name=value` or `; name="value"`. A backslash in quotes takes the next character
/// as it is.
fn parameter(header: &str, wanted: &str) -> Option<String> {
    let (_, mut rest) = header.split_once(';')?;
    loop {
        let (name, after) = rest.split_once('=')?;
        let name = name.trim_start_matches([';', ' ', '\t']).trim_end();
        let (value, after) = match after.strip_prefix('"') {
            None => {
                let end = after.find(';').unwrap_or(after.len());
                (after[..end].trim().to_owned(), &after[end..])
            }
            Some(quoted) => {
                let mut value = String::new();
                let mut characters = quoted.char_indices();
                let end = loop {
                    match characters.next()? {
                        (at, '"') => break at + 1,
                        (_, '\\') => value.push(characters.next()?.1),
                        (_, character) => value.push(character),
                    }
                };
                (value, &quoted[end..])
            }
        };
        if name.eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
        rest = after;
    }
}

fn split<'a>(bytes: &'a [u8], delimiter: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let first = *delimiter.first()?;
    let mut from = 0;
    loop {
        let at = from + bytes.get(from..)?.iter().position(|byte| *byte == first)?;
        if bytes[at..].starts_with(delimiter) {
            return Some((&bytes[..at], &bytes[at + delimiter.len()..]));
        }
        from = at + 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TYPE: &str = "multipart/form-data; charset=utf-8; boundary=\"a b\"";

    /// Name, name of the file, value.
    type Field<'a> = (&'a str, Option<&'a str>, &'a str);

    fn check(body: &str, expected: Result<&[Field<'_>], &str>) {
        let form = Form::from_multipart(TYPE, body.as_bytes());
        match expected {
            Ok(expected) => {
                let form = form.unwrap();
                let fields: Vec<_> = form
                    .fields()
                    .iter()
                    .map(|field| {
                        let value = std::str::from_utf8(&field.value).unwrap();
                        (field.name.as_str(), field.file_name.as_deref(), value)
                    })
                    .collect();
                assert_eq!(fields, expected, "{body:?}");
            }
            Err(part) => {
                let error = form.unwrap_err();
                assert!(
                    matches!(&error, Error::BadRequest(m) if m.contains(part)),
                    "{error}"
                );
            }
        }
    }

    #[test]
    fn multipart_forms_are_read_or_refused() {
        check("--a b--\r\n", Ok(&[]));
        check(
            "preamble\r\n--a b\r\nContent-Disposition: form-data; name=x\r\n\r\n1\r\n\
             --a b  \r\ncontent-disposition: form-data; name=\"f\"; filename=\"a\\\"; b.png\"\r\n\
             Content-Type: image/png\r\n\r\nline\r\n--a\r\n\r\n--a b--epilogue",
            Ok(&[
                ("x", None, "1"),
                ("f", Some("a\"; b.png"), "line\r\n--a\r\n"),
            ]),
        );
        check(
            "--a b\r\nContent-Disposition: form-data; name=x\r\n\r\n\r\n--a b--",
            Ok(&[("x", None, "")]),
        );
        check(
            "--a b\r\nContent-Disposition: form-data; name=x\r\n\r\n1",
            Err("cut short"),
        );
        check("", Err("cut short"));
        check("--other--", Err("cut short"));
        check("--a b\r\n\r\nvalue\r\n--a b--", Err("no name"));
    }

    #[test]
    fn urlencoded_forms_are_decoded() {
        let form = Form::from_urlencoded(b"a=1&b=%C3%A9+x&a=2").unwrap();
        assert_eq!(
            (form.text("a"), form.text("b"), form.text("c")),
            (Some("1"), Some("é x"), None)
        );
        let many = "a&".repeat(FIELDS_MAX + 1);
        assert!(matches!(
            Form::from_urlencoded(many.as_bytes()),
            Err(Error::BadRequest(_))
        ));
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(body in "(--a b|\r\n|name=|;|\"|--|[a-z: ]){0,30}") {
            let _ = Form::from_multipart(TYPE, body.as_bytes());
        }

        #[test]
        fn no_header_makes_it_panic(header in "(boundary|=|;|\"|\\\\| |é){0,30}") {
            let _ = Form::from_multipart(&header, b"--x--");
        }
    }
}
