//! From listening to the last answer: two planes, one drain.

use std::{
    convert::Infallible, future::Future, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration,
};

use bytes::Bytes;
use dunlin_sandbox::Compiler;
use futures_util::future::OptionFuture;
use http::{Request, Response};
use hyper::{
    body::{Body, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
};

use crate::{
    connection::Connection,
    error::NodeError,
    gathered::Gathered,
    http::{admin, data, grpc},
    log::Log,
    node::{Node, NodeHandle},
    prompt::Prompt,
    roaming::Roaming,
    shards::{ShardThreads, Shards},
};

/// How long the last traces may take.
const TRACES_PATIENCE: Duration = Duration::from_secs(2);

const HTTP2_STREAMS_MAX: u32 = 256;
const HTTP2_HEADER_BYTES_MAX: u32 = 64 << 10;

/// Where a node that has come up is to be found.
#[derive(Debug, Clone)]
pub struct Ready {
    pub data: SocketAddr,
    pub grpc: Option<SocketAddr>,
    pub admin: SocketAddr,
    pub token_file: PathBuf,
}

/// Runs a node until SIGTERM or SIGINT, then lets the requests in flight finish. A second signal
/// ends it at once. It answers from the start; `on_ready` is called when all that was deployed
/// before has come up, or has failed to. `compiler` compiles predictors in a process of its own; see
/// [`compile`](dunlin_sandbox::compile).
///
/// # Errors
/// It does not come up. A deployment that does not come up is no error: see `dunlin get`.
pub async fn run(
    config: edge_config::Node,
    data_dir: PathBuf,
    compiler: Option<Compiler>,
    log: Log,
    on_ready: impl FnOnce(&Ready),
) -> Result<(), NodeError> {
    let mut stop = Signals::listen()?;
    let drain_timeout = config.drain_timeout;
    let data = listen("data", config.data.listen).await?;
    let grpc = match config.grpc {
        Some(grpc) => Some(listen("grpc", grpc.listen).await?),
        None => None,
    };
    let admin = listen("admin", config.admin.listen).await?;
    let (node, restore) = Node::open(config, data_dir, compiler, log).await?;
    let ready = Ready {
        data: data.address,
        grpc: grpc.as_ref().map(|grpc| grpc.address),
        admin: admin.address,
        token_file: node.token.file().to_owned(),
    };
    let by_grpc = ready.grpc.map(tracing::field::display);
    tracing::info!(data = %ready.data, grpc = by_grpc, admin = %ready.admin, "listening");

    let threads = ShardThreads::start(node.config.threads as usize).map_err(NodeError::Threads)?;
    let shards = &threads.shards;
    let data = tokio::spawn(serve(
        data.listener,
        Arc::clone(&node),
        shards.clone(),
        http_builder(shards),
        data::handle,
    ));
    let grpc = match grpc {
        Some(grpc) => Some(tokio::spawn(serve(
            grpc.listener,
            Arc::clone(&node),
            shards.clone(),
            http_builder(shards).http2_only(),
            grpc::handler()?,
        ))),
        None => None,
    };
    let here = Shards::here();
    let admin = tokio::spawn(serve(
        admin.listener,
        Arc::clone(&node),
        here.clone(),
        http_builder(&here),
        admin::handle,
    ));
    if let Some(busy_poll) = &node.busy_poll {
        for shard in shards.iter() {
            let busy_poll = Arc::clone(busy_poll);
            shard.spawn(async move { busy_poll.here().look().await });
        }
    }
    let serving = async {
        node.bring_up(restore).await;
        on_ready(&ready);
        node.quiet.watch().await;
    };
    // A signal ends it also while it starts.
    tokio::select! {
        () = serving => {}
        () = stop.wait() => {}
    }
    tracing::info!("draining: requests in flight finish, new ones are refused");
    node.drain();
    let finished = async {
        // A task that panicked has nothing left to finish.
        let _ = tokio::join!(data, OptionFuture::from(grpc), admin, node.changed());
    };
    tokio::select! {
        () = finished => tracing::info!("drained"),
        () = tokio::time::sleep(drain_timeout) => {
            tracing::warn!("requests were still in flight after drain_timeout");
        }
        () = stop.wait() => tracing::warn!("stopped by a second signal"),
    }
    if let Some(traces) = &node.traces {
        traces.flush(TRACES_PATIENCE).await;
    }
    Ok(())
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> Result<Self, NodeError> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(NodeError::Signals)?,
            interrupt: signal(SignalKind::interrupt()).map_err(NodeError::Signals)?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

struct Plane {
    listener: TcpListener,
    address: SocketAddr,
}

async fn listen(plane: &'static str, address: SocketAddr) -> Result<Plane, NodeError> {
    let failed = |source| NodeError::Listen {
        plane,
        address,
        source,
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok(Plane { listener, address })
}

/// Accepts connections until the drain, then waits for those that are left. At the bound of
/// connections, new ones wait in the system's backlog.
async fn serve<H, F, B>(
    listener: TcpListener,
    node: Arc<Node>,
    shards: Shards,
    http: auto::Builder<Shards>,
    handle: H,
) where
    H: Fn(NodeHandle, Arc<Connection>, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + 'static,
{
    let connections_max = node.config.connections_max as usize;
    let graceful = GracefulShutdown::new();
    let connections = Arc::new(Semaphore::new(connections_max));
    loop {
        let accept = async {
            let permit = Arc::clone(&connections)
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            (permit, accept(&listener).await)
        };
        let (permit, (stream, peer)) = tokio::select! {
            accepted = accept => accepted,
            () = node.drained() => break,
        };
        let client = Connection::new(peer);
        let (shard, place) = shards.for_connection();
        let served = {
            let _there = shard.enter();
            let stream = stream.into_std().and_then(TcpStream::from_std);
            stream.map(|stream| connection(stream, &client, &node, &http, &graceful, &handle))
        };
        match served {
            Ok(served) => {
                let served = async move {
                    served.await;
                    drop(permit);
                };
                shard.spawn(Roaming::new(served, client, shards.clone(), place));
            }
            Err(error) => tracing::warn!(%error, "a connection was not accepted"),
        }
    }
    drop(listener);
    graceful.shutdown().await;
}

/// What is to be done for one connection.
fn connection<H, F, B>(
    stream: TcpStream,
    client: &Arc<Connection>,
    node: &Arc<Node>,
    http: &auto::Builder<Shards>,
    graceful: &GracefulShutdown,
    handle: &H,
) -> impl Future<Output = ()> + Send + use<H, F, B>
where
    H: Fn(NodeHandle, Arc<Connection>, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + 'static,
{
    let (client, draining) = (Arc::clone(client), node.draining());
    let gathered = Gathered::new(stream, Arc::clone(&client));
    let service = service_fn({
        let (node, client, handle) = (NodeHandle::new(node), Arc::clone(&client), handle.clone());
        move |request| {
            let answering = client.answering();
            if let Some(busy_poll) = &node.busy_poll {
                busy_poll.here().asked();
            }
            let answer = handle(node.clone(), Arc::clone(&client), request);
            let node = node.clone();
            async move {
                let answer = answer.await;
                drop(answering);
                if let Some(busy_poll) = &node.busy_poll {
                    busy_poll.here().answered();
                }
                Ok::<_, Infallible>(answer)
            }
        }
    });
    let connection = http
        .serve_connection(TokioIo::new(gathered), service)
        .into_owned();
    let connection = Prompt::new(graceful.watch(connection));
    async move {
        tokio::select! {
            ended = connection => if let Err(error) = ended {
                // The client's doing: it hung up, or spoke something else than HTTP.
                tracing::debug!(error, "a connection ended with an error");
            },
            reason = client.overstayed(draining) => {
                tracing::debug!(reason, "a connection was closed");
            }
        }
    }
}

fn http_builder(shards: &Shards) -> auto::Builder<Shards> {
    let mut http = auto::Builder::new(shards.clone());
    // For how long a connection may be without a request, and a head on its way, is the connection's
    // own look-out: a timer for each request would cost more.
    http.http1().header_read_timeout(None);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_header_list_size(HTTP2_HEADER_BYTES_MAX)
        .keep_alive_interval(Duration::from_secs(30));
    http
}

/// The next connection. Running out of file descriptors passes: connections close.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Without it Nagle's algorithm and delayed acknowledgements cost 40 ms a request.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "TCP_NODELAY is not set");
                }
                return (stream, peer);
            }
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
