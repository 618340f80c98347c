//! Pods as they are created.

use serde_json::{Value, json};

use super::create;

fn base() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

/// A pod whose container has more fields.
#[track_caller]
fn container(fields: Value, expected: &[&str]) {
    let mut container = json!({"name": "c", "image": "i"});
    super::merge(&mut container, fields);
    spec(json!({"containers": [container]}), expected);
}

#[track_caller]
fn spec(fields: Value, expected: &[&str]) {
    create(&base(), json!({"spec": fields}), expected);
}

#[test]
fn names() {
    create(&base(), json!({}), &[]);
    create(
        &base(),
        json!({"metadata": {"name": "UPPER"}}),
        &["metadata.name: Invalid value: \"UPPER\": a lowercase RFC 1123 subdomain must consist of…"],
    );
    create(
        &base(),
        json!({"metadata": {"name": null, "generateName": "a_"}}),
        &["metadata.generateName: Invalid value: \"a_\": a lowercase RFC 1123 subdomain…"],
    );
    create(
        &base(),
        json!({"metadata": {"labels": {"a b": "x", "c": "y z"}, "finalizers": ["mine"]}}),
        &[
            "metadata.labels: Invalid value: \"a b\": name part must consist of…",
            "metadata.labels: Invalid value: \"y z\": a valid label must be an empty string or consist of…",
            "metadata.finalizers[0]: Invalid value: \"mine\": name is neither a standard finalizer name nor is it \
             fully qualified",
        ],
    );
}

#[test]
fn containers() {
    spec(json!({"containers": []}), &["spec.containers: Required value"]);
    container(json!({"image": null}), &["spec.containers[0].image: Required value"]);
    container(json!({"name": null}), &["spec.containers[0].name: Required value"]);
    container(
        json!({"image": " i"}),
        &["spec.containers[0].image: Invalid value: \" i\": must not have leading or trailing whitespace"],
    );
    container(
        json!({"imagePullPolicy": "Sometimes"}),
        &["spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \
           \"IfNotPresent\", \"Never\""],
    );
    spec(
        json!({"containers": [{"name": "c", "image": "i"}, {"name": "c", "image": "i"}],
            "initContainers": [{"name": "c", "image": "i", "lifecycle": {}}]}),
        &[
            "spec.containers[1].name: Duplicate value: \"c\"",
            "spec.initContainers[0].name: Duplicate value: \"c\"",
            "spec.initContainers[0].lifecycle: Forbidden: may not be set for init containers without \
             restartPolicy=Always",
        ],
    );
    spec(
        json!({"ephemeralContainers": [{"name": "d", "image": "i", "ports": [{"containerPort": 1}],
            "targetContainerName": "e"}]}),
        &[
            "spec.ephemeralContainers[0].targetContainerName: Not found: \"e\"",
            "spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
            "spec.ephemeralContainers: Forbidden: cannot be set on create",
        ],
    );
    container(
        json!({"restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [3]}}]}),
        &["spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used"],
    );
    container(
        json!({"resizePolicy": [{"resourceName": "disk", "restartPolicy": "NotRequired"}]}),
        &["spec.containers[0].resizePolicy: Unsupported value: \"disk\": supported values: \"cpu\", \"memory\""],
    );
}

#[test]
fn ports() {
    container(
        json!({"ports": [{"name": "a", "containerPort": 80, "hostPort": 1}, {"name": "a", "containerPort": 70000,
            "hostPort": 1, "protocol": "X"}, {"name": "TOO", "containerPort": 0}]}),
        &[
            "spec.containers[0].ports[1].name: Duplicate value: \"a\"",
            "spec.containers[0].ports[1].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            "spec.containers[0].ports[1].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \
             \"UDP\"",
            "spec.containers[0].ports[2].name: Invalid value: \"TOO\": must contain only alpha-numeric characters…",
            "spec.containers[0].ports[2].name: Invalid value: \"TOO\": must contain at least one letter (a-z)",
            "spec.containers[0].ports[2].containerPort: Required value",
        ],
    );
    container(
        json!({"ports": [{"containerPort": 80, "hostPort": 8}, {"containerPort": 81, "hostPort": 8}]}),
        &["spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//8\""],
    );
    spec(
        json!({"hostNetwork": true, "containers": [{"name": "c", "image": "i",
            "ports": [{"containerPort": 80}, {"containerPort": 81, "hostPort": 82}]}]}),
        &["spec.containers[0].ports[1].hostPort: Invalid value: 82: must match `containerPort` when `hostNetwork` is \
           true"],
    );
}

#[test]
fn environment() {
    container(
        json!({"env": [{"name": "a=b"}, {"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}},
            {"name": "B", "valueFrom": {}}, {"name": "C", "valueFrom": {"secretKeyRef": {"name": "s"}}},
            {"name": "D", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "2"}}},
            {"name": "E", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}},
            {"name": "F", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels"}}}]}),
        &[
            "spec.containers[0].env[0].name: Invalid value: \"a=b\": a valid environment variable name must consist \
             only of printable ASCII characters other than '='",
            "spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.x\": error converting \
             fieldPath: field label not supported: spec.x",
            "spec.containers[0].env[1].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
            "spec.containers[0].env[2].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, …",
            "spec.containers[0].env[3].valueFrom.secretKeyRef.key: Required value",
            "spec.containers[0].env[4].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only \
             divisor's values 1m and 1 are supported with the cpu resource",
            "spec.containers[0].env[6].valueFrom.fieldRef.fieldPath: Unsupported value: \"metadata.labels\": supported \
             values: \"metadata.name\", …",
        ],
    );
    container(
        json!({"envFrom": [{"prefix": "="}, {"secretRef": {}}]}),
        &[
            "spec.containers[0].envFrom[0].prefix: Invalid value: \"=\": a valid environment variable name…",
            "spec.containers[0].envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
            "spec.containers[0].envFrom[1].secretRef.name: Required value",
        ],
    );
}

#[test]
fn handlers() {
    container(json!({"livenessProbe": {}}), &["spec.containers[0].livenessProbe: Required value: must specify a…"]);
    container(
        json!({"livenessProbe": {"exec": {"command": ["x"]}, "tcpSocket": {"port": 1}, "successThreshold": 2},
            "readinessProbe": {"httpGet": {"port": "http!", "scheme": "ftp"}, "terminationGracePeriodSeconds": 3},
            "lifecycle": {"preStop": {"sleep": {"seconds": 31}}, "postStart": {"exec": {}}}}),
        &[
            "spec.containers[0].lifecycle.postStart.exec.command: Required value",
            "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than \
             terminationGracePeriodSeconds (30)",
            "spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            "spec.containers[0].readinessProbe.httpGet.port: Invalid value: \"http!\": must contain only…",
            "spec.containers[0].readinessProbe.httpGet.scheme: Unsupported value: \"ftp\": supported values: \
             \"HTTP\", \"HTTPS\"",
            "spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 3: must not be set for \
             readinessProbes",
        ],
    );
}

#[test]
fn resources() {
    let resources = |resources: Value, expected: &[&str]| container(json!({"resources": resources}), expected);
    resources(
        json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}),
        &["spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1"],
    );
    resources(
        json!({"limits": {"cpu": "-1"}}),
        &[
            "spec.containers[0].resources.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
            "spec.containers[0].resources.requests[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
        ],
    );
    resources(
        json!({"requests": {"pods": "1"}}),
        &["spec.containers[0].resources.requests[pods]: Invalid value: \"pods\": must be a standard resource for \
           containers"],
    );
    resources(
        json!({"requests": {"example.com/gpu": "1500m"}}),
        &[
            "spec.containers[0].resources.requests[example.com/gpu]: Invalid value: \"1500m\": must be an integer",
            "spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources",
        ],
    );
    resources(
        json!({"limits": {"hugepages-2Mi": "3Mi"}}),
        &[
            "spec.containers[0].resources.limits[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer \
             multiple of hugepages-2Mi",
            "spec.containers[0].resources.requests[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive…",
            "spec.containers[0].resources: Forbidden: HugePages require cpu or memory",
        ],
    );
    resources(
        json!({"claims": [{"name": "x"}]}),
        &["spec.containers[0].resources.claims[0]: Not found: \"x\": must be one of the names in \
           pod.spec.resourceClaims which is empty"],
    );
    spec(
        json!({"resources": {"requests": {"cpu": "1", "storage": "1"}}, "containers": [
            {"name": "c", "image": "i", "resources": {"requests": {"cpu": "2"}}}]}),
        &[
            "spec.resources.requests[storage]: Unsupported value: \"storage\": supported values: \"cpu\", \
             \"hugepages-\", \"memory\"",
            "spec.resources.requests[cpu]: Invalid value: \"1\": must be greater than or equal to aggregate container \
             requests of 2",
        ],
    );
}

#[test]
fn volumes() {
    let volume = |fields: Value, expected: &[&str]| {
        let mut volume = json!({"name": "v"});
        super::merge(&mut volume, fields);
        spec(json!({"volumes": [volume]}), expected);
    };
    volume(json!({"name": "V", "emptyDir": {}}), &["spec.volumes[0].name: Invalid value: \"V\": a lowercase…"]);
    volume(
        json!({"emptyDir": {}, "secret": {"secretName": "s"}}),
        &["spec.volumes[0].secret: Forbidden: may not specify more than 1 volume type"],
    );
    volume(
        json!({"configMap": {"defaultMode": 1000, "items": [{"key": "k", "path": "../x"}]}}),
        &[
            "spec.volumes[0].configMap.name: Required value",
            "spec.volumes[0].configMap.defaultMode: Invalid value: 1000: must be a number between 0 and 0777 (octal), \
             both inclusive",
            "spec.volumes[0].configMap.items[0].path: Invalid value: \"../x\": must not contain '..'",
        ],
    );
    volume(
        json!({"hostPath": {"path": "/a/../b", "type": "Door"}}),
        &[
            "spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
            "spec.volumes[0].hostPath.type: Unsupported value: \"Door\": supported values: \"\", \"BlockDevice\", …",
        ],
    );
    volume(
        json!({"projected": {"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 1}},
            {"configMap": {"name": "a", "items": [{"key": "k", "path": "p"}, {"key": "l", "path": "p"}]},
                "secret": {"name": "s"}}]}}),
        &[
            "spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 1: may not \
             specify a duration less than 10 minutes",
            "spec.volumes[0].projected: Invalid value: \"a\": conflicting duplicate paths",
            "spec.volumes[0].projected.sources[1]: Forbidden: may not specify more than 1 volume type per source",
            "spec.volumes[0].projected.sources[0].serviceAccountToken: Forbidden: must not be specified when \
             serviceAccountName is not set",
        ],
    );
    volume(
        json!({"csi": {"driver": ""}, "name": "v"}),
        &[
            "spec.volumes[0].csi.driver: Required value",
            "spec.volumes[0].csi.driver: Invalid value: \"\": a lowercase RFC 1123 subdomain…",
        ],
    );
    volume(
        json!({"ephemeral": {"volumeClaimTemplate": {"metadata": {"name": "x"}, "spec": {}}}}),
        &[
            "spec.volumes[0].ephemeral.volumeClaimTemplate.metadata.name: Forbidden: cannot be set",
            "spec.volumes[0].ephemeral.volumeClaimTemplate.spec.accessModes: Required value: at least 1 access mode is \
             required",
            "spec.volumes[0].ephemeral.volumeClaimTemplate.spec.resources[storage]: Required value",
        ],
    );
    volume(json!({"image": {}}), &["spec.volumes[0].image.reference: Required value"]);
    volume(
        json!({"nfs": {"server": "s", "path": "rel"}}),
        &["spec.volumes[0].nfs.path: Invalid value: \"rel\": must be an absolute path"],
    );
    volume(
        json!({"iscsi": {"targetPortal": "p", "iqn": "x", "lun": 300}}),
        &[
            "spec.volumes[0].iscsi.iqn: Invalid value: \"x\": must be valid format starting with iqn, eui, or naa",
            "spec.volumes[0].iscsi.lun: Invalid value: 300: must be between 0 and 255, inclusive",
        ],
    );
}

#[test]
fn mounts() {
    let mounts = |container: Value, expected: &[&str]| {
        let mut whole = json!({"name": "c", "image": "i"});
        super::merge(&mut whole, container);
        let volumes =
            json!([{"name": "v", "emptyDir": {}}, {"name": "p", "persistentVolumeClaim": {"claimName": "c"}}]);
        spec(json!({"containers": [whole], "volumes": volumes}), expected);
    };
    mounts(
        json!({"volumeMounts": [{"name": "v", "mountPath": "/a"}, {"name": "w", "mountPath": "/a"},
            {"name": "v", "mountPath": "/b", "subPath": "/x", "subPathExpr": "y", "mountPropagation": "Bidirectional",
                "recursiveReadOnly": "Enabled"}]}),
        &[
            "spec.containers[0].volumeMounts[1].name: Not found: \"w\"",
            "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
            "spec.containers[0].volumeMounts.subPath: Invalid value: \"/x\": must be a relative path",
            "spec.containers[0].volumeMounts[2].subPathExpr: Invalid value: \"y\": subPathExpr and subPath are \
             mutually exclusive",
            "spec.containers[0].volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available \
             only to privileged containers",
            "spec.containers[0].volumeMounts.recursiveReadOnly: Forbidden: may only be specified when readOnly is true",
            "spec.containers[0].volumeMounts.recursiveReadOnly: Forbidden: may only be specified when mountPropagation \
             is None or not specified",
        ],
    );
    mounts(
        json!({"volumeMounts": [{"name": "p", "mountPath": "/a"}],
            "volumeDevices": [{"name": "p", "devicePath": "/a"}, {"name": "v", "devicePath": "/d/../e"}]}),
        &[
            "spec.containers[0].volumeMounts[0].name: Invalid value: \"p\": must not already exist in volumeDevices",
            "spec.containers[0].volumeMounts[0].mountPath: Invalid value: \"/a\": must not already exist as a path in \
             volumeDevices",
            "spec.containers[0].volumeDevices[0].name: Invalid value: \"p\": must not already exist in volumeMounts",
            "spec.containers[0].volumeDevices[0].devicePath: Invalid value: \"/a\": must not already exist as a path \
             in volumeMounts",
            "spec.containers[0].volumeDevices[1].name: Invalid value: \"v\": can only use volume source type of \
             PersistentVolumeClaim or Ephemeral for block mode",
            "spec.containers[0].volumeDevices[1].devicePath: Invalid value: \"/d/../e\": can not contain backsteps \
             ('..')",
        ],
    );
}

#[test]
fn security() {
    container(
        json!({"securityContext": {"privileged": true, "allowPrivilegeEscalation": false, "runAsUser": -1}}),
        &[
            "spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, \
             inclusive",
            "spec.containers[0].securityContext: Invalid value: {\"allowPrivilegeEscalation\":false,…",
        ],
    );
    spec(
        json!({"securityContext": {"seccompProfile": {"type": "Localhost"}, "appArmorProfile": {"type": "X"},
            "sysctls": [{"name": "net.core.somaxconn", "value": "1"}, {"name": "BAD", "value": ""}],
            "fsGroupChangePolicy": "Never"}, "hostNetwork": true}),
        &[
            "spec.securityContext.sysctls[0].name: Invalid value: \"net.core.somaxconn\": may not be specified when \
             'hostNetwork' is true",
            "spec.securityContext.sysctls[1].name: Invalid value: \"BAD\": must have at most 253 characters and…",
            "spec.securityContext.fsGroupChangePolicy: Unsupported value: \"Never\": supported values: \"Always\", \
             \"OnRootMismatch\"",
            "spec.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is \
             Localhost",
            "spec.securityContext.appArmorProfile.type: Unsupported value: \"X\": supported values: \"Localhost\", \
             \"RuntimeDefault\", \"Unconfined\"",
        ],
    );
    spec(json!({"hostUsers": false, "hostPID": true}), &["spec.HostPID: Forbidden: when `hostUsers` is false"]);
    spec(
        json!({"os": {"name": "windows"}, "hostIPC": true, "securityContext": {"fsGroup": 1}}),
        &[
            "spec.hostIPC: Forbidden: cannot be set for a windows pod",
            "spec.securityContext.fsGroup: Forbidden: cannot be set for a windows pod",
        ],
    );
    spec(
        json!({"os": {"name": "plan9"}}),
        &["spec.os: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\""],
    );
}

#[test]
fn placement() {
    spec(
        json!({"tolerations": [{"operator": "Equal"}, {"key": "a", "operator": "Exists", "value": "x"},
            {"key": "a", "effect": "Sometimes", "tolerationSeconds": 1}]}),
        &[
            "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, \
             which means \"match all values and all keys\"",
            "spec.tolerations[1].operator: Invalid value: \"x\": value must be empty when `operator` is 'Exists'",
            "spec.tolerations[2].effect: Invalid value: \"Sometimes\": effect must be 'NoExecute' when \
             `tolerationSeconds` is set",
            "spec.tolerations[2].effect: Unsupported value: \"Sometimes\": supported values: \"NoSchedule\", \
             \"PreferNoSchedule\", \"NoExecute\"",
        ],
    );
    spec(
        json!({"topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "a", "whenUnsatisfiable": "DoNotSchedule",
            "matchLabelKeys": ["x"]}, {"maxSkew": 1, "topologyKey": "a", "whenUnsatisfiable": "DoNotSchedule",
            "minDomains": 0, "labelSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}]}),
        &[
            "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
            "spec.topologySpreadConstraints[0].{topologyKey, whenUnsatisfiable}: Duplicate value: \"{a, \
             DoNotSchedule}\"",
            "spec.topologySpreadConstraints[0].matchLabelKeys: Forbidden: must not be specified when labelSelector is \
             not set",
            "spec.topologySpreadConstraints[1].minDomains: Invalid value: 0: must be greater than zero",
            "spec.topologySpreadConstraints[1].labelSelector.matchExpressions[0].values: Required value: must be \
             specified when `operator` is 'In' or 'NotIn'",
        ],
    );
    spec(
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1", "2"]}],
                 "matchFields": [{"key": "metadata.uid", "operator": "In", "values": ["x"]}]}]}},
            "podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 101, "podAffinityTerm": {"labelSelector": {}, "topologyKey": ""}}]}}}),
        &[
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].\
             matchExpressions[0].values: Required value: must be specified single value when `operator` is 'Lt' or \
             'Gt'",
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].\
             matchFields[0].key: Invalid value: \"metadata.uid\": not a valid field selector key",
            "spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 101: \
             must be in the range 1-100",
            "spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.topologyKey: \
             Required value: can not be empty",
            "spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.topologyKey: \
             Invalid value: \"\": name part must be non-empty",
            "spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.topologyKey: \
             Invalid value: \"\": name part must consist of…",
        ],
    );
    spec(
        json!({"schedulingGates": [{"name": "g"}, {"name": "g"}], "nodeName": "n"}),
        &[
            "spec.schedulingGates[1]: Duplicate value: \"g\"",
            "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
        ],
    );
    spec(
        json!({"resourceClaims": [{"name": "a"}]}),
        &["spec.resourceClaims[0]: Invalid value: {\"name\":\"a\"}: must specify one of: `resourceClaimName`, \
           `resourceClaimTemplateName`"],
    );
}

#[test]
fn the_rest_of_the_spec() {
    spec(
        json!({"restartPolicy": "Maybe", "dnsPolicy": "None", "activeDeadlineSeconds": 0, "hostname": "a.b",
            "runtimeClassName": "", "preemptionPolicy": "Often"}),
        &[
            "spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
            "spec.hostname: Invalid value: \"a.b\": must not contain dots",
            "spec.runtimeClassName: Invalid value: \"\": a lowercase RFC 1123 subdomain…",
            "spec.preemptionPolicy: Unsupported value: \"Often\": supported values: \"PreemptLowerPriority\", \
             \"Never\"",
        ],
    );
    spec(
        json!({"dnsConfig": {"nameservers": ["x"], "searches": ["_tcp.a", "A", "."], "options": [{}]},
            "hostAliases": [{"ip": "1.2.3", "hostnames": ["A"]}]}),
        &[
            "spec.dnsConfig.nameservers[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or \
             2001:db8::ffff)",
            "spec.dnsConfig.searches[1]: Invalid value: \"A\": a lowercase RFC 1123 subdomain…",
            "spec.dnsConfig.options[0]: Required value: must not be empty",
            "spec.hostAliases[0].ip: Invalid value: \"1.2.3\": must be a valid IP address, …",
            "spec.hostAliases[0].hostnames[0]: Invalid value: \"A\": a lowercase RFC 1123 subdomain…",
        ],
    );
    create(
        &base(),
        json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "01",
            "kubernetes.io/config.mirror": "x"}}}),
        &[
            "metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: \"01\": must be a 32bit \
             integer",
            "metadata.annotations[kubernetes.io/config.mirror]: Invalid value: \"x\": must set spec.nodeName if mirror \
             pod annotation is set",
        ],
    );
}
