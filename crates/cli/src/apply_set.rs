//! ApplySets: which objects belong together, noted on the objects and on one parent, so that what leaves the manifests can be
//! pruned (<https://github.com/kubernetes/enhancements/tree/master/keps/sig-cli/3659-kubectl-apply-prune>).
//!
//! The labels and annotations are the KEP's, so `kubectl get -l applyset.kubernetes.io/part-of=…` finds the members, and
//! kubectl refuses to change a set that another tool tends.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use clap::Args;
use futures::{StreamExt, TryStreamExt};
use http::Method;
use kube::Client;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::batch::AT_ONCE;
use crate::discovery::Discovery;
use crate::manifests::{Mistake, Step};
use crate::object::ObjectRef;
use crate::request;
use crate::targets::Target;

/// The label of members.
pub const PART_OF: &str = "applyset.kubernetes.io/part-of";
/// The label of parents.
pub const ID: &str = "applyset.kubernetes.io/id";
/// The annotation that names the tool.
pub const TOOLING: &str = "applyset.kubernetes.io/tooling";
/// The annotation that names the members' kinds.
pub const GROUP_KINDS: &str = "applyset.kubernetes.io/contains-group-kinds";
/// The annotation that names the members' namespaces, the parent's own aside.
pub const NAMESPACES: &str = "applyset.kubernetes.io/additional-namespaces";

/// How kobune calls itself in [`TOOLING`].
pub const TOOL: &str = concat!("kobune/v", env!("CARGO_PKG_VERSION"));

/// Who owns the parent's labels and annotations.
const PARENT_MANAGER: &str = "kobune-applyset";

/// The flags about sets.
#[derive(Debug, Clone, Default, Args)]
pub struct ApplySetOptions {
    /// The set that the objects belong to: the name of a Secret, which is made where it is missing
    #[arg(long, value_name = "NAME")]
    pub applyset: Option<String>,
    /// The namespace of the set [default: --namespace, or the only namespace of the objects]
    #[arg(long, value_name = "NAME", requires = "applyset")]
    pub applyset_namespace: Option<String>,
    /// Let objects leave the set that they belong to until now
    #[arg(long, conflicts_with = "applyset")]
    pub leave_applyset: bool,
    /// Delete members of the set that are not in the manifests any more
    #[arg(long, requires = "applyset")]
    pub prune: bool,
    /// Refuse to prune more than this share of the set's objects, in per cent
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub max_prune: u8,
}

impl ApplySetOptions {
    /// The set that the flags name, as it is in the cluster.
    pub async fn find(&self, client: &Client, targets: &[Target], flag: Option<&str>) -> Result<Option<ApplySet>> {
        let Some(name) = &self.applyset else {
            return Ok(None);
        };
        let spaces: BTreeSet<&str> = targets.iter().filter_map(|target| target.object.namespace.as_deref()).collect();
        let given = self.applyset_namespace.as_deref().or(flag);
        let namespace = match (given, spaces.first()) {
            (Some(given), _) => given.to_owned(),
            (None, Some(only)) if spaces.len() == 1 => (*only).to_owned(),
            _ => bail!(
                "where does the set {name} live? its objects are in {} namespaces: give --applyset-namespace",
                spaces.len()
            ),
        };
        ApplySet::read(client, &namespace, name).await.map(Some)
    }

    /// Why so many objects must not go at once, if they must not. A lone object may.
    pub fn shrinks_too_much(&self, gone: usize, total: usize) -> Option<String> {
        let too_much = gone > 1 && gone * 100 > total * usize::from(self.max_prune);
        too_much.then(|| {
            format!(
                "{gone} of the set's {total} objects would go; if that is meant, give --max-prune {}",
                gone * 100 / total + 1
            )
        })
    }
}

/// A set of objects.
#[derive(Debug, Clone)]
pub struct ApplySet {
    /// The parent's name.
    pub name: String,
    /// The parent's namespace.
    pub namespace: String,
    /// What members are labelled with.
    pub id: String,
    /// Whether the parent is there.
    pub exists: bool,
    /// The kinds of its members, as the parent names them.
    kinds: BTreeSet<String>,
    /// The namespaces of its members, the parent's own aside.
    namespaces: BTreeSet<String>,
}

/// A member of a set.
#[derive(Debug, Clone)]
pub struct Member {
    /// The object.
    pub object: ObjectRef,
    /// Its uid.
    pub uid: String,
    /// Its version.
    pub resource_version: String,
    /// Its path.
    pub path: String,
}

/// The id of a set whose parent is a Secret.
pub fn id(namespace: &str, name: &str) -> String {
    let hash = Sha256::digest(format!("{name}.{namespace}.Secret."));
    format!("applyset-{}-v1", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(hash))
}

fn list(text: &str) -> BTreeSet<String> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

impl ApplySet {
    /// Reads a set's parent. A Secret of that name that is no set, or one that another tool tends, is refused.
    pub async fn read(client: &Client, namespace: &str, name: &str) -> Result<ApplySet> {
        let id = id(namespace, name);
        let mut set = ApplySet {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            exists: false,
            kinds: BTreeSet::new(),
            namespaces: BTreeSet::new(),
            id,
        };
        let parent = request::get(client, &set.path()).await.with_context(|| format!("read the set {name}"))?;
        let Some(parent) = parent else {
            return Ok(set);
        };
        let metadata = &parent["metadata"];
        if metadata["labels"][ID] != set.id.as_str() {
            bail!("secret/{name} in {namespace} is no set of objects (it has no label {ID}): choose another name");
        }
        let tooling = metadata["annotations"][TOOLING].as_str().unwrap_or_default();
        if tooling.split('/').next() != Some("kobune") {
            bail!("the set {name} in {namespace} is tended by {tooling}: two tools would prune each other's objects");
        }
        set.exists = true;
        set.kinds = list(metadata["annotations"][GROUP_KINDS].as_str().unwrap_or_default());
        set.namespaces = list(metadata["annotations"][NAMESPACES].as_str().unwrap_or_default());
        Ok(set)
    }

    /// The parent's path.
    pub fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/secrets/{}", request::query(&self.namespace), request::query(&self.name))
    }

    /// Labels an object as a member; a mistake if its manifest says that it belongs to another set.
    pub fn claim(&self, target: &mut Target) -> Option<Mistake> {
        let other = target.manifest.text(&["metadata", "labels", PART_OF]).filter(|other| *other != self.id);
        if other.is_some() {
            let path = [Step::from("metadata"), "labels".into(), PART_OF.into()];
            let words = format!("{} says that it belongs to another set", target.object);
            return Some(target.manifest.mistake(&path, words).hint("leave the label out"));
        }
        let labels = &mut target.manifest.value["metadata"]["labels"];
        if !labels.is_object() {
            *labels = json!({});
        }
        labels[PART_OF] = self.id.clone().into();
        None
    }

    /// What is to be said about an object that was there before it became a member.
    pub fn note(&self, live: &Value) -> Option<String> {
        match live["metadata"]["labels"][PART_OF].as_str() {
            Some(own) if own == self.id => None,
            Some(_) => Some("it belongs to another set until now".to_owned()),
            None => Some(format!(
                "it becomes a member of the set {}: pruning deletes it when it leaves the manifests",
                self.name
            )),
        }
    }

    /// All members, wherever the parent says that there are some.
    pub async fn members(&self, client: &Client, discovery: &Discovery) -> Result<Vec<Member>> {
        const ACCEPT: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        let mut places = Vec::new();
        for name in &self.kinds {
            let (kind, group) = name.split_once('.').unwrap_or((name, ""));
            // A kind that is not served any more has no objects any more.
            let Some(resource) = discovery.by_group_kind(group, kind) else { continue };
            if resource.namespaced {
                let own = std::iter::once(&self.namespace);
                places.extend(own.chain(&self.namespaces).map(|namespace| (resource, Some(namespace.as_str()))));
            } else {
                places.push((resource, None));
            }
        }
        let lists: Vec<Vec<Member>> = futures::stream::iter(places)
            .map(async |(resource, namespace)| {
                let mut members = Vec::new();
                let mut token = String::new();
                loop {
                    let selector = request::query(&format!("{PART_OF}={}", self.id));
                    let path = format!(
                        "{}?labelSelector={selector}&limit=500&continue={}",
                        resource.path(namespace),
                        request::query(&token)
                    );
                    let page = match request::send(client, Method::GET, &path, None, ACCEPT).await {
                        Ok(page) => page.body,
                        Err(error) if error.is(404) => return Ok(members),
                        Err(error) => return Err(error),
                    };
                    for item in page["items"].as_array().into_iter().flatten() {
                        // What is on its way out needs nobody to delete it.
                        if item["metadata"]["deletionTimestamp"].is_string() {
                            continue;
                        }
                        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                        let mut object = ObjectRef::of(item);
                        object.api_version = resource.api_version();
                        object.kind.clone_from(&resource.kind);
                        members.push(Member {
                            path: resource.object_path(object.namespace.as_deref(), &object.name),
                            uid: text(&item["metadata"]["uid"]),
                            resource_version: text(&item["metadata"]["resourceVersion"]),
                            object,
                        });
                    }
                    token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
                    if token.is_empty() {
                        return Ok(members);
                    }
                }
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await
            .with_context(|| format!("list the members of the set {}", self.name))?;
        Ok(lists.into_iter().flatten().collect())
    }

    /// Notes on the parent where members are or will be. `exact` after pruning; before it, what was noted stays, so that
    /// nothing is forgotten when the work is cut short.
    pub async fn note_places(&mut self, client: &Client, targets: &[&Target], exact: bool) -> Result<()> {
        let kinds: BTreeSet<String> = targets.iter().map(|target| target.resource.group_kind()).collect();
        let spaces = targets.iter().filter_map(|target| target.object.namespace.clone());
        let spaces: BTreeSet<String> = spaces.filter(|space| *space != self.namespace).collect();
        let (kinds, spaces) = match exact {
            true => (kinds, spaces),
            false => (&kinds | &self.kinds, &spaces | &self.namespaces),
        };
        if self.exists && kinds == self.kinds && spaces == self.namespaces {
            return Ok(());
        }
        let join = |set: &BTreeSet<String>| set.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        let mut annotations = json!({TOOLING: TOOL, GROUP_KINDS: join(&kinds)});
        if !spaces.is_empty() {
            annotations[NAMESPACES] = join(&spaces).into();
        }
        let parent = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": self.name, "namespace": self.namespace, "labels": {ID: self.id}, "annotations": annotations},
        });
        let path = format!("{}?fieldManager={PARENT_MANAGER}&force=true", self.path());
        request::write(client, Method::PATCH, &path, request::APPLY, &parent)
            .await
            .with_context(|| format!("write the set {}", self.name))?;
        (self.exists, self.kinds, self.namespaces) = (true, kinds, spaces);
        Ok(())
    }
}

/// Whether an object stops being a member of any set.
pub fn leaves(live: &Value, result: &Value) -> bool {
    let part_of = |object: &Value| object["metadata"]["labels"][PART_OF].is_string();
    part_of(live) && !part_of(result)
}

/// The members that no manifest names any more, what others need last.
pub fn to_prune(members: Vec<Member>, kept: &BTreeSet<ObjectRef>) -> Vec<Member> {
    let kept: BTreeSet<_> = kept.iter().map(ObjectRef::identity).collect();
    let mut gone: Vec<Member> =
        members.into_iter().filter(|member| !kept.contains(&member.object.identity())).collect();
    gone.sort_by_key(|member| std::cmp::Reverse(crate::order::phase(member.object.group(), &member.object.kind)));
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_the_keps() {
        // Of `printf mysecret.default.Secret. | sha256sum`, in base64 for URLs without padding.
        let hash = Sha256::digest("mysecret.default.Secret.");
        let text = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(hash);
        assert_eq!(id("default", "mysecret"), format!("applyset-{text}-v1"));
        assert!(id("default", "mysecret").len() <= 63, "it is a label's value");
    }

    #[test]
    fn how_much_may_go() {
        let options = ApplySetOptions { max_prune: 50, ..ApplySetOptions::default() };
        for (gone, total, refused) in [(0, 10, false), (1, 1, false), (5, 10, false), (6, 10, true), (2, 2, true)] {
            assert_eq!(options.shrinks_too_much(gone, total).is_some(), refused, "{gone} of {total}");
        }
    }

    #[test]
    fn who_goes() {
        let member = |kind: &str, name: &str| Member {
            object: ObjectRef { api_version: "v1".into(), kind: kind.into(), namespace: None, name: name.into() },
            uid: String::new(),
            resource_version: String::new(),
            path: String::new(),
        };
        let kept = BTreeSet::from([member("ConfigMap", "a").object]);
        let gone = to_prune(vec![member("Namespace", "n"), member("ConfigMap", "a"), member("ConfigMap", "b")], &kept);
        let names: Vec<String> = gone.iter().map(|member| member.object.to_string()).collect();
        assert_eq!(names, ["configmap/b", "namespace/n"]);
    }
}
