//! What is different for a container whose users are not the host's (`hostUsers: false`, KEP-127).

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::protocol::{MappedBind, MappedPlan};

/// Folders that every Linux has and everybody may pass through. One of them is hidden from the container's start, which needs
/// none of them.
const STAGES: [&str; 4] = ["/mnt", "/opt", "/srv", "/tmp"];

/// Where the stage of a container can be: not above what its start needs.
fn stage(needed: &[&Path]) -> Option<PathBuf> {
    let mut all = STAGES.iter().map(Path::new).filter(|stage| !needed.iter().any(|path| path.starts_with(stage)));
    all.find(|stage| stage.is_dir()).map(Path::to_owned)
}

/// Changes the specification of a container so that everything comes from the stage, and says what is to be brought there.
///
/// `needed` are folders that the start itself uses, `images` where parts of images will be mounted.
pub(crate) fn apply(
    specification: &mut Value,
    users: &Range<u32>,
    needed: &[&Path],
    images: &[PathBuf],
) -> Result<MappedPlan, String> {
    let stage = stage(needed).ok_or_else(|| {
        format!("a pod with hostUsers: false needs one of the folders {} to be there", STAGES.join(", "))
    })?;
    let mut binds = Vec::new();
    for mount in specification["mounts"].as_array_mut().into_iter().flatten() {
        let to = mount["destination"].as_str().unwrap_or_default();
        // Control groups have no owners to map.
        if mount["type"] != "bind" || to.starts_with("/sys/fs/cgroup/") {
            continue;
        }
        let source = PathBuf::from(mount["source"].as_str().unwrap_or_default());
        mount["source"] = json!(stage.join(binds.len().to_string()));
        let mut read_only = None;
        if let Some(options) = mount["options"].as_array_mut() {
            // What is read-only on the stage stays so: the kernel does not let the container's users take it away.
            for option in options.iter() {
                match option.as_str() {
                    Some("ro") => read_only = Some(false),
                    Some("rro") => read_only = Some(true),
                    _ => {}
                }
            }
            options.retain(|option| !matches!(option.as_str(), Some("ro" | "rro" | "rw")));
        }
        binds.push(MappedBind { map: !images.contains(&source), source, read_only });
    }
    specification["root"]["path"] = json!(stage.join("root"));
    let map = json!([{"containerID": 0, "hostID": users.start, "size": users.len()}]);
    specification["linux"]["uidMappings"] = map.clone();
    specification["linux"]["gidMappings"] = map;
    Ok(MappedPlan { stage, binds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_comes_from_the_stage() {
        let mut specification = json!({
            "root": {"path": "/data/root"},
            "linux": {},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]},
                {"destination": "/sys/fs/cgroup/pids", "type": "bind", "source": "/sys/fs/cgroup/pids/x", "options": ["bind", "ro"]},
                {"destination": "/a", "type": "bind", "source": "/data/a", "options": ["rbind", "rslave", "rw"]},
                {"destination": "/b", "type": "bind", "source": "/data/b", "options": ["rbind", "rprivate", "rro"]},
                {"destination": "/i", "type": "bind", "source": "/data/i", "options": ["rbind", "ro"]},
            ],
        });
        let needed = [Path::new("/mnt/data")];
        let plan =
            apply(&mut specification, &(131_072..196_608), &needed, &["/data/i".into()]).expect("it can be made");
        assert_ne!(plan.stage, Path::new("/mnt"));
        let bind = |source: &str, map, read_only| MappedBind { source: source.into(), map, read_only };
        assert_eq!(
            plan.binds,
            [bind("/data/a", true, None), bind("/data/b", true, Some(true)), bind("/data/i", false, Some(false))]
        );
        assert_eq!(specification["mounts"][1]["source"], "/sys/fs/cgroup/pids/x");
        assert_eq!(specification["mounts"][2]["source"], json!(plan.stage.join("0")));
        assert_eq!(specification["mounts"][3]["options"], json!(["rbind", "rprivate"]));
        assert_eq!(specification["root"]["path"], json!(plan.stage.join("root")));
        assert_eq!(
            specification["linux"]["gidMappings"],
            json!([{"containerID": 0, "hostID": 131_072, "size": 65_536}])
        );
    }
}
