//! A definition that is being deleted takes its objects along: they are deleted, those with finalizers are waited for, and
//! then the definition goes.

use std::{sync::Arc, time::Duration};

use kobune_kinds::custom::{CLEANUP, Condition};
use kobune_store::{At, Key, Range, Record, StoreError};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{COLLECTION, plan};
use crate::{ApiServer, call};

/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Begins in the background. `served` says whether the definition ever had objects.
pub(super) fn start(
    server: Arc<ApiServer>,
    name: Arc<str>,
    collection: String,
    served: bool,
    token: CancellationToken,
) {
    tokio::spawn(async move {
        let work = async {
            if served {
                let words = "CustomResource deletion is in progress";
                change(&server, &name, |object| condition(object, "True", "InstanceDeletionInProgress", words)).await;
                while let Err(error) = empty(&server, &collection).await {
                    tracing::warn!(%name, %error, "the objects of a definition are not all deleted yet");
                    tokio::time::sleep(RETRY).await;
                }
            }
            change(&server, &name, |object| {
                condition(object, "False", "InstanceDeletionCompleted", "removed all instances");
                if let Some(finalizers) = object["metadata"]["finalizers"].as_array_mut() {
                    finalizers.retain(|finalizer| finalizer != CLEANUP);
                }
            })
            .await;
        };
        tokio::select! {
            // What is cut off is begun again when the server starts.
            () = token.cancelled() => {}
            () = work => {}
        }
    });
}

pub(super) fn condition(object: &mut Value, status: &str, reason: &str, words: &str) {
    let now = call::now_text();
    let mut conditions: Vec<Condition> =
        serde_json::from_value(object["status"]["conditions"].clone()).unwrap_or_default();
    plan::set(&mut conditions, "Terminating", status, reason, words, &now);
    object["status"]["conditions"] = serde_json::to_value(conditions).unwrap_or_default();
}

/// Changes the definition, again and again until nobody else was faster.
async fn change(server: &ApiServer, name: &str, act: impl Fn(&mut Value)) {
    let key = Key::new(COLLECTION, "", name);
    loop {
        let record = match server.store.get(&key).await {
            Ok(Some(record)) => record,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(name, %error, "a definition cannot be read");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        let old: Value = match serde_json::from_slice(&record.value) {
            Ok(old) => old,
            Err(error) => {
                tracing::error!(name, %error, "a stored definition is unreadable");
                return;
            }
        };
        let mut object = old.clone();
        act(&mut object);
        if object == old || server.write_definition(&record, object, &old).await {
            return;
        }
    }
}

/// Why objects are still there.
#[derive(Debug, thiserror::Error)]
enum EmptyError {
    #[error("the store cannot be read: {0}")]
    Store(#[from] StoreError),
    #[error("an object cannot be deleted: {0}")]
    Delete(crate::error::ApiError),
    #[error("the watch of the objects has ended")]
    Watch,
}

/// Deletes all objects of a collection and waits until they are gone.
async fn empty(server: &ApiServer, collection: &str) -> Result<(), EmptyError> {
    let range = Range::all(collection);
    loop {
        let listing = server.store.list(&range, At::Latest).await?;
        if listing.count() == 0 {
            return Ok(());
        }
        let mut watch = server.store.watch(&range, listing.revision())?;
        let mut waiting = false;
        let records: Vec<Record> = listing.iter().cloned().collect();
        let kind = server.catalogue.load().kinds().iter().find(|kind| *kind.collection == *collection).cloned();
        drop(listing);
        for record in records {
            waiting |= match &kind {
                Some(kind) => {
                    serde_json::from_slice::<Value>(&record.value)
                        .is_ok_and(|object| object["metadata"]["deletionTimestamp"].is_string())
                        || server.delete_unasked(kind, &record).await.map_err(EmptyError::Delete)?
                }
                None => true,
            };
        }
        if waiting {
            watch.next().await.map_err(|_| EmptyError::Watch)?;
        }
    }
}
