//! What the killed servers have said, and so what the next one must hold.
//!
//! The server's lines: `try PATH NUMBER` before a write that leads to that number (`-` for a deletion), `done PATH NUMBER
//! REVISION` after its answer. One object has at most one write under way.

use std::collections::BTreeMap;
use std::fmt::Write;

/// The state of an object, by the number that its writer gave it; `-` when there is none.
#[derive(Clone, Debug)]
struct State {
    firm: String,
    /// Written and not answered before the kill: it may be there or not.
    tried: Option<String>,
}

/// What was said about each object.
#[derive(Default)]
pub struct Model {
    objects: BTreeMap<String, State>,
    newest: u64,
    answers: u64,
}

impl Model {
    /// Takes a line of the server's output.
    pub fn hear(&mut self, line: &str) -> Result<(), String> {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["try", path, number] => {
                let state = self
                    .objects
                    .entry((*path).to_owned())
                    .or_insert_with(|| State { firm: "-".to_owned(), tried: None });
                state.tried = Some((*number).to_owned());
            }
            ["done", path, number, revision] => {
                let revision: u64 = revision.parse().map_err(|_| format!("no revision: {line}"))?;
                if revision == 0 {
                    return Err(format!("no revision: {line}"));
                }
                self.newest = self.newest.max(revision);
                self.answers += 1;
                let state = State { firm: (*number).to_owned(), tried: None };
                self.objects.insert((*path).to_owned(), state);
            }
            // What the server found at its start, after it has checked it.
            ["found", path, number] => {
                let state = State { firm: (*number).to_owned(), tried: None };
                self.objects.insert((*path).to_owned(), state);
            }
            ["wrong", ..] => return Err(line.to_owned()),
            // The last line may have been cut off by the kill.
            _ => {}
        }
        Ok(())
    }

    /// What the next server must find: a line `revision NEWEST`, then a line `PATH NUMBER [NUMBER]` an object.
    pub fn expectations(&self) -> String {
        let mut text = format!("revision {}\n", self.newest);
        for (path, state) in &self.objects {
            let tried = state.tried.as_deref().unwrap_or_default();
            writeln!(text, "{path} {} {tried}", state.firm).expect("a string takes text");
        }
        text
    }

    /// How many writes were acknowledged.
    pub fn answers(&self) -> u64 {
        self.answers
    }
}
