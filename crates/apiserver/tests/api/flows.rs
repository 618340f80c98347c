//! Priority and fairness, after upstream's `test/e2e/apimachinery/flowcontrol.go`.

use serde_json::{Value, json};

use super::Cluster;

const GROUP: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";

impl Cluster {
    async fn uid(&self, resource: &str, name: &str) -> Value {
        self.get(&format!("{GROUP}/{resource}/{name}")).await.expect(200)["metadata"]["uid"].clone()
    }

    /// The uids of the FlowSchema and the PriorityLevelConfiguration of a user's request.
    async fn flow_of(&self, user: &str) -> (Value, Value) {
        let service = self.with_user(user, &[]);
        let reply = self.send_as(&service, "GET", "/version", &[], "").await;
        assert_eq!(reply.status, 200);
        let header = |name: &str| Value::from(reply.headers[name].to_str().expect("a uid"));
        (header("x-kubernetes-pf-flowschema-uid"), header("x-kubernetes-pf-prioritylevel-uid"))
    }
}

#[tokio::test]
async fn requests_are_classified_by_added_schemas() {
    let cluster = Cluster::start().await;
    let default = (
        cluster.uid("flowschemas", "global-default").await,
        cluster.uid("prioritylevelconfigurations", "global-default").await,
    );
    assert_eq!(cluster.flow_of("jane").await, default);
    let rules = json!([{
        "subjects": [{"kind": "User", "user": {"name": "jane"}}],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    }]);
    let schema = json!({
        "metadata": {"name": "mine"},
        "spec": {"matchingPrecedence": 50, "priorityLevelConfiguration": {"name": "mine"}, "rules": rules},
    });
    cluster.post(&format!("{GROUP}/flowschemas"), &schema.to_string()).await.expect(201);
    assert_eq!(cluster.flow_of("jane").await, default, "its level is not there");
    let level = json!({
        "metadata": {"name": "mine"},
        "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 1, "limitResponse": {"type": "Reject"}}},
    });
    cluster.post(&format!("{GROUP}/prioritylevelconfigurations"), &level.to_string()).await.expect(201);
    let mine = (cluster.uid("flowschemas", "mine").await, cluster.uid("prioritylevelconfigurations", "mine").await);
    assert_eq!(cluster.flow_of("jane").await, mine);
    assert_eq!(cluster.flow_of("john").await, default);
    let metrics = cluster.get("/metrics").await;
    let text = String::from_utf8_lossy(&metrics.bytes).into_owned();
    let line = r#"apiserver_flowcontrol_nominal_limit_seats{priority_level="mine"} 3"#;
    assert!(text.contains(line), "{text}");
    cluster.delete(&format!("{GROUP}/flowschemas/mine"), "").await.expect(200);
    assert_eq!(cluster.flow_of("jane").await, default);
    cluster.stop().await;
}
