//! Which system calls a container may use.
//!
//! The default list is the one that Docker and containerd share, kept as data: calls that every program may use, and calls
//! that come with a capability. A profile from a file may be in OCI's form or in Docker's.

use std::path::Path;

use serde_json::{Value, json};

/// Calls for everybody, one a line.
const ALLOWED: &str = include_str!("seccomp/allowed.txt");
/// `CAPABILITY call call ...`, one capability a line.
const WITH_CAPABILITY: &str = include_str!("seccomp/with_capability.txt");

/// EPERM: what a program expects when it may not.
const EPERM: u32 = 1;
/// ENOSYS: makes the C library fall back from `clone3`, whose flags a filter cannot see.
const ENOSYS: u32 = 38;
/// CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}: making namespaces is for CAP_SYS_ADMIN.
const NAMESPACE_FLAGS: u64 = 0x7E02_0000;

/// The default profile for a process with these capabilities (`CAP_...`).
pub(crate) fn default_profile(capabilities: &[String]) -> Value {
    let has = |name: &str| capabilities.iter().any(|capability| capability.strip_prefix("CAP_") == Some(name));
    let mut allowed: Vec<&str> = ALLOWED.split_whitespace().collect();
    for line in WITH_CAPABILITY.lines() {
        let mut words = line.split_whitespace();
        if words.next().is_some_and(has) {
            allowed.extend(words);
        }
    }
    let mut calls = vec![json!({"names": allowed, "action": "SCMP_ACT_ALLOW"})];
    // personality(2): the usual domains, asking, and no randomisation.
    for persona in [0x0_u64, 0x8, 0x20000, 0x20008, 0xffff_ffff] {
        calls.push(json!({"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": persona, "op": "SCMP_CMP_EQ"}]}));
    }
    // socket(2) without AF_VSOCK (40): it reaches the host's hypervisor.
    calls.push(json!({"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}]}));
    if !has("SYS_ADMIN") {
        calls.push(json!({"names": ["clone"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": NAMESPACE_FLAGS, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}));
        calls.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}));
    }
    json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": EPERM, "architectures": architectures(), "syscalls": calls})
}

fn architectures() -> &'static [&'static str] {
    match std::env::consts::ARCH {
        "x86_64" => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        _ => &[],
    }
}

/// A profile from a file, brought into OCI's form.
pub(crate) fn read_profile(path: &Path, capabilities: &[String]) -> Result<Value, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot load seccomp profile {}: {error}", path.display()))?;
    from_text(&text, capabilities).map_err(|cause| format!("cannot load seccomp profile {}: {cause}", path.display()))
}

fn from_text(text: &str, capabilities: &[String]) -> Result<Value, String> {
    let source: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let default = source.get("defaultAction").and_then(Value::as_str).ok_or("it has no defaultAction")?;
    let mut profile = json!({"defaultAction": default});
    if let Some(errno) = source.get("defaultErrnoRet").filter(|errno| !errno.is_null()) {
        profile["defaultErrnoRet"] = errno.clone();
    }
    profile["architectures"] = match source.get("architectures").and_then(Value::as_array) {
        Some(listed) if !listed.is_empty() => json!(listed),
        _ if source.get("archMap").is_some() => json!(architectures()),
        _ => json!([]),
    };
    if let Some(flags) = source.get("flags").filter(|flags| flags.is_array()) {
        profile["flags"] = flags.clone();
    }
    let mut calls = Vec::new();
    for call in source.get("syscalls").and_then(Value::as_array).into_iter().flatten() {
        if !applies(call, capabilities) {
            continue;
        }
        let names = match (call.get("names"), call.get("name")) {
            (Some(names @ Value::Array(_)), _) => names.clone(),
            (_, Some(name @ Value::String(_))) => json!([name]),
            _ => return Err("a rule names no system call".to_owned()),
        };
        let mut rule = json!({"names": names, "action": call.get("action").cloned().unwrap_or_default()});
        if let Some(arguments) = call.get("args").and_then(Value::as_array).filter(|arguments| !arguments.is_empty()) {
            rule["args"] = json!(arguments);
        }
        if let Some(errno) = call.get("errnoRet").filter(|errno| !errno.is_null()) {
            rule["errnoRet"] = errno.clone();
        }
        calls.push(rule);
    }
    profile["syscalls"] = Value::Array(calls);
    Ok(profile)
}

/// Docker's rules may hold only with or without certain capabilities or on certain machines.
fn applies(call: &Value, capabilities: &[String]) -> bool {
    let listed = |side: &str, key: &str| -> Vec<String> {
        let list = call.get(side).and_then(|side| side.get(key)).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let here = |arches: &[String]| arches.iter().any(|arch| arch == crate::manifest::architecture());
    let (wanted, unwanted) = (listed("includes", "caps"), listed("excludes", "caps"));
    let (on, not_on) = (listed("includes", "arches"), listed("excludes", "arches"));
    wanted.iter().all(|capability| capabilities.contains(capability))
        && !unwanted.iter().any(|capability| capabilities.contains(capability))
        && (on.is_empty() || here(&on))
        && !here(&not_on)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(profile: &Value) -> Vec<&str> {
        let calls = profile["syscalls"].as_array().expect("there are rules");
        calls
            .iter()
            .flat_map(|call| call["names"].as_array().expect("there are names"))
            .filter_map(Value::as_str)
            .collect()
    }

    #[test]
    fn capabilities_bring_their_calls() {
        let plain = default_profile(&["CAP_CHOWN".to_owned()]);
        assert!(names(&plain).contains(&"openat"));
        assert!(!names(&plain).contains(&"mount"));
        let admin = default_profile(&["CAP_SYS_ADMIN".to_owned()]);
        assert!(names(&admin).contains(&"mount"));
        let parsed: Result<oci_spec::runtime::LinuxSeccomp, _> = serde_json::from_value(admin);
        parsed.expect("it is OCI's form");
    }

    #[test]
    fn dockers_form_is_brought_into_ocis() {
        let text = r#"{"defaultAction":"SCMP_ACT_ERRNO","archMap":[],"syscalls":[
            {"name":"read","action":"SCMP_ACT_ALLOW","args":null},
            {"names":["mount"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]},"excludes":{}}]}"#;
        assert_eq!(names(&from_text(text, &[]).expect("it is well-formed")), ["read"]);
        assert_eq!(
            names(&from_text(text, &["CAP_SYS_ADMIN".to_owned()]).expect("it is well-formed")),
            ["read", "mount"]
        );
        assert_eq!(from_text("{}", &[]).expect_err("it must be refused"), "it has no defaultAction");
    }
}
