//! AppArmor profiles of containers: which one is asked for, and whether this machine can enforce it.
//!
//! A pod that asks for a profile where none can be enforced is rejected: to run it without would take from it what its author
//! relies on. Source of reasons and texts: `pkg/security/apparmor` and `pkg/kubelet/lifecycle/handlers.go`.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{AppArmorProfile, Container, Pod};

use crate::ledger::Rejection;
use crate::pod;

/// The form of before Kubernetes 1.30, by container.
const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
/// What `RuntimeDefault` means: the first of these that the machine has loaded. Ours, then what containerd and Docker load.
const DEFAULTS: [&str; 3] = ["kobune-default", "cri-containerd.apparmor.d", "docker-default"];

/// What a container asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing is said: kobune's own default profile, where it is loaded.
    Anything,
    /// No profile.
    Unconfined,
    /// The runtime's profile.
    RuntimeDefault,
    /// A profile that the machine has loaded.
    Localhost(String),
}

impl Wanted {
    fn of_field(profile: &AppArmorProfile) -> Wanted {
        match profile.type_.as_str() {
            "Unconfined" => Wanted::Unconfined,
            "Localhost" => Wanted::Localhost(profile.localhost_profile.clone().unwrap_or_default()),
            _ => Wanted::RuntimeDefault,
        }
    }

    fn of_annotation(text: &str) -> Wanted {
        match (text, text.strip_prefix("localhost/")) {
            ("", _) => Wanted::Anything,
            ("unconfined", _) => Wanted::Unconfined,
            (_, Some(name)) => Wanted::Localhost(name.to_owned()),
            _ => Wanted::RuntimeDefault,
        }
    }

    /// The container's own field, its annotation, the pod's field: the first that says something.
    pub fn by(owner: &Pod, container: &Container) -> Wanted {
        let own = container.security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref());
        if let Some(own) = own {
            return Wanted::of_field(own);
        }
        let annotations = owner.metadata.annotations.as_ref();
        if let Some(text) = annotations.and_then(|all| all.get(&format!("{ANNOTATION}{}", container.name))) {
            return Wanted::of_annotation(text);
        }
        let of_pod = pod::spec(owner).security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref());
        of_pod.map_or(Wanted::Anything, Wanted::of_field)
    }
}

/// What the machine has: `None` when its kernel has no AppArmor, or it is switched off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host(Option<BTreeSet<String>>);

impl Host {
    /// Looks at the machine now: profiles come and go while it runs.
    pub fn look() -> Host {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        let enabled = read("/sys/module/apparmor/parameters/enabled").is_some_and(|text| text.starts_with('Y'));
        Host(enabled.then(|| parse(&read("/sys/kernel/security/apparmor/profiles").unwrap_or_default())))
    }

    /// The profile to run with, if any; else why it can't be had.
    pub fn profile(&self, wanted: &Wanted) -> Result<Option<String>, String> {
        let Some(loaded) = &self.0 else {
            return match wanted {
                Wanted::Anything | Wanted::Unconfined => Ok(None),
                Wanted::RuntimeDefault | Wanted::Localhost(_) => Err("AppArmor is not enabled on the host".to_owned()),
            };
        };
        let default = || DEFAULTS.into_iter().find(|name| loaded.contains(*name)).map(str::to_owned);
        match wanted {
            Wanted::Unconfined => Ok(Some("unconfined".to_owned())),
            // Those of others are for others: only who loads one for kobune has it everywhere.
            Wanted::Anything => Ok(loaded.contains(DEFAULTS[0]).then(|| DEFAULTS[0].to_owned())),
            Wanted::RuntimeDefault => default().map(Some).ok_or_else(|| {
                format!("no default profile is loaded; load one as {:?} with apparmor_parser", DEFAULTS[0])
            }),
            Wanted::Localhost(name) if loaded.contains(name) => Ok(Some(name.clone())),
            Wanted::Localhost(name) => Err(format!("profile \"{name}\" is not loaded")),
        }
    }
}

/// The names in the kernel's list: `name (enforce)`.
fn parse(list: &str) -> BTreeSet<String> {
    list.lines().filter_map(|line| line.rsplit_once(" (")).map(|(name, _)| name.to_owned()).collect()
}

/// Whether the machine can enforce what a pod's containers ask for. Looks at it only when one does.
pub fn admit(owner: &Pod, look: impl FnOnce() -> Host) -> Result<(), Rejection> {
    let spec = pod::spec(owner);
    let all = spec.init_containers.iter().flatten().chain(&spec.containers);
    let asked: Vec<Wanted> = all
        .map(|container| Wanted::by(owner, container))
        .filter(|wanted| !matches!(wanted, Wanted::Anything | Wanted::Unconfined))
        .collect();
    if asked.is_empty() {
        return Ok(());
    }
    let host = look();
    let refused = asked.iter().find_map(|wanted| host.profile(wanted).err());
    refused.map_or(Ok(()), |why| {
        Err(Rejection { reason: "AppArmor".to_owned(), message: format!("Cannot enforce AppArmor: {why}") })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).expect("a pod")
    }

    fn host(names: &[&str]) -> Host {
        Host(Some(names.iter().map(ToString::to_string).collect()))
    }

    #[test]
    fn the_nearest_word_counts() {
        let profile = |kind: &str| json!({"appArmorProfile": {"type": kind, "localhostProfile": "p"}});
        let check = |annotation: &str, of_pod: Value, own: Value, expected: Wanted| {
            let key = format!("{ANNOTATION}c");
            let annotations = if annotation.is_empty() { json!({}) } else { json!({key: annotation}) };
            let pod = pod(json!({"metadata": {"annotations": annotations},
                "spec": {"securityContext": of_pod, "containers": [{"name": "c", "securityContext": own}]}}));
            assert_eq!(Wanted::by(&pod, &pod.spec.as_ref().expect("spec").containers[0]), expected);
        };
        check("", json!({}), json!({}), Wanted::Anything);
        check("", profile("RuntimeDefault"), json!({}), Wanted::RuntimeDefault);
        check("", profile("RuntimeDefault"), profile("Unconfined"), Wanted::Unconfined);
        check("localhost/x", profile("RuntimeDefault"), json!({}), Wanted::Localhost("x".to_owned()));
        check("localhost/x", json!({}), profile("Localhost"), Wanted::Localhost("p".to_owned()));
        check("runtime/default", json!({}), json!({}), Wanted::RuntimeDefault);
        check("unconfined", json!({}), json!({}), Wanted::Unconfined);
    }

    #[test]
    fn profiles_are_found_or_refused() {
        let check = |host: &Host, wanted: Wanted, expected: Result<Option<&str>, &str>| {
            let found = host.profile(&wanted);
            match expected {
                Ok(expected) => assert_eq!(found, Ok(expected.map(str::to_owned)), "{wanted:?}"),
                Err(words) => assert!(found.expect_err("refused").contains(words), "{wanted:?}"),
            }
        };
        let local = || Wanted::Localhost("p".to_owned());
        let none = Host(None);
        check(&none, Wanted::Anything, Ok(None));
        check(&none, Wanted::Unconfined, Ok(None));
        check(&none, Wanted::RuntimeDefault, Err("AppArmor is not enabled on the host"));
        check(&none, local(), Err("AppArmor is not enabled on the host"));
        let bare = host(&[]);
        check(&bare, Wanted::Anything, Ok(None));
        check(&bare, Wanted::RuntimeDefault, Err("no default profile is loaded"));
        check(&bare, local(), Err("profile \"p\" is not loaded"));
        let full = host(&["p", "docker-default"]);
        check(&full, Wanted::Anything, Ok(None));
        check(&host(&["kobune-default"]), Wanted::Anything, Ok(Some("kobune-default")));
        check(&full, Wanted::RuntimeDefault, Ok(Some("docker-default")));
        check(&full, Wanted::Unconfined, Ok(Some("unconfined")));
        check(&full, local(), Ok(Some("p")));
        let list = parse("docker-default (enforce)\n/usr/bin/man (complain)\nwith (bracket) (enforce)\n");
        assert!(list.contains("docker-default") && list.contains("/usr/bin/man") && list.contains("with (bracket)"));
    }

    #[test]
    fn only_who_asks_is_refused() {
        let asking =
            |own: Value| pod(json!({"spec": {"containers": [{"name": "a"}, {"name": "c", "securityContext": own}]}}));
        admit(&asking(json!({})), || panic!("nobody asks")).expect("taken in");
        admit(&asking(json!({"appArmorProfile": {"type": "Unconfined"}})), || panic!("nobody asks")).expect("taken in");
        let refused = admit(&asking(json!({"appArmorProfile": {"type": "RuntimeDefault"}})), Host::default);
        let refused = refused.expect_err("there is no AppArmor");
        assert_eq!(
            (refused.reason.as_str(), refused.message.as_str()),
            ("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host")
        );
    }
}
