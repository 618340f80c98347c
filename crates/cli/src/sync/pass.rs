//! One pass over one Sync: look at the repository, build, compare, apply. It takes no hint: whatever woke it, it looks at what
//! is there, and does nothing where nothing is to be done.
//!
//! ```text
//! resolve ─ same commit, same Sync, members as they were ──────────────► unchanged
//!    └─ fetch ─ check out ─ build ─ compare ─┬─ blocked: nothing is applied
//!                                            ├─ no changes ────────────► in order
//!                                            └─ apply ─ wait ─ prune ──► applied
//! ```
//!
//! Whatever fails before the comparison leaves the cluster as it is: after a failed build nothing is pruned.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};

use super::credentials;
use super::members::{self, Members, Places};
use super::render::{self, Wanted};
use super::repository::{Bounds, Repository};
use super::spec::{Drift, FINALIZER, Spec};
use super::status::{Answer, Condition, Event, Report, condition};
use crate::apply::progress::Progress;
use crate::apply::{self, Interrupt, Interrupted, Manner, wait};
use crate::apply_set::{self, ApplySet};
use crate::batch::{self, Batch};
use crate::connect::Cluster;
use crate::discovery::Discovery;
use crate::history;
use crate::object::ObjectRef;
use crate::plan::model::{Action, Plan};
use crate::request;
use crate::style::ColorChoice;

/// A service account: its namespace and its name.
pub type Account<'a> = (&'a str, &'a str);

/// Makes clients that act in the name of a service account, or of the controller itself.
pub type Connect = Arc<dyn Fn(Option<Account<'_>>) -> Result<Cluster> + Send + Sync>;

/// What all passes share.
pub struct Context {
    /// Makes clients.
    pub connect: Connect,
    /// The controller's own client.
    pub own: kube::Client,
    /// Where copies of repositories are.
    pub cache: PathBuf,
    /// What git may do.
    pub bounds: Bounds,
    /// Whether bases may come from other machines.
    pub remote_bases: bool,
    /// Whether nothing is done with the controller's own rights.
    pub account_required: bool,
    /// How many passes may fetch, build and compare at once: that is where the memory goes.
    pub at_once: Semaphore,
}

/// What is remembered from one pass to the next. Nothing of it is needed: after a restart one pass looks at everything.
#[derive(Default)]
pub struct Memory {
    /// A client and whom it acts for.
    client: Option<(Option<String>, Cluster)>,
    mark: Option<Mark>,
}

/// What was in order at the end of a pass.
struct Mark {
    generation: i64,
    commit: String,
    set: String,
    places: Places,
    members: String,
}

impl Memory {
    fn cluster(&mut self, context: &Context, spec: &Spec) -> Result<Cluster> {
        if let Some((account, cluster)) = &self.client
            && *account == spec.service_account
        {
            return Ok(cluster.clone());
        }
        let account = spec.service_account.as_deref().map(|name| (spec.namespace.as_str(), name));
        let cluster = (context.connect)(account)?;
        self.client = Some((spec.service_account.clone(), cluster.clone()));
        Ok(cluster)
    }
}

fn ready(answer: Answer, reason: &'static str, message: impl Into<String>) -> Condition {
    condition("Ready", answer, reason, message)
}

/// A pass that could not go on.
fn failed(reason: &'static str, message: impl Into<String>) -> Report {
    Report { conditions: vec![ready(Answer::No, reason, message)], failed: true, ..Report::default() }
}

/// Where to write what happens before the pass is over.
pub trait Progressing {
    /// Says that a revision is on its way.
    async fn begins(&mut self, report: Report);
}

/// Does one pass. `None` when it was interrupted: then nothing is known but that there is more to do.
pub async fn pass(
    context: &Context,
    sync: &Value,
    memory: &mut Memory,
    stop: &watch::Sender<bool>,
    progressing: &mut impl Progressing,
) -> Option<Report> {
    let spec = match Spec::read(sync) {
        Ok(spec) => spec,
        Err(error) => return Some(failed("Invalid", format!("{error:#}"))),
    };
    if spec.suspend {
        let applied = sync["status"]["appliedRevision"].as_str().unwrap_or("nothing");
        let words = format!("suspended; {applied} is applied");
        return Some(Report { conditions: vec![ready(Answer::Unknown, "Suspended", words)], ..Report::default() });
    }
    if context.account_required && spec.service_account.is_none() {
        return Some(failed(
            "Invalid",
            "spec.serviceAccountName is missing: this controller does nothing in its own name",
        ));
    }
    let cluster = match memory.cluster(context, &spec) {
        Ok(cluster) => cluster,
        Err(error) => return Some(failed("Invalid", format!("{error:#}"))),
    };
    let one = One { context, spec: &spec, sync, cluster };
    let repository = match one.repository().await {
        Ok(repository) => repository,
        Err(error) => return Some(one.not_fetched(&error)),
    };
    let commit = match repository.resolve(&spec.source).await {
        Ok(commit) => commit,
        Err(error) => return Some(one.not_fetched(&error.into())),
    };
    let revision = spec.source.revision(&commit);
    if let Some(report) = one.unchanged(memory, &commit).await {
        return Some(report);
    }
    memory.mark = None;
    let permit = context.at_once.acquire().await.ok()?;
    let mut batch = match one.compare(&repository, &commit).await {
        Ok(batch) => batch,
        Err((mut report, revision_known)) => {
            if revision_known {
                report.conditions.push(fetched(&revision));
                report.revision = Some(revision);
            }
            return Some(report);
        }
    };
    drop(permit);
    one.finish(&mut batch, memory, &repository, &commit, stop, progressing).await
}

fn fetched(revision: &str) -> Condition {
    condition("Fetched", Answer::Yes, "Fetched", revision)
}

/// One Sync in one pass.
struct One<'a> {
    context: &'a Context,
    spec: &'a Spec,
    sync: &'a Value,
    cluster: Cluster,
}

impl One<'_> {
    fn generation(&self) -> i64 {
        self.sync["metadata"]["generation"].as_i64().unwrap_or(0)
    }

    async fn repository(&self) -> Result<Repository> {
        let uid = self.sync["metadata"]["uid"].as_str().unwrap_or_default();
        let folder = self.context.cache.join(uid);
        let mut repository = Repository::open(&folder, self.context.bounds.clone())?;
        let secret = match &self.spec.source.secret {
            Some(name) => {
                let (namespace, name) = (request::query(&self.spec.namespace), request::query(name));
                let found =
                    request::get(&self.context.own, &format!("/api/v1/namespaces/{namespace}/secrets/{name}")).await;
                Some(found?.with_context(|| format!("spec.source.secretRef: there is no secret {name}"))?)
            }
            None => None,
        };
        repository.access(credentials::access(&self.spec.source.url, secret.as_ref(), &folder)?);
        Ok(repository)
    }

    fn not_fetched(&self, error: &anyhow::Error) -> Report {
        let words = format!("{error:#}");
        let mut report = failed("FetchFailed", format!("{words}; the cluster stays as it is"));
        report.conditions.push(condition("Fetched", Answer::No, "FetchFailed", words));
        report
    }

    /// What there is to say when nothing has moved since the last pass that found everything in order.
    async fn unchanged(&self, memory: &Memory, commit: &str) -> Option<Report> {
        let mark = memory.mark.as_ref()?;
        if mark.generation != self.generation() || mark.commit != commit {
            return None;
        }
        let Members { digest, unready } = members::look(&self.cluster.client, &mark.set, &mark.places).await.ok()?;
        if digest != mark.members {
            return None;
        }
        // What was wrong since, such as a repository that did not answer, is over.
        let revision = self.spec.source.revision(commit);
        let applied = ready(Answer::Yes, "Applied", format!("{revision} is applied"));
        Some(Report { conditions: vec![fetched(&revision), applied, healthy(&unready)], ..Report::default() })
    }

    /// Fetches, builds and compares. The error says also whether the commit is known to be here.
    async fn compare(&self, repository: &Repository, commit: &str) -> Result<Batch, (Report, bool)> {
        let brought = async {
            repository.fetch(&self.spec.source, commit).await?;
            repository.check_out(&self.spec.source, commit).await
        };
        if let Err(error) = brought.await {
            return Err((self.not_fetched(&error.into()), false));
        }
        let wanted = Wanted {
            root: repository.tree(),
            path: self.spec.source.path.clone(),
            recursive: self.spec.recursive,
            remote: self.context.remote_bases,
        };
        let built = tokio::task::spawn_blocking(move || render::render(&wanted)).await;
        let manifests = match built.map_err(anyhow::Error::from).and_then(|built| built) {
            Ok(manifests) => manifests,
            Err(error) => {
                return Err((failed("BuildFailed", format!("{error:#}; nothing is applied or pruned")), true));
            }
        };
        if let Err(error) = repository.clear() {
            return Err((self.not_fetched(&error.into()), true));
        }
        batch::compare(&self.spec.batch, manifests, self.cluster.clone()).await.map_err(|error| {
            let reason = if error.is::<crate::manifests::Mistakes>() { "Invalid" } else { "CompareFailed" };
            (failed(reason, format!("{error:#}")), true)
        })
    }

    /// Does what the comparison came to.
    async fn finish(
        &self,
        batch: &mut Batch,
        memory: &mut Memory,
        repository: &Repository,
        commit: &str,
        stop: &watch::Sender<bool>,
        progressing: &mut impl Progressing,
    ) -> Option<Report> {
        let revision = self.spec.source.revision(commit);
        let plan = batch.plan.clone();
        let mut report = Report {
            conditions: vec![fetched(&revision)],
            revision: Some(revision.clone()),
            plan: Some(plan.summary()),
            objects: Some(plan.items.len() - plan.count(Action::Prune)),
            ..Report::default()
        };
        if plan.is_blocked() {
            report.failed = true;
            report.conditions.push(ready(Answer::No, "Blocked", format!("nothing is applied: {}", blocked(&plan))));
            return Some(report);
        }
        let status = &self.sync["status"];
        let applied_before = status["appliedRevision"] == revision.as_str();
        let drifted = plan.has_changes() && applied_before && status["observedGeneration"] == self.generation();
        let what = changes(&plan);
        if drifted && self.spec.drift == Drift::Report {
            let words = format!("{}: {what}", plan.summary());
            report.conditions.push(condition("Drifted", Answer::Yes, "Drifted", words.clone()));
            report.conditions.push(ready(
                Answer::Yes,
                "Drifted",
                format!("{revision} is applied, and changed since by others"),
            ));
            let told = status["conditions"].as_array().into_iter().flatten();
            if !told.into_iter().any(|known| known["type"] == "Drifted" && known["message"] == words.as_str()) {
                report.event = Some(Event { warning: true, reason: "Drifted".to_owned(), message: words });
            }
            return Some(report);
        }
        if plan.has_changes() {
            let words = format!("{revision}: {}", plan.summary());
            let mut begun = report.clone();
            begun.conditions.push(ready(Answer::Unknown, "Progressing", words));
            progressing.begins(begun).await;
        }
        let manner = Manner {
            timeout: self.spec.timeout,
            pinned: false,
            revisions: self.spec.revisions,
            cause: revision.clone(),
            color: ColorChoice::Never,
        };
        let places = members::places(batch.entries.iter().filter_map(|entry| entry.target.as_ref()));
        let mut progress = Progress::silent();
        let interrupt = Interrupt::by(stop.subscribe());
        let outcome = {
            let work = apply::execute(batch, &self.spec.batch, &manner, &mut progress, &interrupt);
            tokio::select! {
                outcome = work => outcome,
                // Never ends; the work does, at the next place where it can.
                () = self.newer(repository, commit, stop) => return None,
            }
        };
        match outcome {
            Ok(()) => {}
            Err(error) if error.is::<Interrupted>() => return None,
            Err(error) if error.is::<wait::NotReady>() => {
                let cause = error.root_cause().to_string();
                let evidence: Vec<&str> = progress.kept().filter(|line| line.contains(" waits for ")).collect();
                let words = [&[cause.as_str()], evidence.as_slice()].concat().join("\n");
                report.applied_revision = Some(revision.clone());
                report.failed = true;
                report.conditions.push(condition("Healthy", Answer::No, "NotReady", words.clone()));
                report.conditions.push(ready(Answer::No, "NotReady", format!("{revision} is applied, but {words}")));
                return Some(report);
            }
            Err(error) => {
                report.failed = true;
                report.conditions.push(ready(Answer::No, "ApplyFailed", format!("{error:#}")));
                return Some(report);
            }
        }
        report.applied_revision = Some(revision.clone());
        report.conditions.push(ready(Answer::Yes, "Applied", format!("{revision} is applied")));
        report.conditions.push(condition("Drifted", Answer::No, "InOrder", "the cluster is as the repository has it"));
        if plan.has_changes() {
            let reason = if drifted { "DriftCorrected" } else { "Applied" };
            let message = format!("{revision}: {}: {what}", plan.done());
            report.event = Some(Event { warning: false, reason: reason.to_owned(), message });
        }
        let unready = match batch.set.as_ref() {
            Some(set) => match members::look(&self.cluster.client, &set.id, &places).await {
                Ok(Members { digest, unready }) => {
                    let (generation, commit, set) = (self.generation(), commit.to_owned(), set.id.clone());
                    memory.mark = Some(Mark { generation, commit, set, places, members: digest });
                    unready
                }
                // The next pass looks at everything again.
                Err(_) => Vec::new(),
            },
            None => Vec::new(),
        };
        report.conditions.push(healthy(&unready));
        Some(report)
    }

    /// Waits for a newer commit while an older one is waited for, and stops that then.
    async fn newer(&self, repository: &Repository, commit: &str, stop: &watch::Sender<bool>) {
        loop {
            tokio::time::sleep(self.spec.interval).await;
            if repository.resolve(&self.spec.source).await.is_ok_and(|newest| newest != commit) {
                stop.send_replace(true);
                return std::future::pending().await;
            }
        }
    }
}

fn healthy(unready: &[String]) -> Condition {
    match unready {
        [] => condition("Healthy", Answer::Yes, "Ready", "all objects are ready"),
        some => condition("Healthy", Answer::No, "NotReady", some.join("\n")),
    }
}

fn blocked(plan: &Plan) -> String {
    let items = plan.items.iter().filter(|item| !item.blocked.is_empty());
    let lines: Vec<String> = items
        .take(10)
        .map(|item| format!("{}: {}", item.object, in_words_of_specs(&item.blocked.join("; "))))
        .collect();
    lines.join("\n")
}

/// The commands' hints name flags; here the same is a field of the Sync.
fn in_words_of_specs(words: &str) -> String {
    [
        ("give --max-prune ", "set spec.maxPrune to "),
        ("--recreate deletes", "spec.recreate: true deletes"),
        ("--force-conflicts takes", "spec.forceConflicts: true takes"),
        ("--take-over ", "spec.takeOver: "),
        ("give --allow-protected-namespace ", "add to spec.allowProtectedNamespaces "),
    ]
    .into_iter()
    .fold(words.to_owned(), |words, (flag, field)| words.replace(flag, field))
}

/// What changes, in a line.
fn changes(plan: &Plan) -> String {
    let items: Vec<String> = plan
        .items
        .iter()
        .filter(|item| item.action.is_change())
        .map(|item| {
            let paths: Vec<&str> = item.changes.iter().take(3).map(|change| change.path.as_str()).collect();
            let place = item.object.namespace.as_ref().map(|name| format!(" in {name}")).unwrap_or_default();
            let fields = if paths.is_empty() { String::new() } else { format!(" ({})", paths.join(", ")) };
            format!("{}{place}{fields}", item.object)
        })
        .collect();
    let more = items.len().saturating_sub(8);
    let shown = items.iter().take(8).map(String::as_str).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

/// Whether the Sync is on its way out and its objects are to go with it.
pub fn is_ending(sync: &Value) -> bool {
    let finalizers = sync["metadata"]["finalizers"].as_array();
    sync["metadata"]["deletionTimestamp"].is_string()
        && finalizers.is_some_and(|names| names.iter().any(|name| name == FINALIZER))
}

/// Keeps a Sync whose objects go with it until they are gone, and lets any other go.
pub async fn hold(context: &Context, sync: &Value) -> Result<()> {
    let spec = Spec::read(sync)?;
    let finalizers = sync["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    let held = finalizers.iter().any(|name| name == FINALIZER);
    if held == spec.prune_at_end || sync["metadata"]["deletionTimestamp"].is_string() {
        return Ok(());
    }
    write_finalizers(context, sync, &finalizers, spec.prune_at_end).await
}

/// Takes away what a Sync has brought, and lets it go.
pub async fn end(context: &Context, sync: &Value, memory: &mut Memory) -> Result<()> {
    let spec = Spec::read(sync)?;
    if spec.prune_at_end {
        let client = memory.cluster(context, &spec)?.client;
        let name = spec.batch.set.applyset.as_deref().unwrap_or_default();
        let set = ApplySet::read(&client, &spec.namespace, name).await?;
        let discovery = Discovery::ask(&client).await?;
        let members = set.members(&client, &discovery).await?;
        for member in apply_set::to_prune(members, &std::collections::BTreeSet::<ObjectRef>::new()) {
            match request::delete(&client, &member.path, &batch::delete_options(&member.uid, None, "Background")).await
            {
                Err(error) if !error.is(404) && !error.is(409) => {
                    return Err(error).with_context(|| format!("delete {}", member.object));
                }
                _ => {}
            }
        }
        history::forget(&client, &set).await?;
        match request::delete(&client, &set.path(), &json!({})).await {
            Err(error) if !error.is(404) => return Err(error).context("delete the set"),
            _ => {}
        }
    }
    let finalizers = sync["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    write_finalizers(context, sync, &finalizers, false).await
}

async fn write_finalizers(context: &Context, sync: &Value, now: &[Value], held: bool) -> Result<()> {
    let mut finalizers: Vec<Value> = now.iter().filter(|name| *name != FINALIZER).cloned().collect();
    finalizers.extend(held.then(|| Value::from(FINALIZER)));
    let metadata = &sync["metadata"];
    // With the version, so that nobody else's finalizer is lost.
    let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": metadata["resourceVersion"]}});
    let path = super::path_of(sync);
    match request::write(&context.own, http::Method::PATCH, &path, request::MERGE_PATCH, &patch).await {
        Err(error) if !error.is(404) => Err(error).context("write the finalizer"),
        _ => Ok(()),
    }
}

/// How long until a pass is tried again after it has failed so many times.
pub fn patience(failures: u32, interval: Duration) -> Duration {
    let first = Duration::from_secs(5);
    first.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(16))).min(interval.max(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_tried_again_less_and_less() {
        let interval = Duration::from_secs(60);
        let seconds: Vec<u64> = (1..7).map(|count| patience(count, interval).as_secs()).collect();
        assert_eq!(seconds, [5, 10, 20, 40, 60, 60]);
        assert_eq!(patience(u32::MAX, Duration::from_secs(5)).as_secs(), 5);
    }
}
