//! One of several servers runs the controllers, one the scheduler: who holds a Lease, by client-go's rules and times.
//!
//! ```text
//! candidate --takes the lease--> leader --renewed each 2 s--> leader
//!     ^                            | not renewed for 10 s, or somebody else holds it: the work is stopped
//!     +----------------------------+
//! ```
//!
//! Clocks are not compared: a lease has run out when it was not seen to change for its whole duration.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio_util::sync::CancellationToken;

/// How long a lease lasts that is not renewed; client-go's default, as are the next two.
const DURATION: Duration = Duration::from_secs(15);
/// How long a leader tries to renew before it gives up.
const DEADLINE: Duration = Duration::from_secs(10);
/// The pause between tries.
const RETRY: Duration = Duration::from_secs(2);
/// How long the work may take to stop after the lease is lost. Then nobody else has it yet, since a lease lasts longer
/// than a leader tries.
const STOP: Duration = Duration::from_secs(4);

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

/// Decides by who holds the lease and how long it has not been seen to change.
fn decide(spec: Option<&LeaseSpec>, me: &str, unchanged: Duration) -> Step {
    let Some(spec) = spec else { return Step::Create };
    let lasts = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
    match spec.holder_identity.as_deref() {
        Some(holder) if holder == me => Step::Renew,
        None | Some("") => Step::Take,
        Some(_) if unchanged >= lasts.unwrap_or(DURATION) => Step::Take,
        Some(_) => Step::Wait,
    }
}

/// The lease as `me` writes it.
fn held(before: Option<&LeaseSpec>, me: &str, now: Timestamp) -> LeaseSpec {
    let renewed = before.filter(|before| before.holder_identity.as_deref() == Some(me));
    let transitions = before.and_then(|before| before.lease_transitions).unwrap_or(0);
    LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: Some(i32::try_from(DURATION.as_secs()).expect("it is short")),
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
    name: &'static str,
    identity: String,
    /// The lease as it was last seen, and since when it is so.
    seen: Option<(Lease, Instant)>,
}

impl Candidate {
    /// Stands for the lease of this name in `kube-system`.
    pub fn new(client: kube::Client, name: &'static str, identity: String) -> Candidate {
        Candidate { leases: Api::namespaced(client, "kube-system"), name, identity, seen: None }
    }

    /// Looks at the lease and takes or renews it if that is due. Answers whether it is ours now.
    async fn attempt(&mut self) -> kube::Result<bool> {
        let found = self.leases.get_opt(self.name).await?;
        let changed = match (&self.seen, &found) {
            (Some((seen, _)), Some(found)) => seen.metadata.resource_version != found.metadata.resource_version,
            _ => true,
        };
        if changed {
            self.seen = found.map(|lease| (lease, Instant::now()));
        }
        let (lease, unchanged) = match &self.seen {
            Some((lease, since)) => (Some(lease), since.elapsed()),
            None => (None, Duration::ZERO),
        };
        let spec = lease.and_then(|lease| lease.spec.as_ref());
        let step = if lease.is_some() && spec.is_none() { Step::Take } else { decide(spec, &self.identity, unchanged) };
        let spec = Some(held(spec, &self.identity, Timestamp::now()));
        let written = match step {
            Step::Wait => return Ok(false),
            Step::Create => {
                let metadata = ObjectMeta { name: Some(self.name.to_owned()), ..ObjectMeta::default() };
                self.leases.create(&PostParams::default(), &Lease { metadata, spec }).await
            }
            Step::Take | Step::Renew => {
                // With the resourceVersion that was read: of two candidates one is refused.
                let metadata = lease.map(|lease| lease.metadata.clone()).unwrap_or_default();
                self.leases.replace(self.name, &PostParams::default(), &Lease { metadata, spec }).await
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

    /// Waits until the lease is ours.
    async fn win(&mut self) {
        loop {
            match self.attempt().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::info!(lease = self.name, %error, "cannot reach the lease"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Renews the lease until that fails for too long or somebody else has it.
    async fn defend(&mut self) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < DEADLINE {
            tokio::time::sleep(RETRY).await;
            match tokio::time::timeout(DEADLINE.saturating_sub(renewed.elapsed()), self.attempt()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => return,
                Ok(Err(error)) => tracing::info!(lease = self.name, %error, "cannot renew the lease"),
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
        self.leases.replace(self.name, &PostParams::default(), &lease).await.map(drop)
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
            tracing::info!(lease = self.name, identity = self.identity, "leads from now on");
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
            tracing::warn!(lease = self.name, "leads no longer");
            match tokio::time::timeout(STOP, work).await {
                Ok(ended) => ended?,
                // Two leaders would be worse than a restart.
                Err(_) => bail!("the work under lease {} does not stop", self.name),
            }
            self.seen = None;
        }
    }
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
        let check = |spec: Option<LeaseSpec>, unchanged: u64, expected: Step| {
            assert_eq!(decide(spec.as_ref(), "me", Duration::from_secs(unchanged)), expected, "{spec:?} {unchanged}");
        };
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
        assert_eq!(held(None, "me", now).lease_transitions, Some(0));
        assert_eq!(held(Some(&lease("other", 15)), "me", now).lease_transitions, Some(4));
        let mut mine = lease("me", 15);
        mine.acquire_time = Some(MicroTime(Timestamp::MIN));
        let renewed = held(Some(&mine), "me", now);
        assert_eq!((renewed.lease_transitions, renewed.acquire_time), (Some(3), Some(MicroTime(Timestamp::MIN))));
    }
}
