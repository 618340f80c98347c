//! What a pass found out, as conditions of the Sync, and which event it is worth. Pure.

use serde_json::{Value, json};

/// The longest message that is kept, in bytes.
const LONGEST: usize = 4 << 10;

/// Whether something is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is.
    Yes,
    /// It is not.
    No,
    /// It is not known yet.
    Unknown,
}

impl Answer {
    fn word(self) -> &'static str {
        match self {
            Answer::Yes => "True",
            Answer::No => "False",
            Answer::Unknown => "Unknown",
        }
    }
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Which one.
    pub kind: &'static str,
    /// Whether it holds.
    pub answer: Answer,
    /// Why, in one word.
    pub reason: &'static str,
    /// Why, in words.
    pub message: String,
}

/// A condition.
pub fn condition(kind: &'static str, answer: Answer, reason: &'static str, message: impl Into<String>) -> Condition {
    Condition { kind, answer, reason, message: short(&message.into(), LONGEST) }
}

/// What a pass found out. What it did not look at stays as it was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The conditions that it knows.
    pub conditions: Vec<Condition>,
    /// What was fetched.
    pub revision: Option<String>,
    /// What was applied.
    pub applied_revision: Option<String>,
    /// What the comparison came to.
    pub plan: Option<String>,
    /// How many objects there are.
    pub objects: Option<usize>,
    /// What is worth an event even when no condition changes.
    pub event: Option<Event>,
    /// Whether it is to be tried again before its time.
    pub failed: bool,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Whether it is one to worry about.
    pub warning: bool,
    /// Why, in one word.
    pub reason: String,
    /// In words.
    pub message: String,
}

/// The first bytes of a text, whole letters only.
pub fn short(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let mut end = most;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

/// The status after a pass. Nothing in it moves when the pass found nothing new, so that nothing is written then.
pub fn after(before: &Value, report: &Report, generation: i64, requested: Option<&str>, now: &str) -> Value {
    let mut status = if before.is_object() { before.clone() } else { json!({}) };
    status["observedGeneration"] = generation.into();
    let given = [("revision", &report.revision), ("appliedRevision", &report.applied_revision), ("plan", &report.plan)];
    for (field, value) in given {
        if let Some(value) = value {
            status[field] = value.clone().into();
        }
    }
    if let Some(objects) = report.objects {
        status["objects"] = objects.into();
    }
    if let Some(requested) = requested {
        status["requestedAt"] = requested.into();
    }
    let mut conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    for found in &report.conditions {
        let word = found.answer.word();
        let known = conditions.iter().position(|known| known["type"] == found.kind);
        let since = known.map(|at| &conditions[at]).filter(|known| known["status"] == word);
        let since = since.and_then(|known| known["lastTransitionTime"].as_str()).unwrap_or(now).to_owned();
        let condition = json!({
            "type": found.kind, "status": word, "reason": found.reason, "message": found.message,
            "lastTransitionTime": since, "observedGeneration": generation,
        });
        match known {
            Some(at) => conditions[at] = condition,
            None => conditions.push(condition),
        }
    }
    conditions.sort_by(|left, right| left["type"].as_str().cmp(&right["type"].as_str()));
    status["conditions"] = conditions.into();
    status
}

/// The event that a pass is worth: what it says itself, or that the Sync is ready or not for another reason than before.
pub fn event(before: &Value, report: &Report) -> Option<Event> {
    if report.event.is_some() {
        return report.event.clone();
    }
    let ready = report.conditions.iter().find(|condition| condition.kind == "Ready")?;
    let known = before["conditions"].as_array().into_iter().flatten().find(|known| known["type"] == "Ready");
    let same = known.is_some_and(|known| known["reason"] == ready.reason && known["message"] == ready.message.as_str());
    (!same && ready.answer != Answer::Unknown).then(|| Event {
        warning: ready.answer == Answer::No,
        reason: ready.reason.to_owned(),
        message: ready.message.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_new_is_nothing_to_write() {
        let report = |answer, message: &str| Report {
            conditions: vec![condition("Ready", answer, "Applied", message)],
            revision: Some("main@1".to_owned()),
            ..Report::default()
        };
        let first = after(&Value::Null, &report(Answer::Yes, "fine"), 1, None, "t1");
        assert_eq!(after(&first, &report(Answer::Yes, "fine"), 1, None, "t2"), first);
        let other = after(&first, &report(Answer::Yes, "finer"), 1, None, "t2");
        assert_eq!(other["conditions"][0]["lastTransitionTime"], "t1", "still ready");
        let broken = after(&other, &report(Answer::No, "broken"), 2, Some("now"), "t3");
        assert_eq!(broken["conditions"][0]["lastTransitionTime"], "t3");
        assert_eq!((&broken["observedGeneration"], &broken["requestedAt"]), (&json!(2), &json!("now")));
    }

    #[test]
    fn what_is_not_known_stays() {
        let before = json!({"appliedRevision": "main@1", "conditions": [{"type": "Healthy", "status": "True"}]});
        let report =
            Report { conditions: vec![condition("Ready", Answer::No, "FetchFailed", "gone")], ..Report::default() };
        let status = after(&before, &report, 1, None, "t");
        assert_eq!(status["appliedRevision"], "main@1");
        assert_eq!(status["conditions"][0]["type"], "Healthy");
    }

    #[test]
    fn one_event_for_one_trouble() {
        let report =
            Report { conditions: vec![condition("Ready", Answer::No, "FetchFailed", "gone")], ..Report::default() };
        let told = event(&Value::Null, &report).unwrap();
        assert!(told.warning && told.reason == "FetchFailed");
        let status = after(&Value::Null, &report, 1, None, "t");
        assert_eq!(event(&status, &report), None);
    }

    #[test]
    fn long_words_are_cut_between_letters() {
        assert_eq!(short("abc", 3), "abc");
        assert_eq!(short("aéé", 2), "a…");
    }
}
