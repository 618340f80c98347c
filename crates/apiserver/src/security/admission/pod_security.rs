//! PodSecurity: the Pod Security Standards `baseline` and `restricted`, by the labels of the namespace.
//!
//! Facts: the standards' own text and upstream's `pod-security-admission/policy` for names, order and messages.

mod checks;

use serde_json::Value;

use super::fields::{metadata, text};
use super::{Operation, Request};
use crate::security::Refusal;
use crate::security::lookup::Lookup;

/// How strict a namespace is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    fn parse(text: &str) -> Level {
        match text {
            "baseline" => Level::Baseline,
            "restricted" => Level::Restricted,
            // Upstream takes a label that it does not understand as the strictest level.
            "privileged" => Level::Privileged,
            _ => Level::Restricted,
        }
    }
}

/// A namespace's wish for one mode: the level, and how messages name it with its version.
struct Policy {
    level: Level,
    words: String,
}

fn policy(namespace: &Value, mode: &str) -> Option<Policy> {
    let label = |key: String| metadata(namespace, "labels", &key);
    let level = label(format!("pod-security.kubernetes.io/{mode}"))?;
    let version = label(format!("pod-security.kubernetes.io/{mode}-version")).unwrap_or("latest");
    let parsed = Level::parse(level);
    let name = match parsed {
        Level::Privileged => return None,
        Level::Baseline => "baseline",
        Level::Restricted => "restricted",
    };
    Some(Policy { level: parsed, words: format!("{name}:{version}") })
}

/// Refuses a pod that the namespace does not take, and warns about pods and templates as it wants.
pub(super) async fn validate(
    lookup: &Lookup,
    request: &Request<'_>,
    object: &Value,
    old: Option<&Value>,
) -> Result<Vec<String>, Refusal> {
    let Some(is_pod) = concerns(request) else { return Ok(Vec::new()) };
    let Some(namespace) = lookup.object("core/namespaces", "", request.namespace).await? else {
        return Ok(Vec::new());
    };
    let (enforce, warn) = (policy(&namespace, "enforce"), policy(&namespace, "warn"));
    // What is only noted needs no look where nobody reads it.
    let audit = request.trail.and_then(|_| policy(&namespace, "audit"));
    if enforce.is_none() && warn.is_none() && audit.is_none() {
        return Ok(Vec::new());
    }
    let pod = if is_pod { Some(object) } else { template(request, object) };
    let Some(pod) = pod else { return Ok(Vec::new()) };
    if request.operation == Operation::Update {
        // What a pod may do was decided when it was made; only a change of what runs is looked at again.
        let old = old.and_then(|old| if is_pod { Some(old) } else { template(request, old) });
        if old.is_some_and(|old| old["spec"] == pod["spec"]) {
            return Ok(Vec::new());
        }
    }
    if is_pod {
        let words = enforce.as_ref().map_or("privileged:latest", |enforce| &enforce.words);
        request.annotate("pod-security.kubernetes.io/enforce-policy", words);
    }
    if let Some(audit) = &audit
        && let Some(violations) = checks::violations(pod, audit.level == Level::Restricted)
    {
        let violations = format!("would violate PodSecurity {:?}: {violations}", audit.words);
        request.annotate("pod-security.kubernetes.io/audit-violations", &violations);
    }
    if is_pod
        && let Some(enforce) = &enforce
        && let Some(violations) = checks::violations(pod, enforce.level == Level::Restricted)
    {
        return Err(request.forbid(Some(object), format!("violates PodSecurity {:?}: {violations}", enforce.words)));
    }
    let mut warnings = Vec::new();
    if let Some(warn) = &warn
        && let Some(violations) = checks::violations(pod, warn.level == Level::Restricted)
    {
        warnings.push(format!("would violate PodSecurity {:?}: {violations}", warn.words));
    }
    Ok(warnings)
}

/// Whether the request is about a pod (true) or about an object with a pod template (false).
fn concerns(request: &Request<'_>) -> Option<bool> {
    match (request.group, request.resource, request.subresource) {
        ("", "pods", "" | "ephemeralcontainers" | "resize") => Some(true),
        ("", "podtemplates" | "replicationcontrollers", "")
        | ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets", "")
        | ("batch", "jobs" | "cronjobs", "") => Some(false),
        _ => None,
    }
}

fn template<'a>(request: &Request<'_>, object: &'a Value) -> Option<&'a Value> {
    match request.resource {
        "podtemplates" => object.get("template"),
        "cronjobs" => object.pointer("/spec/jobTemplate/spec/template"),
        _ => object.pointer("/spec/template"),
    }
}

/// All containers of a pod, in the order in which upstream visits them.
fn containers(spec: &Value) -> impl Iterator<Item = (&str, &Value)> {
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(move |kind| {
        super::fields::items(spec, kind).iter().map(|container| (text(container, "name"), container))
    })
}
