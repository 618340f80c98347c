//! `kobune label` and `kobune annotate` (`k8s.io/kubectl/pkg/cmd/label`, `pkg/cmd/annotate`).

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use kobune_kinds::name;
use serde_json::{Value, json};

use super::chosen::{self, ChangeOptions, Chosen, Wide};
use super::print::Printer;
use super::words::{self, ending};
use crate::connect::Cluster;
use crate::request;

/// The flags of `label` and `annotate`.
#[derive(Debug, Clone, Args)]
pub struct MarkOptions {
    /// TYPE NAME..., TYPE/NAME..., or TYPE with -l or --all; then KEY=VALUE to set and KEY- to remove
    #[arg(value_name = "TYPE[/NAME] [NAME...] KEY=VALUE|KEY-...")]
    pub arguments: Vec<String>,
    /// Change what has another value already
    #[arg(long)]
    pub overwrite: bool,
    /// Print what is there in the end
    #[arg(long)]
    pub list: bool,
    /// All objects of the namespace
    #[arg(long)]
    pub all: bool,
    /// Objects of all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Only objects with these fields
    #[arg(long, value_name = "SELECTOR")]
    pub field_selector: Option<String>,
    /// Only if the object is at this version
    #[arg(long, value_name = "VERSION")]
    pub resource_version: Option<String>,
    /// What all verbs have that change objects.
    #[command(flatten)]
    pub change: ChangeOptions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Label,
    Annotation,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Label => "label",
            Kind::Annotation => "annotation",
        }
    }

    fn field(self) -> &'static str {
        match self {
            Kind::Label => "labels",
            Kind::Annotation => "annotations",
        }
    }
}

/// What becomes of labels or annotations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Changes {
    set: BTreeMap<String, String>,
    remove: Vec<String>,
}

/// Changes labels.
pub async fn label(options: MarkOptions) -> Result<ExitCode> {
    ending(run(&options, Kind::Label).await.map(|()| ExitCode::SUCCESS))
}

/// Changes annotations.
pub async fn annotate(options: MarkOptions) -> Result<ExitCode> {
    ending(run(&options, Kind::Annotation).await.map(|()| ExitCode::SUCCESS))
}

async fn run(options: &MarkOptions, kind: Kind) -> Result<()> {
    let (resources, changes) = parse(&options.arguments, kind)?;
    for (given, flag) in
        [(options.change.choice.selector.is_some(), "selector"), (options.field_selector.is_some(), "field-selector")]
    {
        if options.all && given {
            bail!("cannot set --all and --{flag} at the same time");
        }
    }
    if resources.is_empty() && options.change.choice.files.is_empty() {
        bail!("one or more resources must be specified as <resource> <name> or <resource>/<name>");
    }
    if changes == Changes::default() && !options.list {
        bail!("at least one {} update is required", kind.word());
    }
    let printer = options.change.print.printer()?;
    let cluster = options.change.place.connect.connect().await?;
    let wide =
        Wide { all: options.all, all_namespaces: options.all_namespaces, fields: options.field_selector.as_deref() };
    let (found, mut errors) =
        chosen::objects(&cluster, &options.change.place, &resources, &options.change.choice, wide).await?;
    if options.resource_version.is_some() && found.len() != 1 {
        bail!("--resource-version may only be used with a single resource");
    }
    let single = found.len() == 1;
    for one in &found {
        errors.extend(change(options, kind, (&cluster, &printer), one, &changes, single).await.err());
    }
    chosen::all_fine(errors)
}

async fn change(
    options: &MarkOptions,
    kind: Kind,
    (cluster, printer): (&Cluster, &Printer),
    one: &Chosen,
    changes: &Changes,
    single: bool,
) -> Result<()> {
    let now = &one.object["metadata"][kind.field()];
    if !options.overwrite {
        changes.check(now, kind)?;
    }
    let (patch, done) = changes.against(now, kind);
    if options.list {
        let mut all = now.as_object().cloned().unwrap_or_default();
        all.extend(patch);
        if !single {
            println!("Listing {} for {}.{}/{}:", kind.field(), one.resource.kind, one.resource.group, one.name);
        }
        for (name, value) in all.iter().filter(|(_, value)| !value.is_null()) {
            println!("{}{name}={}", if single { "" } else { " " }, value.as_str().unwrap_or_default());
        }
        return Ok(());
    }
    let mut after = one.object.clone();
    if options.change.dry_run.is_here() {
        merge(&mut after["metadata"], kind.field(), &patch);
    } else {
        if kind == Kind::Label && printer.says() {
            for name in changes.remove.iter().filter(|name| now.get(name.as_str()).is_none()) {
                println!("label {name:?} not found.");
            }
        }
        if !patch.is_empty() {
            let mut body = json!({"metadata": {kind.field(): patch}});
            if let Some(version) = &options.resource_version {
                body["metadata"]["resourceVersion"] = version.as_str().into();
            }
            let verb = if kind == Kind::Label { "label" } else { "annotate" };
            after =
                options.change.patch(cluster, one, request::MERGE_PATCH, &body, verb).await.map_err(words::refused)?;
        }
    }
    options.change.print(printer, &after, done)
}

/// Merges labels or annotations into metadata, as the server would.
fn merge(metadata: &mut Value, field: &str, patch: &serde_json::Map<String, Value>) {
    let mut all = metadata[field].as_object().cloned().unwrap_or_default();
    for (name, value) in patch {
        match value {
            Value::Null => drop(all.remove(name)),
            value => drop(all.insert(name.clone(), value.clone())),
        }
    }
    metadata[field] = all.into();
}

/// Splits arguments into what is chosen and what is changed.
fn parse(arguments: &[String], kind: Kind) -> Result<(Vec<String>, Changes)> {
    let (mut resources, mut pairs) = (Vec::new(), Vec::new());
    for argument in arguments {
        let pair =
            (argument.contains('=') && !argument.starts_with('=')) || (argument.ends_with('-') && argument != "-");
        match (pair, pairs.is_empty()) {
            (true, _) => pairs.push(argument.as_str()),
            (false, true) => resources.push(argument.clone()),
            (false, false) => bail!("all resources must be specified before {} changes: {argument}", kind.word()),
        }
    }
    let mut changes = Changes::default();
    for pair in pairs {
        match pair.split_once('=') {
            None => changes.remove.push(pair.strip_suffix('-').unwrap_or(pair).to_owned()),
            Some((_, value)) if kind == Kind::Label && value.contains('=') => bail!("invalid label spec: {pair}"),
            Some((name, value)) => {
                let wrong = if kind == Kind::Label { name::label_value(value) } else { Vec::new() };
                if !wrong.is_empty() {
                    bail!("invalid label value: {pair:?}: {}", wrong.join(";"));
                }
                changes.set.insert(name.to_owned(), value.to_owned());
            }
        }
    }
    let both: Vec<&str> =
        changes.remove.iter().filter(|name| changes.set.contains_key(*name)).map(String::as_str).collect();
    match kind {
        _ if both.is_empty() => Ok((resources, changes)),
        Kind::Label => bail!("can not both modify and remove a label in the same command"),
        Kind::Annotation => {
            bail!("can not both modify and remove the following annotation(s) in the same command: {}", both.join(", "))
        }
    }
}

impl Changes {
    /// Fails where something has another value already.
    fn check(&self, now: &Value, kind: Kind) -> Result<()> {
        let taken = self.set.iter().filter_map(|(name, value)| {
            let old = now[name.as_str()].as_str().filter(|old| old != value)?;
            // Why something changed last is meant to be written over.
            (name != "kubernetes.io/change-cause" || kind == Kind::Label)
                .then(|| format!("'{name}' already has a value ({old})"))
        });
        let taken: Vec<String> = taken.collect();
        match (kind, taken.as_slice()) {
            (_, []) => Ok(()),
            (Kind::Annotation, taken) => {
                bail!("--overwrite is false but found the following declared annotation(s): {}", taken.join("; "))
            }
            (Kind::Label, taken) => {
                let all: Vec<String> = taken.iter().map(|one| format!("{one}, and --overwrite is false")).collect();
                Err(anyhow!(if all.len() == 1 { all.concat() } else { format!("[{}]", all.join(", ")) }))
            }
        }
    }

    /// What is new to an object, as a merge patch has it, and what is said of it.
    fn against(&self, now: &Value, kind: Kind) -> (serde_json::Map<String, Value>, &'static str) {
        let set = self.set.iter().filter(|(name, value)| now[name.as_str()] != value.as_str());
        let mut patch: serde_json::Map<String, Value> =
            set.map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        let added = !patch.is_empty();
        let gone = self.remove.iter().filter(|name| now.get(name.as_str()).is_some());
        let gone: Vec<(String, Value)> = gone.map(|name| (name.clone(), Value::Null)).collect();
        let removed = !gone.is_empty();
        patch.extend(gone);
        let done = match (kind, added, removed) {
            (Kind::Annotation, ..) => "annotated",
            (_, true, true) => "modified",
            (_, true, false) => "labeled",
            (_, false, true) => "unlabeled",
            (_, false, false) => "not labeled",
        };
        (patch, done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str, kind: Kind) -> Result<(Vec<String>, Changes)> {
        let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
        parse(&arguments, kind)
    }

    #[test]
    fn what_arguments_mean() {
        let (resources, changes) = parsed("pods a b x=1 y- z=", Kind::Label).unwrap();
        assert_eq!(resources, ["pods", "a", "b"]);
        assert_eq!(changes.set, BTreeMap::from([("x".to_owned(), "1".to_owned()), ("z".to_owned(), String::new())]));
        assert_eq!(changes.remove, ["y"]);
        let check = |line: &str, kind: Kind, words: &str| {
            assert!(parsed(line, kind).unwrap_err().to_string().contains(words), "{line}");
        };
        check("pods x=1 a", Kind::Label, "all resources must be specified before label changes: a");
        check("pods a x=1 x-", Kind::Label, "can not both modify and remove a label");
        check("pods a x=1 x-", Kind::Annotation, "annotation(s) in the same command: x");
        check("pods a x=a=b", Kind::Label, "invalid label spec: x=a=b");
        check("pods a x=a/b", Kind::Label, "invalid label value: \"x=a/b\"");
        assert_eq!(parsed("pods a x=a=b", Kind::Annotation).unwrap().1.set["x"], "a=b");
    }

    #[test]
    fn what_is_changed() {
        let now = json!({"old": "1", "same": "2"});
        let check = |line: &str, patch: Value, done: &str| {
            let (_, changes) = parsed(line, Kind::Label).unwrap();
            assert_eq!(changes.against(&now, Kind::Label), (patch.as_object().unwrap().clone(), done), "{line}");
        };
        check("x new=1", json!({"new": "1"}), "labeled");
        check("x old-", json!({"old": null}), "unlabeled");
        check("x old- new=1", json!({"old": null, "new": "1"}), "modified");
        check("x same=2 none-", json!({}), "not labeled");
        let (_, changes) = parsed("x old=2 same=3", Kind::Label).unwrap();
        assert_eq!(
            changes.check(&now, Kind::Label).unwrap_err().to_string(),
            "['old' already has a value (1), and --overwrite is false, 'same' already has a value (2), and --overwrite is false]"
        );
        let words = "--overwrite is false but found the following declared annotation(s): 'old' already has a value (1); 'same' already has a value (2)";
        assert_eq!(changes.check(&now, Kind::Annotation).unwrap_err().to_string(), words);
    }
}
