//! How long typical rules take: `cargo run --release -p kobune-expressions --example speed`.

use std::{hint::black_box, time::Instant};

use kobune_expressions::{Environment, Meter, PER_EXPRESSION, Program, Type, Value};
use serde_json::json;

const RULES: &[&str] = &[
    "object.spec.replicas > 1",
    "object.spec.replicas <= 5 && object.metadata.name.startsWith('web')",
    "has(object.metadata.labels) && object.metadata.labels.app in ['web', 'api', 'worker']",
    "object.spec.template.spec.containers.all(c, c.image.startsWith('registry.example.com/'))",
    "object.metadata.name.matches('^[a-z][a-z0-9-]*$')",
    "object.spec.template.spec.containers.all(c, quantity(c.memory).isLessThan(quantity('2Gi')))",
];

/// How often each rule is evaluated.
const ROUNDS: u32 = 100_000;

fn main() {
    let containers: Vec<_> = ["a", "b", "c"]
        .iter()
        .map(|name| json!({"name": name, "image": format!("registry.example.com/{name}:1"), "memory": "512Mi"}))
        .collect();
    let object = json!({
        "metadata": {"name": "web-1", "labels": {"app": "worker"}},
        "spec": {"replicas": 3, "template": {"spec": {"containers": containers}}},
    });
    let environment = Environment::new().variable("object", Type::Dyn);
    println!("{:>10} {:>12} {:>6}  rule", "compile", "evaluate", "cost");
    for source in RULES {
        let started = Instant::now();
        let program = match Program::compile(source, &environment) {
            Ok(program) => program,
            Err(error) => {
                println!("{error}");
                continue;
            }
        };
        let compiling = started.elapsed();
        let started = Instant::now();
        let mut cost = 0;
        for _ in 0..ROUNDS {
            let mut meter = Meter::new(PER_EXPRESSION);
            let value = program.evaluate(&[Value::untyped(&object)], &mut meter);
            assert_eq!(black_box(value), Ok(Value::Bool(true)), "{source}");
            cost = meter.spent();
        }
        let each = started.elapsed() / ROUNDS;
        println!("{:>7} µs {:>9} ns {cost:>6}  {source}", compiling.as_micros(), each.as_nanos());
    }
}
