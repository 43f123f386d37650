use std::{io, net::SocketAddr, thread};

use futures_util::FutureExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
};

use super::*;
use crate::{connection::Connection, gathered::Gathered};

/// A connection of ours, and its client.
async fn pair() -> (Gathered, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap());
    let (client, accepted) = tokio::join!(client, listener.accept());
    (gathered(accepted.unwrap()), client.unwrap())
}

fn gathered((stream, peer): (TcpStream, SocketAddr)) -> Gathered {
    Gathered::new(stream, Connection::new(peer))
}

/// From here on this thread gathers, where the system lets it.
fn gathers() -> bool {
    before_park();
    OUTBOX.with_borrow_mut(Outbox::gathers)
}

fn has_arrived(client: &TcpStream) -> bool {
    // Loopback delivers within the call that sends.
    let mut byte = [0];
    let std = rustix::net::recv(client, &mut byte, rustix::net::RecvFlags::PEEK);
    match std {
        Ok((read, _)) => read > 0,
        Err(error) => {
            assert_eq!(io::Error::from(error).kind(), io::ErrorKind::WouldBlock);
            false
        }
    }
}

async fn read(client: &mut TcpStream, bytes: usize) -> Vec<u8> {
    let mut read = vec![0; bytes];
    client.read_exact(&mut read).await.unwrap();
    read
}

#[tokio::test]
async fn small_answers_wait_and_go_out_together() {
    if !gathers() {
        return;
    }
    let (mut one, mut client) = pair().await;
    let (mut other, mut other_client) = pair().await;
    one.write_all(b"on").await.unwrap();
    one.write_all(b"e").await.unwrap();
    other.write_all(b"other").await.unwrap();
    other.flush().await.unwrap();
    assert!(!has_arrived(&client) && !has_arrived(&other_client));
    send();
    assert!(has_arrived(&client) && has_arrived(&other_client));
    assert_eq!(read(&mut client, 3).await, b"one");
    assert_eq!(read(&mut other_client, 5).await, b"other");
    one.write_all(b"alone").await.unwrap();
    send();
    assert_eq!(read(&mut client, 5).await, b"alone");
}

#[tokio::test]
async fn nothing_waits_on_a_thread_that_does_not_tell_when_it_parks() {
    let (mut one, client) = pair().await;
    one.write_all(b"one").await.unwrap();
    assert!(has_arrived(&client));
}

#[tokio::test]
async fn nothing_waits_for_long() {
    if !gathers() {
        return;
    }
    let (mut one, mut client) = pair().await;
    one.write_all(b"1").await.unwrap();
    assert!(!has_arrived(&client));
    thread::sleep(HOLD);
    polled(Duration::ZERO);
    assert_eq!(read(&mut client, 1).await, b"1");

    // Something computes here.
    one.write_all(b"2").await.unwrap();
    polled(LONG);
    assert_eq!(read(&mut client, 1).await, b"2");
    one.write_all(b"3").await.unwrap();
    assert!(has_arrived(&client));
    assert_eq!(read(&mut client, 1).await, b"3");
    thread::sleep(MOMENT);
    one.write_all(b"4").await.unwrap();
    assert!(!has_arrived(&client));
}

#[tokio::test]
async fn as_many_as_go_together_do_not_wait() {
    if !gathers() {
        return;
    }
    let mut pairs = Vec::new();
    for _ in 0..TOGETHER {
        pairs.push(pair().await);
    }
    for (number, (one, _)) in pairs.iter_mut().enumerate() {
        one.write_all(&[number as u8]).await.unwrap();
    }
    polled(Duration::ZERO);
    for (number, (_, client)) in pairs.iter_mut().enumerate() {
        assert_eq!(read(client, 1).await, [number as u8]);
    }
}

#[tokio::test]
async fn large_writes_and_the_end_come_behind_what_waits() {
    if !gathers() {
        return;
    }
    let (mut one, mut client) = pair().await;
    one.write_all(b"small").await.unwrap();
    one.write_all(&[b'l'; 2000]).await.unwrap();
    one.write_all(b"end").await.unwrap();
    one.shutdown().await.unwrap();
    let mut all = Vec::new();
    client.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, [&b"small"[..], &[b'l'; 2000], b"end"].concat());
    send();
}

/// A client that does not read for a while gets all of it, in order.
#[tokio::test]
async fn what_a_connection_does_not_take_yet_is_sent_later() {
    let has_ring = gathers();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = socket.connect(listener.local_addr().unwrap());
    let (client, accepted) = tokio::join!(client, listener.accept());
    let (mut client, mut one) = (client.unwrap(), gathered(accepted.unwrap()));
    let (mut other, _other_client) = pair().await;

    let piece = |number: u32| vec![number as u8; 1000];
    let pieces = 20_000;
    let writes = tokio::spawn(async move {
        for number in 0..pieces {
            one.write_all(&piece(number)).await.unwrap();
            if number % 3 == 0 {
                // Two at once go by the ring, and one by itself.
                other.write_all(b"-").await.unwrap();
            }
            if number % 7 > 1 {
                send();
            }
            one.flush().await.unwrap();
        }
        one.shutdown().await.unwrap();
        one
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!writes.is_finished(), "it waits for its client: {has_ring}");
    for number in 0..pieces {
        assert!(read(&mut client, 1000).await == piece(number), "{number}");
    }
    drop(writes.await.unwrap());
}

/// What the node keeps for a client that does not read has a bound.
#[tokio::test]
async fn nothing_is_taken_while_something_waits_for_room() {
    gathers();
    let (mut one, _client) = pair().await;
    while one.write_all(&[0; 1000]).now_or_never().is_some() {
        send();
    }
    assert!(one.write(b"1").now_or_never().is_none());
}

#[tokio::test]
async fn who_is_gone_is_told_of() {
    let (mut one, client) = pair().await;
    let (mut other, mut other_client) = pair().await;
    drop(client);
    let failed = async {
        loop {
            gathers();
            other.write_all(b"-").await.unwrap();
            if let Err(error) = one.write_all(b"for nobody").await {
                return error;
            }
            send();
            tokio::task::yield_now().await;
        }
    };
    let error = tokio::time::timeout(Duration::from_secs(10), failed).await;
    let kind = error.expect("it fails").kind();
    assert!(matches!(
        kind,
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    ));
    assert_eq!(read(&mut other_client, 1).await, b"-");
}
