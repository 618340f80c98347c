//! The types of expressions.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The type of an expression or of a variable.
#[derive(Clone, Debug)]
pub enum Type {
    /// Known only when the expression is evaluated.
    Dyn,
    /// Wrong already; reported where it went wrong.
    Error,
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool,
    /// A signed whole number of 64 bits.
    Int,
    /// An unsigned whole number of 64 bits.
    Uint,
    /// A floating-point number of 64 bits.
    Double,
    /// Text.
    String,
    /// Bytes.
    Bytes,
    /// A point in time.
    Timestamp,
    /// A length of time.
    Duration,
    /// A list of one type.
    List(Arc<Type>),
    /// A map from one type to another.
    Map(Arc<(Type, Type)>),
    /// A value that may be there or not.
    Optional(Arc<Type>),
    /// The type of types, of a certain one where that is known.
    Type(Option<Arc<Type>>),
    /// An object with declared fields.
    Object(Arc<ObjectType>),
    /// What a Kubernetes library brings along.
    Opaque(Opaque),
    /// A type that is still to be found; only inside the checker.
    Variable(u32),
}

/// An object's declared fields.
#[derive(Clone, Debug, Default)]
pub struct ObjectType {
    /// The name, by which object types are told apart.
    pub name: Box<str>,
    /// The fields under the names that expressions use.
    pub fields: BTreeMap<Box<str>, Type>,
    /// Whether fields that are not declared may be named too.
    pub open: bool,
}

/// A type that only functions look into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opaque {
    /// `url(...)`.
    Url,
    /// `quantity(...)`.
    Quantity,
    /// `ip(...)`.
    Ip,
    /// `cidr(...)`.
    Cidr,
    /// `semver(...)`.
    Semver,
    /// `format.dns1123Label()` and its like.
    Format,
    /// `authorizer`.
    Authorizer,
    /// `authorizer.path(...)`.
    PathCheck,
    /// `authorizer.group(...)`.
    GroupCheck,
    /// `authorizer.group(...).resource(...)`.
    ResourceCheck,
    /// The answer of a check.
    Decision,
}

impl Opaque {
    /// The name that `type()` and error messages show.
    pub fn name(self) -> &'static str {
        match self {
            Opaque::Url => "kubernetes.URL",
            Opaque::Quantity => "kubernetes.Quantity",
            Opaque::Ip => "net.IP",
            Opaque::Cidr => "net.CIDR",
            Opaque::Semver => "kubernetes.Semver",
            Opaque::Format => "kubernetes.NamedFormat",
            Opaque::Authorizer => "kubernetes.authorization.Authorizer",
            Opaque::PathCheck => "kubernetes.authorization.PathCheck",
            Opaque::GroupCheck => "kubernetes.authorization.GroupCheck",
            Opaque::ResourceCheck => "kubernetes.authorization.ResourceCheck",
            Opaque::Decision => "kubernetes.authorization.Decision",
        }
    }

    /// The type called so in the catalogue of functions.
    pub(crate) fn named(name: &str) -> Option<Opaque> {
        Some(match name {
            "url" => Opaque::Url,
            "quantity" => Opaque::Quantity,
            "ip" => Opaque::Ip,
            "cidr" => Opaque::Cidr,
            "semver" => Opaque::Semver,
            "format" => Opaque::Format,
            "authorizer" => Opaque::Authorizer,
            "pathcheck" => Opaque::PathCheck,
            "groupcheck" => Opaque::GroupCheck,
            "resourcecheck" => Opaque::ResourceCheck,
            "decision" => Opaque::Decision,
            _ => return None,
        })
    }
}

impl Type {
    /// A list of `item`.
    pub fn list(item: Type) -> Type {
        Type::List(Arc::new(item))
    }

    /// A map from `key` to `value`.
    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new((key, value)))
    }

    /// An optional `value`.
    pub fn optional(value: Type) -> Type {
        Type::Optional(Arc::new(value))
    }

    /// An object with these fields.
    pub fn object(name: &str, fields: impl IntoIterator<Item = (&'static str, Type)>) -> Type {
        let fields = fields.into_iter().map(|(name, declared)| (name.into(), declared)).collect();
        Type::Object(Arc::new(ObjectType { name: name.into(), fields, open: false }))
    }

    /// Whether nothing is known before evaluation.
    pub fn is_dyn(&self) -> bool {
        matches!(self, Type::Dyn)
    }

    pub(crate) fn is_dyn_or_error(&self) -> bool {
        matches!(self, Type::Dyn | Type::Error)
    }

    /// Whether two types are the same, part by part.
    pub fn is_exactly(&self, other: &Type) -> bool {
        match (self, other) {
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => a.is_exactly(b),
            (Type::Map(a), Type::Map(b)) => Arc::ptr_eq(a, b) || (a.0.is_exactly(&b.0) && a.1.is_exactly(&b.1)),
            (Type::Type(a), Type::Type(b)) => match (a, b) {
                (Some(a), Some(b)) => a.is_exactly(b),
                (None, None) => true,
                _ => false,
            },
            (Type::Object(a), Type::Object(b)) => Arc::ptr_eq(a, b) || a.name == b.name,
            (Type::Opaque(a), Type::Opaque(b)) => a == b,
            (Type::Variable(a), Type::Variable(b)) => a == b,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }

    /// The name that `type()` gives at run time.
    pub fn runtime_name(&self) -> &str {
        match self {
            Type::Dyn => "dyn",
            Type::Error => "!error!",
            Type::Null => "null_type",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Uint => "uint",
            Type::Double => "double",
            Type::String => "string",
            Type::Bytes => "bytes",
            Type::Timestamp => "google.protobuf.Timestamp",
            Type::Duration => "google.protobuf.Duration",
            Type::List(_) => "list",
            Type::Map(_) => "map",
            Type::Optional(_) => "optional_type",
            Type::Type(_) => "type",
            Type::Object(object) => &object.name,
            Type::Opaque(opaque) => opaque.name(),
            Type::Variable(_) => "type parameter",
        }
    }

    /// Whether a value's size never depends on the value.
    pub(crate) fn is_scalar(&self) -> bool {
        match self {
            Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => true,
            Type::Optional(inner) => inner.is_scalar(),
            _ => false,
        }
    }

    /// How many parts the type has, counted no further than to `limit`.
    pub(crate) fn weight(&self, limit: usize) -> usize {
        let below = |left: usize, inner: &Type| inner.weight(left);
        match self {
            _ if limit == 0 => 0,
            Type::List(inner) | Type::Optional(inner) | Type::Type(Some(inner)) => 1 + below(limit - 1, inner),
            Type::Map(pair) => {
                let key = below(limit - 1, &pair.0);
                1 + key + below(limit - 1 - key.min(limit - 1), &pair.1)
            }
            _ => 1,
        }
    }
}

impl fmt::Display for Type {
    /// The form of compile errors: `list(string)`, `map(string, int)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::List(item) => write!(f, "list({item})"),
            Type::Map(pair) => write!(f, "map({}, {})", pair.0, pair.1),
            Type::Optional(inner) => write!(f, "optional_type({inner})"),
            Type::Type(Some(inner)) => write!(f, "type({inner})"),
            Type::Null => f.write_str("null"),
            Type::Timestamp => f.write_str("timestamp"),
            Type::Duration => f.write_str("duration"),
            Type::Variable(number) => write!(f, "_var{number}"),
            other => f.write_str(other.runtime_name()),
        }
    }
}
