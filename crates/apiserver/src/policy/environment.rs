//! The variables of expressions in policies and match conditions.

use std::sync::LazyLock;

use kobune_expressions::{Environment, ObjectType, Type};

/// The places of the variables: the same in all environments, so that values fit every expression. Where a variable is
/// not declared its place has a name that nobody can write.
pub(super) const OBJECT: usize = 0;
pub(super) const OLD_OBJECT: usize = 1;
pub(super) const NAMESPACE: usize = 2;
pub(super) const REQUEST: usize = 3;
pub(super) const AUTHORIZER: usize = 4;
pub(super) const REQUEST_RESOURCE: usize = 5;
pub(super) const PARAMS: usize = 6;
pub(super) const VARIABLES: usize = 7;

/// What expressions may name beside the object and the request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Declared {
    pub params: bool,
    pub authorizer: bool,
    /// Whether objects and JSON patches may be made.
    pub patches: bool,
}

fn texts() -> Type {
    Type::list(Type::String)
}

fn group_version(name: &str, last: &'static str) -> Type {
    Type::object(name, [("group", Type::String), ("version", Type::String), (last, Type::String)])
}

/// The type of `request`, shared by all environments.
static REQUEST_TYPE: LazyLock<Type> = LazyLock::new(|| {
    let kind = group_version("kubernetes.GroupVersionKind", "kind");
    let resource = group_version("kubernetes.GroupVersionResource", "resource");
    let user = Type::object(
        "kubernetes.UserInfo",
        [
            ("username", Type::String),
            ("uid", Type::String),
            ("groups", texts()),
            ("extra", Type::map(Type::String, texts())),
        ],
    );
    Type::object(
        "kubernetes.AdmissionRequest",
        [
            ("kind", kind.clone()),
            ("resource", resource.clone()),
            ("subResource", Type::String),
            ("requestKind", kind),
            ("requestResource", resource),
            ("requestSubResource", Type::String),
            ("name", Type::String),
            ("namespace", Type::String),
            ("operation", Type::String),
            ("userInfo", user),
            ("dryRun", Type::Bool),
            ("options", Type::Dyn),
        ],
    )
});

/// The type of `namespaceObject`, shared by all environments.
static NAMESPACE_TYPE: LazyLock<Type> = LazyLock::new(|| {
    let labels = Type::map(Type::String, Type::String);
    let metadata = Type::object(
        "kubernetes.NamespaceMetadata",
        [
            ("name", Type::String),
            ("generateName", Type::String),
            ("namespace", Type::String),
            ("labels", labels.clone()),
            ("annotations", labels),
            ("UID", Type::String),
            ("creationTimestamp", Type::Timestamp),
            ("deletionGracePeriodSeconds", Type::Int),
            ("deletionTimestamp", Type::Timestamp),
            ("generation", Type::Int),
            ("resourceVersion", Type::String),
            ("finalizers", texts()),
        ],
    );
    let condition = Type::object(
        "kubernetes.NamespaceCondition",
        [
            ("status", Type::String),
            ("type", Type::String),
            ("lastTransitionTime", Type::Timestamp),
            ("message", Type::String),
            ("reason", Type::String),
        ],
    );
    let spec = Type::object("kubernetes.NamespaceSpec", [("finalizers", texts())]);
    let status =
        Type::object("kubernetes.NamespaceStatus", [("conditions", Type::list(condition)), ("phase", Type::String)]);
    Type::object("kubernetes.Namespace", [("metadata", metadata), ("spec", spec), ("status", status)])
});

/// The type of `variables` with these fields.
pub(super) fn variables(fields: impl IntoIterator<Item = (Box<str>, Type)>) -> Type {
    let fields = fields.into_iter().collect();
    Type::Object(std::sync::Arc::new(ObjectType { name: "kubernetes.variables".into(), fields, open: false }))
}

/// An environment. What is not declared is `""`.
pub(super) fn environment(declared: Declared, variables: Option<Type>) -> Environment {
    use kobune_expressions::Opaque::{Authorizer, ResourceCheck};
    let named = |is_declared: bool, name: &'static str| if is_declared { name } else { "" };
    let composed = named(variables.is_some(), "variables");
    let environment = Environment::new()
        .variable("object", Type::Dyn)
        .variable("oldObject", Type::Dyn)
        .variable("namespaceObject", NAMESPACE_TYPE.clone())
        .variable("request", REQUEST_TYPE.clone())
        .variable(named(declared.authorizer, "authorizer"), Type::Opaque(Authorizer))
        .variable(named(declared.authorizer, "authorizer.requestResource"), Type::Opaque(ResourceCheck))
        .variable(named(declared.params, "params"), Type::Dyn)
        .variable(composed, variables.unwrap_or(Type::Dyn));
    if !declared.patches {
        return environment;
    }
    let text = |name: &str| (Box::from(name), Type::String);
    let fields = [text("op"), text("path"), text("from"), (Box::from("value"), Type::Dyn)];
    let patch = ObjectType { name: "JSONPatch".into(), fields: fields.into_iter().collect(), open: false };
    environment.object(patch).open_objects()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_the_same_everywhere() {
        for declared in [Declared::default(), Declared { params: true, authorizer: true, patches: true }] {
            let environment = environment(declared, Some(variables([])));
            assert_eq!(environment.position("request"), Some(REQUEST));
            assert_eq!(environment.position("variables"), Some(VARIABLES));
            assert_eq!(environment.position("params"), declared.params.then_some(PARAMS));
            let requested = environment.position("authorizer.requestResource");
            assert_eq!(requested, declared.authorizer.then_some(REQUEST_RESOURCE));
        }
    }
}
