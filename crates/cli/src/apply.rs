//! `kobune apply`: compares first, refuses before anything is touched, applies phase by phase, waits, and prunes last.

pub mod diagnose;
pub mod progress;
pub mod wait;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::Method;
use serde_json::Value;

use crate::batch::{self, AT_ONCE, Batch, BatchOptions, Entry};
use crate::history;
use crate::order::Phase;
use crate::plan::ask::apply_path;
use crate::plan::effects;
use crate::plan::model::{Action, Item};
use crate::plan::report;
use crate::plan::sealed::Sealed;
use crate::request;
use crate::style::ColorChoice;
use crate::take_over;
use crate::targets::Target;
use progress::Progress;
use wait::Awaited;

/// How long a definition may take to be established, and an object to be gone before it is made again.
const SETTLE: Duration = Duration::from_secs(60);

/// The flags of `apply`.
#[derive(Debug, Clone, Args)]
pub struct ApplyOptions {
    /// What is to be applied, and how.
    #[command(flatten)]
    pub batch: BatchOptions,
    /// Apply exactly what `plan --out FILE` has kept, or refuse because the cluster moved
    #[arg(long, value_name = "FILE", conflicts_with_all = ["filename", "kustomize"])]
    pub plan: Option<PathBuf>,
    /// How long to wait until everything is ready, in seconds; 0 does not wait
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub timeout: u64,
    /// How many revisions of a set are kept for `rollback`; 0 keeps none
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    pub revisions: usize,
    /// When to use colours
    #[arg(long, value_enum, default_value = "auto")]
    pub color: ColorChoice,
}

/// How a batch is carried out.
pub struct Manner {
    /// How long to wait for readiness.
    pub timeout: Duration,
    /// Whether every object must still be as it was compared.
    pub pinned: bool,
    /// How many revisions are kept.
    pub revisions: usize,
    /// What the revision is noted as.
    pub cause: String,
    /// How lines look.
    pub color: ColorChoice,
}

/// Applies manifests, or a plan.
pub async fn apply(options: ApplyOptions) -> Result<ExitCode> {
    let mut manner = Manner {
        timeout: Duration::from_secs(options.timeout),
        pinned: false,
        revisions: options.revisions,
        cause: "apply".to_owned(),
        color: options.color,
    };
    let (batch, options) = match &options.plan {
        Some(file) => {
            let sealed = Sealed::read(file)?;
            let planned = sealed.options(&options.batch.connect);
            let cluster = planned.connect.connect().await?;
            let batch = batch::compare(&planned, sealed.manifests(file), cluster).await?;
            sealed.check(&batch).await?;
            manner.pinned = true;
            (batch, planned)
        }
        None => {
            if options.batch.is_empty() {
                bail!(
                    "what is to be applied? give -f FILE, -f FOLDER, -f - for standard input, -k KUSTOMIZATION, or --plan FILE"
                );
            }
            let manifests = options.batch.read()?;
            let cluster = options.batch.connect.connect().await?;
            (batch::compare(&options.batch, manifests, cluster).await?, options.batch)
        }
    };
    carry_out(batch, &options, &manner).await
}

/// Does what a batch's plan says.
pub async fn carry_out(mut batch: Batch, options: &BatchOptions, manner: &Manner) -> Result<ExitCode> {
    let style = manner.color.style(&std::io::stdout());
    if batch.plan.is_blocked() {
        let mut refused = batch.plan.clone();
        refused.items.retain(|item| !item.blocked.is_empty());
        bail!(
            "nothing was applied:\n\n{}",
            report::text::write(&refused, false, manner.color.style(&std::io::stderr()))
        );
    }
    let mut progress = Progress::new(style);
    execute(&mut batch, options, manner, &mut progress, &Interrupt::listen()).await?;
    progress.line(&style.bold(format!("Done: {}.", batch.plan.done())));
    Ok(ExitCode::SUCCESS)
}

/// Applies, waits and prunes what a batch's plan says, which must not be blocked.
pub async fn execute(
    batch: &mut Batch,
    options: &BatchOptions,
    manner: &Manner,
    progress: &mut Progress,
    interrupt: &Interrupt,
) -> Result<()> {
    let mut work = Work { applied: Vec::new(), done: 0 };
    let outcome = phases(batch, options, manner, progress, &mut work, interrupt).await;
    progress.clear();
    outcome.map_err(|error| stopped(error, batch, &work))
}

/// What has been done until now.
struct Work {
    applied: Vec<Awaited>,
    done: usize,
}

/// What went wrong, and how far it came: everything that was written is named, and nothing more is under way.
fn stopped(error: anyhow::Error, batch: &Batch, work: &Work) -> anyhow::Error {
    let total = batch.plan.items.iter().filter(|item| item.action != Action::Unchanged).count();
    let advice = match work.done {
        0 => "nothing was changed".to_owned(),
        done if done == total => "everything is written, but not everything is ready".to_owned(),
        done => format!("{done} of {total} objects are written, the others are as they were; apply again to go on"),
    };
    let back = match &batch.set {
        Some(set) if work.done > 0 => format!(", or `kobune rollback {} -n {}` to go back", set.name, set.namespace),
        _ => String::new(),
    };
    error.context(format!("stopped: {advice}{back}"))
}

/// Somebody wanted the work to stop.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Whether the work is to stop where it can: somebody pressed Ctrl-C, or wants something else by now.
pub struct Interrupt(tokio::sync::watch::Receiver<bool>);

impl Interrupt {
    /// Set when the other end sends `true`.
    pub fn by(receiver: tokio::sync::watch::Receiver<bool>) -> Interrupt {
        Interrupt(receiver)
    }

    /// Set by Ctrl-C. The second time ends the program at once.
    fn listen() -> Interrupt {
        let (sender, receiver) = tokio::sync::watch::channel(false);
        tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                sender.send_replace(true);
            }
            if tokio::signal::ctrl_c().await.is_ok() {
                std::process::exit(130);
            }
        });
        Interrupt(receiver)
    }

    fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    fn check(&self) -> Result<()> {
        if self.is_set() { Err(Interrupted.into()) } else { Ok(()) }
    }

    /// Runs something that may be dropped at any time.
    async fn or<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut receiver = self.0.clone();
        tokio::select! {
            result = work => result,
            Ok(_) = receiver.wait_for(|set| *set) => Err(Interrupted.into()),
        }
    }
}

async fn phases(
    batch: &mut Batch,
    options: &BatchOptions,
    manner: &Manner,
    progress: &mut Progress,
    work: &mut Work,
    interrupt: &Interrupt,
) -> Result<()> {
    let pairs: Vec<(Item, Entry)> = batch.plan.items.iter().cloned().zip(std::mem::take(&mut batch.entries)).collect();
    let targets: Vec<&Target> = pairs.iter().filter_map(|(_, entry)| entry.target.as_ref()).collect();
    let idle = pairs.iter().all(|(item, _)| item.action == Action::Unchanged);
    let mut noted = batch.set.is_none();
    let mut start = 0;
    let count = targets.len();
    while start < count {
        let phase = targets[start].phase;
        let end = start + targets[start..].iter().take_while(|target| target.phase == phase).count();
        // The set's parent may live in a namespace of the batch, and must be there before its first member.
        if let Some(set) = batch.set.as_mut().filter(|_| !noted && phase > Phase::Namespaces) {
            set.note_places(&batch.cluster.client, &targets, false).await?;
            noted = true;
        }
        one_phase(batch, options, manner, &pairs[start..end], progress, work, interrupt).await?;
        if phase == Phase::Definitions {
            let definitions: Vec<Awaited> =
                work.applied.iter().filter(|it| it.object.kind == "CustomResourceDefinition").cloned().collect();
            interrupt.or(wait::ready(&batch.cluster.client, definitions, SETTLE, progress)).await?;
        }
        start = end;
    }
    if let Some(set) = batch.set.as_mut().filter(|_| !noted) {
        set.note_places(&batch.cluster.client, &targets, false).await?;
    }
    if !manner.timeout.is_zero() {
        let mut waiting: Vec<Awaited> = work.applied.clone();
        // What has not changed may still be on its way from the last time.
        let same = pairs.iter().filter(|(item, _)| item.action == Action::Unchanged);
        waiting.extend(same.filter_map(|(item, entry)| {
            let (target, last) = (entry.target.as_ref()?, entry.live.clone()?);
            Some(Awaited { object: item.object.clone(), resource: target.resource.clone(), last })
        }));
        interrupt.or(wait::ready(&batch.cluster.client, waiting, manner.timeout, progress)).await?;
    }
    for (item, entry) in &pairs[count..] {
        let Some(member) = &entry.member else { continue };
        interrupt.check()?;
        let options = batch::delete_options(&member.uid, None, "Background");
        match request::delete(&batch.cluster.client, &member.path, &options).await {
            Ok(_) => {}
            Err(error) if error.is(404) => {}
            Err(error) => return Err(error).with_context(|| format!("prune {}", item.object)),
        }
        work.done += 1;
        said(item, progress);
    }
    if let Some(set) = batch.set.as_mut() {
        if options.set.prune {
            set.note_places(&batch.cluster.client, &targets, true).await?;
        }
        if !idle && manner.revisions > 0 {
            history::record(
                &batch.cluster.client,
                set,
                &targets,
                &batch.plan.summary(),
                &manner.cause,
                manner.revisions,
            )
            .await?;
        }
    }
    Ok(())
}

fn said(item: &Item, progress: &mut Progress) {
    let style = progress.style;
    let place = item.object.namespace.as_ref().map(|namespace| format!(" in {namespace}")).unwrap_or_default();
    let word = item.action.done();
    let word = match item.action {
        Action::Create => style.green(word),
        Action::Change | Action::Adopt => style.yellow(word),
        Action::Recreate | Action::Prune => style.red(word),
        Action::Unchanged => style.dim(word),
    };
    progress.line(&format!("{}{place} {word}", item.object));
}

/// Applies the objects of a phase side by side. After the first failure no further one is begun.
async fn one_phase(
    batch: &Batch,
    options: &BatchOptions,
    manner: &Manner,
    pairs: &[(Item, Entry)],
    progress: &mut Progress,
    work: &mut Work,
    interrupt: &Interrupt,
) -> Result<()> {
    let mut work_to_do = pairs.iter().filter(|(item, _)| item.action != Action::Unchanged);
    let mut under_way = FuturesUnordered::new();
    let mut failure = None;
    loop {
        // What is under way comes to its end; dropping it would leave open what became of it.
        while under_way.len() < AT_ONCE && failure.is_none() && !interrupt.is_set() {
            let Some((item, entry)) = work_to_do.next() else { break };
            let client = &batch.cluster.client;
            under_way.push(async move {
                let target =
                    entry.target.as_ref().expect("only members that are pruned have no target, and they come later");
                (item, target, write(client, options, manner, item, target, entry).await)
            });
        }
        let Some((item, target, result)) = under_way.next().await else { break };
        match result {
            Ok(object) => {
                work.done += 1;
                said(item, progress);
                work.applied.push(Awaited {
                    object: item.object.clone(),
                    resource: target.resource.clone(),
                    last: object,
                });
            }
            Err(error) => {
                failure.get_or_insert(error.context(format!("{} ({})", item.object, target.manifest.place())));
            }
        }
    }
    interrupt.check()?;
    failure.map_or(Ok(()), Err)
}

/// Writes one object.
async fn write(
    client: &kube::Client,
    options: &BatchOptions,
    manner: &Manner,
    item: &Item,
    target: &Target,
    entry: &Entry,
) -> Result<Value> {
    let mut manifest = target.manifest.value.clone();
    let mut version = item.resource_version.clone();
    if item.action == Action::Recreate
        && let Some(live) = &entry.live
    {
        remove(client, target, live).await?;
        version = None;
    } else if let Some(live) = entry.live.as_ref().filter(|_| !entry.taken_over.is_empty()) {
        let migrated = take_over::migrate(client, &target.path(), live, &options.field_manager, &entry.taken_over)
            .await
            .context("take it over")?;
        version = migrated["metadata"]["resourceVersion"].as_str().map(str::to_owned);
    }
    if manner.pinned
        && let Some(version) = version
    {
        manifest["metadata"]["resourceVersion"] = version.into();
    }
    let resizes =
        target.object.kind == "Pod" && target.object.group().is_empty() && effects::only_resizes(&item.changes);
    let path = if resizes { format!("{}/resize", target.path()) } else { target.path() };
    let path = apply_path(&path, &options.field_manager, options.force_conflicts, false);
    // A definition that was just established may be ahead of what serves it, and there is nothing that says when it is not.
    let mut patience = if target.defined_here { 40 } else { 0 };
    loop {
        match request::write(client, Method::PATCH, &path, request::APPLY, &manifest).await {
            Err(error) if patience > 0 && error.is(404) => patience -= 1,
            answer => return Ok(answer?.body),
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// Deletes an object and waits until it is gone.
async fn remove(client: &kube::Client, target: &Target, live: &Value) -> Result<()> {
    let uid = live["metadata"]["uid"].as_str().unwrap_or_default();
    match request::delete(client, &target.path(), &batch::delete_options(uid, None, "Foreground")).await {
        Ok(_) => {}
        Err(error) if error.is(404) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let api = wait::api(client, &target.resource, target.object.namespace.as_deref());
    tokio::time::timeout(SETTLE, wait::gone(api, &target.object.name, Some(uid)))
        .await
        .map_err(|_| anyhow!("it is deleted, but not gone after {} s", SETTLE.as_secs()))
}
