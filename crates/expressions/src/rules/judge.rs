//! Objects judged by rules.

use std::rc::Rc;

use kobune_kinds::{FieldError, FieldErrorKind};
use serde_json::{Map, Value as Json};

use super::{Judgement, Node, Rule};
use crate::{EvaluationError, Meter, PER_EXPRESSION, PER_OBJECT, Value};

/// The longest message that an expression may make, in bytes.
const LONGEST_MESSAGE: usize = 5 * 1024;

/// The budget is spent, which is among the errors: nothing more is judged.
struct Spent;

struct Judge {
    left: u64,
    judgement: Judgement,
}

/// A value beside what it was before.
#[derive(Clone, Copy)]
struct Visit<'v> {
    value: &'v Json,
    /// What transition rules compare with.
    old: Option<&'v Json>,
    /// What the value was before, as far as the two can be paired; failures of what has not changed are warnings.
    before: Option<&'v Json>,
    /// The nearest value around this one that could be paired, now and before.
    around: Option<(&'v Json, &'v Json)>,
}

impl<'v> Visit<'v> {
    fn below(self, value: &'v Json, old: Option<&'v Json>, before: Option<&'v Json>) -> Visit<'v> {
        let around = self.before.map(|before| (self.value, before)).or(self.around);
        Visit { value, old, before, around }
    }

    /// Whether nothing has changed here, or around what cannot be paired.
    fn unchanged(self) -> bool {
        match (self.before, self.around) {
            (Some(before), _) => self.value == before,
            (None, Some((value, before))) => value == before,
            (None, None) => false,
        }
    }
}

pub(super) fn run(root: Option<&Node>, object: &Json, old: Option<&Json>) -> Judgement {
    let mut judge = Judge { left: PER_OBJECT, judgement: Judgement::default() };
    if let Some(root) = root {
        match judge.node(root, "", Visit { value: object, old, before: old, around: None }) {
            // That the budget is spent stands among the errors.
            Ok(()) | Err(Spent) => {}
        }
    }
    judge.judgement
}

fn list(value: Option<&Json>) -> &[Json] {
    value.and_then(Json::as_array).map_or(&[], Vec::as_slice)
}

impl Judge {
    fn fail(&mut self, path: &str, kind: FieldErrorKind, value: Option<Json>, detail: String) {
        let field = if path.is_empty() { "<nil>" } else { path }.to_owned();
        self.judgement.errors.push(FieldError { kind, field, value, detail });
    }

    fn node(&mut self, node: &Node, path: &str, at: Visit<'_>) -> Result<(), Spent> {
        if at.value.is_null() {
            return Ok(());
        }
        self.rules(node, path, at)?;
        for part in &node.all_of {
            self.node(part, path, Visit { before: None, ..at })?;
        }
        match at.value {
            Json::Array(items) => self.items(node, path, at, items),
            Json::Object(fields) => self.fields(node, path, at, fields),
            _ => Ok(()),
        }
    }

    fn items(&mut self, node: &Node, path: &str, at: Visit<'_>, items: &[Json]) -> Result<(), Spent> {
        let Some(inner) = &node.items else { return Ok(()) };
        let (old, before) = (list(at.old), list(at.before));
        let pair = |items: &[Json], item: &Json| {
            let same = |other: &Json| node.keys.iter().all(|key| other.get(&**key) == item.get(&**key));
            if node.keys.is_empty() { None } else { items.iter().position(same) }
        };
        for (index, item) in items.iter().enumerate() {
            let old = pair(old, item).map(|index| &old[index]);
            let before = match pair(before, item) {
                Some(index) => Some(&before[index]),
                None if node.is_set => before.iter().find(|other| *other == item),
                None => None,
            };
            self.node(inner, &format!("{path}[{index}]"), at.below(item, old, before))?;
        }
        Ok(())
    }

    fn fields(&mut self, node: &Node, path: &str, at: Visit<'_>, fields: &Map<String, Json>) -> Result<(), Spent> {
        for (name, value) in fields {
            let old = at.old.and_then(|old| old.get(name));
            let before = at.before.and_then(|before| before.get(name));
            let below = at.below(value, old, before);
            if let Some(inner) = &node.additional {
                self.node(inner, &format!("{path}[{name}]"), below)?;
            }
            if let Some((_, inner)) = node.properties.iter().find(|(own, _)| **own == **name) {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                self.node(inner, &path, below)?;
            }
        }
        Ok(())
    }

    fn rules(&mut self, node: &Node, path: &str, at: Visit<'_>) -> Result<(), Spent> {
        let kind = || Some(Json::from(&*node.kind));
        for rule in &node.rules {
            if rule.uses_old && at.old.is_none() && !rule.optional_old {
                continue;
            }
            let (program, schema) = match (&rule.program, &node.schema) {
                (Ok(program), Some(schema)) => (program, schema),
                (Err(problem), _) => {
                    let words = format!("rule compile error: {problem}");
                    self.fail(path, FieldErrorKind::Invalid, kind(), words);
                    continue;
                }
                (Ok(_), None) => continue,
            };
            let bound = Value::typed(at.value, schema).and_then(|own| {
                let old = at.old.map(|old| Value::typed(old, schema)).transpose()?;
                let old = match (rule.optional_old, old) {
                    (true, old) => Value::Optional(old.map(Rc::new)),
                    (false, old) => old.unwrap_or(Value::Null),
                };
                Ok([own, old])
            });
            let mut meter = Meter::new(PER_EXPRESSION);
            let result = bound.and_then(|bound| program.evaluate(&bound, &mut meter).map(|result| (bound, result)));
            self.pay(&meter, path, node)?;
            match result {
                Ok((_, Value::Bool(true))) => {}
                Ok((bound, _)) => self.broken(rule, node, path, at, &bound)?,
                Err(EvaluationError::Budget) => {
                    let words = format!(
                        "'{}': no further validation rules will be run due to call cost exceeds limit for rule: {}",
                        EvaluationError::Budget,
                        rule.words()
                    );
                    self.fail(path, FieldErrorKind::Invalid, kind(), words);
                    return Err(Spent);
                }
                Err(EvaluationError::Failed(problem)) if problem.starts_with("no such overload") => {
                    let words = format!(
                        "'{problem}': call arguments did not match a supported operator, function or macro signature for rule: {}",
                        rule.words()
                    );
                    self.fail(path, FieldErrorKind::Invalid, kind(), words);
                }
                Err(EvaluationError::Failed(problem)) => {
                    let words = format!("{problem} evaluating rule: {}", rule.words());
                    self.fail(path, FieldErrorKind::Invalid, kind(), words);
                }
            }
        }
        Ok(())
    }

    fn pay(&mut self, meter: &Meter, path: &str, node: &Node) -> Result<(), Spent> {
        match self.left.checked_sub(meter.spent()) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                let words =
                    "validation failed due to running out of cost budget, no further validation rules will be run";
                self.fail(path, FieldErrorKind::Invalid, Some(Json::from(&*node.kind)), words.to_owned());
                Err(Spent)
            }
        }
    }

    /// Reports a rule that does not hold.
    fn broken<'v>(
        &mut self,
        rule: &'v Rule,
        node: &Node,
        path: &str,
        at: Visit<'v>,
        bound: &[Value<'v>; 2],
    ) -> Result<(), Spent> {
        let mut detail = None;
        if let Some(making) = &rule.making {
            let mut meter = Meter::new(PER_EXPRESSION);
            let made = making.evaluate(bound, &mut meter);
            self.pay(&meter, path, node)?;
            if let Ok(made) = made {
                let text = made.as_str().unwrap_or_default().trim();
                let good = !text.is_empty() && text.len() <= LONGEST_MESSAGE && !text.contains('\n');
                detail = good.then(|| text.to_owned());
            }
        }
        let detail = detail.unwrap_or_else(|| {
            if rule.message.is_empty() { format!("failed rule: {}", rule.source.trim()) } else { rule.message.clone() }
        });
        let place = match &rule.field {
            Some(field) if path.is_empty() => field.clone(),
            Some(field) if field.starts_with('[') => format!("{path}{field}"),
            Some(field) => format!("{path}.{field}"),
            None => path.to_owned(),
        };
        let value = (!matches!(&*node.kind, "object" | "array")).then(|| at.value.clone());
        let (kind, value) = match &*rule.reason {
            "FieldValueForbidden" => (FieldErrorKind::Forbidden, None),
            "FieldValueRequired" => (FieldErrorKind::Required, None),
            "FieldValueDuplicate" => (FieldErrorKind::Duplicate, value),
            _ => (FieldErrorKind::Invalid, value),
        };
        self.fail(&place, kind, value, detail);
        if !rule.uses_old
            && at.unchanged()
            && let Some(error) = self.judgement.errors.pop()
        {
            self.judgement.warnings.push(error.to_string());
        }
        Ok(())
    }
}

impl Rule {
    fn words(&self) -> &str {
        if self.message.is_empty() { self.source.trim() } else { &self.message }
    }
}
