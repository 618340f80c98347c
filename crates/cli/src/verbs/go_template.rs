//! Templates of `-o go-template=`: Go's `text/template` over decoded JSON, as far as objects of the API need it. Pure.
//!
//! There are fields, variables, pipelines, `if`, `with`, `range` (with `break` and `continue`), `define`, `template`, `block`,
//! trimming, comments, all built-in functions and kubectl's `exists` and `base64decode`. Not there: complex numbers, methods (JSON
//! has none) and `range` over numbers and functions. Numbers of objects are floating-point numbers, as Go decodes them.

mod functions;
mod parse;
mod run;

use std::collections::BTreeMap;

use serde_json::Value;

/// How deep a template may nest: what is read is bounded like everything else.
const DEEPEST: usize = 64;

/// A template.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    source: String,
    body: Vec<Node>,
    /// What `define` and `block` name.
    named: BTreeMap<String, Vec<Node>>,
}

/// A template that cannot be read or filled, in Go's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("template: output:{0}")]
pub struct Mistake(String);

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Text(String),
    Action(Pipe),
    If(Pipe, Vec<Node>, Vec<Node>),
    With(Pipe, Vec<Node>, Vec<Node>),
    Range(Pipe, Vec<Node>, Vec<Node>),
    Call(Spot, String, Option<Pipe>),
    Break,
    Continue,
}

/// Commands of which each gives its value to the next one.
#[derive(Debug, Clone, PartialEq)]
struct Pipe {
    /// The variables that get the value.
    variables: Vec<String>,
    /// Whether they are there already.
    assigns: bool,
    commands: Vec<Command>,
}

#[derive(Debug, Clone, PartialEq)]
struct Command {
    spot: Spot,
    words: Vec<Word>,
}

#[derive(Debug, Clone, PartialEq)]
struct Word {
    spot: Spot,
    what: What,
}

#[derive(Debug, Clone, PartialEq)]
enum What {
    Dot,
    Nil,
    Literal(Datum),
    Function(String),
    /// Fields of the dot.
    Fields(Vec<String>),
    /// Fields of a variable.
    Variable(String, Vec<String>),
    /// Fields of what a pipeline comes to.
    Pipe(Box<Pipe>, Vec<String>),
}

/// A place in the template, and what stands there.
#[derive(Debug, Clone, PartialEq)]
struct Spot {
    at: usize,
    text: String,
}

/// A value while a template is filled.
#[derive(Debug, Clone, PartialEq)]
enum Datum {
    /// Nothing: a field that is not there, or null.
    Nothing,
    /// A whole number of the template's own.
    Int(i64),
    /// What JSON can say.
    Value(Value),
}

impl Template {
    /// Reads a template.
    pub fn parse(source: &str) -> Result<Template, Mistake> {
        parse::parse(source)
    }

    /// Writes an object's text. What was written before a mistake stays. `strict` makes a mistake of a field that is not there.
    pub fn fill(&self, object: &Value, strict: bool, out: &mut String) -> Result<(), Mistake> {
        run::fill(self, object, strict, out)
    }

    /// The template as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }
}

/// The line of a place, from 1, and the column, from 0, as Go counts them.
fn line_and_column(source: &str, at: usize) -> (usize, usize) {
    let before = &source[..at.min(source.len())];
    let line = before.matches('\n').count() + 1;
    (line, before.rfind('\n').map_or(before.len(), |newline| before.len() - newline))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object() -> Value {
        json!({"a": {"b": "x", "n": null, "t": true, "e": ""}, "l": ["p", "q"], "m": {"k2": "v2", "k1": "v1"}, "i": 3, "big": 1000000,
            "f": 0.5, "html": "<a&'\">", "items": [{"name": "one", "v": [1]}, {"name": "two"}], "b64": "aGk="})
    }

    #[test]
    fn texts() {
        let check = |template: &str, expected: &str| {
            let mut out = String::new();
            Template::parse(template).unwrap().fill(&object(), false, &mut out).unwrap_or_else(|error| {
                panic!("{template}: {error}");
            });
            assert_eq!(out, expected, "{template}");
        };
        check("plain", "plain");
        check("{{.a.b}} {{.a.c}} {{.a.c.d}} {{.a.n}}", "x <no value> <no value> <no value>");
        check("{{.i}} {{.big}} {{.f}} {{3}} {{1000000}} {{1.5}}", "3 1e+06 0.5 3 1000000 1.5");
        check("{{.l}} {{.m}} {{.a.t}}", "[p q] map[k1:v1 k2:v2] true");
        check("{{range .items}}{{.name}},{{end}}", "one,two,");
        check("{{range $i, $e := .items}}{{$i}}={{$e.name}} {{end}}", "0=one 1=two ");
        check("{{range $k, $v := .m}}{{$k}}={{$v}} {{end}}", "k1=v1 k2=v2 ");
        check("{{range .none}}x{{else}}empty{{end}}", "empty");
        check("{{range .l}}{{if eq . \"q\"}}{{break}}{{end}}{{.}}{{end}}", "p");
        check("{{range .l}}{{if eq . \"p\"}}{{continue}}{{end}}{{.}}{{end}}", "q");
        check("{{if .a.e}}1{{else if .a.b}}2{{else}}3{{end}}", "2");
        check("{{with .a}}{{.b}}{{end}}{{with .none}}x{{else}}y{{end}}", "xy");
        check("{{with $x := .a.b}}{{$x}}{{$.i}}{{end}}", "x3");
        check("{{$n := 0}}{{range .l}}{{$n = len .}}{{end}}{{$n}}", "1");
        check("a  {{- /* c */ -}}  b {{- .i -}} c", "ab3c");
        check(
            "{{len .l}} {{len .m}} {{len .a.b}} {{index .l 1}} {{index .m \"k1\"}} {{index .items 0 \"name\"}}",
            "2 2 1 q v1 one",
        );
        check("{{(index .items 0).name}} {{(len .l) | printf \"%03d|%-4s|\" 7}}", "one 007|%!s(int=2)|");
        check(
            "{{printf \"%s-%v|%5d|%q|%.2f|%t|%x\" \"a\" .i 3 \"q\" .f true \"hi\"}}",
            "a-3|    3|\"q\"|0.50|true|6869",
        );
        check("{{printf \"%d %s\" .i}}", "%!d(float64=3) %!s(MISSING)");
        check("{{print 1 2 \"a\" \"b\" 3}} {{println .a.b 1}}", "1 2ab3 x 1\n");
        check("{{and .a.b 0}} {{or .a.e \"d\"}} {{not .a.t}} {{and 1 2}}", "0 d false 2");
        check(
            "{{eq 1 1}} {{eq .a.b \"y\" \"x\"}} {{ne 1 2}} {{lt 1 2}} {{ge \"b\" \"a\"}} {{le 1.5 .f}}",
            "true true true true true false",
        );
        check(
            "{{html .html}} {{js .html}} {{urlquery \"a b&\"}}",
            "&lt;a&amp;&#39;&#34;&gt; \\u003Ca\\u0026\\'\\\"\\u003E a+b%26",
        );
        check("{{slice .a.b 0 1}} {{slice .l 1}}", "x [q]");
        check(
            "{{exists . \"a\" \"b\"}} {{exists . \"a\" \"z\"}} {{exists .l 5}} {{.b64 | base64decode}}",
            "true false false hi",
        );
        check("{{define \"t\"}}<{{.}}>{{end}}{{template \"t\" .i}}{{block \"u\" .a}}{{.b}}{{end}}", "<3>x");
        check("{{\"a\\n\\\"\"}}{{`r\\n`}}{{'a'}}", "a\n\"r\\n97");
    }

    #[test]
    fn mistakes() {
        let check = |template: &str, expected: &str| {
            let mut out = String::new();
            let result = Template::parse(template).and_then(|template| template.fill(&object(), true, &mut out));
            assert_eq!(result.unwrap_err().to_string(), expected, "{template}");
        };
        check("{{.a", "template: output:1: unclosed action");
        check("\n{{if .a}}", "template: output:2: unexpected EOF");
        check("{{end}}", "template: output:1: unexpected {{end}}");
        check("{{nothing .a}}", "template: output:1: function \"nothing\" not defined");
        check("{{$x}}", "template: output:1: undefined variable \"$x\"");
        check("{{/* x", "template: output:1: unclosed comment");
        check("{{}}", "template: output:1: missing value for command");
        check("{{\"a}}", "template: output:1: unterminated quoted string");
        let at = "template: output:1:4: executing \"output\" at <.a.b.c>: can't evaluate field c in type interface {}";
        check("{{.a.b.c}}", at);
        check("{{.zz}}", "template: output:1:2: executing \"output\" at <.zz>: map has no entry for key \"zz\"");
        check(
            "{{index .l 7}}",
            "template: output:1:2: executing \"output\" at <index .l 7>: error calling index: index out of range: 7",
        );
        check("{{range .i}}{{end}}", "template: output:1:8: executing \"output\" at <.i>: range can't iterate over 3");
        let deep = format!("{}{}", "{{if 1}}".repeat(100), "{{end}}".repeat(100));
        check(&deep, "template: output:1: the template nests deeper than 64 levels");
        check(
            "{{define \"t\"}}{{template \"t\"}}{{end}}{{template \"t\"}}",
            "template: output:1: exceeded maximum template depth (64)",
        );
    }
}
