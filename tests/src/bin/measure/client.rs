//! HTTP/1.1 from this program: single questions, and load where there is no wrk.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, runtime::Runtime, task::JoinSet};

/// One request, to be sent many times.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: Vec<(header::HeaderName, String)>,
    pub(crate) body: Bytes,
}

#[derive(Debug)]
pub(crate) struct Client {
    runtime: Runtime,
}

pub(crate) type Connection = SendRequest<Full<Bytes>>;

impl Client {
    pub(crate) fn new(threads: usize) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()?;
        Ok(Self { runtime })
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Asks once, on a connection of its own.
    pub(crate) fn ask(
        &self,
        server: SocketAddr,
        question: &Question,
    ) -> Result<(StatusCode, Bytes)> {
        self.runtime.block_on(async {
            let mut connection = connect(server).await?;
            ask(&mut connection, question).await
        })
    }

    /// The microseconds that each answer took while so many connections asked one question after
    /// another. Any answer but 200 ends it.
    pub(crate) fn load(
        &self,
        server: SocketAddr,
        question: &Question,
        connections: usize,
        duration: Duration,
    ) -> Result<Vec<f64>> {
        self.runtime.block_on(async {
            let mut askers = JoinSet::new();
            let end = Instant::now() + duration;
            for _ in 0..connections {
                let question = question.clone();
                let mut connection = connect(server).await?;
                askers.spawn(async move {
                    let mut took = Vec::new();
                    let mut now = Instant::now();
                    while now < end {
                        let (status, body) = ask(&mut connection, &question).await?;
                        ensure!(status == StatusCode::OK, "answer {status}: {body:?}");
                        let answered = Instant::now();
                        took.push((answered - now).as_secs_f64() * 1e6);
                        now = answered;
                    }
                    Ok(took)
                });
            }
            let mut all = Vec::new();
            while let Some(asker) = askers.join_next().await {
                all.extend(asker??);
            }
            Ok(all)
        })
    }
}

pub(crate) async fn connect(server: SocketAddr) -> Result<Connection> {
    let stream = TcpStream::connect(server)
        .await
        .with_context(|| format!("cannot connect to {server}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // What goes wrong on it is also the answer to the request that is under way.
    tokio::spawn(connection);
    Ok(sender)
}

pub(crate) async fn ask(
    connection: &mut Connection,
    question: &Question,
) -> Result<(StatusCode, Bytes)> {
    let mut request = Request::builder()
        .method(&question.method)
        .uri(&question.path)
        .header(header::HOST, "measure");
    for (name, value) in &question.headers {
        request = request.header(name, value);
    }
    let request = request.body(Full::new(question.body.clone()))?;
    connection.ready().await?;
    let response = connection.send_request(request).await?;
    let status = response.status();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}
