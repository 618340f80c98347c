//! `kobune set resources`, `selector`, `serviceaccount` and `subject` (`k8s.io/kubectl/pkg/cmd/set`).

use std::str::FromStr as _;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use kobune_kinds::quantity::Quantity;
use serde_json::{Map, Value, json};

use super::{Edit, SetOptions, containers, pod_spec};
use crate::verbs::SubjectFlags;

/// The flags of `set resources`.
#[derive(Debug, Clone, Args)]
pub struct SetResourcesOptions {
    /// TYPE NAME..., TYPE/NAME..., or TYPE with -l or --all
    #[arg(value_name = "TYPE[/NAME] [NAME...]")]
    pub arguments: Vec<String>,
    /// The containers; * stands for any letters
    #[arg(short, long, value_name = "NAME", default_value = "*")]
    pub containers: String,
    /// The most that they get, such as cpu=200m,memory=512Mi
    #[arg(long, value_name = "RESOURCE=AMOUNT,...")]
    pub limits: Option<String>,
    /// What is kept for them
    #[arg(long, value_name = "RESOURCE=AMOUNT,...")]
    pub requests: Option<String>,
    /// What all have in common.
    #[command(flatten)]
    pub common: SetOptions,
}

/// Sets what containers need.
pub async fn resources(options: &SetResourcesOptions) -> Result<()> {
    let common = &options.common;
    common.check_all()?;
    let limits = amounts(options.limits.as_deref())?;
    let requests = amounts(options.requests.as_deref())?;
    if limits.is_empty() && requests.is_empty() {
        bail!("you must specify an update to requests or limits (in the form of --requests/--limits)");
    }
    let edit =
        Edit { done: "resource requirements updated", failure: "failed to patch resources update to pod template " };
    common
        .each(&options.arguments, &edit, |object, errors| {
            let found = containers(pod_spec(object)?, &options.containers);
            if found.is_empty() {
                errors.push(anyhow!("error: unable to find container named {}", options.containers));
            }
            for container in found {
                for (field, amounts) in [("limits", &limits), ("requests", &requests)] {
                    for (name, amount) in amounts {
                        container["resources"][field][name] = amount.clone();
                    }
                }
            }
            Ok(())
        })
        .await
}

fn amounts(text: Option<&str>) -> Result<Map<String, Value>> {
    let mut amounts = Map::new();
    for part in text.unwrap_or_default().split(',').filter(|part| !part.is_empty()) {
        match part.split('=').collect::<Vec<_>>().as_slice() {
            [name, amount] => {
                Quantity::from_str(amount).map_err(|_| {
                    anyhow!(
                        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
                    )
                })?;
                amounts.insert((*name).to_owned(), (*amount).into());
            }
            _ => bail!("invalid argument syntax {part}, expected <resource>=<value>"),
        }
    }
    Ok(amounts)
}

/// The flags of `set selector`.
#[derive(Debug, Clone, Args)]
pub struct SetSelectorOptions {
    /// TYPE NAME... or TYPE/NAME..., then the selector
    #[arg(value_name = "TYPE[/NAME] [NAME...] SELECTOR", required = true)]
    pub arguments: Vec<String>,
    /// Only if the object is at this version
    #[arg(long, value_name = "VERSION")]
    pub resource_version: Option<String>,
    /// What all have in common.
    #[command(flatten)]
    pub common: SetOptions,
}

/// Sets the selectors of Services.
pub async fn selector(options: &SetSelectorOptions) -> Result<()> {
    let Some((text, resources)) = options.arguments.split_last() else { bail!("one selector is required") };
    let mut labels = Map::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        match part.split_once("==").or(part.split_once('=')) {
            Some((name, value)) if !name.ends_with('!') => labels.insert(name.to_owned(), value.into()),
            _ => bail!("match expression {part} not supported on this object"),
        };
    }
    let edit = Edit { done: "selector updated", failure: "" };
    options
        .common
        .each(resources, &edit, |object, _| {
            if object["kind"] != "Service" {
                bail!("setting a selector is only supported for Services");
            }
            object["spec"]["selector"] = labels.clone().into();
            if let Some(version) = &options.resource_version {
                object["metadata"]["resourceVersion"] = version.as_str().into();
            }
            Ok(())
        })
        .await
}

/// The flags of `set serviceaccount`.
#[derive(Debug, Clone, Args)]
pub struct SetServiceAccountOptions {
    /// TYPE NAME... or TYPE/NAME..., then the service account
    #[arg(value_name = "TYPE[/NAME] [NAME...] ACCOUNT")]
    pub arguments: Vec<String>,
    /// What all have in common.
    #[command(flatten)]
    pub common: SetOptions,
}

/// Sets service accounts of workloads.
pub async fn service_account(options: &SetServiceAccountOptions) -> Result<()> {
    let Some((account, resources)) = options.arguments.split_last() else { bail!("serviceaccount is required") };
    let edit = Edit { done: "serviceaccount updated", failure: "failed to patch ServiceAccountName " };
    options
        .common
        .each(resources, &edit, |object, _| {
            pod_spec(object)?["serviceAccountName"] = account.as_str().into();
            Ok(())
        })
        .await
}

/// The flags of `set subject`.
#[derive(Debug, Clone, Args)]
pub struct SetSubjectOptions {
    /// TYPE NAME..., TYPE/NAME..., or TYPE with -l or --all
    #[arg(value_name = "TYPE[/NAME] [NAME...]")]
    pub arguments: Vec<String>,
    /// A user
    #[arg(long = "user", value_name = "NAME")]
    pub users: Vec<String>,
    /// A group
    #[arg(long, value_name = "NAME")]
    pub group: Vec<String>,
    /// A service account
    #[arg(long, value_name = "NAMESPACE:NAME")]
    pub serviceaccount: Vec<String>,
    /// What all have in common.
    #[command(flatten)]
    pub common: SubjectFlags<SetOptions>,
}

/// Adds subjects to bindings.
pub async fn subject(options: &SetSubjectOptions) -> Result<()> {
    let common = &options.common.0;
    common.check_all()?;
    if options.users.is_empty() && options.group.is_empty() && options.serviceaccount.is_empty() {
        bail!("you must specify at least one value of user, group or serviceaccount");
    }
    let edit = Edit { done: "subjects updated", failure: "failed to patch subjects to rolebinding: " };
    let wanted = subjects(options)?;
    common
        .each(&options.arguments, &edit, |object, _| {
            let kind = object["kind"].as_str().unwrap_or_default();
            if !matches!(kind, "RoleBinding" | "ClusterRoleBinding") {
                bail!("setting subjects is only supported for RoleBinding/ClusterRoleBinding");
            }
            let own = object["metadata"]["namespace"].clone();
            let mut all = object["subjects"].as_array().cloned().unwrap_or_default();
            for subject in &wanted {
                let mut subject = subject.clone();
                if subject["namespace"] == "" {
                    if own.is_null() {
                        bail!("serviceaccount must be <namespace>:<name>, namespace must be specified");
                    }
                    subject["namespace"] = own.clone();
                }
                if !all.contains(&subject) {
                    all.push(subject);
                }
            }
            object["subjects"] = all.into();
            Ok(())
        })
        .await
}

fn subjects(options: &SetSubjectOptions) -> Result<Vec<Value>> {
    let sorted = |names: &[String]| {
        let mut names = names.to_vec();
        names.sort();
        names.dedup();
        names
    };
    let group = "rbac.authorization.k8s.io";
    let plain = |kind: &str, name: String| json!({"kind": kind, "apiGroup": group, "name": name});
    let mut subjects: Vec<Value> = sorted(&options.users).into_iter().map(|name| plain("User", name)).collect();
    subjects.extend(sorted(&options.group).into_iter().map(|name| plain("Group", name)));
    for account in sorted(&options.serviceaccount) {
        match account.split(':').collect::<Vec<_>>().as_slice() {
            [namespace, name] if !name.is_empty() => {
                subjects.push(json!({"kind": "ServiceAccount", "namespace": namespace, "name": name}));
            }
            _ => bail!("serviceaccount must be <namespace>:<name>"),
        }
    }
    Ok(subjects)
}
