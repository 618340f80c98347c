//! How lists of an object merge, by its kind.
//!
//! kustomize carries the OpenAPI of Kubernetes 1.21 whatever the cluster is, so its facts are what counts here, and not those
//! of kobune's own level. A kustomization can bring a schema of its own instead.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use serde_json::Value;

use crate::id::Gvk;

/// The facts of Kubernetes 1.21.
const BUILT_IN: &str = include_str!("../facts/merge-1.21.txt");

/// What a field holds.
#[derive(Clone, Debug, PartialEq)]
enum Shape {
    /// An object of a type.
    Type(usize),
    /// A list of something.
    List(Option<Box<Shape>>),
    /// A map to something.
    Map(Option<Box<Shape>>),
    /// Anything else.
    Other,
}

#[derive(Clone, Debug, PartialEq)]
struct Field {
    shape: Shape,
    strategy: Option<Arc<str>>,
    keys: Arc<[String]>,
}

#[derive(Debug, Default)]
struct Table {
    types: Vec<HashMap<String, Field>>,
    kinds: HashMap<(String, String), usize>,
    /// Kinds whose paths say whether they have a namespace.
    namespaced: HashMap<(String, String), bool>,
}

static BUILT_IN_TABLE: LazyLock<Arc<Table>> = LazyLock::new(|| Arc::new(Table::built_in()));

/// The schema that a build uses.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    custom: Option<Arc<Table>>,
}

/// What is known about one value.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    table: Arc<Table>,
    field: Field,
}

impl Schema {
    /// A schema that the kustomization brings: an OpenAPI document in version 2.
    pub fn custom(document: &Value) -> Schema {
        Schema { custom: Some(Arc::new(Table::from_openapi(document))) }
    }

    pub(crate) fn is_cluster_scoped(&self, gvk: &Gvk) -> bool {
        let Some(table) = &self.custom else { return false };
        table.namespaced.get(&(gvk.api_version(), gvk.kind.clone())) == Some(&false)
    }

    /// What is known about objects of a kind.
    pub(crate) fn of(&self, api_version: &str, kind: &str) -> Option<Known> {
        let key = (api_version.to_owned(), kind.to_owned());
        let table = self.custom.as_ref().unwrap_or(&BUILT_IN_TABLE);
        table.kinds.get(&key).map(|index| Known::of(table, Shape::Type(*index)))
    }
}

impl Known {
    fn of(table: &Arc<Table>, shape: Shape) -> Known {
        Known { table: table.clone(), field: Field { shape, strategy: None, keys: Arc::new([]) } }
    }

    /// What is known about a field.
    pub(crate) fn field(&self, name: &str) -> Option<Known> {
        let field = match &self.field.shape {
            Shape::Type(index) => self.table.types.get(*index)?.get(name)?.clone(),
            Shape::Map(Some(shape)) => Field { shape: (**shape).clone(), strategy: None, keys: Arc::new([]) },
            _ => return None,
        };
        Some(Known { table: self.table.clone(), field })
    }

    /// What is known about the items of a list.
    pub(crate) fn items(&self) -> Option<Known> {
        match &self.field.shape {
            Shape::List(Some(shape)) => Some(Known::of(&self.table, (**shape).clone())),
            Shape::List(None) => Some(Known::of(&self.table, Shape::Other)),
            _ => None,
        }
    }

    /// Whether lists here merge item by item.
    pub(crate) fn merges(&self) -> bool {
        self.field.strategy.as_ref().is_some_and(|strategy| strategy.split(',').any(|word| word == "merge"))
    }

    /// By which fields items are told apart; none for lists of texts.
    pub(crate) fn keys(&self) -> &[String] {
        &self.field.keys
    }
}

impl Table {
    fn built_in() -> Table {
        let mut table = Table::default();
        for line in BUILT_IN.lines() {
            if line.starts_with('#') {
                continue;
            }
            if let Some(field) = line.strip_prefix(' ') {
                let mut words = field.split(' ');
                let name = words.next().unwrap_or_default().to_owned();
                let shape = shape(words.next().unwrap_or_default());
                let strategy = words.next().map(Arc::from);
                let keys = words.next().map(|keys| keys.split(',').map(str::to_owned).collect()).unwrap_or_default();
                if let Some(fields) = table.types.last_mut() {
                    fields.insert(name, Field { shape, strategy, keys });
                }
                continue;
            }
            let kinds = line.split_once(' ').map_or("", |(_, kinds)| kinds);
            for (api_version, kind) in kinds.split(';').filter_map(|kind| kind.split_once(',')) {
                table.kinds.insert((api_version.to_owned(), kind.to_owned()), table.types.len());
            }
            table.types.push(HashMap::new());
        }
        table
    }

    fn from_openapi(document: &Value) -> Table {
        let mut table = Table::default();
        let Some(definitions) = document["definitions"].as_object() else { return table };
        let numbers: HashMap<&str, usize> = definitions.keys().map(String::as_str).zip(0..).collect();
        for definition in definitions.values() {
            for kind in definition["x-kubernetes-group-version-kind"].as_array().into_iter().flatten() {
                table.kinds.insert(kind_key(kind), table.types.len());
            }
            let properties = definition["properties"].as_object().into_iter().flatten();
            let fields = properties.map(|(name, property)| (name.clone(), field(property, &numbers))).collect();
            table.types.push(fields);
        }
        for (path, item) in document["paths"].as_object().into_iter().flatten() {
            let kind = &item["get"]["x-kubernetes-group-version-kind"];
            if kind.is_object() {
                let namespaced = path.contains("namespaces/{namespace}");
                *table.namespaced.entry(kind_key(kind)).or_default() |= namespaced;
            }
        }
        table
    }
}

fn kind_key(kind: &Value) -> (String, String) {
    let text = |field: &str| kind[field].as_str().unwrap_or_default().to_owned();
    let gvk = Gvk { group: text("group"), version: text("version"), kind: text("kind") };
    (gvk.api_version(), gvk.kind)
}

fn shape(text: &str) -> Shape {
    let inner = |rest: &str| (!rest.is_empty()).then(|| Box::new(shape(rest)));
    match text.split_at_checked(1) {
        Some(("@", number)) => number.parse().map_or(Shape::Other, Shape::Type),
        Some(("[", rest)) => Shape::List(inner(rest)),
        Some(("{", rest)) => Shape::Map(inner(rest)),
        _ => Shape::Other,
    }
}

fn field(property: &Value, numbers: &HashMap<&str, usize>) -> Field {
    let text = |name: &str| property[name].as_str();
    let listed = property["x-kubernetes-list-map-keys"].as_array();
    let keys: Vec<String> = match (listed, text("x-kubernetes-patch-merge-key")) {
        (Some(keys), _) => keys.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        (None, Some(key)) => vec![key.to_owned()],
        (None, None) => Vec::new(),
    };
    Field {
        shape: openapi_shape(property, numbers),
        strategy: text("x-kubernetes-patch-strategy").map(Arc::from),
        keys: keys.into(),
    }
}

fn openapi_shape(property: &Value, numbers: &HashMap<&str, usize>) -> Shape {
    if let Some(reference) = property["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap_or_default();
        return numbers.get(name).map_or(Shape::Other, |number| Shape::Type(*number));
    }
    let inner = |value: &Value| value.is_object().then(|| Box::new(openapi_shape(value, numbers)));
    if property["type"] == "array" {
        Shape::List(inner(&property["items"]))
    } else if property["additionalProperties"].is_object() {
        Shape::Map(inner(&property["additionalProperties"]))
    } else {
        Shape::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_facts() {
        let deployment = Schema::default().of("apps/v1", "Deployment").expect("a known kind");
        let template = ["spec", "template", "spec"].iter().try_fold(deployment, |known, name| known.field(name));
        let pod = template.expect("a pod");
        let containers = pod.field("containers").expect("containers");
        assert!(containers.merges());
        assert_eq!(containers.keys(), ["name"]);
        let ports = containers.items().and_then(|container| container.field("ports")).expect("ports");
        assert_eq!(ports.keys(), ["containerPort", "protocol"]);
        assert!(!pod.field("tolerations").expect("tolerations").merges());
        assert!(Schema::default().of("example.com/v1", "Deployment").is_none());
    }
}
