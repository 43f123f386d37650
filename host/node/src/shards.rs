//! The threads that answer requests, each with a runtime of its own.
//!
//! A connection stays on one thread, and with it all that a request touches: its buffers, its instance,
//! the calls that it shares a run with. On one runtime of several threads it goes to whichever is free,
//! and what it touches comes over from another core. What a thread cannot do is help another one: so a
//! connection, and each stream of HTTP/2, goes to the one with the fewest.
//!
//! Between two requests a connection moves to another thread: from one that is busy to one that is idle,
//! and where its packets come in, as long as as many come back. The thread numbered like a processor is
//! not bound to it: the system lets a thread run where it is woken, and those whose packets come in
//! together are woken together.

use std::{
    cell::Cell,
    future::Future,
    io, iter,
    sync::{
        Arc, Barrier,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
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

/// After how many of its own tasks a busy thread takes one that another thread woke. With tokio's 31 a
/// connection that is given to a thread of computing guests would wait for 150 ms.
const OTHERS_INTERVAL: u32 = 4;

/// What threads have to do is compared over so long.
const PERIOD: Duration = Duration::from_millis(100);

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
    activity: Arc<Activity>,
}

/// How many a shard has of something.
#[derive(Debug, Default)]
struct Load(Arc<AtomicUsize>);

/// One of those that a shard has.
#[derive(Debug)]
pub(crate) struct Loaded(Arc<AtomicUsize>);

/// What a shard has to do.
#[derive(Debug)]
struct Activity {
    started: Instant,
    /// How long its thread has slept, in nanoseconds, and since when it sleeps; 0 where it does not.
    slept: AtomicU64,
    asleep_since: AtomicU64,
    /// How often its connections have looked around.
    looks: AtomicU64,
    /// When the last connection left that had others beside it, in nanoseconds.
    left: AtomicU64,
}

/// What a connection has seen of the shards.
#[derive(Debug)]
pub(crate) struct Seen {
    at: Instant,
    /// Its own looks since then, and all of its shard until then.
    own_looks: u64,
    looks: u64,
    /// How long each shard had been idle.
    idle: Box<[Duration]>,
}

/// The number of this thread, if it is one of the data plane's; 0 otherwise.
pub(crate) fn current() -> usize {
    CURRENT.get()
}

impl ShardThreads {
    pub(crate) fn start(count: usize) -> io::Result<Self> {
        let count = count.max(1);
        let mut shards = Vec::new();
        let mut stops = Vec::new();
        let all_stopped = Arc::new(Barrier::new(count));
        for number in 0..count {
            let activity = Arc::new(Activity::new());
            let (sleeps, wakes) = (Arc::clone(&activity), Arc::clone(&activity));
            let runtime = Builder::new_current_thread()
                .event_interval(EVENT_INTERVAL)
                .global_queue_interval(OTHERS_INTERVAL)
                .on_thread_park(move || {
                    outbox::before_park();
                    sleeps.sleeps();
                })
                .on_thread_unpark(move || wakes.wakes())
                .enable_all()
                .build()?;
            shards.push(Shard::on(runtime.handle().clone(), activity));
            let (stop, stopped) = oneshot::channel();
            stops.push(stop);
            let all_stopped = Arc::clone(&all_stopped);
            thread::Builder::new()
                .name(format!("data-{number}"))
                .spawn(move || {
                    number_thread(number);
                    CURRENT.set(number);
                    // It is never sent, but dropped.
                    let _dropped = runtime.block_on(stopped);
                    // Nobody is to set a timer of a runtime that is gone.
                    all_stopped.wait();
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
        Self([Shard::on(Handle::current(), Arc::new(Activity::new()))].into())
    }

    /// The one to give a connection to, and its place there.
    pub(crate) fn for_connection(&self) -> (&Shard, Loaded) {
        self.least(0, |shard| &shard.connections)
    }

    /// A place for a connection of this thread that is to be elsewhere. Its packets come in on this
    /// processor, and it is a stranger where they should not.
    pub(crate) fn better(
        &self,
        cpu: usize,
        stranger: bool,
        seen: &mut Option<Seen>,
    ) -> Option<(&Shard, Loaded)> {
        let better = match self.idle_one(seen) {
            None if stranger && self.asks_much(seen.as_ref()) => self.swaps(cpu),
            better => better,
        }?;
        Some((better, better.connections.add()))
    }

    /// That of its processor: with one more there and one less here, unless one comes back.
    fn swaps(&self, cpu: usize) -> Option<&Shard> {
        let (here, there) = (self.of(current()), self.of(cpu));
        let difference = (there.connections.get() + 2).saturating_sub(here.connections.get());
        let goes = difference <= 1 || difference == 2 && there.strangers.get() > 0;
        goes.then_some(there)
    }

    /// Whether this one has so many short requests that it matters whom its answers wake.
    fn asks_much(&self, seen: Option<&Seen>) -> bool {
        /// In a period; a connection looks once in some eight requests.
        const MANY: u32 = 25;
        let looks = self.of(current()).activity.looks.load(Ordering::Relaxed);
        seen.is_some_and(|seen| {
            let looks = u32::try_from(looks - seen.looks).unwrap_or(u32::MAX);
            looks >= 4 && seen.at.elapsed() * MANY <= PERIOD * looks
        })
    }

    /// One that has little to do, where this one has no rest and other connections to go on with.
    fn idle_one(&self, seen: &mut Option<Seen>) -> Option<&Shard> {
        let here = &self.of(current()).activity;
        here.looks.fetch_add(1, Ordering::Relaxed);
        let Some(before) = seen else {
            *seen = Some(self.look());
            return None;
        };
        before.own_looks += 1;
        if before.at.elapsed() < PERIOD {
            return None;
        }
        let now = self.look();
        let before = seen.replace(now)?;
        let now = seen.as_ref()?;
        let idle =
            iter::zip(&now.idle, &before.idle).map(|(now, before)| now.saturating_sub(*before));
        let period = now.at - before.at;
        let (most, idlest) = iter::zip(idle.clone(), self.iter()).max_by_key(|(idle, _)| *idle)?;
        let own = idle.clone().nth(current() % self.0.len())?;
        let is_alone = before.own_looks * 10 > (now.looks - before.looks) * 7;
        let goes = own < period / 10 && most > period / 2 && !is_alone && here.one_may_go(now.at);
        goes.then_some(idlest)
    }

    fn look(&self) -> Seen {
        Seen {
            at: Instant::now(),
            own_looks: 0,
            looks: self.of(current()).activity.looks.load(Ordering::Relaxed),
            idle: self.iter().map(|shard| shard.activity.idle()).collect(),
        }
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

    /// The shard with the least of something: the first, unless another one has less.
    fn least(&self, first: usize, of: impl Fn(&Shard) -> &Load) -> (&Shard, Loaded) {
        let count = self.0.len();
        let shards = (first..first + count).map(|number| &self.0[number % count]);
        let load = |shard: &&Shard| of(shard).get();
        let least = shards.min_by_key(load).expect("there is one at least");
        (least, of(least).add())
    }
}

impl Shard {
    fn on(runtime: Handle, activity: Arc<Activity>) -> Self {
        Self {
            runtime,
            connections: Load::default(),
            strangers: Load::default(),
            streams: Load::default(),
            activity,
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

impl Activity {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            slept: AtomicU64::new(0),
            asleep_since: AtomicU64::new(0),
            looks: AtomicU64::new(0),
            left: AtomicU64::new(0),
        }
    }

    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.duration_since(self.started).as_nanos()).unwrap_or(u64::MAX)
    }

    fn sleeps(&self) {
        let now = self.nanos(Instant::now());
        self.asleep_since.store(now, Ordering::Relaxed);
    }

    fn wakes(&self) {
        let since = self.asleep_since.swap(0, Ordering::Relaxed);
        if since > 0 {
            let slept = self.nanos(Instant::now()).saturating_sub(since);
            self.slept.fetch_add(slept, Ordering::Relaxed);
        }
    }

    /// Read between two of its thread's writes it is wrong once, by one sleep.
    fn idle(&self) -> Duration {
        let slept = self.slept.load(Ordering::Relaxed);
        let since = self.asleep_since.load(Ordering::Relaxed);
        let asleep = match since {
            0 => 0,
            since => self.nanos(Instant::now()).saturating_sub(since),
        };
        Duration::from_nanos(slept.saturating_add(asleep))
    }

    /// One connection goes at a time: what that brings is to be seen first.
    fn one_may_go(&self, now: Instant) -> bool {
        let last = self.left.load(Ordering::Relaxed);
        let now = self.nanos(now);
        let long_ago = Duration::from_nanos(now.saturating_sub(last)) >= PERIOD;
        if long_ago {
            self.left.store(now, Ordering::Relaxed);
        }
        long_ago
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
    fn shards(counts: &[(usize, usize)]) -> (Shards, Vec<Loaded>) {
        let activity = || Activity {
            started: Instant::now().checked_sub(PERIOD).unwrap(),
            ..Activity::new()
        };
        let shard = || Shard::on(Handle::current(), Arc::new(activity()));
        let all: Vec<Shard> = counts.iter().map(|_| shard()).collect();
        let mut places = Vec::new();
        for (shard, (connections, strangers)) in all.iter().zip(counts) {
            places.extend((0..*connections).map(|_| shard.connections.add()));
            places.extend((0..*strangers).map(|_| shard.strangers.add()));
        }
        (Shards(all.into()), places)
    }

    fn number(shards: &Shards, shard: &Shard) -> usize {
        let all = shards.iter();
        all.take_while(|other| !std::ptr::eq(*other, shard)).count()
    }

    #[tokio::test]
    async fn a_connection_goes_to_its_processors_thread_if_another_comes_back() {
        let goes = |counts: &[(usize, usize)], cpu: usize| {
            let (shards, _places) = shards(counts);
            let stranger = shards.stranger(cpu).is_some();
            let mut seen = Some(shards.look());
            assert!(
                shards.better(cpu, stranger, &mut seen).is_none(),
                "it is asked little"
            );
            let looks = &shards.0[0].activity.looks;
            looks.fetch_add(1000, Ordering::Relaxed);
            let (better, _place) = shards.better(cpu, stranger, &mut seen)?;
            Some(number(&shards, better))
        };
        assert_eq!(goes(&[(8, 1), (8, 1)], 1), Some(1));
        assert_eq!(goes(&[(8, 1), (8, 0)], 1), None, "all come in on one");
        assert_eq!(goes(&[(1, 1), (0, 0)], 1), Some(1));
        assert_eq!(goes(&[(1, 1), (1, 1)], 1), Some(1));
        assert_eq!(goes(&[(8, 1), (9, 1)], 1), None);
        assert_eq!(goes(&[(8, 1), (7, 0)], 1), Some(1));
        assert_eq!(goes(&[(8, 0), (7, 0)], 2), None, "it is where it belongs");
        assert_eq!(goes(&[(8, 0)], 3), None, "there is one only");
    }

    /// Where two connections of the first shard go after a period in which each shard slept so many
    /// tenths, and others looked so often.
    fn after_a_period(slept: [u64; 3], others: u64) -> [Option<usize>; 2] {
        let (shards, _places) = shards(&[(4, 0); 3]);
        let long_ago = Instant::now().checked_sub(PERIOD).unwrap();
        let looked = || {
            Some(Seen {
                at: long_ago,
                ..shards.look()
            })
        };
        let mut seen = [looked(), looked()];
        for (shard, tenths) in shards.iter().zip(slept) {
            let slept = PERIOD / 10 * u32::try_from(tenths).unwrap();
            let nanos = u64::try_from(slept.as_nanos()).unwrap();
            shard.activity.slept.fetch_add(nanos, Ordering::Relaxed);
        }
        let here = &shards.0[0].activity;
        here.looks.fetch_add(others, Ordering::Relaxed);
        seen.each_mut()
            .map(|seen| Some(number(&shards, shards.better(0, false, seen)?.0)))
    }

    #[tokio::test]
    async fn a_connection_leaves_a_busy_thread_for_an_idle_one() {
        assert_eq!(
            after_a_period([0, 6, 9], 3),
            [Some(2), None],
            "one at a time"
        );
        assert_eq!(after_a_period([2, 6, 9], 3), [None, None], "it has time");
        assert_eq!(
            after_a_period([0, 4, 4], 3),
            [None, None],
            "so have the others not"
        );
        assert_eq!(after_a_period([0, 6, 9], 0)[0], None, "it is alone");
    }

    #[tokio::test]
    async fn who_leaves_gives_the_place_back() {
        let (shards, places) = shards(&[(3, 0), (2, 0)]);
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
