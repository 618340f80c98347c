//! The flags that say what of a machine is kept from pods and which CPUs containers get, spelled as upstream's kubelet spells
//! them.

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use kobune_node::{AlignPolicy, AlignScope, CpuOptions, CpuSet, PlacementSettings, Reserved, ReservedMemory};

/// Who runs on which CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CpuPolicy {
    /// The kernel decides.
    None,
    /// Guaranteed containers that ask for whole CPUs have them for themselves.
    Static,
}

/// Where memory comes from, with upstream's capitals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MemoryPolicy {
    /// The kernel decides.
    #[value(name = "None")]
    None,
    /// Memory of Guaranteed containers comes from as few memory nodes as can be, which promise no more than they have.
    #[value(name = "Static")]
    Static,
}

/// Whether CPUs, memory and devices are to be close to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TopologyPolicy {
    /// That does not matter.
    None,
    /// As close as can be.
    BestEffort,
    /// What can't be as close as it could be on an empty machine is rejected.
    Restricted,
    /// What can't be on one memory node is rejected.
    SingleNumaNode,
}

/// What is to be close to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TopologyScope {
    /// What one container has.
    Container,
    /// What all containers of a pod have.
    Pod,
}

/// The flags.
#[derive(Debug, Clone, Args)]
pub struct PlacementOptions {
    /// What is kept from pods for the machine, such as cpu=500m,memory=200Mi,ephemeral-storage=1Gi
    #[arg(long, value_name = "RESOURCE=AMOUNT", env = "KOBUNE_SYSTEM_RESERVED", value_delimiter = ',', value_parser = pair)]
    pub system_reserved: Vec<(String, String)>,
    /// What is kept from pods for kobune, beside --system-reserved
    #[arg(long, value_name = "RESOURCE=AMOUNT", env = "KOBUNE_KUBE_RESERVED", value_delimiter = ',', value_parser = pair)]
    pub kube_reserved: Vec<(String, String)>,
    /// CPUs that are kept from pods, in place of an amount, such as 0-1
    #[arg(long, value_name = "CPUS", env = "KOBUNE_RESERVED_CPUS", default_value_t, hide_default_value = true)]
    pub reserved_cpus: CpuSet,
    /// Whether Guaranteed containers that ask for whole CPUs have them for themselves; static needs reserved CPUs
    #[arg(long, value_name = "POLICY", env = "KOBUNE_CPU_MANAGER_POLICY", default_value = "none")]
    pub cpu_manager_policy: CpuPolicy,
    /// How the policy static chooses, such as full-pcpus-only=true,strict-cpu-reservation=true
    #[arg(long, value_name = "OPTION=BOOL", env = "KOBUNE_CPU_MANAGER_POLICY_OPTIONS", value_delimiter = ',', value_parser = pair)]
    pub cpu_manager_policy_options: Vec<(String, String)>,
    /// Whether memory of Guaranteed containers comes from chosen memory nodes; Static needs --reserved-memory
    #[arg(long, value_name = "POLICY", env = "KOBUNE_MEMORY_MANAGER_POLICY", default_value = "None")]
    pub memory_manager_policy: MemoryPolicy,
    /// What each memory node keeps from pods, such as 0:memory=1Gi;1:memory=500Mi: together what the reservations and the hard
    /// eviction threshold keep
    #[arg(long, value_name = "NODE:RESOURCE=AMOUNT;...", env = "KOBUNE_RESERVED_MEMORY", value_parser = reserved_memory, default_value = "", hide_default_value = true)]
    pub reserved_memory: ReservedMemory,
    /// Whether CPUs, memory and devices of a container are to be on the same memory nodes
    #[arg(long, value_name = "POLICY", env = "KOBUNE_TOPOLOGY_MANAGER_POLICY", default_value = "none")]
    pub topology_manager_policy: TopologyPolicy,
    /// Whether that is so for each container or for all of a pod together
    #[arg(long, value_name = "SCOPE", env = "KOBUNE_TOPOLOGY_MANAGER_SCOPE", default_value = "container")]
    pub topology_manager_scope: TopologyScope,
}

fn reserved_memory(text: &str) -> Result<ReservedMemory, String> {
    text.parse().map_err(|error: kobune_node::ReservedMemoryError| error.to_string())
}

/// A value as it is spelled on the command line.
fn spelled(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

impl PlacementOptions {
    /// What the node is told.
    pub fn resolve(&self) -> Result<PlacementSettings> {
        let mut reserved = Reserved::default();
        for (flag, list) in [("--system-reserved", &self.system_reserved), ("--kube-reserved", &self.kube_reserved)] {
            for (resource, amount) in list {
                reserved.add(resource, amount).context(flag)?;
            }
        }
        let options = self.cpu_manager_policy_options.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let options = CpuOptions::parse(options).context("--cpu-manager-policy-options")?;
        let cpus = (self.cpu_manager_policy == CpuPolicy::Static).then_some(options);
        let memory = (self.memory_manager_policy == MemoryPolicy::Static).then(|| self.reserved_memory.clone());
        let align = match self.topology_manager_policy {
            TopologyPolicy::None => AlignPolicy::None,
            TopologyPolicy::BestEffort => AlignPolicy::BestEffort,
            TopologyPolicy::Restricted => AlignPolicy::Restricted,
            TopologyPolicy::SingleNumaNode => AlignPolicy::SingleNumaNode,
        };
        let scope = match self.topology_manager_scope {
            TopologyScope::Container => AlignScope::Container,
            TopologyScope::Pod => AlignScope::Pod,
        };
        Ok(PlacementSettings { cpus, memory, align, scope, reserved_cpus: self.reserved_cpus.clone(), reserved })
    }

    /// What `kobune config show` says of them.
    pub fn show(&self) -> Vec<(&'static str, String)> {
        let list = |pairs: &[(String, String)]| {
            format!("[{}]", pairs.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", "))
        };
        vec![
            ("system-reserved", list(&self.system_reserved)),
            ("kube-reserved", list(&self.kube_reserved)),
            ("reserved-cpus", self.reserved_cpus.to_string()),
            ("cpu-manager-policy", spelled(&self.cpu_manager_policy)),
            ("cpu-manager-policy-options", list(&self.cpu_manager_policy_options)),
            ("memory-manager-policy", spelled(&self.memory_manager_policy)),
            ("topology-manager-policy", spelled(&self.topology_manager_policy)),
            ("topology-manager-scope", spelled(&self.topology_manager_scope)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: PlacementOptions,
    }

    #[test]
    fn flags_are_read() {
        let check = |arguments: &[&str], expected: &str| {
            let line = Line::try_parse_from([&["x"], arguments].concat()).expect("flags");
            let read = line
                .options
                .resolve()
                .map_or_else(|error| format!("{error:#}"), |read| format!("{:?}", read.reserved()));
            assert_eq!(read, expected, "{arguments:?}");
        };
        check(&[], "Totals { cpu: 0, memory: 0, storage: 0 }");
        check(
            &["--system-reserved", "cpu=500m,memory=1Ki", "--kube-reserved", "cpu=1"],
            "Totals { cpu: 1500, memory: 1024, storage: 0 }",
        );
        check(
            &["--reserved-cpus", "0,2-3", "--cpu-manager-policy", "static"],
            "Totals { cpu: 3000, memory: 0, storage: 0 }",
        );
        check(
            &["--kube-reserved", "pods=3"],
            "--kube-reserved: \"pods\" can't be reserved: cpu, memory and ephemeral-storage can",
        );
        check(
            &["--cpu-manager-policy-options", "x=true"],
            "--cpu-manager-policy-options: there is no CPU manager policy option \"x\"",
        );
    }
}
