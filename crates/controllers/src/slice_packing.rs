//! How endpoints are put into EndpointSlices: at most 100 each, as few writes as possible. Pure, but for [`carry_out`].
//!
//! Both controllers that make slices pack them this way: the one for Services with a selector, and the one that mirrors
//! Endpoints. Upstream: <https://github.com/kubernetes/kubernetes/tree/master/staging/src/k8s.io/endpointslice>.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, DeleteParams, PostParams};

use crate::context::Context;
use crate::object::Cached;
use crate::pod_control::namespace_is_terminating;
use crate::queue::{Doing, PassError, is_not_found};
use crate::service_endpoints::Port;

/// Names the Service of a slice.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Says who keeps a slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Endpoints in one slice, as upstream.
const MOST: usize = 100;

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Make a slice.
    Create(Box<EndpointSlice>),
    /// Replace a slice.
    Update(Box<EndpointSlice>),
    /// Remove a slice.
    Delete(Arc<EndpointSlice>),
}

/// Address type and ports: endpoints that share a slice share these.
pub type Group = (String, Vec<Port>);

/// What all slices of one Service have in common.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The namespace.
    pub namespace: Option<String>,
    /// What their names begin with: the Service's name.
    pub name: String,
    /// What they go away with.
    pub owner: OwnerReference,
    /// Their labels.
    pub labels: BTreeMap<String, String>,
    /// Their annotations, apart from `trigger`.
    pub annotations: BTreeMap<String, String>,
    /// When what is written now happened, as an annotation that latency is measured by; only on what is written anyway.
    pub trigger: Option<String>,
}

/// The annotation that says when the change that a write shows happened: the SLO of the network is measured by it.
/// Upstream: `EndpointsLastChangeTriggerTime`.
pub const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// The slices of a Service that one controller keeps.
pub fn kept_by(present: Vec<Arc<EndpointSlice>>, manager: &str) -> Vec<Arc<EndpointSlice>> {
    let ours = |slice: &Arc<EndpointSlice>| {
        slice.metadata.labels.as_ref().is_some_and(|labels| labels.get(MANAGED_BY).is_some_and(|by| by == manager))
    };
    present.into_iter().filter(ours).collect()
}

/// Carries out what was planned for one namespace. False when the namespace is going away, so that nothing more can be done.
pub async fn carry_out(context: &Context, namespace: &str, actions: Vec<Action>) -> Result<bool, PassError> {
    let slices = &context.caches.endpoint_slices;
    let api = Api::<EndpointSlice>::namespaced(context.client.clone(), namespace);
    for action in actions {
        match action {
            Action::Create(slice) => match api.create(&PostParams::default(), &slice).await {
                Ok(created) => slices.wrote(slim(created)),
                Err(error) if namespace_is_terminating(&error) => return Ok(false),
                Err(error) => return Err(error).doing("creating an endpoint slice"),
            },
            Action::Update(slice) => {
                let name = slice.metadata.name.clone().unwrap_or_default();
                let written =
                    api.replace(&name, &PostParams::default(), &slice).await.doing("updating an endpoint slice")?;
                slices.wrote(slim(written));
            }
            Action::Delete(slice) => match api.delete(&slice.key().name, &DeleteParams::default()).await {
                Ok(_) => slices.removed(&slice.key(), slice.uid()),
                Err(error) if is_not_found(&error) => slices.removed(&slice.key(), slice.uid()),
                Err(error) => return Err(error).doing("deleting an endpoint slice"),
            },
        }
    }
    Ok(true)
}

fn slim(mut slice: EndpointSlice) -> EndpointSlice {
    slice.metadata.managed_fields = None;
    slice
}

fn group_of(slice: &EndpointSlice) -> Group {
    let mut ports: Vec<Port> = slice
        .ports
        .iter()
        .flatten()
        .map(|port| Port {
            name: port.name.clone().unwrap_or_default(),
            port: port.port.unwrap_or(0),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            app_protocol: port.app_protocol.clone(),
        })
        .collect();
    ports.sort();
    (slice.address_type.clone(), ports)
}

/// What tells one endpoint from another.
fn identity(endpoint: &Endpoint) -> (Option<String>, Option<String>) {
    (endpoint.target_ref.as_ref().and_then(|target| target.uid.clone()), endpoint.addresses.first().cloned())
}

/// Compares slices with what is wanted: what fits stays where it is, the rest goes where there is room. A group that is
/// wanted without ports and endpoints keeps one empty slice.
pub fn plan(frame: &Frame, mut wanted: BTreeMap<Group, Vec<Endpoint>>, present: &[Arc<EndpointSlice>]) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut kept: Vec<(Arc<EndpointSlice>, EndpointSlice, Group)> = Vec::new();
    for slice in present.iter().filter(|slice| !slice.deleting()) {
        let group = group_of(slice);
        let Some(endpoints) = wanted.get_mut(&group) else {
            actions.push(Action::Delete(slice.clone()));
            continue;
        };
        let mut changed = (**slice).clone();
        let mut by_identity: HashMap<_, _> =
            endpoints.iter().map(|endpoint| (identity(endpoint), endpoint.clone())).collect();
        let mine: Vec<Endpoint> =
            slice.endpoints.iter().flatten().filter_map(|old| by_identity.remove(&identity(old))).collect();
        let taken: HashSet<_> = mine.iter().map(identity).collect();
        endpoints.retain(|endpoint| !taken.contains(&identity(endpoint)));
        if slice.endpoints.as_deref().unwrap_or_default() != mine {
            changed.endpoints = Some(mine);
        }
        if changed.metadata.labels.as_ref() != Some(&frame.labels) {
            changed.metadata.labels = Some(frame.labels.clone());
        }
        let old = slice.metadata.annotations.clone().unwrap_or_default();
        if old.iter().filter(|(key, _)| *key != TRIGGER_TIME).ne(frame.annotations.iter()) {
            changed.metadata.annotations = Some(frame.annotations.clone());
        }
        kept.push((slice.clone(), changed, group));
    }
    // Slices that are written anyway are filled first, then the fullest, so that few are written.
    for (group, endpoints) in &mut wanted {
        let mut candidates: Vec<&mut (Arc<EndpointSlice>, EndpointSlice, Group)> =
            kept.iter_mut().filter(|(_, _, other)| other == group).collect();
        candidates.sort_by_key(|(old, new, _)| {
            (**old == *new, std::cmp::Reverse(new.endpoints.as_ref().map_or(0, Vec::len)))
        });
        for (_, slice, _) in candidates {
            let list = slice.endpoints.get_or_insert_default();
            let room = MOST.saturating_sub(list.len()).min(endpoints.len());
            list.extend(endpoints.drain(..room));
        }
        let any = kept.iter().any(|(_, _, other)| other == group);
        while !endpoints.is_empty() || (!any && endpoints.is_empty() && group.1.is_empty()) {
            let rest = endpoints.drain(..endpoints.len().min(MOST)).collect::<Vec<_>>();
            let empty = rest.is_empty();
            actions.push(Action::Create(Box::new(new_slice(frame, group, rest))));
            if empty {
                break;
            }
            if endpoints.is_empty() {
                break;
            }
        }
    }
    // An emptied slice goes, unless it is the last one to say that there is nothing.
    let counts = kept.iter().fold(HashMap::<Group, usize>::new(), |mut counts, (_, slice, group)| {
        *counts.entry(group.clone()).or_default() +=
            usize::from(slice.endpoints.as_ref().is_some_and(|list| !list.is_empty()));
        counts
    });
    let mut placeholders: HashSet<Group> = HashSet::new();
    for (old, new, group) in kept {
        let empty = new.endpoints.as_ref().is_none_or(Vec::is_empty);
        let placeholder = empty && counts.get(&group).copied().unwrap_or(0) == 0 && placeholders.insert(group);
        if empty && !placeholder {
            actions.push(Action::Delete(old));
        } else if *old != new {
            let mut new = new;
            mark(&mut new.metadata, frame);
            actions.push(Action::Update(Box::new(new)));
        }
    }
    actions.sort_by_key(|action| match action {
        Action::Create(_) => 0,
        Action::Update(_) => 1,
        Action::Delete(_) => 2,
    });
    actions
}

/// Says on what is written when it came to be.
fn mark(metadata: &mut ObjectMeta, frame: &Frame) {
    let annotations = metadata.annotations.get_or_insert_default();
    match &frame.trigger {
        Some(trigger) => annotations.insert(TRIGGER_TIME.to_owned(), trigger.clone()),
        None => annotations.remove(TRIGGER_TIME),
    };
    if annotations.is_empty() {
        metadata.annotations = None;
    }
}

fn new_slice(frame: &Frame, group: &Group, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let (family, ports) = group;
    let mut metadata = ObjectMeta {
        generate_name: Some(format!("{}-", frame.name)),
        namespace: frame.namespace.clone(),
        labels: Some(frame.labels.clone()),
        annotations: Some(frame.annotations.clone()),
        owner_references: Some(vec![frame.owner.clone()]),
        ..ObjectMeta::default()
    };
    mark(&mut metadata, frame);
    EndpointSlice {
        metadata,
        address_type: family.clone(),
        endpoints: Some(endpoints),
        ports: Some(
            ports
                .iter()
                .map(|port| EndpointPort {
                    name: Some(port.name.clone()),
                    port: Some(port.port),
                    protocol: Some(port.protocol.clone()),
                    app_protocol: port.app_protocol.clone(),
                })
                .collect(),
        ),
    }
}
