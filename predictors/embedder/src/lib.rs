//! Sentences in, vectors out: MiniLM-L6, with 384 numbers of length 1 for each text.
//!
//! The model takes `input_ids` and `attention_mask`, INT64 `[batch, tokens]`, and gives `embedding`,
//! FP32 `[batch, 384]`; averaging over the tokens and scaling to length 1 are part of it.

mod question;
mod tokens;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use dunlin_sdk::{Config, Error, Model, Predictor, Request, Response, Tensor};
use serde::Serialize;

use crate::question::{Form, Numbers, Question};
use crate::tokens::{Batch, Vocabulary};

/// The numbers of one vector.
const WIDTH: usize = 384;

#[derive(Debug)]
pub struct Embedder {
    model: Model,
    vocabulary: Vocabulary,
}

#[derive(Serialize)]
struct Plain<'a> {
    embeddings: Vec<&'a [f32]>,
}

/// As OpenAI's embeddings endpoint answers.
#[derive(Serialize)]
struct OpenAi<'a> {
    object: &'static str,
    data: Vec<Embedding<'a>>,
    model: &'a str,
    usage: Usage,
}

#[derive(Serialize)]
struct Embedding<'a> {
    object: &'static str,
    index: usize,
    embedding: Vector<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector<'a> {
    Float(&'a [f32]),
    Base64(String),
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

impl Predictor for Embedder {
    fn init(_: Config) -> Result<Self, Error> {
        Self::new(Vocabulary::of_model()?)
    }

    fn predict(&mut self, request: Request) -> Result<Response, Error> {
        let Question { texts, form } = Question::of(&request, WIDTH)?;
        let batch = self.vocabulary.batch(&texts)?;
        let tokens = batch.tokens;
        let embeddings = self.embed(batch)?;
        let embeddings = embeddings.chunks(WIDTH);
        match form {
            Form::Plain => Response::json(&Plain {
                embeddings: embeddings.collect(),
            }),
            Form::OpenAi { numbers, model } => {
                let vector = |vector| match numbers {
                    Numbers::Float => Vector::Float(vector),
                    Numbers::Base64 => Vector::Base64(base64(vector)),
                };
                let data = embeddings.enumerate().map(|(index, embedding)| Embedding {
                    object: "embedding",
                    index,
                    embedding: vector(embedding),
                });
                Response::json(&OpenAi {
                    object: "list",
                    data: data.collect(),
                    model: &model,
                    usage: Usage {
                        prompt_tokens: tokens,
                        total_tokens: tokens,
                    },
                })
            }
        }
    }
}

dunlin_sdk::export!(Embedder);

impl Embedder {
    fn new(vocabulary: Vocabulary) -> Result<Self, Error> {
        let model = Model::open("minilm")?;
        Ok(Self { model, vocabulary })
    }

    /// One vector after the other, all in one run of the model.
    fn embed(&self, batch: Batch) -> Result<Vec<f32>, Error> {
        let shape = [batch.rows, batch.columns];
        let outputs = self.model.infer(&[
            ("input_ids", Tensor::i64(shape, batch.ids)?),
            ("attention_mask", Tensor::i64(shape, batch.mask)?),
        ])?;
        let embeddings = outputs
            .output("embedding")?
            .with_shape(&[batch.rows, WIDTH])?;
        let embeddings = embeddings.as_f32()?;
        if embeddings.iter().any(|number| !number.is_finite()) {
            return Err(Error::internal(
                "the model gave numbers that are not finite",
            ));
        }
        Ok(embeddings.into_owned())
    }
}

fn base64(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect();
    BASE64_STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use dunlin_sdk::{Tensors, testing};
    use serde_json::{Value, json};

    use super::*;

    /// A model that answers with the sum of the tokens that are no padding, and then with zeros.
    fn embedder() -> Embedder {
        testing::model("minilm", |inputs| {
            let (ids, mask) = (
                inputs.output("input_ids")?,
                inputs.output("attention_mask")?,
            );
            let [rows, columns] = ids.shape() else {
                panic!("two dimensions, not {:?}", ids.shape());
            };
            let (ids, mask) = (ids.as_i64()?, mask.as_i64()?);
            let mut embeddings = vec![0.0; rows * WIDTH];
            for (at, (id, mask)) in ids.iter().zip(mask.iter()).enumerate() {
                embeddings[at / columns * WIDTH] += (id * mask) as f32;
            }
            let embedding = Tensor::f32([*rows, WIDTH], embeddings)?;
            Ok(Tensors::from([("embedding", embedding)]))
        });
        Embedder::new(tokens::tests::few()).unwrap()
    }

    fn answer(path: &str, question: &Value) -> Value {
        let mut request = Request::post_json(question);
        if path != "/" {
            request =
                Request::new("POST", path).with_body("application/json", question.to_string());
        }
        let response = embedder().predict(request).unwrap();
        serde_json::from_slice(response.body()).unwrap()
    }

    #[test]
    fn each_text_gets_a_vector_in_its_order() {
        let answer = answer("/", &json!({"texts": ["cafe", "", "unable cafe"]}));
        let embeddings = answer["embeddings"].as_array().unwrap();
        let first: Vec<f64> = embeddings.iter().map(|e| e[0].as_f64().unwrap()).collect();
        // Each with 2 and 3 for its first and last token.
        assert_eq!(first, [10.0, 5.0, 24.0]);
        assert!(
            embeddings
                .iter()
                .all(|e| e.as_array().unwrap().len() == WIDTH)
        );
    }

    #[test]
    fn openai_clients_get_what_they_read() {
        let question = json!({"input": ["cafe", "un"], "model": "any"});
        let float = answer("/v1/embeddings", &question);
        assert_eq!(float["object"], "list");
        assert_eq!(float["model"], "any");
        assert_eq!(
            float["usage"],
            json!({"prompt_tokens": 6, "total_tokens": 6})
        );
        assert_eq!(float["data"][1]["index"], 1);
        assert_eq!(float["data"][1]["object"], "embedding");
        assert_eq!(float["data"][1]["embedding"][0], 11.0);

        let question = json!({"input": "cafe", "encoding_format": "base64"});
        let encoded = answer("/embeddings", &question);
        let encoded = encoded["data"][0]["embedding"].as_str().unwrap();
        let bytes = BASE64_STANDARD.decode(encoded).unwrap();
        assert_eq!(bytes.len(), 4 * WIDTH);
        assert_eq!(bytes[..4], 10_f32.to_le_bytes());
    }

    #[test]
    fn a_model_that_answers_nonsense_is_not_the_callers_fault() {
        let mut embedder = embedder();
        testing::model("minilm", |_| {
            let embedding = Tensor::f32([1, WIDTH], vec![f32::NAN; WIDTH])?;
            Ok(Tensors::from([("embedding", embedding)]))
        });
        embedder.model = Model::open("minilm").unwrap();
        let request = Request::post_json(&json!({"text": "cafe"}));
        assert!(matches!(embedder.predict(request), Err(Error::Internal(_))));
    }
}
