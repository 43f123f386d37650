//! HTTP to a node: the admin plane with its token, the data plane without.
//!
//! Owns how a failed exchange becomes a `Failure`. Knows no verb and no format.

use std::error::Error as _;
use std::time::Duration;

use bytes::Bytes;
use reqwest::{Body, Method, RequestBuilder, Response, Url, header};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::api;
use crate::environment::Environment;
use crate::exit::{Exit, Failure};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two pieces of an answer. The admin plane's longest silence is a long poll of 30 s; an
/// upload has its own, since a node loads models before it answers.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// An error's text is read to here; the rest is of no use to anybody.
const ERROR_TEXT_MAX: usize = 16 * 1024;
/// An answer of the admin plane is read to here.
const ANSWER_MAX: usize = 64 * 1024 * 1024;

/// One node.
#[derive(Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    environment: Environment,
}

/// What a request to the data plane has besides its deployment.
#[derive(Debug)]
pub(crate) struct Prediction<'a> {
    /// Below the deployment: empty, or starting with a slash.
    pub(crate) path: &'a str,
    pub(crate) headers: header::HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) timeout: Option<Duration>,
}

impl Client {
    pub(crate) fn new(environment: Environment) -> Result<Self, Failure> {
        Self::with_read_timeout(environment, READ_TIMEOUT)
    }

    /// A client that waits so long for the next piece of an answer.
    pub(crate) fn with_read_timeout(
        environment: Environment,
        read_timeout: Duration,
    ) -> Result<Self, Failure> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("dunlin/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(read_timeout)
            // A node never redirects; following one would send the token elsewhere.
            .redirect(reqwest::redirect::Policy::none());
        if [&environment.data, &environment.admin]
            .into_iter()
            .any(is_loopback)
        {
            // No proxy can reach this machine's loopback interface for us.
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|error| {
            Failure::caused_by(Exit::Failed, "cannot set up an HTTP client", &error)
        })?;
        Ok(Self { http, environment })
    }

    pub(crate) fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The URL at which a deployment answers.
    pub(crate) fn deployment_url(&self, name: &str) -> Url {
        with_segments(&self.environment.data, &[name])
    }

    pub(crate) async fn node(&self) -> Result<api::Node, Failure> {
        self.answer(self.admin(Method::GET, &["v1", "node"])?).await
    }

    pub(crate) async fn deployments(&self) -> Result<Vec<api::Deployment>, Failure> {
        let request = self.admin(Method::GET, &["v1", "deployments"])?;
        Ok(self.answer::<api::Deployments>(request).await?.deployments)
    }

    pub(crate) async fn deployment(&self, name: &str) -> Result<api::Deployment, Failure> {
        self.answer(self.admin(Method::GET, &["v1", "deployments", name])?)
            .await
    }

    pub(crate) async fn delete(&self, name: &str) -> Result<api::Deleted, Failure> {
        self.answer(self.admin(Method::DELETE, &["v1", "deployments", name])?)
            .await
    }

    /// The log entries that are kept, from the number `after` on; waits up to `wait` for the first
    /// one. `next` of the answer is the `after` of the following question.
    pub(crate) async fn logs(
        &self,
        name: &str,
        after: u64,
        wait: Duration,
    ) -> Result<api::Logs, Failure> {
        let request = self
            .admin(Method::GET, &["v1", "deployments", name, "logs"])?
            .query(&[("after", after), ("wait", wait.as_secs())]);
        self.answer(request).await
    }

    pub(crate) async fn log_level(&self) -> Result<api::LogLevel, Failure> {
        self.answer(self.admin(Method::GET, &["v1", "log"])?).await
    }

    pub(crate) async fn set_log_level(&self, level: &str) -> Result<api::LogLevel, Failure> {
        let request = self.admin(Method::PUT, &["v1", "log"])?;
        self.answer(request.json(&json!({ "level": level }))).await
    }

    /// Sends a package of `size` bytes.
    pub(crate) async fn upload(
        &self,
        name: Option<&str>,
        size: u64,
        body: Body,
    ) -> Result<api::Uploaded, Failure> {
        let request = self
            .admin(Method::POST, &["v1", "deployments"])?
            .query(&name.map(|name| ("name", name)).as_slice())
            .header(header::CONTENT_TYPE, "application/x-tar")
            // With its length known the node refuses what is too large before it is sent.
            .header(header::CONTENT_LENGTH, size)
            .body(body);
        self.answer(request).await
    }

    /// Sends a request to a deployment. Any status is an answer.
    pub(crate) async fn predict(
        &self,
        name: &str,
        prediction: Prediction<'_>,
    ) -> Result<Response, Failure> {
        let mut url = self.deployment_url(name).to_string();
        url.push_str(prediction.path);
        let mut request = self
            .http
            .post(url)
            .headers(prediction.headers)
            .body(prediction.body);
        if let Some(timeout) = prediction.timeout {
            request = request.timeout(timeout);
        }
        self.send(request, &self.environment.data).await
    }

    fn admin(&self, method: Method, path: &[&str]) -> Result<RequestBuilder, Failure> {
        let token = self.environment.token()?;
        let url = with_segments(&self.environment.admin, path);
        Ok(self.http.request(method, url).bearer_auth(token.as_str()))
    }

    async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Failure> {
        let response = self.send(request, &self.environment.admin).await?;
        let status = response.status();
        if !status.is_success() {
            let body = read_to(response, ERROR_TEXT_MAX).await.unwrap_or_default();
            return Err(self.refused(status.as_u16(), &body));
        }
        let body = read_to(response, ANSWER_MAX)
            .await
            .map_err(|error| self.broken_off(&error))?;
        serde_json::from_slice(&body).map_err(|error| {
            let message = format!("the answer of {} is not Dunlin's", self.environment.admin);
            Failure::caused_by(Exit::ServerFailed, message, &error).next(format!(
                "check the admin URL: dunlin env list; a node's and a client's version: dunlin -e {} version",
                self.environment.name
            ))
        })
    }

    async fn send(&self, request: RequestBuilder, url: &Url) -> Result<Response, Failure> {
        request
            .send()
            .await
            .map_err(|error| self.unreachable(&error, url))
    }

    fn unreachable(&self, error: &reqwest::Error, url: &Url) -> Failure {
        if error.is_builder() {
            return Failure::caused_by(Exit::Usage, "cannot make the request", &root(error));
        }
        if error.is_connect() {
            let message = format!("cannot reach the node at {url}");
            return Failure::caused_by(Exit::Unreachable, message, &root(error))
                .next(self.how_to_reach(url));
        }
        if error.is_timeout() {
            return Failure::new(Exit::Busy, format!("{url} did not answer in time"))
                .next("try again, or give it longer with --timeout where the verb has it");
        }
        self.broken_off(error)
    }

    fn broken_off(&self, error: &reqwest::Error) -> Failure {
        let message = "the node broke off the exchange";
        Failure::caused_by(Exit::Unreachable, message, &root(error)).next(format!(
            "look at the node's log, and whether it still runs: dunlin -e {} version",
            self.environment.name
        ))
    }

    fn how_to_reach(&self, url: &Url) -> String {
        let name = &self.environment.name;
        match is_loopback(url) {
            true => "is a node running? start one: dunlin serve; for a node elsewhere: dunlin env configure NAME".to_owned(),
            false => format!("is the node up, and is this its address? change it: dunlin env configure {name} --data URL --admin URL"),
        }
    }

    /// The failure for an answer with a status of 300 or more.
    pub(crate) fn refused(&self, status: u16, body: &[u8]) -> Failure {
        let message =
            error_text(body).unwrap_or_else(|| format!("the node answered with HTTP {status}"));
        let exit = Exit::of_status(status);
        let failure = Failure::new(exit, message);
        let name = &self.environment.name;
        match (exit, status) {
            (Exit::Unauthorised, _) => failure.next(format!(
                "give the token of the node at {}: dunlin env configure {name} --token-file FILE, or set DUNLIN_TOKEN; \
                 the node says at its start where the file is",
                self.environment.admin
            )),
            (Exit::NotFound, _) => failure.next(format!("see what there is: dunlin -e {name} get")),
            (_, 413) => failure.next("make it smaller, or raise the limit (request_body in dunlin.yaml, package_max in node.yaml)"),
            (_, 507) => failure.next("free space on the node's disk: delete deployments, or move its data directory"),
            (Exit::Busy, _) => failure.next("try again in a moment"),
            (Exit::ServerFailed, _) => failure.next("look at the node's log and at: dunlin logs NAME"),
            _ => failure,
        }
    }
}

/// The text of `{"error": "…"}`, or the body itself where it is text.
fn error_text(body: &[u8]) -> Option<String> {
    let text = match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(object)) => match object.get("error") {
            Some(Value::String(text)) => text.clone(),
            _ => Value::Object(object).to_string(),
        },
        _ => String::from_utf8(body.to_vec()).ok()?,
    };
    let printable = |c: char| c == '\n' || !c.is_control();
    let text: String = text.trim().chars().filter(|c| printable(*c)).collect();
    Some(text).filter(|text| !text.is_empty())
}

/// Reads at most `max` bytes of a body.
pub(crate) async fn read_to(mut response: Response, max: usize) -> reqwest::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        let room = max - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if body.len() == max {
            break;
        }
    }
    Ok(body)
}

/// reqwest's own text repeats the URL; what happened is at the end of the chain.
fn root(error: &reqwest::Error) -> std::io::Error {
    let mut cause = error.source();
    let mut text = error.to_string();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    std::io::Error::other(text)
}

fn with_segments(base: &Url, segments: &[&str]) -> Url {
    let mut url = base.clone();
    url.path_segments_mut()
        .expect("an http URL has a path")
        .pop_if_empty()
        .extend(segments);
    url
}

fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        let host = host.trim_matches(['[', ']']);
        host == "localhost"
            || host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|ip| ip.is_loopback())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::parse_url;

    #[test]
    fn a_name_cannot_leave_its_segment() {
        let base = parse_url("node:8081").unwrap();
        let url = with_segments(&base, &["v1", "deployments", "a/../b?c#d", "logs"]);
        assert_eq!(
            url.as_str(),
            "http://node:8081/v1/deployments/a%2F..%2Fb%3Fc%23d/logs"
        );
    }

    #[test]
    fn loopback_is_known() {
        for (text, expected) in [
            ("127.0.0.1:1", true),
            ("127.1.2.3:1", true),
            ("localhost:1", true),
            ("[::1]:1", true),
            ("10.0.0.1:1", false),
            ("localhost.example:1", false),
        ] {
            assert_eq!(is_loopback(&parse_url(text).unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn an_errors_text_is_found() {
        let table: [(&[u8], Option<&str>); 6] = [
            (br#"{"error":"no such thing"}"#, Some("no such thing")),
            (br#"{"detail":[1]}"#, Some(r#"{"detail":[1]}"#)),
            (b" plain \n", Some("plain")),
            (b"\x1b[2Jboo", Some("[2Jboo")),
            (b"", None),
            (b"\xff\xfe", None),
        ];
        for (body, expected) in table {
            assert_eq!(error_text(body).as_deref(), expected, "{body:?}");
        }
    }
}
