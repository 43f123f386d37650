//! The native backends on this machine: fetching, installing, removing and trying them.
//!
//! Owns the backend folder's content and the pinned wheels that it is made of. How a node opens what
//! is in there is `dunlin-inference`'s; that crate is asked, in a process of its own, whether an
//! installed library works.

mod child;
mod cxx;
mod install;
mod installed;
mod pip;
mod probe;
mod recipe;
mod unpack;

pub use self::cxx::{Cxx, INSTALL_CXX};
pub use self::install::{Installation, Outcome, free_space};
pub use self::installed::{Manifest, remove};
pub use self::pip::Pip;
pub use self::probe::{Found, Probe, State, answer, shown, smoke_tract, try_out};
pub use self::recipe::Native;
