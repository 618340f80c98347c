//! Connections that the server itself makes to others: webhooks, aggregated servers, what proxies lead to.
//!
//! A Service is resolved to one of its ready endpoints ([`endpoints`]) and dialled there: that works on machines without
//! service rules as well, and needs no cluster DNS. [`trust`] says whose certificates are good, [`dial`] connects,
//! [`forward`] passes requests on, [`fetch`] exchanges documents with the servers of addresses, a [`poster`] posts them to the
//! server that a [`kubeconfig`] leads to, over connections that a [`pool`] keeps.

pub(crate) mod dial;
pub(crate) mod endpoints;
pub(crate) mod fetch;
pub(crate) mod forward;
pub(crate) mod kubeconfig;
pub(crate) mod pool;
pub(crate) mod poster;
pub(crate) mod trust;
