//! `/v2/docs`: an OpenAPI document of the data plane, made of the table that routes requests and of the
//! types that they are read into and answered with; and a page that shows it.

use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header};
use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{
    body::{ReplyBody, full},
    oip::{
        Health, IndexRequest, InferResponse, Live, LoadRequest, ModelReady, Ready, UnloadRequest,
        V1Answer, V1Models, V1Ready, V1Request,
        config::ModelConfig,
        documents::{ModelIndex, ModelMetadata, ServerMetadata, Statistics},
        request::InferRequest,
    },
    routes::{Operation, ROUTES, Route},
};

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| document().to_string().into());
static PAGE: &str = include_str!("docs.html");

/// An error, whatever it is.
#[derive(JsonSchema)]
struct Error {
    #[expect(dead_code, reason = "only its schema is of use here")]
    error: String,
}

/// The page for those who ask for HTML, as browsers do, and else the document.
pub(super) fn answer(headers: &HeaderMap) -> Response<ReplyBody> {
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok());
    let html = accept.is_some_and(|accept| accept.contains("text/html"));
    let (body, content_type) = match html {
        true => (
            Bytes::from_static(PAGE.as_bytes()),
            "text/html; charset=utf-8",
        ),
        false => (DOCUMENT.clone(), "application/json"),
    };
    let mut response = Response::new(full(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    response
}

fn document() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    let mut schemas = settings.into_generator();
    let mut paths = Map::new();
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = operation(route, &mut schemas);
    }
    let methods = ["get", "head", "post", "put", "patch", "delete", "options"];
    let predictors = methods.map(|method| (method.to_owned(), predictor(method)));
    let predictors: Map<String, Value> = predictors.into_iter().collect();
    paths.insert("/{deployment}".to_owned(), predictors.into());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Dunlin",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Where predictions are asked for: the Open Inference Protocol, version 2, \
                with KServe's version 1 and TorchServe's paths beside it, and each deployment's own.",
            "license": { "name": "Apache-2.0" },
        },
        "paths": paths,
        "components": { "schemas": schemas.take_definitions(true) },
    })
}

/// What a request brings and an answer has.
#[derive(Default)]
struct Described {
    summary: &'static str,
    /// By content type. None: no body.
    request: Option<Value>,
    /// Of a 200, by content type. None: no body.
    answer: Option<Value>,
    errors: &'static [u16],
}

const ON_BODY: &[u16] = &[400, 404, 408, 413, 415, 500, 501, 503, 504];
const ON_MODEL: &[u16] = &[404, 503];
const ON_CHANGE: &[u16] = &[400, 401, 403, 404, 408, 413, 415, 422, 500, 503, 507];

fn described(operation: Operation, schemas: &mut SchemaGenerator) -> Described {
    let binary = || json!({ "schema": true });
    match operation {
        Operation::Infer => Described {
            summary: "Tensors in, tensors out, as JSON or as bytes behind it",
            request: Some(json!({
                "application/json": { "schema": schemas.subschema_for::<InferRequest<'_>>() },
                "application/octet-stream": binary(),
            })),
            answer: Some(json!({
                "application/json": { "schema": schemas.subschema_for::<InferResponse<'_>>() },
                "application/octet-stream": binary(),
            })),
            errors: ON_BODY,
        },
        Operation::V1Predict => Described {
            summary: "Rows in, rows out, as KServe's version 1",
            request: json_of::<V1Request<'_>>(schemas),
            answer: json_of::<V1Answer<'_>>(schemas),
            errors: ON_BODY,
        },
        Operation::Predictions => Described {
            summary: "POST /{deployment} by TorchServe's path",
            request: Some(json!({ "*/*": binary() })),
            answer: Some(json!({ "*/*": binary() })),
            errors: &[],
        },
        Operation::ServerMetadata => get::<ServerMetadata>("The server", &[], schemas),
        Operation::ServerLive => get::<Live>("Whether the server is there", &[], schemas),
        Operation::ServerReady => {
            get::<Ready>("Whether the server takes requests", &[503], schemas)
        }
        Operation::ModelMetadata => get::<ModelMetadata>("A model's tensors", ON_MODEL, schemas),
        Operation::ModelReady => {
            get::<ModelReady<'_>>("Whether a model takes requests", ON_MODEL, schemas)
        }
        Operation::ModelConfig => get::<ModelConfig>("How a model is run", ON_MODEL, schemas),
        Operation::ModelStatistics => get::<Statistics>("What a model has done", ON_MODEL, schemas),
        Operation::AllStatistics => get::<Statistics>("What all models have done", &[], schemas),
        Operation::RepositoryIndex => Described {
            summary: "The models that there are, serving or not",
            request: json_of::<IndexRequest>(schemas),
            answer: json_of::<Vec<ModelIndex>>(schemas),
            errors: &[400, 408, 413, 415, 503],
        },
        Operation::Load => Described {
            summary: "Load a deployment anew, where model_control allows it",
            request: json_of::<LoadRequest>(schemas),
            answer: None,
            errors: ON_CHANGE,
        },
        Operation::Unload => Described {
            summary: "Let a deployment serve no more, where model_control allows it",
            request: json_of::<UnloadRequest>(schemas),
            answer: None,
            errors: ON_CHANGE,
        },
        Operation::Documentation => Described {
            summary: "This document, or a page that shows it",
            answer: Some(json!({
                "application/json": { "schema": { "type": "object" } },
                "text/html": { "schema": { "type": "string" } },
            })),
            ..Described::default()
        },
        Operation::V1List => get::<V1Models>("The models by name", &[], schemas),
        Operation::V1Ready => get::<V1Ready>("Whether a model takes requests", ON_MODEL, schemas),
        Operation::Ping => get::<Health>("Whether the server takes requests", &[503], schemas),
        Operation::Healthz => get::<Health>("Whether the process is there", &[], schemas),
    }
}

fn get<T: JsonSchema>(
    summary: &'static str,
    errors: &'static [u16],
    schemas: &mut SchemaGenerator,
) -> Described {
    Described {
        summary,
        request: None,
        answer: json_of::<T>(schemas),
        errors,
    }
}

fn json_of<T: JsonSchema>(schemas: &mut SchemaGenerator) -> Option<Value> {
    Some(json!({ "application/json": { "schema": schemas.subschema_for::<T>() } }))
}

fn operation(route: &Route, schemas: &mut SchemaGenerator) -> Value {
    let Described {
        summary,
        request,
        answer,
        errors,
    } = described(route.operation, schemas);
    let error = schemas.subschema_for::<Error>();
    let mut responses = Map::new();
    let mut success = json!({ "description": "Success" });
    if let Some(answer) = answer {
        success["content"] = answer;
    }
    responses.insert("200".to_owned(), success);
    for status in errors {
        let content = json!({ "application/json": { "schema": error } });
        let failed = json!({ "description": meaning(*status), "content": content });
        responses.insert(status.to_string(), failed);
    }
    if route.operation == Operation::Predictions {
        responses.insert(
            "default".to_owned(),
            predictor("post")["responses"]["default"].clone(),
        );
    }
    let names = route.path.split(['{', '}']).skip(1).step_by(2);
    let parameters: Vec<Value> = names.map(in_path).collect();
    let mut operation = json!({
        "operationId": operation_id(route),
        "summary": summary,
        "parameters": parameters,
        "responses": responses,
    });
    if let Some(content) = request {
        let required = matches!(route.operation, Operation::Infer | Operation::V1Predict);
        operation["requestBody"] = json!({ "required": required, "content": content });
    }
    operation
}

/// One that clients are generated with: the operation, and whether its path has a version.
fn operation_id(route: &Route) -> String {
    let version = if route.path.contains("{version}") {
        "Version"
    } else {
        ""
    };
    format!("{:?}{version}", route.operation)
}

fn in_path(name: &str) -> Value {
    let description = match name {
        "version" => "The revision of the deployment",
        _ => "The deployment, or deployment.model for one of several models",
    };
    json!({
        "name": name, "in": "path", "required": true, "description": description,
        "schema": { "type": "string", "minLength": 1 },
    })
}

/// `/{deployment}`, whose methods, bodies and statuses are the predictor's.
fn predictor(method: &str) -> Value {
    let mut operation = json!({
        "operationId": format!("Predict{}", method.to_ascii_uppercase()),
        "summary": "The deployment's predictor; without one {\"inputs\": {name: nested lists}} to its model",
        "parameters": [{
            "name": "deployment", "in": "path", "required": true,
            "schema": { "type": "string", "minLength": 1 },
        }],
        "responses": {
            "default": {
                "description": "What the predictor answers, or an error of the node",
                "content": { "*/*": { "schema": true } },
            },
        },
    });
    if matches!(method, "post" | "put" | "patch") {
        operation["requestBody"] = json!({ "content": { "*/*": { "schema": true } } });
    }
    operation
}

fn meaning(status: u16) -> &'static str {
    match status {
        400 => "The request is wrong; the text says where",
        401 => "The node's token is missing",
        403 => "The node does not allow it",
        404 => "There is no such model",
        408 => "The body did not arrive in time",
        413 => "The body is too large",
        415 => "The body's encoding is unknown",
        422 => "The model does not load",
        501 => "The model's engine does not do that",
        503 => "Not ready, or busy: come again",
        504 => "The deadline has passed",
        507 => "The disk is full",
        _ => "Something failed inside",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_every_route_once() {
        let document = document();
        let mut ids = std::collections::BTreeSet::new();
        for route in ROUTES {
            let method = route.method.as_str().to_ascii_lowercase();
            let operation = &document["paths"][route.path][method];
            assert!(
                ids.insert(operation["operationId"].to_string()),
                "{operation}"
            );
            let parameters = operation["parameters"].as_array().unwrap();
            assert_eq!(parameters.len(), route.path.matches('{').count());
        }
        let text = document.to_string();
        for reference in text.split("\"#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(
                document["components"]["schemas"][name].is_object(),
                "{name}"
            );
        }
    }
}
