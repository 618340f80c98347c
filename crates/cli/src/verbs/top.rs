//! `kobune top`: what pods and nodes use of processors and memory, as `kubectl top` prints it
//! (`k8s.io/kubectl/pkg/cmd/top`, `pkg/metricsutil`).

use std::cmp::Reverse;
use std::collections::HashSet;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use kobune_kinds::quantity::Quantity;
use serde_json::Value;

use super::PlaceOptions;
use super::outcome::write;
use super::words::{self, ending};
use crate::connect::Cluster;
use crate::request;
use crate::table;

/// Where the metrics API is.
const METRICS: &str = "/apis/metrics.k8s.io/v1beta1";

/// How long a pod may have no metrics.
const DELAY: i64 = 120;

/// Whose usage.
#[derive(Debug, Clone, Subcommand)]
pub enum TopCommand {
    /// Print what nodes use
    #[command(aliases = ["nodes", "no"])]
    Node(TopNodeOptions),
    /// Print what pods use
    #[command(aliases = ["pods", "po"])]
    Pod(TopPodOptions),
}

/// By what is sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SortBy {
    /// By processors, most first.
    Cpu,
    /// By memory, most first.
    Memory,
}

/// The flags of `top node`.
#[derive(Debug, Clone, Args)]
pub struct TopNodeOptions {
    /// One node
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Nodes with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// By what to sort
    #[arg(long, value_enum)]
    pub sort_by: Option<SortBy>,
    /// Leave the headings out
    #[arg(long)]
    pub no_headers: bool,
    /// Percents of what nodes have, not of what pods may use
    #[arg(long)]
    pub show_capacity: bool,
    /// Where.
    #[command(flatten)]
    pub place: PlaceOptions,
}

/// The flags of `top pod`.
#[derive(Debug, Clone, Args)]
pub struct TopPodOptions {
    /// One pod
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Pods with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// Only pods with these fields
    #[arg(long, value_name = "SELECTOR")]
    pub field_selector: Option<String>,
    /// Pods of all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// A line for each container
    #[arg(long)]
    pub containers: bool,
    /// By what to sort
    #[arg(long, value_enum)]
    pub sort_by: Option<SortBy>,
    /// Leave the headings out
    #[arg(long)]
    pub no_headers: bool,
    /// Add all up in a last line
    #[arg(long)]
    pub sum: bool,
    /// Where.
    #[command(flatten)]
    pub place: PlaceOptions,
}

/// Prints it.
pub async fn top(command: TopCommand) -> Result<ExitCode> {
    let done = match command {
        TopCommand::Node(options) => nodes(&options).await,
        TopCommand::Pod(options) => pods(&options).await,
    };
    ending(done.map(|()| ExitCode::SUCCESS))
}

/// An amount of both.
#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    cpu: Quantity,
    memory: Quantity,
}

impl Usage {
    fn of(usage: &Value) -> Usage {
        let amount = |name: &str| usage[name].as_str().and_then(|text| text.parse().ok()).unwrap_or_default();
        Usage { cpu: amount("cpu"), memory: amount("memory") }
    }

    fn plus(self, other: Usage) -> Usage {
        Usage { cpu: self.cpu + other.cpu, memory: self.memory + other.memory }
    }

    fn cells(self) -> [String; 2] {
        [format!("{}m", self.cpu.milli_value()), format!("{}Mi", self.memory.value() >> 20)]
    }

    /// What comes first in an order.
    fn key(self, by: Option<SortBy>) -> Reverse<i64> {
        Reverse(match by {
            Some(SortBy::Cpu) => self.cpu.milli_value(),
            Some(SortBy::Memory) => self.memory.value(),
            None => 0,
        })
    }
}

async fn read(cluster: &Cluster, path: &str) -> Result<Value> {
    let answer = request::send(&cluster.client, Method::GET, path, None, "application/json").await;
    Ok(answer.map_err(words::refused)?.body)
}

/// Fails where nobody measures.
async fn check_available(cluster: &Cluster) -> Result<()> {
    let groups = read(cluster, "/apis").await?;
    let group = groups["groups"].as_array().into_iter().flatten().find(|group| group["name"] == "metrics.k8s.io");
    let versions = group.and_then(|group| group["versions"].as_array()).into_iter().flatten();
    if !versions.into_iter().any(|version| version["version"] == "v1beta1") {
        bail!("Metrics API not available");
    }
    Ok(())
}

/// The metrics of one object that is named, or of all that are selected.
async fn metrics(cluster: &Cluster, folder: &str, name: Option<&str>, selector: Option<&str>) -> Result<Vec<Value>> {
    match name {
        Some(name) => Ok(vec![read(cluster, &format!("{folder}/{}", request::query(name))).await?]),
        None => {
            let selector = request::query(selector.unwrap_or_default());
            let mut list = read(cluster, &format!("{folder}?labelSelector={selector}")).await?;
            Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

async fn nodes(options: &TopNodeOptions) -> Result<()> {
    if options.name.is_some() && options.selector.is_some() {
        bail!("only one of NAME or --selector can be provided");
    }
    let cluster = options.place.connect.connect().await?;
    check_available(&cluster).await?;
    let (name, selector) = (options.name.as_deref(), options.selector.as_deref());
    let measured = metrics(&cluster, &format!("{METRICS}/nodes"), name, selector).await?;
    if measured.is_empty() {
        bail!("metrics not available yet");
    }
    let nodes = metrics(&cluster, "/api/v1/nodes", name, selector).await?;
    let rows = node_rows(&measured, &nodes, options);
    write(&table::aligned(&rows))
}

fn node_rows(measured: &[Value], nodes: &[Value], options: &TopNodeOptions) -> Vec<Vec<String>> {
    let heading = ["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)", ""];
    let mut rows: Vec<Vec<String>> = Vec::new();
    if !options.no_headers {
        rows.push(heading.map(str::to_owned).to_vec());
    }
    let field = if options.show_capacity { "capacity" } else { "allocatable" };
    let mut usages: Vec<(&str, Usage)> =
        measured.iter().map(|node| (text(&node["metadata"]["name"]), Usage::of(&node["usage"]))).collect();
    usages.sort_by_key(|(name, usage)| (usage.key(options.sort_by), (*name).to_owned()));
    for (name, usage) in &usages {
        let [cpu, memory] = usage.cells();
        let mut row = vec![(*name).to_owned(), cpu];
        if let Some(node) = nodes.iter().find(|node| node["metadata"]["name"] == *name) {
            let available = Usage::of(&node["status"][field]);
            row.extend([percent(usage.cpu, available.cpu), memory, percent(usage.memory, available.memory)]);
        } else {
            row.push(memory);
        }
        row.push(String::new());
        rows.push(row);
    }
    for node in nodes {
        let name = text(&node["metadata"]["name"]);
        if !usages.iter().any(|(known, _)| *known == name) {
            let mut row = vec![name.to_owned()];
            row.extend(std::iter::repeat_n("<unknown>".to_owned(), 4));
            row.push(String::new());
            rows.push(row);
        }
    }
    rows
}

fn percent(part: Quantity, whole: Quantity) -> String {
    let (part, whole) = (i128::from(part.milli_value()), i128::from(whole.milli_value()));
    format!("{}%", if whole == 0 { 0 } else { part * 100 / whole })
}

async fn pods(options: &TopPodOptions) -> Result<()> {
    let (name, selector) = (options.name.as_deref(), options.selector.as_deref());
    if name.is_some() && (selector.is_some() || options.field_selector.is_some()) {
        bail!("only one of NAME or selector can be provided");
    }
    let cluster = options.place.connect.connect().await?;
    check_available(&cluster).await?;
    let namespace = options.place.namespace(&cluster);
    let place =
        if options.all_namespaces { String::new() } else { format!("/namespaces/{}", request::query(&namespace)) };
    let mut measured = metrics(&cluster, &format!("{METRICS}{place}/pods"), name, selector).await?;
    let folder = format!("/api/v1{place}/pods");
    let selected = format!(
        "{folder}?labelSelector={}&fieldSelector={}",
        request::query(selector.unwrap_or_default()),
        request::query(options.field_selector.as_deref().unwrap_or_default())
    );
    if options.field_selector.is_some() && !measured.is_empty() {
        let pods = read(&cluster, &selected).await?;
        let id = |pod: &Value| {
            let metadata = &pod["metadata"];
            (text(&metadata["namespace"]).to_owned(), text(&metadata["name"]).to_owned())
        };
        let known: HashSet<(String, String)> = pods["items"].as_array().into_iter().flatten().map(id).collect();
        measured.retain(|pod| known.contains(&id(pod)));
    }
    if measured.is_empty() {
        let pods = read(&cluster, &selected).await?;
        check_empty(&pods, jiff::Timestamp::now())?;
        match options.all_namespaces {
            true => eprintln!("No resources found"),
            false => eprintln!("No resources found in {namespace} namespace."),
        }
        return Ok(());
    }
    write(&table::aligned(&pod_rows(&measured, options)))
}

/// No metrics are fine where there are no pods. Of young ones there are none yet, of older ones something is wrong.
fn check_empty(pods: &Value, now: jiff::Timestamp) -> Result<()> {
    let pods = pods["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    for pod in pods {
        let metadata = &pod["metadata"];
        let Ok(created) = text(&metadata["creationTimestamp"]).parse::<jiff::Timestamp>() else { continue };
        let age = now.as_second() - created.as_second();
        if age > DELAY {
            let (namespace, name) = (text(&metadata["namespace"]), text(&metadata["name"]));
            bail!("Metrics not available for pod {namespace}/{name}, age: {age}s");
        }
    }
    if pods.is_empty() { Ok(()) } else { bail!("metrics not available yet") }
}

fn pod_rows(measured: &[Value], options: &TopPodOptions) -> Vec<Vec<String>> {
    let mut heading: Vec<&str> = Vec::new();
    let mut rows: Vec<Vec<String>> = Vec::new();
    heading.extend(options.all_namespaces.then_some("NAMESPACE"));
    heading.extend(options.containers.then_some("POD"));
    heading.extend(["NAME", "CPU(cores)", "MEMORY(bytes)", ""]);
    // Without headings kubectl also puts the sum as far to the left as if there were only its own columns.
    let width = if options.no_headers { 3 } else { heading.len() - 1 };
    if !options.no_headers {
        rows.push(heading.into_iter().map(str::to_owned).collect());
    }
    let total = |pod: &Value| {
        let containers = pod["containers"].as_array().into_iter().flatten();
        containers.map(|container| Usage::of(&container["usage"])).fold(Usage::default(), Usage::plus)
    };
    let mut pods: Vec<&Value> = measured.iter().collect();
    pods.sort_by_key(|pod| {
        let metadata = &pod["metadata"];
        let namespace =
            if options.all_namespaces && options.sort_by.is_none() { text(&metadata["namespace"]) } else { "" };
        (total(pod).key(options.sort_by), namespace.to_owned(), text(&metadata["name"]).to_owned())
    });
    let mut sum = Usage::default();
    for pod in pods {
        let metadata = &pod["metadata"];
        let namespace = options.all_namespaces.then(|| text(&metadata["namespace"]).to_owned());
        let row = |names: &[&str], usage: Usage| -> Vec<String> {
            let names = names.iter().map(|&name| name.to_owned());
            namespace.clone().into_iter().chain(names).chain(usage.cells()).chain([String::new()]).collect()
        };
        let (name, all) = (text(&metadata["name"]), total(pod));
        sum = sum.plus(all);
        if !options.containers {
            rows.push(row(&[name], all));
            continue;
        }
        let mut containers: Vec<&Value> = pod["containers"].as_array().into_iter().flatten().collect();
        containers.sort_by_key(|container| {
            (Usage::of(&container["usage"]).key(options.sort_by), text(&container["name"]).to_owned())
        });
        rows.extend(containers.into_iter().map(|it| row(&[name, text(&it["name"])], Usage::of(&it["usage"]))));
    }
    if options.sum {
        let empty = |count: usize| std::iter::repeat_n(String::new(), count);
        let line = "________".to_owned();
        rows.push(empty(width - 2).chain([line.clone(), line, String::new()]).collect());
        rows.push(empty(width - 2).chain(sum.cells()).chain([String::new()]).collect());
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use serde_json::json;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: TopCommand,
    }

    fn measured() -> Vec<Value> {
        let container =
            |name: &str, cpu: &str, memory: &str| json!({"name": name, "usage": {"cpu": cpu, "memory": memory}});
        let pod = |namespace: &str, name: &str, containers: Value| json!({"metadata": {"namespace": namespace, "name": name}, "containers": containers});
        vec![
            pod("x", "b", json!([container("two", "1500001n", "3Mi"), container("one", "2", "1024Ki")])),
            pod("y", "a", json!([container("main", "400000n", "70Mi")])),
        ]
    }

    fn check(line: &str, expected: &str) {
        let words = ["top"].into_iter().chain(line.split(' '));
        let TopCommand::Pod(options) = Line::parse_from(words).command else { panic!("{line}") };
        let rows: Vec<String> = pod_rows(&measured(), &options).iter().map(|row| row.join("|")).collect();
        assert_eq!(rows.join("\n"), expected, "{line}");
    }

    #[test]
    fn pods() {
        check("pod", "NAME|CPU(cores)|MEMORY(bytes)|\na|1m|70Mi|\nb|2002m|4Mi|");
        check("pods --sort-by cpu --no-headers", "b|2002m|4Mi|\na|1m|70Mi|");
        check("po -A --sort-by=memory --no-headers", "y|a|1m|70Mi|\nx|b|2002m|4Mi|");
        check(
            "pod --containers --sum",
            "POD|NAME|CPU(cores)|MEMORY(bytes)|\na|main|1m|70Mi|\nb|one|2000m|1Mi|\nb|two|2m|3Mi|\n||________|________|\n||2002m|74Mi|",
        );
    }

    #[test]
    fn nodes() {
        let TopCommand::Node(options) = Line::parse_from(["top", "nodes"]).command else { panic!("no nodes") };
        let measured = [json!({"metadata": {"name": "n"}, "usage": {"cpu": "500m", "memory": "512Mi"}})];
        let node =
            |name: &str| json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": "2", "memory": "1Gi"}}});
        let rows = node_rows(&measured, &[node("n"), node("o")], &options);
        let rows: Vec<String> = rows.iter().map(|row| row.join("|")).collect();
        assert_eq!(rows[1..], ["n|500m|25%|512Mi|50%|", "o|<unknown>|<unknown>|<unknown>|<unknown>|"]);
    }

    #[test]
    fn nothing_measured() {
        let now = "2026-01-01T01:00:00Z".parse().unwrap();
        let pods = |created: &str| json!({"items": [{"metadata": {"namespace": "x", "name": "a", "creationTimestamp": created}}]});
        let check = |pods: Value, expected: Option<&str>| {
            assert_eq!(check_empty(&pods, now).err().map(|error| error.to_string()).as_deref(), expected);
        };
        check(json!({"items": []}), None);
        check(pods("2026-01-01T00:59:00Z"), Some("metrics not available yet"));
        check(pods("2026-01-01T00:50:00Z"), Some("Metrics not available for pod x/a, age: 600s"));
    }
}
