//! Files of one volume that stand in each other's way.

use serde_json::Value;

use super::Warnings;
use crate::path::{list, text};

pub(super) fn overlapping(volumes: &[Value], warnings: &mut Warnings) {
    for volume in volumes {
        let named = text(volume, "name");
        for (field, word, key) in [("configMap", "ConfigMap", "name"), ("secret", "Secret", "secretName")] {
            let of = text(&volume[field], key);
            let message = format!("volume {named:?} ({word} {of:?}): overlapping paths");
            compare(paths(&volume[field]), &message, warnings);
        }
        let message = format!("volume {named:?} (DownwardAPI): overlapping paths");
        compare(paths(&volume["downwardAPI"]), &message, warnings);
        projected(volume, named, warnings);
    }
}

fn paths(source: &Value) -> Vec<&str> {
    list(source, "items").iter().map(|item| text(item, "path")).collect()
}

fn projected(volume: &Value, named: &str, warnings: &mut Warnings) {
    let mut all: Vec<&str> = Vec::new();
    for source in list(&volume["projected"], "sources") {
        let Some((field, given)) = source.as_object().and_then(|fields| fields.iter().next()) else {
            warnings.push(format!("volume {named:?} (Projected) has no sources provided"));
            continue;
        };
        let (own, word) = match field.as_str() {
            "configMap" => (paths(given), format!("ConfigMap {:?}", text(given, "name"))),
            "secret" => (paths(given), format!("Secret {:?}", text(given, "name"))),
            "downwardAPI" => (paths(given), "DownwardAPI".to_owned()),
            "serviceAccountToken" => (vec![text(given, "path")], "ServiceAccountToken".to_owned()),
            "clusterTrustBundle" => {
                let of = if given["name"].is_null() { text(given, "signerName") } else { text(given, "name") };
                (vec![text(given, "path")], format!("ClusterTrustBundle {of:?}"))
            }
            _ => continue,
        };
        let message = format!("volume {named:?} (Projected {word}): overlapping paths");
        compare(own.clone(), &message, warnings);
        let mut unique = own;
        unique.sort_unstable();
        unique.dedup();
        let mut ordered: Vec<&str> = unique.iter().chain(&all).copied().collect();
        ordered.sort_unstable();
        compare(ordered, &message, warnings);
        all.extend(unique);
        all.sort_unstable();
        all.dedup();
    }
}

fn compare(paths: Vec<&str>, message: &str, warnings: &mut Warnings) {
    let mut seen: Vec<&str> = Vec::new();
    for path in paths {
        let path = path.trim_end_matches('/');
        let below = |one: &str, other: &str| one.strip_prefix(other).is_some_and(|rest| rest.starts_with('/'));
        let collides = |other: &&&str| {
            !path.is_empty() && !other.is_empty() && (path == **other || below(path, other) || below(other, path))
        };
        if let Some(other) = seen.iter().find(collides) {
            warnings.push(format!("{message}: {path:?} with {other:?}"));
        }
        seen.push(path);
    }
}
