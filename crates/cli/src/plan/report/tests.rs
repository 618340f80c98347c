//! What people see, for one plan with everything in it.

use serde_json::json;

use super::*;
use crate::style::Style;

fn plan() -> Plan {
    serde_json::from_value(json!({
        "server": "https://c:6443", "context": "boat",
        "items": [
            {"apiVersion": "v1", "kind": "Namespace", "name": "shop", "action": "create", "place": "a.yaml:1", "namespaceFrom": "cluster",
             "content": {"kind": "Namespace"}},
            {"apiVersion": "apps/v1", "kind": "Deployment", "namespace": "shop", "name": "web", "action": "change",
             "namespaceFrom": "flag", "effects": ["restarts its pod"], "blocked": ["decide"], "resourceVersion": "1",
             "changes": [
                {"path": "spec.replicas", "old": 1, "new": 2, "why": "another-holds-it",
                 "owners": [{"manager": "scaler", "operation": "Update", "subresource": "scale"}]},
                {"path": "data[a]", "old": "x\ny\n", "new": "x\n<z>\n", "why": "you-changed-it",
                 "owners": [{"manager": "kobune", "operation": "Apply"}]},
                {"path": "spec.paused", "old": true, "why": "you-removed-it"}]},
            {"apiVersion": "v1", "kind": "ConfigMap", "namespace": "shop", "name": "old", "action": "prune", "namespaceFrom": "manifest"},
            {"apiVersion": "v1", "kind": "ConfigMap", "namespace": "shop", "name": "same", "action": "unchanged", "namespaceFrom": "manifest"},
        ],
    }))
    .expect("a plan")
}

#[test]
fn for_a_terminal() {
    let expected = "\
+ namespace/shop is created  a.yaml:1
    + kind: Namespace

~ deployment/web in shop changes
    → restarts its pod
    ! decide
    spec.replicas  1 → 2  scaler through scale holds it
    data[a]  you changed it
        x
      - y
      + <z>
    spec.paused  - true  you removed it

- configmap/old in shop is pruned

Plan: 1 to create, 1 to change, 1 to prune, 1 unchanged. (boat at https://c:6443)
      1 object without a namespace of their own: shop (says --namespace)
      apply refuses as long as 1 object needs a decision (see !)
";
    assert_eq!(text::write(&plan(), false, Style::default()), expected);
}

#[test]
fn for_a_pull_request_and_a_browser() {
    let markdown = markdown::write(&plan(), false);
    for part in [
        "### kobune plan: 1 to create",
        "| `~` | `deployment/web in shop` |",
        "⛔ decide",
        "@@ spec.replicas @@",
        "- 1\n+ 2\n",
    ] {
        assert!(markdown.contains(part), "{markdown}\nlacks {part}");
    }
    let html = html::write(&plan());
    for part in ["<b>1</b> to change", "&lt;z&gt;", "scaler through scale holds it", "configmap/same in shop"] {
        assert!(html.contains(part), "{html}\nlacks {part}");
    }
    for outside in ["http-equiv", "<script", "src=", "href="] {
        assert!(!html.contains(outside), "the page must need nothing else: {outside}");
    }
}
