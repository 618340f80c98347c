//! Replacements: a value out of one object, copied into fields of others.

use regex::Regex;

use crate::error::{BuildError, refused};
use crate::fields::split_dotted;
use crate::json;
use crate::kustomization::{FieldOptions, Replacement, ReplacementSource, ReplacementTarget};
use crate::node::{Map, Node, Scalar};
use crate::parse;
use crate::resource::Resource;
use crate::transform::Pattern;

/// Carries out one replacement.
pub(crate) fn run(resources: &mut [Resource], replacement: &Replacement) -> Result<(), BuildError> {
    let value = match (&replacement.source, &replacement.source_value) {
        (Some(_), Some(_)) => return Err(refused("value and resource selectors are mutually exclusive")),
        (Some(source), None) => from_source(resources, source)?,
        (None, Some(text)) => Node::Scalar(Scalar::open(text.as_str())),
        (None, None) => return Err(refused("replacements must specify a source and at least one target")),
    };
    let Some(targets) = &replacement.targets else {
        return Err(refused("replacements must specify a source and at least one target"));
    };
    for target in targets {
        let Some(select) = &target.select else { return Err(refused("target must specify resources to select")) };
        let select = Pattern::new(select)?;
        let reject = target.reject.iter().map(Pattern::new).collect::<Result<Vec<_>, _>>()?;
        for resource in &mut *resources {
            if is_target(resource, &select, &reject)? {
                copy_to(resource, &value, target)?;
            }
        }
    }
    Ok(())
}

fn is_target(resource: &Resource, select: &Pattern, reject: &[Pattern]) -> Result<bool, BuildError> {
    if !select.takes_marks(resource)? {
        return Ok(false);
    }
    for pattern in reject.iter().filter(|pattern| !pattern.has_no_marks()) {
        if pattern.takes_marks(resource)? {
            return Ok(false);
        }
    }
    let ids = resource.all_ids();
    let rejected =
        reject.iter().filter(|pattern| !pattern.has_no_id()).any(|pattern| ids.iter().any(|id| pattern.takes_id(id)));
    Ok(!rejected && ids.iter().any(|id| select.takes_id(id)))
}

fn from_source(resources: &[Resource], source: &ReplacementSource) -> Result<Node, BuildError> {
    let wanted = &source.selector;
    let is_meant = |resource: &&Resource| {
        resource.all_ids().iter().any(|id| {
            let namespace = match wanted.namespace.as_str() {
                "" => true,
                // Compared as namespaces that count: `default` is where objects without one are.
                namespace => namespace == id.effective_namespace(),
            };
            (wanted.name.is_empty() || wanted.name == id.name) && namespace && id.gvk.is_selected(&wanted.gvk)
        })
    };
    let what = || format!("{}/{}.{}", wanted.gvk, wanted.name, wanted.namespace);
    let found: Vec<&Resource> = resources.iter().filter(is_meant).collect();
    let resource = match found.as_slice() {
        [one] => one,
        [] => return Err(refused(format!("nothing selected by {}", what()))),
        _ => return Err(refused(format!("multiple matches for selector {}", what()))),
    };
    let path = if source.field_path.is_empty() { "metadata.name" } else { &source.field_path };
    let value = lookup(resource.node(), &split_dotted(path))
        .map_err(|problem| refused(format!("error looking up replacement source: {problem}")))?;
    let missing = || refused(format!("fieldPath `{path}` is missing for replacement source {}", what()));
    let value = value.filter(|value| !value.is_empty()).ok_or_else(missing)?;
    refine(value, &source.options)
}

/// The part of a text that a delimiter and an index name.
fn refine(value: &Node, options: &FieldOptions) -> Result<Node, BuildError> {
    if options.delimiter.is_empty() {
        return Ok(value.clone());
    }
    let Node::Scalar(scalar) = value else {
        return Err(refused("delimiter option can only be used with scalar nodes"));
    };
    let part = usize::try_from(options.index).ok().and_then(|at| scalar.text.split(&options.delimiter).nth(at));
    let Some(part) = part else {
        return Err(refused(format!("options.index {} is out of bounds for value {}", options.index, scalar.text)));
    };
    Ok(Node::Scalar(Scalar { text: part.to_owned(), ..scalar.clone() }))
}

/// What stands at a path of fields, indexes, and items by the value of a field.
fn lookup<'n>(node: &'n Node, path: &[String]) -> Result<Option<&'n Node>, String> {
    let mut current = node;
    for part in path.iter().map(|part| part.trim()).filter(|part| !part.is_empty()) {
        if current.is_null() {
            return Ok(None);
        }
        let next = if let Ok(index) = part.parse::<usize>() {
            current.as_list().ok_or_else(|| wrong("a list", current))?.get(index)
        } else if part == "-" {
            current.as_list().ok_or_else(|| wrong("a list", current))?.last()
        } else if part == "*" {
            return Err("wildcard is not supported in PathGetter".to_owned());
        } else if let Some((name, value)) = item(part)? {
            let items = current.as_list().ok_or_else(|| wrong("a list", current))?;
            items.iter().find(|item| match name {
                "" => item.text() == value,
                name => item.get(name).is_some_and(|field| field.text() == value),
            })
        } else {
            current.as_map().ok_or_else(|| wrong("a map", current))?.get(part)
        };
        let Some(next) = next else { return Ok(None) };
        current = next;
    }
    Ok(Some(current))
}

fn wrong(wanted: &str, node: &Node) -> String {
    format!("expected {wanted} but got {}", node.kind())
}

/// `[name=value]` as name and value.
fn item(part: &str) -> Result<Option<(&str, &str)>, String> {
    let Some(inner) = part.strip_prefix('[').and_then(|part| part.strip_suffix(']')) else { return Ok(None) };
    let words = "list path element must contain fieldName=fieldValue for element to match";
    inner.split_once('=').map(Some).ok_or_else(|| words.to_owned())
}

fn copy_to(resource: &mut Resource, value: &Node, target: &ReplacementTarget) -> Result<(), BuildError> {
    let default = ["metadata.name".to_owned()];
    let paths = if target.field_paths.is_empty() { &default[..] } else { &target.field_paths };
    for path in paths {
        let parts = split_dotted(path);
        let create = target.options.create.then_some(value);
        if into_text(resource.node_mut(), value, &parts, create) {
            continue;
        }
        let mut count = 0;
        let missing = if create.is_some() {
            format!("unable to find or create field {path:?} in replacement target")
        } else {
            format!("unable to find field {path:?} in replacement target")
        };
        let mut set = |node: &mut Node| {
            count += 1;
            set_value(node, value, &target.options)
        };
        each(resource.node_mut(), &parts, create, &mut set)
            .map_err(|problem| refused(format!("{missing}: {problem}")))?;
        if count == 0 {
            return Err(refused(missing));
        }
    }
    Ok(())
}

fn set_value(node: &mut Node, value: &Node, options: &FieldOptions) -> Result<(), String> {
    let mut value = value.clone();
    if !options.delimiter.is_empty() {
        let Node::Scalar(old) = &*node else {
            return Err("delimiter option can only be used with scalar nodes".to_owned());
        };
        let new = if value.is_null() { "" } else { value.text() };
        let mut parts: Vec<&str> = old.text.split(&options.delimiter).collect();
        match usize::try_from(options.index) {
            Err(_) => parts.insert(0, new),
            Ok(at) if at >= parts.len() => parts.push(new),
            Ok(at) => parts[at] = new,
        }
        let joined = parts.join(&options.delimiter);
        match &mut value {
            Node::Scalar(scalar) => scalar.text = joined,
            other => *other = Node::Scalar(Scalar::open(joined)),
        }
    }
    match node {
        // A scalar keeps its type, so that a number in a text becomes a text.
        Node::Scalar(scalar) => value.text().clone_into(&mut scalar.text),
        node => *node = value,
    }
    Ok(())
}

type Set<'s> = dyn FnMut(&mut Node) -> Result<(), String> + 's;

/// Calls `set` on everything that a path means; `create` is the value for which missing fields are made.
fn each(node: &mut Node, path: &[String], create: Option<&Node>, set: &mut Set<'_>) -> Result<(), String> {
    let Some((part, rest)) = path.split_first() else { return set(node) };
    let next = || made(rest.first().map(String::as_str), create);
    if let Ok(index) = part.parse::<usize>() {
        let Node::List(items) = node else { return Err(wrong("a list", node)) };
        if items.len() == index && create.is_some() {
            items.push(next());
        }
        let count = items.len();
        let item = items.get_mut(index);
        let item = item.ok_or_else(|| format!("index {index} specified but only {count} elements found"))?;
        return each(item, rest, create, set);
    }
    if let Some((name, pattern)) = item(part)? {
        return each_item(node, (name, pattern), rest, create, set);
    }
    if part == "*" {
        return match node {
            Node::List(items) => items.iter_mut().try_for_each(|item| each(item, rest, create, set)),
            node if node.is_null() => Ok(()),
            node => Err(wrong("a list", node)),
        };
    }
    let map = match node {
        Node::Map(map) => map,
        node if node.is_null() => return Ok(()),
        node => return Err(wrong("a map", node)),
    };
    if map.get(part).is_none() {
        if create.is_none() {
            return Ok(());
        }
        map.push(part, next());
    }
    let Some(field) = map.get_mut(part) else { return Ok(()) };
    if let Node::Scalar(scalar) = &*field
        && !rest.is_empty()
    {
        // The text may be YAML itself. What is set in it is not written back, but counts as found.
        let mut inner = parse::one(&scalar.text)?;
        return each(&mut inner, rest, create, set);
    }
    each(field, rest, create, set)
}

fn each_item(
    node: &mut Node,
    (name, pattern): (&str, &str),
    rest: &[String],
    create: Option<&Node>,
    set: &mut Set<'_>,
) -> Result<(), String> {
    let regex = Regex::new(pattern).map_err(|error| error.to_string())?;
    let items = match node {
        Node::List(items) => items,
        node if node.is_null() => return Ok(()),
        node => return Err(wrong("a list", node)),
    };
    let mut found = false;
    for item in items.iter_mut() {
        let text = match name {
            "" => Some(item.text().trim().to_owned()),
            name => item.get(name).map(|field| field.text().trim().to_owned()),
        };
        if !text.is_some_and(|text| regex.is_match(&text)) {
            continue;
        }
        if name.is_empty() {
            found = true;
            set(item)?;
            continue;
        }
        each(item, rest, create, &mut |node| {
            found = true;
            set(node)
        })?;
    }
    if found || create.is_none() {
        return Ok(());
    }
    let value = Node::Scalar(Scalar::open(pattern));
    let item = if name.is_empty() {
        value
    } else {
        let mut map = Map::default();
        map.push(name, value);
        Node::Map(map)
    };
    items.push(item);
    let last = items.last_mut().ok_or("no item was added")?;
    if name.is_empty() { set(last) } else { each(last, rest, create, set) }
}

/// What is put where a path is missing: what the next part needs, or at the end something of the value's kind.
fn made(next: Option<&str>, create: Option<&Node>) -> Node {
    match next {
        Some(part) if part.starts_with('[') && part.ends_with(']') => Node::List(Vec::new()),
        Some(part) if part.parse::<usize>().is_ok() => Node::List(Vec::new()),
        Some(part) if !part.is_empty() => Node::Map(Map::default()),
        _ => match create {
            Some(Node::Map(_)) => Node::Map(Map::default()),
            Some(Node::List(_)) => Node::List(Vec::new()),
            _ => Node::Scalar(Scalar::open("")),
        },
    }
}

/// Sets a value inside YAML or JSON that a field holds as a text; false when the path means no such thing.
fn into_text(node: &mut Node, value: &Node, path: &[String], create: Option<&Node>) -> bool {
    let Some((at, text)) = (1..path.len()).find_map(|at| {
        let found = lookup(node, &path[..at]).ok().flatten()?;
        found.as_str().map(|text| (at, text.to_owned()))
    }) else {
        return false;
    };
    let Ok(mut inner) = parse::one(&text) else { return false };
    let mut count = 0;
    let mut set = |node: &mut Node| {
        count += 1;
        match node {
            Node::Scalar(scalar) => value.text().clone_into(&mut scalar.text),
            node => *node = value.clone(),
        }
        Ok(())
    };
    if each(&mut inner, &path[at..], create, &mut set).is_err() || count == 0 {
        return false;
    }
    let Some(written) = rewrite(&inner, &text) else { return false };
    let mut done = false;
    // The path up to the text has matched, so this finds it again.
    let result = reach(node, &path[..at], &mut |node| {
        done = true;
        if let Node::Scalar(scalar) = node {
            scalar.text.clone_from(&written);
        }
    });
    result.is_some() && done
}

fn reach(node: &mut Node, path: &[String], set: &mut dyn FnMut(&mut Node)) -> Option<()> {
    let mut current = node;
    for part in path.iter().map(|part| part.trim()).filter(|part| !part.is_empty()) {
        current = match current {
            Node::List(items) => match (part.parse::<usize>(), part) {
                (Ok(index), _) => items.get_mut(index)?,
                (Err(_), "-") => items.last_mut()?,
                (Err(_), part) => {
                    let (name, value) = item(part).ok()??;
                    items.iter_mut().find(|item| match name {
                        "" => item.text() == value,
                        name => item.get(name).is_some_and(|field| field.text() == value),
                    })?
                }
            },
            Node::Map(map) => map.get_mut(part)?,
            Node::Scalar(_) => return None,
        };
    }
    set(current);
    Some(())
}

/// Writes the inside of a text back in the form that it had: JSON in one line or many, or YAML.
fn rewrite(node: &Node, old: &str) -> Option<String> {
    let trimmed = old.trim_start();
    if !trimmed.starts_with(['{', '[']) {
        return Some(crate::plain::text(node).trim().to_owned());
    }
    let value = json::value(node).ok()?;
    let mut text = String::new();
    if old.contains('\n') && old.contains("  ") {
        json::write_pretty(&value, 0, &mut text);
    } else {
        json::write(&value, &mut text);
    }
    Some(text)
}
