//! Horizontal pod autoscalers and disruption budgets.

use serde_json::Value;

use super::cell::{NONE, UNKNOWN, UNSET, age, int, list, name, scalar_or, text};
use super::{AGE, Column, NAME, Table};

pub(super) const DISRUPTION_BUDGETS: Table = (
    &[
        NAME,
        Column::string("Min Available", "The minimum number of pods that must be available."),
        Column::string("Max Unavailable", "The maximum number of pods that may be unavailable."),
        Column::integer("Allowed Disruptions", "Calculated number of pods that may be disrupted at this time."),
        AGE,
    ],
    |object, now| {
        vec![
            name(object),
            scalar_or(object, "/spec/minAvailable", "N/A").into(),
            scalar_or(object, "/spec/maxUnavailable", "N/A").into(),
            int(object, "/status/disruptionsAllowed").into(),
            age(object, now),
        ]
    },
);

pub(super) const AUTOSCALERS: Table = (
    &[
        NAME,
        Column::string(
            "Reference",
            "Reference to scaled resource; horizontal pod autoscaler will learn the current resource consumption and set the desired number of pods by using its Scale subresource.",
        ),
        Column::string("Targets", "The metrics that are watched, with their current and wanted values."),
        Column::string("MinPods", "Lower limit for the number of pods that can be set by the autoscaler, default 1."),
        Column::string(
            "MaxPods",
            "Upper limit for the number of pods that can be set by the autoscaler; cannot be smaller than MinReplicas.",
        ),
        Column::string("Replicas", "Current number of replicas of pods managed by this autoscaler."),
        AGE,
    ],
    |object, now| {
        let reference =
            format!("{}/{}", text(object, "/spec/scaleTargetRef/kind"), text(object, "/spec/scaleTargetRef/name"));
        vec![
            name(object),
            reference.into(),
            targets(object).into(),
            scalar_or(object, "/spec/minReplicas", UNSET).into(),
            int(object, "/spec/maxReplicas").into(),
            int(object, "/status/currentReplicas").into(),
            age(object, now),
        ]
    },
);

fn percent(value: Option<&Value>, other: &str) -> String {
    value.and_then(Value::as_i64).map_or_else(|| other.to_owned(), |number| format!("{number}%"))
}

fn targets(object: &Value) -> String {
    // Version 1 knows processor use only.
    if let Some(wanted) = object.pointer("/spec/targetCPUUtilizationPercentage") {
        let current = percent(object.pointer("/status/currentCPUUtilizationPercentage"), UNKNOWN);
        return format!("cpu: {current}/{}", percent(Some(wanted), "<auto>"));
    }
    let all: Vec<String> =
        list(object, "/spec/metrics").iter().enumerate().map(|(at, metric)| target(object, at, metric)).collect();
    match all.len() {
        0 => NONE.to_owned(),
        1 | 2 => all.join(", "),
        more => format!("{} + {} more...", all[..2].join(", "), more - 2),
    }
}

/// One metric; the status lists them in the order of the specification.
fn target(object: &Value, at: usize, metric: &Value) -> String {
    let (source, resource) = match text(metric, "/type") {
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        "External" => ("external", false),
        "Pods" => ("pods", false),
        "Object" => ("object", false),
        _ => return "<unknown type>".to_owned(),
    };
    let current = |field: &str| object.pointer(&format!("/status/currentMetrics/{at}/{source}/current/{field}"));
    let wanted = |field: &str| metric.pointer(&format!("/{source}/target/{field}"));
    let shown = |field: &str| {
        let now = current(field).map_or_else(|| UNKNOWN.to_owned(), super::cell::shown);
        wanted(field).map(|wanted| format!("{now}/{}", super::cell::shown(wanted)))
    };
    if resource {
        let name = text(metric, &format!("/{source}/name"));
        return match shown("averageValue") {
            Some(pair) => format!("{name}: {pair}"),
            None => {
                let now = percent(current("averageUtilization"), UNKNOWN);
                format!("{name}: {now}/{}", percent(wanted("averageUtilization"), "<auto>"))
            }
        };
    }
    match shown("averageValue") {
        Some(pair) if source == "pods" => pair,
        Some(pair) => format!("{pair} (avg)"),
        None => shown("value").unwrap_or_else(|| UNKNOWN.to_owned()),
    }
}
