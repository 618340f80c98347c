//! Admission policies: rules in CEL that clients write as objects. Validating ones refuse, warn or leave a trace;
//! mutating ones change the object.
//!
//! Policies and bindings are read once a change of their collections ([`source`]); a policy's expressions are compiled
//! when it first matches a request, once a generation. A cluster without bindings pays two short locks a write.
//!
//! [`criteria`] decides whether a policy or binding means a request, [`parameters`] finds the objects it is configured
//! with, [`expression`] compiles, [`inputs`] evaluates. [`validation`] and [`type_check`] look at policies when they are
//! written.

mod conditions;
mod criteria;
mod environment;
mod expression;
mod inputs;
mod mutating;
mod parameters;
mod patch;
mod source;
mod subjects;
mod type_check;
mod validating;
mod validation;
mod verdicts;

use std::{collections::HashMap, sync::Arc};

use kobune_store::{Store, StoreError};
use parking_lot::Mutex;

use crate::cached::Cached;
use source::{Bindings, Source};

pub(crate) use conditions::MatchConditions;
pub(crate) use inputs::{Rights, Subject};
pub(crate) use mutating::PolicyRounds;
pub(crate) use type_check::stamp;
pub(crate) use validation::validate;

/// How many compiled policies are kept at most; above it they are compiled anew when they are needed.
const MOST_COMPILED: usize = 4096;

/// The policies of one sort, with what was compiled of them.
pub(crate) struct Policies<T> {
    sources: Cached<Vec<Source>>,
    bindings: Cached<Bindings>,
    compiled: Mutex<HashMap<String, (i64, Arc<T>)>>,
    compile: fn(&Source) -> T,
}

/// The admission policies of a server.
pub(crate) struct AllPolicies {
    pub(crate) validating: Policies<validating::Policy>,
    pub(crate) mutating: Policies<mutating::Policy>,
}

impl Default for AllPolicies {
    fn default() -> Self {
        Self {
            validating: Policies::new(
                "admissionregistration.k8s.io/validatingadmissionpolicies",
                "admissionregistration.k8s.io/validatingadmissionpolicybindings",
                validating::Policy::compile,
            ),
            mutating: Policies::new(
                "admissionregistration.k8s.io/mutatingadmissionpolicies",
                "admissionregistration.k8s.io/mutatingadmissionpolicybindings",
                mutating::Policy::compile,
            ),
        }
    }
}

impl<T> Policies<T> {
    fn new(policies: &'static str, bindings: &'static str, compile: fn(&Source) -> T) -> Self {
        Self {
            sources: Cached::new(policies, source::read),
            bindings: Cached::new(bindings, source::read_bindings),
            compiled: Mutex::default(),
            compile,
        }
    }

    /// The policies that are bound, and the bindings; `None` when nothing is bound.
    async fn bound(&self, store: &dyn Store) -> Result<Option<(Arc<Vec<Source>>, Arc<Bindings>)>, StoreError> {
        let bindings = self.bindings.get(store).await?;
        if bindings.is_empty() {
            return Ok(None);
        }
        let sources = self.sources.get(store).await?;
        Ok((!sources.is_empty()).then_some((sources, bindings)))
    }

    /// Whether any policy is bound.
    pub(crate) async fn are_bound(&self, store: &dyn Store) -> Result<bool, StoreError> {
        Ok(!self.bindings.get(store).await?.is_empty())
    }

    /// The compiled policy.
    fn compiled(&self, source: &Source) -> Arc<T> {
        if let Some((generation, policy)) = self.compiled.lock().get(&source.uid)
            && *generation == source.generation
        {
            return Arc::clone(policy);
        }
        // Compiled outside of the lock: two requests may do the same once, and none waits for another one's policy.
        let policy = Arc::new((self.compile)(source));
        let mut compiled = self.compiled.lock();
        if compiled.len() >= MOST_COMPILED {
            compiled.clear();
        }
        compiled.insert(source.uid.clone(), (source.generation, Arc::clone(&policy)));
        policy
    }
}
