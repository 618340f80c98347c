//! Rules made ready, and what is wrong with them, in upstream's words.

use std::sync::Arc;

use kobune_kinds::FieldError;
use serde_json::{Map, Value as Json};

use super::{Node, Rule, field_path, structural};
use crate::schema::{LARGEST_REQUEST, ListKind};
use crate::{Environment, Program, Schema, Type};

/// The most that one rule may cost by its estimate, for all places that it is evaluated at.
const MOST_OF_A_RULE: u64 = 10_000_000;
/// So many rules are named when all together cost too much.
const NAMED: usize = 4;
/// The most that all rules of a schema may cost by their estimates.
const MOST_OF_A_SCHEMA: u64 = 100_000_000;

pub(super) struct Compiler {
    problems: Vec<FieldError>,
    /// What all rules together cost by their estimates.
    total: u64,
    /// The dearest of them, the first the most, that take at least a hundredth of what all may.
    dearest: Vec<(u64, String)>,
}

/// A place in the schema.
struct Place<'s> {
    path: String,
    /// Where rules and limits come from: the schema itself, or a part of its `allOf`.
    rules: &'s Json,
    /// The schema itself.
    node: &'s Json,
    schema: Option<Arc<Schema>>,
    /// How many such values an object can have; `None` where nothing bounds it but the size of a request.
    count: Option<u64>,
    /// The list whose items cannot be told apart, if the place is in one.
    uncorrelated: Option<String>,
}

/// Whether rules look at the value itself. Most places of a large schema have none, and nothing is built for them.
fn needs_schema(fields: &Json) -> bool {
    let has = |field: &str| fields[field].as_array().is_some_and(|list| !list.is_empty());
    has("x-kubernetes-validations") || has("allOf")
}

fn text<'j>(fields: &'j Json, name: &str) -> &'j str {
    fields[name].as_str().unwrap_or_default()
}

impl Compiler {
    pub(super) fn run(schema: &Json, path: &str) -> (Option<Node>, Vec<FieldError>) {
        let mut compiler = Compiler { problems: Vec::new(), total: 0, dearest: Vec::new() };
        let place = Place {
            path: path.to_owned(),
            rules: schema,
            node: schema,
            schema: needs_schema(schema).then(|| structural::schema(schema, true, "self")).flatten(),
            count: Some(1),
            uncorrelated: None,
        };
        let node = compiler.node(&place);
        if compiler.total > MOST_OF_A_SCHEMA {
            let words = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            let named = std::mem::take(&mut compiler.dearest).into_iter();
            compiler.problems.extend(named.map(|(_, path)| FieldError::forbidden(path, words)));
            let name = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
            let words = exceeds(name, compiler.total, MOST_OF_A_SCHEMA);
            compiler.problems.push(FieldError::forbidden(path, words));
        }
        (node, compiler.problems)
    }

    fn node(&mut self, place: &Place<'_>) -> Option<Node> {
        let kind = structural::list_kind(place.node);
        let mut node = Node {
            kind: text(place.node, "type").into(),
            schema: place.schema.clone(),
            rules: Vec::new(),
            all_of: Vec::new(),
            properties: Vec::new(),
            additional: None,
            items: None,
            is_set: kind == ListKind::Set,
            keys: if let ListKind::Map(keys) = kind { keys } else { Vec::new() },
        };
        self.below(place, &mut node);
        for (index, rule) in place.rules["x-kubernetes-validations"].as_array().into_iter().flatten().enumerate() {
            let path = format!("{}.x-kubernetes-validations[{index}]", place.path);
            node.rules.extend(self.rule(rule, &path, place));
        }
        let empty = node.rules.is_empty()
            && node.all_of.is_empty()
            && node.properties.is_empty()
            && node.additional.is_none()
            && node.items.is_none();
        (!empty).then_some(node)
    }

    fn below(&mut self, place: &Place<'_>, node: &mut Node) {
        let times = |most: &str| {
            let most = place.node[most].as_u64()?;
            place.count.map(|count| count.saturating_mul(most))
        };
        let is_list_of_keys = matches!(structural::list_kind(place.node), ListKind::Map(_));
        let mut visit = |rules: &Json, inner: &Json, path: String, count: Option<u64>, in_list: bool| {
            let resource = inner["x-kubernetes-embedded-resource"] == true;
            let uncorrelated = match &place.uncorrelated {
                None if in_list && !is_list_of_keys => Some(place.path.clone()),
                known => known.clone(),
            };
            let schema = needs_schema(rules).then(|| structural::schema(inner, resource, &path)).flatten();
            self.node(&Place { path, rules, node: inner, schema, count, uncorrelated })
        };
        let none = Map::new();
        let (rules, inner) = (place.rules, place.node);
        for (name, property) in rules["properties"].as_object().unwrap_or(&none) {
            let Some(own) = inner["properties"].get(name) else { continue };
            let path = format!("{}.properties[{name}]", place.path);
            if let Some(found) = visit(property, own, path, place.count, false) {
                node.properties.push((name.as_str().into(), found));
            }
        }
        let below = |field: &str| {
            let (rules, inner) = (rules.get(field)?, inner.get(field)?);
            (rules.is_object() && inner.is_object()).then_some((rules, inner, format!("{}.{field}", place.path)))
        };
        if let Some((rules, inner, path)) = below("additionalProperties") {
            node.additional = visit(rules, inner, path, times("maxProperties"), false).map(Box::new);
        }
        if let Some((rules, inner, path)) = below("items") {
            node.items = visit(rules, inner, path, times("maxItems"), true).map(Box::new);
        }
        for (index, part) in rules["allOf"].as_array().into_iter().flatten().enumerate() {
            let nested = Place {
                path: format!("{}.allOf[{index}]", place.path),
                rules: part,
                node: place.node,
                schema: place.schema.clone(),
                count: place.count,
                uncorrelated: place.uncorrelated.clone(),
            };
            node.all_of.extend(self.node(&nested));
        }
    }

    /// Notes what is wrong with the texts of a rule.
    fn texts(&mut self, rule: &Json, path: &str, place: &Place<'_>) {
        let at = |field: &str| format!("{path}.{field}");
        let problems = &mut self.problems;
        let (source, message) = (text(rule, "rule").trim(), text(rule, "message"));
        if source.is_empty() {
            problems.push(FieldError::required(at("rule"), "rule is not specified"));
        } else if !message.is_empty() && message.trim().is_empty() {
            problems.push(FieldError::invalid(at("message"), message, "must be non-empty if specified"));
        } else if message.trim().contains('\n') {
            problems.push(FieldError::invalid(at("message"), message, "must not contain line breaks"));
        } else if source.contains('\n') && message.trim().is_empty() {
            problems
                .push(FieldError::required(at("message"), "message must be specified if rule contains line breaks"));
        }
        let making = text(rule, "messageExpression");
        if !making.is_empty() && making.trim().is_empty() {
            let words = "messageExpression must be non-empty if specified";
            problems.push(FieldError::required(at("messageExpression"), words));
        }
        let reasons = ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
        if rule.get("reason").is_some() && !reasons.contains(&text(rule, "reason")) {
            problems.push(FieldError::not_supported(at("reason"), text(rule, "reason"), &reasons));
        }
        let field = text(rule, "fieldPath");
        if !field.is_empty() {
            if field.trim().is_empty() {
                problems.push(FieldError::invalid(at("fieldPath"), field, "must be non-empty if specified"));
            }
            if field.contains('\n') {
                problems.push(FieldError::invalid(at("fieldPath"), field, "must not contain line breaks"));
            }
            if field_path::normalize(field, place.node).is_none() {
                problems.push(FieldError::invalid(at("fieldPath"), field, "must be a valid path"));
            }
        }
    }

    fn rule(&mut self, rule: &Json, path: &str, place: &Place<'_>) -> Option<Rule> {
        self.texts(rule, path, place);
        let source = text(rule, "rule");
        if source.trim().is_empty() {
            return None;
        }
        let at = |field: &str| format!("{path}.{field}");
        let optional_old = rule["optionalOldSelf"] == true;
        let mut made = Rule {
            source: source.to_owned(),
            program: Err("failed to convert to declType for CEL validation rules".to_owned()),
            message: text(rule, "message").trim().to_owned(),
            making: None,
            reason: text(rule, "reason").into(),
            field: Some(text(rule, "fieldPath")).and_then(|field| field_path::normalize(field, place.node)),
            uses_old: false,
            optional_old,
        };
        let Some(schema) = &place.schema else {
            let words = "failed to convert to declType for CEL validation rules";
            self.problems.push(FieldError::invalid(at("rule"), shown(rule), words));
            return Some(made);
        };
        let mut environment = Environment::new().value("self", schema).value("oldSelf", schema);
        if optional_old {
            environment.redeclare("oldSelf", Type::optional(schema.declared().clone()));
        }
        made.program = Program::compile(source, &environment)
            .map_err(|error| format!("compilation failed: {error}"))
            .and_then(|program| match program.result() {
                Type::Bool => Ok(program),
                _ => Err("cel expression must evaluate to a bool".to_owned()),
            });
        match &made.program {
            Err(problem) => self.problems.push(FieldError::invalid(at("rule"), shown(rule), problem.as_str())),
            Ok(program) => {
                let fallback = LARGEST_REQUEST / (schema.smallest_json() + 1);
                let cost = program.estimate().max.saturating_mul(place.count.unwrap_or(fallback));
                self.charge(cost, "estimated rule cost", at("rule"));
                made.uses_old = program.uses().contains("oldSelf");
            }
        }
        self.making(rule, at("messageExpression"), &environment, &mut made);
        if !made.uses_old && rule.get("optionalOldSelf").is_some() && made.program.is_ok() {
            let words = "may not be set if oldSelf is not used in rule";
            self.problems.push(FieldError::invalid(at("optionalOldSelf"), optional_old, words));
        }
        if let (true, Some(list)) = (made.uses_old, &place.uncorrelated) {
            let words = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {list}");
            self.problems.push(FieldError::invalid(at("rule"), source, words));
        }
        Some(made)
    }

    fn making(&mut self, rule: &Json, path: String, environment: &Environment, made: &mut Rule) {
        let source = text(rule, "messageExpression");
        if source.trim().is_empty() || made.program.is_err() {
            return;
        }
        let compiled = Program::compile(source, environment)
            .map_err(|error| format!("messageExpression compilation failed: {error}"))
            .and_then(|program| match program.result() {
                Type::String => Ok(program),
                _ => Err("messageExpression must evaluate to a string".to_owned()),
            });
        match compiled {
            Ok(program) => {
                self.charge(program.estimate().max, "estimated messageExpression cost", path);
                made.making = Some(program);
            }
            Err(problem) => self.problems.push(FieldError::invalid(path, shown(rule), problem)),
        }
    }

    fn charge(&mut self, cost: u64, name: &str, path: String) {
        self.total = self.total.saturating_add(cost);
        if cost >= MOST_OF_A_SCHEMA / 100 {
            self.dearest.push((cost, path.clone()));
            self.dearest.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
            self.dearest.truncate(NAMED);
        }
        if cost > MOST_OF_A_RULE {
            self.problems.push(FieldError::forbidden(path, exceeds(name, cost, MOST_OF_A_RULE)));
        }
    }
}

/// A rule as upstream shows one that it refuses: its internal type, whose fields have Go's names.
fn shown(rule: &Json) -> String {
    let given = |field: &str| rule.get(field).cloned().unwrap_or(Json::Null);
    let words = |field: &str| Json::from(text(rule, field));
    let fields = [
        ("Rule", words("rule")),
        ("Message", words("message")),
        ("MessageExpression", words("messageExpression")),
        ("Reason", given("reason")),
        ("FieldPath", words("fieldPath")),
        ("OptionalOldSelf", given("optionalOldSelf")),
    ];
    let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", fields.join(","))
}

fn exceeds(name: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{name} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}
