//! Expressions: parsed, checked, priced and evaluated within a budget.

use std::sync::LazyLock;

use kobune_expressions::{Environment, Meter, Program, Type, Value};
use serde_json::json;

static ENVIRONMENT: LazyLock<Environment> =
    LazyLock::new(|| Environment::new().variable("self", Type::Dyn).variable("oldSelf", Type::Dyn));

static OBJECT: LazyLock<serde_json::Value> = LazyLock::new(|| {
    json!({
        "metadata": {"name": "a", "labels": {"x": "y"}},
        "spec": {"replicas": 3, "ratio": 0.5, "on": true, "list": [1, 2, 3], "texts": ["a", "bb"], "nothing": null,
            "ip": "10.0.0.1", "quantity": "1500m", "time": "2026-01-01T00:00:00Z"},
    })
});

/// Enough for every function to be called, and little enough for many runs a second.
const BUDGET: u64 = 10_000;

pub(crate) fn run(data: &[u8]) {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let Ok(program) = Program::compile(source, &ENVIRONMENT) else { return };
    program.estimate();
    program.uses();
    let mut meter = Meter::new(BUDGET);
    let object = Value::untyped(&OBJECT);
    if let Ok(value) = program.evaluate(&[object.clone(), object], &mut meter)
        && let Ok(json) = value.to_json()
    {
        drop(json);
    }
}
