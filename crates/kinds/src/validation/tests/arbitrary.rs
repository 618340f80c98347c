//! Whatever a client sends, if it has the shape of its kind, it is judged without a panic.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::catalogue::Catalogue;
use crate::decode::FieldValidation;
use crate::schema::{SchemaRef, Shape};

/// Numbers in a row that only look random: enough to choose with, and the same for the same seed.
struct Choices(u64);

impl Choices {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or(0) % below.max(1)
    }

    fn pick<'t, T>(&mut self, from: &'t [T]) -> &'t T {
        &from[self.next(from.len())]
    }
}

/// Texts that some check or other stumbles over.
const TEXTS: [&str; 40] = [
    "",
    "a",
    "A",
    "-",
    "..",
    "/",
    "../a",
    "a/b",
    "a/b/c",
    "é",
    "'",
    "['",
    "metadata.labels['",
    "metadata.labels['a']",
    "1",
    "-1",
    "0",
    "100%",
    "%",
    "1-2-3",
    "5-1",
    "1,x",
    "10.0.0.1",
    "::1",
    "::ffff:1.2.3.4",
    "1.2.3.4/33",
    "fd00::/8",
    "@every",
    "* * * * *",
    "TZ=",
    "iqn",
    "eui.é",
    "naa",
    "a\\b\\c",
    "\\",
    "example.com/a",
    "Always",
    "In",
    "Localhost",
    "ClusterIP",
];

const QUANTITIES: [&str; 7] = ["0", "-1", "1", "100m", "1Gi", "9223372036854775807", "1e-9"];
const NUMBERS: [i64; 7] = [0, 1, -1, 80, 65536, 2_147_483_647, -2_147_483_648];

fn value(schema: SchemaRef<'_>, choices: &mut Choices, depth: usize) -> Value {
    match schema.shape() {
        Shape::Object | Shape::Union => object(schema, choices, depth),
        Shape::List => {
            let item = schema.item().expect("a list has items");
            (0..choices.next(3)).map(|_| value(item, choices, depth + 1)).collect()
        }
        Shape::Map => {
            let item = schema.item().expect("a map has values");
            let count = choices.next(3);
            let keys = ["cpu", "memory", "hugepages-2Mi", "storage", "example.com/gpu", "é/é", ""];
            let entries = (0..count).map(|_| {
                let key = if choices.next(2) == 0 { *choices.pick(&keys) } else { *choices.pick(&TEXTS) };
                (key.to_owned(), value(item, choices, depth + 1))
            });
            Value::Object(entries.collect())
        }
        Shape::Integer | Shape::Long => json!(choices.pick(&NUMBERS)),
        Shape::Number => json!(1.5),
        Shape::Boolean => json!(choices.next(2) == 0),
        Shape::Bytes => json!("YQ=="),
        Shape::Time => json!("2024-01-02T03:04:05Z"),
        Shape::MicroTime => json!("2024-01-02T03:04:05.000000Z"),
        Shape::Quantity => json!(choices.pick(&QUANTITIES)),
        Shape::IntOrString if choices.next(2) == 0 => json!(choices.pick(&NUMBERS)),
        Shape::IntOrString | Shape::String => json!(choices.pick(&TEXTS)),
        Shape::Any => json!({"a": [1, "b"]}),
    }
}

fn object(schema: SchemaRef<'_>, choices: &mut Choices, depth: usize) -> Value {
    let mut fields = Map::new();
    for (name, field) in schema.fields() {
        // The deeper, the fewer fields: types refer to each other in circles.
        let there = choices.next(depth + 2) == 0 && depth < 12;
        if there && !matches!(name, "apiVersion" | "kind" | "managedFields") {
            fields.insert(name.to_owned(), value(field, choices, depth + 1));
        }
    }
    Value::Object(fields)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics(seed in any::<u64>()) {
        let mut choices = Choices(seed);
        for kind in Catalogue::builtin().kinds() {
            let mut make = || {
                let mut object = object(kind.schema(), &mut choices, 0);
                object["metadata"]["name"] = json!(choices.pick(&TEXTS));
                kind.check_shape(&mut object, FieldValidation::Ignore).ok().map(|_| {
                    kind.default(&mut object);
                    object
                })
            };
            let (Some(mut new), Some(mut old)) = (make(), make()) else { continue };
            kind.prepare_create(&mut old);
            for error in kind.validate(&old) {
                prop_assert!(!error.to_string().is_empty());
            }
            kind.warnings(&old, None);
            let parts = kind.subresources.iter().map(|part| Some(&*part.name));
            for part in parts.chain([None]) {
                kind.prepare_update(&mut new, &old, part);
                kind.validate_update(&new, &old, part);
            }
            kind.warnings(&new, Some(&old));
            kind.to_storage(&mut new);
            kind.from_storage(&mut new);
        }
    }
}
