//! Tokens to a tree. Operators are climbed by precedence, so that nesting costs few frames of the stack.

use crate::error::CompileError;
use crate::literal;
use crate::names::is_reserved;
use crate::syntax::{Entry, Expression, FieldValue, Item, Literal, Node, NodeId, Tree};
use crate::token::{Spot, Token, tokens};

/// The longest source, in characters; upstream's number.
const LONGEST_SOURCE: usize = 100_000;
/// How deep brackets and calls nest; upstream's number.
const DEEPEST_NESTING: usize = 250;
/// How deep the tree may be once macros have become loops: evaluation follows it with the stack.
const DEEPEST_TREE: u16 = 500;
/// How many nodes a walk over the tree may meet; `optMap` makes parts of it shared, and a walk meets them each time.
const LARGEST_WALK: u32 = 1_000_000;

/// What an operand may begin with, in upstream's words.
const OPERAND: &str =
    "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

/// The tree of a source.
pub(crate) fn parse(source: &str) -> Result<Tree, CompileError> {
    let length = source.chars().count();
    if length > LONGEST_SOURCE {
        let message = format!("expression code point size exceeds limit: size: {length}, limit {LONGEST_SOURCE}");
        return Err(CompileError::new("", vec![(0, message)]));
    }
    let (spots, errors) = tokens(source);
    let errors = errors.into_iter().map(|(at, text)| (at, format!("Syntax error: {text}"))).collect();
    let mut parser = Parser { source, spots, at: 0, nodes: Vec::new(), walks: Vec::new(), errors, nesting: 0 };
    let root = match parser.expression() {
        Ok(root) => {
            if parser.errors.is_empty() && parser.peek() != Token::End {
                parser.unexpected("<EOF>");
            }
            root
        }
        Err(Stop) => 0,
    };
    if !parser.errors.is_empty() {
        return Err(CompileError::new(source, parser.errors));
    }
    Ok(Tree { nodes: parser.nodes, root })
}

/// Parsing cannot go on; the reason is among the errors.
#[derive(Debug)]
pub(crate) struct Stop;

type Parsed<T> = Result<T, Stop>;

/// Where parsing stands. Macros (in [`crate::macros`]) build nodes with it.
pub(crate) struct Parser<'s> {
    source: &'s str,
    spots: Vec<Spot>,
    at: usize,
    nodes: Vec<Node>,
    /// For each node, how many nodes a walk from it meets.
    walks: Vec<u32>,
    errors: Vec<(u32, String)>,
    nesting: usize,
}

/// The operators of two operands with their functions, by precedence.
fn operator(token: Token) -> Option<(u8, &'static str)> {
    Some(match token {
        Token::Sign("||") => (1, "_||_"),
        Token::Sign("&&") => (2, "_&&_"),
        Token::Sign("<") => (3, "_<_"),
        Token::Sign("<=") => (3, "_<=_"),
        Token::Sign(">") => (3, "_>_"),
        Token::Sign(">=") => (3, "_>=_"),
        Token::Sign("==") => (3, "_==_"),
        Token::Sign("!=") => (3, "_!=_"),
        Token::In => (3, "@in"),
        Token::Sign("+") => (4, "_+_"),
        Token::Sign("-") => (4, "_-_"),
        Token::Sign("*") => (5, "_*_"),
        Token::Sign("/") => (5, "_/_"),
        Token::Sign("%") => (5, "_%_"),
        _ => return None,
    })
}

impl Parser<'_> {
    fn spot(&self) -> Spot {
        self.spots[self.at]
    }

    fn peek(&self) -> Token {
        self.spot().token
    }

    fn next(&mut self) -> Spot {
        let spot = self.spot();
        if self.at + 1 < self.spots.len() {
            self.at += 1;
        }
        spot
    }

    fn is(&self, sign: &str) -> bool {
        matches!(self.peek(), Token::Sign(found) if found == sign)
    }

    fn take(&mut self, sign: &str) -> Option<u32> {
        self.is(sign).then(|| self.next().start)
    }

    fn text(&self, spot: Spot) -> &str {
        &self.source[spot.start as usize..spot.end as usize]
    }

    fn expect(&mut self, sign: &'static str) -> Parsed<u32> {
        match self.take(sign) {
            Some(start) => Ok(start),
            None => Err(self.unexpected(&format!("'{sign}'"))),
        }
    }

    fn unexpected(&mut self, expected: &str) -> Stop {
        let spot = self.spot();
        let found = if spot.token == Token::End { "<EOF>" } else { self.text(spot) };
        let message = format!("Syntax error: mismatched input '{found}' expecting {expected}");
        self.errors.push((spot.start, message));
        Stop
    }

    /// Reports an error and goes on.
    pub(crate) fn report(&mut self, offset: u32, message: impl Into<String>) {
        self.errors.push((offset, message.into()));
    }

    /// Adds a node, if the tree does not become too deep by it.
    pub(crate) fn add(&mut self, offset: u32, expression: Expression) -> Parsed<NodeId> {
        let parts = expression.parts();
        let depth = 1 + parts.iter().map(|part| self.nodes[*part as usize].depth).max().unwrap_or(0);
        let walk = parts.iter().fold(1u32, |sum, part| sum.saturating_add(self.walks[*part as usize]));
        if depth > DEEPEST_TREE || walk > LARGEST_WALK {
            return Err(self.too_deep());
        }
        let id = u32::try_from(self.nodes.len()).expect("a source of 100,000 characters has fewer nodes");
        self.nodes.push(Node { expression, offset, depth });
        self.walks.push(walk);
        Ok(id)
    }

    pub(crate) fn look(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize]
    }

    fn too_deep(&mut self) -> Stop {
        self.errors.clear();
        self.errors.push((0, format!("expression recursion limit exceeded: {DEEPEST_NESTING}")));
        Stop
    }

    /// `condition ? yes : no`, or an operation.
    fn expression(&mut self) -> Parsed<NodeId> {
        self.nesting += 1;
        if self.nesting > DEEPEST_NESTING {
            return Err(self.too_deep());
        }
        let condition = self.operation(1)?;
        let Some(offset) = self.take("?") else {
            self.nesting -= 1;
            return Ok(condition);
        };
        let yes = self.operation(1)?;
        self.expect(":")?;
        let no = self.expression()?;
        self.nesting -= 1;
        self.call(offset, "_?_:_", vec![condition, yes, no])
    }

    fn operation(&mut self, weakest: u8) -> Parsed<NodeId> {
        let mut left = self.unary()?;
        while let Some((strength, function)) = operator(self.peek()).filter(|(strength, _)| *strength >= weakest) {
            if strength <= 2 {
                left = self.logical(left, strength, function)?;
                continue;
            }
            let offset = self.next().start;
            let right = self.operation(strength + 1)?;
            left = self.call(offset, function, vec![left, right])?;
        }
        Ok(left)
    }

    /// A chain of one logical operator becomes a balanced tree, as upstream's: long chains stay shallow.
    fn logical(&mut self, first: NodeId, strength: u8, function: &'static str) -> Parsed<NodeId> {
        let mut terms = vec![first];
        let mut offsets = Vec::new();
        while operator(self.peek()) == Some((strength, function)) {
            offsets.push(self.next().start);
            terms.push(self.operation(strength + 1)?);
        }
        self.balance(function, &terms, &offsets)
    }

    fn balance(&mut self, function: &'static str, terms: &[NodeId], offsets: &[u32]) -> Parsed<NodeId> {
        if offsets.is_empty() {
            return Ok(terms[0]);
        }
        let middle = offsets.len() / 2;
        let left = self.balance(function, &terms[..=middle], &offsets[..middle])?;
        let right = self.balance(function, &terms[middle + 1..], &offsets[middle + 1..])?;
        self.call(offsets[middle], function, vec![left, right])
    }

    fn unary(&mut self) -> Parsed<NodeId> {
        let sign = match self.peek() {
            Token::Sign("!") => "!",
            Token::Sign("-") if !matches!(self.spots[self.at + 1].token, Token::Int | Token::Double) => "-",
            _ => return self.member(),
        };
        let offset = self.spot().start;
        let mut count = 0;
        while self.take(sign).is_some() {
            count += 1;
        }
        let operand = self.member()?;
        if count % 2 == 0 {
            return Ok(operand);
        }
        self.call(offset, if sign == "!" { "!_" } else { "-_" }, vec![operand])
    }

    fn member(&mut self) -> Parsed<NodeId> {
        let mut operand = self.primary()?;
        loop {
            if let Some(dot) = self.take(".") {
                let optional = self.take("?").is_some();
                let name = self.field_name()?;
                if !optional && self.is("(") && self.spots[self.at - 1].token == Token::Identifier {
                    let open = self.next().start;
                    let arguments = self.arguments()?;
                    operand = self.method(open, operand, name, arguments)?;
                } else if optional {
                    let field = self.add(dot, Expression::Literal(Literal::String(name)))?;
                    operand = self.call(dot, "_?._", vec![operand, field])?;
                } else {
                    operand = self.add(dot, Expression::Select { operand, field: name, test: false })?;
                }
            } else if let Some(open) = self.take("[") {
                let optional = self.take("?").is_some();
                let index = self.expression()?;
                self.expect("]")?;
                operand = self.call(open, if optional { "_[?_]" } else { "_[_]" }, vec![operand, index])?;
            } else if self.is("{")
                && let Some(name) = self.qualified_name(operand)
            {
                operand = self.object(name)?;
            } else {
                return Ok(operand);
            }
        }
    }

    fn field_name(&mut self) -> Parsed<Box<str>> {
        let spot = self.spot();
        match spot.token {
            Token::Identifier => {
                self.next();
                Ok(self.text(spot).into())
            }
            Token::Escaped => {
                self.next();
                Ok(self.text(spot).trim_matches('`').into())
            }
            _ => Err(self.unexpected("IDENTIFIER")),
        }
    }

    /// `a.b.c` as one name, when it is nothing but names.
    fn qualified_name(&self, id: NodeId) -> Option<String> {
        match &self.look(id).expression {
            Expression::Name(name) => Some(name.to_string()),
            Expression::Select { operand, field, test: false } => {
                self.qualified_name(*operand).map(|prefix| format!("{prefix}.{field}"))
            }
            _ => None,
        }
    }

    fn object(&mut self, name: String) -> Parsed<NodeId> {
        let open = self.next().start;
        let mut fields = Vec::new();
        while !self.is("}") {
            let optional = self.take("?").is_some();
            let name = self.field_name()?;
            let offset = self.expect(":")?;
            let value = self.expression()?;
            fields.push(FieldValue { name, value, optional, offset });
            if self.take(",").is_none() {
                break;
            }
        }
        self.expect("}")?;
        self.add(open, Expression::Object { name: name.into(), fields })
    }

    fn arguments(&mut self) -> Parsed<Vec<NodeId>> {
        let mut arguments = Vec::new();
        if !self.is(")") {
            loop {
                arguments.push(self.expression()?);
                if self.take(",").is_none() {
                    break;
                }
            }
        }
        self.expect(")")?;
        Ok(arguments)
    }

    fn primary(&mut self) -> Parsed<NodeId> {
        let spot = self.spot();
        match spot.token {
            Token::Sign("(") => {
                self.next();
                let inner = self.expression()?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Sign("[") => self.list(),
            Token::Sign("{") => self.map(),
            Token::Sign(".") if self.spots[self.at + 1].token == Token::Identifier => {
                // There are no containers, so that a leading dot changes nothing.
                self.next();
                self.name()
            }
            Token::Identifier => self.name(),
            Token::Sign("-") | Token::Int | Token::Uint | Token::Double | Token::String | Token::Bytes => {
                self.literal()
            }
            Token::True => self.constant(Literal::Bool(true)),
            Token::False => self.constant(Literal::Bool(false)),
            Token::Null => self.constant(Literal::Null),
            _ => Err(self.unexpected(OPERAND)),
        }
    }

    fn constant(&mut self, literal: Literal) -> Parsed<NodeId> {
        let offset = self.next().start;
        self.add(offset, Expression::Literal(literal))
    }

    fn literal(&mut self) -> Parsed<NodeId> {
        let start = self.spot().start;
        let negative = self.take("-").is_some();
        let spot = self.next();
        let text = self.text(spot);
        let literal = match spot.token {
            Token::Int => literal::int(text, negative).ok_or("invalid int literal"),
            Token::Uint => literal::uint(text).ok_or("invalid uint literal"),
            Token::Double => literal::double(text, negative).ok_or("invalid double literal"),
            Token::Bytes => literal::bytes(text),
            _ => literal::string(text),
        };
        match literal {
            Ok(literal) => self.add(start, Expression::Literal(literal)),
            Err(message) => {
                self.report(start, message);
                self.add(start, Expression::Broken)
            }
        }
    }

    fn name(&mut self) -> Parsed<NodeId> {
        let spot = self.next();
        let name: Box<str> = self.text(spot).into();
        if is_reserved(&name) {
            self.report(spot.start, format!("reserved identifier: {name}"));
        }
        match self.take("(") {
            Some(open) => {
                let arguments = self.arguments()?;
                self.function(open, name, arguments)
            }
            None => self.add(spot.start, Expression::Name(name)),
        }
    }

    fn list(&mut self) -> Parsed<NodeId> {
        let open = self.next().start;
        let mut items = Vec::new();
        while !self.is("]") {
            let optional = self.take("?").is_some();
            let value = self.expression()?;
            items.push(Item { value, optional });
            if self.take(",").is_none() {
                break;
            }
        }
        self.expect("]")?;
        self.add(open, Expression::List { items })
    }

    fn map(&mut self) -> Parsed<NodeId> {
        let open = self.next().start;
        let mut entries = Vec::new();
        while !self.is("}") {
            let optional = self.take("?").is_some();
            let key = self.expression()?;
            self.expect(":")?;
            let value = self.expression()?;
            entries.push(Entry { key, value, optional });
            if self.take(",").is_none() {
                break;
            }
        }
        self.expect("}")?;
        self.add(open, Expression::Map { entries })
    }

    /// A call of a function that is no macro.
    pub(crate) fn call(&mut self, offset: u32, function: &str, arguments: Vec<NodeId>) -> Parsed<NodeId> {
        self.add(offset, Expression::Call { function: function.into(), target: None, arguments })
    }

    /// A call of a method that is no macro.
    pub(crate) fn call_on(
        &mut self,
        offset: u32,
        target: NodeId,
        function: &str,
        arguments: Vec<NodeId>,
    ) -> Parsed<NodeId> {
        self.add(offset, Expression::Call { function: function.into(), target: Some(target), arguments })
    }
}
