//! Real pods on a node: real containers and a real network, with as much of an API as the node needs.
//!
//! This program is also the shim (`shim`) and the program in the containers (`tool`). It runs in network and mount namespaces
//! of its own and needs root; without, it says so and does nothing.

mod api;
mod cases;
mod claims;
mod devices;
mod placement;
mod plugins;
mod static_pods;
mod tool;
mod user_namespaces;
mod world;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next().as_deref().and_then(|word| word.to_str()) {
        Some("shim") => kobune_runtime::shim_main(arguments),
        Some("tool") => tool::main(arguments.filter_map(|word| word.into_string().ok()).collect()),
        Some("--list") => ExitCode::SUCCESS,
        filter => cases::run(filter.filter(|word| !word.starts_with('-'))),
    }
}
