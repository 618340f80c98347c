//! `kobune completion`: what a shell needs to complete command lines. The shells ask the program itself (`kobune __complete`),
//! so that kinds, names, namespaces and contexts come from where they are.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{ArgAction, Args, Command, ValueEnum};
use http::Method;

use super::outcome;
use crate::connect::ConnectOptions;
use crate::discovery::Discovery;
use crate::request;

/// A shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU bash
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
    /// PowerShell
    Powershell,
}

/// The arguments of `completion`.
#[derive(Debug, Clone, Args)]
pub struct CompletionOptions {
    /// For which shell
    pub shell: Shell,
}

/// How long a shell waits for a server.
const PATIENCE: Duration = Duration::from_secs(3);

/// Tells a shell to complete names of files.
const FILES: &str = ":files";

/// Prints the script of a shell; it goes where the shell's own documentation says, or through
/// `source <(kobune completion bash)`.
pub fn completion(options: &CompletionOptions) -> Result<ExitCode> {
    outcome::write(match options.shell {
        Shell::Bash => include_str!("completion/bash.sh"),
        Shell::Zsh => include_str!("completion/zsh.sh"),
        Shell::Fish => include_str!("completion/fish.fish"),
        Shell::Powershell => include_str!("completion/powershell.ps1"),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// What a value of some argument is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    /// One of these.
    Words(Vec<(String, String)>),
    /// A file.
    File,
    /// A kind, or a kind with a name behind a slash.
    Kind,
    /// The name of an object of a kind.
    Name(String),
    /// A namespace.
    Namespace,
    /// A context of the kubeconfig.
    Context,
    /// Nothing that is known here.
    Nothing,
}

/// Verbs whose arguments are kinds and names.
const OF_KINDS: &[&str] = &[
    "annotate", "delete", "describe", "edit", "expose", "get", "label", "patch", "restart", "history", "pause",
    "resume", "scale", "status", "undo", "wait",
];

/// Verbs whose first argument is a pod.
const OF_PODS: &[&str] = &["attach", "cp", "exec", "logs", "port-forward"];

/// Prints what may stand at the end of a command line.
pub async fn complete(command: Command, words: &[String]) -> Result<ExitCode> {
    let (typed, before) = words.split_last().map_or(("", words), |(last, before)| (last.as_str(), before));
    let (wanted, namespace) = wanted(&command, before, typed);
    let found = match wanted {
        Wanted::Words(words) => words,
        Wanted::File => vec![(FILES.to_owned(), String::new())],
        Wanted::Nothing => Vec::new(),
        // A shell shows nothing when the server does not answer; an error in the middle of a line helps nobody.
        asked => tokio::time::timeout(PATIENCE, from_elsewhere(asked, typed, namespace))
            .await
            .ok()
            .and_then(Result::ok)
            .unwrap_or_default(),
    };
    let lines = found.into_iter().filter(|(word, _)| word.starts_with(typed) || word == FILES).map(|(word, about)| {
        let about = about.replace(['\t', '\n'], " ");
        if about.is_empty() { format!("{word}\n") } else { format!("{word}\t{about}\n") }
    });
    outcome::write(&lines.collect::<String>())?;
    Ok(ExitCode::SUCCESS)
}

/// What is wanted after these words, and in which namespace.
fn wanted(root: &Command, before: &[String], typed: &str) -> (Wanted, Option<String>) {
    let mut command = root;
    let mut arguments: Vec<&str> = Vec::new();
    let mut namespace = None;
    let mut words = before.iter().map(String::as_str).peekable();
    while let Some(word) = words.next() {
        if let Some(flag) = flag(command, word) {
            let (takes, given) = (takes_value(flag), word.split_once('=').map(|(_, value)| value));
            let value = match given {
                Some(value) => Some(value),
                None if takes => match words.next() {
                    Some(value) => Some(value),
                    // The value is what is being typed.
                    None => return (value_of(flag), namespace),
                },
                None => None,
            };
            if flag.get_id() == "namespace" {
                namespace = value.map(str::to_owned);
            }
        } else if let Some(below) = command.find_subcommand(word).filter(|_| arguments.is_empty()) {
            command = below;
        } else if !word.starts_with('-') {
            arguments.push(word);
        }
    }
    if typed.starts_with('-') {
        let flags = command.get_arguments().chain(root.get_arguments().filter(|flag| flag.is_global_set()));
        let flags = flags.filter(|flag| !flag.is_positional() && !flag.is_hide_set());
        let named = flags.filter_map(|flag| Some((format!("--{}", flag.get_long()?), about(flag.get_help()))));
        return (Wanted::Words(named.collect()), namespace);
    }
    let below = command.get_subcommands().filter(|below| !below.is_hide_set());
    let below: Vec<(String, String)> =
        below.map(|below| (below.get_name().to_owned(), about(below.get_about()))).collect();
    if arguments.is_empty() && !below.is_empty() {
        return (Wanted::Words(below), namespace);
    }
    let name = command.get_name();
    let wanted = match arguments.as_slice() {
        [] if OF_KINDS.contains(&name) || name == "explain" => Wanted::Kind,
        [kind, ..] if OF_KINDS.contains(&name) && !kind.contains(['/', ',']) => Wanted::Name((*kind).to_owned()),
        [_, ..] if OF_KINDS.contains(&name) => Wanted::Kind,
        [] if OF_PODS.contains(&name) => Wanted::Name("pods".to_owned()),
        [] if matches!(name, "use-context" | "delete-context" | "rename-context" | "set-context") => Wanted::Context,
        _ => command.get_positionals().nth(arguments.len()).map_or(Wanted::Nothing, value_of),
    };
    (wanted, namespace)
}

fn about(text: Option<&clap::builder::StyledStr>) -> String {
    text.map(|text| text.to_string().lines().next().unwrap_or_default().to_owned()).unwrap_or_default()
}

/// The flag that a word is.
fn flag<'c>(command: &'c Command, word: &str) -> Option<&'c clap::Arg> {
    let name = word.split('=').next().unwrap_or(word);
    command.get_arguments().find(|flag| match (name.strip_prefix("--"), name.strip_prefix('-')) {
        (Some(long), _) => flag.get_long() == Some(long),
        (None, Some(short)) => short.chars().count() == 1 && flag.get_short() == short.chars().next(),
        _ => false,
    })
}

fn takes_value(flag: &clap::Arg) -> bool {
    matches!(flag.get_action(), ArgAction::Set | ArgAction::Append) && !flag.is_require_equals_set()
}

/// What an argument's value is.
fn value_of(argument: &clap::Arg) -> Wanted {
    match argument.get_id().as_str() {
        "namespace" => return Wanted::Namespace,
        "context" => return Wanted::Context,
        "filename" | "kubeconfig" => return Wanted::File,
        _ => {}
    }
    let values = argument.get_possible_values();
    if !values.is_empty() {
        let words = values.iter().map(|value| (value.get_name().to_owned(), about(value.get_help())));
        return Wanted::Words(words.collect());
    }
    let names = argument.get_value_names().unwrap_or_default();
    let is_file = names.iter().any(|name| name.contains("FILE") || name.contains("DIR"));
    if is_file { Wanted::File } else { Wanted::Nothing }
}

/// What only the cluster or the kubeconfig knows.
async fn from_elsewhere(wanted: Wanted, typed: &str, namespace: Option<String>) -> Result<Vec<(String, String)>> {
    let connect = ConnectOptions::default();
    if wanted == Wanted::Context {
        let kubeconfig = kube::config::Kubeconfig::read()?;
        return Ok(kubeconfig.contexts.into_iter().map(|context| (context.name, String::new())).collect());
    }
    let cluster = connect.connect().await?;
    let discovery = Discovery::ask(&cluster.client).await?;
    let namespace = namespace.or_else(|| cluster.namespace.clone()).unwrap_or_else(|| "default".to_owned());
    let (kind, prefix) = match &wanted {
        Wanted::Namespace => ("namespaces".to_owned(), String::new()),
        Wanted::Name(kind) => (kind.clone(), String::new()),
        _ => match typed.split_once('/') {
            Some((kind, _)) => (kind.to_owned(), format!("{kind}/")),
            None => {
                let listed = discovery.resources().iter().filter(|resource| resource.can("list"));
                let mut kinds: Vec<(String, String)> =
                    listed.map(|resource| (resource.plural.clone(), resource.api_version())).collect();
                kinds.sort();
                kinds.dedup_by(|one, other| one.0 == other.0);
                return Ok(kinds);
            }
        },
    };
    let Some(resource) = discovery.by_name(&kind) else { return Ok(Vec::new()) };
    // Names are all that is asked for.
    const NAMES: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json";
    let path = format!("{}?limit=500", resource.path(Some(&namespace)));
    let answer = request::send(&cluster.client, Method::GET, &path, None, NAMES).await?;
    let items = answer.body["items"].as_array().into_iter().flatten();
    let names = items.filter_map(|item| item["metadata"]["name"].as_str().or(item["name"].as_str()));
    Ok(names.map(|name| (format!("{prefix}{name}"), String::new())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Arg, Parser as _};

    #[derive(clap::Parser)]
    #[command(name = "kobune", version, propagate_version = true)]
    enum Program {
        /// Print objects
        Get(crate::GetOptions),
        /// Print what containers say
        Logs(crate::LogsOptions),
        /// Look at kubeconfigs
        #[command(subcommand)]
        Config(crate::KubeconfigCommand),
        /// Print a script
        Completion(CompletionOptions),
        /// Make objects
        Create(Box<crate::CreateOptions>),
    }

    #[test]
    fn what_may_come_next() {
        let check = |words: &[&str], expected: Wanted| {
            let mut words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            let typed = words.pop().unwrap_or_default();
            use clap::CommandFactory as _;
            let mut command = Program::command();
            command.build();
            assert_eq!(wanted(&command, &words, &typed).0, expected, "{words:?} {typed}");
        };
        check(&["get", ""], Wanted::Kind);
        check(&["get", "pods", ""], Wanted::Name("pods".to_owned()));
        check(&["get", "-A", "--sort-by", "x", "pods", ""], Wanted::Name("pods".to_owned()));
        check(&["get", "pods/a", ""], Wanted::Kind);
        check(&["get", "-n", ""], Wanted::Namespace);
        check(&["get", "--context", ""], Wanted::Context);
        check(&["get", "--kubeconfig", ""], Wanted::File);
        check(&["create", "-f", ""], Wanted::File);
        check(&["logs", ""], Wanted::Name("pods".to_owned()));
        check(&["config", "use-context", ""], Wanted::Context);
        check(&["create", "token", ""], Wanted::Nothing);
        let words = |words: &[&str]| {
            let (typed, before) = words.split_last().unwrap();
            let before: Vec<String> = before.iter().map(|&word| word.to_owned()).collect();
            use clap::CommandFactory as _;
            let mut command = Program::command();
            command.build();
            match wanted(&command, &before, typed).0 {
                Wanted::Words(found) => found.into_iter().map(|(word, _)| word).collect::<Vec<_>>(),
                other => panic!("{other:?}"),
            }
        };
        assert!(words(&[""]).contains(&"get".to_owned()));
        assert!(words(&["get", "-"]).contains(&"--all-namespaces".to_owned()));
        assert!(words(&["config", ""]).contains(&"use-context".to_owned()));
        assert!(words(&["create", ""]).contains(&"deployment".to_owned()));
        assert_eq!(words(&["completion", ""]), ["bash", "zsh", "fish", "powershell"]);
        assert_eq!(words(&["create", "cm", "x", "--dry-run", ""]), ["none", "client", "server"]);
        assert!(flag(&Command::new("x").arg(Arg::new("a").short('a').long("all")), "-a").is_some());
        assert!(Program::try_parse_from(["kobune", "completion", "bash"]).is_ok());
        assert!(value_of(&Arg::new("x")) == Wanted::Nothing);
    }
}
