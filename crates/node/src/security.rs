//! From a pod's and a container's security contexts to what the runtime is asked for.

use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod, SeccompProfile as ApiSeccomp};
use kobune_runtime::{SeccompProfile, SecurityContext};

use crate::pod;

/// Why a container may not run as its image wants. The texts are upstream's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecurityError {
    /// The container would run as root although it must not.
    #[error("container has runAsNonRoot and image will run as root (pod: \"{pod}\", container: {container})")]
    ImageRunsAsRoot {
        /// The pod.
        pod: String,
        /// The container.
        container: String,
    },
    /// The image names a user that can't be checked.
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (pod: \"{pod}\", container: {container})"
    )]
    NonNumericUser {
        /// The image's user.
        user: String,
        /// The pod.
        pod: String,
        /// The container.
        container: String,
    },
    /// The specification itself says root.
    #[error("container's runAsUser breaks non-root policy (pod: \"{pod}\", container: {container})")]
    UserBreaksPolicy {
        /// The pod.
        pod: String,
        /// The container.
        container: String,
    },
}

/// The user a container is asked to run as, if anything is said.
pub fn run_as_user(owner: &Pod, container: &Container) -> Option<i64> {
    let own = container.security_context.as_ref().and_then(|context| context.run_as_user);
    own.or_else(|| pod::spec(owner).security_context.as_ref().and_then(|context| context.run_as_user))
}

/// The user of all containers when they agree on one: who shall own projected tokens.
pub fn common_user(owner: &Pod) -> Option<u32> {
    let spec = pod::spec(owner);
    let mut users = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .map(|container| run_as_user(owner, container));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then_some(first).and_then(|user| u32::try_from(user).ok())
}

/// What the runtime is asked for. `image_user` is the image's `user[:group]`; `seccomp_root` holds `Localhost` profiles.
pub fn security_context(
    owner: &Pod,
    container: &Container,
    image_user: &str,
    seccomp_root: &Path,
) -> Result<SecurityContext, SecurityError> {
    let of_pod = pod::spec(owner).security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let user = own.run_as_user.or(of_pod.run_as_user);
    let group = own.run_as_group.or(of_pod.run_as_group);
    if own.run_as_non_root.or(of_pod.run_as_non_root).unwrap_or(false) {
        let (pod, container) = (pod::full_name(owner), container.name.clone());
        let image_user = image_user.split(':').next().unwrap_or_default();
        match (user, image_user.parse::<u32>()) {
            (Some(0), _) => return Err(SecurityError::UserBreaksPolicy { pod, container }),
            (Some(_), _) => {}
            (None, Ok(0)) => return Err(SecurityError::ImageRunsAsRoot { pod, container }),
            (None, Ok(_)) => {}
            (None, Err(_)) if image_user.is_empty() => return Err(SecurityError::ImageRunsAsRoot { pod, container }),
            (None, Err(_)) => {
                return Err(SecurityError::NonNumericUser { user: image_user.to_owned(), pod, container });
            }
        }
    }
    let number = |id: i64| u32::try_from(id).ok();
    let mut groups: Vec<u32> = of_pod.supplemental_groups.iter().flatten().copied().filter_map(number).collect();
    groups.extend(of_pod.fs_group.and_then(number));
    let privileged = own.privileged.unwrap_or(false);
    let capabilities = own.capabilities.unwrap_or_default();
    let adds_admin =
        capabilities.add.iter().flatten().any(|name| matches!(name.as_str(), "SYS_ADMIN" | "CAP_SYS_ADMIN"));
    Ok(SecurityContext {
        run_as_user: user.and_then(number),
        run_as_group: group.and_then(number),
        run_as_username: None,
        supplemental_groups: groups,
        supplemental_groups_strict: of_pod.supplemental_groups_policy.as_deref() == Some("Strict"),
        privileged,
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
        no_new_privileges: own.allow_privilege_escalation == Some(false) && !privileged && !adds_admin,
        read_only_root: own.read_only_root_filesystem.unwrap_or(false),
        seccomp: match own.seccomp_profile.or(of_pod.seccomp_profile) {
            Some(profile) if !privileged => seccomp(&profile, seccomp_root),
            _ => SeccompProfile::Unconfined,
        },
        apparmor: None,
        unmasked_proc: own.proc_mount.as_deref() == Some("Unmasked"),
    })
}

fn seccomp(profile: &ApiSeccomp, root: &Path) -> SeccompProfile {
    match profile.type_.as_str() {
        "RuntimeDefault" => SeccompProfile::RuntimeDefault,
        "Localhost" => SeccompProfile::Localhost(root.join(profile.localhost_profile.as_deref().unwrap_or_default())),
        _ => SeccompProfile::Unconfined,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn context(of_pod: Value, own: Value, image_user: &str) -> Result<SecurityContext, String> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"securityContext": of_pod, "containers": [{"name": "c", "securityContext": own}]},
        }))
        .expect("a pod");
        security_context(&pod, &pod.spec.as_ref().expect("spec").containers[0], image_user, Path::new("/seccomp"))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn non_root() {
        let check = |of_pod: Value, own: Value, image_user: &str, expected: &str| {
            let actual = context(of_pod, own, image_user).err().unwrap_or_default();
            assert!(if expected.is_empty() { actual.is_empty() } else { actual.starts_with(expected) }, "{actual}");
        };
        check(
            json!({"runAsNonRoot": true}),
            json!({}),
            "",
            "container has runAsNonRoot and image will run as root (pod: \"p_ns(u)\", container: c)",
        );
        check(json!({"runAsNonRoot": true}), json!({}), "0:5", "container has runAsNonRoot and image will run as root");
        check(json!({"runAsNonRoot": true}), json!({}), "1000", "");
        check(
            json!({"runAsNonRoot": true}),
            json!({}),
            "nobody",
            "container has runAsNonRoot and image has non-numeric user (nobody)",
        );
        check(
            json!({"runAsNonRoot": true}),
            json!({"runAsUser": 0}),
            "1000",
            "container's runAsUser breaks non-root policy",
        );
        check(json!({"runAsNonRoot": true}), json!({"runAsNonRoot": false}), "", "");
    }

    #[test]
    fn the_containers_own_words_win() {
        let made = context(
            json!({"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4], "seccompProfile": {"type": "RuntimeDefault"}}),
            json!({"runAsUser": 5, "allowPrivilegeEscalation": false, "seccompProfile": {"type": "Localhost", "localhostProfile": "a.json"}}),
            "",
        )
        .expect("a context");
        assert_eq!(
            (made.run_as_user, made.run_as_group, made.supplemental_groups.as_slice()),
            (Some(5), Some(2), &[4, 3][..])
        );
        assert!(made.no_new_privileges);
        assert_eq!(made.seccomp, SeccompProfile::Localhost("/seccomp/a.json".into()));
    }
}
