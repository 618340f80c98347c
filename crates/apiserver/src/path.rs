//! What a request's path asks for: upstream's `RequestInfo`, as one enum.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/version`.
    Version,
    /// `/healthz`, `/livez` and `/readyz`, perhaps with the name of one check.
    Health { which: &'static str, check: Option<String> },
    /// `/metrics`.
    Metrics,
    /// `/metrics/slis`.
    HealthMetrics,
    /// `/openapi/v2`.
    OpenApiV2,
    /// `/openapi/v3`.
    OpenApiV3Index,
    /// `/openapi/v3/apis/apps/v1` and its like.
    OpenApiV3(String),
    /// `/.well-known/openid-configuration`.
    OpenIdConfiguration,
    /// `/openid/v1/jwks`.
    KeySet,
    /// `/api`.
    CoreVersions,
    /// `/apis`.
    Groups,
    /// `/apis/<group>`.
    Group(String),
    /// `/api/v1` and `/apis/<group>/<version>`.
    Resources { group: String, version: String },
    /// Objects: everything below a group and version.
    Resource(Target),
    /// `/`.
    Index,
    /// Nothing that the server knows.
    Unknown,
}

impl Route {
    /// The named group and version that a path belongs to: what another server may serve.
    pub(crate) fn group_version(&self) -> Option<(&str, &str)> {
        match self {
            Self::Resources { group, version } => Some((group, version)),
            Self::Resource(target) => Some((&target.group, &target.version)),
            Self::OpenApiV3(path) => path.strip_prefix("apis/")?.split_once('/'),
            _ => None,
        }
    }
}

/// The objects or the one object that a path names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Target {
    /// The API group, empty for the core.
    pub group: String,
    /// The version in the group.
    pub version: String,
    /// The resource: `pods`.
    pub resource: String,
    /// The namespace, when the path has one.
    pub namespace: Option<String>,
    /// The object's name, when the path has one.
    pub name: Option<String>,
    /// The part of the object: `status`, `log`.
    pub subresource: Option<String>,
    /// What follows the subresource, with its leading slash: the path behind a proxy.
    pub rest: String,
    /// Whether the path has the old `/watch/` prefix.
    pub watch: bool,
    /// Whether the path has the old `/proxy/` prefix.
    pub proxy: bool,
}

fn decode(segment: &str) -> String {
    match percent_decode_str(segment).decode_utf8_lossy() {
        Cow::Borrowed(text) => text.to_owned(),
        Cow::Owned(text) => text,
    }
}

/// Reads a path, still percent-encoded, without its query.
pub(crate) fn parse(path: &str) -> Route {
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    let Some(first) = segments.next() else { return Route::Index };
    match first {
        "version" => exactly(segments.next(), Route::Version),
        "healthz" | "livez" | "readyz" => {
            let which = match first {
                "healthz" => "healthz",
                "livez" => "livez",
                _ => "readyz",
            };
            let rest: Vec<&str> = segments.collect();
            let check = if rest.is_empty() { None } else { Some(rest.join("/")) };
            Route::Health { which, check }
        }
        "metrics" => match segments.next() {
            Some("slis") => exactly(segments.next(), Route::HealthMetrics),
            other => exactly(other, Route::Metrics),
        },
        ".well-known" => match (segments.next(), segments.next()) {
            (Some("openid-configuration"), None) => Route::OpenIdConfiguration,
            _ => Route::Unknown,
        },
        "openid" => match (segments.next(), segments.next(), segments.next()) {
            (Some("v1"), Some("jwks"), None) => Route::KeySet,
            _ => Route::Unknown,
        },
        "openapi" => match segments.next() {
            Some("v2") => exactly(segments.next(), Route::OpenApiV2),
            Some("v3") => {
                let rest: Vec<&str> = segments.collect();
                if rest.is_empty() { Route::OpenApiV3Index } else { Route::OpenApiV3(rest.join("/")) }
            }
            _ => Route::Unknown,
        },
        "api" => match segments.next() {
            None => Route::CoreVersions,
            Some(version) => resource(String::new(), decode(version), path, 2),
        },
        "apis" => match (segments.next(), segments.next()) {
            (None, _) => Route::Groups,
            (Some(group), None) => Route::Group(decode(group)),
            (Some(group), Some(version)) => resource(decode(group), decode(version), path, 3),
        },
        _ => Route::Unknown,
    }
}

fn exactly(next: Option<&str>, route: Route) -> Route {
    if next.is_none() { route } else { Route::Unknown }
}

/// Reads what follows the group and version, which are the first `skip` segments.
fn resource(group: String, version: String, path: &str, skip: usize) -> Route {
    let mut rest = segments_after(path, skip);
    let Some(mut head) = next_segment(&mut rest) else { return Route::Resources { group, version } };
    let mut target = Target { group, version, ..Target::default() };
    if head == "watch" || head == "proxy" {
        target.watch = head == "watch";
        target.proxy = head == "proxy";
        match next_segment(&mut rest) {
            Some(next) => head = next,
            None => return Route::Unknown,
        }
    }
    if head == "namespaces" && target.group.is_empty() {
        let Some(namespace) = next_segment(&mut rest) else {
            target.resource = "namespaces".to_owned();
            return Route::Resource(target);
        };
        match next_segment(&mut rest) {
            None => {
                target.resource = "namespaces".to_owned();
                target.namespace = Some(decode(namespace));
                target.name = Some(decode(namespace));
                return Route::Resource(target);
            }
            Some(part @ ("status" | "finalize")) if next_segment(&mut { rest }).is_none() => {
                target.resource = "namespaces".to_owned();
                target.namespace = Some(decode(namespace));
                target.name = Some(decode(namespace));
                target.subresource = Some(part.to_owned());
                return Route::Resource(target);
            }
            Some(resource) => {
                target.namespace = Some(decode(namespace));
                target.resource = decode(resource);
            }
        }
    } else if head == "namespaces" {
        match (next_segment(&mut rest), next_segment(&mut rest)) {
            (Some(namespace), Some(resource)) => {
                target.namespace = Some(decode(namespace));
                target.resource = decode(resource);
            }
            _ => return Route::Unknown,
        }
    } else {
        target.resource = decode(head);
    }
    target.name = next_segment(&mut rest).map(decode);
    target.subresource = next_segment(&mut rest).map(decode);
    target.rest = rest.to_owned();
    Route::Resource(target)
}

fn segments_after(path: &str, skip: usize) -> &str {
    let mut rest = path;
    for _ in 0..skip {
        if next_segment(&mut rest).is_none() {
            return "";
        }
    }
    rest
}

/// Takes the next segment; what is left keeps its leading slash, which a proxied path needs.
fn next_segment<'p>(rest: &mut &'p str) -> Option<&'p str> {
    let text = rest.trim_start_matches('/');
    if text.is_empty() {
        return None;
    }
    let end = text.find('/').unwrap_or(text.len());
    *rest = &text[end..];
    Some(&text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str) -> (String, String, Option<String>, Option<String>, Option<String>, String) {
        match parse(path) {
            Route::Resource(t) => {
                (format!("{}/{}", t.group, t.version), t.resource, t.namespace, t.name, t.subresource, t.rest)
            }
            other => panic!("{path} is {other:?}"),
        }
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn paths_of_objects() {
        let core = "/v1".to_owned();
        let apps = "apps/v1".to_owned();
        let none = String::new();
        assert_eq!(target("/api/v1/pods"), (core.clone(), "pods".into(), None, None, None, none.clone()));
        assert_eq!(target("/api/v1/namespaces"), (core.clone(), "namespaces".into(), None, None, None, none.clone()));
        assert_eq!(
            target("/api/v1/namespaces/a"),
            (core.clone(), "namespaces".into(), some("a"), some("a"), None, none.clone())
        );
        assert_eq!(
            target("/api/v1/namespaces/a/finalize"),
            (core.clone(), "namespaces".into(), some("a"), some("a"), some("finalize"), none.clone())
        );
        assert_eq!(
            target("/api/v1/namespaces/a/pods/b"),
            (core.clone(), "pods".into(), some("a"), some("b"), None, none.clone())
        );
        assert_eq!(
            target("/apis/apps/v1/namespaces/a/deployments/b/status"),
            (apps, "deployments".into(), some("a"), some("b"), some("status"), none)
        );
        assert_eq!(
            target("/api/v1/namespaces/a/pods/b/proxy/x//y%20z/"),
            (core.clone(), "pods".into(), some("a"), some("b"), some("proxy"), "/x//y%20z/".into())
        );
        assert_eq!(target("/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode").3, some("system:node"));
        assert_eq!(target("/api/v1/nodes/n/proxy/logs").5, "/logs");
    }

    #[test]
    fn other_paths() {
        let check = |path: &str, expected: Route| assert_eq!(parse(path), expected, "{path}");
        check("/", Route::Index);
        check("/version", Route::Version);
        check("/version/", Route::Version);
        check("/healthz", Route::Health { which: "healthz", check: None });
        check("/readyz/etcd", Route::Health { which: "readyz", check: some("etcd") });
        check("/api", Route::CoreVersions);
        check("/apis", Route::Groups);
        check("/apis/apps", Route::Group("apps".into()));
        check("/apis/apps/v1", Route::Resources { group: "apps".into(), version: "v1".into() });
        check("/api/v1/", Route::Resources { group: String::new(), version: "v1".into() });
        check("/openapi/v3", Route::OpenApiV3Index);
        check("/openapi/v3/apis/apps/v1", Route::OpenApiV3("apis/apps/v1".into()));
        check("/nothing", Route::Unknown);
        assert!(
            matches!(parse("/api/v1/watch/namespaces/a/pods"), Route::Resource(t) if t.watch && t.resource == "pods")
        );
    }
}
