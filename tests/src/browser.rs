//! A real browser without a window.

use std::{path::PathBuf, process::Command};

use crate::artifacts;

#[derive(Debug)]
pub struct Browser {
    program: PathBuf,
    libraries: Option<PathBuf>,
}

impl Browser {
    /// None where there is none; `cargo xtask test` fetches one.
    #[must_use]
    pub fn find() -> Option<Self> {
        let program = artifacts::browser()?;
        // One that was unpacked brings its libraries, in the folder that stands for `/`.
        let root = program.ancestors().nth(4);
        let libraries = root.map(|root| root.join("usr/lib/x86_64-linux-gnu"));
        Some(Self {
            libraries: libraries.filter(|folder| folder.join("pulseaudio").is_dir()),
            program,
        })
    }

    /// Opens a page and gives what stands in it once it has settled. Time on the page runs as fast
    /// as nothing is under way.
    ///
    /// # Panics
    /// The browser cannot be run.
    #[must_use]
    pub fn dump(&self, url: &str) -> String {
        let mut browser = Command::new(&self.program);
        if let Some(libraries) = &self.libraries {
            let path = format!("{0}:{0}/pulseaudio", libraries.display());
            browser.env("LD_LIBRARY_PATH", path);
        }
        let output = browser
            .args(["--headless", "--no-sandbox", "--disable-gpu"])
            .args([
                "--no-proxy-server",
                "--virtual-time-budget=10000",
                "--dump-dom",
            ])
            .arg(url)
            .output()
            .expect("the browser can be run");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}
