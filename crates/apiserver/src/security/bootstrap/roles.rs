//! The default ClusterRoles and Roles of Kubernetes 1.36 and who gets them, as a table.
//!
//! A rule is one line of text: `verbs groups resources [names]` or `verbs /paths`, each a list with commas; the core group
//! is written `core`. `rw` stands for all eight usual verbs, `ro` for the three that read. The facts are those of upstream's
//! bootstrap policy (`plugin/pkg/auth/authorizer/rbac/bootstrappolicy`).

use serde_json::{Value, json};

/// The label of every default role and binding.
const BOOTSTRAPPING: &str = "kubernetes.io/bootstrapping";
/// Whether a default role or binding gets back what was taken from it; `"false"` keeps the change.
pub(super) const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

const EVENTS: &str = "create,patch,update core,events.k8s.io events";

/// A default role.
pub(super) struct Role {
    pub(super) name: &'static str,
    /// For a Role, its namespace.
    pub(super) namespace: &'static str,
    /// The roles (`admin`, `edit`, `view`) that get the rules of this one too.
    pub(super) aggregate_to: &'static str,
    /// Whether the rules are those of the roles that name this one in `aggregate_to`.
    pub(super) aggregated: bool,
    pub(super) rules: &'static [&'static str],
}

const fn role(name: &'static str, rules: &'static [&'static str]) -> Role {
    Role { name, namespace: "", aggregate_to: "", aggregated: false, rules }
}

const fn local(namespace: &'static str, name: &'static str, rules: &'static [&'static str]) -> Role {
    Role { name, namespace, aggregate_to: "", aggregated: false, rules }
}

const fn part(name: &'static str, aggregate_to: &'static str, rules: &'static [&'static str]) -> Role {
    Role { name, namespace: "", aggregate_to, aggregated: false, rules }
}

const fn sum(name: &'static str, aggregate_to: &'static str) -> Role {
    Role { name, namespace: "", aggregate_to, aggregated: true, rules: &[] }
}

/// The default ClusterRoles, without those of the controllers.
pub(super) const CLUSTER_ROLES: &[Role] = &[
    role("cluster-admin", &["* * *", "* *"]),
    sum("admin", ""),
    sum("edit", "admin"),
    sum("view", "edit"),
    part(
        "system:aggregate-to-admin",
        "admin",
        &["create authorization.k8s.io localsubjectaccessreviews", "rw rbac.authorization.k8s.io roles,rolebindings"],
    ),
    part(
        "system:aggregate-to-edit",
        "edit",
        &[
            "ro core pods/attach,pods/exec,pods/portforward,pods/proxy,secrets,services/proxy",
            "impersonate core serviceaccounts",
            "create,delete,deletecollection,patch,update core pods,pods/attach,pods/exec,pods/portforward,pods/proxy",
            "create core pods/eviction",
            "create,delete,deletecollection,patch,update core configmaps,events,persistentvolumeclaims,replicationcontrollers,replicationcontrollers/scale,secrets,serviceaccounts,services,services/proxy",
            "create core serviceaccounts/token",
            "create,delete,deletecollection,patch,update apps daemonsets,deployments,deployments/rollback,deployments/scale,replicasets,replicasets/scale,statefulsets,statefulsets/scale",
            "create,delete,deletecollection,patch,update autoscaling horizontalpodautoscalers",
            "create,delete,deletecollection,patch,update batch cronjobs,jobs",
            "create,delete,deletecollection,patch,update extensions daemonsets,deployments,deployments/rollback,deployments/scale,ingresses,networkpolicies,replicasets,replicasets/scale,replicationcontrollers/scale",
            "create,delete,deletecollection,patch,update policy poddisruptionbudgets",
            "create,delete,deletecollection,patch,update networking.k8s.io ingresses,networkpolicies",
            "rw coordination.k8s.io leases",
            "create,delete,deletecollection,patch,update resource.k8s.io resourceclaims,resourceclaimtemplates",
        ],
    ),
    part(
        "system:aggregate-to-view",
        "view",
        &[
            "ro core configmaps,endpoints,persistentvolumeclaims,persistentvolumeclaims/status,pods,replicationcontrollers,replicationcontrollers/scale,serviceaccounts,services,services/status",
            "ro core bindings,events,limitranges,namespaces/status,pods/log,pods/status,replicationcontrollers/status,resourcequotas,resourcequotas/status",
            "ro core namespaces",
            "ro discovery.k8s.io endpointslices",
            "ro apps controllerrevisions,daemonsets,daemonsets/status,deployments,deployments/scale,deployments/status,replicasets,replicasets/scale,replicasets/status,statefulsets,statefulsets/scale,statefulsets/status",
            "ro autoscaling horizontalpodautoscalers,horizontalpodautoscalers/status",
            "ro batch cronjobs,cronjobs/status,jobs,jobs/status",
            "ro extensions daemonsets,daemonsets/status,deployments,deployments/scale,deployments/status,ingresses,ingresses/status,networkpolicies,replicasets,replicasets/scale,replicasets/status,replicationcontrollers/scale",
            "ro policy poddisruptionbudgets,poddisruptionbudgets/status",
            "ro networking.k8s.io ingresses,ingresses/status,networkpolicies",
            "ro resource.k8s.io resourceclaims,resourceclaims/status,resourceclaimtemplates",
        ],
    ),
    role(
        "system:discovery",
        &["get /api,/api/*,/apis,/apis/*,/healthz,/livez,/openapi,/openapi/*,/readyz,/version,/version/"],
    ),
    role("system:public-info-viewer", &["get /healthz,/livez,/readyz,/version,/version/"]),
    role(
        "system:basic-user",
        &[
            "create authorization.k8s.io selfsubjectaccessreviews,selfsubjectrulesreviews",
            "create authentication.k8s.io selfsubjectreviews",
        ],
    ),
    role(
        "system:monitoring",
        &["get /healthz,/healthz/*,/livez,/livez/*,/metrics,/metrics/slis,/readyz,/readyz/*,/flagz,/statusz"],
    ),
    role(
        "system:auth-delegator",
        &["create authentication.k8s.io tokenreviews", "create authorization.k8s.io subjectaccessreviews"],
    ),
    role("system:service-account-issuer-discovery", &["get /.well-known/openid-configuration,/openid/v1/jwks"]),
    role("system:heapster", &["ro core events,namespaces,nodes,pods", "ro extensions deployments"]),
    role("system:kube-aggregator", &["ro core endpoints,services"]),
    role("system:kube-dns", &["list,watch core endpoints,services"]),
    role(
        "system:kubelet-api-admin",
        &[
            "ro core nodes",
            "proxy core nodes",
            "* core nodes/configz,nodes/healthz,nodes/log,nodes/metrics,nodes/pods,nodes/proxy,nodes/stats",
        ],
    ),
    role("system:node-bootstrapper", &["create,get,list,watch certificates.k8s.io certificatesigningrequests"]),
    role("system:node-problem-detector", &["get core nodes", "patch core nodes/status", EVENTS]),
    role(
        "system:node-proxier",
        &[
            "list,watch core services",
            "ro core nodes",
            EVENTS,
            "list,watch discovery.k8s.io endpointslices",
            "list,watch networking.k8s.io servicecidrs",
        ],
    ),
    // What the Ingress proxy beside a server does. It reads Secrets, which no node may do.
    role(
        "kobune:ingress",
        &[
            "list,watch networking.k8s.io ingressclasses,ingresses",
            "create networking.k8s.io ingressclasses",
            "patch networking.k8s.io ingresses/status",
            "list,watch core secrets",
        ],
    ),
    // What the rules of network policies are made from, on every node: those of administrators where they are defined.
    role(
        "kobune:network",
        &[
            "list,watch core namespaces,nodes,pods",
            "list,watch networking.k8s.io networkpolicies",
            "ro apiextensions.k8s.io customresourcedefinitions",
            "list,watch policy.networking.k8s.io adminnetworkpolicies,baselineadminnetworkpolicies,clusternetworkpolicies",
        ],
    ),
    role(
        "system:persistent-volume-provisioner",
        &[
            "create,delete,get,list,watch core persistentvolumes",
            "get,list,update,watch core persistentvolumeclaims",
            "ro storage.k8s.io storageclasses",
            "watch core events",
            EVENTS,
        ],
    ),
    role(
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &["create certificates.k8s.io certificatesigningrequests/nodeclient"],
    ),
    role(
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &["create certificates.k8s.io certificatesigningrequests/selfnodeclient"],
    ),
    role(
        "system:certificates.k8s.io:kube-apiserver-client-approver",
        &["approve certificates.k8s.io signers kubernetes.io/kube-apiserver-client"],
    ),
    role(
        "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        &["approve certificates.k8s.io signers kubernetes.io/kube-apiserver-client-kubelet"],
    ),
    role(
        "system:certificates.k8s.io:kubelet-serving-approver",
        &["approve certificates.k8s.io signers kubernetes.io/kubelet-serving"],
    ),
    role(
        "system:certificates.k8s.io:legacy-unknown-approver",
        &["approve certificates.k8s.io signers kubernetes.io/legacy-unknown"],
    ),
    role(
        "system:kube-controller-manager",
        &[
            EVENTS,
            "create coordination.k8s.io leases",
            "get,update coordination.k8s.io leases kube-controller-manager",
            "create core secrets,serviceaccounts",
            "delete core secrets",
            "get core configmaps,namespaces,secrets,serviceaccounts",
            "update core secrets,serviceaccounts",
            "create authentication.k8s.io tokenreviews",
            "create authorization.k8s.io subjectaccessreviews",
            "list,watch * *",
            "create core serviceaccounts/token",
        ],
    ),
    role(
        "system:kube-scheduler",
        &[
            EVENTS,
            "create coordination.k8s.io leases",
            "get,list,update,watch coordination.k8s.io leases kube-scheduler",
            "ro core nodes",
            "delete,get,list,watch core pods",
            "create core bindings,pods/binding",
            "patch,update core pods/status",
            "ro core replicationcontrollers,services",
            "ro apps,extensions replicasets",
            "ro apps statefulsets",
            "ro policy poddisruptionbudgets",
            "ro core persistentvolumeclaims,persistentvolumes",
            "create authentication.k8s.io tokenreviews",
            "create authorization.k8s.io subjectaccessreviews",
            "ro storage.k8s.io csinodes",
            "ro core namespaces",
            "ro storage.k8s.io csidrivers",
            "ro storage.k8s.io csistoragecapacities",
            "ro storage.k8s.io volumeattachments",
            "ro resource.k8s.io deviceclasses",
            "get,list,patch,update,watch resource.k8s.io resourceclaims",
            "patch,update resource.k8s.io resourceclaims/status",
            "ro resource.k8s.io resourceslices",
            "list,watch storage.k8s.io storageclasses",
        ],
    ),
    role(
        "system:volume-scheduler",
        &[
            "get,list,patch,update,watch core persistentvolumes",
            "ro storage.k8s.io storageclasses",
            "get,list,patch,update,watch core persistentvolumeclaims",
        ],
    ),
    role(
        "system:node",
        &[
            "create authentication.k8s.io tokenreviews",
            "create authorization.k8s.io localsubjectaccessreviews,subjectaccessreviews",
            "ro core services",
            "create,get,list,watch core nodes",
            "patch,update core nodes/status",
            "patch,update core nodes",
            "create,patch,update core,events.k8s.io events",
            "ro core pods",
            "create,delete core pods",
            "patch,update core pods/status",
            "create core pods/eviction",
            "ro core configmaps,secrets",
            "get core persistentvolumeclaims,persistentvolumes",
            "create,get,list,watch certificates.k8s.io certificatesigningrequests",
            "create,delete,get,patch,update coordination.k8s.io leases",
            "get storage.k8s.io volumeattachments",
            "create core serviceaccounts/token",
            "get,patch,update core persistentvolumeclaims/status",
            "ro storage.k8s.io csidrivers",
            "create,delete,get,patch,update storage.k8s.io csinodes",
            "ro node.k8s.io runtimeclasses",
            "get resource.k8s.io resourceclaims",
            "deletecollection resource.k8s.io resourceslices",
            "create,delete,get,list,patch,update,watch resource.k8s.io resourceslices",
        ],
    ),
];

/// The default Roles.
pub(super) const ROLES: &[Role] = &[
    local(
        "kube-public",
        "system:controller:bootstrap-signer",
        &["ro core configmaps", "update core configmaps cluster-info", EVENTS],
    ),
    local(
        "kube-system",
        "extension-apiserver-authentication-reader",
        &["ro core configmaps extension-apiserver-authentication"],
    ),
    local("kube-public", "kubeadm:bootstrap-signer-clusterinfo", &["get core configmaps cluster-info"]),
    local("kube-system", "system::leader-locking-kube-controller-manager", LEADER),
    local("kube-system", "system::leader-locking-kube-scheduler", LEADER),
    local("kube-system", "system:controller:bootstrap-signer", &["ro core secrets"]),
    local("kube-system", "kobune:network", &["get core configmaps kobune-network"]),
    local("kube-system", "system:controller:cloud-provider", &["create,get,list,watch core configmaps"]),
    local("kube-system", "system:controller:token-cleaner", &["delete,get,list,watch core secrets", EVENTS]),
];

const LEADER: &[&str] = &[
    "create,get,list,update,watch coordination.k8s.io leases",
    "create,get,list,update,watch coordination.k8s.io leasecandidates",
];

/// The group of bootstrap tokens with which machines join.
const JOINING: &str = "group:system:bootstrappers:kubeadm:default-node-token";

/// The default bindings: namespace (or empty), name, role, subjects. A subject is `user:`, `group:` or `sa:` and a name; service
/// accounts are in kube-system.
pub(super) const BINDINGS: &[(&str, &str, &str, &[&str])] = &[
    ("", "cluster-admin", "cluster-admin", &["group:system:masters"]),
    ("", "system:monitoring", "system:monitoring", &["group:system:monitoring"]),
    ("", "system:discovery", "system:discovery", &["group:system:authenticated"]),
    ("", "system:basic-user", "system:basic-user", &["group:system:authenticated"]),
    (
        "",
        "system:public-info-viewer",
        "system:public-info-viewer",
        &["group:system:authenticated", "group:system:unauthenticated"],
    ),
    ("", "system:node-proxier", "system:node-proxier", &["user:system:kube-proxy"]),
    // An agent keeps the rules of services in the name of its node: there is no second program to be kube-proxy.
    ("", "kobune:node-proxier", "system:node-proxier", &["group:system:nodes"]),
    ("", "kobune:ingress", "kobune:ingress", &["user:system:kobune-ingress"]),
    ("", "kobune:network", "kobune:network", &["user:system:kube-proxy", "group:system:nodes"]),
    ("kube-system", "kobune:network", "kobune:network", &["group:system:nodes"]),
    ("", "system:kube-controller-manager", "system:kube-controller-manager", &["user:system:kube-controller-manager"]),
    ("", "system:kube-dns", "system:kube-dns", &["sa:kube-dns"]),
    ("", "system:kube-scheduler", "system:kube-scheduler", &["user:system:kube-scheduler"]),
    ("", "system:volume-scheduler", "system:volume-scheduler", &["user:system:kube-scheduler"]),
    ("", "system:node", "system:node", &[]),
    // What kubeadm adds to a cluster so that machines with a bootstrap token can become nodes.
    ("", "kubeadm:kubelet-bootstrap", "system:node-bootstrapper", &[JOINING]),
    (
        "",
        "kubeadm:node-autoapprove-bootstrap",
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &[JOINING],
    ),
    (
        "",
        "kubeadm:node-autoapprove-certificate-rotation",
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &["group:system:nodes"],
    ),
    (
        "kube-public",
        "kubeadm:bootstrap-signer-clusterinfo",
        "kubeadm:bootstrap-signer-clusterinfo",
        &["user:system:anonymous"],
    ),
    (
        "",
        "system:service-account-issuer-discovery",
        "system:service-account-issuer-discovery",
        &["group:system:serviceaccounts"],
    ),
    (
        "kube-public",
        "system:controller:bootstrap-signer",
        "system:controller:bootstrap-signer",
        &["sa:bootstrap-signer"],
    ),
    (
        "kube-system",
        "system::extension-apiserver-authentication-reader",
        "extension-apiserver-authentication-reader",
        &["user:system:kube-controller-manager", "user:system:kube-scheduler"],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-controller-manager",
        "system::leader-locking-kube-controller-manager",
        &["user:system:kube-controller-manager", "sa:kube-controller-manager", "sa:leader-election-controller"],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-scheduler",
        "system::leader-locking-kube-scheduler",
        &["user:system:kube-scheduler", "sa:kube-scheduler"],
    ),
    (
        "kube-system",
        "system:controller:bootstrap-signer",
        "system:controller:bootstrap-signer",
        &["sa:bootstrap-signer"],
    ),
    ("kube-system", "system:controller:cloud-provider", "system:controller:cloud-provider", &["sa:cloud-provider"]),
    ("kube-system", "system:controller:token-cleaner", "system:controller:token-cleaner", &["sa:token-cleaner"]),
];

/// A rule's line as a `PolicyRule`.
pub(super) fn rule(line: &str) -> Value {
    let list = |text: &str| -> Vec<String> { text.split(',').map(str::to_owned).collect() };
    let mut words = line.split(' ');
    let verbs = match words.next().unwrap_or_default() {
        "rw" => list("create,delete,deletecollection,get,list,patch,update,watch"),
        "ro" => list("get,list,watch"),
        other => list(other),
    };
    let second = words.next().unwrap_or_default();
    let Some(resources) = words.next() else { return json!({ "verbs": verbs, "nonResourceURLs": list(second) }) };
    let groups: Vec<String> =
        list(second).into_iter().map(|group| if group == "core" { String::new() } else { group }).collect();
    let mut rule = json!({ "verbs": verbs, "apiGroups": groups, "resources": list(resources) });
    if let Some(names) = words.next() {
        rule["resourceNames"] = list(names).into();
    }
    rule
}

fn metadata(namespace: &str, name: &str) -> Value {
    let mut metadata = json!({
        "name": name, "labels": { BOOTSTRAPPING: "rbac-defaults" }, "annotations": { AUTOUPDATE: "true" },
    });
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.into();
    }
    metadata
}

/// A role's object. The rules of an aggregated role are the sum of the default ones.
pub(super) fn role_object(role: &Role) -> Value {
    let kind = if role.namespace.is_empty() { "ClusterRole" } else { "Role" };
    let mut object = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata(role.namespace, role.name),
        "rules": rules_of(role),
    });
    if !role.aggregate_to.is_empty() {
        object["metadata"]["labels"][format!("rbac.authorization.k8s.io/aggregate-to-{}", role.aggregate_to)] =
            "true".into();
    }
    if role.aggregated {
        let label = format!("rbac.authorization.k8s.io/aggregate-to-{}", role.name);
        object["aggregationRule"] = json!({ "clusterRoleSelectors": [{ "matchLabels": { label: "true" } }] });
    }
    object
}

fn rules_of(role: &Role) -> Vec<Value> {
    if !role.aggregated {
        return role.rules.iter().map(|line| rule(line)).collect();
    }
    // Names sort as the aggregation controller sorts them, so that it finds nothing to change.
    let mut parts: Vec<&Role> = CLUSTER_ROLES.iter().filter(|part| part.aggregate_to == role.name).collect();
    parts.sort_by_key(|part| part.name);
    let mut rules = Vec::new();
    for rule in parts.into_iter().flat_map(rules_of) {
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    rules
}

/// The object of a binding of [`BINDINGS`], or of a controller.
pub(super) fn binding_object(namespace: &str, name: &str, role: &str, subjects: &[&str]) -> Value {
    let group = "rbac.authorization.k8s.io";
    let subjects: Vec<Value> = subjects
        .iter()
        .filter_map(|subject| subject.split_once(':'))
        .map(|(kind, name)| match kind {
            "user" => json!({ "apiGroup": group, "kind": "User", "name": name }),
            "group" => json!({ "apiGroup": group, "kind": "Group", "name": name }),
            _ => json!({ "kind": "ServiceAccount", "name": name, "namespace": "kube-system" }),
        })
        .collect();
    let (kind, role_kind) =
        if namespace.is_empty() { ("ClusterRoleBinding", "ClusterRole") } else { ("RoleBinding", "Role") };
    let mut object = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata(namespace, name),
        "roleRef": { "apiGroup": group, "kind": role_kind, "name": role },
    });
    if !subjects.is_empty() {
        object["subjects"] = subjects.into();
    }
    object
}
