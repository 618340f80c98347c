//! Custom resources in another version than the one in which they are stored.
//!
//! Without a webhook, versions differ by nothing but `apiVersion`, and [`Kind::from_storage`] sees to that. Where a
//! definition names a webhook ([`kobune_kinds::custom::WebhookConversion`]), a stored [`Record`] is converted into a record
//! of the same key and revision in the wanted version, before anything looks into it: whoever reads records need not
//! know. Records in the right version pass as they are, at the cost of a look at their first bytes, and kinds without a
//! webhook at no cost.
//!
//! What is deliberately absent: conversion for readers of metadata alone (`PartialObjectMetadata`). A conversion may change
//! nothing of it but labels and annotations, and those who read it, such as the garbage collector, must not stand still
//! because somebody's webhook does. Labels are selected by as they are stored.

mod metrics;
mod review;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use kobune_kinds::{Kind, custom::WebhookConversion};
use kobune_store::{Key, Record};
use serde_json::Value;

use crate::{
    ApiServer,
    accept::Form,
    error::{Answer, ApiError},
    metrics::Writer,
    respond::{Made, Produced},
    webhook::{Destination, WebhookClient, body_kind},
};
use metrics::FailureType;
use review::ReviewVersion;

/// How long a webhook may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How many objects, and how many bytes of them, go into one question. One object always does.
pub(crate) const MOST_OBJECTS: usize = 100;
const MOST_BYTES: usize = 512 << 10;

/// The longest answer that is read: what a full question asks for, grown by much.
const LONGEST_ANSWER: usize = 16 << 20;

/// Asks webhooks to convert.
pub(crate) struct Converter {
    client: Arc<WebhookClient>,
    metrics: metrics::Metrics,
}

/// A conversion that failed: for the metrics, and in upstream's words.
struct Failure(FailureType, String);

/// The webhook of a kind, if it has one.
fn webhook(kind: &Kind) -> Option<&WebhookConversion> {
    kind.custom()?.conversion.as_deref()
}

/// Whether the objects of a kind may need a webhook to be read.
pub(crate) fn converts(kind: &Kind) -> bool {
    webhook(kind).is_some()
}

impl Converter {
    pub(crate) fn new(client: Arc<WebhookClient>) -> Self {
        Self { client, metrics: metrics::Metrics::default() }
    }

    /// Adds the lines of `/metrics`.
    pub(crate) fn write(&self, out: &mut Writer) {
        self.metrics.write(out);
    }

    /// Stored objects as a kind can read them, in their order.
    pub(crate) async fn records(&self, kind: &Kind, mut records: Vec<Record>) -> Answer<Vec<Record>> {
        let Some(webhook) = webhook(kind) else { return Ok(records) };
        let foreign: Vec<usize> =
            (0..records.len()).filter(|&index| kind.needs_conversion(&records[index].value)).collect();
        let mut rest = foreign.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let fit = rest.iter().take(MOST_OBJECTS).take_while(|&&index| {
                bytes += records[index].value.len();
                bytes <= MOST_BYTES
            });
            let (batch, more) = rest.split_at(fit.count().max(1));
            let texts: Vec<&[u8]> = batch.iter().map(|&index| &*records[index].value).collect();
            let converted = self.ask(webhook, kind, &kind.api_version(), &texts).await?;
            for (&index, object) in batch.iter().zip(converted) {
                let old = &records[index];
                let value = Bytes::from(object.to_string());
                records[index] = Record::new(old.key.clone(), old.revision, value, Arc::clone(&old.facets));
            }
            rest = more;
        }
        Ok(records)
    }

    /// A stored object as a kind can read it.
    pub(crate) async fn record(&self, kind: &Kind, record: Record) -> Answer<Record> {
        if !kind.needs_conversion(&record.value) {
            return Ok(record);
        }
        let mut records = self.records(kind, vec![record]).await?;
        records.pop().ok_or_else(|| ApiError::internal_words("a conversion gave no object"))
    }

    /// An object in another version of its kind.
    async fn value(&self, webhook: &WebhookConversion, kind: &Kind, desired: &str, object: &Value) -> Answer<Value> {
        let text = object.to_string();
        let mut converted = self.ask(webhook, kind, desired, &[text.as_bytes()]).await?;
        converted.pop().ok_or_else(|| ApiError::internal_words("a conversion gave no object"))
    }

    /// Has objects converted; there are as many answers as questions, in their order.
    async fn ask(
        &self,
        webhook: &WebhookConversion,
        kind: &Kind,
        desired: &str,
        objects: &[&[u8]],
    ) -> Answer<Vec<Value>> {
        let originals = objects
            .iter()
            .map(|object| serde_json::from_slice(object))
            .collect::<Result<Vec<Value>, _>>()
            .map_err(|error| ApiError::internal_words(&format!("a stored {} is damaged: {error}", kind.kind)))?;
        let started = Instant::now();
        let outcome = self.exchange(webhook, desired, objects, &originals).await;
        let failure = outcome.as_ref().err().map_or("", |failure| failure.0);
        self.metrics.count(failure, started.elapsed());
        outcome.map_err(|Failure(_, problem)| {
            let from = originals.first().and_then(|object| object["apiVersion"].as_str()).unwrap_or_default();
            let words = format!("conversion webhook for {from}, Kind={} {problem}", kind.kind);
            ApiError::new(500, "", words)
        })
    }

    async fn exchange(
        &self,
        webhook: &WebhookConversion,
        desired: &str,
        objects: &[&[u8]],
        originals: &[Value],
    ) -> Result<Vec<Value>, Failure> {
        let failed = |sort: FailureType, problem: &dyn std::fmt::Display| Failure(sort, format!("failed: {problem}"));
        let version = ReviewVersion::first_of(&webhook.review_versions)
            .ok_or_else(|| failed(metrics::CALL, &"no supported conversion review versions"))?;
        let destination = Destination::from_object(&webhook.client).map_err(|error| failed(metrics::CALL, &error))?;
        let uid = uuid::Uuid::new_v4().to_string();
        let question = Bytes::from(review::question(version, &uid, desired, objects));
        let answer = self
            .client
            .post(&destination, "", question, TIMEOUT, LONGEST_ANSWER)
            .await
            .map_err(|error| failed(metrics::CALL, &error))?;
        let mut converted =
            review::answer(version, &uid, &answer).map_err(|problem| failed(metrics::MALFORMED, &problem))?;
        if converted.len() != originals.len() {
            let problem = format!("returned {} objects, expected {}", converted.len(), originals.len());
            return Err(Failure(metrics::PARTIAL, problem));
        }
        for (original, converted) in originals.iter().zip(&mut converted) {
            review::restore(original, converted, desired)
                .map_err(|problem| Failure(metrics::INVALID, format!("returned {problem}")))?;
        }
        Ok(converted)
    }
}

impl ApiServer {
    /// The stored object at a key, as a kind can read it.
    pub(crate) async fn read_as(&self, kind: &Kind, key: &Key) -> Answer<Option<Record>> {
        match self.read(key).await? {
            Some(record) => Ok(Some(self.converter.record(kind, record).await?)),
            None => Ok(None),
        }
    }

    /// An object of a kind in the version in which it is to be stored.
    pub(crate) async fn for_storage(&self, kind: &Kind, mut object: Value) -> Answer<Value> {
        match webhook(kind).filter(|_| !kind.is_storage_version()) {
            Some(webhook) => {
                object["apiVersion"] = kind.api_version().into();
                object["kind"] = (*kind.kind).into();
                self.converter.value(webhook, kind, &kind.storage_api_version(), &object).await
            }
            None => {
                kind.to_storage(&mut object);
                Ok(object)
            }
        }
    }

    /// Rewrites an object from one version of its resource into another one. The bodies of subresources have one version.
    pub(crate) async fn convert(&self, from: &Kind, to: &Kind, subresource: &str, object: &mut Value) -> Answer<()> {
        let is_object = body_kind(from, subresource).kind == *from.kind;
        if !is_object || (from.group == to.group && from.version == to.version) {
            return Ok(());
        }
        match webhook(from) {
            Some(webhook) => {
                object["apiVersion"] = from.api_version().into();
                object["kind"] = (*from.kind).into();
                *object = self.converter.value(webhook, from, &to.api_version(), object).await?;
            }
            None => from.to_storage(object),
        }
        to.from_storage(object);
        object["apiVersion"] = to.api_version().into();
        object["kind"] = (*to.kind).into();
        Ok(())
    }

    /// What a verb made, as the kind that was asked for can show it.
    pub(crate) async fn showable(&self, kind: &Kind, form: Form, mut made: Made) -> Answer<Made> {
        if let Produced::Stored(record) = &mut made.produced
            && form != Form::Partial
            && kind.needs_conversion(&record.value)
        {
            *record = self.converter.record(kind, record.clone()).await?;
        }
        Ok(made)
    }
}
