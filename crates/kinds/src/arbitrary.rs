//! Arbitrary objects of every kind's shape go through everything that reads objects: nothing may panic, and what is
//! prepared twice is as it was after the first time.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::catalogue::Catalogue;
use crate::decode::FieldValidation;
use crate::kind::Kind;
use crate::schema::{SchemaRef, Shape};

/// Texts that some rule somewhere takes for something.
const TEXTS: &[&str] = &[
    "",
    "a",
    "A b",
    "é",
    "x.io/y",
    "a/b/c",
    "*",
    "*/*",
    "/",
    "//",
    "/*",
    "50%",
    "101%",
    "-1",
    "1",
    "00.0.0.1",
    "10.0.0.1",
    "10.0.0.1/99",
    "::ffff:1.2.3.4/120",
    "fd00::/64",
    "None",
    "In",
    "Exists",
    "Gt",
    "TCP",
    "All",
    "ExactCount",
    "Limited",
    "Queue",
    "IPv6",
    "FQDN",
    "Approved",
    "ServiceAccount",
    "Exact",
    "Prefix",
    "ExternalName",
    "LoadBalancer",
    "RollingUpdate",
    "Resource",
    "JSONPatch",
    "*/1 * * * *",
    "metadata.name",
    "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlJPQotLS0tLUVORCBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0K",
];
const NUMBERS: &[i64] = &[0, 1, -1, 2, 80, 600, 65_536, i32::MAX as i64, i32::MIN as i64];
const QUANTITIES: &[&str] = &["0", "1", "-1", "100m", "1Ki", "9223372036854775807", "10Gi", "1e18"];

/// A stream of choices from one number (xorshift).
struct Choices(u64);

impl Choices {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or_default() % below
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.next(all.len())]
    }

    fn value(&mut self, schema: SchemaRef<'_>, depth: usize) -> Value {
        match schema.shape() {
            Shape::Object | Shape::Union => {
                let mut fields = Map::new();
                for (name, field) in schema.fields() {
                    // Deep schemas (CRDs) are recursive: at some depth only scalars are left.
                    let wanted = if depth > 9 { field.shape().is_scalar() } else { true };
                    if wanted && self.next(3) > 0 {
                        fields.insert(name.to_owned(), self.value(field, depth + 1));
                    }
                }
                Value::Object(fields)
            }
            Shape::Map => {
                let Some(item) = schema.item() else { return json!({}) };
                let count = self.next(3);
                (0..count).map(|_| (self.of(TEXTS).to_owned(), self.value(item, depth + 1))).collect()
            }
            Shape::List => {
                let Some(item) = schema.item() else { return json!([]) };
                let count = self.next(4);
                (0..count).map(|_| self.value(item, depth + 1)).collect()
            }
            Shape::String => self.of(TEXTS).into(),
            Shape::Integer | Shape::Long => self.of(NUMBERS).into(),
            Shape::Number => 0.5.into(),
            Shape::Boolean => (self.next(2) == 0).into(),
            Shape::Bytes => self.of(&["", "YQ==", TEXTS[TEXTS.len() - 1]]).into(),
            Shape::Time => "2026-01-01T00:00:00Z".into(),
            Shape::MicroTime => "2026-01-01T00:00:00.000000Z".into(),
            Shape::Quantity => self.of(QUANTITIES).into(),
            Shape::IntOrString => {
                if self.next(2) == 0 {
                    self.of(NUMBERS).into()
                } else {
                    self.of(TEXTS).into()
                }
            }
            Shape::Any => self.of(&[0, 1, 2]).into(),
        }
    }

    fn object(&mut self, kind: &Kind) -> Value {
        let mut object = self.value(kind.schema(), 0);
        object["apiVersion"] = kind.api_version().into();
        object["kind"] = (&*kind.kind).into();
        object["metadata"]["name"] = self.of(TEXTS).into();
        object
    }
}

fn run(kind: &Kind, choices: &mut Choices) -> Result<(), TestCaseError> {
    let mut make = || -> Result<Value, TestCaseError> {
        let mut object = choices.object(kind);
        prop_assert!(crate::decode::settles_rightly(kind, &object), "{} {object}", kind.kind);
        let checked = kind.check_shape(&mut object, FieldValidation::Ignore);
        prop_assert!(checked.is_ok(), "{} {checked:?}", kind.kind);
        prop_assert!(crate::decode::settles_rightly(kind, &object), "{} {object}", kind.kind);
        kind.default(&mut object);
        let once = object.clone();
        kind.default(&mut object);
        prop_assert_eq!(&object, &once, "defaults of {} settle", kind.kind);
        Ok(object)
    };
    let (mut old, new) = (make()?, make()?);
    kind.prepare_create(&mut old);
    kind.validate(&old);
    kind.row(&old, jiff::Timestamp::UNIX_EPOCH);
    kind.selectable(&old);
    let ways = kind.subresources.iter().map(|subresource| Some(&*subresource.name)).chain([None]);
    for way in ways {
        let mut new = new.clone();
        kind.prepare_update(&mut new, &old, way);
        kind.validate_update(&new, &old, way);
        kind.row(&new, jiff::Timestamp::UNIX_EPOCH);
    }
    let mut stored = new;
    kind.to_storage(&mut stored);
    kind.from_storage(&mut stored);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics_on_any_object(seed in 1..u64::MAX) {
        for kind in Catalogue::builtin().kinds() {
            run(kind, &mut Choices(seed))?;
        }
    }
}
