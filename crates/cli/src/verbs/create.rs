//! `kobune create`: objects from manifests, or from a few words, as `kubectl create` makes them.

mod access;
mod config;
mod token;
mod workloads;

use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use serde_json::{Value, json};

use super::chosen::{self, FileOptions};
use super::outcome::{self, Failures};
use super::print::{PrintOptions, Printer};
use super::{PlaceOptions, from_server};
use crate::connect::Cluster;
use crate::discovery::Discovery;
use crate::manifests::Manifest;
use crate::request;

/// Whether something is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum DryRun {
    /// It is.
    #[default]
    None,
    /// It is only printed.
    Client,
    /// The server does everything but keep it.
    Server,
}

/// What all sorts of `create` have in common.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Print what would be made; with =server as the server would make it
    #[arg(long, value_enum, value_name = "WHERE", default_value = "none")]
    pub dry_run: DryRun,
    /// How to print it.
    #[command(flatten)]
    pub print: PrintOptions,
    /// Keep the manifest in the annotation that client-side apply reads
    #[arg(long)]
    pub save_config: bool,
    /// Who is noted as the owner of the fields
    #[arg(long, value_name = "NAME", default_value = "kobune-create")]
    pub field_manager: String,
    /// What becomes of unknown fields: strict, warn, ignore
    #[arg(long, value_name = "HOW", default_value = "strict", value_parser = ["true", "strict", "warn", "false", "ignore"])]
    pub validate: String,
    /// Where.
    #[command(flatten)]
    pub place: PlaceOptions,
}

/// The flags of `create`.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct CreateOptions {
    /// What to make without a manifest.
    #[command(subcommand)]
    pub generator: Option<Generator>,
    /// The manifests of the objects.
    #[command(flatten)]
    pub files: FileOptions,
    /// What is done with them.
    #[command(flatten)]
    pub common: Common,
}

/// What can be made from a few words.
#[derive(Debug, Clone, Subcommand)]
pub enum Generator {
    /// Make a Namespace
    #[command(visible_alias = "ns")]
    Namespace(config::NamespaceOptions),
    /// Make a ConfigMap of files, folders and literal values
    #[command(name = "configmap", visible_alias = "cm")]
    ConfigMap(config::ConfigMapOptions),
    /// Make a Secret
    #[command(subcommand)]
    Secret(config::SecretCommand),
    /// Make a ServiceAccount
    #[command(name = "serviceaccount", visible_alias = "sa")]
    ServiceAccount(config::ServiceAccountOptions),
    /// Make a ResourceQuota
    #[command(visible_alias = "resourcequota")]
    Quota(config::QuotaOptions),
    /// Make a PriorityClass
    #[command(name = "priorityclass", visible_alias = "pc")]
    PriorityClass(config::PriorityClassOptions),
    /// Make a Deployment
    #[command(visible_alias = "deploy")]
    Deployment(workloads::DeploymentOptions),
    /// Make a Job, of an image or of a CronJob
    Job(workloads::JobOptions),
    /// Make a CronJob
    #[command(name = "cronjob", visible_alias = "cj")]
    CronJob(workloads::CronJobOptions),
    /// Make a Service
    #[command(subcommand, visible_alias = "svc")]
    Service(workloads::ServiceCommand),
    /// Make an Ingress
    #[command(visible_alias = "ing")]
    Ingress(workloads::IngressOptions),
    /// Make a PodDisruptionBudget
    #[command(name = "poddisruptionbudget", visible_alias = "pdb")]
    PodDisruptionBudget(workloads::BudgetOptions),
    /// Make a Role
    Role(access::RoleOptions),
    /// Make a ClusterRole
    #[command(name = "clusterrole")]
    ClusterRole(access::ClusterRoleOptions),
    /// Make a RoleBinding
    #[command(name = "rolebinding")]
    RoleBinding(access::RoleBindingOptions),
    /// Make a ClusterRoleBinding
    #[command(name = "clusterrolebinding")]
    ClusterRoleBinding(access::ClusterRoleBindingOptions),
    /// Ask for a token of a ServiceAccount
    Token(token::TokenOptions),
}

/// An object that is to be made.
struct Made {
    object: Value,
    /// Its resource: group, version, plural, and whether it lives in a namespace.
    resource: (&'static str, &'static str, &'static str, bool),
    /// The words before a refusal of the server; none where kubectl shows it as it comes.
    failure: Option<String>,
}

impl Made {
    /// An object of a resource; its API version and kind are written first of all.
    fn new(
        resource: (&'static str, &'static str, &'static str, bool),
        kind: &str,
        failure: Option<&str>,
        mut object: Value,
    ) -> Made {
        let version =
            if resource.0.is_empty() { resource.1.to_owned() } else { format!("{}/{}", resource.0, resource.1) };
        object["apiVersion"] = version.into();
        object["kind"] = kind.into();
        Made { object, resource, failure: failure.map(str::to_owned) }
    }
}

/// Makes objects.
pub async fn create(options: CreateOptions) -> Result<ExitCode> {
    outcome::told(async {
        match options.generator {
            None if options.files.is_empty() => Err(anyhow!("must specify one of -f and -k")),
            None => from_manifests(&options).await,
            Some(generator) => generated(generator).await,
        }
    })
    .await
}

async fn generated(generator: Generator) -> Result<ExitCode> {
    let (common, made) = match generator {
        Generator::Namespace(options) => options.make()?,
        Generator::ConfigMap(options) => options.make()?,
        Generator::Secret(command) => command.make()?,
        Generator::ServiceAccount(options) => options.make()?,
        Generator::Quota(options) => options.make()?,
        Generator::PriorityClass(options) => options.make()?,
        Generator::Deployment(options) => options.make()?,
        Generator::Job(options) => options.make().await?,
        Generator::CronJob(options) => options.make()?,
        Generator::Service(command) => command.make()?,
        Generator::Ingress(options) => options.make()?,
        Generator::PodDisruptionBudget(options) => options.make()?,
        Generator::Role(options) => options.make().await?,
        Generator::ClusterRole(options) => options.make().await?,
        Generator::RoleBinding(options) => options.make()?,
        Generator::ClusterRoleBinding(options) => options.make()?,
        Generator::Token(options) => return options.ask().await,
    };
    let printer = common.print.printer()?;
    let Made { mut object, resource: (group, version, plural, namespaced), failure } = made;
    if namespaced && let Some(namespace) = &common.place.namespace {
        object["metadata"]["namespace"] = namespace.clone().into();
    }
    if common.save_config {
        save_config(&mut object)?;
    }
    if common.dry_run != DryRun::Client {
        let cluster = common.place.connect.connect().await?;
        let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        let path = match namespaced {
            true => format!("{root}/namespaces/{}/{plural}", request::query(&common.place.namespace(&cluster))),
            false => format!("{root}/{plural}"),
        };
        object = send(&cluster, &path, &common, &object).await.map_err(|error| match (&failure, error.status()) {
            (Some(words), Some(status)) => anyhow!("{words} {}", status.message),
            _ => from_server(error),
        })?;
    }
    common.show(&printer, &object)?;
    Ok(ExitCode::SUCCESS)
}

/// Notes in the object what it was made from.
pub(super) fn save_config(object: &mut Value) -> Result<()> {
    let mut text = serde_json::to_string(object)?;
    text.push('\n');
    object["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] = text.into();
    Ok(())
}

/// Sends an object to be made.
pub(super) async fn send(
    cluster: &Cluster,
    path: &str,
    common: &Common,
    object: &Value,
) -> Result<Value, request::RequestError> {
    let validation = match common.validate.as_str() {
        "warn" => "Warn",
        "false" | "ignore" => "Ignore",
        _ => "Strict",
    };
    let dry = if common.dry_run == DryRun::Server { "&dryRun=All" } else { "" };
    let manager = request::query(&common.field_manager);
    let path = format!("{path}?fieldManager={manager}&fieldValidation={validation}{dry}");
    let answer = request::write(&cluster.client, Method::POST, &path, "application/json", object).await?;
    outcome::warn(&answer.warnings);
    Ok(answer.body)
}

impl Common {
    /// Prints an object that was made.
    pub(super) fn show(&self, printer: &Printer, object: &Value) -> Result<()> {
        printer.print(object, &format!("created{}", chosen::suffix(self.dry_run)))
    }
}

async fn from_manifests(options: &CreateOptions) -> Result<ExitCode> {
    let common = &options.common;
    let cluster = common.place.connect.connect().await?;
    let discovery = Discovery::ask(&cluster.client).await.map_err(from_server)?;
    let namespace = common.place.namespace(&cluster);
    let mut failures = Failures::default();
    let printer = common.print.printer()?;
    let manifests = options.files.read_whole()?;
    if manifests.is_empty() {
        bail!("no objects passed to create");
    }
    for manifest in manifests {
        let source = chosen::source(&manifest);
        match one(common, &cluster, &discovery, &namespace, manifest, &source).await {
            Ok(object) => common.show(&printer, &object)?,
            Err(error) => failures.add(error),
        }
    }
    Ok(failures.tell())
}

async fn one(
    common: &Common,
    cluster: &Cluster,
    discovery: &Discovery,
    namespace: &str,
    manifest: Manifest,
    source: &str,
) -> Result<Value> {
    let (resource, own) = chosen::of_manifest(discovery, &common.place, namespace, &manifest)?;
    let mut object = manifest.value;
    if let Some(own) = own {
        object["metadata"]["namespace"] = own.into();
    }
    if common.save_config {
        save_config(&mut object)?;
    }
    if common.dry_run == DryRun::Client {
        return Ok(object);
    }
    let path = resource.path(object["metadata"]["namespace"].as_str());
    send(cluster, &path, common, &object).await.map_err(|error| match error.status() {
        Some(status) => {
            let reason = if status.reason.is_empty() { String::new() } else { format!(" ({})", status.reason) };
            anyhow!("Error from server{reason}: error when creating {source:?}: {}", status.message)
        }
        None => anyhow::Error::new(error),
    })
}

/// Metadata with nothing but a name.
fn named(name: &str) -> Value {
    json!({"metadata": {"name": name}})
}
