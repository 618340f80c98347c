//! `kobune scale`: another number of pods, as `kubectl scale` sets it (`k8s.io/kubectl/pkg/cmd/scale`).

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::chosen::{self, ChangeOptions, Chosen, Wide};
use super::follow::{News, follow};
use super::words::{self, ending};
use crate::connect::Cluster;
use crate::duration;
use crate::request;

/// The flags of `scale`.
#[derive(Debug, Clone, Args)]
pub struct ScaleOptions {
    /// TYPE NAME..., TYPE/NAME..., or TYPE with -l or --all
    #[arg(value_name = "TYPE[/NAME] [NAME...]")]
    pub arguments: Vec<String>,
    /// The number that is wanted
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    pub replicas: i64,
    /// Only if this is the number now; -1 for any
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true, default_value_t = -1)]
    pub current_replicas: i64,
    /// Only if the object is at this version
    #[arg(long, value_name = "VERSION")]
    pub resource_version: Option<String>,
    /// How long to wait until so many are there, such as 5s, 2m or 3h; 0s for not at all
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub timeout: String,
    /// All objects of the namespace
    #[arg(long)]
    pub all: bool,
    /// What all verbs have that change objects.
    #[command(flatten)]
    pub change: ChangeOptions,
}

/// Sets numbers of pods.
pub async fn scale(options: ScaleOptions) -> Result<ExitCode> {
    ending(run(&options).await.map(|()| ExitCode::SUCCESS))
}

async fn run(options: &ScaleOptions) -> Result<()> {
    if options.replicas < 0 {
        bail!("The --replicas=COUNT flag is required, and COUNT must be greater than or equal to 0");
    }
    if options.current_replicas < -1 {
        bail!("The --current-replicas must specify an integer of -1 or greater");
    }
    let limit = duration::parse(&options.timeout)
        .ok_or_else(|| anyhow!("invalid argument {:?} for \"--timeout\" flag: this is no duration", options.timeout))?;
    let change = &options.change;
    let printer = change.print.printer()?;
    let cluster = change.place.connect.connect().await?;
    let wide = Wide { all: options.all, ..Wide::default() };
    let (found, errors) = chosen::objects(&cluster, &change.place, &options.arguments, &change.choice, wide).await?;
    if options.resource_version.is_some() && found.len() > 1 {
        bail!("cannot use --resource-version with multiple resources");
    }
    if found.is_empty() && errors.is_empty() {
        bail!("no objects passed to scale");
    }
    for one in &found {
        if !change.dry_run.is_here() {
            set(options, &cluster, one).await?;
            if !limit.is_zero() && change.dry_run.query().is_empty() {
                reached(&cluster, one, options.replicas, limit).await?;
            }
        }
        change.print(&printer, &scaled(one, options.replicas), "scaled")?;
    }
    chosen::all_fine(errors)
}

/// The object with its new number, where that is known to stand in its spec.
fn scaled(one: &Chosen, replicas: i64) -> Value {
    let mut object = one.object.clone();
    if matches!(one.resource.group.as_str(), "" | "apps") {
        object["spec"]["replicas"] = replicas.into();
    }
    object
}

async fn set(options: &ScaleOptions, cluster: &Cluster, one: &Chosen) -> Result<()> {
    let path = format!("{}/scale", one.path());
    let mut patch = json!({"spec": {"replicas": options.replicas}});
    if options.current_replicas >= 0 || options.resource_version.is_some() {
        let now = request::send(&cluster.client, Method::GET, &path, None, "application/json").await;
        let now = now.map_err(words::refused)?.body;
        let found = now["spec"]["replicas"].as_i64().unwrap_or(0);
        if options.current_replicas >= 0 && found != options.current_replicas {
            bail!("Expected replicas to be {}, was {found}", options.current_replicas);
        }
        let version = now["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        if let Some(wanted) = options.resource_version.as_deref().filter(|wanted| *wanted != version) {
            bail!("Expected resource version to be {wanted}, was {version}");
        }
        // Whoever scales in between makes the patch fail.
        patch["metadata"] = json!({"resourceVersion": version});
    }
    let manager = request::query(&options.change.manager("scale"));
    let path = format!("{path}?fieldManager={manager}{}", options.change.dry_run.query());
    request::write(&cluster.client, Method::PATCH, &path, request::MERGE_PATCH, &patch)
        .await
        .map_err(words::refused)?;
    Ok(())
}

/// Waits until the object has so many.
async fn reached(cluster: &Cluster, one: &Chosen, replicas: i64, limit: Duration) -> Result<()> {
    let (folder, query) = one.folder();
    let there = |object: &Value| {
        let (status, metadata) = (&object["status"], &object["metadata"]);
        let seen =
            status["observedGeneration"].as_i64().unwrap_or(i64::MAX) >= metadata["generation"].as_i64().unwrap_or(0);
        seen && status["replicas"].as_i64().unwrap_or(0) == replicas
    };
    let waiting = follow(&cluster.client, &folder, &query, |news| match news {
        News::Listed(objects) if objects.is_empty() => bail!("{} is gone", one.label()),
        News::Listed(objects) => Ok(objects.iter().any(there).then_some(())),
        News::Event(kind, _) if kind == "DELETED" => bail!("{} is gone", one.label()),
        News::Event(_, object) => Ok(there(&object).then_some(())),
    });
    tokio::time::timeout(limit, waiting).await.map_err(|_| anyhow!("timed out waiting for the condition"))?
}
