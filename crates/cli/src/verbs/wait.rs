//! `kobune wait`: until objects are as somebody wants them (`k8s.io/kubectl/pkg/cmd/wait`).

mod condition;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Error, Result, anyhow, bail};
use clap::Args;
use http::Method;
use tokio::time::Instant;

use self::condition::Condition;
use super::chosen::{self, ChoiceOptions, Chosen, Wide};
use super::follow::{News, follow};
use super::words::{self, ending};
use super::{PlaceOptions, selection};
use crate::connect::Cluster;
use crate::discovery::Discovery;
use crate::duration;
use crate::request;

/// How long a negative `--timeout` is: a week.
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// The flags of `wait`.
#[derive(Debug, Clone, Args)]
pub struct WaitOptions {
    /// TYPE/NAME..., TYPE NAME..., or TYPE with -l or --all
    #[arg(value_name = "TYPE[/NAME] [NAME...]")]
    pub arguments: Vec<String>,
    /// What to wait for: create, delete, condition=NAME[=VALUE] or jsonpath='{PATH}'[=VALUE]; several one after the other
    #[arg(long = "for", value_name = "CONDITION")]
    pub conditions: Vec<String>,
    /// How long to wait, such as 5s, 2m or 3h; 0s to look once, less than that for a week
    #[arg(long, value_name = "DURATION", default_value = "30s", allow_hyphen_values = true)]
    pub timeout: String,
    /// All objects of the namespace
    #[arg(long, conflicts_with = "selector")]
    pub all: bool,
    /// Objects of all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Only objects with these fields
    #[arg(long, value_name = "SELECTOR")]
    pub field_selector: Option<String>,
    /// Others.
    #[command(flatten)]
    pub choice: ChoiceOptions,
    /// Where.
    #[command(flatten)]
    pub place: PlaceOptions,
}

/// Waits.
pub async fn wait(options: WaitOptions) -> Result<ExitCode> {
    ending(run(&options).await.map(|()| ExitCode::SUCCESS))
}

async fn run(options: &WaitOptions) -> Result<()> {
    let conditions = condition::parse(&options.conditions)?;
    let limit = match options.timeout.strip_prefix('-') {
        Some(rest) => duration::parse(rest).map(|_| WEEK),
        None => duration::parse(&options.timeout),
    };
    let limit =
        limit.ok_or_else(|| anyhow!("--timeout {}: this is no duration, such as 5s, 2m or 3h", options.timeout))?;
    let end = Instant::now() + limit;
    let cluster = options.place.connect.connect().await?;
    if conditions.contains(&Condition::Created) {
        let created =
            tokio::time::timeout_at(end.max(Instant::now() + Duration::from_secs(1)), created(options, &cluster));
        created.await.map_err(|_| anyhow!("timed out waiting for the condition"))??;
    }
    let wide =
        Wide { all: options.all, all_namespaces: options.all_namespaces, fields: options.field_selector.as_deref() };
    let (found, mut errors) =
        chosen::objects(&cluster, &options.place, &options.arguments, &options.choice, wide).await?;
    let for_delete = conditions.contains(&Condition::Deleted);
    if for_delete {
        errors.retain(|error| !error.to_string().starts_with("Error from server (NotFound)"));
    } else if found.is_empty() && errors.is_empty() {
        bail!("no matching resources found");
    }
    for one in &found {
        for condition in &conditions {
            match until(&cluster, one, condition, limit, end).await {
                Ok(()) => println!("{} condition met", one.label()),
                Err(error) => {
                    errors.push(error);
                    break;
                }
            }
        }
    }
    chosen::all_fine(errors)
}

/// Waits until everything that is named is there, or anything that is selected.
async fn created(options: &WaitOptions, cluster: &Cluster) -> Result<()> {
    if !options.choice.files.is_empty() {
        bail!("--for=create needs TYPE/NAME or TYPE with -l or --all");
    }
    let discovery = Discovery::ask(&cluster.client).await.map_err(words::refused)?;
    let namespace = options.place.namespace(cluster);
    let some = |news| {
        Ok(match news {
            News::Listed(items) => (!items.is_empty()).then_some(()),
            News::Event(kind, _) => (kind != "DELETED").then_some(()),
        })
    };
    for selected in selection::select(&discovery, &options.arguments)? {
        let folder = selected.resource.path((!options.all_namespaces).then_some(namespace.as_str()));
        for name in &selected.names {
            let query = format!("fieldSelector={}", request::query(&format!("metadata.name={name}")));
            follow(&cluster.client, &folder, &query, some).await?;
        }
        if selected.names.is_empty() {
            let labels = request::query(options.choice.selector.as_deref().unwrap_or_default());
            let fields = request::query(options.field_selector.as_deref().unwrap_or_default());
            follow(&cluster.client, &folder, &format!("labelSelector={labels}&fieldSelector={fields}"), some).await?;
        }
    }
    Ok(())
}

/// Waits until one object is as it should be.
async fn until(cluster: &Cluster, one: &Chosen, condition: &Condition, limit: Duration, end: Instant) -> Result<()> {
    if *condition == Condition::Created {
        return Ok(());
    }
    if limit.is_zero() {
        let now = request::send(&cluster.client, Method::GET, &one.path(), None, "application/json").await;
        let met = match now {
            Err(error) if error.is(404) && *condition == Condition::Deleted => true,
            Err(error) => return Err(words::refused(error)),
            Ok(answer) => condition.met(&answer.body)?,
        };
        let label = format!("{}/{}", one.resource.plural, one.name);
        return if met { Ok(()) } else { Err(anyhow!("condition not met for {label}")) };
    }
    let (folder, query) = one.folder();
    let mut first = true;
    let met = follow(&cluster.client, &folder, &query, |news| {
        let begins = std::mem::replace(&mut first, false);
        let object = match news {
            News::Event(kind, _) if kind == "DELETED" => None,
            News::Event(_, object) => Some(object),
            News::Listed(mut items) => match items.pop() {
                None if begins && *condition != Condition::Deleted => return Err(gone(one)),
                object => object,
            },
        };
        Ok(match object {
            None => (*condition == Condition::Deleted).then_some(()),
            Some(object) => condition.met(&object)?.then_some(()),
        })
    });
    match tokio::time::timeout_at(end, met).await {
        Ok(result) => result,
        Err(_) => bail!("timed out waiting for the condition on {}/{}", one.resource.plural, one.name),
    }
}

fn gone(one: &Chosen) -> Error {
    anyhow!("Error from server (NotFound): {} {:?} not found", one.resource.name(), one.name)
}
