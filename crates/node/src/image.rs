//! Image names and pull decisions.

use k8s_openapi::api::core::v1::Container;
use serde_json::Value;

use crate::references::Content;
use base64::Engine as _;
use kobune_runtime::Auth;

/// When an image is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// Each time a container starts.
    Always,
    /// When it isn't there.
    IfNotPresent,
    /// Not at all.
    Never,
}

impl PullPolicy {
    /// A container's policy; what is not said follows from the tag, as the API's default does.
    pub fn of(container: &Container) -> PullPolicy {
        PullPolicy::parse(container.image_pull_policy.as_deref(), container.image.as_deref().unwrap_or_default())
    }

    /// What is said for an image, or what follows from its tag.
    pub fn parse(said: Option<&str>, image: &str) -> PullPolicy {
        match said {
            Some("Always") => PullPolicy::Always,
            Some("Never") => PullPolicy::Never,
            Some("IfNotPresent") => PullPolicy::IfNotPresent,
            _ if is_latest(image) => PullPolicy::Always,
            _ => PullPolicy::IfNotPresent,
        }
    }
}

fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    match image.rsplit_once(':') {
        Some((_, tag)) if !tag.contains('/') => tag == "latest",
        _ => true,
    }
}

/// The registry's host of an image name, `docker.io` when it has none.
pub fn registry(image: &str) -> (&str, &str) {
    match image.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest),
        _ => ("docker.io", image),
    }
}

/// Whether no registry has this image: it was made or loaded on the machine under a name of kobune's own domain.
pub fn is_local(image: &str) -> bool {
    registry(image).0 == "kobune.local"
}

/// The credentials that the pod's pull secrets have for an image, best match first.
pub fn credentials(image: &str, secrets: &[Content]) -> Vec<Auth> {
    let mut found: Vec<(usize, Auth)> = Vec::new();
    for secret in secrets {
        let auths = match (secret.get(".dockerconfigjson"), secret.get(".dockercfg")) {
            (Some(bytes), _) => {
                serde_json::from_slice::<Value>(bytes).ok().and_then(|config| config.get("auths").cloned())
            }
            (None, Some(bytes)) => serde_json::from_slice::<Value>(bytes).ok(),
            (None, None) => None,
        };
        let Some(Value::Object(auths)) = auths else { continue };
        for (key, entry) in auths {
            if let Some(length) = matches(&key, image) {
                found.extend(auth(&entry).map(|auth| (length, auth)));
            }
        }
    }
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.into_iter().map(|(_, auth)| auth).collect()
}

/// Whether a registry's pattern (`*.example.org/team`) is about an image; how long it is, since longer ones say more.
pub fn matches(pattern: &str, image: &str) -> Option<usize> {
    let (host, path) = registry(image);
    let wanted = pattern.trim_start_matches("https://").trim_start_matches("http://");
    let wanted =
        wanted.strip_suffix("/v1/").or_else(|| wanted.strip_suffix("/v2/")).unwrap_or(wanted).trim_end_matches('/');
    let (wanted_host, wanted_path) = wanted.split_once('/').unwrap_or((wanted, ""));
    let wanted_host = if wanted_host == "index.docker.io" { "docker.io" } else { wanted_host };
    (host_matches(wanted_host, host) && path.starts_with(wanted_path)).then_some(wanted.len())
}

/// Whether a host matches a name whose labels may contain `*`.
fn host_matches(pattern: &str, host: &str) -> bool {
    let (pattern, host): (Vec<&str>, Vec<&str>) = (pattern.split('.').collect(), host.split('.').collect());
    pattern.len() == host.len()
        && pattern.iter().zip(&host).all(|(pattern, label)| match pattern.split_once('*') {
            None => pattern == label,
            Some((start, end)) => label.len() + 1 >= pattern.len() && label.starts_with(start) && label.ends_with(end),
        })
}

fn auth(entry: &Value) -> Option<Auth> {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
    if let Some(username) = text("username") {
        return Some(Auth::Basic { username, password: text("password").unwrap_or_default() });
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(text("auth")?.trim()).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let (username, password) = decoded.split_once(':')?;
    Some(Auth::Basic { username: username.to_owned(), password: password.trim_end_matches('\0').to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies() {
        let check = |image: &str, policy: Option<&str>, expected: PullPolicy| {
            let container = Container {
                image: Some(image.to_owned()),
                image_pull_policy: policy.map(str::to_owned),
                ..Container::default()
            };
            assert_eq!(PullPolicy::of(&container), expected, "{image} {policy:?}");
        };
        check("nginx", None, PullPolicy::Always);
        check("nginx:1", None, PullPolicy::IfNotPresent);
        check("host:5000/nginx", None, PullPolicy::Always);
        check("host:5000/nginx:1", None, PullPolicy::IfNotPresent);
        check("nginx@sha256:00", None, PullPolicy::IfNotPresent);
        check("nginx", Some("Never"), PullPolicy::Never);
    }

    #[test]
    fn credentials_of_pull_secrets() {
        let config = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "dTpw"},
            "*.example.org": {"username": "star", "password": "p"},
            "r.example.org/team": {"username": "team", "password": "p"}}}"#;
        let secrets = [Content::from_pairs(&[(".dockerconfigjson", config)])];
        let check = |image: &str, expected: &[&str]| {
            let names: Vec<String> = credentials(image, &secrets)
                .into_iter()
                .map(|auth| match auth {
                    Auth::Basic { username, .. } => username,
                    Auth::Bearer(token) => token,
                })
                .collect();
            assert_eq!(names, expected, "{image}");
        };
        check("nginx", &["u"]);
        check("r.example.org/team/app:1", &["team", "star"]);
        check("r.example.org/other", &["star"]);
        check("quay.io/x", &[]);
    }
}
