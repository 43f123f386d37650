//! What `wasmtime serve` runs beside Dunlin in the benchmark: it reads the question of digits, parses
//! it, and answers how many rows it has. No model: a yardstick for what is around one.

// No native linker takes the names that a component exports.
#![cfg(target_family = "wasm")]

use serde::{Deserialize, Serialize};
use wasip2::{
    exports::http::incoming_handler::Guest,
    http::types::{
        Fields, IncomingBody, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
    },
    io::streams::StreamError,
};

/// More than a question has.
const BODY_MAX: u64 = 64 << 10;

struct ParseJson;

#[derive(Deserialize)]
struct Question {
    pixels: [[f32; 8]; 8],
}

#[derive(Serialize)]
struct Answer {
    rows: usize,
}

impl Guest for ParseJson {
    fn handle(request: IncomingRequest, answer: ResponseOutparam) {
        match body(&request).and_then(|body| rows(&body)) {
            Some(json) => respond(answer, 200, "application/json", &json),
            None => respond(answer, 400, "text/plain", b"not the question of digits"),
        }
    }
}

wasip2::http::proxy::export!(ParseJson);

fn rows(body: &[u8]) -> Option<Vec<u8>> {
    let question: Question = serde_json::from_slice(body).ok()?;
    let rows = question.pixels.len();
    serde_json::to_vec(&Answer { rows }).ok()
}

fn body(request: &IncomingRequest) -> Option<Vec<u8>> {
    let incoming = request.consume().ok()?;
    let stream = incoming.stream().ok()?;
    let mut body = Vec::new();
    let whole = loop {
        match stream.blocking_read(BODY_MAX) {
            Ok(part) => body.extend(part),
            Err(StreamError::Closed) => break true,
            Err(StreamError::LastOperationFailed(_)) => break false,
        }
        if body.len() as u64 > BODY_MAX {
            break false;
        }
    };
    drop(stream);
    drop(IncomingBody::finish(incoming));
    whole.then_some(body)
}

/// A caller who is gone needs no answer: what fails here has nobody to tell.
fn respond(outparam: ResponseOutparam, status: u16, content_type: &str, body: &[u8]) {
    let headers = Fields::new();
    let _ = headers.set("content-type", &[content_type.as_bytes().to_vec()]);
    let length = body.len().to_string().into_bytes();
    let _ = headers.set("content-length", &[length]);
    let response = OutgoingResponse::new(headers);
    let _ = response.set_status_code(status);
    let Ok(outgoing) = response.body() else {
        return;
    };
    ResponseOutparam::set(outparam, Ok(response));
    if let Ok(stream) = outgoing.write() {
        let _ = stream.blocking_write_and_flush(body);
    }
    let _ = OutgoingBody::finish(outgoing, None);
}
