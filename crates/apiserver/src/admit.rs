//! The two places of admission on the road: before validation objects may be changed, after it they may be refused.

pub(crate) use crate::security::admission::Operation;

use serde_json::Value;

use crate::{
    ApiServer,
    call::Call,
    error::{Answer, ApiError},
    security::{Attributes, admission::Request},
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
        }
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
        let warnings = self.security.mutate(&call.admission(operation, name), object, old).await?;
        // What admission has added gets its defaults too.
        call.kind.default(object);
        Ok(warnings)
    }

    /// Lets admission refuse a valid object, or its deletion.
    pub(crate) async fn review(
        &self,
        call: &Call,
        operation: Operation,
        name: &str,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Answer<Vec<String>> {
        Ok(self.security.validate(&call.admission(operation, name), object, old).await?)
    }

    /// Whether the user of an update or apply may create what is not there yet.
    pub(crate) fn allowed_to_create(&self, call: &Call) -> Answer<()> {
        let attributes = Attributes {
            verb: "create",
            group: &call.kind.group,
            version: &call.kind.version,
            resource: &call.kind.plural,
            subresource: "",
            namespace: call.namespace(),
            name: call.name(),
            path: "",
        };
        Ok(self.security.require(&call.user, &attributes)?)
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
