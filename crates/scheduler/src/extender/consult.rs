//! All extenders that care for a pod: one after the other about the nodes, together about the scores.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams};
use serde_json::Value;

use super::call::{CallError, Caller, Victims};
use crate::filter::{Rejection, obstacle};
use crate::pod::PodInfo;
use crate::preempt::Candidate;

/// Upstream's scores go to 100, those of extenders to 10.
const SCALE: i64 = 10;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ConsultError {
    /// What extenders are to be shown cannot be read.
    #[error("reading what extenders are to see: {0}")]
    Read(#[from] kube::Error),
    /// It cannot be written as JSON.
    #[error("writing what extenders are to see: {0}")]
    Write(#[from] serde_json::Error),
    /// An extender that is needed failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// An extender names a pod that is not on the node.
    #[error("extender {url} claims to preempt pod (UID: {uid}) on node {node}, but the pod is not found on that node")]
    NoSuchVictim {
        /// Whose mistake it is.
        url: String,
        /// The pod.
        uid: String,
        /// The node.
        node: String,
    },
}

/// What all of them leave.
pub struct Verdict {
    /// Nodes that do, with scores; those of the extenders are added.
    pub fitting: Vec<(Arc<str>, i64)>,
    /// Those that do not.
    pub rejections: Vec<(Arc<str>, Rejection)>,
}

/// What passes over an extender that may fail; another one's failure ends it.
fn forgive(caller: &Caller, error: CallError) -> Result<(), CallError> {
    if !caller.extender.ignorable {
        return Err(error);
    }
    tracing::warn!(error = &error as &dyn std::error::Error, "an extender is passed over");
    Ok(())
}

async fn show(client: &kube::Client, pod: &PodInfo) -> Result<Value, ConsultError> {
    Ok(serde_json::to_value(Api::<Pod>::namespaced(client.clone(), &pod.namespace).get(&pod.name).await?)?)
}

/// Asks which of the nodes do, and how well.
pub async fn place(
    callers: &[Caller],
    client: &kube::Client,
    pod: &PodInfo,
    fitting: Vec<(Arc<str>, i64)>,
) -> Result<Verdict, ConsultError> {
    let callers: Vec<&Caller> = callers.iter().filter(|caller| caller.extender.cares_for(pod)).collect();
    let shown = show(client, pod).await?;
    let mut whole = BTreeMap::new();
    if callers.iter().any(|caller| caller.wants_nodes()) {
        for node in Api::<Node>::all(client.clone()).list(&ListParams::default()).await? {
            let name: Arc<str> = node.metadata.name.as_deref().unwrap_or_default().into();
            if fitting.iter().any(|(known, _)| *known == name) {
                whole.insert(name, serde_json::to_value(node)?);
            }
        }
    }
    let mut verdict = Verdict { fitting, rejections: Vec::new() };
    for caller in &callers {
        if verdict.fitting.is_empty() {
            break;
        }
        let names = verdict.fitting.iter().map(|(name, _)| name.clone()).collect();
        let left = match caller.filter(&shown, names, &whole).await {
            Ok(left) => left,
            Err(error) => {
                forgive(caller, error)?;
                continue;
            }
        };
        let (stay, go) =
            std::mem::take(&mut verdict.fitting).into_iter().partition(|(name, _)| left.nodes.contains(name));
        verdict.fitting = stay;
        let gone: Vec<(Arc<str>, i64)> = go;
        for (name, _) in gone {
            let told = left.failed.get(&*name).cloned().filter(|(why, _)| !why.is_empty());
            let (why, resolvable) = told.unwrap_or_else(|| ("node(s) didn't satisfy an extender".to_owned(), true));
            let rejection = Rejection { reasons: vec![why.into()], obstacle: obstacle::EXTENDERS, resolvable };
            verdict.rejections.push((name, rejection));
        }
    }
    if verdict.fitting.len() > 1 {
        let names: Vec<Arc<str>> = verdict.fitting.iter().map(|(name, _)| name.clone()).collect();
        let asked = callers.iter().map(|caller| caller.prioritize(&shown, &names, &whole));
        for (caller, answer) in callers.iter().zip(join_all(asked).await) {
            match answer {
                Ok(scores) => {
                    for (name, score) in &mut verdict.fitting {
                        let own = scores.get(&**name).copied().unwrap_or(0);
                        *score = score.saturating_add(own.saturating_mul(caller.extender.weight).saturating_mul(SCALE));
                    }
                }
                // As upstream: the others' scores count all the same.
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "an extender does not score");
                }
            }
        }
    }
    Ok(verdict)
}

/// Asks what may be done to make room; `there` are the pods of the candidates' nodes, by uid.
pub async fn preempt(
    callers: &[Caller],
    client: &kube::Client,
    pod: &PodInfo,
    mut candidates: Vec<Candidate>,
    there: &BTreeMap<Arc<str>, BTreeMap<Arc<str>, Arc<PodInfo>>>,
) -> Result<Vec<Candidate>, ConsultError> {
    let shown = show(client, pod).await?;
    for caller in callers.iter().filter(|caller| caller.preempts_for(pod)) {
        if candidates.is_empty() {
            break;
        }
        let mut whole = BTreeMap::new();
        if !caller.extender.node_cache_capable {
            for victim in candidates.iter().flat_map(|candidate| &candidate.victims) {
                let api = Api::<Pod>::namespaced(client.clone(), &victim.namespace);
                if let Some(found) = api.get_opt(&victim.name).await? {
                    whole.insert(victim.uid.to_string(), serde_json::to_value(found)?);
                }
            }
        }
        let asked: Victims = candidates
            .iter()
            .map(|candidate| {
                let uids = candidate.victims.iter().map(|victim| victim.uid.to_string()).collect();
                (candidate.node.to_string(), (uids, i64::try_from(candidate.violations).unwrap_or(i64::MAX)))
            })
            .collect();
        let answer = match caller.preempt(&shown, &asked, &whole).await {
            Ok(answer) => answer,
            Err(error) => {
                forgive(caller, error)?;
                continue;
            }
        };
        let mut left = Vec::new();
        for (node, (uids, violations)) in answer {
            let mut victims = Vec::new();
            let name = there.keys().find(|name| ***name == *node).cloned().unwrap_or_else(|| node.as_str().into());
            for uid in uids {
                match there.get(&name).and_then(|pods| pods.get(uid.as_str())) {
                    Some(victim) => victims.push(victim.clone()),
                    None => {
                        let url = caller.extender.url_prefix.clone();
                        return Err(ConsultError::NoSuchVictim { url, uid, node });
                    }
                }
            }
            left.push(Candidate { node: name, victims, violations: usize::try_from(violations).unwrap_or(0) });
        }
        candidates = left;
    }
    Ok(candidates)
}

/// Has the extender that binds, if one of those that care for the pod does, bind it. Whether that was done.
pub async fn bind(callers: &[Caller], pod: &PodInfo, node: &str) -> Result<bool, CallError> {
    let binds = |caller: &&Caller| !caller.extender.bind_verb.is_empty() && caller.extender.cares_for(pod);
    let Some(caller) = callers.iter().find(binds) else { return Ok(false) };
    match caller.bind(pod, node).await {
        Ok(()) => Ok(true),
        Err(error) => forgive(caller, error).map(|()| false),
    }
}
