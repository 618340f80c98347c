//! Who decides what a user may do: the authorizers in the order of an `AuthorizationConfiguration`, or of
//! `--authorization-mode`.
//!
//! ```text
//! user is in system:masters ──> allowed
//!         │ no
//!         ▼
//! first authorizer ──no opinion──> second ──no opinion──> … ──no opinion──> refused
//!         │ allows or denies: it is settled
//! ```
//!
//! What an authorizer could not find out travels along: where nobody allows the request, it is an error of the server and
//! no 403. Source: `pkg/authorization/union` and `pkg/kubeapiserver/authorizer` of Kubernetes 1.36.

mod conditions;
mod config;
mod metrics;
mod review;
mod webhook;

use std::{path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;

pub use config::{AuthorizationError, ModeOptions, SubjectAccessReviewVersion};

use crate::config_file;
use metrics::{Decisions, Metrics};
use webhook::Webhook;

/// One authorizer.
#[derive(Clone, Debug)]
pub(crate) struct Authorizer {
    pub(crate) kind: Kind,
    /// What it has settled.
    pub(crate) decisions: Arc<Decisions>,
}

impl Authorizer {
    fn new(name: &str, kind: Kind, metrics: &Metrics) -> Self {
        let decisions = metrics.decisions(kind.name(), name);
        Self { kind, decisions }
    }
}

/// What an authorizer is.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// Node agents, by the pods on their nodes.
    Node,
    /// Roles and bindings.
    Rbac,
    /// Everything is allowed.
    AlwaysAllow,
    /// Nothing is allowed.
    AlwaysDeny,
    /// Somebody else is asked.
    Webhook(Arc<Webhook>),
}

impl Kind {
    /// The name of the type as configurations and metrics have it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Node => "Node",
            Self::Rbac => "RBAC",
            Self::AlwaysAllow => "AlwaysAllow",
            Self::AlwaysDeny => "AlwaysDeny",
            Self::Webhook(_) => "Webhook",
        }
    }
}

/// The authorizers of a server, which may be exchanged while it runs.
#[derive(Debug)]
pub struct Authorization {
    chain: ArcSwap<Vec<Authorizer>>,
    /// The file that they stand in, and what stood there last.
    file: Option<(PathBuf, parking_lot::Mutex<String>)>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Default for Authorization {
    /// Node and RBAC, which is what a cluster has unless it is told otherwise.
    fn default() -> Self {
        let metrics = Arc::new(Metrics::default());
        let plain = |name: &str, kind| Authorizer::new(name, kind, &metrics);
        Self::of(vec![plain("node", Kind::Node), plain("rbac", Kind::Rbac)], None, metrics)
    }
}

impl Authorization {
    fn of(chain: Vec<Authorizer>, file: Option<(PathBuf, String)>, metrics: Arc<Metrics>) -> Self {
        let file = file.map(|(path, text)| (path, parking_lot::Mutex::new(text)));
        Self { chain: ArcSwap::from_pointee(chain), file, metrics }
    }

    /// The authorizers of a file (`--authorization-config`).
    pub fn load(path: PathBuf) -> Result<Self, AuthorizationError> {
        let text = config_file::read_text(&path).map_err(AuthorizationError::File)?;
        let metrics = Arc::new(Metrics::default());
        let chain = config::read(&path, &text, &metrics)?;
        Ok(Self::of(chain, Some((path, text)), metrics))
    }

    /// The authorizers of `--authorization-mode` and the flags about its webhook.
    pub fn of_modes(options: &ModeOptions) -> Result<Self, AuthorizationError> {
        let metrics = Arc::new(Metrics::default());
        Ok(Self::of(config::of_modes(options, &metrics)?, None, metrics))
    }

    /// The file whose changes [`Authorization::reload`] takes over.
    pub fn file(&self) -> Option<&std::path::Path> {
        self.file.as_ref().map(|(path, _)| path.as_path())
    }

    /// Reads the file again. A file with mistakes, or one that leaves out a type of authorizer that needs no webhook, changes
    /// nothing, as upstream has it. Answers whether there is something new.
    pub fn reload(&self) -> Result<bool, AuthorizationError> {
        let Some((path, last)) = &self.file else { return Ok(false) };
        let mut last = last.lock();
        let outcome = config_file::read_text(path).map_err(AuthorizationError::File).and_then(|text| {
            if *last == text {
                return Ok(None);
            }
            let chain = config::read(path, &text, &self.metrics)?;
            config::require_types(path, &self.chain.load(), &chain)?;
            Ok(Some((chain, text)))
        });
        match outcome {
            Ok(None) => Ok(false),
            Ok(Some((chain, text))) => {
                self.chain.store(Arc::new(chain));
                *last = text;
                self.metrics.reloaded(true);
                Ok(true)
            }
            Err(error) => {
                self.metrics.reloaded(false);
                Err(error)
            }
        }
    }

    /// The authorizers in their order.
    pub(crate) fn chain(&self) -> Arc<Vec<Authorizer>> {
        self.chain.load_full()
    }

    /// Whether somebody is asked who may take a while to answer.
    pub(crate) fn asks_others(&self) -> bool {
        self.chain.load().iter().any(|one| matches!(one.kind, Kind::Webhook(_)))
    }
}
