//! The checks of the two standards. Each gives what is wrong in upstream's words, or nothing.

use serde_json::Value;

use super::super::fields::{is_set, items, text};
use super::containers;

type Check = fn(&Value, &Value) -> Option<String>;

/// The baseline, in upstream's order. The restricted standard has checks of its own for the two marked true.
const BASELINE: &[(Check, bool)] = &[
    (app_armor, false),
    (added_capabilities, true),
    (host_namespaces, false),
    (host_path_volumes, false),
    (host_ports, false),
    (privileged, false),
    (proc_mount, false),
    (se_linux_options, false),
    (unconfined_seccomp, true),
    (sysctls, false),
    (host_process, false),
];

/// What the restricted standard adds, in upstream's order.
const RESTRICTED: &[Check] = &[privilege_escalation, capabilities, volume_types, run_as_non_root, run_as_user, seccomp];

const DEFAULT_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

const SAFE_SYSCTLS: [&str; 11] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
];

const ALLOWED_VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// What is wrong with a pod (or template), or nothing.
pub(super) fn violations(pod: &Value, restricted: bool) -> Option<String> {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let baseline = BASELINE.iter().filter(|(_, replaced)| !(restricted && *replaced)).map(|(check, _)| check);
    let more = RESTRICTED.iter().filter(|_| restricted);
    let found: Vec<String> = baseline.chain(more).filter_map(|check| check(pod, spec)).collect();
    (!found.is_empty()).then(|| found.join(", "))
}

fn quoted<S: AsRef<str>>(names: &[S]) -> String {
    names.iter().map(|name| format!("{:?}", name.as_ref())).collect::<Vec<_>>().join(", ")
}

/// `container "a"` or `containers "a", "b"`.
fn named<S: AsRef<str>>(one: &str, names: &[S]) -> String {
    let plural = if names.len() == 1 { "" } else { "s" };
    format!("{one}{plural} {}", quoted(names))
}

fn context(container: &Value) -> &Value {
    container.get("securityContext").unwrap_or(&Value::Null)
}

/// The names of the containers that a condition holds for.
fn bad(spec: &Value, condition: impl Fn(&Value) -> bool) -> Vec<&str> {
    containers(spec).filter(|(_, container)| condition(container)).map(|(name, _)| name).collect()
}

/// Whether the pod's users are not the host's: what these would be able to do there does not matter then.
fn has_own_users(spec: &Value) -> bool {
    spec["hostUsers"] == false
}

fn is_windows(spec: &Value) -> bool {
    text(spec.get("os").unwrap_or(&Value::Null), "name") == "windows"
}

fn app_armor(pod: &Value, spec: &Value) -> Option<String> {
    let unconfined = |holder: &Value| text(&context(holder)["appArmorProfile"], "type") == "Unconfined";
    let mut parts = Vec::new();
    if unconfined(spec) {
        parts.push("pod must not set AppArmor profile type to \"Unconfined\"".to_owned());
    }
    let names = bad(spec, unconfined);
    if !names.is_empty() {
        parts.push(format!("{} must not set AppArmor profile type to \"Unconfined\"", named("container", &names)));
    }
    let prefix = "container.apparmor.security.beta.kubernetes.io/";
    let annotations = pod.pointer("/metadata/annotations").and_then(Value::as_object);
    for (key, value) in annotations.into_iter().flatten().filter(|(key, _)| key.starts_with(prefix)) {
        let profile = value.as_str().unwrap_or_default();
        if !(profile.is_empty() || profile == "runtime/default" || profile.starts_with("localhost/")) {
            parts.push(format!("annotation must not set AppArmor profile type to {:?}", format!("{key}={profile}")));
        }
    }
    let plural = if parts.len() == 1 { "" } else { "s" };
    (!parts.is_empty()).then(|| format!("forbidden AppArmor profile{plural} ({})", parts.join(", ")))
}

fn capabilities_beyond<'a>(spec: &'a Value, allowed: &[&str]) -> (Vec<&'a str>, Vec<&'a str>) {
    let mut wrong = Vec::new();
    let names = containers(spec).filter_map(|(name, container)| {
        let added = items(&context(container)["capabilities"], "add").iter().filter_map(Value::as_str);
        let beyond: Vec<&str> = added.filter(|one| !allowed.contains(one)).collect();
        let is_bad = !beyond.is_empty();
        wrong.extend(beyond);
        is_bad.then_some(name)
    });
    let names = names.collect();
    wrong.sort_unstable();
    wrong.dedup();
    (names, wrong)
}

fn added_capabilities(_pod: &Value, spec: &Value) -> Option<String> {
    let (names, wrong) = capabilities_beyond(spec, &DEFAULT_CAPABILITIES);
    let must = "must not include";
    let field = "securityContext.capabilities.add";
    (!names.is_empty()).then(|| {
        format!("non-default capabilities ({} {must} {} in {field})", named("container", &names), quoted(&wrong))
    })
}

fn host_namespaces(_pod: &Value, spec: &Value) -> Option<String> {
    let keys = ["hostNetwork", "hostPID", "hostIPC"];
    let used: Vec<String> = keys.iter().filter(|key| spec[**key] == true).map(|key| format!("{key}=true")).collect();
    (!used.is_empty()).then(|| format!("host namespaces ({})", used.join(", ")))
}

fn host_path_volumes(_pod: &Value, spec: &Value) -> Option<String> {
    let volumes = items(spec, "volumes").iter().filter(|volume| is_set(volume, "hostPath"));
    let names: Vec<&str> = volumes.map(|volume| text(volume, "name")).collect();
    (!names.is_empty()).then(|| format!("hostPath volumes ({})", named("volume", &names)))
}

fn host_ports(_pod: &Value, spec: &Value) -> Option<String> {
    let mut used: Vec<i64> = Vec::new();
    let names = containers(spec).filter_map(|(name, container)| {
        let ports = items(container, "ports").iter().filter_map(|port| port.get("hostPort")?.as_i64());
        let ports: Vec<i64> = ports.filter(|port| *port != 0).collect();
        used.extend(&ports);
        (!ports.is_empty()).then_some(name)
    });
    let names: Vec<&str> = names.collect();
    used.sort_unstable();
    used.dedup();
    let numbers = used.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
    let verb = if names.len() == 1 { "uses" } else { "use" };
    let plural = if used.len() == 1 { "" } else { "s" };
    (!names.is_empty()).then(|| format!("hostPort ({} {verb} hostPort{plural} {numbers})", named("container", &names)))
}

fn privileged(_pod: &Value, spec: &Value) -> Option<String> {
    let names = bad(spec, |container| context(container)["privileged"] == true);
    (!names.is_empty())
        .then(|| format!("privileged ({} must not set securityContext.privileged=true)", named("container", &names)))
}

fn proc_mount(_pod: &Value, spec: &Value) -> Option<String> {
    if has_own_users(spec) {
        return None;
    }
    let names = bad(spec, |container| !matches!(text(context(container), "procMount"), "" | "Default"));
    (!names.is_empty()).then(|| {
        format!("procMount ({} must not set securityContext.procMount to \"Unmasked\")", named("container", &names))
    })
}

fn se_linux_options(_pod: &Value, spec: &Value) -> Option<String> {
    let allowed = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
    let wrong = |holder: &Value| {
        let options = &context(holder)["seLinuxOptions"];
        let foreign = !allowed.contains(&text(options, "type"));
        foreign || !text(options, "user").is_empty() || !text(options, "role").is_empty()
    };
    let mut setters = Vec::new();
    if wrong(spec) {
        setters.push("pod".to_owned());
    }
    let names = bad(spec, wrong);
    if !names.is_empty() {
        setters.push(named("container", &names));
    }
    (!setters.is_empty())
        .then(|| format!("seLinuxOptions ({} set forbidden securityContext.seLinuxOptions)", setters.join(" and ")))
}

fn unconfined_seccomp(_pod: &Value, spec: &Value) -> Option<String> {
    let wrong = |holder: &Value| text(&context(holder)["seccompProfile"], "type") == "Unconfined";
    let mut setters = Vec::new();
    if wrong(spec) {
        setters.push("pod".to_owned());
    }
    let names = bad(spec, wrong);
    if !names.is_empty() {
        setters.push(named("container", &names));
    }
    (!setters.is_empty()).then(|| {
        let setters = setters.join(" and ");
        format!("seccompProfile ({setters} must not set securityContext.seccompProfile.type to \"Unconfined\")")
    })
}

fn sysctls(_pod: &Value, spec: &Value) -> Option<String> {
    let set = items(context(spec), "sysctls").iter().map(|one| text(one, "name"));
    let also = ["net.ipv4.tcp_wmem"];
    let wrong: Vec<&str> = set.filter(|name| !SAFE_SYSCTLS.contains(name) && !also.contains(name)).collect();
    (!wrong.is_empty()).then(|| format!("forbidden sysctls ({})", wrong.join(", ")))
}

fn host_process(_pod: &Value, spec: &Value) -> Option<String> {
    let wrong = |holder: &Value| context(holder)["windowsOptions"]["hostProcess"] == true;
    let mut setters = Vec::new();
    if wrong(spec) {
        setters.push("pod".to_owned());
    }
    let names = bad(spec, wrong);
    if !names.is_empty() {
        setters.push(named("container", &names));
    }
    (!setters.is_empty()).then(|| {
        format!("hostProcess ({} must not set securityContext.windowsOptions.hostProcess=true)", setters.join(" and "))
    })
}

fn privilege_escalation(_pod: &Value, spec: &Value) -> Option<String> {
    let names = bad(spec, |container| context(container)["allowPrivilegeEscalation"] != false);
    let must = "must set securityContext.allowPrivilegeEscalation=false";
    (!names.is_empty() && !is_windows(spec))
        .then(|| format!("allowPrivilegeEscalation != false ({} {must})", named("container", &names)))
}

fn capabilities(_pod: &Value, spec: &Value) -> Option<String> {
    if is_windows(spec) {
        return None;
    }
    let keeps =
        bad(spec, |container| !items(&context(container)["capabilities"], "drop").iter().any(|one| one == "ALL"));
    let (adds, wrong) = capabilities_beyond(spec, &["NET_BIND_SERVICE"]);
    let mut parts = Vec::new();
    if !keeps.is_empty() {
        let must = "must set securityContext.capabilities.drop=[\"ALL\"]";
        parts.push(format!("{} {must}", named("container", &keeps)));
    }
    if !adds.is_empty() {
        let list = quoted(&wrong);
        parts
            .push(format!("{} must not include {list} in securityContext.capabilities.add", named("container", &adds)));
    }
    (!parts.is_empty()).then(|| format!("unrestricted capabilities ({})", parts.join("; ")))
}

fn volume_types(_pod: &Value, spec: &Value) -> Option<String> {
    let mut names = Vec::new();
    let mut types: Vec<&str> = Vec::new();
    for volume in items(spec, "volumes") {
        let used = volume.as_object().into_iter().flatten().filter(|(key, field)| *key != "name" && !field.is_null());
        let wrong: Vec<&str> = used.map(|(key, _)| key.as_str()).filter(|key| !ALLOWED_VOLUMES.contains(key)).collect();
        if !wrong.is_empty() {
            names.push(text(volume, "name"));
            types.extend(wrong);
        }
    }
    types.sort_unstable();
    types.dedup();
    let verb = if names.len() == 1 { "uses" } else { "use" };
    let plural = if types.len() == 1 { "" } else { "s" };
    (!names.is_empty()).then(|| {
        let volumes = named("volume", &names);
        format!("restricted volume types ({volumes} {verb} restricted volume type{plural} {})", quoted(&types))
    })
}

fn run_as_non_root(_pod: &Value, spec: &Value) -> Option<String> {
    if has_own_users(spec) {
        return None;
    }
    let own = |holder: &Value| context(holder).get("runAsNonRoot").and_then(Value::as_bool);
    let explicit = bad(spec, |container| own(container) == Some(false));
    let mut parts = Vec::new();
    if own(spec) == Some(false) {
        parts.push("pod must not set securityContext.runAsNonRoot=false".to_owned());
    }
    if !explicit.is_empty() {
        let containers = named("container", &explicit);
        parts.push(format!("{containers} must not set securityContext.runAsNonRoot=false"));
    }
    if parts.is_empty() && own(spec) != Some(true) {
        let silent = bad(spec, |container| own(container).is_none());
        if !silent.is_empty() {
            let containers = named("container", &silent);
            parts.push(format!("pod or {containers} must set securityContext.runAsNonRoot=true"));
        }
    }
    (!parts.is_empty()).then(|| format!("runAsNonRoot != true ({})", parts.join(" and ")))
}

fn run_as_user(_pod: &Value, spec: &Value) -> Option<String> {
    if has_own_users(spec) {
        return None;
    }
    let root = |holder: &Value| context(holder)["runAsUser"] == 0;
    let mut setters = Vec::new();
    if root(spec) {
        setters.push("pod".to_owned());
    }
    let names = bad(spec, root);
    if !names.is_empty() {
        setters.push(named("container", &names));
    }
    (!setters.is_empty()).then(|| format!("runAsUser=0 ({} must not set runAsUser=0)", setters.join(" and ")))
}

fn seccomp(_pod: &Value, spec: &Value) -> Option<String> {
    if is_windows(spec) {
        return None;
    }
    let own = |holder: &Value| text(&context(holder)["seccompProfile"], "type").to_owned();
    let good = |kind: &str| matches!(kind, "RuntimeDefault" | "Localhost");
    let pod_type = own(spec);
    let mut parts = Vec::new();
    if !pod_type.is_empty() && !good(&pod_type) {
        parts.push(format!("pod must not set securityContext.seccompProfile.type to {pod_type:?}"));
    }
    let explicit = bad(spec, |container| {
        let own = own(container);
        !own.is_empty() && !good(&own)
    });
    if !explicit.is_empty() {
        let containers = named("container", &explicit);
        parts.push(format!("{containers} must not set securityContext.seccompProfile.type to \"Unconfined\""));
    }
    if parts.is_empty() && pod_type.is_empty() {
        let silent = bad(spec, |container| own(container).is_empty());
        if !silent.is_empty() {
            let containers = named("container", &silent);
            let types = "\"RuntimeDefault\" or \"Localhost\"";
            parts.push(format!("pod or {containers} must set securityContext.seccompProfile.type to {types}"));
        }
    }
    (!parts.is_empty()).then(|| format!("seccompProfile ({})", parts.join(" and ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(spec: Value, restricted: bool, expected: &str) {
        let found = violations(&json!({ "spec": spec }), restricted).unwrap_or_default();
        assert_eq!(found, expected, "{spec}");
    }

    #[test]
    fn baseline() {
        check(json!({ "containers": [{ "name": "a" }] }), false, "");
        check(
            json!({
                "hostNetwork": true, "hostPID": true,
                "volumes": [{ "name": "v", "hostPath": { "path": "/" } }],
                "containers": [
                    { "name": "a", "securityContext": { "privileged": true } },
                    { "name": "b", "ports": [{ "hostPort": 80 }], "securityContext": { "capabilities": { "add": ["NET_ADMIN", "CHOWN"] } } },
                ],
            }),
            false,
            "non-default capabilities (container \"b\" must not include \"NET_ADMIN\" in securityContext.capabilities.add), \
             host namespaces (hostNetwork=true, hostPID=true), hostPath volumes (volume \"v\"), \
             hostPort (container \"b\" uses hostPort 80), \
             privileged (container \"a\" must not set securityContext.privileged=true)",
        );
        check(
            json!({
                "securityContext": { "seccompProfile": { "type": "Unconfined" }, "sysctls": [{ "name": "kernel.msgmax" }] },
                "containers": [{ "name": "a", "securityContext": { "procMount": "Unmasked" } }],
            }),
            false,
            "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\"), \
             seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\"), \
             forbidden sysctls (kernel.msgmax)",
        );
    }

    #[test]
    fn restricted() {
        check(
            json!({ "containers": [{ "name": "a" }], "initContainers": [{ "name": "i" }] }),
            true,
            "allowPrivilegeEscalation != false (containers \"i\", \"a\" must set securityContext.allowPrivilegeEscalation=false), \
             unrestricted capabilities (containers \"i\", \"a\" must set securityContext.capabilities.drop=[\"ALL\"]), \
             runAsNonRoot != true (pod or containers \"i\", \"a\" must set securityContext.runAsNonRoot=true), \
             seccompProfile (pod or containers \"i\", \"a\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
        );
        let good = json!({
            "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
            "volumes": [{ "name": "v", "emptyDir": {} }],
            "containers": [{ "name": "a", "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"], "add": ["NET_BIND_SERVICE"] },
            } }],
        });
        check(good.clone(), true, "");
        let mut bad = good;
        // Root of a pod with users of its own is nobody of the host's.
        let mut mapped = json!({ "hostUsers": false, "containers": bad["containers"].clone() });
        mapped["securityContext"] =
            json!({ "runAsUser": 0, "runAsNonRoot": false, "seccompProfile": { "type": "RuntimeDefault" } });
        mapped["containers"][0]["securityContext"]["procMount"] = "Unmasked".into();
        check(mapped, true, "");
        bad["volumes"][0] = json!({ "name": "v", "nfs": {} });
        bad["containers"][0]["securityContext"]["runAsUser"] = 0.into();
        check(
            bad,
            true,
            "restricted volume types (volume \"v\" uses restricted volume type \"nfs\"), \
             runAsUser=0 (container \"a\" must not set runAsUser=0)",
        );
    }
}
