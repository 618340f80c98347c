//! Whole clusters with real containers and real clients. Each test has a cluster of its own in a network namespace of
//! its own; see `kobune-testbed`.

mod apply;
mod bad_input;
mod beside_kubectl;
mod clients;
mod clocks;
mod container_runtime;
mod devices;
mod disruptions;
mod faults;
mod hello;
mod helm;
mod kubectl;
mod lives;
mod network;
mod plugins;
mod pods;
mod servers;
mod simulation;
mod split;
mod storage;
mod storage_driver;
mod storage_sidecars;
mod streams;
mod sync;
mod verbs;
mod workloads;

use std::time::Duration;

use kobune_testbed::{Cluster, eventually};

/// How long a workload may take to settle: generous, for an unoptimised build on two busy cores.
const SETTLE: Duration = Duration::from_secs(90);

/// Starts a cluster of the executable under test.
fn cluster() -> Cluster {
    Cluster::builder(env!("CARGO_BIN_EXE_kobune")).start().expect("a cluster starts")
}

/// Waits until a jsonpath of an object has the given value.
#[track_caller]
fn wait_for(cluster: &Cluster, object: &[&str], path: &str, expected: &str) {
    let output = format!("jsonpath={{{path}}}");
    eventually(&format!("{} has {path} = {expected}", object.join(" ")), SETTLE, || {
        let mut arguments = vec!["get"];
        arguments.extend(object);
        arguments.extend(["-o", &output]);
        let got = cluster.kubectl(arguments).map_err(|error| error.to_string())?;
        if got.status.success() && got.stdout == expected {
            return Ok(());
        }
        let pods = cluster.kubectl(["get", "pods,events", "-A"]).map_err(|error| error.to_string())?;
        Err(format!("it is {:?} {}\n{}", got.stdout, got.stderr, pods.stdout))
    });
}

/// A pod of one container that sleeps, with `more` in its container.
fn sleeper(name: &str, more: &str) -> String {
    format!(
        r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "{name}", "labels": {{"app": "{name}"}}}},
            "spec": {{"terminationGracePeriodSeconds": 1, "containers": [
              {{"name": "main", "image": "kobune.local/kobune", "imagePullPolicy": "IfNotPresent",
                "command": ["sleep", "infinity"]{more}}}]}}}}"#
    )
}
