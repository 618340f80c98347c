//! A list and what becomes of it: the way in which verbs wait for something.

use anyhow::{Result, bail};
use futures::{AsyncBufReadExt as _, TryStreamExt as _};
use http::Method;
use serde_json::Value;

use super::words;
use crate::request::{self, RequestError};

/// What is there, or what has become of it.
#[derive(Debug)]
pub enum News {
    /// All that is there now; whatever was known before and is not in it has gone.
    Listed(Vec<Value>),
    /// One object came, changed or went: the event's type, and the object.
    Event(String, Value),
}

/// Lists what a path and its query name and tells of every change, until `step` has what it wants.
///
/// A watch that ends goes on where it ended. After a broken one the list is read again; when that is not answered either, the
/// server is away and this fails.
pub async fn follow<T>(
    client: &kube::Client,
    folder: &str,
    query: &str,
    mut step: impl FnMut(News) -> Result<Option<T>>,
) -> Result<T> {
    loop {
        let path = format!("{folder}?{query}");
        let list =
            request::send(client, Method::GET, &path, None, "application/json").await.map_err(words::refused)?.body;
        let mut version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        let items = list["items"].as_array().cloned().unwrap_or_default();
        if let Some(done) = step(News::Listed(items))? {
            return Ok(done);
        }
        if let Some(done) = watch(client, folder, query, &mut version, &mut step).await? {
            return Ok(done);
        }
    }
}

/// Watches until `step` has what it wants; nothing when the list must be read again.
async fn watch<T>(
    client: &kube::Client,
    folder: &str,
    query: &str,
    version: &mut String,
    step: &mut impl FnMut(News) -> Result<Option<T>>,
) -> Result<Option<T>> {
    loop {
        let path = format!("{folder}?watch=true&allowWatchBookmarks=true&resourceVersion={version}&{query}");
        // Not compressed: an event must not wait in a buffer for the next one.
        let request = http::Request::get(path)
            .header(http::header::ACCEPT, "application/json")
            .header(http::header::ACCEPT_ENCODING, "identity")
            .body(Vec::new())?;
        let mut lines = match client.request_stream(request).await {
            Ok(stream) => stream.lines(),
            Err(kube::Error::Api(status)) if status.code == 410 => return Ok(None),
            Err(kube::Error::Api(status)) => return Err(words::refused(RequestError::Refused(status))),
            // The list says whether anybody is there.
            Err(_) => return Ok(None),
        };
        let mut quiet = true;
        loop {
            let line = match lines.try_next().await {
                Ok(Some(line)) => line,
                Ok(None) => break,
                Err(_) => return Ok(None),
            };
            quiet = false;
            let Ok(mut event) = serde_json::from_str::<Value>(&line) else {
                bail!("the answer of the API server cannot be read: {line}");
            };
            let object = event["object"].take();
            if event["type"] == "ERROR" {
                if object["code"] == 410 {
                    return Ok(None);
                }
                bail!("{}", object["message"].as_str().unwrap_or("the watch failed"));
            }
            if let Some(newest) = object["metadata"]["resourceVersion"].as_str() {
                newest.clone_into(version);
            }
            if event["type"] == "BOOKMARK" {
                continue;
            }
            let kind = event["type"].as_str().unwrap_or_default().to_owned();
            if let Some(done) = step(News::Event(kind, object))? {
                return Ok(Some(done));
            }
        }
        // A server that ends watches at once must not be asked a thousand times a second.
        if quiet {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    }
}
