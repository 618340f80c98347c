//! helm 4 with a chart of our own.

use crate::cluster;

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
    helm(&["uninstall", "web", "--wait", "--timeout", "90s"]);
    let left =
        cluster.kubectl(["get", "deployment,service,configmap", "-l", "app.kubernetes.io/name=greeter"]).unwrap();
    assert!(left.stderr.contains("No resources found"), "{}", left.stdout);
}
