//! `kobune apply`: server-side apply in the order of the files, then waiting until everything is ready.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use futures::StreamExt;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{self, ApiResource, Scope};
use kube::runtime::{WatchStreamExt, watcher};

use crate::{manifests, readiness};

/// The flags of `apply`.
#[derive(Debug, Clone, Args)]
pub struct ApplyOptions {
    /// Manifests: a file, a folder, or - for standard input
    #[arg(short, long, value_name = "FILE", required = true)]
    pub filename: Vec<PathBuf>,
    /// The kubeconfig to use [default: KUBECONFIG, then ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The namespace of objects that name none; there is no silent default
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Take over fields that another manager holds
    #[arg(long)]
    pub force_conflicts: bool,
    /// How long to wait until everything is ready, in seconds; 0 does not wait
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub timeout: u64,
}

/// An object that was applied, and how to find it again.
struct Applied {
    label: String,
    kind: String,
    name: String,
    api: Api<DynamicObject>,
    resource: ApiResource,
}

/// Applies the manifests and waits for them.
pub async fn apply(options: ApplyOptions) -> Result<()> {
    let client = crate::client(options.kubeconfig.as_deref()).await?;
    let mut objects = Vec::new();
    for source in &options.filename {
        objects.extend(manifests::read(source)?);
    }
    let mut applied = Vec::new();
    for object in objects {
        applied.push(apply_one(&client, &options, object).await?);
    }
    if options.timeout == 0 {
        return Ok(());
    }
    let limit = Duration::from_secs(options.timeout);
    let waits = applied.iter().map(wait);
    match tokio::time::timeout(limit, futures::future::try_join_all(waits)).await {
        Ok(result) => result.map(drop),
        Err(_) => bail!("not everything is ready after {} s", options.timeout),
    }
}

async fn apply_one(client: &kube::Client, options: &ApplyOptions, mut object: DynamicObject) -> Result<Applied> {
    let types = object.types.clone().context("apiVersion and kind are missing")?;
    let name = object.metadata.name.clone().context("metadata.name is missing")?;
    let label = format!("{}/{name}", types.kind.to_lowercase());
    let kind = GroupVersionKind::try_from(&types).with_context(|| label.clone())?;
    let (resource, capabilities) = discovery::pinned_kind(client, &kind)
        .await
        .with_context(|| format!("{label}: the cluster has no kind {} in {}", types.kind, types.api_version))?;
    let api = match capabilities.scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced => {
            let namespace = match (&object.metadata.namespace, &options.namespace) {
                (Some(own), Some(flag)) if own != flag => {
                    bail!("{label}: its manifest says namespace {own} and --namespace says {flag}")
                }
                (Some(own), _) => own.clone(),
                (None, Some(flag)) => flag.clone(),
                (None, None) => bail!("{label}: no namespace: write it into the manifest or give --namespace"),
            };
            object.metadata.namespace = Some(namespace.clone());
            Api::namespaced_with(client.clone(), &namespace, &resource)
        }
    };
    let before = api.get_metadata_opt(&name).await.with_context(|| label.clone())?;
    let mut parameters = PatchParams::apply("kobune");
    parameters.force = options.force_conflicts;
    let after: DynamicObject =
        api.patch(&name, &parameters, &Patch::Apply(&object)).await.with_context(|| label.clone())?;
    let done = match before.map(|object| object.metadata.resource_version) {
        None => "created",
        Some(version) if version == after.metadata.resource_version => "unchanged",
        Some(_) => "changed",
    };
    println!("{label} {done}");
    Ok(Applied { label, kind: types.kind, name, api, resource })
}

/// Follows an object until it is ready and says what is missing whenever that changes.
async fn wait(object: &Applied) -> Result<()> {
    let config = watcher::Config::default().fields(&format!("metadata.name={}", object.name));
    let changes = watcher(object.api.clone(), config).default_backoff().applied_objects();
    let mut changes = std::pin::pin!(changes);
    let mut said = None;
    loop {
        let current = match changes.next().await {
            Some(Ok(current)) => serde_json::to_value(&current)?,
            // The watcher tries again by itself; what goes wrong for long ends with the time limit.
            Some(Err(error)) => {
                eprintln!("{}: {error}", object.label);
                continue;
            }
            None => bail!("{}: the watch of {} ended", object.label, object.resource.plural),
        };
        match readiness::missing(&object.kind, &current) {
            None => {
                if said.is_some() {
                    println!("{} ready", object.label);
                }
                return Ok(());
            }
            Some(missing) if said.as_ref() != Some(&missing) => {
                println!("{} {missing}", object.label);
                said = Some(missing);
            }
            Some(_) => {}
        }
    }
}
