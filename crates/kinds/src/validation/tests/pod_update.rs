//! Pods as they change.

use serde_json::{Value, json};

use super::update;

const ONLY: &str = "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,…";

fn base(spec: Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    super::merge(&mut pod["spec"], spec);
    pod
}

#[track_caller]
fn spec(before: Value, change: Value, expected: &[&str]) {
    update(&base(before), json!({"spec": change}), None, expected);
}

fn container(fields: Value) -> Value {
    let mut whole = json!({"name": "c", "image": "i", "imagePullPolicy": "Always", "resources": {},
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"});
    super::merge(&mut whole, fields);
    json!({"containers": [whole]})
}

#[test]
fn little_may_change() {
    spec(json!({}), json!({}), &[]);
    spec(json!({}), container(json!({"image": "j"})), &[]);
    spec(
        json!({}),
        container(json!({"image": " j"})),
        &[
            "spec.containers[0].image: Invalid value: \" j\": must not have leading or trailing whitespace",
            "spec.containers[0].image: Invalid value: \" j\": must not have leading or trailing whitespace",
        ],
    );
    spec(json!({}), container(json!({"command": ["x"]})), &[ONLY]);
    spec(
        json!({}),
        json!({"containers": [{"name": "c", "image": "i"}, {"name": "d", "image": "i"}]}),
        &["spec.containers: Forbidden: pod updates may not add or remove containers"],
    );
    spec(json!({}), json!({"terminationGracePeriodSeconds": 1}), &[ONLY]);
    spec(json!({"terminationGracePeriodSeconds": -1}), json!({"terminationGracePeriodSeconds": 1}), &[]);
    spec(json!({}), json!({"nodeSelector": {"a": "b"}}), &[ONLY]);
}

#[test]
fn deadlines_come_closer() {
    spec(json!({}), json!({"activeDeadlineSeconds": 5}), &[]);
    spec(json!({"activeDeadlineSeconds": 5}), json!({"activeDeadlineSeconds": 4}), &[]);
    spec(
        json!({"activeDeadlineSeconds": 5}),
        json!({"activeDeadlineSeconds": 6}),
        &["spec.activeDeadlineSeconds: Invalid value: 6: must be less than or equal to previous value"],
    );
    spec(
        json!({"activeDeadlineSeconds": 5}),
        json!({"activeDeadlineSeconds": null}),
        &["spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value"],
    );
}

#[test]
fn tolerations_are_added() {
    let a = || json!({"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5});
    spec(json!({"tolerations": [a()]}), json!({"tolerations": [a(), {"key": "b", "operator": "Exists"}]}), &[]);
    let mut longer = a();
    longer["tolerationSeconds"] = json!(9);
    spec(json!({"tolerations": [a()]}), json!({"tolerations": [longer]}), &[]);
    spec(
        json!({"tolerations": [a()]}),
        json!({"tolerations": []}),
        &["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"],
    );
}

#[test]
fn gated_pods_narrow_down() {
    let gated = || json!({"schedulingGates": [{"name": "g"}], "nodeSelector": {"a": "b"}});
    spec(gated(), json!({"nodeSelector": {"c": "d"}}), &[]);
    spec(
        gated(),
        json!({"nodeSelector": {"a": "c"}}),
        &["spec.nodeSelector: Invalid value: {\"a\":\"c\"}: only additions to spec.nodeSelector are allowed (no \
         mutations or deletions)"],
    );
    spec(gated(), json!({"schedulingGates": []}), &[]);
    spec(
        gated(),
        json!({"schedulingGates": [{"name": "h"}]}),
        &["spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'h'"],
    );
    let affinity = |values: Value| {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": values}]}}}})
    };
    let exists = |key: &str| json!({"key": key, "operator": "Exists"});
    spec(gated(), affinity(json!([exists("x")])), &[]);
    let mut with = gated();
    super::merge(&mut with, affinity(json!([exists("x")])));
    spec(with.clone(), affinity(json!([exists("x"), exists("y")])), &[]);
    spec(
        with,
        affinity(json!([exists("y")])),
        &["spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0]: Invalid \
         value: {\"matchExpressions\":[{\"key\":\"y\",\"operator\":\"Exists\"}]}: only additions are allowed (no…"],
    );
}

#[test]
fn statuses() {
    let mut pod = base(json!({"restartPolicy": "Never"}));
    pod = super::prepared(pod);
    let ended = json!([{"name": "c", "state": {"terminated": {"exitCode": 1}}}]);
    let mut old = pod.clone();
    old["status"]["containerStatuses"] = ended;
    let mut new = old.clone();
    new["status"]["containerStatuses"][0]["state"] = json!({"running": {}});
    new["status"]["qosClass"] = json!("Guaranteed");
    new["status"]["podIPs"] = json!([{"ip": "1.1.1.1"}, {"ip": "1.1.1.2"}]);
    let found = super::kind_of(&pod).validate_update(&new, &old, Some("status"));
    super::compare(
        found,
        &[
            "status.qosClass: Invalid value: \"Guaranteed\": field is immutable",
            "status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state",
            "status.podIPs: Invalid value: [{\"ip\":\"1.1.1.1\"},{\"ip\":\"1.1.1.2\"}]: may specify no more than one IP \
             for each IP family",
        ],
        &new,
    );
    // Where the end of a container may start all of them anew, all may come back.
    let rule = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]);
    let mut other = pod["spec"]["containers"][0].clone();
    other["name"] = json!("d");
    other["restartPolicy"] = json!("Never");
    other["restartPolicyRules"] = rule;
    for state in [&mut old, &mut new] {
        state["spec"]["containers"].as_array_mut().expect("a list").push(other.clone());
    }
    new["status"]["qosClass"] = old["status"]["qosClass"].clone();
    new["status"]["podIPs"] = old["status"]["podIPs"].clone();
    let found = super::kind_of(&pod).validate_update(&new, &old, Some("status"));
    super::compare(found, &[], &new);
}

#[test]
fn parts() {
    let debug = |fields: Value| {
        let mut one = json!({"name": "d", "image": "i"});
        super::merge(&mut one, fields);
        json!({"spec": {"ephemeralContainers": [one]}})
    };
    update(&base(json!({})), debug(json!({})), Some("ephemeralcontainers"), &[]);
    update(
        &base(json!({})),
        debug(json!({"livenessProbe": {"exec": {"command": ["a"]}}})),
        Some("ephemeralcontainers"),
        &["spec.ephemeralContainers[0].livenessProbe: Forbidden: cannot be set for an Ephemeral Container"],
    );
    let resources = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}, "limits": {"cpu": "2"}}});
    let mut before = json!({"name": "c", "image": "i"});
    super::merge(&mut before, resources("1"));
    let before = base(json!({"containers": [before]}));
    let resized = |fields: Value| json!({"spec": container(fields)});
    update(&before, resized(resources("1500m")), Some("resize"), &[]);
    update(
        &before,
        resized(json!({"resources": {"requests": {"cpu": "1"}}})),
        Some("resize"),
        &["spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed"],
    );
    let more = json!({"resources": {"requests": {"cpu": "1", "ephemeral-storage": "1"}, "limits": {"cpu": "2"}}});
    update(&before, resized(more), Some("resize"), &["spec: Forbidden: only cpu and memory resources are mutable"]);
    update(
        &before,
        resized(json!({"resources": {}})),
        Some("resize"),
        &[
            "spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing",
            "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed",
            "spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed",
        ],
    );
    let named = |name: &str| {
        let mut one = json!({"name": name, "image": "i"});
        super::merge(&mut one, resources("1"));
        one
    };
    update(
        &before,
        json!({"spec": {"containers": [named("d")]}}),
        Some("resize"),
        &["spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize"],
    );
    update(
        &before,
        json!({"spec": {"containers": [named("c"), named("d")]}}),
        Some("resize"),
        &["spec.containers: Forbidden: containers may not be added or removed on resize"],
    );
}
