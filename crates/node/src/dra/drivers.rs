//! DRA drivers that have registered, and the ResourceSlices of those that have gone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use kobune_grpc::client::Client;

/// A driver that has gone, or that does not come after a start, may come within this time before its slices go; upstream's.
const GONE_FOR_GOOD: Duration = Duration::from_secs(30);

/// Calls of a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Methods {
    /// Prepare claims.
    pub prepare: &'static str,
    /// Give them up.
    pub unprepare: &'static str,
}

const V1: Methods = Methods {
    prepare: "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources",
    unprepare: "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodeUnprepareResources",
};
const V1BETA1: Methods = Methods {
    prepare: "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/NodePrepareResources",
    unprepare: "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/NodeUnprepareResources",
};

/// A registered driver.
#[derive(Clone)]
pub struct DraDriver {
    /// Its socket.
    pub client: Client,
    /// What it is called with.
    pub methods: Methods,
}

/// The drivers of this node: by name, each by the sockets that registered it; the newest counts.
#[derive(Default)]
pub struct DraDrivers {
    known: Mutex<BTreeMap<String, Vec<(PathBuf, DraDriver)>>>,
}

impl DraDrivers {
    /// A driver by its name.
    pub fn get(&self, name: &str) -> Option<DraDriver> {
        self.known.lock().get(name).and_then(|drivers| drivers.last()).map(|(_, driver)| driver.clone())
    }

    /// A driver has registered with this socket.
    pub fn add(&self, socket: &Path, name: &str, endpoint: &Path, versions: &[String]) -> Result<(), String> {
        if !is_driver(name) {
            return Err(format!("{name:?} is not a driver name"));
        }
        let driver = DraDriver { client: Client::new(endpoint.to_owned()), methods: methods(versions)? };
        tracing::info!(driver = name, "a DRA driver has registered");
        self.known.lock().entry(name.to_owned()).or_default().push((socket.to_owned(), driver));
        Ok(())
    }

    /// A socket has gone; the name of the driver that has none any more.
    fn remove(&self, socket: &Path) -> Option<String> {
        let mut known = self.known.lock();
        let name =
            known.iter().find(|(_, all)| all.iter().any(|(path, _)| path == socket)).map(|(name, _)| name.clone())?;
        let left = known.get_mut(&name)?;
        left.retain(|(path, _)| path != socket);
        if !left.is_empty() {
            return None;
        }
        known.remove(&name);
        Some(name)
    }

    fn names(&self) -> BTreeSet<String> {
        self.known.lock().keys().cloned().collect()
    }
}

/// The newest version that both sides speak.
fn methods(versions: &[String]) -> Result<Methods, String> {
    let speaks = |version: &str| versions.iter().any(|known| known == version);
    if speaks("v1.DRAPlugin") {
        Ok(V1)
    } else if speaks("v1beta1.DRAPlugin") {
        Ok(V1BETA1)
    } else {
        Err(format!("none of the versions {versions:?} is supported"))
    }
}

fn is_driver(name: &str) -> bool {
    let plain = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || matches!(letter, '-' | '.');
    let edge = |letter: Option<char>| letter.is_some_and(|letter| letter.is_ascii_alphanumeric());
    name.len() <= 63 && name.chars().all(plain) && edge(name.chars().next()) && edge(name.chars().last())
}

/// A socket of the registry has gone: its driver's slices go after a while, unless it comes again.
pub fn gone(context: &Arc<Context>, socket: &Path, token: &CancellationToken) {
    let Some(name) = context.dra.drivers.remove(socket) else { return };
    tracing::info!(driver = name, "a DRA driver has gone");
    let (context, token) = (Arc::clone(context), token.clone());
    tokio::spawn(async move { sweep(&context, Some(name), &token).await });
}

/// Takes away the node's slices of drivers that are not there: of this one, or of all that do not come after a start.
pub async fn sweep(context: &Context, name: Option<String>, token: &CancellationToken) {
    tokio::select! {
        () = token.cancelled() => return,
        () = tokio::time::sleep(GONE_FOR_GOOD) => {}
    }
    let mut wait = GONE_FOR_GOOD;
    while let Err(error) = try_sweep(context, name.as_deref()).await {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "the slices of DRA drivers that have gone are still there"
        );
        tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        wait = (wait * 2).min(Duration::from_secs(600));
    }
}

async fn try_sweep(context: &Context, name: Option<&str>) -> kube::Result<()> {
    let api: Api<ResourceSlice> = Api::all(context.config.client.clone());
    let own = format!("spec.nodeName={}", context.config.name);
    let listed = match api.list_metadata(&ListParams::default().fields(&own).limit(1)).await {
        // A server without DRA has no slices.
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        listed => listed?,
    };
    if listed.items.is_empty() {
        return Ok(());
    }
    let there = context.dra.drivers.names();
    let slices = api.list(&ListParams::default().fields(&own)).await?;
    let drivers: BTreeSet<String> = slices.items.into_iter().map(|slice| slice.spec.driver).collect();
    for driver in drivers.into_iter().filter(|driver| !there.contains(driver) && name.is_none_or(|name| name == driver))
    {
        let chosen = ListParams::default().fields(&format!("{own},spec.driver={driver}"));
        api.delete_collection(&DeleteParams::default(), &chosen).await?;
        tracing::info!(driver, "took away the slices of a DRA driver that is not there");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_registration_counts() {
        let drivers = DraDrivers::default();
        let add = |socket: &str, versions: &[&str]| {
            let versions: Vec<String> = versions.iter().map(|version| (*version).to_owned()).collect();
            drivers.add(Path::new(socket), "gpu.example.com", Path::new(socket), &versions)
        };
        add("/old", &["v1beta1.DRAPlugin"]).expect("known");
        add("/new", &["v1beta1.DRAPlugin", "v1.DRAPlugin"]).expect("known");
        add("/bad", &["v9.DRAPlugin"]).expect_err("unknown");
        assert_eq!(drivers.get("gpu.example.com").map(|driver| driver.methods), Some(V1));
        assert_eq!(drivers.remove(Path::new("/new")), None, "the other one is there");
        assert_eq!(drivers.get("gpu.example.com").map(|driver| driver.methods), Some(V1BETA1));
        assert_eq!(drivers.remove(Path::new("/old")).as_deref(), Some("gpu.example.com"));
        assert!(drivers.get("gpu.example.com").is_none());
        let versions = ["v1.DRAPlugin".to_owned()];
        drivers.add(Path::new("/x"), "../etc", Path::new("/x"), &versions).expect_err("no name");
    }
}
