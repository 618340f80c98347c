//! `metrics.k8s.io`, answered by this process: the API server passes requests on, `kobune-metrics` asks the nodes.

use std::sync::{Arc, OnceLock};

use futures::FutureExt;
use futures::future::BoxFuture;
use http::StatusCode;
use kobune_apiserver::{Guest, GuestAnswer};
use kobune_metrics::Metrics;

/// The guest of the API server. It asks through that server and so gets its client after it.
#[derive(Debug, Default)]
pub struct MetricsGuest(OnceLock<Arc<Metrics>>);

impl MetricsGuest {
    /// Gives it the client that it asks nodes with; only the first one counts.
    pub fn begin(&self, client: kube::Client) {
        self.0.get_or_init(|| Arc::new(Metrics::new(client)));
    }
}

impl Guest for MetricsGuest {
    fn group(&self) -> &str {
        kobune_metrics::GROUP
    }

    fn version(&self) -> &str {
        kobune_metrics::VERSION
    }

    fn resources(&self) -> serde_json::Value {
        Metrics::resources()
    }

    fn answer(&self, path: String, query: String) -> BoxFuture<'static, GuestAnswer> {
        let metrics = self.0.get().cloned();
        async move {
            match metrics {
                Some(metrics) => {
                    let answer = metrics.answer(&path, &query).await;
                    GuestAnswer { code: answer.code, body: answer.body }
                }
                None => GuestAnswer {
                    code: StatusCode::SERVICE_UNAVAILABLE,
                    body: serde_json::json!({
                        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                        "message": "the server is starting", "reason": "ServiceUnavailable", "code": 503,
                    }),
                },
            }
        }
        .boxed()
    }
}
