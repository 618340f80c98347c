//! A plan in a file: the manifests, how they were to be applied, and for each object what was seen and what would come of it.
//! `apply --plan` does exactly that, or refuses because the cluster moved.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::apply_set::ApplySetOptions;
use crate::batch::{Batch, BatchOptions};
use crate::connect::ConnectOptions;
use crate::manifests::Manifest;
use crate::namespace::NamespaceOptions;
use crate::object::ObjectRef;
use crate::plan::explain::essence;
use crate::plan::model::Action;
use crate::request;

const FORMAT: &str = "kobune.dev/plan/v1";

/// What the file holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sealed {
    format: String,
    /// The uid of `kube-system`, which is the cluster's own.
    cluster: Option<String>,
    field_manager: String,
    force_conflicts: bool,
    recreate: bool,
    take_over: Vec<String>,
    apply_set: Option<(String, String)>,
    leave_apply_set: bool,
    prune: bool,
    max_prune: u8,
    allowed_namespaces: Vec<String>,
    manifests: Vec<Value>,
    objects: Vec<Seen>,
}

/// What was seen of an object, and what would come of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Seen {
    #[serde(flatten)]
    object: ObjectRef,
    action: Action,
    resource_version: Option<String>,
    /// Of the object as it was and as it would be.
    digest: String,
}

/// A digest of an object as it is and as it would be, without what changes by itself. A status that moved changes neither.
pub fn digest(live: Option<&Value>, result: &Value) -> String {
    let text = format!("{}\n{}", live.map(essence).unwrap_or_default(), essence(result));
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn cluster_id(client: &kube::Client) -> Result<Option<String>> {
    match request::get(client, "/api/v1/namespaces/kube-system").await {
        Ok(namespace) => Ok(namespace.and_then(|namespace| namespace["metadata"]["uid"].as_str().map(str::to_owned))),
        Err(error) if error.is(403) => Ok(None),
        Err(error) => Err(error).context("ask which cluster this is"),
    }
}

fn seen(batch: &Batch) -> Vec<Seen> {
    let pairs = batch.plan.items.iter().zip(&batch.entries);
    let one = |(item, entry): (&crate::plan::model::Item, &crate::batch::Entry)| Seen {
        object: item.object.clone(),
        action: item.action,
        resource_version: item.resource_version.clone(),
        digest: entry.digest.clone(),
    };
    pairs.map(one).collect()
}

/// Keeps a plan. The file is for its owner's eyes only: the manifests in it may be secrets.
pub async fn write(file: &Path, options: &BatchOptions, batch: &Batch) -> Result<()> {
    let sealed = Sealed {
        format: FORMAT.to_owned(),
        cluster: cluster_id(&batch.cluster.client).await?,
        field_manager: options.field_manager.clone(),
        force_conflicts: options.force_conflicts,
        recreate: options.recreate,
        take_over: options.take_over.clone(),
        apply_set: batch.set.as_ref().map(|set| (set.namespace.clone(), set.name.clone())),
        leave_apply_set: options.set.leave_applyset,
        prune: options.set.prune,
        max_prune: options.set.max_prune,
        allowed_namespaces: options.namespaces.allow_protected_namespace.clone(),
        manifests: batch
            .entries
            .iter()
            .filter_map(|entry| Some(entry.target.as_ref()?.manifest.value.clone()))
            .collect(),
        objects: seen(batch),
    };
    let text = serde_json::to_vec_pretty(&sealed).context("write the plan")?;
    let open = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file);
    open.and_then(|mut file| file.write_all(&text)).with_context(|| format!("write {}", file.display()))
}

impl Sealed {
    /// Reads a plan.
    pub fn read(file: &Path) -> Result<Sealed> {
        let bytes = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
        let sealed: Sealed = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is no plan that `kobune plan --out` has written", file.display()))?;
        if sealed.format != FORMAT {
            bail!("{} is a plan of another kobune ({}): plan again", file.display(), sealed.format);
        }
        Ok(sealed)
    }

    /// The flags with which it was planned.
    pub fn options(&self, connect: &ConnectOptions) -> BatchOptions {
        let (namespace, name) = self.apply_set.clone().unzip();
        BatchOptions {
            filename: Vec::new(),
            kustomize: None,
            recursive: false,
            namespaces: NamespaceOptions {
                allow_protected_namespace: self.allowed_namespaces.clone(),
                ..NamespaceOptions::default()
            },
            field_manager: self.field_manager.clone(),
            force_conflicts: self.force_conflicts,
            recreate: self.recreate,
            take_over: self.take_over.clone(),
            set: ApplySetOptions {
                applyset: name,
                applyset_namespace: namespace,
                leave_applyset: self.leave_apply_set,
                prune: self.prune,
                max_prune: self.max_prune,
            },
            connect: connect.clone(),
        }
    }

    /// The manifests.
    pub fn manifests(&self, file: &Path) -> Vec<Manifest> {
        let name = file.display().to_string();
        self.manifests.iter().map(|value| Manifest::without_file(value.clone(), &name)).collect()
    }

    /// Refuses if anything that was reviewed would go another way now.
    pub async fn check(&self, batch: &Batch) -> Result<()> {
        let id = cluster_id(&batch.cluster.client).await?;
        if id != self.cluster {
            bail!("the plan was made for another cluster than {}", batch.cluster.url);
        }
        let moved = moved(&self.objects, &seen(batch));
        if moved.is_empty() {
            return Ok(());
        }
        bail!("the cluster has moved since the plan was made; nothing was applied. Plan again:\n{}", moved.join("\n"))
    }
}

/// What goes another way than it was reviewed.
fn moved(reviewed: &[Seen], now: &[Seen]) -> Vec<String> {
    let of = |list: &[Seen], object: &ObjectRef| list.iter().find(|seen| seen.object == *object).cloned();
    let version = |seen: &Seen| seen.resource_version.clone().unwrap_or_else(|| "not there".to_owned());
    let mut lines = Vec::new();
    for before in reviewed {
        match of(now, &before.object) {
            Some(after) if after.action == before.action && after.digest == before.digest => {}
            Some(after) if after.action == before.action => lines.push(format!(
                "  {}: moved from resourceVersion {} to {}, and other fields would change than those in the plan",
                before.object,
                version(before),
                version(&after)
            )),
            Some(after) => lines.push(format!(
                "  {}: moved from resourceVersion {} to {}; it was to be {}, now it would be {}",
                before.object,
                version(before),
                version(&after),
                before.action.done(),
                after.action.done()
            )),
            None => lines.push(format!(
                "  {}: it was to be {}, now nothing would happen to it",
                before.object,
                before.action.done()
            )),
        }
    }
    let new = now.iter().filter(|after| of(reviewed, &after.object).is_none());
    lines.extend(
        new.map(|after| format!("  {}: it would be {}, which was not in the plan", after.object, after.action.done())),
    );
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_counts_as_moved() {
        let seen = |name: &str, action: Action, version: &str, digest: &str| Seen {
            object: ObjectRef {
                api_version: "v1".into(),
                kind: "ConfigMap".into(),
                namespace: None,
                name: name.into(),
            },
            action,
            resource_version: Some(version.to_owned()),
            digest: digest.to_owned(),
        };
        let reviewed = [seen("a", Action::Change, "1", "x"), seen("b", Action::Change, "1", "x")];
        assert!(
            moved(&reviewed, &[seen("a", Action::Change, "2", "x"), seen("b", Action::Change, "1", "x")]).is_empty(),
            "only a status moved"
        );
        let lines = moved(&reviewed, &[seen("a", Action::Change, "2", "y"), seen("c", Action::Prune, "1", "z")]);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[0].contains("moved from resourceVersion 1 to 2"), "{lines:?}");
    }

    #[test]
    fn digests_leave_out_what_moves_by_itself() {
        let object = |version: &str, replicas: i64| json!({"metadata": {"resourceVersion": version}, "spec": {"replicas": replicas}, "status": {"x": version}});
        let result = object("9", 2);
        assert_eq!(digest(Some(&object("1", 1)), &result), digest(Some(&object("2", 1)), &result));
        assert_ne!(digest(Some(&object("1", 1)), &result), digest(Some(&object("1", 3)), &result));
        assert_ne!(digest(None, &result), digest(Some(&object("1", 1)), &result));
    }
}
