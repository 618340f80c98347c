//! A runtime's failures as the node tells them, with what to do about those that have a known cause. Pure.

use kobune_grpc::client::words;
use kobune_grpc::{Code, Status};
use kobune_runtime::Error;

/// What is known of causes: words that the runtime's text has, and advice.
const ADVICE: [(&[&str], &str); 5] = [
    (
        &["oom_score_adj", "permission denied"],
        "this machine lets nobody lower out-of-memory scores: set restrict_oom_score_adj = true in containerd's CRI \
         configuration",
    ),
    (
        &["slice:prefix:name"],
        "the runtime leaves control groups to systemd: set SystemdCgroup = false for containerd's runtime handler, or \
         cgroup_manager = \"cgroupfs\" for CRI-O",
    ),
    (
        &["cgroup", "hybrid"],
        "crun runs on machines with one version of control groups only: use runc, or start the machine with one version",
    ),
    (&["cni plugin not initialized"], "the runtime has not read kobune's CNI configuration: see its conf_dir and log"),
    (
        &["sandbox image"],
        "the runtime needs the image that it holds sandboxes with: see sandbox_image in containerd's CRI configuration",
    ),
];

/// The failure's text, with advice.
pub(crate) fn text(status: &Status) -> String {
    let mut text = words(status);
    let said = status.message().to_ascii_lowercase();
    let known = ADVICE.iter().find(|(signs, _)| signs.iter().all(|sign| said.contains(sign)));
    if let Some((_, advice)) = known {
        text.push_str(" (");
        text.push_str(advice);
        text.push(')');
    }
    text
}

/// The failure as the node knows it.
pub(crate) fn of(status: &Status) -> Error {
    Error::Remote(text(status))
}

/// Success, also when what was to go is not there.
pub(crate) fn unless_gone<T: Default>(answer: Result<T, Status>) -> Result<T, Error> {
    match answer {
        Err(status) if status.code() == Code::NotFound => Ok(T::default()),
        answer => answer.map_err(|status| of(&status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_given_for_what_is_known() {
        let check = |said: &str, expected: &str| {
            let text = text(&Status::unknown(said));
            assert!(text.contains(said) && text.contains(expected), "{text}");
        };
        check("OCI runtime create failed: write /proc/self/oom_score_adj: permission denied", "restrict_oom_score_adj");
        check("expected cgroupsPath to be of format \"slice:prefix:name\"", "SystemdCgroup = false");
        check("cgroups in hybrid mode not supported", "use runc");
        check("failed to get sandbox image \"k8s.gcr.io/pause\"", "sandbox_image");
        assert!(!text(&Status::unknown("no such thing")).contains('('));
    }
}
