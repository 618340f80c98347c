//! The selectors of access reviews: requirements as objects, or a selector in the words of a query. Pure.
//!
//! Source: `ResourceAttributes` of `authorization.k8s.io/v1`, `pkg/apis/authorization/validation` and
//! `pkg/registry/authorization/util` of Kubernetes 1.36.

use kobune_kinds::selector::{FieldSelector, FieldTerm, LabelSelector, Operator, Requirement};
use serde_json::Value;

use super::{Refusal, review};

/// What is wrong with a selector.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    field: String,
    problem: String,
}

impl Mistake {
    fn at(selector: &str, place: &str, problem: impl Into<String>) -> Mistake {
        Mistake { field: format!("spec.resourceAttributes.{selector}{place}"), problem: problem.into() }
    }

    /// The 422 for a review of a kind.
    pub(super) fn refusal(self, kind: &str) -> Refusal {
        review::invalid(kind, &self.field, &self.problem)
    }
}

/// One requirement as it is written.
struct Written<'a> {
    key: &'a str,
    operator: &'a str,
    values: Vec<String>,
}

/// A selector as it is written: in the words of a query, or as requirements.
enum Form<'a> {
    None,
    Words(&'a str),
    Requirements(Vec<Written<'a>>),
}

fn form<'a>(name: &str, selector: Option<&'a Value>) -> Result<Form<'a>, Mistake> {
    let Some(selector) = selector.filter(|selector| !selector.is_null()) else { return Ok(Form::None) };
    let words = selector["rawSelector"].as_str().unwrap_or_default();
    let requirements = selector["requirements"].as_array().map(Vec::as_slice).unwrap_or_default();
    match (words, requirements) {
        ("", []) => {
            let problem = "Required value: when fieldSelector is specified, requirements or rawSelector is required";
            Err(Mistake::at(name, ".requirements", problem.replace("fieldSelector", name)))
        }
        (words, []) => Ok(Form::Words(words)),
        ("", requirements) => {
            let read = |(index, one): (usize, &'a Value)| {
                let text = |field: &str| one[field].as_str().unwrap_or_default();
                let values = one["values"].as_array().map(Vec::as_slice).unwrap_or_default();
                let values: Vec<String> = values.iter().filter_map(Value::as_str).map(str::to_owned).collect();
                let (key, operator) = (text("key"), text("operator"));
                let at = |field: &str| format!(".requirements[{index}].{field}");
                if key.is_empty() {
                    return Err(Mistake::at(name, &at("key"), "Required value: must be specified"));
                }
                match operator {
                    "In" | "NotIn" if values.is_empty() => {
                        let problem = "Required value: must be specified when `operator` is 'In' or 'NotIn'";
                        Err(Mistake::at(name, &at("values"), problem))
                    }
                    "Exists" | "DoesNotExist" if !values.is_empty() => {
                        let problem = "Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                        Err(Mistake::at(name, &at("values"), problem))
                    }
                    "" => Err(Mistake::at(name, &at("operator"), "Required value: must be specified")),
                    _ => Ok(Written { key, operator, values }),
                }
            };
            Ok(Form::Requirements(requirements.iter().enumerate().map(read).collect::<Result<_, _>>()?))
        }
        _ => {
            let problem = format!("Invalid value: {words:?}: may not specified at the same time as requirements");
            Err(Mistake::at(name, ".rawSelector", problem))
        }
    }
}

/// The terms of a `fieldSelector`. What authorizers cannot use is left out, with a problem: the question is then about more.
pub(super) fn fields(selector: Option<&Value>, problems: &mut Vec<String>) -> Result<Vec<FieldTerm>, Mistake> {
    match form("fieldSelector", selector)? {
        Form::None => Ok(Vec::new()),
        Form::Words(words) => match FieldSelector::parse(words) {
            Ok(selector) => Ok(selector.terms().to_vec()),
            Err(error) => {
                problems.push(format!("spec.resourceAttributes.fieldSelector ignored due to parse error: {error}"));
                Ok(Vec::new())
            }
        },
        Form::Requirements(requirements) => {
            let term = |one: Written<'_>| match (one.operator, one.values.as_slice()) {
                ("In" | "NotIn", [value]) => {
                    Some(FieldTerm { field: one.key.to_owned(), equals: one.operator == "In", value: value.clone() })
                }
                ("In" | "NotIn", _) => {
                    problems.push(format!("fieldSelectors do not yet support multiple values for {:?}", one.operator));
                    None
                }
                (operator, _) => {
                    problems.push(format!("{operator:?} is not a valid field selector operator"));
                    None
                }
            };
            Ok(requirements.into_iter().filter_map(term).collect())
        }
    }
}

/// The requirements of a `labelSelector`.
pub(super) fn labels(selector: Option<&Value>, problems: &mut Vec<String>) -> Result<Vec<Requirement>, Mistake> {
    match form("labelSelector", selector)? {
        Form::None => Ok(Vec::new()),
        Form::Words(words) => match LabelSelector::parse(words) {
            Ok(selector) => Ok(selector.requirements().to_vec()),
            Err(error) => {
                problems.push(format!("spec.resourceAttributes.labelSelector ignored due to parse error: {error}"));
                Ok(Vec::new())
            }
        },
        Form::Requirements(requirements) => {
            let requirement = |one: Written<'_>| {
                let operator = match one.operator {
                    "In" => Operator::In,
                    "NotIn" => Operator::NotIn,
                    "Exists" => Operator::Exists,
                    "DoesNotExist" => Operator::DoesNotExist,
                    other => {
                        problems.push(format!("{other:?} is not a valid label selector operator"));
                        return None;
                    }
                };
                Requirement::new(one.key, operator, one.values).map_err(|error| problems.push(error.to_string())).ok()
            };
            Ok(requirements.into_iter().filter_map(requirement).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_are_read_in_both_forms() {
        let check = |selector: Value, expected: &str, problem: &str| {
            let mut problems = Vec::new();
            let found = fields(Some(&selector), &mut problems).map(|terms| {
                let show =
                    |term: &FieldTerm| format!("{}{}{}", term.field, if term.equals { "=" } else { "!=" }, term.value);
                terms.iter().map(show).collect::<Vec<_>>().join(",")
            });
            match found {
                Ok(found) => assert_eq!(found, expected, "{selector}"),
                Err(mistake) => assert_eq!(format!("{}: {}", mistake.field, mistake.problem), expected, "{selector}"),
            }
            assert!(problems.join("|").contains(problem), "{problems:?}");
        };
        check(Value::Null, "", "");
        check(json!({"rawSelector": "a=b,c!=d"}), "a=b,c!=d", "");
        check(json!({"rawSelector": "a"}), "", "ignored due to parse error");
        check(
            json!({"requirements": [
                {"key": "a", "operator": "In", "values": ["b"]}, {"key": "c", "operator": "NotIn", "values": ["d"]},
            ]}),
            "a=b,c!=d",
            "",
        );
        check(json!({"requirements": [{"key": "a", "operator": "In", "values": ["b", "c"]}]}), "", "multiple values");
        check(json!({"requirements": [{"key": "a", "operator": "Exists"}]}), "", "not a valid field selector operator");
        let place = "spec.resourceAttributes.fieldSelector";
        check(
            json!({}),
            &format!(
                "{place}.requirements: Required value: when fieldSelector is specified, requirements or rawSelector is required"
            ),
            "",
        );
        check(
            json!({"rawSelector": "a=b", "requirements": [{"key": "a", "operator": "In", "values": ["b"]}]}),
            &format!("{place}.rawSelector: Invalid value: \"a=b\": may not specified at the same time as requirements"),
            "",
        );
        check(
            json!({"requirements": [{"operator": "In", "values": ["b"]}]}),
            &format!("{place}.requirements[0].key: Required value: must be specified"),
            "",
        );
        let mut problems = Vec::new();
        let selector = json!({"requirements": [
            {"key": "a", "operator": "Exists"}, {"key": "-", "operator": "Exists"}, {"key": "b", "operator": "Gt"},
        ]});
        let found = labels(Some(&selector), &mut problems).expect("a selector");
        assert_eq!((found.len(), found[0].key.as_str(), problems.len()), (1, "a", 2), "{problems:?}");
    }
}
