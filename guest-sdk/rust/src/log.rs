//! The predictor's log. It reaches the node's log and `dunlin logs`, with the request's id.
//!
//! A message is constant; what varies goes into fields:
//!
//! ```
//! use dunlin_sdk::log;
//!
//! let label = 3;
//! log::info!("classified", label = label, pixels = 64);
//! # assert_eq!(dunlin_sdk::testing::logs()[0].fields[1], ("pixels".into(), "64".into()));
//! ```

use std::fmt::Display;

use crate::host;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// One event. The macros of this module call it.
pub fn event(level: Level, message: &str, fields: &[(&str, &dyn Display)]) {
    let fields: Vec<_> = fields
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.to_string()))
        .collect();
    host::log(level, message, &fields);
}

pub use crate::{
    __log_debug as debug, __log_error as error, __log_info as info, __log_trace as trace,
    __log_warn as warn,
};

#[doc(hidden)]
#[macro_export]
macro_rules! __log_event {
    ($level:ident, $message:expr $(, $field:ident = $value:expr)* $(,)?) => {
        $crate::log::event(
            $crate::log::Level::$level,
            $message,
            &[$((::core::stringify!($field), &$value)),*],
        )
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __log_trace {
    ($($event:tt)*) => { $crate::__log_event!(Trace, $($event)*) };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __log_debug {
    ($($event:tt)*) => { $crate::__log_event!(Debug, $($event)*) };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __log_info {
    ($($event:tt)*) => { $crate::__log_event!(Info, $($event)*) };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __log_warn {
    ($($event:tt)*) => { $crate::__log_event!(Warn, $($event)*) };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __log_error {
    ($($event:tt)*) => { $crate::__log_event!(Error, $($event)*) };
}

#[cfg(test)]
mod tests {
    use crate::log::{self, Level};
    use crate::testing;

    #[test]
    fn an_event_has_level_message_and_fields() {
        log::warn!("odd", rows = 3, name = "x");
        log::trace!("no fields");
        let logs = testing::logs();
        assert_eq!(
            (logs[0].level, logs[0].message.as_str()),
            (Level::Warn, "odd")
        );
        assert_eq!(
            logs[0].fields,
            [("rows".into(), "3".into()), ("name".into(), "x".into())]
        );
        assert_eq!((logs[1].level, logs[1].fields.len()), (Level::Trace, 0));
        assert!(testing::logs().is_empty(), "taken");
    }
}
