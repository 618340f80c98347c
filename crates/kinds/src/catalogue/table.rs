//! The flat table of kinds that Kubernetes 1.36 serves by default: names, verbs and subresources.

use crate::kind::Verb::{self, Create, Delete, DeleteCollection, Get, List, Patch, Update, Watch};

const ALL: &[Verb] = &[Create, Delete, DeleteCollection, Get, List, Patch, Update, Watch];
const NO_COLLECTION: &[Verb] = &[Create, Delete, Get, List, Patch, Update, Watch];
const CHANGE: &[Verb] = &[Get, Patch, Update];
const PROXY: &[Verb] = &[Create, Delete, Get, Patch, Update];
const STREAM: &[Verb] = &[Create, Get];
const CREATE: &[Verb] = &[Create];

/// A subresource; its body is of the parent's kind unless it says otherwise.
pub(super) struct Sub {
    pub name: &'static str,
    pub body: Option<(&'static str, &'static str, &'static str)>,
    pub verbs: &'static [Verb],
}

const fn own(name: &'static str, verbs: &'static [Verb]) -> Sub {
    Sub { name, body: None, verbs }
}

const fn sub(name: &'static str, body: (&'static str, &'static str, &'static str), verbs: &'static [Verb]) -> Sub {
    Sub { name, body: Some(body), verbs }
}

const STATUS: Sub = own("status", CHANGE);
const SCALE: Sub = sub("scale", ("autoscaling", "v1", "Scale"), CHANGE);

/// One kind.
pub(super) struct Row {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub namespaced: bool,
    pub verbs: &'static [Verb],
    pub subresources: &'static [Sub],
    pub storage: Option<(&'static str, &'static str)>,
}

/// A kind in namespaces.
const fn local(group: &'static str, version: &'static str, kind: &'static str, plural: &'static str) -> Row {
    Row {
        group,
        version,
        kind,
        plural,
        short_names: &[],
        categories: &[],
        namespaced: true,
        verbs: ALL,
        subresources: &[],
        storage: None,
    }
}

/// A kind outside namespaces.
const fn global(group: &'static str, version: &'static str, kind: &'static str, plural: &'static str) -> Row {
    let mut row = local(group, version, kind, plural);
    row.namespaced = false;
    row
}

impl Row {
    const fn short(mut self, names: &'static [&'static str]) -> Row {
        self.short_names = names;
        self
    }

    const fn category(mut self, names: &'static [&'static str]) -> Row {
        self.categories = names;
        self
    }

    const fn verbs(mut self, verbs: &'static [Verb]) -> Row {
        self.verbs = verbs;
        self
    }

    const fn subs(mut self, subresources: &'static [Sub]) -> Row {
        self.subresources = subresources;
        self
    }

    const fn stored_as(mut self, group: &'static str, version: &'static str) -> Row {
        self.storage = Some((group, version));
        self
    }
}

const ADMISSION: &str = "admissionregistration.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";
const FLOW_CONTROL: &str = "flowcontrol.apiserver.k8s.io";
const NETWORKING: &str = "networking.k8s.io";
const RBAC: &str = "rbac.authorization.k8s.io";
const RESOURCE: &str = "resource.k8s.io";
const STORAGE: &str = "storage.k8s.io";
const EVERYTHING: &[&str] = &["all"];
const EXTENSIONS: &[&str] = &["api-extensions"];

/// Core first, then the groups in the order of upstream's discovery, newest version of a group first.
pub(super) static KINDS: &[Row] = &[
    local("", "v1", "Binding", "bindings").verbs(CREATE),
    global("", "v1", "ComponentStatus", "componentstatuses").short(&["cs"]).verbs(&[Get, List]),
    local("", "v1", "ConfigMap", "configmaps").short(&["cm"]),
    local("", "v1", "Endpoints", "endpoints").short(&["ep"]),
    local("", "v1", "Event", "events").short(&["ev"]),
    local("", "v1", "LimitRange", "limitranges").short(&["limits"]),
    global("", "v1", "Namespace", "namespaces")
        .short(&["ns"])
        .verbs(NO_COLLECTION)
        .subs(&[own("finalize", &[Update]), STATUS]),
    global("", "v1", "Node", "nodes")
        .short(&["no"])
        .subs(&[sub("proxy", ("", "v1", "NodeProxyOptions"), PROXY), STATUS]),
    local("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims").short(&["pvc"]).subs(&[STATUS]),
    global("", "v1", "PersistentVolume", "persistentvolumes").short(&["pv"]).subs(&[STATUS]),
    local("", "v1", "Pod", "pods").short(&["po"]).category(EVERYTHING).subs(&[
        sub("attach", ("", "v1", "PodAttachOptions"), STREAM),
        sub("binding", ("", "v1", "Binding"), CREATE),
        own("ephemeralcontainers", CHANGE),
        sub("eviction", ("policy", "v1", "Eviction"), CREATE),
        sub("exec", ("", "v1", "PodExecOptions"), STREAM),
        own("log", &[Get]),
        sub("portforward", ("", "v1", "PodPortForwardOptions"), STREAM),
        sub("proxy", ("", "v1", "PodProxyOptions"), PROXY),
        own("resize", CHANGE),
        STATUS,
    ]),
    local("", "v1", "PodTemplate", "podtemplates"),
    local("", "v1", "ReplicationController", "replicationcontrollers")
        .short(&["rc"])
        .category(EVERYTHING)
        .subs(&[SCALE, STATUS]),
    local("", "v1", "ResourceQuota", "resourcequotas").short(&["quota"]).subs(&[STATUS]),
    local("", "v1", "Secret", "secrets"),
    local("", "v1", "ServiceAccount", "serviceaccounts").short(&["sa"]).subs(&[sub(
        "token",
        ("authentication.k8s.io", "v1", "TokenRequest"),
        CREATE,
    )]),
    local("", "v1", "Service", "services")
        .short(&["svc"])
        .category(EVERYTHING)
        .subs(&[sub("proxy", ("", "v1", "ServiceProxyOptions"), PROXY), STATUS]),
    global("apiregistration.k8s.io", "v1", "APIService", "apiservices").category(EXTENSIONS).subs(&[STATUS]),
    local("apps", "v1", "ControllerRevision", "controllerrevisions"),
    local("apps", "v1", "DaemonSet", "daemonsets").short(&["ds"]).category(EVERYTHING).subs(&[STATUS]),
    local("apps", "v1", "Deployment", "deployments").short(&["deploy"]).category(EVERYTHING).subs(&[SCALE, STATUS]),
    local("apps", "v1", "ReplicaSet", "replicasets").short(&["rs"]).category(EVERYTHING).subs(&[SCALE, STATUS]),
    local("apps", "v1", "StatefulSet", "statefulsets").short(&["sts"]).category(EVERYTHING).subs(&[SCALE, STATUS]),
    local("events.k8s.io", "v1", "Event", "events").short(&["ev"]).stored_as("", "v1"),
    global("authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews").verbs(CREATE),
    global("authentication.k8s.io", "v1", "TokenReview", "tokenreviews").verbs(CREATE),
    local(AUTHORIZATION, "v1", "LocalSubjectAccessReview", "localsubjectaccessreviews").verbs(CREATE),
    global(AUTHORIZATION, "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews").verbs(CREATE),
    global(AUTHORIZATION, "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews").verbs(CREATE),
    global(AUTHORIZATION, "v1", "SubjectAccessReview", "subjectaccessreviews").verbs(CREATE),
    local("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
        .short(&["hpa"])
        .category(EVERYTHING)
        .subs(&[STATUS]),
    local("autoscaling", "v1", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
        .short(&["hpa"])
        .category(EVERYTHING)
        .subs(&[STATUS])
        .stored_as("autoscaling", "v2"),
    local("batch", "v1", "CronJob", "cronjobs").short(&["cj"]).category(EVERYTHING).subs(&[STATUS]),
    local("batch", "v1", "Job", "jobs").category(EVERYTHING).subs(&[STATUS]),
    global("certificates.k8s.io", "v1", "CertificateSigningRequest", "certificatesigningrequests")
        .short(&["csr"])
        .subs(&[own("approval", CHANGE), STATUS]),
    global(NETWORKING, "v1", "IngressClass", "ingressclasses"),
    local(NETWORKING, "v1", "Ingress", "ingresses").short(&["ing"]).subs(&[STATUS]),
    global(NETWORKING, "v1", "IPAddress", "ipaddresses").short(&["ip"]),
    local(NETWORKING, "v1", "NetworkPolicy", "networkpolicies").short(&["netpol"]),
    global(NETWORKING, "v1", "ServiceCIDR", "servicecidrs").subs(&[STATUS]),
    local("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets").short(&["pdb"]).subs(&[STATUS]),
    global(RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings"),
    global(RBAC, "v1", "ClusterRole", "clusterroles"),
    local(RBAC, "v1", "RoleBinding", "rolebindings"),
    local(RBAC, "v1", "Role", "roles"),
    global(STORAGE, "v1", "CSIDriver", "csidrivers"),
    global(STORAGE, "v1", "CSINode", "csinodes"),
    local(STORAGE, "v1", "CSIStorageCapacity", "csistoragecapacities"),
    global(STORAGE, "v1", "StorageClass", "storageclasses").short(&["sc"]),
    global(STORAGE, "v1", "VolumeAttachment", "volumeattachments").subs(&[STATUS]),
    global(STORAGE, "v1", "VolumeAttributesClass", "volumeattributesclasses").short(&["vac"]),
    global(ADMISSION, "v1", "MutatingAdmissionPolicy", "mutatingadmissionpolicies").category(EXTENSIONS),
    global(ADMISSION, "v1", "MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings").category(EXTENSIONS),
    global(ADMISSION, "v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations").category(EXTENSIONS),
    global(ADMISSION, "v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies")
        .category(EXTENSIONS)
        .subs(&[STATUS]),
    global(ADMISSION, "v1", "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings")
        .category(EXTENSIONS),
    global(ADMISSION, "v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations").category(EXTENSIONS),
    global("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions")
        .short(&["crd", "crds"])
        .category(EXTENSIONS)
        .subs(&[STATUS]),
    global("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses").short(&["pc"]),
    local("coordination.k8s.io", "v1", "Lease", "leases"),
    global("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses"),
    local("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices"),
    global(RESOURCE, "v1", "DeviceClass", "deviceclasses"),
    local(RESOURCE, "v1", "ResourceClaim", "resourceclaims").subs(&[STATUS]),
    local(RESOURCE, "v1", "ResourceClaimTemplate", "resourceclaimtemplates"),
    global(RESOURCE, "v1", "ResourceSlice", "resourceslices"),
    global(FLOW_CONTROL, "v1", "FlowSchema", "flowschemas").subs(&[STATUS]),
    global(FLOW_CONTROL, "v1", "PriorityLevelConfiguration", "prioritylevelconfigurations").subs(&[STATUS]),
];
