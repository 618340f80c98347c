//! A request as webhooks see it, and whether a webhook wants to see it.

use std::{sync::Arc, time::Instant};

use kobune_kinds::{Kind, selector::LabelSelector};
use kobune_store::Key;
use serde_json::{Value, json};

use super::{
    hook::Hook,
    review::{GroupVersionKind, user_info},
    rule::{Resource, Rule, operation_name},
};
use crate::{
    ApiServer,
    admit::Operation,
    audit::Trail,
    error::{Answer, ApiError},
    policy::{Rights, Subject},
    security::{Refusal, User},
};

/// A request that is to be admitted.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// What is done.
    pub operation: Operation,
    /// The kind of the resource in the path.
    pub kind: &'a Arc<Kind>,
    /// The subresource, or empty.
    pub subresource: &'a str,
    /// What the object is: the kind itself, or a subresource's body such as a `Scale`.
    pub body: GroupVersionKind,
    /// The namespace; of a namespace, its own name.
    pub namespace: &'a str,
    /// The name.
    pub name: &'a str,
    /// Who asks.
    pub user: &'a User,
    /// Whether nothing will be kept.
    pub dry_run: bool,
    /// `CreateOptions` and its like.
    pub options: Value,
    /// When the request as a whole is given up.
    pub deadline: Instant,
    /// Its audit trail, if there is one.
    pub trail: Option<&'a Trail>,
}

/// A call that is to be made.
#[derive(Clone, Debug)]
pub(super) struct Invocation<'h> {
    pub(super) hook: &'h Hook,
    /// The kind whose rule matched: the request's own, or another version of it.
    pub(super) kind: Arc<Kind>,
    /// What the object is for this webhook.
    pub(super) body: GroupVersionKind,
}

impl Request<'_> {
    /// Whether no webhook may see the request: those about admission itself, so that nobody is locked out, and those
    /// about users and rights, so that authentication does not wait for a webhook.
    pub(crate) fn is_exempt(&self) -> bool {
        match &*self.kind.group {
            "admissionregistration.k8s.io" => matches!(
                &*self.kind.plural,
                "validatingwebhookconfigurations"
                    | "mutatingwebhookconfigurations"
                    | "validatingadmissionpolicies"
                    | "validatingadmissionpolicybindings"
                    | "mutatingadmissionpolicies"
                    | "mutatingadmissionpolicybindings"
            ),
            "authentication.k8s.io" | "authorization.k8s.io" => !self.kind.stored,
            _ => false,
        }
    }

    fn is_for_namespaces(&self) -> bool {
        self.kind.group.is_empty() && &*self.kind.plural == "namespaces"
    }

    fn has_namespace(&self) -> bool {
        !self.namespace.is_empty() || self.is_for_namespaces()
    }

    fn resource<'k>(&'k self, kind: &'k Kind) -> Resource<'k> {
        Resource { group: &kind.group, version: &kind.version, resource: &kind.plural, subresource: self.subresource }
    }

    /// `AdmissionRequest` without its objects.
    pub(super) fn question(&self, uid: &str, invocation: &Invocation<'_>) -> Value {
        let mut request = self.describe(&invocation.kind);
        request["uid"] = uid.into();
        request
    }

    /// The request as expressions see it that mean `kind`, outside of any namespace.
    pub(crate) async fn subject(
        &self,
        server: &ApiServer,
        kind: &Arc<Kind>,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Answer<Subject> {
        let shown = async |object: Option<&Value>| -> Answer<Value> {
            let mut object = object.cloned().unwrap_or_default();
            if object.is_object() {
                server.convert(self.kind, kind, self.subresource, &mut object).await?;
            }
            Ok(object)
        };
        let request = self.describe(kind);
        Ok(Subject { object: shown(object).await?, old: shown(old).await?, request, namespace: Value::Null })
    }

    /// `AdmissionRequest` without its objects and identity, for who means `kind`: the request's own, or another version.
    pub(crate) fn describe(&self, kind: &Arc<Kind>) -> Value {
        let own = Arc::ptr_eq(kind, self.kind);
        let body = if own { self.body.clone() } else { body_kind(kind, self.subresource) };
        let resource = |kind: &Kind| json!({"group": kind.group, "version": kind.version, "resource": kind.plural});
        let mut request = json!({
            "kind": body.object(),
            "resource": resource(kind),
            "requestKind": self.body.object(),
            "requestResource": resource(self.kind),
            "operation": operation_name(self.operation),
            "userInfo": user_info(self.user),
            "dryRun": self.dry_run,
            "options": self.options,
        });
        for (field, value) in [
            ("subResource", self.subresource),
            ("requestSubResource", self.subresource),
            ("name", self.name),
            ("namespace", self.namespace),
        ] {
            if !value.is_empty() {
                request[field] = value.into();
            }
        }
        request
    }
}

/// Decides which webhooks are asked about one request. What it has to look up, it looks up once.
pub(crate) struct Matcher<'a> {
    server: &'a ApiServer,
    request: &'a Request<'a>,
    /// The labels of the request's namespace, once they were needed.
    namespace_labels: Option<Value>,
    /// The other versions of the request's resource, once they were needed.
    equivalents: Option<Vec<Arc<Kind>>>,
}

impl<'a> Matcher<'a> {
    pub(crate) fn new(server: &'a ApiServer, request: &'a Request<'a>) -> Self {
        Self { server, request, namespace_labels: None, equivalents: None }
    }

    /// The call of a webhook, if it wants to see the request.
    pub(super) async fn invocation<'h>(
        &mut self,
        hook: &'h Hook,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Answer<Option<Invocation<'h>>> {
        // The rules are compared first: they cost least, and what is wrong with a webhook that is not meant is no matter.
        let Some(invocation) = self.by_rules(hook) else { return Ok(None) };
        let wrong = |problem: &String| ApiError::internal_words(problem);
        if !Self::selects_object(hook.objects.as_ref().map_err(wrong)?, object, old)
            || !self.selects_namespace(hook.namespaces.as_ref().map_err(wrong)?, object).await?
        {
            return Ok(None);
        }
        if !hook.conditions.is_empty() {
            let subject = self.request.subject(self.server, &invocation.kind, object, old).await?;
            let rights = Rights { security: &self.server.security, user: self.request.user };
            match hook.conditions.hold(&subject, &rights) {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(problem) if hook.ignores_failures => {
                    tracing::warn!(webhook = hook.name, problem, "goes on without a webhook");
                    return Ok(None);
                }
                Err(problem) => {
                    let kind = &self.request.kind;
                    return Err(Refusal::forbidden(&kind.group, &kind.plural, self.request.name, problem).into());
                }
            }
        }
        Ok(Some(invocation))
    }

    /// Whether the object or the old one has the labels.
    pub(crate) fn selects_object(selector: &LabelSelector, object: Option<&Value>, old: Option<&Value>) -> bool {
        let has = |object: Option<&Value>| {
            object.is_some_and(|object| selector.matches_labels(&object["metadata"]["labels"]))
        };
        selector.is_everything() || has(object) || has(old)
    }

    /// Whether the request's namespace has the labels. What lives in no namespace is never exempt by its labels.
    pub(crate) async fn selects_namespace(&mut self, selector: &LabelSelector, object: Option<&Value>) -> Answer<bool> {
        Ok(selector.is_everything()
            || !self.request.has_namespace()
            || selector.matches_labels(self.namespace_labels(object).await?))
    }

    /// The request's own kind.
    pub(crate) fn own(&self) -> Arc<Kind> {
        Arc::clone(self.request.kind)
    }

    /// The name of the request's object.
    pub(crate) fn name(&self) -> &'a str {
        self.request.name
    }

    fn by_rules<'h>(&mut self, hook: &'h Hook) -> Option<Invocation<'h>> {
        let kind = self.find(&hook.rules, hook.equivalent)?;
        let own = Arc::ptr_eq(&kind, self.request.kind);
        let body = if own { self.request.body.clone() } else { body_kind(&kind, self.request.subresource) };
        Some(Invocation { hook, kind, body })
    }

    /// The kind that a rule means: the request's own, or with `equivalent` another version of it.
    pub(crate) fn find(&mut self, rules: &[Rule], equivalent: bool) -> Option<Arc<Kind>> {
        let request = self.request;
        let matches =
            |rule: &Rule, kind: &Kind| rule.matches(request.operation, request.resource(kind), request.namespace);
        if rules.iter().any(|rule| matches(rule, request.kind)) {
            return Some(Arc::clone(request.kind));
        }
        if !equivalent {
            return None;
        }
        let equivalents = self.equivalents.get_or_insert_with(|| {
            let same =
                |kind: &&Arc<Kind>| kind.collection == request.kind.collection && !Arc::ptr_eq(kind, request.kind);
            let has = |kind: &&Arc<Kind>| {
                kind.stored && (request.subresource.is_empty() || kind.subresource(request.subresource).is_some())
            };
            self.server.catalogue.load().kinds().iter().filter(same).filter(has).cloned().collect()
        });
        // Earlier rules come before earlier versions.
        rules.iter().find_map(|rule| equivalents.iter().find(|kind| matches(rule, kind))).cloned()
    }

    async fn namespace_labels(&mut self, object: Option<&Value>) -> Answer<&Value> {
        let request = self.request;
        let labels = match self.namespace_labels.take() {
            Some(labels) => labels,
            None if request.is_for_namespaces()
                && request.subresource.is_empty()
                && matches!(request.operation, Operation::Create | Operation::Update) =>
            {
                object.map_or(Value::Null, |object| object["metadata"]["labels"].clone())
            }
            None => {
                let key = Key::new("core/namespaces", "", request.namespace);
                let record = self.server.read(&key).await?;
                let record = record.ok_or_else(|| ApiError::not_found_named("", "namespaces", request.namespace))?;
                let mut namespace: Value =
                    serde_json::from_slice(&record.value).map_err(|error| ApiError::internal(&error))?;
                namespace["metadata"]["labels"].take()
            }
        };
        Ok(self.namespace_labels.insert(labels))
    }
}

/// What the object of a request is: the kind itself, or the body that a subresource has of its own.
pub(crate) fn body_kind(kind: &Kind, subresource: &str) -> GroupVersionKind {
    let of = |group: &str, version: &str, kind: &str| GroupVersionKind {
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
    };
    match kind.subresource(subresource) {
        Some(sub) => of(&sub.group, &sub.version, &sub.kind),
        None => of(&kind.group, &kind.version, &kind.kind),
    }
}
