//! Quotas that several servers keep together.

use super::{Cluster, config_map};

#[tokio::test]
async fn quotas_hold_across_servers() {
    let cluster = Cluster::start().await;
    let quota = r#"{"metadata":{"name":"few"},"spec":{"hard":{"count/configmaps":"7"}}}"#;
    cluster.post("/api/v1/namespaces/default/resourcequotas", quota).await.expect(201);
    let servers = [cluster.sharing_server().await, cluster.sharing_server().await, cluster.sharing_server().await];
    let path = "/api/v1/namespaces/default/configmaps";
    let headers = [("content-type", "application/json")];
    let attempts = (0..30).map(|at| {
        let server = &servers[at % servers.len()];
        let body = config_map(&format!("m{at}"), "{}");
        let cluster = &cluster;
        async move { cluster.send_as(server, "POST", path, &headers, &body).await.status.as_u16() }
    });
    let statuses = futures::future::join_all(attempts).await;
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 7, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 403).count(), 23, "{statuses:?}");
    // What is gone makes room, and a dry run takes none.
    let kept = cluster.get(path).await.expect(200)["items"][0]["metadata"]["name"].clone();
    let kept = kept.as_str().expect("a name");
    cluster.delete(&format!("{path}/{kept}"), "").await.expect(200);
    let dry = format!("{path}?dryRun=All");
    for body in [config_map("n", "{}"), config_map("o", "{}")] {
        // The notes that the object which is gone was admitted may still be there for a moment, each server has its own.
        for server in &servers {
            while cluster.send_as(server, "POST", &dry, &headers, &body).await.status != 201 {
                tokio::task::yield_now().await;
            }
        }
    }
    let reply = cluster.send_as(&servers[1], "POST", path, &headers, &config_map("n", "{}")).await;
    assert_eq!(reply.status, 201);
    let reply = cluster.send_as(&servers[2], "POST", path, &headers, &config_map("o", "{}")).await;
    let (_, words) = reply.failure(403);
    assert!(
        words.contains("exceeded quota: few, requested: count/configmaps=1, used: count/configmaps=7, limited"),
        "{words}"
    );
    cluster.stop().await;
}
