//! What the status of a definition has to be: which names it got, and whether it is served.

use kobune_kinds::custom::{Condition, Definition, Names, Taken};
use serde_json::{Value, json};

/// Sets a condition; the time changes only with the status.
pub(super) fn set(conditions: &mut Vec<Condition>, kind: &str, status: &str, reason: &str, message: &str, now: &str) {
    let place = conditions.iter().position(|known| known.kind == kind);
    let before = place.map(|place| conditions[place].clone()).unwrap_or_default();
    let time = if before.status == status { before.last_transition_time } else { Some(now.to_owned()) };
    let condition = Condition {
        last_transition_time: time,
        message: message.to_owned(),
        observed_generation: before.observed_generation,
        reason: reason.to_owned(),
        status: status.to_owned(),
        kind: kind.to_owned(),
    };
    match place {
        Some(place) => conditions[place] = condition,
        None => conditions.push(condition),
    }
}

/// The names that the definition has from now on: each wanted one that is free, and what it had where it is not.
fn accepted(definition: &Definition, conflicts: &[(&str, String)]) -> Names {
    let (wanted, before) = (definition.names(), definition.accepted_names());
    let free = |reason: &str| !conflicts.iter().any(|(found, _)| *found == reason);
    let pick =
        |reason: &str, wanted: &String, before: &String| if free(reason) { wanted.clone() } else { before.clone() };
    Names {
        plural: pick("PluralConflict", &wanted.plural, &before.plural),
        singular: pick("SingularConflict", &wanted.singular, &before.singular),
        short_names: if free("ShortNamesConflict") { wanted.short_names.clone() } else { before.short_names.clone() },
        kind: pick("KindConflict", &wanted.kind, &before.kind),
        list_kind: pick("ListKindConflict", &wanted.list_kind, &before.list_kind),
        categories: wanted.categories.clone(),
    }
}

/// The status, if it has to change.
pub(super) fn status(definition: &Definition, taken: &Taken, now: &str) -> Option<Value> {
    let conflicts = definition.conflicts(taken);
    let names = accepted(definition, &conflicts);
    let mut conditions = definition.conditions().to_vec();
    match conflicts.last() {
        Some((reason, message)) => set(&mut conditions, "NamesAccepted", "False", reason, message, now),
        None => set(&mut conditions, "NamesAccepted", "True", "NoConflicts", "no conflicts found", now),
    }
    let established = definition.holds("Established");
    if !established {
        if conflicts.is_empty() {
            let words = "the initial names have been accepted";
            set(&mut conditions, "Established", "True", "InitialNamesAccepted", words, now);
        } else {
            set(&mut conditions, "Established", "False", "NotAccepted", "not all names are accepted", now);
        }
    }
    if conditions == definition.conditions() && names == *definition.accepted_names() {
        return None;
    }
    Some(json!({"acceptedNames": names, "conditions": conditions, "storedVersions": definition.stored_versions()}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(plural: &str, status: Value) -> Definition {
        let text = json!({
            "metadata": {"name": format!("{plural}.x.io")},
            "spec": {"group": "x.io", "names": {"plural": plural, "singular": "boat", "kind": "Boat", "listKind": "BoatList"}},
            "status": status,
        });
        Definition::read(text.to_string().as_bytes()).expect("a definition")
    }

    #[test]
    fn names_are_accepted_and_taken() {
        let free = definition("boats", json!({"storedVersions": ["v1"]}));
        let got = status(&free, &Taken::default(), "now").expect("a change");
        assert_eq!(got["acceptedNames"]["plural"], "boats");
        let held: Vec<(&Value, &Value)> =
            got["conditions"].as_array().expect("a list").iter().map(|one| (&one["type"], &one["status"])).collect();
        assert_eq!(held, [(&json!("NamesAccepted"), &json!("True")), (&json!("Established"), &json!("True"))]);
        let settled = definition("boats", got.clone());
        assert!(status(&settled, &Taken::default(), "later").is_none());

        let mut taken = Taken::default();
        taken.add(settled.accepted_names());
        let second = definition("yachts", json!({}));
        let got = status(&second, &taken, "now").expect("a change");
        assert_eq!(got["conditions"][0]["reason"], "ListKindConflict");
        assert_eq!(got["conditions"][0]["message"], "\"BoatList\" is already in use");
        assert_eq!(got["conditions"][1]["status"], "False");
        assert_eq!(got["acceptedNames"]["plural"], "yachts");
        assert_eq!(got["acceptedNames"]["kind"], "");
    }
}
