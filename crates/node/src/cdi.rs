//! Container Device Interface: files in folders of the machine (usually `/var/run/cdi` and `/etc/cdi`) say what a container needs for a device with a name
//! like `vendor.example.com/class=name`.
//!
//! Source: `SPEC.md` of cncf-tags/container-device-interface, version 1.0.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kobune_runtime::{ContainerConfig, Device, Hook, Mount};
use serde::Deserialize;

/// A file longer than this is not read.
const LONGEST: u64 = 4 << 20;

/// Why a device can't be had.
#[derive(Debug, thiserror::Error)]
pub enum CdiError {
    /// No file has it.
    #[error("unresolvable CDI devices {0}")]
    Unresolvable(String),
    /// A file says something that makes no sense.
    #[error("CDI device {name}: {what}")]
    Wrong {
        /// The device.
        name: String,
        /// What is wrong.
        what: String,
    },
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    kind: String,
    devices: Vec<FileDevice>,
    container_edits: Edits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct FileDevice {
    name: String,
    container_edits: Edits,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<FileMount>,
    hooks: Vec<FileHook>,
    additional_gids: Vec<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Node {
    path: PathBuf,
    host_path: Option<PathBuf>,
    permissions: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct FileMount {
    host_path: PathBuf,
    container_path: PathBuf,
    options: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct FileHook {
    hook_name: String,
    path: PathBuf,
    args: Vec<String>,
    env: Vec<String>,
    timeout: Option<i64>,
}

fn files(folder: &Path) -> Vec<File> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let named = entries.map(|entry| entry.path()).filter(|path| {
        path.extension().is_some_and(|extension| extension == "json" || extension == "yaml" || extension == "yml")
    });
    let mut paths: Vec<PathBuf> = named.collect();
    paths.sort();
    let read = |path: &PathBuf| {
        let short = std::fs::metadata(path).is_ok_and(|metadata| metadata.len() <= LONGEST);
        let text = short.then(|| std::fs::read_to_string(path).ok()).flatten()?;
        match serde_saphyr::from_str::<File>(&text) {
            Ok(file) => Some(file),
            Err(error) => {
                tracing::warn!(file = %path.display(), error = %error, "a CDI file makes no sense");
                None
            }
        }
    };
    paths.iter().filter_map(read).collect()
}

/// Puts what these devices need into a container's configuration. Blocks for a few small files.
pub fn inject(folders: &[PathBuf], names: &[String], config: &mut ContainerConfig) -> Result<(), CdiError> {
    if names.is_empty() {
        return Ok(());
    }
    let mut missing: BTreeSet<&String> = names.iter().collect();
    for folder in folders {
        for file in files(folder) {
            let mut used = false;
            for device in &file.devices {
                let name = format!("{}={}", file.kind, device.name);
                if missing.remove(&name) {
                    edit(&name, &device.container_edits, config)?;
                    used = true;
                }
            }
            if used {
                edit(&file.kind, &file.container_edits, config)?;
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.into_iter().map(String::as_str).collect();
    Err(CdiError::Unresolvable(names.join(", ")))
}

fn edit(name: &str, edits: &Edits, config: &mut ContainerConfig) -> Result<(), CdiError> {
    let wrong = |what: String| CdiError::Wrong { name: name.to_owned(), what };
    for pair in &edits.env {
        let (key, value) = pair.split_once('=').ok_or_else(|| wrong(format!("{pair:?} is not a variable")))?;
        config.env.push((key.to_owned(), value.to_owned()));
    }
    for node in &edits.device_nodes {
        if !node.path.is_absolute() {
            return Err(wrong(format!("{} is not absolute", node.path.display())));
        }
        config.devices.push(Device {
            host_path: node.host_path.clone().unwrap_or_else(|| node.path.clone()),
            container_path: node.path.clone(),
            permissions: node.permissions.clone().unwrap_or_default(),
        });
    }
    for mount in &edits.mounts {
        config.mounts.push(Mount {
            host_path: mount.host_path.clone(),
            container_path: mount.container_path.clone(),
            read_only: mount.options.iter().any(|option| option == "ro"),
            ..Mount::default()
        });
    }
    for hook in &edits.hooks {
        config.hooks.push(Hook {
            stage: hook.hook_name.clone(),
            path: hook.path.clone(),
            args: hook.args.clone(),
            env: hook.env.clone(),
            timeout: hook.timeout,
        });
    }
    config.security.supplemental_groups.extend(edits.additional_gids.iter().filter(|group| **group != 0));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_say_what_devices_need() {
        let first = tempfile::tempdir().expect("a folder");
        let second = tempfile::tempdir().expect("a folder");
        let spec = "
cdiVersion: 0.6.0
kind: vendor.com/dev
containerEdits: {env: [COMMON=1]}
devices:
- name: a
  containerEdits:
    env: [A=b=c]
    deviceNodes: [{path: /dev/a, hostPath: /dev/null}]
    mounts: [{hostPath: /lib/a, containerPath: /a, options: [ro, nosuid]}]
    hooks: [{hookName: createContainer, path: /bin/hook, args: [hook, x]}]
    additionalGids: [0, 44]
- name: b
";
        std::fs::write(first.path().join("x.yaml"), spec).expect("written");
        std::fs::write(first.path().join("bad.json"), "{").expect("written");
        // The same device in a folder that matters less.
        std::fs::write(second.path().join("y.yaml"), spec.replace("COMMON=1", "LESS=1")).expect("written");
        let folders = [first.path().to_owned(), second.path().to_owned()];
        let mut config = ContainerConfig::default();
        let names = |list: &[&str]| list.iter().map(|name| format!("vendor.com/dev={name}")).collect::<Vec<_>>();
        inject(&folders, &names(&["a", "b"]), &mut config).expect("both are there");
        let env: Vec<String> = config.env.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(env, ["A=b=c", "COMMON=1"]);
        assert_eq!((config.devices.len(), config.devices[0].host_path.to_str()), (1, Some("/dev/null")));
        assert!(config.mounts[0].read_only);
        assert_eq!(
            (config.hooks[0].stage.as_str(), &config.security.supplemental_groups),
            ("createContainer", &vec![44])
        );
        let error = inject(&folders, &names(&["c"]), &mut config).expect_err("it is nowhere");
        assert_eq!(error.to_string(), "unresolvable CDI devices vendor.com/dev=c");
    }
}
