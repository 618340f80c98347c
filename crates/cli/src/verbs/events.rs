//! `kobune events`: what happened, as `kubectl events` prints it (`k8s.io/kubectl/pkg/cmd/events`).

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use http::Method;
use jiff::Timestamp;
use kobune_kinds::duration::human;
use serde_json::Value;

use super::PlaceOptions;
use super::follow::{News, follow};
use super::outcome::write;
use super::words::{self, Failure, ending};
use crate::connect::Cluster;
use crate::discovery::Discovery;
use crate::request;
use crate::table;

/// The flags of `events`.
#[derive(Debug, Clone, Args)]
pub struct EventsOptions {
    /// Events of all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Only those about one object
    #[arg(long = "for", value_name = "TYPE/NAME")]
    pub about: Option<String>,
    /// Only those of these types: Normal, Warning
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    pub types: Vec<String>,
    /// Go on printing what happens
    #[arg(short, long)]
    pub watch: bool,
    /// Leave the headings out
    #[arg(long)]
    pub no_headers: bool,
    /// How many events are asked for at once; 0 for all
    #[arg(long, value_name = "COUNT", default_value_t = 500)]
    pub chunk_size: usize,
    /// Where.
    #[command(flatten)]
    pub place: PlaceOptions,
}

/// Prints events.
pub async fn events(options: EventsOptions) -> Result<ExitCode> {
    ending(run(&options).await.map(|()| ExitCode::SUCCESS))
}

async fn run(options: &EventsOptions) -> Result<()> {
    let known = |kind: &String| kind.eq_ignore_ascii_case("normal") || kind.eq_ignore_ascii_case("warning");
    if !options.types.iter().all(known) {
        bail!("valid --types are Normal or Warning");
    }
    let cluster = options.place.connect.connect().await?;
    let namespace = options.place.namespace(&cluster);
    let folder = match options.all_namespaces {
        true => "/api/v1/events".to_owned(),
        false => format!("/api/v1/namespaces/{}/events", request::query(&namespace)),
    };
    let query = match &options.about {
        Some(about) => format!("fieldSelector={}", request::query(&selector(&cluster, about).await?)),
        None => "fieldSelector=".to_owned(),
    };
    if options.watch {
        return tokio::select! {
            result = watch(options, &cluster, &folder, &query) => result,
            result = tokio::signal::ctrl_c() => Ok(result?),
        };
    }
    let mut found = list(options, &cluster, &folder, &query).await?;
    found.retain(|event| wanted(options, event));
    if found.is_empty() {
        match options.all_namespaces {
            true => eprintln!("No events found."),
            false => eprintln!("No events found in {namespace} namespace."),
        }
        return Ok(());
    }
    found.sort_by_key(time);
    let now = Timestamp::now();
    let mut rows: Vec<Vec<String>> = headings(options).into_iter().collect();
    rows.extend(found.iter().map(|event| row(options, event, now)));
    write(&table::aligned(&rows))
}

async fn list(options: &EventsOptions, cluster: &Cluster, folder: &str, query: &str) -> Result<Vec<Value>> {
    let mut found = Vec::new();
    let mut token = String::new();
    loop {
        let path = format!("{folder}?{query}&limit={}&continue={}", options.chunk_size, request::query(&token));
        let answer = request::send(&cluster.client, Method::GET, &path, None, "application/json").await;
        let mut body = answer.map_err(words::refused)?.body;
        found.extend(body["items"].as_array_mut().map(std::mem::take).unwrap_or_default());
        token = body["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
        if token.is_empty() {
            return Ok(found);
        }
    }
}

/// What selects the events about `TYPE/NAME`.
async fn selector(cluster: &Cluster, about: &str) -> Result<String> {
    let (kind, name) = match about.split('/').collect::<Vec<_>>().as_slice() {
        [_] => bail!("--for must be in resource/name form"),
        [kind, name] => ((*kind).to_owned(), (*name).to_owned()),
        _ => bail!("arguments in resource/name form may not have more than one slash"),
    };
    let discovery = Discovery::ask(&cluster.client).await.map_err(words::refused)?;
    let Some(resource) = discovery.by_name(&kind) else {
        // The one place where kubectl says this without `error: ` before it.
        bail!(Failure { words: format!("the server doesn't have a resource type {kind:?}"), code: 1 });
    };
    Ok(format!(
        "involvedObject.apiVersion={},involvedObject.kind={},involvedObject.name={name}",
        resource.api_version(),
        resource.kind
    ))
}

/// Prints what is there, in the order in which it comes, and what happens from then on.
async fn watch(options: &EventsOptions, cluster: &Cluster, folder: &str, query: &str) -> Result<()> {
    let mut widths = Vec::new();
    let mut headings = headings(options);
    let mut printed: std::collections::HashSet<String> = std::collections::HashSet::new();
    let mut show = |event: &Value| -> Result<()> {
        if !wanted(options, event) {
            return Ok(());
        }
        let mut rows: Vec<Vec<String>> = headings.take().into_iter().collect();
        rows.push(row(options, event, Timestamp::now()));
        table::widen(&mut widths, &rows);
        write(&table::aligned_to(&widths, &rows))
    };
    follow(&cluster.client, folder, query, |news| {
        match news {
            News::Listed(events) => {
                // A list that had to be read again has much that was printed already.
                let version =
                    |event: &Value| event["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
                for event in events.iter().filter(|event| !printed.contains(&version(event))) {
                    show(event)?;
                }
                printed = events.iter().map(version).collect();
            }
            News::Event(kind, event) if kind != "DELETED" => show(&event)?,
            News::Event(..) => {}
        }
        Ok(None::<()>)
    })
    .await
}

fn wanted(options: &EventsOptions, event: &Value) -> bool {
    let kind = event["type"].as_str().unwrap_or_default();
    options.types.is_empty() || options.types.iter().any(|wanted| wanted.eq_ignore_ascii_case(kind))
}

fn headings(options: &EventsOptions) -> Option<Vec<String>> {
    let namespace = options.all_namespaces.then_some("NAMESPACE");
    let all = namespace.into_iter().chain(["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]);
    (!options.no_headers).then(|| all.map(str::to_owned).collect())
}

fn row(options: &EventsOptions, event: &Value, now: Timestamp) -> Vec<String> {
    let text = |value: &Value| escaped(value.as_str().unwrap_or_default());
    let object = &event["involvedObject"];
    let namespace = options.all_namespaces.then(|| text(&event["metadata"]["namespace"]));
    let cells = [
        seen(event, now),
        text(&event["type"]),
        text(&event["reason"]),
        format!("{}/{}", text(&object["kind"]), text(&object["name"])),
        escaped(event["message"].as_str().unwrap_or_default().trim()),
    ];
    namespace.into_iter().chain(cells).collect()
}

/// Nobody who makes an event may steer the terminal of whoever reads it.
fn escaped(text: &str) -> String {
    text.replace('\u{1b}', "^[").replace('\r', "\\r")
}

fn moment(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// When an event was last seen.
fn time(event: &Value) -> Option<Timestamp> {
    let series = moment(&event["series"]["lastObservedTime"]);
    series.or_else(|| moment(&event["lastTimestamp"])).or_else(|| moment(&event["eventTime"]))
}

/// How long ago, and how often since when.
fn seen(event: &Value, now: Timestamp) -> String {
    let since = |time: Option<Timestamp>| match time {
        Some(time) => human(now.duration_since(time).as_secs()),
        None => "<unknown>".to_owned(),
    };
    let first = since(moment(&event["eventTime"]).or_else(|| moment(&event["firstTimestamp"])));
    let series = &event["series"];
    if series.is_object() {
        let last = since(moment(&series["lastObservedTime"]));
        return format!("{last} (x{} over {first})", series["count"].as_i64().unwrap_or(0));
    }
    match event["count"].as_i64() {
        Some(count) if count > 1 => format!("{} (x{count} over {first})", since(moment(&event["lastTimestamp"]))),
        _ => first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn when() {
        let now = "2026-01-01T01:00:00Z".parse().unwrap();
        let check = |event: Value, expected: &str| assert_eq!(seen(&event, now), expected);
        let (first, last) = ("2026-01-01T00:00:00Z", "2026-01-01T00:59:30Z");
        check(json!({"firstTimestamp": first, "lastTimestamp": last, "count": 1}), "60m");
        check(json!({"firstTimestamp": first, "lastTimestamp": last, "count": 4}), "30s (x4 over 60m)");
        check(
            json!({"eventTime": "2026-01-01T00:00:00.5Z", "series": {"count": 3, "lastObservedTime": last}}),
            "30s (x3 over 59m)",
        );
        check(json!({"eventTime": null}), "<unknown>");
    }

    #[test]
    fn what_cannot_steer_a_terminal() {
        assert_eq!(escaped("a\u{1b}[31mb\r"), "a^[[31mb\\r");
    }
}
