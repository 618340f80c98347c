//! Who may do what: authentication, authorization, admission, and the objects that a cluster starts with.
//!
//! [`Security`] is the one door for the rest of the API server. A request passes it in this order:
//!
//! 1. [`Security::authenticate`] turns credentials into a [`User`]; [`Security::impersonate`] may exchange it;
//! 2. [`Security::require`] (or [`Security::authorize`]) asks the [`authorizer`]s: the node authorizer and RBAC, unless the
//!    server is told otherwise;
//! 3. for writes, [`Security::mutate`] after decoding and defaulting, and [`Security::validate`] after the kind's own
//!    validation; a [`Refusal`] carries the whole `Status`.
//!
//! Reviews and token requests, which are requests *about* security, are [`Security::review`] and
//! [`Security::request_token`]. [`bootstrap`] lists the objects that exist in every cluster.
//!
//! Roles and bindings are kept as an index that follows the store's watch; everything else is read from the store's
//! memory when it is needed, parsed once a revision. So a decision takes microseconds and never shows stale state.

pub mod admission;
mod attributes;
mod authenticate;
pub mod authorizer;
pub mod bootstrap;
mod bootstrap_token;
pub mod encryption;
mod impersonate;
pub mod jwt;
mod lookup;
mod node;
mod rbac;
mod refusal;
mod review;
mod review_selectors;
mod secret_token;
#[cfg(test)]
mod tests;
mod token_request;
mod token_webhook;
mod user;

use std::sync::{Arc, atomic::Ordering};

use futures::FutureExt;
use http::HeaderMap;
use kobune_pki::ServiceAccountTokens;
use kobune_store::{Store, StoreError};
use serde_json::Value;
use tokio::runtime::RuntimeFlavor;
use tokio_util::sync::CancellationToken;

pub use attributes::{Attributes, Decision};
pub use authenticate::{Authenticated, Credentials};
pub use authorizer::Authorization;
pub use refusal::Refusal;
pub use secret_token::SecretToken;
pub use token_webhook::TokenWebhook;
pub use user::User;

use authenticate::VerifiedTokens;
use lookup::Lookup;
use node::NodeGraph;
use rbac::Rbac;

/// The settings of [`Security`].
#[derive(Debug, Clone)]
pub struct Config {
    /// The audiences that tokens must name to be good for this API server; the first one is what a token gets when its
    /// request names none. Upstream's default is the issuer.
    pub api_audiences: Vec<String>,
    /// Whether requests without credentials go on as `system:anonymous` (upstream's default) or are refused, where
    /// `authentication` does not say.
    pub anonymous: bool,
    /// The other issuers of tokens.
    pub authentication: Arc<jwt::Authentication>,
    /// Who is asked about tokens that nothing here knows.
    pub token_webhook: Option<Arc<TokenWebhook>>,
    /// Who decides what users may do.
    pub authorization: Arc<Authorization>,
}

impl Config {
    /// Upstream's defaults for this issuer.
    pub fn new(issuer: &str) -> Config {
        Config {
            api_audiences: vec![issuer.to_owned()],
            anonymous: true,
            authentication: Arc::default(),
            token_webhook: None,
            authorization: Arc::default(),
        }
    }
}

/// Authentication, authorization and admission of one API server.
pub struct Security {
    config: Config,
    lookup: Lookup,
    rbac: Arc<Rbac>,
    nodes: Arc<NodeGraph>,
    tokens: Arc<ServiceAccountTokens>,
    verified: VerifiedTokens,
    quotas: Arc<admission::QuotaBook>,
}

impl std::fmt::Debug for Security {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Security").finish_non_exhaustive()
    }
}

impl Security {
    /// Reads the roles and the pods' references from the store and follows their changes until `shutdown`.
    ///
    /// When it returns, every decision sees at least what the store held at the call.
    pub async fn start(
        config: Config,
        store: Arc<dyn Store>,
        tokens: Arc<ServiceAccountTokens>,
        shutdown: CancellationToken,
    ) -> Result<Arc<Security>, StoreError> {
        let rbac = Rbac::follow(store.clone(), shutdown.clone()).await?;
        let nodes = NodeGraph::follow(store.clone(), shutdown).await?;
        let lookup = Lookup::new(store);
        Ok(Arc::new(Security {
            config,
            lookup,
            rbac,
            nodes,
            tokens,
            verified: VerifiedTokens::default(),
            quotas: Arc::default(),
        }))
    }

    /// Turns credentials into a user. Bad credentials are refused with 401; none make the anonymous user.
    ///
    /// The user of a client certificate is found once a connection, with [`Security::user_of_certificate`].
    pub async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Authenticated, Refusal> {
        authenticate::authenticate(self, credentials).await
    }

    /// Exchanges the user when the request asks for it with `Impersonate-*` headers and may do so; `None` when it does
    /// not ask.
    pub async fn impersonate(&self, user: &User, headers: &HeaderMap) -> Result<Option<Arc<User>>, Refusal> {
        let Some(assumed) = impersonate::assumed(headers)? else { return Ok(None) };
        for right in &assumed.rights {
            self.require(user, &right.attributes()).await?;
        }
        tracing::debug!(user = user.name, assumed = assumed.user.name, "impersonates");
        Ok(Some(Arc::new(assumed.user)))
    }

    /// Whether the user may do this.
    pub async fn authorize(&self, user: &User, attributes: &Attributes<'_>) -> Decision {
        self.decide(user, attributes, false).await
    }

    /// [`Security::authorize`], with the reason also of what is allowed, for reviews and the audit trail.
    pub async fn explain(&self, user: &User, attributes: &Attributes<'_>) -> Decision {
        self.decide(user, attributes, true).await
    }

    /// [`Security::authorize`] for expressions, whose evaluation cannot wait. Where a webhook is among the authorizers, the
    /// thread waits for it after it has handed its other work to another one.
    pub fn authorize_now(&self, user: &User, attributes: &Attributes<'_>) -> Decision {
        let decision = self.decide(user, attributes, false);
        if !self.config.authorization.asks_others() {
            // Nobody else is asked, so nothing waits.
            return decision.now_or_never().unwrap_or_default();
        }
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if runtime.runtime_flavor() == RuntimeFlavor::MultiThread => {
                tokio::task::block_in_place(|| runtime.block_on(decision))
            }
            _ => Decision { error: Some("there is no thread to ask a webhook on".to_owned()), ..Decision::default() },
        }
    }

    /// Asks the authorizers in their order until one has an opinion.
    async fn decide(&self, user: &User, attributes: &Attributes<'_>, explain: bool) -> Decision {
        if user.is_in(user::MASTERS) {
            return Decision::allow("");
        }
        let (mut reasons, mut errors) = (Vec::new(), Vec::new());
        for authorizer in self.config.authorization.chain().iter() {
            let mut decision = match &authorizer.kind {
                authorizer::Kind::Node => match user.node() {
                    Some(node) => node::authorize(&self.nodes, node, attributes),
                    None => Decision::default(),
                },
                authorizer::Kind::Rbac if explain => self.rbac.explain(user, attributes),
                authorizer::Kind::Rbac => self.rbac.authorize(user, attributes),
                authorizer::Kind::AlwaysAllow => Decision::allow(""),
                authorizer::Kind::AlwaysDeny => Decision::no_opinion("Everything is forbidden."),
                authorizer::Kind::Webhook(webhook) => webhook.authorize(user, attributes).await,
            };
            if decision.allowed || decision.denied {
                let counter =
                    if decision.allowed { &authorizer.decisions.allowed } else { &authorizer.decisions.denied };
                counter.fetch_add(1, Ordering::Relaxed);
                return decision;
            }
            errors.extend(decision.error.take());
            if !decision.reason.is_empty() {
                reasons.push(decision.reason);
            }
        }
        let error = match errors.as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            several => Some(format!("[{}]", several.join(", "))),
        };
        Decision { reason: reasons.join("\n"), error, ..Decision::default() }
    }

    /// Whether changes of roles and bindings still reach the authorizer.
    pub fn is_current(&self) -> bool {
        self.rbac.is_current()
    }

    /// [`Security::authorize`], with upstream's 403 when nothing allows it.
    pub async fn require(&self, user: &User, attributes: &Attributes<'_>) -> Result<(), Refusal> {
        let decision = self.authorize(user, attributes).await;
        if decision.allowed { Ok(()) } else { Err(attributes.refusal(user, &decision)) }
    }

    /// Mutating admission of a create or update: changes `object` in place. Gives warnings for the client.
    ///
    /// Runs after decoding and defaulting, before the kind's `prepare_*` and validation; run the defaults once more
    /// afterwards. `old` is the stored object of an update.
    pub async fn mutate(
        &self,
        request: &admission::Request<'_>,
        object: &mut Value,
        old: Option<&Value>,
    ) -> Result<Vec<String>, Refusal> {
        admission::mutate(self, request, object, old).await
    }

    /// Validating admission: `object` is the new state of a create or update, `old` the stored one of an update or
    /// delete, and for `Connect` both are `None`. Runs after the kind's validation. Gives warnings for the client.
    ///
    /// Includes the check that nobody hands out rights in roles and bindings that it does not have itself.
    pub async fn validate(
        &self,
        request: &admission::Request<'_>,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<Vec<String>, Refusal> {
        admission::validate(self, request, object, old).await
    }

    /// Counts an admitted write against the quotas of its namespace, or refuses it. Comes last, after everybody who may
    /// still refuse.
    pub async fn charge(
        &self,
        request: &admission::Request<'_>,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<(), Refusal> {
        admission::charge(self, request, object, old).await
    }

    /// Answers a review: `resource` is one of `tokenreviews`, `selfsubjectreviews` (`authentication.k8s.io`),
    /// `subjectaccessreviews`, `selfsubjectaccessreviews`, `localsubjectaccessreviews`, `selfsubjectrulesreviews`
    /// (`authorization.k8s.io`). `body` is the decoded object; the answer is the same object with its status.
    pub async fn review(&self, user: &User, resource: &str, namespace: &str, body: Value) -> Result<Value, Refusal> {
        review::review(self, user, resource, namespace, body).await
    }

    /// Answers `create serviceaccounts/token`: `body` is the decoded `TokenRequest`; the answer has the token.
    pub async fn request_token(
        &self,
        user: &User,
        namespace: &str,
        service_account: &str,
        body: Value,
    ) -> Result<Value, Refusal> {
        token_request::request_token(self, user, namespace, service_account, body).await
    }

    /// The keys that verify this cluster's service account tokens (`/openid/v1/jwks`).
    pub fn key_set(&self) -> Value {
        self.tokens.jwks()
    }

    /// The document at `/.well-known/openid-configuration`.
    pub fn openid_configuration(&self, api_address: &str) -> Value {
        self.tokens.openid_configuration(api_address)
    }
}
