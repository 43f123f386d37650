//! Makes a component's exports of a predictor.

/// Makes a component of a [`Predictor`](crate::Predictor): once in a crate, at its root.
///
/// ```
/// # use dunlin_sdk::{Config, Error, Predictor, Request, Response};
/// struct Hello;
///
/// impl Predictor for Hello {
///     fn init(_: Config) -> Result<Self, Error> {
///         Ok(Self)
///     }
///
///     fn predict(&mut self, _: Request) -> Result<Response, Error> {
///         Ok(Response::text("hello"))
///     }
/// }
///
/// dunlin_sdk::export!(Hello);
/// ```
///
/// A [`TensorPredictor`](crate::TensorPredictor) that is to serve `/v2/models/…/infer` itself is
/// exported as `dunlin_sdk::export!(Hello: tensors)`.
///
/// On other targets than WebAssembly it exports nothing, and only checks that the type fits.
#[macro_export]
macro_rules! export {
    ($predictor:ty) => {
        const _: () = {
            $crate::__private::predictor_fits::<$predictor>();
            $crate::__export_slot!($predictor);
            #[cfg(target_family = "wasm")]
            $crate::bindings::export_predictor!(Exported);
        };
    };
    ($predictor:ty: tensors) => {
        const _: () = {
            $crate::__private::tensor_predictor_fits::<$predictor>();
            $crate::__export_slot!($predictor);
            #[cfg(target_family = "wasm")]
            $crate::bindings::export_predictor!(Exported);
            #[cfg(target_family = "wasm")]
            $crate::bindings::tensors::export_tensors!(Exported);
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export_slot {
    ($predictor:ty) => {
        #[cfg(target_family = "wasm")]
        struct Exported;

        #[cfg(target_family = "wasm")]
        impl $crate::__private::Slot for Exported {
            type Predictor = $predictor;

            fn with<R>(f: impl FnOnce(&mut Option<$predictor>) -> R) -> R {
                ::std::thread_local! {
                    static PREDICTOR: ::core::cell::RefCell<Option<$predictor>> =
                        const { ::core::cell::RefCell::new(None) };
                }
                PREDICTOR.with_borrow_mut(f)
            }
        }
    };
}

/// What the macros need of the SDK. Not for anybody else.
#[doc(hidden)]
pub mod __private {
    #[cfg(target_family = "wasm")]
    pub use wit_bindgen;

    use crate::{Predictor, TensorPredictor};

    pub const fn predictor_fits<P: Predictor>() {}

    pub const fn tensor_predictor_fits<P: TensorPredictor>() {}

    /// The one predictor of an instance.
    pub trait Slot {
        type Predictor: Predictor;

        fn with<R>(f: impl FnOnce(&mut Option<Self::Predictor>) -> R) -> R;
    }
}

#[cfg(target_family = "wasm")]
mod wasm {
    use std::time::Duration;

    use super::__private::Slot;
    use crate::bindings::dunlin::predictor::types;
    use crate::bindings::exports::dunlin::predictor::handler;
    use crate::bindings::tensors::exports::dunlin::predictor::tensor_handler;
    use crate::dtype::DType;
    use crate::tensor::Tensor;
    use crate::tensors::Tensors;
    use crate::{Config, Error, Predictor, Request, TensorPredictor, TensorSpec, log};

    impl<S: Slot> handler::Guest for S {
        fn init(config: String) -> Result<(), types::Error> {
            report_panics();
            let predictor = S::Predictor::init(Config::from_json(&config)?)?;
            S::with(|slot| *slot = Some(predictor));
            Ok(())
        }

        fn predict(request: types::Request) -> Result<types::Response, types::Error> {
            let types::Request {
                id,
                method,
                path,
                query,
                headers,
                body,
                timeout_ms,
            } = request;
            let request = Request {
                id,
                method,
                path,
                query,
                headers,
                body,
                timeout: Duration::from_millis(timeout_ms),
            };
            let response = initialised::<S, _>(|predictor| predictor.predict(request))?;
            let (status, headers, body) = response.into_parts();
            Ok(types::Response {
                status,
                headers,
                body,
            })
        }
    }

    impl<S: Slot> tensor_handler::Guest for S
    where
        S::Predictor: TensorPredictor,
    {
        fn describe() -> tensor_handler::Signature {
            let lower = |specs: Vec<TensorSpec>| {
                specs
                    .into_iter()
                    .map(|TensorSpec { name, dtype, shape }| types::TensorMetadata {
                        name,
                        datatype: dtype.into(),
                        shape,
                    })
                    .collect()
            };
            let signature = initialised::<S, _>(|predictor| Ok(predictor.describe()))
                .expect("the host calls init before describe");
            tensor_handler::Signature {
                inputs: lower(signature.inputs),
                outputs: lower(signature.outputs),
            }
        }

        fn infer(inputs: Vec<types::NamedTensor>) -> Result<Vec<types::NamedTensor>, types::Error> {
            let inputs = inputs
                .into_iter()
                .map(lift)
                .collect::<Result<Tensors, Error>>()?;
            let outputs = initialised::<S, _>(|predictor| predictor.infer(inputs))?;
            Ok(outputs.into_iter().map(lower).collect())
        }
    }

    fn initialised<S: Slot, R>(
        f: impl FnOnce(&mut S::Predictor) -> Result<R, Error>,
    ) -> Result<R, Error> {
        S::with(|slot| match slot {
            Some(predictor) => f(predictor),
            None => Err(Error::internal("the host called the predictor before init")),
        })
    }

    /// A panic traps, and the instance is gone with all it knew; its message goes to the log first.
    fn report_panics() {
        std::panic::set_hook(Box::new(|panic| {
            let message = panic.payload_as_str().unwrap_or("no message");
            match panic.location() {
                Some(location) => log::error!("panic", message = message, location = location),
                None => log::error!("panic", message = message),
            }
        }));
    }

    fn lift(tensor: types::NamedTensor) -> Result<(String, Tensor<'static>), Error> {
        let types::NamedTensor {
            name,
            datatype,
            shape,
            data,
        } = tensor;
        let shape = shape
            .into_iter()
            .map(usize::try_from)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| Error::bad_request(format_args!("{name} is larger than memory")))?;
        match Tensor::new(datatype.into(), shape, data) {
            Ok(tensor) => Ok((name, tensor)),
            Err(error) => Err(Error::bad_request(format_args!("{name}: {error}"))),
        }
    }

    fn lower((name, tensor): (String, Tensor<'static>)) -> types::NamedTensor {
        types::NamedTensor {
            name,
            datatype: tensor.dtype().into(),
            shape: tensor.shape().iter().map(|size| *size as u64).collect(),
            data: tensor.into_bytes(),
        }
    }

    impl From<Error> for types::Error {
        fn from(error: Error) -> Self {
            match error {
                Error::BadRequest(message) => Self::BadRequest(message),
                Error::Unavailable(message) => Self::Unavailable(message),
                Error::Internal(message) => Self::Internal(message),
            }
        }
    }

    macro_rules! datatypes {
        ($($theirs:ident $ours:ident,)*) => {
            impl From<types::Datatype> for DType {
                fn from(datatype: types::Datatype) -> Self {
                    match datatype {
                        $(types::Datatype::$theirs => Self::$ours,)*
                    }
                }
            }

            impl From<DType> for types::Datatype {
                fn from(dtype: DType) -> Self {
                    match dtype {
                        $(DType::$ours => Self::$theirs,)*
                    }
                }
            }
        };
    }

    datatypes! {
        Bool Bool, Uint8 U8, Uint16 U16, Uint32 U32, Uint64 U64, Int8 I8, Int16 I16, Int32 I32,
        Int64 I64, Fp16 F16, Bf16 BF16, Fp32 F32, Fp64 F64, Bytes Bytes,
    }
}
