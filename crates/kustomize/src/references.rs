//! Names that changed, and the fields of other objects that still say the old ones.

use std::collections::{HashMap, HashSet};

use crate::error::{BuildError, refused};
use crate::fields::{Create, FieldSpec, FieldTable, Visit};
use crate::id::{Gvk, Id};
use crate::node::{Node, Scalar, Tag};
use crate::resource::Resource;

/// An object that others may refer to, as it is before references change.
struct Candidate {
    former: Vec<Id>,
    first: Id,
    now: Id,
    prefixes: Vec<String>,
    suffixes: Vec<String>,
}

/// Whoever refers.
struct Referrer<'r> {
    now: &'r Id,
    prefixes: &'r [String],
    suffixes: &'r [String],
    /// The kind that a role binding names.
    role: Option<Gvk>,
    /// Namespaces whose service accounts a role binding names.
    accounts: HashSet<String>,
}

/// Writes the new names of objects where others refer to them.
pub(crate) fn fix(resources: &mut [Resource], table: &FieldTable) -> Result<(), BuildError> {
    for resource in resources.iter().filter(|resource| resource.kind() == "RoleBinding") {
        check_accounts(resource)?;
    }
    if table.name_reference.is_empty() || resources.iter().all(|resource| resource.former.is_empty()) {
        return Ok(());
    }
    let candidates: Vec<Candidate> = resources
        .iter()
        .map(|resource| Candidate {
            former: resource.former_ids().collect(),
            first: resource.first_id(),
            now: resource.id().clone(),
            prefixes: resource.prefixes.clone(),
            suffixes: resource.suffixes.clone(),
        })
        .collect();
    let mut by_name: HashMap<&str, Vec<&Candidate>> = HashMap::new();
    for candidate in &candidates {
        let names: HashSet<&str> = candidate.former.iter().map(|id| id.name.as_str()).collect();
        for name in names {
            by_name.entry(name).or_default().push(candidate);
        }
    }
    let mut fields: HashMap<Gvk, Vec<(Visit, &FieldSpec, &Gvk)>> = HashMap::new();
    for (at, resource) in resources.iter_mut().enumerate() {
        let me = &candidates[at];
        let visits = fields.entry(me.first.gvk.clone()).or_insert_with(|| visits(table, &me.first.gvk, &me.now.gvk));
        for (visit, spec, target) in &*visits {
            let referrer = Referrer {
                now: &me.now,
                prefixes: &me.prefixes,
                suffixes: &me.suffixes,
                role: spec.path.ends_with("roleRef/name").then(|| role(resource.node())).flatten(),
                accounts: accounts(resource.node(), &me.now.gvk.kind),
            };
            let change = |node: &mut Node| set(node, &referrer, target, &by_name);
            let mut change = change;
            visit.run(resource.node_mut(), &mut change).map_err(|error| {
                error.within(format!("updating name reference in '{}' field of '{}'", spec.path, me.now))
            })?;
        }
    }
    Ok(())
}

/// The fields in which objects of a kind refer to others, in the table's order.
fn visits<'t>(table: &'t FieldTable, first: &Gvk, now: &Gvk) -> Vec<(Visit, &'t FieldSpec, &'t Gvk)> {
    let mut visits = Vec::new();
    for reference in &table.name_reference {
        for spec in reference.fields.iter().filter(|spec| first.is_selected(&spec.gvk)) {
            let spec_for_now = FieldSpec { gvk: now.clone(), ..spec.clone() };
            visits.push((Visit::new(&spec_for_now, Create::Never), spec, &reference.target));
        }
    }
    visits
}

fn role(node: &Node) -> Option<Gvk> {
    let text = |field: &str| node.at(&["roleRef", field]).filter(|value| !value.is_null()).map(Node::text);
    Some(Gvk { group: text("apiGroup")?.to_owned(), version: String::new(), kind: text("kind")?.to_owned() })
}

/// A service account's namespace must be a text where it is said.
fn check_accounts(resource: &Resource) -> Result<(), BuildError> {
    let subjects = resource.node().get("subjects").and_then(Node::as_list).unwrap_or_default().iter();
    for subject in subjects.filter(|subject| subject.get("kind").is_some_and(|kind| kind.text() == "ServiceAccount")) {
        let Some(namespace) = subject.get("namespace") else { continue };
        if matches!(namespace, Node::Scalar(scalar) if scalar.is_string()) {
            continue;
        }
        let message = format!("namespace is blank for resource {}", resource.id());
        return Err(match resource.source.as_deref() {
            Some(source) => BuildError::Mistakes(vec![source.mistake(namespace.place(), message, None)]),
            None => refused(message),
        });
    }
    Ok(())
}

fn accounts(node: &Node, kind: &str) -> HashSet<String> {
    let subjects = node.get("subjects").and_then(Node::as_list).filter(|_| kind == "RoleBinding");
    let subjects = subjects.unwrap_or_default().iter();
    let accounts = subjects.filter(|subject| subject.get("kind").is_some_and(|kind| kind.text() == "ServiceAccount"));
    accounts.filter_map(|subject| subject.get("namespace")).map(|namespace| namespace.text().to_owned()).collect()
}

type Index<'c> = HashMap<&'c str, Vec<&'c Candidate>>;

fn set(node: &mut Node, referrer: &Referrer<'_>, target: &Gvk, index: &Index<'_>) -> Result<(), String> {
    match node {
        node if node.is_null() => Ok(()),
        Node::Scalar(scalar) => {
            let all = index.get(scalar.text.as_str()).map(Vec::as_slice).unwrap_or_default();
            let name = choose(all.iter().copied(), referrer, target, |one, other| one.now.name == other.now.name)?;
            match name {
                Some(found) if found.now.name != scalar.text => node.set_scalar(found.now.name.clone(), Tag::Open),
                _ => Ok(()),
            }
        }
        Node::Map(_) => set_map(node, referrer, target, index),
        Node::List(items) => items.iter_mut().filter(|item| !item.is_null()).try_for_each(|item| match item {
            Node::List(_) => Err("a list of lists holds no names".to_owned()),
            item => set(item, referrer, target, index),
        }),
    }
}

/// A map with a name and perhaps a namespace.
fn set_map(node: &mut Node, referrer: &Referrer<'_>, target: &Gvk, index: &Index<'_>) -> Result<(), String> {
    let Node::Map(map) = node else { return Ok(()) };
    let Some(name) = map.get("name") else {
        return Err("path config error; no 'name' field in node".to_owned());
    };
    let name = name.text().to_owned();
    let all = index.get(name.as_str()).map(Vec::as_slice).unwrap_or_default().iter().copied();
    let reachable = all.filter(|candidate| could_mean(referrer, candidate));
    let found: Vec<&Candidate> = match map.get("namespace") {
        None => reachable.collect(),
        Some(namespace) => {
            // By the namespaces that objects were read with; if none was read with this one, by those they have now. A
            // reference to a namespace of the first kind never means one of the second.
            let namespace = namespace.text();
            let reachable: Vec<&Candidate> = reachable.collect();
            let by_first: Vec<&Candidate> = (reachable.iter().copied())
                .filter(|candidate| candidate.first.effective_namespace() == namespace)
                .collect();
            if by_first.is_empty() {
                reachable.into_iter().filter(|candidate| candidate.now.effective_namespace() == namespace).collect()
            } else {
                by_first
            }
        }
    };
    let same =
        |one: &Candidate, other: &Candidate| one.now.name == other.now.name && one.now.namespace == other.now.namespace;
    let Some(found) = choose(found.into_iter(), referrer, target, same)? else { return Ok(()) };
    if found.now.name == name && found.now.namespace.is_empty() {
        return Ok(());
    }
    map.set("name", Node::Scalar(Scalar::open(found.now.name.as_str())));
    if !found.now.namespace.is_empty() {
        map.set("namespace", Node::Scalar(Scalar::open(found.now.namespace.as_str())));
    }
    Ok(())
}

/// Whether an object may refer to another at all.
fn could_mean(referrer: &Referrer<'_>, candidate: &Candidate) -> bool {
    referrer.now.cluster_scoped
        || candidate.now.cluster_scoped
        || candidate.now.shares_namespace(referrer.now)
        || referrer.accounts.contains(&candidate.now.namespace)
}

/// The one object that is meant, if any is.
fn choose<'c>(
    candidates: impl Iterator<Item = &'c Candidate>,
    referrer: &Referrer<'_>,
    target: &Gvk,
    same: impl Fn(&Candidate, &Candidate) -> bool,
) -> Result<Option<&'c Candidate>, String> {
    let once = |candidate: &Candidate, gvk: &Gvk| candidate.former.iter().any(|id| id.gvk.is_selected(gvk));
    let near = |candidate: &Candidate| {
        referrer.now.cluster_scoped
            || candidate.now.cluster_scoped
            || candidate.now.gvk.kind == "ServiceAccount"
            || referrer.now.shares_namespace(&candidate.now)
    };
    let mut found: Vec<&Candidate> = candidates
        .filter(|candidate| could_mean(referrer, candidate) && once(candidate, target) && near(candidate))
        .filter(|candidate| referrer.role.as_ref().is_none_or(|role| once(candidate, role)))
        .collect();
    if found.len() == 1 {
        return Ok(found.pop());
    }
    found.retain(|candidate| shares_affixes(referrer, candidate, true));
    if found.len() > 1 {
        found.retain(|candidate| shares_affixes(referrer, candidate, false));
    }
    match found.as_slice() {
        [] => Ok(None),
        [one, rest @ ..] if rest.iter().all(|other| same(one, other)) => Ok(Some(one)),
        several => {
            let ids: Vec<String> = several.iter().map(|candidate| candidate.now.to_string()).collect();
            Err(format!("found multiple possible referrals: {}", ids.join(", ")))
        }
    }
}

fn shares_affixes(referrer: &Referrer<'_>, candidate: &Candidate, allows_none: bool) -> bool {
    let shares = |one: &[String], other: &[String]| {
        (allows_none && (one.is_empty() || other.is_empty())) || ends_alike(one, other)
    };
    shares(&candidate.prefixes, referrer.prefixes) && shares(&candidate.suffixes, referrer.suffixes)
}

fn ends_alike(one: &[String], other: &[String]) -> bool {
    let (short, long) = if one.len() > other.len() { (other, one) } else { (one, other) };
    if short.is_empty() { long.is_empty() } else { long.ends_with(short) }
}

/// A variable's value, as it is put into texts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Value {
    pub(crate) text: String,
    pub(crate) tag: Tag,
}

/// Puts the values of variables where `$(NAME)` stands; returns the variables that stand nowhere.
pub(crate) fn replace_vars(
    resources: &mut [Resource],
    values: &HashMap<String, Value>,
    specs: &[FieldSpec],
) -> Result<Vec<String>, BuildError> {
    let visits: Vec<Visit> = specs.iter().map(|spec| Visit::new(spec, Create::Never)).collect();
    let mut used = HashSet::new();
    for resource in resources {
        for visit in &visits {
            visit.run(resource.node_mut(), &mut |node| replace_in(node, values, &mut used))?;
        }
    }
    let mut unused: Vec<String> = values.keys().filter(|name| !used.contains(*name)).cloned().collect();
    unused.sort();
    Ok(unused)
}

fn replace_in(node: &mut Node, values: &HashMap<String, Value>, used: &mut HashSet<String>) -> Result<(), String> {
    match node {
        Node::Scalar(scalar) if scalar.is_string() => {
            expand(scalar, values, used);
            Ok(())
        }
        Node::Scalar(_) => Ok(()),
        Node::Map(map) => {
            for (key, value) in &mut map.entries {
                if !key.is_string() {
                    return Err(format!("invalid map key: value='{}'", key.text));
                }
                if let Node::Scalar(scalar) = value
                    && scalar.is_string()
                {
                    expand(scalar, values, used);
                }
            }
            Ok(())
        }
        Node::List(items) => items.iter_mut().try_for_each(|item| match item {
            Node::Scalar(scalar) if scalar.is_string() => {
                expand(scalar, values, used);
                Ok(())
            }
            _ => Err("invalid value type expect a string".to_owned()),
        }),
    }
}

/// Replaces `$(NAME)` in one text; `$$` stands for a dollar.
fn expand(scalar: &mut Scalar, values: &HashMap<String, Value>, used: &mut HashSet<String>) {
    let input = scalar.text.as_str();
    let mut out = String::with_capacity(input.len());
    let mut rest = input;
    let mut whole = None;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        rest = after;
        let Some(first) = after.chars().next() else {
            out.push('$');
            break;
        };
        match (first, after.strip_prefix('(').and_then(|name| name.split_once(')'))) {
            ('$', _) => {
                out.push('$');
                rest = &after[1..];
            }
            ('(', Some((name, tail))) => {
                match values.get(name) {
                    Some(value) => {
                        used.insert(name.to_owned());
                        if input.len() == name.len() + 3 {
                            whole = Some(value.clone());
                        }
                        out.push_str(&value.text);
                    }
                    None => {
                        out.push_str("$(");
                        out.push_str(name);
                        out.push(')');
                    }
                }
                rest = tail;
            }
            ('(', None) => {
                out.push_str("$(");
                rest = &after[1..];
            }
            _ => {
                out.push('$');
                out.push(first);
                rest = &after[first.len_utf8()..];
            }
        }
    }
    out.push_str(rest);
    let (text, tag) = whole.map_or((out, Tag::Str), |value| (value.text, value.tag));
    *scalar = Scalar { text, tag, place: scalar.place, ..Scalar::open("") };
}

/// The value of a field for a variable.
pub(crate) fn value_at(node: &Node, path: &str) -> Result<Option<Value>, BuildError> {
    let mut current = node;
    for part in crate::fields::split_dotted(path).iter().flat_map(|part| indexed(part)) {
        let next = match (current, part.parse::<usize>()) {
            (Node::List(items), Ok(index)) => items.get(index),
            (Node::Map(map), _) => map.get(&part),
            _ => None,
        };
        let Some(next) = next else { return Ok(None) };
        current = next;
    }
    let Node::Scalar(scalar) = current else {
        return Err(refused(format!("field {path} holds {}, which fits into no text", current.kind())));
    };
    let text = match (&scalar.tag, scalar.value()) {
        (Tag::Int | Tag::Float | Tag::Bool, Ok(_)) => scalar.text.clone(),
        _ => return Ok(Some(Value { text: scalar.text.clone(), tag: Tag::Str })),
    };
    let text = match scalar.tag {
        Tag::Float => scalar.text.parse().map_or(text, |number: f64| number.to_string()),
        _ => text,
    };
    Ok(Some(Value { text, tag: scalar.tag.clone() }))
}

/// `name[0]` is the item 0 of `name`.
fn indexed(part: &str) -> Vec<String> {
    let split = part.strip_suffix(']').and_then(|part| part.rsplit_once('['));
    match split.filter(|(_, index)| !index.is_empty() && index.bytes().all(|byte| byte.is_ascii_digit())) {
        Some(("", index)) => vec![index.to_owned()],
        Some((name, index)) => vec![name.to_owned(), index.to_owned()],
        None => vec![part.to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables() {
        let values = HashMap::from([
            ("A".to_owned(), Value { text: "x".into(), tag: Tag::Str }),
            ("N".to_owned(), Value { text: "5".into(), tag: Tag::Int }),
        ]);
        for (text, expected, tag) in [
            ("$(A)", "x", Tag::Str),
            ("$(N)", "5", Tag::Int),
            ("a-$(A)-$(N)", "a-x-5", Tag::Str),
            ("$(B) $$(A) $A $(", "$(B) $(A) $A $(", Tag::Str),
            ("cost$", "cost$", Tag::Str),
        ] {
            let mut scalar = Scalar::string(text);
            expand(&mut scalar, &values, &mut HashSet::new());
            assert_eq!((scalar.text.as_str(), &scalar.tag), (expected, &tag), "{text}");
        }
    }
}
