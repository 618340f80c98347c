//! Nodes that fall silent, few or many, for a while or for long: whose pods go, and that everything is as before afterwards.

use std::time::Duration;

use futures::FutureExt as _;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::machines::{Habits, change};
use super::objects::{Objects, Write, Writer, kind_of, ready, text};
use super::server::{Faults, Server, make};
use super::{Life, Scenario, TROUBLE};
use crate::{clock, node_lifecycle, taint_eviction};

const NODES: usize = 5;
/// How often a node reports, in seconds.
const REPORT: u32 = 10;
/// When nodes fall silent, in seconds.
const CUT: u32 = 60;
/// When all has long been over.
const END: u32 = 1500;

fn name(number: usize) -> String {
    format!("n{number}")
}

fn begin(objects: &mut Objects) {
    for number in 0..NODES {
        make(objects, json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name(number)}}));
        let bears = |key: &str| {
            json!({"key": format!("node.kubernetes.io/{key}"), "operator": "Exists", "effect": "NoExecute",
            "tolerationSeconds": 300})
        };
        let spec = json!({"nodeName": name(number), "containers": [{"name": "c", "image": "i"}],
            "tolerations": [bears("not-ready"), bears("unreachable")]});
        make(
            objects,
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("on-{}", name(number))}, "spec": spec}),
        );
    }
}

/// What a node does each time: it renews its lease, and corrects what its status says of it and its pods.
fn report(objects: &mut Objects, node: &str) {
    let kind = kind_of(&json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}));
    let now = clock::now().strftime("%FT%T.%6fZ").to_string();
    match objects.get(&kind, "kube-node-lease", node).cloned() {
        Some(lease) => change(objects, &lease, None, |lease| lease["spec"]["renewTime"] = now.into()),
        None => {
            let lease = json!({"metadata": {"name": node}, "spec": {"holderIdentity": node, "renewTime": now}});
            objects.create(&kind, Writer::World, "kube-node-lease", lease).map(drop).expect("a lease");
        }
    }
    let object = objects.named("core/nodes", node).cloned().expect("it is there");
    let status = object["status"]["conditions"].as_array().into_iter().flatten().find(|one| one["type"] == "Ready");
    if status.is_none_or(|ready| ready["status"] != "True") {
        let time = clock::now().strftime("%FT%TZ").to_string();
        let conditions = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"].map(|kind| {
            let status = if kind == "Ready" { "True" } else { "False" };
            json!({"type": kind, "status": status, "lastHeartbeatTime": time, "lastTransitionTime": time})
        });
        change(objects, &object, Some("status"), |node| node["status"]["conditions"] = conditions.to_vec().into());
    }
    let pod = objects.named("core/pods", &format!("on-{node}")).cloned();
    if let Some(pod) = pod.filter(|pod| !super::objects::deleting(pod) && !ready(pod)) {
        let time = clock::now().strftime("%FT%TZ").to_string();
        change(objects, &pod, Some("status"), |pod| {
            pod["status"]["phase"] = "Running".into();
            pod["status"]["conditions"] = json!([{"type": "Ready", "status": "True", "lastTransitionTime": time}]);
        });
    }
}

fn evicting(node: &Value) -> bool {
    node["spec"]["taints"].as_array().into_iter().flatten().any(|taint| taint["effect"] == "NoExecute")
}

/// A pod goes only from a node that evicts, and no node evicts that was heard of a moment ago.
fn no_hurry(objects: &Objects, write: &Write) -> Result<(), String> {
    if write.writer != Writer::Controller {
        return Ok(());
    }
    if let Some(pod) = write.condemned().filter(|_| &*write.collection == "core/pods") {
        let node = objects.named("core/nodes", text(pod, "/spec/nodeName")).ok_or("no node")?;
        let ready = node["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|one| one["type"] == "Ready" && one["status"] == "True");
        if ready {
            return Err(format!("{} goes although its node is back", text(pod, "/metadata/name")));
        }
    }
    if &*write.collection == "core/nodes"
        && write.before.as_ref().is_some_and(|before| !evicting(before))
        && evicting(&write.object)
    {
        let lease = objects.named("coordination.k8s.io/leases", text(&write.object, "/metadata/name"));
        let heard: Option<jiff::Timestamp> = lease.and_then(|lease| text(lease, "/spec/renewTime").parse().ok());
        let silence = heard.map_or(i64::MAX, |heard| clock::now().duration_since(heard).as_secs());
        if silence < 50 {
            return Err(format!("{} evicts after {silence} s", text(&write.object, "/metadata/name")));
        }
    }
    Ok(())
}

async fn play(seed: u64, deaths: u32) -> Result<(), String> {
    let mut random = SmallRng::seed_from_u64(seed);
    let scenario = Scenario {
        start: &[node_lifecycle::start, taint_eviction::start],
        shown: &[],
        faults: Faults { death: deaths, ..TROUBLE },
        habits: Habits::default(),
        setup: |_, _| (),
        disturb: |_, _| (),
        last: |_| (),
        always: no_hurry,
        finally: |_| Ok(()),
    };
    let server = Server::new(seed, scenario.faults, scenario.shown, scenario.always);
    server.with(begin);
    let many = random.random_range(1..=NODES);
    let long = *[20, 120, 250, 700].choose(&mut random).expect("one of them");
    let cut: Vec<usize> = rand::seq::index::sample(&mut random, NODES, many).into_vec();
    let phases: [u32; NODES] = std::array::from_fn(|_| random.random_range(0..REPORT));
    let mut life = Life::begin(&server, &scenario);
    for second in 0..END {
        // Each reports at a time of its own.
        let reports = |number: &usize| (second + phases[*number]).is_multiple_of(REPORT);
        let heard = |number: &usize| !(CUT..CUT + long).contains(&second) || !cut.contains(number);
        server.with(|objects| {
            let all = (0..NODES).filter(|number| reports(number) && heard(number));
            all.for_each(|number| report(objects, &name(number)));
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        if server.death().now_or_never().is_some() {
            life.end().await;
            life = Life::begin(&server, &scenario);
        }
        server.broken().map_or(Ok(()), |what| Err(format!("{what} ({many} nodes cut for {long} s)")))?;
    }
    life.end().await;
    let (gone, tainted) = server.with(|objects| {
        let gone: Vec<usize> = (0..NODES)
            .filter(|number| {
                objects.named("core/pods", &format!("on-n{number}")).is_none_or(|pod| super::objects::deleting(pod))
            })
            .collect();
        let tainted = objects
            .all("core/nodes")
            .filter(|node| node["spec"]["taints"].as_array().is_some_and(|all| !all.is_empty()));
        (gone, tainted.count())
    });
    // Three and four of five are a disruption, and so are all; two are two nodes that are lost.
    let mut expected: Vec<usize> = if long > 400 && many < 3 { cut } else { Vec::new() };
    expected.sort_unstable();
    // A process that dies forgets how long it has waited.
    let right = if deaths == 0 { gone == expected } else { gone.iter().all(|number| expected.contains(number)) };
    if !right || tainted > 0 {
        return Err(format!(
            "{many} nodes cut for {long} s: the pods of {gone:?} are gone instead of {expected:?}, {tainted} nodes tainted"
        ));
    }
    Ok(())
}

#[test]
fn pods_outlive_the_silence_of_their_nodes() {
    for seed in super::seeds() {
        for deaths in [0, 40] {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            let outcome = runtime.expect("a runtime").block_on(async {
                clock::simulated::begin("2026-01-01T00:00:00Z".parse().expect("a time"));
                play(seed, deaths).await
            });
            clock::simulated::end();
            outcome.unwrap_or_else(|what| panic!("seed {seed}, deaths {deaths}: {what}"));
        }
    }
}
