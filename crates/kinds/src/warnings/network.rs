//! Ingress, NetworkPolicy and EndpointSlice.

use serde_json::Value;

use super::service::{address, network};
use super::{Warnings, has_annotation};
use crate::path::{Path, list, text};

pub(super) fn ingress(ingress: &Value, warnings: &mut Warnings) {
    let annotation = "kubernetes.io/ingress.class";
    if has_annotation(ingress, annotation) {
        warnings.push(format!("annotation {annotation:?} is deprecated, please use 'spec.ingressClassName' instead"));
    }
}

pub(super) fn policy(policy: &Value, warnings: &mut Warnings) {
    for (direction, side) in [("ingress", "from"), ("egress", "to")] {
        let spec = Path::new("spec");
        let rules = spec.child(direction);
        for (index, rule) in list(&policy["spec"], direction).iter().enumerate() {
            let path = rules.index(index);
            let peers = path.child(side);
            for (index, block) in list(rule, side).iter().map(|peer| &peer["ipBlock"]).enumerate() {
                if block.is_null() {
                    continue;
                }
                let path = peers.index(index);
                let path = path.child("ipBlock");
                network(text(block, "cidr"), &path.child("cidr"), warnings);
                let except = path.child("except");
                for (index, part) in list(block, "except").iter().enumerate() {
                    network(part.as_str().unwrap_or_default(), &except.index(index), warnings);
                }
            }
        }
    }
}

pub(super) fn endpoint_slice(slice: &Value, warnings: &mut Warnings) {
    if text(slice, "addressType") == "FQDN" {
        warnings.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
        return;
    }
    let endpoints = Path::new("endpoints");
    for (index, endpoint) in list(slice, "endpoints").iter().enumerate() {
        let path = endpoints.index(index);
        let addresses = path.child("addresses");
        for (index, given) in list(endpoint, "addresses").iter().enumerate() {
            address(given.as_str().unwrap_or_default(), &addresses.index(index), warnings);
        }
    }
}
