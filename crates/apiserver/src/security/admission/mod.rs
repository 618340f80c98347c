//! Admission: the modules that complete or refuse writes, in upstream's order.
//!
//! Each module is a file with plain functions over `Value`. What they need from the store is looked up here or by
//! themselves through [`Security`]; what is not about their kind costs them one comparison.

mod certificates;
mod claim_resize;
mod default_class;
mod default_toleration_seconds;
mod fields;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
mod object_in_use_protection;
mod pod_security;
mod priority;
mod resource_quota;
mod runtime_class;
mod service_account;
mod taint_nodes_by_condition;

use serde_json::Value;

use super::{Refusal, Security, User, rbac};
use crate::audit::Trail;

pub(super) use resource_quota::QuotaBook;
pub(crate) use resource_quota::shared::COLLECTION as QUOTAS;

/// What is done to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A new object.
    Create,
    /// A change of an object or of one of its subresources.
    Update,
    /// The removal of an object.
    Delete,
    /// A connection to a subresource: exec, attach, port-forward, proxy.
    Connect,
}

/// The write that is to be admitted.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// What is done.
    pub operation: Operation,
    /// The API group, empty for the core.
    pub group: &'a str,
    /// The API version.
    pub version: &'a str,
    /// The resource in the plural.
    pub resource: &'a str,
    /// The subresource, or empty.
    pub subresource: &'a str,
    /// The kind of the object.
    pub kind: &'a str,
    /// The namespace, or empty.
    pub namespace: &'a str,
    /// The object's name; may be empty on create with `generateName`.
    pub name: &'a str,
    /// Who asks.
    pub user: &'a User,
    /// Whether nothing will be written.
    pub dry_run: bool,
    /// The request's audit trail, to which modules add notes.
    pub(crate) trail: Option<&'a Trail>,
}

impl Request<'_> {
    /// Adds a note to the audit trail, if there is one.
    pub(crate) fn annotate(&self, key: &str, value: &str) {
        if let Some(trail) = self.trail {
            trail.annotate(key, value);
        }
    }

    /// Whether the request is for this resource itself, not for a subresource.
    fn is_for(&self, group: &str, resource: &str) -> bool {
        self.group == group && self.resource == resource && self.subresource.is_empty()
    }

    fn creates(&self) -> bool {
        self.operation == Operation::Create
    }

    fn writes(&self) -> bool {
        matches!(self.operation, Operation::Create | Operation::Update)
    }

    /// Upstream's refusal by a module: `pods "web" is forbidden: <why>`.
    fn forbid(&self, object: Option<&Value>, why: impl std::fmt::Display) -> Refusal {
        let mut name = self.name;
        if name.is_empty() {
            let text =
                |key: &str| object.and_then(|object| object["metadata"][key].as_str()).filter(|text| !text.is_empty());
            name = text("name").or_else(|| text("generateName")).unwrap_or("Unknown");
        }
        Refusal::forbidden(self.group, self.resource, name, why)
    }
}

pub(super) async fn mutate(
    security: &Security,
    request: &Request<'_>,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<Vec<String>, Refusal> {
    namespace_lifecycle::admit(&security.lookup, request, Some(object)).await?;
    if request.is_for("", "pods") && request.writes() {
        if request.creates() {
            limit_ranger::set_defaults(&security.lookup, request, object).await?;
            service_account::admit(&security.lookup, request, object).await?;
        }
        node_restriction::admit(request, Some(object), old)?;
        priority::admit_pod(&security.lookup, request, object, old).await?;
        default_toleration_seconds::admit(object);
        if request.creates() {
            runtime_class::admit(&security.lookup, request, object).await?;
        }
        return Ok(Vec::new());
    }
    node_restriction::admit(request, Some(object), old)?;
    if request.creates() {
        if request.is_for("", "nodes") {
            taint_nodes_by_condition::admit(object);
        } else if request.is_for("", "persistentvolumeclaims") {
            default_class::admit_claim(&security.lookup, object).await?;
            object_in_use_protection::admit(request.resource, object);
        } else if request.is_for("", "persistentvolumes") {
            object_in_use_protection::admit(request.resource, object);
        } else if request.is_for("networking.k8s.io", "ingresses") {
            default_class::admit_ingress(&security.lookup, object).await?;
        }
    }
    Ok(Vec::new())
}

pub(super) async fn validate(
    security: &Security,
    request: &Request<'_>,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Result<Vec<String>, Refusal> {
    if object.is_none() {
        // What has no object to change does not pass through `mutate`.
        namespace_lifecycle::admit(&security.lookup, request, None).await?;
        node_restriction::admit(request, None, old)?;
    }
    let mut warnings = Vec::new();
    if let Some(object) = object.filter(|_| request.writes()) {
        if request.group == "certificates.k8s.io"
            && request.resource == "certificatesigningrequests"
            && let Some(right) = certificates::validate(request, object, old)?
        {
            let mut has = false;
            for asked in right.questions() {
                has = has || security.authorize(request.user, &asked).await.allowed;
            }
            if !has {
                return Err(right.refusal(request, object));
            }
        }
        if request.group == "rbac.authorization.k8s.io" {
            let asked = rbac::escalation_right(request.resource, request.namespace, object, old);
            let may = match &asked {
                Some(right) => security.authorize(request.user, &right.attributes()).await.allowed,
                None => true,
            };
            if !may {
                security.rbac.with_index(|index| {
                    rbac::check_escalation(index, request.user, request.resource, request.namespace, object)
                })?;
            }
        }
        if let Some(old) = old.filter(|_| request.is_for("", "persistentvolumeclaims")) {
            claim_resize::validate(&security.lookup, request, object, old).await?;
        }
        limit_ranger::validate(&security.lookup, request, object, old).await?;
        warnings = pod_security::validate(&security.lookup, request, object, old).await?;
        priority::validate_class(&security.lookup, request, object).await?;
    }
    Ok(warnings)
}

pub(super) async fn charge(
    security: &Security,
    request: &Request<'_>,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Result<(), Refusal> {
    match object.filter(|_| request.writes()) {
        Some(object) => resource_quota::validate(&security.lookup, &security.quotas, request, object, old).await,
        None => Ok(()),
    }
}
