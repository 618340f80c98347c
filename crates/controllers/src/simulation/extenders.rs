//! The scheduler with extenders: real servers on this machine, of which some hang, some are away and some talk nonsense.
//!
//! Time is real here, because the extenders' sockets are.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::objects::{Objects, deleting, text};
use super::server::{Faults, Server, make};

/// What an extender was asked: the verb and the body.
type Asked = Arc<Mutex<Vec<(String, Value)>>>;
type Answer = Arc<dyn Fn(&str, &Value) -> Option<String> + Send + Sync>;

/// Serves one request, or never answers it.
async fn serve(stream: TcpStream, asked: Asked, answer: Answer) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let verb = line.split_whitespace().nth(1).unwrap_or_default().rsplit('/').next().unwrap_or_default().to_owned();
    let mut headers = HashMap::new();
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).await?;
        let Some((name, value)) = header.trim().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let body: Value = serde_json::from_slice(&body)?;
    let answer = answer(&verb, &body);
    asked.lock().push((verb, body));
    let Some(answer) = answer else { return std::future::pending().await };
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", answer.len());
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(answer.as_bytes()).await
}

/// An extender at an address of its own, and what it is asked.
async fn extender(answer: impl Fn(&str, &Value) -> Option<String> + Send + Sync + 'static) -> (String, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}/scheduler", listener.local_addr().expect("an address"));
    let (asked, answer) = (Asked::default(), Arc::new(answer) as Answer);
    let known = asked.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, known.clone(), answer.clone()));
        }
    });
    (address, asked)
}

fn node(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "status": {"allocatable": {"cpu": "2", "memory": "2Gi", "pods": "10", "example.com/heavy": "1"}}})
}

/// A pod that asks for one of a resource.
fn pod(name: &str, resource: &str, priority: i64) -> Value {
    let list = if resource.is_empty() { json!({}) } else { json!({resource: "1"}) };
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"priority": priority,
        "containers": [{"name": "c", "image": "i", "resources": {"requests": list, "limits": list}}]}})
}

fn node_of(objects: &Objects, name: &str) -> String {
    objects.named("core/pods", name).map(|pod| text(pod, "/spec/nodeName").to_owned()).unwrap_or_default()
}

fn message(objects: &Objects, name: &str) -> String {
    let conditions = objects.named("core/pods", name).and_then(|pod| pod.pointer("/status/conditions").cloned());
    let conditions = conditions.and_then(|all| all.as_array().cloned()).unwrap_or_default();
    let scheduled = conditions.into_iter().find(|one| one["type"] == "PodScheduled");
    scheduled.map(|one| format!("{}: {}", text(&one, "/reason"), text(&one, "/message"))).unwrap_or_default()
}

/// Waits until something shows that is wanted, and says what showed last.
async fn until<T: PartialEq + std::fmt::Debug>(server: &Server, wanted: T, look: impl Fn(&Objects) -> T) {
    let mut changes = server.changes();
    loop {
        let found = server.with(|objects| look(objects));
        if found == wanted {
            return;
        }
        let changed = tokio::time::timeout(Duration::from_secs(30), changes.changed()).await;
        assert!(changed.is_ok(), "{found:?} instead of {wanted:?}\n{}", server.story());
    }
}

#[tokio::test]
async fn extenders_have_a_say_and_hold_up_nobody_else() {
    let server = Server::new(0, Faults::default(), &[], |_, _| Ok(()));
    server.with(|objects| ["n0", "n1", "n2"].iter().for_each(|name| drop(make(objects, node(name)))));

    // Of the nodes that fit one is struck out, and the last is liked most; it binds by itself, too.
    let binds = server.clone();
    let (choosy, choosy_asked) = extender(move |verb, body| {
        let names = body["Nodes"]["items"].as_array().cloned().unwrap_or_default();
        match verb {
            "filter" => {
                let left: Vec<Value> = names.into_iter().filter(|node| node["metadata"]["name"] != "n2").collect();
                Some(json!({"nodes": {"items": left}, "failedNodes": {"n2": "node(s) were too loud"}}).to_string())
            }
            "prioritize" => Some(json!([{"Host": "n0", "Score": 0}, {"Host": "n1", "Score": 10}]).to_string()),
            "bind" => {
                let kind = super::objects::kind_of(&json!({"apiVersion": "v1", "kind": "Pod"}));
                let place = (text(body, "/PodNamespace"), text(body, "/PodName"));
                binds.with(|objects| objects.bind(&kind, place, text(body, "/Node")));
                Some(json!({"Error": ""}).to_string())
            }
            other => panic!("{other} is not configured"),
        }
    })
    .await;
    let (never, _) = extender(|_, _| {
        Some(
            json!({"NodeNames": [], "FailedAndUnresolvableNodes":
        {"n0": "no way", "n1": "no way", "n2": "no way"}})
            .to_string(),
        )
    })
    .await;
    let (hangs, _) = extender(|_, _| None).await;
    let (junk, _) = extender(|_, _| Some("<html>".to_owned())).await;
    let (foreign, _) = extender(|_, _| Some(json!({"NodeNames": ["mars"]}).to_string())).await;
    // On n1 nobody may go, so that another victim is found.
    let (spares, spares_asked) = extender(|verb, body| {
        assert_eq!(verb, "preempt");
        let mut left = body["NodeNameToMetaVictims"].clone();
        left.as_object_mut()?.retain(|node, _| node == "n2");
        Some(json!({"NodeNameToMetaVictims": left}).to_string())
    })
    .await;
    let one = |url: &str, resource: &str, more: Value| {
        let mut one = json!({"urlPrefix": url, "filterVerb": "filter", "nodeCacheCapable": true,
            "managedResources": [{"name": format!("example.com/{resource}"), "ignoredByScheduler": resource != "heavy"}]});
        one.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        one
    };
    let choice = json!({"prioritizeVerb": "prioritize", "weight": 100, "bindVerb": "bind", "nodeCacheCapable": false});
    let config = kobune_scheduler::Config::from_value(json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
        "podInitialBackoffSeconds": 1, "podMaxBackoffSeconds": 1,
        "extenders": [
            one(&choosy, "choosy", choice),
            one(&never, "never", json!({})),
            one(&hangs, "hangs", json!({"httpTimeout": "1h"})),
            one(&hangs, "late", json!({"httpTimeout": "50ms"})),
            one(&hangs, "late-but-ignorable", json!({"httpTimeout": "50ms", "ignorable": true})),
            one(&junk, "junk", json!({})),
            one(&foreign, "foreign", json!({})),
            // Nobody listens on port 1.
            one("http://127.0.0.1:1", "down", json!({})),
            one("http://127.0.0.1:1", "down-but-ignorable", json!({"ignorable": true})),
            one(&spares, "heavy", json!({"filterVerb": "", "preemptVerb": "preempt"})),
        ],
    }))
    .expect("a configuration");
    let token = CancellationToken::new();
    let scheduler = tokio::spawn(kobune_scheduler::run(server.client(), config, token.clone()));

    // More hang than are asked about at a time, and come first.
    server.with(|objects| {
        for number in 0..80 {
            make(objects, pod(&format!("hangs-{number}"), "example.com/hangs", 10));
        }
        for resource in ["never", "late", "junk", "foreign", "down"] {
            make(objects, pod(resource, &format!("example.com/{resource}"), 20));
        }
        make(objects, pod("plain", "", 0));
    });
    until(&server, true, |objects| !node_of(objects, "plain").is_empty()).await;
    let refused = "Unschedulable: 0/3 nodes are available: 3 no way. preemption: 0/3 nodes are available: 3 Preemption is not \
                   helpful for scheduling.";
    until(&server, refused.to_owned(), |objects| message(objects, "never")).await;
    for (name, words) in [
        ("late", "no answer within 0.05 s"),
        ("junk", "expected value"),
        ("foreign", "claims a filtered node \"mars\" which is not found in the input node list"),
        ("down", "filter with extender at URL http://127.0.0.1:1 failed"),
    ] {
        until(&server, (true, true), |objects| {
            let said = message(objects, name);
            (said.starts_with("SchedulerError: "), said.contains(words))
        })
        .await;
    }

    // Although as many as may be still wait for an extender that never answers, others are asked.
    server.with(|objects| {
        for resource in ["choosy", "late-but-ignorable", "down-but-ignorable"] {
            make(objects, pod(resource, &format!("example.com/{resource}"), 0));
        }
    });
    until(&server, "n1".to_owned(), |objects| node_of(objects, "choosy")).await;
    for name in ["late-but-ignorable", "down-but-ignorable"] {
        until(&server, true, |objects| !node_of(objects, name).is_empty()).await;
    }
    let asked = choosy_asked.lock().clone();
    let verbs: Vec<&str> = asked.iter().map(|(verb, _)| verb.as_str()).collect();
    assert_eq!(verbs, ["filter", "prioritize", "bind"]);
    let (_, filter) = &asked[0];
    assert_eq!(text(filter, "/Pod/metadata/name"), "choosy");
    assert_eq!(filter["Nodes"]["items"].as_array().map(Vec::len), Some(3), "whole nodes for one without a cache");
    assert_eq!(text(filter, "/Nodes/items/0/status/allocatable/cpu"), "2");

    // Room is made where the extender allows it.
    server.with(|objects| {
        for name in ["n0", "n1", "n2"] {
            let mut heavy = pod(&format!("heavy-{name}"), "example.com/heavy", 0);
            heavy["spec"]["nodeName"] = name.into();
            make(objects, heavy);
        }
        make(objects, pod("important", "example.com/heavy", 100));
    });
    let going = |objects: &Objects| -> Vec<&'static str> {
        let names = ["heavy-n0", "heavy-n1", "heavy-n2"].into_iter();
        names.filter(|name| objects.named("core/pods", name).is_none_or(|pod| deleting(pod))).collect()
    };
    until(&server, vec!["heavy-n2"], going).await;
    let (_, asked) = spares_asked.lock().first().cloned().expect("it was asked");
    let victims = asked["NodeNameToMetaVictims"].as_object().expect("a map");
    assert_eq!(victims.keys().collect::<Vec<_>>(), ["n0", "n1", "n2"]);
    assert!(victims["n0"]["Pods"][0]["UID"].is_string(), "{asked}");
    token.cancel();
    scheduler.await.expect("no panic").expect("a clean end");
}
