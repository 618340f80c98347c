//! The annotations that limit a pod's traffic. Upstream: `pkg/util/bandwidth/utils.go`.

use k8s_openapi::api::core::v1::Pod;
use kobune_network::Bandwidth;

use crate::quantity::Amount;

/// What the pod may receive, in bits a second.
const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
/// What it may send.
const EGRESS: &str = "kubernetes.io/egress-bandwidth";

/// The least and the most bits a second that upstream takes.
const BOUNDS: std::ops::RangeInclusive<i64> = 1_000..=1_000_000_000_000_000;

/// The limits that a pod asks for; what is wrong with them is said in upstream's words.
pub fn asked(pod: &Pod) -> Result<Bandwidth, String> {
    let read = |name: &str| -> Result<Option<u64>, String> {
        let Some(text) = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(name)) else {
            return Ok(None);
        };
        let bits = Amount::parse(text).ok_or_else(|| format!("{name}: {text:?} is not a quantity"))?.value();
        if bits < *BOUNDS.start() {
            return Err(format!("{name}: resource is unreasonably small (< 1kbit)"));
        }
        if bits > *BOUNDS.end() {
            return Err(format!("{name}: resource is unreasonably large (> 1Pbit)"));
        }
        Ok(u64::try_from(bits / 8).ok())
    };
    Ok(Bandwidth { to_pod: read(INGRESS)?, from_pod: read(EGRESS)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_are_bits_a_second() {
        let check = |annotations: &[(&str, &str)], expected: Result<(Option<u64>, Option<u64>), &str>| {
            let mut pod = Pod::default();
            let pairs = annotations.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            pod.metadata.annotations = Some(pairs.collect());
            let found = asked(&pod).map(|found| (found.to_pod, found.from_pod));
            match (found, expected) {
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{found:?} lacks {expected:?}"),
                (found, expected) => assert_eq!(found, expected.map_err(str::to_owned)),
            }
        };
        check(&[], Ok((None, None)));
        check(&[(INGRESS, "8M")], Ok((Some(1_000_000), None)));
        check(&[(INGRESS, "1k"), (EGRESS, "1Gi")], Ok((Some(125), Some(134_217_728))));
        check(&[(EGRESS, "1P")], Ok((None, Some(125_000_000_000_000))));
        check(&[(EGRESS, "999")], Err("unreasonably small (< 1kbit)"));
        check(&[(INGRESS, "2P")], Err("unreasonably large (> 1Pbit)"));
        check(&[(INGRESS, "fast")], Err("is not a quantity"));
    }
}
