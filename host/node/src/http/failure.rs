//! The one place where errors become HTTP: what the client is told, and what only the log is told.

use dunlin_inference::{InferenceError, one_line};
use dunlin_package::PackageError;
use dunlin_sandbox::{CallError, GuestFailure};
use http::{HeaderValue, Response, StatusCode, header};

use super::body::{ReplyBody, full};
use crate::{
    error::{ChangeError, NodeError},
    telemetry::Rejection,
};

/// A request that is answered with an error.
#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    /// Safe to show to anybody.
    message: String,
    /// For the log: the whole chain of what happened inside.
    inside: Option<String>,
    /// The bound that was reached, where it was the node that turned the request away.
    rejection: Option<Rejection>,
    /// What a path takes instead of the method that was used.
    allow: Option<&'static str>,
}

impl Failure {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            inside: None,
            rejection: None,
            allow: None,
        }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    pub(crate) fn unknown_model(name: &str) -> Self {
        Self::not_found(format!("Request for unknown model: '{name}' is not found"))
    }

    /// `allowed` is a list of methods with commas, as the header `allow` has it.
    pub(crate) fn method_not_allowed(allowed: &'static str) -> Self {
        Self {
            allow: Some(allowed),
            ..Self::new(
                StatusCode::METHOD_NOT_ALLOWED,
                format!("this path takes {allowed}"),
            )
        }
    }

    /// The same failure of something larger.
    pub(crate) fn of(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    pub(crate) fn too_large(limit: u64) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the request body is larger than {limit} bytes"),
        )
        .because(Rejection::RequestBody)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    /// A failure whose text could tell strangers about the inside.
    pub(crate) fn internal(message: &str, inside: String) -> Self {
        Self {
            inside: Some(inside),
            ..Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
        }
    }

    /// Says which bound was reached.
    pub(crate) fn because(mut self, rejection: Rejection) -> Self {
        self.rejection = Some(rejection);
        self
    }

    pub(crate) fn rejection(&self) -> Option<Rejection> {
        self.rejection
    }

    fn with_inside(mut self, inside: &(dyn std::error::Error + 'static)) -> Self {
        self.inside = Some(one_line(inside));
        self
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// What the client is told, and one line in the log where somebody should look.
    fn told(&self, request_id: &str) -> String {
        let status = self.status.as_u16();
        if let Some(inside) = &self.inside {
            tracing::warn!(request_id, status, error = inside, "a request failed");
        } else {
            tracing::debug!(
                request_id,
                status,
                error = self.message,
                "a request was refused"
            );
        }
        if self.status == StatusCode::INTERNAL_SERVER_ERROR {
            format!("{} (request id {request_id})", self.message)
        } else {
            self.message.clone()
        }
    }

    /// The answer over gRPC.
    pub(crate) fn into_status(self, request_id: &str) -> tonic::Status {
        tonic::Status::new(self.code(), self.told(request_id))
    }

    /// As [`Failure::into_status`], before a request is one.
    pub(crate) fn into_bare_status(self) -> tonic::Status {
        tonic::Status::new(self.code(), self.message)
    }

    fn code(&self) -> tonic::Code {
        use tonic::Code;
        match self.status.as_u16() {
            400 => Code::InvalidArgument,
            401 => Code::Unauthenticated,
            403 => Code::PermissionDenied,
            404 => Code::NotFound,
            405 | 415 | 501 => Code::Unimplemented,
            408 | 504 => Code::DeadlineExceeded,
            413 | 507 => Code::ResourceExhausted,
            422 => Code::FailedPrecondition,
            503 => Code::Unavailable,
            _ => Code::Internal,
        }
    }

    /// The answer over HTTP.
    pub(crate) fn into_response(self, request_id: &str) -> Response<ReplyBody> {
        let message = self.told(request_id);
        let body = serde_json::json!({ "error": message }).to_string();
        let mut response = Response::new(full(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        const FAILED: &str = "the predictor failed";
        match error {
            CallError::Guest(GuestFailure::BadRequest(message)) => Self::bad_request(message),
            CallError::Guest(GuestFailure::Unavailable(message)) => Self::unavailable(message),
            CallError::Guest(GuestFailure::Internal(message)) => Self::internal(FAILED, message),
            CallError::Overloaded => {
                Self::unavailable(error.to_string()).because(Rejection::Instances)
            }
            CallError::DeadlineExceeded(_) => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, error.to_string())
                    .with_inside(&error)
                    .because(Rejection::Deadline)
            }
            CallError::Trap(_)
            | CallError::OutOfMemory { .. }
            | CallError::TensorMemory { .. }
            | CallError::StackOverflow
            | CallError::ResponseTooLarge { .. }
            | CallError::NoTensorHandler => Self::internal(FAILED, one_line(&error)),
        }
    }
}

impl From<InferenceError> for Failure {
    fn from(error: InferenceError) -> Self {
        match &error {
            InferenceError::InvalidInput { .. } => Self::bad_request(one_line(&error)),
            InferenceError::Unsupported { .. } => {
                Self::new(StatusCode::NOT_IMPLEMENTED, error.to_string())
            }
            InferenceError::Overloaded { .. } => {
                Self::unavailable(error.to_string()).because(Rejection::ModelQueue)
            }
            InferenceError::QueueTimeout { .. } | InferenceError::TooLate => {
                Self::unavailable(error.to_string()).because(Rejection::QueueTimeout)
            }
            _ => Self::internal("the model failed", one_line(&error)),
        }
    }
}

impl From<ChangeError> for Failure {
    fn from(error: ChangeError) -> Self {
        let message = one_line(&error);
        match &error {
            ChangeError::Package(PackageError::TooLarge { .. }) => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, message)
            }
            ChangeError::Package(error) if error.is_out_of_space() => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, message)
            }
            ChangeError::Package(PackageError::Store(_)) | ChangeError::Store(_) => {
                Self::internal("the node's content store failed", message)
            }
            ChangeError::Package(PackageError::Read(error))
                if error.kind() == std::io::ErrorKind::TimedOut =>
            {
                Self::new(StatusCode::REQUEST_TIMEOUT, message)
            }
            ChangeError::Package(_) | ChangeError::Name { .. } | ChangeError::ModelConfig(_) => {
                Self::bad_request(message)
            }
            ChangeError::NotFound(_) => Self::not_found(message),
            // The admin plane is for the operator: the reason helps, and nobody else sees it.
            ChangeError::Model { .. } | ChangeError::Predictor(_) | ChangeError::Bound { .. } => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, message).with_inside(&error)
            }
            ChangeError::Node(error) if error.is_out_of_space() => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "no space is left on the node's disk for its state; free some in its data_dir",
            )
            .with_inside(error),
            // What happened to the file is the operator's to know: only they can mend it.
            ChangeError::Node(NodeError::StateLost { .. }) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, message).with_inside(&error)
            }
            ChangeError::Draining | ChangeError::Uploads(_) => Self::unavailable(message),
            ChangeError::Node(_) | ChangeError::Defect(_) => {
                Self::internal("the node could not carry out the change", message)
            }
        }
    }
}
