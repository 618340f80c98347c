//! `kobune set env`: variables of containers' environments (`k8s.io/kubectl/pkg/cmd/set/set_env.go`).

use std::collections::BTreeMap;
use std::io::Read as _;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use serde_json::{Value, json};

use super::{Edit, SetOptions, containers, pod_spec, split};
use crate::connect::Cluster;
use crate::request;
use crate::verbs::chosen::{self, ChoiceOptions, Wide};
use crate::verbs::{outcome, words};

/// The flags of `set env`.
#[derive(Debug, Clone, Args)]
pub struct SetEnvOptions {
    /// TYPE NAME..., TYPE/NAME..., or TYPE with -l or --all; then NAME=VALUE to set and NAME- to remove
    #[arg(value_name = "TYPE[/NAME] [NAME...] NAME=VALUE|NAME-...")]
    pub arguments: Vec<String>,
    /// Another variable to set; - reads them from standard input
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// The containers; * stands for any letters
    #[arg(short, long, value_name = "NAME", default_value = "*")]
    pub containers: String,
    /// A ConfigMap or Secret whose keys become variables
    #[arg(long, value_name = "TYPE/NAME")]
    pub from: Option<String>,
    /// Only these keys of it
    #[arg(long, value_name = "KEY", value_delimiter = ',')]
    pub keys: Vec<String>,
    /// What the names of the variables begin with
    #[arg(long, value_name = "TEXT")]
    pub prefix: Option<String>,
    /// Print the variables instead of changing them
    #[arg(long)]
    pub list: bool,
    /// With --list, read what variables refer to
    #[arg(long)]
    pub resolve: bool,
    /// Change variables that are there already
    #[arg(long, num_args = 0..=1, default_value_t = true, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    pub overwrite: bool,
    /// What all have in common.
    #[command(flatten)]
    pub common: SetOptions,
}

/// What becomes of variables.
#[derive(Debug, Default)]
struct Changes {
    set: Vec<Value>,
    remove: Vec<String>,
}

/// Sets variables.
pub async fn env(options: &SetEnvOptions) -> Result<()> {
    let common = &options.common;
    let is_change = |argument: &str| argument.find('=').is_some_and(|at| at > 0) || argument.ends_with('-');
    let (resources, arguments) = split(&options.arguments, is_change, "environment").map_err(|_| {
        anyhow!("all resources must be specified before environment changes: {}", options.arguments.join(" "))
    })?;
    common.check(&resources)?;
    if options.list && common.change.print.output.is_some() {
        bail!("--list and --output may not be specified together");
    }
    if !options.keys.is_empty() && options.from.is_none() {
        bail!("when specifying --keys, a configmap or secret must be provided with --from");
    }
    let mut changes = parse(options.env.iter().chain(&arguments))?;
    let cluster = common.change.place.connect.connect().await?;
    if let Some(from) = &options.from {
        changes.set.extend(variables_of(options, &cluster, from).await?);
    }
    if let Some(prefix) = &options.prefix {
        for variable in &mut changes.set {
            variable["name"] = format!("{prefix}{}", variable["name"].as_str().unwrap_or_default()).into();
        }
    }
    if options.list {
        return list(options, &cluster, &resources, &changes).await;
    }
    let edit = Edit { done: "env updated", failure: "failed to patch env update to pod template: " };
    common.each(&resources, &edit, |object, _| change(options, &changes, object)).await
}

fn parse<'a>(arguments: impl Iterator<Item = &'a String>) -> Result<Changes> {
    let mut changes = Changes::default();
    let mut lines = Vec::new();
    for argument in arguments {
        if argument == "-" {
            let mut text = String::new();
            std::io::stdin().lock().read_to_string(&mut text).context("read standard input")?;
            lines.extend(text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned));
        } else {
            lines.push(argument.clone());
        }
    }
    for line in lines {
        match line.split_once('=') {
            Some((name, value)) => {
                if name.is_empty() || name.contains(|letter: char| !letter.is_ascii_graphic()) {
                    bail!(
                        "{name:?} is not a valid key name: a valid environment variable name must consist only of printable ASCII characters other than '='"
                    );
                }
                changes.set.push(json!({"name": name, "value": value}));
            }
            None if line.ends_with('-') => changes.remove.push(line.trim_end_matches('-').to_owned()),
            None => bail!("unknown environment variable: {line}"),
        }
    }
    if changes.set.iter().any(|variable| changes.remove.iter().any(|name| variable["name"] == name.as_str())) {
        bail!("can not both modify and remove the same environment variable in the same command");
    }
    Ok(changes)
}

/// The name of a variable for a key.
fn variable_name(key: &str) -> String {
    let plain = |letter: char| if letter.is_ascii_alphanumeric() || letter == '_' { letter } else { '_' };
    let name = key.chars().map(plain).collect::<String>().to_uppercase();
    if name != key {
        eprintln!("Warning: key {key} transferred to {name}");
    }
    name
}

/// Variables that refer to the keys of ConfigMaps or Secrets.
async fn variables_of(options: &SetEnvOptions, cluster: &Cluster, from: &str) -> Result<Vec<Value>> {
    let change = &options.common.change;
    let choice = ChoiceOptions { selector: change.choice.selector.clone(), ..ChoiceOptions::default() };
    let wide = Wide { all: options.common.all, ..Wide::default() };
    let (found, errors) = chosen::objects(cluster, &change.place, &[from.to_owned()], &choice, wide).await?;
    chosen::all_fine(errors)?;
    let mut variables = Vec::new();
    for one in found {
        let reference = match one.resource.kind.as_str() {
            "Secret" => "secretKeyRef",
            "ConfigMap" => "configMapKeyRef",
            _ => bail!("unsupported resource specified in --from"),
        };
        for key in one.object["data"].as_object().into_iter().flatten().map(|(key, _)| key) {
            if options.keys.is_empty() || options.keys.contains(key) {
                let source = json!({reference: {"name": one.name, "key": key}});
                variables.push(json!({"name": variable_name(key), "valueFrom": source}));
            }
        }
    }
    Ok(variables)
}

fn change(options: &SetEnvOptions, changes: &Changes, object: &mut Value) -> Result<()> {
    let (kind, name) = (object["kind"].clone(), object["metadata"]["name"].clone());
    let found = containers(pod_spec(object)?, &options.containers);
    if found.is_empty() {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        outcome::warn(&[format!(
            "{}/{} does not have any containers matching {:?}",
            text(&kind),
            text(&name),
            options.containers
        )]);
    }
    for container in found {
        let before = container["env"].as_array().cloned().unwrap_or_default();
        if !options.overwrite {
            for variable in &changes.set {
                let known = before.iter().find(|known| known["name"] == variable["name"]);
                if let Some(known) = known.filter(|known| known["value"] != variable["value"]) {
                    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                    bail!(
                        "'{}' already has a value ({}), and --overwrite is false",
                        text(&known["name"]),
                        text(&known["value"])
                    );
                }
            }
        }
        let after = changes.applied(&before);
        match (after.is_empty(), container.as_object_mut()) {
            (true, Some(fields)) => drop(fields.remove("env")),
            _ => container["env"] = after.into(),
        }
    }
    Ok(())
}

impl Changes {
    /// The variables with the changes: a new one takes the place of all that have its name.
    fn applied(&self, before: &[Value]) -> Vec<Value> {
        let mut covered: Vec<&Value> = Vec::new();
        let mut after = Vec::new();
        let newest = |name: &Value| self.set.iter().find(|variable| variable["name"] == *name);
        for variable in before {
            let name = &variable["name"];
            if self.remove.iter().any(|gone| name == gone.as_str()) || covered.contains(&name) {
                continue;
            }
            let new = newest(name);
            covered.extend(new.map(|_| name));
            after.push(new.unwrap_or(variable).clone());
        }
        for variable in &self.set {
            if !covered.contains(&&variable["name"]) {
                covered.push(&variable["name"]);
                after.push(variable.clone());
            }
        }
        after
    }
}

async fn list(options: &SetEnvOptions, cluster: &Cluster, resources: &[String], changes: &Changes) -> Result<()> {
    let common = &options.common;
    let (found, mut errors) = common.objects(cluster, resources).await?;
    for mut one in found {
        let kind = one.resource.kind.clone();
        let namespace = one.namespace.clone().unwrap_or_default();
        for container in containers(pod_spec(&mut one.object)?, &options.containers) {
            println!("# {kind} {}, container {}", one.name, container["name"].as_str().unwrap_or_default());
            let before = container["env"].as_array().cloned().unwrap_or_default();
            let mut lost: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for variable in changes.applied(&before) {
                let name = variable["name"].as_str().unwrap_or_default();
                let Some(source) = variable.get("valueFrom") else {
                    println!("{name}={}", variable["value"].as_str().unwrap_or_default());
                    continue;
                };
                let resolved = match options.resolve {
                    true => Some(resolve(cluster, &namespace, source).await),
                    false => None,
                };
                match resolved {
                    Some(Ok(value)) => println!("{name}={value}"),
                    other => {
                        println!("# {name} from {}", reference(source));
                        if let Some(Err(error)) = other {
                            lost.entry(format!("{error:#}")).or_default().push(name.to_owned());
                        }
                    }
                }
            }
            for (error, names) in &lost {
                eprintln!("error retrieving reference for {}: {error}", names.join(", "));
            }
            if !lost.is_empty() {
                errors.push(anyhow!("failed to retrieve valueFrom references"));
            }
        }
    }
    chosen::all_fine(errors)
}

/// What a variable refers to, in kubectl's words.
fn reference(source: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let key = |kind: &str, source: &Value| format!("{kind} {}, key {}", text(&source["name"]), text(&source["key"]));
    match source.as_object().and_then(|fields| fields.iter().next()) {
        Some((kind, source)) if kind == "configMapKeyRef" => key("configmap", source),
        Some((kind, source)) if kind == "secretKeyRef" => key("secret", source),
        Some((kind, source)) if kind == "fieldRef" => format!("field path {}", text(&source["fieldPath"])),
        Some((kind, source)) if kind == "resourceFieldRef" => {
            let container = text(&source["containerName"]);
            let before = if container.is_empty() { container } else { format!("{container}/") };
            format!("resource field {before}{}", text(&source["resource"]))
        }
        _ => "invalid valueFrom".to_owned(),
    }
}

/// The value of a key of a ConfigMap or Secret. Only the node knows the values of fields and resources.
async fn resolve(cluster: &Cluster, namespace: &str, source: &Value) -> Result<String> {
    let (kind, source) =
        source.as_object().and_then(|fields| fields.iter().next()).ok_or(anyhow!("invalid valueFrom"))?;
    let plural = match kind.as_str() {
        "configMapKeyRef" => "configmaps",
        "secretKeyRef" => "secrets",
        _ => bail!("{} is known only where the pod runs", reference(&json!({kind: source}))),
    };
    let name = source["name"].as_str().unwrap_or_default();
    let path = format!("/api/v1/namespaces/{}/{plural}/{}", request::query(namespace), request::query(name));
    let object = request::send(&cluster.client, http::Method::GET, &path, None, "application/json").await;
    let object = object.map_err(words::refused)?.body;
    let key = source["key"].as_str().unwrap_or_default();
    let text = object["data"][key]
        .as_str()
        .ok_or_else(|| anyhow!("key {key} not found in {} {name}", plural.trim_end_matches('s')))?;
    if plural == "configmaps" {
        return Ok(text.to_owned());
    }
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).context("read the secret")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_of_variables() {
        let before = [json!({"name": "A", "value": "1"}), json!({"name": "B", "value": "2"})];
        let check = |line: &str, expected: Value| {
            let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(Value::from(parse(arguments.iter()).unwrap().applied(&before)), expected, "{line}");
        };
        check(
            "A=3 C=4",
            json!([{"name": "A", "value": "3"}, {"name": "B", "value": "2"}, {"name": "C", "value": "4"}]),
        );
        check("A- C=", json!([{"name": "B", "value": "2"}, {"name": "C", "value": ""}]));
        for (wrong, words) in
            [("A=1 A-", "can not both modify"), ("A", "unknown environment"), ("=x", "not a valid key")]
        {
            let arguments: Vec<String> = wrong.split(' ').map(str::to_owned).collect();
            assert!(parse(arguments.iter()).unwrap_err().to_string().contains(words), "{wrong}");
        }
        assert_eq!(variable_name("a.b-c"), "A_B_C");
    }
}
