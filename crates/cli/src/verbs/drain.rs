//! `kobune cordon`, `uncordon` and `drain`: nodes without new pods, and without any (`k8s.io/kubectl/pkg/cmd/drain`, `pkg/drain`).

mod verdict;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use http::Method;
use serde_json::{Value, json};

use self::verdict::{Rules, Verdict};
use super::PlaceOptions;
use super::chosen::{self, ChoiceOptions, Chosen, Wide};
use super::create::DryRun;
use super::words::{self, Failure, ending};
use crate::apply::wait;
use crate::connect::Cluster;
use crate::discovery::Discovery;
use crate::duration;
use crate::request::{self, RequestError};

/// How long until an eviction that a disruption budget forbids is tried again, as kubectl has it.
const AGAIN: Duration = Duration::from_secs(5);

/// The flags that choose nodes.
#[derive(Debug, Clone, Args)]
pub struct CordonOptions {
    /// The nodes
    #[arg(value_name = "NODE")]
    pub nodes: Vec<String>,
    /// Nodes with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// Change nothing; with =server the server tries it
    #[arg(long, value_enum, value_name = "WHERE", default_value = "none")]
    pub dry_run: DryRun,
    /// Where.
    #[command(flatten)]
    pub place: PlaceOptions,
}

/// The flags of `drain`.
#[derive(Debug, Clone, Args)]
pub struct DrainOptions {
    /// Which nodes.
    #[command(flatten)]
    pub nodes: CordonOptions,
    /// Also pods that nobody makes anew
    #[arg(long)]
    pub force: bool,
    /// Leave the pods of DaemonSets
    #[arg(long)]
    pub ignore_daemonsets: bool,
    /// Also pods whose emptyDir volumes are lost with them
    #[arg(long)]
    pub delete_emptydir_data: bool,
    /// How many seconds pods have to end; below 0 what they say themselves
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, default_value_t = -1)]
    pub grace_period: i64,
    /// How long to try, such as 5s, 2m or 3h; 0s for as long as it takes
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub timeout: String,
    /// Only pods with these labels
    #[arg(long, value_name = "SELECTOR")]
    pub pod_selector: Option<String>,
    /// Delete pods instead of evicting them, whatever disruption budgets say
    #[arg(long)]
    pub disable_eviction: bool,
    /// Do not wait for pods whose deletion began more than this many seconds ago
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub skip_wait_for_delete_timeout: i64,
}

/// Keeps new pods away from nodes.
pub async fn cordon(options: CordonOptions) -> Result<ExitCode> {
    ending(mark(&options, true).await.map(|_| ExitCode::SUCCESS))
}

/// Lets pods come to nodes again.
pub async fn uncordon(options: CordonOptions) -> Result<ExitCode> {
    ending(mark(&options, false).await.map(|_| ExitCode::SUCCESS))
}

/// Takes nodes' pods away.
pub async fn drain(options: DrainOptions) -> Result<ExitCode> {
    ending(drain_all(&options).await.map(|()| ExitCode::SUCCESS))
}

async fn nodes(options: &CordonOptions, verb: &str) -> Result<(Cluster, Vec<Chosen>)> {
    if options.nodes.is_empty() && options.selector.is_none() {
        bail!("USAGE: {verb} NODE [flags]\nSee 'kobune {verb} -h' for help and examples");
    }
    if !options.nodes.is_empty() && options.selector.is_some() {
        bail!("cannot specify both a node name and a --selector option\nSee 'kobune {verb} -h' for help and examples");
    }
    let cluster = options.place.connect.connect_once().await?;
    let arguments: Vec<String> = match options.nodes.is_empty() {
        true => vec!["nodes".to_owned()],
        false => options
            .nodes
            .iter()
            .map(|node| if node.contains('/') { node.clone() } else { format!("nodes/{node}") })
            .collect(),
    };
    let choice = ChoiceOptions { selector: options.selector.clone(), ..ChoiceOptions::default() };
    let (found, errors) = chosen::objects(&cluster, &options.place, &arguments, &choice, Wide::default()).await?;
    if let Some(error) = errors.into_iter().next() {
        return Err(error);
    }
    if let Some(other) = found.iter().find(|one| one.resource.kind != "Node" || !one.resource.group.is_empty()) {
        bail!("expected resource of type node, got {:?}", other.resource.name());
    }
    Ok((cluster, found))
}

/// Marks nodes; one that cannot be marked keeps nobody from marking the others.
async fn mark(options: &CordonOptions, wanted: bool) -> Result<(Cluster, Vec<Chosen>)> {
    let verb = if wanted { "cordon" } else { "uncordon" };
    let (cluster, found) = nodes(options, verb).await?;
    mark_each(options, &cluster, &found, wanted).await;
    Ok((cluster, found))
}

async fn mark_each(options: &CordonOptions, cluster: &Cluster, found: &[Chosen], wanted: bool) {
    let verb = if wanted { "cordon" } else { "uncordon" };
    let tried = chosen::suffix(options.dry_run);
    for one in found {
        if (one.object["spec"]["unschedulable"] == true) == wanted {
            println!("{} already {verb}ed{tried}", one.label());
            continue;
        }
        if options.dry_run != DryRun::Client {
            let patch = json!({"spec": {"unschedulable": wanted.then_some(true)}});
            let dry = options.dry_run == DryRun::Server;
            if let Err(error) = chosen::patch(cluster, one, request::MERGE_PATCH, &patch, "kobune-drain", dry).await {
                eprintln!("error: unable to {verb} node {:?}: {error}", one.name);
                continue;
            }
        }
        println!("{} {verb}ed{tried}", one.label());
    }
}

async fn drain_all(options: &DrainOptions) -> Result<()> {
    let limit = duration::parse(&options.timeout)
        .ok_or_else(|| anyhow!("--timeout {}: this is no duration, such as 5s, 2m or 3h", options.timeout))?;
    let (cluster, found) = nodes(&options.nodes, "drain").await?;
    mark_each(&options.nodes, &cluster, &found, true).await;
    let mut left = Vec::new();
    for node in &found {
        match drain_one(options, &cluster, &node.name, limit).await {
            Ok(()) => println!("{} drained{}", node.label(), chosen::suffix(options.nodes.dry_run)),
            Err(errors) => {
                let all = if errors.len() == 1 { errors.concat() } else { format!("[{}]", errors.join(", ")) };
                eprintln!("error: unable to drain node {:?} due to error: {all}, continuing command...", node.name);
                left.push((node.name.clone(), errors));
            }
        }
    }
    if left.is_empty() {
        return Ok(());
    }
    eprintln!("There are pending nodes to be drained:");
    left.iter().for_each(|(name, _)| eprintln!(" {name}"));
    let lines: Vec<String> = left.into_iter().flat_map(|(_, errors)| errors).collect();
    Err(Failure { words: lines.join("\n"), code: 1 }.into())
}

/// The pods of a node that have to go, and what is said of others.
async fn pods(options: &DrainOptions, cluster: &Cluster, node: &str) -> Result<(Vec<Value>, String), Vec<String>> {
    let one = |error: RequestError| vec![error.to_string()];
    let selectors = format!(
        "fieldSelector={}&labelSelector={}",
        request::query(&format!("spec.nodeName={node}")),
        request::query(options.pod_selector.as_deref().unwrap_or_default())
    );
    let path = format!("/api/v1/pods?{selectors}");
    let list = request::send(&cluster.client, Method::GET, &path, None, "application/json").await.map_err(one)?;
    let rules = Rules {
        force: options.force,
        ignore_daemon_sets: options.ignore_daemonsets,
        delete_local_data: options.delete_emptydir_data,
        skip_after: options.skip_wait_for_delete_timeout,
    };
    let now = jiff::Timestamp::now();
    let (mut going, mut warnings, mut errors) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    for pod in list.body["items"].as_array().into_iter().flatten() {
        let (namespace, name) = names(pod);
        let lost = match verdict::daemon_set(pod) {
            None => None,
            Some(owner) => {
                let path = format!(
                    "/apis/apps/v1/namespaces/{}/daemonsets/{}",
                    request::query(namespace),
                    request::query(owner)
                );
                request::send(&cluster.client, Method::GET, &path, None, "application/json").await.err()
            }
        };
        let lost = lost.map(|error| (error.is(404), error.to_string()));
        let label = format!("{namespace}/{name}");
        match verdict::of(pod, rules, lost, now) {
            Verdict::Skip => {}
            Verdict::Goes => going.push(pod.clone()),
            Verdict::GoesWith(warning) => {
                going.push(pod.clone());
                warnings.entry(warning).or_insert_with(Vec::new).push(label);
            }
            Verdict::Stays(warning) => warnings.entry(warning).or_insert_with(Vec::new).push(label),
            Verdict::Refused(why) => errors.entry(why).or_insert_with(Vec::new).push(label),
        }
    }
    if !errors.is_empty() {
        let lines = errors.into_iter().map(|(why, pods)| format!("cannot delete {why}: {}", pods.join(", ")));
        return Err(lines.collect());
    }
    let warnings: Vec<String> =
        warnings.into_iter().map(|(what, pods)| format!("{what}: {}", pods.join(", "))).collect();
    Ok((going, warnings.join("; ")))
}

fn names(pod: &Value) -> (&str, &str) {
    let text = |name: &str| pod["metadata"][name].as_str().unwrap_or_default();
    (text("namespace"), text("name"))
}

async fn drain_one(options: &DrainOptions, cluster: &Cluster, node: &str, limit: Duration) -> Result<(), Vec<String>> {
    let (going, warnings) = pods(options, cluster, node).await?;
    if !warnings.is_empty() {
        eprintln!("Warning: {warnings}");
    }
    if options.nodes.dry_run == DryRun::Client {
        for pod in &going {
            let (namespace, name) = names(pod);
            println!("evicting pod {namespace}/{name} (dry run)");
        }
        return Ok(());
    }
    let end = (!limit.is_zero()).then(|| tokio::time::Instant::now() + limit);
    let discovery = Discovery::ask(&cluster.client).await.map_err(|error| vec![error.to_string()])?;
    let resource = discovery.by_kind("v1", "Pod").ok_or_else(|| vec!["this cluster has no pods".to_owned()])?;
    let gone = going.iter().map(async |pod| -> Result<(), String> {
        let (namespace, name) = names(pod);
        let all = async {
            remove(options, cluster, pod).await?;
            if options.nodes.dry_run == DryRun::None {
                let api = wait::api(&cluster.client, resource, Some(namespace));
                wait::gone(api, name, pod["metadata"]["uid"].as_str()).await;
                println!("pod/{name} {}", if options.disable_eviction { "deleted" } else { "evicted" });
            }
            Ok(())
        };
        match end {
            None => all.await,
            Some(end) => tokio::time::timeout_at(end, all).await.unwrap_or_else(|_| {
                Err(format!(
                    "error when evicting pods/{name:?} -n {namespace:?}: global timeout reached: {}",
                    options.timeout
                ))
            }),
        }
    });
    let errors: Vec<String> = futures::future::join_all(gone).await.into_iter().filter_map(Result::err).collect();
    if errors.is_empty() {
        return Ok(());
    }
    if let Ok((pending, _)) = pods(options, cluster, node).await
        && !pending.is_empty()
    {
        let all = if errors.len() == 1 { errors.concat() } else { format!("[{}]", errors.join(", ")) };
        eprintln!("There are pending pods in node {node:?} when an error occurred: {all}");
        pending.iter().for_each(|pod| eprintln!("pod/{}", names(pod).1));
    }
    Err(errors)
}

/// Begins the end of a pod; tries again for as long as a disruption budget is in the way.
async fn remove(options: &DrainOptions, cluster: &Cluster, pod: &Value) -> Result<(), String> {
    let (namespace, name) = names(pod);
    let path = format!("/api/v1/namespaces/{}/pods/{}", request::query(namespace), request::query(name));
    let mut how = json!({});
    if options.grace_period >= 0 {
        how["gracePeriodSeconds"] = options.grace_period.into();
    }
    if options.nodes.dry_run == DryRun::Server {
        how["dryRun"] = json!(["All"]);
    }
    if options.disable_eviction {
        return match request::delete(&cluster.client, &path, &how).await {
            Err(error) if !error.is(404) => Err(error.to_string()),
            _ => Ok(()),
        };
    }
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": name, "namespace": namespace}, "deleteOptions": how});
    let path = format!("{path}/eviction");
    loop {
        println!("evicting pod {namespace}/{name}{}", chosen::suffix(options.nodes.dry_run));
        let error = match request::write(&cluster.client, Method::POST, &path, "application/json", &eviction).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is(404) => return Ok(()),
            Err(error) => error,
        };
        let causes = error.status().and_then(|status| status.details.as_ref()).map(|details| details.causes.as_slice());
        let ending = causes.unwrap_or_default().iter().any(|cause| cause.reason == "NamespaceTerminating");
        match (error.is(429), error.is(403) && ending) {
            (true, _) => eprintln!("error when evicting pods/{name:?} -n {namespace:?} (will retry after 5s): {error}"),
            // It goes with its namespace.
            (_, true) if pod["metadata"].get("deletionTimestamp").is_some() => return Ok(()),
            (_, true) => eprintln!(
                "error when evicting pod {name:?} from terminating namespace {namespace:?} (will retry after 5s): {error}"
            ),
            _ => return Err(format!("error when evicting pods/{name:?} -n {namespace:?}: {}", words::refused(error))),
        }
        tokio::time::sleep(AGAIN).await;
    }
}
