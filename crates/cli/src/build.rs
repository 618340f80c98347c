//! `kobune build`: what a kustomization folder or repository comes to, printed as YAML.

mod disk;

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use kobune_kustomize::{HelmOptions, LoadRestriction, Options, Output, Reorder};

use disk::Disk;

/// The flags of `build`, spelled as kustomize spells them.
#[derive(Debug, Clone, Args)]
pub struct BuildOptions {
    /// A folder with a kustomization, or a git repository: https://host/owner/name//folder?ref=branch
    #[arg(value_name = "DIR|URL", default_value = ".")]
    pub target: String,
    /// Write to this file, or one file an object into this folder [default: standard output]
    #[arg(short, long, value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// Which files a kustomization may load: those below its own folder, or any
    #[arg(long, value_name = "WHICH", value_enum, default_value_t)]
    pub load_restrictor: LoadRestrictor,
    /// The order of objects when the kustomization has no sortOptions
    #[arg(long, value_name = "ORDER", value_enum, default_value_t)]
    pub reorder: Order,
    /// Render helm charts, which runs the program helm
    #[arg(long)]
    pub enable_helm: bool,
    /// The helm program
    #[arg(long, value_name = "PROGRAM", default_value = "helm")]
    pub helm_command: String,
    /// API versions that charts see
    #[arg(long, value_name = "VERSION")]
    pub helm_api_versions: Vec<String>,
    /// The version of Kubernetes that charts see
    #[arg(long, value_name = "VERSION", default_value = "", hide_default_value = true)]
    pub helm_kube_version: String,
    /// Let helm say more
    #[arg(long)]
    pub helm_debug: bool,
    /// Label every object with app.kubernetes.io/managed-by
    #[arg(long, hide = true)]
    pub enable_managedby_label: bool,
}

/// The words of `--load-restrictor`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LoadRestrictor {
    /// Only files in or below the kustomization's own folder
    #[default]
    #[value(name = "LoadRestrictionsRootOnly", alias = "rootOnly")]
    RootOnly,
    /// Any file
    #[value(name = "LoadRestrictionsNone", alias = "none")]
    None,
}

/// The words of `--reorder`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Order {
    /// By kind: namespaces and definitions first, webhooks last
    #[default]
    Legacy,
    /// As they were read
    None,
}

/// What a kustomization comes to with the flags' defaults, as YAML.
pub fn yaml(target: &str) -> Result<String> {
    let options = BuildOptions {
        target: target.to_owned(),
        output: None,
        load_restrictor: LoadRestrictor::default(),
        reorder: Order::default(),
        enable_helm: false,
        helm_command: "helm".to_owned(),
        helm_api_versions: Vec::new(),
        helm_kube_version: String::new(),
        helm_debug: false,
        enable_managedby_label: false,
    };
    Ok(output(&options)?.yaml()?)
}

/// What a kustomization below `root` comes to, as YAML, when whoever wrote it must see nothing else of this machine: files
/// and folders outside of `root` are refused, and so are charts, and unless `remote` also what is elsewhere.
pub fn confined(folder: &std::path::Path, root: &std::path::Path, remote: bool) -> Result<String> {
    let disk = Disk::confined(root, remote);
    Ok(kobune_kustomize::build(&disk, ".", folder, &Options::default())?.yaml()?)
}

/// Builds, and says on standard error what is to be warned of.
fn output(options: &BuildOptions) -> Result<Output> {
    let disk = Disk::new(&options.helm_command);
    let settings = Options {
        load_restriction: match options.load_restrictor {
            LoadRestrictor::RootOnly => LoadRestriction::RootOnly,
            LoadRestrictor::None => LoadRestriction::None,
        },
        reorder: match options.reorder {
            Order::Legacy => Reorder::Legacy,
            Order::None => Reorder::None,
        },
        managed_by_label: options.enable_managedby_label
            || std::env::var("KUSTOMIZE_ENABLE_MANAGEDBY_LABEL").is_ok_and(|value| value == "on"),
        helm: HelmOptions {
            enabled: options.enable_helm,
            api_versions: options.helm_api_versions.clone(),
            kube_version: options.helm_kube_version.clone(),
            debug: options.helm_debug,
        },
    };
    let base = std::env::current_dir().context("find the current folder")?;
    let output = kobune_kustomize::build(&disk, &options.target, &base, &settings)?;
    for warning in &output.warnings {
        eprintln!("{warning}");
    }
    Ok(output)
}

/// Builds and prints.
pub fn build(options: &BuildOptions) -> Result<()> {
    let output = output(options)?;
    match &options.output {
        None => {
            let mut out = std::io::stdout().lock();
            match out.write_all(output.yaml()?.as_bytes()).and_then(|()| out.flush()) {
                // Whoever reads has seen enough.
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
                result => result.context("write to standard output"),
            }
        }
        Some(folder) if folder.is_dir() => write_files(folder, &output),
        Some(file) => std::fs::write(file, output.yaml()?).with_context(|| format!("write {}", file.display())),
    }
}

/// One file an object, named as kustomize names them: the namespace is in the name when there are several.
fn write_files(folder: &std::path::Path, output: &Output) -> Result<()> {
    let namespaced = output.resources.iter().filter(|resource| !resource.id().cluster_scoped);
    let namespaces: std::collections::BTreeSet<&str> =
        namespaced.map(|resource| resource.id().effective_namespace()).collect();
    for resource in &output.resources {
        let id = resource.id();
        let mut parts: Vec<&str> = Vec::new();
        if namespaces.len() > 1 && !id.cluster_scoped {
            parts.push(id.effective_namespace());
        }
        parts.extend([id.gvk.group.as_str(), &id.gvk.version, &id.gvk.kind, &id.name]);
        parts.retain(|part| !part.is_empty());
        // A slash in a name must not lead out of the folder.
        let name = format!("{}.yaml", parts.join("_")).to_lowercase().replace('/', "-");
        let path = folder.join(name);
        std::fs::write(&path, resource.yaml()?).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
