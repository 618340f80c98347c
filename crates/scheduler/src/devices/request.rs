//! What claims ask for, with classes looked up and selectors compiled.

use std::collections::HashMap;
use std::sync::Arc;

use crate::device_match::tolerates;
use k8s_openapi::api::resource::v1::{
    CapacityRequirements, Device, DeviceClass, DeviceConstraint, DeviceToleration, ResourceClaim,
};

use super::selector::{Selector, compile};

/// How many devices are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So many.
    Exactly(usize),
    /// All that the selectors mean, at least one.
    All,
}

/// One way to satisfy a request.
#[derive(Debug)]
pub struct Alternative<'c> {
    /// `request`, or `request/subrequest`.
    pub name: String,
    /// The class.
    pub class: &'c DeviceClass,
    selectors: Vec<Selector>,
    /// How many.
    pub amount: Amount,
    /// Whether devices are looked at only, and may be in use by others.
    pub admin: bool,
    /// Taints that are borne.
    pub tolerations: &'c [DeviceToleration],
    /// How much of what the device has.
    pub capacity: Option<&'c CapacityRequirements>,
}

/// One request of a claim.
#[derive(Debug)]
pub struct Request<'c> {
    /// Which of the claims it belongs to.
    pub claim: usize,
    /// Its name.
    pub name: &'c str,
    /// Ways to satisfy it, the best first.
    pub alternatives: Vec<Alternative<'c>>,
}

/// A claim that is to be allocated.
#[derive(Debug)]
pub struct Wanted<'c> {
    /// The claim.
    pub claim: &'c Arc<ResourceClaim>,
    /// What its requests have in common.
    pub constraints: &'c [DeviceConstraint],
}

impl Alternative<'_> {
    /// Whether all selectors, the class's own and the request's, mean the device.
    pub fn selects(&self, driver: &str, device: &Device) -> Result<bool, String> {
        for selector in &self.selectors {
            if !selector.selects(driver, device)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether every taint that keeps pods away is borne.
    pub fn tolerates(&self, device: &Device) -> bool {
        let keep_away = device.taints.iter().flatten().filter(|taint| taint.effect != "None");
        keep_away.into_iter().all(|taint| self.tolerations.iter().any(|toleration| tolerates(toleration, taint)))
    }
}

/// Reads the requests of claims; `Err` says in upstream's words why they cannot be satisfied anywhere.
pub fn read<'c>(
    claims: &[Wanted<'c>],
    classes: &'c HashMap<Box<str>, Arc<DeviceClass>>,
) -> Result<Vec<Request<'c>>, String> {
    let mut requests = Vec::new();
    for (number, wanted) in claims.iter().enumerate() {
        let claim: &'c ResourceClaim = wanted.claim;
        for request in claim.spec.devices.iter().flat_map(|devices| devices.requests.iter().flatten()) {
            let class = |name: &str| {
                let found = classes.get(name);
                found.ok_or_else(|| format!("request {}: device class {name} does not exist", request.name))
            };
            let amount = |mode: &Option<String>, count: Option<i64>| match mode.as_deref() {
                Some("All") => Amount::All,
                _ => Amount::Exactly(count.and_then(|count| usize::try_from(count).ok()).unwrap_or(1)),
            };
            let selectors = |class: &'c DeviceClass, own| -> Result<Vec<Selector>, String> {
                let mut all = compile(class.spec.selectors.as_ref()).map_err(|error| {
                    format!("class {}: {error}", class.metadata.name.as_deref().unwrap_or_default())
                })?;
                all.extend(compile(own).map_err(|error| format!("request {}: {error}", request.name))?);
                Ok(all)
            };
            let mut alternatives = Vec::new();
            if let Some(exact) = &request.exactly {
                let class = class(&exact.device_class_name)?;
                alternatives.push(Alternative {
                    name: request.name.clone(),
                    class,
                    selectors: selectors(class, exact.selectors.as_ref())?,
                    amount: amount(&exact.allocation_mode, exact.count),
                    admin: exact.admin_access == Some(true),
                    tolerations: exact.tolerations.as_deref().unwrap_or_default(),
                    capacity: exact.capacity.as_ref(),
                });
            }
            for sub in request.first_available.iter().flatten() {
                let class = class(&sub.device_class_name)?;
                alternatives.push(Alternative {
                    name: format!("{}/{}", request.name, sub.name),
                    class,
                    selectors: selectors(class, sub.selectors.as_ref())?,
                    amount: amount(&sub.allocation_mode, sub.count),
                    admin: false,
                    tolerations: sub.tolerations.as_deref().unwrap_or_default(),
                    capacity: sub.capacity.as_ref(),
                });
            }
            requests.push(Request { claim: number, name: &request.name, alternatives });
        }
    }
    Ok(requests)
}
