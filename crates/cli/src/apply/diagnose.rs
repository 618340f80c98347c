//! What holds a pod up, in words, with its last events and log lines.

use http::Method;
use kube::Client;
use serde_json::Value;

use crate::request;

/// What is wrong with a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The container, where it is one of them.
    pub container: Option<String>,
    /// In a word.
    pub reason: String,
    /// In more words.
    pub message: String,
    /// Whether the container has run, so that it may have said something; `true` in it asks for the run before.
    pub logs: Option<bool>,
}

/// What is wrong with a pod. What is only slow is not wrong.
pub fn trouble(pod: &Value) -> Option<Trouble> {
    // Whoever ends a pod ends its containers, and that says nothing about what comes after it.
    if pod["metadata"]["deletionTimestamp"].is_string() {
        return None;
    }
    let status = &pod["status"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let lists = ["initContainerStatuses", "containerStatuses"];
    let containers = lists.iter().flat_map(|list| status[*list].as_array().into_iter().flatten());
    for container in containers {
        let (waiting, terminated) = (&container["state"]["waiting"], &container["state"]["terminated"]);
        let last = &container["lastState"]["terminated"];
        let name = Some(text(&container["name"]));
        if let Some(reason) = waiting["reason"].as_str()
            && !matches!(reason, "ContainerCreating" | "PodInitializing")
        {
            let exit = last["exitCode"].as_i64().map(|code| format!("exit code {code}"));
            let message = match (reason, exit) {
                ("CrashLoopBackOff", Some(exit)) => exit,
                _ => text(&waiting["message"]),
            };
            let logs = last.is_object().then_some(true);
            return Some(Trouble { container: name, reason: reason.to_owned(), message, logs });
        }
        if terminated["exitCode"].as_i64().is_some_and(|code| code != 0) {
            let message = format!("exit code {} {}", terminated["exitCode"], text(&terminated["message"]));
            return Some(Trouble {
                container: name,
                reason: text(&terminated["reason"]),
                message: message.trim().to_owned(),
                logs: Some(false),
            });
        }
        if last["reason"] == "OOMKilled" {
            let message = "it took more memory than its limit".to_owned();
            return Some(Trouble { container: name, reason: "OOMKilled".to_owned(), message, logs: Some(true) });
        }
    }
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let unscheduled = conditions.into_iter().find(|it| it["type"] == "PodScheduled" && it["status"] == "False")?;
    Some(Trouble {
        container: None,
        reason: text(&unscheduled["reason"]),
        message: text(&unscheduled["message"]),
        logs: None,
    })
}

/// The last events and log lines of a pod that is in trouble. What cannot be had is left out: this only helps.
pub async fn evidence(client: &Client, pod: &Value, trouble: &Trouble) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (namespace, name, uid) =
        (text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]), text(&pod["metadata"]["uid"]));
    let mut lines = Vec::new();
    let selector = request::query(&format!("involvedObject.uid={uid},type=Warning"));
    let path = format!("/api/v1/namespaces/{}/events?fieldSelector={selector}&limit=100", request::query(&namespace));
    if let Ok(Some(list)) = request::get(client, &path).await {
        let mut events: Vec<&Value> = list["items"].as_array().into_iter().flatten().collect();
        events.sort_by_key(|event| text(&event["lastTimestamp"]));
        for event in events.iter().rev().take(3).rev() {
            lines.push(format!("event: {}: {}", text(&event["reason"]), text(&event["message"])));
        }
    }
    if let (Some(container), Some(previous)) = (&trouble.container, trouble.logs) {
        let path = format!(
            "/api/v1/namespaces/{}/pods/{}/log?container={}&tailLines=10&limitBytes=8192&previous={previous}",
            request::query(&namespace),
            request::query(&name),
            request::query(container)
        );
        if let Ok((bytes, _)) = request::raw(client, Method::GET, &path, None, "*/*").await {
            lines.extend(String::from_utf8_lossy(&bytes).lines().map(|line| format!("log: {line}")));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_wrong() {
        let check = |status: Value, expected: Option<&str>| {
            let got =
                trouble(&json!({"status": status})).map(|it| format!("{} {} {:?}", it.reason, it.message, it.logs));
            assert_eq!(got.as_deref(), expected);
        };
        let container = |state: Value, last: Value| json!({"containerStatuses": [{"name": "a", "state": state, "lastState": last}]});
        check(container(json!({"waiting": {"reason": "ContainerCreating"}}), json!({})), None);
        check(container(json!({"running": {}}), json!({})), None);
        check(
            container(json!({"waiting": {"reason": "ErrImagePull", "message": "no such image"}}), json!({})),
            Some("ErrImagePull no such image None"),
        );
        check(
            container(json!({"waiting": {"reason": "CrashLoopBackOff"}}), json!({"terminated": {"exitCode": 3}})),
            Some("CrashLoopBackOff exit code 3 Some(true)"),
        );
        check(
            container(json!({"terminated": {"exitCode": 1, "reason": "Error"}}), json!({})),
            Some("Error exit code 1 Some(false)"),
        );
        let ending = json!({"metadata": {"deletionTimestamp": "t"},
            "status": container(json!({"terminated": {"exitCode": 143}}), json!({}))});
        assert_eq!(trouble(&ending), None);
        check(
            json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}]}),
            Some("Unschedulable 0/1 nodes None"),
        );
    }
}
