//! The kinds of all API groups beside core, apps, batch and autoscaling.

mod access;
mod address;
mod admission;
mod admission_policy;
mod aggregation;
mod certificate;
mod checks;
mod csi;
mod device;
mod device_claim;
mod device_claim_status;
mod device_class;
mod device_slice;
mod disruption;
mod endpoint_slice;
mod flow;
mod ingress;
mod network_policy;
mod node_selector;
mod scheduling;
mod service_range;
mod storage;

use serde_json::Value;

use super::Errors;
use crate::kind::Kind;

pub(super) use service_range::address_name;

/// What is wrong with a new object, its metadata aside.
pub(super) fn create(kind: &Kind, object: &Value, errors: &mut Errors) {
    match kind.collection.as_ref() {
        "admissionregistration.k8s.io/mutatingadmissionpolicies"
        | "admissionregistration.k8s.io/validatingadmissionpolicies" => {
            admission_policy::policy(&kind.kind, object, errors);
        }
        "admissionregistration.k8s.io/mutatingadmissionpolicybindings"
        | "admissionregistration.k8s.io/validatingadmissionpolicybindings" => {
            admission_policy::binding(&kind.kind, object, errors);
        }
        "admissionregistration.k8s.io/mutatingwebhookconfigurations"
        | "admissionregistration.k8s.io/validatingwebhookconfigurations" => admission::create(object, errors),
        "apiregistration.k8s.io/apiservices" => aggregation::service(object, errors),
        "certificates.k8s.io/certificatesigningrequests" => certificate::create(object, errors),
        "coordination.k8s.io/leases" => scheduling::lease(object, errors),
        "discovery.k8s.io/endpointslices" => endpoint_slice::create(object, errors),
        "flowcontrol.apiserver.k8s.io/flowschemas" => flow::schema(object, errors),
        "flowcontrol.apiserver.k8s.io/prioritylevelconfigurations" => flow::level(object, errors),
        "networking.k8s.io/ingresses" => ingress::create(object, errors),
        "networking.k8s.io/ingressclasses" => ingress::class(object, errors),
        "networking.k8s.io/ipaddresses" => service_range::address(object, errors),
        "networking.k8s.io/networkpolicies" => network_policy::create(object, errors),
        "networking.k8s.io/servicecidrs" => service_range::range(object, errors),
        "node.k8s.io/runtimeclasses" => scheduling::runtime_class(object, errors),
        "policy/poddisruptionbudgets" => disruption::create(object, errors),
        "rbac.authorization.k8s.io/clusterrolebindings" => access::binding(object, false, errors),
        "rbac.authorization.k8s.io/clusterroles" => access::cluster_role(object, errors),
        "rbac.authorization.k8s.io/rolebindings" => access::binding(object, true, errors),
        "rbac.authorization.k8s.io/roles" => access::rules(object, true, errors),
        "resource.k8s.io/deviceclasses" => device_class::create(object, errors),
        "resource.k8s.io/resourceclaims" => device_claim::claim(object, errors),
        "resource.k8s.io/resourceclaimtemplates" => device_claim::template(object, errors),
        "resource.k8s.io/resourceslices" => device_slice::create(object, errors),
        "scheduling.k8s.io/priorityclasses" => scheduling::priority_class(object, errors),
        "storage.k8s.io/csidrivers" => csi::driver(object, errors),
        "storage.k8s.io/csinodes" => csi::node(object, errors),
        "storage.k8s.io/csistoragecapacities" => storage::capacity(object, errors),
        "storage.k8s.io/storageclasses" => storage::class(object, errors),
        "storage.k8s.io/volumeattachments" => storage::attachment(object, errors),
        "storage.k8s.io/volumeattributesclasses" => storage::attributes_class(object, errors),
        _ => {}
    }
}

/// What is wrong with an object that is to replace `old`, its metadata aside.
pub(super) fn update(kind: &Kind, object: &Value, old: &Value, subresource: Option<&str>, errors: &mut Errors) {
    if let Some(subresource) = subresource {
        return part(kind, object, old, subresource, errors);
    }
    match kind.collection.as_ref() {
        "admissionregistration.k8s.io/mutatingwebhookconfigurations"
        | "admissionregistration.k8s.io/validatingwebhookconfigurations" => admission::update(object, old, errors),
        "certificates.k8s.io/certificatesigningrequests" => certificate::update(object, old, None, errors),
        "discovery.k8s.io/endpointslices" => endpoint_slice::update(object, old, errors),
        "networking.k8s.io/ingresses" => ingress::update(object, old, errors),
        "networking.k8s.io/ingressclasses" => ingress::class_update(object, old, errors),
        "networking.k8s.io/ipaddresses" => service_range::address_update(object, old, errors),
        "networking.k8s.io/networkpolicies" => network_policy::update(object, old, errors),
        "networking.k8s.io/servicecidrs" => service_range::range_update(object, old, errors),
        "node.k8s.io/runtimeclasses" => scheduling::runtime_class_update(object, old, errors),
        "policy/poddisruptionbudgets" => disruption::update(object, old, errors),
        "rbac.authorization.k8s.io/clusterrolebindings" => access::binding_update(object, old, false, errors),
        "rbac.authorization.k8s.io/rolebindings" => access::binding_update(object, old, true, errors),
        "resource.k8s.io/resourceclaims" | "resource.k8s.io/resourceclaimtemplates" => {
            checks::immutable(object, old, "spec", errors);
        }
        "resource.k8s.io/resourceslices" => device_slice::update(object, old, errors),
        "scheduling.k8s.io/priorityclasses" => scheduling::priority_class_update(object, old, errors),
        "storage.k8s.io/csidrivers" => csi::driver_update(object, old, errors),
        "storage.k8s.io/csinodes" => csi::node_update(object, old, errors),
        "storage.k8s.io/csistoragecapacities" => storage::capacity_update(object, old, errors),
        "storage.k8s.io/storageclasses" => storage::class_update(object, old, errors),
        "storage.k8s.io/volumeattachments" => storage::attachment_update(object, old, errors),
        "storage.k8s.io/volumeattributesclasses" => storage::attributes_class_update(object, old, errors),
        // The rest follows on an update the same rules as on creation.
        _ => create(kind, object, errors),
    }
}

/// An update by way of a subresource.
fn part(kind: &Kind, object: &Value, old: &Value, subresource: &str, errors: &mut Errors) {
    match (kind.collection.as_ref(), subresource) {
        ("admissionregistration.k8s.io/validatingadmissionpolicies", "status") => {
            admission_policy::status(object, errors);
        }
        ("apiregistration.k8s.io/apiservices", "status") => aggregation::status(object, errors),
        ("certificates.k8s.io/certificatesigningrequests", _) => {
            certificate::update(object, old, Some(subresource), errors);
        }
        (
            "flowcontrol.apiserver.k8s.io/flowschemas" | "flowcontrol.apiserver.k8s.io/prioritylevelconfigurations",
            _,
        ) => {
            flow::status(object, errors);
        }
        ("networking.k8s.io/ingresses", "status") => ingress::status(object, old, errors),
        ("policy/poddisruptionbudgets", "status") => disruption::status(object, errors),
        ("resource.k8s.io/resourceclaims", "status") => device_claim_status::update(object, old, errors),
        ("storage.k8s.io/volumeattachments", "status") => storage::attachment(object, errors),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
