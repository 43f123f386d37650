//! digits over HTTP without Wasm: what somebody would write by hand, with hyper, `serde_json` and this
//! host's engine.
//!
//! `native_server COMPONENTS BACKEND MODEL THREADS` prints a JSON object with its address and serves until it
//! is killed. `cargo xtask bench` sets it beside the node.

#![expect(clippy::print_stdout, reason = "the result goes to whoever called it")]

#[expect(dead_code, reason = "the benchmarks beside it use more")]
#[path = "../benches/digits/mod.rs"]
mod digits;

use std::{convert::Infallible, net::Ipv4Addr, path::Path, sync::Arc};

use bytes::Bytes;
use dunlin_inference::BackendKind;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::digits::{Digits, Failure};

/// The program's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [components, backend, model, threads] = &arguments[..] else {
        return Err("usage: native_server COMPONENTS BACKEND MODEL THREADS".into());
    };
    let backend = BackendKind::from_name(backend).ok_or("there is no such backend")?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.parse()?)
        .enable_all()
        .build()?
        .block_on(serve(Path::new(components), model, backend))
}

async fn serve(components: &Path, model: &str, backend: BackendKind) -> Result<(), Failure> {
    let digits = Arc::new(Digits::load(components, model, backend).await?);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{{\"data\": \"http://{}\"}}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let digits = Arc::clone(&digits);
        let service = service_fn(move |request| {
            let digits = Arc::clone(&digits);
            async move { Ok::<_, Infallible>(answer(&digits, request).await) }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        // A connection that ends with an error is the load generator's: it counts its errors.
        tokio::spawn(connection);
    }
}

async fn answer(digits: &Digits, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let answer = async {
        let body = request.into_body().collect().await?.to_bytes();
        digits.native(&body).await
    };
    match answer.await {
        Ok(answer) => {
            let mut response = Response::new(Full::new(answer.into()));
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, json);
            response
        }
        Err(error) => {
            let mut response = Response::new(Full::new(error.to_string().into()));
            *response.status_mut() = StatusCode::BAD_REQUEST;
            response
        }
    }
}
