//! A container in CRI's terms. Pure.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use kobune_runtime::{
    ContainerConfig as Asked, Error, ImageMount, MASKED_PATHS, Mount as AskedMount, MountPropagation, READ_ONLY_PATHS,
    Resources, Result, SandboxConfig, SeccompProfile,
};
use serde::{Deserialize, Serialize};

use crate::proto::Int64Value;
use crate::proto::container::{
    Capability, ContainerConfig, ContainerMetadata, Device, KeyValue, LinuxContainerConfig,
    LinuxContainerSecurityContext, Mount,
};
use crate::proto::image::ImageSpec;
use crate::proto::sandbox::{SecurityProfile, namespace, profile};
use crate::resources;
use crate::sandbox_config::{INSTANCE, namespaces};

/// The annotation that holds what is to be known of a container when it is found running, beyond what CRI tells.
pub(crate) const KEPT: &str = "kobune.dev/container";

/// What that annotation holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Kept {
    pub image: String,
    pub mounts: Vec<AskedMount>,
    pub image_mounts: Vec<ImageMount>,
    pub resources: Resources,
    pub user: Option<u32>,
    pub group: Option<u32>,
    pub groups: Vec<u32>,
    pub log_path: Option<PathBuf>,
}

/// CRI's numbers of signals: their place in this list, from 1 on.
const SIGNALS: [&str; 34] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL",
    "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1",
    "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
];

fn signal(name: &str) -> i32 {
    let name = name.strip_prefix("SIG").unwrap_or(name);
    let place = SIGNALS.iter().position(|known| *known == name);
    place.and_then(|place| i32::try_from(place + 1).ok()).unwrap_or(0)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn mount(asked: &AskedMount) -> Mount {
    Mount {
        container_path: text(&asked.container_path),
        host_path: text(&asked.host_path),
        readonly: asked.read_only,
        propagation: match asked.propagation {
            MountPropagation::Private => 0,
            MountPropagation::HostToContainer => 1,
            MountPropagation::Bidirectional => 2,
        },
        recursive_read_only: asked.recursive_read_only,
        ..Mount::default()
    }
}

fn seccomp(asked: &SeccompProfile) -> SecurityProfile {
    let (profile_type, localhost_ref) = match asked {
        SeccompProfile::Unconfined => (profile::UNCONFINED, String::new()),
        SeccompProfile::RuntimeDefault => (profile::RUNTIME_DEFAULT, String::new()),
        SeccompProfile::Localhost(path) => (profile::LOCALHOST, text(path)),
    };
    SecurityProfile { profile_type, localhost_ref }
}

fn apparmor(name: &str) -> SecurityProfile {
    let (profile_type, localhost_ref) = match name {
        "unconfined" => (profile::UNCONFINED, String::new()),
        "runtime/default" => (profile::RUNTIME_DEFAULT, String::new()),
        name => (profile::LOCALHOST, name.to_owned()),
    };
    SecurityProfile { profile_type, localhost_ref }
}

fn security(asked: &Asked, sandbox: &SandboxConfig) -> LinuxContainerSecurityContext {
    let own = &asked.security;
    let mut namespace_options = namespaces(sandbox);
    if let Some(target) = &asked.process_target {
        namespace_options.pid = namespace::TARGET;
        namespace_options.target_id = target.to_string();
    }
    let hidden = !own.privileged && !own.unmasked_proc;
    let paths = |list: &[&str]| list.iter().filter(|_| hidden).map(|path| (*path).to_owned()).collect();
    let bare = |list: &[String]| {
        list.iter().map(|name| name.strip_prefix("CAP_").unwrap_or(name).to_owned()).collect::<Vec<_>>()
    };
    let number = |value: Option<u32>| value.map(|value| Int64Value { value: value.into() });
    let named = own.run_as_username.clone().filter(|_| own.run_as_user.is_none());
    LinuxContainerSecurityContext {
        capabilities: Some(Capability {
            add_capabilities: bare(&own.add_capabilities),
            drop_capabilities: bare(&own.drop_capabilities),
        }),
        privileged: own.privileged,
        namespace_options: Some(namespace_options),
        run_as_user: number(own.run_as_user),
        run_as_username: named.unwrap_or_default(),
        readonly_rootfs: own.read_only_root,
        supplemental_groups: own.supplemental_groups.iter().map(|group| i64::from(*group)).collect(),
        no_new_privs: own.no_new_privileges,
        run_as_group: number(own.run_as_group),
        masked_paths: paths(&MASKED_PATHS),
        readonly_paths: paths(&READ_ONLY_PATHS),
        seccomp: Some(seccomp(&own.seccomp)),
        apparmor: own.apparmor.as_deref().map(apparmor),
        supplemental_groups_policy: own.supplemental_groups_strict.into(),
    }
}

/// The message for a container. `hosts` is the pod's file of that name.
pub(crate) fn message(
    asked: &Asked,
    sandbox: &SandboxConfig,
    hosts: Option<&Path>,
    instance: &str,
) -> Result<ContainerConfig> {
    if let Some(hook) = asked.hooks.first() {
        return Err(Error::Invalid(format!(
            "a device of the container wants {} run as a {} hook, which CRI has no words for",
            hook.path.display(),
            hook.stage
        )));
    }
    let mut mounts: Vec<Mount> = asked.mounts.iter().map(mount).collect();
    mounts.extend(asked.image_mounts.iter().map(|image| Mount {
        container_path: text(&image.container_path),
        readonly: true,
        image: Some(ImageSpec { image: image.image.clone(), user_specified_image: image.image_ref.clone() }),
        image_sub_path: image.sub_path.clone(),
        ..Mount::default()
    }));
    if let Some(hosts) = hosts.filter(|_| !mounts.iter().any(|mount| mount.container_path == "/etc/hosts")) {
        mounts.push(Mount { container_path: "/etc/hosts".to_owned(), host_path: text(hosts), ..Mount::default() });
    }
    let log_path = match &asked.log_path {
        Some(path) => text(path.strip_prefix(&sandbox.log_dir).unwrap_or(path)),
        None => String::new(),
    };
    let mut labels: HashMap<String, String> = asked.labels.clone().into_iter().collect();
    labels.insert(INSTANCE.to_owned(), instance.to_owned());
    let mut annotations: HashMap<String, String> = asked.annotations.clone().into_iter().collect();
    let kept = Kept {
        image: asked.image.clone(),
        mounts: asked.mounts.clone(),
        image_mounts: asked.image_mounts.clone(),
        resources: asked.resources.clone(),
        user: asked.security.run_as_user,
        group: asked.security.run_as_group,
        groups: asked.security.supplemental_groups.clone(),
        log_path: asked.log_path.as_ref().map(|path| sandbox.log_dir.join(path)),
    };
    annotations
        .insert(KEPT.to_owned(), serde_json::to_string(&kept).map_err(|error| Error::Invalid(error.to_string()))?);
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata { name: asked.name.clone(), attempt: asked.attempt }),
        image: Some(ImageSpec { image: asked.image.clone(), user_specified_image: String::new() }),
        command: asked.command.clone().unwrap_or_default(),
        args: asked.args.clone().unwrap_or_default(),
        working_dir: asked.working_dir.clone().unwrap_or_default(),
        envs: asked.env.iter().map(|(key, value)| KeyValue { key: key.clone(), value: value.clone() }).collect(),
        mounts,
        devices: asked
            .devices
            .iter()
            .map(|device| Device {
                container_path: text(&device.container_path),
                host_path: text(&device.host_path),
                permissions: device.permissions.clone(),
            })
            .collect(),
        labels,
        annotations,
        log_path,
        stdin: asked.stdin,
        stdin_once: asked.stdin_once,
        tty: asked.tty,
        linux: Some(LinuxContainerConfig {
            resources: Some(resources::limits(&asked.resources)),
            security_context: Some(security(asked, sandbox)),
        }),
        stop_signal: asked.stop_signal.as_deref().map_or(0, signal),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kobune_runtime::{ContainerId, Hook, SecurityContext};

    fn sandbox() -> SandboxConfig {
        SandboxConfig { log_dir: "/logs/p".into(), ..SandboxConfig::default() }
    }

    #[test]
    fn a_container() {
        let asked = Asked {
            name: "c".into(),
            attempt: 2,
            image: "sha256:1".into(),
            command: Some(vec!["run".into()]),
            env: vec![("A".into(), "1".into()), ("A".into(), "2".into())],
            mounts: vec![AskedMount {
                host_path: "/h".into(),
                container_path: "/c".into(),
                read_only: true,
                propagation: MountPropagation::HostToContainer,
                ..AskedMount::default()
            }],
            log_path: Some("/logs/p/c/2.log".into()),
            stop_signal: Some("SIGUSR1".into()),
            process_target: Some(ContainerId::from("t")),
            resources: Resources { memory_limit: Some(7), oom_score_adj: Some(-5), ..Resources::default() },
            security: SecurityContext {
                run_as_user: Some(5),
                run_as_username: Some("x".into()),
                add_capabilities: vec!["CAP_NET_RAW".into(), "ALL".into()],
                seccomp: SeccompProfile::Localhost("/p.json".into()),
                ..SecurityContext::default()
            },
            ..Asked::default()
        };
        let message = message(&asked, &sandbox(), Some(Path::new("/hosts")), "i").expect("a message");
        assert_eq!((message.log_path.as_str(), message.stop_signal), ("c/2.log", 29));
        assert_eq!(message.envs.len(), 2);
        let paths: Vec<_> = message.mounts.iter().map(|mount| (&*mount.container_path, mount.propagation)).collect();
        assert_eq!(paths, [("/c", 1), ("/etc/hosts", 0)]);
        let linux = message.linux.expect("linux");
        assert_eq!(linux.resources.expect("limits").oom_score_adj, -5);
        let security = linux.security_context.expect("security");
        assert_eq!((security.run_as_user.map(|user| user.value), &*security.run_as_username), (Some(5), ""));
        assert_eq!(security.capabilities.expect("capabilities").add_capabilities, ["NET_RAW", "ALL"]);
        assert_eq!(security.seccomp.expect("a profile").localhost_ref, "/p.json");
        let options = security.namespace_options.expect("namespaces");
        assert_eq!((options.pid, &*options.target_id), (namespace::TARGET, "t"));
        assert!(security.masked_paths.iter().any(|path| path == "/proc/kcore"));
        let kept: Kept = serde_json::from_str(&message.annotations[KEPT]).expect("kept");
        assert_eq!((kept.image.as_str(), kept.resources), ("sha256:1", asked.resources));
        assert_eq!(kept.log_path, asked.log_path);
    }

    #[test]
    fn an_own_hosts_file_and_bare_proc_stay() {
        let own = AskedMount { container_path: "/etc/hosts".into(), ..AskedMount::default() };
        let security = SecurityContext { unmasked_proc: true, ..SecurityContext::default() };
        let asked = Asked { mounts: vec![own], security, ..Asked::default() };
        let message = message(&asked, &sandbox(), Some(Path::new("/hosts")), "i").expect("a message");
        assert_eq!(message.mounts.len(), 1);
        let security = message.linux.and_then(|linux| linux.security_context).expect("security");
        assert!(security.masked_paths.is_empty() && security.readonly_paths.is_empty());
    }

    #[test]
    fn hooks_are_refused_and_unknown_signals_are_the_runtimes() {
        let asked = Asked { hooks: vec![Hook::default()], ..Asked::default() };
        assert!(message(&asked, &sandbox(), None, "i").is_err());
        assert_eq!((signal("SIGABRT"), signal("TERM"), signal("SIGXFSZ"), signal("SIGRTMIN+3")), (1, 23, 34, 0));
    }
}
