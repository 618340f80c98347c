//! The two places of admission on the road: before validation objects may be changed, after it they may be refused.
//!
//! The order is upstream's: first the modules of this server change the object, then mutating policies and webhooks; when one of
//! these has changed it, both come once more. After validation the modules may refuse, then policies and webhooks may, and
//! last comes the quota, so that nothing is counted that somebody else refuses.

pub(crate) use crate::security::admission::Operation;

use serde_json::{Map, Value, json};

use crate::{
    ApiServer,
    call::Call,
    error::{Answer, ApiError},
    policy::PolicyRounds,
    security::{Attributes, admission::Request},
    webhook::{self, Rounds, body_kind},
};

impl Call {
    /// The request as admission sees it.
    pub(crate) fn admission<'c>(&'c self, operation: Operation, name: &'c str) -> Request<'c> {
        Request {
            operation,
            group: &self.kind.group,
            version: &self.kind.version,
            resource: &self.kind.plural,
            subresource: self.subresource().unwrap_or_default(),
            kind: &self.kind.kind,
            namespace: self.target.namespace.as_deref().unwrap_or_default(),
            name,
            user: &self.user,
            dry_run: self.dry_run,
            trail: self.trail.as_deref(),
        }
    }

    /// The request as webhooks see it.
    fn for_webhooks<'c>(
        &'c self,
        operation: Operation,
        name: &'c str,
        subresource: &'c str,
        options: Option<&Value>,
    ) -> webhook::Request<'c> {
        let of_namespace = &*self.kind.collection == "core/namespaces";
        webhook::Request {
            operation,
            kind: &self.kind,
            subresource,
            body: body_kind(&self.kind, subresource),
            namespace: if of_namespace { name } else { self.namespace() },
            name,
            user: &self.user,
            dry_run: self.dry_run || options.is_some_and(|options| options["dryRun"].is_array()),
            options: options.cloned().unwrap_or_else(|| self.options(operation)),
            deadline: self.deadline,
            trail: self.trail.as_deref(),
        }
    }

    /// `CreateOptions` or `UpdateOptions`, as the query has them.
    fn options(&self, operation: Operation) -> Value {
        let kind = match operation {
            Operation::Create => "CreateOptions",
            Operation::Update => "UpdateOptions",
            Operation::Delete => "DeleteOptions",
            Operation::Connect => return Value::Null,
        };
        let mut options = Map::new();
        options.insert("kind".into(), kind.into());
        options.insert("apiVersion".into(), "meta.k8s.io/v1".into());
        if self.dry_run {
            options.insert("dryRun".into(), json!(["All"]));
        }
        for field in ["fieldManager", "fieldValidation"] {
            if let Some(value) = self.query.get(field) {
                options.insert(field.into(), value.into());
            }
        }
        Value::Object(options)
    }
}

impl ApiServer {
    /// Lets admission change an object before it is validated.
    pub(crate) async fn admit(
        &self,
        call: &Call,
        operation: Operation,
        name: &str,
        object: &mut Value,
        old: Option<&Value>,
    ) -> Answer<Vec<String>> {
        let mut warnings = self.admit_inside(call, operation, name, object, old).await?;
        let hooks = self.webhooks.mutating(&*self.store).await.map_err(|error| ApiError::from_store(&error))?;
        let policies =
            self.policies.mutating.are_bound(&*self.store).await.map_err(|error| ApiError::from_store(&error))?;
        if hooks.is_empty() && !policies {
            return Ok(warnings);
        }
        let request = call.for_webhooks(operation, name, call.subresource().unwrap_or_default(), None);
        let mut rounds = Rounds::default();
        let mut policy_rounds = PolicyRounds::default();
        let managed = object.pointer("/metadata/managedFields").cloned();
        loop {
            rounds.changed |= self.mutate_by_policies(&request, object, old, &mut policy_rounds).await?;
            self.ask_mutating(&hooks, &request, Some(object), old, &mut rounds, &mut warnings).await?;
            if !rounds.next() {
                break;
            }
            // The same warnings as in the first round.
            self.admit_inside(call, operation, name, object, old).await?;
        }
        // Who owns which field is not for webhooks to say.
        let metadata = crate::create::metadata(object);
        match managed {
            Some(managed) => metadata.insert("managedFields".into(), managed),
            None => metadata.remove("managedFields"),
        };
        Ok(warnings)
    }

    /// Lets the modules of this server change an object before it is validated.
    pub(crate) async fn admit_inside(
        &self,
        call: &Call,
        operation: Operation,
        name: &str,
        object: &mut Value,
        old: Option<&Value>,
    ) -> Answer<Vec<String>> {
        let warnings = self.security.mutate(&call.admission(operation, name), object, old).await?;
        // What admission has added gets its defaults too.
        call.kind.default(object);
        Ok(warnings)
    }

    /// Lets admission refuse a valid object.
    pub(crate) async fn review(
        &self,
        call: &Call,
        operation: Operation,
        name: &str,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Answer<Vec<String>> {
        let request = call.admission(operation, name);
        let mut warnings = self.security.validate(&request, object, old).await?;
        let hooks = self.webhooks.validating(&*self.store).await.map_err(|error| ApiError::from_store(&error))?;
        let policies =
            self.policies.validating.are_bound(&*self.store).await.map_err(|error| ApiError::from_store(&error))?;
        if !hooks.is_empty() || policies {
            let request = call.for_webhooks(operation, name, call.subresource().unwrap_or_default(), None);
            warnings.extend(self.review_by_policies(&request, object, old).await?);
            warnings.extend(self.ask_validating(&hooks, &request, object, old).await?);
        }
        self.security.charge(&request, object, old).await?;
        Ok(warnings)
    }

    /// Lets the modules of this server refuse a change whose webhooks were asked about something else: a scale's.
    pub(crate) async fn review_inside(
        &self,
        call: &Call,
        operation: Operation,
        name: &str,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Answer<Vec<String>> {
        let request = call.admission(operation, name);
        let warnings = self.security.validate(&request, object, old).await?;
        self.security.charge(&request, object, old).await?;
        Ok(warnings)
    }

    /// Lets admission refuse a deletion; `options` are its `DeleteOptions`.
    pub(crate) async fn review_deletion(
        &self,
        call: &Call,
        name: &str,
        old: &Value,
        options: &Value,
    ) -> Answer<Vec<String>> {
        let request = call.admission(Operation::Delete, name);
        let mut warnings = self.security.validate(&request, None, Some(old)).await?;
        if call.subresource().is_none() {
            // What goes by way of a subresource, as an eviction, was shown to webhooks as that.
            warnings.extend(self.ask_webhooks(call, Operation::Delete, name, None, Some(old), Some(options)).await?);
        }
        Ok(warnings)
    }

    /// Shows webhooks the body of a subresource, such as a `Binding`, which mutating ones may change.
    pub(crate) async fn admit_body(
        &self,
        call: &Call,
        operation: Operation,
        body: &mut Value,
        old: Option<&Value>,
    ) -> Answer<Vec<String>> {
        self.ask_webhooks(call, operation, call.name(), Some(body), old, None).await
    }

    /// Asks mutating and then validating webhooks about what has no modules and no validation in between.
    async fn ask_webhooks(
        &self,
        call: &Call,
        operation: Operation,
        name: &str,
        mut object: Option<&mut Value>,
        old: Option<&Value>,
        options: Option<&Value>,
    ) -> Answer<Vec<String>> {
        let failed = |error| ApiError::from_store(&error);
        let mutating = self.webhooks.mutating(&*self.store).await.map_err(failed)?;
        let validating = self.webhooks.validating(&*self.store).await.map_err(failed)?;
        let changing = self.policies.mutating.are_bound(&*self.store).await.map_err(failed)?;
        let refusing = self.policies.validating.are_bound(&*self.store).await.map_err(failed)?;
        let mut warnings = Vec::new();
        if mutating.is_empty() && validating.is_empty() && !changing && !refusing {
            return Ok(warnings);
        }
        let request = call.for_webhooks(operation, name, call.subresource().unwrap_or_default(), options);
        let mut rounds = Rounds::default();
        let mut policy_rounds = PolicyRounds::default();
        loop {
            if let Some(object) = object.as_deref_mut() {
                rounds.changed |= self.mutate_by_policies(&request, object, old, &mut policy_rounds).await?;
            }
            self.ask_mutating(&mutating, &request, object.as_deref_mut(), old, &mut rounds, &mut warnings).await?;
            if !rounds.next() {
                break;
            }
        }
        warnings.extend(self.review_by_policies(&request, object.as_deref(), old).await?);
        warnings.extend(self.ask_validating(&validating, &request, object.as_deref(), old).await?);
        Ok(warnings)
    }

    /// Whether the user of an update or apply may create what is not there yet.
    pub(crate) async fn allowed_to_create(&self, call: &Call) -> Answer<()> {
        let attributes = Attributes {
            verb: "create",
            group: &call.kind.group,
            version: &call.kind.version,
            resource: &call.kind.plural,
            subresource: "",
            namespace: call.namespace(),
            name: call.name(),
            ..Attributes::default()
        };
        Ok(self.security.require(&call.user, &attributes).await?)
    }
}

impl From<crate::security::Refusal> for ApiError {
    fn from(refusal: crate::security::Refusal) -> Self {
        let retry = refusal
            .details
            .get("retryAfterSeconds")
            .and_then(Value::as_u64)
            .and_then(|seconds| u32::try_from(seconds).ok());
        let error = Self::new(refusal.code, refusal.reason, refusal.message).with_details(refusal.details);
        match retry {
            Some(seconds) => error.retry_after(seconds),
            None => error,
        }
    }
}
