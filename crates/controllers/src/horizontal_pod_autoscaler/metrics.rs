//! Reads metrics.k8s.io, custom.metrics.k8s.io and external.metrics.k8s.io, whoever serves them.
//!
//! Upstream: <https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/podautoscaler/metrics/client.go>.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::MetricIdentifier;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kobune_scheduler::quantity::milli_value;
use kube::core::Selector;
use serde_json::Value;

use super::replicas::{Sample, Samples};
use crate::pod_control::error_text;

/// The window of a sample that does not name one.
const WINDOW: SignedDuration = SignedDuration::from_secs(60);

/// Why there is no metric.
#[derive(Debug, thiserror::Error)]
pub enum MetricError {
    /// The API does not answer, or does not know it.
    #[error("unable to fetch metrics from {api} metrics API: {text}")]
    Fetch {
        /// `resource`, `custom` or `external`.
        api: &'static str,
        /// What it said.
        text: String,
    },
    /// It answers that there is nothing.
    #[error("no metrics returned from {api} metrics API")]
    Nothing {
        /// `resource`, `custom` or `external`.
        api: &'static str,
    },
}

/// A reader of metrics.
pub struct Metrics<'m> {
    /// The API server, which asks whoever serves a group.
    pub client: &'m kube::Client,
    /// Where the pods are.
    pub namespace: &'m str,
}

fn amount(value: &Value) -> Option<i64> {
    Some(milli_value(&Quantity(value.as_str()?.to_owned())))
}

fn time(value: &Value) -> Timestamp {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// Only letters, digits and a few signs may stand in a query as they are.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn query(path: &str, parameters: &[(&str, String)]) -> String {
    let given = parameters.iter().filter(|(_, value)| !value.is_empty());
    let texts: Vec<String> = given.map(|(name, value)| format!("{name}={}", escaped(value))).collect();
    if texts.is_empty() { path.to_owned() } else { format!("{path}?{}", texts.join("&")) }
}

/// The text of a metric's own selector.
fn selector_of(metric: &MetricIdentifier) -> String {
    let parsed = metric.selector.clone().and_then(|selector| Selector::try_from(selector).ok());
    parsed.map(|selector| selector.to_string()).unwrap_or_default()
}

/// What pods used of a resource, in one container or in all; a pod of which a part is not known is left out.
fn of_resource(answer: &Value, resource: &str, container: Option<&str>) -> Samples {
    let items = answer["items"].as_array().into_iter().flatten();
    let samples = items.filter_map(|item| {
        let containers = item["containers"].as_array()?;
        let wanted = containers.iter().filter(|one| container.is_none_or(|name| one["name"] == name));
        let amounts: Option<Vec<i64>> = wanted.map(|one| amount(&one["usage"][resource])).collect();
        let amounts = amounts.filter(|amounts| container.is_none() || !amounts.is_empty())?;
        let window = item["window"].as_str().and_then(|text| text.parse().ok()).unwrap_or(WINDOW);
        let value = amounts.into_iter().fold(0_i64, i64::saturating_add);
        Some((item["metadata"]["name"].as_str()?.to_owned(), Sample { value, at: time(&item["timestamp"]), window }))
    });
    samples.collect()
}

/// Values of a custom metric by the names of the objects that they are about.
fn of_custom(answer: &Value) -> Samples {
    let items = answer["items"].as_array().into_iter().flatten();
    let samples = items.filter_map(|item| {
        // The older version calls it `window`.
        let seconds = item["windowSeconds"].as_i64().or(item["window"].as_i64());
        let window = seconds.map_or(WINDOW, SignedDuration::from_secs);
        let name = item["describedObject"]["name"].as_str()?.to_owned();
        Some((name, Sample { value: amount(&item["value"])?, at: time(&item["timestamp"]), window }))
    });
    samples.collect()
}

impl Metrics<'_> {
    async fn get(&self, api: &'static str, path: &str) -> Result<Value, MetricError> {
        let request = http::Request::get(path).body(Vec::new());
        let fetch = |text: String| MetricError::Fetch { api, text };
        let request = request.map_err(|error| fetch(error.to_string()))?;
        self.client.request(request).await.map_err(|error| fetch(error_text(&error)))
    }

    /// What the selected pods used of a resource.
    pub async fn resource(&self, resource: &str, container: Option<&str>, pods: &str) -> Result<Samples, MetricError> {
        let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{}/pods", self.namespace);
        let answer = self.get("resource", &query(&path, &[("labelSelector", pods.to_owned())])).await?;
        let samples = of_resource(&answer, resource, container);
        if samples.is_empty() { Err(MetricError::Nothing { api: "resource" }) } else { Ok(samples) }
    }

    /// The version in which custom metrics are served.
    async fn custom_root(&self) -> Result<String, MetricError> {
        const GROUP: &str = "custom.metrics.k8s.io";
        let fetch = |text: String| MetricError::Fetch { api: "custom", text };
        let groups = self.client.list_api_groups().await.map_err(|error| fetch(error_text(&error)))?;
        let group = groups.groups.into_iter().find(|group| group.name == GROUP);
        let version = group.and_then(|group| group.preferred_version.or(group.versions.into_iter().next()));
        let version = version.ok_or_else(|| fetch(format!("no custom metrics API ({GROUP}) registered")))?;
        Ok(format!("/apis/{}", version.group_version))
    }

    /// A custom metric of each of the selected pods.
    pub async fn pods(&self, metric: &MetricIdentifier, pods: &str) -> Result<Samples, MetricError> {
        let root = self.custom_root().await?;
        let path = format!("{root}/namespaces/{}/pods/*/{}", self.namespace, metric.name);
        let parameters = [("labelSelector", pods.to_owned()), ("metricLabelSelector", selector_of(metric))];
        let samples = of_custom(&self.get("custom", &query(&path, &parameters)).await?);
        if samples.is_empty() { Err(MetricError::Nothing { api: "custom" }) } else { Ok(samples) }
    }

    /// A custom metric of one object; `resource` is `plural.group`, or `None` for the namespace itself.
    pub async fn object(
        &self,
        metric: &MetricIdentifier,
        resource: Option<(&str, bool)>,
        name: &str,
    ) -> Result<i64, MetricError> {
        let root = self.custom_root().await?;
        let path = match resource {
            None => format!("{root}/namespaces/{name}/metrics/{}", metric.name),
            Some((plural, true)) => format!("{root}/namespaces/{}/{plural}/{name}/{}", self.namespace, metric.name),
            Some((plural, false)) => format!("{root}/{plural}/{name}/{}", metric.name),
        };
        let answer = self.get("custom", &query(&path, &[("metricLabelSelector", selector_of(metric))])).await?;
        let first = answer["items"].as_array().and_then(|items| amount(&items.first()?["value"]));
        first.ok_or(MetricError::Nothing { api: "custom" })
    }

    /// The sum of what an external metric has.
    pub async fn external(&self, metric: &MetricIdentifier) -> Result<i64, MetricError> {
        let path = format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/{}/{}", self.namespace, metric.name);
        let answer = self.get("external", &query(&path, &[("labelSelector", selector_of(metric))])).await?;
        let values: Vec<i64> =
            answer["items"].as_array().into_iter().flatten().filter_map(|item| amount(&item["value"])).collect();
        if values.is_empty() {
            return Err(MetricError::Nothing { api: "external" });
        }
        Ok(values.into_iter().fold(0, i64::saturating_add))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers() {
        let answer = json!({"items": [
            {"metadata": {"name": "a"}, "timestamp": "2026-01-01T00:00:00Z", "window": "15.5s", "containers": [
                {"name": "c", "usage": {"cpu": "250m", "memory": "1Mi"}}, {"name": "d", "usage": {"cpu": "5000000n"}}]},
            {"metadata": {"name": "b"}, "containers": [{"name": "c", "usage": {"memory": "1Mi"}}]}]});
        let values =
            |samples: Samples| samples.into_iter().map(|(name, sample)| (name, sample.value)).collect::<Vec<_>>();
        assert_eq!(values(of_resource(&answer, "cpu", None)), [("a".to_owned(), 255)]);
        assert_eq!(values(of_resource(&answer, "cpu", Some("c"))), [("a".to_owned(), 250)]);
        assert_eq!(values(of_resource(&answer, "cpu", Some("x"))), []);
        assert_eq!(of_resource(&answer, "cpu", None)["a"].window, SignedDuration::from_millis(15_500));
        let custom = json!({"items": [{"describedObject": {"name": "p"}, "windowSeconds": 30, "value": "1500m"}]});
        assert_eq!(of_custom(&custom)["p"].value, 1500);
    }

    #[test]
    fn queries() {
        let metric: MetricIdentifier =
            serde_json::from_value(json!({"name": "m", "selector": {"matchLabels": {"queue": "a"}}}))
                .expect("a metric");
        let parameters = [("labelSelector", selector_of(&metric)), ("metricLabelSelector", String::new())];
        assert_eq!(query("/p", &parameters), "/p?labelSelector=queue%3Da");
        assert_eq!(query("/p", &[]), "/p");
    }
}
