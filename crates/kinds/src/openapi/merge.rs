//! Documents of other servers made part of this one's `/openapi/v2`.
//!
//! Of a foreign document the paths of one group and version are taken with the definitions that they need ([`part`]). When
//! it joins others ([`join`]), a definition that is there already in the same form is shared; one that is there in another
//! form gets a name of its own (`Name_v2`, `Name_v3` …) and the references follow. Source: `pkg/aggregator` of kube-openapi.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

/// How references to definitions begin.
const DEFINITIONS: &str = "#/definitions/";

/// How references to shared parameters begin.
const PARAMETERS: &str = "#/parameters/";

/// The kinds that a definition describes.
const KINDS: &str = "x-kubernetes-group-version-kind";

/// The paths of a group and version, the definitions that they need, and nothing else of a document. Shared parameters are
/// written out where they are used. `None` when there are no such paths.
pub fn part(document: &Value, group: &str, version: &str) -> Option<Value> {
    let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    let is_below = |path: &str| path.strip_prefix(&root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let all = document["paths"].as_object()?;
    let mut paths: Map<String, Value> =
        all.iter().filter(|(path, _)| is_below(path)).map(|(path, item)| (path.clone(), item.clone())).collect();
    if paths.is_empty() {
        return None;
    }
    for operation in paths.values_mut().filter_map(Value::as_object_mut).flat_map(|item| {
        let own = item.iter_mut().filter(|(name, _)| *name != "parameters").map(|(_, operation)| operation);
        own.collect::<Vec<_>>()
    }) {
        expand(&mut operation["parameters"], document);
        if operation["parameters"].is_null() {
            operation.as_object_mut().map(|operation| operation.remove("parameters"));
        }
    }
    for item in paths.values_mut() {
        if let Some(parameters) = item.get_mut("parameters") {
            expand(parameters, document);
        }
    }
    let mut needed = BTreeSet::new();
    paths.values().for_each(|item| note_references(item, &mut needed));
    let mut definitions = Map::new();
    while let Some(name) = needed.pop_first() {
        if definitions.contains_key(&name) {
            continue;
        }
        // A reference that leads nowhere is the other server's mistake; the name stays, and says nothing.
        let definition = document["definitions"].get(&name).cloned().unwrap_or_else(|| json!({}));
        let mut more = BTreeSet::new();
        note_references(&definition, &mut more);
        definitions.insert(name, definition);
        needed.extend(more.into_iter().filter(|name| !definitions.contains_key(name)));
    }
    Some(json!({"paths": paths, "definitions": definitions}))
}

/// Puts shared parameters in the place of the references to them.
fn expand(parameters: &mut Value, document: &Value) {
    for parameter in parameters.as_array_mut().into_iter().flatten() {
        let name = parameter["$ref"].as_str().and_then(|reference| reference.strip_prefix(PARAMETERS));
        if let Some(shared) = name.and_then(|name| document["parameters"].get(name)) {
            *parameter = shared.clone();
        }
    }
}

/// The reference of a schema; a property that is called `$ref` is none, it is an object.
fn reference(value: &Value) -> Option<&str> {
    value.get("$ref")?.as_str()?.strip_prefix(DEFINITIONS)
}

fn note_references(value: &Value, found: &mut BTreeSet<String>) {
    found.extend(reference(value).map(str::to_owned));
    match value {
        Value::Object(fields) => fields.values().for_each(|value| note_references(value, found)),
        Value::Array(items) => items.iter().for_each(|value| note_references(value, found)),
        _ => {}
    }
}

fn rename_references(value: &mut Value, names: &BTreeMap<String, String>) {
    if let Some(name) = reference(value).and_then(|name| names.get(name)) {
        value["$ref"] = format!("{DEFINITIONS}{name}").into();
    }
    match value {
        Value::Object(fields) => fields.values_mut().for_each(|value| rename_references(value, names)),
        Value::Array(items) => items.iter_mut().for_each(|value| rename_references(value, names)),
        _ => {}
    }
}

/// How often names are looked for before every conflict simply gets a new one.
const ROUNDS: usize = 16;

/// The names that foreign definitions get. Whether one is there already depends on what its references will be called, so
/// that names are looked for until nothing changes any more.
fn names(own: &Map<String, Value>, foreign: &Map<String, Value>) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    for round in 0..=ROUNDS {
        let mut next = BTreeMap::new();
        for (name, definition) in foreign {
            let mut renamed = definition.clone();
            rename_references(&mut renamed, &names);
            let fits = |candidate: &String| match own.get(candidate) {
                Some(own) => round < ROUNDS && is_same(own, &renamed),
                None => candidate == name || !foreign.contains_key(candidate),
            };
            let others = (2..).map(|number| format!("{name}_v{number}"));
            let found = std::iter::once(name.clone()).chain(others).find(fits);
            next.extend(found.filter(|found| found != name).map(|found| (name.clone(), found)));
        }
        if next == names {
            break;
        }
        names = next;
    }
    names
}

/// Adds a [`part`] of another server's document to a document. A path that is there already stays as it is.
pub fn join(document: &mut Value, mut part: Value) {
    let Value::Object(mut foreign) = part["definitions"].take() else { return };
    let Some(own) = document["definitions"].as_object_mut() else { return };
    let mut names = names(own, &foreign);
    if !names.is_empty() {
        rename_references(&mut part["paths"], &names);
        foreign.values_mut().for_each(|definition| rename_references(definition, &names));
    }
    for (name, definition) in foreign {
        let name = names.remove(&name).unwrap_or(name);
        match own.get_mut(&name) {
            Some(own) => add_kinds(own, &definition),
            None => {
                own.insert(name, definition);
            }
        }
    }
    if let (Some(own), Value::Object(paths)) = (document["paths"].as_object_mut(), part["paths"].take()) {
        for (path, item) in paths {
            own.entry(path).or_insert(item);
        }
    }
}

/// Whether two definitions say the same, whatever kinds they are of: `DeleteOptions` and such are kinds of every group.
fn is_same(one: &Value, other: &Value) -> bool {
    let (Some(one), Some(other)) = (one.as_object(), other.as_object()) else { return one == other };
    let fields = |definition: &Map<String, Value>| definition.keys().filter(|field| *field != KINDS).count();
    fields(one) == fields(other)
        && one.iter().filter(|(field, _)| *field != KINDS).all(|(field, value)| other.get(field) == Some(value))
}

/// Adds the kinds that only the other definition has.
fn add_kinds(own: &mut Value, other: &Value) {
    let Some(more) = other.get(KINDS).and_then(Value::as_array) else { return };
    if own.get(KINDS).is_none() {
        own[KINDS] = json!([]);
    }
    let Some(known) = own[KINDS].as_array_mut() else { return };
    for kind in more {
        if !known.contains(kind) {
            known.push(kind.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn foreign() -> Value {
        json!({
            "paths": {
                "/apis/w.example.com/": {"get": {}},
                "/apis/w.example.com/v1/": {"get": {"responses": {"200": {"schema": {"$ref": "#/definitions/List"}}}}},
                "/apis/w.example.com/v1/things": {
                    "parameters": [{"$ref": "#/parameters/pretty"}],
                    "post": {"parameters": [
                        {"name": "body", "in": "body", "schema": {"$ref": "#/definitions/Thing"}},
                        {"$ref": "#/parameters/pretty"},
                    ]},
                },
                "/apis/w.example.com/v1beta1/things": {"get": {"schema": {"$ref": "#/definitions/Old"}}},
            },
            "definitions": {
                "List": {"type": "object"},
                "Meta": {"type": "object", "description": "theirs"},
                "Old": {"type": "object"},
                "Options": {"type": "object", KINDS: [{"group": "w.example.com", "kind": "Options", "version": "v1"}]},
                "Thing": {"properties": {
                    "$ref": {"type": "string"}, "metadata": {"$ref": "#/definitions/Meta"},
                    "options": {"items": {"$ref": "#/definitions/Options"}}, "gone": {"$ref": "#/definitions/Gone"},
                }},
            },
            "parameters": {"pretty": {"name": "pretty", "in": "query"}},
        })
    }

    fn names(value: &Value) -> Vec<&str> {
        value.as_object().expect("an object").keys().map(String::as_str).collect()
    }

    #[test]
    fn a_part_is_whole() {
        let found = part(&foreign(), "w.example.com", "v1").expect("there are paths");
        assert_eq!(names(&found["paths"]), ["/apis/w.example.com/v1/", "/apis/w.example.com/v1/things"]);
        assert_eq!(names(&found["definitions"]), ["Gone", "List", "Meta", "Options", "Thing"]);
        let things = &found["paths"]["/apis/w.example.com/v1/things"];
        assert_eq!(things["parameters"], json!([{"name": "pretty", "in": "query"}]));
        assert_eq!(things["post"]["parameters"][1]["name"], "pretty");
        assert_eq!(part(&foreign(), "w.example.com", "v2"), None);
        assert_eq!(part(&json!({}), "w.example.com", "v1"), None);
    }

    #[test]
    fn definitions_that_differ_get_names_of_their_own() {
        let own = || {
            json!({
                "paths": {"/apis/w.example.com/v1/": {"get": "mine"}},
                "definitions": {
                    "Meta": {"type": "object", "description": "mine"}, "Meta_v2": {"type": "string"},
                    "Options": {"type": "object", KINDS: [{"group": "", "kind": "Options", "version": "v1"}]},
                },
            })
        };
        let mut document = own();
        let one = part(&foreign(), "w.example.com", "v1").expect("there are paths");
        join(&mut document, one.clone());
        assert_eq!(names(&document["definitions"]), ["Gone", "List", "Meta", "Meta_v2", "Meta_v3", "Options", "Thing"]);
        assert_eq!(document["definitions"]["Meta"]["description"], "mine");
        assert_eq!(document["definitions"]["Meta_v3"]["description"], "theirs");
        assert_eq!(
            document["definitions"]["Thing"]["properties"]["metadata"],
            json!({"$ref": "#/definitions/Meta_v3"})
        );
        assert_eq!(document["definitions"]["Options"][KINDS].as_array().map(Vec::len), Some(2));
        assert_eq!(document["paths"]["/apis/w.example.com/v1/"]["get"], "mine");
        // The same once more adds nothing, and what is taken is what a document needs.
        let before = document.clone();
        join(&mut document, one);
        assert_eq!(document, before);
    }
}
