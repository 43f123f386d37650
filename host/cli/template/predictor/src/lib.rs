//! Four measurements of an iris flower in, its species and the probability of each species out.

use std::collections::BTreeMap;

use dunlin_sdk::{Config, Error, Model, Predictor, Request, Response, Tensor};
use serde::{Deserialize, Serialize};

struct Iris {
    model: Model,
    labels: Vec<String>,
}

/// `predictor.config` of dunlin.yaml.
#[derive(Deserialize)]
struct Settings {
    labels: Vec<String>,
}

/// The body of a request: length and width of sepal and petal in centimetres.
#[derive(Deserialize)]
struct Flower {
    features: [f32; 4],
}

/// The body of the reply.
#[derive(Serialize)]
struct Prediction<'a> {
    label: &'a str,
    probabilities: BTreeMap<&'a str, f32>,
}

impl Predictor for Iris {
    /// Runs once, before the deployment is live. The model is loaded already.
    fn init(config: Config) -> Result<Self, Error> {
        let Settings { labels } = config.parse()?;
        Ok(Self {
            model: Model::open("iris")?,
            labels,
        })
    }

    /// Runs for each request.
    fn predict(&mut self, request: Request) -> Result<Response, Error> {
        let flower: Flower = request.json()?;
        if !flower
            .features
            .iter()
            .all(|feature| (0.0..=100.0).contains(feature))
        {
            return Err(Error::bad_request(
                "`features` are centimetres from 0 to 100",
            ));
        }

        let input = Tensor::f32([1, 4], &flower.features)?;
        let outputs = self.model.infer(&[("features", input)])?;
        let probabilities = outputs.output("probabilities")?;
        let probabilities = probabilities
            .with_shape(&[1, self.labels.len()])?
            .as_f32()?;

        let labelled = self
            .labels
            .iter()
            .map(String::as_str)
            .zip(probabilities.iter().copied());
        let best = labelled.clone().max_by(|a, b| a.1.total_cmp(&b.1));
        let (label, _) = best.ok_or_else(|| Error::internal("dunlin.yaml has no labels"))?;
        Response::json(&Prediction {
            label,
            probabilities: labelled.collect(),
        })
    }
}

dunlin_sdk::export!(Iris);

#[cfg(test)]
mod tests {
    use dunlin_sdk::{Tensors, testing};
    use serde_json::{Value, json};

    use super::*;

    /// The predictor on this machine: no WebAssembly, no node, and a fake model.
    fn predict(body: Value) -> Result<Value, Error> {
        testing::model("iris", |inputs| {
            assert_eq!(inputs.output("features")?.shape(), [1, 4]);
            Ok(Tensors::from([(
                "probabilities",
                Tensor::f32([1, 3], &[0.25, 0.5, 0.25])?,
            )]))
        });
        let config = Config::from_json(r#"{"labels": ["setosa", "versicolor", "virginica"]}"#)?;
        let response = Iris::init(config)?.predict(Request::post_json(&body))?;
        Ok(serde_json::from_slice(response.body()).expect("the reply is JSON"))
    }

    #[test]
    fn the_most_probable_species_is_the_label() {
        let prediction = predict(json!({"features": [5.9, 3.0, 4.2, 1.5]})).unwrap();
        assert_eq!(
            prediction,
            json!({
                "label": "versicolor",
                "probabilities": {"setosa": 0.25, "versicolor": 0.5, "virginica": 0.25},
            })
        );
    }

    #[test]
    fn wrong_requests_are_refused() {
        for body in [
            json!({}),
            json!({"features": [5.9, 3.0, 4.2]}),
            json!({"features": [5.9, "3", 4.2, 1.5]}),
            json!({"features": [5.9, 3.0, 4.2, -1.0]}),
        ] {
            assert!(
                matches!(predict(body.clone()), Err(Error::BadRequest(_))),
                "{body}"
            );
        }
    }
}
