//! Whatever the source: no panic, no overflowing stack, no endless work; and estimates that hold.

use std::sync::Arc;

use kobune_expressions::schema::{ListKind, Property, Schema};
use kobune_expressions::{Environment, EvaluationError, Meter, Program, Value};
use proptest::prelude::*;
use serde_json::json;

fn schema() -> Arc<Schema> {
    let scalar = |kind: &str| Arc::new(Schema::scalar(kind, "").expect("a scalar"));
    let field = |name: &str, schema: Arc<Schema>| Property { name: name.to_owned(), schema, always_given: false };
    let list = Arc::new(Schema::list(scalar("string"), ListKind::Set, Some(5)));
    let map = Arc::new(Schema::map(scalar("integer"), Some(5)));
    let text = Arc::new(Schema::scalar("string", "").expect("a scalar").max_length(20));
    Arc::new(Schema::object("o", [field("n", scalar("integer")), field("s", text), field("l", list), field("m", map)]))
}

/// Words that often make sense beside each other.
const WORDS: &[&str] = &[
    "self",
    ".n",
    ".s",
    ".l",
    ".m",
    "1",
    "2u",
    "1.5",
    "'a'",
    "b'x'",
    "true",
    "null",
    "[",
    "]",
    "{",
    "}",
    "(",
    ")",
    ",",
    ":",
    "?",
    " + ",
    " - ",
    " * ",
    " / ",
    " % ",
    " == ",
    " < ",
    " && ",
    " || ",
    "!",
    "-",
    " in ",
    ".all(x, ",
    ".map(x, ",
    ".filter(x, ",
    ".exists_one(x, ",
    "x",
    ".size()",
    ".?n",
    "[?0]",
    "has(",
    "type(",
    "dyn(",
    "optional.of(",
    ".optMap(x, ",
    ".orValue(",
    ".split('')",
    ".replace(",
    ".sum()",
    ".matches(",
    ".format(",
    ".transformMap(k, v, ",
    ".sortBy(x, ",
    "quantity(",
    "string(",
    "duration(",
    "\\",
    "`",
    "\"",
    "//",
    "\n",
    "é",
];

fn run(source: &str) -> Result<(), TestCaseError> {
    let schema = schema();
    let json = json!({"n": 3, "s": "text", "l": ["a", "b"], "m": {"k": 1}});
    let environment = Environment::new().value("self", &schema);
    let program = match Program::compile(source, &environment) {
        Ok(program) => program,
        Err(error) => {
            prop_assert!(!error.issues.is_empty() && !error.to_string().is_empty());
            return Ok(());
        }
    };
    let estimate = program.estimate();
    let mut meter = Meter::new(100_000);
    let result = program.evaluate(&[Value::typed(&json, &schema).expect("it fits")], &mut meter);
    if result != Err(EvaluationError::Budget) {
        // By upstream's rules comparing numbers with a schema is estimated at nothing and charged one; either side has
        // cost at least one before.
        let most = estimate.max.saturating_mul(2);
        prop_assert!(meter.spent() <= most, "{source}: {} > {estimate:?}", meter.spent());
    }
    Ok(())
}

/// Expressions that are well formed, of any depth that the strategy gives.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "self.n", "self.s", "self.l", "self.m", "1", "2", "'a'", "'bcd'", "true", "false", "[1, 2]", "['a']",
        "{'k': 1}", "x",
    ])
    .prop_map(str::to_owned);
    leaf.prop_recursive(5, 40, 3, |inner| {
        let two = (inner.clone(), inner.clone());
        prop_oneof![
            (two.clone(), prop::sample::select(vec!["+", "==", "!=", "<", "&&", "||", "in", "-", "*"]))
                .prop_map(|((a, b), operator)| format!("({a} {operator} {b})")),
            (two.clone(), prop::sample::select(vec!["all", "exists", "map", "filter", "exists_one", "sortBy"]))
                .prop_map(|((a, b), name)| format!("{a}.{name}(x, {b})")),
            (
                inner.clone(),
                prop::sample::select(vec!["size()", "split('')", "upperAscii()", "reverse()", "join('-')"])
            )
                .prop_map(|(a, call)| format!("{a}.{call}")),
            (two.clone(), prop::sample::select(vec!["contains", "startsWith", "indexOf", "matches"]))
                .prop_map(|((a, b), name)| format!("{a}.{name}({b})")),
            (two.clone(), inner.clone()).prop_map(|((a, b), c)| format!("({a} ? {b} : {c})")),
            inner.clone().prop_map(|a| format!("has(self.s) && {a}")),
            two.prop_map(|(a, b)| format!("{a}[{b}]")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_words(words in prop::collection::vec(prop::sample::select(WORDS), 0..30)) {
        run(&words.concat())?;
    }

    #[test]
    fn any_text(source in "\\PC{0,60}") {
        run(&source)?;
    }

    #[test]
    fn estimates_hold(source in expression()) {
        run(&source)?;
    }
}

#[test]
fn the_deepest_expressions_fit_a_small_stack() {
    let sources = [
        format!("{}1{} == 1", "(".repeat(240), ")".repeat(240)),
        format!("{}1{} == []", "[".repeat(240), "]".repeat(240)),
        format!("{}true{}", "[1].all(x, ".repeat(120), ")".repeat(120)),
        format!("{}1{}.size() == 1", "[1].map(x, ".repeat(120), ")".repeat(120)),
        format!("{}true{}", "true ? ".repeat(100), ": false".repeat(100)),
        format!("{}true", "false ? true : ".repeat(240)),
        format!("self.s{} == ''", ".trim()".repeat(400)),
        format!("{}1{}", "1+1<2||(1*".repeat(200), ")".repeat(200)),
    ];
    let small = std::thread::Builder::new().stack_size(2 << 20);
    let thread = small.spawn(move || sources.iter().try_for_each(|source| run(source)));
    thread.expect("a thread").join().expect("no overflow").expect("estimates hold");
}
