//! What is shown while something takes its time: on standard error, where that is a terminal.

use std::time::Duration;

use futures_util::TryStreamExt as _;
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use reqwest::Body;
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;

use crate::output::Output;

const TICK: Duration = Duration::from_millis(100);
/// Bytes read from a file and handed to the connection at a time.
const CHUNK_LEN: usize = 256 * 1024;

/// A bar of bytes while a file is sent, then a spinner until the node has answered.
#[derive(Debug, Clone)]
pub(crate) struct Upload {
    bar: ProgressBar,
}

impl Upload {
    pub(crate) fn new(output: Output, size: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(size), target(output));
        bar.set_style(style(
            "uploading {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        ));
        Self { bar }
    }

    /// The file as the body of a request, read as fast as the node takes it.
    pub(crate) fn body(&self, file: File, size: u64) -> Body {
        let upload = self.clone();
        // A file that grows meanwhile must not make the body longer than was announced.
        let stream = ReaderStream::with_capacity(file.take(size), CHUNK_LEN);
        Body::wrap_stream(stream.inspect_ok(move |chunk| upload.sent(chunk.len() as u64)))
    }

    fn sent(&self, bytes: u64) {
        self.bar.inc(bytes);
        if self
            .bar
            .length()
            .is_some_and(|size| self.bar.position() >= size)
        {
            self.bar.set_style(style(
                "{spinner} the node checks the package and loads its models ({elapsed})",
            ));
            self.bar.enable_steady_tick(TICK);
        }
    }

    pub(crate) fn done(&self) {
        self.bar.finish_and_clear();
    }
}

const SPINNER: &str = "{spinner} {msg} ({elapsed})";

/// A line of text that says what is being done, with a spinner, or with a bar where it is known how
/// much there is to do.
#[derive(Debug)]
pub(crate) struct Steps {
    bar: ProgressBar,
    output: Output,
}

impl Steps {
    pub(crate) fn new(output: Output) -> Self {
        let bar = ProgressBar::with_draw_target(None, target(output));
        bar.set_style(style(SPINNER));
        bar.enable_steady_tick(TICK);
        Self { bar, output }
    }

    /// Begins the next step. Where there is no terminal it is a line of its own.
    pub(crate) fn say(&self, text: &str) {
        self.begin(text, text, SPINNER);
    }

    /// Begins a step that ends when `size` bytes are there.
    pub(crate) fn measure(&self, text: &str, size: u64) {
        self.bar.set_length(size);
        self.bar.set_position(0);
        self.begin(
            text,
            &format!("{text} ({})", HumanBytes(size)),
            "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        );
    }

    /// How many bytes of a measured step are there.
    pub(crate) fn at(&self, bytes: u64) {
        self.bar.set_position(bytes);
    }

    fn begin(&self, text: &str, line: &str, template: &str) {
        if self.bar.is_hidden() {
            self.output.say(line);
        } else {
            self.bar.set_style(style(template));
            self.bar.set_message(text.to_owned());
            self.bar.reset_eta();
        }
    }

    pub(crate) fn done(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.done();
    }
}

fn target(output: Output) -> ProgressDrawTarget {
    // indicatif draws nothing where standard error is not a terminal.
    match output.quiet {
        true => ProgressDrawTarget::hidden(),
        false => ProgressDrawTarget::stderr(),
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates are constants")
}
