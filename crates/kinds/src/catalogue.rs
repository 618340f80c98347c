//! [`Catalogue`]: all kinds that are known, and how a path or an object finds its kind.

mod table;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use crate::kind::{Body, Kind, Subresource};
use crate::schema::Types;
use table::Row;

/// All kinds known now. Cheap to share: it is handed around in an [`Arc`].
#[derive(Debug, Default)]
pub struct Catalogue {
    kinds: Vec<Arc<Kind>>,
    by_resource: HashMap<String, Vec<usize>>,
    by_kind: HashMap<String, Vec<usize>>,
}

impl Catalogue {
    /// The kinds of Kubernetes itself.
    pub fn builtin() -> Arc<Catalogue> {
        static BUILTIN: OnceLock<Arc<Catalogue>> = OnceLock::new();
        Arc::clone(
            BUILTIN.get_or_init(|| Arc::new(Catalogue::of(table::KINDS.iter().map(kind).map(Arc::new).collect()))),
        )
    }

    fn of(kinds: Vec<Arc<Kind>>) -> Catalogue {
        let mut catalogue = Catalogue { kinds, ..Catalogue::default() };
        for (index, kind) in catalogue.kinds.iter().enumerate() {
            catalogue.by_resource.entry(kind.plural.to_string()).or_default().push(index);
            catalogue.by_kind.entry(kind.kind.to_string()).or_default().push(index);
        }
        catalogue
    }

    /// The kinds of Kubernetes itself together with others. Where both have the same resource, Kubernetes' own is found.
    pub fn with(custom: impl IntoIterator<Item = Arc<Kind>>) -> Catalogue {
        let mut kinds = Catalogue::builtin().kinds.clone();
        kinds.extend(custom);
        Catalogue::of(kinds)
    }

    /// All kinds, groups in the order of discovery.
    pub fn kinds(&self) -> &[Arc<Kind>] {
        &self.kinds
    }

    /// The kind that serves `plural` in a group (empty: core) and version.
    pub fn by_resource(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        let candidates = self.by_resource.get(plural)?.iter().map(|&index| &self.kinds[index]);
        candidates.into_iter().find(|kind| &*kind.group == group && &*kind.version == version)
    }

    /// The kind of objects that say `apiVersion` and `kind`.
    pub fn by_kind(&self, api_version: &str, kind: &str) -> Option<&Arc<Kind>> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let candidates = self.by_kind.get(kind)?.iter().map(|&index| &self.kinds[index]);
        candidates.into_iter().find(|kind| &*kind.group == group && &*kind.version == version)
    }
}

/// The package in which a group's types stand, as OpenAPI names them.
fn package(group: &str) -> String {
    match group {
        "" => "io.k8s.api.core".to_owned(),
        "apiextensions.k8s.io" => "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions".to_owned(),
        "apiregistration.k8s.io" => "io.k8s.kube-aggregator.pkg.apis.apiregistration".to_owned(),
        _ => format!("io.k8s.api.{}", group.split('.').next().unwrap_or(group)),
    }
}

/// The name of a kind's type in the schema.
pub(crate) fn type_name(group: &str, version: &str, kind: &str) -> String {
    format!("{}.{version}.{kind}", package(group))
}

fn boxed(list: &[&str]) -> Vec<Box<str>> {
    list.iter().map(|&text| text.into()).collect()
}

fn kind(row: &Row) -> Kind {
    let schema = Types::builtin()
        .named(&type_name(row.group, row.version, row.kind))
        .expect("the build script names the type of every kind in the table");
    let storage = row.storage.filter(|storage| *storage != (row.group, row.version));
    let storage_group = storage.map_or(row.group, |(group, _)| group);
    let collection_group = if storage_group.is_empty() { "core" } else { storage_group };
    Kind {
        group: row.group.into(),
        version: row.version.into(),
        kind: row.kind.into(),
        list_kind: format!("{}List", row.kind).into(),
        plural: row.plural.into(),
        singular: row.kind.to_lowercase().into(),
        short_names: boxed(row.short_names),
        categories: boxed(row.categories),
        namespaced: row.namespaced,
        verbs: row.verbs.to_vec(),
        subresources: row
            .subresources
            .iter()
            .map(|sub| {
                let (group, version, kind) = sub.body.unwrap_or((row.group, row.version, row.kind));
                Subresource {
                    name: sub.name.into(),
                    group: group.into(),
                    version: version.into(),
                    kind: kind.into(),
                    verbs: sub.verbs.to_vec(),
                }
            })
            .collect(),
        collection: format!("{collection_group}/{}", row.plural).into(),
        stored: row.verbs.contains(&crate::Verb::Get) && row.kind != "ComponentStatus",
        storage: storage.map(|(group, version)| (group.into(), version.into())),
        body: Body::Builtin(schema),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_kinds() {
        let catalogue = Catalogue::builtin();
        let check = |api_version: &str, name: &str, collection: &str| {
            let kind = catalogue.by_kind(api_version, name).unwrap_or_else(|| panic!("{api_version} {name}"));
            assert_eq!(&*kind.collection, collection);
            let again = catalogue.by_resource(&kind.group, &kind.version, &kind.plural).expect("same kind by resource");
            assert!(Arc::ptr_eq(kind, again));
        };
        check("v1", "Pod", "core/pods");
        check("apps/v1", "Deployment", "apps/deployments");
        check("events.k8s.io/v1", "Event", "core/events");
        check("v1", "Event", "core/events");
        check("autoscaling/v2", "HorizontalPodAutoscaler", "autoscaling/horizontalpodautoscalers");
        check("rbac.authorization.k8s.io/v1", "ClusterRole", "rbac.authorization.k8s.io/clusterroles");
        assert!(catalogue.by_resource("", "v1", "deployments").is_none());
    }
}
