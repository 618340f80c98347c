//! `kobune delete`: deletes objects and waits until they are gone, as `kubectl delete` does (`k8s.io/kubectl/pkg/cmd/delete`).
//! Objects of manifests go in the order in which nothing loses what it needs, not in that of the files.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use http::Method;
use serde_json::{Value, json};

use super::chosen::{self, DryRunOptions, FileOptions};
use super::create::DryRun;
use super::outcome::{self, Failures};
use super::{PlaceOptions, from_server, selection};
use crate::apply::wait;
use crate::connect::Cluster;
use crate::discovery::{Discovery, Resource};
use crate::duration;
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

impl Cascade {
    /// The API's word.
    pub fn policy(self) -> &'static str {
        match self {
            Cascade::Background => "Background",
            Cascade::Foreground => "Foreground",
            Cascade::Orphan => "Orphan",
        }
    }
}

/// The flags of `delete`.
#[derive(Debug, Clone, Args)]
pub struct DeleteOptions {
    /// TYPE NAME..., TYPE/NAME..., or TYPE with -l or --all
    #[arg(value_name = "TYPE[/NAME] [NAME...]")]
    pub arguments: Vec<String>,
    /// Those of manifests.
    #[command(flatten)]
    pub files: FileOptions,
    /// Objects with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// Objects with these fields
    #[arg(long, value_name = "SELECTOR")]
    pub field_selector: Option<String>,
    /// All objects of the namespace
    #[arg(long)]
    pub all: bool,
    /// Objects of all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// What becomes of the objects that belong to them
    #[arg(long, value_enum, default_value = "background", num_args = 0..=1, default_missing_value = "background", require_equals = true)]
    pub cascade: Cascade,
    /// How many seconds pods have to end; 0 means 1 without --force
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, default_value_t = -1)]
    pub grace_period: i64,
    /// Give pods one second
    #[arg(long)]
    pub now: bool,
    /// Take pods out of the API at once, whether they have ended or not
    #[arg(long)]
    pub force: bool,
    /// Objects that are not there are no error [default: with --all, -l and --field-selector]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub ignore_not_found: Option<bool>,
    /// Ask before anything is deleted
    #[arg(short, long)]
    pub interactive: bool,
    /// Wait until the objects are gone
    #[arg(long, num_args = 0..=1, default_value_t = true, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    pub wait: bool,
    /// How long to wait, such as 5s, 2m or 3h; 0s for as long as it takes
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub timeout: String,
    /// Whether to do it.
    #[command(flatten)]
    pub dry_run: DryRunOptions,
    /// How to print: name
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<String>,
    /// Send DELETE to a path of the API, with a file as its body
    #[arg(long, value_name = "PATH")]
    pub raw: Option<String>,
    /// Where.
    #[command(flatten)]
    pub place: PlaceOptions,
}

/// Deletes objects.
pub async fn delete(options: DeleteOptions) -> Result<ExitCode> {
    outcome::told(run(options)).await
}

async fn run(options: DeleteOptions) -> Result<ExitCode> {
    let grace = grace(&options)?;
    check(&options)?;
    let limit = duration::parse(&options.timeout)
        .ok_or_else(|| anyhow!("invalid argument {:?} for \"--timeout\" flag: this is no duration", options.timeout))?;
    let cluster = options.place.connect.connect().await?;
    if let Some(path) = &options.raw {
        return raw(&options, &cluster, path).await;
    }
    let discovery = Discovery::ask(&cluster.client).await.map_err(from_server)?;
    let mut failures = Failures::default();
    let found = chosen(&options, &cluster, &discovery, &mut failures).await?;
    if found.is_empty() && failures.is_empty() {
        println!("No resources found");
        return Ok(ExitCode::SUCCESS);
    }
    if options.interactive && !confirmed(&found)? {
        println!("deletion is cancelled");
        return Ok(ExitCode::SUCCESS);
    }
    let body = body(&options, grace);
    let named = options.place.namespace.is_some() && !options.all_namespaces;
    let mut warns = named;
    let mut going = Vec::new();
    for one in found {
        if !one.resource.namespaced && std::mem::take(&mut warns) {
            outcome::warn(&["deleting cluster-scoped resources, not scoped to the provided namespace".to_owned()]);
        }
        if options.dry_run.is_here() {
            say(&options, grace, &one);
            continue;
        }
        let dry = options.dry_run.query().replace('&', "?");
        let path = one.resource.object_path(one.object.namespace.as_deref(), &one.object.name);
        match request::delete(&cluster.client, &format!("{path}{dry}"), &body).await {
            Ok(answer) => {
                outcome::warn(&answer.warnings);
                say(&options, grace, &one);
                let uid = answer.body["details"]["uid"].as_str().or(answer.body["metadata"]["uid"].as_str());
                going.push((one, uid.map(str::to_owned)));
            }
            Err(error) if ignores_missing(&options) && error.is(404) => {}
            Err(error) => match (&one.source, error.status()) {
                (Some(source), Some(status)) => {
                    failures.refused(with_source(source, status));
                }
                _ => failures.refused(error),
            },
        }
    }
    if options.wait && options.dry_run.at == DryRun::None && failures.is_empty() {
        until_gone(&cluster, &going, limit).await?;
    }
    Ok(failures.tell())
}

fn with_source(source: &str, status: &kube::core::Status) -> request::RequestError {
    let mut status = status.clone();
    status.message = format!("error when deleting {source:?}: {}", status.message);
    request::RequestError::Refused(Box::new(status))
}

fn ignores_missing(options: &DeleteOptions) -> bool {
    let selected = options.all || options.selector.is_some() || options.field_selector.is_some();
    options.ignore_not_found.unwrap_or(selected)
}

/// How many seconds pods get; nothing for what they say themselves.
fn grace(options: &DeleteOptions) -> Result<Option<i64>> {
    if options.now && options.grace_period != -1 {
        bail!("--now and --grace-period cannot be specified together");
    }
    let grace = match (options.grace_period, options.now, options.force) {
        (_, true, _) => 1,
        // Nobody loses data by mistake.
        (0, _, false) => 1,
        (seconds, _, true) if seconds < 0 => 0,
        (seconds, ..) => seconds,
    };
    if options.force {
        match grace {
            0 => outcome::warn(&["Immediate deletion does not wait for confirmation that the running resource has been terminated. The resource may continue to run on the cluster indefinitely.".to_owned()]),
            _ => bail!("--force and --grace-period greater than 0 cannot be specified together"),
        }
    }
    Ok((grace >= 0).then_some(grace))
}

fn check(options: &DeleteOptions) -> Result<()> {
    if let Some(output) = options.output.as_deref().filter(|output| *output != "name") {
        bail!("unexpected -o output mode: {output}. We only support '-o name'");
    }
    if options.all && (options.selector.is_some() || options.field_selector.is_some()) {
        // With a blank at the end, as kubectl writes it.
        return Err(outcome::Bare("error: setting 'all' parameter but found a non empty selector. ".to_owned()).into());
    }
    let Some(path) = &options.raw else { return Ok(()) };
    if options.interactive {
        bail!("--interactive can not be used with --raw");
    }
    if options.files.filename.len() > 1 {
        bail!("--raw can only use a single local file or stdin");
    }
    if options.files.recursive {
        bail!("--raw and --recursive are mutually exclusive");
    }
    if options.output.is_some() {
        bail!("--raw and --output are mutually exclusive");
    }
    if !path.starts_with('/') {
        bail!("--raw must be a valid URL path: parse {path:?}: invalid URI for request");
    }
    Ok(())
}

async fn raw(options: &DeleteOptions, cluster: &Cluster, path: &str) -> Result<ExitCode> {
    let body = match options.files.filename.first() {
        None => None,
        Some(file) if file.as_os_str() == "-" => {
            Some(std::io::read_to_string(std::io::stdin().lock()).context("read standard input")?.into_bytes())
        }
        Some(file) => Some(std::fs::read(file).with_context(|| format!("read {}", file.display()))?),
    };
    let content = body.map(|body| ("application/json", body));
    let (answer, _) = request::raw(&cluster.client, Method::DELETE, path, content, "*/*").await.map_err(from_server)?;
    outcome::write_bytes(&answer)?;
    Ok(ExitCode::SUCCESS)
}

/// One object that is to go.
#[derive(Debug)]
struct Doomed {
    resource: Resource,
    object: ObjectRef,
    /// The file that names it.
    source: Option<String>,
}

impl Doomed {
    fn label(&self) -> String {
        let group = if self.resource.group.is_empty() { String::new() } else { format!(".{}", self.resource.group) };
        format!("{}{group}", self.resource.kind.to_lowercase())
    }
}

fn say(options: &DeleteOptions, grace: Option<i64>, one: &Doomed) {
    if options.output.is_some() {
        println!("{}/{}", one.label(), one.object.name);
        return;
    }
    let place = one.object.namespace.as_ref().map(|name| format!(" from {name} namespace")).unwrap_or_default();
    let deleted = if grace == Some(0) { "force deleted" } else { "deleted" };
    println!("{} {:?} {deleted}{place}{}", one.label(), one.object.name, options.dry_run.suffix());
}

/// Asks whether these objects may go.
fn confirmed(found: &[Doomed]) -> Result<bool> {
    println!("You are about to delete the following {} resource(s):", found.len());
    for one in found {
        println!("{}/{}", one.label(), one.object.name);
    }
    print!("Do you want to continue? (y/N): ");
    std::io::stdout().flush().context("write to standard output")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("read standard input")?;
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}

async fn until_gone(cluster: &Cluster, going: &[(Doomed, Option<String>)], limit: Duration) -> Result<()> {
    let waits = going.iter().map(async |(one, uid)| {
        let api = wait::api(&cluster.client, &one.resource, one.object.namespace.as_deref());
        wait::gone(api, &one.object.name, uid.as_deref()).await;
    });
    let all = futures::future::join_all(waits);
    if limit.is_zero() {
        all.await;
        return Ok(());
    }
    match tokio::time::timeout(limit, all).await {
        Ok(_) => Ok(()),
        Err(_) => {
            let (first, _) = &going[0];
            bail!("timed out waiting for the condition on {}/{}", first.resource.name(), first.object.name)
        }
    }
}

fn body(options: &DeleteOptions, grace: Option<i64>) -> Value {
    let mut body = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": options.cascade.policy()});
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
    failures: &mut Failures,
) -> Result<Vec<Doomed>> {
    let namespace = options.place.namespace(cluster);
    let object = |resource: &Resource, namespace: Option<&str>, name: &str, source: Option<String>| Doomed {
        resource: resource.clone(),
        object: ObjectRef {
            api_version: resource.api_version(),
            kind: resource.kind.clone(),
            namespace: namespace.filter(|_| resource.namespaced).map(str::to_owned),
            name: name.to_owned(),
        },
        source,
    };
    let mut found = Vec::new();
    if !options.files.is_empty() {
        if !options.arguments.is_empty() {
            bail!("when paths, URLs, or stdin is provided as input, you may not specify resource arguments as well");
        }
        for manifest in options.files.read()? {
            match chosen::of_manifest(discovery, &options.place, &namespace, &manifest) {
                Ok((resource, own)) => {
                    let name = ObjectRef::of(&manifest.value).name;
                    found.push(object(&resource, own.as_deref(), &name, Some(chosen::source(&manifest))));
                }
                Err(error) => failures.add(error),
            }
        }
        // What others need goes last.
        found.sort_by_key(|one| std::cmp::Reverse(crate::order::phase(one.object.group(), &one.object.kind)));
        return Ok(found);
    }
    let selects = options.selector.is_some() || options.field_selector.is_some();
    if options.arguments.is_empty() {
        bail!(
            "You must provide one or more resources by argument or filename.\nExample resource specifications include:\n   '-f rsrc.yaml'\n   '--filename=rsrc.json'\n   '<resource> <name>'\n   '<resource>'"
        );
    }
    for selected in selection::select(discovery, &options.arguments)? {
        let resource = &selected.resource;
        if !selected.names.is_empty() {
            if selects || options.all {
                bail!("name cannot be provided when a selector is specified");
            }
            if options.all_namespaces {
                bail!("a resource cannot be retrieved by name across all namespaces");
            }
        }
        found.extend(selected.names.iter().map(|name| object(resource, Some(&namespace), name, None)));
        if !selected.names.is_empty() {
            continue;
        }
        if !selects && !options.all {
            bail!("resource(s) were provided, but no name was specified");
        }
        let path = format!(
            "{}?labelSelector={}&fieldSelector={}",
            resource.path((!options.all_namespaces).then_some(namespace.as_str())),
            request::query(options.selector.as_deref().unwrap_or_default()),
            request::query(options.field_selector.as_deref().unwrap_or_default())
        );
        match request::send(&cluster.client, Method::GET, &path, None, "application/json").await {
            Ok(list) => {
                let items = list.body["items"].as_array().into_iter().flatten();
                found.extend(items.map(|item| {
                    let item = ObjectRef::of(item);
                    object(resource, item.namespace.as_deref(), &item.name, None)
                }));
            }
            Err(error) => failures.refused(error),
        }
    }
    Ok(found)
}
