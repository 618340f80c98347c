//! Webhook configurations, admission policies, flow schemas and priority levels.

use serde_json::Value;

use super::cell::{NONE, UNSET, age, condition, count, int, name, or_none, scalar_or, text, text_or};
use super::{AGE, Column, NAME, Table};

pub(super) const WEBHOOKS: Table = (
    &[
        NAME,
        Column::integer("Webhooks", "Webhooks indicates the number of webhooks registered in this configuration"),
        AGE,
    ],
    |object, now| vec![name(object), count(object, "/webhooks").into(), age(object, now)],
);

const PARAM_KIND: Column =
    Column::string("ParamKind", "ParamKind specifies the kind of resources used to parameterize this policy");

fn param_kind(object: &Value) -> Value {
    match object.pointer("/spec/paramKind").filter(|kind| !kind.is_null()) {
        Some(kind) => format!("{}/{}", text(kind, "/apiVersion"), text(kind, "/kind")).into(),
        None => UNSET.into(),
    }
}

pub(super) const VALIDATING_POLICIES: Table = (
    &[
        NAME,
        Column::integer(
            "Validations",
            "Validations indicates the number of validation rules defined in this configuration",
        ),
        PARAM_KIND,
        AGE,
    ],
    |object, now| vec![name(object), count(object, "/spec/validations").into(), param_kind(object), age(object, now)],
);

pub(super) const MUTATING_POLICIES: Table = (
    &[
        NAME,
        Column::integer("Mutations", "Mutation indicates the number of mutations rules defined in this configuration"),
        PARAM_KIND,
        AGE,
    ],
    |object, now| vec![name(object), count(object, "/spec/mutations").into(), param_kind(object), age(object, now)],
);

pub(super) const BINDINGS: Table = (
    &[
        NAME,
        Column::string("PolicyName", "PolicyName indicates the policy definition which the policy binding binded to"),
        Column::string("ParamRef", "ParamRef indicates the param resource which sets the configration param"),
        AGE,
    ],
    |object, now| {
        let parameters = object.pointer("/spec/paramRef").map_or_else(
            || UNSET.to_owned(),
            |reference| match text(reference, "/name") {
                "" => selector(reference.pointer("/selector").unwrap_or(&Value::Null)),
                named => format!("{}/{named}", text_or(reference, "/namespace", "*")),
            },
        );
        vec![name(object), text(object, "/spec/policyName").into(), parameters.into(), age(object, now)]
    },
);

/// A label selector as kubectl takes it.
fn selector(selector: &Value) -> String {
    crate::selector::LabelSelector::from_object(selector)
        .map_or_else(|_| UNSET.to_owned(), |selector| or_none(selector.to_string()))
}

pub(super) const FLOW_SCHEMAS: Table = (
    &[
        NAME,
        Column::string("PriorityLevel", "The priority level that the schema's requests get."),
        Column::string("MatchingPrecedence", "Which schema is asked first: the lowest number."),
        Column::string("DistinguisherMethod", "How requests are told apart into flows."),
        AGE,
        Column::string("MissingPL", "references a broken or non-existent PriorityLevelConfiguration"),
    ],
    |object, now| {
        let dangling = condition(object, "Dangling").map_or("?", |condition| text(condition, "/status"));
        vec![
            name(object),
            text(object, "/spec/priorityLevelConfiguration/name").into(),
            int(object, "/spec/matchingPrecedence").into(),
            text_or(object, "/spec/distinguisherMethod/type", NONE).into(),
            age(object, now),
            dangling.into(),
        ]
    },
);

pub(super) const PRIORITY_LEVELS: Table = (
    &[
        NAME,
        Column::string("Type", "Whether the level's requests are limited."),
        Column::string("NominalConcurrencyShares", "The level's share of the server's concurrency."),
        Column::string("Queues", "The number of queues."),
        Column::string("HandSize", "How many queues one flow may use."),
        Column::string("QueueLengthLimit", "How many requests may wait in one queue."),
        AGE,
    ],
    |object, now| {
        let part = if text(object, "/spec/type") == "Exempt" { "exempt" } else { "limited" };
        let queuing =
            |field: &str| scalar_or(object, &format!("/spec/limited/limitResponse/queuing/{field}"), NONE).into();
        vec![
            name(object),
            text(object, "/spec/type").into(),
            scalar_or(object, &format!("/spec/{part}/nominalConcurrencyShares"), NONE).into(),
            queuing("queues"),
            queuing("handSize"),
            queuing("queueLengthLimit"),
            age(object, now),
        ]
    },
);
