//! Addresses and ports of services when two servers share a store.

use std::collections::HashSet;

use futures::future::join_all;
use kobune_apiserver::InProcess;
use serde_json::Value;

use super::Cluster;

fn body(name: &str, spec: &str) -> String {
    format!(r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"{name}"}},"spec":{spec}}}"#)
}

const SERVICES: &str = "/api/v1/namespaces/default/services";
const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

async fn names(cluster: &Cluster, path: &str) -> HashSet<String> {
    let list = cluster.get(path).await.expect(200);
    let items = list["items"].as_array().cloned().unwrap_or_default();
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test]
async fn two_servers_never_give_the_same_away() {
    let few_ports = |config: &mut kobune_apiserver::Config| config.node_port_range = 30000..=30019;
    let cluster = Cluster::start_with(few_ports).await;
    let other = cluster.another_server(few_ports).await;
    let servers: [&InProcess; 2] = [cluster.admin(), &other];
    // 254 addresses and 20 ports; all made at once.
    let spec = r#"{"type":"NodePort","ports":[{"port":80}]}"#;
    let made = join_all((0..30).map(|number| {
        let body = body(&format!("s{number}"), spec);
        async move { cluster_post(servers[number % 2], &body).await }
    }));
    let made: Vec<(u16, Value)> = made.await;
    let good: Vec<&Value> = made.iter().filter(|(status, _)| *status == 201).map(|(_, service)| service).collect();
    let addresses: HashSet<&str> =
        good.iter().map(|service| service["spec"]["clusterIP"].as_str().expect("an address")).collect();
    let ports: HashSet<u64> =
        good.iter().map(|service| service["spec"]["ports"][0]["nodePort"].as_u64().expect("a port")).collect();
    assert_eq!((good.len(), addresses.len(), ports.len()), (20, 20, 20), "as many as there are ports");
    for (status, refused) in made.iter().filter(|(status, _)| *status != 201) {
        assert_eq!(*status, 422, "{refused}");
        assert!(refused["message"].as_str().is_some_and(|text| text.contains("range is full")), "{refused}");
    }

    // What is taken shows as upstream's IPAddress, and what was refused has left nothing behind.
    let reserved = names(&cluster, "/apis/networking.k8s.io/v1/ipaddresses").await;
    let mut expected: HashSet<String> = addresses.iter().map(|address| (*address).to_owned()).collect();
    // The API's own Service and that of DNS.
    expected.extend(["10.96.0.1", "10.96.0.10"].map(str::to_owned));
    assert_eq!(reserved, expected);
    let address = cluster.get("/apis/networking.k8s.io/v1/ipaddresses/10.96.0.1").await.expect(200);
    assert_eq!(address["spec"]["parentRef"]["name"], "kubernetes");

    // What one server takes the other one refuses by name, until it is deleted.
    let first = good[0];
    let name = first["metadata"]["name"].as_str().expect("a name");
    let wanted = format!(r#"{{"clusterIP":{},"ports":[{{"port":80}}]}}"#, first["spec"]["clusterIP"]);
    let (status, refused) = cluster_post(&other, &body("wanted", &wanted)).await;
    assert_eq!(status, 422, "{refused}");
    assert!(refused["message"].as_str().is_some_and(|text| text.contains("provided IP is already allocated")));
    cluster.send_as(&other, "DELETE", &format!("{SERVICES}/{name}"), JSON, "").await.expect(200);
    let (status, made) = cluster_post(cluster.admin(), &body("wanted", &wanted)).await;
    assert_eq!(status, 201, "{made}");
    let (status, made) = cluster_post(&other, &body("again", spec)).await;
    assert_eq!(status, 201, "the port is free again: {made}");

    // A dry run takes nothing; a change to a name gives everything back.
    let before = names(&cluster, "/apis/networking.k8s.io/v1/ipaddresses").await;
    let dry = format!("{SERVICES}?dryRun=All");
    cluster.post(&dry, &body("dry", r#"{"ports":[{"port":80}]}"#)).await.expect(201);
    assert_eq!(names(&cluster, "/apis/networking.k8s.io/v1/ipaddresses").await, before);
    let patch = r#"{"spec":{"type":"ExternalName","externalName":"example.com","clusterIP":null,"clusterIPs":null,"ports":null}}"#;
    cluster.patch(&format!("{SERVICES}/wanted"), "application/merge-patch+json", patch).await.expect(200);
    let after = names(&cluster, "/apis/networking.k8s.io/v1/ipaddresses").await;
    assert_eq!(before.difference(&after).count(), 1, "{before:?} {after:?}");
    cluster.stop().await;
}

async fn cluster_post(service: &InProcess, body: &str) -> (u16, Value) {
    let reply = super::send(service, "POST", SERVICES, JSON, body.as_bytes()).await;
    (reply.status.as_u16(), reply.json())
}

#[tokio::test]
async fn services_of_an_earlier_version_keep_what_they_hold() {
    let cluster = Cluster::start().await;
    let made = cluster.post(SERVICES, &body("old", r#"{"ports":[{"port":80}]}"#)).await.expect(201);
    let address = made["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    let path = format!("/apis/networking.k8s.io/v1/ipaddresses/{address}");
    cluster.delete(&path, "").await.expect(200);
    let cluster = cluster.restart().await;
    assert_eq!(cluster.get(&path).await.expect(200)["spec"]["parentRef"]["name"], "old");
    cluster.stop().await;
}
