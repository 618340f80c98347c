//! Pods and their templates.

use jiff::Timestamp;
use kobune_kinds::quantity::Quantity;
use serde_json::Value;

use super::metadata;
use super::read::{int, int_or_string, is, items, moment, quantity, quantity_text, since, text, text_or, texts};
use super::writer::Writer;
use super::{Related, volumes};
use crate::verbs::go;

/// A pod.
pub fn pod(w: &mut Writer, pod: &Value, related: &Related, now: Timestamp) {
    let (spec, status, meta) = (&pod["spec"], &pod["status"], &pod["metadata"]);
    metadata::name_and_namespace(w, pod);
    if !spec["priority"].is_null() {
        w.field(0, "Priority", int(&spec["priority"]).to_string());
    }
    for (title, field) in [
        ("Priority Class Name", "priorityClassName"),
        ("Runtime Class Name", "runtimeClassName"),
        ("Service Account", "serviceAccountName"),
    ] {
        optional(w, 0, title, &spec[field]);
    }
    let node = text(&spec["nodeName"]);
    w.field(
        0,
        "Node",
        if node.is_empty() { "<none>".to_owned() } else { format!("{node}/{}", text(&status["hostIP"])) },
    );
    if !status["startTime"].is_null() {
        w.field(0, "Start Time", moment(&status["startTime"]));
    }
    metadata::labels_and_annotations(w, pod);
    let phase = text(&status["phase"]);
    if !meta["deletionTimestamp"].is_null() && phase != "Failed" && phase != "Succeeded" {
        w.field(0, "Status", format!("Terminating (lasts {})", since(&meta["deletionTimestamp"], now)));
        w.field(0, "Termination Grace Period", format!("{}s", int(&meta["deletionGracePeriodSeconds"])));
    } else {
        w.field(0, "Status", phase);
    }
    optional(w, 0, "Reason", &status["reason"]);
    optional(w, 0, "Message", &status["message"]);
    seccomp(w, 0, 0, &spec["securityContext"]["seccompProfile"]);
    w.field(0, "IP", text(&status["podIP"]));
    match items(&status["podIPs"]) {
        [] => w.line(0, "IPs:\t<none>"),
        addresses => {
            w.line(0, "IPs:");
            for address in addresses {
                w.field(1, "IP", text(&address["ip"]));
            }
        }
    }
    metadata::controlled_by(w, pod);
    optional(w, 0, "NominatedNodeName", &status["nominatedNodeName"]);
    if !spec["resources"].is_null() {
        w.line(0, "Resources:");
        resources(w, 1, &spec["resources"]);
    }
    for (title, containers_of, statuses, always) in [
        ("Init Containers", "initContainers", "initContainerStatuses", false),
        ("Containers", "containers", "containerStatuses", true),
        ("Ephemeral Containers", "ephemeralContainers", "ephemeralContainerStatuses", false),
    ] {
        if always || !items(&spec[containers_of]).is_empty() {
            containers(w, title, &spec[containers_of], &status[statuses], Some(pod), "");
        }
    }
    conditions(w, spec, status);
    volumes::volumes(w, &spec["volumes"], "");
    w.field(0, "QoS Class", text_or(&status["qosClass"], quality(spec)));
    metadata::labels(w, "Node-Selectors", &spec["nodeSelector"]);
    tolerations(w, "Tolerations", &spec["tolerations"]);
    spread_constraints(w, &spec["topologySpreadConstraints"], "");
    workload(w, &spec["workloadRef"], "");
    metadata::events(w, related.events(), now);
}

/// A line that is there only if the field is.
fn optional(w: &mut Writer, level: usize, title: &str, value: &Value) {
    let value = text(value);
    if !value.is_empty() {
        w.field(level, title, value);
    }
}

fn seccomp(w: &mut Writer, level: usize, profile_level: usize, profile: &Value) {
    if profile.is_null() {
        return;
    }
    let kind = text(&profile["type"]);
    w.field(level, "SeccompProfile", &kind);
    if kind == "Localhost" {
        w.field(profile_level, "LocalhostProfile", text(&profile["localhostProfile"]));
    }
}

fn conditions(w: &mut Writer, spec: &Value, status: &Value) {
    let conditions = items(&status["conditions"]);
    let gates = items(&spec["readinessGates"]);
    if !gates.is_empty() {
        w.line(0, "Readiness Gates:\n  Type\tStatus");
        for gate in gates {
            let kind = text(&gate["conditionType"]);
            let found = conditions.iter().find(|condition| text(&condition["type"]) == kind);
            let found = found.map_or_else(|| "<none>".to_owned(), |condition| text(&condition["status"]));
            w.line(1, format!("{kind} \t{found} "));
        }
    }
    if !conditions.is_empty() {
        w.line(0, "Conditions:\n  Type\tStatus");
        for condition in conditions {
            w.line(1, format!("{} \t{} ", text(&condition["type"]), text(&condition["status"])));
        }
    }
}

/// What a workload makes its pods from.
pub fn template(w: &mut Writer, template: &Value) {
    w.line(0, "Pod Template:");
    if template.is_null() {
        w.put(1, "<unset>");
        return;
    }
    let (spec, meta) = (&template["spec"], &template["metadata"]);
    metadata::labels(w, "  Labels", &meta["labels"]);
    if !super::read::is_empty(&meta["annotations"]) {
        metadata::annotations(w, "  Annotations", &meta["annotations"]);
    }
    optional(w, 1, "Service Account", &spec["serviceAccountName"]);
    if !items(&spec["initContainers"]).is_empty() {
        containers(w, "Init Containers", &spec["initContainers"], &Value::Null, None, "  ");
    }
    containers(w, "Containers", &spec["containers"], &Value::Null, None, "  ");
    volumes::volumes(w, &spec["volumes"], "  ");
    spread_constraints(w, &spec["topologySpreadConstraints"], "  ");
    optional(w, 1, "Priority Class Name", &spec["priorityClassName"]);
    metadata::labels(w, "  Node-Selectors", &spec["nodeSelector"]);
    tolerations(w, "  Tolerations", &spec["tolerations"]);
    workload(w, &spec["workloadRef"], "  ");
}

fn workload(w: &mut Writer, reference: &Value, space: &str) {
    if reference.is_null() {
        return;
    }
    w.line(0, format!("{space}WorkloadRef:"));
    w.field(1, "Name", text(&reference["name"]));
    w.field(1, "PodGroup", text(&reference["podGroup"]));
    optional(w, 1, "PodGroupReplicaKey", &reference["podGroupReplicaKey"]);
}

fn spread_constraints(w: &mut Writer, constraints: &Value, space: &str) {
    let mut constraints: Vec<&Value> = items(constraints).iter().collect();
    if constraints.is_empty() {
        return;
    }
    constraints.sort_by_key(|constraint| text(&constraint["topologyKey"]));
    w.put(0, format!("{space}Topology Spread Constraints:\t"));
    for (index, constraint) in constraints.into_iter().enumerate() {
        if index > 0 {
            w.put(0, format!("{space}\t"));
        }
        let mut line = format!(
            "{}:{} when max skew {} is exceeded",
            text(&constraint["topologyKey"]),
            text(&constraint["whenUnsatisfiable"]),
            int(&constraint["maxSkew"])
        );
        if !constraint["labelSelector"].is_null() {
            line.push_str(&format!(" for selector {}", super::read::selector(&constraint["labelSelector"])));
        }
        w.line(0, line);
    }
}

fn tolerations(w: &mut Writer, title: &str, tolerations: &Value) {
    w.put(0, format!("{title}:\t"));
    let mut tolerations: Vec<&Value> = items(tolerations).iter().collect();
    if tolerations.is_empty() {
        w.end("<none>");
        return;
    }
    tolerations.sort_by_key(|toleration| text(&toleration["key"]));
    for (index, toleration) in tolerations.into_iter().enumerate() {
        if index > 0 {
            w.put(0, "\t");
        }
        let [key, value, effect] = ["key", "value", "effect"].map(|field| text(&toleration[field]));
        let mut line = key.clone();
        if !value.is_empty() {
            line.push_str(&format!("={value}"));
        }
        if !effect.is_empty() {
            line.push_str(&format!(":{effect}"));
        }
        if toleration["operator"] == "Exists" && value.is_empty() {
            line.push_str(if key.is_empty() && effect.is_empty() { "op=Exists" } else { " op=Exists" });
        }
        if !toleration["tolerationSeconds"].is_null() {
            line.push_str(&format!(" for {}s", int(&toleration["tolerationSeconds"])));
        }
        w.line(0, line);
    }
}

fn containers(w: &mut Writer, title: &str, containers: &Value, statuses: &Value, pod: Option<&Value>, space: &str) {
    let containers = items(containers);
    w.line(0, format!("{space}{title}:{}", if containers.is_empty() { " <none>" } else { "" }));
    let indent = if space.is_empty() { "" } else { " " };
    for container in containers {
        let name = text(&container["name"]);
        let status = items(statuses).iter().rev().find(|status| text(&status["name"]) == name);
        w.line(1, format!("{indent}{name}:"));
        if let Some(status) = status {
            w.field(2, "Container ID", text(&status["containerID"]));
        }
        w.field(2, "Image", text(&container["image"]));
        if let Some(status) = status {
            w.field(2, "Image ID", text(&status["imageID"]));
        }
        ports(w, "Port", &container["ports"], "containerPort");
        ports(w, "Host Port", &container["ports"], "hostPort");
        seccomp(w, 2, 3, &container["securityContext"]["seccompProfile"]);
        for (title, field) in [("Command:", "command"), ("Args:", "args")] {
            let words = texts(&container[field]);
            if !words.is_empty() {
                w.line(2, title);
                words.iter().flat_map(|word| word.split('\n')).for_each(|line| w.line(3, line));
            }
        }
        if let Some(status) = status {
            state(w, "State", &status["state"]);
            if !status["lastState"]["terminated"].is_null() {
                state(w, "Last State", &status["lastState"]);
            }
            w.field(2, "Ready", super::read::yes(is(&status["ready"])));
            w.field(2, "Restart Count", int(&status["restartCount"]).to_string());
        }
        resources(w, 2, &container["resources"]);
        for (title, field) in
            [("Liveness", "livenessProbe"), ("Readiness", "readinessProbe"), ("Startup", "startupProbe")]
        {
            if !container[field].is_null() {
                w.field(2, title, probe(&container[field]));
            }
        }
        environment(w, container, pod);
        mounts(w, container);
    }
}

fn ports(w: &mut Writer, title: &str, ports: &Value, field: &str) {
    let shown: Vec<String> = items(ports)
        .iter()
        .map(|port| {
            let number = format!("{}/{}", int(&port[field]), text(&port["protocol"]));
            let name = text(&port["name"]);
            if name.is_empty() { number } else { format!("{number} ({name})") }
        })
        .collect();
    let shown = shown.join(", ");
    if shown.contains(',') {
        w.field(2, &format!("{title}s"), shown);
    } else {
        w.field(2, title, if shown.is_empty() { "<none>" } else { &shown });
    }
}

/// `Limits:` and `Requests:`.
fn resources(w: &mut Writer, level: usize, resources: &Value) {
    for (title, field) in [("Limits:", "limits"), ("Requests:", "requests")] {
        let names = resources[field].as_object();
        let mut names: Vec<(&String, &Value)> = names.into_iter().flatten().collect();
        names.sort_by_key(|(name, _)| *name);
        if !names.is_empty() {
            w.line(level, title);
        }
        for (name, amount) in names {
            w.field(level + 1, name, quantity_text(amount));
        }
    }
}

fn state(w: &mut Writer, title: &str, state: &Value) {
    let set = |name: &str| state.get(name).filter(|found| !found.is_null());
    if let Some(running) = set("running") {
        w.field(2, title, "Running");
        w.field(3, "Started", moment(&running["startedAt"]));
    } else if let Some(ended) = set("terminated") {
        w.field(2, title, "Terminated");
        optional(w, 3, "Reason", &ended["reason"]);
        optional(w, 3, "Message", &ended["message"]);
        w.field(3, "Exit Code", int(&ended["exitCode"]).to_string());
        if int(&ended["signal"]) > 0 {
            w.field(3, "Signal", int(&ended["signal"]).to_string());
        }
        w.field(3, "Started", moment(&ended["startedAt"]));
        w.field(3, "Finished", moment(&ended["finishedAt"]));
    } else {
        w.field(2, title, "Waiting");
        optional(w, 3, "Reason", &state["waiting"]["reason"]);
    }
}

/// A probe in one line.
pub fn probe(probe: &Value) -> String {
    let attributes = format!(
        "delay={}s timeout={}s period={}s #success={} #failure={}",
        int(&probe["initialDelaySeconds"]),
        int(&probe["timeoutSeconds"]),
        int(&probe["periodSeconds"]),
        int(&probe["successThreshold"]),
        int(&probe["failureThreshold"])
    );
    let set = |name: &str| probe.get(name).filter(|found| !found.is_null());
    if let Some(exec) = set("exec") {
        return format!("exec {} {attributes}", go::list(&texts(&exec["command"])));
    }
    if let Some(http) = set("httpGet") {
        let (host, port) = (text(&http["host"]), int_or_string(&http["port"]));
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let scheme = text(&http["scheme"]).to_lowercase();
        let scheme = if scheme.is_empty() { scheme } else { format!("{scheme}:") };
        let path = text(&http["path"]);
        let path = if path.is_empty() || path.starts_with('/') { path } else { format!("/{path}") };
        return format!("http-get {scheme}//{host}:{port}{} {attributes}", url_path(&path));
    }
    if let Some(tcp) = set("tcpSocket") {
        return format!("tcp-socket {}:{} {attributes}", text(&tcp["host"]), int_or_string(&tcp["port"]));
    }
    if let Some(grpc) = set("grpc") {
        return format!("grpc <pod>:{} {} {attributes}", int(&grpc["port"]), text(&grpc["service"]));
    }
    format!("unknown {attributes}")
}

/// A path as Go's `url.URL` writes it.
fn url_path(path: &str) -> String {
    const KEPT: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'_')
        .remove(b'.')
        .remove(b'~')
        .remove(b'$')
        .remove(b'&')
        .remove(b'+')
        .remove(b',')
        .remove(b'/')
        .remove(b':')
        .remove(b';')
        .remove(b'=')
        .remove(b'@');
    percent_encoding::utf8_percent_encode(path, KEPT).to_string()
}

fn environment(w: &mut Writer, container: &Value, pod: Option<&Value>) {
    let sources = items(&container["envFrom"]);
    if !sources.is_empty() {
        w.line(2, "Environment Variables from:");
    }
    for source in sources {
        let (from, kind) = match (&source["configMapRef"], &source["secretRef"]) {
            (found @ Value::Object(_), _) => (found, "ConfigMap"),
            (_, found @ Value::Object(_)) => (found, "Secret"),
            _ => (&Value::Null, ""),
        };
        let prefix = text(&source["prefix"]);
        let prefix = if prefix.is_empty() { prefix } else { format!(" with prefix '{prefix}'") };
        w.line(3, format!("{}\t{kind}{prefix}\tOptional: {}", text(&from["name"]), is(&from["optional"])));
    }
    let variables = items(&container["env"]);
    w.line(2, if variables.is_empty() { "Environment:\t<none>" } else { "Environment:" });
    for variable in variables {
        let name = text(&variable["name"]);
        let from = &variable["valueFrom"];
        if from.is_null() {
            for (index, line) in text(&variable["value"]).split('\n').enumerate() {
                w.line(3, if index == 0 { format!("{name}:\t{line}") } else { format!("\t{line}") });
            }
            continue;
        }
        let set = |field: &str| from.get(field).filter(|found| !found.is_null());
        if let Some(reference) = set("fieldRef") {
            let path = text(&reference["fieldPath"]);
            let value = pod.map(|pod| field(pod, &path)).unwrap_or_default();
            w.line(3, format!("{name}:\t{value} ({}:{path})", text(&reference["apiVersion"])));
        } else if let Some(reference) = set("resourceFieldRef") {
            let resource = text(&reference["resource"]);
            let mut value = container_resource(reference, container);
            if value == "0" && (resource == "limits.cpu" || resource == "limits.memory") {
                value = "node allocatable".to_owned();
            }
            w.line(3, format!("{name}:\t{value} ({resource})"));
        } else if let Some(key) = set("secretKeyRef") {
            let (key, of, optional) = (text(&key["key"]), text(&key["name"]), is(&key["optional"]));
            w.line(3, format!("{name}:\t<set to the key '{key}' in secret '{of}'>\tOptional: {optional}"));
        } else if let Some(key) = set("configMapKeyRef") {
            let (key, of, optional) = (text(&key["key"]), text(&key["name"]), is(&key["optional"]));
            w.line(3, format!("{name}:\t<set to the key '{key}' of config map '{of}'>\tOptional: {optional}"));
        }
    }
}

/// What a container is told about its pod: kubectl knows how to read only these two fields.
fn field(pod: &Value, path: &str) -> String {
    match path {
        "metadata.name" => text(&pod["metadata"]["name"]),
        "metadata.namespace" => text(&pod["metadata"]["namespace"]),
        _ => String::new(),
    }
}

fn container_resource(reference: &Value, container: &Value) -> String {
    let Value::String(resource) = &reference["resource"] else { return String::new() };
    let Some((side, name)) = resource.split_once('.') else { return String::new() };
    let known = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !known || !matches!(side, "limits" | "requests") {
        return String::new();
    }
    let divisor = match quantity(&reference["divisor"]) {
        none if none.is_zero() => Quantity::new(1, Default::default()),
        divisor => divisor,
    };
    let amount = quantity(&container["resources"][side][name]);
    let parts = match name {
        "cpu" => amount.milli_value() as f64 / divisor.milli_value() as f64,
        _ => amount.value() as f64 / divisor.value() as f64,
    };
    // As Go turns floating-point numbers into whole ones.
    (parts.ceil() as i64).to_string()
}

fn mounts(w: &mut Writer, container: &Value) {
    let mut mounts: Vec<&Value> = items(&container["volumeMounts"]).iter().collect();
    let none = if mounts.is_empty() { "\t<none>" } else { "" };
    w.line(2, format!("Mounts:{none}"));
    mounts.sort_by_key(|mount| text(&mount["mountPath"]));
    for mount in mounts {
        let mut flags = if is(&mount["readOnly"]) { "ro".to_owned() } else { "rw".to_owned() };
        let path = text(&mount["subPath"]);
        if !path.is_empty() {
            flags.push_str(&format!(",path={}", go::quoted(&path)));
        }
        w.line(3, format!("{} from {} ({flags})", text(&mount["mountPath"]), text(&mount["name"])));
    }
    let mut devices: Vec<&Value> = items(&container["volumeDevices"]).iter().collect();
    devices.sort_by_key(|device| text(&device["devicePath"]));
    if !devices.is_empty() {
        w.line(2, format!("Devices:{none}"));
    }
    for device in devices {
        w.line(3, format!("{} from {}", text(&device["devicePath"]), text(&device["name"])));
    }
}

/// The class of service that a pod has by what it asks for (kubectl's `qos.ComputePodQOS`).
fn quality(spec: &Value) -> &'static str {
    let whole = !spec["resources"].is_null();
    let parts: Vec<&Value> = if whole {
        vec![&spec["resources"]]
    } else {
        let containers = items(&spec["containers"]).iter().chain(items(&spec["initContainers"]));
        containers.map(|container| &container["resources"]).collect()
    };
    let sum = |side: &str, name: &str| {
        parts.iter().map(|part| quantity(&part[side][name])).fold(Quantity::default(), |sum, next| sum + next)
    };
    let [requests, limits] = ["requests", "limits"].map(|side| ["cpu", "memory"].map(|name| sum(side, name)));
    if requests.iter().chain(&limits).all(|amount| amount.is_zero()) {
        return "BestEffort";
    }
    let limited = parts.iter().all(|part| {
        (whole && part["limits"].is_null())
            || ["cpu", "memory"].iter().all(|name| !quantity(&part["limits"][*name]).is_zero())
    });
    if limited && requests == limits { "Guaranteed" } else { "Burstable" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn probes() {
        let tail = "delay=0s timeout=1s period=2s #success=0 #failure=3";
        let check = |action: Value, expected: &str| {
            let mut given = json!({"timeoutSeconds": 1, "periodSeconds": 2, "failureThreshold": 3});
            given.as_object_mut().unwrap().extend(action.as_object().unwrap().clone());
            assert_eq!(probe(&given), format!("{expected} {tail}"));
        };
        check(json!({"exec": {"command": ["a", "b"]}}), "exec [a b]");
        check(json!({"httpGet": {"scheme": "HTTP", "port": 80, "path": "/a b"}}), "http-get http://:80/a%20b");
        check(json!({"httpGet": {"scheme": "HTTPS", "port": "web", "host": "::1"}}), "http-get https://[::1]:web");
        check(json!({"tcpSocket": {"port": 1}}), "tcp-socket :1");
        check(json!({"grpc": {"port": 1, "service": "s"}}), "grpc <pod>:1 s");
        check(json!({}), "unknown");
    }

    #[test]
    fn qualities() {
        let check = |spec: Value, expected: &str| assert_eq!(quality(&spec), expected, "{spec}");
        let both = json!({"cpu": "1", "memory": "1Gi"});
        check(json!({}), "BestEffort");
        check(json!({"containers": [{"resources": {"requests": both, "limits": both}}]}), "Guaranteed");
        check(json!({"containers": [{"resources": {"requests": {"cpu": "1"}, "limits": both}}]}), "Burstable");
        check(json!({"containers": [{"resources": {"requests": both, "limits": both}}, {}]}), "Burstable");
        check(json!({"containers": [{"resources": {"requests": {"cpu": "0"}}}]}), "BestEffort");
    }

    #[test]
    fn resources_of_containers() {
        let container = json!({"resources": {"limits": {"cpu": "1500m", "memory": "1Gi"}}});
        let check = |reference: Value, expected: &str| {
            assert_eq!(container_resource(&reference, &container), expected, "{reference}");
        };
        check(json!({"resource": "limits.cpu"}), "2");
        check(json!({"resource": "limits.cpu", "divisor": "1m"}), "1500");
        check(json!({"resource": "limits.memory", "divisor": "1Mi"}), "1024");
        check(json!({"resource": "requests.memory"}), "0");
        check(json!({"resource": "limits.gpu"}), "");
        check(json!({"resource": 7}), "");
    }
}
