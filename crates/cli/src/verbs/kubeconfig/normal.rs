//! Kubeconfigs in the form in which client-go writes them: entries sorted by name, what is empty left out. Pure.

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

use super::files::Section;

const SECTIONS: [Section; 3] = [Section::Clusters, Section::Contexts, Section::Users];

/// The fields that client-go knows.
fn known(section: Section) -> &'static [&'static str] {
    match section {
        Section::Clusters => &[
            "server",
            "tls-server-name",
            "insecure-skip-tls-verify",
            "certificate-authority",
            "certificate-authority-data",
            "proxy-url",
            "disable-compression",
            "extensions",
        ],
        Section::Contexts => &["cluster", "user", "namespace", "extensions"],
        Section::Users => &[
            "client-certificate",
            "client-certificate-data",
            "client-key",
            "client-key-data",
            "token",
            "tokenFile",
            "as",
            "as-uid",
            "as-groups",
            "as-user-extra",
            "username",
            "password",
            "auth-provider",
            "exec",
            "extensions",
        ],
    }
}

/// The fields that are written even if there is nothing in them.
fn always(section: Section) -> &'static [&'static str] {
    match section {
        Section::Clusters => &["server"],
        Section::Contexts => &["cluster", "user"],
        Section::Users => &[],
    }
}

/// The entries of a list by name.
pub fn entries(config: &Value, section: Section) -> Vec<(&str, &Value)> {
    let (list, field) = section.fields();
    let entries = config[list].as_array().into_iter().flatten();
    entries.map(|entry| (entry["name"].as_str().unwrap_or_default(), &entry[field])).collect()
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// An entry's content.
fn content(value: &Value, section: Section, keep_unknown: bool) -> Value {
    let mut out = Map::new();
    for (name, value) in value.as_object().into_iter().flatten() {
        let is_known = known(section).contains(&name.as_str());
        if (is_known && !is_empty(value)) || (!is_known && keep_unknown) {
            out.insert(name.clone(), value.clone());
        }
    }
    for field in always(section) {
        out.entry(*field).or_insert_with(|| "".into());
    }
    if let Some(exec) = out.get_mut("exec").and_then(Value::as_object_mut) {
        for field in ["args", "env"] {
            exec.entry(field).or_insert(Value::Null);
        }
        exec.entry("provideClusterInfo").or_insert(Value::Bool(false));
    }
    Value::Object(out)
}

fn normal(config: &Value, keep_unknown: bool) -> Value {
    let mut out = if keep_unknown { config.clone() } else { json!({}) };
    for section in SECTIONS {
        let (list, field) = section.fields();
        let mut entries: Vec<Value> = config[list].as_array().cloned().unwrap_or_default();
        entries.sort_by(|one, other| one["name"].as_str().cmp(&other["name"].as_str()));
        for entry in &mut entries {
            let inner = content(&entry[field], section, keep_unknown);
            if !keep_unknown || !entry.is_object() {
                *entry = json!({"name": entry["name"]});
            }
            entry[field] = inner;
        }
        out[list] = if entries.is_empty() { Value::Null } else { entries.into() };
    }
    for field in ["preferences", "extensions"] {
        if let Some(found) = config.get(field).filter(|found| !is_empty(found)) {
            out[field] = found.clone();
        } else if let Some(fields) = out.as_object_mut() {
            fields.remove(field);
        }
    }
    out["apiVersion"] = "v1".into();
    out["kind"] = "Config".into();
    out["current-context"] = config["current-context"].as_str().unwrap_or_default().into();
    out
}

/// A kubeconfig as it is shown.
pub fn config(config: &Value) -> Value {
    normal(config, false)
}

/// A kubeconfig as it is kept: what nobody here knows stays.
pub fn file(config: &Value) -> Value {
    normal(config, true)
}

/// A kubeconfig with what its current context needs and nothing else.
pub fn minified(config: &Value) -> Result<Value> {
    let current = config["current-context"].as_str().unwrap_or_default();
    if current.is_empty() {
        bail!("current-context must exist in order to minify");
    }
    let contexts = entries(config, Section::Contexts);
    let Some((_, context)) = contexts.iter().find(|(name, _)| *name == current) else {
        bail!("cannot locate context {current}");
    };
    let named = |section: Section, wanted: &str| -> Value {
        let (list, _) = section.fields();
        let entries = config[list].as_array().into_iter().flatten();
        entries.filter(|entry| entry["name"] == wanted).cloned().collect::<Vec<_>>().into()
    };
    let of = |field: &str| context[field].as_str().unwrap_or_default();
    let mut out = config.clone();
    out["contexts"] = named(Section::Contexts, current);
    for (section, wanted) in [(Section::Clusters, of("cluster")), (Section::Users, of("user"))] {
        out[section.fields().0] = match wanted {
            "" => Value::Null,
            wanted => match named(section, wanted) {
                Value::Array(found) if found.is_empty() && section == Section::Clusters => {
                    bail!("cannot locate cluster {wanted}")
                }
                Value::Array(found) if found.is_empty() => bail!("cannot locate user {wanted}"),
                found => found,
            },
        };
    }
    Ok(out)
}

/// Takes secrets out, and certificates, which are only long.
pub fn without_secrets(config: &mut Value) {
    for section in SECTIONS {
        let (list, field) = section.fields();
        for entry in config[list].as_array_mut().into_iter().flatten() {
            for (name, value) in entry[field].as_object_mut().into_iter().flatten() {
                if is_empty(value) {
                    continue;
                }
                match name.as_str() {
                    "certificate-authority-data" | "client-certificate-data" | "client-key-data" => {
                        *value = "DATA+OMITTED".into();
                    }
                    "token" | "password" => *value = "REDACTED".into(),
                    _ => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Value {
        json!({
            "odd": 1, "current-context": "one",
            "clusters": [{"name": "z", "cluster": {"server": "s", "insecure-skip-tls-verify": false, "mine": 1}}, {"name": "b"}],
            "contexts": [{"name": "one", "context": {"cluster": "z", "user": "u"}}, {"name": "two", "context": {"user": ""}}],
            "users": [{"name": "u", "user": {"token": "t", "client-key-data": "x", "exec": {"command": "c"}}}],
        })
    }

    #[test]
    fn what_is_shown_and_kept() {
        let shown = config(&sample());
        assert_eq!(
            shown["clusters"],
            json!([{"name": "b", "cluster": {"server": ""}}, {"name": "z", "cluster": {"server": "s"}}])
        );
        assert_eq!(
            shown["users"][0]["user"]["exec"],
            json!({"command": "c", "args": null, "env": null, "provideClusterInfo": false})
        );
        assert!(shown.get("odd").is_none());
        let kept = file(&sample());
        assert_eq!((&kept["odd"], &kept["clusters"][1]["cluster"]["mine"]), (&json!(1), &json!(1)));
        assert_eq!(file(&kept), kept);
        assert_eq!(config(&json!({}))["users"], Value::Null);
    }

    #[test]
    fn less() {
        let less = minified(&sample()).unwrap();
        assert_eq!(less["contexts"].as_array().unwrap().len(), 1);
        assert_eq!(less["clusters"][0]["name"], "z");
        assert!(minified(&json!({"current-context": "x"})).is_err() && minified(&json!({})).is_err());
        let mut secret = sample();
        without_secrets(&mut secret);
        assert_eq!(secret["users"][0]["user"]["token"], "REDACTED");
        assert_eq!(secret["users"][0]["user"]["client-key-data"], "DATA+OMITTED");
    }
}
