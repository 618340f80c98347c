//! Containers that have CPUs for themselves.

use anyhow::{Context, Result, ensure};
use kobune_node::{AlignPolicy, CpuOptions, CpuSet, PlacementSettings, Reserved};
use serde_json::json;

use crate::cases::exec;
use crate::plugins::call;
use crate::world::World;

#[derive(Clone, PartialEq, prost::Message)]
struct PodList {
    #[prost(message, repeated, tag = "1")]
    pods: Vec<PodResources>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PodResources {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "3")]
    containers: Vec<Container>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Container {
    #[prost(int64, repeated, tag = "3")]
    cpus: Vec<i64>,
    #[prost(message, repeated, tag = "4")]
    memory: Vec<Amount>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Allocatable {
    #[prost(int64, repeated, tag = "2")]
    cpus: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    memory: Vec<Amount>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Amount {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(uint64, tag = "2")]
    bytes: u64,
    #[prost(message, optional, tag = "3")]
    nodes: Option<Nodes>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Nodes {
    #[prost(message, repeated, tag = "1")]
    nodes: Vec<One>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct One {
    #[prost(int64, tag = "1")]
    id: i64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Nothing {}

/// The CPUs that a pod's first process may run on.
async fn cpus(world: &World, pod: &str) -> Result<CpuSet> {
    let (text, status) = exec(world, pod, &["/kobune", "tool", "show", "/proc/1/status"]).await?;
    ensure!(status["status"] == "Success", "{text} {status}");
    allowed(&text)
}

fn allowed(status: &str) -> Result<CpuSet> {
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).context("a list of CPUs")?;
    Ok(line.parse()?)
}

async fn until_on(world: &World, pod: &str, expected: &CpuSet) -> Result<()> {
    world
        .until(&format!("pod {pod} runs on CPUs {expected}"), async |world| match cpus(world, pod).await {
            Ok(cpus) if cpus == *expected => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await
}

/// A Guaranteed pod that asks for one CPU has it for itself, whatever ran there before, until it ends.
pub async fn has_a_cpu_of_its_own(world: &mut World) -> Result<()> {
    let all = allowed(&std::fs::read_to_string("/proc/self/status")?)?;
    let (Some(first), Some(second)) = (all.iter().next(), all.iter().nth(1)) else {
        println!("SKIPPED: has_a_cpu_of_its_own (needs two CPUs)");
        return Ok(());
    };
    let (first, second): (CpuSet, CpuSet) = ([first].into_iter().collect(), [second].into_iter().collect());
    let one = json!({"limits": {"cpu": "1", "memory": "64Mi"}});
    let hold = |resources: &serde_json::Value| json!({"name": "c", "run": "hold", "resources": resources});
    world.create(
        "shares",
        json!({"terminationGracePeriodSeconds": 1, "containers": [hold(&json!({"requests": {"memory": "1Mi"}}))]}),
    );
    world.ready("shares").await?;
    ensure!(cpus(world, "shares").await? == all);

    world.stop().await?;
    world.placement = PlacementSettings {
        cpus: Some(CpuOptions::default()),
        reserved_cpus: first.clone(),
        memory: Some("0:memory=64Mi".parse()?),
        reserved: Reserved { memory: 64 << 20, ..Reserved::default() },
        align: AlignPolicy::SingleNumaNode,
        ..Default::default()
    };
    world.start().await?;
    let allocatable = (std::thread::available_parallelism()?.get() - 1).to_string();
    world
        .until("the reserved CPU is not allocatable", async |world| {
            let node = world.api.get("/api/v1/nodes/n").unwrap_or_default();
            if node["status"]["allocatable"]["cpu"] == allocatable { Ok(()) } else { Err(format!("{node:#}")) }
        })
        .await?;
    let init = json!({"name": "i", "run": "show /proc/self/status", "resources": one});
    world.create(
        "owns",
        json!({"terminationGracePeriodSeconds": 1, "initContainers": [init], "containers": [hold(&one)]}),
    );
    world.ready("owns").await?;
    ensure!(cpus(world, "owns").await? == second);
    let log = world.log("owns", "i").await?;
    ensure!(allowed(&log)? == second, "the init container had the same CPU: {log}");
    until_on(world, "shares", &all.without(&second)).await?;
    world.create(
        "late",
        json!({"terminationGracePeriodSeconds": 1, "containers": [hold(&json!({"requests": {"memory": "1Mi"}}))]}),
    );
    world.ready("late").await?;
    ensure!(cpus(world, "late").await? == all.without(&second), "who comes later shares the rest");

    let socket = world.node_dir().join("pod-resources/kubelet.sock");
    let pods: PodList = call(&socket, "/v1.PodResourcesLister/List", Nothing {}).await?;
    let of = |name: &str| pods.pods.iter().find(|pod| pod.name == name).map(|pod| pod.containers[0].clone());
    let owns = of("owns").context("the pod is listed")?;
    let numbers = |set: &CpuSet| set.iter().map(i64::from).collect::<Vec<_>>();
    let memory =
        Amount { kind: "memory".to_owned(), bytes: 64 << 20, nodes: Some(Nodes { nodes: vec![One { id: 0 }] }) };
    ensure!(owns.cpus == numbers(&second) && owns.memory == [memory], "{owns:?}");
    ensure!(of("shares").is_some_and(|shares| shares.cpus.is_empty() && shares.memory.is_empty()));
    let all_given: Allocatable = call(&socket, "/v1.PodResourcesLister/GetAllocatableResources", Nothing {}).await?;
    ensure!(all_given.cpus == numbers(&all.without(&first)), "{all_given:?}");
    ensure!(all_given.memory.iter().any(|amount| amount.kind == "memory" && amount.bytes > 64 << 20), "{all_given:?}");

    // What it has it keeps, over a new start of the node too, and does not change.
    world.stop().await?;
    world.start().await?;
    world.resize("owns", json!({"limits": {"cpu": "500m", "memory": "64Mi"}}));
    let refused = "Resize is infeasible for Guaranteed Pods alongside CPU Manager policy \"static\"";
    world
        .wait("owns", "refused", |pod| {
            let conditions = pod["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
            conditions.iter().any(|condition| {
                condition["type"] == "PodResizePending"
                    && condition["reason"] == "Infeasible"
                    && condition["message"] == refused
            })
        })
        .await?;
    ensure!(cpus(world, "owns").await? == second);

    world.delete("owns", 0);
    world.gone("owns").await?;
    until_on(world, "shares", &all).await?;
    // Without the policy nobody is confined.
    world.create("owns", json!({"terminationGracePeriodSeconds": 1, "containers": [hold(&one)]}));
    world.ready("owns").await?;
    world.stop().await?;
    world.placement = PlacementSettings::default();
    world.start().await?;
    until_on(world, "owns", &all).await?;
    until_on(world, "late", &all).await?;
    for name in ["owns", "shares", "late"] {
        world.delete(name, 0);
        world.gone(name).await?;
    }
    Ok(())
}
