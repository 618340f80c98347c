//! `kobune get`: objects in tables, as JSON, as YAML or by name, as `kubectl get` prints them.

mod watch;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::chosen::{self, FileOptions};
use super::outcome::{self, Failures};
use super::print::{Format, PrintOptions};
use super::tables::{self, Shape};
use super::{PlaceOptions, describe, formats, from_server, selection};
use crate::connect::Cluster;
use crate::discovery::{Discovery, Resource};
use crate::object::ObjectRef;
use crate::request;
use crate::table;

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// The flags of `get`.
#[derive(Debug, Clone, Args)]
pub struct GetOptions {
    /// TYPE [NAME...], TYPE/NAME..., or TYPE1,TYPE2
    #[arg(value_name = "TYPE[/NAME] [NAME...]")]
    pub arguments: Vec<String>,
    /// Objects of all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Only objects with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// Only objects with these fields
    #[arg(long, value_name = "SELECTOR")]
    pub field_selector: Option<String>,
    /// Others.
    #[command(flatten)]
    pub files: FileOptions,
    /// How to print; there are also wide, custom-columns=NAME:PATH,... and custom-columns-file=FILE.
    #[command(flatten)]
    pub print: PrintOptions,
    /// Sort by what this path finds, such as .metadata.creationTimestamp
    #[arg(long, value_name = "PATH")]
    pub sort_by: Option<String>,
    /// Leave the headings out
    #[arg(long)]
    pub no_headers: bool,
    /// Print all labels in a last column
    #[arg(long)]
    pub show_labels: bool,
    /// Print the kind before names
    #[arg(long)]
    pub show_kind: bool,
    /// Labels that get columns of their own
    #[arg(short = 'L', long, value_name = "LABEL", value_delimiter = ',')]
    pub label_columns: Vec<String>,
    /// An object that is not there is no error
    #[arg(long)]
    pub ignore_not_found: bool,
    /// Go on printing what changes
    #[arg(short, long)]
    pub watch: bool,
    /// Print what changes, and not first what is there
    #[arg(long)]
    pub watch_only: bool,
    /// Print what happened with each object that changes
    #[arg(long)]
    pub output_watch_events: bool,
    /// What stands below the objects: status, scale or resize
    #[arg(long, value_name = "NAME")]
    pub subresource: Option<String>,
    /// Print what a path of the API answers, as it comes
    #[arg(long, value_name = "PATH")]
    pub raw: Option<String>,
    /// How many objects are asked for at once; 0 for all
    #[arg(long, value_name = "COUNT", default_value_t = 500)]
    pub chunk_size: usize,
    /// Where.
    #[command(flatten)]
    pub place: PlaceOptions,
}

/// What is asked for: objects of one resource.
#[derive(Debug, Clone)]
struct Wanted {
    resource: Resource,
    /// The objects, each in its namespace; none for all.
    names: Vec<(Option<String>, String)>,
}

/// Prints objects.
pub async fn get(options: GetOptions) -> Result<ExitCode> {
    outcome::told(run(options)).await
}

async fn run(options: GetOptions) -> Result<ExitCode> {
    if options.raw.is_some() {
        return raw(&options).await;
    }
    let format = check(&options)?;
    if options.arguments.is_empty() && options.files.is_empty() && !options.watch && !options.watch_only {
        let words = "You must specify the type of resource to get. Use \"kobune api-resources\" for a complete list of supported resources.\n\nerror: Required resource not specified.\nUse \"kobune explain <resource>\" for a detailed description of that resource (e.g. kobune explain pods).\nSee 'kobune get -h' for help and examples";
        return Err(outcome::Bare(words.to_owned()).into());
    }
    let cluster = options.place.connect.connect().await?;
    let discovery = Discovery::ask(&cluster.client).await.map_err(from_server)?;
    let mut failures = Failures::default();
    let wanted = wanted(&options, &cluster, &discovery, &mut failures)?;
    if options.watch || options.watch_only {
        if wanted.len() != 1 {
            bail!("you may only specify a single resource type");
        }
        return watch::watch(&options, &cluster, &wanted[0], format, failures).await;
    }
    match format {
        None | Some(Format::Wide) => in_tables(&options, &cluster, &wanted, format.is_some(), failures).await,
        Some(format) => as_objects(&options, &cluster, &wanted, format, failures).await,
    }
}

/// Finds what does not go together, and how to print.
fn check(options: &GetOptions) -> Result<Option<Format>> {
    let output = options.print.output.as_deref().unwrap_or_default();
    if options.show_labels && !output.is_empty() && output != "wide" {
        bail!("--show-labels option cannot be used with {output} printer");
    }
    if !options.label_columns.is_empty() && output.starts_with("custom-columns") {
        bail!("--label-columns option cannot be used with {output} printer");
    }
    if options.output_watch_events && !options.watch && !options.watch_only {
        bail!("--output-watch-events option can only be used with --watch or --watch-only");
    }
    options.print.format_of_table()
}

async fn raw(options: &GetOptions) -> Result<ExitCode> {
    let Some(path) = &options.raw else { bail!("--raw needs a path") };
    if !options.arguments.is_empty() {
        bail!("arguments may not be passed when --raw is specified");
    }
    if options.watch || options.watch_only || options.selector.is_some() {
        bail!("--raw may not be specified with other flags that filter the server request or alter the output");
    }
    if options.print.output.is_some() {
        bail!("--raw and --output are mutually exclusive");
    }
    if !path.starts_with('/') && !path.contains("://") {
        bail!("--raw must be a valid URL path: parse {path:?}: invalid URI for request");
    }
    let cluster = options.place.connect.connect().await?;
    let (bytes, _) = request::raw(&cluster.client, Method::GET, path, None, "*/*").await.map_err(from_server)?;
    outcome::write_bytes(&bytes)?;
    Ok(ExitCode::SUCCESS)
}

fn wanted(
    options: &GetOptions,
    cluster: &Cluster,
    discovery: &Discovery,
    failures: &mut Failures,
) -> Result<Vec<Wanted>> {
    let namespace = options.place.namespace(cluster);
    let mut wanted: Vec<Wanted> = Vec::new();
    if options.files.is_empty() {
        for selected in selection::select(discovery, &options.arguments)? {
            let names = selected.names.into_iter().map(|name| (Some(namespace.clone()), name)).collect();
            wanted.push(Wanted { resource: selected.resource, names });
        }
        if options.all_namespaces && wanted.iter().any(|one| !one.names.is_empty()) {
            bail!("a resource cannot be retrieved by name across all namespaces");
        }
        return Ok(wanted);
    }
    for manifest in options.files.read()? {
        match chosen::of_manifest(discovery, &options.place, &namespace, &manifest) {
            Ok((resource, own)) => {
                let name = (own, ObjectRef::of(&manifest.value).name);
                match wanted.last_mut().filter(|last| last.resource == resource) {
                    Some(last) => last.names.push(name),
                    None => wanted.push(Wanted { resource, names: vec![name] }),
                }
            }
            Err(error) => failures.add(error),
        }
    }
    Ok(wanted)
}

fn folder(options: &GetOptions, cluster: &Cluster, resource: &Resource) -> String {
    let namespace = options.place.namespace(cluster);
    resource.path((!options.all_namespaces).then_some(namespace.as_str()))
}

fn selectors(options: &GetOptions) -> String {
    // To sort by a field of an object its row must hold all of it.
    let whole = options.sort_by.as_ref().map(|_| "&includeObject=Object".to_owned());
    let labels = options.selector.as_ref().map(|text| format!("&labelSelector={}", request::query(text)));
    let fields = options.field_selector.as_ref().map(|text| format!("&fieldSelector={}", request::query(text)));
    [labels, fields, whole].into_iter().flatten().collect()
}

/// The answers about a resource: one an object that was named, one a page of a list.
async fn answers(
    options: &GetOptions,
    cluster: &Cluster,
    wanted: &Wanted,
    accept: &str,
    failures: &mut Failures,
) -> Vec<Value> {
    let mut found = Vec::new();
    if !wanted.names.is_empty() {
        for (namespace, name) in &wanted.names {
            let mut path = wanted.resource.object_path(namespace.as_deref(), name);
            if let Some(below) = &options.subresource {
                path = format!("{path}/{}", request::query(below));
            }
            if options.sort_by.is_some() {
                path.push_str("?includeObject=Object");
            }
            match request::send(&cluster.client, Method::GET, &path, None, accept).await {
                Ok(answer) => {
                    outcome::warn(&answer.warnings);
                    found.push(answer.body);
                }
                Err(error) if options.ignore_not_found && error.is(404) => {}
                Err(error) => failures.refused(error),
            }
        }
        return found;
    }
    if options.subresource.is_some() {
        failures.add("subresource cannot be used when bulk resources are specified");
        return found;
    }
    let folder = folder(options, cluster, &wanted.resource);
    let limit = if options.chunk_size == 0 { String::new() } else { format!("&limit={}", options.chunk_size) };
    let mut token = String::new();
    loop {
        let path = format!("{folder}?continue={}{limit}{}", request::query(&token), selectors(options));
        match request::send(&cluster.client, Method::GET, &path, None, accept).await {
            Ok(answer) => {
                outcome::warn(&answer.warnings);
                token = answer.body["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
                found.push(answer.body);
            }
            Err(error) => {
                failures.refused(error);
                return found;
            }
        }
        if token.is_empty() {
            return found;
        }
    }
}

/// The pages of a table as one, in order.
fn sorted(pages: Vec<Value>, path: &str) -> Result<Vec<Value>> {
    let mut rows = Vec::new();
    let mut whole = None;
    for mut page in pages {
        rows.extend(page["rows"].as_array_mut().map(std::mem::take).unwrap_or_default());
        whole.get_or_insert(page);
    }
    formats::sort(&mut rows, path, |row| &row["object"])?;
    Ok(whole
        .into_iter()
        .map(|mut table| {
            table["rows"] = std::mem::take(&mut rows).into();
            table
        })
        .collect())
}

async fn in_tables(
    options: &GetOptions,
    cluster: &Cluster,
    wanted: &[Wanted],
    wide: bool,
    mut failures: Failures,
) -> Result<ExitCode> {
    let mut printed = false;
    // After a kind that lives in namespaces, kubectl keeps the column for those that do not.
    let mut namespaces = false;
    for one in wanted {
        namespaces |= options.all_namespaces && one.resource.namespaced;
        let mut found = answers(options, cluster, one, TABLE, &mut failures).await;
        let kind = options.show_kind || wanted.len() > 1;
        let shape = shape(options, &one.resource, wide, namespaces, kind);
        if let Some(path) = &options.sort_by {
            found = sorted(found, path)?;
        }
        for answer in found.iter_mut().filter(|answer| answer["kind"] != "Table") {
            *answer = plain_table(answer);
        }
        let mut rows: Vec<Vec<String>> = found.iter().flat_map(|table| tables::rows(table, &shape)).collect();
        if rows.is_empty() {
            continue;
        }
        if let Some(first) = found.first().filter(|_| !options.no_headers) {
            rows.insert(0, tables::headings(first, &shape));
        }
        let separator = if printed && !options.no_headers { "\n" } else { "" };
        outcome::write(&format!("{separator}{}", table::aligned(&rows)))?;
        printed = true;
    }
    if !printed && failures.is_empty() && !options.ignore_not_found {
        let namespaced = wanted.iter().any(|one| one.resource.namespaced) && !options.all_namespaces;
        match namespaced {
            true => eprintln!("No resources found in {} namespace.", options.place.namespace(cluster)),
            false => eprintln!("No resources found"),
        }
    }
    Ok(failures.tell())
}

/// The table of an object for which the server makes none.
fn plain_table(object: &Value) -> Value {
    let age = describe::since(&object["metadata"]["creationTimestamp"], jiff::Timestamp::now());
    json!({"columnDefinitions": [{"name": "Name", "format": "name"}, {"name": "Age"}],
        "rows": [{"cells": [object["metadata"]["name"], age], "object": object}]})
}

fn shape(options: &GetOptions, resource: &Resource, wide: bool, namespaces: bool, kind: bool) -> Shape {
    Shape {
        wide,
        namespaces,
        kind: kind.then(|| resource.group_kind().to_lowercase()),
        label_columns: options.label_columns.clone(),
        labels: options.show_labels,
    }
}

/// The objects of answers, which say what they are.
fn objects(answers: Vec<Value>, wanted: &Wanted) -> Vec<Value> {
    if !wanted.names.is_empty() {
        return answers;
    }
    let items = answers.into_iter().flat_map(|mut answer| {
        answer.get_mut("items").and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default()
    });
    let named = |mut item: Value| {
        // The items of a list do not say what they are.
        item["apiVersion"] = wanted.resource.api_version().into();
        item["kind"] = wanted.resource.kind.clone().into();
        item
    };
    items.map(named).collect()
}

async fn as_objects(
    options: &GetOptions,
    cluster: &Cluster,
    wanted: &[Wanted],
    format: Format,
    mut failures: Failures,
) -> Result<ExitCode> {
    let mut found = Vec::new();
    for one in wanted {
        let answers = answers(options, cluster, one, "application/json", &mut failures).await;
        found.extend(objects(answers, one));
    }
    if let Some(path) = &options.sort_by {
        formats::sort(&mut found, path, |object| object)?;
    }
    let printer = match format {
        Format::Columns(columns) => {
            let mut rows: Vec<Vec<String>> = (!options.no_headers).then(|| columns.headings()).into_iter().collect();
            for object in &found {
                rows.push(columns.row(object)?);
            }
            outcome::write(&table::aligned(&rows))?;
            return Ok(failures.tell());
        }
        format => options.print.printer_of(format),
    };
    let by_name = matches!(printer.format(), Some(Format::Name));
    // One object that was asked for by its name is printed as it is.
    let single = wanted.len() == 1 && wanted[0].names.len() == 1;
    let printed = match (by_name, single) {
        (true, _) => found.iter().try_for_each(|object| printer.print(object, "")),
        (false, true) => found.iter().try_for_each(|object| printer.print(object, "")),
        (false, false) => {
            let list = json!({"apiVersion": "v1", "items": found, "kind": "List", "metadata": {"resourceVersion": ""}});
            printer.print(&list, "")
        }
    };
    if let Err(error) = printed {
        failures.add(error);
    }
    Ok(failures.tell())
}
