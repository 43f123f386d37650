//! What a route is asked: the recorded requests, or such as golden samples make.

use super::*;

impl Comparison<'_> {
    /// What is asked under load.
    pub(super) fn questions(&self, name: &str) -> Vec<Question> {
        let requests = match &self.sent {
            Sent::Recorded(Recorded { requests, .. }) | Sent::Requests(requests) => requests,
            Sent::Golden => return self.model_questions(name),
        };
        requests
            .iter()
            .map(|request| {
                let body = request.body.clone();
                Question::new(format!("/{name}"), request.content_type, body)
            })
            .collect()
    }

    /// The first model with golden samples, asked for one row after the other.
    pub(super) fn model_questions(&self, name: &str) -> Vec<Question> {
        let Some((model, golden)) = self.first_golden() else {
            return Vec::new();
        };
        let inputs = &self.signatures[&model.name].inputs;
        let calls = golden.smallest_calls(inputs).into_iter();
        calls
            .take(GOLDEN_REQUESTS_MAX)
            .map(|call| {
                let request = call.binary_request();
                Question {
                    path: format!("/v2/models/{name}.{}/infer", model.name),
                    header: (LENGTH_HEADER, HeaderValue::from(request.json_len)),
                    body: request.body,
                }
            })
            .collect()
    }

    pub(super) fn golden_requests(&self) -> Result<Vec<Request>, Failure> {
        let mut requests = Vec::new();
        let several = self.subject.models.len() > 1;
        for model in &self.subject.models {
            let Some((_, golden)) = &model.golden else {
                continue;
            };
            let inputs = &self.signatures[&model.name].inputs;
            for (row, call) in golden.smallest_calls(inputs).into_iter().enumerate() {
                let document = call.json_request(several.then_some(&model.name));
                if let Some(document) = document
                    && requests.len() < GOLDEN_REQUESTS_MAX
                {
                    requests.push(Request {
                        name: format!("golden sample {row} of {}", model.name),
                        content_type: "application/json",
                        body: document.to_string().into(),
                    });
                }
            }
        }
        match requests.is_empty() {
            true => Err(Failure::new(
                Exit::Refused,
                "the golden samples have no form in JSON, so no requests can be made of them",
            )
            .next("give requests: --requests FILE|FOLDER")),
            false => Ok(requests),
        }
    }

    pub(super) fn first_golden(&self) -> Option<(&SubjectModel, &Golden)> {
        let mut models = self.subject.models.iter();
        models.find_map(|model| Some((model, &model.golden.as_ref()?.1)))
    }
}
