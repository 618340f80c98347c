//! The paths of resources: which operations there are, what they take and what they answer.

mod connect;

use serde_json::{Map, Value, json};

use super::definitions::{DELETE_OPTIONS, Definitions, Dialect, PATCH, STATUS, group_version_kind};
use crate::catalogue::type_name;
use crate::kind::{Kind, Subresource, Verb};
use crate::schema::Types;

const RESOURCE_LIST: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList";

const PATCH_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
/// Schemas of custom resources say nothing about strategic merging.
const CUSTOM_PATCH_TYPES: &[&str] =
    &["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];
const ANSWER_TYPES: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const STREAM_TYPES: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];
const ANY: &[&str] = &["*/*"];
const TEXT_TYPES: &[&str] =
    &["text/plain", "application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// The types of patches that a kind takes.
fn patch_types(kind: &Kind) -> &'static [&'static str] {
    if kind.custom().is_some() { CUSTOM_PATCH_TYPES } else { PATCH_TYPES }
}

/// Name, type and description of a query parameter.
type Parameter = (&'static str, &'static str, &'static str);

const PRETTY: Parameter = (
    "pretty",
    "string",
    "If 'true', then the output is pretty printed. Defaults to 'false' unless the user-agent indicates a browser or command-line HTTP tool (curl and wget).",
);
const DRY_RUN: Parameter = (
    "dryRun",
    "string",
    "When present, indicates that modifications should not be persisted. An invalid or unrecognized dryRun directive will result in an error response and no further processing of the request. Valid values are: - All: all dry run stages will be processed",
);
const FIELD_MANAGER: Parameter = (
    "fieldManager",
    "string",
    "fieldManager is a name associated with the actor or entity that is making these changes. The value must be less than or 128 characters long, and only contain printable characters, as defined by https://golang.org/pkg/unicode/#IsPrint.",
);
const FIELD_VALIDATION: Parameter = (
    "fieldValidation",
    "string",
    "fieldValidation instructs the server on how to handle objects in the request (POST/PUT/PATCH) containing unknown or duplicate fields. Valid values are: - Ignore, - Warn (the default), - Strict.",
);
const FORCE: Parameter = (
    "force",
    "boolean",
    "Force is going to \"force\" Apply requests. It means user will re-acquire conflicting fields owned by other people. Force flag must be unset for non-apply patch requests.",
);
const LIST: &[Parameter] = &[
    ("allowWatchBookmarks", "boolean", "allowWatchBookmarks requests watch events with type \"BOOKMARK\"."),
    ("continue", "string", "The continue option should be set when retrieving more results from the server."),
    (
        "fieldSelector",
        "string",
        "A selector to restrict the list of returned objects by their fields. Defaults to everything.",
    ),
    (
        "labelSelector",
        "string",
        "A selector to restrict the list of returned objects by their labels. Defaults to everything.",
    ),
    ("limit", "integer", "limit is a maximum number of responses to return for a list call."),
    (
        "resourceVersion",
        "string",
        "resourceVersion sets a constraint on what resource versions a request may be served from.",
    ),
    ("resourceVersionMatch", "string", "resourceVersionMatch determines how resourceVersion is applied to list calls."),
    ("sendInitialEvents", "boolean", "`sendInitialEvents=true` may be set together with `watch=true`."),
    ("timeoutSeconds", "integer", "Timeout for the list/watch call."),
    (
        "watch",
        "boolean",
        "Watch for changes to the described resources and return them as a stream of add, update, and remove notifications.",
    ),
];
const DELETE: &[Parameter] = &[
    DRY_RUN,
    ("gracePeriodSeconds", "integer", "The duration in seconds before the object should be deleted."),
    ("orphanDependents", "boolean", "Deprecated: please use the PropagationPolicy."),
    (
        "ignoreStoreReadErrorWithClusterBreakingPotential",
        "boolean",
        "Whether an object that cannot be read any more is deleted all the same.",
    ),
    ("propagationPolicy", "string", "Whether and how garbage collection will be performed."),
];
const WRITE: &[Parameter] = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
const APPLY: &[Parameter] = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE];

fn parameter(dialect: Dialect, (name, kind, description): (&str, &str, &str), place: &str) -> Value {
    let mut value = json!({"name": name, "in": place, "description": description});
    if place == "path" {
        value["required"] = true.into();
    }
    match dialect {
        Dialect::V2 => {
            value["type"] = kind.into();
            value["uniqueItems"] = true.into();
        }
        Dialect::V3 => value["schema"] = json!({"type": kind, "uniqueItems": true}),
    }
    value
}

/// What differs between operations.
struct Operation<'a> {
    id: String,
    summary: String,
    action: &'static str,
    gvk: Value,
    group: &'a str,
    version: &'a str,
    parameters: Vec<Parameter>,
    body: Option<(Value, &'static [&'static str])>,
    answer: Value,
    answer_types: &'static [&'static str],
    codes: &'static [(&'static str, &'static str)],
}

/// `rbac.authorization.k8s.io` as identifiers name it: `RbacAuthorization`.
fn camel(group: &str) -> String {
    if group.is_empty() {
        return "Core".to_owned();
    }
    let short = group.strip_suffix(".k8s.io").unwrap_or(group);
    short.split('.').map(capital).collect()
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

impl Operation<'_> {
    fn render(self, dialect: Dialect) -> Value {
        let group = camel(self.group);
        let mut initial = group.chars();
        let tag: String = initial.next().into_iter().flat_map(char::to_lowercase).chain(initial).collect();
        let mut parameters: Vec<Value> =
            self.parameters.into_iter().map(|each| parameter(dialect, each, "query")).collect();
        let content = |schema: &Value, types: &[&str]| -> Value {
            types.iter().map(|&media| (media.to_owned(), json!({"schema": schema}))).collect::<Map<_, _>>().into()
        };
        let mut responses = Map::new();
        for (code, description) in self.codes {
            let response = match dialect {
                Dialect::V2 => json!({"description": description, "schema": self.answer}),
                Dialect::V3 => json!({"description": description, "content": content(&self.answer, self.answer_types)}),
            };
            responses.insert((*code).to_owned(), response);
        }
        responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
        let mut value = json!({
            "operationId": self.id,
            "description": self.summary,
            "tags": [format!("{tag}_{}", self.version)],
            "responses": responses,
            "x-kubernetes-action": self.action,
            "x-kubernetes-group-version-kind": self.gvk,
        });
        if dialect == Dialect::V2 {
            value["produces"] = json!(self.answer_types);
            value["schemes"] = json!(["https"]);
            value["consumes"] = self.body.as_ref().map_or_else(|| json!(["*/*"]), |(_, types)| json!(types));
        }
        // Only options of a deletion may be left out.
        let required = !self.action.starts_with("delete");
        if let Some((schema, types)) = self.body {
            match dialect {
                Dialect::V2 => {
                    let mut body = json!({"name": "body", "in": "body", "schema": schema});
                    if required {
                        body["required"] = true.into();
                    }
                    parameters.push(body);
                }
                Dialect::V3 => {
                    let types = if types.contains(&"*/*") { &["*/*"] } else { types };
                    value["requestBody"] = json!({"content": content(&schema, types)});
                    if required {
                        value["requestBody"]["required"] = true.into();
                    }
                }
            }
        }
        if !parameters.is_empty() {
            value["parameters"] = Value::Array(parameters);
        }
        value
    }
}

const OK: &[(&str, &str)] = &[("200", "OK")];
const OK_CREATED: &[(&str, &str)] = &[("200", "OK"), ("201", "Created")];
const OK_CREATED_ACCEPTED: &[(&str, &str)] = &[("200", "OK"), ("201", "Created"), ("202", "Accepted")];
const OK_ACCEPTED: &[(&str, &str)] = &[("200", "OK"), ("202", "Accepted")];

/// Where an operation stands: the kind's own paths or one of its subresources.
struct Place<'a> {
    kind: &'a Kind,
    sub: Option<&'a Subresource>,
    all_namespaces: bool,
}

impl Place<'_> {
    /// The operation's method and its description.
    fn operation(&self, verb: Verb, definitions: &mut Definitions) -> Option<(&'static str, Value)> {
        let kind = self.kind;
        let (group, version, name) =
            self.sub.map_or((&*kind.group, &*kind.version, &*kind.kind), |sub| (&sub.group, &sub.version, &sub.kind));
        let named = match self.sub {
            Some(sub) if sub.kind != kind.kind => type_name(group, version, name),
            _ => kind.type_name(),
        };
        let object = |definitions: &mut Definitions| definitions.reference(&named);
        let what = format!("the specified {}", kind.kind);
        let sub_name = self.sub.map_or("", |sub| &*sub.name);
        let what = if sub_name.is_empty() { what } else { format!("{sub_name} of {what}") };
        let (method, word, action, summary) = match verb {
            Verb::Create if !sub_name.is_empty() => {
                ("post", "create", "post", format!("create {sub_name} of a {}", kind.kind))
            }
            Verb::Create => ("post", "create", "post", format!("create a {}", kind.kind)),
            Verb::Delete => ("delete", "delete", "delete", format!("delete a {}", kind.kind)),
            Verb::DeleteCollection => {
                ("delete", "delete", "deletecollection", format!("delete collection of {}", kind.kind))
            }
            Verb::Get => ("get", "read", "get", format!("read {what}")),
            Verb::List => ("get", "list", "list", format!("list or watch objects of kind {}", kind.kind)),
            Verb::Patch => ("patch", "patch", "patch", format!("partially update {what}")),
            Verb::Update => ("put", "replace", "put", format!("replace {what}")),
            // A watch is a list with `watch=true`.
            Verb::Watch => return None,
        };
        let log = sub_name == "log";
        let text = log || (kind.custom().is_none() && Types::builtin().named(&named).is_none());
        let collection = if verb == Verb::DeleteCollection { "Collection" } else { "" };
        let scope = if kind.namespaced && !self.all_namespaces { "Namespaced" } else { "" };
        let tail = if self.all_namespaces { "ForAllNamespaces" } else { "" };
        let (parameters, body, codes): (Vec<Parameter>, _, _) = match verb {
            _ if log => (connect::LOG.to_vec(), None, OK),
            Verb::Create => (WRITE.to_vec(), Some((object(definitions), ANY)), OK_CREATED_ACCEPTED),
            Verb::Update => (WRITE.to_vec(), Some((object(definitions), ANY)), OK_CREATED),
            Verb::Patch => (APPLY.to_vec(), Some((definitions.reference(PATCH), patch_types(kind))), OK_CREATED),
            Verb::Delete => (DELETE.to_vec(), Some((definitions.reference(DELETE_OPTIONS), ANY)), OK_ACCEPTED),
            Verb::DeleteCollection => {
                let selects = LIST.iter().filter(|(name, ..)| !matches!(*name, "watch" | "allowWatchBookmarks"));
                let parameters = selects.chain(DELETE).copied().collect();
                (parameters, Some((definitions.reference(DELETE_OPTIONS), ANY)), OK)
            }
            Verb::List => (LIST.to_vec(), None, OK),
            Verb::Get | Verb::Watch => (Vec::new(), None, OK),
        };
        let answer = match verb {
            _ if text => json!({"type": "string"}),
            Verb::Delete if kind.deletion_answers_with_object() => object(definitions),
            Verb::Delete | Verb::DeleteCollection => definitions.reference(STATUS),
            Verb::List => definitions.list(kind),
            _ => object(definitions),
        };
        let operation = Operation {
            id: format!(
                "{word}{}{}{collection}{scope}{}{}{tail}",
                camel(&kind.group),
                capital(&kind.version),
                kind.kind,
                capital(sub_name)
            ),
            summary,
            action,
            gvk: group_version_kind(group, version, name),
            group: &kind.group,
            version: &kind.version,
            parameters,
            body,
            answer,
            answer_types: match verb {
                _ if log => TEXT_TYPES,
                Verb::List => STREAM_TYPES,
                _ => ANSWER_TYPES,
            },
            codes,
        };
        Some((method, operation.render(definitions.dialect)))
    }

    fn item(&self, verbs: &[Verb], named: bool, definitions: &mut Definitions) -> Value {
        let mut item: Map<String, Value> = Map::new();
        for &verb in verbs {
            if let Some((method, operation)) = self.operation(verb, definitions) {
                item.insert(method.to_owned(), operation);
            }
        }
        let dialect = definitions.dialect;
        let mut parameters = placed(self.kind, named, dialect);
        if self.all_namespaces {
            parameters.retain(|parameter| parameter["name"] != "namespace");
        }
        parameters.push(parameter(dialect, PRETTY, "query"));
        item.insert("parameters".to_owned(), Value::Array(parameters));
        Value::Object(item)
    }
}

/// The parameters that stand in the path of a kind's objects.
fn placed(kind: &Kind, named: bool, dialect: Dialect) -> Vec<Value> {
    let mut parameters = Vec::new();
    if named {
        let description = format!("name of the {}", kind.kind);
        parameters.push(parameter(dialect, ("name", "string", &description), "path"));
    }
    if kind.namespaced {
        let description = "object name and auth scope, such as for teams and projects";
        parameters.push(parameter(dialect, ("namespace", "string", description), "path"));
    }
    parameters
}

/// The operation that lists the resources of a group and version.
fn resources(kind: &Kind, definitions: &mut Definitions) -> Value {
    let operation = Operation {
        id: format!("get{}{}APIResources", camel(&kind.group), capital(&kind.version)),
        summary: "get available resources".to_owned(),
        action: "",
        gvk: Value::Null,
        group: &kind.group,
        version: &kind.version,
        parameters: Vec::new(),
        body: None,
        answer: definitions.reference(RESOURCE_LIST),
        answer_types: ANSWER_TYPES,
        codes: OK,
    };
    let mut operation = operation.render(definitions.dialect);
    if let Some(fields) = operation.as_object_mut() {
        // It is about no resource.
        fields.retain(|name, _| !name.starts_with("x-kubernetes-"));
    }
    json!({"get": operation})
}

/// The paths of `kinds`.
pub(super) fn render(kinds: &[&Kind], definitions: &mut Definitions) -> Value {
    let mut paths = Map::new();
    for &kind in kinds.iter().filter(|kind| !kind.verbs.is_empty()) {
        let prefix = format!("/{}", super::group_version_path(&kind.group, &kind.version));
        let plural = &kind.plural;
        let root = format!("{prefix}/");
        if !paths.contains_key(&root) {
            paths.insert(root, resources(kind, definitions));
        }
        let collection = if kind.namespaced {
            format!("{prefix}/namespaces/{{namespace}}/{plural}")
        } else {
            format!("{prefix}/{plural}")
        };
        let of = |wanted: &[Verb]| -> Vec<Verb> { kind.verbs.iter().copied().filter(|v| wanted.contains(v)).collect() };
        let own = Place { kind, sub: None, all_namespaces: false };
        let on_collection = of(&[Verb::List, Verb::Create, Verb::DeleteCollection]);
        let on_object = of(&[Verb::Get, Verb::Update, Verb::Patch, Verb::Delete]);
        paths.insert(collection.clone(), own.item(&on_collection, false, definitions));
        if !on_object.is_empty() {
            paths.insert(format!("{collection}/{{name}}"), own.item(&on_object, true, definitions));
        }
        if kind.namespaced && kind.verbs.contains(&Verb::List) {
            let all = Place { kind, sub: None, all_namespaces: true };
            paths.insert(format!("{prefix}/{plural}"), all.item(&[Verb::List], false, definitions));
        }
        for sub in &kind.subresources {
            let base = format!("{collection}/{{name}}/{}", sub.name);
            if connect::is_connection(sub) {
                connect::render(kind, sub, &base, definitions, &mut paths);
                continue;
            }
            let place = Place { kind, sub: Some(sub), all_namespaces: false };
            paths.insert(base, place.item(&sub.verbs, true, definitions));
        }
    }
    Value::Object(paths)
}
