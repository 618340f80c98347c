//! What requests have to be, before anything is done. Pure.

use std::collections::HashMap;

use kobune_grpc::Status;
use kobune_grpc::csi::{CapacityRange, VolumeCapability, access};
use nix::mount::MsFlags;
use sha2::{Digest, Sha256};

/// A volume whose size nobody says.
const USUAL_SIZE: u64 = 1 << 30;
/// Sizes of devices are multiples of this: loop devices show no part of a sector, and programs like whole pages.
const PAGE: u64 = 4096;
/// Longer names are refused; the specification asks for 128 bytes at least.
const LONGEST_NAME: usize = 1024;
/// What sidecars tell of themselves, which asks for nothing.
const SIDECARS: &str = "csi.storage.k8s.io/";

/// A field that has to be there.
pub fn given<'a>(value: &'a str, field: &str) -> Result<&'a str, Status> {
    if value.is_empty() { Err(Status::invalid_argument(format!("{field} is missing"))) } else { Ok(value) }
}

/// A path that has to be there.
pub fn path<'a>(value: &'a str, field: &str) -> Result<&'a std::path::Path, Status> {
    let path = std::path::Path::new(given(value, field)?);
    if !path.is_absolute() || path.components().any(|part| part == std::path::Component::ParentDir) {
        return Err(Status::invalid_argument(format!("{field} {value:?} is not an absolute path")));
    }
    Ok(path)
}

/// The id of what is called so: the name itself where it can be the name of a folder.
pub fn id(name: &str) -> Result<String, Status> {
    given(name, "name")?;
    if name.len() > LONGEST_NAME {
        return Err(Status::invalid_argument(format!("name is longer than {LONGEST_NAME} bytes")));
    }
    let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '.';
    if name.len() <= 128 && !name.starts_with('.') && !name.starts_with("id-") && name.chars().all(plain) {
        return Ok(name.to_owned());
    }
    let digest: String = Sha256::digest(name).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("id-{digest}"))
}

/// How a volume is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// As a block device.
    pub block: bool,
    /// CSI's number of who uses it at once.
    pub mode: i32,
    /// Mount options.
    pub flags: MsFlags,
}

/// How a volume is to be used.
pub fn usage(capability: Option<&VolumeCapability>) -> Result<Usage, Status> {
    let capability = capability.ok_or_else(|| Status::invalid_argument("volume_capability is missing"))?;
    let refuse = |words: String| Err(Status::invalid_argument(words));
    let (block, flags) = match (&capability.block, &capability.mount) {
        (Some(_), None) => (true, MsFlags::empty()),
        (None, Some(mount)) => {
            if !mount.fs_type.is_empty() {
                return refuse(format!("fs_type {:?} can't be had: volumes are folders of the node", mount.fs_type));
            }
            if !mount.volume_mount_group.is_empty() {
                return refuse("volume_mount_group is left to the caller".to_owned());
            }
            (false, mount.mount_flags.iter().try_fold(MsFlags::empty(), |all, word| flag(word).map(|one| all | one))?)
        }
        _ => return refuse("volume_capability is neither block nor mount".to_owned()),
    };
    let mode = capability.access_mode.as_ref().map_or(0, |access| access.mode);
    match mode {
        access::SINGLE_NODE_WRITER
        | access::SINGLE_NODE_READER_ONLY
        | access::SINGLE_NODE_SINGLE_WRITER
        | access::SINGLE_NODE_MULTI_WRITER => Ok(Usage { block, mode, flags }),
        0 => refuse("access_mode is missing".to_owned()),
        _ => refuse(format!("access_mode {mode} can't be had: volumes are on one node")),
    }
}

fn flag(word: &str) -> Result<MsFlags, Status> {
    Ok(match word {
        "ro" => MsFlags::MS_RDONLY,
        "rw" => MsFlags::empty(),
        "noatime" => MsFlags::MS_NOATIME,
        "nodev" => MsFlags::MS_NODEV,
        "nodiratime" => MsFlags::MS_NODIRATIME,
        "noexec" => MsFlags::MS_NOEXEC,
        "nosuid" => MsFlags::MS_NOSUID,
        "relatime" => MsFlags::MS_RELATIME,
        _ => return Err(Status::invalid_argument(format!("mount flag {word:?} can't be had for a folder"))),
    })
}

/// How a volume is to be used in all these ways, which have to agree whether it is a device.
pub fn usages(capabilities: &[VolumeCapability]) -> Result<bool, Status> {
    let Some(first) = capabilities.first() else {
        return Err(Status::invalid_argument("volume_capabilities are missing"));
    };
    let block = usage(Some(first))?.block;
    for capability in capabilities {
        if usage(Some(capability))?.block != block {
            return Err(Status::invalid_argument("a volume is either block or mount"));
        }
    }
    Ok(block)
}

/// The driver has no parameters: whatever is given is a mistake.
pub fn parameters(given: &HashMap<String, String>) -> Result<(), Status> {
    match given.keys().filter(|key| !key.starts_with(SIDECARS)).min() {
        Some(key) => Err(Status::invalid_argument(format!("parameter {key:?} is not known"))),
        None => Ok(()),
    }
}

/// A range of sizes that makes sense, 0 for an end that is open.
pub fn range(range: Option<&CapacityRange>) -> Result<(u64, u64), Status> {
    let none = CapacityRange::default();
    let range = range.unwrap_or(&none);
    let number = |value: i64, field: &str| {
        u64::try_from(value).map_err(|_| Status::invalid_argument(format!("{field} {value} is below zero")))
    };
    let (required, limit) =
        (number(range.required_bytes, "required_bytes")?, number(range.limit_bytes, "limit_bytes")?);
    if limit != 0 && limit < required {
        return Err(Status::invalid_argument(format!("limit_bytes {limit} is below required_bytes {required}")));
    }
    Ok((required, limit))
}

/// The size of a new volume in this range, of at least so many bytes, on a disk of so many.
pub fn size((required, limit): (u64, u64), least: u64, disk: u64, block: bool) -> Result<u64, Status> {
    let out = |words: String| Err(Status::out_of_range(words));
    if required != 0 && required < least {
        return out(format!("{required} bytes are less than the {least} of what the volume is made from"));
    }
    let usual = if least != 0 { least } else { USUAL_SIZE };
    let wanted = match (required, limit) {
        (0, 0) => usual,
        (0, limit) => usual.min(limit),
        (required, _) => required,
    };
    let size = if block { wanted.next_multiple_of(PAGE) } else { wanted };
    if size < least {
        return out(format!("at most {limit} bytes are less than the {least} of what the volume is made from"));
    }
    if limit != 0 && size > limit {
        return out(format!("devices have multiples of {PAGE} bytes, which {limit} is too little for"));
    }
    if size > disk {
        return out(format!("the node's disk has {disk} bytes, fewer than {size}"));
    }
    Ok(size)
}

/// Whether a volume of this size is one of the range.
pub fn fits((required, limit): (u64, u64), bytes: u64) -> bool {
    bytes >= required && (limit == 0 || bytes <= limit)
}

/// What lists go on with: everything after this name, which need not be there any more.
const AFTER: &str = "after:";

/// A page of a list in the order of names, and the token of the next one.
pub fn page<T>(all: Vec<(String, T)>, most: i32, token: &str) -> Result<(Vec<(String, T)>, String), Status> {
    let most = match usize::try_from(most) {
        Err(_) => return Err(Status::invalid_argument(format!("max_entries {most} is below zero"))),
        Ok(0) => usize::MAX,
        Ok(most) => most,
    };
    let after = match token {
        "" => "",
        token => token.strip_prefix(AFTER).ok_or_else(|| Status::aborted(format!("{token:?} is not a token")))?,
    };
    let mut rest = all.into_iter().filter(|(name, _)| name.as_str() > after).peekable();
    let page: Vec<(String, T)> = rest.by_ref().take(most).collect();
    let last = page.last().filter(|_| rest.peek().is_some());
    let next = last.map(|(name, _)| format!("{AFTER}{name}")).unwrap_or_default();
    Ok((page, next))
}

#[cfg(test)]
mod tests {
    use kobune_grpc::Code;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes() {
        let check = |range: (u64, u64), least: u64, block: bool, expected: Option<u64>| {
            let got = size(range, least, 1 << 40, block).ok();
            assert_eq!(got, expected, "{range:?} {least} {block}");
        };
        check((0, 0), 0, false, Some(1 << 30));
        check((0, 500), 0, false, Some(500));
        check((500, 0), 0, false, Some(500));
        check((500, 0), 0, true, Some(4096));
        check((500, 600), 0, true, None);
        check((0, 0), 700, false, Some(700));
        check((600, 0), 700, false, None);
        check((0, 600), 700, false, None);
        check((800, 0), 700, false, Some(800));
        check((1 << 41, 0), 0, false, None);
    }

    #[test]
    fn names_become_folders() {
        assert_eq!(id("pvc-1.a").expect("an id"), "pvc-1.a");
        assert_eq!(id(&"n".repeat(128)).expect("an id").len(), 128);
        assert_eq!(id("").map_err(|status| status.code()), Err(Code::InvalidArgument));
        for odd in ["../../etc", ".hidden", "a b", "ü", "id-1", &"n".repeat(129)] {
            assert!(id(odd).expect("an id").starts_with("id-"), "{odd}");
        }
    }

    proptest! {
        /// Whatever comes and goes between pages: what stays is listed, once, and the pages end.
        #[test]
        fn pages_are_whole(names in proptest::collection::btree_set("[a-e]{1,3}", 0..20), most in 0..5_i32, gone in 0..20_usize) {
            let mut there: Vec<(String, ())> = names.into_iter().map(|name| (name, ())).collect();
            let (mut seen, mut token) = (Vec::new(), String::new());
            for step in 0.. {
                prop_assert!(step < 30);
                let (entries, next) = page(there.clone(), most, &token).expect("a page");
                seen.extend(entries.into_iter().map(|(name, ())| name));
                if next.is_empty() {
                    break;
                }
                token = next;
                if step == 0 && gone < there.len() {
                    there.remove(gone);
                }
            }
            prop_assert!(there.iter().all(|(name, ())| seen.iter().filter(|seen| *seen == name).count() == 1));
        }
    }
}
