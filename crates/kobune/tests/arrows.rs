//! Which crate may know which: the arrows of docs/architecture.md, compared with `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};

/// For each crate the crates of this workspace that it may depend on, tests aside.
fn allowed() -> BTreeMap<&'static str, &'static [&'static str]> {
    BTreeMap::from([
        ("kinds", &[] as &[&str]),
        ("store", &[]),
        ("pki", &[]),
        ("merge", &["kinds"]),
        ("kustomize", &["kinds", "merge"]),
        ("expressions", &["kinds"]),
        ("grpc", &[]),
        ("apiserver", &["expressions", "grpc", "kinds", "merge", "pki", "store"]),
        ("partial", &[]),
        ("metrics", &[]),
        ("network", &["partial"]),
        ("ingress", &["network"]),
        ("runtime", &[]),
        ("node", &["grpc", "network", "runtime", "spdy"]),
        ("spdy", &[]),
        ("cri", &["grpc", "network", "runtime", "spdy"]),
        ("scheduler", &["expressions", "partial"]),
        ("controllers", &["grpc", "kinds", "partial", "pki", "scheduler"]),
        ("simulator", &["partial"]),
        ("cli", &["kinds", "kustomize", "pki"]),
        ("tools", &[]),
        ("testbed", &[]),
        ("bench", &["testbed"]),
        ("fuzz", &["expressions", "kinds", "kustomize", "merge"]),
    ])
}

fn workspace() -> BTreeMap<String, BTreeSet<String>> {
    let output = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let short = |name: &str| name.strip_prefix("kobune-").unwrap_or(name).to_owned();
    let packages = metadata["packages"].as_array().expect("there are packages");
    let arrows = packages.iter().map(|package| {
        let dependencies = package["dependencies"].as_array().expect("a package has dependencies").iter();
        let ours = dependencies
            .filter(|dependency| dependency["kind"].is_null() && !dependency["path"].is_null())
            .map(|dependency| short(dependency["name"].as_str().expect("a dependency has a name")));
        (short(package["name"].as_str().expect("a package has a name")), ours.collect())
    });
    arrows.collect()
}

#[test]
fn arrows_point_one_way() {
    let allowed = allowed();
    for (name, dependencies) in workspace() {
        if name == "kobune" {
            continue;
        }
        let may = allowed
            .get(name.as_str())
            .unwrap_or_else(|| panic!("crates/{name} is not in the plan: add it here and to the map"));
        for dependency in &dependencies {
            assert!(may.contains(&dependency.as_str()), "crates/{name} must not depend on crates/{dependency}");
        }
    }
}

#[test]
fn the_map_shows_every_crate() {
    let map = include_str!("../../../docs/architecture.md");
    for name in workspace().keys() {
        assert!(map.contains(&format!("| `{name}` |")), "docs/architecture.md does not show crates/{name}");
    }
}
