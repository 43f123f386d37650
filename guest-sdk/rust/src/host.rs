//! The host's side of the contract: the real one on WebAssembly, a fake one elsewhere. Both have
//! the same functions, and nothing else of the SDK knows which it is.

#[cfg(not(target_family = "wasm"))]
mod fake;
#[cfg(target_family = "wasm")]
mod wasm;

#[cfg(not(target_family = "wasm"))]
pub(crate) use self::fake::*;
#[cfg(target_family = "wasm")]
pub(crate) use self::wasm::*;
