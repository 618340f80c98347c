//! What of Ingresses matters to the proxy. Pure.

use std::sync::Arc;

use k8s_openapi::api::networking::v1::{Ingress, IngressBackend};
use kobune_network::cluster::Key;

/// Upstream's way to name a class from before there were IngressClasses.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// An Ingress.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The class that is to serve it, if it says so.
    pub class: Option<String>,
    /// When it was made, for the order among those that claim the same.
    pub created: Option<String>,
    /// Its rules.
    pub rules: Vec<Rule>,
    /// What serves everything else.
    pub default: Option<Backend>,
    /// Secrets with certificates, in its own namespace, and the hosts that each is for.
    pub tls: Vec<(Arc<str>, Vec<String>)>,
    /// The addresses it says it has.
    pub addresses: Vec<String>,
}

/// The paths of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The host; empty for every host, `*.` in front of one label of any name.
    pub host: String,
    /// The paths.
    pub paths: Vec<Path>,
}

/// A path and what serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// Whether nothing may follow.
    pub exact: bool,
    /// The path.
    pub path: String,
    /// What serves it.
    pub backend: Backend,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The Service.
    pub service: Key,
    /// Which of its ports.
    pub port: Port,
}

/// How a Service's port is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Port {
    /// By its number.
    Number(u16),
    /// By its name.
    Name(String),
}

impl Facts {
    /// From the API's object.
    pub fn of(ingress: &Ingress) -> Facts {
        let namespace: Arc<str> = Arc::from(ingress.metadata.namespace.as_deref().unwrap_or_default());
        let annotation = ingress.metadata.annotations.as_ref().and_then(|all| all.get(CLASS_ANNOTATION));
        let balancer = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let addresses = balancer.iter().flat_map(|balancer| balancer.ingress.iter().flatten());
        let addresses = addresses.filter_map(|ingress| ingress.ip.clone()).collect();
        let spec = ingress.spec.clone().unwrap_or_default();
        let rules = spec.rules.into_iter().flatten().map(|rule| Rule {
            host: rule.host.unwrap_or_default().to_ascii_lowercase(),
            paths: rule
                .http
                .into_iter()
                .flat_map(|http| http.paths)
                .filter_map(|path| {
                    Some(Path {
                        exact: path.path_type == "Exact",
                        path: path.path.filter(|path| !path.is_empty()).unwrap_or_else(|| "/".to_owned()),
                        backend: backend(&namespace, &path.backend)?,
                    })
                })
                .collect(),
        });
        Facts {
            class: spec.ingress_class_name.or_else(|| annotation.cloned()),
            created: ingress.metadata.creation_timestamp.as_ref().map(|time| time.0.to_string()),
            rules: rules.collect(),
            default: spec.default_backend.as_ref().and_then(|default| backend(&namespace, default)),
            tls: spec
                .tls
                .into_iter()
                .flatten()
                .filter_map(|tls| Some((Arc::from(tls.secret_name?), tls.hosts.unwrap_or_default())))
                .collect(),
            addresses,
        }
    }
}

/// None for a backend that is no Service: nothing here could serve that.
fn backend(namespace: &Arc<str>, backend: &IngressBackend) -> Option<Backend> {
    let service = backend.service.as_ref()?;
    let port = service.port.as_ref()?;
    let number = port.number.and_then(|number| u16::try_from(number).ok()).map(Port::Number);
    Some(Backend {
        service: (Arc::clone(namespace), Arc::from(service.name.as_str())),
        port: number.or_else(|| port.name.clone().map(Port::Name))?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_kept() {
        let object = json!({"metadata": {"namespace": "shop", "name": "web", "annotations": {CLASS_ANNOTATION: "old"}},
            "spec": {"tls": [{"hosts": ["a.example"], "secretName": "cert"}], "defaultBackend": {"service": {"name": "rest", "port": {"number": 81}}},
                "rules": [{"host": "A.example", "http": {"paths": [
                    {"path": "/x", "pathType": "Exact", "backend": {"service": {"name": "web", "port": {"name": "http"}}}},
                    {"pathType": "Prefix", "backend": {"resource": {"kind": "Bucket", "name": "b"}}},
                ]}}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}});
        let facts = Facts::of(&serde_json::from_value(object).expect("an Ingress"));
        assert_eq!(
            (facts.class.as_deref(), facts.addresses.as_slice()),
            (Some("old"), ["192.0.2.1".to_owned()].as_slice())
        );
        assert_eq!(facts.rules[0].host, "a.example");
        assert_eq!(facts.rules[0].paths.len(), 1, "a backend that is no Service is left out");
        assert_eq!(facts.rules[0].paths[0].backend.port, Port::Name("http".to_owned()));
        assert_eq!(facts.default.map(|default| default.port), Some(Port::Number(81)));
        assert_eq!(facts.tls, [(Arc::from("cert"), vec!["a.example".to_owned()])]);
    }
}
