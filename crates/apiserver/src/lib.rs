//! The Kubernetes API over HTTP: authenticate, authorize, decode, admit, store, encode.
//!
//! One road serves every kind ([`road`]). [`ApiServer::build`] makes the server from a store and a catalogue of kinds,
//! [`ApiServer::serve`] answers on a TLS listener, and [`ApiServer::service_as`] is the same road in process.
//!
//! What is deliberately absent: a handler for a kind. A kind differs by the data that `kobune-kinds` has about it and by
//! small hooks ([`hooks`], [`specials`]).

mod accept;
mod admit;
mod aggregation;
mod audit;
mod binding;
mod body;
mod cached;
mod call;
mod certificates;
mod compress;
mod config;
mod config_file;
mod connect;
mod conversion;
mod create;
mod custom_rules;
mod decode;
mod definitions;
mod delete;
mod device_taints;
mod document;
mod duration;
mod encode;
mod error;
mod event_expiry;
mod eviction;
mod fields;
mod flow;
mod gather;
mod health;
mod hooks;
mod list;
mod listener;
mod metrics;
mod observe;
mod options;
mod outgoing;
mod patch;
mod path;
mod policy;
mod protobuf_list;
mod proxy;
mod query;
mod reservations;
mod respond;
mod road;
mod scale;
pub mod security;
mod server;
mod servers;
mod service;
mod services;
mod spans;
mod specials;
mod storage;
mod table;
mod update;
mod watch;
mod webhook;
mod websocket;

pub use aggregation::{Guest, GuestAnswer, PrepareError};
pub use audit::{AuditError, Auditor, LogOptions, WebhookOptions};
pub use body::{Body, BodyError, BoxError};
pub use config::Config;
pub use config_file::ConfigError;
pub use duration::{format_duration, parse_duration};
pub use encode::stored_facets as facets;
pub use listener::ServeError;
pub use metrics::MetricsSource;
pub use outgoing::{kubeconfig::KubeconfigError, trust::TrustError};
pub use server::{ApiServer, BuildError};
pub use service::{Answering, InProcess};
pub use spans::Tracer;
pub use storage::etcd_paths;
