//! What an API server serves: one aggregated discovery document for the core group and one for all others
//! (<https://kubernetes.io/docs/concepts/overview/kubernetes-api/#aggregated-discovery>, stable since 1.30).

use http::Method;
use kube::Client;
use serde_json::Value;

use crate::object::ObjectRef;
use crate::request::{self, RequestError};

const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// One resource of one group and version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// The group; empty for core.
    pub group: String,
    /// The version.
    pub version: String,
    /// The kind of its objects.
    pub kind: String,
    /// Its name in paths.
    pub plural: String,
    /// Its name for one object.
    pub singular: String,
    /// Abbreviations.
    pub short_names: Vec<String>,
    /// Groups of resources that are asked for together, such as `all`.
    pub categories: Vec<String>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// What can be done with it.
    pub verbs: Vec<String>,
    /// What stands below an object's path.
    pub subresources: Vec<String>,
}

impl Resource {
    /// A kind of `apps/v1`, as far as tests need it.
    #[cfg(test)]
    pub(crate) fn of_apps(kind: &str) -> Resource {
        Resource {
            group: "apps".to_owned(),
            version: "v1".to_owned(),
            kind: kind.to_owned(),
            plural: String::new(),
            singular: String::new(),
            short_names: Vec::new(),
            categories: Vec::new(),
            namespaced: true,
            verbs: Vec::new(),
            subresources: Vec::new(),
        }
    }

    /// The `apiVersion` of its objects.
    pub fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// Its name for one object; where the server says none, that of the kind.
    pub fn singular_name(&self) -> String {
        if self.singular.is_empty() { self.kind.to_lowercase() } else { self.singular.clone() }
    }

    /// `deployment.apps`, `pod`.
    pub fn singular_with_group(&self) -> String {
        match self.group.as_str() {
            "" => self.singular_name(),
            group => format!("{}.{group}", self.singular_name()),
        }
    }

    /// `deployments.apps`, `pods`.
    pub fn name(&self) -> String {
        match self.group.as_str() {
            "" => self.plural.clone(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// `Deployment.apps`, `Pod`.
    pub fn group_kind(&self) -> String {
        match self.group.as_str() {
            "" => self.kind.clone(),
            group => format!("{}.{group}", self.kind),
        }
    }

    /// The path of all objects, or of those of a namespace.
    pub fn path(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", self.group) };
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => {
                format!("{root}/{}/namespaces/{}/{}", self.version, request::query(namespace), self.plural)
            }
            None => format!("{root}/{}/{}", self.version, self.plural),
        }
    }

    /// The path of one object.
    pub fn object_path(&self, namespace: Option<&str>, name: &str) -> String {
        format!("{}/{}", self.path(namespace), request::query(name))
    }

    /// Whether a verb can be used.
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|known| known == verb)
    }
}

/// Everything that a server serves, in its order of preference.
#[derive(Debug, Clone, Default)]
pub struct Discovery {
    resources: Vec<Resource>,
}

impl Discovery {
    /// Asks the server.
    pub async fn ask(client: &Client) -> Result<Discovery, RequestError> {
        let (core, groups) = futures::future::try_join(
            request::send(client, Method::GET, "/api", None, ACCEPT),
            request::send(client, Method::GET, "/apis", None, ACCEPT),
        )
        .await?;
        let mut resources = read(&core.body);
        resources.extend(read(&groups.body));
        Ok(Discovery { resources })
    }

    /// Resources that are known already.
    #[cfg(test)]
    pub fn of(resources: Vec<Resource>) -> Discovery {
        Discovery { resources }
    }

    /// All resources.
    pub fn resources(&self) -> &[Resource] {
        &self.resources
    }

    /// The resource whose objects say this `apiVersion` and `kind`.
    pub fn by_kind(&self, api_version: &str, kind: &str) -> Option<&Resource> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        self.resources.iter().find(|it| it.kind == kind && it.group == group && it.version == version)
    }

    /// The resource of a group and kind, in the version that the server prefers.
    pub fn by_group_kind(&self, group: &str, kind: &str) -> Option<&Resource> {
        self.resources.iter().find(|it| it.kind == kind && it.group == group)
    }

    /// The resource of an object.
    pub fn of_object(&self, object: &ObjectRef) -> Option<&Resource> {
        self.by_kind(&object.api_version, &object.kind)
    }

    /// The resource that a person means: `po`, `pods`, `pod`, `Pod`, `deployments.apps`, `deployments.v1.apps`.
    pub fn by_name(&self, name: &str) -> Option<&Resource> {
        let name = name.to_lowercase();
        let (head, tail) = name.split_once('.').unwrap_or((&name, ""));
        let means = |it: &Resource| {
            it.plural == head
                || it.singular == head
                || it.kind.to_lowercase() == head
                || it.short_names.iter().any(|short| short == head)
        };
        let tail_fits = |it: &Resource| {
            tail.is_empty() || tail == it.group || tail == it.version || tail == format!("{}.{}", it.version, it.group)
        };
        let plural = self.resources.iter().find(|it| it.plural == head && tail_fits(it));
        plural.or_else(|| self.resources.iter().find(|it| means(it) && tail_fits(it)))
    }

    /// What somebody may have meant who wrote a kind that is not served.
    pub fn suggestion(&self, api_version: &str, kind: &str) -> Option<String> {
        if let Some(other) = self.resources.iter().find(|it| it.kind == kind) {
            return Some(format!("this cluster serves {kind} as {}", other.api_version()));
        }
        let near = self.resources.iter().map(|it| (distance(&it.kind, kind), it));
        let (far, nearest) = near.min_by_key(|(far, it)| (*far, it.api_version() != api_version))?;
        (far <= 1 + kind.len() / 5).then(|| format!("did you mean {} of {}?", nearest.kind, nearest.api_version()))
    }
}

fn read(list: &Value) -> Vec<Resource> {
    let mut resources = Vec::new();
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    for group in list["items"].as_array().into_iter().flatten() {
        let name = group["metadata"]["name"].as_str().unwrap_or_default();
        for version in group["versions"].as_array().into_iter().flatten() {
            for resource in version["resources"].as_array().into_iter().flatten() {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let below = resource["subresources"].as_array().into_iter().flatten();
                resources.push(Resource {
                    group: name.to_owned(),
                    version: text(&version["version"]),
                    kind: text(&resource["responseKind"]["kind"]),
                    plural: text(&resource["resource"]),
                    singular: text(&resource["singularResource"]),
                    short_names: texts(&resource["shortNames"]),
                    categories: texts(&resource["categories"]),
                    namespaced: resource["scope"] == "Namespaced",
                    verbs: texts(&resource["verbs"]),
                    subresources: below.map(|it| text(&it["subresource"])).collect(),
                });
            }
        }
    }
    resources
}

/// How many letters must change to make one word of another, case aside.
pub fn distance(left: &str, right: &str) -> usize {
    let (left, right): (Vec<char>, Vec<char>) =
        (left.to_lowercase().chars().collect(), right.to_lowercase().chars().collect());
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.iter().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let cost = corner + usize::from(a != b);
            corner = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(corner + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn resources_by_what_people_write() {
        let resource = |name: &str, kind: &str, short: &str| {
            json!({"resource": name, "singularResource": kind.to_lowercase(), "shortNames": [short], "scope": "Namespaced",
                "responseKind": {"kind": kind}, "verbs": ["get"]})
        };
        let core = json!({"items": [{"metadata": {}, "versions": [{"version": "v1", "resources": [
            resource("pods", "Pod", "po"), resource("events", "Event", "ev")]}]}]});
        let groups = json!({"items": [{"metadata": {"name": "apps"}, "versions": [{"version": "v1", "resources": [
            resource("deployments", "Deployment", "deploy")]}]},
            {"metadata": {"name": "events.k8s.io"}, "versions": [{"version": "v1", "resources": [resource("events", "Event", "ev")]}]}]});
        let mut resources = read(&core);
        resources.extend(read(&groups));
        let discovery = Discovery::of(resources);
        for (name, expected) in [
            ("po", Some("pods")),
            ("Pod", Some("pods")),
            ("deploy", Some("deployments.apps")),
            ("deployments.apps", Some("deployments.apps")),
            ("deployments.v1.apps", Some("deployments.apps")),
            ("events", Some("events")),
            ("events.events.k8s.io", Some("events.events.k8s.io")),
            ("boats", None),
        ] {
            assert_eq!(discovery.by_name(name).map(Resource::name).as_deref(), expected, "{name}");
        }
        let deployment = discovery.by_kind("apps/v1", "Deployment").expect("there");
        assert_eq!(deployment.object_path(Some("a"), "b"), "/apis/apps/v1/namespaces/a/deployments/b");
        assert_eq!(
            discovery.suggestion("apps/v1", "Deploymnt").as_deref(),
            Some("did you mean Deployment of apps/v1?")
        );
        assert_eq!(
            discovery.suggestion("extensions/v1beta1", "Deployment").as_deref(),
            Some("this cluster serves Deployment as apps/v1")
        );
        assert_eq!(discovery.suggestion("v1", "Boat"), None);
    }
}
