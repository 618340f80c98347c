//! `kobune logs`: what containers say, of one pod as `kubectl logs` prints it, of many with coloured names before each line.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use futures::{AsyncBufReadExt as _, StreamExt as _};
use serde_json::Value;

use super::{PlaceOptions, from_server};
use crate::discovery::Discovery;
use crate::duration;
use crate::request;
use crate::style::{ColorChoice, Style};

/// The flags of `logs`.
#[derive(Debug, Clone, Args)]
pub struct LogsOptions {
    /// A pod, or TYPE/NAME of what has pods, such as deployment/web; then optionally a container
    #[arg(value_name = "POD|TYPE/NAME", required_unless_present = "selector")]
    pub target: Option<String>,
    /// The container, as a second argument
    #[arg(value_name = "CONTAINER")]
    pub container_argument: Option<String>,
    /// The container
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// All containers of the pods
    #[arg(long)]
    pub all_containers: bool,
    /// All pods of a workload, not only one
    #[arg(long)]
    pub all_pods: bool,
    /// The pods with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR", conflicts_with = "target")]
    pub selector: Option<String>,
    /// Go on with what is said from now on
    #[arg(short, long)]
    pub follow: bool,
    /// Of the container's run before this one
    #[arg(short, long)]
    pub previous: bool,
    /// Only what was said in this time, such as 5s, 2m or 3h
    #[arg(long, value_name = "DURATION")]
    pub since: Option<String>,
    /// Only what was said after this time (RFC 3339)
    #[arg(long, value_name = "TIME", conflicts_with = "since")]
    pub since_time: Option<String>,
    /// Only the last lines; -1 for all [default: all of one pod, 10 of each of many]
    #[arg(long, value_name = "LINES", allow_negative_numbers = true)]
    pub tail: Option<i64>,
    /// Put the time before each line
    #[arg(long)]
    pub timestamps: bool,
    /// Put the pod and the container before each line
    #[arg(long)]
    pub prefix: bool,
    /// Only so many bytes
    #[arg(long, value_name = "BYTES")]
    pub limit_bytes: Option<u64>,
    /// How many logs may be followed at once
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    pub max_log_requests: usize,
    /// Say what cannot be read and go on with the others
    #[arg(long)]
    pub ignore_errors: bool,
    /// When to use colours
    #[arg(long, value_enum, default_value = "auto")]
    pub color: ColorChoice,
    /// Where.
    #[command(flatten)]
    pub place: PlaceOptions,
}

/// One container's log.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    pod: String,
    container: String,
}

/// Prints logs.
pub async fn logs(options: LogsOptions) -> Result<ExitCode> {
    let cluster = options.place.connect.connect().await?;
    let namespace = options.place.namespace(&cluster);
    let pods = pods(&options, &cluster.client, &namespace).await?;
    if pods.is_empty() {
        eprintln!("No resources found in {namespace} namespace.");
        return Ok(ExitCode::SUCCESS);
    }
    let mut sources = Vec::new();
    for pod in &pods {
        sources.extend(containers(&options, pod)?);
    }
    if options.follow && sources.len() > options.max_log_requests {
        bail!(
            "you are attempting to follow {} log streams, but maximum allowed concurrency is {}, use --max-log-requests to increase the limit",
            sources.len(),
            options.max_log_requests
        );
    }
    let query = query(&options)?;
    let style = options.color.style(&std::io::stdout());
    // Of several containers nobody could tell who says what without a name before it; kubectl leaves that to --prefix.
    let prefix = options.prefix || (sources.len() > 1 && std::io::IsTerminal::is_terminal(&std::io::stdout()));
    let at_once = if options.follow { sources.len() } else { 1 };
    let results: Vec<Result<()>> = futures::stream::iter(sources.iter().enumerate())
        .map(|(number, source)| {
            let before = if prefix { label(style, number, source) } else { String::new() };
            one(&cluster.client, &namespace, source, &query, before)
        })
        .buffer_unordered(at_once)
        .collect()
        .await;
    for result in results {
        match result {
            Err(error) if options.ignore_errors => eprintln!("error: {error:#}"),
            result => result?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn label(style: Style, number: usize, source: &Source) -> String {
    format!("{} ", style.nth(number, format!("[pod/{}/{}]", source.pod, source.container)))
}

/// Copies a log to standard output, line by line.
async fn one(client: &kube::Client, namespace: &str, source: &Source, query: &str, before: String) -> Result<()> {
    let path = format!(
        "/api/v1/namespaces/{}/pods/{}/log?container={}{query}",
        request::query(namespace),
        request::query(&source.pod),
        request::query(&source.container)
    );
    let request = http::Request::get(path).header(http::header::ACCEPT, "*/*").body(Vec::new())?;
    let stream = client.request_stream(request).await.map_err(|error| match error {
        kube::Error::Api(status) => anyhow!("Error from server ({}): {}", status.reason, status.message),
        other => anyhow!(other),
    })?;
    // Bytes, not text: a container may say anything.
    let mut stream = std::pin::pin!(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        let count =
            stream.read_until(b'\n', &mut line).await.with_context(|| format!("read the log of {}", source.pod))?;
        if count == 0 {
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        let written = out.write_all(before.as_bytes()).and_then(|()| out.write_all(&line)).and_then(|()| out.flush());
        match written {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            result => result.context("write to standard output")?,
        }
    }
}

/// The pods that are meant.
async fn pods(options: &LogsOptions, client: &kube::Client, namespace: &str) -> Result<Vec<Value>> {
    let folder = format!("/api/v1/namespaces/{}/pods", request::query(namespace));
    let list = async |selector: &str| -> Result<Vec<Value>> {
        let path = format!("{folder}?labelSelector={}", request::query(selector));
        let list =
            request::send(client, http::Method::GET, &path, None, "application/json").await.map_err(from_server)?;
        Ok(list.body["items"].as_array().cloned().unwrap_or_default())
    };
    if let Some(selector) = &options.selector {
        return list(selector).await;
    }
    let target = options.target.as_deref().unwrap_or_default();
    let read = async |path: &str, what: &str| -> Result<Value> {
        let found = request::send(client, http::Method::GET, path, None, "application/json").await;
        Ok(found.map_err(from_server).with_context(|| what.to_owned())?.body)
    };
    let (kind, name) = match target.split_once('/') {
        None => return Ok(vec![read(&format!("{folder}/{}", request::query(target)), target).await?]),
        Some(("pod" | "pods" | "po", name)) => {
            return Ok(vec![read(&format!("{folder}/{}", request::query(name)), name).await?]);
        }
        Some(parts) => parts,
    };
    let discovery = Discovery::ask(client).await.map_err(from_server)?;
    let resource =
        discovery.by_name(kind).ok_or_else(|| anyhow!("the server doesn't have a resource type {kind:?}"))?;
    let object = read(&resource.object_path(Some(namespace), name), target).await?;
    let selector = &object["spec"]["selector"];
    let labels = if selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some() {
        kobune_kinds::selector::LabelSelector::from_object(selector).ok()
    } else {
        selector.as_object().map(|_| kobune_kinds::selector::LabelSelector::from_labels(selector))
    };
    let labels = labels.filter(|labels| !labels.is_everything()).ok_or_else(|| anyhow!("{target} has no pods"))?;
    let all = list("").await?;
    let mut pods: Vec<Value> =
        all.into_iter().filter(|pod| labels.matches_labels(&pod["metadata"]["labels"])).collect();
    // The one that most likely has something to say: running, and the oldest of those.
    pods.sort_by_key(|pod| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (
            pod["status"]["phase"] != "Running",
            text(&pod["metadata"]["creationTimestamp"]),
            text(&pod["metadata"]["name"]),
        )
    });
    if !options.all_pods {
        if pods.len() > 1 {
            eprintln!(
                "Found {} pods, using pod/{}",
                pods.len(),
                pods[0]["metadata"]["name"].as_str().unwrap_or_default()
            );
        }
        pods.truncate(1);
    }
    Ok(pods)
}

/// The containers of a pod that are meant.
fn containers(options: &LogsOptions, pod: &Value) -> Result<Vec<Source>> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    let named = |list: &str| -> Vec<String> {
        let containers = pod["spec"][list].as_array().into_iter().flatten();
        containers.filter_map(|container| container["name"].as_str().map(str::to_owned)).collect()
    };
    let source = |container: String| Source { pod: name.clone(), container };
    if let Some(wanted) = options.container.as_ref().or(options.container_argument.as_ref()) {
        if !lists.iter().any(|list| named(list).contains(wanted)) {
            bail!("container {wanted} is not valid for pod {name}");
        }
        return Ok(vec![source(wanted.clone())]);
    }
    if options.all_containers {
        return Ok(lists.iter().flat_map(|list| named(list)).map(source).collect());
    }
    let all = named("containers");
    let annotation = pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
    let chosen = annotation.filter(|chosen| all.iter().any(|name| name == chosen)).or(all.first().map(String::as_str));
    let chosen = chosen.ok_or_else(|| anyhow!("pod {name} has no containers"))?.to_owned();
    if all.len() > 1 && annotation.is_none() {
        eprintln!("Defaulted container {chosen:?} out of: {}", all.join(", "));
    }
    Ok(vec![source(chosen)])
}

fn query(options: &LogsOptions) -> Result<String> {
    let mut query =
        format!("&follow={}&previous={}&timestamps={}", options.follow, options.previous, options.timestamps);
    let many = options.selector.is_some();
    match options.tail {
        Some(lines) if lines >= 0 => query.push_str(&format!("&tailLines={lines}")),
        None if many => query.push_str("&tailLines=10"),
        _ => {}
    }
    if let Some(since) = &options.since {
        query.push_str(&format!("&sinceSeconds={}", since_seconds(since)?));
    }
    if let Some(time) = &options.since_time {
        query.push_str(&format!("&sinceTime={}", request::query(time)));
    }
    if let Some(bytes) = options.limit_bytes {
        query.push_str(&format!("&limitBytes={bytes}"));
    }
    Ok(query)
}

/// Of `--since`: a part of a second counts as a whole one.
fn since_seconds(text: &str) -> Result<u64> {
    let since = duration::parse(text).filter(|since| !since.is_zero());
    let since = since.ok_or_else(|| anyhow!("--since {text}: this is no duration, such as 5s, 2m or 3h"))?;
    Ok(u64::try_from(since.as_millis().div_ceil(1_000))?)
}
