//! `kobune rollout`: how far workloads are with a new template, their revisions, and back to one of them
//! (`k8s.io/kubectl/pkg/cmd/rollout`).

mod history;
mod status;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Error, Result, anyhow, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::PlaceOptions;
use super::chosen::{self, ChoiceOptions, Chosen, Wide};
use super::create::DryRun;
use super::follow::{News, follow};
use super::words::{self, ending};
use crate::connect::Cluster;
use crate::duration;
use crate::request;

/// Who changes what `rollout` changes.
const MANAGER: &str = "kobune-rollout";

/// What to do with rollouts.
#[derive(Debug, Clone, Subcommand)]
pub enum RolloutCommand {
    /// Print the revisions of workloads
    History(HistoryOptions),
    /// Leave the pods of deployments as they are, whatever becomes of their templates
    Pause(WorkloadOptions),
    /// Give workloads new pods
    Restart(WorkloadOptions),
    /// Go on with deployments that were paused
    Resume(WorkloadOptions),
    /// Say how far workloads are, until they are done
    Status(StatusOptions),
    /// Go back to an earlier revision
    Undo(UndoOptions),
}

/// The workloads.
#[derive(Debug, Clone, Args)]
pub struct WorkloadOptions {
    /// TYPE NAME..., TYPE/NAME... or TYPE
    #[arg(value_name = "TYPE[/NAME] [NAME...]")]
    pub arguments: Vec<String>,
    /// Others.
    #[command(flatten)]
    pub choice: ChoiceOptions,
    /// Where.
    #[command(flatten)]
    pub place: PlaceOptions,
}

/// The flags of `rollout history`.
#[derive(Debug, Clone, Args)]
pub struct HistoryOptions {
    /// Of which.
    #[command(flatten)]
    pub workloads: WorkloadOptions,
    /// One revision with its template; 0 for all
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true, default_value_t = 0)]
    pub revision: i64,
}

/// The flags of `rollout status`.
#[derive(Debug, Clone, Args)]
pub struct StatusOptions {
    /// Of which.
    #[command(flatten)]
    pub workloads: WorkloadOptions,
    /// Go on until they are done
    #[arg(short, long, num_args = 0..=1, default_value_t = true, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    pub watch: bool,
    /// The revision that a deployment must be at; 0 for any
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true, default_value_t = 0)]
    pub revision: i64,
    /// How long to wait, such as 5s, 2m or 3h; 0s for as long as it takes
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub timeout: String,
}

/// The flags of `rollout undo`.
#[derive(Debug, Clone, Args)]
pub struct UndoOptions {
    /// Which.
    #[command(flatten)]
    pub workloads: WorkloadOptions,
    /// The revision to go back to; 0 for the one before
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true, default_value_t = 0)]
    pub to_revision: i64,
    /// Only let the server say whether it would work
    #[arg(long, value_enum, default_value = "none")]
    pub dry_run: DryRun,
}

/// Does it.
pub async fn rollout(command: RolloutCommand) -> Result<ExitCode> {
    let done = match command {
        RolloutCommand::History(options) => show_history(&options).await,
        RolloutCommand::Pause(options) => change(&options, Change::Pause).await,
        RolloutCommand::Restart(options) => change(&options, Change::Restart).await,
        RolloutCommand::Resume(options) => change(&options, Change::Resume).await,
        RolloutCommand::Status(options) => watch_status(&options).await,
        RolloutCommand::Undo(options) => undo(&options).await,
    };
    ending(done.map(|()| ExitCode::SUCCESS))
}

async fn workloads(options: &WorkloadOptions) -> Result<(Cluster, Vec<Chosen>, Vec<Error>)> {
    if options.arguments.is_empty() && options.choice.files.is_empty() {
        bail!("required resource not specified");
    }
    let cluster = options.place.connect.connect().await?;
    let wide = Wide { all: true, ..Wide::default() };
    let (found, errors) = chosen::objects(&cluster, &options.place, &options.arguments, &options.choice, wide).await?;
    Ok((cluster, found, errors))
}

fn say_none(options: &WorkloadOptions, cluster: &Cluster, found: &[Chosen], errors: &[Error]) {
    if found.is_empty() && errors.is_empty() {
        eprintln!("No resources found in {} namespace.", options.place.namespace(cluster));
    }
}

async fn watch_status(options: &StatusOptions) -> Result<()> {
    if options.revision < 0 {
        bail!("revision must be a positive integer: {}", options.revision);
    }
    let limit = duration::parse(&options.timeout)
        .ok_or_else(|| anyhow!("--timeout {}: this is no duration, such as 5s, 2m or 3h", options.timeout))?;
    let (cluster, found, mut errors) = workloads(&options.workloads).await?;
    say_none(&options.workloads, &cluster, &found, &errors);
    for one in &found {
        let status = one_status(&cluster, one, options);
        let result = match limit {
            Duration::ZERO => status.await,
            limit => match tokio::time::timeout(limit, status).await {
                Ok(result) => result,
                Err(_) => Err(anyhow!("timed out waiting for the condition")),
            },
        };
        errors.extend(result.err());
    }
    chosen::all_fine(errors)
}

async fn one_status(cluster: &Cluster, one: &Chosen, options: &StatusOptions) -> Result<()> {
    let (folder, query) = one.folder();
    let mut listed = String::new();
    let mut seen = false;
    follow(&cluster.client, &folder, &query, |news| {
        let (object, again) = match news {
            News::Event(kind, _) if kind == "DELETED" => bail!("object has been deleted"),
            News::Event(_, object) => (object, false),
            News::Listed(mut items) => match items.pop() {
                Some(object) => (object, seen),
                None if seen => bail!("object has been deleted"),
                None => return Ok(None),
            },
        };
        seen = true;
        let status = status::of(&one.resource, &object, options.revision)?;
        // A list that had to be read again may say nothing new.
        if !again || status.words != listed {
            print!("{}", status.words);
        }
        listed = status.words;
        Ok((status.done || !options.watch).then_some(()))
    })
    .await
}

async fn show_history(options: &HistoryOptions) -> Result<()> {
    if options.revision < 0 {
        bail!("revision must be a positive integer: {}", options.revision);
    }
    let (cluster, found, mut errors) = workloads(&options.workloads).await?;
    for one in &found {
        let shown = history::revisions(&cluster, one).await.and_then(|revisions| match options.revision {
            0 => Ok(format!("\n{}", history::overview(&revisions))),
            number => Ok(format!("with revision #{number}\n{}", history::details(&revisions, number)?)),
        });
        match shown {
            Ok(shown) => println!("{} {shown}", one.label()),
            Err(error) => errors.push(error),
        }
    }
    chosen::all_fine(errors)
}

#[derive(Debug, Clone, Copy)]
enum Change {
    Pause,
    Restart,
    Resume,
}

impl Change {
    /// The patch that does it, or why not.
    fn patch(self, object: &Value, now: &str) -> Result<Value, &'static str> {
        let deployment = object["kind"] == "Deployment" && object["apiVersion"] == "apps/v1";
        let workload =
            object["apiVersion"] == "apps/v1" && (object["kind"] == "DaemonSet" || object["kind"] == "StatefulSet");
        let paused = object["spec"]["paused"] == true;
        match self {
            Change::Pause if !deployment => Err("pausing is not supported"),
            Change::Pause if paused => Err("is already paused"),
            Change::Pause => Ok(json!({"spec": {"paused": true}})),
            Change::Resume if !deployment => Err("resuming is not supported"),
            Change::Resume if !paused => Err("is not paused"),
            Change::Resume => Ok(json!({"spec": {"paused": null}})),
            Change::Restart if !deployment && !workload => Err("restarting is not supported"),
            Change::Restart if paused => Err("can't restart paused deployment (run rollout resume first)"),
            Change::Restart => Ok(json!({"spec": {"template": {"metadata": {"annotations": {RESTARTED: now}}}}})),
        }
    }

    fn done(self) -> &'static str {
        match self {
            Change::Pause => "paused",
            Change::Restart => "restarted",
            Change::Resume => "resumed",
        }
    }
}

/// The annotation that makes a template a new one; kubectl's, so that both do the same.
const RESTARTED: &str = "kubectl.kubernetes.io/restartedAt";

async fn change(options: &WorkloadOptions, change: Change) -> Result<()> {
    let (cluster, found, mut errors) = workloads(options).await?;
    say_none(options, &cluster, &found, &errors);
    let now = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second())?.to_string();
    for one in &found {
        let patch = match change.patch(&one.object, &now) {
            Ok(patch) => patch,
            Err(why) => {
                errors.push(anyhow!("error: {} {:?} {why}", one.resource.name(), one.name));
                continue;
            }
        };
        if matches!(change, Change::Restart)
            && one.object["spec"]["template"]["metadata"]["annotations"][RESTARTED] == now.as_str()
        {
            errors.push(anyhow!(
                "failed to create patch for {}: if restart has already been triggered within the past second, please wait before attempting to trigger another",
                one.name
            ));
            continue;
        }
        match chosen::patch(&cluster, one, request::MERGE_PATCH, &patch, MANAGER, false).await {
            Ok(_) => println!("{} {}", one.label(), change.done()),
            Err(error) => errors.push(anyhow!("failed to patch: {error}")),
        }
    }
    chosen::all_fine(errors)
}

async fn undo(options: &UndoOptions) -> Result<()> {
    let (cluster, found, mut errors) = workloads(&options.workloads).await?;
    let dry = chosen::only_server(options.dry_run)?;
    for one in &found {
        if one.object["metadata"]["annotations"].get(history::LAST_APPLIED).is_some() {
            eprintln!(
                "Warning: resource {} was previously managed with 'kubectl apply'. Rolling back will not update the {} annotation, which may cause unexpected behavior on future 'kubectl apply' operations. Consider using 'kubectl apply' with your previous configuration file instead.",
                one.resource.name() + "/" + &one.name,
                history::LAST_APPLIED
            );
        }
        match undo_one(&cluster, one, options.to_revision, dry).await {
            Ok(words) => println!("{} {words}{}", one.label(), chosen::suffix(options.dry_run)),
            Err(error) => errors.push(error),
        }
    }
    chosen::all_fine(errors)
}

async fn undo_one(cluster: &Cluster, one: &Chosen, wanted: i64, dry: bool) -> Result<String> {
    let revisions = history::revisions(cluster, one).await.map_err(|error| {
        let text = error.to_string();
        anyhow!(text.replace("no history viewer has been implemented", "no rollbacker has been implemented"))
    })?;
    let target = history::target(one, &revisions, wanted)?;
    if one.object["spec"]["paused"] == true {
        bail!("you cannot rollback a paused deployment; resume it first with 'kubectl rollout resume' and try again");
    }
    let Some((media, patch)) = history::restoring(one, target) else {
        return Ok(format!("skipped rollback (current template already matches revision {wanted})"));
    };
    chosen::patch(cluster, one, media, &patch, MANAGER, dry)
        .await
        .map_err(|error| anyhow!("failed restoring revision {wanted}: {}", words::refused(error)))?;
    Ok("rolled back".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_changed() {
        let object =
            |kind: &str, paused: bool| json!({"apiVersion": "apps/v1", "kind": kind, "spec": {"paused": paused}});
        let check = |change: Change, object: Value, expected: Result<Value, &'static str>| {
            assert_eq!(change.patch(&object, "now"), expected);
        };
        check(Change::Pause, object("Deployment", false), Ok(json!({"spec": {"paused": true}})));
        check(Change::Pause, object("Deployment", true), Err("is already paused"));
        check(Change::Pause, object("DaemonSet", false), Err("pausing is not supported"));
        check(Change::Resume, object("Deployment", false), Err("is not paused"));
        check(Change::Resume, object("Deployment", true), Ok(json!({"spec": {"paused": null}})));
        check(
            Change::Restart,
            object("Deployment", true),
            Err("can't restart paused deployment (run rollout resume first)"),
        );
        let patch = json!({"spec": {"template": {"metadata": {"annotations": {RESTARTED: "now"}}}}});
        check(Change::Restart, object("StatefulSet", false), Ok(patch));
        check(Change::Restart, json!({"kind": "Pod", "apiVersion": "v1"}), Err("restarting is not supported"));
    }
}
