//! One copy of each short string that many objects repeat: collections, namespaces, label keys and values.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;

/// Below this many strings nothing is swept out; about 100 kB.
const SWEEP_AT_LEAST: usize = 1024;

struct Interned {
    strings: HashSet<Arc<str>>,
    sweep_at: usize,
}

static INTERNED: LazyLock<Mutex<Interned>> =
    LazyLock::new(|| Mutex::new(Interned { strings: HashSet::new(), sweep_at: SWEEP_AT_LEAST }));

/// The shared copy of a string. Strings that nobody holds any more are swept out whenever their number has doubled.
pub fn intern(text: &str) -> Arc<str> {
    let mut interned = INTERNED.lock();
    if let Some(known) = interned.strings.get(text) {
        return known.clone();
    }
    if interned.strings.len() >= interned.sweep_at {
        interned.strings.retain(|string| Arc::strong_count(string) > 1);
        interned.sweep_at = (interned.strings.len() * 2).max(SWEEP_AT_LEAST);
    }
    let new: Arc<str> = Arc::from(text);
    interned.strings.insert(new.clone());
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_share_memory_and_unused_ones_go() {
        assert!(Arc::ptr_eq(&intern("kept"), &intern("kept")));
        let kept = intern("kept-alive");
        for number in 0..3 * SWEEP_AT_LEAST {
            intern(&format!("short-lived-{number}"));
        }
        assert!(Arc::ptr_eq(&kept, &intern("kept-alive")));
        assert!(INTERNED.lock().strings.len() <= 2 * SWEEP_AT_LEAST);
    }
}
