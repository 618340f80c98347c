//! `MatchResources`: which requests a policy or a binding means.

use std::sync::Arc;

use kobune_kinds::{Kind, selector::LabelSelector};
use serde_json::Value;

use crate::{
    error::Answer,
    webhook::{Matcher, Rule},
};

/// One rule, perhaps for certain names only.
#[derive(Debug)]
struct NamedRule {
    rule: Rule,
    names: Vec<String>,
}

/// What a request must be like.
#[derive(Debug)]
pub(crate) struct Criteria {
    rules: Vec<NamedRule>,
    excluded: Vec<NamedRule>,
    /// Whether rules for other versions of a resource are meant too.
    equivalent: bool,
    namespaces: Result<LabelSelector, String>,
    objects: Result<LabelSelector, String>,
}

fn rules(list: &Value) -> Vec<NamedRule> {
    let names = |rule: &Value| {
        let names = rule["resourceNames"].as_array().into_iter().flatten();
        names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
    };
    let list = list.as_array().into_iter().flatten();
    list.map(|rule| NamedRule { rule: Rule::from_object(rule), names: names(rule) }).collect()
}

fn selector(selector: &Value) -> Result<LabelSelector, String> {
    match selector {
        Value::Null => LabelSelector::parse("").map_err(|error| error.to_string()),
        selector => LabelSelector::from_object(selector).map_err(|error| error.to_string()),
    }
}

impl Criteria {
    /// Reads a `MatchResources`.
    pub(super) fn from_object(object: &Value) -> Self {
        Self {
            rules: rules(&object["resourceRules"]),
            excluded: rules(&object["excludeResourceRules"]),
            equivalent: object["matchPolicy"] != "Exact",
            namespaces: selector(&object["namespaceSelector"]),
            objects: selector(&object["objectSelector"]),
        }
    }

    /// The kind in which the request is meant: its own, or another version of it. What is wrong with a selector matters
    /// only to requests that are meant otherwise.
    pub(super) async fn matches(
        &self,
        matcher: &mut Matcher<'_>,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Answer<Result<Option<Arc<Kind>>, String>> {
        if self.find(&self.excluded, matcher).is_some() {
            return Ok(Ok(None));
        }
        let kind = if self.rules.is_empty() { Some(matcher.own()) } else { self.find(&self.rules, matcher) };
        let Some(kind) = kind else { return Ok(Ok(None)) };
        match &self.objects {
            Ok(selector) if !Matcher::selects_object(selector, object, old) => return Ok(Ok(None)),
            Ok(_) => {}
            Err(problem) => return Ok(Err(problem.clone())),
        }
        match &self.namespaces {
            Ok(selector) => Ok(Ok(matcher.selects_namespace(selector, object).await?.then_some(kind))),
            Err(problem) => Ok(Err(problem.clone())),
        }
    }

    fn find(&self, rules: &[NamedRule], matcher: &mut Matcher<'_>) -> Option<Arc<Kind>> {
        rules.iter().find_map(|named| {
            let meant = named.names.is_empty() || named.names.iter().any(|name| name == matcher.name());
            if meant { matcher.find(std::slice::from_ref(&named.rule), self.equivalent) } else { None }
        })
    }
}
