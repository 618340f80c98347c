//! The compiled schema: a tree without prose, small where little is said.

use std::sync::OnceLock;

use regex::Regex;
use serde_json::{Map, Value};

use crate::schema::{ListType, Shape};

/// What `type` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ValueType {
    /// Nothing.
    #[default]
    Any,
    /// `object`.
    Object,
    /// `array`.
    Array,
    /// `string`.
    String,
    /// `integer`.
    Integer,
    /// `number`.
    Number,
    /// `boolean`.
    Boolean,
    /// `x-kubernetes-int-or-string`.
    IntOrString,
}

impl ValueType {
    /// The type as messages name it.
    pub fn words(self) -> &'static str {
        match self {
            ValueType::Any => "",
            ValueType::Object => "object",
            ValueType::Array => "array",
            ValueType::String => "string",
            ValueType::Integer => "integer",
            ValueType::Number => "number",
            ValueType::Boolean => "boolean",
            ValueType::IntOrString => "integer,string",
        }
    }
}

/// What `additionalProperties` says.
#[derive(Debug, Default)]
pub enum Additional {
    /// Nothing, or `false`.
    #[default]
    None,
    /// `true`.
    Any,
    /// A schema.
    Schema(Box<Schema>),
}

/// One of `x-kubernetes-validations`.
#[derive(Debug)]
pub struct Rule {
    /// The expression.
    pub rule: Box<str>,
    /// The rule as the definition has it.
    pub text: Value,
}

/// A pattern, compiled when it is first needed.
#[derive(Debug)]
pub(crate) struct Pattern {
    pub(crate) source: Box<str>,
    compiled: OnceLock<Option<Regex>>,
}

impl Pattern {
    fn new(source: &str) -> Pattern {
        Pattern { source: source.into(), compiled: OnceLock::new() }
    }

    /// Whether a text matches; a pattern that cannot be compiled was refused when the definition was written.
    pub(crate) fn matches(&self, text: &str) -> bool {
        self.compiled.get_or_init(|| Regex::new(&self.source).ok()).as_ref().is_none_or(|regex| regex.is_match(text))
    }
}

/// What few schemas say.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    pub(crate) default: Option<Value>,
    pub(crate) map_keys: Box<[Box<str>]>,
    pub(crate) allowed: Option<Box<[Value]>>,
    pub(crate) pattern: Option<Pattern>,
    pub(crate) format: Option<Box<str>>,
    pub(crate) minimum: Option<f64>,
    pub(crate) exclusive_minimum: bool,
    pub(crate) maximum: Option<f64>,
    pub(crate) exclusive_maximum: bool,
    pub(crate) multiple_of: Option<f64>,
    pub(crate) min_length: Option<u64>,
    pub(crate) max_length: Option<u64>,
    pub(crate) min_items: Option<u64>,
    pub(crate) max_items: Option<u64>,
    pub(crate) min_properties: Option<u64>,
    pub(crate) max_properties: Option<u64>,
    pub(crate) unique_items: bool,
    pub(crate) all_of: Box<[Schema]>,
    pub(crate) any_of: Box<[Schema]>,
    pub(crate) one_of: Box<[Schema]>,
    pub(crate) not: Option<Box<Schema>>,
    pub(crate) rules: Box<[Rule]>,
}

/// One place of a compiled schema.
#[derive(Debug, Default)]
pub struct Schema {
    kind: ValueType,
    nullable: bool,
    preserve: bool,
    embedded: bool,
    root: bool,
    atomic: bool,
    list_type: ListType,
    states_list_type: bool,
    properties: Box<[(Box<str>, Schema)]>,
    required: Box<[Box<str>]>,
    additional: Additional,
    items: Option<Box<Schema>>,
    limits: Option<Box<Limits>>,
}

fn no_limits() -> &'static Limits {
    static NONE: OnceLock<Limits> = OnceLock::new();
    NONE.get_or_init(Limits::default)
}

fn texts(value: Option<&Value>) -> Box<[Box<str>]> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(Box::from).collect()
}

fn schemas(value: Option<&Value>) -> Box<[Schema]> {
    value.and_then(Value::as_array).into_iter().flatten().map(Schema::read).collect()
}

impl Limits {
    fn read(fields: &Map<String, Value>) -> Option<Box<Limits>> {
        let number = |key: &str| fields.get(key).and_then(Value::as_f64);
        let count = |key: &str| fields.get(key).and_then(Value::as_u64);
        let flag = |key: &str| fields.get(key).and_then(Value::as_bool).unwrap_or(false);
        let text = |key: &str| fields.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        const KEYS: &[&str] = &[
            "default",
            "enum",
            "pattern",
            "format",
            "minimum",
            "maximum",
            "multipleOf",
            "minLength",
            "maxLength",
            "minItems",
            "maxItems",
            "minProperties",
            "maxProperties",
            "uniqueItems",
            "allOf",
            "anyOf",
            "oneOf",
            "not",
            "x-kubernetes-list-map-keys",
            "x-kubernetes-validations",
        ];
        if !KEYS.iter().any(|key| fields.contains_key(*key)) {
            return None;
        }
        let rules = fields.get("x-kubernetes-validations").and_then(Value::as_array);
        Some(Box::new(Limits {
            default: fields.get("default").filter(|value| !value.is_null()).cloned(),
            map_keys: texts(fields.get("x-kubernetes-list-map-keys")),
            allowed: fields
                .get("enum")
                .and_then(Value::as_array)
                .filter(|list| !list.is_empty())
                .map(|list| list.clone().into_boxed_slice()),
            pattern: text("pattern").map(Pattern::new),
            format: text("format").map(Box::from),
            minimum: number("minimum"),
            exclusive_minimum: flag("exclusiveMinimum"),
            maximum: number("maximum"),
            exclusive_maximum: flag("exclusiveMaximum"),
            multiple_of: number("multipleOf"),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            min_items: count("minItems"),
            max_items: count("maxItems"),
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
            unique_items: flag("uniqueItems"),
            all_of: schemas(fields.get("allOf")),
            any_of: schemas(fields.get("anyOf")),
            one_of: schemas(fields.get("oneOf")),
            not: fields.get("not").filter(|not| not.is_object()).map(|not| Box::new(Schema::read(not))),
            rules: rules
                .into_iter()
                .flatten()
                .map(|rule| Rule { rule: rule["rule"].as_str().unwrap_or_default().into(), text: rule.clone() })
                .collect(),
        }))
    }
}

impl Schema {
    /// The schema of whole objects.
    pub fn root(text: &Value) -> Schema {
        let mut schema = Schema::read(text);
        if !text.is_object() {
            schema.preserve = true;
        }
        schema.kind = ValueType::Object;
        schema.root = true;
        schema
    }

    fn read(text: &Value) -> Schema {
        let none = Map::new();
        let fields = text.as_object().unwrap_or(&none);
        let flag = |key: &str| fields.get(key).and_then(Value::as_bool).unwrap_or(false);
        let kind = match fields.get("type").and_then(Value::as_str).unwrap_or_default() {
            _ if flag("x-kubernetes-int-or-string") => ValueType::IntOrString,
            "object" => ValueType::Object,
            "array" => ValueType::Array,
            "string" => ValueType::String,
            "integer" => ValueType::Integer,
            "number" => ValueType::Number,
            "boolean" => ValueType::Boolean,
            _ => ValueType::Any,
        };
        let stated = fields.get("x-kubernetes-list-type").and_then(Value::as_str);
        // A JSON map is sorted, and so are the properties.
        let properties = fields.get("properties").and_then(Value::as_object);
        Schema {
            kind,
            nullable: flag("nullable"),
            preserve: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            root: false,
            atomic: fields.get("x-kubernetes-map-type").is_some_and(|kind| kind == "atomic"),
            list_type: match stated {
                Some("set") => ListType::Set,
                Some("map") => ListType::Map,
                _ => ListType::Atomic,
            },
            states_list_type: stated.is_some(),
            properties: properties
                .into_iter()
                .flatten()
                .map(|(name, schema)| (name.as_str().into(), Schema::read(schema)))
                .collect(),
            required: texts(fields.get("required")),
            additional: match fields.get("additionalProperties") {
                Some(Value::Bool(true)) => Additional::Any,
                Some(schema @ Value::Object(_)) => Additional::Schema(Box::new(Schema::read(schema))),
                _ => Additional::None,
            },
            items: fields.get("items").filter(|items| items.is_object()).map(|items| Box::new(Schema::read(items))),
            limits: Limits::read(fields),
        }
    }

    /// What `type` says.
    pub fn value_type(&self) -> ValueType {
        self.kind
    }

    /// Whether `null` is allowed.
    pub fn is_nullable(&self) -> bool {
        self.nullable
    }

    /// Whether fields that the schema does not name are kept.
    pub fn preserves(&self) -> bool {
        self.preserve
    }

    /// Whether the value is an object with `apiVersion`, `kind` and `metadata`.
    pub fn is_resource(&self) -> bool {
        self.root || self.embedded
    }

    /// Whether the value is an object inside another.
    pub fn is_embedded(&self) -> bool {
        self.embedded
    }

    /// The declared fields, in order of names.
    pub fn properties(&self) -> &[(Box<str>, Schema)] {
        &self.properties
    }

    /// The declared field of a name.
    pub fn property(&self, name: &str) -> Option<&Schema> {
        let at = self.properties.binary_search_by(|(known, _)| (**known).cmp(name)).ok()?;
        Some(&self.properties[at].1)
    }

    /// The fields that must be there.
    pub fn required(&self) -> &[Box<str>] {
        &self.required
    }

    /// What fields that are not declared may be.
    pub fn additional(&self) -> &Additional {
        &self.additional
    }

    /// What stands at a name: a declared field or one of the others.
    pub fn child(&self, name: &str) -> Option<&Schema> {
        self.property(name).or(match &self.additional {
            Additional::Schema(schema) => Some(schema),
            Additional::None | Additional::Any => None,
        })
    }

    /// What a list's items are.
    pub fn items(&self) -> Option<&Schema> {
        self.items.as_deref()
    }

    /// The list's type.
    pub fn list_type(&self) -> ListType {
        self.list_type
    }

    /// Whether the list's type is stated.
    pub fn states_list_type(&self) -> bool {
        self.states_list_type
    }

    /// Whether the map is replaced as a whole.
    pub fn is_atomic(&self) -> bool {
        self.atomic
    }

    /// The keys of a list of objects.
    pub fn map_keys(&self) -> &[Box<str>] {
        &self.limits().map_keys
    }

    /// The value of a field that is absent.
    pub fn default(&self) -> Option<&Value> {
        self.limits().default.as_ref()
    }

    /// The rules that the value must follow.
    pub fn rules(&self) -> &[Rule] {
        &self.limits().rules
    }

    /// The schemas of `allOf`, `anyOf`, `oneOf` and `not`.
    pub fn junctors(&self) -> impl Iterator<Item = &Schema> {
        let limits = self.limits();
        limits.all_of.iter().chain(&limits.any_of).chain(&limits.one_of).chain(limits.not.as_deref())
    }

    /// The greatest length, number of items and number of properties.
    pub fn sizes(&self) -> [Option<u64>; 3] {
        let limits = self.limits();
        [limits.max_length, limits.max_items, limits.max_properties]
    }

    /// The longest of the allowed texts, where only some values are allowed.
    pub fn longest_allowed(&self) -> Option<u64> {
        let longest = self.limits().allowed.as_ref()?.iter().map(|value| value.as_str().map_or(0, str::len)).max();
        longest.map(|longest| longest as u64)
    }

    /// The format of a text.
    pub fn format(&self) -> &str {
        self.limits().format.as_deref().unwrap_or_default()
    }

    pub(crate) fn limits(&self) -> &Limits {
        self.limits.as_deref().unwrap_or_else(|| no_limits())
    }

    /// What the value may be, as merging sees it.
    pub(crate) fn shape(&self) -> Shape {
        match self.kind {
            ValueType::Any => Shape::Any,
            ValueType::String => Shape::String,
            ValueType::Integer => Shape::Long,
            ValueType::Number => Shape::Number,
            ValueType::Boolean => Shape::Boolean,
            ValueType::IntOrString => Shape::IntOrString,
            ValueType::Array => Shape::List,
            ValueType::Object if self.is_resource() || !self.properties.is_empty() => Shape::Object,
            ValueType::Object => match self.additional {
                Additional::Schema(_) => Shape::Map,
                Additional::None | Additional::Any => Shape::Any,
            },
        }
    }
}
