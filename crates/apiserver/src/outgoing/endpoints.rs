//! From a Service to the address and port of one of its ready endpoints.

use kobune_store::{At, Key, Range, Store, StoreError};
use rand::Rng;
use serde_json::Value;

/// Where a connection goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Endpoint {
    /// An address, or a name where the Service is of type `ExternalName`.
    pub host: String,
    /// The port at the endpoint.
    pub port: u16,
}

impl Endpoint {
    /// `host:port` as a URL has it.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// Which port of a Service is meant.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Port<'a> {
    /// By its number in the Service.
    Number(u16),
    /// By name, or by number written as text; empty is the only port there is.
    Named(&'a str),
}

impl std::fmt::Display for Port<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Named(name) => write!(f, "{name:?}"),
        }
    }
}

/// Why a Service leads nowhere; the words are upstream's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolveError {
    #[error("service {name:?} not found")]
    NoService { name: String },
    #[error("no service port {port} found for service {name:?}")]
    NoPort { port: String, name: String },
    #[error("no endpoints available for service {name:?}")]
    NoEndpoints { name: String },
    #[error("cannot read the endpoints of service {name:?}")]
    Read { name: String, source: StoreError },
    #[error("a stored object of service {name:?} is unreadable")]
    Damaged { name: String, source: serde_json::Error },
}

/// One ready endpoint of a Service, a different one each time.
pub(crate) async fn resolve(
    store: &dyn Store,
    namespace: &str,
    name: &str,
    port: Port<'_>,
) -> Result<Endpoint, ResolveError> {
    let mut found = all(store, namespace, name, port).await?;
    if found.is_empty() {
        return Err(ResolveError::NoEndpoints { name: name.to_owned() });
    }
    let chosen = rand::rng().random_range(0..found.len());
    Ok(found.swap_remove(chosen))
}

/// All ready endpoints of a Service's port, in a fixed order.
pub(crate) async fn all(
    store: &dyn Store,
    namespace: &str,
    name: &str,
    port: Port<'_>,
) -> Result<Vec<Endpoint>, ResolveError> {
    let read = |source| ResolveError::Read { name: name.to_owned(), source };
    let damaged = |source| ResolveError::Damaged { name: name.to_owned(), source };
    let record = store
        .get(&Key::new("core/services", namespace, name))
        .await
        .map_err(read)?
        .ok_or_else(|| ResolveError::NoService { name: name.to_owned() })?;
    let service: Value = serde_json::from_slice(&record.value).map_err(damaged)?;
    let spec = &service["spec"];
    let chosen = port_of(spec, port);
    if spec["type"] == "ExternalName" {
        let number = chosen.and_then(number).or(match port {
            Port::Number(number) => Some(number),
            Port::Named(_) => None,
        });
        return match (spec["externalName"].as_str(), number) {
            (Some(host), Some(port)) => Ok(vec![Endpoint { host: host.to_owned(), port }]),
            _ => Err(ResolveError::NoPort { port: port.to_string(), name: name.to_owned() }),
        };
    }
    let Some(chosen) = chosen else {
        return Err(ResolveError::NoPort { port: port.to_string(), name: name.to_owned() });
    };
    let port_name = chosen["name"].as_str().unwrap_or_default();
    let mut found = Vec::new();
    let mut slices = 0;
    let range = Range::namespace("discovery.k8s.io/endpointslices", namespace);
    for record in store.list(&range, At::Latest).await.map_err(read)?.iter() {
        if record.facets.label("kubernetes.io/service-name") == Some(name) {
            slices += 1;
            let slice: Value = serde_json::from_slice(&record.value).map_err(damaged)?;
            of_slice(&slice, port_name, &mut found);
        }
    }
    if slices == 0 {
        // Endpoints that somebody wrote by hand, before or without a mirrored slice.
        let key = Key::new("core/endpoints", namespace, name);
        if let Some(record) = store.get(&key).await.map_err(read)? {
            let endpoints: Value = serde_json::from_slice(&record.value).map_err(damaged)?;
            of_endpoints(&endpoints, port_name, &mut found);
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn number(port: &Value) -> Option<u16> {
    port["port"].as_u64().and_then(|port| u16::try_from(port).ok())
}

/// The port of a Service's spec that is meant.
fn port_of<'s>(spec: &'s Value, wanted: Port<'_>) -> Option<&'s Value> {
    let ports = spec["ports"].as_array()?;
    match wanted {
        Port::Number(wanted) => ports.iter().find(|port| number(port) == Some(wanted)),
        Port::Named("") => ports.first().filter(|_| ports.len() == 1),
        Port::Named(wanted) => ports.iter().find(|port| port["name"] == wanted).or_else(|| {
            let wanted: u16 = wanted.parse().ok()?;
            ports.iter().find(|port| number(port) == Some(wanted))
        }),
    }
}

fn named<'p>(ports: &'p Value, name: &str) -> Option<&'p Value> {
    ports.as_array()?.iter().find(|port| port["name"].as_str().unwrap_or_default() == name)
}

fn of_slice(slice: &Value, port_name: &str, found: &mut Vec<Endpoint>) {
    let Some(port) = named(&slice["ports"], port_name).and_then(number) else { return };
    for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
        // Readiness that nobody states is readiness.
        if endpoint["conditions"]["ready"] != false
            && let Some(host) = endpoint["addresses"].get(0).and_then(Value::as_str)
        {
            found.push(Endpoint { host: host.to_owned(), port });
        }
    }
}

fn of_endpoints(endpoints: &Value, port_name: &str, found: &mut Vec<Endpoint>) {
    for subset in endpoints["subsets"].as_array().into_iter().flatten() {
        let Some(port) = named(&subset["ports"], port_name).and_then(number) else { continue };
        for address in subset["addresses"].as_array().into_iter().flatten() {
            if let Some(host) = address["ip"].as_str() {
                found.push(Endpoint { host: host.to_owned(), port });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ports_are_found_by_number_name_and_by_being_alone() {
        let two =
            json!({"ports": [{"name": "a", "port": 80}, {"name": "443", "port": 8443}, {"name": "b", "port": 443}]});
        let one = json!({"ports": [{"port": 80}]});
        let check = |spec: &Value, wanted: Port<'_>, expected: Option<u16>| {
            assert_eq!(port_of(spec, wanted).and_then(number), expected, "{wanted}");
        };
        check(&two, Port::Number(443), Some(443));
        check(&two, Port::Number(81), None);
        check(&two, Port::Named("b"), Some(443));
        check(&two, Port::Named("443"), Some(8443));
        check(&two, Port::Named("80"), Some(80));
        check(&two, Port::Named(""), None);
        check(&one, Port::Named(""), Some(80));
        check(&json!({}), Port::Named(""), None);
    }

    #[test]
    fn only_ready_endpoints_of_the_port_count() {
        let slice = json!({
            "ports": [{"name": "a", "port": 1}, {"port": 2}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.3"]},
            ],
        });
        let mut found = Vec::new();
        of_slice(&slice, "", &mut found);
        let texts: Vec<String> = found.iter().map(Endpoint::authority).collect();
        assert_eq!(texts, ["10.0.0.1:2", "10.0.0.3:2"]);
        let mut found = Vec::new();
        of_slice(&slice, "c", &mut found);
        assert!(found.is_empty());
        of_endpoints(
            &json!({"subsets": [{"addresses": [{"ip": "fd00::1"}], "notReadyAddresses": [{"ip": "fd00::2"}], "ports": [{"name": "a", "port": 7}]}]}),
            "a",
            &mut found,
        );
        assert_eq!(found.iter().map(Endpoint::authority).collect::<Vec<_>>(), ["[fd00::1]:7"]);
    }
}
