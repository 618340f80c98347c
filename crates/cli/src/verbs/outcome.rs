//! How verbs end: what failed is said in kubectl's words on standard error (`k8s.io/kubectl/pkg/cmd/util`'s `CheckErr`),
//! and the exit code is 1.

use std::collections::HashSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;

use anyhow::{Context as _, Result, bail};

use super::from_server;
use crate::request::RequestError;

/// A failure that kubectl says without `error: ` before it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Bare(pub String);

/// Runs a verb; a failure is said as kubectl says it.
pub async fn told(verb: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    Ok(verb.await.unwrap_or_else(|error| match error.downcast_ref::<Bare>() {
        Some(Bare(message)) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
        None => tell(&format!("{error:#}")),
    }))
}

/// Says what failed.
pub fn tell(message: &str) -> ExitCode {
    let known = ["error: ", "Error from server"].iter().any(|start| message.starts_with(start));
    eprintln!("{}{}", if known { "" } else { "error: " }, message.trim_end());
    ExitCode::FAILURE
}

/// What failed while other things went well: each is said once, at the end.
#[derive(Debug, Default)]
pub struct Failures {
    messages: Vec<String>,
    others: bool,
}

impl Failures {
    /// Notes a failure.
    pub fn add(&mut self, error: impl std::fmt::Display) {
        self.others = true;
        self.note(format!("{error:#}"));
    }

    /// Notes what the server refused.
    pub fn refused(&mut self, error: RequestError) {
        self.others |= !error.is(404);
        self.note(format!("{:#}", from_server(error)));
    }

    fn note(&mut self, message: String) {
        if !self.messages.contains(&message) {
            self.messages.push(message);
        }
    }

    /// Whether nothing failed.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Whether objects were not found and nothing else is wrong.
    pub fn only_not_found(&self) -> bool {
        !self.messages.is_empty() && !self.others
    }

    /// Says everything; kubectl writes `error: ` only before a single message.
    pub fn tell(&self) -> ExitCode {
        match self.messages.as_slice() {
            [] => ExitCode::SUCCESS,
            [one] => tell(one),
            many => {
                many.iter().for_each(|message| eprintln!("{message}"));
                ExitCode::FAILURE
            }
        }
    }
}

/// Says what the server warns of, each warning once.
pub fn warn(warnings: &[String]) {
    static SAID: Mutex<Option<HashSet<String>>> = Mutex::new(None);
    let mut said = SAID.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let said = said.get_or_insert_default();
    for warning in warnings {
        if said.insert(warning.clone()) {
            eprintln!("Warning: {warning}");
        }
    }
}

/// Says in kubectl's words that a file of manifests is not there.
pub fn check_paths(paths: &[PathBuf]) -> Result<()> {
    let lost = |path: &&PathBuf| path.as_path() != Path::new("-") && !path.exists();
    match paths.iter().find(lost) {
        Some(path) => bail!("the path {:?} does not exist", path.display().to_string()),
        None => Ok(()),
    }
}

/// Writes to standard output; whoever reads may have read enough.
pub fn write(text: &str) -> Result<()> {
    write_bytes(text.as_bytes())
}

/// The same with what may be no text.
pub fn write_bytes(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("write to standard output"),
    }
}
