//! A stand-in for a node: the admin plane and one deployment, told by a function what to answer.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request as it came in.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// `GET /v1/node`.
    pub(crate) line: String,
    /// Lower case, `name: value`.
    pub(crate) headers: Vec<String>,
    pub(crate) body: Vec<u8>,
}

/// Status, content type and body.
pub(crate) type Reply = (u16, &'static str, Vec<u8>);

pub(crate) struct Node {
    pub(crate) address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Request {
    pub(crate) fn has(&self, header: &str) -> bool {
        self.headers.iter().any(|known| known == header)
    }
}

impl Node {
    /// Answers on a port of its own for as long as the test's process lives.
    pub(crate) fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (kept, answer) = (requests.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (kept, answer) = (kept.clone(), answer.clone());
                std::thread::spawn(move || serve(stream.unwrap(), &kept, &*answer));
            }
        });
        Self { address, requests }
    }

    /// What was asked so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

pub(crate) fn json(status: u16, body: &str) -> Reply {
    (status, "application/json", body.as_bytes().to_vec())
}

/// One request for each connection.
fn serve(stream: TcpStream, kept: &Mutex<Vec<Request>>, answer: &dyn Fn(&Request) -> Reply) {
    let mut reader = BufReader::new(stream);
    let Some(request) = read(&mut reader) else {
        return;
    };
    kept.lock().unwrap().push(request.clone());
    let (status, content_type, body) = answer(&request);
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\
         x-request-id: r-1\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let mut stream = reader.into_inner();
    // The client may be gone: that is what some tests are about.
    let _gone = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(&body));
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut lines = reader.by_ref().lines().map_while(Result::ok);
    let line = lines.next()?;
    let headers: Vec<String> = lines
        .take_while(|line| !line.is_empty())
        .map(|line| line.to_lowercase())
        .collect();
    let length = headers
        .iter()
        .find_map(|header| header.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    reader.read_exact(&mut body).ok()?;
    let line = line.trim_end_matches(" HTTP/1.1").to_owned();
    Some(Request {
        line,
        headers,
        body,
    })
}
