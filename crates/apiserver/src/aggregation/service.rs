//! APIServices in the form that requests need, read once a change.

use std::{collections::HashMap, sync::Arc};

use base64::Engine;
use kobune_store::Record;
use serde_json::Value;

use super::guest::GUEST;
use crate::outgoing::trust::Trust;

/// The port of a Service reference that names none.
const DEFAULT_PORT: u16 = 443;

/// One APIService.
#[derive(Debug)]
pub(crate) struct Service {
    pub name: String,
    pub group: String,
    pub version: String,
    pub group_priority: i64,
    pub version_priority: i64,
    /// Who serves it; `None` is this server.
    pub remote: Option<Remote>,
    /// Another part of this process answers for it.
    pub guest: bool,
    /// Whether its condition says that it can be asked.
    pub available: bool,
}

/// A server behind this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remote {
    pub namespace: String,
    pub name: String,
    pub port: u16,
    /// Whom to trust; what is wrong with the bundle otherwise.
    pub trust: Result<Trust, String>,
}

impl Remote {
    /// The name that the server's certificate must be for.
    pub(crate) fn server_name(&self) -> String {
        format!("{}.{}.svc", self.name, self.namespace)
    }

    fn of(spec: &Value) -> Option<Self> {
        let service = spec.get("service").filter(|service| service.is_object())?;
        let text = |field: &str| service[field].as_str().unwrap_or_default().to_owned();
        let bundle = spec["caBundle"].as_str().unwrap_or_default();
        let trust = if spec["insecureSkipTLSVerify"] == true {
            Ok(Trust::Anybody)
        } else if bundle.is_empty() {
            Ok(Trust::System)
        } else {
            base64::engine::general_purpose::STANDARD
                .decode(bundle)
                .map_err(|error| error.to_string())
                .and_then(|bytes| String::from_utf8(bytes).map_err(|error| error.to_string()))
                .map(|pem| Trust::Bundle(Arc::from(pem)))
        };
        let port = service["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        Some(Self { namespace: text("namespace"), name: text("name"), port: port.unwrap_or(DEFAULT_PORT), trust })
    }
}

impl Service {
    pub(crate) fn of(object: &Value) -> Self {
        let spec = &object["spec"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let remote = Remote::of(spec);
        Self {
            guest: remote.is_none() && object["metadata"]["labels"][GUEST] == "true",
            name: text(&object["metadata"]["name"]),
            group: text(&spec["group"]),
            version: text(&spec["version"]),
            group_priority: spec["groupPriorityMinimum"].as_i64().unwrap_or(0),
            version_priority: spec["versionPriority"].as_i64().unwrap_or(0),
            remote,
            available: condition(object).is_some_and(|condition| condition["status"] == "True"),
        }
    }
}

/// The condition `Available`.
pub(super) fn condition(object: &Value) -> Option<&Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == "Available")
}

/// All APIServices.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    services: Vec<Service>,
    /// Those of other servers and of guests, by group and version.
    remotes: HashMap<String, usize>,
}

impl Registry {
    pub(super) fn read(records: &[Record]) -> Self {
        let objects = records.iter().filter_map(|record| match serde_json::from_slice::<Value>(&record.value) {
            Ok(object) => Some(Service::of(&object)),
            Err(error) => {
                tracing::error!(key = %record.key, %error, "a stored APIService is unreadable");
                None
            }
        });
        Self::of(objects.collect())
    }

    pub(super) fn of(services: Vec<Service>) -> Self {
        let remotes = services
            .iter()
            .enumerate()
            .filter(|(_, service)| service.remote.is_some() || service.guest)
            .map(|(index, service)| (format!("{}/{}", service.group, service.version), index))
            .collect();
        Self { services, remotes }
    }

    /// Whether this server serves everything itself.
    pub(crate) fn is_local(&self) -> bool {
        self.remotes.is_empty()
    }

    /// The foreign APIService of a group and version.
    pub(crate) fn remote(&self, group: &str, version: &str) -> Option<&Service> {
        if self.remotes.is_empty() {
            return None;
        }
        self.remotes.get(&format!("{group}/{version}")).map(|index| &self.services[*index])
    }

    /// All foreign APIServices, those of the highest priority first.
    pub(crate) fn remotes(&self) -> Vec<&Service> {
        let mut found: Vec<&Service> = self.remotes.values().map(|index| &self.services[*index]).collect();
        found.sort_by(|a, b| {
            let key = |service: &Service| (-service.group_priority, -service.version_priority);
            key(a).cmp(&key(b)).then_with(|| a.name.cmp(&b.name))
        });
        found
    }

    /// The priority of a group: the highest that one of its APIServices claims.
    pub(crate) fn priority(&self, group: &str) -> i64 {
        // It has no APIService and comes before all others, as upstream's.
        if group == "apiregistration.k8s.io" {
            return 20_000;
        }
        self.services
            .iter()
            .filter(|service| service.group == group)
            .map(|service| service.group_priority)
            .max()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn services_are_read() {
        let service = Service::of(&json!({
            "metadata": {"name": "v1.x.example"},
            "spec": {
                "group": "x.example", "version": "v1", "groupPriorityMinimum": 2000, "versionPriority": 15,
                "service": {"namespace": "a", "name": "b", "port": 8443}, "insecureSkipTLSVerify": true,
            },
            "status": {"conditions": [{"type": "Other", "status": "True"}, {"type": "Available", "status": "True"}]},
        }));
        let remote = service.remote.as_ref().expect("it is served elsewhere");
        assert_eq!((remote.server_name().as_str(), remote.port, &remote.trust), ("b.a.svc", 8443, &Ok(Trust::Anybody)));
        assert!(service.available);
        let local = Service::of(&json!({"metadata": {"name": "v1.apps"}, "spec": {"group": "apps", "version": "v1"}}));
        assert!(local.remote.is_none() && !local.available);
        let registry = Registry::of(vec![local, service]);
        assert!(registry.remote("apps", "v1").is_none());
        assert_eq!(registry.remote("x.example", "v1").map(|service| service.name.as_str()), Some("v1.x.example"));
        assert_eq!(registry.priority("x.example"), 2000);
    }
}
