//! Dynamic resource allocation on the node: drivers prepare the claims of a pod before its sandbox is made, and give them
//! up after it has gone.
//!
//! ```text
//!  claim (allocated, reserved for the pod) ─▶ record beside the pod ─▶ NodePrepareResources ─▶ CDI names ─▶ containers
//!  pod is cleaned up, no other pod here has the claim ─▶ NodeUnprepareResources ─▶ record goes
//! ```
//!
//! The record comes first, so that whatever a driver has prepared is given up, also after a crash.
//! Source of the rules: `pkg/kubelet/cm/dra/manager.go`.

pub mod drivers;
pub mod proto;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceClaim as ContainerClaim};
use k8s_openapi::api::resource::v1::ResourceClaim;
use kobune_runtime::ContainerConfig;
use kube::Api;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::cdi;
use crate::context::Context;
use crate::devices::pod_resources::{ClaimResource, DynamicResource};
use crate::devices::proto::CdiName;
use crate::errors::chain;
use crate::pod;
use drivers::DraDrivers;
use kobune_grpc::client::words;
use proto::{ClaimsRequest, PrepareResponse, UnprepareResponse, WireClaim};

/// The record beside a pod.
const RECORD: &str = "claims.json";
/// How long a driver may take, as upstream.
const PATIENCE: Duration = Duration::from_secs(45);

/// A claim of a pod, as it is prepared here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Claimed {
    /// The claim's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    uid: String,
    /// By driver, what it prepared; nothing before it has answered.
    drivers: BTreeMap<String, Vec<ClaimedDevice>>,
}

/// A device that a driver has prepared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct ClaimedDevice {
    /// The claim's requests that it is for; none for all.
    requests: Vec<String>,
    pool: String,
    device: String,
    cdi: Vec<String>,
}

impl ClaimedDevice {
    /// Whether it is for a request of the claim; for the whole claim all are.
    fn is_for(&self, request: Option<&str>) -> bool {
        // A request may be met by one of its alternatives: `request/alternative`.
        let meets = |own: &String, request: &str| own == request || own.split('/').next() == Some(request);
        request.is_none_or(|request| self.requests.is_empty() || self.requests.iter().any(|own| meets(own, request)))
    }
}

/// By the name that the pod gives the claim.
pub type Record = BTreeMap<String, Claimed>;

/// Drivers, and who works on which claim.
#[derive(Default)]
pub struct Dra {
    /// The drivers.
    pub drivers: DraDrivers,
    /// One at a time works on a claim.
    locks: Mutex<BTreeMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Dra {
    fn lock(&self, uid: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock();
        locks.retain(|_, lock| lock.strong_count() > 0);
        let known = locks.get(uid).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let lock = Arc::new(tokio::sync::Mutex::new(()));
            locks.insert(uid.to_owned(), Arc::downgrade(&lock));
            lock
        })
    }
}

impl Claimed {
    fn wire(&self) -> WireClaim {
        WireClaim { namespace: self.namespace.clone(), uid: self.uid.clone(), name: self.name.clone() }
    }
}

/// The claim object of each of the pod's claims; none where the pod turned out to need none.
fn names(owner: &Pod) -> Result<Vec<(String, String)>, String> {
    let statuses = owner.status.as_ref().and_then(|status| status.resource_claim_statuses.as_ref());
    let mut names = Vec::new();
    for claim in pod::spec(owner).resource_claims.iter().flatten() {
        if let Some(name) = &claim.resource_claim_name {
            names.push((claim.name.clone(), name.clone()));
            continue;
        }
        let made = statuses.into_iter().flatten().find(|status| status.name == claim.name);
        let made =
            made.ok_or_else(|| format!("ResourceClaim of pod claim {:?} has not been created yet", claim.name))?;
        names.extend(made.resource_claim_name.clone().map(|name| (claim.name.clone(), name)));
    }
    Ok(names)
}

/// What a claim says, as far as a pod may have it here.
fn claimed(owner: &Pod, claim: &ResourceClaim) -> Result<Claimed, String> {
    let name = claim.metadata.name.clone().unwrap_or_default();
    let status = claim.status.as_ref();
    let allocation = status.and_then(|status| status.allocation.as_ref());
    let allocation = allocation.ok_or_else(|| format!("ResourceClaim {name} is not allocated yet"))?;
    let reserved = status.into_iter().flat_map(|status| status.reserved_for.iter().flatten());
    if !reserved.into_iter().any(|user| user.uid == pod::uid(owner)) {
        let uid = pod::uid(owner);
        return Err(format!("pod {} with UID {uid:?} is not allowed to use ResourceClaim {name}", pod::name(owner)));
    }
    let results = allocation.devices.iter().flat_map(|devices| devices.results.iter().flatten());
    Ok(Claimed {
        namespace: claim.metadata.namespace.clone().unwrap_or_default(),
        uid: claim.metadata.uid.clone().unwrap_or_default(),
        drivers: results.map(|result| (result.driver.clone(), Vec::new())).collect(),
        name,
    })
}

/// The CDI names of what a container wants. Pure.
fn cdi_names(record: &Record, wanted: &[(String, Option<String>)]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (claim, request) in wanted {
        let devices = record.get(claim).into_iter().flat_map(|claimed| claimed.drivers.values().flatten());
        for device in devices.filter(|device| device.is_for(request.as_deref())) {
            names.extend(device.cdi.iter().filter(|name| !names.contains(name)).cloned().collect::<Vec<_>>());
        }
    }
    names
}

/// Has the drivers prepare the pod's claims. Idempotent.
pub async fn prepare(context: &Arc<Context>, owner: &Arc<Pod>) -> Result<(), String> {
    let wanted = names(owner)?;
    if wanted.is_empty() {
        return Ok(());
    }
    let pod_dir = context.pod_dir(pod::uid(owner));
    let api: Api<ResourceClaim> = Api::namespaced(context.config.client.clone(), pod::namespace(owner));
    let before = read(&pod_dir).await?;
    let mut record = Record::new();
    for (own, name) in wanted {
        let known =
            before.get(&own).filter(|known| known.name == name && known.drivers.values().all(|list| !list.is_empty()));
        let claimed = match known {
            // A start without the API server goes on with what was prepared.
            Some(known) => known.clone(),
            None => {
                let claim = api
                    .get(&name)
                    .await
                    .map_err(|error| format!("failed to get ResourceClaim {name}: {}", chain(&error)))?;
                claimed(owner, &claim)?
            }
        };
        record.insert(own, claimed);
    }
    keep(&pod_dir, &record).await?;
    for claimed in record.values_mut() {
        let lock = context.dra.lock(&claimed.uid);
        let _one_at_a_time = lock.lock().await;
        let request = ClaimsRequest { claims: vec![claimed.wire()] };
        for (name, devices) in &mut claimed.drivers {
            let driver = context.dra.drivers.get(name);
            let driver = driver.ok_or_else(|| format!("DRA driver {name} is not registered"))?;
            let answer: PrepareResponse =
                driver
                    .client
                    .call(driver.methods.prepare, request.clone(), PATIENCE)
                    .await
                    .map_err(|status| format!("NodePrepareResources of {name} failed: {}", words(&status)))?;
            let made = answer.claims.get(&claimed.uid);
            let made =
                made.ok_or_else(|| format!("NodePrepareResources of {name} left out ResourceClaim {}", claimed.name))?;
            if !made.error.is_empty() {
                return Err(format!(
                    "NodePrepareResources of {name} failed for ResourceClaim {}: {}",
                    claimed.name, made.error
                ));
            }
            *devices = made
                .devices
                .iter()
                .map(|device| ClaimedDevice {
                    requests: device.request_names.clone(),
                    pool: device.pool_name.clone(),
                    device: device.device_name.clone(),
                    cdi: device.cdi_device_ids.clone(),
                })
                .collect();
        }
    }
    keep(&pod_dir, &record).await
}

/// Gives a container what it needs for its claims.
pub async fn give(
    owner: &Pod,
    pod_dir: &Path,
    cdi_dirs: &[PathBuf],
    container: &str,
    config: &mut ContainerConfig,
) -> Result<(), String> {
    let members = pod::members(pod::spec(owner));
    let own = members.iter().find(|member| member.container.name == container);
    let claims = own.and_then(|member| member.container.resources.as_ref()?.claims.as_ref());
    let wanted: Vec<(String, Option<String>)> = claims
        .into_iter()
        .flatten()
        .map(|claim| (claim.name.clone(), claim.request.clone().filter(|request| !request.is_empty())))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let record = read(pod_dir).await?;
    cdi::inject(cdi_dirs, &cdi_names(&record, &wanted), config).map_err(|error| error.to_string())
}

/// What a pod has of its claims.
pub async fn record(pod_dir: &Path) -> Result<Record, String> {
    read(pod_dir).await
}

/// What a container has of its pod's claims, for the pod resources API.
pub fn of_container(record: &Record, container: &Container) -> Vec<DynamicResource> {
    let uses = container.resources.iter().flat_map(|own| own.claims.iter().flatten());
    let resource = |used: &ContainerClaim| {
        let claimed = record.get(&used.name)?;
        let devices =
            claimed.drivers.iter().flat_map(|(driver, devices)| devices.iter().map(move |device| (driver, device)));
        let wanted = used.request.as_deref().filter(|request| !request.is_empty());
        let devices = devices.filter(|(_, device)| device.is_for(wanted)).map(|(driver, device)| ClaimResource {
            cdi_devices: device.cdi.iter().map(|name| CdiName { name: name.clone() }).collect(),
            driver_name: driver.clone(),
            pool_name: device.pool.clone(),
            device_name: device.device.clone(),
        });
        Some(DynamicResource {
            claim_name: claimed.name.clone(),
            claim_namespace: claimed.namespace.clone(),
            claim_resources: devices.collect(),
        })
    };
    uses.filter_map(resource).collect()
}

/// Has the drivers give up what they prepared for a pod and no other pod here has. Idempotent.
pub async fn unprepare(context: &Context, uid: &str) -> Result<(), String> {
    let pod_dir = context.pod_dir(uid);
    let mut record = read(&pod_dir).await?;
    while let Some((own, claimed)) = record.pop_first() {
        let lock = context.dra.lock(&claimed.uid);
        let _one_at_a_time = lock.lock().await;
        let used = used_by_others(context, uid).await?;
        if !used.contains(&claimed.uid)
            && let Err(message) = give_up(context, &claimed).await
        {
            record.insert(own, claimed);
            keep(&pod_dir, &record).await?;
            return Err(message);
        }
        keep(&pod_dir, &record).await?;
    }
    Ok(())
}

async fn give_up(context: &Context, claimed: &Claimed) -> Result<(), String> {
    let request = ClaimsRequest { claims: vec![claimed.wire()] };
    for name in claimed.drivers.keys() {
        let driver = context.dra.drivers.get(name);
        let driver = driver.ok_or_else(|| format!("DRA driver {name} is not registered"))?;
        let answer: UnprepareResponse =
            driver
                .client
                .call(driver.methods.unprepare, request.clone(), PATIENCE)
                .await
                .map_err(|status| format!("NodeUnprepareResources of {name} failed: {}", words(&status)))?;
        let left = answer.claims.get(&claimed.uid);
        let left =
            left.ok_or_else(|| format!("NodeUnprepareResources of {name} left out ResourceClaim {}", claimed.name))?;
        if !left.error.is_empty() {
            return Err(format!(
                "NodeUnprepareResources of {name} failed for ResourceClaim {}: {}",
                claimed.name, left.error
            ));
        }
    }
    Ok(())
}

/// Uids of claims that other pods of this node have.
async fn used_by_others(context: &Context, uid: &str) -> Result<BTreeSet<String>, String> {
    let (folder, uid) = (context.config.node_dir().join("pods"), uid.to_owned());
    let found = tokio::task::spawn_blocking(move || -> io::Result<BTreeSet<String>> {
        let mut used = BTreeSet::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_name() != *uid {
                used.extend(read_now(&entry.path())?.into_values().map(|claimed| claimed.uid));
            }
        }
        Ok(used)
    });
    found
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| format!("the claims of other pods can't be read: {error}"))
}

fn read_now(pod_dir: &Path) -> io::Result<Record> {
    match std::fs::read(pod_dir.join(RECORD)) {
        Ok(text) => Ok(serde_json::from_slice(&text)?),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Record::new())
        }
        Err(error) => Err(error),
    }
}

async fn read(pod_dir: &Path) -> Result<Record, String> {
    let folder = pod_dir.to_owned();
    let read = tokio::task::spawn_blocking(move || read_now(&folder)).await.map_err(|error| error.to_string())?;
    read.map_err(|error| format!("which claims the pod has can't be read: {error}"))
}

async fn keep(pod_dir: &Path, record: &Record) -> Result<(), String> {
    let (path, record) = (pod_dir.join(RECORD), record.clone());
    let kept = tokio::task::spawn_blocking(move || {
        if record.is_empty() {
            return match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        crate::devices::keep(&path, &record)
    });
    let kept = kept.await.map_err(|error| error.to_string())?;
    kept.map_err(|error| format!("which claims the pod has can't be kept: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn owner(status: &Value) -> Pod {
        let claims = json!([{"name": "direct", "resourceClaimName": "shared"}, {"name": "made", "resourceClaimTemplateName": "t"}]);
        let spec = json!({"containers": [], "resourceClaims": claims});
        serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}, "spec": spec, "status": status}))
            .expect("a pod")
    }

    #[test]
    fn claims_have_names() {
        let missing = names(&owner(&json!({}))).expect_err("it is not made yet");
        assert!(missing.contains("has not been created yet"), "{missing}");
        let made = json!({"resourceClaimStatuses": [{"name": "made", "resourceClaimName": "p-made-x"}]});
        let pair = |own: &str, name: &str| (own.to_owned(), name.to_owned());
        assert_eq!(names(&owner(&made)).expect("names"), [pair("direct", "shared"), pair("made", "p-made-x")]);
        let needless = json!({"resourceClaimStatuses": [{"name": "made"}]});
        assert_eq!(names(&owner(&needless)).expect("names"), [pair("direct", "shared")]);
    }

    #[test]
    fn only_a_reserved_claim_may_be_used() {
        let judge = |status: Value| {
            let claim = json!({"metadata": {"name": "c", "uid": "cu"}, "spec": {}, "status": status});
            claimed(&owner(&json!({})), &serde_json::from_value(claim).expect("a claim"))
        };
        let results =
            json!({"devices": {"results": [{"driver": "d.example.com", "pool": "p", "device": "x", "request": "r"}]}});
        let user = |uid: &str| json!([{"resource": "pods", "name": "p", "uid": uid}]);
        assert!(judge(json!({})).expect_err("no").contains("not allocated"));
        assert!(
            judge(json!({"allocation": results, "reservedFor": user("other")}))
                .expect_err("no")
                .contains("not allowed")
        );
        let good = judge(json!({"allocation": results, "reservedFor": user("u")})).expect("it may");
        assert_eq!(good.drivers.keys().collect::<Vec<_>>(), ["d.example.com"]);
    }

    #[test]
    fn containers_get_what_they_ask_for() {
        let device = |requests: &[&str], cdi: &str| ClaimedDevice {
            requests: requests.iter().map(|name| (*name).to_owned()).collect(),
            cdi: vec![cdi.to_owned()],
            ..ClaimedDevice::default()
        };
        let devices = vec![device(&["a"], "v/c=a"), device(&["b/large"], "v/c=b"), device(&[], "v/c=all")];
        let claimed = Claimed { drivers: [("d".to_owned(), devices)].into(), ..Claimed::default() };
        let record = Record::from([("gpu".to_owned(), claimed)]);
        let check = |wanted: &[(&str, Option<&str>)], expected: &[&str]| {
            let wanted: Vec<_> =
                wanted.iter().map(|(claim, request)| ((*claim).to_owned(), request.map(str::to_owned))).collect();
            assert_eq!(cdi_names(&record, &wanted), expected, "{wanted:?}");
        };
        check(&[("gpu", None)], &["v/c=a", "v/c=b", "v/c=all"]);
        check(&[("gpu", Some("a"))], &["v/c=a", "v/c=all"]);
        check(&[("gpu", Some("b"))], &["v/c=b", "v/c=all"]);
        check(&[("gpu", Some("a")), ("gpu", Some("b"))], &["v/c=a", "v/c=all", "v/c=b"]);
        check(&[("other", None)], &[]);
    }

    #[test]
    fn claims_of_a_container() {
        let device = |name: &str, request: &str| ClaimedDevice {
            requests: vec![request.to_owned()],
            pool: "p".to_owned(),
            device: name.to_owned(),
            cdi: vec![format!("x/y={name}")],
        };
        let drivers = [("d".to_owned(), vec![device("one", "a"), device("two", "b/first")])].into();
        let claimed = Claimed { namespace: "ns".to_owned(), name: "mine".to_owned(), uid: "u".to_owned(), drivers };
        let record: Record = [("t".to_owned(), claimed)].into();
        let check = |claims: Value, expected: &str| {
            let container: Container =
                serde_json::from_value(json!({"name": "c", "resources": {"claims": claims}})).expect("one");
            let word = |own: &DynamicResource| {
                let devices: Vec<String> = own
                    .claim_resources
                    .iter()
                    .map(|device| format!("{}/{}/{}", device.driver_name, device.pool_name, device.cdi_devices[0].name))
                    .collect();
                format!("{}/{}: {}", own.claim_namespace, own.claim_name, devices.join(" "))
            };
            let list: Vec<String> = of_container(&record, &container).iter().map(word).collect();
            assert_eq!(list.join("; "), expected);
        };
        check(json!([{"name": "t"}]), "ns/mine: d/p/x/y=one d/p/x/y=two");
        check(json!([{"name": "t", "request": "b"}]), "ns/mine: d/p/x/y=two");
        check(json!([{"name": "other"}]), "");
        check(json!([]), "");
    }
}
