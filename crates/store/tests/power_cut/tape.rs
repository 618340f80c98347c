//! What a disk was told, in order, and what may be on it after a power cut.

use std::collections::BTreeMap;

use rand::Rng;
use rand::rngs::StdRng;

/// The unit that a disk writes wholly or not at all.
const SECTOR: usize = 512;

/// Files by name.
pub type Image = BTreeMap<String, Vec<u8>>;

/// One thing the disk was told to do.
pub enum Op {
    Write {
        offset: usize,
        bytes: Vec<u8>,
    },
    Truncate {
        size: usize,
    },
    Delete {
        synced: bool,
    },
    /// The file is durable; with `folder`, deletions are too.
    Sync {
        folder: bool,
    },
}

/// What was on the disk at first, and everything it was told since.
#[derive(Default)]
pub struct Tape {
    pub base: Image,
    pub ops: Vec<(String, Op)>,
}

/// How the disk treats what was written and not synced.
#[derive(Copy, Clone, Debug)]
enum Fate {
    None,
    All,
    /// All up to some moment.
    Prefix,
    /// Some whole writes, in any choice.
    Writes,
    /// Some sectors of some writes.
    Sectors,
}

const FATES: [Fate; 5] = [Fate::None, Fate::All, Fate::Prefix, Fate::Writes, Fate::Sectors];

impl Tape {
    /// What a power cut before the operation with this number may leave.
    pub fn cut(&self, until: usize, random: &mut StdRng) -> Image {
        let mut durable = self.base.clone();
        let mut pending: BTreeMap<&str, Vec<&Op>> = BTreeMap::new();
        for (name, op) in &self.ops[..until] {
            let waiting = pending.entry(name).or_default();
            waiting.push(op);
            if matches!(op, Op::Sync { .. } | Op::Delete { synced: true }) {
                for op in waiting.drain(..) {
                    apply(&mut durable, name, op);
                }
            }
            if matches!(op, Op::Sync { folder: true }) {
                for (name, waiting) in &mut pending {
                    let deleted = waiting.iter().rposition(|op| matches!(op, Op::Delete { .. }));
                    for op in waiting.drain(..deleted.map_or(0, |last| last + 1)) {
                        apply(&mut durable, name, op);
                    }
                }
            }
        }
        for (name, waiting) in pending {
            let fate = FATES[random.random_range(0..FATES.len())];
            let prefix = random.random_range(0..=waiting.len());
            for (number, op) in waiting.into_iter().enumerate() {
                let kept = match fate {
                    Fate::None => false,
                    Fate::All => true,
                    Fate::Prefix => number < prefix,
                    Fate::Writes => random.random(),
                    Fate::Sectors => {
                        tear(&mut durable, name, op, random);
                        false
                    }
                };
                if kept {
                    apply(&mut durable, name, op);
                }
            }
        }
        durable
    }
}

fn apply(image: &mut Image, name: &str, op: &Op) {
    match op {
        Op::Write { offset, bytes } => write(image, name, *offset, bytes),
        Op::Truncate { size } => image.entry(name.to_owned()).or_default().truncate(*size),
        Op::Delete { .. } => drop(image.remove(name)),
        Op::Sync { .. } => {}
    }
}

fn write(image: &mut Image, name: &str, offset: usize, bytes: &[u8]) {
    let file = image.entry(name.to_owned()).or_default();
    let end = offset + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[offset..end].copy_from_slice(bytes);
}

/// Keeps some sectors of a write.
fn tear(image: &mut Image, name: &str, op: &Op, random: &mut StdRng) {
    let Op::Write { offset, bytes } = op else {
        if random.random() {
            apply(image, name, op);
        }
        return;
    };
    let mut at = *offset;
    let end = offset + bytes.len();
    while at < end {
        let next = ((at / SECTOR + 1) * SECTOR).min(end);
        if random.random() {
            write(image, name, at, &bytes[at - offset..next - offset]);
        }
        at = next;
    }
}
