//! `kobune history` and `kobune rollback`: what was applied to a set of objects is kept in the cluster, as Secrets beside the
//! set's parent, and can be applied again.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use http::Method;
use kube::Client;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::apply::{self, Manner};
use crate::apply_set::{self, ApplySet, ApplySetOptions};
use crate::batch::{self, BatchOptions};
use crate::connect::ConnectOptions;
use crate::manifests::Manifest;
use crate::namespace::NamespaceOptions;
use crate::plan::explain;
use crate::plan::report;
use crate::request;
use crate::style::ColorChoice;
use crate::targets::Target;

const SET: &str = "kobune.dev/applyset";
const REVISION: &str = "kobune.dev/revision";
const PART: &str = "kobune.dev/part";
const CAUSE: &str = "kobune.dev/cause";
const SUMMARY: &str = "kobune.dev/summary";
const DIGEST: &str = "kobune.dev/digest";

/// The most that one Secret holds: the API server takes a mebibyte, and base64 makes four bytes of three.
const PIECE: usize = 700 << 10;

/// The most that a revision may unpack to: what is read back is bounded like everything else.
const LARGEST: u64 = 256 << 20;

/// A revision that is kept.
#[derive(Debug, Clone)]
struct Revision {
    number: u64,
    created: String,
    cause: String,
    summary: String,
    digest: String,
    /// The Secrets that hold it, in order.
    parts: BTreeMap<u64, String>,
}

fn folder(namespace: &str) -> String {
    format!("/api/v1/namespaces/{}/secrets", request::query(namespace))
}

/// The revisions of a set, oldest first.
async fn revisions(client: &Client, set: &ApplySet) -> Result<Vec<Revision>> {
    const ACCEPT: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let path = format!("{}?labelSelector={}", folder(&set.namespace), request::query(&format!("{SET}={}", set.id)));
    let list = request::send(client, Method::GET, &path, None, ACCEPT)
        .await
        .with_context(|| format!("list the revisions of {}", set.name))?;
    let mut revisions: BTreeMap<u64, Revision> = BTreeMap::new();
    for item in list.body["items"].as_array().into_iter().flatten() {
        let metadata = &item["metadata"];
        let number = |label: &str| metadata["labels"][label].as_str().and_then(|text| text.parse::<u64>().ok());
        let note = |name: &str| metadata["annotations"][name].as_str().unwrap_or_default().to_owned();
        let (Some(revision), Some(name)) = (number(REVISION), metadata["name"].as_str()) else { continue };
        let entry = revisions.entry(revision).or_insert_with(|| Revision {
            number: revision,
            created: metadata["creationTimestamp"].as_str().unwrap_or_default().to_owned(),
            cause: note(CAUSE),
            summary: note(SUMMARY),
            digest: note(DIGEST),
            parts: BTreeMap::new(),
        });
        entry.parts.insert(number(PART).unwrap_or(0), name.to_owned());
    }
    Ok(revisions.into_values().collect())
}

fn pack(manifests: &[&Value]) -> Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    serde_json::to_writer(&mut encoder, manifests).context("pack the manifests")?;
    encoder.flush().and_then(|()| encoder.finish()).context("pack the manifests")
}

fn unpack(bytes: &[u8]) -> Result<Vec<Value>> {
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(bytes).take(LARGEST).read_to_end(&mut text).context("unpack the revision")?;
    serde_json::from_slice(&text).context("read the revision")
}

/// Keeps what was applied as the newest revision, unless the newest says the same, and lets the oldest go.
pub async fn record(
    client: &Client,
    set: &ApplySet,
    targets: &[&Target],
    summary: &str,
    cause: &str,
    keep: usize,
) -> Result<()> {
    let manifests: Vec<&Value> = targets.iter().map(|target| &target.manifest.value).collect();
    let packed = pack(&manifests)?;
    let digest: String = Sha256::digest(&packed).iter().map(|byte| format!("{byte:02x}")).collect();
    let known = revisions(client, set).await?;
    if known.last().is_some_and(|last| last.digest == digest) {
        return Ok(());
    }
    let number = known.last().map_or(1, |last| last.number + 1);
    for (part, piece) in packed.chunks(PIECE).enumerate() {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kobune.dev/revision", "immutable": true,
            "metadata": {
                "name": format!("kobune-revision-{}-{number}-{part}", set.name), "namespace": set.namespace,
                "labels": {SET: set.id, REVISION: number.to_string(), PART: part.to_string()},
                "annotations": {CAUSE: cause, SUMMARY: summary, DIGEST: digest},
            },
            "data": {"manifests": STANDARD.encode(piece)},
        });
        let path = format!("{}?fieldManager=kobune", folder(&set.namespace));
        request::write(client, Method::POST, &path, "application/json", &secret)
            .await
            .with_context(|| format!("keep revision {number} of {}", set.name))?;
    }
    let surplus = (known.len() + 1).saturating_sub(keep);
    for old in known.iter().take(surplus) {
        for name in old.parts.values() {
            let path = format!("{}/{}", folder(&set.namespace), request::query(name));
            match request::delete(client, &path, &json!({})).await {
                Ok(_) => {}
                Err(error) if error.is(404) => {}
                Err(error) => return Err(error).with_context(|| format!("let revision {} go", old.number)),
            }
        }
    }
    Ok(())
}

/// Deletes all revisions of a set.
pub async fn forget(client: &Client, set: &ApplySet) -> Result<()> {
    for revision in revisions(client, set).await? {
        for name in revision.parts.values() {
            let path = format!("{}/{}", folder(&set.namespace), request::query(name));
            match request::delete(client, &path, &json!({})).await {
                Err(error) if !error.is(404) => return Err(error).with_context(|| format!("delete secret/{name}")),
                _ => {}
            }
        }
    }
    Ok(())
}

async fn load(client: &Client, set: &ApplySet, revision: &Revision) -> Result<Vec<Value>> {
    let mut packed = Vec::new();
    for name in revision.parts.values() {
        let path = format!("{}/{}", folder(&set.namespace), request::query(name));
        let secret = request::get(client, &path).await?.ok_or_else(|| anyhow!("secret/{name} is gone"))?;
        let text = secret["data"]["manifests"].as_str().unwrap_or_default();
        packed.extend(STANDARD.decode(text).with_context(|| format!("read secret/{name}"))?);
    }
    unpack(&packed).with_context(|| format!("revision {}", revision.number))
}

fn choose(revisions: &[Revision], wanted: Option<u64>) -> Result<&Revision> {
    match wanted {
        Some(number) => revisions.iter().find(|it| it.number == number).ok_or_else(|| {
            let known: Vec<String> = revisions.iter().map(|it| it.number.to_string()).collect();
            anyhow!("there is no revision {number}; there are {}", known.join(", "))
        }),
        None if revisions.len() >= 2 => Ok(&revisions[revisions.len() - 2]),
        None => bail!("there is no earlier revision to go back to"),
    }
}

/// The flags that name a set.
#[derive(Debug, Clone, Args)]
pub struct SetOptions {
    /// The set of objects, as given to `apply --applyset`
    #[arg(value_name = "SET")]
    pub name: String,
    /// The namespace of the set
    #[arg(short, long, value_name = "NAME")]
    pub namespace: String,
    #[command(flatten)]
    pub connect: ConnectOptions,
}

impl SetOptions {
    async fn find(&self, client: &Client) -> Result<(ApplySet, Vec<Revision>)> {
        let set = ApplySet::read(client, &self.namespace, &self.name).await?;
        if !set.exists {
            bail!("there is no set {} in namespace {}", self.name, self.namespace);
        }
        let revisions = revisions(client, &set).await?;
        Ok((set, revisions))
    }
}

/// The flags of `history`.
#[derive(Debug, Clone, Args)]
pub struct HistoryOptions {
    /// The set.
    #[command(flatten)]
    pub set: SetOptions,
    /// Print the manifests of a revision; what is secret in them is hidden
    #[arg(long, value_name = "NUMBER")]
    pub revision: Option<u64>,
}

/// Lists the revisions of a set, or prints one.
pub async fn history(options: HistoryOptions) -> Result<ExitCode> {
    let cluster = options.set.connect.connect().await?;
    let (set, revisions) = options.set.find(&cluster.client).await?;
    if let Some(number) = options.revision {
        for manifest in load(&cluster.client, &set, choose(&revisions, Some(number))?).await? {
            print!("---\n{}", report::yaml(&explain::shown(&manifest)));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = vec![["REVISION", "CREATED", "CAUSE", "CHANGES"].map(str::to_owned)];
    rows.extend(
        revisions.iter().map(|it| [it.number.to_string(), it.created.clone(), it.cause.clone(), it.summary.clone()]),
    );
    print!("{}", crate::table::aligned(&rows));
    Ok(ExitCode::SUCCESS)
}

/// The flags of `rollback`.
#[derive(Debug, Clone, Args)]
pub struct RollbackOptions {
    /// The set.
    #[command(flatten)]
    pub set: SetOptions,
    /// The revision to go back to [default: the one before the newest]
    #[arg(long, value_name = "NUMBER")]
    pub to_revision: Option<u64>,
    /// Only show what would happen
    #[arg(long)]
    pub plan: bool,
    /// The name under which fields are owned
    #[arg(long, value_name = "NAME", default_value = "kobune")]
    pub field_manager: String,
    /// Take fields that another manager has taken since
    #[arg(long)]
    pub force_conflicts: bool,
    /// Delete objects and make them again where a field changes that cannot
    #[arg(long)]
    pub recreate: bool,
    /// Touch objects in this protected namespace
    #[arg(long, value_name = "NAME")]
    pub allow_protected_namespace: Vec<String>,
    /// Refuse to prune more than this share of the set's objects, in per cent
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub max_prune: u8,
    /// How long to wait until everything is ready, in seconds; 0 does not wait
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub timeout: u64,
    /// How many revisions are kept
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    pub revisions: usize,
    /// When to use colours
    #[arg(long, value_enum, default_value = "auto")]
    pub color: ColorChoice,
}

/// Applies an earlier revision again, and prunes what came after it.
pub async fn rollback(options: RollbackOptions) -> Result<ExitCode> {
    let cluster = options.set.connect.connect().await?;
    let (set, revisions) = options.set.find(&cluster.client).await?;
    let revision = choose(&revisions, options.to_revision)?;
    let origin = format!("revision {} of {}", revision.number, set.name);
    let mut manifests: Vec<Manifest> = Vec::new();
    for mut value in load(&cluster.client, &set, revision).await? {
        // The label is put on again by the set that the objects belong to now.
        if let Some(labels) = value.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
            labels.remove(apply_set::PART_OF);
        }
        manifests.push(Manifest::without_file(value, &origin));
    }
    let batch_options = BatchOptions {
        filename: Vec::new(),
        kustomize: None,
        recursive: false,
        namespaces: NamespaceOptions {
            allow_protected_namespace: options.allow_protected_namespace,
            ..NamespaceOptions::default()
        },
        field_manager: options.field_manager,
        force_conflicts: options.force_conflicts,
        recreate: options.recreate,
        take_over: Vec::new(),
        set: ApplySetOptions {
            applyset: Some(set.name.clone()),
            applyset_namespace: Some(set.namespace.clone()),
            leave_applyset: false,
            prune: true,
            max_prune: options.max_prune,
        },
        connect: options.set.connect,
    };
    let batch = batch::compare(&batch_options, manifests, cluster).await?;
    if options.plan {
        print!("{}", report::text::write(&batch.plan, false, options.color.style(&std::io::stdout())));
        return Ok(if batch.plan.has_changes() { ExitCode::from(1) } else { ExitCode::SUCCESS });
    }
    let manner = Manner {
        timeout: Duration::from_secs(options.timeout),
        pinned: false,
        revisions: options.revisions,
        cause: format!("rollback to {}", revision.number),
        color: options.color,
    };
    apply::carry_out(batch, &batch_options, &manner).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn revision(number: u64) -> Revision {
        Revision {
            number,
            created: String::new(),
            cause: String::new(),
            summary: String::new(),
            digest: String::new(),
            parts: BTreeMap::new(),
        }
    }

    #[test]
    fn which_revision() {
        let known = [revision(3), revision(4), revision(6)];
        assert_eq!(choose(&known, None).unwrap().number, 4);
        assert_eq!(choose(&known, Some(3)).unwrap().number, 3);
        assert!(choose(&known, Some(5)).unwrap_err().to_string().contains("there are 3, 4, 6"));
        assert!(choose(&known[..1], None).is_err());
    }

    proptest! {
        #[test]
        fn what_is_kept_comes_back_byte_for_byte(texts in proptest::collection::vec(".{0,40}", 0..8)) {
            let values: Vec<Value> = texts.iter().map(|text| json!({"kind": "ConfigMap", "data": {"a": text}})).collect();
            let packed = pack(&values.iter().collect::<Vec<_>>()).unwrap();
            let again: Vec<u8> = packed.chunks(7).flatten().copied().collect();
            prop_assert_eq!(unpack(&again).unwrap(), values);
        }
    }
}
