//! How often probes have succeeded and failed, for `/metrics/probes`.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::probes::ProbeKind;

/// Results of one probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// It said yes.
    pub successful: u64,
    /// It said no.
    pub failed: u64,
}

type OfPod = BTreeMap<(String, &'static str), (ProbeKind, Counts)>;

/// Counts by pod, container and kind. A pod's go with the pod.
#[derive(Debug, Default)]
pub struct ProbeCounts {
    pods: Mutex<BTreeMap<String, OfPod>>,
}

impl ProbeCounts {
    /// Counts one result.
    pub fn count(&self, uid: &str, container: &str, kind: ProbeKind, success: bool) {
        let mut pods = self.pods.lock();
        let of_pod = pods.entry(uid.to_owned()).or_default();
        let (_, counts) = of_pod.entry((container.to_owned(), kind.as_str())).or_insert((kind, Counts::default()));
        if success {
            counts.successful += 1;
        } else {
            counts.failed += 1;
        }
    }

    /// All counts of a pod: container, kind, results.
    pub fn of(&self, uid: &str) -> Vec<(String, ProbeKind, Counts)> {
        let pods = self.pods.lock();
        let found = pods.get(uid).into_iter().flatten();
        found.map(|((container, _), (kind, counts))| (container.clone(), *kind, *counts)).collect()
    }

    /// Forgets a pod.
    pub fn forget(&self, uid: &str) {
        self.pods.lock().remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_with_their_pod() {
        let counts = ProbeCounts::default();
        for success in [true, false, true] {
            counts.count("u", "c", ProbeKind::Liveness, success);
        }
        let expected = Counts { successful: 2, failed: 1 };
        assert_eq!(counts.of("u"), [("c".to_owned(), ProbeKind::Liveness, expected)]);
        counts.forget("u");
        assert!(counts.of("u").is_empty());
    }
}
