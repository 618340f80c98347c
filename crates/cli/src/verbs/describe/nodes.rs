//! Nodes, with what their pods ask for.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kobune_kinds::quantity::Quantity;
use serde_json::Value;

use super::read::{is, items, moment, quantity, quantity_text, since, text, text_or, texts};
use super::writer::Writer;
use super::{Related, metadata};

/// Amounts by resource.
type Amounts = BTreeMap<String, Quantity>;

/// A Node.
pub fn node(w: &mut Writer, node: &Value, related: &Related, now: Timestamp) {
    let (spec, status) = (&node["spec"], &node["status"]);
    metadata::name(w, node);
    let roles = roles(&node["metadata"]["labels"]);
    w.field(0, "Roles", if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") });
    metadata::labels_and_annotations(w, node);
    metadata::creation(w, node);
    taints(w, &spec["taints"]);
    w.field(0, "Unschedulable", is(&spec["unschedulable"]).to_string());
    match &related.lease {
        Some(Ok(lease)) => {
            let lease = &lease["spec"];
            w.line(0, "Lease:");
            w.field(1, "HolderIdentity", text_or(&lease["holderIdentity"], "<unset>"));
            for (title, field) in [("AcquireTime", "acquireTime"), ("RenewTime", "renewTime")] {
                let value = &lease[field];
                w.field(1, title, if value.is_null() { "<unset>".to_owned() } else { moment(value) });
            }
        }
        Some(Err(error)) => w.field(0, "Lease", format!("Failed to get lease: {error}")),
        None => {}
    }
    let conditions = items(&status["conditions"]);
    if !conditions.is_empty() {
        w.line(0, "Conditions:\n  Type\tStatus\tLastHeartbeatTime\tLastTransitionTime\tReason\tMessage");
        w.line(1, "----\t------\t-----------------\t------------------\t------\t-------");
    }
    for condition in conditions {
        let [kind, status, reason, message] =
            ["type", "status", "reason", "message"].map(|field| text(&condition[field]));
        let [heartbeat, changed] = ["lastHeartbeatTime", "lastTransitionTime"].map(|field| moment(&condition[field]));
        w.line(1, format!("{kind} \t{status} \t{heartbeat} \t{changed} \t{reason} \t{message}"));
    }
    w.line(0, "Addresses:");
    for address in items(&status["addresses"]) {
        w.field(1, &text(&address["type"]), text(&address["address"]));
    }
    for (title, field) in [("Capacity:", "capacity"), ("Allocatable:", "allocatable")] {
        if !super::read::is_empty(&status[field]) {
            w.line(0, title);
        }
        for (name, amount) in amounts_as_written(&status[field]) {
            w.line(0, format!("  {name}:\t{}", quantity_text(amount)));
        }
    }
    w.line(0, "System Info:");
    for (title, field) in [
        ("Machine ID", "machineID"),
        ("System UUID", "systemUUID"),
        ("Boot ID", "bootID"),
        ("Kernel Version", "kernelVersion"),
        ("OS Image", "osImage"),
        ("Operating System", "operatingSystem"),
        ("Architecture", "architecture"),
        ("Container Runtime Version", "containerRuntimeVersion"),
        ("Kubelet Version", "kubeletVersion"),
        ("Kube-Proxy Version", "kubeProxyVersion"),
    ] {
        w.line(0, format!("  {title}:\t{}", text(&status["nodeInfo"][field])));
    }
    for (title, value) in [
        ("PodCIDR", text(&spec["podCIDR"])),
        ("PodCIDRs", texts(&spec["podCIDRs"]).join(",")),
        ("ProviderID", text(&spec["providerID"])),
    ] {
        if !value.is_empty() {
            w.field(0, title, value);
        }
    }
    match &related.pods_error {
        None => resources(w, node, &related.pods, now),
        Some(_) => w.line(0, "Pods:\tnot authorized"),
    }
    metadata::events(w, related.events(), now);
}

/// The roles that a node's labels give it.
fn roles(labels: &Value) -> Vec<String> {
    let mut roles: Vec<String> = super::read::pairs(labels)
        .into_iter()
        .filter_map(|(name, value)| match name.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role.to_owned()),
            None => (name == "kubernetes.io/role").then_some(value),
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort();
    roles.dedup();
    roles
}

fn taints(w: &mut Writer, taints: &Value) {
    w.put(0, "Taints:\t");
    let mut taints: Vec<[String; 3]> =
        items(taints).iter().map(|taint| ["effect", "key", "value"].map(|field| text(&taint[field]))).collect();
    if taints.is_empty() {
        w.end("<none>");
    }
    taints.sort_by_key(|[effect, key, _]| format!("{effect},{key}"));
    for (index, [effect, key, value]) in taints.into_iter().enumerate() {
        if index > 0 {
            w.put(0, "\t");
        }
        w.line(
            0,
            match (effect.is_empty(), value.is_empty()) {
                (true, true) => key,
                (true, false) => format!("{key}={value}:"),
                (false, true) => format!("{key}:{effect}"),
                (false, false) => format!("{key}={value}:{effect}"),
            },
        );
    }
}

fn amounts_as_written(map: &Value) -> Vec<(&String, &Value)> {
    let mut amounts: Vec<(&String, &Value)> = map.as_object().into_iter().flatten().collect();
    amounts.sort_by_key(|(name, _)| *name);
    amounts
}

fn amounts(map: &Value) -> Amounts {
    map.as_object().into_iter().flatten().map(|(name, amount)| (name.clone(), quantity(amount))).collect()
}

fn add(into: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        into.entry(name.clone()).and_modify(|sum| *sum = *sum + *amount).or_insert(*amount);
    }
}

fn raise(into: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let known = into.entry(name.clone()).or_insert(*amount);
        if *amount > *known {
            *known = *amount;
        }
    }
}

/// What a pod asks for and is limited to (kubectl's `resource.PodRequestsAndLimits`).
fn requests_and_limits(pod: &Value) -> (Amounts, Amounts) {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let infeasible = items(&status["conditions"])
        .iter()
        .any(|condition| condition["type"] == "PodResizePending" && condition["reason"] == "Infeasible");
    let resized = |container: &Value| {
        let name = &container["name"];
        let statuses = items(&status["initContainerStatuses"]).iter().rev();
        let statuses = statuses.chain(items(&status["containerStatuses"]).iter().rev());
        let own = amounts(&container["resources"]["requests"]);
        match statuses.into_iter().find(|status| status["name"] == *name && !status["resources"].is_null()) {
            Some(status) => {
                let mut requests = if infeasible { Amounts::new() } else { own };
                raise(&mut requests, &amounts(&status["resources"]["requests"]));
                raise(&mut requests, &amounts(&status["allocatedResources"]));
                requests
            }
            None => own,
        }
    };
    let sum = |of: &dyn Fn(&Value, bool) -> Amounts| {
        let mut all = Amounts::new();
        for container in items(&spec["containers"]) {
            add(&mut all, &of(container, true));
        }
        let (mut going_on, mut starting) = (Amounts::new(), Amounts::new());
        for container in items(&spec["initContainers"]) {
            if container["restartPolicy"] == "Always" {
                let own = of(container, true);
                add(&mut all, &own);
                add(&mut going_on, &own);
                raise(&mut starting, &going_on);
            } else {
                let mut now = of(container, false);
                add(&mut now, &going_on);
                raise(&mut starting, &now);
            }
        }
        raise(&mut all, &starting);
        all
    };
    let mut requests = sum(&|container, runs| {
        if runs { resized(container) } else { amounts(&container["resources"]["requests"]) }
    });
    let mut limits = sum(&|container, _| amounts(&container["resources"]["limits"]));
    let overhead = amounts(&spec["overhead"]);
    add(&mut requests, &overhead);
    for (name, amount) in &overhead {
        if let Some(limit) = limits.get_mut(name).filter(|limit| !limit.is_zero()) {
            *limit = *limit + *amount;
        }
    }
    (requests, limits)
}

/// A share in whole per cent, as Go cuts it; without anything to share what Go makes of such a division.
fn share(part: i64, whole: i64) -> i64 {
    let share = part as f64 / whole as f64 * 100.0;
    if share.is_nan() || share.is_infinite() { i64::MIN } else { share as i64 }
}

fn share_or_none(part: i64, whole: i64) -> i64 {
    if whole == 0 { 0 } else { share(part, whole) }
}

fn resources(w: &mut Writer, node: &Value, pods: &[Value], now: Timestamp) {
    w.field(0, "Non-terminated Pods", format!("({} in total)", pods.len()));
    w.line(1, "Namespace\tName\t\tCPU Requests\tCPU Limits\tMemory Requests\tMemory Limits\tAge");
    w.line(1, "---------\t----\t\t------------\t----------\t---------------\t-------------\t---");
    let allocatable = match amounts(&node["status"]["allocatable"]) {
        none if none.is_empty() => amounts(&node["status"]["capacity"]),
        allocatable => allocatable,
    };
    let of = |amounts: &Amounts, name: &str| amounts.get(name).copied().unwrap_or_default();
    let (cpu, memory) = (of(&allocatable, "cpu").milli_value(), of(&allocatable, "memory").value());
    let (mut requests, mut limits) = (Amounts::new(), Amounts::new());
    for pod in pods {
        let (own_requests, own_limits) = requests_and_limits(pod);
        let mut line = format!("{}\t{}\t", text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]));
        for amounts in [&own_requests, &own_limits] {
            let amount = of(amounts, "cpu");
            line.push_str(&format!("\t{amount} ({}%)", share(amount.milli_value(), cpu)));
        }
        for amounts in [&own_requests, &own_limits] {
            let amount = of(amounts, "memory");
            line.push_str(&format!("\t{amount} ({}%)", share(amount.value(), memory)));
        }
        w.line(1, format!("{line}\t{}", since(&pod["metadata"]["creationTimestamp"], now)));
        add(&mut requests, &own_requests);
        add(&mut limits, &own_limits);
    }
    w.line(0, "Allocated resources:\n  (Total limits may be over 100 percent, i.e., overcommitted.)");
    w.line(1, "Resource\tRequests\tLimits");
    w.line(1, "--------\t--------\t------");
    let mut row = |name: &str| {
        let (request, limit, whole) = (of(&requests, name), of(&limits, name), of(&allocatable, name));
        let value = |amount: Quantity| if name == "cpu" { amount.milli_value() } else { amount.value() };
        let share = |amount: Quantity| share_or_none(value(amount), value(whole));
        w.line(1, format!("{name}\t{request} ({}%)\t{limit} ({}%)", share(request), share(limit)));
    };
    ["cpu", "memory", "ephemeral-storage"].into_iter().for_each(&mut row);
    allocatable.keys().filter(|name| name.starts_with("hugepages-")).for_each(|name| row(name));
    let ordinary =
        |name: &str| matches!(name, "cpu" | "memory" | "ephemeral-storage" | "pods") || name.starts_with("hugepages-");
    for name in allocatable.keys().filter(|name| !ordinary(name)) {
        w.line(1, format!("{name}\t{}\t{}", of(&requests, name), of(&limits, name)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_pods_ask_for() {
        let check = |pod: Value, requests: &[(&str, &str)], limits: &[(&str, &str)]| {
            let own = |amounts: Amounts| -> Vec<(String, String)> {
                amounts.into_iter().map(|(name, amount)| (name, amount.to_string())).collect()
            };
            let expected = |amounts: &[(&str, &str)]| -> Vec<(String, String)> {
                amounts.iter().map(|(name, amount)| ((*name).to_owned(), (*amount).to_owned())).collect()
            };
            let (found_requests, found_limits) = requests_and_limits(&pod);
            assert_eq!((own(found_requests), own(found_limits)), (expected(requests), expected(limits)), "{pod}");
        };
        let with = |amount: &str| json!({"resources": {"requests": {"cpu": amount}, "limits": {"cpu": amount}}});
        let always = |amount: &str| json!({"restartPolicy": "Always", "resources": {"requests": {"cpu": amount}, "limits": {"cpu": amount}}});
        check(json!({}), &[], &[]);
        check(json!({"spec": {"containers": [with("1"), with("500m")]}}), &[("cpu", "1500m")], &[("cpu", "1500m")]);
        check(
            json!({"spec": {"containers": [with("1")], "initContainers": [always("1"), with("3")],
                "overhead": {"cpu": "1"}}}),
            &[("cpu", "5")],
            &[("cpu", "5")],
        );
        check(
            json!({"spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}]},
                "status": {"containerStatuses": [{"name": "a", "resources": {"requests": {"cpu": "2"}}}]}}),
            &[("cpu", "2")],
            &[],
        );
    }

    #[test]
    fn words() {
        let labels =
            json!({"node-role.kubernetes.io/b": "", "kubernetes.io/role": "a", "node-role.kubernetes.io/": ""});
        assert_eq!(roles(&labels), ["a", "b"]);
        let mut w = Writer::new();
        let given = json!([{"key": "k", "effect": "NoSchedule"}, {"key": "a", "value": "b", "effect": "NoExecute"}]);
        taints(&mut w, &given);
        assert_eq!(w.finish(), "Taints:  a=b:NoExecute\n         k:NoSchedule\n");
        assert_eq!((share(1, 3), share_or_none(1, 0)), (33, 0));
    }
}
