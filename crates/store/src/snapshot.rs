//! The snapshot file: every object of a store at one revision, in a form that any tool can read.
//!
//! Lines of JSON. The first says what the file is: `{"kobune":"snapshot","format":1,"revision":R}`. Then one object a
//! line: `{"collection":C,"namespace":N,"name":M,"revision":R,"value":{...}}`, or, where values are encrypted on disk,
//! `"sealed":"<base64>"` instead of `value`. The last line is `{"objects":COUNT,"sha256":"<hex>"}`, the checksum of all
//! bytes before it. A file without its last line, or with another checksum, is refused as a whole.

use std::borrow::Cow;
use std::io::{BufRead, Write};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::object::{Key, Record, Revision};
use crate::seal::{self, Seal, SealError};
use crate::splice;

/// The form of the file that this program writes.
const FORMAT: u32 = 1;

/// What stands between an object's place and its value.
const VALUE: &str = ",\"value\":";

/// How far revisions leap when a snapshot is restored: further than a cluster can have come between the snapshot and its
/// end, so that no revision that a client has seen is used for something else. etcd's own advice for its restore.
pub const EPOCH: u64 = 1_000_000_000;

/// Why a snapshot could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file could not be read or written.
    #[error("cannot read or write the snapshot")]
    Io(#[from] std::io::Error),
    /// A line is not what it should be.
    #[error("line {number} of the snapshot is damaged: {problem}")]
    Line {
        /// The line, from 1.
        number: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// The file ends before its last line.
    #[error("the snapshot is cut off")]
    CutOff,
    /// The checksum is another one.
    #[error("the snapshot is damaged: its checksum does not match")]
    Checksum,
    /// The file has a form that this program does not know.
    #[error("the snapshot has format {found}, this kobune knows {FORMAT}")]
    Format {
        /// The form of the file.
        found: u32,
    },
    /// An object could not be sealed or opened.
    #[error("{key} cannot be read or written")]
    Sealed {
        /// The object.
        key: String,
        /// Why.
        source: SealError,
    },
}

#[derive(Serialize, Deserialize)]
struct Head {
    kobune: String,
    format: u32,
    revision: u64,
}

#[derive(Serialize, Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    collection: Cow<'a, str>,
    #[serde(borrow)]
    namespace: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
    revision: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Tail {
    objects: usize,
    sha256: String,
}

/// All objects of a store at one revision.
#[derive(Debug)]
pub struct Snapshot {
    /// The revision.
    pub revision: Revision,
    /// The objects.
    pub records: Vec<Record>,
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Snapshot {
    /// Writes the file; values that the seal encrypts are encrypted in it.
    pub fn write(&self, mut to: impl Write, seal: Option<&dyn Seal>) -> Result<(), SnapshotError> {
        let mut sum = Sha256::new();
        let mut put = |line: Vec<u8>| -> std::io::Result<()> {
            sum.update(&line);
            to.write_all(&line)
        };
        let head = Head { kobune: "snapshot".to_owned(), format: FORMAT, revision: self.revision.0 };
        put(line_of(&head, 1)?)?;
        for (index, record) in self.records.iter().enumerate() {
            let failed = |source| SnapshotError::Sealed { key: record.key.to_string(), source };
            let sealed = match seal.map(|seal| seal.seal(&record.key, &record.value)).transpose().map_err(failed)? {
                Some(Cow::Owned(sealed)) => Some(BASE64_STANDARD.encode(sealed)),
                Some(Cow::Borrowed(_)) | None => None,
            };
            let value = sealed.is_none().then_some(&record.value[..]);
            let entry = Entry {
                collection: Cow::Borrowed(&record.key.collection),
                namespace: Cow::Borrowed(&record.key.namespace),
                name: Cow::Borrowed(&record.key.name),
                revision: record.revision.0,
                sealed,
            };
            put(entry_line(&entry, value, index + 2)?)?;
        }
        let tail = Tail { objects: self.records.len(), sha256: hex(&sum.finalize()) };
        to.write_all(&line_of(&tail, self.records.len() + 2)?)?;
        to.flush()?;
        Ok(())
    }

    /// Reads a file and checks all of it.
    pub fn read(mut from: impl BufRead, seal: Option<&dyn Seal>) -> Result<Snapshot, SnapshotError> {
        let mut sum = Sha256::new();
        let mut line = Vec::new();
        let mut records = Vec::new();
        let mut revision = None;
        for number in 1.. {
            line.clear();
            if from.read_until(b'\n', &mut line)? == 0 || line.pop() != Some(b'\n') {
                return Err(SnapshotError::CutOff);
            }
            let text = std::str::from_utf8(&line)
                .map_err(|_| SnapshotError::Line { number, problem: "it is no text".to_owned() })?;
            let parsed = |error: serde_json::Error| damaged(number, &error);
            if number == 1 {
                let head: Head = serde_json::from_str(text).map_err(parsed)?;
                if head.format != FORMAT || head.kobune != "snapshot" {
                    return Err(SnapshotError::Format { found: head.format });
                }
                revision = Some(Revision(head.revision));
            } else if let Ok(tail) = serde_json::from_str::<Tail>(text) {
                if tail.objects != records.len() || tail.sha256 != hex(&sum.finalize()) {
                    return Err(SnapshotError::Checksum);
                }
                let revision = revision.expect("the first line was read");
                return Ok(Snapshot { revision, records });
            } else {
                // In strings every quotation mark is escaped, so this is where the value begins.
                let (entry, value) = match text.split_once(VALUE) {
                    Some((head, rest)) => (format!("{head}}}"), rest.strip_suffix('}')),
                    None => (text.to_owned(), None),
                };
                if let Some(value) = value {
                    serde_json::from_str::<IgnoredAny>(value).map_err(parsed)?;
                }
                records.push(record(serde_json::from_str(&entry).map_err(parsed)?, value, number, seal)?);
            }
            sum.update(&line);
            sum.update(b"\n");
        }
        unreachable!("lines are counted without end")
    }
}

fn record(
    entry: Entry<'_>,
    value: Option<&str>,
    number: usize,
    seal: Option<&dyn Seal>,
) -> Result<Record, SnapshotError> {
    let wrong = |problem: &str| SnapshotError::Line { number, problem: problem.to_owned() };
    let key = Key::new(&entry.collection, &entry.namespace, &entry.name);
    let value = match (value, entry.sealed) {
        (Some(value), None) => value.as_bytes().to_vec(),
        (None, Some(sealed)) => {
            let stored = BASE64_STANDARD.decode(sealed).map_err(|_| wrong("its sealed value is no base64"))?;
            let failed = |source| SnapshotError::Sealed { key: key.to_string(), source };
            seal::open(seal, &key, &stored).map_err(failed)?.value.into_owned()
        }
        _ => return Err(wrong("it has no value, or two")),
    };
    if splice::version_place(&value).is_none() {
        return Err(wrong("its value has no metadata.resourceVersion"));
    }
    Ok(Record::new(key, Revision(entry.revision), Bytes::from(value), std::sync::Arc::default()))
}

fn line_of(value: &impl Serialize, number: usize) -> Result<Vec<u8>, SnapshotError> {
    let mut line = serde_json::to_vec(value).map_err(|error| damaged(number, &error))?;
    line.push(b'\n');
    Ok(line)
}

/// The line of an object. Stored JSON has no line breaks, unless somebody has written it into etcd by hand.
fn entry_line(entry: &Entry<'_>, value: Option<&[u8]>, number: usize) -> Result<Vec<u8>, SnapshotError> {
    let mut line = line_of(entry, number)?;
    let Some(value) = value else { return Ok(line) };
    line.truncate(line.len() - "}\n".len());
    line.extend_from_slice(VALUE.as_bytes());
    if value.contains(&b'\n') {
        let value: serde_json::Value = serde_json::from_slice(value).map_err(|error| damaged(number, &error))?;
        serde_json::to_writer(&mut line, &value).map_err(|error| damaged(number, &error))?;
    } else {
        line.extend_from_slice(value);
    }
    line.extend_from_slice(b"}\n");
    Ok(line)
}

fn damaged(number: usize, error: &serde_json::Error) -> SnapshotError {
    SnapshotError::Line { number, problem: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        let record = |name: &str, revision: u64| {
            let metadata = serde_json::json!({"name": name, "resourceVersion": revision.to_string()});
            let value = format!(r#"{{"metadata":{metadata},"n":1.0}}"#);
            Record::new(Key::new("core/pods", "a", name), Revision(revision), value.into(), std::sync::Arc::default())
        };
        Snapshot { revision: Revision(9), records: vec![record("x", 3), record("\u{e9}\"", 7)] }
    }

    fn written() -> Vec<u8> {
        let mut file = Vec::new();
        snapshot().write(&mut file, None).expect("memory takes it");
        file
    }

    #[test]
    fn what_is_written_is_read() {
        let read = Snapshot::read(&*written(), None).expect("it is whole");
        assert_eq!(read.revision, Revision(9));
        for (read, written) in read.records.iter().zip(&snapshot().records) {
            assert_eq!((&read.key, read.revision, &read.value), (&written.key, written.revision, &written.value));
        }
        assert_eq!(read.records.len(), 2);
    }

    #[test]
    fn damage_is_noticed_wherever_it_is() {
        let file = written();
        for index in 0..file.len() {
            assert!(Snapshot::read(&file[..index], None).is_err(), "cut off at {index}");
            let mut changed = file.clone();
            changed[index] ^= 1;
            assert!(Snapshot::read(&*changed, None).is_err(), "changed at {index}");
        }
    }
}
