//! Bodies: reading one within its bound, and the one kind that answers have.

use std::{
    io::{self, Read, Write as _},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use flate2::{
    Compression,
    bufread::{MultiGzDecoder, ZlibDecoder},
    write::{GzEncoder, ZlibEncoder},
};
use http::{HeaderMap, HeaderValue, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::runtime::Handle;

use super::{
    budget::{BodyBudget, Reserved},
    failure::Failure,
    stream::StreamBody,
};
use crate::connection::{Connection, Held};

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum ReplyBody {
    Whole(Full<Bytes>),
    /// In pieces, as a predictor makes them.
    Stream(Box<StreamBody>),
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Whole(whole) => {
                let frame = Pin::new(whole).poll_frame(context);
                frame.map_err(|never| match never {})
            }
            Self::Stream(stream) => stream.poll_piece(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.is_end_stream(),
            Self::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => whole.size_hint(),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

pub(crate) fn full(body: impl Into<Bytes>) -> ReplyBody {
    ReplyBody::Whole(Full::new(body.into()))
}

/// Gives the answer to its connection: what the request holds is given back when the client has
/// taken it. An answer that has no room in the node's memory is not given.
pub(crate) fn owe(
    response: Response<ReplyBody>,
    budget: &BodyBudget,
    connection: &Arc<Connection>,
    held: Arc<Held>,
) -> Result<Response<ReplyBody>, Failure> {
    let (parts, body) = response.into_parts();
    let body = match body {
        ReplyBody::Whole(whole) => {
            let bytes = whole.into_inner().unwrap_or_default();
            budget.reserve(bytes.len() as u64)?.keep(&held);
            full(connection.owe(bytes, held))
        }
        ReplyBody::Stream(mut stream) => {
            stream.owe(budget, connection, held)?;
            ReplyBody::Stream(stream)
        }
    };
    Ok(Response::from_parts(parts, body))
}

/// The bytes of a whole answer.
pub(crate) fn bytes(response: &Response<ReplyBody>) -> Option<Bytes> {
    match response.body() {
        ReplyBody::Whole(whole) => whole.clone().into_inner(),
        ReplyBody::Stream(_) => None,
    }
}

pub(crate) fn json(body: &impl serde::Serialize) -> Response<ReplyBody> {
    let body = serde_json::to_vec(body).expect("answers have string keys and finite depth");
    let mut response = Response::new(full(body));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
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

/// The whole body, after any `content-encoding` was undone, of at most `limit` bytes. Its room in
/// the node's memory is kept with what the request holds.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: RequestBody,
    limit: u64,
    budget: &BodyBudget,
    held: &Held,
) -> Result<Bytes, Failure> {
    let encoding = Encoding::of(headers)?;
    let declared = body.size_hint().lower();
    if declared > limit {
        return Err(Failure::too_large(limit));
    }
    let mut room = budget.reserve(declared)?;
    let bytes = collect(body, limit, budget, &mut room).await?;
    let bytes = match encoding {
        Encoding::Identity => bytes,
        encoding => {
            let small = bytes.len() < OFF_THREAD_BYTES;
            let budget = budget.clone();
            let inflating = move || {
                let inflated = match encoding {
                    Encoding::Deflate => {
                        let mut decoder = ZlibDecoder::new(&*bytes);
                        let inflated = inflate(&mut decoder, limit, &budget, &mut room)?;
                        match decoder.get_ref() {
                            [] => inflated,
                            _ => return Err(Failure::bad_request(BEHIND)),
                        }
                    }
                    // A file of gzip may have several members.
                    _ => inflate(MultiGzDecoder::new(&*bytes), limit, &budget, &mut room)?,
                };
                Ok((inflated, room))
            };
            let inflated;
            (inflated, room) = off_thread(small, inflating).await??;
            inflated
        }
    };
    room.keep(held);
    Ok(bytes)
}

const BEHIND: &str = "the request body cannot be decompressed: something follows its end";

enum Encoding {
    Identity,
    Gzip,
    Deflate,
}

impl Encoding {
    fn of(headers: &HeaderMap) -> Result<Self, Failure> {
        // RFC 9110, 8.4: several headers are one list, names are not sensitive to case, and x-gzip is
        // gzip.
        let values = headers.get_all(header::CONTENT_ENCODING).iter();
        let values = values.map(|value| String::from_utf8_lossy(value.as_bytes()).to_lowercase());
        let values = values.collect::<Vec<_>>().join(",");
        let names = values.split(',').map(str::trim);
        let names: Vec<&str> = names
            .filter(|name| !matches!(*name, "" | "identity"))
            .collect();
        match names[..] {
            [] => Ok(Self::Identity),
            ["gzip" | "x-gzip"] => Ok(Self::Gzip),
            ["deflate"] => Ok(Self::Deflate),
            _ => Err(Failure::new(
                http::StatusCode::UNSUPPORTED_MEDIA_TYPE,
                format!(
                    "content-encoding {} is not understood; use gzip, deflate or none",
                    names.join(", ")
                ),
            )),
        }
    }
}

impl Encoding {
    /// What the client likes best of what we write: RFC 9110, 12.5.3, without the finer points of
    /// weights. `*` does not name anything, so it is nothing.
    fn accepted(headers: &HeaderMap) -> Self {
        let values = headers.get_all(header::ACCEPT_ENCODING).iter();
        let values = values.filter_map(|value| value.to_str().ok());
        let mut best = (0.0, Self::Identity);
        for choice in values.flat_map(|value| value.split(',')) {
            let (name, weight) = choice.split_once(';').unwrap_or((choice, ""));
            let weight = weight.trim().strip_prefix("q=").map_or(Ok(1.0), str::parse);
            let encoding = match name.trim().to_ascii_lowercase().as_str() {
                "gzip" | "x-gzip" => Self::Gzip,
                "deflate" => Self::Deflate,
                "identity" => Self::Identity,
                _ => continue,
            };
            match weight {
                Ok(weight) if weight > best.0 => best = (weight, encoding),
                _ => {}
            }
        }
        best.1
    }
}

async fn collect(
    mut body: RequestBody,
    limit: u64,
    budget: &BodyBudget,
    room: &mut Reserved,
) -> Result<Bytes, Failure> {
    let declared = usize::try_from(body.size_hint().lower()).unwrap_or(0);
    let mut whole = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Failure::bad_request(format!("the request body ended early: {error}"))
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        let length = (whole.len() + joined.len() + data.len()) as u64;
        if length > limit {
            return Err(Failure::too_large(limit));
        }
        room.grow(budget, length)?;
        if whole.is_empty() && joined.is_empty() {
            // Most bodies come in one piece, and that one is not copied.
            whole = data;
        } else {
            if joined.is_empty() {
                // A body that says how long it is grows into its place, and is never held twice.
                joined.reserve(declared.max(whole.len() + data.len()));
            }
            joined.extend_from_slice(&std::mem::take(&mut whole));
            joined.extend_from_slice(&data);
        }
    }
    Ok(if joined.is_empty() {
        whole
    } else {
        joined.freeze()
    })
}

fn inflate(
    mut decoder: impl Read,
    limit: u64,
    budget: &BodyBudget,
    room: &mut Reserved,
) -> Result<Bytes, Failure> {
    let compressed = room.bytes();
    let mut inflated = Vec::new();
    loop {
        let before = inflated.len() as u64;
        room.grow(budget, compressed + (before + INFLATE_STEP).min(limit))?;
        let read = (&mut decoder).take(INFLATE_STEP).read_to_end(&mut inflated);
        let read = read.map_err(|error| {
            Failure::bad_request(format!("the request body cannot be decompressed: {error}"))
        })?;
        if inflated.len() as u64 > limit {
            return Err(Failure::too_large(limit));
        }
        if read == 0 {
            return Ok(inflated.into());
        }
    }
}

/// What is smaller is compressed and decompressed where it arrives: handing it over takes longer.
const OFF_THREAD_BYTES: usize = 16 << 10;

async fn off_thread<T: Send + 'static>(
    small: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    if small {
        return Ok(work());
    }
    let worked = tokio::task::spawn_blocking(work).await;
    worked.map_err(|panic| Failure::internal("the node failed", panic.to_string()))
}

/// Answers below this do not become smaller by much.
const COMPRESS_BYTES_MIN: usize = 1 << 10;

/// The answer as the client that sent `headers` likes it best: compressed, where it says that it
/// reads that.
pub(crate) async fn compressed(
    headers: &HeaderMap,
    mut response: Response<ReplyBody>,
) -> Result<Response<ReplyBody>, Failure> {
    let vary = HeaderValue::from_static("accept-encoding");
    response.headers_mut().insert(header::VARY, vary);
    let encoding = Encoding::accepted(headers);
    let (mut parts, body) = response.into_parts();
    let bytes = match body {
        ReplyBody::Whole(whole) => whole.into_inner().unwrap_or_default(),
        // Compressed, its pieces would not go out one by one.
        stream @ ReplyBody::Stream(_) => return Ok(Response::from_parts(parts, stream)),
    };
    if matches!(encoding, Encoding::Identity) || bytes.len() < COMPRESS_BYTES_MIN {
        return Ok(Response::from_parts(parts, full(bytes)));
    }
    let name = match encoding {
        Encoding::Deflate => "deflate",
        _ => "gzip",
    };
    let small = bytes.len() < OFF_THREAD_BYTES;
    let bytes = off_thread(small, move || compress(&bytes, &encoding)).await?;
    let bytes = bytes.map_err(|error| Failure::internal("the node failed", error.to_string()))?;
    let name = HeaderValue::from_static(name);
    parts.headers.insert(header::CONTENT_ENCODING, name);
    Ok(Response::from_parts(parts, full(bytes)))
}

fn compress(bytes: &[u8], encoding: &Encoding) -> io::Result<Vec<u8>> {
    // Numbers hardly get smaller by trying harder.
    let level = Compression::fast();
    if matches!(encoding, Encoding::Deflate) {
        let mut encoder = ZlibEncoder::new(Vec::new(), level);
        encoder.write_all(bytes)?;
        return encoder.finish();
    }
    let mut encoder = GzEncoder::new(Vec::new(), level);
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// So much is decompressed before the node's memory is looked at again.
const INFLATE_STEP: u64 = 256 << 10;
