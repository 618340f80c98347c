//! Estimates and charges, by upstream's prices.

use std::sync::Arc;

use kobune_expressions::schema::{ListKind, Property, Schema};
use kobune_expressions::{CostRange, Environment, EvaluationError, Meter, PER_EXPRESSION, Program, Value};
use serde_json::{Value as Json, json};

fn scalar(kind: &str, format: &str) -> Arc<Schema> {
    Arc::new(Schema::scalar(kind, format).expect("a scalar"))
}

fn object(fields: Vec<(&str, Arc<Schema>)>) -> Arc<Schema> {
    let properties =
        fields.into_iter().map(|(name, schema)| Property { name: name.to_owned(), schema, always_given: false });
    Arc::new(Schema::object("object", properties))
}

fn text(characters: u64) -> Arc<Schema> {
    Arc::new(Schema::scalar("string", "").expect("a scalar").max_length(characters))
}

#[track_caller]
fn estimate(schema: &Arc<Schema>, source: &str, min: u64, max: u64) {
    let environment = Environment::new().value("self", schema);
    let program = Program::compile(source, &environment).unwrap_or_else(|error| panic!("{source}: {error}"));
    assert_eq!(program.estimate(), CostRange { min, max }, "{source}");
}

#[test]
fn estimates_follow_sizes() {
    let list = |items: Arc<Schema>, most| Arc::new(Schema::list(items, ListKind::Atomic, most));
    let numbers = list(scalar("number", ""), None);
    estimate(&numbers, "self.all(x, true)", 2, 4_718_591);
    estimate(&list(scalar("number", ""), Some(10)), "self.all(x, true)", 2, 32);
    let bounded = object(vec![("a", text(10)), ("b", text(5)), ("n", scalar("integer", ""))]);
    // 40 bytes against 20 bytes: two selections of two steps, and two units for comparing.
    estimate(&bounded, "self.a == self.b", 5, 6);
    estimate(&bounded, "self.n > 1", 3, 3);
    estimate(&bounded, "has(self.a) && self.n > 1", 1, 4);
    estimate(&bounded, "self.a + self.b == 'x'", 5, 11);
    estimate(&bounded, "self.a.contains(self.b)", 4, 12);
    estimate(&bounded, "self.a.startsWith('abcdefghijklm')", 4, 4);
    estimate(&bounded, "self.a.matches('abcd')", 3, 7);
    estimate(&bounded, "self.n > 1 ? self.a == 'x' : true", 3, 6);
    estimate(&bounded, "[1, 2, 3, 4, 5].sum() == 15", 16, 16);
    estimate(&list(text(2), Some(5)), "self.map(x, x + 'a').exists(y, y == 'b')", 13, 113);
    estimate(&list(text(2), Some(5)), "self.join(',') == ''", 1, 6);
}

fn spent(schema: &Arc<Schema>, json: &Json, source: &str) -> (Result<bool, EvaluationError>, u64) {
    let environment = Environment::new().value("self", schema);
    let program = Program::compile(source, &environment).unwrap_or_else(|error| panic!("{source}: {error}"));
    let mut meter = Meter::new(PER_EXPRESSION);
    let bound = Value::typed(json, schema).expect("the value fits its schema");
    let result = program.evaluate(&[bound], &mut meter).map(|value| value.as_bool().expect("a boolean"));
    (result, meter.spent())
}

#[test]
fn charges_follow_what_was_done() {
    let schema = object(vec![
        ("name", scalar("string", "")),
        ("n", scalar("integer", "")),
        ("list", Arc::new(Schema::list(scalar("integer", ""), ListKind::Atomic, None))),
    ]);
    let json = json!({"name": "0123456789abcdefghij", "n": 3, "list": [1, 2, 3]});
    let check = |source: &str, cost: u64| assert_eq!(spent(&schema, &json, source), (Ok(true), cost), "{source}");
    check("true", 0);
    check("self.n == 3", 3);
    check("self.n > 1 && self.n < 5", 6);
    check("self.n == 3 || self.name == 'x'", 3);
    check("has(self.n)", 1);
    check("self.name.startsWith('0')", 4);
    check("self.name == self.name", 6);
    check("self.name + 'a' != ''", 5);
    // Range 2, and each round: condition 2, accumulator 1, predicate 2; at the end the result 1.
    check("self.list.all(x, x > 0)", 2 + 3 * 5 + 1);
    check("self.list.exists(x, x == 1)", 2 + 6 + 3 + 1);
    check("self.list.map(x, x + 1).size() == 3", 2 + 3 * 14 + 1 + 1 + 1);
    // A list of constants is made once and looked through for nothing.
    check("self.n in [1, 2, 3]", 2);
    check("[1, 2, 3].exists(x, x == self.n)", 3 * 7 + 3 + 1);
    check("self.n in self.list", 4 + 3);
}

#[test]
fn budgets_end_evaluation() {
    let schema = Arc::new(Schema::list(scalar("integer", ""), ListKind::Atomic, None));
    let json = json!(vec![1; 1000]);
    let (result, cost) = spent(&schema, &json, "self.all(x, self.all(y, x == y))");
    assert_eq!(result, Err(EvaluationError::Budget));
    assert!(cost >= PER_EXPRESSION);
    let (result, _) = spent(&schema, &json, "self.all(x, self.all(y, x == y)) || true");
    assert_eq!(result, Err(EvaluationError::Budget), "a spent budget is no error that || forgives");
}

#[test]
fn schemas_give_json_its_meaning() {
    let set = Schema::list(scalar("string", ""), ListKind::Set, None);
    let entry = object(vec![("k", scalar("string", "")), ("v", scalar("integer", ""))]);
    let keyed = Schema::list(entry, ListKind::Map(vec!["k".into()]), None);
    let schema = object(vec![
        ("namespace", scalar("string", "")),
        ("when", scalar("string", "date-time")),
        ("long", scalar("string", "duration")),
        ("bytes", scalar("string", "byte")),
        ("port", Arc::new(Schema::int_or_string())),
        ("set", Arc::new(set)),
        ("keyed", Arc::new(keyed)),
        ("x-y", scalar("number", "")),
        ("maybe", Arc::new(Schema::scalar("string", "").expect("a scalar").nullable(true))),
        ("map", Arc::new(Schema::map(scalar("integer", ""), None))),
    ]);
    let json = json!({
        "namespace": "default", "when": "2024-01-02T03:04:05Z", "long": "90m", "bytes": "aGk=", "port": "80%",
        "set": ["a", "b"], "keyed": [{"k": "a", "v": 1}, {"k": "b", "v": 2}], "x-y": 2, "maybe": null,
        "map": {"a-b": 7},
    });
    let check = |source: &str| assert_eq!(spent(&schema, &json, source).0, Ok(true), "{source}");
    check("self.__namespace__ == 'default'");
    check("self.when.getFullYear() == 2024 && self.long == duration('1h30m') && self.bytes == b'hi'");
    check("type(self.port) == string && self.port == '80%'");
    check("self.set == ['b', 'a'] && self.set + ['b', 'c'] == ['c', 'b', 'a']");
    check("self.keyed + self.keyed == self.keyed");
    check("self.x__dash__y == 2.0 && dyn(self.maybe) == null && self.map['a-b'] == 7 && 'a-b' in self.map");
    check("!has(self.map.x) && has(self.set)");
    let wrong = |source: &str, expected: &str| {
        let environment = Environment::new().value("self", &schema);
        let error = Program::compile(source, &environment).expect_err(source).to_string();
        assert_eq!(error, expected);
    };
    wrong("self.z == 100", "ERROR: <input>:1:5: undefined field 'z'\n | self.z == 100\n | ....^");
    wrong(
        "self.set.\tmissing()",
        "ERROR: <input>:1:18: undeclared reference to 'missing' (in container '')\n | self.set. missing()\n | .................^",
    );
    wrong(
        "self.when > 1",
        "ERROR: <input>:1:11: found no matching overload for '_>_' applied to '(timestamp, int)'\n | self.when > 1\n | ..........^",
    );
}
