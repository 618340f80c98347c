//! What a cluster costs while nothing happens, and how soon it is there.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kobune_testbed::Cluster;

use crate::{print, process};

/// Milliseconds from the start of a fresh instance's process to the first `ok` of `/readyz`, as its log tells.
pub fn ready_time(cluster: &Cluster) -> Result<f64> {
    // The line is written just after the server answers, which is what the testbed waits for.
    let limit = Instant::now() + Duration::from_secs(5);
    let line = loop {
        let log = cluster.log();
        match log.lines().find(|line| line.contains("answers at")) {
            Some(line) => break line.to_owned(),
            None if Instant::now() > limit => bail!("the log does not say when kobune answers"),
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let digits = line.split("took_ms=").nth(1).context("the log says how long it took")?;
    let digits: String = digits.chars().take_while(char::is_ascii_digit).collect();
    Ok(digits.parse()?)
}

/// Watches the cluster for `time` after it has settled.
pub fn measure(cluster: &Cluster, time: Duration) -> Result<()> {
    eprintln!("letting the cluster settle, then watching it for {time:?}");
    std::thread::sleep(Duration::from_secs(20));
    let kobune = cluster.process_id();
    let (cpu, written, start) = (process::processor_time(kobune)?, process::bytes_written(kobune)?, Instant::now());
    std::thread::sleep(time);
    let elapsed = start.elapsed().as_secs_f64();
    let cpu = process::processor_time(kobune)? - cpu;
    let written = process::bytes_written(kobune)? - written;
    print("idle_memory", process::proportional_set_size(kobune)? as f64 / 1e6, "MB");
    print("idle_cpu", cpu / elapsed * 100.0, "% of a core");
    print("idle_written", written as f64 / elapsed * 3600.0 / 1e6, "MB an hour");
    Ok(())
}
