//! `kobune explain`: what a kind's fields are, out of the server's OpenAPI v3 documents, in the form of `kubectl explain`
//! (`k8s.io/kubectl/pkg/explain/v2`).

mod render;
mod wrap;

use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use http::Method;
use serde_json::Value;

use super::{from_server, outcome};
use crate::connect::{Cluster, ConnectOptions};
use crate::discovery::{Discovery, Resource};
use crate::request;

/// The flags of `explain`.
#[derive(Debug, Clone, Args)]
pub struct ExplainOptions {
    /// TYPE, or a field of it: TYPE.FIELD.FIELD
    #[arg(value_name = "TYPE[.FIELD]")]
    pub arguments: Vec<String>,
    /// Print the fields of fields, too, without their descriptions
    #[arg(long, num_args = 0..=1, default_value_t = false, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    pub recursive: bool,
    /// In this version of the API, such as apps/v1
    #[arg(long, value_name = "GROUP/VERSION")]
    pub api_version: Option<String>,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "plaintext", value_parser = ["plaintext"])]
    pub output: String,
    /// Which cluster.
    #[command(flatten)]
    pub connect: ConnectOptions,
}

/// Explains a kind or one of its fields.
pub async fn explain(options: ExplainOptions) -> Result<ExitCode> {
    outcome::told(run(options)).await
}

async fn run(options: ExplainOptions) -> Result<ExitCode> {
    let asked = match options.arguments.as_slice() {
        [] => bail!(
            "You must specify the type of resource to explain. Use \"kobune api-resources\" for a complete list of supported resources."
        ),
        [asked] => asked.trim_end_matches('.'),
        _ => bail!("We accept only this format: explain RESOURCE"),
    };
    let cluster = options.connect.connect().await?;
    let discovery = Discovery::ask(&cluster.client).await.map_err(from_server)?;
    let (resource, path) = split(&discovery, asked, options.api_version.is_none())?;
    let (mut group, mut version) = (resource.group.clone(), resource.version.clone());
    if let Some(wanted) = &options.api_version {
        let (wanted_group, wanted_version) = wanted.rsplit_once('/').unwrap_or(("", wanted));
        (group, version) = (wanted_group.to_owned(), wanted_version.to_owned());
    }
    let document = document(&cluster, &group, &version)
        .await?
        .ok_or_else(|| anyhow!("couldn't find resource for \"{group}/{version}, Resource={}\"", resource.plural))?;
    let kind = kind_of(&document, &group, &version, &resource.plural).ok_or_else(|| {
        anyhow!("error: GVR ({group}/{version}, Resource={}) not found in OpenAPI schema", resource.plural)
    })?;
    let page = render::page(&document, &kind, &path, options.recursive).inspect_err(|lost| {
        // Whether it can be printed makes no difference to what is said next.
        drop(outcome::write(&lost.head));
    })?;
    outcome::write(&page)?;
    Ok(ExitCode::SUCCESS)
}

/// The resource that is asked for and the path within it. A group may stand behind the resource
/// (`deployments.apps.spec`), unless a version was given.
fn split(discovery: &Discovery, asked: &str, with_group: bool) -> Result<(Resource, Vec<String>)> {
    let mut parts = asked.split('.').map(str::to_owned);
    let name = parts.next().unwrap_or_default();
    let rest: Vec<String> = parts.collect();
    if with_group {
        let same = discovery.resources().iter().filter(|it| it.plural == name.to_lowercase());
        for resource in same {
            let full = resource.name();
            if let Some(fields) = asked.strip_prefix(&full)
                && (fields.is_empty() || fields.starts_with('.'))
            {
                let fields = fields.split('.').skip(1).map(str::to_owned).collect();
                return Ok((resource.clone(), fields));
            }
        }
    }
    match discovery.by_name(&name) {
        Some(resource) => Ok((resource.clone(), rest)),
        None => Err(outcome::Bare(format!("the server doesn't have a resource type {name:?}")).into()),
    }
}

/// The OpenAPI document of a version, if it is served.
async fn document(cluster: &Cluster, group: &str, version: &str) -> Result<Option<Value>> {
    let ask = async |path: &str| {
        request::send(&cluster.client, Method::GET, path, None, "application/json").await.map_err(from_server)
    };
    let index = ask("/openapi/v3").await.context("failed to fetch list of groupVersions")?;
    let name = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
    match index.body["paths"][&name]["serverRelativeURL"].as_str() {
        Some(path) => Ok(Some(ask(path).await?.body)),
        None => Ok(None),
    }
}

/// The kind of a resource, as the document's paths say it.
fn kind_of(document: &Value, group: &str, version: &str, plural: &str) -> Option<Value> {
    let root = if group.is_empty() { format!("/api/{version}/") } else { format!("/apis/{group}/{version}/") };
    let paths = [
        format!("{root}{plural}"),
        format!("{root}namespaces/{{namespace}}/{plural}"),
        format!("{root}{plural}/{{name}}"),
        format!("{root}namespaces/{{namespace}}/{plural}/{{name}}"),
    ];
    let operations = paths.iter().filter_map(|path| document["paths"][path].as_object());
    operations
        .flat_map(|path| ["get", "post", "put", "patch", "delete"].into_iter().filter_map(|verb| path.get(verb)))
        .map(|operation| &operation["x-kubernetes-group-version-kind"])
        .find(|kind| kind.is_object())
        .cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn discovery() -> Discovery {
        let resource = |group: &str, kind: &str, plural: &str| Resource {
            group: group.to_owned(),
            version: "v1".to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
            singular: kind.to_lowercase(),
            short_names: Vec::new(),
            categories: Vec::new(),
            namespaced: true,
            verbs: Vec::new(),
            subresources: Vec::new(),
        };
        Discovery::of(vec![
            resource("", "Pod", "pods"),
            resource("", "Event", "events"),
            resource("events.k8s.io", "Event", "events"),
        ])
    }

    #[test]
    fn what_is_asked_for() {
        let check = |asked: &str, with_group: bool, expected: Option<(&str, &[&str])>| {
            let got = split(&discovery(), asked, with_group).ok().map(|(resource, path)| (resource.name(), path));
            let own = |path: &[&str]| path.iter().map(|&step| step.to_owned()).collect::<Vec<_>>();
            assert_eq!(got, expected.map(|(name, path)| (name.to_owned(), own(path))), "{asked}");
        };
        check("pods", true, Some(("pods", &[])));
        check("pod.spec.containers", true, Some(("pods", &["spec", "containers"])));
        check("events.events.k8s.io.note", true, Some(("events", &["events", "k8s", "io", "note"])));
        check("events.note", true, Some(("events", &["note"])));
        check("boats", true, None);
    }
}
