//! A sandbox in CRI's terms. Pure.

use std::collections::HashMap;

use kobune_runtime::{Error, Result, SandboxConfig};

use crate::proto::sandbox::{
    DnsConfig, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceOption, PodSandboxConfig,
    PodSandboxMetadata, SecurityProfile, namespace, profile,
};
use crate::resources;

/// The label of everything that an instance of kobune runs.
pub(crate) const INSTANCE: &str = "kobune.dev/instance";
/// The annotation that holds what a sandbox was asked to be, for a kobune that finds it running.
pub(crate) const ASKED: &str = "kobune.dev/sandbox";

/// Every pod may bind low ports and ping, as with the runtime built in.
const SYSCTLS: [(&str, &str); 2] =
    [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];

/// What a `resolv.conf` says.
fn dns(text: &str) -> DnsConfig {
    let mut dns = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => dns.servers.extend(words.next()),
            Some("search") => dns.searches = words.collect(),
            Some("options") => dns.options.extend(words),
            _ => {}
        }
    }
    dns
}

/// The namespaces of a pod's sandbox.
pub(crate) fn namespaces(config: &SandboxConfig) -> NamespaceOption {
    let unless = |host: bool, own: i32| if host { namespace::NODE } else { own };
    let pid = if config.share_process_namespace { namespace::POD } else { namespace::CONTAINER };
    NamespaceOption {
        network: unless(config.host_network, namespace::POD),
        pid: unless(config.host_pid, pid),
        ipc: unless(config.host_ipc, namespace::POD),
        target_id: String::new(),
    }
}

/// The message for a sandbox in this group.
pub(crate) fn message(config: &SandboxConfig, group: &str, instance: &str) -> Result<PodSandboxConfig> {
    if config.uid.is_empty() || config.uid.contains('/') || config.uid.starts_with('.') {
        return Err(Error::Invalid(format!("{:?} is not a pod uid", config.uid)));
    }
    if config.users.is_some() {
        return Err(Error::Invalid("pods with hostUsers: false can't be run through CRI by this version".to_owned()));
    }
    let mut labels: HashMap<String, String> = config.labels.clone().into_iter().collect();
    let uid = config.uid.clone();
    labels.extend([
        (INSTANCE.to_owned(), instance.to_owned()),
        ("io.kubernetes.pod.name".to_owned(), config.name.clone()),
        ("io.kubernetes.pod.namespace".to_owned(), config.namespace.clone()),
        ("io.kubernetes.pod.uid".to_owned(), uid.clone()),
    ]);
    let mut annotations: HashMap<String, String> = config.annotations.clone().into_iter().collect();
    // Files that are written elsewhere need not be kept twice.
    let asked = SandboxConfig { resolv_conf: None, hosts: None, ..config.clone() };
    let asked = serde_json::to_string(&asked).map_err(|error| Error::Invalid(error.to_string()))?;
    annotations.insert(ASKED.to_owned(), asked);
    let mut sysctls: HashMap<String, String> = HashMap::new();
    if !config.host_network {
        sysctls.extend(SYSCTLS.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    sysctls.extend(config.sysctls.clone());
    Ok(PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: config.name.clone(),
            uid,
            namespace: config.namespace.clone(),
            attempt: config.attempt,
        }),
        hostname: if config.host_network { String::new() } else { config.hostname.clone() },
        log_directory: config.log_dir.to_string_lossy().into_owned(),
        dns_config: config.resolv_conf.as_deref().map(dns),
        labels,
        annotations,
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: group.to_owned(),
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(config)),
                run_as_user: None,
                privileged: false,
                seccomp: Some(SecurityProfile { profile_type: profile::RUNTIME_DEFAULT, ..SecurityProfile::default() }),
            }),
            sysctls,
            resources: Some(resources::limits(&config.resources)),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> SandboxConfig {
        SandboxConfig { uid: "u".into(), name: "p".into(), namespace: "n".into(), ..SandboxConfig::default() }
    }

    #[test]
    fn a_pods_sandbox() {
        let config = SandboxConfig {
            hostname: "p".into(),
            resolv_conf: Some("search a b\nnameserver 10.0.0.1\nnameserver ::1\noptions ndots:5\n# x\n".into()),
            sysctls: [("net.ipv4.ping_group_range".to_owned(), "1 1".to_owned())].into(),
            ..pod()
        };
        let message = message(&config, "/k/podu", "kobune-1").expect("a message");
        let dns = message.dns_config.expect("dns");
        assert_eq!(dns.servers, ["10.0.0.1", "::1"]);
        assert_eq!((dns.searches.join(" "), dns.options.join(" ")), ("a b".to_owned(), "ndots:5".to_owned()));
        assert_eq!(message.labels[INSTANCE], "kobune-1");
        let linux = message.linux.expect("linux");
        assert_eq!(linux.cgroup_parent, "/k/podu");
        assert_eq!(linux.sysctls["net.ipv4.ping_group_range"], "1 1", "what the pod asks for wins");
        let kept: SandboxConfig = serde_json::from_str(&message.annotations[ASKED]).expect("kept");
        assert_eq!(kept, SandboxConfig { resolv_conf: None, ..config });
    }

    #[test]
    fn namespaces_follow_the_pod() {
        let check = |config: SandboxConfig, expected: (i32, i32, i32)| {
            let options = namespaces(&config);
            assert_eq!((options.network, options.pid, options.ipc), expected);
        };
        check(pod(), (0, 1, 0));
        check(SandboxConfig { share_process_namespace: true, ..pod() }, (0, 0, 0));
        check(SandboxConfig { host_network: true, host_pid: true, host_ipc: true, ..pod() }, (2, 2, 2));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert!(message(&SandboxConfig { uid: "../x".into(), ..pod() }, "/g", "i").is_err());
        assert!(message(&SandboxConfig { users: Some(1..2), ..pod() }, "/g", "i").is_err());
    }
}
