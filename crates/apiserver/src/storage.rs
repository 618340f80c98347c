//! Where a shared store keeps the objects of each kind: upstream's paths below `/registry`.

use kobune_kinds::Catalogue;

/// Collections of the server's own, which are no resources.
const OWN: [&str; 3] = [crate::reservations::PORTS, crate::servers::SERVERS, crate::security::admission::QUOTAS];

/// The path of each collection in etcd, for those that do not keep their own name. Custom resources keep theirs.
pub fn etcd_paths(catalogue: &Catalogue) -> Vec<(String, String)> {
    let mut paths: Vec<(String, String)> = Vec::new();
    for kind in catalogue.kinds() {
        let collection = kind.collection.to_string();
        if paths.iter().any(|(known, _)| *known == collection) {
            continue;
        }
        let (group, plural) = collection.split_once('/').unwrap_or(("", &collection));
        let path = match (group, plural) {
            // The names that upstream's resources had when they were first stored.
            ("core", "nodes") => "minions".to_owned(),
            ("core", "services") => "services/specs".to_owned(),
            ("core", "endpoints") => "services/endpoints".to_owned(),
            ("core", "replicationcontrollers") => "controllers".to_owned(),
            ("networking.k8s.io", "ingresses") => "ingress".to_owned(),
            // These are served by upstream's other two API servers, which keep their groups.
            ("apiextensions.k8s.io" | "apiregistration.k8s.io", _) => collection.clone(),
            (_, plural) => plural.to_owned(),
        };
        let taken = paths.iter().any(|(_, known)| *known == path);
        paths.push((collection.clone(), if taken { collection } else { path }));
    }
    paths.extend(OWN.map(|own| (own.to_owned(), own.to_owned())));
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_upstreams() {
        let paths = etcd_paths(&Catalogue::builtin());
        let check = |collection: &str, expected: &str| {
            let path = paths.iter().find(|(known, _)| known == collection).map(|(_, path)| path.as_str());
            assert_eq!(path, Some(expected), "{collection}");
        };
        check("core/pods", "pods");
        check("core/services", "services/specs");
        check("core/nodes", "minions");
        check("apps/deployments", "deployments");
        check("coordination.k8s.io/leases", "leases");
        check("networking.k8s.io/ingresses", "ingress");
        check("rbac.authorization.k8s.io/clusterroles", "clusterroles");
        check("apiextensions.k8s.io/customresourcedefinitions", "apiextensions.k8s.io/customresourcedefinitions");
        let distinct: std::collections::HashSet<&String> = paths.iter().map(|(_, path)| path).collect();
        assert_eq!(distinct.len(), paths.len(), "two collections share a path");
        let unnamed: Vec<_> = paths.iter().filter(|(collection, path)| collection == path).collect();
        assert!(unnamed.len() < 10, "{unnamed:?}");
    }
}
