//! `kobune delete`: deletes objects and waits until they are gone, as `kubectl delete` does.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::{Args, ValueEnum};
use http::Method;
use serde_json::{Value, json};

use super::selection;
use super::{PlaceOptions, from_server};
use crate::apply::wait;
use crate::connect::Cluster;
use crate::discovery::{Discovery, Resource};
use crate::manifests;
use crate::object::ObjectRef;
use crate::request;

/// What becomes of the objects that belong to a deleted one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Cascade {
    /// They go after it.
    Background,
    /// They go before it.
    Foreground,
    /// They stay.
    Orphan,
}

/// The flags of `delete`.
#[derive(Debug, Clone, Args)]
pub struct DeleteOptions {
    /// TYPE NAME..., TYPE/NAME..., or TYPE with -l or --all
    #[arg(value_name = "TYPE[/NAME] [NAME...]", required_unless_present = "filename")]
    pub arguments: Vec<String>,
    /// What these manifests name
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["arguments", "selector", "all"])]
    pub filename: Vec<PathBuf>,
    /// Take everything below a folder, not only what is in it
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Objects with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// All objects of the namespace
    #[arg(long, conflicts_with = "selector")]
    pub all: bool,
    /// What becomes of the objects that belong to them
    #[arg(long, value_enum, default_value = "background")]
    pub cascade: Cascade,
    /// How many seconds pods have to end; 0 only together with --force
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, default_value_t = -1)]
    pub grace_period: i64,
    /// Give pods one second
    #[arg(long, conflicts_with = "grace_period")]
    pub now: bool,
    /// Take pods out of the API at once, whether they have ended or not
    #[arg(long)]
    pub force: bool,
    /// Objects that are not there are no error
    #[arg(long)]
    pub ignore_not_found: bool,
    /// Wait until the objects are gone
    #[arg(long, num_args = 0..=1, default_value_t = true, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    pub wait: bool,
    /// How long to wait, in seconds; 0 for as long as it takes
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub timeout: u64,
    /// Where.
    #[command(flatten)]
    pub place: PlaceOptions,
}

/// Deletes objects.
pub async fn delete(options: DeleteOptions) -> Result<ExitCode> {
    if options.grace_period == 0 && !options.force {
        bail!("--grace-period=0 takes objects away whether they have ended or not; if that is meant, give --force too");
    }
    let cluster = options.place.connect.connect().await?;
    let discovery = Discovery::ask(&cluster.client).await.map_err(from_server)?;
    let mut failed = false;
    let mut going = Vec::new();
    for (resource, object) in chosen(&options, &cluster, &discovery).await? {
        let path = resource.object_path(object.namespace.as_deref(), &object.name);
        match request::delete(&cluster.client, &path, &body(&options)).await {
            Ok(answer) => {
                let place = object.namespace.as_ref().map(|name| format!(" from {name} namespace")).unwrap_or_default();
                let forced = if options.force && options.grace_period <= 0 { "force deleted" } else { "deleted" };
                println!("{} {:?} {forced}{place}", resource.singular_with_group(), object.name);
                let uid = answer.body["details"]["uid"].as_str().or(answer.body["metadata"]["uid"].as_str());
                going.push((resource, object, uid.map(str::to_owned)));
            }
            Err(error) if options.ignore_not_found && error.is(404) => {}
            Err(error) => {
                failed = true;
                eprintln!("{}", from_server(error));
            }
        }
    }
    if options.wait {
        let waits = going.iter().map(async |(resource, object, uid)| {
            let api = wait::api(&cluster.client, resource, object.namespace.as_deref());
            wait::gone(api, &object.name, uid.as_deref()).await;
        });
        let all = futures::future::join_all(waits);
        match options.timeout {
            0 => drop(all.await),
            seconds => drop(
                tokio::time::timeout(Duration::from_secs(seconds), all)
                    .await
                    .map_err(|_| anyhow!("timed out waiting for the objects to be gone after {seconds} s"))?,
            ),
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn body(options: &DeleteOptions) -> Value {
    let propagation = match options.cascade {
        Cascade::Background => "Background",
        Cascade::Foreground => "Foreground",
        Cascade::Orphan => "Orphan",
    };
    let mut body = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation});
    let grace = match options.grace_period {
        _ if options.now => Some(1),
        -1 if options.force => Some(0),
        seconds => (seconds >= 0).then_some(seconds),
    };
    if let Some(seconds) = grace {
        body["gracePeriodSeconds"] = seconds.into();
    }
    body
}

/// The objects that are meant.
async fn chosen(
    options: &DeleteOptions,
    cluster: &Cluster,
    discovery: &Discovery,
) -> Result<Vec<(Resource, ObjectRef)>> {
    let namespace = options.place.namespace(cluster);
    let object = |resource: &Resource, namespace: &str, name: &str| ObjectRef {
        api_version: resource.api_version(),
        kind: resource.kind.clone(),
        namespace: resource.namespaced.then(|| namespace.to_owned()),
        name: name.to_owned(),
    };
    let mut chosen = Vec::new();
    if !options.filename.is_empty() {
        for manifest in manifests::read(&options.filename, options.recursive)? {
            let found = ObjectRef::of(&manifest.value);
            let resource = discovery
                .of_object(&found)
                .ok_or_else(|| anyhow!("this cluster has no kind {} in {}", found.kind, found.api_version))?;
            if let (Some(own), Some(flag)) = (&found.namespace, &options.place.namespace)
                && own != flag
            {
                bail!(
                    "the namespace from the provided object {own:?} does not match the namespace {flag:?}. You must pass '--namespace={own}' to perform this operation."
                );
            }
            let own = found.namespace.as_deref().unwrap_or(&namespace);
            chosen.push((resource.clone(), object(resource, own, &found.name)));
        }
        // What others need goes last.
        chosen.sort_by_key(|(_, object)| std::cmp::Reverse(crate::order::phase(object.group(), &object.kind)));
        return Ok(chosen);
    }
    for selected in selection::select(discovery, &options.arguments)? {
        let resource = &selected.resource;
        for name in &selected.names {
            chosen.push((resource.clone(), object(resource, &namespace, name)));
        }
        if !selected.names.is_empty() {
            continue;
        }
        if options.selector.is_none() && !options.all {
            bail!("resource(s) were provided, but no name was specified");
        }
        let selector = options.selector.as_deref().unwrap_or_default();
        let path = format!("{}?labelSelector={}", resource.path(Some(&namespace)), request::query(selector));
        let list =
            request::send(&cluster.client, Method::GET, &path, None, "application/json").await.map_err(from_server)?;
        for item in list.body["items"].as_array().into_iter().flatten() {
            chosen.push((
                resource.clone(),
                object(resource, &namespace, item["metadata"]["name"].as_str().unwrap_or_default()),
            ));
        }
    }
    if chosen.is_empty() {
        eprintln!("No resources found");
    }
    Ok(chosen)
}
