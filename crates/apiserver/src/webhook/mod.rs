//! Webhooks: programs of others that are asked before a write is done, or to convert an object.
//!
//! [`WebhookClient`] calls; [`Destination`] says where. For admission, configurations are read once a revision
//! ([`hook`]), compared with a request ([`request`], [`rule`]), and asked ([`dispatch`], [`review`]). A cluster without
//! webhooks pays one short lock a write.

mod client;
mod destination;
mod dispatch;
mod hook;
mod metrics;
mod request;
mod review;
mod rule;

use std::sync::Arc;

use kobune_store::{Store, StoreError};

use crate::cached::Cached;
use hook::Hook;

pub(crate) use client::WebhookClient;
pub(crate) use destination::Destination;
pub(crate) use dispatch::Rounds;
pub(crate) use request::{Matcher, Request, body_kind};
pub(crate) use rule::Rule;

/// The webhooks of admission, and the client for all webhooks.
pub(crate) struct Webhooks {
    client: Arc<WebhookClient>,
    mutating: Cached<Vec<Hook>>,
    validating: Cached<Vec<Hook>>,
    pub(crate) metrics: metrics::Metrics,
}

impl Webhooks {
    pub(crate) fn new(client: Arc<WebhookClient>) -> Self {
        Self {
            client,
            mutating: Cached::new("admissionregistration.k8s.io/mutatingwebhookconfigurations", hook::read),
            validating: Cached::new("admissionregistration.k8s.io/validatingwebhookconfigurations", hook::read),
            metrics: metrics::Metrics::default(),
        }
    }

    /// The client that calls them.
    pub(crate) fn client(&self) -> &WebhookClient {
        &self.client
    }

    /// The webhooks that may change what is written, as they are configured now.
    pub(crate) async fn mutating(&self, store: &dyn Store) -> Result<Arc<Vec<Hook>>, StoreError> {
        self.mutating.get(store).await
    }

    /// The webhooks that may refuse what is written, as they are configured now.
    pub(crate) async fn validating(&self, store: &dyn Store) -> Result<Arc<Vec<Hook>>, StoreError> {
        self.validating.get(store).await
    }
}
