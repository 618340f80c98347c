//! Makes the OCI specification of a container from what Kubernetes asks and what the image says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cgroup::Cgroups;
use crate::container::{ContainerConfig, Device, Hook, Mount, MountPropagation, SeccompProfile};
use crate::images::ImageConfig;
use crate::seccomp;
use crate::users::Identity;

/// What a container of a sandbox stands on.
pub(crate) struct Surroundings<'a> {
    /// Namespaces: kind and path; without a path a new one is made.
    pub(crate) namespaces: Vec<(&'static str, Option<PathBuf>)>,
    /// Files and folders that every container of the pod sees: source and place.
    pub(crate) shared: Vec<(PathBuf, &'static str)>,
    /// The pod's name, for `$HOSTNAME`.
    pub(crate) hostname: String,
    /// The container's group.
    pub(crate) group: &'a str,
    /// The machine's trees.
    pub(crate) cgroups: &'a Cgroups,
    /// Capabilities that kobune itself has, as bits.
    pub(crate) available: u64,
    /// Where the root file system will be mounted.
    pub(crate) root: PathBuf,
    /// The kernel has AppArmor.
    pub(crate) apparmor: bool,
    /// Where the container's image mounts are bound from, one for each.
    pub(crate) images: Vec<PathBuf>,
}

/// Capabilities by number, as `linux/capability.h` has them.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What containerd and Docker give every container.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Parts of `/proc` and `/sys` that ordinary containers don't see.
pub const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Parts of `/proc` that ordinary containers can't write.
pub const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Where programs are looked for when neither image nor pod says.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The command line: what the pod says wins; its `command` also drops the image's `Cmd`.
pub(crate) fn command_line(config: &ContainerConfig, image: &ImageConfig) -> Result<Vec<String>, String> {
    let given = |list: &Option<Vec<String>>| list.clone().filter(|words| !words.is_empty());
    let mut line = match (given(&config.command), given(&config.args)) {
        (Some(command), args) => [command, args.unwrap_or_default()].concat(),
        (None, Some(args)) => [image.entrypoint.clone(), args].concat(),
        (None, None) => [image.entrypoint.clone(), image.cmd.clone()].concat(),
    };
    if line.is_empty() || line[0].is_empty() {
        return Err("no command specified".to_owned());
    }
    if line.iter().any(|word| word.contains('\0')) {
        return Err("the command has a zero byte in it".to_owned());
    }
    line.shrink_to_fit();
    Ok(line)
}

/// Variables: image, then pod; later ones win; `PATH`, `HOSTNAME`, `HOME` and `TERM` are there in any case.
fn environment(config: &ContainerConfig, image: &ImageConfig, hostname: &str, home: &str) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let mut set = |key: &str, value: &str| {
        if values.insert(key.to_owned(), value.to_owned()).is_none() {
            order.push(key.to_owned());
        }
    };
    set("PATH", DEFAULT_PATH);
    set("HOSTNAME", hostname);
    if config.tty {
        set("TERM", "xterm");
    }
    set("HOME", home);
    for (key, value) in image.env.iter().filter_map(|pair| pair.split_once('=')) {
        set(key, value);
    }
    for (key, value) in &config.env {
        set(key, value);
    }
    order
        .into_iter()
        .filter(|key| !key.is_empty() && !key.contains(['=', '\0']))
        .map(|key| format!("{key}={}", values[&key]))
        .collect()
}

/// The capabilities, with `CAP_`. Drops come before adds.
pub(crate) fn capabilities(config: &ContainerConfig, available: u64) -> Result<Vec<String>, String> {
    let security = &config.security;
    let has = |name: &str| {
        CAPABILITIES.iter().position(|known| *known == name).is_some_and(|bit| available & (1 << bit) != 0)
    };
    let mut set: Vec<&str> = if security.privileged { CAPABILITIES.to_vec() } else { DEFAULT_CAPABILITIES.to_vec() };
    let plain = |name: &String| -> Result<String, String> {
        let upper = name.to_ascii_uppercase();
        let upper = upper.strip_prefix("CAP_").unwrap_or(&upper).to_owned();
        if upper == "ALL" || CAPABILITIES.contains(&upper.as_str()) {
            Ok(upper)
        } else {
            Err(format!("unknown capability {name:?}"))
        }
    };
    if !security.privileged {
        for name in &security.drop_capabilities {
            let name = plain(name)?;
            set.retain(|known| name != "ALL" && *known != name);
        }
        for name in &security.add_capabilities {
            let name = plain(name)?;
            set.extend(CAPABILITIES.iter().filter(|known| name == "ALL" || **known == name));
        }
        // ALL with single drops: everything but those.
        if security.add_capabilities.iter().any(|name| name.eq_ignore_ascii_case("ALL")) {
            for name in security.drop_capabilities.iter().filter(|name| !name.eq_ignore_ascii_case("ALL")) {
                let name = plain(name)?;
                set.retain(|known| *known != name);
            }
        }
    }
    // What kobune does not have it cannot give.
    let mut names: Vec<String> = set.into_iter().filter(|name| has(name)).map(|name| format!("CAP_{name}")).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// The specification, as `config.json` holds it.
pub(crate) fn build(
    config: &ContainerConfig,
    image: &ImageConfig,
    identity: &Identity,
    around: &Surroundings<'_>,
) -> Result<Value, String> {
    let security = &config.security;
    let capabilities = capabilities(config, around.available)?;
    let cwd = config.working_dir.as_deref().filter(|cwd| !cwd.is_empty()).unwrap_or(if image.working_dir.is_empty() {
        "/"
    } else {
        &image.working_dir
    });
    if !cwd.starts_with('/') {
        return Err(format!("working directory {cwd:?} is not absolute"));
    }
    let home = identity.home.as_deref().unwrap_or("/");
    let mut groups = identity.groups.clone();
    groups.extend(&security.supplemental_groups);
    let mut process = json!({
        "terminal": config.tty,
        "user": {"uid": identity.uid, "gid": identity.gid, "additionalGids": groups, "umask": 0o022},
        "args": command_line(config, image)?,
        "env": environment(config, image, &around.hostname, home),
        "cwd": cwd,
        "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities, "inheritable": [], "ambient": []},
    });
    if security.no_new_privileges {
        process["noNewPrivileges"] = json!(true);
    }
    if let Some(profile) =
        security.apparmor.as_ref().filter(|profile| around.apparmor && !profile.is_empty() && !security.privileged)
    {
        process["apparmorProfile"] = json!(profile);
    }
    let mut linux = json!({
        "namespaces": around.namespaces.iter().map(|(kind, path)| match path {
            Some(path) => json!({"type": kind, "path": path}),
            None => json!({"type": kind}),
        }).collect::<Vec<_>>(),
        "cgroupsPath": around.group,
        "rootfsPropagation": propagation(&config.mounts),
    });
    if !security.privileged && !security.unmasked_proc {
        linux["maskedPaths"] = json!(MASKED);
        linux["readonlyPaths"] = json!(READ_ONLY);
    }
    let profile = match &security.seccomp {
        _ if security.privileged => None,
        SeccompProfile::Unconfined => None,
        SeccompProfile::RuntimeDefault => Some(seccomp::default_profile(&capabilities)),
        SeccompProfile::Localhost(path) => Some(seccomp::read_profile(path, &capabilities)?),
    };
    if let Some(profile) = profile {
        linux["seccomp"] = profile;
    }
    let (devices, rules) = devices(config)?;
    linux["devices"] = json!(devices);
    linux["resources"] = json!({"devices": rules});
    let mut whole = json!({
        "ociVersion": "1.2.0",
        "process": process,
        "root": {"path": around.root, "readonly": security.read_only_root},
        "mounts": mounts(config, around)?,
        "linux": linux,
    });
    if !config.hooks.is_empty() {
        whole["hooks"] = hooks(&config.hooks)?;
    }
    Ok(whole)
}

/// Hooks by the point at which they run, in the order in which they came.
fn hooks(list: &[Hook]) -> Result<Value, String> {
    const STAGES: [&str; 6] =
        ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
    let mut stages: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for hook in list {
        if !STAGES.contains(&hook.stage.as_str()) {
            return Err(format!("unknown hook {:?}", hook.stage));
        }
        if !hook.path.is_absolute() {
            return Err(format!("the path {} of a hook is not absolute", hook.path.display()));
        }
        let mut value = json!({"path": hook.path, "args": hook.args, "env": hook.env});
        if let Some(timeout) = hook.timeout {
            value["timeout"] = json!(timeout);
        }
        stages.entry(&hook.stage).or_default().push(value);
    }
    Ok(json!(stages))
}

fn propagation(mounts: &[Mount]) -> &'static str {
    if mounts.iter().any(|mount| mount.propagation == MountPropagation::Bidirectional) { "shared" } else { "slave" }
}

fn mounts(config: &ContainerConfig, around: &Surroundings<'_>) -> Result<Vec<Value>, String> {
    let writable = config.security.privileged;
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    let access = if writable { "rw" } else { "ro" };
    let mut list = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
    ];
    if around.cgroups.unified() {
        list.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access]));
    } else {
        list.push(mount("/sys/fs/cgroup", "tmpfs", "tmpfs", &["nosuid", "noexec", "nodev", "mode=755", "size=64k"]));
        for (name, folder) in around.cgroups.named_folders(around.group) {
            let folder = folder.to_string_lossy();
            list.push(mount(
                &format!("/sys/fs/cgroup/{name}"),
                "bind",
                &folder,
                &["bind", "nosuid", "noexec", "nodev", access],
            ));
        }
    }
    for (source, place) in &around.shared {
        let options: &[&str] =
            if *place == "/dev/shm" { &["rbind", "nosuid", "nodev", "noexec"] } else { &["rbind", "rprivate"] };
        list.push(mount(place, "bind", &source.to_string_lossy(), options));
    }
    // What the pod brings replaces what the runtime would show there.
    list.retain(|default| {
        let of_images = config.image_mounts.iter().map(|own| &own.container_path);
        let mut own = config.mounts.iter().map(|own| &own.container_path).chain(of_images);
        !own.any(|own| own.as_os_str() == default["destination"].as_str().unwrap_or(""))
    });
    let images: Vec<Mount> = config
        .image_mounts
        .iter()
        .zip(&around.images)
        .map(|(mount, source)| Mount {
            host_path: source.clone(),
            container_path: mount.container_path.clone(),
            read_only: true,
            ..Mount::default()
        })
        .collect();
    let mut own: Vec<&Mount> = config.mounts.iter().chain(&images).collect();
    own.sort_by_key(|mount| mount.container_path.components().count());
    for mount in own {
        if !mount.container_path.is_absolute() {
            return Err(format!("mount path {} is not absolute", mount.container_path.display()));
        }
        let mut options = vec!["rbind"];
        options.push(match mount.propagation {
            MountPropagation::Private => "rprivate",
            MountPropagation::HostToContainer => "rslave",
            MountPropagation::Bidirectional => "rshared",
        });
        options.push(match (mount.read_only, mount.recursive_read_only) {
            (true, true) => "rro",
            (true, false) => "ro",
            (false, _) => "rw",
        });
        list.push(
            json!({"destination": mount.container_path, "type": "bind", "source": mount.host_path, "options": options}),
        );
    }
    Ok(list)
}

fn devices(config: &ContainerConfig) -> Result<(Vec<Value>, Vec<Value>), String> {
    if config.security.privileged {
        let mut nodes = Vec::new();
        host_devices(Path::new("/dev"), &mut nodes);
        return Ok((nodes, vec![json!({"allow": true, "access": "rwm"})]));
    }
    let mut rules = vec![json!({"allow": false, "access": "rwm"})];
    let mut nodes = Vec::new();
    for Device { host_path, container_path, permissions } in &config.devices {
        let mut node = device(host_path).ok_or_else(|| format!("{} is not a device", host_path.display()))?;
        node["path"] = json!(container_path);
        let access = if permissions.is_empty() { "rwm" } else { permissions };
        rules.push(json!({"allow": true, "type": node["type"], "major": node["major"], "minor": node["minor"], "access": access}));
        nodes.push(node);
    }
    Ok((nodes, rules))
}

fn device(path: &Path) -> Option<Value> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let metadata = std::fs::metadata(path).ok()?;
    let kind = if metadata.file_type().is_char_device() {
        "c"
    } else if metadata.file_type().is_block_device() {
        "b"
    } else {
        return None;
    };
    let number = metadata.rdev();
    Some(
        json!({"path": path, "type": kind, "major": nix::sys::stat::major(number), "minor": nix::sys::stat::minor(number),
        "fileMode": metadata.mode() & 0o777, "uid": metadata.uid(), "gid": metadata.gid()}),
    )
}

/// Device nodes of the host, without what every container has of its own.
fn host_devices(folder: &Path, nodes: &mut Vec<Value>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
        if kind.is_dir() {
            if !["/dev/pts", "/dev/shm", "/dev/fd", "/dev/mqueue", "/dev/.lxc"].iter().any(|own| path == Path::new(own))
            {
                host_devices(&path, nodes);
            }
        } else if !kind.is_symlink() && path != Path::new("/dev/console") && path != Path::new("/dev/ptmx") {
            nodes.extend(device(&path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> ImageConfig {
        ImageConfig {
            entrypoint: vec!["/entry".to_owned()],
            cmd: vec!["default".to_owned()],
            env: vec!["A=image".to_owned()],
            ..ImageConfig::default()
        }
    }

    #[track_caller]
    fn check_command(command: &[&str], args: &[&str], expected: &str) {
        let words = |list: &[&str]| (!list.is_empty()).then(|| list.iter().map(ToString::to_string).collect());
        let config = ContainerConfig { command: words(command), args: words(args), ..ContainerConfig::default() };
        assert_eq!(command_line(&config, &image()).expect("there is a command").join(" "), expected);
    }

    #[test]
    fn the_pods_command_drops_the_images_arguments() {
        check_command(&[], &[], "/entry default");
        check_command(&[], &["a"], "/entry a");
        check_command(&["c"], &[], "c");
        check_command(&["c"], &["a", "b"], "c a b");
        command_line(&ContainerConfig::default(), &ImageConfig::default()).expect_err("there is no command");
    }

    #[track_caller]
    fn check_capabilities(add: &[&str], drop: &[&str], expected: &[&str]) {
        let mut config = ContainerConfig::default();
        config.security.add_capabilities = add.iter().map(ToString::to_string).collect();
        config.security.drop_capabilities = drop.iter().map(ToString::to_string).collect();
        let found = capabilities(&config, u64::MAX).expect("the names are known");
        assert_eq!(found, expected);
    }

    #[test]
    fn drops_come_before_adds() {
        check_capabilities(&["NET_ADMIN"], &["ALL"], &["CAP_NET_ADMIN"]);
        check_capabilities(&["cap_kill"], &["ALL", "KILL"], &["CAP_KILL"]);
        let mut config = ContainerConfig::default();
        config.security.add_capabilities = vec!["ALL".to_owned()];
        config.security.drop_capabilities = vec!["SYS_ADMIN".to_owned()];
        let found = capabilities(&config, u64::MAX).expect("the names are known");
        assert_eq!(found.len(), CAPABILITIES.len() - 1);
        let none = capabilities(&config, 0).expect("the names are known");
        assert!(none.is_empty());
        config.security.add_capabilities = vec!["FLY".to_owned()];
        assert_eq!(capabilities(&config, u64::MAX), Err("unknown capability \"FLY\"".to_owned()));
    }

    fn around(cgroups: &Cgroups) -> Surroundings<'_> {
        Surroundings {
            namespaces: vec![("pid", None), ("mount", None), ("ipc", Some("/proc/7/ns/ipc".into()))],
            shared: vec![("/x/shm".into(), "/dev/shm"), ("/x/hosts".into(), "/etc/hosts")],
            hostname: "pod".to_owned(),
            group: "/k/pod1/c1",
            cgroups,
            available: u64::MAX,
            root: "/x/root".into(),
            apparmor: false,
            images: Vec::new(),
        }
    }

    #[test]
    fn the_specification_is_ocis() {
        let cgroups = Cgroups::V2 { root: "/sys/fs/cgroup".into() };
        let mut config =
            ContainerConfig { env: vec![("A".to_owned(), "pod".to_owned())], ..ContainerConfig::default() };
        config.mounts.push(Mount {
            host_path: "/h".into(),
            container_path: "/etc/hosts".into(),
            read_only: true,
            ..Mount::default()
        });
        config.security.seccomp = SeccompProfile::RuntimeDefault;
        let identity = Identity { uid: 5, gid: 6, groups: vec![7], home: None };
        let built = build(&config, &image(), &identity, &around(&cgroups)).expect("it can be made");
        let spec: oci_spec::runtime::Spec = serde_json::from_value(built.clone()).expect("it is OCI's form");
        let process = spec.process().as_ref().expect("there is a process");
        let environment = process.env().as_ref().expect("there are variables");
        assert!(environment.contains(&"A=pod".to_owned()) && environment.contains(&"HOME=/".to_owned()));
        assert_eq!((process.user().uid(), process.user().gid()), (5, 6));
        assert_eq!(process.no_new_privileges(), None);
        let hosts: Vec<_> = built["mounts"]
            .as_array()
            .expect("a list")
            .iter()
            .filter(|mount| mount["destination"] == "/etc/hosts")
            .collect();
        assert_eq!(hosts.len(), 1);
        assert_eq!(hosts[0]["source"], "/h");
        assert_eq!(built["linux"]["rootfsPropagation"], "slave");
    }

    #[test]
    fn privileged_masks_nothing() {
        let cgroups = Cgroups::V2 { root: "/sys/fs/cgroup".into() };
        let mut config = ContainerConfig::default();
        config.security.privileged = true;
        config.security.seccomp = SeccompProfile::RuntimeDefault;
        let built = build(&config, &image(), &Identity::default(), &around(&cgroups)).expect("it can be made");
        assert!(built["linux"]["maskedPaths"].is_null() && built["linux"]["seccomp"].is_null());
    }
}
