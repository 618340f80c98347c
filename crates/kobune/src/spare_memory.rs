//! Gives memory that a burst of work has left with the allocator back to the kernel.
//!
//! glibc keeps what was freed, a heap a thread, and on a machine with little memory that is what an idle cluster would be
//! measured by. Trimming walks all free pieces under the heaps' locks, so it waits until nothing much happens.

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use tokio_util::sync::CancellationToken;

/// How often it is looked whether the process is idle.
const EVERY: Duration = Duration::from_secs(20);

/// Processor time that an idle process uses at most between two looks.
const IDLE: Duration = Duration::from_millis(400);

/// Processor time after which there may be something to give back.
const WORTH: Duration = Duration::from_millis(100);

/// Trims the heaps whenever the process has worked and has become idle, until the token is cancelled.
pub async fn give_back(token: CancellationToken) {
    let mut clock = tokio::time::interval(EVERY);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut last, mut trimmed) = (Duration::ZERO, Duration::ZERO);
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            _ = clock.tick() => {}
        }
        let used = match processor_time() {
            Ok(used) => used,
            Err(error) => {
                tracing::warn!(%error, "memory is not given back: the processor time cannot be read");
                return;
            }
        };
        let is_idle = used.saturating_sub(last) < IDLE;
        last = used;
        if is_idle && used.saturating_sub(trimmed) > WORTH {
            trimmed = used;
            // It never waits for anything but the heaps' locks; still the workers have better things to do.
            if let Err(error) = tokio::task::spawn_blocking(trim).await {
                tracing::error!(%error, "trimming the heaps failed");
                return;
            }
        }
    }
}

fn processor_time() -> nix::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let of = |time: nix::sys::time::TimeVal| {
        Duration::new(time.tv_sec().unsigned_abs(), 0) + Duration::from_micros(time.tv_usec().unsigned_abs())
    };
    Ok(of(usage.user_time()) + of(usage.system_time()))
}

fn trim() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "malloc_trim has no safe wrapper")]
    // SAFETY: it only returns pages that the allocator does not use.
    unsafe {
        libc::malloc_trim(0);
    }
}
