//! The paths of the data plane, in one table: requests are routed by it, and the OpenAPI document is
//! made of it. All other paths are those of deployments.

use http::Method;
use percent_encoding::percent_decode_str;

/// What a path and a method ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Infer,
    ServerMetadata,
    ServerLive,
    ServerReady,
    ModelMetadata,
    ModelReady,
    ModelConfig,
    ModelStatistics,
    AllStatistics,
    RepositoryIndex,
    Load,
    Unload,
    Documentation,
    /// KServe's first protocol.
    V1List,
    V1Ready,
    V1Predict,
    /// TorchServe's paths.
    Predictions,
    Ping,
    Healthz,
}

pub(crate) struct Route {
    pub(crate) method: Method,
    /// With `{model}` and `{version}` in the place of names.
    pub(crate) path: &'static str,
    pub(crate) operation: Operation,
}

const fn get(path: &'static str, operation: Operation) -> Route {
    Route {
        method: Method::GET,
        path,
        operation,
    }
}

const fn post(path: &'static str, operation: Operation) -> Route {
    Route {
        method: Method::POST,
        path,
        operation,
    }
}

/// Of two that fit, the first counts. What is asked most often comes first.
pub(crate) const ROUTES: &[Route] = &[
    post("/v2/models/{model}/infer", Operation::Infer),
    post(
        "/v2/models/{model}/versions/{version}/infer",
        Operation::Infer,
    ),
    get("/v2", Operation::ServerMetadata),
    get("/v2/health/live", Operation::ServerLive),
    get("/v2/health/ready", Operation::ServerReady),
    get("/v2/models/stats", Operation::AllStatistics),
    get("/v2/models/{model}", Operation::ModelMetadata),
    get("/v2/models/{model}/ready", Operation::ModelReady),
    get("/v2/models/{model}/config", Operation::ModelConfig),
    get("/v2/models/{model}/stats", Operation::ModelStatistics),
    get(
        "/v2/models/{model}/versions/{version}",
        Operation::ModelMetadata,
    ),
    get(
        "/v2/models/{model}/versions/{version}/ready",
        Operation::ModelReady,
    ),
    get(
        "/v2/models/{model}/versions/{version}/config",
        Operation::ModelConfig,
    ),
    get(
        "/v2/models/{model}/versions/{version}/stats",
        Operation::ModelStatistics,
    ),
    post("/v2/repository/index", Operation::RepositoryIndex),
    post("/v2/repository/models/{model}/load", Operation::Load),
    post("/v2/repository/models/{model}/unload", Operation::Unload),
    get("/v2/docs", Operation::Documentation),
    get("/v1/models", Operation::V1List),
    get("/v1/models/{model}", Operation::V1Ready),
    post("/v1/models/{model}:predict", Operation::V1Predict),
    post("/predictions/{model}", Operation::Predictions),
    post("/predictions/{model}/{version}", Operation::Predictions),
    get("/ping", Operation::Ping),
    get("/healthz", Operation::Healthz),
];

/// First segments that belong to the node; see `DeploymentName` for why no deployment has them.
const OWN: [&str; 5] = ["v2", "v1", "predictions", "ping", "healthz"];

/// What a predictor may be asked with: what the OpenAPI document can say. TRACE and CONNECT are between
/// a client and its proxies.
const ANY: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// The names in a path, decoded.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) model: String,
    pub(crate) version: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Operation(Operation, Names),
    /// The path takes these methods.
    OtherMethod(&'static str),
    /// There is no such path, and it is no deployment's either.
    Nothing,
    /// The path of a deployment.
    Deployment,
}

/// Empty segments do not count, and HEAD is GET without the body.
pub(crate) fn find(method: &Method, path: &str) -> Found {
    if !ANY.split(", ").any(|known| method == known) {
        return Found::OtherMethod(ANY);
    }
    let own = path.trim_start_matches('/').split('/').next();
    if !own.is_some_and(|first| OWN.contains(&first)) {
        return Found::Deployment;
    }
    let segments = || path.split('/').filter(|segment| !segment.is_empty());
    let mut other = None;
    for route in ROUTES {
        let Some(names) = fit(route.path, segments()) else {
            continue;
        };
        if route.method == *method || (route.method == Method::GET && method == Method::HEAD) {
            return Found::Operation(route.operation, names);
        }
        other = other.or(Some(route));
    }
    match other {
        Some(route) if route.method == Method::GET => Found::OtherMethod("GET, HEAD"),
        Some(_) => Found::OtherMethod("POST"),
        None => Found::Nothing,
    }
}

fn fit<'p>(template: &'static str, mut segments: impl Iterator<Item = &'p str>) -> Option<Names> {
    let mut names = Names::default();
    for expected in template.split('/').filter(|segment| !segment.is_empty()) {
        let segment = segments.next()?;
        let Some((name, suffix)) = expected.strip_prefix('{').and_then(|e| e.split_once('}'))
        else {
            if segment != expected {
                return None;
            }
            continue;
        };
        // In full: a colon may be encoded as well.
        let decoded = percent_decode_str(segment).decode_utf8_lossy();
        let value = decoded.strip_suffix(suffix)?;
        if suffix.is_empty() && template.starts_with("/v1") && value.contains(':') {
            return None;
        }
        match name {
            "model" => names.model = value.to_owned(),
            _ => names.version = Some(value.to_owned()),
        }
    }
    segments.next().is_none().then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(model: &str, version: Option<&str>) -> Names {
        Names {
            model: model.to_owned(),
            version: version.map(str::to_owned),
        }
    }

    #[test]
    fn a_path_and_a_method_are_one_operation() {
        let table = [
            (
                "POST",
                "/v2/models/a/infer",
                Operation::Infer,
                names("a", None),
            ),
            (
                "POST",
                "/v2/models/a.b/versions/7/infer",
                Operation::Infer,
                names("a.b", Some("7")),
            ),
            ("GET", "/v2", Operation::ServerMetadata, names("", None)),
            ("HEAD", "/v2/", Operation::ServerMetadata, names("", None)),
            (
                "GET",
                "/v2/models/stats",
                Operation::AllStatistics,
                names("", None),
            ),
            (
                "GET",
                "//v2/models//a/stats/",
                Operation::ModelStatistics,
                names("a", None),
            ),
            (
                "GET",
                "/v2/models/..%2fa",
                Operation::ModelMetadata,
                names("../a", None),
            ),
            (
                "POST",
                "/v1/models/a:predict",
                Operation::V1Predict,
                names("a", None),
            ),
            (
                "POST",
                "/v1/models/a%3Apredict",
                Operation::V1Predict,
                names("a", None),
            ),
            (
                "POST",
                "/predictions/a/2",
                Operation::Predictions,
                names("a", Some("2")),
            ),
        ];
        for (method, path, operation, names) in table {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(
                find(&method, path),
                Found::Operation(operation, names),
                "{path}"
            );
        }
    }

    #[test]
    fn what_is_no_operation() {
        let table = [
            ("POST", "/v2", Found::OtherMethod("GET, HEAD")),
            ("GET", "/v2/models/a/infer", Found::OtherMethod("POST")),
            ("GET", "/v1/models/a:predict", Found::OtherMethod("POST")),
            ("GET", "/v2/models", Found::Nothing),
            ("GET", "/v1/models/a:explain", Found::Nothing),
            ("GET", "/v2/models/a/infer/b", Found::Nothing),
            ("TRACE", "/a", Found::OtherMethod(ANY)),
            ("QUERY", "/a", Found::OtherMethod(ANY)),
            ("DELETE", "/a", Found::Deployment),
            ("GET", "/v2x", Found::Deployment),
            ("GET", "/", Found::Deployment),
            ("POST", "/a/v2", Found::Deployment),
        ];
        for (method, path, found) in table {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(find(&method, path), found, "{path}");
        }
    }
}
