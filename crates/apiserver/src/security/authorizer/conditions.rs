//! `matchConditions` of a webhook: expressions over the review, all of which must hold for it to be asked.

use std::sync::LazyLock;

use kobune_expressions::{Environment, Meter, PER_EXPRESSION, PER_MATCH_CONDITIONS, Program, Type, Value};
use serde_json::Value as Json;

/// The review as expressions see it.
static REVIEW: LazyLock<Environment> = LazyLock::new(|| {
    let texts = || Type::list(Type::String);
    let selector = |name: &str, requirement: &str| {
        let requirement =
            Type::object(requirement, [("key", Type::String), ("operator", Type::String), ("values", texts())]);
        Type::object(name, [("rawSelector", Type::String), ("requirements", Type::list(requirement))])
    };
    let resource = Type::object(
        "kubernetes.ResourceAttributes",
        [
            ("namespace", Type::String),
            ("verb", Type::String),
            ("group", Type::String),
            ("version", Type::String),
            ("resource", Type::String),
            ("subresource", Type::String),
            ("name", Type::String),
            ("fieldSelector", selector("kubernetes.FieldSelectorAttributes", "kubernetes.FieldSelectorRequirement")),
            ("labelSelector", selector("kubernetes.LabelSelectorAttributes", "kubernetes.LabelSelectorRequirement")),
        ],
    );
    let path = Type::object("kubernetes.NonResourceAttributes", [("path", Type::String), ("verb", Type::String)]);
    let review = Type::object(
        "kubernetes.SubjectAccessReviewSpec",
        [
            ("resourceAttributes", resource),
            ("nonResourceAttributes", path),
            ("user", Type::String),
            ("groups", texts()),
            ("extra", Type::map(Type::String, texts())),
            ("uid", Type::String),
        ],
    );
    Environment::new().variable("request", review)
});

/// A compiled condition with its source.
#[derive(Debug)]
pub(super) struct Condition {
    source: String,
    program: Program,
}

impl Condition {
    pub(super) fn compile(source: &str) -> Result<Self, String> {
        let program = Program::compile(source, &REVIEW).map_err(|error| format!("compilation failed: {error}"))?;
        match program.result().is_exactly(&Type::Bool) {
            true => Ok(Self { source: source.to_owned(), program }),
            false => Err("must evaluate to bool".to_owned()),
        }
    }
}

/// Whether all conditions hold for the `spec` of a review. One that does not hold decides, whatever is wrong with others.
pub(super) fn hold(conditions: &[Condition], spec: &Json) -> Result<bool, String> {
    let values = [Value::untyped(spec)];
    let mut problem = None;
    let mut left = PER_MATCH_CONDITIONS;
    for condition in conditions {
        let mut meter = Meter::new(PER_EXPRESSION.min(left));
        let value = condition.program.evaluate(&values, &mut meter);
        left = left.saturating_sub(meter.spent());
        match value {
            Ok(value) if value.as_bool() == Some(true) => {}
            Ok(_) => return Ok(false),
            Err(error) => {
                problem.get_or_insert_with(|| {
                    format!("cel evaluation error: expression '{}' resulted in error: {error}", condition.source)
                });
            }
        }
    }
    problem.map_or(Ok(true), Err)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_choose_requests() {
        let spec = json!({
            "resourceAttributes": {
                "verb": "list", "resource": "pods", "namespace": "a",
                "fieldSelector": {"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["n1"]}]},
            },
            "user": "jane", "groups": ["dev"], "extra": {"scope": ["x"]},
        });
        let check = |sources: &[&str], expected: Result<bool, &str>| {
            let conditions: Vec<_> = sources.iter().map(|source| Condition::compile(source).expect(source)).collect();
            match (hold(&conditions, &spec), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{sources:?}"),
                (Err(problem), Err(words)) => assert!(problem.contains(words), "{problem}"),
                (found, _) => panic!("{sources:?}: {found:?}"),
            }
        };
        check(&[], Ok(true));
        check(&["has(request.resourceAttributes)"], Ok(true));
        check(&["has(request.nonResourceAttributes)"], Ok(false));
        check(&["request.resourceAttributes.namespace == 'a'", "'dev' in request.groups"], Ok(true));
        check(&["request.extra['scope'].exists(s, s == 'x')"], Ok(true));
        check(
            &[
                "request.resourceAttributes.fieldSelector.requirements.exists(r, r.key == 'spec.nodeName' && r.values == ['n1'])",
            ],
            Ok(true),
        );
        // A mistake counts only where nothing else decides.
        check(&["request.nonResourceAttributes.path == '/x'", "request.user == 'joe'"], Ok(false));
        check(&["request.nonResourceAttributes.path == '/x'"], Err("resulted in error"));
    }

    #[test]
    fn conditions_are_checked_before_they_are_used() {
        let problem = |source: &str| Condition::compile(source).expect_err(source);
        assert_eq!(problem("request.user"), "must evaluate to bool");
        assert!(problem("request.usr == 'a'").starts_with("compilation failed"));
        assert!(problem("object.x == 1").starts_with("compilation failed"));
    }
}
