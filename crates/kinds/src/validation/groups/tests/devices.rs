//! resource.k8s.io.

use serde_json::{Value, json};

use super::{change, create};

const RESOURCE: &str = "resource.k8s.io/v1";

fn request(name: &str) -> Value {
    json!({"name": name, "exactly": {"deviceClassName": "c"}})
}

#[test]
fn claims() {
    let check = |devices: Value, expected: &[&str]| {
        create(RESOURCE, "ResourceClaim", json!({"spec": {"devices": devices}}), expected);
    };
    check(json!({"requests": [request("a")]}), &[]);
    check(
        json!({"requests": [request("a"), request("a"), {"name": "b"}, {"name": "B.", "exactly": {"allocationMode": "Some"}}]}),
        &[
            "spec.devices.requests[2]: Required value: exactly one of `exactly` or `firstAvailable` is required",
            "spec.devices.requests[3].name: Invalid value: \"B.\": a lowercase RFC 1123 label must consist of lower \
             case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. \
             'my-name' or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            "spec.devices.requests[3].exactly.deviceClassName: Required value",
            "spec.devices.requests[3].exactly.allocationMode: Unsupported value: \"Some\": supported values: \"All\", \"ExactCount\"",
            "spec.devices.requests[1]: Duplicate value: \"a\"",
        ],
    );
    check(
        json!({"requests": [request("a")], "constraints": [{"requests": ["b", "a/x/y"], "matchAttribute": "m"}, {}]}),
        &[
            "spec.devices.constraints[0].requests[0]: Invalid value: \"b\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
            "spec.devices.constraints[0].requests[1]: Invalid value: \"a/x/y\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
            "spec.devices.constraints[0].matchAttribute: Invalid value: \"m\": a fully qualified name must be a domain and a name separated by a slash",
            "spec.devices.constraints[1]: Required value: exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set",
        ],
    );
    check(
        json!({"requests": [request("a")], "config": [{}, {"opaque": {"driver": "d", "parameters": []}}]}),
        &[
            "spec.devices.config[0].opaque: Required value",
            "spec.devices.config[1].opaque.parameters: Invalid value: \"<value omitted>\": must be a valid JSON object",
        ],
    );
    let claim = |name: &str| json!({"spec": {"devices": {"requests": [request(name)]}}});
    let catalogue = crate::Catalogue::builtin();
    let kind = catalogue.by_kind(RESOURCE, "ResourceClaim").expect("built in");
    let errors = kind.validate_update(&claim("b"), &claim("a"), None);
    assert!(
        errors.iter().any(|error| error.to_string().starts_with("spec: Invalid value: {\"devices\"")),
        "{errors:?}"
    );
    create(
        RESOURCE,
        "ResourceClaimTemplate",
        json!({"spec": {"metadata": {"labels": {"a b": "c"}}, "spec": {"devices": {"requests": [{"name": "a"}]}}}}),
        &[
            "spec.metadata.labels: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' \
             or '.', and must start and end with an alphanumeric character (e.g. 'MyName' or 'my.name' or '123-abc', \
             regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            "spec.spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required",
        ],
    );
}

#[test]
fn claim_status() {
    let claim = |status: Value| json!({"spec": {"devices": {"requests": [request("a")]}}, "status": status});
    let check = |old: Value, new: Value, expected: &[&str]| {
        change(RESOURCE, "ResourceClaim", Some("status"), claim(old), claim(new), expected);
    };
    let result = json!({"request": "a", "driver": "d", "pool": "p", "device": "x"});
    let allocation = json!({"devices": {"results": [result]}});
    check(json!({}), json!({"allocation": allocation}), &[]);
    check(
        json!({}),
        json!({"reservedFor": [{"resource": "pods", "name": "p"}]}),
        &[
            "status.reservedFor[0].uid: Required value",
            "status.reservedFor: Forbidden: may not be specified when `allocated` is not set",
        ],
    );
    check(
        json!({"allocation": allocation}),
        json!({"allocation": {"devices": {"results": []}}}),
        &["status.allocation: Invalid value: {\"devices\":{\"results\":[]}}: field is immutable"],
    );
    let mut wrong = allocation.clone();
    wrong["devices"]["results"][0]["request"] = "b".into();
    check(
        json!({}),
        json!({"allocation": wrong}),
        &[
            "status.allocation.devices.results[0].request: Invalid value: \"b\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
        ],
    );
    check(
        json!({"allocation": allocation}),
        json!({"allocation": allocation, "devices": [{"driver": "d", "pool": "p", "device": "y", "networkData": {"ips": ["10.0.0.1"]}}]}),
        &[
            "status.devices[0]: Invalid value: {\"device\":\"y\",\"driver\":\"d\",\"pool\":\"p\"}: must be an allocated device in the claim",
            "status.devices[0].networkData.ips[0]: Invalid value: \"10.0.0.1\": must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)",
        ],
    );
}

#[test]
fn classes() {
    let check = |spec: Value, expected: &[&str]| create(RESOURCE, "DeviceClass", json!({"spec": spec}), expected);
    check(json!({"selectors": [{"cel": {"expression": "true"}}], "extendedResourceName": "x.io/gpu"}), &[]);
    check(
        json!({"selectors": [{}], "extendedResourceName": "cpu"}),
        &[
            "spec.selectors[0].cel: Required value",
            "spec.extendedResourceName: Invalid value: \"cpu\": must be a valid extended resource name",
        ],
    );
}

#[test]
fn slices() {
    let slice = |changes: Value| {
        let mut spec = json!({"driver": "d", "nodeName": "n",
            "pool": {"name": "p", "resourceSliceCount": 1, "generation": 0}, "devices": [{"name": "x"}]});
        for (field, value) in changes.as_object().into_iter().flatten() {
            spec[field] = value.clone();
        }
        json!({"spec": spec})
    };
    let check = |changes: Value, expected: &[&str]| create(RESOURCE, "ResourceSlice", slice(changes), expected);
    check(json!({}), &[]);
    check(
        json!({"nodeName": null, "pool": {"name": "p"}}),
        &[
            "spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero",
            "spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required",
        ],
    );
    check(
        json!({"allNodes": true}),
        &[
            "spec: Invalid value: \"{`nodeName`, `allNodes`}\": exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set",
        ],
    );
    check(
        json!({"devices": [{"name": "x", "allNodes": true, "attributes": {"a": {}, "b": {"version": "1"}, "1": {"int": 1}}}, {"name": "x"}]}),
        &[
            "spec.devices[0].attributes: Invalid value: \"1\": a valid C identifier must start with alphabetic \
             character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or \
             'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')",
            "spec.devices[0].attributes[a]: Invalid value: \"\": exactly one value must be specified",
            "spec.devices[0].attributes[b].version: Invalid value: \"1\": must be a string compatible with semver.org spec 2.0.0",
            "spec.devices[0]: Invalid value: null: `nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec",
            "spec.devices[1]: Duplicate value: \"x\"",
        ],
    );
    let capacity = |policy: Value| {
        json!({"devices": [{"name": "x", "allowMultipleAllocations": true,
            "capacity": {"m": {"value": "10Gi", "requestPolicy": policy}}}]})
    };
    check(capacity(json!({"default": "1Gi", "validRange": {"min": "1Gi", "max": "4Gi", "step": "1Gi"}})), &[]);
    check(
        capacity(json!({"default": "1Gi", "validValues": ["2Gi", "1Gi", "20Gi"]})),
        &[
            "spec.devices[0].capacity[m].requestPolicy.validValues[1]: Invalid value: \"1Gi\": values must be sorted in ascending order",
            "spec.devices[0].capacity[m].requestPolicy.validValues[2]: Invalid value: \"20Gi\": option is larger than capacity value: 10Gi",
        ],
    );
    check(
        capacity(json!({"validRange": {"min": "1"}})),
        &["spec.devices[0].capacity[m].requestPolicy.default: Required value: required when validRange is defined"],
    );
    change(
        RESOURCE,
        "ResourceSlice",
        None,
        slice(json!({})),
        slice(json!({"driver": "e"})),
        &["spec.driver: Invalid value: \"e\": field is immutable"],
    );
}
