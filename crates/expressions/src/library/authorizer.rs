//! Questions about rights: `authorizer.group('apps').resource('deployments').check('create').allowed()`.

use std::rc::Rc;

use crate::catalogue::{Arguments, Rows};
use crate::library::{fail, mismatch};
use crate::meter::Price::{Fixed, Selector};
use crate::types::Opaque;
use crate::value::{Evaluated, Value};

/// What a check asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// Namespace and name of the service account to ask for, instead of the user of the request.
    pub service_account: Option<(String, String)>,
    /// The path, when no resource is meant.
    pub path: String,
    /// The API group.
    pub group: String,
    /// The resource; empty when a path is meant.
    pub resource: String,
    /// The subresource.
    pub subresource: String,
    /// The namespace.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// A field selector.
    pub field_selector: Option<String>,
    /// A label selector.
    pub label_selector: Option<String>,
    /// The verb, or the HTTP method in lower case for a path.
    pub verb: String,
}

/// The answer to a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it may be done.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// What went wrong.
    pub error: Option<String>,
}

/// Whoever answers checks.
pub trait Authorize: std::fmt::Debug {
    /// Whether the user of the request, or the service account of the check, may do it.
    fn check(&self, check: &Check) -> Verdict;
}

/// A step towards a check, or its answer.
#[derive(Clone, Debug)]
pub enum Authorization<'a> {
    /// The one who is asked, with what is to be asked so far.
    Asking(Opaque, &'a dyn Authorize, Box<Check>),
    /// The answer.
    Answered(Verdict),
}

impl Authorization<'_> {
    pub(crate) fn kind(&self) -> Opaque {
        match self {
            Authorization::Asking(kind, ..) => *kind,
            Authorization::Answered(_) => Opaque::Decision,
        }
    }
}

/// The variable `authorizer`.
pub fn authorizer<'a>(who: &'a dyn Authorize) -> Value<'a> {
    asking(Opaque::Authorizer, who, Check::default())
}

/// The variable `authorizer.requestResource`, which asks about the resource of the request.
pub fn request_resource<'a>(who: &'a dyn Authorize, check: Check) -> Value<'a> {
    asking(Opaque::ResourceCheck, who, check)
}

fn asking<'a>(kind: Opaque, who: &'a dyn Authorize, check: Check) -> Value<'a> {
    Value::Authorization(Rc::new(Authorization::Asking(kind, who, Box::new(check))))
}

/// One more word of the question.
fn step<'a>(
    arguments: &Arguments<'_, 'a>,
    from: Opaque,
    to: Opaque,
    add: impl FnOnce(&mut Check, String),
) -> Evaluated<'a> {
    let [Value::Authorization(step), Value::String(word)] = arguments.values else { return mismatch() };
    match &**step {
        Authorization::Asking(kind, who, check) if *kind == from => {
            let mut check = (**check).clone();
            add(&mut check, word.to_string());
            Ok(asking(to, *who, check))
        }
        _ => mismatch(),
    }
}

fn is_empty(arguments: &Arguments<'_, '_>) -> bool {
    matches!(arguments.values, [_, Value::String(word)] if word.is_empty())
}

fn path<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    if is_empty(arguments) {
        return fail("path must not be empty");
    }
    step(arguments, Opaque::Authorizer, Opaque::PathCheck, |check, path| check.path = path)
}

fn group<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    step(arguments, Opaque::Authorizer, Opaque::GroupCheck, |check, group| check.group = group)
}

fn resource<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    if is_empty(arguments) {
        return fail("resource must not be empty");
    }
    step(arguments, Opaque::GroupCheck, Opaque::ResourceCheck, |check, resource| check.resource = resource)
}

fn more<'a>(arguments: &Arguments<'_, 'a>, add: impl FnOnce(&mut Check, String)) -> Evaluated<'a> {
    step(arguments, Opaque::ResourceCheck, Opaque::ResourceCheck, add)
}

fn subresource<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    more(arguments, |check, subresource| check.subresource = subresource)
}

fn namespace<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    more(arguments, |check, namespace| check.namespace = namespace)
}

fn name<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    more(arguments, |check, name| check.name = name)
}

fn field_selector<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    more(arguments, |check, selector| check.field_selector = Some(selector))
}

fn label_selector<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    more(arguments, |check, selector| check.label_selector = Some(selector))
}

fn service_account<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let [Value::Authorization(step), Value::String(namespace), Value::String(name)] = arguments.values else {
        return mismatch();
    };
    if !kobune_kinds::name::dns1123_subdomain(name).is_empty() {
        return fail("Invalid service account name");
    }
    if !kobune_kinds::name::dns1123_label(namespace).is_empty() {
        return fail("Invalid service account namespace");
    }
    match &**step {
        Authorization::Asking(Opaque::Authorizer, who, _) => {
            let service_account = Some((namespace.to_string(), name.to_string()));
            Ok(asking(Opaque::Authorizer, *who, Check { service_account, ..Check::default() }))
        }
        _ => mismatch(),
    }
}

fn check<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let [Value::Authorization(step), Value::String(verb)] = arguments.values else { return mismatch() };
    match &**step {
        Authorization::Asking(Opaque::PathCheck | Opaque::ResourceCheck, who, check) => {
            let check = Check { verb: verb.to_string(), ..(**check).clone() };
            Ok(Value::Authorization(Rc::new(Authorization::Answered(who.check(&check)))))
        }
        _ => mismatch(),
    }
}

fn verdict<'a>(arguments: &Arguments<'_, 'a>, read: impl FnOnce(&Verdict) -> Value<'a>) -> Evaluated<'a> {
    let [Value::Authorization(step)] = arguments.values else { return mismatch() };
    match &**step {
        Authorization::Answered(verdict) => Ok(read(verdict)),
        Authorization::Asking(..) => mismatch(),
    }
}

fn allowed<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    verdict(arguments, |verdict| Value::Bool(verdict.allowed))
}

fn reason<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    verdict(arguments, |verdict| Value::text(verdict.reason.as_str()))
}

fn errored<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    verdict(arguments, |verdict| Value::Bool(verdict.error.is_some()))
}

fn error<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    verdict(arguments, |verdict| Value::text(verdict.error.as_deref().unwrap_or_default()))
}

/// What a check costs: two of them fit into one expression.
const CHECK: u64 = 350_000;

pub(crate) const FUNCTIONS: Rows = &[
    ("path", path, &[("authorizer.(string) pathcheck", Fixed(1))]),
    ("group", group, &[("authorizer.(string) groupcheck", Fixed(1))]),
    ("serviceAccount", service_account, &[("authorizer.(string, string) authorizer", Fixed(1))]),
    ("resource", resource, &[("groupcheck.(string) resourcecheck", Fixed(1))]),
    ("subresource", subresource, &[("resourcecheck.(string) resourcecheck", Fixed(1))]),
    ("namespace", namespace, &[("resourcecheck.(string) resourcecheck", Fixed(1))]),
    ("name", name, &[("resourcecheck.(string) resourcecheck", Fixed(1))]),
    ("fieldSelector", field_selector, &[("resourcecheck.(string) resourcecheck", Selector)]),
    ("labelSelector", label_selector, &[("resourcecheck.(string) resourcecheck", Selector)]),
    (
        "check",
        check,
        &[("pathcheck.(string) decision", Fixed(CHECK)), ("resourcecheck.(string) decision", Fixed(CHECK))],
    ),
    ("allowed", allowed, &[("decision.() bool", Fixed(1))]),
    ("reason", reason, &[("decision.() string", Fixed(1))]),
    ("errored", errored, &[("decision.() bool", Fixed(1))]),
    ("error", error, &[("decision.() string", Fixed(1))]),
];
