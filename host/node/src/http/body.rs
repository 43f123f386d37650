//! Bodies: reading one within its bound, and the one kind that answers have.

use std::io::Read;

use bytes::Bytes;
use flate2::read::{GzDecoder, ZlibDecoder};
use http::{HeaderMap, Response, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};

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

/// The whole body, after any `content-encoding` was undone, of at most `limit` bytes.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: Incoming,
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
