//! Extenders: servers beside the scheduler that have a say in where pods go, as KubeSchedulerConfiguration names them.
//!
//! What is configured is here; `call` speaks with one of them, `consult` with all that care for a pod. Upstream:
//! <https://github.com/kubernetes/kubernetes/blob/master/pkg/scheduler/extender.go>.

pub(crate) mod call;
pub(crate) mod consult;
#[cfg(test)]
mod tls_tests;

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;

use crate::pod::PodInfo;

/// How long an extender may take where nothing is said, as upstream.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// How an extender is trusted, and how it trusts: paths of PEM files, or PEM in Base64.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ExtenderTls {
    /// Takes any certificate.
    pub insecure: bool,
    /// The name that the certificate must have, if not the address's.
    pub server_name: String,
    /// The client's certificate.
    pub cert_file: String,
    /// Its key.
    pub key_file: String,
    /// The authority of the extender's certificate.
    pub ca_file: String,
    /// Instead of `cert_file`.
    pub cert_data: String,
    /// Instead of `key_file`.
    pub key_data: String,
    /// Instead of `ca_file`.
    pub ca_data: String,
}

/// One extender.
#[derive(Clone, Debug, PartialEq)]
pub struct Extender {
    /// Where it is; verbs are appended.
    pub url_prefix: String,
    /// The verb that says which nodes do; empty for none.
    pub filter_verb: String,
    /// The verb that says which victims do.
    pub preempt_verb: String,
    /// The verb that scores nodes.
    pub prioritize_verb: String,
    /// The verb that binds in our place.
    pub bind_verb: String,
    /// How much its scores count.
    pub weight: i64,
    /// How long it may take.
    pub timeout: Duration,
    /// It knows nodes and pods itself, so that names suffice.
    pub node_cache_capable: bool,
    /// Pods are placed without it when it fails.
    pub ignorable: bool,
    /// It cares only for pods that ask for one of these; for all when there is none.
    pub managed_resources: BTreeSet<String>,
    /// How it is reached, where its address begins with `https`.
    pub tls: ExtenderTls,
}

impl Extender {
    /// Whether it has a say about this pod.
    pub(crate) fn cares_for(&self, pod: &PodInfo) -> bool {
        self.managed_resources.is_empty() || self.managed_resources.iter().any(|name| pod.requests.other(name) > 0)
    }
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct WrittenResource {
    name: String,
    #[serde(rename = "ignoredByScheduler")]
    ignored_by_scheduler: bool,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct WrittenExtender {
    url_prefix: String,
    filter_verb: String,
    preempt_verb: String,
    prioritize_verb: String,
    weight: i64,
    bind_verb: String,
    #[serde(rename = "enableHTTPS")]
    enable_https: bool,
    tls_config: Option<ExtenderTls>,
    http_timeout: Option<String>,
    node_cache_capable: bool,
    managed_resources: Vec<WrittenResource>,
    ignorable: bool,
}

/// Takes what was written. Resources that the scheduler is to leave to extenders go to `ignored`.
pub(crate) fn read(
    written: Vec<WrittenExtender>,
    ignored: &mut BTreeSet<String>,
    mistakes: &mut Vec<String>,
) -> Vec<Extender> {
    if written.iter().filter(|one| !one.bind_verb.is_empty()).count() > 1 {
        mistakes.push("extenders: only one can have a bindVerb".to_owned());
    }
    let mut seen = BTreeSet::new();
    let each = written.into_iter().enumerate().map(|(at, written)| {
        let place = format!("extenders[{at}]");
        if !["http://", "https://"].iter().any(|scheme| written.url_prefix.starts_with(scheme)) {
            mistakes.push(format!("{place}.urlPrefix: must begin with http:// or https://"));
        }
        if !written.prioritize_verb.is_empty() && written.weight <= 0 {
            mistakes.push(format!("{place}.weight: must be above 0 where there is a prioritizeVerb"));
        }
        let timeout = match written.http_timeout.as_deref().map(str::parse::<jiff::SignedDuration>) {
            None => DEFAULT_TIMEOUT,
            Some(Ok(timeout)) if timeout.is_positive() => timeout.unsigned_abs(),
            Some(Ok(timeout)) if timeout.is_zero() => DEFAULT_TIMEOUT,
            Some(_) => {
                mistakes.push(format!("{place}.httpTimeout: must be a duration such as 500ms"));
                DEFAULT_TIMEOUT
            }
        };
        for resource in &written.managed_resources {
            if !resource.name.contains('/') || resource.name.starts_with("kubernetes.io/") {
                mistakes.push(format!("{place}.managedResources: {:?} is no extended resource", resource.name));
            }
            if !seen.insert(resource.name.clone()) {
                mistakes.push(format!("{place}.managedResources: {:?} has another extender", resource.name));
            }
            if resource.ignored_by_scheduler {
                ignored.insert(resource.name.clone());
            }
        }
        let mut tls = written.tls_config.unwrap_or_default();
        // As upstream: who asks for HTTPS and names no authority takes any certificate.
        tls.insecure |= written.enable_https && tls.ca_file.is_empty() && tls.ca_data.is_empty();
        Extender {
            url_prefix: written.url_prefix.trim_end_matches('/').to_owned(),
            filter_verb: written.filter_verb,
            preempt_verb: written.preempt_verb,
            prioritize_verb: written.prioritize_verb,
            bind_verb: written.bind_verb,
            weight: written.weight,
            timeout,
            node_cache_capable: written.node_cache_capable,
            ignorable: written.ignorable,
            managed_resources: written.managed_resources.into_iter().map(|resource| resource.name).collect(),
            tls,
        }
    });
    each.collect()
}
