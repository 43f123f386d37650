//! The task of a connection, which goes on on another thread where that is better.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use crate::{
    connection::Connection,
    shards::{Loaded, Seen, Shards},
};

/// Ready when the task has ended, or has gone.
pub(crate) struct Roaming<F>(Option<Inner<F>>);

struct Inner<F> {
    task: Pin<Box<F>>,
    connection: Arc<Connection>,
    shards: Shards,
    place: Loaded,
    /// It is counted as one, as long as it is here.
    stranger: Option<Loaded>,
    /// What it saw of the threads before.
    seen: Option<Seen>,
}

impl<F> Roaming<F>
where
    F: Future<Output = ()> + Send + 'static,
{
    pub(crate) fn new(task: F, connection: Arc<Connection>, shards: Shards, place: Loaded) -> Self {
        Self(Some(Inner {
            task: Box::pin(task),
            connection,
            shards,
            place,
            stranger: None,
            seen: None,
        }))
    }
}

impl<F> Future for Roaming<F>
where
    F: Future<Output = ()> + Send + 'static,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(inner) = &mut self.0 else {
            return Poll::Ready(());
        };
        if let Some(cpu) = inner.is_to_be_elsewhere() {
            let shards = inner.shards.clone();
            let stranger = inner.stranger.is_some();
            if let Some((shard, place)) = shards.better(cpu, stranger, &mut inner.seen) {
                inner.place = place;
                inner.stranger = None;
                inner.seen = None;
                shard.spawn(Self(self.0.take()));
                return Poll::Ready(());
            }
        }
        inner.task.as_mut().poll(context)
    }
}

impl<F> Inner<F> {
    /// The processor where its packets come in, where it may be worth to go.
    fn is_to_be_elsewhere(&mut self) -> Option<usize> {
        let cpu = self.connection.news_of_cpu()?;
        let cpu = usize::try_from(cpu).ok()?;
        // What it counted before is not to be taken for another one.
        self.stranger = None;
        self.stranger = self.shards.stranger(cpu);
        Some(cpu)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::{gathered::Gathered, shards::ShardThreads};

    /// Answers each byte with the number of its thread.
    async fn say_where(mut stream: Gathered) {
        while let Ok(1..) = stream.read(&mut [0]).await {
            let name = thread::current().name().unwrap().to_owned();
            let number = name.bytes().last().unwrap();
            stream.write_all(&[number]).await.unwrap();
            stream.flush().await.unwrap();
        }
    }

    async fn ask(client: &mut TcpStream) -> char {
        client.write_all(b"?").await.unwrap();
        let mut answer = [0];
        client.read_exact(&mut answer).await.unwrap();
        answer[0].into()
    }

    /// As if its packets came in there.
    async fn ask_from(client: &mut TcpStream, connection: &Connection, cpu: u32) -> char {
        connection.comes_in_on(cpu);
        ask(client).await
    }

    #[tokio::test]
    async fn a_connection_goes_on_on_another_thread() {
        let threads = ShardThreads::start(2).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        let (mut client, (stream, peer)) = (client.unwrap(), accepted.unwrap());
        let connection = Connection::new(peer);
        let (shard, place) = threads.shards.for_connection();
        let stream = {
            let _there = shard.enter();
            TcpStream::from_std(stream.into_std().unwrap()).unwrap()
        };
        let task = say_where(Gathered::new(stream, Arc::clone(&connection)));
        let shards = threads.shards.clone();
        shard.spawn(Roaming::new(task, Arc::clone(&connection), shards, place));
        assert_eq!(ask(&mut client).await, '0');
        // It goes when its thread is seen to be asked much: soon, where asking takes no time.
        for (cpu, there) in [(1, '1'), (0, '0'), (3, '1'), (2, '0')] {
            while ask_from(&mut client, &connection, cpu).await != there {}
            for _ in 0..10 {
                assert_eq!(ask_from(&mut client, &connection, cpu).await, there);
            }
        }
        // In the middle of a request it stays.
        let answering = connection.answering();
        for _ in 0..10 {
            assert_eq!(ask_from(&mut client, &connection, 1).await, '0');
        }
        drop(answering);
        while ask_from(&mut client, &connection, 1).await != '1' {}
    }
}
