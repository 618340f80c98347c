//! Named formats of names and texts: `format.dns1123Label().validate(name)`.

use std::rc::Rc;
use std::sync::LazyLock;

use kobune_kinds::name;
use regex::Regex;

use crate::catalogue::{Arguments, Rows};
use crate::library::opaque::Held;
use crate::library::{mismatch, network, only_text, time, url};
use crate::meter::Price;
use crate::value::{Evaluated, Value};

/// A format that texts can have.
#[derive(Debug)]
pub struct Format {
    /// The name that the value shows.
    pub name: &'static str,
    /// The name by which expressions ask for it.
    function: &'static str,
    /// What is wrong with a text.
    validate: fn(&str) -> Vec<String>,
    /// How long its regular expression would be, which sets the price.
    pub(crate) pattern_length: u64,
}

impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

static UUID: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new("(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$").expect("it is well formed")
});

fn unless(valid: bool, message: &str) -> Vec<String> {
    if valid { Vec::new() } else { vec![message.to_owned()] }
}

/// A prefix of names may end with a dash: the random part follows.
fn masked(text: &str) -> String {
    match text.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => format!("{rest}a"),
        _ => text.to_owned(),
    }
}

const fn format(
    function: &'static str,
    name: &'static str,
    pattern_length: u64,
    validate: fn(&str) -> Vec<String>,
) -> Format {
    Format { name, function, validate, pattern_length }
}

static FORMATS: &[Format] = &[
    format("dns1123Label", "DNS1123Label", 30, name::dns1123_label),
    format("dns1123Subdomain", "DNS1123Subdomain", 60, name::dns1123_subdomain),
    format("dns1035Label", "DNS1035Label", 30, name::dns1035_label),
    format("qualifiedName", "QualifiedName", 60, name::qualified_name),
    format("dns1123LabelPrefix", "DNS1123LabelPrefix", 30, |text| name::dns1123_label(&masked(text))),
    format("dns1123SubdomainPrefix", "DNS1123SubdomainPrefix", 60, |text| name::dns1123_subdomain(&masked(text))),
    format("dns1035LabelPrefix", "DNS1035LabelPrefix", 30, |text| name::dns1035_label(&masked(text))),
    format("labelValue", "LabelValue", 40, name::label_value),
    format("uri", "URI", 2000, |text| {
        unless(url::parse(text).is_ok(), &format!("parse {text:?}: invalid URI for request"))
    }),
    format("uuid", "uuid", 81, |text| unless(UUID.is_match(text), "does not match the UUID format")),
    format("byte", "byte", 80, |text| unless(network::base64(text).is_some(), "invalid base64")),
    format("date", "date", 96, |text| unless(time::parse_date(text).is_ok(), "invalid date")),
    format("datetime", "datetime", 96, |text| unless(time::parse_timestamp(text).is_ok(), "invalid datetime")),
];

fn held<'a>(format: &'static Format) -> Value<'a> {
    Value::Held(Rc::new(Held::Format(format)))
}

fn named<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let name = only_text(arguments)?;
    let found = FORMATS.iter().find(|format| format.function == name);
    Ok(Value::Optional(found.map(|format| Rc::new(held(format)))))
}

fn validate<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let [Value::Held(inner), Value::String(text)] = arguments.values else { return mismatch() };
    let Held::Format(format) = &**inner else { return mismatch() };
    let wrong = (format.validate)(text);
    if wrong.is_empty() {
        return Ok(Value::Optional(None));
    }
    let wrong = Value::list(wrong.into_iter().map(Value::text).collect());
    Ok(Value::Optional(Some(Rc::new(wrong))))
}

macro_rules! constants {
    ($($index:literal $name:literal),*) => {
        &[
            ("format.named", named, &[("(string) optional(format)", Price::Fixed(1))]),
            ("validate", validate, &[("format.(string) optional(list(string))", Price::Format)]),
            $(($name, |_| Ok(held(&FORMATS[$index])), &[("() format", Price::Fixed(1))]),)*
        ]
    };
}

pub(crate) const FUNCTIONS: Rows = constants!(
    0 "format.dns1123Label",
    1 "format.dns1123Subdomain",
    2 "format.dns1035Label",
    3 "format.qualifiedName",
    4 "format.dns1123LabelPrefix",
    5 "format.dns1123SubdomainPrefix",
    6 "format.dns1035LabelPrefix",
    7 "format.labelValue",
    8 "format.uri",
    9 "format.uuid",
    10 "format.byte",
    11 "format.date",
    12 "format.datetime"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_each_format_by_its_place() {
        let named =
            FUNCTIONS.iter().filter_map(|(name, ..)| name.strip_prefix("format.")).filter(|name| *name != "named");
        let names: Vec<&str> = named.collect();
        let formats: Vec<&str> = FORMATS.iter().map(|format| format.function).collect();
        assert_eq!(names, formats);
    }
}
