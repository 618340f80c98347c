//! `kobune get --watch`: objects, and what becomes of them.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use futures::{AsyncBufReadExt as _, TryStreamExt as _};
use serde_json::{Value, json};

use super::{Format, GetOptions, TABLE, Wanted, answers, folder, objects, selectors, shape, sorted};
use crate::connect::Cluster;
use crate::request;
use crate::table;
use crate::verbs::formats::{self, Columns};
use crate::verbs::outcome::{self, Failures};
use crate::verbs::print::Printer;
use crate::verbs::tables::{self, Shape};

/// Prints objects, and then what becomes of them.
pub async fn watch(
    options: &GetOptions,
    cluster: &Cluster,
    wanted: &Wanted,
    format: Option<Format>,
    mut failures: Failures,
) -> Result<ExitCode> {
    if wanted.names.len() > 1 {
        bail!("watch is only supported on individual resources and resource collections");
    }
    if options.sort_by.is_some() {
        match options.watch_only {
            false => eprintln!("warning: --watch requested, --sort-by will be ignored for watch events received"),
            true => eprintln!("warning: --watch-only requested, --sort-by will be ignored"),
        }
    }
    let mut show = match format {
        None | Some(Format::Wide) => {
            let shape = shape(
                options,
                &wanted.resource,
                format.is_some(),
                options.all_namespaces && wanted.resource.namespaced,
                options.show_kind,
            );
            Show::Table { shape, definitions: Value::Null, headings: !options.no_headers, widths: Vec::new() }
        }
        Some(Format::Columns(columns)) => Show::Columns { columns, headings: !options.no_headers, widths: Vec::new() },
        Some(format) => Show::Whole(options.print.printer_of(format)),
    };
    let accept = if matches!(show, Show::Table { .. }) { TABLE } else { "application/json" };
    let mut found = answers(options, cluster, wanted, accept, &mut failures).await;
    if !failures.is_empty() {
        return Ok(failures.tell());
    }
    let newest = found.last().and_then(|answer| answer["metadata"]["resourceVersion"].as_str());
    let version = newest.unwrap_or_default().to_owned();
    if found.is_empty() {
        // It was not there, and that is no error.
        return Ok(ExitCode::SUCCESS);
    }
    if matches!(show, Show::Table { .. }) {
        if let Some(path) = &options.sort_by {
            found = sorted(found, path)?;
        }
    } else {
        found = objects(found, wanted);
        if let Some(path) = &options.sort_by {
            formats::sort(&mut found, path, |object| object)?;
        }
    }
    let events = options.output_watch_events;
    if options.watch_only {
        if let Show::Table { definitions, .. } = &mut show {
            *definitions = found.first().map(|table| table["columnDefinitions"].clone()).unwrap_or_default();
        }
    } else {
        show.all(&found, events.then_some("ADDED"))?;
    }
    follow(options, cluster, wanted, version, accept, |kind, object| {
        show.all(std::slice::from_ref(object), events.then_some(kind))
    })
    .await?;
    Ok(ExitCode::SUCCESS)
}

/// How objects are shown one after another.
enum Show {
    Table { shape: Shape, definitions: Value, headings: bool, widths: Vec<usize> },
    Columns { columns: Columns, headings: bool, widths: Vec<usize> },
    Whole(Printer),
}

impl Show {
    /// Prints objects, or tables of them, each with what happened to it.
    fn all(&mut self, objects: &[Value], event: Option<&str>) -> Result<()> {
        let mut lines: Vec<Vec<String>> = Vec::new();
        let with = |mut row: Vec<String>, first: Option<&str>| {
            row.splice(0..0, first.map(str::to_owned));
            row
        };
        let widths = match self {
            Show::Whole(printer) => {
                return objects.iter().try_for_each(|object| whole(printer, object, event));
            }
            Show::Columns { columns, headings, widths } => {
                if std::mem::take(headings) {
                    lines.push(with(columns.headings(), event.map(|_| "EVENT")));
                }
                for object in objects {
                    lines.push(with(columns.row(object)?, event));
                }
                widths
            }
            Show::Table { shape, definitions, headings, widths } => {
                for table in objects {
                    let mut table = table.clone();
                    // Upstream's server says what the columns are only in the first event of a watch.
                    match table["columnDefinitions"].as_array().is_some_and(|columns| !columns.is_empty()) {
                        true => *definitions = table["columnDefinitions"].clone(),
                        false => table["columnDefinitions"] = definitions.clone(),
                    }
                    let rows = tables::rows(&table, shape);
                    if !rows.is_empty() && std::mem::take(headings) {
                        lines.push(with(tables::headings(&table, shape), event.map(|_| "EVENT")));
                    }
                    lines.extend(rows.into_iter().map(|row| with(row, event)));
                }
                widths
            }
        };
        table::widen(widths, &lines);
        outcome::write(&table::aligned_to(widths, &lines))
    }
}

/// One object, or what happened to it: kubectl prints that as JSON in one line.
fn whole(printer: &Printer, object: &Value, event: Option<&str>) -> Result<()> {
    match (event, printer.format()) {
        (None, _) | (_, Some(Format::Name)) => printer.print(object, ""),
        (Some(kind), format) => {
            let mut object = object.clone();
            if let Some(metadata) = object["metadata"].as_object_mut().filter(|_| !printer.shows_managed_fields()) {
                metadata.remove("managedFields");
            }
            let event = json!({"type": kind, "object": object});
            match format {
                Some(Format::Json) => {
                    let text = crate::jsonpath::shown(&event["object"]);
                    outcome::write(&format!("{{\"type\":{},\"object\":{text}}}\n", event["type"]))
                }
                _ => printer.print(&event, ""),
            }
        }
    }
}

/// Shows objects as they change. A watch ends by itself after a while; then the next one goes on where it ended.
async fn follow(
    options: &GetOptions,
    cluster: &Cluster,
    one: &Wanted,
    mut version: String,
    accept: &str,
    mut show: impl FnMut(&str, &Value) -> Result<()>,
) -> Result<()> {
    let (folder, names) = match one.names.first() {
        None => (folder(options, cluster, &one.resource), String::new()),
        Some((namespace, name)) => (
            one.resource.path(namespace.as_deref()),
            format!("&fieldSelector={}", request::query(&format!("metadata.name={name}"))),
        ),
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
                newest.clone_into(&mut version);
            }
            if event["type"] != "BOOKMARK" {
                show(event["type"].as_str().unwrap_or_default(), object)?;
            }
        }
    }
}
