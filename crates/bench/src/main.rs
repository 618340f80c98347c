//! Measures what `docs/promises.md` promises and prints one figure a line: `name value unit`.
//!
//! usage: `kobune-bench KOBUNE [idle-seconds] [objects]`: the release executable, how long to watch the idle cluster
//! (60), how many pods the API load creates (10000).

mod client;
mod idle;
mod load;
mod pods;
mod process;
mod resize;
mod statistics;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kobune_testbed::Cluster;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let executable = arguments.next().context("usage: kobune-bench KOBUNE [idle-seconds] [objects]")?;
    let idle_seconds = arguments.next().map_or(Ok(60), |text| text.parse()).context("idle-seconds")?;
    let objects = arguments.next().map_or(Ok(10_000), |text| text.parse()).context("objects")?;
    rustls::crypto::ring::default_provider().install_default().ok().context("install the TLS provider")?;

    let start = Instant::now();
    let cluster = Cluster::builder(executable).start()?;
    eprintln!("cluster ready after {:?} with the time that the testbed takes to see it", start.elapsed());
    print("ready_from_empty", idle::ready_time(&cluster)?, "ms");
    idle::measure(&cluster, Duration::from_secs(idle_seconds))?;
    pods::measure(&cluster)?;
    resize::measure(&cluster)?;
    load::measure(&cluster, objects)?;
    Ok(())
}

/// Prints a figure.
fn print(name: &str, value: f64, unit: &str) {
    println!("{name} {value:.2} {unit}");
}
