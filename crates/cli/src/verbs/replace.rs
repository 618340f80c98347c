//! `kobune replace`: objects as manifests have them, whole (`k8s.io/kubectl/pkg/cmd/replace`).

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::chosen::{self, DryRunOptions, FileOptions};
use super::create::DryRun;
use super::outcome::{self, Failures};
use super::print::{PrintOptions, Printer};
use super::{PlaceOptions, from_server};
use crate::apply::wait;
use crate::connect::Cluster;
use crate::discovery::{Discovery, Resource};
use crate::duration;
use crate::manifests::Manifest;
use crate::object::ObjectRef;
use crate::request::{self, RequestError};

/// The flags of `replace`.
#[derive(Debug, Clone, Args)]
pub struct ReplaceOptions {
    /// The manifests.
    #[command(flatten)]
    pub files: FileOptions,
    /// Delete the objects first and make them anew
    #[arg(long)]
    pub force: bool,
    /// With --force, what becomes of the objects that belong to them
    #[arg(long, value_enum, default_value = "background")]
    pub cascade: super::delete::Cascade,
    /// With --force, how many seconds pods have to end
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, default_value_t = -1)]
    pub grace_period: i64,
    /// With --force, how long to wait until they are gone, such as 5s, 2m or 3h [default: 5m]
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub timeout: String,
    /// Replace what stands below the objects: status or scale
    #[arg(long, value_name = "NAME")]
    pub subresource: Option<String>,
    /// Keep the manifest in the annotation that client-side apply reads
    #[arg(long)]
    pub save_config: bool,
    /// Who is noted as the owner of the fields
    #[arg(long, value_name = "NAME", default_value = "kobune-replace")]
    pub field_manager: String,
    /// What becomes of unknown fields: strict, warn, ignore
    #[arg(long, value_name = "HOW", default_value = "strict", num_args = 0..=1, default_missing_value = "strict", require_equals = true, value_parser = ["true", "strict", "warn", "false", "ignore"])]
    pub validate: String,
    /// Send the manifest to a path of the API
    #[arg(long, value_name = "PATH")]
    pub raw: Option<String>,
    /// Whether to do it.
    #[command(flatten)]
    pub dry_run: DryRunOptions,
    /// How to print them.
    #[command(flatten)]
    pub print: PrintOptions,
    /// Where.
    #[command(flatten)]
    pub place: PlaceOptions,
}

/// Replaces objects.
pub async fn replace(options: ReplaceOptions) -> Result<ExitCode> {
    outcome::told(run(&options)).await
}

async fn run(options: &ReplaceOptions) -> Result<ExitCode> {
    let limit = check(options)?;
    let printer = options.print.printer()?;
    let cluster = options.place.connect.connect().await?;
    if let Some(path) = &options.raw {
        let file = options.files.filename.first().context("--raw can only use a single local file or stdin")?;
        let bytes = match file.as_os_str() == "-" {
            true => std::io::read_to_string(std::io::stdin().lock()).context("read standard input")?.into_bytes(),
            false => std::fs::read(file).with_context(|| format!("read {}", file.display()))?,
        };
        let content = Some(("application/json", bytes));
        let (answer, _) =
            request::raw(&cluster.client, Method::PUT, path, content, "*/*").await.map_err(from_server)?;
        outcome::write_bytes(&answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    let discovery = Discovery::ask(&cluster.client).await.map_err(from_server)?;
    let namespace = options.place.namespace(&cluster);
    let mut failures = Failures::default();
    let mut wanted = Vec::new();
    for manifest in options.files.read_whole()? {
        match chosen::of_manifest(&discovery, &options.place, &namespace, &manifest) {
            Ok((resource, own)) => wanted.push(Wanted::new(manifest, resource, own)),
            Err(error) => failures.add(error),
        }
    }
    if wanted.is_empty() && failures.is_empty() {
        bail!("no objects passed to replace");
    }
    if options.force {
        delete_all(options, &cluster, &wanted, limit, &printer).await?;
    }
    for one in wanted {
        match one.send(options, &cluster).await {
            Ok(object) => printer.print(&object, &format!("replaced{}", options.dry_run.suffix()))?,
            Err(error) => failures.add(error),
        }
    }
    Ok(failures.tell())
}

fn check(options: &ReplaceOptions) -> Result<Duration> {
    if options.files.is_empty() {
        bail!("must specify one of -f and -k");
    }
    if options.grace_period >= 0 && !options.force {
        bail!("--grace-period must have --force specified");
    }
    let limit = duration::parse(&options.timeout)
        .ok_or_else(|| anyhow!("invalid argument {:?} for \"--timeout\" flag: this is no duration", options.timeout))?;
    if !limit.is_zero() && !options.force {
        bail!("--timeout must have --force specified");
    }
    if options.force && options.dry_run.at != DryRun::None {
        bail!("--dry-run can not be used when --force is set");
    }
    if options.raw.is_some() && options.files.filename.len() != 1 {
        bail!("--raw can only use a single local file or stdin");
    }
    Ok(if limit.is_zero() { Duration::from_secs(300) } else { limit })
}

/// An object as a manifest has it.
struct Wanted {
    object: Value,
    resource: Resource,
    namespace: Option<String>,
    name: String,
    source: String,
}

impl Wanted {
    fn new(manifest: Manifest, resource: Resource, namespace: Option<String>) -> Wanted {
        let source = chosen::source(&manifest);
        let mut object = manifest.value;
        if let Some(namespace) = &namespace {
            object["metadata"]["namespace"] = namespace.as_str().into();
        }
        let name = ObjectRef::of(&object).name;
        Wanted { object, resource, namespace, name, source }
    }

    fn path(&self) -> String {
        self.resource.object_path(self.namespace.as_deref(), &self.name)
    }

    fn failure(&self, error: RequestError) -> anyhow::Error {
        let Some(status) = error.status() else { return anyhow::Error::new(error) };
        let mut status = status.clone();
        status.message = format!("error when replacing {:?}: {}", self.source, status.message);
        from_server(RequestError::Refused(Box::new(status)))
    }

    async fn send(mut self, options: &ReplaceOptions, cluster: &Cluster) -> Result<Value> {
        if options.save_config {
            super::create::save_config(&mut self.object)?;
        }
        if options.dry_run.is_here() {
            return Ok(self.object);
        }
        let validation = match options.validate.as_str() {
            "warn" => "Warn",
            "false" | "ignore" => "Ignore",
            _ => "Strict",
        };
        let query = format!(
            "?fieldManager={}&fieldValidation={validation}{}",
            request::query(&options.field_manager),
            options.dry_run.query()
        );
        let client = &cluster.client;
        let below = options.subresource.as_ref().map(|name| format!("/{}", request::query(name))).unwrap_or_default();
        let (method, path) = match options.force {
            true => (Method::POST, self.resource.path(self.namespace.as_deref())),
            false => (Method::PUT, format!("{}{below}", self.path())),
        };
        let without_version = self.object["metadata"]["resourceVersion"].as_str().is_none_or(str::is_empty);
        if options.force {
            self.object["metadata"].as_object_mut().map(|metadata| metadata.remove("resourceVersion"));
        } else if without_version {
            // Whatever is there is replaced; what is not there is not made.
            let live = request::send(client, Method::GET, &path, None, "application/json").await;
            let live = live.map_err(|error| self.failure(error))?.body;
            self.object["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
        }
        let answer = request::write(client, method, &format!("{path}{query}"), "application/json", &self.object).await;
        let answer = answer.map_err(|error| self.failure(error))?;
        outcome::warn(&answer.warnings);
        Ok(answer.body)
    }
}

async fn delete_all(
    options: &ReplaceOptions,
    cluster: &Cluster,
    wanted: &[Wanted],
    limit: Duration,
    printer: &Printer,
) -> Result<()> {
    let grace = match options.grace_period {
        seconds if seconds < 0 => 0,
        // Nobody loses data by mistake.
        0 => 1,
        seconds => seconds,
    };
    if grace == 0 {
        outcome::warn(&["Immediate deletion does not wait for confirmation that the running resource has been terminated. The resource may continue to run on the cluster indefinitely.".to_owned()]);
    } else if options.grace_period > 0 {
        bail!("--force and --grace-period greater than 0 cannot be specified together");
    }
    let body = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": grace,
        "propagationPolicy": options.cascade.policy()});
    let mut going = Vec::new();
    for one in wanted {
        match request::delete(&cluster.client, &one.path(), &body).await {
            Ok(answer) => {
                if printer.says() {
                    let place =
                        one.namespace.as_ref().map(|name| format!(" from {name} namespace")).unwrap_or_default();
                    let deleted = if grace == 0 { "force deleted" } else { "deleted" };
                    println!("{} {:?} {deleted}{place}", one.resource.singular_with_group(), one.name);
                }
                let uid = answer.body["details"]["uid"].as_str().or(answer.body["metadata"]["uid"].as_str());
                going.push((one, uid.map(str::to_owned)));
            }
            Err(error) if error.is(404) => {}
            Err(error) => return Err(from_server(error)),
        }
    }
    let gone = going.iter().map(async |(one, uid)| {
        let api = wait::api(&cluster.client, &one.resource, one.namespace.as_deref());
        wait::gone(api, &one.name, uid.as_deref()).await;
    });
    let all = futures::future::join_all(gone);
    tokio::time::timeout(limit, all).await.map_err(|_| anyhow!("timed out waiting for the condition"))?;
    Ok(())
}
