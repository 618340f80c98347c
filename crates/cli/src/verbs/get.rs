//! `kobune get`: objects in tables, as JSON, as YAML or by name, as `kubectl get` prints them.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use futures::{AsyncBufReadExt as _, TryStreamExt as _};
use http::Method;
use serde_json::{Value, json};

use super::formats;
use super::outcome;
use super::selection::{self, Selected};
use super::tables::{self, Shape};
use super::{PlaceOptions, from_server, yaml};
use crate::connect::Cluster;
use crate::discovery::{Discovery, Resource};
use crate::jsonpath::Template;
use crate::request::{self, RequestError};
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
    /// How to print: json, yaml, name, wide, jsonpath=TEMPLATE, jsonpath-file=FILE, custom-columns=NAME:PATH,..., or
    /// custom-columns-file=FILE
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Format>,
    /// Sort by what this path finds, such as .metadata.creationTimestamp
    #[arg(long, value_name = "PATH", conflicts_with = "watch")]
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
    /// Print managed fields in JSON and YAML
    #[arg(long)]
    pub show_managed_fields: bool,
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
    #[arg(long, conflicts_with = "sort_by")]
    pub watch_only: bool,
    /// Print what a path of the API answers, as it comes
    #[arg(long, value_name = "PATH", conflicts_with = "arguments")]
    pub raw: Option<String>,
    /// How many objects are asked for at once; 0 for all
    #[arg(long, value_name = "COUNT", default_value_t = 500)]
    pub chunk_size: usize,
    /// Where.
    #[command(flatten)]
    pub place: PlaceOptions,
}

/// How objects are printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// With all columns.
    Wide,
    /// As JSON.
    Json,
    /// As YAML.
    Yaml,
    /// By name.
    Name,
    /// What a template makes of them.
    JsonPath(String),
    /// In columns that somebody chose.
    CustomColumns(String),
    /// In columns that a file says.
    CustomColumnsFile(String),
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Format, String> {
        let (name, argument) = text.split_once('=').unwrap_or((text, ""));
        let read = || std::fs::read_to_string(argument).map_err(|error| format!("{argument}: {error}"));
        let given = |format: fn(String) -> Format| match argument {
            "" => Err(format!("{name} needs something after it: {name}=...")),
            argument => Ok(format(argument.to_owned())),
        };
        match name {
            "wide" => Ok(Format::Wide),
            "json" => Ok(Format::Json),
            "yaml" => Ok(Format::Yaml),
            "name" => Ok(Format::Name),
            "jsonpath" => given(Format::JsonPath),
            "jsonpath-file" => Ok(Format::JsonPath(read()?)),
            "custom-columns" => given(Format::CustomColumns),
            "custom-columns-file" => Ok(Format::CustomColumnsFile(read()?)),
            _ => Err("there are json, yaml, name, wide, jsonpath=..., jsonpath-file=..., custom-columns=... and \
                      custom-columns-file=..."
                .to_owned()),
        }
    }
}

/// Prints objects.
pub async fn get(options: GetOptions) -> Result<ExitCode> {
    outcome::told(run(options)).await
}

async fn run(options: GetOptions) -> Result<ExitCode> {
    let cluster = options.place.connect.connect().await?;
    if let Some(path) = &options.raw {
        let (bytes, _) = request::raw(&cluster.client, Method::GET, path, None, "*/*").await.map_err(from_server)?;
        write(&bytes)?;
        return Ok(ExitCode::SUCCESS);
    }
    let discovery = Discovery::ask(&cluster.client).await.map_err(from_server)?;
    let selected = selection::select(&discovery, &options.arguments)?;
    if (options.watch || options.watch_only) && selected.len() != 1 {
        bail!("you may only specify a single resource type");
    }
    if options.all_namespaces && selected.iter().any(|it| !it.names.is_empty()) {
        bail!("a resource cannot be retrieved by name across all namespaces");
    }
    match &options.output {
        None | Some(Format::Wide) => in_tables(&options, &cluster, &selected).await,
        Some(format) => as_objects(&options, &cluster, &selected, format).await,
    }
}

fn write(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        // Whoever reads has read enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("write to standard output"),
    }
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
    selected: &Selected,
    accept: &str,
) -> (Vec<Value>, Vec<RequestError>) {
    let folder = folder(options, cluster, &selected.resource);
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    if !selected.names.is_empty() {
        for name in &selected.names {
            let path = format!("{folder}/{}", request::query(name));
            match request::send(&cluster.client, Method::GET, &path, None, accept).await {
                Ok(answer) => {
                    outcome::warn(&answer.warnings);
                    found.push(answer.body);
                }
                Err(error) if options.ignore_not_found && error.is(404) => {}
                Err(error) => errors.push(error),
            }
        }
        return (found, errors);
    }
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
                errors.push(error);
                return (found, errors);
            }
        }
        if token.is_empty() {
            return (found, errors);
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

/// Says what failed, as kubectl does: the exit code is 1 then, whatever else was printed.
fn failed(errors: Vec<RequestError>) -> ExitCode {
    let code = if errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    for error in errors {
        eprintln!("{}", from_server(error));
    }
    code
}

async fn in_tables(options: &GetOptions, cluster: &Cluster, selected: &[Selected]) -> Result<ExitCode> {
    let mut printed = false;
    let mut errors = Vec::new();
    let mut watched = None;
    // After a kind that lives in namespaces, kubectl keeps the column for those that do not.
    let mut namespaces = false;
    for one in selected {
        namespaces |= options.all_namespaces && one.resource.namespaced;
        let (mut found, failures) = answers(options, cluster, one, TABLE).await;
        errors.extend(failures);
        let kind = options.show_kind || selected.len() > 1;
        let shape = Shape {
            wide: options.output == Some(Format::Wide),
            namespaces,
            kind: kind.then(|| one.resource.group_kind().to_lowercase()),
            label_columns: options.label_columns.clone(),
            labels: options.show_labels,
        };
        if let Some(path) = &options.sort_by {
            found = sorted(found, path)?;
        }
        let mut rows: Vec<Vec<String>> = found.iter().flat_map(|table| tables::rows(table, &shape)).collect();
        if options.watch_only {
            rows.clear();
        }
        let empty = rows.is_empty();
        if let Some(first) = found.first().filter(|_| !options.no_headers && !empty) {
            rows.insert(0, tables::headings(first, &shape));
        }
        let mut widths = Vec::new();
        table::widen(&mut widths, &rows);
        let separator = if printed && !empty && !options.no_headers { "\n" } else { "" };
        write(format!("{separator}{}", table::aligned_to(&widths, &rows)).as_bytes())?;
        printed |= !empty;
        let version =
            found.last().and_then(|table| table["metadata"]["resourceVersion"].as_str()).unwrap_or_default().to_owned();
        let definitions = found.first().map(|table| table["columnDefinitions"].clone()).unwrap_or_default();
        watched = Some((one, shape, widths, version, definitions));
    }
    if options.watch || options.watch_only {
        let (Some((one, shape, mut widths, version, mut definitions)), [_], true) =
            (watched, selected, errors.is_empty())
        else {
            return Ok(failed(errors));
        };
        // Without anything before them, the headings come with the first row.
        let mut headings = !printed && !options.no_headers;
        follow(options, cluster, one, &version, TABLE, |object| {
            // Upstream's server says what the columns are only in the first event of a watch.
            let mut object = object.clone();
            match object["columnDefinitions"].as_array().is_some_and(|columns| !columns.is_empty()) {
                true => definitions = object["columnDefinitions"].clone(),
                false => object["columnDefinitions"] = definitions.clone(),
            }
            let mut rows = tables::rows(&object, &shape);
            if std::mem::take(&mut headings) {
                rows.insert(0, tables::headings(&object, &shape));
            }
            table::widen(&mut widths, &rows);
            write(table::aligned_to(&widths, &rows).as_bytes())
        })
        .await?;
        return Ok(failed(errors));
    }
    let by_name = selected.iter().any(|one| !one.names.is_empty());
    if !printed && errors.is_empty() && !by_name && !options.ignore_not_found {
        let namespaced = selected.iter().any(|one| one.resource.namespaced) && !options.all_namespaces;
        match namespaced {
            true => eprintln!("No resources found in {} namespace.", options.place.namespace(cluster)),
            false => eprintln!("No resources found"),
        }
    }
    Ok(failed(errors))
}

/// Shows objects as they change. A watch ends by itself after a while; then the next one goes on where it ended.
async fn follow(
    options: &GetOptions,
    cluster: &Cluster,
    one: &Selected,
    version: &str,
    accept: &str,
    mut show: impl FnMut(&Value) -> Result<()>,
) -> Result<()> {
    let mut version = version.to_owned();
    let folder = folder(options, cluster, &one.resource);
    let names = match one.names.as_slice() {
        [] => String::new(),
        [name] => format!("&fieldSelector={}", request::query(&format!("metadata.name={name}"))),
        _ => bail!("watch is only supported on individual resources and resource collections"),
    };
    loop {
        let path = format!(
            "{folder}?watch=true&allowWatchBookmarks=true&resourceVersion={version}{names}{}",
            selectors(options)
        );
        let request = http::Request::get(path).header(http::header::ACCEPT, accept).body(Vec::new())?;
        let mut lines = cluster.client.request_stream(request).await.context("watch")?.lines();
        while let Some(line) = lines.try_next().await.context("watch")? {
            let event: Value = serde_json::from_str(&line).context("read the watch")?;
            let object = &event["object"];
            if event["type"] == "ERROR" {
                bail!("{}", object["message"].as_str().unwrap_or("the watch failed"));
            }
            let newest = object["rows"][0]["object"]["metadata"]["resourceVersion"].as_str();
            let newest = newest.or(object["metadata"]["resourceVersion"].as_str());
            if let Some(newest) = newest.filter(|text| !text.is_empty()) {
                version = newest.to_owned();
            }
            if event["type"] != "BOOKMARK" {
                show(object)?;
            }
        }
    }
}

/// Prints objects one by one, as they come out of a watch.
struct OneByOne<'o> {
    options: &'o GetOptions,
    format: &'o Format,
    columns: Option<formats::Columns>,
    kind: String,
    widths: Vec<usize>,
    first: bool,
}

impl OneByOne<'_> {
    fn show(&mut self, object: &Value) -> Result<()> {
        let first = std::mem::take(&mut self.first);
        if let Some(columns) = &self.columns {
            let headings = (first && !self.options.no_headers).then(|| columns.headings());
            let rows: Vec<Vec<String>> = headings.into_iter().chain([columns.row(object)?]).collect();
            table::widen(&mut self.widths, &rows);
            return write(table::aligned_to(&self.widths, &rows).as_bytes());
        }
        let mut object = object.clone();
        if !self.options.show_managed_fields
            && let Some(metadata) = object["metadata"].as_object_mut()
        {
            metadata.remove("managedFields");
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let text = match self.format {
            Format::Name => format!("{}/{name}\n", self.kind),
            Format::Json => yaml::json(&object)?,
            Format::JsonPath(template) => Template::parse(template)?.fill(&object)?,
            _ => format!("{}{}", if first { "" } else { "---\n" }, yaml::yaml(&object)?),
        };
        write(text.as_bytes())
    }
}

async fn as_objects(
    options: &GetOptions,
    cluster: &Cluster,
    selected: &[Selected],
    format: &Format,
) -> Result<ExitCode> {
    let mut errors = Vec::new();
    let mut objects = Vec::new();
    let mut version = String::new();
    for one in selected {
        let (found, failures) = answers(options, cluster, one, "application/json").await;
        errors.extend(failures);
        let newest = found.last().and_then(|answer| answer["metadata"]["resourceVersion"].as_str());
        version = newest.unwrap_or_default().to_owned();
        for mut answer in found {
            if one.names.is_empty() {
                let items =
                    answer.get_mut("items").and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default();
                // The items of a list do not say what they are.
                objects.extend(items.into_iter().map(|mut item| {
                    item["apiVersion"] = one.resource.api_version().into();
                    item["kind"] = one.resource.kind.clone().into();
                    (one, item)
                }));
            } else {
                objects.push((one, answer));
            }
        }
    }
    if let ([one], true) = (selected, options.watch || options.watch_only) {
        let columns = match format {
            Format::CustomColumns(text) => Some(formats::Columns::parse(text)?),
            Format::CustomColumnsFile(text) => Some(formats::Columns::from_template(text)?),
            _ => None,
        };
        let kind = one.resource.singular_with_group();
        let mut each = OneByOne { options, format, columns, kind, widths: Vec::new(), first: true };
        if !errors.is_empty() {
            return Ok(failed(errors));
        }
        if let Some(columns) = &each.columns {
            let rows = objects.iter().map(|(_, object)| columns.row(object)).collect::<Result<Vec<_>>>()?;
            table::widen(&mut each.widths, &rows);
        }
        for (_, object) in objects.iter().filter(|_| !options.watch_only) {
            each.show(object)?;
        }
        follow(options, cluster, one, &version, "application/json", |object| each.show(object)).await?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(path) = &options.sort_by {
        formats::sort(&mut objects, path, |(_, object)| object)?;
    }
    if *format == Format::Name {
        let lines = objects.iter().map(|(one, object)| {
            let kind = one.resource.singular_with_group();
            format!("{kind}/{}\n", object["metadata"]["name"].as_str().unwrap_or_default())
        });
        write(lines.collect::<String>().as_bytes())?;
        return Ok(failed(errors));
    }
    let mut objects: Vec<Value> = objects.into_iter().map(|(_, object)| object).collect();
    let columns = match format {
        Format::CustomColumns(text) => Some(formats::Columns::parse(text)?),
        Format::CustomColumnsFile(text) => Some(formats::Columns::from_template(text)?),
        _ => None,
    };
    if let Some(columns) = columns {
        let mut rows: Vec<Vec<String>> = (!options.no_headers).then(|| columns.headings()).into_iter().collect();
        for object in &objects {
            rows.push(columns.row(object)?);
        }
        write(table::aligned(&rows).as_bytes())?;
        return Ok(failed(errors));
    }
    if !options.show_managed_fields && matches!(format, Format::Json | Format::Yaml) {
        for object in &mut objects {
            if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("managedFields");
            }
        }
    }
    let single = selected.len() == 1 && selected[0].names.len() == 1;
    let value = match (single, objects.len()) {
        (true, 0) => return Ok(failed(errors)),
        (true, _) => objects.remove(0),
        (false, _) => {
            json!({"apiVersion": "v1", "items": objects, "kind": "List", "metadata": {"resourceVersion": ""}})
        }
    };
    match format {
        Format::Json => write(yaml::json(&value)?.as_bytes())?,
        Format::JsonPath(template) => write(Template::parse(template)?.fill(&value)?.as_bytes())?,
        _ => write(yaml::yaml(&value)?.as_bytes())?,
    }
    Ok(failed(errors))
}
