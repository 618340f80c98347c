//! Fuzzes whatever decodes what clients send. `make fuzz` builds it with the coverage that libFuzzer follows and runs
//! every target for a minute; `FUZZ_TARGET` says which target a process runs.
//!
//! A target does not only look for panics: what was read must survive being written and read again.

#![no_main]

mod expressions;
mod objects;
mod patches;
mod texts;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

type Target = fn(&[u8]);

/// The targets by name.
const TARGETS: [(&str, Target); 8] = [
    ("json", objects::json),
    ("yaml", objects::yaml),
    ("protobuf", objects::protobuf),
    ("patches", patches::run),
    ("expressions", expressions::run),
    ("selectors", texts::selectors),
    ("tokens", texts::tokens),
    ("kustomize", texts::kustomize),
];

static CHOSEN: OnceLock<Target> = OnceLock::new();

fn choose() -> Target {
    let wanted = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let found = TARGETS.iter().find(|(name, _)| *name == wanted);
    found.unwrap_or_else(|| panic!("FUZZ_TARGET must be one of {:?}", TARGETS.map(|(name, _)| name))).1
}

fuzz_target!(init: {
    CHOSEN.get_or_init(choose);
}, |data: &[u8]| CHOSEN.get_or_init(choose)(data));
