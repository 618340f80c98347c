//! `clientConfig`: where a webhook is and whom to trust there.

use std::sync::Arc;

use base64::Engine;
use http::Uri;
use serde_json::Value;

use crate::outgoing::trust::Trust;

/// The port of a Service reference that names none.
const DEFAULT_PORT: u16 = 443;

/// Where a webhook is, read from a `WebhookClientConfig`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Destination {
    pub(super) place: Place,
    pub(super) trust: Trust,
    /// With its leading slash.
    pub(super) path: String,
}

/// What answers there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// A Service of this cluster; its certificate is for `<name>.<namespace>.svc`.
    Service { namespace: String, name: String, port: u16 },
    /// A host, by name or address.
    Host { host: String, port: u16 },
}

/// Why a `clientConfig` cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DestinationError {
    #[error("webhook configuration must have either service or URL")]
    Nowhere,
    #[error("Unparsable URL: {url:?}")]
    Url { url: String },
    #[error("caBundle is not base64")]
    Bundle(#[source] base64::DecodeError),
    #[error("unable to load root certificates: unable to parse bytes as PEM block")]
    NotText(#[source] std::string::FromUtf8Error),
}

impl Destination {
    /// Reads the `clientConfig` of a webhook, admission's or conversion's.
    pub(crate) fn from_object(config: &Value) -> Result<Self, DestinationError> {
        let trust = match config["caBundle"].as_str() {
            None | Some("") => Trust::System,
            Some(encoded) => {
                let bytes =
                    base64::engine::general_purpose::STANDARD.decode(encoded).map_err(DestinationError::Bundle)?;
                Trust::Bundle(Arc::from(String::from_utf8(bytes).map_err(DestinationError::NotText)?))
            }
        };
        let service = &config["service"];
        if service.is_object() {
            let text = |field: &str| service[field].as_str().unwrap_or_default().to_owned();
            let port = service["port"].as_u64().and_then(|port| u16::try_from(port).ok());
            let place = Place::Service {
                namespace: text("namespace"),
                name: text("name"),
                port: port.filter(|port| *port != 0).unwrap_or(DEFAULT_PORT),
            };
            return Ok(Self { place, trust, path: rooted(&text("path")) });
        }
        let url = config["url"].as_str().filter(|url| !url.is_empty()).ok_or(DestinationError::Nowhere)?;
        let malformed = || DestinationError::Url { url: url.to_owned() };
        let parsed: Uri = url.parse().map_err(|_| malformed())?;
        let host = parsed.host().ok_or_else(malformed)?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let place = Place::Host { host, port: parsed.port_u16().unwrap_or(DEFAULT_PORT) };
        Ok(Self { place, trust, path: rooted(parsed.path()) })
    }

    /// The name that the server's certificate must be for.
    pub(super) fn server_name(&self) -> String {
        match &self.place {
            Place::Service { namespace, name, .. } => format!("{name}.{namespace}.svc"),
            Place::Host { host, .. } => host.clone(),
        }
    }

    /// `host:port` as the webhook and error messages see it.
    pub(super) fn authority(&self) -> String {
        let port = match &self.place {
            Place::Service { port, .. } | Place::Host { port, .. } => *port,
        };
        let name = self.server_name();
        if name.contains(':') { format!("[{name}]:{port}") } else { format!("{name}:{port}") }
    }
}

fn rooted(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn places() {
        let check = |config: Value, authority: &str, name: &str, path: &str| {
            let destination = Destination::from_object(&config).expect("a destination");
            assert_eq!(
                (destination.authority().as_str(), destination.server_name().as_str(), destination.path.as_str()),
                (authority, name, path)
            );
        };
        check(json!({"service": {"namespace": "a", "name": "b"}}), "b.a.svc:443", "b.a.svc", "/");
        check(
            json!({"service": {"namespace": "a", "name": "b", "port": 8443, "path": "/x"}}),
            "b.a.svc:8443",
            "b.a.svc",
            "/x",
        );
        check(json!({"url": "https://h.example/p/q"}), "h.example:443", "h.example", "/p/q");
        check(json!({"url": "https://[fd00::1]:9443"}), "[fd00::1]:9443", "fd00::1", "/");
    }

    #[test]
    fn what_leads_nowhere() {
        let check = |config: Value, words: &str| {
            assert_eq!(Destination::from_object(&config).expect_err("no destination").to_string(), words);
        };
        check(json!({}), "webhook configuration must have either service or URL");
        check(json!({"url": "https://a b"}), "Unparsable URL: \"https://a b\"");
        check(json!({"url": "https://a", "caBundle": "?"}), "caBundle is not base64");
    }
}
