//! The yardstick: hyper with the settings of the node, and nothing behind it.

use std::{convert::Infallible, io::Write as _, net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Threads of the runtime
    #[arg(long)]
    threads: usize,

    /// Read and parse the question of digits, and answer how many rows it has
    #[arg(long)]
    parse_json: bool,
}

/// Serves until it is killed. The first line on standard output says where, as a node's does.
pub(crate) fn run(args: &Args) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(args.threads)
        .enable_all()
        .build()?
        .block_on(serve(args.parse_json))
}

async fn serve(parse_json: bool) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let mut stdout = std::io::stdout();
    writeln!(
        stdout,
        "{}",
        serde_json::json!({"data": format!("http://{address}")})
    )?;
    stdout.flush()?;
    let http = http_builder();
    loop {
        let (stream, _) = listener.accept().await.context("no connection")?;
        stream.set_nodelay(true)?;
        let service = service_fn(move |request| async move {
            Ok::<_, Infallible>(if parse_json {
                rows(request).await
            } else {
                reply("text/plain", "hello")
            })
        });
        let connection = http
            .serve_connection(TokioIo::new(stream), service)
            .into_owned();
        // A connection that ends with an error is the load generator's: it counts its errors.
        tokio::spawn(connection);
    }
}

/// As the node sets it up: a difference here would be measured as one of Dunlin.
fn http_builder() -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1().header_read_timeout(None);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(256)
        .max_header_list_size(64 << 10)
        .keep_alive_interval(Duration::from_secs(30));
    http
}

#[derive(Deserialize)]
struct Question {
    pixels: [[f32; 8]; 8],
}

#[derive(Serialize)]
struct Answer {
    rows: usize,
}

async fn rows(request: Request<Incoming>) -> Response<Full<Bytes>> {
    let answer = match request.into_body().collect().await {
        Ok(body) => serde_json::from_slice::<Question>(&body.to_bytes())
            .and_then(|question| {
                serde_json::to_vec(&Answer {
                    rows: question.pixels.len(),
                })
            })
            .ok(),
        Err(_) => None,
    };
    match answer {
        Some(answer) => reply("application/json", answer),
        None => {
            let mut response = reply("text/plain", "not the question of digits");
            *response.status_mut() = StatusCode::BAD_REQUEST;
            response
        }
    }
}

fn reply(content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(content_type),
    );
    response
}
