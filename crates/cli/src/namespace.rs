//! In which namespace an object lands, who said so, and what keeps it from landing in the wrong one.

use std::collections::BTreeSet;

use clap::Args;
use serde::{Deserialize, Serialize};

/// Namespaces that belong to the cluster itself.
const PROTECTED: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

/// The flags about namespaces.
#[derive(Debug, Clone, Default, Args)]
pub struct NamespaceOptions {
    /// The namespace of objects that name none; an object that names another one is a mistake
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Put objects that name no namespace into that of the kubeconfig's context, or into default
    #[arg(long)]
    pub allow_context_namespace: bool,
    /// Further namespaces that are only touched when they are allowed by name
    #[arg(long, value_name = "NAME", env = "KOBUNE_PROTECTED_NAMESPACES", value_delimiter = ',')]
    pub protected_namespace: Vec<String>,
    /// Touch objects in this protected namespace (kube-system, kube-public, kube-node-lease and --protected-namespace)
    #[arg(long, value_name = "NAME")]
    pub allow_protected_namespace: Vec<String>,
}

/// Who said in which namespace an object lands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NamespaceFrom {
    /// The object belongs to the whole cluster.
    Cluster,
    /// Its manifest.
    Manifest,
    /// `--namespace`.
    Flag,
    /// The kubeconfig's context.
    Context,
}

impl NamespaceFrom {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            NamespaceFrom::Cluster => "of the whole cluster",
            NamespaceFrom::Manifest => "says its manifest",
            NamespaceFrom::Flag => "says --namespace",
            NamespaceFrom::Context => "says the context",
        }
    }
}

/// Why an object has no place to land.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NamespaceError {
    /// Nobody says a namespace.
    #[error("no namespace")]
    Missing,
    /// The flag and the manifest contradict each other.
    #[error("the manifest says namespace {manifest} and --namespace says {flag}")]
    Contradiction {
        /// What the manifest says.
        manifest: String,
        /// What the flag says.
        flag: String,
    },
    /// A protected namespace.
    #[error("namespace {0} is protected")]
    Protected(String),
}

impl NamespaceError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            NamespaceError::Missing => {
                "write it into the manifest, or give --namespace NAME or --allow-context-namespace".to_owned()
            }
            NamespaceError::Contradiction { .. } => "leave one of them out".to_owned(),
            NamespaceError::Protected(name) => format!("if that is meant, give --allow-protected-namespace {name}"),
        }
    }
}

impl NamespaceOptions {
    /// Where an object lands that lives in namespaces; `context` is the namespace of the kubeconfig's context.
    pub fn decide(
        &self,
        manifest: Option<&str>,
        context: Option<&str>,
    ) -> Result<(String, NamespaceFrom), NamespaceError> {
        let manifest = manifest.filter(|name| !name.is_empty());
        let (name, from) = match (manifest, &self.namespace) {
            (Some(own), Some(flag)) if own != flag => {
                return Err(NamespaceError::Contradiction { manifest: own.to_owned(), flag: flag.clone() });
            }
            (Some(own), _) => (own.to_owned(), NamespaceFrom::Manifest),
            (None, Some(flag)) => (flag.clone(), NamespaceFrom::Flag),
            (None, None) if self.allow_context_namespace => {
                (context.unwrap_or("default").to_owned(), NamespaceFrom::Context)
            }
            (None, None) => return Err(NamespaceError::Missing),
        };
        self.check_protected(&name)?;
        Ok((name, from))
    }

    /// Refuses a protected namespace that is not allowed by name.
    pub fn check_protected(&self, name: &str) -> Result<(), NamespaceError> {
        let protected: BTreeSet<&str> =
            PROTECTED.into_iter().chain(self.protected_namespace.iter().map(String::as_str)).collect();
        let allowed = self.allow_protected_namespace.iter().any(|allowed| allowed == name);
        if protected.contains(name) && !allowed { Err(NamespaceError::Protected(name.to_owned())) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions() {
        let options = |flag: Option<&str>, context: bool| NamespaceOptions {
            namespace: flag.map(str::to_owned),
            allow_context_namespace: context,
            protected_namespace: vec!["prod".to_owned()],
            allow_protected_namespace: vec!["kube-public".to_owned()],
        };
        let check =
            |manifest: Option<&str>, flag: Option<&str>, allowed: bool, context: Option<&str>, expected: &str| {
                let got = match options(flag, allowed).decide(manifest, context) {
                    Ok((name, from)) => format!("{name} {}", from.words()),
                    Err(error) => error.to_string(),
                };
                assert_eq!(got, expected);
            };
        check(Some("a"), None, false, None, "a says its manifest");
        check(Some("a"), Some("a"), false, None, "a says its manifest");
        check(Some("a"), Some("b"), false, None, "the manifest says namespace a and --namespace says b");
        check(None, Some("b"), false, Some("c"), "b says --namespace");
        check(None, None, false, Some("c"), "no namespace");
        check(Some(""), None, true, Some("c"), "c says the context");
        check(None, None, true, None, "default says the context");
        check(Some("kube-system"), None, false, None, "namespace kube-system is protected");
        check(None, Some("prod"), false, None, "namespace prod is protected");
        check(Some("kube-public"), None, false, None, "kube-public says its manifest");
    }
}
