//! Devices of a plugin: in the node's status, in containers, with one pod each.

use std::sync::{Arc, Mutex};

use anyhow::{Result, ensure};
use prost::Message;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::plugins::{Map, Plugin, call};
use crate::world::World;

const RESOURCE: &str = "example.com/thing";

#[derive(Clone, PartialEq, prost::Message)]
struct Register {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(string, tag = "2")]
    endpoint: String,
    #[prost(string, tag = "3")]
    resource: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Nothing {}

#[derive(Clone, PartialEq, prost::Message)]
struct Listed {
    #[prost(message, repeated, tag = "1")]
    things: Vec<Thing>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Thing {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    health: String,
}

/// A list of lists of names: requests and answers alike.
#[derive(Clone, PartialEq, prost::Message)]
struct Wanted {
    #[prost(message, repeated, tag = "1")]
    containers: Vec<Names>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Names {
    #[prost(string, repeated, tag = "1")]
    names: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Given {
    #[prost(message, repeated, tag = "1")]
    containers: Vec<Needs>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Needs {
    #[prost(map = "string, string", tag = "1")]
    envs: Map,
    #[prost(message, repeated, tag = "3")]
    devices: Vec<Node>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Node {
    #[prost(string, tag = "1")]
    container_path: String,
    #[prost(string, tag = "2")]
    host_path: String,
    #[prost(string, tag = "3")]
    permissions: String,
}

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
    containers: Vec<ContainerResources>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ContainerResources {
    #[prost(message, repeated, tag = "2")]
    devices: Vec<ContainerDevices>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ContainerDevices {
    #[prost(string, tag = "1")]
    resource: String,
    #[prost(string, repeated, tag = "2")]
    ids: Vec<String>,
}

fn things(healthy: &[bool]) -> Vec<u8> {
    let thing = |(index, healthy): (usize, &bool)| Thing {
        id: format!("t{index}"),
        health: if *healthy { "Healthy" } else { "Unhealthy" }.to_owned(),
    };
    Listed { things: healthy.iter().enumerate().map(thing).collect() }.encode_to_vec()
}

async fn amounts(world: &World, capacity: &str, allocatable: &str) -> Result<()> {
    world
        .until("the node tells of its devices", async |world| {
            let status = &world.api.get("/api/v1/nodes/n").unwrap_or_default()["status"];
            let told = (&status["capacity"][RESOURCE], &status["allocatable"][RESOURCE]);
            if told == (&json!(capacity), &json!(allocatable)) { Ok(()) } else { Err(format!("{told:?}")) }
        })
        .await
}

/// A plugin registers; its devices reach containers, each only one; they outlive the plugin and kobune.
pub async fn devices_of_plugins(world: &mut World) -> Result<()> {
    let folder = world.node_dir().join("device-plugins");
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&asked);
    let answers = Arc::new(move |method: &str, message: &[u8]| {
        if !method.ends_with("/Allocate") {
            return Err(format!("{method} is not known"));
        }
        let wanted = Wanted::decode(message).map_err(|error| error.to_string())?;
        let need = |names: &Names| {
            seen.lock().expect("not poisoned").extend(names.names.clone());
            let node =
                Node { container_path: "/dev/thing".into(), host_path: "/dev/null".into(), permissions: "rw".into() };
            Needs { envs: [("THINGS".to_owned(), names.names.join(","))].into(), devices: vec![node] }
        };
        Ok(Given { containers: wanted.containers.iter().map(need).collect() }.encode_to_vec())
    });
    let (list, lists) = watch::channel(things(&[true, true]));
    world
        .until("the node listens for device plugins", async |_| {
            if folder.join("kubelet.sock").exists() { Ok(()) } else { Err("no socket".to_owned()) }
        })
        .await?;
    let plugin = Plugin::start(&folder.join("thing.sock"), answers, Some(lists))?;
    let register = async |version: &str, resource: &str| {
        let request =
            Register { version: version.to_owned(), endpoint: "thing.sock".to_owned(), resource: resource.to_owned() };
        call::<_, Nothing>(&folder.join("kubelet.sock"), "/v1beta1.Registration/Register", request).await
    };
    ensure!(register("v1alpha", RESOURCE).await.is_err(), "the version is not known");
    ensure!(register("v1beta1", "thing").await.is_err(), "that is no extended resource");
    register("v1beta1", RESOURCE).await?;
    amounts(world, "2", "2").await?;

    let wants =
        |count: u32| json!({"limits": {RESOURCE: count.to_string()}, "requests": {RESOURCE: count.to_string()}});
    let holder = json!({"name": "c", "run": "env-hold THINGS", "resources": wants(2)});
    let other = json!({"name": "other", "run": "show /dev/thing"});
    world.create("holder", json!({"terminationGracePeriodSeconds": 0, "containers": [holder, other]}));
    world
        .wait("holder", "running", |pod| {
            pod["status"]["containerStatuses"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|status| status["name"] == "c" && status["ready"] == true)
        })
        .await?;
    ensure!(world.written("holder", "c").await? == "THINGS=t0,t1\n");
    ensure!(world.written("holder", "other").await?.contains("No such file"), "a container has what is not its own");
    let pods: PodList =
        call(&world.node_dir().join("pod-resources/kubelet.sock"), "/v1.PodResourcesLister/List", Nothing {}).await?;
    let mine = pods.pods.iter().find(|pod| pod.name == "holder").map(|pod| pod.containers[0].devices.clone());
    let expected = ContainerDevices { resource: RESOURCE.to_owned(), ids: vec!["t0".to_owned(), "t1".to_owned()] };
    ensure!(mine == Some(vec![expected]), "{mine:?}");

    let health = async |first: &str, second: &str| {
        let expected = json!([{"name": RESOURCE, "resources": [
            {"resourceID": "t0", "health": first}, {"resourceID": "t1", "health": second}]}]);
        world
            .wait("holder", "telling how its devices are", |pod| {
                let statuses = pod["status"]["containerStatuses"].as_array();
                let own = statuses.into_iter().flatten().find(|status| status["name"] == "c").unwrap_or(&Value::Null);
                own["allocatedResourcesStatus"] == expected
            })
            .await
    };
    health("Healthy", "Healthy").await?;
    world.create("late", json!({"containers": [{"name": "c", "run": "hold", "resources": wants(1)}]}));
    let late = world.phase("late", "Failed").await?;
    ensure!(late["status"]["reason"] == "UnexpectedAdmissionError", "{:#}", late["status"]);
    ensure!(late["status"]["message"].as_str().is_some_and(|text| text.contains("Requested: 1, Available: 0")));
    world.delete("late", 0);
    world.gone("late").await?;

    // Devices fall ill, the plugin goes, kobune starts again: who has devices keeps them.
    list.send(things(&[true, false]))?;
    amounts(world, "2", "1").await?;
    health("Healthy", "Unhealthy").await?;
    drop(plugin);
    amounts(world, "2", "0").await?;
    let count = asked.lock().expect("not poisoned").len();
    world.stop().await?;
    world.reboot().await?;
    world.start().await?;
    world
        .wait("holder", "running again", |pod| {
            let statuses = pod["status"]["containerStatuses"].as_array();
            let own = statuses.into_iter().flatten().find(|status| status["name"] == "c").unwrap_or(&Value::Null);
            own["restartCount"].as_i64() >= Some(1) && own["ready"] == true
        })
        .await?;
    ensure!(world.written("holder", "c").await? == "THINGS=t0,t1\n");
    ensure!(asked.lock().expect("not poisoned").len() == count, "the plugin was asked once");
    world.delete("holder", 0);
    world.gone("holder").await
}
