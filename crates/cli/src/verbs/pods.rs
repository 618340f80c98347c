//! Which pod and which container a verb means: POD or TYPE/NAME, as kubectl's `attachablePodForObject` and `podcmd` find them.

use std::cmp::Reverse;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use http::Method;
use serde_json::Value;

use super::follow::{News, follow};
use super::words;
use crate::connect::Cluster;
use crate::discovery::Discovery;
use crate::duration;
use crate::request;

/// The annotation that names the container that is meant when nobody names one (KEP-2227).
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// What was named, and the pod that it comes to.
#[derive(Debug)]
pub struct Meant {
    /// The object that was named.
    pub object: Value,
    /// The pod, which may be the same.
    pub pod: Value,
}

/// Reads `--pod-running-timeout`.
pub fn timeout(text: &str) -> Result<Duration> {
    match duration::parse(text) {
        Some(limit) if !limit.is_zero() => Ok(limit),
        _ => bail!("--pod-running-timeout must be higher than zero"),
    }
}

/// Finds the pod that is meant; waits for one to come where there is none yet.
pub async fn find(cluster: &Cluster, namespace: &str, kind: &str, name: &str, limit: Duration) -> Result<Meant> {
    let folder = format!("/api/v1/namespaces/{}/pods", request::query(namespace));
    if matches!(kind, "pod" | "pods" | "po") {
        let path = format!("{folder}/{}", request::query(name));
        let pod = read(cluster, &path).await?;
        return Ok(Meant { object: pod.clone(), pod });
    }
    let discovery = Discovery::ask(&cluster.client).await.map_err(words::refused)?;
    let resource =
        discovery.by_name(kind).ok_or_else(|| anyhow!("the server doesn't have a resource type {kind:?}"))?;
    let object = read(cluster, &resource.object_path(Some(namespace), name)).await?;
    let selector = selector(&object)?;
    let query = format!("labelSelector={}", request::query(&selector));
    let first = follow(&cluster.client, &folder, &query, |news| match news {
        News::Listed(pods) => Ok(best(pods)),
        News::Event(kind, pod) => Ok((kind != "DELETED").then_some(pod)),
    });
    let pod =
        tokio::time::timeout(limit, first).await.map_err(|_| anyhow!("timed out waiting for the condition"))??;
    Ok(Meant { object, pod })
}

async fn read(cluster: &Cluster, path: &str) -> Result<Value> {
    let answer = request::send(&cluster.client, Method::GET, path, None, "application/json").await;
    Ok(answer.map_err(words::refused)?.body)
}

/// `TYPE/NAME` in two; a name alone is a pod's.
pub fn split(target: &str) -> Result<(&str, &str)> {
    match target.split_once('/') {
        None => Ok(("pods", target)),
        Some((kind, name)) if !kind.is_empty() && !name.is_empty() && !name.contains('/') => Ok((kind, name)),
        Some(_) => bail!("arguments in resource/name form may not have more than one slash"),
    }
}

/// The selector of an object's pods as the API takes it.
pub fn selector(object: &Value) -> Result<String> {
    let kind = object["kind"].as_str().unwrap_or_default();
    let selector = &object["spec"]["selector"];
    match kind {
        "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Deployment" | "Job" => {
            let mut terms = labels(&selector["matchLabels"]);
            for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
                let key = expression["key"].as_str().unwrap_or_default();
                let values = expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str);
                let values = values.collect::<Vec<_>>().join(",");
                terms.push(match expression["operator"].as_str().unwrap_or_default() {
                    "In" => format!("{key} in ({values})"),
                    "NotIn" => format!("{key} notin ({values})"),
                    "Exists" => key.to_owned(),
                    "DoesNotExist" => format!("!{key}"),
                    other => bail!("invalid label selector: {other:?} is not a valid label selector operator"),
                });
            }
            Ok(terms.join(","))
        }
        "ReplicationController" => Ok(labels(selector).join(",")),
        "Service" if selector.as_object().is_none_or(serde_json::Map::is_empty) => {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            bail!("cannot attach to *v1.Service: invalid service '{name}': Service is defined without a selector")
        }
        "Service" => Ok(labels(selector).join(",")),
        kind => {
            let version = object["apiVersion"].as_str().unwrap_or_default().rsplit('/').next().unwrap_or_default();
            bail!("cannot attach to *{version}.{kind}: selector for *{version}.{kind} not implemented")
        }
    }
}

fn labels(labels: &Value) -> Vec<String> {
    let labels = labels.as_object().into_iter().flatten();
    labels.map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default())).collect()
}

/// The pod that most likely answers: assigned, running, ready, not going, ready for long, seldom restarted, old
/// (`podutils.ActivePods`, from its end).
fn best(pods: Vec<Value>) -> Option<Value> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    pods.into_iter().max_by_key(|pod| {
        let (status, metadata) = (&pod["status"], &pod["metadata"]);
        let ready = status["conditions"].as_array().into_iter().flatten();
        let ready = ready.into_iter().find(|it| it["type"] == "Ready" && it["status"] == "True");
        let restarts = status["containerStatuses"].as_array().into_iter().flatten();
        (
            !text(&pod["spec"]["nodeName"]).is_empty(),
            match status["phase"].as_str() {
                Some("Running") => 2,
                Some("Unknown") => 1,
                _ => 0,
            },
            ready.is_some(),
            metadata.get("deletionTimestamp").is_none(),
            text(&metadata["deletionTimestamp"]),
            Reverse(ready.map(|it| text(&it["lastTransitionTime"]))),
            Reverse(restarts.map(|it| it["restartCount"].as_u64().unwrap_or(0)).max()),
            Reverse(text(&metadata["creationTimestamp"])),
            Reverse(text(&metadata["name"])),
        )
    })
}

/// Fails for a pod whose containers have all ended.
pub fn check_phase(pod: &Value, doing: &str) -> Result<()> {
    match pod["status"]["phase"].as_str() {
        Some(phase @ ("Succeeded" | "Failed")) => bail!("cannot {doing} a completed pod; current phase is {phase}"),
        _ => Ok(()),
    }
}

/// The container that is meant; says on standard error which one was taken where nobody said.
pub fn container<'p>(pod: &'p Value, named: Option<&str>, quiet: bool) -> Result<&'p Value> {
    let list = |field: &str| pod["spec"][field].as_array().map(Vec::as_slice).unwrap_or_default();
    let lists = [list("containers"), list("initContainers"), list("ephemeralContainers")];
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let name = named.or_else(|| pod["metadata"]["annotations"][DEFAULT_CONTAINER].as_str());
    if let Some(name) = name.filter(|name| !name.is_empty()) {
        let found = lists.iter().flat_map(|list| list.iter()).find(|container| container["name"] == name);
        return found
            .ok_or_else(|| anyhow!("container {name} is not valid for pod {pod_name} out of: {}", names(&lists)));
    }
    let first = lists[0].first();
    let first = first.ok_or_else(|| {
        anyhow!(
            "pod {}/{pod_name} does not have any containers",
            pod["metadata"]["namespace"].as_str().unwrap_or_default()
        )
    })?;
    if !quiet && lists.iter().map(|list| list.len()).sum::<usize>() > 1 {
        eprintln!("Defaulted container {} out of: {}", first["name"], names(&lists));
    }
    Ok(first)
}

/// All containers' names as kubectl lists them: ephemeral ones before those that run first.
fn names([main, init, ephemeral]: &[&[Value]; 3]) -> String {
    let named = |list: &[Value], mark: &str| -> Vec<String> {
        list.iter().map(|container| format!("{}{mark}", container["name"].as_str().unwrap_or_default())).collect()
    };
    [named(main, ""), named(ephemeral, " (ephem)"), named(init, " (init)")].concat().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors() {
        let check = |kind: &str, selector: Value, expected: Result<&str, &str>| {
            let object =
                json!({"apiVersion": "x/v1", "kind": kind, "metadata": {"name": "n"}, "spec": {"selector": selector}});
            match (super::selector(&object), expected) {
                (Ok(got), Ok(expected)) => assert_eq!(got, expected),
                (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
                (got, expected) => panic!("{got:?} is not {expected:?}"),
            }
        };
        let all = json!({"matchLabels": {"a": "b"}, "matchExpressions": [
            {"key": "c", "operator": "In", "values": ["d", "e"]}, {"key": "f", "operator": "NotIn", "values": ["g"]},
            {"key": "h", "operator": "Exists"}, {"key": "i", "operator": "DoesNotExist"}]});
        check("Deployment", all, Ok("a=b,c in (d,e),f notin (g),h,!i"));
        check("Service", json!({"a": "b", "c": "d"}), Ok("a=b,c=d"));
        check("Service", json!({}), Err("invalid service 'n': Service is defined without a selector"));
        check(
            "ConfigMap",
            json!({}),
            Err("cannot attach to *v1.ConfigMap: selector for *v1.ConfigMap not implemented"),
        );
        assert_eq!(split("deploy/x").unwrap(), ("deploy", "x"));
        assert_eq!(split("x").unwrap(), ("pods", "x"));
        assert!(split("a/b/c").is_err() && split("a/").is_err());
    }

    #[test]
    fn the_best_pod() {
        let pod = |name: &str, phase: &str, ready: Option<&str>, going: bool| {
            let mut pod = json!({"metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"nodeName": "n"}, "status": {"phase": phase}});
            if let Some(since) = ready {
                pod["status"]["conditions"] = json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}]);
            }
            if going {
                pod["metadata"]["deletionTimestamp"] = json!("2026-01-02T00:00:00Z");
            }
            pod
        };
        let check = |pods: Vec<Value>, expected: &str| assert_eq!(best(pods).unwrap()["metadata"]["name"], expected);
        let (old, new) = (Some("2026-01-01T00:00:00Z"), Some("2026-01-01T01:00:00Z"));
        check(vec![pod("a", "Pending", None, false), pod("b", "Running", None, false)], "b");
        check(vec![pod("a", "Running", None, false), pod("b", "Running", old, false)], "b");
        check(vec![pod("a", "Running", old, true), pod("b", "Running", new, false)], "b");
        check(vec![pod("a", "Running", new, false), pod("b", "Running", old, false)], "b");
        assert!(best(Vec::new()).is_none());
    }

    #[test]
    fn containers() {
        let mut pod = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {
            "containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}], "ephemeralContainers": [{"name": "e"}]}});
        assert_eq!(container(&pod, None, true).unwrap()["name"], "a");
        assert_eq!(container(&pod, Some("e"), true).unwrap()["name"], "e");
        let error = container(&pod, Some("x"), true).unwrap_err().to_string();
        assert_eq!(error, "container x is not valid for pod p out of: a, b, e (ephem), i (init)");
        pod["metadata"]["annotations"] = json!({DEFAULT_CONTAINER: "b"});
        assert_eq!(container(&pod, None, true).unwrap()["name"], "b");
        assert!(container(&json!({"metadata": {"name": "p"}}), None, true).is_err());
        assert!(check_phase(&json!({"status": {"phase": "Failed"}}), "exec into a container in").is_err());
    }
}
