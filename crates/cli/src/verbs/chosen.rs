//! The objects that a verb works on: named, selected, or those of manifests, as kubectl's resource builder finds them. One that
//! cannot be had keeps nobody from working on the others.

use std::path::PathBuf;

use anyhow::{Error, Result, anyhow, bail};
use clap::Args;
use http::Method;
use serde_json::Value;

use super::create::DryRun;
use super::{PlaceOptions, selection, words};
use crate::connect::Cluster;
use crate::discovery::{Discovery, Resource};
use crate::manifests;
use crate::object::ObjectRef;
use crate::request;

/// The flags that choose objects.
#[derive(Debug, Clone, Args)]
pub struct ChoiceOptions {
    /// What these manifests name
    #[arg(short, long, value_name = "FILE")]
    pub filename: Vec<PathBuf>,
    /// Take everything below a folder, not only what is in it
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Objects with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
}

/// What else chooses, where a verb has it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wide<'a> {
    /// All objects of the type; a type alone means them in some verbs.
    pub all: bool,
    /// Those of all namespaces.
    pub all_namespaces: bool,
    /// Only those with these fields.
    pub fields: Option<&'a str>,
}

/// One object.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// Its resource.
    pub resource: Resource,
    /// Its namespace; none for objects of the whole cluster.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// The object as it is now.
    pub object: Value,
}

impl Chosen {
    /// The object's path.
    pub fn path(&self) -> String {
        self.resource.object_path(self.namespace.as_deref(), &self.name)
    }

    /// The path of the folder that it is in, and the query that selects it alone.
    pub fn folder(&self) -> (String, String) {
        let query = format!("fieldSelector={}", request::query(&format!("metadata.name={}", self.name)));
        (self.resource.path(self.namespace.as_deref()), query)
    }

    /// `deployment.apps/web`.
    pub fn label(&self) -> String {
        format!("{}/{}", self.resource.singular_with_group(), self.name)
    }
}

/// The objects that are meant, and what is wrong with others.
pub async fn objects(
    cluster: &Cluster,
    place: &PlaceOptions,
    arguments: &[String],
    choice: &ChoiceOptions,
    wide: Wide<'_>,
) -> Result<(Vec<Chosen>, Vec<Error>)> {
    if arguments.is_empty() && choice.filename.is_empty() {
        bail!(
            "You must provide one or more resources by argument or filename.\nExample resource specifications include:\n   '-f rsrc.yaml'\n   '--filename=rsrc.json'\n   '<resource> <name>'\n   '<resource>'"
        );
    }
    let discovery = Discovery::ask(&cluster.client).await.map_err(words::refused)?;
    let namespace = place.namespace(cluster);
    let (mut chosen, mut errors) = (Vec::new(), Vec::new());
    let named = async |resource: &Resource, namespace: &str, name: &str| -> Result<Chosen> {
        let path = resource.object_path(Some(namespace), name);
        let answer = request::send(&cluster.client, Method::GET, &path, None, "application/json").await;
        Ok(found(resource, answer.map_err(words::refused)?.body))
    };
    if !choice.filename.is_empty() {
        for manifest in manifests::read(&choice.filename, choice.recursive)? {
            let object = ObjectRef::of(&manifest.value);
            let Some(resource) = discovery.of_object(&object) else {
                bail!("this cluster has no kind {} in {}", object.kind, object.api_version);
            };
            match named(resource, object.namespace.as_deref().unwrap_or(&namespace), &object.name).await {
                Ok(object) => chosen.push(object),
                Err(error) => errors.push(error),
            }
        }
        return Ok((chosen, errors));
    }
    for selected in selection::select(&discovery, arguments)? {
        let resource = &selected.resource;
        if !selected.names.is_empty() {
            if choice.selector.is_some() {
                bail!("name cannot be provided when a selector is specified");
            }
            if wide.all_namespaces {
                bail!("a resource cannot be retrieved by name across all namespaces");
            }
            for name in &selected.names {
                match named(resource, &namespace, name).await {
                    Ok(object) => chosen.push(object),
                    Err(error) => errors.push(error),
                }
            }
            continue;
        }
        if choice.selector.is_none() && wide.fields.is_none() && !wide.all {
            bail!("resource(s) were provided, but no name was specified");
        }
        let path = format!(
            "{}?labelSelector={}&fieldSelector={}",
            resource.path((!wide.all_namespaces).then_some(namespace.as_str())),
            request::query(choice.selector.as_deref().unwrap_or_default()),
            request::query(wide.fields.unwrap_or_default())
        );
        let list = request::send(&cluster.client, Method::GET, &path, None, "application/json").await;
        match list.map_err(words::refused) {
            Ok(list) => {
                let items = list.body["items"].as_array().cloned().unwrap_or_default();
                chosen.extend(items.into_iter().map(|item| found(resource, item)));
            }
            Err(error) => errors.push(error),
        }
    }
    Ok((chosen, errors))
}

fn found(resource: &Resource, mut object: Value) -> Chosen {
    // The items of a list do not say what they are.
    object["apiVersion"] = resource.api_version().into();
    object["kind"] = resource.kind.clone().into();
    let named = ObjectRef::of(&object);
    Chosen { resource: resource.clone(), namespace: named.namespace, name: named.name, object }
}

/// Applies a patch to one object; answers with the new one. `dry` leaves everything as it is.
pub async fn patch(
    cluster: &Cluster,
    chosen: &Chosen,
    media: &str,
    patch: &Value,
    manager: &str,
    dry: bool,
) -> Result<Value, request::RequestError> {
    let dry = if dry { "&dryRun=All" } else { "" };
    let path = format!("{}?fieldManager={manager}{dry}", chosen.path());
    request::write(&cluster.client, Method::PATCH, &path, media, patch).await.map(|answer| answer.body)
}

/// Whether the server only tries it. What only the server can work out cannot be tried without it.
pub fn only_server(dry_run: DryRun) -> Result<bool> {
    match dry_run {
        DryRun::None => Ok(false),
        DryRun::Server => Ok(true),
        DryRun::Client => bail!(
            "--dry-run=client is not possible here, as only the server knows what comes of it; there is --dry-run=server"
        ),
    }
}

/// What is said behind a line about something that was only tried.
pub fn suffix(dry_run: DryRun) -> &'static str {
    match dry_run {
        DryRun::None => "",
        DryRun::Client => " (dry run)",
        DryRun::Server => " (server dry run)",
    }
}

/// Fails where something failed, with all of it (kubectl's aggregated errors).
pub fn all_fine(errors: Vec<Error>) -> Result<()> {
    let mut lines = errors.into_iter();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(()),
        (Some(error), None) => Err(error),
        (Some(first), Some(second)) => {
            let lines = [first, second].into_iter().chain(lines).map(|error| format!("{error:#}"));
            Err(anyhow!(words::Failure { words: lines.collect::<Vec<_>>().join("\n"), code: 1 }))
        }
    }
}
