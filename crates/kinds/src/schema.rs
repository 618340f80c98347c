//! The structure of every type as a table that can be walked: what decoding, merging, pruning and OpenAPI need to know.
//!
//! A [`SchemaRef`] is a place in that table: a type as some field uses it. It is two words and a reference, so it is
//! copied freely. Facts that belong to the use and not to the type (is this list a set?) come from the field.

mod load;
pub(crate) mod wire;

use serde_json::{Map, Value};

use crate::custom;

pub use load::descriptions;

/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A struct with named fields.
    Object,
    /// A map of strings to values of one type.
    Map,
    /// A list of values of one type.
    List,
    /// A string.
    String,
    /// A whole number of 32 bits.
    Integer,
    /// A whole number of 64 bits.
    Long,
    /// A floating-point number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// Bytes, as base64 text.
    Bytes,
    /// An RFC 3339 time in seconds.
    Time,
    /// An RFC 3339 time in microseconds.
    MicroTime,
    /// A resource quantity such as `100m` or `2Gi`.
    Quantity,
    /// A whole number of 32 bits or a string.
    IntOrString,
    /// Either an object of one type, a list of such objects, or any scalar (JSON schemas inside a CRD).
    Union,
    /// Anything: its content is not described.
    Any,
}

impl Shape {
    /// Whether a value of this shape has no parts of its own.
    pub fn is_scalar(self) -> bool {
        !matches!(self, Shape::Object | Shape::Map | Shape::List | Shape::Union | Shape::Any)
    }

    /// Whether protobuf writes the value as a plain number.
    pub(crate) fn is_varint(self) -> bool {
        matches!(self, Shape::Integer | Shape::Long | Shape::Boolean)
    }
}

/// How a list merges under server-side apply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    /// Replaced as a whole.
    #[default]
    Atomic,
    /// Of scalars, each at most once.
    Set,
    /// Of objects, each with keys of its own: [`SchemaRef::map_keys`].
    Map,
}

/// What a strategic merge patch does with a field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    /// List items are merged by [`SchemaRef::patch_merge_key`] (or as a set when there is none).
    pub merge: bool,
    /// The value is replaced.
    pub replace: bool,
    /// Fields that the patch does not name go when it says `$retainKeys`.
    pub retain_keys: bool,
}

const NONE: u32 = u32::MAX;

/// A value's type, as one word or two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Scalar(Shape),
    Any,
    Type(u32),
    Union(u32),
    /// The index of the item's node.
    List(u32),
    /// The index of the value's node.
    Map(u32),
}

#[derive(Debug)]
struct Type {
    name: Box<str>,
    body: Body,
    atomic: bool,
    /// Position of the type's description; its fields' follow it.
    description: u32,
}

#[derive(Debug)]
enum Body {
    /// A range of [`Types::fields`], sorted by name.
    Object { start: u32, end: u32 },
    /// Another name for a node.
    Alias(u32),
}

/// What upstream writes for a field in which nothing was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    /// Nothing.
    WhenSet,
    /// The zero of its shape.
    AsZero,
    /// A null.
    AsNull,
}

#[derive(Debug)]
struct Field {
    name: u32,
    node: u32,
    required: bool,
    omits_zero: bool,
    written: Written,
    list_type: ListType,
    has_list_type: bool,
    atomic: bool,
    /// Whether the field divides although its type does not.
    granular: bool,
    strategy: PatchStrategy,
    /// Index into [`Types::keys`], or [`NONE`].
    map_keys: u32,
    /// Index into [`Types::names`], or [`NONE`].
    merge_key: u32,
    /// Index into [`Types::defaults`], or [`NONE`].
    default: u32,
}

/// All types that one source describes.
#[derive(Debug, Default)]
pub struct Types {
    types: Vec<Type>,
    fields: Vec<Field>,
    nodes: Vec<Node>,
    names: Vec<Box<str>>,
    keys: Vec<Box<[Box<str>]>>,
    defaults: Vec<Value>,
    numbers: wire::Numbers,
}

impl Types {
    /// The types of Kubernetes' own API, read once.
    pub fn builtin() -> &'static Types {
        load::builtin()
    }

    /// The type called `name`, such as `io.k8s.api.core.v1.Pod`.
    pub fn named(&self, name: &str) -> Option<SchemaRef<'_>> {
        let index = self.types.binary_search_by(|t| (*t.name).cmp(name)).ok()?;
        Some(self.type_ref(u32::try_from(index).ok()?))
    }

    /// Every named type, in order of names.
    pub fn all(&self) -> impl Iterator<Item = SchemaRef<'_>> {
        (0..u32::try_from(self.types.len()).unwrap_or(0)).map(|index| self.type_ref(index))
    }

    fn type_ref(&self, index: u32) -> SchemaRef<'_> {
        SchemaRef { types: self, node: Node::Type(index), field: NONE, custom: None }
    }
}

/// A type as one field (or nothing: the root) uses it.
#[derive(Clone, Copy)]
pub struct SchemaRef<'a> {
    types: &'a Types,
    node: Node,
    field: u32,
    /// The place in a custom resource's schema; then the rest says nothing.
    custom: Option<&'a custom::Schema>,
}

impl std::fmt::Debug for SchemaRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SchemaRef({} {:?} {:?})", self.field_name().unwrap_or("-"), self.node, self.type_name())
    }
}

impl<'a> SchemaRef<'a> {
    /// A place in a custom resource's schema.
    pub(crate) fn custom(schema: &'a custom::Schema) -> SchemaRef<'a> {
        SchemaRef { types: Types::builtin(), node: Node::Any, field: NONE, custom: Some(schema) }
    }

    /// The type of metadata.
    pub(crate) fn object_meta() -> Option<SchemaRef<'static>> {
        Types::builtin().named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")
    }

    /// What a custom resource's schema has at a name. Objects, also those within others, have Kubernetes' own metadata.
    fn custom_field(schema: &'a custom::Schema, name: &str) -> Option<SchemaRef<'a>> {
        if schema.is_resource() {
            match name {
                "metadata" => return SchemaRef::object_meta(),
                "apiVersion" | "kind" => {
                    let node = Node::Scalar(Shape::String);
                    return Some(SchemaRef { types: Types::builtin(), node, field: NONE, custom: None });
                }
                _ => {}
            }
        }
        schema.child(name).map(SchemaRef::custom)
    }

    /// The node below names that only stand for another node.
    fn resolved(self) -> Node {
        match self.node {
            Node::Type(index) => match self.types.types[index as usize].body {
                Body::Alias(node) => self.types.nodes[node as usize],
                Body::Object { .. } => self.node,
            },
            node => node,
        }
    }

    /// What the value may be.
    pub fn shape(self) -> Shape {
        if let Some(custom) = self.custom {
            return custom.shape();
        }
        match self.resolved() {
            Node::Scalar(shape) => shape,
            Node::Any => Shape::Any,
            Node::Type(_) => Shape::Object,
            Node::Union(_) => Shape::Union,
            Node::List(_) => Shape::List,
            Node::Map(_) => Shape::Map,
        }
    }

    /// The name of the value's type, such as `io.k8s.api.core.v1.PodSpec`, where it has one.
    pub fn type_name(self) -> Option<&'a str> {
        match self.node {
            Node::Type(index) => Some(&self.types.types[index as usize].name),
            _ => None,
        }
    }

    /// Position in [`descriptions`] of the type's own description.
    pub fn type_description(self) -> Option<usize> {
        match self.node {
            Node::Type(index) => Some(self.types.types[index as usize].description as usize),
            _ => None,
        }
    }

    fn field_range(self) -> (u32, u32) {
        match self.resolved() {
            Node::Type(index) | Node::Union(index) => match self.types.types[index as usize].body {
                Body::Object { start, end } => (start, end),
                Body::Alias(_) => (0, 0),
            },
            _ => (0, 0),
        }
    }

    fn field_ref(self, index: u32) -> SchemaRef<'a> {
        let node = self.types.nodes[self.types.fields[index as usize].node as usize];
        SchemaRef { types: self.types, node, field: index, custom: None }
    }

    /// The field `name` of an object.
    pub fn field(self, name: &str) -> Option<SchemaRef<'a>> {
        if let Some(custom) = self.custom {
            return SchemaRef::custom_field(custom, name);
        }
        let (start, end) = self.field_range();
        let fields = &self.types.fields[start as usize..end as usize];
        let at = fields.binary_search_by(|field| (*self.types.names[field.name as usize]).cmp(name)).ok()?;
        Some(self.field_ref(start + u32::try_from(at).ok()?))
    }

    /// All fields of an object, in order of names.
    pub fn fields(self) -> impl ExactSizeIterator<Item = (&'a str, SchemaRef<'a>)> {
        let (start, end) = self.field_range();
        let custom = self.custom.map_or(&[][..], custom::Schema::properties);
        let own = u32::try_from(custom.len()).unwrap_or(0);
        (start..end + own).map(move |index| {
            if index >= end {
                let (name, schema) = &custom[(index - end) as usize];
                return (&**name, SchemaRef::custom(schema));
            }
            let name: &'a str = &self.types.names[self.types.fields[index as usize].name as usize];
            (name, self.field_ref(index))
        })
    }

    /// The type of a list's items or a map's values.
    pub fn item(self) -> Option<SchemaRef<'a>> {
        if let Some(custom) = self.custom {
            return match (custom.additional(), custom.items()) {
                (_, Some(items)) => Some(SchemaRef::custom(items)),
                (custom::Additional::Schema(values), None) => Some(SchemaRef::custom(values)),
                _ => None,
            };
        }
        match self.resolved() {
            Node::List(node) | Node::Map(node) => {
                let node = self.types.nodes[node as usize];
                Some(SchemaRef { types: self.types, node, field: NONE, custom: None })
            }
            Node::Union(index) => Some(self.types.type_ref(index)),
            _ => None,
        }
    }

    /// What stands below `name`: an object's field or a map's value.
    pub fn child(self, name: &str) -> Option<SchemaRef<'a>> {
        match self.shape() {
            Shape::Map => self.item(),
            Shape::Object | Shape::Union => self.field(name),
            _ => None,
        }
    }

    fn fact(self) -> Option<&'a Field> {
        (self.field != NONE).then(|| &self.types.fields[self.field as usize])
    }

    /// The name of the field through which this was reached.
    pub fn field_name(self) -> Option<&'a str> {
        self.fact().map(|field| &*self.types.names[field.name as usize])
    }

    /// Position of the field among all fields: with the position of its type's description it finds the field's own.
    pub fn field_position(self, parent: SchemaRef<'a>) -> Option<usize> {
        let (start, end) = parent.field_range();
        (start..end).contains(&self.field).then(|| (self.field - start) as usize)
    }

    /// Whether the schema calls the field required.
    pub fn required(self) -> bool {
        self.fact().is_some_and(|field| field.required)
    }

    /// What upstream writes for the field when nothing was set in it, if anything: Go's JSON has every field without
    /// `omitempty`, and structs that are no pointers, whatever is in them.
    pub fn zero(self) -> Option<Value> {
        let shape = self.shape();
        match self.fact().map(|field| field.written)? {
            Written::WhenSet => None,
            Written::AsNull => Some(Value::Null),
            Written::AsZero => Some(match shape {
                Shape::Object => self.empty(),
                Shape::Boolean => Value::Bool(false),
                Shape::Integer | Shape::Long | Shape::Number | Shape::IntOrString => Value::from(0),
                Shape::Quantity => Value::from("0"),
                _ => Value::from(""),
            }),
        }
    }

    /// An object in which nothing was set, as upstream writes it.
    pub fn empty(self) -> Value {
        let mut fields = Map::new();
        self.complete(&mut fields);
        Value::Object(fields)
    }

    /// Whether the field is written as null when nothing was set in it.
    pub fn null_when_unset(self) -> bool {
        self.fact().is_some_and(|field| field.written == Written::AsNull)
    }

    /// Puts what upstream writes anyway into an object where it is not there; what is there stays as it is.
    pub fn complete(self, fields: &mut Map<String, Value>) {
        for (name, field) in self.always_written() {
            if !fields.contains_key(name)
                && let Some(zero) = field.zero()
            {
                fields.insert(name.to_owned(), zero);
            }
        }
    }

    /// The fields that upstream writes whatever is in them.
    pub fn always_written(self) -> impl Iterator<Item = (&'a str, SchemaRef<'a>)> {
        let (start, end) = if self.custom.is_some() { (0, 0) } else { self.field_range() };
        (start..end).filter(|index| self.types.fields[*index as usize].written != Written::WhenSet).map(move |index| {
            (&*self.types.names[self.types.fields[index as usize].name as usize], self.field_ref(index))
        })
    }

    /// Whether upstream leaves the field out when it is false, zero or empty, as if it had never been set.
    pub fn omits_zero(self) -> bool {
        self.fact().is_some_and(|field| field.omits_zero)
    }

    /// How the list merges under server-side apply; a list about which nothing is said is atomic.
    pub fn list_type(self) -> ListType {
        if let Some(custom) = self.custom {
            return custom.list_type();
        }
        self.fact().map_or(ListType::Atomic, |field| field.list_type)
    }

    /// Whether upstream states the list type (OpenAPI shows it only then).
    pub fn states_list_type(self) -> bool {
        if let Some(custom) = self.custom {
            return custom.states_list_type();
        }
        self.fact().is_some_and(|field| field.has_list_type)
    }

    /// The keys of a [`ListType::Map`].
    pub fn map_keys(self) -> &'a [Box<str>] {
        if let Some(custom) = self.custom {
            return custom.map_keys();
        }
        match self.fact() {
            Some(field) if field.map_keys != NONE => &self.types.keys[field.map_keys as usize],
            _ => &[],
        }
    }

    /// Whether an object or map is replaced as a whole under server-side apply.
    pub fn is_atomic(self) -> bool {
        if let Some(custom) = self.custom {
            return custom.is_atomic();
        }
        let of_type = || match self.node {
            Node::Type(index) => self.types.types[index as usize].atomic,
            _ => false,
        };
        match self.fact() {
            Some(field) => field.atomic || !field.granular && of_type(),
            None => of_type(),
        }
    }

    /// Whether the field (not its type) is stated to be an atomic map.
    pub fn states_atomic(self) -> bool {
        self.fact().is_some_and(|field| field.atomic)
    }

    /// What a strategic merge patch does with the field.
    pub fn patch_strategy(self) -> PatchStrategy {
        self.fact().map_or_else(PatchStrategy::default, |field| field.strategy)
    }

    /// The key by which a strategic merge patch pairs list items.
    pub fn patch_merge_key(self) -> Option<&'a str> {
        let field = self.fact()?;
        (field.merge_key != NONE).then(|| &*self.types.names[field.merge_key as usize])
    }

    /// The value that the schema gives to a field which is absent.
    pub fn default(self) -> Option<&'a Value> {
        if let Some(custom) = self.custom {
            return custom.default();
        }
        let field = self.fact()?;
        (field.default != NONE).then(|| &self.types.defaults[field.default as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_a_pod() {
        let pod = Types::builtin().named("io.k8s.api.core.v1.Pod").expect("pods are built in");
        let containers = pod.field("spec").and_then(|spec| spec.field("containers")).expect("a field");
        assert_eq!(containers.shape(), Shape::List);
        assert_eq!(containers.list_type(), ListType::Map);
        assert_eq!(containers.map_keys(), ["name".into()]);
        assert_eq!(containers.patch_merge_key(), Some("name"));
        assert!(containers.patch_strategy().merge && containers.required());
        let container = containers.item().expect("a list has items");
        assert_eq!(container.type_name(), Some("io.k8s.api.core.v1.Container"));
        let ports = container.field("ports").expect("a field");
        assert_eq!(ports.map_keys(), ["containerPort".into(), "protocol".into()]);
        let protocol = ports.item().and_then(|port| port.field("protocol")).expect("a field");
        assert_eq!(protocol.default(), Some(&Value::from("TCP")));
        let limits = container.field("resources").and_then(|r| r.field("limits")).expect("a field");
        assert_eq!((limits.shape(), limits.item().map(SchemaRef::shape)), (Shape::Map, Some(Shape::Quantity)));
        let selector = pod.field("spec").and_then(|spec| spec.field("nodeSelector")).expect("a field");
        assert!(selector.is_atomic());
    }

    #[test]
    fn shapes() {
        let check = |name: &str, path: &[&str], expected: Shape| {
            let mut at = Types::builtin().named(name).expect(name);
            for step in path {
                at = match at.shape() {
                    Shape::List => at.item().and_then(|item| item.field(step)),
                    _ => at.child(step),
                }
                .unwrap_or_else(|| panic!("{name} has no {step}"));
            }
            assert_eq!(at.shape(), expected, "{name} {path:?}");
        };
        let meta = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
        check(meta, &["creationTimestamp"], Shape::Time);
        check(meta, &["generation"], Shape::Long);
        check(meta, &["managedFields", "fieldsV1"], Shape::Any);
        check("io.k8s.api.core.v1.Secret", &["data", "a"], Shape::Bytes);
        check("io.k8s.api.core.v1.ServicePort", &["targetPort"], Shape::IntOrString);
        check("io.k8s.api.core.v1.ServicePort", &["port"], Shape::Integer);
        check("io.k8s.api.coordination.v1.LeaseSpec", &["renewTime"], Shape::MicroTime);
        let props = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
        check(props, &["items"], Shape::Union);
        check(props, &["items", "properties", "x", "type"], Shape::String);
        check(props, &["default"], Shape::Any);
    }
}
