//! Requests at a fixed rate, whether or not the ones before were answered: what many callers do who
//! know nothing of each other. Latency counts from when a request was due.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use http::StatusCode;
use rustix::process::{Resource, getrlimit, setrlimit};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::{
    client::{Connection, Question, ask, connect},
    spread::quantile,
};

/// More than a node has requests in flight, so that some are always free to ask.
pub(crate) const MANY: usize = 2048;
/// Enough for a caller that is answered at once.
pub(crate) const FEW: usize = 64;
/// How often those that are due are sent, at the most.
const TICK: Duration = Duration::from_millis(1);

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Flood {
    pub(crate) asked: usize,
    pub(crate) seconds: f64,
    /// Due while every connection was waiting for an answer.
    pub(crate) unsent: usize,
    /// Without any answer.
    pub(crate) lost: usize,
    pub(crate) answers: BTreeMap<u16, usize>,
    /// Of the answers with 200.
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Of all answers.
    pub(crate) longest_ms: f64,
}

struct Pool {
    server: SocketAddr,
    question: Question,
    /// The newest last. None is a connection that may be made: a server closes one that does not ask.
    idle: Mutex<Vec<Option<Connection>>>,
}

/// An answer's status, none where it was lost, and how long after it was due it came.
type Answered = (Option<StatusCode>, Duration);

/// As many files as the system lets a process have: this one's connections, and those of servers that
/// it starts later.
pub(crate) fn raise_file_limit() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("the limit of open files cannot be raised")
}

/// Runs until all that was asked is answered.
pub(crate) async fn flood(
    server: SocketAddr,
    question: &Question,
    connections: usize,
    per_second: f64,
    duration: Duration,
) -> Result<Flood> {
    let pool = Arc::new(Pool {
        server,
        question: question.clone(),
        idle: Mutex::new((0..connections).map(|_| None).collect()),
    });
    let (mut asked, mut unsent) = (0_usize, 0_usize);
    let mut asking = JoinSet::new();
    let mut answers = Vec::new();
    // To wake for none is to take the cores from the server.
    let mut tick = tokio::time::interval(TICK.max(Duration::from_secs_f64(1.0 / per_second)));
    let began = Instant::now();
    while began.elapsed() < duration {
        tick.tick().await;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a few million"
        )]
        let due = (began.elapsed().as_secs_f64() * per_second) as usize;
        while asked + unsent < due {
            match pool.take() {
                Some(connection) => {
                    asked += 1;
                    asking.spawn(Arc::clone(&pool).ask(connection, Instant::now()));
                }
                None => unsent += 1,
            }
        }
        while let Some(answer) = asking.try_join_next() {
            answers.push(answer?);
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    while let Some(answer) = asking.join_next().await {
        answers.push(answer?);
    }
    Ok(Flood::of(&answers, asked, unsent, seconds))
}

impl Pool {
    fn take(&self) -> Option<Option<Connection>> {
        self.lock().pop()
    }

    fn put(&self, connection: Option<Connection>) {
        self.lock().push(connection);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Option<Connection>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(self: Arc<Self>, connection: Option<Connection>, due: Instant) -> Answered {
        let answer = async {
            let mut connection = match connection {
                Some(connection) => connection,
                None => connect(self.server).await?,
            };
            let (status, _) = ask(&mut connection, &self.question).await?;
            anyhow::Ok((connection, status))
        };
        let answer = answer.await.ok();
        let took = due.elapsed();
        let (connection, status) = answer.unzip();
        self.put(connection);
        (status, took)
    }
}

impl Flood {
    fn of(answered: &[Answered], asked: usize, unsent: usize, seconds: f64) -> Self {
        let mut answers = BTreeMap::new();
        let mut accepted = Vec::new();
        let mut longest = Duration::ZERO;
        for (status, took) in answered {
            if let Some(status) = status {
                *answers.entry(status.as_u16()).or_default() += 1;
                longest = longest.max(*took);
            }
            if *status == Some(StatusCode::OK) {
                accepted.push(took.as_secs_f64() * 1e6);
            }
        }
        accepted.sort_by(f64::total_cmp);
        let quantile = |share| quantile(&accepted, share).unwrap_or_default();
        Self {
            asked,
            seconds,
            unsent,
            lost: answered
                .iter()
                .filter(|(status, _)| status.is_none())
                .count(),
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            answers,
            longest_ms: longest.as_secs_f64() * 1e3,
        }
    }

    pub(crate) fn accepted(&self) -> usize {
        self.answers.get(&200).copied().unwrap_or_default()
    }

    #[expect(clippy::cast_precision_loss, reason = "a few million")]
    pub(crate) fn accepted_per_second(&self) -> f64 {
        self.accepted() as f64 / self.seconds
    }

    /// `200: 12, 503: 7`.
    pub(crate) fn told(&self) -> String {
        let told = self.answers.iter();
        let told: Vec<String> = told
            .map(|(status, count)| format!("{status}: {count}"))
            .collect();
        told.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_counted_and_not_timed() {
        let ms = Duration::from_millis;
        let answered = [
            (Some(StatusCode::OK), ms(1)),
            (Some(StatusCode::SERVICE_UNAVAILABLE), ms(9)),
            (None, ms(50)),
        ];
        let flood = Flood::of(&answered, 3, 2, 0.5);
        assert_eq!((flood.accepted(), flood.lost, flood.unsent), (1, 1, 2));
        assert_eq!(flood.told(), "200: 1, 503: 1");
        assert_eq!((flood.p99_us, flood.longest_ms), (1e3, 9.0));
        assert_eq!(flood.accepted_per_second(), 2.0);
    }
}
