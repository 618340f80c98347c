//! `kobune config`: looks at kubeconfigs and changes them, as `kubectl config` does (`k8s.io/kubectl/pkg/cmd/config`).

mod edit;
mod files;
mod normal;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use clap::{Args, Subcommand};
use serde_json::Value;

use super::outcome;
use super::print::{Format, PrintOptions};
use crate::table;
use files::{Kubeconfigs, Section};

/// Which kubeconfig.
#[derive(Debug, Clone, Default, Args)]
pub struct FileOptions {
    /// The kubeconfig to use [default: KUBECONFIG, then ~/.kube/config]
    #[arg(long, value_name = "FILE", global = true)]
    pub kubeconfig: Option<PathBuf>,
}

/// What can be done with kubeconfigs.
#[derive(Debug, Clone, Subcommand)]
pub enum KubeconfigCommand {
    /// Print the kubeconfig, without its secrets unless they are asked for
    View(ViewOptions),
    /// Print the name of the current context
    CurrentContext(FileOptions),
    /// List contexts
    GetContexts(GetContextsOptions),
    /// List clusters
    GetClusters(FileOptions),
    /// List users
    GetUsers(FileOptions),
    /// Make a context the current one
    #[command(visible_alias = "use")]
    UseContext(NameOptions),
    /// Set fields of a context
    SetContext(edit::SetContextOptions),
    /// Set fields of a cluster
    SetCluster(edit::SetClusterOptions),
    /// Set fields of a user
    SetCredentials(edit::SetCredentialsOptions),
    /// Give a context another name
    RenameContext(RenameOptions),
    /// Take a context away
    DeleteContext(NameOptions),
    /// Take a cluster away
    DeleteCluster(NameOptions),
    /// Take a user away
    DeleteUser(NameOptions),
}

/// The flags of `config view`.
#[derive(Debug, Clone, Args)]
pub struct ViewOptions {
    /// Only what the current context needs
    #[arg(long)]
    pub minify: bool,
    /// With certificates, keys, tokens and passwords
    #[arg(long)]
    pub raw: bool,
    /// With the content of the files that are named, so that it can be carried elsewhere
    #[arg(long)]
    pub flatten: bool,
    /// The context that counts as the current one with --minify
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// How to print; YAML where nobody says.
    #[command(flatten)]
    pub print: PrintOptions,
    /// Of which file.
    #[command(flatten)]
    pub file: FileOptions,
}

/// The flags of `config get-contexts`.
#[derive(Debug, Clone, Args)]
pub struct GetContextsOptions {
    /// Only these
    pub names: Vec<String>,
    /// How to print: name
    #[arg(short, long, value_name = "FORMAT", value_parser = ["name"])]
    pub output: Option<String>,
    /// Leave the headings out
    #[arg(long)]
    pub no_headers: bool,
    /// Of which file.
    #[command(flatten)]
    pub file: FileOptions,
}

/// A name.
#[derive(Debug, Clone, Args)]
pub struct NameOptions {
    /// Its name
    pub name: String,
    /// In which file.
    #[command(flatten)]
    pub file: FileOptions,
}

/// The arguments of `config rename-context`.
#[derive(Debug, Clone, Args)]
pub struct RenameOptions {
    /// The context
    pub name: String,
    /// The name that it gets
    pub new_name: String,
    /// In which file.
    #[command(flatten)]
    pub file: FileOptions,
}

/// Looks at kubeconfigs or changes them.
pub fn kubeconfig(command: KubeconfigCommand) -> ExitCode {
    run(command).unwrap_or_else(|error| outcome::tell(&format!("{error:#}")))
}

fn run(command: KubeconfigCommand) -> Result<ExitCode> {
    match command {
        KubeconfigCommand::View(options) => view(&options),
        KubeconfigCommand::CurrentContext(file) => {
            let name = Kubeconfigs::read(&file)?.current_context();
            if name.is_empty() {
                bail!("current-context is not set");
            }
            said(&format!("{name}\n"))
        }
        KubeconfigCommand::GetContexts(options) => get_contexts(&options),
        KubeconfigCommand::GetClusters(file) => names(&file, Section::Clusters),
        KubeconfigCommand::GetUsers(file) => names(&file, Section::Users),
        KubeconfigCommand::UseContext(options) => {
            let mut files = Kubeconfigs::lock(&options.file)?;
            if files.entry(Section::Contexts, &options.name).is_none() {
                bail!("no context exists with the name: {:?}", options.name);
            }
            files.set_current_context(&options.name);
            files.write()?;
            said(&format!("Switched to context {:?}.\n", options.name))
        }
        KubeconfigCommand::SetContext(options) => said(&options.run()?),
        KubeconfigCommand::SetCluster(options) => said(&options.run()?),
        KubeconfigCommand::SetCredentials(options) => said(&options.run()?),
        KubeconfigCommand::RenameContext(options) => rename(&options),
        KubeconfigCommand::DeleteContext(options) => delete(&options, Section::Contexts),
        KubeconfigCommand::DeleteCluster(options) => delete(&options, Section::Clusters),
        KubeconfigCommand::DeleteUser(options) => delete(&options, Section::Users),
    }
}

fn said(text: &str) -> Result<ExitCode> {
    outcome::write(text)?;
    Ok(ExitCode::SUCCESS)
}

fn view(options: &ViewOptions) -> Result<ExitCode> {
    let files = Kubeconfigs::read(&options.file)?;
    let mut config = files.merged();
    if options.minify {
        if let Some(context) = &options.context {
            config["current-context"] = context.clone().into();
        }
        config = normal::minified(&config)?;
    }
    if options.flatten {
        files.flatten(&mut config)?;
    } else if !options.raw {
        normal::without_secrets(&mut config);
    }
    let config = normal::config(&config);
    let format = options.print.format()?.unwrap_or(Format::Yaml);
    options.print.printer_of(format).print(&config, "")?;
    Ok(ExitCode::SUCCESS)
}

fn get_contexts(options: &GetContextsOptions) -> Result<ExitCode> {
    let files = Kubeconfigs::read(&options.file)?;
    let config = files.merged();
    let mut failures = outcome::Failures::default();
    let known = normal::entries(&config, Section::Contexts);
    let mut chosen: Vec<(&str, &Value)> = Vec::new();
    for name in &options.names {
        match known.iter().find(|(known, _)| known == name) {
            Some(found) => chosen.push(*found),
            None => failures.add(format!("context {name} not found")),
        }
    }
    if options.names.is_empty() {
        chosen = known;
    }
    chosen.sort_by_key(|(name, _)| *name);
    let mut rows: Vec<Vec<String>> = Vec::new();
    let by_name = options.output.is_some();
    if !options.no_headers && !by_name {
        rows.push(["CURRENT", "NAME", "CLUSTER", "AUTHINFO", "NAMESPACE"].map(str::to_owned).to_vec());
    }
    let current = files.current_context();
    for (name, context) in chosen {
        let text = |field: &str| context[field].as_str().unwrap_or_default().to_owned();
        rows.push(match by_name {
            true => vec![name.to_owned()],
            false => {
                let mark = if name == current { "*" } else { " " };
                vec![mark.to_owned(), name.to_owned(), text("cluster"), text("user"), text("namespace")]
            }
        });
    }
    outcome::write(&table::aligned(&rows))?;
    Ok(failures.tell())
}

fn names(file: &FileOptions, section: Section) -> Result<ExitCode> {
    let config = Kubeconfigs::read(file)?.merged();
    let mut names: Vec<&str> = normal::entries(&config, section).into_iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    said(&std::iter::once("NAME").chain(names).map(|name| format!("{name}\n")).collect::<String>())
}

fn rename(options: &RenameOptions) -> Result<ExitCode> {
    let RenameOptions { name, new_name, file } = options;
    if new_name.is_empty() {
        bail!("You must specify a new non-empty context name");
    }
    let mut files = Kubeconfigs::lock(file)?;
    let place = files.default_path();
    if files.entry(Section::Contexts, name).is_none() {
        bail!("cannot rename the context {name:?}, it's not in {}", place.display());
    }
    if files.entry(Section::Contexts, new_name).is_some() {
        bail!("cannot rename the context {name:?}, the context {new_name:?} already exists in {}", place.display());
    }
    files.rename(Section::Contexts, name, new_name);
    if files.current_context() == *name {
        files.set_current_context(new_name);
    }
    files.write()?;
    said(&format!("Context {name:?} renamed to {new_name:?}.\n"))
}

fn delete(options: &NameOptions, section: Section) -> Result<ExitCode> {
    let name = &options.name;
    let mut files = Kubeconfigs::lock(&options.file)?;
    let (word, place) = (section.word(), files.default_path());
    if files.remove(section, name).is_none() {
        return Err(anyhow!("cannot delete {word} {name}, not in {}", place.display()));
    }
    if section == Section::Contexts && files.current_context() == *name {
        eprintln!(
            "warning: this removed your active context, use \"kubectl config use-context\" to select a different one"
        );
    }
    files.write()?;
    said(&format!("deleted {word} {name} from {}\n", place.display()))
}
