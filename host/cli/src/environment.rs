//! Environments: named nodes, in one YAML file that only its owner can read.
//!
//! Owns the file and the built-in environment `local`. Knows no HTTP: a URL is checked here, and
//! used in `client`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use reqwest::Url;
use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Failure};
use crate::paths;

/// The environment that needs no configuration: a node on this machine with its defaults.
pub(crate) const LOCAL: &str = "local";
const LOCAL_DATA: &str = "http://127.0.0.1:8080";
const LOCAL_ADMIN: &str = "http://127.0.0.1:8081";
/// A token is 64 characters or so; anything much longer is the wrong file.
const TOKEN_LEN_MAX: u64 = 4096;

/// One node, as the other parts of the CLI use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Environment {
    pub(crate) name: String,
    pub(crate) data: Url,
    pub(crate) admin: Url,
    pub(crate) token: TokenSource,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TokenSource {
    /// The token itself.
    Text(Token),
    /// A file that is read at each use: the node may make a new token.
    File(PathBuf),
}

/// A token that does not show up in debug output.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Token(String);

impl Token {
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Failure::new(
                Exit::Refused,
                "the token is empty or has a space or a control character",
            )
            .next("use the content of the node's admin-token file, which is one word"));
        }
        Ok(Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Environment {
    /// The built-in environment. Without a home folder there is no token file, but the data plane
    /// of the node can still be used.
    pub(crate) fn local() -> Self {
        let token_file = paths::default_token_file();
        Self {
            name: LOCAL.to_owned(),
            data: Url::parse(LOCAL_DATA).expect("a constant"),
            admin: Url::parse(LOCAL_ADMIN).expect("a constant"),
            token: TokenSource::File(token_file.unwrap_or_else(|_| PathBuf::from("admin-token"))),
        }
    }

    /// A new environment that is not configured any further: the ports are the defaults.
    pub(crate) fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::local()
        }
    }

    /// Reads the token. `DUNLIN_TOKEN` wins, so that a CI job needs no file.
    pub(crate) fn token(&self) -> Result<Token, Failure> {
        if let Some(token) = std::env::var("DUNLIN_TOKEN")
            .ok()
            .filter(|token| !token.is_empty())
        {
            return Token::parse(&token);
        }
        match &self.token {
            TokenSource::Text(token) => Ok(token.clone()),
            TokenSource::File(path) => self.token_from(path),
        }
    }

    fn token_from(&self, path: &Path) -> Result<Token, Failure> {
        let next = format!(
            "is a node running here? start one: dunlin serve; it says where its token is. For another \
             token file: dunlin env configure {} --token-file FILE; or set DUNLIN_TOKEN",
            self.name
        );
        let text = read_small(path).map_err(|error| {
            let message = format!("cannot read the admin token from {}", path.display());
            Failure::caused_by(Exit::Unauthorised, message, &error).next(next)
        })?;
        Token::parse(&text)
    }
}

fn read_small(path: &Path) -> io::Result<String> {
    let size = fs::metadata(path)?.len();
    if size > TOKEN_LEN_MAX {
        return Err(io::Error::other(format!(
            "{size} bytes are too many for a token"
        )));
    }
    fs::read_to_string(path)
}

/// Makes a URL of what a person writes: `edge-1:8080` and `http://edge-1:8080/` are the same.
pub(crate) fn parse_url(text: &str) -> Result<Url, Failure> {
    let refused = |why: String| {
        Failure::new(Exit::Refused, format!("{text}: {why}"))
            .next("write a host and a port, as in http://10.0.0.5:8080")
    };
    if text.starts_with("https://") {
        return Err(refused(
            "this version of dunlin speaks no TLS to a node".to_owned(),
        ));
    }
    let with_scheme = match text.contains("://") {
        true => text.to_owned(),
        false => format!("http://{text}"),
    };
    let url = Url::parse(&with_scheme).map_err(|error| refused(format!("not a URL ({error})")))?;
    if url.scheme() != "http" {
        return Err(refused(format!("the scheme is {}, not http", url.scheme())));
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(refused("a node's URL has no path and no query".to_owned()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refused(
            "a node's URL has no user and no password".to_owned(),
        ));
    }
    Ok(url)
}

/// The name is a key in a file and a word in a shell.
pub(crate) fn check_name(name: &str) -> Result<(), Failure> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let starts = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    if starts && name.len() <= 63 && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Refused,
        format!("{name:?} cannot name an environment"),
    )
    .next("use letters, digits, '-', '_' and '.', at most 63, a letter or digit first"))
}

/// The file with the environments that were configured.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    written: Written,
}

/// What stands in the file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    default: Option<String>,
    #[serde(default)]
    environments: BTreeMap<String, WrittenEnvironment>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenEnvironment {
    data: String,
    admin: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<Token>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token_file: Option<PathBuf>,
}

impl Store {
    /// Opens this user's file. One that does not exist has nothing but the built-in environment.
    pub(crate) fn open_default() -> Result<Self, Failure> {
        Self::open(paths::environments_file()?)
    }

    pub(crate) fn open(path: PathBuf) -> Result<Self, Failure> {
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                let message = format!("cannot read {}", path.display());
                return Err(Failure::caused_by(Exit::Failed, message, &error));
            }
        };
        let written = match text.trim().is_empty() {
            true => Written::default(),
            false => serde_saphyr::from_str(&text).map_err(|error| {
                let message = format!("{} is not a file of environments", path.display());
                Failure::caused_by(Exit::Refused, message, &error)
                    .next("correct it, or delete it and run: dunlin env configure NAME")
            })?,
        };
        Ok(Self { path, written })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The environment that is used where none is named.
    pub(crate) fn default_name(&self) -> &str {
        self.written.default.as_deref().unwrap_or(LOCAL)
    }

    /// The named environment, or the default one.
    pub(crate) fn get(&self, name: Option<&str>) -> Result<Environment, Failure> {
        let name = name.unwrap_or_else(|| self.default_name());
        match self.written.environments.get(name) {
            Some(written) => self.checked(name, written),
            None if name == LOCAL => Ok(Environment::local()),
            None => Err(self.unknown(name)),
        }
    }

    /// All environments by name, the built-in one included.
    pub(crate) fn list(&self) -> Result<Vec<Environment>, Failure> {
        let mut names: Vec<&str> = self
            .written
            .environments
            .keys()
            .map(String::as_str)
            .collect();
        if let Err(place) = names.binary_search(&LOCAL) {
            names.insert(place, LOCAL);
        }
        names.into_iter().map(|name| self.get(Some(name))).collect()
    }

    /// Adds or replaces an environment.
    pub(crate) fn put(&mut self, environment: &Environment) {
        let (token, token_file) = match &environment.token {
            TokenSource::Text(token) => (Some(token.clone()), None),
            TokenSource::File(path) => (None, Some(path.clone())),
        };
        let written = WrittenEnvironment {
            data: environment.data.as_str().trim_end_matches('/').to_owned(),
            admin: environment.admin.as_str().trim_end_matches('/').to_owned(),
            token,
            token_file,
        };
        self.written
            .environments
            .insert(environment.name.clone(), written);
    }

    pub(crate) fn set_default(&mut self, name: &str) -> Result<(), Failure> {
        self.get(Some(name))?;
        self.written.default = Some(name.to_owned()).filter(|name| name != LOCAL);
        Ok(())
    }

    /// Removes an environment. Where it was the default, `local` is the default again.
    pub(crate) fn delete(&mut self, name: &str) -> Result<(), Failure> {
        if self.written.environments.remove(name).is_none() {
            return Err(match name {
                LOCAL => Failure::new(Exit::Refused, "the environment local is built in")
                    .next("there is nothing to delete: it is not configured otherwise"),
                _ => self.unknown(name),
            });
        }
        if self.written.default.as_deref() == Some(name) {
            self.written.default = None;
        }
        Ok(())
    }

    /// Writes the file: a new one beside it, synced and renamed, so that a crash leaves the old or
    /// the new. Only the owner can read either.
    pub(crate) fn save(&self) -> Result<(), Failure> {
        let failed = |error: &dyn std::error::Error| {
            Failure::new(
                Exit::Failed,
                format!("cannot write {}: {error}", self.path.display()),
            )
            .next("check that the folder is yours and the disk is not full")
        };
        let text = serde_saphyr::to_string(&self.written).map_err(|error| failed(&error))?;
        self.replace(&text).map_err(|error| failed(&error))
    }

    fn replace(&self, text: &str) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        // tempfile makes its files with mode 0600.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&self.path).map_err(|error| error.error)?;
        fs::File::open(folder)?.sync_all()
    }

    fn unknown(&self, name: &str) -> Failure {
        let mut known: Vec<&str> = self
            .written
            .environments
            .keys()
            .map(String::as_str)
            .collect();
        if !known.contains(&LOCAL) {
            known.push(LOCAL);
        }
        Failure::new(Exit::NotFound, format!("there is no environment {name:?}")).next(format!(
            "use one of: {}; or add it: dunlin env configure {name} --data URL --admin URL --token-file FILE",
            known.join(", ")
        ))
    }

    fn checked(&self, name: &str, written: &WrittenEnvironment) -> Result<Environment, Failure> {
        let refused = |what: String| {
            let message = format!("{}: environments.{name}: {what}", self.path.display());
            Failure::new(Exit::Refused, message).next("correct the file")
        };
        let url = |key: &str, text: &str| {
            parse_url(text).map_err(|error| refused(format!("{key}: {error}")))
        };
        let token = match (&written.token, &written.token_file) {
            (Some(token), None) => TokenSource::Text(token.clone()),
            (None, Some(path)) => TokenSource::File(path.clone()),
            _ => {
                return Err(refused(
                    "needs exactly one of token and token_file".to_owned(),
                ));
            }
        };
        Ok(Environment {
            name: name.to_owned(),
            data: url("data", &written.data)?,
            admin: url("admin", &written.admin)?,
            token,
        })
    }
}

#[cfg(test)]
mod tests;
