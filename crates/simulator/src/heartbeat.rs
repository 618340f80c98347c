//! Leases of simulated nodes: each is renewed every ten seconds, as kubelets do, evenly over the time.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, Patch, PatchParams, PostParams};
use tokio::time::{Instant, MissedTickBehavior};

use crate::node::{LEASES, lease};

/// How often each lease is renewed.
const PERIOD: Duration = Duration::from_secs(10);
/// How often some of them are.
const STEP: Duration = Duration::from_millis(100);
/// Steps of a period.
const STEPS: usize = 100;

/// Renews the leases of these nodes for ever.
pub async fn renew(client: kube::Client, nodes: Vec<Arc<str>>) {
    let api = Api::<Lease>::namespaced(client, LEASES);
    debug_assert_eq!(STEP * u32::try_from(STEPS).unwrap_or(u32::MAX), PERIOD);
    let mut ticks = tokio::time::interval_at(Instant::now(), STEP);
    // After a pause of the machine all are late alike: there is nothing to catch up with.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for step in (0..STEPS).cycle() {
        ticks.tick().await;
        let mut renewals: FuturesUnordered<_> =
            nodes.iter().skip(step).step_by(STEPS).map(|name| renew_one(&api, name)).collect();
        while renewals.next().await.is_some() {}
    }
}

async fn renew_one(api: &Api<Lease>, name: &str) {
    let now = Timestamp::now();
    let change =
        serde_json::json!({"spec": {"renewTime": k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(now)}});
    let done = match api.patch(name, &PatchParams::default(), &Patch::Merge(&change)).await {
        Err(kube::Error::Api(answer)) if answer.is_not_found() => {
            api.create(&PostParams::default(), &lease(name, now)).await
        }
        other => other,
    };
    if let Err(error) = done {
        // The next round is the next try, as a kubelet's.
        tracing::debug!(node = name, error = &error as &dyn std::error::Error, "a lease could not be renewed");
    }
}
