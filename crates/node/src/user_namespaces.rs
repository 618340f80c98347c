//! Which of the host's users and groups are those of a pod with `hostUsers: false` (KEP-127).
//!
//! Every such pod gets a range of 65,536 numbers that no other pod of the node has. It is written beside the pod before it is
//! used, in the form of the kubelet's own record, and stays the pod's until its folder goes. Volumes keep on disk the owners
//! that containers see, since mounts map them; only the layers of containers have files of the range's users.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// How many numbers a pod gets, and where ranges begin: all users that a `uid_t` of 16 bits can name.
pub const RANGE: u32 = 65_536;

/// The file beside a pod.
const RECORD: &str = "userns";

/// Why a pod has no range of its own.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// All are taken.
    #[error("no range of users is free for a pod with hostUsers: false: all {slots} of this node are taken")]
    Exhausted {
        /// How many there are.
        slots: u32,
    },
    /// The pod's record cannot be read or written.
    #[error("{action} {}", path.display())]
    Record {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// `/etc/subuid` or `/etc/subgid` gives the kubelet something that ranges cannot be made of.
    #[error("/etc/subuid and /etc/subgid: {problem}")]
    Given {
        /// What is wrong.
        problem: String,
    },
}

/// What is kept about a pod: the kubelet's `userns` file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    uid_mappings: Vec<Mapping>,
    gid_mappings: Vec<Mapping>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    host_id: u32,
    container_id: u32,
    length: u32,
}

impl Record {
    fn of(range: &Range<u32>) -> Record {
        let mapping = Mapping { host_id: range.start, container_id: 0, length: RANGE };
        Record { uid_mappings: vec![mapping.clone()], gid_mappings: vec![mapping] }
    }

    /// The range, if it is one of ours.
    fn range(&self) -> Option<Range<u32>> {
        let whole = |mapping: &Mapping| mapping.container_id == 0 && mapping.length == RANGE;
        match (self.uid_mappings.as_slice(), self.gid_mappings.as_slice()) {
            ([users], [groups]) if whole(users) && whole(groups) && users.host_id == groups.host_id => {
                Some(users.host_id..users.host_id.checked_add(RANGE)?)
            }
            _ => None,
        }
    }
}

/// The ranges of a node's pods.
pub struct UserRanges {
    /// What ranges are made of.
    pool: Range<u32>,
    /// The first user of each pod's range, by the pod's uid.
    taken: Mutex<BTreeMap<String, u32>>,
}

impl UserRanges {
    /// Ranges for `pods` pods, with those that pods of an earlier run have. `pods_dir` is the folder of the pods' folders.
    pub fn open(pods_dir: &Path, pods: u32) -> Result<UserRanges, UsersError> {
        let read = |path: &'static str| match std::fs::read_to_string(path) {
            Ok(text) => Ok(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            Err(source) => Err(UsersError::Record { action: "read", path: path.into(), source }),
        };
        let pool = pool(&read("/etc/subuid")?, &read("/etc/subgid")?, pods)?;
        let mut taken = BTreeMap::new();
        let listed = |source| UsersError::Record { action: "list", path: pods_dir.to_owned(), source };
        match std::fs::read_dir(pods_dir) {
            Ok(entries) => {
                for entry in entries {
                    let entry = entry.map_err(listed)?;
                    match (entry.file_name().into_string(), known(&entry.path())) {
                        (Ok(uid), Ok(Some(range))) => drop(taken.insert(uid, range.start)),
                        (_, Ok(_)) => {}
                        // Only a power cut leaves such a record, and then nothing runs any more that has the range.
                        (_, Err(error)) => tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "a pod with hostUsers: false gets other users than before"
                        ),
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(listed(error)),
        }
        Ok(UserRanges { pool, taken: Mutex::new(taken) })
    }

    /// The pod's range: the one that it has, or a new one, which is on record when this returns.
    pub fn take(&self, uid: &str, pod_dir: &Path) -> Result<Range<u32>, UsersError> {
        let mut taken = self.taken.lock();
        if let Some(first) = taken.get(uid) {
            return Ok(*first..first + RANGE);
        }
        let exhausted = UsersError::Exhausted { slots: (self.pool.end - self.pool.start) / RANGE };
        let first = free(&self.pool, taken.values().copied()).ok_or(exhausted)?;
        let range = first..first + RANGE;
        let path = pod_dir.join(RECORD);
        let write = || -> io::Result<()> {
            std::fs::create_dir_all(pod_dir)?;
            let temporary = pod_dir.join(format!(".{RECORD}"));
            std::fs::write(&temporary, serde_json::to_vec(&Record::of(&range))?)?;
            std::fs::rename(&temporary, &path)
        };
        write().map_err(|source| UsersError::Record { action: "write", path, source })?;
        taken.insert(uid.to_owned(), first);
        Ok(range)
    }

    /// The pod's folder is gone.
    pub fn release(&self, uid: &str) {
        self.taken.lock().remove(uid);
    }
}

/// What a pod's record says; nothing without one.
fn known(pod_dir: &Path) -> Result<Option<Range<u32>>, UsersError> {
    let path = pod_dir.join(RECORD);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(source) => return Err(UsersError::Record { action: "read", path, source }),
    };
    let record = serde_json::from_slice::<Record>(&text).map_err(io::Error::from);
    match record.map(|record| record.range()) {
        Ok(Some(range)) => Ok(Some(range)),
        Ok(None) => {
            let source = io::Error::new(io::ErrorKind::InvalidData, "it is not one range of 65536 users");
            Err(UsersError::Record { action: "read", path, source })
        }
        Err(source) => Err(UsersError::Record { action: "read", path, source }),
    }
}

/// The lowest range that nobody has.
fn free(pool: &Range<u32>, taken: impl Iterator<Item = u32>) -> Option<u32> {
    let taken: std::collections::BTreeSet<u32> = taken.collect();
    let mut all = (pool.start..pool.end).step_by(RANGE as usize).filter(|first| pool.end - first >= RANGE);
    all.find(|first| !taken.contains(first))
}

/// What ranges are made of: what `/etc/subuid` and `/etc/subgid` give the user `kubelet`, as upstream's kubelet asks for it
/// (`pkg/kubelet/userns`); where they give nothing, everything from 65,536 on for as many pods as the node takes.
fn pool(subuid: &str, subgid: &str, pods: u32) -> Result<Range<u32>, UsersError> {
    let wrong = |problem: &str| UsersError::Given { problem: problem.to_owned() };
    let given = |text: &str| -> Result<Option<(u32, u32)>, UsersError> {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("kubelet:"));
        let Some(line) = lines.next() else { return Ok(None) };
        if lines.next().is_some() {
            return Err(wrong("there must be one line for kubelet, no more"));
        }
        let (first, count) = line.split_once(':').ok_or_else(|| wrong("a line has the form kubelet:FIRST:COUNT"))?;
        match (first.trim().parse(), count.trim().parse()) {
            (Ok(first), Ok(count)) => Ok(Some((first, count))),
            _ => Err(wrong("a line has the form kubelet:FIRST:COUNT")),
        }
    };
    let (users, groups) = (given(subuid)?, given(subgid)?);
    if users != groups {
        return Err(wrong("the ranges of users and groups of kubelet must be the same"));
    }
    let (first, count) = users.unwrap_or((RANGE, pods.saturating_mul(RANGE)));
    let end = first.checked_add(count);
    match end {
        _ if first % RANGE != 0 => Err(wrong("the first of kubelet's ids must be a multiple of 65536")),
        _ if first == 0 => Err(wrong("kubelet's ids must not be those of the host, below 65536")),
        _ if count % RANGE != 0 || count == 0 => Err(wrong("the number of kubelet's ids must be a multiple of 65536")),
        // Without a range of its own, a node of very many pods takes what there is.
        None if users.is_none() => Ok(first..u32::MAX / RANGE * RANGE),
        None => Err(wrong("kubelet's ids end beyond the greatest number")),
        Some(end) => Ok(first..end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_pool(subuid: &str, subgid: &str, expected: Result<Range<u32>, &str>) {
        let found = pool(subuid, subgid, 110).map_err(|error| error.to_string());
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
            (found, expected) => panic!("{found:?} is not {expected:?}"),
        }
    }

    #[test]
    fn the_pool_is_what_the_machine_gives() {
        check_pool("", "", Ok(65_536..65_536 * 111));
        check_pool("someone:100000:65536\n", "", Ok(65_536..65_536 * 111));
        check_pool("kubelet:131072:131072\n", "kubelet:131072:131072\n", Ok(131_072..262_144));
        check_pool("kubelet:131072:131072\n", "", Err("must be the same"));
        let both = |line: &str, expected| check_pool(line, line, expected);
        both("kubelet:100000:65536", Err("multiple of 65536"));
        both("kubelet:65536:1000", Err("multiple of 65536"));
        both("kubelet:0:65536", Err("not be those of the host"));
        both("kubelet:4294901760:131072", Err("beyond"));
        both("kubelet:65536", Err("FIRST:COUNT"));
        both("kubelet:65536:65536\nkubelet:131072:65536", Err("one line"));
    }

    #[test]
    fn ranges_are_kept_and_used_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = |uid: &str| folder.path().join(uid);
        let ranges = UserRanges { pool: RANGE..3 * RANGE, taken: Mutex::default() };
        let one = ranges.take("one", &dir("one")).expect("free");
        let two = ranges.take("two", &dir("two")).expect("free");
        assert_eq!((one.clone(), two.clone()), (RANGE..2 * RANGE, 2 * RANGE..3 * RANGE));
        assert_eq!(ranges.take("one", &dir("one")).expect("its own"), one);
        let full = ranges.take("three", &dir("three")).expect_err("all are taken").to_string();
        assert!(full.contains("all 2"), "{full}");
        std::fs::write(folder.path().join("not-a-pod"), "").expect("written");
        let after = UserRanges::open(folder.path(), 110).expect("read");
        assert_eq!(after.take("two", &dir("two")).expect("its own"), two);
        std::fs::remove_dir_all(dir("one")).expect("removed");
        ranges.release("one");
        assert_eq!(ranges.take("three", &dir("three")).expect("free again"), one);
    }

    #[test]
    fn a_damaged_record_concerns_its_pod_only() {
        let folder = tempfile::tempdir().expect("a folder");
        for (pod, text) in [("a", ""), ("b", "{\"uidMappings\":[],\"gidMappings\":[]}")] {
            std::fs::create_dir(folder.path().join(pod)).expect("made");
            std::fs::write(folder.path().join(pod).join(RECORD), text).expect("written");
        }
        let good = UserRanges::open(folder.path(), 110).expect("read").take("c", &folder.path().join("c"));
        let after = UserRanges::open(folder.path(), 110).expect("read");
        assert_eq!(after.take("c", &folder.path().join("c")).expect("its own"), good.expect("free"));
        assert_ne!(
            after.take("a", &folder.path().join("a")).expect("free"),
            after.take("b", &folder.path().join("b")).expect("free")
        );
    }
}
