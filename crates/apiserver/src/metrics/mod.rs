//! `/metrics` in the Prometheus text form, under upstream's names.

mod process;
mod requests;
mod text;
mod watches;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kobune_store::{At, Range};
use parking_lot::RwLock;

use crate::{
    ApiServer,
    error::{Answer, ApiError},
};

pub(crate) use requests::{Requests, Series};
pub(crate) use text::{CONTENT_TYPE, Labels, Writer};

/// Somebody else's metrics in the same text form.
pub type MetricsSource = Arc<dyn Fn() -> String + Send + Sync>;

/// How attempts to say who one is ended.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    pub success: AtomicU64,
    pub failure: AtomicU64,
    pub anonymous: AtomicU64,
    pub tls_errors: AtomicU64,
}

/// What the server counts.
#[derive(Default)]
pub(crate) struct Metrics {
    pub requests: Requests,
    pub attempts: Attempts,
    /// How often the health checks were asked for, by name, kind and outcome.
    pub health: crate::health::Counts,
    /// Events sent to watchers.
    pub watch_events: watches::WatchEvents,
    sources: RwLock<Vec<MetricsSource>>,
}

impl ApiServer {
    /// Adds the metrics of another part of the process to `/metrics`.
    pub fn add_metrics(&self, source: MetricsSource) {
        self.metrics.sources.write().push(source);
    }

    /// The text that `/metrics` answers.
    pub(crate) async fn metrics_text(&self) -> Answer<String> {
        let mut out = Writer::default();
        self.metrics.requests.write(&mut out);
        self.write_objects(&mut out).await?;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let attempts = &self.metrics.attempts;
        let name = "authentication_attempts";
        out.family(name, "counter", "Counter of authenticated attempts.");
        for (result, count) in [("success", &attempts.success), ("failure", &attempts.failure)] {
            out.value(name, &Labels::new().with("result", result), load(count));
        }
        let help = "Number of requests without credentials.";
        out.single("kobune_anonymous_requests_total", "counter", help, load(&attempts.anonymous));
        let help = "Number of requests dropped with 'TLS handshake error from' error";
        out.single("apiserver_tls_handshake_errors_total", "counter", help, load(&attempts.tls_errors));
        self.metrics.watch_events.write(&mut out);
        if let Some(auditor) = &self.config.auditor {
            let help = "Counter of audit events generated and sent to the audit backend.";
            out.single("apiserver_audit_event_total", "counter", help, auditor.events());
            let name = "apiserver_audit_error_total";
            out.family(name, "counter", "Counter of audit events that failed to be audited properly.");
            for (plugin, lost) in auditor.lost() {
                out.value(name, &Labels::new().with("plugin", plugin), lost);
            }
        }
        self.config.authorization.metrics.write(&mut out);
        if let Some(tracer) = &self.config.tracer {
            let help = "Number of spans that were lost because the collector was not quick enough.";
            out.single("kobune_trace_spans_dropped_total", "counter", help, tracer.dropped());
        }
        self.write_build(&mut out);
        process::write(&mut out);
        out.single("kobune_store_revision", "gauge", "The store's newest revision.", self.store.revision());
        self.flows.write(&mut out);
        self.converter.write(&mut out);
        let mut webhooks = String::new();
        self.webhooks.metrics.write(&mut webhooks);
        out.append(&webhooks);
        let sources = self.metrics.sources.read().clone();
        for source in sources {
            out.append(&source());
        }
        Ok(out.into_text())
    }

    /// The number of stored objects by resource.
    async fn write_objects(&self, out: &mut Writer) -> Answer<()> {
        let mut counts = Vec::new();
        let catalogue = self.catalogue.load_full();
        for kind in catalogue.kinds().iter().filter(|kind| kind.stored && kind.is_storage_version()) {
            let listing = self.store.list(&Range::all(&kind.collection), At::Latest).await;
            let count = listing.map_err(|error| ApiError::from_store(&error))?.count();
            counts.push((kind.clone(), count));
        }
        let name = "apiserver_resource_objects";
        out.family(name, "gauge", "Number of stored objects at the time of last check split by kind.");
        for (kind, count) in &counts {
            let labels = Labels::new().with("group", &kind.group).with("resource", &kind.plural);
            out.value(name, &labels, count);
        }
        let name = "apiserver_storage_objects";
        out.family(name, "gauge", "Number of stored objects at the time of last check split by kind.");
        for (kind, count) in &counts {
            let resource = crate::error::qualified(&kind.group, &kind.plural);
            out.value(name, &Labels::new().with("resource", &resource), count);
        }
        Ok(())
    }

    fn write_build(&self, out: &mut Writer) {
        let version = crate::document::version();
        let mut labels = Labels::new();
        for (label, field) in [
            ("build_date", "buildDate"),
            ("compiler", "compiler"),
            ("git_commit", "gitCommit"),
            ("git_tree_state", "gitTreeState"),
            ("git_version", "gitVersion"),
            ("go_version", "goVersion"),
            ("major", "major"),
            ("minor", "minor"),
            ("platform", "platform"),
        ] {
            labels = labels.with(label, version[field].as_str().unwrap_or_default());
        }
        let name = "kubernetes_build_info";
        out.family(name, "gauge", "A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.");
        out.value(name, &labels, 1);
    }
}
