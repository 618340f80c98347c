//! Service.

use std::net::IpAddr;

use serde_json::Value;

use super::{Warnings, has_annotation};
use crate::name;
use crate::path::{Path, list, size, text};

pub(super) fn service(service: &Value, warnings: &mut Warnings) {
    let hints = "service.kubernetes.io/topology-aware-hints";
    if has_annotation(service, hints) {
        let mode = "service.kubernetes.io/topology-mode";
        warnings.push(format!("annotation {hints} is deprecated, please use {mode} instead"));
    }
    let spec = &service["spec"];
    let path = Path::new("spec");
    let headless = text(spec, "clusterIP") == "None";
    if !headless {
        addresses(spec, "clusterIPs", &path, warnings);
    }
    if headless && text(spec, "type") == "ClusterIP" {
        if !text(spec, "loadBalancerIP").is_empty() {
            warnings.push("spec.loadBalancerIP is ignored for headless services".to_owned());
        }
        if size(spec, "externalIPs") > 0 {
            warnings.push("spec.externalIPs is ignored for headless services".to_owned());
        }
        if text(spec, "sessionAffinity") != "None" {
            warnings.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
    }
    addresses(spec, "externalIPs", &path, warnings);
    if size(spec, "externalIPs") > 0
        && !(headless && text(spec, "type") == "ClusterIP")
        && text(spec, "type") != "ExternalName"
    {
        warnings.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned());
    }
    let balanced = text(spec, "loadBalancerIP");
    if !balanced.is_empty() {
        address(balanced, &path.child("loadBalancerIP"), warnings);
    }
    let ranges = path.child("loadBalancerSourceRanges");
    for (index, range) in list(spec, "loadBalancerSourceRanges").iter().enumerate() {
        network(range.as_str().unwrap_or_default(), &ranges.index(index), warnings);
    }
    let named = text(spec, "type") == "ExternalName";
    if named && size(spec, "externalIPs") > 0 {
        warnings.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if !named && !text(spec, "externalName").is_empty() {
        warnings.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if text(spec, "trafficDistribution") == "PreferClose" {
        warnings.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned());
    }
}

fn addresses(spec: &Value, field: &str, path: &Path<'_>, warnings: &mut Warnings) {
    let path = path.child(field);
    for (index, given) in list(spec, field).iter().enumerate() {
        address(given.as_str().unwrap_or_default(), &path.index(index), warnings);
    }
}

pub(super) fn address(given: &str, path: &Path<'_>, warnings: &mut Warnings) {
    let Ok(IpAddr::V6(parsed)) = given.parse::<IpAddr>() else { return };
    let canonical = parsed.to_string();
    if canonical != given {
        warnings.push(format!("{path}: IPv6 address {given:?} should be in RFC 5952 canonical format ({canonical:?})"));
    }
}

pub(super) fn network(given: &str, path: &Path<'_>, warnings: &mut Warnings) {
    let Some((address, length)) = name::parse_cidr(given) else { return };
    let canonical = format!("{address}/{length}");
    if address.is_ipv6() && canonical != given {
        warnings
            .push(format!("{path}: IPv6 CIDR value {given:?} should be in RFC 5952 canonical format ({canonical:?})"));
    }
}
