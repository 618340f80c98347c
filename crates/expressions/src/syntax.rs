//! The tree of an expression, kept flat: nodes name their parts by position.

/// The position of a node in [`Tree::nodes`].
pub(crate) type NodeId = u32;

/// A value that stands in the source.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Box<str>),
    Bytes(Box<[u8]>),
}

/// One operation.
#[derive(Clone, Debug)]
pub(crate) enum Expression {
    /// What the parser leaves where it has reported an error.
    Broken,
    Literal(Literal),
    Name(Box<str>),
    /// `operand.field`, or `has(operand.field)` when `test`.
    Select {
        operand: NodeId,
        field: Box<str>,
        test: bool,
    },
    /// A function, an operator, or with a target a method.
    Call {
        function: Box<str>,
        target: Option<NodeId>,
        arguments: Vec<NodeId>,
    },
    List {
        items: Vec<Item>,
    },
    Map {
        entries: Vec<Entry>,
    },
    Object {
        name: Box<str>,
        fields: Vec<FieldValue>,
    },
    Comprehension(Box<Comprehension>),
}

/// An item of a list; an optional one is left out when it has no value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item {
    pub value: NodeId,
    pub optional: bool,
}

/// An entry of a map.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub key: NodeId,
    pub value: NodeId,
    pub optional: bool,
}

/// A field of an object that is made.
#[derive(Clone, Debug)]
pub(crate) struct FieldValue {
    pub name: Box<str>,
    pub value: NodeId,
    pub optional: bool,
    pub offset: u32,
}

/// The loop that macros become.
#[derive(Clone, Debug)]
pub(crate) struct Comprehension {
    pub range: NodeId,
    pub variable: Box<str>,
    pub second: Option<Box<str>>,
    pub accumulator: Box<str>,
    pub start: NodeId,
    pub condition: NodeId,
    pub step: NodeId,
    pub result: NodeId,
}

/// An operation and where it stands in the source.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub expression: Expression,
    /// The byte in the source that errors point at.
    pub offset: u32,
    /// How deep the tree below is.
    pub depth: u16,
}

/// A parsed expression.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub nodes: Vec<Node>,
    pub root: NodeId,
}

impl Tree {
    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize]
    }

    pub(crate) fn expression(&self, id: NodeId) -> &Expression {
        &self.nodes[id as usize].expression
    }
}

impl Expression {
    /// The nodes right below.
    pub(crate) fn parts(&self) -> Vec<NodeId> {
        match self {
            Expression::Broken | Expression::Literal(_) | Expression::Name(_) => Vec::new(),
            Expression::Select { operand, .. } => vec![*operand],
            Expression::Call { target, arguments, .. } => target.iter().chain(arguments).copied().collect(),
            Expression::List { items } => items.iter().map(|item| item.value).collect(),
            Expression::Map { entries } => entries.iter().flat_map(|entry| [entry.key, entry.value]).collect(),
            Expression::Object { fields, .. } => fields.iter().map(|field| field.value).collect(),
            Expression::Comprehension(inner) => {
                vec![inner.range, inner.start, inner.condition, inner.step, inner.result]
            }
        }
    }
}
