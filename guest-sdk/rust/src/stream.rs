//! An answer in pieces: each goes to the caller while the predictor works on the next.

use std::fmt;

use serde::Serialize;

use crate::{Error, Response, host};

/// The body of an answer that was begun with [`Response::stream`].
///
/// ```
/// # use dunlin_sdk::{Config, Error, Predictor, Request, Response};
/// # struct Countdown;
/// # impl Predictor for Countdown {
/// #     fn init(_: Config) -> Result<Self, Error> { Ok(Self) }
/// fn predict(&mut self, _: Request) -> Result<Response, Error> {
///     let mut body = Response::text("").stream()?;
///     for number in (1..=3).rev() {
///         body.write(format!("{number}\n"))?;
///     }
///     Ok(body.finish())
/// }
/// # }
/// # Countdown.predict(Request::new("GET", "/"))?;
/// # let streamed = dunlin_sdk::testing::streamed().unwrap();
/// # assert_eq!(streamed.pieces, [b"3\n", b"2\n", b"1\n"]);
/// # Ok::<_, Error>(())
/// ```
#[derive(Debug)]
pub struct BodyWriter(host::BodyWriter);

/// Server-sent events: what a browser's `EventSource` reads. Begun with [`Response::events`].
///
/// ```
/// # use dunlin_sdk::{Error, Response};
/// # fn tokens() -> Result<Response, Error> {
/// let mut events = Response::events()?;
/// events.json(&["a", "token"])?;
/// events.named("end", "")?;
/// Ok(events.finish())
/// # }
/// # tokens()?;
/// # let pieces = dunlin_sdk::testing::streamed().unwrap().pieces;
/// # assert_eq!(pieces, [&b"data: [\"a\",\"token\"]\n\n"[..], b"event: end\ndata: \n\n"]);
/// # Ok::<_, Error>(())
/// ```
#[derive(Debug)]
pub struct EventWriter(BodyWriter);

/// Why no more of an answer can be sent. Return it with `?`, or what there is to clean up first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamError {
    /// The caller is gone: nobody reads what would come.
    Closed,
    /// `limits.deadline` of the deployment is near. Return soon: at the deadline the host ends the
    /// call.
    Deadline,
    /// More than `limits.response_body` in all.
    TooLarge,
    /// An answer was begun before, its headers are too many, or this is no call of `predict`.
    Refused,
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the caller is gone",
            Self::Deadline => "the deadline of the answer is near",
            Self::TooLarge => "the answer is larger than limits.response_body",
            Self::Refused => "an answer cannot be begun here, or not with these headers",
        })
    }
}

impl std::error::Error for StreamError {}

impl From<StreamError> for Error {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Closed | StreamError::Deadline => Self::unavailable(error),
            StreamError::TooLarge | StreamError::Refused => Self::internal(error),
        }
    }
}

impl Response {
    /// Sends the status and the headers now; what is in the body already is the first piece.
    pub fn stream(self) -> Result<BodyWriter, StreamError> {
        let (status, headers, body) = self.into_parts();
        let mut writer = BodyWriter(host::BodyWriter::start(status, headers)?);
        if !body.is_empty() {
            writer.write(body)?;
        }
        Ok(writer)
    }

    /// Begins an answer of server-sent events, `text/event-stream`.
    pub fn events() -> Result<EventWriter, StreamError> {
        let response = Self::empty(200)
            .with_header("content-type", "text/event-stream")
            .with_header("cache-control", "no-store");
        response.stream().map(EventWriter)
    }
}

impl BodyWriter {
    /// Sends a piece. It waits while the caller does not take what came before.
    pub fn write(&mut self, piece: impl AsRef<[u8]>) -> Result<(), StreamError> {
        self.0.write(piece.as_ref())
    }

    /// What `predict` returns when everything is sent. An error in its place breaks the answer off,
    /// and the caller sees that.
    pub fn finish(self) -> Response {
        Response::empty(200)
    }
}

impl EventWriter {
    /// One event; a text of several lines is one event, too.
    pub fn send(&mut self, data: &str) -> Result<(), StreamError> {
        self.0.write(event(None, data))
    }

    /// One event with a name: `addEventListener(name, …)` in a browser. A name is one line.
    pub fn named(&mut self, name: &str, data: &str) -> Result<(), StreamError> {
        self.0.write(event(Some(name), data))
    }

    /// One event with JSON as its data.
    pub fn json<T: Serialize + ?Sized>(&mut self, data: &T) -> Result<(), Error> {
        Ok(self.send(&serde_json::to_string(data)?)?)
    }

    /// As [`BodyWriter::finish`].
    pub fn finish(self) -> Response {
        self.0.finish()
    }
}

/// The event stream format of the HTML standard.
fn event(name: Option<&str>, data: &str) -> String {
    let mut event = String::new();
    if let Some(name) = name {
        let line = name.lines().next().unwrap_or_default();
        event.push_str(&format!("event: {line}\n"));
    }
    let data = data.replace("\r\n", "\n").replace('\r', "\n");
    for line in data.split('\n') {
        event.push_str(&format!("data: {line}\n"));
    }
    event.push('\n');
    event
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn an_event_is_as_many_lines_as_its_data() {
        assert_eq!(
            event(None, "a\nb\r\nc\r"),
            "data: a\ndata: b\ndata: c\ndata: \n\n"
        );
        assert_eq!(event(Some("end\nx"), ""), "event: end\ndata: \n\n");
    }

    #[test]
    fn an_answer_is_begun_once() {
        let first = Response::text("0").with_status(202).stream().unwrap();
        assert_eq!(
            Response::empty(200).stream().unwrap_err(),
            StreamError::Refused
        );
        first.finish();
        let streamed = testing::streamed().unwrap();
        assert_eq!(
            (streamed.status, streamed.pieces),
            (202, vec![b"0".to_vec()])
        );
        assert!(testing::streamed().is_none());
    }

    #[test]
    fn a_caller_who_leaves_is_an_error() {
        testing::caller_leaves_after(1);
        let mut events = Response::events().unwrap();
        events.send("1").unwrap();
        let error = events.send("2").unwrap_err();
        assert_eq!(error, StreamError::Closed);
        assert_eq!(Error::from(error), Error::unavailable("the caller is gone"));
    }
}
