//! Admission policies: what validating ones refuse and mutating ones change.

use serde_json::{Value, json};

use super::{Cluster, Reply};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

fn rules(groups: &[&str], resources: &[&str], operations: &[&str]) -> Value {
    json!({"resourceRules": [{
        "apiGroups": groups, "apiVersions": ["v1"], "resources": resources, "operations": operations,
    }]})
}

fn spec(constraints: Value, more: Value) -> Value {
    let mut spec = json!({"matchConstraints": constraints});
    spec.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    spec
}

async fn policy(cluster: &Cluster, sort: &str, name: &str, spec: Value) -> Value {
    let body = json!({"metadata": {"name": name}, "spec": spec});
    cluster.post(&format!("{GROUP}/{sort}admissionpolicies"), &body.to_string()).await.expect(201)
}

async fn bind(cluster: &Cluster, sort: &str, name: &str, more: Value) {
    let mut spec = json!({"policyName": name});
    spec.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let body = json!({"metadata": {"name": format!("{name}-binding")}, "spec": spec});
    cluster.post(&format!("{GROUP}/{sort}admissionpolicybindings"), &body.to_string()).await.expect(201);
}

async fn config_map(cluster: &Cluster, name: &str, data: Value, labels: Value) -> Reply {
    let body = json!({"metadata": {"name": name, "labels": labels}, "data": data});
    cluster.post("/api/v1/namespaces/default/configmaps", &body.to_string()).await
}

fn deployment(name: &str, replicas: u32) -> String {
    json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        },
    })
    .to_string()
}

#[tokio::test]
async fn a_policy_acts_when_it_is_bound() {
    let cluster = Cluster::start().await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let made = policy(
        &cluster,
        "validating",
        "replicas.example.com",
        spec(
            rules(&["apps"], &["deployments"], &["CREATE", "UPDATE"]),
            json!({"validations": [{
                "expression": "object.spec.replicas > 1",
                "messageExpression": "'wants replicas > 1, got ' + string(object.spec.replicas)",
            }]}),
        ),
    )
    .await;
    assert_eq!(made["status"], json!({"observedGeneration": 1, "typeChecking": {}}));
    assert_eq!(made["spec"]["failurePolicy"], "Fail");
    cluster.post(path, &deployment("unbound", 1)).await.expect(201);
    bind(&cluster, "validating", "replicas.example.com", json!({"validationActions": ["Deny"]})).await;
    let (reason, message) = cluster.post(path, &deployment("few", 1)).await.failure(422);
    assert_eq!(reason, "Invalid");
    assert_eq!(
        message,
        "deployments.apps \"few\" is forbidden: ValidatingAdmissionPolicy 'replicas.example.com' with binding \
         'replicas.example.com-binding' denied request: wants replicas > 1, got 1"
    );
    cluster.post(path, &deployment("many", 2)).await.expect(201);
    let many = format!("{path}/many");
    cluster.patch(&many, "application/merge-patch+json", r#"{"spec":{"replicas":1}}"#).await.failure(422);
    // Other resources, and deletions, are not meant.
    config_map(&cluster, "free", json!({}), json!({})).await.expect(201);
    cluster.delete(&format!("{path}/many"), "").await.expect(200);
    // A policy that changes acts as it is now.
    let change = r#"{"spec":{"validations":[{"expression":"true"}]}}"#;
    let path_of_policy = format!("{GROUP}/validatingadmissionpolicies/replicas.example.com");
    let changed = cluster.patch(&path_of_policy, "application/merge-patch+json", change).await.expect(200);
    assert_eq!(changed["status"]["observedGeneration"], 2);
    cluster.post(path, &deployment("few", 1)).await.expect(201);
    cluster.stop().await;
}

#[tokio::test]
async fn type_checks_and_compile_errors() {
    let cluster = Cluster::start().await;
    let constraints = rules(&["apps"], &["deployments"], &["CREATE"]);
    let confused = json!({"validations": [{"expression": "object.spec.replicas > '1'"}]});
    let made = policy(&cluster, "validating", "confused", spec(constraints.clone(), confused)).await;
    let warnings = &made["status"]["typeChecking"]["expressionWarnings"];
    assert_eq!(warnings[0]["fieldRef"], "spec.validations[0].expression");
    let warning = warnings[0]["warning"].as_str().expect("a text");
    assert!(warning.contains("found no matching overload for '_>_' applied to '(int, string)'"), "{warning}");
    let body = json!({
        "metadata": {"name": "broken"},
        "spec": spec(constraints, json!({"validations": [{"expression": "object.spec."}]})),
    });
    let reply = cluster.post(&format!("{GROUP}/validatingadmissionpolicies"), &body.to_string()).await;
    let (reason, message) = reply.failure(422);
    assert_eq!(reason, "Invalid");
    assert!(message.contains("spec.validations[0].expression: Invalid value: \"object.spec.\": compilation failed: ERROR: <input>:1:13: Syntax error"), "{message}");
    cluster.stop().await;
}

#[tokio::test]
async fn conditions_variables_parameters_and_rights() {
    let cluster = Cluster::start().await;
    let limits = json!({"metadata": {"name": "limits"}, "data": {"most": "2", "user": "jane"}});
    cluster.post("/api/v1/namespaces/default/configmaps", &limits.to_string()).await.expect(201);
    policy(
        &cluster,
        "validating",
        "keys",
        spec(
            rules(&[""], &["configmaps"], &["*"]),
            json!({
                "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
                "matchConditions": [{"name": "labelled", "expression": "has(object.metadata.labels) && 'checked' in object.metadata.labels"}],
                "variables": [
                    {"name": "most", "expression": "int(params.data.most)"},
                    {"name": "keys", "expression": "has(object.data) ? object.data.size() : 0"},
                ],
                "validations": [
                    {"expression": "variables.keys <= variables.most", "message": "too many keys", "reason": "Forbidden"},
                    {"expression": "request.userInfo.username == 'admin' && request.operation == 'CREATE' && namespaceObject.metadata.name == request.namespace"},
                    {"expression": "authorizer.group('').resource('secrets').namespace('default').check('delete').allowed() && authorizer.requestResource.check('create').allowed()"},
                    {"expression": "!authorizer.serviceAccount('default', 'default').group('').resource('secrets').check('get').allowed()"},
                ],
            }),
        ),
    )
    .await;
    bind(
        &cluster,
        "validating",
        "keys",
        json!({
            "paramRef": {"name": "limits", "namespace": "default", "parameterNotFoundAction": "Deny"},
            "validationActions": ["Deny", "Audit"],
        }),
    )
    .await;
    config_map(&cluster, "unlabelled", json!({"a": "", "b": "", "c": ""}), json!({})).await.expect(201);
    let checked = json!({"checked": ""});
    config_map(&cluster, "two", json!({"a": "", "b": ""}), checked.clone()).await.expect(201);
    let (reason, message) =
        config_map(&cluster, "three", json!({"a": "", "b": "", "c": ""}), checked).await.failure(403);
    assert_eq!(reason, "Forbidden");
    assert!(message.ends_with("denied request: too many keys"), "{message}");
    let body = json!({
        "metadata": {"name": "missing"},
        "spec": {
            "policyName": "keys", "validationActions": ["Deny"],
            "paramRef": {"name": "missing", "namespace": "default", "parameterNotFoundAction": "Deny"},
        },
    });
    cluster.post(&format!("{GROUP}/validatingadmissionpolicybindings"), &body.to_string()).await.expect(201);
    let (_, message) = config_map(&cluster, "late", json!({}), json!({})).await.failure(422);
    let words = "no params found for policy binding with `Deny` parameterNotFoundAction";
    assert!(message.ends_with(&format!("failed to configure binding: {words}")), "{message}");
    cluster.stop().await;
}

#[tokio::test]
async fn warnings_failures_and_selectors() {
    let cluster = Cluster::start().await;
    let mut constraints = rules(&[""], &["configmaps"], &["CREATE"]);
    constraints["objectSelector"] = json!({"matchLabels": {"checked": "yes"}});
    constraints["excludeResourceRules"] = json!([{"apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"], "operations": ["*"], "resourceNames": ["free"]}]);
    let failing = json!({"validations": [{"expression": "object.data.missing == 'x'"}], "failurePolicy": "Ignore"});
    policy(&cluster, "validating", "ignoring", spec(constraints.clone(), failing)).await;
    bind(&cluster, "validating", "ignoring", json!({"validationActions": ["Deny"]})).await;
    let warning = json!({"validations": [{"expression": "has(object.data) && object.data.size() > 1"}]});
    policy(&cluster, "validating", "warning", spec(constraints.clone(), warning)).await;
    bind(&cluster, "validating", "warning", json!({"validationActions": ["Warn"]})).await;
    let labels = json!({"checked": "yes"});
    let reply = config_map(&cluster, "a", json!({"a": "b"}), labels.clone()).await;
    let header = reply.headers["warning"].to_str().expect("a text").to_owned();
    assert!(header.contains("Validation failed for ValidatingAdmissionPolicy 'warning' with binding 'warning-binding': failed expression: has(object.data) && object.data.size() > 1"), "{header}");
    reply.expect(201);
    let reply = config_map(&cluster, "b", json!({}), json!({"checked": "no"})).await;
    assert!(reply.headers.get("warning").is_none());
    let reply = config_map(&cluster, "free", json!({}), labels.clone()).await;
    assert!(reply.headers.get("warning").is_none());
    let strict = json!({"validations": [{"expression": "object.data.missing == 'x'"}]});
    policy(&cluster, "validating", "strict", spec(constraints, strict)).await;
    let elsewhere = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "elsewhere"}}});
    bind(&cluster, "validating", "strict", json!({"validationActions": ["Deny"], "matchResources": elsewhere})).await;
    config_map(&cluster, "c", json!({}), labels.clone()).await.expect(201);
    let path = format!("{GROUP}/validatingadmissionpolicybindings/strict-binding");
    cluster.delete(&path, "").await.expect(200);
    bind(&cluster, "validating", "strict", json!({"validationActions": ["Deny"]})).await;
    let (_, message) = config_map(&cluster, "d", json!({}), labels).await.failure(422);
    assert!(message.contains("expression 'object.data.missing == 'x'' resulted in error: no such key"), "{message}");
    cluster.stop().await;
}

fn mutation(expression: &str) -> Value {
    let sort = if expression.trim_start().starts_with('[') { "jsonPatch" } else { "applyConfiguration" };
    let patch_type = if sort == "jsonPatch" { "JSONPatch" } else { "ApplyConfiguration" };
    json!({"patchType": patch_type, sort: {"expression": expression}})
}

#[tokio::test]
async fn mutating_policies_change_objects() {
    let cluster = Cluster::start().await;
    let pods = rules(&[""], &["pods"], &["CREATE"]);
    policy(
        &cluster,
        "mutating",
        "sidecar",
        spec(
            pods.clone(),
            json!({
                "reinvocationPolicy": "Never",
                "matchConditions": [{"name": "once", "expression": "!object.spec.containers.exists(c, c.name == 'mesh')"}],
                "mutations": [
                    mutation("Object{spec: Object.spec{containers: [Object.spec.containers{name: 'mesh', image: 'mesh:1'}]}, metadata: Object.metadata{labels: {'mesh': object.metadata.name}}}"),
                    mutation("[JSONPatch{op: 'test', path: '/metadata/labels/mesh', value: 'web'}, JSONPatch{op: 'add', path: '/metadata/annotations', value: {'a': 'b'}}, JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('example.com/x'), value: 'y'}]"),
                ],
            }),
        ),
    )
    .await;
    bind(&cluster, "mutating", "sidecar", json!({})).await;
    let pod = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}}).to_string()
    };
    let made = cluster.post("/api/v1/namespaces/default/pods", &pod("web")).await.expect(201);
    let names: Vec<&str> =
        made["spec"]["containers"].as_array().expect("containers").iter().filter_map(|c| c["name"].as_str()).collect();
    assert_eq!(names, ["c", "mesh"]);
    // What a policy added has its defaults.
    assert_eq!(made["spec"]["containers"][1]["imagePullPolicy"], "IfNotPresent");
    assert_eq!(made["metadata"]["labels"], json!({"mesh": "web", "example.com/x": "y"}));
    assert_eq!(made["metadata"]["annotations"], json!({"a": "b"}));
    // The test of the patch fails, which leaves that patch out and nothing else.
    let made = cluster.post("/api/v1/namespaces/default/pods", &pod("other")).await.expect(201);
    assert_eq!(
        (&made["metadata"]["labels"], &made["metadata"]["annotations"]),
        (&json!({"mesh": "other"}), &Value::Null)
    );
    let wrong = json!({"reinvocationPolicy": "Never", "mutations": [mutation("Object{spec: Object.spec{tolerations: [Object.spec.tolerations{key: 'k'}]}}")]});
    policy(&cluster, "mutating", "wrong", spec(pods.clone(), wrong)).await;
    bind(&cluster, "mutating", "wrong", json!({})).await;
    let (_, message) = cluster.post("/api/v1/namespaces/default/pods", &pod("third")).await.failure(403);
    assert!(message.starts_with("policy 'wrong' with binding 'wrong-binding' denied request: error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.tolerations"), "{message}");
    cluster.stop().await;
}

#[tokio::test]
async fn policies_are_asked_again_when_others_have_changed_the_object() {
    let cluster = Cluster::start().await;
    let maps = rules(&[""], &["configmaps"], &["CREATE"]);
    for (name, again, expression) in [
        ("a-counts", "IfNeeded", "Object{data: {'keys': string(object.data.size())}}"),
        ("b-never", "Never", "Object{data: {'never': string(object.data.size())}}"),
        ("c-adds", "Never", "Object{data: {'added': 'x'}}"),
    ] {
        let fields = json!({"reinvocationPolicy": again, "mutations": [mutation(expression)]});
        policy(&cluster, "mutating", name, spec(maps.clone(), fields)).await;
        bind(&cluster, "mutating", name, json!({})).await;
    }
    let made = config_map(&cluster, "m", json!({"k": "v"}), json!({})).await.expect(201);
    assert_eq!(made["data"], json!({"k": "v", "added": "x", "keys": "4", "never": "2"}));
    cluster.stop().await;
}
