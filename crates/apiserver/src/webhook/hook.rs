//! One webhook as its configuration describes it, read once a revision.

use std::time::Duration;

use kobune_kinds::selector::LabelSelector;
use kobune_store::Record;
use serde_json::Value;

use super::{Destination, rule::Rule};
use crate::policy::MatchConditions;

/// The time a webhook has when its configuration names none; `v1` always does.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Which form of `AdmissionReview` a webhook reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReviewVersion {
    V1,
    V1Beta1,
}

impl ReviewVersion {
    pub(super) fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "admission.k8s.io/v1",
            Self::V1Beta1 => "admission.k8s.io/v1beta1",
        }
    }
}

/// A webhook of a configuration.
#[derive(Debug)]
pub(crate) struct Hook {
    /// Unique among all webhooks of its sort.
    pub(super) id: String,
    /// Its fully qualified name.
    pub(super) name: String,
    /// The name of the configuration that it stands in.
    pub(super) configuration: String,
    pub(super) rules: Vec<Rule>,
    /// Whether requests for other versions of a resource in the rules are converted and sent too.
    pub(super) equivalent: bool,
    /// Whether the request goes on when the webhook cannot be asked.
    pub(super) ignores_failures: bool,
    /// The labels that a namespace must have; what is wrong with the selector otherwise.
    pub(super) namespaces: Result<LabelSelector, String>,
    /// The labels that the object, or the old one, must have.
    pub(super) objects: Result<LabelSelector, String>,
    pub(super) conditions: MatchConditions,
    /// What is wrong with a `clientConfig` that leads nowhere.
    pub(super) destination: Result<Destination, String>,
    pub(super) timeout: Duration,
    /// Whether a dry run does no harm; `None` when the configuration does not say.
    pub(super) harmless: Option<bool>,
    /// `None` when no version that the webhook reads is known here.
    pub(super) review: Option<ReviewVersion>,
    /// Whether it is asked again after others have changed the object.
    pub(super) again: bool,
}

impl Hook {
    fn of(configuration: &str, index: usize, hook: &Value) -> Self {
        let name = hook["name"].as_str().unwrap_or_default().to_owned();
        let selector = |field: &str| match &hook[field] {
            Value::Null => LabelSelector::parse("").map_err(|error| error.to_string()),
            selector => LabelSelector::from_object(selector).map_err(|error| error.to_string()),
        };
        let versions = hook["admissionReviewVersions"].as_array();
        Self {
            id: format!("{configuration}/{name}/{index}"),
            configuration: configuration.to_owned(),
            rules: hook["rules"].as_array().into_iter().flatten().map(Rule::from_object).collect(),
            equivalent: hook["matchPolicy"] != "Exact",
            ignores_failures: hook["failurePolicy"] == "Ignore",
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
            conditions: MatchConditions::of_webhook(&hook["matchConditions"]),
            destination: Destination::from_object(&hook["clientConfig"]).map_err(|error| error.to_string()),
            timeout: hook["timeoutSeconds"].as_u64().map_or(TIMEOUT, Duration::from_secs),
            harmless: hook["sideEffects"].as_str().map(|effects| matches!(effects, "None" | "NoneOnDryRun")),
            review: versions.into_iter().flatten().find_map(|version| match version.as_str() {
                Some("v1") => Some(ReviewVersion::V1),
                Some("v1beta1") => Some(ReviewVersion::V1Beta1),
                _ => None,
            }),
            again: hook["reinvocationPolicy"] == "IfNeeded",
            name,
        }
    }
}

/// All webhooks of a collection of configurations, in the order in which they are asked: by the name of their
/// configuration, and in its order.
pub(super) fn read(records: &[Record]) -> Vec<Hook> {
    let mut hooks = Vec::new();
    for record in records {
        let name = &*record.key.name;
        match serde_json::from_slice::<Value>(&record.value) {
            Ok(configuration) => {
                let webhooks = configuration["webhooks"].as_array();
                hooks.extend(
                    webhooks.into_iter().flatten().enumerate().map(|(index, hook)| Hook::of(name, index, hook)),
                );
            }
            // The store holds what this server encoded; one that is damaged all the same cannot be asked.
            Err(error) => tracing::error!(name, %error, "a stored webhook configuration is unreadable"),
        }
    }
    hooks
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn hooks_are_read() {
        let hook = Hook::of(
            "c",
            1,
            &json!({
                "name": "a.b.c", "failurePolicy": "Ignore", "matchPolicy": "Exact", "sideEffects": "NoneOnDryRun",
                "timeoutSeconds": 3, "admissionReviewVersions": ["v7", "v1beta1", "v1"], "reinvocationPolicy": "IfNeeded",
                "clientConfig": {"url": "https://x.example/"}, "objectSelector": {"matchLabels": {"a": "b"}},
            }),
        );
        assert_eq!((hook.id.as_str(), hook.timeout.as_secs(), hook.harmless), ("c/a.b.c/1", 3, Some(true)));
        assert!(hook.ignores_failures && !hook.equivalent && hook.again);
        assert_eq!(hook.review, Some(ReviewVersion::V1Beta1));
        assert!(hook.namespaces.is_ok_and(|selector| selector.is_everything()));
        assert!(hook.objects.is_ok_and(|selector| !selector.is_everything()));
    }

    #[test]
    fn what_is_missing_is_strict() {
        let hook = Hook::of("c", 0, &json!({"name": "a", "sideEffects": "Unknown"}));
        assert!(!hook.ignores_failures && hook.equivalent && !hook.again);
        assert_eq!((hook.harmless, hook.review, hook.timeout.as_secs()), (Some(false), None, 10));
        assert_eq!(hook.destination.expect_err("nowhere"), "webhook configuration must have either service or URL");
    }
}
