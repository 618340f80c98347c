//! A pod's surroundings: volumes and the sandbox, made side by side before its first container.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::node::v1::RuntimeClass;
use kobune_network::policy::objects::PodFacts;
use kobune_network::{HostPort, NetworkError, Protocol, Wanted, cni};
use kobune_runtime::{SandboxConfig, SandboxId};
use kube::Api;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::csi::{self, mount::CsiVolume};
use crate::errors::chain;
use crate::events::Severity;
use crate::pod;
use crate::references::Held;
use crate::resolv::{host_name, hosts_file, pod_dns};
use crate::resources::{pod_resources, qos_class};
use crate::security::common_user;
use crate::volumes::claims::{Found, Source, claim_name};
use crate::volumes::content::Sources;
use crate::volumes::tokens::Tokens;
use crate::volumes::{self};
use crate::{dra, plugins};

/// Makes the volumes of a pod or brings them up to date. The error has been told as an event.
pub async fn set_up_volumes(
    context: &Arc<Context>,
    owner: &Arc<Pod>,
    pod_ips: &[String],
    held: &Held,
    tokens: &Arc<Mutex<Tokens>>,
) -> Result<(), String> {
    held.read().await;
    let spec = pod::spec(owner);
    let mut tokens = tokens.lock().await;
    if let Err(error) = tokens.refresh(&context.config.client, owner, context.offline.keeps()).await {
        let volume =
            spec.volumes.iter().flatten().find(|volume| volume.projected.is_some()).map(|volume| volume.name.as_str());
        let message = format!(
            "MountVolume.SetUp failed for volume \"{}\" : failed to fetch token: {error}",
            volume.unwrap_or_default()
        );
        context.events.pod(owner, Severity::Warning, "FailedMount", message.clone());
        return Err(message);
    }
    let mut found = look_up_claims(context, owner).await?;
    for (name, found) in &mut found {
        if let Source::Csi(volume) = found.source.clone()
            && let Err(error) = mount_by_driver(context, owner, name, &volume, found).await
        {
            let message = format!("MountVolume.SetUp failed for volume \"{}\" : {error}", found.volume);
            context.events.pod(owner, Severity::Warning, "FailedMount", message.clone());
            return Err(message);
        }
    }
    let texts = tokens.texts();
    let (context_, owner_, held_) = (Arc::clone(context), Arc::clone(owner), held.clone());
    let around = context.surroundings(owner, pod_ips);
    let work = tokio::task::spawn_blocking(move || {
        let (context, owner, held) = (context_, owner_, held_);
        let pod_dir = context.pod_dir(pod::uid(&owner));
        let spec = pod::spec(&owner);
        let sources = Sources {
            lookup: &held,
            around: &around,
            tokens: &texts,
            token_owner: common_user(&owner),
            has_group: spec.security_context.as_ref().is_some_and(|security| security.fs_group.is_some()),
        };
        let mut failed = None;
        for volume in spec.volumes.iter().flatten() {
            let found = found.iter().find(|(name, _)| *name == volume.name).map(|(_, found)| found.clone());
            let made = match found {
                Some(found) => volumes::claims::set_up(&pod_dir, &owner, volume, found, &context.locals),
                None => volumes::set_up(&pod_dir, &owner, volume, &sources),
            };
            if let Err(error) = made {
                let message = format!("MountVolume.SetUp failed for volume \"{}\" : {error}", volume.name);
                context.events.pod(&owner, Severity::Warning, "FailedMount", message.clone());
                failed = Some(message);
            }
        }
        failed.map_or(Ok(()), Err)
    });
    work.await.map_err(|error| error.to_string())?
}

/// What the pod's claims stand for, by volume: as it was found before, or as the API server says it. The error has been told
/// as an event.
async fn look_up_claims(context: &Arc<Context>, owner: &Arc<Pod>) -> Result<Vec<(String, Found)>, String> {
    let pod_dir = context.pod_dir(pod::uid(owner));
    let mut all = Vec::new();
    for volume in pod::spec(owner).volumes.iter().flatten() {
        if claim_name(owner, volume).is_none() && volume.csi.is_none() {
            continue;
        }
        let (folder, name) = (pod_dir.clone(), volume.name.clone());
        let known = tokio::task::spawn_blocking(move || volumes::claims::known(&folder, &name)).await;
        let known = known.map_err(|error| error.to_string())?;
        let found = match known {
            Ok(Some(known)) => Ok(Some(known)),
            // What can't be read is found out anew.
            Ok(None) | Err(_) => volumes::claims::look_up(&context.config.client, owner, volume).await,
        };
        match found {
            Ok(found) => all.extend(found.map(|found| (volume.name.clone(), found))),
            Err(error) => {
                let name = claim_name(owner, volume).unwrap_or_default();
                let message = format!(
                    "Unable to attach or mount volumes: error processing PVC {}/{name}: {error}",
                    pod::namespace(owner)
                );
                context.events.pod(owner, Severity::Warning, "FailedMount", message.clone());
                return Err(message);
            }
        }
    }
    Ok(all)
}

/// Has a CSI driver mount a volume. What is to be undone at the pod's end is kept before anything is done.
async fn mount_by_driver(
    context: &Arc<Context>,
    owner: &Arc<Pod>,
    name: &str,
    volume: &CsiVolume,
    found: &mut Found,
) -> Result<(), String> {
    let pod_dir = context.pod_dir(pod::uid(owner));
    found.path = csi::mount::target(&pod_dir, &found.volume, found.block);
    let (kept, name) = (found.clone(), name.to_owned());
    let keep = tokio::task::spawn_blocking(move || volumes::claims::keep(&pod_dir, &name, &kept)).await;
    keep.map_err(|error| error.to_string())?.map_err(|error| format!("what is known of it can't be kept: {error}"))?;
    let group = csi::mount::set_up(context, owner, volume, found).await?;
    let Some(group) = group.filter(|group| found.group != Some(*group)) else { return Ok(()) };
    let (owner, path) = (Arc::clone(owner), found.path.clone());
    let given = tokio::task::spawn_blocking(move || volumes::claims::give_to_group(&owner, &path, group)).await;
    given.map_err(|error| error.to_string())?.map_err(|error| chain(&error))?;
    found.group = Some(group);
    Ok(())
}

fn host_ports(owner: &Pod) -> Vec<HostPort> {
    let spec = pod::spec(owner);
    spec.containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            Some(HostPort {
                host_ip: port
                    .host_ip
                    .as_deref()
                    .and_then(|ip| ip.parse().ok())
                    .filter(|ip: &IpAddr| !ip.is_unspecified()),
                host_port: u16::try_from(port.host_port?).ok().filter(|port| *port != 0)?,
                container_port: u16::try_from(port.container_port).ok()?,
                protocol: Protocol::parse(port.protocol.as_deref())?,
            })
        })
        .collect()
}

/// Attaches the pod to the network and starts its sandbox; the sandbox and the pod's addresses. The error has been told as an event.
/// Where there is no network yet, this waits for one until the token is cancelled.
pub async fn run_sandbox(
    context: &Arc<Context>,
    owner: &Arc<Pod>,
    attempt: u32,
    token: &CancellationToken,
) -> Result<(SandboxId, Vec<String>), String> {
    if !pod::spec(owner).host_network.unwrap_or(false) {
        plugins::wait_until_ready(context, owner, token).await?;
    }
    if let Err(message) = dra::prepare(context, owner).await {
        let text = format!("Failed to prepare dynamic resources: {message}");
        context.events.pod(owner, Severity::Warning, "FailedPrepareDynamicResources", text);
        return Err(message);
    }
    let made = make(context, owner, attempt).await;
    if let Err(message) = &made {
        let text = format!("Failed to create pod sandbox: {message}");
        context.events.pod(owner, Severity::Warning, "FailedCreatePodSandBox", text);
    }
    made
}

/// The pod's addresses again, after kobune was started again.
pub async fn attach_again(context: &Arc<Context>, owner: &Arc<Pod>) -> Result<Vec<String>, String> {
    if pod::spec(owner).host_network.unwrap_or(false) {
        return Ok(context.host_ips());
    }
    let attachment = context.config.network.attach_as(pod::uid(owner), wanted(context, owner)?).await;
    let ips = in_order(context, attachment.map_err(|error| chain(&error))?.ips);
    Ok(ips.iter().map(ToString::to_string).collect())
}

/// What the pod wants of the network.
fn wanted(context: &Context, owner: &Pod) -> Result<Wanted, String> {
    let config = &context.config;
    let told = if config.network.plugins().is_some() {
        let dns = pod_dns(owner, &context.host_dns(), &config.cluster_dns, &config.cluster_domain);
        cni::Told {
            namespace: pod::namespace(owner).to_owned(),
            name: pod::name(owner).to_owned(),
            annotations: owner.metadata.annotations.clone().unwrap_or_default(),
            bandwidth: super::bandwidth::asked(owner)?,
            dns_servers: dns.nameservers,
            dns_searches: dns.searches,
            dns_options: dns.options,
            cgroup: config.runtime.cgroup_of_pod(qos_class(owner).cgroup(), pod::uid(owner)),
        }
    } else {
        cni::Told::default()
    };
    Ok(Wanted {
        host_ports: host_ports(owner),
        facts: Some(PodFacts::of_pod(owner)),
        users: context.users(owner).map_err(|error| chain(&error))?,
        told,
    })
}

/// The family of the node's own address comes first, whatever order a plug-in has.
fn in_order(context: &Context, mut ips: Vec<IpAddr>) -> Vec<IpAddr> {
    let v4_first = context.config.node_ips.first().is_none_or(IpAddr::is_ipv4);
    ips.sort_by_key(|ip| ip.is_ipv4() != v4_first);
    ips
}

/// What the pod's RuntimeClass says its containers run with.
async fn runtime_handler(context: &Context, owner: &Pod) -> Result<String, String> {
    let name = pod::spec(owner).runtime_class_name.as_deref().filter(|name| !name.is_empty());
    let Some(name) = name else { return Ok(String::new()) };
    let api: Api<RuntimeClass> = Api::all(context.config.client.clone());
    match api.get_opt(name).await {
        Ok(Some(class)) => Ok(class.handler),
        Ok(None) => Err(format!("failed to get runtime class: RuntimeClass \"{name}\" not found")),
        Err(error) => Err(format!("failed to get runtime class: {}", chain(&error))),
    }
}

async fn make(context: &Arc<Context>, owner: &Arc<Pod>, attempt: u32) -> Result<(SandboxId, Vec<String>), String> {
    let spec = pod::spec(owner);
    let config = &context.config;
    let host_network = spec.host_network.unwrap_or(false);
    let users = context.users(owner).map_err(|error| chain(&error))?;
    let (netns, ips) = if host_network {
        (None, config.node_ips.clone())
    } else {
        let failed = |error| match error {
            // In containerd's words.
            NetworkError::Plugins { .. } => chain(&error),
            error => format!("failed to set up the network: {}", chain(&error)),
        };
        let attachment = config.network.attach_as(pod::uid(owner), wanted(context, owner)?).await.map_err(failed)?;
        let bandwidth = super::bandwidth::asked(owner)?;
        let limited = config.network.limit(pod::uid(owner), bandwidth).await;
        limited.map_err(|error| format!("failed to set up the network: {}", chain(&error)))?;
        (Some(attachment.netns), in_order(context, attachment.ips))
    };
    let (host, domain) = host_name(owner, &config.cluster_domain);
    let hostname = match domain {
        Some(domain) if spec.set_hostname_as_fqdn.unwrap_or(false) => format!("{host}.{domain}"),
        _ => host,
    };
    let own_hosts = host_network.then(|| std::fs::read_to_string("/etc/hosts").unwrap_or_default());
    let dns = pod_dns(owner, &context.host_dns(), &config.cluster_dns, &config.cluster_domain);
    let sysctls = spec.security_context.iter().flat_map(|security| security.sysctls.iter().flatten());
    let log_dir = context.log_dir(owner);
    std::fs::create_dir_all(&log_dir).map_err(|error| format!("failed to make the log folder: {error}"))?;
    let runtime_handler = runtime_handler(context, owner).await?;
    let sandbox = SandboxConfig {
        runtime_handler,
        uid: pod::uid(owner).to_owned(),
        name: pod::name(owner).to_owned(),
        namespace: pod::namespace(owner).to_owned(),
        attempt,
        hostname,
        log_dir,
        resolv_conf: Some(dns.text()),
        hosts: Some(hosts_file(owner, &ips, &config.cluster_domain, own_hosts.as_deref())),
        sysctls: sysctls.map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())).collect(),
        host_network,
        host_pid: spec.host_pid.unwrap_or(false),
        host_ipc: spec.host_ipc.unwrap_or(false),
        share_process_namespace: spec.share_process_namespace.unwrap_or(false),
        cgroup_qos: qos_class(owner).cgroup().to_owned(),
        resources: pod_resources(owner),
        labels: Default::default(),
        annotations: Default::default(),
        users,
        network_namespace: netns,
        pod_ips: ips.clone(),
    };
    let id = config.runtime.run_pod_sandbox(sandbox).await.map_err(|error| chain(&error))?;
    Ok((id, ips.iter().map(ToString::to_string).collect()))
}
