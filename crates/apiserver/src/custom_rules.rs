//! The rules of custom resources (`x-kubernetes-validations`): compiled once a version of a definition, when the first
//! object is judged by them.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use kobune_expressions::rules::{self, Judgement, Rules};
use kobune_kinds::{FieldError, FieldErrorKind, Kind};
use parking_lot::Mutex;
use serde_json::Value;

/// A kind as it was when its rules were compiled, and the rules; `None` where there are none.
type Compiled = (Weak<Kind>, Option<Arc<Rules>>);

/// A collection and a version.
type Served = (Arc<str>, Box<str>);

/// The rules of all custom resources in use.
#[derive(Debug, Default)]
pub(crate) struct CustomRules {
    /// A kind is exchanged when its definition changes, and its rules with it.
    compiled: Mutex<HashMap<Served, Compiled>>,
}

impl CustomRules {
    fn of(&self, kind: &Arc<Kind>) -> Option<Arc<Rules>> {
        let custom = kind.custom()?;
        let key = (Arc::clone(&kind.collection), kind.version.clone());
        let current = Arc::downgrade(kind);
        if let Some((known, rules)) = self.compiled.lock().get(&key)
            && known.ptr_eq(&current)
        {
            return rules.clone();
        }
        // Compiled outside of the lock: nobody waits for another kind's rules.
        let rules = custom.schema_text().map(|schema| Rules::compile(&schema)).filter(|rules| !rules.is_empty());
        let rules = rules.map(Arc::new);
        let mut compiled = self.compiled.lock();
        compiled.retain(|_, (kind, _)| kind.strong_count() > 0);
        compiled.insert(key, (current, rules.clone()));
        rules
    }

    /// Judges an object by the rules of its kind. `found` is what is wrong with it otherwise: where its shape is, rules cannot
    /// be asked. Source: `hasBlockingErr` of `k8s.io/apiextensions-apiserver`.
    pub(crate) fn judge(
        &self,
        kind: &Arc<Kind>,
        object: &Value,
        old: Option<&Value>,
        found: &[FieldError],
    ) -> Judgement {
        let Some(rules) = self.of(kind) else { return Judgement::default() };
        let blocks = |error: &FieldError| {
            use FieldErrorKind::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
            matches!(error.kind, NotSupported | Required | TooLong | TooMany | TypeInvalid)
        };
        if found.iter().any(blocks) {
            let words = "some validation rules were not checked because the object was invalid; correct the existing \
                         errors to complete validation";
            let errors = vec![FieldError::invalid("<nil>", Value::Null, words)];
            return Judgement { errors, warnings: Vec::new() };
        }
        rules.validate(object, old)
    }
}

/// What is wrong with the rules of a definition that is written.
pub(crate) fn check(kind: &Kind, definition: &Value) -> Vec<FieldError> {
    if &*kind.collection != crate::definitions::COLLECTION {
        return Vec::new();
    }
    let versions = definition["spec"]["versions"].as_array().map_or(&[][..], Vec::as_slice);
    let schemas: Vec<&Value> = versions.iter().map(|version| &version["schema"]["openAPIV3Schema"]).collect();
    match schemas.as_slice() {
        // Upstream names a schema that all versions share by its former place.
        [first, rest @ ..] if rest.iter().all(|other| other == first) => {
            rules::check(first, "spec.validation.openAPIV3Schema")
        }
        several => {
            let path = |index: usize| format!("spec.versions[{index}].schema.openAPIV3Schema");
            several.iter().enumerate().flat_map(|(index, schema)| rules::check(schema, &path(index))).collect()
        }
    }
}
