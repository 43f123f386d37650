//! Bodies: reading one within its bound, and the one kind that answers have.

use std::{
    io::Read,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use flate2::read::{GzDecoder, ZlibDecoder};
use http::{HeaderMap, Response, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::runtime::Handle;

use super::failure::Failure;

pub(crate) type ReplyBody = Full<Bytes>;

pub(crate) fn full(body: impl Into<Bytes>) -> ReplyBody {
    Full::new(body.into())
}

pub(crate) fn json(body: &impl serde::Serialize) -> Response<ReplyBody> {
    let body = serde_json::to_vec(body).expect("answers have string keys and finite depth");
    let mut response = Response::new(full(body));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    response
}

/// What of a body that is not wanted is taken off the connection, and for how long.
const DISCARD_BYTES_MAX: usize = 64 << 20;
const DISCARD_TIME_MAX: Duration = Duration::from_secs(10);

/// A request's body.
///
/// What is not read of it when it is dropped is thrown away within bounds. Without that the
/// connection would be closed while the client still sends, and the answer that says why would be
/// lost on the way.
pub(crate) struct RequestBody {
    /// `None` only in `drop`.
    incoming: Option<Incoming>,
    discard: bool,
}

impl RequestBody {
    pub(crate) fn new(headers: &HeaderMap, incoming: Incoming) -> Self {
        Self {
            incoming: Some(incoming),
            // A client that asks first sends nothing once it has its answer.
            discard: !headers.contains_key(header::EXPECT),
        }
    }

    fn incoming(&self) -> &Incoming {
        self.incoming.as_ref().expect("the body was not dropped")
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let incoming = self.incoming.as_mut();
        Pin::new(incoming.expect("the body was not dropped")).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming().size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let rest = self.incoming.take().filter(|rest| !rest.is_end_stream());
        if let (true, Some(rest), Ok(runtime)) = (self.discard, rest, Handle::try_current()) {
            runtime.spawn(tokio::time::timeout(DISCARD_TIME_MAX, discard(rest)));
        }
    }
}

async fn discard(mut body: Incoming) {
    let mut discarded = 0;
    while let Some(Ok(frame)) = body.frame().await {
        discarded += frame.data_ref().map_or(0, Bytes::len);
        if discarded > DISCARD_BYTES_MAX {
            return;
        }
    }
}

/// The whole body, after any `content-encoding` was undone, of at most `limit` bytes.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: RequestBody,
    limit: u64,
) -> Result<Bytes, Failure> {
    if body.size_hint().lower() > limit {
        return Err(Failure::too_large(limit));
    }
    let bytes_max = usize::try_from(limit).unwrap_or(usize::MAX);
    let collected = Limited::new(body, bytes_max).collect().await;
    let bytes = match collected {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(Failure::too_large(limit)),
        Err(error) => {
            return Err(Failure::bad_request(format!(
                "the request body ended early: {error}"
            )));
        }
    };
    let Some(encoding) = headers.get(header::CONTENT_ENCODING) else {
        return Ok(bytes);
    };
    match encoding.as_bytes() {
        b"identity" => Ok(bytes),
        b"gzip" => inflate(GzDecoder::new(&*bytes), limit),
        b"deflate" => inflate(ZlibDecoder::new(&*bytes), limit),
        other => Err(Failure::new(
            http::StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!(
                "content-encoding {} is not understood; use gzip, deflate or none",
                String::from_utf8_lossy(other)
            ),
        )),
    }
}

fn inflate(decoder: impl Read, limit: u64) -> Result<Bytes, Failure> {
    let mut inflated = Vec::new();
    decoder
        .take(limit + 1)
        .read_to_end(&mut inflated)
        .map_err(|error| {
            Failure::bad_request(format!("the request body cannot be decompressed: {error}"))
        })?;
    if inflated.len() as u64 > limit {
        return Err(Failure::too_large(limit));
    }
    Ok(inflated.into())
}
