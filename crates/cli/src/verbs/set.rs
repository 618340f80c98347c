//! `kobune set`: one thing of many objects (`k8s.io/kubectl/pkg/cmd/set`).

mod difference;
mod env;
mod image;
mod others;

use std::process::ExitCode;

use anyhow::{Error, Result, anyhow, bail};
use clap::{Args, Subcommand};
use serde_json::Value;

use super::chosen::{self, ChangeOptions, Chosen, Wide};
use super::words::ending;
use crate::connect::Cluster;

/// What is set.
#[derive(Debug, Clone, Subcommand)]
pub enum SetCommand {
    /// Set and remove variables of containers' environments
    Env(env::SetEnvOptions),
    /// Give containers other images
    Image(image::SetImageOptions),
    /// Set what containers need, and the most that they get
    Resources(others::SetResourcesOptions),
    /// Set the selectors of Services
    Selector(others::SetSelectorOptions),
    /// Set the service accounts of workloads
    #[command(name = "serviceaccount", visible_alias = "sa")]
    ServiceAccount(others::SetServiceAccountOptions),
    /// Add users, groups and service accounts to role bindings
    Subject(others::SetSubjectOptions),
}

/// What all of them have in common.
#[derive(Debug, Clone, Args)]
pub struct SetOptions {
    /// All objects of the namespace
    #[arg(long)]
    pub all: bool,
    /// Change what manifests say and print it, without asking a server
    #[arg(long)]
    pub local: bool,
    /// What all verbs have that change objects.
    #[command(flatten)]
    pub change: ChangeOptions,
}

/// Sets it.
pub async fn set(command: SetCommand) -> Result<ExitCode> {
    let done = match command {
        SetCommand::Env(options) => env::env(&options).await,
        SetCommand::Image(options) => image::image(&options).await,
        SetCommand::Resources(options) => others::resources(&options).await,
        SetCommand::Selector(options) => others::selector(&options).await,
        SetCommand::ServiceAccount(options) => others::service_account(&options).await,
        SetCommand::Subject(options) => others::subject(&options).await,
    };
    ending(done.map(|()| ExitCode::SUCCESS))
}

/// What is said of a change.
struct Edit<'a> {
    /// What was done.
    done: &'a str,
    /// The words before a refusal of the server.
    failure: &'a str,
}

impl SetOptions {
    fn check_all(&self) -> Result<()> {
        if self.all && self.change.choice.selector.is_some() {
            bail!("cannot set --all and --selector at the same time");
        }
        Ok(())
    }

    fn check(&self, resources: &[String]) -> Result<()> {
        self.check_all()?;
        if resources.is_empty() && self.change.choice.files.is_empty() {
            bail!("one or more resources must be specified as <resource> <name> or <resource>/<name>");
        }
        Ok(())
    }

    async fn objects(&self, cluster: &Cluster, resources: &[String]) -> Result<(Vec<Chosen>, Vec<Error>)> {
        let wide = Wide { all: self.all, ..Wide::default() };
        chosen::objects(cluster, &self.change.place, resources, &self.change.choice, wide).await
    }

    /// Changes all objects that are meant.
    async fn each(
        &self,
        resources: &[String],
        edit: &Edit<'_>,
        mut change: impl FnMut(&mut Value, &mut Vec<Error>) -> Result<()>,
    ) -> Result<()> {
        let printer = self.change.print.printer()?;
        let mut errors = Vec::new();
        if self.local {
            if self.change.dry_run.at == super::create::DryRun::Server {
                bail!("cannot specify --local and --dry-run=server - did you mean --dry-run=client?");
            }
            if !resources.is_empty() {
                bail!(
                    "error: you must specify resources by --filename when --local is set.\nExample resource specifications include:\n   '-f rsrc.yaml'\n   '--filename=rsrc.json'"
                );
            }
            for manifest in self.change.choice.files.read_whole()? {
                let mut object = manifest.value;
                change(&mut object, &mut errors)?;
                self.change.print(&printer, &object, edit.done)?;
            }
            return chosen::all_fine(errors);
        }
        let cluster = self.change.place.connect.connect().await?;
        let (found, lost) = self.objects(&cluster, resources).await?;
        errors.extend(lost);
        for one in found {
            let mut after = one.object.clone();
            if let Err(error) = change(&mut after, &mut errors) {
                let said = if edit.failure.is_empty() {
                    error
                } else {
                    anyhow!("error: {}/{} {error}", one.resource.plural, one.name)
                };
                errors.push(said);
                continue;
            }
            let Some(patch) = difference::patch(&one.object, &after) else { continue };
            if self.change.dry_run.is_here() {
                self.change.print(&printer, &after, edit.done)?;
                continue;
            }
            // Kinds of definitions know no strategic patches, and have nothing that is set here.
            let media = "application/strategic-merge-patch+json";
            match self.change.patch(&cluster, &one, media, &patch, "set").await {
                Ok(after) => self.change.print(&printer, &after, edit.done)?,
                Err(error) if edit.failure.is_empty() => errors.push(super::words::refused(error)),
                Err(error) => errors.push(anyhow!("{}{error}", edit.failure)),
            }
        }
        chosen::all_fine(errors)
    }
}

/// Splits arguments into what is chosen and what is changed.
fn split(arguments: &[String], is_change: impl Fn(&str) -> bool, what: &str) -> Result<(Vec<String>, Vec<String>)> {
    let (mut resources, mut changes) = (Vec::new(), Vec::new());
    for argument in arguments {
        match (is_change(argument), changes.is_empty()) {
            (true, _) => changes.push(argument.clone()),
            (false, true) => resources.push(argument.clone()),
            (false, false) => bail!("all resources must be specified before {what} changes: {argument}"),
        }
    }
    Ok((resources, changes))
}

/// The spec of the pods that an object makes, or of the pod that it is.
fn pod_spec(object: &mut Value) -> Result<&mut Value> {
    let path = match object["kind"].as_str().unwrap_or_default() {
        "Pod" => "/spec",
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" | "ReplicationController" => {
            "/spec/template/spec"
        }
        "CronJob" => "/spec/jobTemplate/spec/template/spec",
        kind => {
            let version = object["apiVersion"].as_str().unwrap_or_default().rsplit('/').next().unwrap_or_default();
            bail!("the object is not a pod or does not have a pod template: *{version}.{kind}")
        }
    };
    object.pointer_mut(path).ok_or_else(|| anyhow!("the object has no pod template"))
}

/// The containers whose names fit, where `*` stands for any letters: first those that stay, then those that come before.
fn containers<'s>(spec: &'s mut Value, name: &str) -> Vec<&'s mut Value> {
    let Some(fields) = spec.as_object_mut() else { return Vec::new() };
    let (mut first, mut last) = (Vec::new(), Vec::new());
    for (field, value) in fields {
        let into = match field.as_str() {
            "containers" => &mut first,
            "initContainers" => &mut last,
            _ => continue,
        };
        let items = value.as_array_mut().into_iter().flatten();
        into.extend(items.filter(|container| fits(container["name"].as_str().unwrap_or_default(), name)));
    }
    first.append(&mut last);
    first
}

fn fits(name: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_names() {
        for (name, pattern, expected) in [
            ("main", "main", true),
            ("main", "*", true),
            ("main", "m*", true),
            ("main", "*in", true),
            ("main", "m*n", true),
            ("main", "a*", false),
            ("main", "*a*i*", true),
            ("main", "mai", false),
        ] {
            assert_eq!(fits(name, pattern), expected, "{name} {pattern}");
        }
    }
}
