//! `/livez`, `/readyz` and `/healthz`: named checks, and the service level indicators about them.
//!
//! kobune starts in one go: everything that upstream does in hooks after the start has been done before the first request
//! is answered. Those checks exist under upstream's names, since clients look for them, and are good because the server
//! answers at all. The others look at something when they are asked.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{Response, StatusCode};
use kobune_store::Key;
use parking_lot::Mutex;

use crate::error::Answer;
use crate::metrics::{CONTENT_TYPE, Labels, Writer};
use crate::path::Route;
use crate::query::Query;
use crate::{ApiServer, Body, document};

/// How long the store may take to answer.
const STORE_PATIENCE: Duration = Duration::from_secs(2);

/// What is done before the first answer, under the names of upstream's hooks.
const STARTED: [&str; 24] = [
    "poststarthook/start-apiserver-admission-initializer",
    "poststarthook/start-kube-apiserver-admission-initializer",
    "poststarthook/generic-apiserver-start-informers",
    "poststarthook/priority-and-fairness-config-consumer",
    "poststarthook/priority-and-fairness-filter",
    "poststarthook/storage-object-count-tracker-hook",
    "poststarthook/start-apiextensions-informers",
    "poststarthook/start-apiextensions-controllers",
    "poststarthook/crd-informer-synced",
    "poststarthook/start-system-namespaces-controller",
    "poststarthook/bootstrap-controller",
    "poststarthook/start-service-ip-repair-controllers",
    "poststarthook/rbac/bootstrap-roles",
    "poststarthook/scheduling/bootstrap-system-priority-classes",
    "poststarthook/priority-and-fairness-config-producer",
    "poststarthook/start-cluster-authentication-info-controller",
    "poststarthook/start-kube-apiserver-identity-lease-controller",
    "poststarthook/start-kube-aggregator-informers",
    "poststarthook/apiservice-registration-controller",
    "poststarthook/apiservice-status-available-controller",
    "poststarthook/kube-apiserver-autoregistration",
    "autoregister-completion",
    "poststarthook/apiservice-openapi-controller",
    "poststarthook/apiservice-openapiv3-controller",
];

/// How often a check was good, and how often it was not.
type Outcomes = (u64, u64);

/// How the checks ended, by name and endpoint.
#[derive(Debug, Default)]
pub(crate) struct Counts(Mutex<BTreeMap<(&'static str, &'static str), Outcomes>>);

impl Counts {
    fn add(&self, which: &'static str, checks: &[(&'static str, bool)]) {
        let mut counts = self.0.lock();
        for (name, good) in checks {
            let (passed, failed) = counts.entry((name, which)).or_default();
            *(if *good { passed } else { failed }) += 1;
        }
    }
}

impl ApiServer {
    /// Answers what tells how the server is; `None` for every other path.
    pub(crate) async fn telemetry(&self, route: &Route, query: &Query) -> Answer<Option<Response<Body>>> {
        Ok(Some(match route {
            Route::Health { which, check } => self.health(which, check.as_deref(), query).await,
            Route::Metrics => document::text(StatusCode::OK, self.metrics_text().await?, CONTENT_TYPE),
            Route::HealthMetrics => document::text(StatusCode::OK, self.health_metrics().await, CONTENT_TYPE),
            _ => return Ok(None),
        }))
    }

    /// The checks behind an endpoint and whether they are good.
    async fn checks(&self, which: &str) -> Vec<(&'static str, bool)> {
        let key = Key::new("core/namespaces", "", "default");
        // A shared store is asked itself; what is in memory here says nothing about it.
        let read = tokio::time::timeout(STORE_PATIENCE, async {
            self.store.fresh().await?;
            self.store.get(&key).await
        })
        .await;
        let mut checks = vec![("ping", true), ("log", true), ("etcd", matches!(read, Ok(Ok(_))))];
        if which == "readyz" {
            checks.push(("etcd-readiness", checks[2].1));
            checks.push(("informer-sync", self.security.is_current()));
        }
        if let Some(encryption) = self.config.encryption.as_ref().filter(|encryption| encryption.asks_others()) {
            checks.push(("kms-providers", encryption.check().is_ok()));
        }
        checks.extend(STARTED.map(|name| (name, true)));
        if which == "readyz" {
            checks.push(("shutdown", !self.shutdown.is_cancelled()));
        }
        checks
    }

    /// Answers an endpoint, or one of its checks.
    async fn health(&self, which: &'static str, check: Option<&str>, query: &Query) -> Response<Body> {
        const PLAIN: &str = "text/plain; charset=utf-8";
        let mut checks = self.checks(which).await;
        if let Some(name) = check {
            checks.retain(|(known, _)| *known == name);
            if checks.is_empty() {
                return document::text(StatusCode::NOT_FOUND, "404 page not found\n".to_owned(), PLAIN);
            }
        }
        self.metrics.health.add(which, &checks);
        let excluded: Vec<&str> = query.all("exclude").collect();
        let (good, report) = report(which, check.is_some(), &checks, &excluded);
        let code = if good { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
        let text = if good && !query.has("verbose") { "ok".to_owned() } else { report };
        document::text(code, text, PLAIN)
    }

    /// The text of `/metrics/slis`.
    async fn health_metrics(&self) -> String {
        let mut out = Writer::default();
        let name = "kubernetes_healthcheck";
        out.family(name, "gauge", "This metric records the result of a single healthcheck.");
        for which in ["healthz", "livez", "readyz"] {
            let checks = self.checks(which).await;
            self.metrics.health.add(which, &checks);
            for (check, good) in checks {
                out.value(name, &Labels::new().with("name", check).with("type", which), u8::from(good));
            }
        }
        let name = "kubernetes_healthchecks_total";
        out.family(name, "counter", "This metric records the results of all healthcheck.");
        for ((check, which), (passed, failed)) in self.metrics.health.0.lock().iter() {
            for (status, count) in
                [("success", *passed), ("error", *failed)].into_iter().filter(|(_, count)| *count > 0)
            {
                let labels = Labels::new().with("name", check).with("status", status).with("type", which);
                out.value(name, &labels, count);
            }
        }
        out.into_text()
    }
}

/// Whether all checks are good that are not excluded, and the report about them.
fn report(which: &str, single: bool, checks: &[(&'static str, bool)], excluded: &[&str]) -> (bool, String) {
    let mut report = String::new();
    for (name, good) in checks {
        report.push_str(&match (excluded.contains(name), good) {
            (true, _) => format!("[+]{name} excluded: ok\n"),
            (false, true) => format!("[+]{name} ok\n"),
            (false, false) => format!("[-]{name} failed: reason withheld\n"),
        });
    }
    let unknown: Vec<String> = excluded
        .iter()
        .filter(|name| !checks.iter().any(|(known, _)| known == *name))
        .map(|name| format!("{name:?}"))
        .collect();
    if !single && !unknown.is_empty() {
        report
            .push_str(&format!("warn: some health checks cannot be excluded: no matches for {}\n", unknown.join(", ")));
    }
    let good = checks.iter().all(|(name, good)| *good || excluded.contains(name));
    report.push_str(&format!("{which} check {}\n", if good { "passed" } else { "failed" }));
    (good, report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports() {
        let checks = [("ping", true), ("etcd", false)];
        let check = |excluded: &[&str], good: bool, expected: &str| {
            assert_eq!(report("livez", false, &checks, excluded), (good, expected.to_owned()));
        };
        check(&[], false, "[+]ping ok\n[-]etcd failed: reason withheld\nlivez check failed\n");
        check(&["etcd"], true, "[+]ping ok\n[+]etcd excluded: ok\nlivez check passed\n");
        check(
            &["etcd", "moon"],
            true,
            "[+]ping ok\n[+]etcd excluded: ok\nwarn: some health checks cannot be excluded: no matches for \"moon\"\nlivez check passed\n",
        );
    }
}
