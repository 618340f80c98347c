//! `kobune taint`: what keeps pods away from nodes (`k8s.io/kubectl/pkg/cmd/taint`).

use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use kobune_kinds::name;
use serde_json::{Value, json};

use super::PlaceOptions;
use super::chosen::{self, ChoiceOptions, Wide};
use super::create::DryRun;
use super::words::{self, ending};
use crate::request;

/// The flags of `taint`.
#[derive(Debug, Clone, Args)]
pub struct TaintOptions {
    /// nodes NAME..., or nodes with -l or --all; then KEY=VALUE:EFFECT to set and KEY[:EFFECT]- to remove
    #[arg(value_name = "nodes [NAME...] KEY=VALUE:EFFECT|KEY[:EFFECT]-...")]
    pub arguments: Vec<String>,
    /// Nodes with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// All nodes
    #[arg(long)]
    pub all: bool,
    /// Change taints that are there already
    #[arg(long)]
    pub overwrite: bool,
    /// Only let the server say whether it would work
    #[arg(long, value_enum, value_name = "WHERE", default_value = "none")]
    pub dry_run: DryRun,
    /// Where.
    #[command(flatten)]
    pub place: PlaceOptions,
}

/// What is set or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Taint {
    key: String,
    value: String,
    effect: String,
}

impl Taint {
    fn parse(text: &str) -> Result<Taint> {
        let parts: Vec<&str> = text.split(':').collect();
        let (head, effect) = match parts.as_slice() {
            [head] => (*head, ""),
            [head, effect] => (*head, *effect),
            _ => bail!("invalid taint spec: {text}"),
        };
        if parts.len() == 2 && !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
            bail!("invalid taint effect: {effect}, unsupported taint effect");
        }
        let (key, value) = match head.split_once('=') {
            Some((_, value)) if value.contains('=') => bail!("invalid taint spec: {text}"),
            Some((key, value)) if parts.len() == 2 => (key, value),
            _ => (head, ""),
        };
        let mut wrong = name::label_value(value);
        if wrong.is_empty() {
            wrong = name::qualified_name(key);
        }
        if !wrong.is_empty() {
            bail!("invalid taint spec: {text}, {}", wrong.join("; "));
        }
        Ok(Taint { key: key.to_owned(), value: value.to_owned(), effect: effect.to_owned() })
    }

    fn shown(&self) -> String {
        match self.effect.as_str() {
            "" => self.key.clone(),
            effect => format!("{}:{effect}", self.key),
        }
    }

    /// Whether an object's taint is the one that is meant.
    fn is(&self, taint: &Value) -> bool {
        taint["key"] == self.key.as_str() && (self.effect.is_empty() || taint["effect"] == self.effect.as_str())
    }

    fn object(&self) -> Value {
        let mut taint = json!({"key": self.key, "effect": self.effect});
        if !self.value.is_empty() {
            taint["value"] = self.value.as_str().into();
        }
        taint
    }
}

/// Changes taints.
pub async fn taint(options: TaintOptions) -> Result<ExitCode> {
    ending(run(&options).await.map(|()| ExitCode::SUCCESS))
}

async fn run(options: &TaintOptions) -> Result<()> {
    let (resources, set, remove) = parse(&options.arguments)?;
    if !matches!(resources[0].to_lowercase().as_str(), "node" | "nodes" | "no") {
        bail!("invalid resource type {}, only node types are supported", resources[0]);
    }
    if options.all && options.selector.is_some() {
        bail!("setting 'all' parameter with a non empty selector is prohibited");
    }
    let named = !options.all && options.selector.is_none();
    if named && resources.len() < 2 {
        bail!("at least one resource name must be specified since 'all' parameter is not set");
    }
    let dry = chosen::only_server(options.dry_run)?;
    let cluster = options.place.connect.connect().await?;
    let choice = ChoiceOptions { selector: options.selector.clone(), ..ChoiceOptions::default() };
    let wide = Wide { all: options.all, ..Wide::default() };
    let arguments = if named { resources.as_slice() } else { &resources[..1] };
    let (found, mut errors) = chosen::objects(&cluster, &options.place, arguments, &choice, wide).await?;
    for one in &found {
        let now = one.object["spec"]["taints"].as_array().map(Vec::as_slice).unwrap_or_default();
        let (taints, done) = match plan(&one.name, now, &set, &remove, options.overwrite) {
            Ok(planned) => planned,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        let taints = if taints.is_empty() { Value::Null } else { taints.into() };
        let patch = json!({"spec": {"taints": taints}});
        match chosen::patch(&cluster, one, request::MERGE_PATCH, &patch, "kobune-taint", dry).await {
            // kubectl does not say here that it was only tried.
            Ok(_) => println!("{} {done}", one.label()),
            Err(error) => errors.push(words::refused(error)),
        }
    }
    chosen::all_fine(errors)
}

fn parse(arguments: &[String]) -> Result<(Vec<String>, Vec<Taint>, Vec<Taint>)> {
    let (mut resources, mut specs) = (Vec::new(), Vec::new());
    for argument in arguments {
        let taint = argument.contains(['=', ':']) || argument.ends_with('-');
        match (taint, specs.is_empty()) {
            (true, _) => specs.push(argument.as_str()),
            (false, true) => resources.push(argument.clone()),
            (false, false) => bail!("all resources must be specified before taint changes: {argument}"),
        }
    }
    if resources.is_empty() {
        bail!("one or more resources must be specified as <resource> <name>");
    }
    if specs.is_empty() {
        bail!("at least one taint update is required");
    }
    let usage = |error: anyhow::Error| anyhow!("{error}\nSee 'kobune taint -h' for help and examples");
    let (mut set, mut remove): (Vec<Taint>, Vec<Taint>) = (Vec::new(), Vec::new());
    for spec in specs {
        if let Some(spec) = spec.strip_suffix('-') {
            remove.push(Taint::parse(spec).map_err(usage)?);
            continue;
        }
        let taint = Taint::parse(spec).map_err(usage)?;
        if taint.effect.is_empty() {
            return Err(usage(anyhow!("invalid taint spec: {spec}")));
        }
        if set.iter().any(|other| other.key == taint.key && other.effect == taint.effect) {
            return Err(usage(anyhow!("duplicated taints with the same key and effect: {spec}")));
        }
        set.push(taint);
    }
    let both = |remove: &&Taint| {
        set.iter().any(|set| set.key == remove.key && (remove.effect.is_empty() || set.effect == remove.effect))
    };
    let both: Vec<String> =
        remove.iter().filter(both).map(|remove| format!("{}={}", remove.key, remove.effect)).collect();
    if !both.is_empty() {
        bail!("can not both modify and remove the following taint(s) in the same command: {}", both.join(", "));
    }
    Ok((resources, set, remove))
}

/// The taints that a node has in the end, and what is said of it.
fn plan(
    node: &str,
    now: &[Value],
    set: &[Taint],
    remove: &[Taint],
    overwrite: bool,
) -> Result<(Vec<Value>, &'static str)> {
    let there = |taint: &&Taint| now.iter().any(|old| taint.is(old));
    let taken: Vec<&str> = set.iter().filter(there).map(|taint| taint.key.as_str()).collect();
    if !overwrite && !taken.is_empty() {
        bail!("node {node} already has {} taint(s) with same effect(s) and --overwrite is false", taken.join(","));
    }
    let mut taints: Vec<Value> = set.iter().map(Taint::object).collect();
    taints.extend(now.iter().filter(|old| !set.iter().any(|taint| taint.is(old))).cloned());
    let added = taints.len() != now.len();
    let mut removed = false;
    let mut missing = Vec::new();
    for taint in remove {
        let before = taints.len();
        taints.retain(|old| !taint.is(old));
        removed = taints.len() != before;
        if !removed {
            missing.push(format!("taint {:?} not found", taint.shown()));
        }
    }
    match missing.as_slice() {
        [] => {}
        [one] => bail!("{one}"),
        many => bail!("[{}]", many.join(", ")),
    }
    Ok((
        taints,
        match (added && removed || overwrite, added) {
            (true, _) => "modified",
            (_, true) => "tainted",
            _ => "untainted",
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<(Vec<String>, Vec<Taint>, Vec<Taint>)> {
        parse(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn what_arguments_mean() {
        let (resources, set, remove) = parsed("nodes a x=1:NoSchedule y:NoExecute z- w:NoExecute-").unwrap();
        assert_eq!(resources, ["nodes", "a"]);
        assert_eq!(set.iter().map(Taint::shown).collect::<Vec<_>>(), ["x:NoSchedule", "y:NoExecute"]);
        assert_eq!(
            (set[0].value.as_str(), remove[0].shown().as_str(), remove[1].shown().as_str()),
            ("1", "z", "w:NoExecute")
        );
        let check = |line: &str, words: &str| {
            let error = parsed(line).unwrap_err().to_string();
            assert!(error.contains(words), "{line}: {error}");
        };
        check("nodes a x=1:Never", "invalid taint effect: Never, unsupported taint effect");
        check("nodes a x=1", "invalid taint spec: x=1");
        check("nodes a", "at least one taint update is required");
        check("nodes a x:NoExecute x:NoExecute-", "following taint(s) in the same command: x=NoExecute");
        check("nodes a x:NoExecute x=2:NoExecute", "duplicated taints");
        check("nodes a x:NoExecute b", "before taint changes: b");
        check("nodes a x=a/b:NoExecute", "invalid taint spec: x=a/b:NoExecute, ");
    }

    #[test]
    fn what_comes_of_it() {
        let now = [json!({"key": "old", "effect": "NoSchedule", "value": "1"})];
        let check = |line: &str, overwrite: bool, expected: Result<(Value, &str), &str>| {
            let (_, set, remove) = parsed(line).unwrap();
            match (plan("n", &now, &set, &remove, overwrite), expected) {
                (Ok((taints, done)), Ok((expected, words))) => {
                    assert_eq!((Value::from(taints), done), (expected, words), "{line}")
                }
                (Err(error), Err(words)) => assert_eq!(error.to_string(), words),
                (got, expected) => panic!("{line}: {got:?} is not {expected:?}"),
            }
        };
        let new = json!({"key": "new", "effect": "NoExecute"});
        check("nodes n new:NoExecute", false, Ok((json!([new, now[0]]), "tainted")));
        check("nodes n old-", false, Ok((json!([]), "untainted")));
        check("nodes n old:NoExecute-", false, Err("taint \"old:NoExecute\" not found"));
        let taken = "node n already has old taint(s) with same effect(s) and --overwrite is false";
        check("nodes n old=2:NoSchedule", false, Err(taken));
        let other = json!({"key": "old", "effect": "NoSchedule", "value": "2"});
        check("nodes n old=2:NoSchedule", true, Ok((json!([other]), "modified")));
    }
}
