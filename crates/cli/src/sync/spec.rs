//! What a Sync wants, read from its object, and the definition of the kind.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use crate::apply_set::ApplySetOptions;
use crate::batch::BatchOptions;
use crate::connect::ConnectOptions;
use crate::duration;
use crate::namespace::NamespaceOptions;

/// The group of the kind.
pub const GROUP: &str = "kobune.dev";

/// Its version.
pub const VERSION: &str = "v1alpha1";

/// Who owns the fields of what is applied.
pub const MANAGER: &str = "kobune-sync";

/// The annotation whose new values ask for a pass at once.
pub const REQUESTED_AT: &str = "kobune.dev/requested-at";

/// The finalizer of Syncs whose objects go with them.
pub const FINALIZER: &str = "kobune.dev/sync";

/// The CustomResourceDefinition, in YAML.
pub const DEFINITION: &str = include_str!("definition.yaml");

/// What of a repository is followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// The newest commit of a branch.
    Branch(String),
    /// The commit of a tag.
    Tag(String),
    /// One commit.
    Commit(String),
    /// The newest commit of the repository's own default branch.
    Default,
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Branch(name) => write!(f, "branch {name}"),
            Reference::Tag(name) => write!(f, "tag {name}"),
            Reference::Commit(name) => write!(f, "commit {name}"),
            Reference::Default => f.write_str("default branch"),
        }
    }
}

/// Where manifests come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The repository.
    pub url: String,
    /// What of it is followed.
    pub reference: Reference,
    /// The folder with the manifests.
    pub path: String,
    /// Only these folders are fetched; all when there are none.
    pub sparse: Vec<String>,
    /// The Secret with the repository's credentials.
    pub secret: Option<String>,
}

impl Source {
    /// How people call a commit: `main@0123456789ab`.
    pub fn revision(&self, commit: &str) -> String {
        let short = commit.get(..12).unwrap_or(commit);
        match &self.reference {
            Reference::Branch(name) | Reference::Tag(name) => format!("{name}@{short}"),
            Reference::Commit(_) => short.to_owned(),
            Reference::Default => format!("HEAD@{short}"),
        }
    }
}

/// What to do when somebody has changed an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drift {
    /// Make it again as the repository has it.
    Correct,
    /// Only say so.
    Report,
}

/// What a Sync wants.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The Sync's namespace.
    pub namespace: String,
    /// Where manifests come from.
    pub source: Source,
    /// How often to look.
    pub interval: Duration,
    /// How long objects may take until they are ready.
    pub timeout: Duration,
    /// Whether to do nothing.
    pub suspend: bool,
    /// Plain manifests of folders below, too.
    pub recursive: bool,
    /// In whose name everything is done.
    pub service_account: Option<String>,
    /// What to do about drift.
    pub drift: Drift,
    /// How many revisions are kept.
    pub revisions: usize,
    /// Whether objects go when the Sync goes.
    pub prune_at_end: bool,
    /// How the manifests are compared and applied.
    pub batch: BatchOptions,
}

impl Spec {
    /// Reads the object. The API server has checked it against the schema already, unless the definition is another one.
    pub fn read(sync: &Value) -> Result<Spec> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let texts = |value: &Value| value.as_array().into_iter().flatten().filter_map(text).collect::<Vec<_>>();
        let spec = &sync["spec"];
        let source = &spec["source"];
        let time = |field: &str, default: u64| match spec[field].as_str() {
            Some(given) => {
                duration::parse(given).ok_or_else(|| anyhow!("spec.{field}: {given} is no duration, such as 30s or 5m"))
            }
            None => Ok(Duration::from_secs(default)),
        };
        let namespace = text(&sync["metadata"]["namespace"]).context("it has no namespace")?;
        let name = text(&sync["metadata"]["name"]).context("it has no name")?;
        let given = |field: &str| text(&source[field]).filter(|name| !name.is_empty());
        let reference = match (text(&spec["rollbackTo"]), given("commit"), given("tag"), given("branch")) {
            (Some(commit), ..) | (None, Some(commit), ..) => Reference::Commit(commit),
            (None, None, Some(tag), _) => Reference::Tag(tag),
            (None, None, None, Some(branch)) => Reference::Branch(branch),
            (None, None, None, None) => Reference::Default,
        };
        let url = text(&source["url"]).filter(|url| !url.is_empty() && !url.starts_with('-'));
        let path = text(&source["path"]).unwrap_or_else(|| ".".to_owned());
        let climbs = |path: &str| path.starts_with('/') || path.split('/').any(|part| part == "..");
        let sparse = texts(&source["sparse"]);
        if let Some(wrong) = sparse.iter().chain([&path]).find(|path| climbs(path)) {
            bail!("spec.source: {wrong} must be a folder within the repository");
        }
        Ok(Spec {
            source: Source {
                url: url.context("spec.source.url is missing")?,
                reference,
                path,
                sparse,
                secret: text(&source["secretRef"]["name"]),
            },
            interval: time("interval", 300)?.max(Duration::from_secs(5)),
            timeout: time("timeout", 300)?,
            suspend: spec["suspend"] == true,
            recursive: spec["recursive"] == true,
            service_account: text(&spec["serviceAccountName"]).filter(|name| !name.is_empty()),
            drift: if spec["drift"] == "Report" { Drift::Report } else { Drift::Correct },
            revisions: spec["revisions"].as_u64().map_or(10, |count| usize::try_from(count).unwrap_or(10)),
            prune_at_end: spec["deletionPolicy"] == "Prune",
            batch: BatchOptions {
                filename: Vec::new(),
                kustomize: None,
                recursive: false,
                namespaces: NamespaceOptions {
                    namespace: text(&spec["targetNamespace"]).filter(|name| !name.is_empty()),
                    allow_protected_namespace: texts(&spec["allowProtectedNamespaces"]),
                    ..NamespaceOptions::default()
                },
                field_manager: MANAGER.to_owned(),
                force_conflicts: spec["forceConflicts"] != false,
                recreate: spec["recreate"] == true,
                take_over: texts(&spec["takeOver"]),
                set: ApplySetOptions {
                    applyset: Some(format!("sync-{name}")),
                    applyset_namespace: Some(namespace.clone()),
                    leave_applyset: false,
                    prune: spec["prune"] != false,
                    max_prune: spec["maxPrune"].as_u64().and_then(|share| u8::try_from(share).ok()).unwrap_or(50),
                },
                connect: ConnectOptions::default(),
            },
            namespace,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sync(spec: Value) -> Value {
        json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": spec})
    }

    #[test]
    fn what_is_followed() {
        let check = |spec: Value, expected: &str, revision: &str| {
            let mut spec = spec;
            spec["source"]["url"] = "https://git.example.com/a/b".into();
            let read = Spec::read(&sync(spec)).unwrap();
            assert_eq!(read.source.reference.to_string(), expected);
            assert_eq!(read.source.revision("0123456789abcdef"), revision);
        };
        check(json!({"source": {}}), "default branch", "HEAD@0123456789ab");
        check(json!({"source": {"branch": "main"}}), "branch main", "main@0123456789ab");
        check(json!({"source": {"tag": "v1"}}), "tag v1", "v1@0123456789ab");
        check(json!({"source": {"branch": "main"}, "rollbackTo": "abc"}), "commit abc", "0123456789ab");
    }

    #[test]
    fn what_is_refused() {
        let refused = |spec: Value, words: &str| {
            let error = Spec::read(&sync(spec)).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        refused(json!({"source": {}}), "url is missing");
        refused(json!({"source": {"url": "--upload-pack=x"}}), "url is missing");
        refused(json!({"source": {"url": "https://a/b", "path": "a/../../b"}}), "within the repository");
        refused(json!({"source": {"url": "https://a/b", "sparse": ["/etc"]}}), "within the repository");
        refused(json!({"source": {"url": "https://a/b"}, "interval": "soon"}), "soon is no duration");
    }

    #[test]
    fn the_definition_is_one() {
        let manifests = crate::manifests::parse("definition.yaml", DEFINITION).unwrap();
        assert_eq!(manifests[0].value["metadata"]["name"], format!("syncs.{GROUP}"));
        assert_eq!(manifests[0].value["spec"]["versions"][0]["name"], VERSION);
        let kind = kobune_kinds::Catalogue::builtin();
        let kind = kind.by_kind("apiextensions.k8s.io/v1", "CustomResourceDefinition").unwrap();
        let mut definition = manifests[0].value.clone();
        kind.check_shape(&mut definition, kobune_kinds::FieldValidation::Strict).unwrap();
        kind.default(&mut definition);
        assert!(kind.validate(&definition).is_empty(), "{:?}", kind.validate(&definition));
    }
}
