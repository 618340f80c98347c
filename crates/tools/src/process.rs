//! Tools about processes: waiting, ending, using processor and memory.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::sys::signal::{SigSet, Signal};

/// Ends the process on SIGTERM and SIGINT also when it is process 1, to which the kernel does not apply the defaults.
pub fn end_on_signals() -> Result<()> {
    if std::process::id() != 1 {
        return Ok(());
    }
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    // Blocked here, before any other thread starts, so that only the thread below takes them.
    signals.thread_block().context("block signals")?;
    std::thread::Builder::new()
        .stack_size(64 << 10)
        .spawn(move || {
            if let Ok(signal) = signals.wait() {
                std::process::exit(128 + signal as i32);
            }
        })
        .context("start the thread that waits for signals")?;
    Ok(())
}

/// The first process of a pod's namespaces: waits until it is told to end, and takes in processes whose parents have gone.
pub fn pause() -> Result<ExitCode> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD] {
        signals.add(signal);
    }
    signals.thread_block().context("block signals")?;
    while signals.wait().context("wait for signals")? == Signal::SIGCHLD {
        // One signal may stand for several ends; an error says that nobody is left.
        while let Ok(status) = nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG))
            && status != nix::sys::wait::WaitStatus::StillAlive
        {}
    }
    Ok(ExitCode::SUCCESS)
}

/// The flags of `sleep`.
#[derive(Debug, Args)]
pub struct SleepOptions {
    /// Seconds, 5m, 1h30m or infinity; several are added
    #[arg(required = true)]
    times: Vec<String>,
}

/// Waits.
pub fn sleep(options: &SleepOptions) -> Result<ExitCode> {
    let mut total = Some(Duration::ZERO);
    for text in &options.times {
        total = match (total, duration(text)?) {
            (Some(total), Some(time)) => Some(total + time),
            _ => None,
        };
    }
    match total {
        Some(time) => std::thread::sleep(time),
        None => loop {
            std::thread::park();
        },
    }
    Ok(ExitCode::SUCCESS)
}

/// A time span; nothing for an infinite one.
fn duration(text: &str) -> Result<Option<Duration>> {
    if matches!(text, "infinity" | "inf") {
        return Ok(None);
    }
    let mut seconds = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(rest.len());
        let number: f64 = rest[..end].parse().with_context(|| format!("{text:?} is not a time span"))?;
        let after = &rest[end..];
        let unit = after.chars().next();
        seconds += number
            * match unit {
                None | Some('s') => 1.0,
                Some('m') => 60.0,
                Some('h') => 3600.0,
                Some('d') => 86400.0,
                Some(_) => bail!("{text:?} is not a time span"),
            };
        rest = unit.map_or("", |unit| &after[unit.len_utf8()..]);
    }
    Duration::try_from_secs_f64(seconds).map(Some).with_context(|| format!("{text:?} is not a time span"))
}

/// The flags of `exit`.
#[derive(Debug, Args)]
pub struct ExitOptions {
    /// The code to end with
    pub code: u8,
}

/// The flags of `burn`.
#[derive(Debug, Args)]
pub struct BurnOptions {
    /// How many threads
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// For how many seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// Keeps processors busy.
pub fn burn(options: &BurnOptions) -> Result<ExitCode> {
    let end = Instant::now() + Duration::from_secs(options.seconds);
    let threads: Vec<_> = (0..options.threads.max(1))
        .map(|_| {
            std::thread::spawn(move || {
                while Instant::now() < end {
                    std::hint::spin_loop();
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().ok().context("a thread panicked")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The flags of `eat`.
#[derive(Debug, Args)]
pub struct EatOptions {
    /// How many MiB
    mebibytes: usize,
}

/// Takes memory, a MiB at a time, and keeps it.
pub fn eat(options: &EatOptions) -> Result<ExitCode> {
    let mut taken: Vec<Vec<u8>> = Vec::new();
    for count in 1..=options.mebibytes {
        taken.push(vec![1; 1 << 20]);
        if count % 16 == 0 {
            println!("{count} MiB");
        }
    }
    println!("holding {} MiB", std::hint::black_box(&taken).len());
    loop {
        std::thread::park();
    }
}

/// Lists processes: number and command line.
pub fn list() -> Result<ExitCode> {
    let mut processes = Vec::new();
    for entry in std::fs::read_dir("/proc").context("read /proc")? {
        let name = entry?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process that ends meanwhile is not listed.
        if let Ok(line) = std::fs::read(format!("/proc/{id}/cmdline")) {
            processes.push((id, String::from_utf8_lossy(&line).replace('\0', " ")));
        }
    }
    processes.sort_unstable();
    for (id, line) in processes {
        println!("{id:>7} {}", line.trim_end());
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints user and groups by number.
pub fn id() -> Result<ExitCode> {
    let groups = nix::unistd::getgroups().context("read the groups")?;
    let groups = groups.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    println!("uid={} gid={} groups={groups}", nix::unistd::getuid(), nix::unistd::getgid());
    Ok(ExitCode::SUCCESS)
}

/// Prints the host name.
pub fn hostname() -> Result<ExitCode> {
    println!("{}", nix::unistd::gethostname().context("read the host name")?.to_string_lossy());
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_spans() {
        let check = |text: &str, expected: Option<Option<u64>>| {
            let got = duration(text).ok().map(|time| time.map(|time| time.as_millis() as u64));
            assert_eq!(got, expected, "{text}");
        };
        check("5", Some(Some(5_000)));
        check("0.5", Some(Some(500)));
        check("1h30m", Some(Some(5_400_000)));
        check("2d", Some(Some(172_800_000)));
        check("infinity", Some(None));
        check("x", None);
        check("5x", None);
        check("-1", None);
    }
}
