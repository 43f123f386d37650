//! The comparison itself: one route after the other, each with the machine to itself.

mod questions;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};

use super::agreement::disagreement;
use super::difference::{Agreement, Difference};
use super::golden::Golden;
use super::load::{self, Question};
use super::node::{Answer, Node};
use super::original::Original;
use super::report::{Machine, Measured, Report, Row, State, best};
use super::requests::{Recorded, Request};
use super::routes::{Route, Signature, Tolerances, variant};
use super::subject::{Subject, SubjectModel};
use crate::api;
use crate::cli::{Context, blocking};
use crate::exit::{Exit, Failure};
use crate::progress::Steps;

/// Golden rows that are made into requests.
const GOLDEN_REQUESTS_MAX: usize = 64;
/// How every message about a backend that a node has not ends.
const INSTALL: &str = "dunlin backend install";
const LENGTH_HEADER: HeaderName = HeaderName::from_static("inference-header-content-length");

/// How to compare.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) tolerances: Tolerances,
    /// Of the timed run of each route.
    pub(crate) duration: Duration,
    pub(crate) concurrency: u32,
    /// Unless it is to be left out.
    pub(crate) original: Option<Original>,
    /// A node.yaml for the nodes.
    pub(crate) config: Option<PathBuf>,
}

/// Compares every route. A route that cannot run is a row that says why.
pub(crate) async fn compare(
    subject: Arc<Subject>,
    recorded: Recorded,
    plan: &Plan,
    context: &Context,
) -> Result<Report, Failure> {
    let steps = Steps::new(context.output);
    let mut comparison = Comparison {
        sent: Sent::of(&subject, recorded)?,
        subject,
        plan,
        context,
        steps,
        signatures: BTreeMap::new(),
        answers: Vec::new(),
        notes: Vec::new(),
    };
    // First: what the user can have named wrongly is told before all the rest takes its time.
    let original = comparison.original().await?;
    let mut rows = Vec::new();
    for route in Route::SERVED {
        let state = comparison.route(route).await?;
        rows.push(Row { route, state });
    }
    rows.extend(original);
    comparison.steps.done();
    Ok(comparison.report(rows))
}

/// What is sent to every route.
#[derive(Debug)]
enum Sent {
    /// To the deployment. Not yet checked: the first node that runs says which ones it takes.
    Recorded(Recorded),
    Requests(Vec<Request>),
    /// To a deployment without a predictor, or one that nothing was recorded for: golden samples,
    /// which are made once the signature is known.
    Golden,
}

impl Sent {
    fn of(subject: &Subject, recorded: Recorded) -> Result<Self, Failure> {
        if !recorded.requests.is_empty() {
            return Ok(Self::Recorded(recorded));
        }
        if subject.models.iter().any(|model| model.golden.is_some()) {
            return Ok(Self::Golden);
        }
        Err(Failure::new(
            Exit::Usage,
            format!("there is nothing to ask {} for", subject.name()),
        )
        .next(
            "give requests, --requests FILE|FOLDER; they are also found in samples/ and \
             sample.json beside dunlin.yaml; or write golden: FILE.safetensors at a model",
        ))
    }
}

struct Comparison<'a> {
    subject: Arc<Subject>,
    plan: &'a Plan,
    context: &'a Context,
    steps: Steps,
    sent: Sent,
    /// What the models take, as the first node said it that ran them.
    signatures: BTreeMap<String, Signature>,
    answers: Vec<(Route, Answered)>,
    notes: Vec<String>,
}

/// Each request's answer, and whether it was the same a second time.
#[derive(Debug, Default)]
struct Answered(Vec<(Answer, bool)>);

impl Comparison<'_> {
    fn say(&self, route: Route, what: &str) {
        self.steps.say(&format!("{}: {what}", route.name()));
    }

    async fn original(&mut self) -> Result<Option<Row>, Failure> {
        let Some(original) = &self.plan.original else {
            return Ok(None);
        };
        let asked = original.ask(&self.subject, self.plan, &self.steps).await?;
        self.notes.extend(asked.note);
        Ok(Some(Row {
            route: Route::Original,
            state: asked.state,
        }))
    }

    async fn route(&mut self, route: Route) -> Result<State, Failure> {
        let subject = Arc::clone(&self.subject);
        let models = || subject.models.iter();
        if models().all(|model| route.file(model).is_none()) {
            let reason = models().next().map(|model| route.how_to_have(model));
            return Ok(State::NotTried {
                reason: reason.unwrap_or_default(),
            });
        }
        for model in models().filter(|model| route.file(model).is_none()) {
            let (name, model) = (route.name(), &model.name);
            self.notes.push(format!(
                "{name}: {model} goes the way that dunlin.yaml says"
            ));
        }

        self.say(route, "packaging");
        let (signatures, interrupted) = (self.signatures.clone(), self.context.interrupted.clone());
        let packaging = {
            let subject = Arc::clone(&subject);
            blocking(move || variant(&subject, route, &signatures, interrupted))
        };
        let variant = match packaging.await {
            Ok(variant) => variant,
            Err(failure) if failure.exit == Exit::Refused => {
                let reason = reason(&failure);
                return Ok(State::Failed { reason });
            }
            Err(failure) => return Err(failure),
        };
        self.say(route, "starting a node");
        let node = Node::start(self.plan.config.as_deref()).await?;
        self.say(route, "loading the models");
        let (deployment, took) = match node.deploy(&variant.package).await {
            Ok(deployed) => deployed,
            Err(reason) if reason.contains(INSTALL) => return Ok(State::NotInstalled { reason }),
            Err(reason) => return Ok(State::Failed { reason }),
        };
        let platforms = deployment
            .models
            .iter()
            .map(|model| model.platform.as_str());
        let mut measured = Measured {
            platform: platforms.collect::<Vec<_>>().join(", "),
            load_ms: took.as_secs_f64() * 1e3,
            ..Measured::default()
        };
        self.learn(&deployment)?;
        if let Err(problem) = self
            .measure(route, &node, &deployment, &mut measured)
            .await?
        {
            measured.problem = Some(problem);
        }
        measured.resident_bytes = node.resident_bytes();
        Ok(State::Ran(Box::new(measured)))
    }

    /// Keeps the signatures, and makes of the golden samples what needs them.
    fn learn(&mut self, deployment: &api::Deployment) -> Result<(), Failure> {
        for model in &deployment.models {
            self.signatures
                .entry(model.name.clone())
                .or_insert_with(|| Signature {
                    inputs: model.inputs.clone(),
                    outputs: model.outputs.clone(),
                });
        }
        if matches!(self.sent, Sent::Golden) && self.subject.component.is_none() {
            self.sent = Sent::Requests(self.golden_requests()?);
        }
        Ok(())
    }

    /// The outer error ends the comparison, the inner one the route.
    async fn measure(
        &mut self,
        route: Route,
        node: &Node,
        deployment: &api::Deployment,
        measured: &mut Measured,
    ) -> Result<Result<(), String>, Failure> {
        self.say(route, "asking for the golden samples");
        let subject = Arc::clone(&self.subject);
        for (model, tolerance) in subject.models.iter().zip(&self.plan.tolerances.models) {
            let Some((_, golden)) = &model.golden else {
                continue;
            };
            let inputs = &self.signatures[&model.name].inputs;
            let (mut apart, mut labels) = (Difference::default(), None::<Agreement>);
            for call in golden.calls(inputs) {
                let request = call.binary_request();
                let outputs = match node.infer(&deployment.name, &model.name, request).await {
                    Ok(outputs) => outputs,
                    Err(problem) => return Ok(Err(problem)),
                };
                let (of_call, of_labels) = call.against(&outputs, *tolerance);
                apart.merge(of_call);
                Agreement::add_to(&mut labels, of_labels);
            }
            match &mut measured.difference {
                Some(difference) => difference.merge(apart),
                none => *none = Some(apart),
            }
            Agreement::add_to(&mut measured.labels, labels);
        }

        self.say(route, "asking the recorded requests");
        let answered = match self.ask(node, &deployment.name).await? {
            Ok(answered) => answered,
            Err(problem) => return Ok(Err(problem)),
        };
        self.answers.push((route, answered));

        let seconds = self.plan.duration.as_secs_f64();
        self.say(route, &format!("timing for {seconds} s"));
        let questions = self.questions(&deployment.name);
        let (connections, duration) = (self.plan.concurrency, self.plan.duration);
        let timed = load::run(node.address(), &questions, connections, duration).await;
        Ok(timed.map(|speed| measured.speed = Some(speed)))
    }

    /// Sends every request twice. The first node that runs sorts out what no route can answer.
    async fn ask(&mut self, node: &Node, name: &str) -> Result<Result<Answered, String>, Failure> {
        let (requests, first) = match &mut self.sent {
            Sent::Golden => return Ok(Ok(Answered::default())),
            Sent::Requests(requests) => (std::mem::take(requests), None),
            Sent::Recorded(recorded) => {
                (std::mem::take(&mut recorded.requests), Some(recorded.given))
            }
        };
        let (mut answered, mut kept) = (Answered::default(), Vec::new());
        let mut problem = None;
        for request in requests {
            if problem.is_some() {
                kept.push(request);
                continue;
            }
            let twice = async {
                let answer = node.predict(name, &request).await?;
                Ok((answer, node.predict(name, &request).await?))
            };
            let (answer, again) = match twice.await {
                Ok(answers) => answers,
                Err(error) => {
                    problem = Some(error);
                    kept.push(request);
                    continue;
                }
            };
            if let Some(given) = first
                && (400..500).contains(&answer.status)
            {
                let refused = format!("{} is answered with {}", request.name, answer.status);
                if given {
                    return Err(Failure::new(Exit::Refused, refused)
                        .because(answer.error())
                        .next("correct the request, or leave it out"));
                }
                self.notes
                    .push(format!("left out: {refused}: {}", answer.error()));
                continue;
            }
            if answer.status >= 500 {
                problem = Some(format!(
                    "{}: HTTP {}: {}",
                    request.name,
                    answer.status,
                    answer.error()
                ));
            }
            let tolerance = self.plan.tolerances.answers;
            let repeats = disagreement(&answer, &again, tolerance).is_none();
            answered.0.push((answer, repeats));
            kept.push(request);
        }
        self.sent = match (first, &problem) {
            // Nothing is known of them yet.
            (Some(given), Some(_)) => Sent::Recorded(Recorded {
                requests: kept,
                given,
            }),
            _ if kept.is_empty() => return Err(nothing_left(&self.notes)),
            _ => Sent::Requests(kept),
        };
        Ok(match problem {
            Some(problem) => Err(problem),
            None => Ok(answered),
        })
    }

    /// The route that the others' answers are held against: the nearest to the original.
    fn reference(&self, rows: &[Row]) -> Option<usize> {
        let distance = |route: Route| {
            let row = rows.iter().find(|row| row.route == route);
            let difference = row.and_then(|row| row.measured()?.difference.as_ref());
            difference.map_or(f64::INFINITY, |difference| difference.absolute)
        };
        let answers = self.answers.iter().enumerate();
        let nearest = answers.min_by(|a, b| distance(a.1.0).total_cmp(&distance(b.1.0)));
        nearest.map(|(index, _)| index)
    }

    fn report(mut self, mut rows: Vec<Row>) -> Report {
        let reference = self.reference(&rows);
        if let Some(reference) = reference {
            self.hold_answers_against(reference, &mut rows);
        }
        let (timed, requests) = match &self.sent {
            Sent::Golden => ("golden samples, to the model alone".to_owned(), 0),
            Sent::Requests(requests) | Sent::Recorded(Recorded { requests, .. }) => {
                (described(requests), requests.len())
            }
        };
        if matches!(self.sent, Sent::Golden) {
            self.notes.push(
                "there are no recorded requests, so the predictor was not asked: \
                 --requests FILE|FOLDER"
                    .to_owned(),
            );
        }
        if cfg!(debug_assertions) {
            self.notes
                .push("this dunlin is a debug build: times say little".to_owned());
        }
        let golden = self
            .subject
            .models
            .iter()
            .filter_map(|model| model.golden.as_ref());
        Report {
            name: self.subject.name().to_owned(),
            version: env!("CARGO_PKG_VERSION"),
            debug_build: cfg!(debug_assertions),
            machine: Machine {
                os: std::env::consts::OS,
                architecture: std::env::consts::ARCH,
                cpus: std::thread::available_parallelism().map_or(1, usize::from),
            },
            tolerance: self.plan.tolerances.answers,
            golden_rows: golden.map(|(_, golden)| golden.rows().unwrap_or(1)).sum(),
            timed,
            requests,
            duration_seconds: self.plan.duration.as_secs_f64(),
            concurrency: self.plan.concurrency,
            reference: reference.map(|index| self.answers[index].0),
            best: best(&rows),
            within_tolerance: rows.iter().all(Row::is_within_tolerance),
            routes: rows,
            notes: self.notes,
        }
    }

    fn hold_answers_against(&mut self, reference: usize, rows: &mut [Row]) {
        let expected = &self.answers[reference].1.0;
        let tolerance = self.plan.tolerances.answers;
        let varying = expected.iter().filter(|(_, repeats)| !repeats).count();
        if varying > 0 {
            self.notes.push(format!(
                "{varying} of {} answers are not the same from one call to the next, and were \
                 not compared",
                expected.len()
            ));
        }
        for (route, got) in &self.answers {
            let row = rows.iter_mut().find(|row| row.route == *route);
            let Some(State::Ran(measured)) = row.map(|row| &mut row.state) else {
                continue;
            };
            let pairs = expected.iter().zip(&got.0);
            for ((expected, _), (got, _)) in pairs.filter(|((_, repeats), _)| *repeats) {
                let apart = disagreement(expected, got, tolerance);
                let agreement = measured.answers.get_or_insert_default();
                agreement.of += 1;
                agreement.agree += u64::from(apart.is_none());
                if measured.first_disagreement.is_none() {
                    measured.first_disagreement = apart;
                }
            }
        }
    }
}

/// A failure as a route's remark: all of it on one line.
pub(super) fn reason(failure: &Failure) -> String {
    let details: Vec<String> = failure.details().collect();
    format!("{failure}{}", details.concat().replace("  ", "; "))
}

/// Some of the names, and how many there are.
fn described(requests: &[Request]) -> String {
    const NAMED: usize = 3;
    let names: Vec<&str> = requests
        .iter()
        .take(NAMED)
        .map(|request| request.name.as_str())
        .collect();
    match requests.len() {
        0..=NAMED => names.join(", "),
        count => format!("{}, … ({count} requests)", names.join(", ")),
    }
}

fn nothing_left(notes: &[String]) -> Failure {
    let mut failure = Failure::new(Exit::Refused, "none of the requests found is accepted");
    for note in notes {
        failure = failure.because(note);
    }
    failure.next("give requests that the predictor takes: --requests FILE|FOLDER")
}
