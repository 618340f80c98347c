//! The JSON paths of definitions: `.spec.replicas`, `.status.conditions[?(@.type=="Ready")].status`,
//! `.status.conditions[-1:].type`. Source: `k8s.io/client-go/util/jsonpath`.

use std::cmp::Ordering;

use serde_json::Value;

/// One step of a path.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(Box<str>),
    /// `[start:end:step]`, and `[index]`.
    Slice(Slice),
    /// Steps of several kinds, one after the other: `[0,2]`.
    Union(Vec<Step>),
    All,
    /// The value and everything below it.
    Deep,
    /// Items for which a comparison holds, or that have a value at the path.
    Where(Vec<Step>, Option<(Comparison, Value)>),
}

/// A part of a list, as Go's library takes it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Slice {
    start: i64,
    end: Option<i64>,
    /// `[index]`: the end was not written.
    single: bool,
    step: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A path that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

impl JsonPath {
    /// Reads a path; `None` for one that is not understood.
    pub fn parse(text: &str) -> Option<JsonPath> {
        let text = text.trim();
        let text = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(text);
        steps(text.strip_prefix('$').unwrap_or(text)).map(JsonPath)
    }

    /// The fields of a path that has nothing else.
    pub fn fields(&self) -> Option<Vec<Box<str>>> {
        self.0
            .iter()
            .map(|step| match step {
                Step::Field(name) => Some(name.clone()),
                _ => None,
            })
            .collect()
    }

    /// The first value at the path.
    pub fn first<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        find(&self.0, value)
    }
}

fn find<'v>(steps: &[Step], value: &'v Value) -> Option<&'v Value> {
    let Some((step, rest)) = steps.split_first() else { return Some(value) };
    match step {
        Step::Field(name) => find(rest, value.get(&**name)?),
        Step::Slice(slice) => {
            let list = value.as_array()?;
            slice.of(list.len())?.find_map(|at| find(rest, &list[at]))
        }
        Step::Union(parts) => parts.iter().find_map(|part| {
            let way: Vec<Step> = std::iter::once(part).chain(rest).cloned().collect();
            find(&way, value)
        }),
        Step::All => below(value).find_map(|item| find(rest, item)),
        Step::Deep => find(rest, value).or_else(|| below(value).find_map(|item| find(steps, item))),
        Step::Where(path, condition) => value
            .as_array()?
            .iter()
            .filter(|item| match (find(path, item), condition) {
                (None, _) => false,
                (Some(_), None) => true,
                (Some(found), Some((comparison, literal))) => comparison.holds(found, literal),
            })
            .find_map(|item| find(rest, item)),
    }
}

/// The items of a list or the values of an object.
fn below(value: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match value {
        Value::Array(list) => Box::new(list.iter()),
        Value::Object(map) => Box::new(map.values()),
        _ => Box::new(std::iter::empty()),
    }
}

impl Slice {
    /// The places of a list of this length that are meant; `None` where some are outside of it.
    fn of(self, length: usize) -> Option<std::iter::StepBy<std::ops::Range<usize>>> {
        let length = i64::try_from(length).ok()?;
        let start = if self.start < 0 { self.start.checked_add(length)? } else { self.start };
        let end = match self.end {
            None if self.single => start.checked_add(1)?,
            None => length,
            Some(end) if end < 0 => end.checked_add(length)?,
            Some(end) => end,
        };
        if start != end && (start < 0 || start >= length || end > length || start > end) {
            return None;
        }
        if start == end {
            return Some((0..0).step_by(1));
        }
        Some((usize::try_from(start).ok()?..usize::try_from(end).ok()?).step_by(self.step))
    }
}

impl Comparison {
    fn holds(self, found: &Value, literal: &Value) -> bool {
        let order = match (found, literal) {
            (Value::Number(found), Value::Number(literal)) => match (found.as_f64(), literal.as_f64()) {
                (Some(found), Some(literal)) => found.partial_cmp(&literal),
                _ => None,
            },
            (Value::String(found), Value::String(literal)) => Some(found.cmp(literal)),
            _ if found == literal => Some(Ordering::Equal),
            _ => None,
        };
        match self {
            Comparison::Equal => order == Some(Ordering::Equal),
            Comparison::Unequal => order != Some(Ordering::Equal),
            Comparison::Less => order == Some(Ordering::Less),
            Comparison::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
            Comparison::Greater => order == Some(Ordering::Greater),
            Comparison::GreaterOrEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
        }
    }
}

fn steps(mut rest: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("..") {
            steps.push(Step::Deep);
            let (name, left) = name(after);
            if name.is_empty() && !left.starts_with('[') {
                return None;
            }
            push(&mut steps, &name);
            rest = left;
        } else if let Some(after) = rest.strip_prefix('.') {
            let (name, left) = name(after);
            if name.is_empty() && !left.starts_with('[') {
                // `.` alone is the whole value.
                return (left.is_empty() && steps.is_empty()).then_some(steps);
            }
            push(&mut steps, &name);
            rest = left;
        } else if let Some(after) = rest.strip_prefix('[') {
            let (step, left) = bracket(after)?;
            steps.push(step);
            rest = left;
        } else if steps.is_empty() {
            let (name, left) = name(rest);
            push(&mut steps, &name);
            rest = left;
        } else {
            return None;
        }
    }
    Some(steps)
}

fn push(steps: &mut Vec<Step>, name: &str) {
    match name {
        "" => {}
        "*" => steps.push(Step::All),
        _ => steps.push(Step::Field(name.into())),
    }
}

/// A name up to the next step; a backslash takes the meaning of the character after it away.
fn name(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => name.extend(characters.next().map(|(_, escaped)| escaped)),
            '.' | '[' => return (name, &text[at..]),
            other => name.push(other),
        }
    }
    (name, "")
}

fn bracket(text: &str) -> Option<(Step, &str)> {
    if let Some(filter) = text.strip_prefix("?(") {
        let end = filter.find(")]")?;
        return Some((condition(&filter[..end])?, &filter[end + 2..]));
    }
    let quote = text.chars().next().filter(|quote| matches!(quote, '\'' | '"'));
    if let Some(quote) = quote {
        let inner = &text[1..];
        let end = inner.find(quote)?;
        return Some((Step::Field(inner[..end].into()), inner[end + 1..].strip_prefix(']')?));
    }
    let (inner, rest) = text.split_once(']')?;
    let step = match inner.split(',').collect::<Vec<_>>().as_slice() {
        [one] => slice(one)?,
        several => Step::Union(several.iter().map(|part| slice(part)).collect::<Option<_>>()?),
    };
    Some((step, rest))
}

/// `3`, `-1`, `1:3`, `:2`, `-1:`, `::2` or `*`.
fn slice(text: &str) -> Option<Step> {
    let text = text.trim();
    if text == "*" {
        return Some(Step::All);
    }
    if text.is_empty() {
        return None;
    }
    let number = |text: Option<&str>| match text {
        None | Some("") => Some(None),
        Some(text) => text.parse::<i64>().ok().map(Some),
    };
    let mut parts = text.split(':');
    let (start, end, step) = (number(parts.next())?, parts.next(), number(parts.next())?);
    if parts.next().is_some() {
        return None;
    }
    let step = step.map_or(Some(1), |step| usize::try_from(step).ok()).filter(|step| *step > 0)?;
    Some(Step::Slice(Slice { start: start.unwrap_or(0), end: number(end)?, single: end.is_none(), step }))
}

fn condition(text: &str) -> Option<Step> {
    // The longer signs come first: `<=` begins as `<` does.
    let signs = [
        ("==", Comparison::Equal),
        ("!=", Comparison::Unequal),
        ("<=", Comparison::LessOrEqual),
        (">=", Comparison::GreaterOrEqual),
        ("<", Comparison::Less),
        (">", Comparison::Greater),
    ];
    let found = signs.iter().find_map(|(sign, comparison)| Some((text.split_once(sign)?, *comparison)));
    let path = |text: &str| steps(text.trim().strip_prefix('@')?);
    let Some(((left, literal), comparison)) = found else { return Some(Step::Where(path(text)?, None)) };
    let literal = literal.trim();
    let quoted = |quote: char| literal.strip_prefix(quote).and_then(|text| text.strip_suffix(quote));
    let literal = match quoted('"').or_else(|| quoted('\'')) {
        Some(text) => Value::from(text),
        None => serde_json::from_str(literal).ok()?,
    };
    Some(Step::Where(path(left)?, Some((comparison, literal))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn finds_values() {
        let object = json!({
            "spec": {"replicas": 3, "a.b": "dotted", "hosts": ["x", "y", "z"]},
            "status": {"conditions": [{"type": "Sick", "status": "False", "age": 9}, {"type": "Ready", "status": "True", "age": 2}]},
        });
        let check = |path: &str, expected: Option<Value>| {
            let found = JsonPath::parse(path).unwrap_or_else(|| panic!("{path}"));
            assert_eq!(found.first(&object).cloned(), expected, "{path}");
        };
        check(".spec.replicas", Some(json!(3)));
        check("{.spec.replicas}", Some(json!(3)));
        check(r".spec.a\.b", Some(json!("dotted")));
        check(".spec['a.b']", Some(json!("dotted")));
        check(".spec.hosts[1]", Some(json!("y")));
        check(".spec.hosts[-1]", Some(json!("z")));
        check(".spec.hosts[5]", None);
        check(".spec.hosts[*]", Some(json!("x")));
        check(".spec.hosts[-1:]", Some(json!("z")));
        check(".spec.hosts[1:]", Some(json!("y")));
        check(".spec.hosts[:2]", Some(json!("x")));
        check(".spec.hosts[-2:-1]", Some(json!("y")));
        check(".spec.hosts[::2]", Some(json!("x")));
        check(".spec.hosts[3:]", None);
        check(".spec.hosts[2:1]", None);
        check(".spec.hosts[-4:]", None);
        check(".spec.hosts[7,1]", Some(json!("y")));
        check("..replicas", Some(json!(3)));
        check(".status..age", Some(json!(9)));
        check(".status.conditions[-1:].type", Some(json!("Ready")));
        check(r#".status.conditions[?(@.type=="Ready")].status"#, Some(json!("True")));
        check(".status.conditions[?(@.type!='Ready')].status", Some(json!("False")));
        check(".status.conditions[?(@.age<5)].type", Some(json!("Ready")));
        check(".status.conditions[?(@.age>=9)].type", Some(json!("Sick")));
        check(".status.conditions[?(@.age)].type", Some(json!("Sick")));
        check(".status.conditions[?(@.none)].type", None);
        check(".status.none.deep", None);
        for wrong in ["..", ".a[", ".a[x]", ".a[]", ".a[?(x)]", ".a[1:2:3:4]", ".a[::0]"] {
            assert!(JsonPath::parse(wrong).is_none(), "{wrong}");
        }
    }
}
