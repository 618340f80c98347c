//! Aggregation: parts of the API that other servers serve, behind this one's authentication and authorization.
//!
//! An APIService names a group and version and the Service that serves it. Every request for them is passed on
//! ([`pass`]) with the user in headers that only this server's front-proxy certificate makes good ([`headers`]).
//! [`availability`] finds out, when something changes, whether the other server answers, and learns what it serves;
//! [`discovery`] shows that beside this server's own kinds. [`register`] keeps an APIService for every group and version
//! that is served here, so that `kubectl get apiservices` shows all there is.
//!
//! A cluster without foreign APIServices pays one short lock a request.

mod availability;
pub(crate) mod discovery;
mod guest;
mod headers;
mod pass;
mod register;
mod service;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    sync::Arc,
};

use kobune_pki::Authority;
use kobune_store::{Store, StoreError};
use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::sync::Notify;

use crate::{
    cached::Cached,
    outgoing::trust::{Identity, Trust, TrustError},
};
use discovery::Learned;
pub use guest::{Guest, GuestAnswer};

pub(crate) use service::{Registry, Remote, Service};

/// The name in the front-proxy certificate, which other servers are told to expect.
pub(crate) const PROXY_NAME: &str = "front-proxy-client";

/// How many TLS clients are kept: one for each distinct `caBundle` and name.
const CLIENTS: usize = 64;

/// The collection of APIServices.
const COLLECTION: &str = "apiregistration.k8s.io/apiservices";

/// What this server knows of the servers behind it.
pub(crate) struct Aggregation {
    services: Cached<Registry>,
    identity: Identity,
    /// The authority of the front-proxy certificate; it is not the cluster's, so that no client of the cluster can pose
    /// as this server.
    authority: String,
    clients: Mutex<HashMap<Trust, Arc<ClientConfig>>>,
    /// What the other servers said of themselves, by the name of their APIService.
    learned: Mutex<BTreeMap<String, Arc<Learned>>>,
    /// The APIServices whose server has just failed to answer.
    suspects: Mutex<BTreeSet<String>>,
    suspected: Notify,
    /// Parts of the same process that answer for a group and version, by the name of its APIService.
    guests: BTreeMap<String, (Arc<dyn Guest>, Arc<Learned>)>,
}

/// Why aggregation could not be prepared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// The front-proxy authority or certificate.
    #[error("cannot prepare the keys of the front proxy")]
    Keys(#[source] kobune_pki::Error),
    /// The certificate cannot be shown.
    #[error("cannot use the certificate of the front proxy")]
    Identity(#[source] TrustError),
}

impl Aggregation {
    /// Reads or makes the front-proxy authority and certificate under `<pki>/front-proxy`.
    pub(crate) fn prepare(pki: &Path, guests: &[Arc<dyn Guest>]) -> Result<Arc<Self>, PrepareError> {
        let folder = pki.join("front-proxy");
        let authority = Authority::load_or_create(&folder).map_err(PrepareError::Keys)?;
        let pair = authority.kept_client_certificate(&folder, "client", PROXY_NAME, &[]).map_err(PrepareError::Keys)?;
        let guests = guests.iter().map(|guest| {
            let learned = Arc::new(guest::learned(&**guest));
            (guest::name_of(&**guest), (Arc::clone(guest), learned))
        });
        let guests = guests.collect();
        Ok(Arc::new(Self {
            services: Cached::new(COLLECTION, Registry::read),
            identity: Identity::of(&pair).map_err(PrepareError::Identity)?,
            authority: authority.certificate_pem().to_owned(),
            clients: Mutex::default(),
            learned: Mutex::default(),
            suspects: Mutex::default(),
            suspected: Notify::new(),
            guests,
        }))
    }

    /// The certificate of the authority that other servers trust the front proxy by.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// All APIServices as they are now.
    pub(crate) async fn registry(&self, store: &dyn Store) -> Result<Arc<Registry>, StoreError> {
        self.services.get(store).await
    }

    /// The TLS client for a server.
    fn client(&self, trust: &Trust) -> Result<Arc<ClientConfig>, TrustError> {
        if let Some(found) = self.clients.lock().get(trust) {
            return Ok(Arc::clone(found));
        }
        let made = Arc::new(trust.client(Some(&self.identity))?);
        let mut clients = self.clients.lock();
        if clients.len() >= CLIENTS {
            // Those in use come back with the next requests.
            clients.clear();
        }
        clients.insert(trust.clone(), Arc::clone(&made));
        Ok(made)
    }

    /// Wants an APIService to be looked at, because its server failed to answer.
    fn suspect(&self, name: &str) {
        self.suspects.lock().insert(name.to_owned());
        self.suspected.notify_one();
    }

    /// What a server said of itself when it was last asked.
    pub(crate) fn learned(&self, name: &str) -> Option<Arc<Learned>> {
        let of_guest = || self.guests.get(name).map(|(_, learned)| Arc::clone(learned));
        self.learned.lock().get(name).cloned().or_else(of_guest)
    }
}
