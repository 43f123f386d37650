//! The compiled binary, as a shell and a script see it.

#![expect(clippy::unwrap_used, reason = "in a test a failure is a panic")]

mod against_a_node;
mod command_line;
mod node;
mod user;
