//! Power cuts by seed, and a disk that fails: whatever happens, an acknowledged write is there and no revision repeats.
//!
//! SQLite runs on a file layer that notes every write and sync. A cut keeps what was synced and any part of the rest, in
//! whole sectors; the next life starts from what is left. `KOBUNE_POWER_CUTS` sets their number.

mod disk;
mod faults;
mod life;
mod tape;

use disk::Disk;
use life::{History, live};

/// Cuts in all.
const CUTS: u64 = 3000;
/// Stores that are cut one after the other, side by side.
const CHAINS: u64 = 4;

fn cuts() -> u64 {
    match std::env::var("KOBUNE_POWER_CUTS") {
        Ok(text) => text.parse().expect("KOBUNE_POWER_CUTS is a number"),
        Err(_) => CUTS,
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime starts")
}

#[test]
fn nothing_acknowledged_is_lost_in_power_cuts() {
    let each = cuts().div_ceil(CHAINS);
    std::thread::scope(|scope| {
        for chain in 0..CHAINS {
            scope.spawn(move || {
                let folder = tempfile::tempdir().expect("a temporary folder");
                let disk = Disk::new(folder.path());
                let mut history = History::default();
                for round in 0..each {
                    runtime().block_on(live(&disk, chain * each + round, &mut history));
                }
            });
        }
    });
}
