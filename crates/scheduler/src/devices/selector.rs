//! Which devices a selector means: CEL over `device`, as
//! <https://github.com/kubernetes/kubernetes/blob/master/staging/src/k8s.io/dynamic-resource-allocation/cel/compile.go>.

use std::collections::BTreeMap;
use std::rc::Rc;

use k8s_openapi::api::resource::v1::{Device, DeviceAttribute, DeviceSelector};
use kobune_expressions::{Environment, Held, Key, Map, Meter, Opaque, Program, Type, Value};

/// What one selector may cost on one device, upstream's `CELSelectorExpressionMaxCost`.
const BUDGET: u64 = 1_000_000;

/// A selector that is ready to be asked.
#[derive(Debug)]
pub struct Selector {
    program: Program,
    /// Domains that the source names: of those a device has nothing of, it has an empty map.
    domains: Vec<Box<str>>,
}

fn environment() -> Environment {
    let of_domains = |value: Type| Type::map(Type::String, Type::map(Type::String, value));
    let device = Type::object(
        "kubernetes.DRADevice",
        [
            ("driver", Type::String),
            ("allowMultipleAllocations", Type::Bool),
            ("attributes", of_domains(Type::Dyn)),
            ("capacity", of_domains(Type::Opaque(Opaque::Quantity))),
        ],
    );
    Environment::new().variable("device", device)
}

/// What stands between quotes in a source.
fn quoted(source: &str) -> Vec<Box<str>> {
    let mut found = Vec::new();
    let mut rest = source;
    while let Some(start) = rest.find(['"', '\'']) {
        let quote = rest[start..].chars().next().unwrap_or('"');
        let inside = &rest[start + 1..];
        let Some(end) = inside.find(quote) else { break };
        found.push(inside[..end].into());
        rest = &inside[end + 1..];
    }
    found
}

/// The selectors of a list, in their order. What is wrong with one says it by its number.
pub fn compile(list: Option<&Vec<DeviceSelector>>) -> Result<Vec<Selector>, String> {
    let sources = list.into_iter().flatten().enumerate();
    let sources = sources.filter_map(|(number, selector)| Some((number, &selector.cel.as_ref()?.expression)));
    sources
        .map(|(number, source)| match Program::compile(source, &environment()) {
            Ok(program) => Ok(Selector { program, domains: quoted(source) }),
            Err(error) => Err(format!("selector #{number}: CEL compile error: {error}")),
        })
        .collect()
}

impl Selector {
    /// Whether it means this device.
    pub fn selects(&self, driver: &str, device: &Device) -> Result<bool, String> {
        let value = value(driver, device, &self.domains);
        match self.program.evaluate(&[value], &mut Meter::new(BUDGET)) {
            Ok(Value::Bool(answer)) => Ok(answer),
            Ok(other) => Err(format!("CEL selector gives {}, not a boolean", other.type_of().runtime_name())),
            Err(error) => Err(format!("CEL runtime error: {error}")),
        }
    }
}

type Entries<'a> = BTreeMap<Key, (Value<'a>, Value<'a>)>;

fn insert<'a>(entries: &mut Entries<'a>, name: &str, value: Value<'a>) {
    entries.insert(Key::String(name.into()), (Value::text(name), value));
}

fn map(entries: Entries<'_>) -> Value<'_> {
    Value::Map(Map::Owned(Rc::new(entries)))
}

/// Domain and name of an attribute or a capacity; the driver's own domain is left out in the API.
pub fn qualified<'n>(driver: &'n str, name: &'n str) -> (&'n str, &'n str) {
    name.split_once('/').unwrap_or((driver, name))
}

fn by_domain<'a>(
    driver: &str,
    domains: &[Box<str>],
    values: impl Iterator<Item = (&'a String, Value<'a>)>,
) -> Value<'a> {
    let mut all: BTreeMap<&str, Entries<'a>> = domains.iter().map(|domain| (&**domain, Entries::new())).collect();
    let values: Vec<_> = values.collect();
    for (name, value) in &values {
        let (domain, name) = qualified(driver, name);
        insert(all.entry(domain).or_default(), name, value.clone());
    }
    let mut entries = Entries::new();
    for (domain, of_domain) in all {
        insert(&mut entries, domain, map(of_domain));
    }
    map(entries)
}

fn attribute(attribute: &DeviceAttribute) -> Value<'_> {
    let version = |text: &str| match semver::Version::parse(text) {
        Ok(version) => Value::Held(Rc::new(Held::Semver(version))),
        Err(_) => Value::Null,
    };
    let DeviceAttribute { bool, bools, int, ints, string, strings, version: single, versions } = attribute;
    if let Some(value) = bool {
        Value::Bool(*value)
    } else if let Some(value) = int {
        Value::Int(*value)
    } else if let Some(value) = string {
        Value::text(value.as_str())
    } else if let Some(value) = single {
        version(value)
    } else if let Some(values) = bools {
        Value::list(values.iter().copied().map(Value::Bool).collect())
    } else if let Some(values) = ints {
        Value::list(values.iter().copied().map(Value::Int).collect())
    } else if let Some(values) = strings {
        Value::list(values.iter().map(|value| Value::text(value.as_str())).collect())
    } else if let Some(values) = versions {
        Value::list(values.iter().map(|value| version(value)).collect())
    } else {
        Value::Null
    }
}

fn value<'a>(driver: &str, device: &'a Device, domains: &[Box<str>]) -> Value<'a> {
    let attributes = device.attributes.iter().flatten().map(|(name, found)| (name, attribute(found)));
    let capacity = device.capacity.iter().flatten().filter_map(|(name, found)| {
        let quantity = found.value.0.parse().ok()?;
        Some((name, Value::Held(Rc::new(Held::Quantity(quantity)))))
    });
    let mut entries = Entries::new();
    insert(&mut entries, "driver", Value::text(driver));
    let several = device.allow_multiple_allocations.unwrap_or(false);
    insert(&mut entries, "allowMultipleAllocations", Value::Bool(several));
    insert(&mut entries, "attributes", by_domain(driver, domains, attributes));
    insert(&mut entries, "capacity", by_domain(driver, domains, capacity));
    map(entries)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selections() {
        let device: Device = serde_json::from_value(json!({"name": "d", "attributes": {
            "model": {"string": "a"}, "cores": {"int": 4}, "fast": {"bool": true}, "firmware": {"version": "1.4.0"},
            "other.example.com/model": {"string": "b"}}, "capacity": {"memory": {"value": "8Gi"}}}))
        .expect("a device");
        let check = |source: &str, expected: Result<bool, ()>| {
            let list = vec![DeviceSelector {
                cel: Some(k8s_openapi::api::resource::v1::CELDeviceSelector { expression: source.to_owned() }),
            }];
            let compiled = compile(Some(&list)).unwrap_or_else(|error| panic!("{source}: {error}"));
            let found = compiled[0].selects("gpu.example.com", &device);
            assert_eq!(found.clone().map_err(drop), expected, "{source}: {found:?}");
        };
        check(r#"device.driver == "gpu.example.com""#, Ok(true));
        check(r#"device.attributes["gpu.example.com"].model == "a""#, Ok(true));
        check(r#"device.attributes["other.example.com"].model == "b""#, Ok(true));
        check(
            r#"device.attributes["gpu.example.com"].cores >= 4 && device.attributes["gpu.example.com"].fast"#,
            Ok(true),
        );
        check(r#"device.capacity["gpu.example.com"].memory.compareTo(quantity("4Gi")) > 0"#, Ok(true));
        check(r#"device.attributes["gpu.example.com"].firmware.isLessThan(semver("1.3.0"))"#, Ok(false));
        check(r#"has(device.attributes["unknown.example.com"].model)"#, Ok(false));
        check(r#"device.attributes["unknown.example.com"].model == "a""#, Err(()));
        check(r#"device.allowMultipleAllocations"#, Ok(false));
    }
}
