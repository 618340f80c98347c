//! helm 4 with a chart of our own.

use kobune_testbed::{Cluster, Running};

use crate::{SETTLE, cluster};

#[test]
fn install_upgrade_rollback_uninstall() {
    let cluster = cluster();
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/chart");
    let helm = |arguments: &[&str]| cluster.helm(arguments).expect("helm runs").ok();
    let text = || cluster.kubectl(["get", "configmap", "web-text", "-o", "jsonpath={.data.text}"]).unwrap().ok();
    helm(&["install", "web", chart, "--wait", "--timeout", "90s"]);
    assert_eq!(text(), "Hello from a chart.");
    helm(&["upgrade", "web", chart, "--set", "text=changed,replicas=2", "--wait", "--timeout", "90s"]);
    assert_eq!(text(), "changed");
    let ready = cluster.kubectl(["get", "deployment", "web", "-o", "jsonpath={.status.readyReplicas}"]).unwrap().ok();
    assert_eq!(ready, "2");
    helm(&["rollback", "web", "1", "--wait", "--timeout", "90s"]);
    assert_eq!(text(), "Hello from a chart.");
    let history = helm(&["history", "web"]);
    assert!(history.contains("Rollback to 1"), "{history}");
    taken_over(&cluster, chart);
    helm(&["uninstall", "web", "--wait", "--timeout", "90s"]);
    let left =
        cluster.kubectl(["get", "deployment,service,configmap", "-l", "app.kubernetes.io/name=greeter"]).unwrap();
    assert!(left.stderr.contains("No resources found"), "{}", left.stdout);
}

/// What helm installed, by server-side apply as helm 4 does it or by updates as helm 3, goes over to `kobune apply` whole.
fn taken_over(cluster: &Cluster, chart: &str) {
    for (release, how) in [("applied", "true"), ("updated", "false")] {
        let how = format!("--server-side={how}");
        cluster.helm(["install", release, chart, "--set", "replicas=0", &how]).unwrap().ok();
        let rendered = cluster.helm(["template", release, chart, "--set", "replicas=0,text=changed"]).unwrap().ok();
        let file = cluster.data_dir().join(format!("{release}.yaml"));
        std::fs::write(&file, rendered).unwrap();
        let file = file.display().to_string();
        let kobune = |verb: &str, more: &[&str]| {
            let mut command = cluster.client(env!("CARGO_BIN_EXE_kobune"));
            command.args([verb, "--namespace", "default", "-f", &file]).args(more);
            Running::start(command, None).unwrap().finish(SETTLE).unwrap()
        };
        let refused = kobune("apply", &[]);
        assert_eq!(refused.status.code(), Some(1), "{}", refused.stdout);
        assert!(refused.stderr.contains("--take-over helm everything that it holds"), "{}", refused.stderr);
        let take = ["--take-over", "helm"];
        let plan = kobune("plan", &take);
        assert_eq!(plan.status.code(), Some(1), "{}", plan.stderr);
        for words in ["3 to change", "not in your manifest (from helm)"] {
            assert!(plan.stdout.contains(words), "{}", plan.stdout);
        }
        kobune("apply", &take).ok();
        let object = |kind: &str, name: &str, path: &str| {
            let output = format!("jsonpath={{{path}}}");
            cluster.kubectl(["get", kind, name, "-o", &output, "--show-managed-fields"]).unwrap().ok()
        };
        assert_eq!(object("service", release, ".metadata.annotations} {.spec.ports[*].port"), " 80");
        let text = format!("{release}-text");
        assert_eq!(object("configmap", &text, ".data.text} {.metadata.annotations"), "changed ");
        for (kind, name) in [("service", release), ("configmap", &text), ("deployment", release)] {
            let owners =
                object(kind, name, ".metadata.managedFields[*].manager} {.metadata.annotations} {.metadata.labels");
            assert!(owners.starts_with("kobune ") && !owners.to_lowercase().contains("helm"), "{kind}: {owners}");
        }
        assert!(kobune("plan", &take).stdout.contains("3 unchanged"));
        // Nothing but helm's own record of the release is left of it.
        cluster.kubectl(["delete", "secret", "-l", &format!("owner=helm,name={release}")]).unwrap().ok();
        assert!(!cluster.helm(["list", "-q"]).unwrap().ok().contains(release));
        cluster.kubectl(["delete", "-f", &file]).unwrap().ok();
    }
}
