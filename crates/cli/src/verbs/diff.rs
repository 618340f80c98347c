//! `kobune diff`: what a server-side apply of manifests would change, shown by a program of the user's (`k8s.io/kubectl/pkg/cmd/diff`).
//! `kobune plan` says the same for people to read.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use http::Method;
use serde_json::Value;

use super::chosen::{self, FileOptions};
use super::words::{self, Failure, ending};
use super::{PlaceOptions, outcome, yaml};
use crate::discovery::Discovery;
use crate::object::ObjectRef;
use crate::request;

/// The flags of `diff`.
#[derive(Debug, Clone, Args)]
pub struct DiffOptions {
    /// The manifests.
    #[command(flatten)]
    pub files: FileOptions,
    /// Only manifests with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// Is always so; taken for kubectl's sake
    #[arg(long, num_args = 0..=1, default_value_t = true, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    pub server_side: bool,
    /// Fields that others hold would change too
    #[arg(long)]
    pub force_conflicts: bool,
    /// Who would be noted as the owner of the fields
    #[arg(long, value_name = "NAME", default_value = "kobune")]
    pub field_manager: String,
    /// Compare managed fields too
    #[arg(long)]
    pub show_managed_fields: bool,
    /// Show what is in Secrets
    #[arg(long)]
    pub show_secrets: bool,
    /// Where.
    #[command(flatten)]
    pub place: PlaceOptions,
}

/// Shows differences: exits with 0 where there are none, with 1 where there are some, and with more when something failed.
pub async fn diff(options: DiffOptions) -> Result<ExitCode> {
    let code = run(&options).await.map_err(|error| match error.downcast::<Failure>() {
        Ok(failure) => Failure { code: failure.code.max(2), ..failure }.into(),
        Err(error) => anyhow::Error::new(Failure { words: format!("error: {error:#}"), code: 2 }),
    });
    ending(code)
}

async fn run(options: &DiffOptions) -> Result<ExitCode> {
    if options.files.is_empty() {
        bail!("must specify one of -f and -k");
    }
    if !options.server_side {
        bail!("--server-side=false is not there: kobune applies on the server");
    }
    let selector = match &options.selector {
        Some(text) => Some(kobune_kinds::selector::LabelSelector::parse(text).map_err(|error| anyhow!("{error}"))?),
        None => None,
    };
    let cluster = options.place.connect.connect().await?;
    let discovery = Discovery::ask(&cluster.client).await.map_err(words::refused)?;
    let namespace = options.place.namespace(&cluster);
    let (before, after) = (Folder::new("LIVE")?, Folder::new("MERGED")?);
    for manifest in options.files.read()? {
        if selector.as_ref().is_some_and(|labels| !labels.matches_labels(&manifest.value["metadata"]["labels"])) {
            continue;
        }
        let (resource, own) = chosen::of_manifest(&discovery, &options.place, &namespace, &manifest)?;
        let named = ObjectRef::of(&manifest.value);
        let path = resource.object_path(own.as_deref(), &named.name);
        let live = request::get(&cluster.client, &path).await.map_err(words::refused)?;
        let address = format!(
            "{path}?dryRun=All&fieldManager={}&force={}",
            request::query(&options.field_manager),
            options.force_conflicts
        );
        let mut wanted = manifest.value.clone();
        if let Some(own) = &own {
            wanted["metadata"]["namespace"] = own.as_str().into();
        }
        let answer = request::write(&cluster.client, Method::PATCH, &address, request::APPLY, &wanted).await;
        let answer = answer.map_err(words::refused)?;
        outcome::warn(&answer.warnings);
        let mut pair = (live.unwrap_or(Value::Null), answer.body);
        if !options.show_managed_fields {
            without_managed_fields(&mut pair.0);
            without_managed_fields(&mut pair.1);
        }
        if resource.kind == "Secret" && resource.group.is_empty() && !options.show_secrets {
            mask(&mut pair.0, &mut pair.1);
        }
        let group = if resource.group.is_empty() { String::new() } else { format!("{}.", resource.group) };
        let file = format!("{group}{}.{}.{}.{}", resource.version, resource.kind, own.unwrap_or_default(), named.name);
        before.write(&file, &pair.0)?;
        after.write(&file, &pair.1)?;
    }
    compare(&before, &after)
}

fn without_managed_fields(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}

/// Hides the values of a Secret, and shows which of them differ.
fn mask(before: &mut Value, after: &mut Value) {
    let names = |object: &Value| -> Vec<String> {
        object["data"].as_object().map(|data| data.keys().cloned().collect()).unwrap_or_default()
    };
    for name in names(before).into_iter().chain(names(after)) {
        let (old, new) = (before["data"].get(&name).cloned(), after["data"].get(&name).cloned());
        let masked = |value: &Value| value.as_str().is_some_and(|text| text.starts_with("***"));
        if old.as_ref().or(new.as_ref()).is_none_or(masked) {
            continue;
        }
        let (old_text, new_text) = match (&old, &new) {
            (Some(old), Some(new)) if old != new => ("*** (before)", "*** (after)"),
            _ => ("***", "***"),
        };
        if old.is_some() {
            before["data"][&name] = old_text.into();
        }
        if new.is_some() {
            after["data"][&name] = new_text.into();
        }
    }
}

/// Runs the program that shows differences.
fn compare(before: &Folder, after: &Folder) -> Result<ExitCode> {
    let external = std::env::var("KUBECTL_EXTERNAL_DIFF").ok().filter(|program| !program.is_empty());
    let (program, flags) = match &external {
        None => ("diff", vec!["-u", "-N"]),
        Some(line) => {
            let mut words = line.split(' ');
            let program = words.next().unwrap_or_default();
            // Nothing that a shell could take for more than a flag.
            let plain = |word: &&str| {
                !word.is_empty() && word.chars().all(|letter| letter.is_ascii_alphanumeric() || "-=".contains(letter))
            };
            (program, words.filter(plain).collect())
        }
    };
    let status = Command::new(program).args(flags).arg(&before.path).arg(&after.path).status();
    let status = status.map_err(|error| anyhow!("failed to run {program:?}: {error}"))?;
    match status.code() {
        Some(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))),
        None => bail!("failed to run {program:?}: {status}"),
    }
}

/// A folder of the user's alone that goes in the end.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn new(name: &str) -> Result<Folder> {
        let path = std::env::temp_dir().join(format!("{name}-{:016x}", rand::random::<u64>()));
        std::fs::DirBuilder::new().mode(0o700).create(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Folder { path })
    }

    /// Writes an object; one that is not there has no file.
    fn write(&self, name: &str, object: &Value) -> Result<()> {
        if object.is_null() {
            return Ok(());
        }
        let path = self.path.join(name);
        let file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let mut file = file.with_context(|| format!("write {}", path.display()))?;
        file.write_all(yaml::yaml(object)?.as_bytes()).with_context(|| format!("write {}", path.display()))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nobody is hurt by a folder that stays; there is nobody to tell either.
        drop(std::fs::remove_dir_all(&self.path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_of_secrets_are_hidden() {
        let mut before = json!({"data": {"same": "YQ==", "changed": "YQ==", "gone": "YQ=="}});
        let mut after = json!({"data": {"same": "YQ==", "changed": "Yg==", "new": "Yg=="}});
        mask(&mut before, &mut after);
        assert_eq!(before, json!({"data": {"same": "***", "changed": "*** (before)", "gone": "***"}}));
        assert_eq!(after, json!({"data": {"same": "***", "changed": "*** (after)", "new": "***"}}));
    }
}
