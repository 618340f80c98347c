//! Which servers of the cluster are there: the endpoints of the Service `kubernetes`.
//!
//! A server whose store nobody else has is the only one, and its endpoints are written once. Servers that share a store
//! keep a record each and write it anew every few seconds; a record that stays the same for too long, by the reader's own
//! clock, belongs to a server that has gone. Each of them makes the endpoints say who is left. The servers of a cluster
//! have the same port.
//!
//! Upstream: `pkg/controlplane/reconcilers/lease.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kobune_kinds::Catalogue;
use kobune_store::{
    At, CommitError, Draft, Durability, Facets, Key, Op, Range, Record, Revision, Store, StoreError, Write,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    encode,
    security::bootstrap,
    server::{BuildError, write_desired},
};

/// The collection of the servers' records, which is no resource.
pub(crate) const SERVERS: &str = "kobune/servers";

/// How often a record is written anew, as upstream.
const RENEW: Duration = Duration::from_secs(10);
/// How long a record may stay the same: one renewal may be lost.
const GONE: Duration = Duration::from_secs(25);

/// Why the endpoints could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum ServersError {
    /// The records could not be read.
    #[error("cannot read which servers there are")]
    Read(#[source] StoreError),
    /// A record could not be written.
    #[error("cannot write the record of server {name}")]
    Write {
        /// Whose it is.
        name: String,
        /// Why.
        #[source]
        source: CommitError,
    },
    /// The endpoints could not be written.
    #[error("cannot write the endpoints of the Service kubernetes")]
    Endpoints(#[source] Box<BuildError>),
}

/// The servers that share a store.
pub(crate) struct Servers {
    store: Arc<dyn Store>,
    catalogue: Arc<Catalogue>,
    own: IpAddr,
    port: u16,
    seen: Seen,
}

/// When each record was last seen to change.
#[derive(Debug, Default)]
struct Seen(BTreeMap<String, (Revision, Instant)>);

impl Seen {
    /// Takes over the records as they are now. Answers who is there and who has gone.
    fn look(&mut self, records: &[(String, Revision)], now: Instant) -> (BTreeSet<IpAddr>, Vec<String>) {
        self.0.retain(|name, _| records.iter().any(|(known, _)| known == name));
        let (mut there, mut gone) = (BTreeSet::new(), Vec::new());
        for (name, revision) in records {
            let entry = self.0.entry(name.clone()).or_insert((*revision, now));
            if entry.0 != *revision {
                *entry = (*revision, now);
            }
            match name.parse() {
                Ok(address) if now.duration_since(entry.1) < GONE => {
                    there.insert(address);
                }
                _ => gone.push(name.clone()),
            }
        }
        (there, gone)
    }
}

impl Servers {
    pub(crate) fn new(store: Arc<dyn Store>, catalogue: Arc<Catalogue>, own: IpAddr, port: u16) -> Self {
        Self { store, catalogue, own, port, seen: Seen::default() }
    }

    /// Writes this server's record and answers who is there, this one among them.
    pub(crate) async fn join(&mut self) -> Result<BTreeSet<IpAddr>, ServersError> {
        self.write_own().await?;
        self.look().await
    }

    async fn write_own(&self) -> Result<(), ServersError> {
        let name = self.own.to_string();
        let key = Key::new(SERVERS, "", &name);
        let value = json!({"metadata": {"name": name}, "renewed": crate::call::now_text()});
        let present = self.store.get(&key).await.map_err(ServersError::Read)?;
        let (bytes, splice) = encode::canonical(&value);
        let draft = Draft { bytes, splice, facets: Facets::default() };
        let op = match present {
            Some(record) => Op::Update { expected: record.revision, draft },
            None => Op::Create(draft),
        };
        match self.store.commit(Write { key, op, durability: Durability::Relaxed }).await {
            // Another server took this one for gone just now; the next turn writes it again.
            Ok(_) | Err(CommitError::Conflict { .. } | CommitError::Exists(_)) => Ok(()),
            Err(source) => Err(ServersError::Write { name, source }),
        }
    }

    async fn look(&mut self) -> Result<BTreeSet<IpAddr>, ServersError> {
        self.store.fresh().await.map_err(ServersError::Read)?;
        let listing = self.store.list(&Range::all(SERVERS), At::Latest).await.map_err(ServersError::Read)?;
        let records: Vec<&Record> = listing.iter().collect();
        let versions: Vec<(String, Revision)> =
            records.iter().map(|record| (record.key.name.to_string(), record.revision)).collect();
        let (mut there, gone) = self.seen.look(&versions, Instant::now());
        for name in gone {
            tracing::info!(server = name, "a server of the cluster has gone");
            if let Some(record) = records.iter().find(|record| *record.key.name == *name) {
                self.remove(record).await?;
            }
        }
        there.insert(self.own);
        Ok(there)
    }

    async fn remove(&self, record: &Record) -> Result<(), ServersError> {
        let object: Value = serde_json::from_slice(&record.value).unwrap_or_default();
        let (bytes, splice) = encode::canonical(&object);
        let last = Draft { bytes, splice, facets: Facets::default() };
        let op = Op::Delete { expected: record.revision, last };
        match self.store.commit(Write { key: record.key.clone(), op, durability: Durability::Relaxed }).await {
            // It came back, or another server was faster.
            Ok(_) | Err(CommitError::Conflict { .. }) => Ok(()),
            Err(source) => Err(ServersError::Write { name: record.key.name.to_string(), source }),
        }
    }

    async fn publish(&self, there: &BTreeSet<IpAddr>) -> Result<(), ServersError> {
        let addresses: Vec<IpAddr> = there.iter().copied().collect();
        for object in bootstrap::endpoints(&addresses, self.port) {
            let written = write_desired(&*self.store, &self.catalogue, &object).await;
            // False: another server writes the same at this moment.
            written.map_err(|error| ServersError::Endpoints(Box::new(error)))?;
        }
        Ok(())
    }

    /// Keeps the record and the endpoints current until `shutdown`, and then takes this server out.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            // Dropping the timer loses nothing.
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(RENEW) => {}
            }
            let turn = async {
                let there = self.join().await?;
                self.publish(&there).await
            };
            if let Err(error) = turn.await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the endpoints of the servers may be out of date"
                );
            }
        }
        let leave = async {
            let mut there = self.look().await?;
            if let Ok(Some(record)) = self.store.get(&Key::new(SERVERS, "", &self.own.to_string())).await {
                self.remove(&record).await?;
            }
            // The last one leaves its endpoints: without any, clients could not tell when it is back.
            if there.remove(&self.own) && !there.is_empty() {
                self.publish(&there).await?;
            }
            Ok::<(), ServersError>(())
        };
        if let Err(error) = leave.await {
            tracing::debug!(error = &error as &dyn std::error::Error, "others will notice that this server has gone");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stays_silent_has_gone() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        let mut check = |records: &[(&str, u64)], after: u64, there: &[&str], gone: &[&str]| {
            let records: Vec<_> =
                records.iter().map(|(name, version)| ((*name).to_owned(), Revision(*version))).collect();
            let (found, silent) = seen.look(&records, start + Duration::from_secs(after));
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            assert_eq!(
                (found, silent),
                (
                    there.iter().map(|one| (*one).to_owned()).collect(),
                    gone.iter().map(|one| (*one).to_owned()).collect()
                )
            );
        };
        check(&[("192.0.2.1", 1), ("192.0.2.2", 2)], 0, &["192.0.2.1", "192.0.2.2"], &[]);
        check(&[("192.0.2.1", 3), ("192.0.2.2", 2)], 10, &["192.0.2.1", "192.0.2.2"], &[]);
        check(&[("192.0.2.1", 4), ("192.0.2.2", 2)], 25, &["192.0.2.1"], &["192.0.2.2"]);
        check(&[("192.0.2.1", 5)], 35, &["192.0.2.1"], &[]);
        // It comes back.
        check(&[("192.0.2.1", 5), ("192.0.2.2", 9)], 45, &["192.0.2.1", "192.0.2.2"], &[]);
    }
}
