//! An index of Python packages for `pip`, which does what a bad one does.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
};

use super::{PATIENCE, User};

/// Starts an installation and waits until it is in the middle of the download.
pub(crate) fn start_install(user: &User, index: &Index) -> Child {
    let mut command = user.command(&["backend", "install", "onnxruntime"]);
    let child = index
        .lend(&mut command)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("dunlin can be run");
    let begun = index.begun.recv_timeout(PATIENCE);
    begun.expect("pip asks for the wheel");
    child
}

/// An index of Python packages, on this machine, with one wheel in it.
pub(crate) struct Index {
    address: SocketAddr,
    pub(crate) begun: mpsc::Receiver<()>,
    gone: mpsc::Receiver<()>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wheel {
    /// Begins, and never ends.
    Endless,
    /// Has the right name and other bytes.
    Other,
}

impl Index {
    pub(crate) fn start(wheel: Wheel) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it listens");
        let (begun_sender, begun) = mpsc::channel();
        let (gone_sender, gone) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (begun, gone) = (begun_sender.clone(), gone_sender.clone());
                thread::spawn(move || serve(stream, wheel, &begun, &gone));
            }
        });
        Self {
            address,
            begun,
            gone,
        }
    }

    /// Makes it the only index that pip knows.
    pub(crate) fn lend<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        for variable in ["PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"] {
            command.env_remove(variable);
        }
        command
            .env("PIP_INDEX_URL", format!("http://{}/simple/", self.address))
            .env("PIP_CONFIG_FILE", "/dev/null")
            .env("NO_PROXY", "127.0.0.1")
            .env("no_proxy", "127.0.0.1")
    }

    /// The connection of an endless download is closed by nobody else.
    pub(crate) fn wait_for_pip_to_end(&self) {
        self.gone.recv_timeout(PATIENCE).expect("pip ends too");
    }
}

fn serve(mut stream: TcpStream, wheel: Wheel, begun: &mpsc::Sender<()>, gone: &mpsc::Sender<()>) {
    let mut lines = BufReader::new(stream.try_clone().expect("a socket")).lines();
    let request = lines.next().and_then(Result::ok).unwrap_or_default();
    // The headers, to the empty line.
    lines
        .by_ref()
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
        .for_each(drop);
    if !request.contains(".whl") {
        // The version that `dunlin` asks for.
        let name = format!(
            "onnxruntime-1.31.1-cp312-cp312-manylinux_2_28_{}.whl",
            std::env::consts::ARCH
        );
        let page = format!("<!DOCTYPE html><a href='/files/{name}'>{name}</a>");
        return answer(stream, "200 OK", page.as_bytes());
    }
    if wheel == Wheel::Other {
        return answer(stream, "200 OK", &[0; 100_000]);
    }
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 20000000\r\n\r\n";
    let sent = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(&[0; 1 << 20]));
    if sent.is_ok() {
        let _nobody = begun.send(());
        let _closed = stream.read(&mut [0]);
        let _nobody = gone.send(());
    }
}

pub(crate) fn answer(mut stream: TcpStream, status: &str, body: &[u8]) {
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/html\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let _gone = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(body));
}
