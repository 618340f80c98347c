//! Measures what `docs/promises.md` promises and prints one figure a line: `name value unit`.
//!
//! usage: `kobune-bench KOBUNE [idle-seconds] [objects] [nodes]`: the release executable, how long to watch the idle cluster
//! (60), how many pods the API load creates (10000), how many nodes are simulated, one cluster after the other (100,1000,5000).
//! `kobune-bench KOBUNE scale [nodes] [deployments]` measures simulated nodes alone.

mod client;
mod idle;
mod load;
mod pods;
mod process;
mod resize;
mod scale;
mod statistics;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kobune_testbed::Cluster;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let executable = arguments.next().context("usage: kobune-bench KOBUNE [idle-seconds] [objects]")?;
    let idle_seconds = arguments.next();
    if idle_seconds.as_deref() == Some("scale") {
        rustls::crypto::ring::default_provider().install_default().ok().context("install the TLS provider")?;
        let nodes = arguments.next().unwrap_or_else(|| NODES.to_owned());
        let deployments = arguments.next().map_or(Ok(DEPLOYMENTS), |text| text.parse()).context("deployments")?;
        return scales(executable.as_ref(), &nodes, deployments);
    }
    let idle_seconds = idle_seconds.map_or(Ok(60), |text| text.parse()).context("idle-seconds")?;
    let objects = arguments.next().map_or(Ok(10_000), |text| text.parse()).context("objects")?;
    let nodes = arguments.next().unwrap_or_else(|| NODES.to_owned());
    rustls::crypto::ring::default_provider().install_default().ok().context("install the TLS provider")?;

    let start = Instant::now();
    let cluster = Cluster::builder(&executable).start()?;
    eprintln!("cluster ready after {:?} with the time that the testbed takes to see it", start.elapsed());
    print("ready_from_empty", idle::ready_time(&cluster)?, "ms");
    idle::measure(&cluster, Duration::from_secs(idle_seconds))?;
    pods::measure(&cluster)?;
    resize::measure(&cluster)?;
    load::measure(&cluster, objects)?;
    drop(cluster);
    scales(executable.as_ref(), &nodes, DEPLOYMENTS)
}

/// Numbers of simulated nodes.
const NODES: &str = "100,1000,5000";
/// Deployments of a thousand pods on them.
const DEPLOYMENTS: usize = 10;

fn scales(executable: &std::path::Path, nodes: &str, deployments: usize) -> Result<()> {
    for nodes in nodes.split(',').filter(|text| !text.is_empty()) {
        scale::measure(executable, nodes.parse().context("nodes")?, deployments)?;
    }
    Ok(())
}

/// Prints a figure.
fn print(name: &str, value: f64, unit: &str) {
    println!("{name} {value:.2} {unit}");
}
