//! Fields that OpenAPI definitions of custom resources mark as names, labels, annotations or references.

use std::collections::HashSet;

use serde_json::Value;

use crate::error::{BuildError, Source};
use crate::fields::{FieldSpec, FieldTable, NameReference};
use crate::id::Gvk;
use crate::json;
use crate::node::Node;
use crate::parse;

/// What a file of `crds` says.
pub(crate) fn field_table(source: &Source) -> Result<FieldTable, BuildError> {
    let node = parse::first(source)?.unwrap_or_else(Node::null);
    let definitions = json::value_1_1(&node)
        .map_err(|(place, problem)| BuildError::Mistakes(vec![source.mistake(place, problem, None)]))?;
    let mut table = FieldTable::default();
    for (name, definition) in definitions.as_object().into_iter().flatten() {
        let properties = &definition["Schema"]["properties"];
        let is_object = ["kind", "apiVersion", "metadata"].iter().all(|field| properties.get(field).is_some());
        if is_object {
            let kind = name.rsplit('.').next().unwrap_or_default().to_owned();
            let gvk = Gvk { kind, ..Gvk::default() };
            let mut walk = Walk { table: &mut table, definitions: &definitions, gvk, seen: HashSet::new() };
            walk.definition(name, &mut Vec::new());
        }
    }
    table.sort();
    Ok(table)
}

struct Walk<'w> {
    table: &'w mut FieldTable,
    definitions: &'w Value,
    gvk: Gvk,
    /// Definitions above the current one: one that contains itself would never end.
    seen: HashSet<String>,
}

impl Walk<'_> {
    fn definition(&mut self, name: &str, path: &mut Vec<String>) {
        if !self.seen.insert(name.to_owned()) {
            return;
        }
        let definitions = self.definitions;
        for (field, property) in definitions[name]["Schema"]["properties"].as_object().into_iter().flatten() {
            path.push(field.clone());
            self.property(property, path);
            if let Some(reference) = property["$ref"].as_str() {
                self.definition(reference, path);
            }
            path.pop();
        }
        self.seen.remove(name);
    }

    fn property(&mut self, property: &Value, path: &[String]) {
        let text = |name: &str| property[name].as_str();
        let spec = FieldSpec { gvk: self.gvk.clone(), path: path.join("/"), create: false };
        let mut add = |list: fn(&mut FieldTable) -> &mut Vec<FieldSpec>, mark: &str| {
            let list = list(self.table);
            if text(mark).is_some() && !list.contains(&spec) {
                list.push(spec.clone());
            }
        };
        add(|table| &mut table.common_annotations, "x-kubernetes-annotation");
        add(|table| &mut table.common_labels, "x-kubernetes-label-selector");
        add(|table| &mut table.name_prefix, "x-kubernetes-identity");
        let (Some(version), Some(kind)) =
            (text("x-kubernetes-object-ref-api-version"), text("x-kubernetes-object-ref-kind"))
        else {
            return;
        };
        let key = text("x-kubernetes-object-ref-name-key").unwrap_or("name");
        let target = Gvk { kind: kind.to_owned(), version: version.to_owned(), ..Gvk::default() };
        let field = FieldSpec { path: format!("{}/{key}", spec.path), ..spec };
        match self.table.name_reference.iter_mut().find(|known| known.target == target) {
            Some(known) => known.fields.push(field),
            None => self.table.name_reference.push(NameReference { target, fields: vec![field] }),
        }
    }
}
