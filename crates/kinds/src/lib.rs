//! Every API kind of Kubernetes 1.36 as data: schema, merge facts, defaults, validation, columns, OpenAPI and discovery.
//!
//! A [`Kind`] answers everything that the API server asks about objects of one kind; the [`Catalogue`] finds it. The
//! crate does no I/O: bytes in, bytes out. Structure comes from the types of `k8s-openapi` (read by the build script),
//! what these do not carry from `merge-facts.tsv`, `field-numbers.tsv` and the tables of this crate.

#[cfg(test)]
mod arbitrary;
mod catalogue;
mod columns;
pub mod continue_token;
mod convert;
pub mod cron;
pub mod custom;
mod decode;
mod defaults;
pub mod discovery;
pub mod duration;
mod field_error;
mod kind;
pub mod name;
pub mod openapi;
mod path;
pub mod protobuf;
pub mod quantity;
pub mod quota;
pub mod schema;
mod selectable;
pub mod selector;
pub mod status;
mod strategy;
mod validation;
mod warnings;

pub use catalogue::Catalogue;
pub use columns::{Column, Row};
pub use decode::{DecodeError, Decoded, FieldValidation, Media, Yaml};
pub use field_error::{FieldError, FieldErrorKind};
pub use kind::{Kind, Subresource, Verb};
pub use schema::{ListType, PatchStrategy, SchemaRef, Shape};
