//! `kobune patch`: fields of objects by a patch (`k8s.io/kubectl/pkg/cmd/patch`).

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use http::Method;
use serde_json::Value;

use super::chosen::{self, ChangeOptions, Chosen, Wide};
use super::words::{self, ending};
use crate::connect::Cluster;
use crate::request;

/// How a patch is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PatchType {
    /// Operations (RFC 6902).
    Json,
    /// Fields over fields (RFC 7386).
    Merge,
    /// The same, with lists merged by their keys.
    Strategic,
}

impl PatchType {
    fn media(self) -> &'static str {
        match self {
            PatchType::Json => request::JSON_PATCH,
            PatchType::Merge => request::MERGE_PATCH,
            PatchType::Strategic => "application/strategic-merge-patch+json",
        }
    }
}

/// The flags of `patch`.
#[derive(Debug, Clone, Args)]
pub struct PatchOptions {
    /// TYPE NAME... or TYPE/NAME...
    #[arg(value_name = "TYPE[/NAME] [NAME...]")]
    pub arguments: Vec<String>,
    /// The patch, as JSON or YAML
    #[arg(short, long, value_name = "PATCH")]
    pub patch: Option<String>,
    /// The file of the patch
    #[arg(long, value_name = "FILE")]
    pub patch_file: Option<PathBuf>,
    /// How the patch is meant
    #[arg(long = "type", value_enum, default_value = "strategic")]
    pub kind: PatchType,
    /// Patch what stands below the object: status, scale or resize
    #[arg(long, value_name = "NAME")]
    pub subresource: Option<String>,
    /// What all verbs have that change objects.
    #[command(flatten)]
    pub change: ChangeOptions,
}

/// Patches.
pub async fn patch(options: PatchOptions) -> Result<ExitCode> {
    ending(run(&options).await.map(|()| ExitCode::SUCCESS))
}

async fn run(options: &PatchOptions) -> Result<()> {
    let text = match (&options.patch, &options.patch_file) {
        (Some(patch), None) if !patch.is_empty() => patch.clone(),
        (None, Some(file)) => {
            std::fs::read_to_string(file).with_context(|| format!("unable to read patch file: {}", file.display()))?
        }
        (Some(_), Some(_)) => bail!("cannot specify --patch and --patch-file together"),
        _ => bail!("must specify --patch or --patch-file containing the contents of the patch"),
    };
    chosen::only_server(options.change.dry_run.at)?;
    let printer = options.change.print.printer()?;
    let body: Value = serde_saphyr::from_str(&text).map_err(|error| anyhow!("unable to parse {text:?}: {error}"))?;
    let cluster = options.change.place.connect.connect().await?;
    let (found, mut errors) =
        chosen::objects(&cluster, &options.change.place, &options.arguments, &options.change.choice, Wide::default())
            .await?;
    if found.is_empty() && errors.is_empty() {
        bail!("no objects passed to patch");
    }
    for one in &found {
        match patch_one(options, &cluster, one, &body).await {
            // kubectl does not say here that it was only tried.
            Ok((before, after)) => printer.print(&after, done(&before, &after))?,
            Err(error) => errors.push(error),
        }
    }
    chosen::all_fine(errors)
}

async fn patch_one(options: &PatchOptions, cluster: &Cluster, one: &Chosen, body: &Value) -> Result<(Value, Value)> {
    let client = &cluster.client;
    let (path, before) = match &options.subresource {
        None => (one.path(), one.object.clone()),
        Some(name) => {
            let path = format!("{}/{}", one.path(), request::query(name));
            let before = request::send(client, Method::GET, &path, None, "application/json").await;
            (path, before.map_err(words::refused)?.body)
        }
    };
    let media = options.kind.media();
    let manager = request::query(&options.change.manager("patch"));
    let path = format!("{path}?fieldManager={manager}{}", options.change.dry_run.query());
    let after = match request::write(client, Method::PATCH, &path, media, body).await {
        Ok(answer) => answer.body,
        Err(error) if error.is(415) => {
            bail!("{media} is not supported by {}, Kind={}: {error}", one.resource.api_version(), one.resource.kind)
        }
        Err(error) => return Err(words::refused(error)),
    };
    Ok((before, after))
}

/// What is said of a patch.
fn done(before: &Value, after: &Value) -> &'static str {
    if before == after { "patched (no change)" } else { "patched" }
}
