//! One of several servers runs the controllers, one the scheduler: who holds a Lease, by client-go's rules and times.
//!
//! ```text
//! candidate --takes the lease--> leader --renewed each 2 s--> leader
//!     ^                            | not renewed for 10 s, or somebody else holds it: the work is stopped
//!     +----------------------------+
//! ```
//!
//! Clocks are not compared: a lease has run out when it was not seen to change for its whole duration.
//!
//! Leases are long because flash is slow now and then. A leader that was killed is found out sooner: candidates hold a watch at
//! the leader's own server, whose address is on the lease. When that ends and the address refuses connections, no program is
//! there, and a lease that is silent for longer than a leader is between two renewals is free.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams, WatchParams};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// How long a lease lasts that is not renewed; client-go's default, as are the next two.
const DURATION: Duration = Duration::from_secs(15);
/// How long a leader tries to renew before it gives up.
const DEADLINE: Duration = Duration::from_secs(10);
/// The pause between tries.
const RETRY: Duration = Duration::from_secs(2);

/// What candidates for one lease have agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The name of the lease.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// How long a lease lasts that is not renewed.
    pub duration: Duration,
    /// How long a leader tries to renew before it gives up.
    pub deadline: Duration,
    /// The pause between tries.
    pub retry: Duration,
}

impl Terms {
    /// client-go's for a lease of this name.
    pub fn of(name: &str) -> Terms {
        Terms {
            name: name.to_owned(),
            namespace: "kube-system".to_owned(),
            duration: DURATION,
            deadline: DEADLINE,
            retry: RETRY,
        }
    }

    /// How long the work may take to stop after the lease is lost. Then nobody else has it yet, since a lease lasts longer than a
    /// leader tries.
    fn stop(&self) -> Duration {
        self.duration.saturating_sub(self.deadline).mul_f64(0.8)
    }
}

/// How long a lease is silent at least whose holder's server refuses connections: longer than a leader is between two tries, so
/// that one which has only changed its address keeps its lease.
const SILENCE: Duration = Duration::from_secs(3);
/// The annotation that says where the server of the holder is.
const SERVER: &str = "kobune.dev/server";

/// Makes a client for the server at an address.
pub type Connect = Arc<dyn Fn(SocketAddr) -> BoxFuture<'static, Result<kube::Client>> + Send + Sync>;

/// What to do about the lease.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// There is none: make it.
    Create,
    /// It is free or has run out: take it.
    Take,
    /// It is ours: renew it.
    Renew,
    /// Somebody else holds it.
    Wait,
}

/// Decides by who holds the lease, how long it has not been seen to change, and whether the holder's server is dead.
fn decide(spec: Option<&LeaseSpec>, me: &str, unchanged: Duration, dead: bool) -> Step {
    let Some(spec) = spec else { return Step::Create };
    let lasts = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
    match spec.holder_identity.as_deref() {
        Some(holder) if holder == me => Step::Renew,
        None | Some("") => Step::Take,
        Some(_) if unchanged >= lasts.unwrap_or(DURATION) || (dead && unchanged >= SILENCE) => Step::Take,
        Some(_) => Step::Wait,
    }
}

/// The lease as `me` writes it.
fn held(before: Option<&LeaseSpec>, me: &str, duration: Duration, now: Timestamp) -> LeaseSpec {
    let renewed = before.filter(|before| before.holder_identity.as_deref() == Some(me));
    let transitions = before.and_then(|before| before.lease_transitions).unwrap_or(0);
    LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: Some(i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)),
        acquire_time: renewed.map_or(Some(MicroTime(now)), |renewed| renewed.acquire_time.clone()),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(match (before, renewed) {
            (None, _) => 0,
            (Some(_), Some(_)) => transitions,
            (Some(_), None) => transitions.saturating_add(1),
        }),
        ..LeaseSpec::default()
    }
}

/// A candidate for one lease.
pub struct Candidate {
    leases: Api<Lease>,
    terms: Terms,
    identity: String,
    /// Where our own server is, and how others are reached; nothing for one whose API server is somebody else's.
    servers: Option<(SocketAddr, Connect)>,
    /// The lease as it was last seen, and since when it is so.
    seen: Option<(Lease, Instant)>,
    /// Whether the server of who held it then has refused a connection since.
    dead: bool,
}

impl Candidate {
    /// Stands for a lease. `servers` is where our own server is, and how others are reached.
    pub fn new(
        client: kube::Client,
        terms: Terms,
        identity: String,
        servers: Option<(SocketAddr, Connect)>,
    ) -> Candidate {
        let leases = Api::namespaced(client, &terms.namespace);
        Candidate { leases, terms, identity, servers, seen: None, dead: false }
    }

    /// Looks at the lease and takes or renews it if that is due. Answers whether it is ours now.
    async fn attempt(&mut self) -> kube::Result<bool> {
        let found = self.leases.get_opt(&self.terms.name).await?;
        let changed = match (&self.seen, &found) {
            (Some((seen, _)), Some(found)) => seen.metadata.resource_version != found.metadata.resource_version,
            _ => true,
        };
        if changed {
            self.dead = false;
            self.seen = found.map(|lease| (lease, Instant::now()));
        }
        let (lease, unchanged) = match &self.seen {
            Some((lease, since)) => (Some(lease), since.elapsed()),
            None => (None, Duration::ZERO),
        };
        let spec = lease.and_then(|lease| lease.spec.as_ref());
        let step = if lease.is_some() && spec.is_none() {
            Step::Take
        } else {
            decide(spec, &self.identity, unchanged, self.dead)
        };
        let spec = Some(held(spec, &self.identity, self.terms.duration, Timestamp::now()));
        let written = match step {
            Step::Wait => return Ok(false),
            Step::Create => {
                let name = Some(self.terms.name.clone());
                let metadata = self.signed(ObjectMeta { name, ..ObjectMeta::default() });
                self.leases.create(&PostParams::default(), &Lease { metadata, spec }).await
            }
            Step::Take | Step::Renew => {
                // With the resourceVersion that was read: of two candidates one is refused.
                let metadata = self.signed(lease.map(|lease| lease.metadata.clone()).unwrap_or_default());
                self.leases.replace(&self.terms.name, &PostParams::default(), &Lease { metadata, spec }).await
            }
        };
        match written {
            Ok(lease) => {
                self.seen = Some((lease, Instant::now()));
                Ok(true)
            }
            // Somebody else was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The lease's metadata with our address.
    fn signed(&self, mut metadata: ObjectMeta) -> ObjectMeta {
        let annotations = metadata.annotations.get_or_insert_default();
        match &self.servers {
            Some((own, _)) => drop(annotations.insert(SERVER.to_owned(), own.to_string())),
            // That of whoever held it before.
            None => drop(annotations.remove(SERVER)),
        }
        metadata
    }

    /// Who holds the lease, and where its server is.
    fn holder(&self) -> Option<(String, SocketAddr)> {
        let (lease, _) = self.seen.as_ref()?;
        let holder = lease.spec.as_ref()?.holder_identity.clone().filter(|holder| !holder.is_empty())?;
        let server = lease.metadata.annotations.as_ref()?.get(SERVER)?.parse().ok()?;
        Some((holder, server))
    }

    /// Waits until the lease is ours.
    async fn win(&mut self) {
        // Whose server is watched, and the wait for its end.
        let mut vigil: Option<(String, BoxFuture<'static, ()>)> = None;
        loop {
            match self.attempt().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::info!(lease = self.terms.name, %error, "cannot reach the lease"),
            }
            let holder = self.holder().filter(|_| !self.dead);
            if vigil.as_ref().map(|(known, _)| known) != holder.as_ref().map(|(holder, _)| holder) {
                let connect = self.servers.as_ref().map(|(_, connect)| Arc::clone(connect));
                vigil = holder
                    .zip(connect)
                    .map(|((holder, server), connect)| (holder, end_of(connect, self.terms.clone(), server).boxed()));
            }
            let silent = self.seen.as_ref().map_or(Duration::ZERO, |(_, since)| since.elapsed());
            let pause = if self.dead { SILENCE.saturating_sub(silent).min(self.terms.retry) } else { self.terms.retry };
            let ended = async {
                match &mut vigil {
                    Some((_, end)) => end.await,
                    None => std::future::pending().await,
                }
            };
            // Both may be dropped: the vigil stays where it is.
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = ended => {
                    vigil = None;
                    tracing::info!(lease = self.terms.name, "the leader's server is gone");
                    // Its last renewal may not have been seen yet; the silence begins with it.
                    match self.attempt().await {
                        Ok(true) => return,
                        Ok(false) => {}
                        Err(error) => tracing::info!(lease = self.terms.name, %error, "cannot reach the lease"),
                    }
                    self.dead = true;
                }
            }
        }
    }

    /// Renews the lease until that fails for too long or somebody else has it.
    async fn defend(&mut self) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < self.terms.deadline {
            tokio::time::sleep(self.terms.retry).await;
            match tokio::time::timeout(self.terms.deadline.saturating_sub(renewed.elapsed()), self.attempt()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => return,
                Ok(Err(error)) => tracing::info!(lease = self.terms.name, %error, "cannot renew the lease"),
                Err(_) => return,
            }
        }
    }

    /// Gives the lease back, so that nobody has to wait for its end.
    async fn release(&mut self) -> kube::Result<()> {
        let Some((lease, _)) = &self.seen else { return Ok(()) };
        let mut lease = lease.clone();
        let Some(spec) = lease.spec.as_mut() else { return Ok(()) };
        if spec.holder_identity.as_deref() != Some(&*self.identity) {
            return Ok(());
        }
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        self.leases.replace(&self.terms.name, &PostParams::default(), &lease).await.map(drop)
    }

    /// Does the work whenever the lease is ours, until `token` is cancelled. The work ends when its own token is cancelled.
    pub async fn run<F>(mut self, token: CancellationToken, work: impl Fn(CancellationToken) -> F) -> Result<()>
    where
        F: Future<Output = Result<()>>,
    {
        loop {
            tokio::select! {
                () = token.cancelled() => return Ok(()),
                // Dropped, it leaves at most a lease that runs out.
                () = self.win() => {}
            }
            tracing::info!(lease = self.terms.name, identity = self.identity, "leads from now on");
            let term = token.child_token();
            let mut work = std::pin::pin!(work(term.clone()));
            tokio::select! {
                ended = &mut work => {
                    let released = self.release().await.context("give the lease back");
                    return if token.is_cancelled() { ended.and(released) } else { ended };
                }
                () = self.defend() => {}
            }
            term.cancel();
            tracing::warn!(lease = self.terms.name, "leads no longer");
            match tokio::time::timeout(self.terms.stop(), work).await {
                Ok(ended) => ended?,
                // Two leaders would be worse than a restart.
                Err(_) => bail!("the work under lease {} does not stop", self.terms.name),
            }
            self.seen = None;
        }
    }
}

/// Waits until no server is at an address any more: until a watch there has ended and a connection is refused.
async fn end_of(connect: Connect, terms: Terms, server: SocketAddr) {
    loop {
        if let Err(error) = stay_at(&connect, &terms, server).await {
            tracing::debug!(lease = terms.name, %server, %error, "cannot watch the leader's server");
        }
        let refused = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
        match tokio::time::timeout(RETRY, TcpStream::connect(server)).await {
            Ok(Err(error)) if refused(&error) => return,
            // It is there, or nobody can say.
            Ok(_) | Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

/// Holds a watch at a server until it ends.
async fn stay_at(connect: &Connect, terms: &Terms, server: SocketAddr) -> Result<()> {
    let leases = Api::<Lease>::namespaced(connect(server).await?, &terms.namespace);
    let only_this = WatchParams::default().fields(&format!("metadata.name={}", terms.name)).timeout(290);
    let mut changes = leases.watch(&only_this, "0").await?.boxed();
    while let Some(change) = changes.next().await {
        change?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, seconds: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(seconds),
            lease_transitions: Some(3),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn who_leads() {
        let decided = |spec: Option<&LeaseSpec>, unchanged: u64, dead: bool| {
            decide(spec, "me", Duration::from_secs(unchanged), dead)
        };
        let check = |spec: Option<LeaseSpec>, unchanged: u64, expected: Step| {
            assert_eq!(decided(spec.as_ref(), unchanged, false), expected, "{spec:?} {unchanged}");
        };
        // One that still renews its lease is not dead, whatever its address says.
        assert_eq!(decided(Some(&lease("other", 15)), 2, true), Step::Wait);
        assert_eq!(decided(Some(&lease("other", 15)), 3, true), Step::Take);
        check(None, 0, Step::Create);
        check(Some(lease("me", 15)), 0, Step::Renew);
        check(Some(lease("me", 15)), 100, Step::Renew);
        check(Some(lease("other", 15)), 14, Step::Wait);
        check(Some(lease("other", 15)), 15, Step::Take);
        check(Some(lease("other", 1)), 1, Step::Take);
        check(Some(lease("", 15)), 0, Step::Take);
        check(Some(LeaseSpec::default()), 0, Step::Take);
        check(Some(lease("other", -1)), 14, Step::Wait);
    }

    #[test]
    fn transitions_are_counted() {
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(held(None, "me", DURATION, now).lease_transitions, Some(0));
        assert_eq!(held(Some(&lease("other", 15)), "me", DURATION, now).lease_transitions, Some(4));
        let mut mine = lease("me", 15);
        mine.acquire_time = Some(MicroTime(Timestamp::MIN));
        let renewed = held(Some(&mine), "me", DURATION, now);
        assert_eq!((renewed.lease_transitions, renewed.acquire_time), (Some(3), Some(MicroTime(Timestamp::MIN))));
    }
}
