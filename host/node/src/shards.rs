//! The threads that answer requests, each with a runtime of its own.
//!
//! A connection stays on one thread, and with it all that a request touches: its buffers, its instance,
//! the calls that it shares a run with. On one runtime of several threads it goes to whichever is free,
//! and what it touches comes over from another core. What a thread cannot do is help another one: so a
//! connection, and each stream of HTTP/2, goes to the one with the fewest.
//!
//! Between two requests a connection moves to another thread where that one has fewer, or where its
//! packets come in on that one's processor and as many come back. The thread numbered like a processor
//! is not bound to it: the system lets a thread run where it is woken, and those whose packets come in
//! together are woken together.

use std::{
    cell::Cell,
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use dunlin_inference::number_thread;
use hyper::rt::Executor;
use tokio::{
    runtime::{Builder, EnterGuard, Handle},
    sync::oneshot,
    task::JoinHandle,
};

use crate::{outbox, prompt::Prompt};

/// After how many polls of tasks a busy thread looks for what has arrived and for timers. A guest
/// that never stops takes 5 ms a poll, and goes on only after such a look: so many of them on one thread
/// hold up everybody else's bytes for 80 ms. With tokio's 61 it would be 300 ms.
const EVENT_INTERVAL: u32 = 16;

thread_local! {
    /// Which one this thread is.
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// Where tasks of a plane run.
#[derive(Debug, Clone)]
pub(crate) struct Shards(Arc<[Shard]>);

/// The threads of the data plane, which end with it. Their tasks are dropped with them.
#[derive(Debug)]
pub(crate) struct ShardThreads {
    pub(crate) shards: Shards,
    _stops: Vec<oneshot::Sender<()>>,
}

#[derive(Debug)]
pub(crate) struct Shard {
    runtime: Handle,
    connections: Load,
    /// Connections whose packets come in on another one's processor.
    strangers: Load,
    /// Requests of HTTP/2 under way.
    streams: Load,
}

/// How many a shard has of something.
#[derive(Debug, Default)]
struct Load(Arc<AtomicUsize>);

/// One of those that a shard has.
#[derive(Debug)]
pub(crate) struct Loaded(Arc<AtomicUsize>);

/// The number of this thread, if it is one of the data plane's; 0 otherwise.
pub(crate) fn current() -> usize {
    CURRENT.get()
}

impl ShardThreads {
    pub(crate) fn start(count: usize) -> io::Result<Self> {
        let mut shards = Vec::new();
        let mut stops = Vec::new();
        for number in 0..count.max(1) {
            let runtime = Builder::new_current_thread()
                .event_interval(EVENT_INTERVAL)
                .on_thread_park(outbox::before_park)
                .enable_all()
                .build()?;
            shards.push(Shard::on(runtime.handle().clone()));
            let (stop, stopped) = oneshot::channel();
            stops.push(stop);
            thread::Builder::new()
                .name(format!("data-{number}"))
                .spawn(move || {
                    number_thread(number);
                    CURRENT.set(number);
                    // It is never sent, but dropped.
                    let _dropped = runtime.block_on(stopped);
                    // A model that is being loaded does not hold up the end.
                    runtime.shutdown_background();
                })?;
        }
        Ok(Self {
            shards: Shards(shards.into()),
            _stops: stops,
        })
    }
}

impl Shards {
    /// The runtime that this is called on, and no other.
    pub(crate) fn here() -> Self {
        Self([Shard::on(Handle::current())].into())
    }

    /// The one to give a connection to, and its place there.
    pub(crate) fn for_connection(&self) -> (&Shard, Loaded) {
        self.least(0, |shard| &shard.connections)
    }

    /// A place for a connection of this thread, which is a stranger here, that is to be elsewhere.
    pub(crate) fn better(&self, cpu: usize, stranger: bool) -> Option<(&Shard, Loaded)> {
        let better = self.better_shard(cpu, stranger)?;
        Some((better, better.connections.add()))
    }

    fn better_shard(&self, cpu: usize, stranger: bool) -> Option<&Shard> {
        let (here, there) = (self.of(current()), self.of(cpu));
        let own = here.connections.get();
        let least = self.0.iter().min_by_key(|shard| shard.connections.get())?;
        let too_many = own.saturating_sub(least.connections.get());
        if too_many >= 2 {
            // Strangers first, as long as they may come to it by themselves.
            let goes = stranger || here.strangers.get() == 0 || too_many >= 4;
            let is_least = there.connections.get() == least.connections.get();
            return goes.then_some(if is_least { there } else { least });
        }
        // With one more there and one less here, unless one comes back.
        let difference = (there.connections.get() + 2).saturating_sub(own);
        let goes = difference <= 1 || difference == 2 && there.strangers.get() > 0;
        (stranger && goes).then_some(there)
    }

    /// Counts a connection of this thread as a stranger, if it is one.
    pub(crate) fn stranger(&self, cpu: usize) -> Option<Loaded> {
        let (here, there) = (self.of(current()), self.of(cpu));
        (!std::ptr::eq(here, there)).then(|| here.strangers.add())
    }

    fn of(&self, number: usize) -> &Shard {
        &self.0[number % self.0.len()]
    }

    /// Those of all threads.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Shard> {
        self.0.iter()
    }

    /// The shard with the least of something: this thread's, unless another one has less.
    fn least(&self, first: usize, of: impl Fn(&Shard) -> &Load) -> (&Shard, Loaded) {
        let count = self.0.len();
        let shards = (first..first + count).map(|number| &self.0[number % count]);
        let load = |shard: &&Shard| of(shard).get();
        let least = shards.min_by_key(load).expect("there is one at least");
        (least, of(least).add())
    }
}

impl Shard {
    fn on(runtime: Handle) -> Self {
        Self {
            runtime,
            connections: Load::default(),
            strangers: Load::default(),
            streams: Load::default(),
        }
    }

    /// What is made meanwhile, of sockets and timers, belongs to this shard.
    pub(crate) fn enter(&self) -> EnterGuard<'_> {
        self.runtime.enter()
    }

    pub(crate) fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.runtime.spawn(task)
    }
}

/// How hyper's tasks are run: those of HTTP/2's streams.
impl<F> Executor<F> for Shards
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        let (shard, stream) = self.least(current(), |shard| &shard.streams);
        shard.spawn(Prompt::new(async move {
            let _stream = stream;
            task.await
        }));
    }
}

impl Load {
    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self) -> Loaded {
        self.0.fetch_add(1, Ordering::Relaxed);
        Loaded(Arc::clone(&self.0))
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many connections as each shard has, and how many of them are strangers.
    async fn shards(counts: &[(usize, usize)]) -> (Shards, Vec<Loaded>) {
        let all: Vec<Shard> = counts
            .iter()
            .map(|_| Shard::on(Handle::current()))
            .collect();
        let mut places = Vec::new();
        for (shard, (connections, strangers)) in all.iter().zip(counts) {
            places.extend((0..*connections).map(|_| shard.connections.add()));
            places.extend((0..*strangers).map(|_| shard.strangers.add()));
        }
        (Shards(all.into()), places)
    }

    /// Which one a connection of the first goes to that comes in on this processor.
    async fn goes(counts: &[(usize, usize)], cpu: usize) -> Option<usize> {
        let (shards, _places) = shards(counts).await;
        let (better, _place) = shards.better(cpu, !cpu.is_multiple_of(counts.len()))?;
        shards
            .0
            .iter()
            .position(|shard| std::ptr::eq(shard, better))
    }

    #[tokio::test]
    async fn a_connection_goes_to_its_processors_thread_if_another_comes_back() {
        assert_eq!(goes(&[(8, 1), (8, 1)], 1).await, Some(1));
        assert_eq!(goes(&[(8, 1), (8, 0)], 1).await, None, "all come in on one");
        assert_eq!(goes(&[(1, 1), (0, 0)], 1).await, Some(1));
        assert_eq!(goes(&[(1, 1), (1, 1)], 1).await, Some(1));
        assert_eq!(goes(&[(8, 1), (9, 1)], 1).await, None);
        assert_eq!(goes(&[(8, 1), (7, 0)], 1).await, Some(1));
        assert_eq!(
            goes(&[(8, 0), (7, 0)], 0).await,
            None,
            "it is where it belongs"
        );
    }

    #[tokio::test]
    async fn connections_are_even_first_of_all() {
        assert_eq!(goes(&[(9, 0), (7, 0)], 0).await, Some(1));
        assert_eq!(goes(&[(9, 1), (7, 0)], 0).await, None, "a stranger goes");
        assert_eq!(goes(&[(11, 1), (7, 0)], 0).await, Some(1));
        assert_eq!(goes(&[(9, 1), (9, 0), (7, 0)], 1).await, Some(2));
        assert_eq!(goes(&[(9, 1), (7, 0), (7, 0)], 2).await, Some(2));
        assert_eq!(goes(&[(9, 0)], 3).await, None, "there is one only");
    }

    #[tokio::test]
    async fn who_leaves_gives_the_place_back() {
        let (shards, places) = shards(&[(3, 0), (2, 0)]).await;
        let (given, place) = shards.for_connection();
        assert!(std::ptr::eq(given, &raw const shards.0[1]));
        assert_eq!(given.connections.get(), 3);
        drop((place, places));
        assert!(shards.iter().all(|shard| shard.connections.get() == 0));
    }

    #[test]
    fn threads_end_with_their_tasks() {
        let (told, hears) = oneshot::channel::<()>();
        let threads = ShardThreads::start(2).unwrap();
        let (shard, _place) = threads.shards.for_connection();
        shard.spawn(async move {
            let _kept = told;
            std::future::pending::<()>().await;
        });
        drop(threads);
        assert!(hears.blocking_recv().is_err());
    }
}
