//! Control groups of pods, for a runtime of another program that makes only those of their containers.

use crate::cgroup::Cgroups;
use crate::container::Resources;
use crate::error::Result;
use crate::stats::ContainerStats;

/// The groups of pods.
#[derive(Clone, Debug)]
pub struct PodGroups(Cgroups);

impl PodGroups {
    /// Finds the machine's trees. Blocks, as all of these do.
    pub fn detect() -> Result<Self> {
        Ok(Self(Cgroups::detect()?))
    }

    /// The name of a pod's group: `<parent>/<qos>/pod<uid>`, without the middle for guaranteed pods.
    pub fn name(parent: &str, qos: &str, uid: &str) -> String {
        let (parent, qos) = (parent.trim_end_matches('/'), qos.trim_matches('/'));
        if qos.is_empty() { format!("{parent}/pod{uid}") } else { format!("{parent}/{qos}/pod{uid}") }
    }

    /// Makes a pod's group and sets its limits.
    pub fn create(&self, group: &str, resources: &Resources) -> Result<()> {
        Ok(self.0.create(group, resources)?)
    }

    /// Sets the limits that are given.
    pub fn apply(&self, group: &str, resources: &Resources) -> Result<()> {
        Ok(self.0.apply(group, resources)?)
    }

    /// Ends everything in a group and removes it with the groups in it.
    pub fn remove(&self, group: &str) -> Result<()> {
        Ok(self.0.remove(group)?)
    }

    /// What all of a pod uses now.
    pub fn stats(&self, group: &str) -> Result<ContainerStats> {
        Ok(self.0.stats(group)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(PodGroups::name("/k/", "burstable", "u"), "/k/burstable/podu");
        assert_eq!(PodGroups::name("/k", "", "u"), "/k/podu");
    }
}
