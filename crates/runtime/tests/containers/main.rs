//! Real containers: images from archives, sandboxes, commands, restarts of kobune, and nothing left behind.
//!
//! This program is also the shim (`shim`), the program in the containers (`tool`), and a kobune to be killed (`client`).

mod cases;
mod tool;
mod world;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next().as_deref().and_then(|word| word.to_str()) {
        Some("shim") => kobune_runtime::shim_main(arguments),
        Some("tool") => tool::main(arguments.filter_map(|word| word.into_string().ok()).collect()),
        Some("client") => world::client(arguments.filter_map(|word| word.into_string().ok()).collect()),
        Some("--list") => ExitCode::SUCCESS,
        filter => cases::run(filter.filter(|word| !word.starts_with('-'))),
    }
}
