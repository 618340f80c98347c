//! `kobune edit`: objects in an editor (`k8s.io/kubectl/pkg/cmd/util/editor`). What the server refuses comes back into the editor
//! with the reason above it, and no edit is lost: what could not be saved stays in its file.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use http::Method;
use serde_json::{Map, Value, json};

use super::chosen::{self, ChoiceOptions, Chosen, FileOptions, Wide};
use super::print::{self, PrintOptions, Printer};
use super::words::{self, ending};
use super::{PlaceOptions, outcome, yaml};
use crate::connect::Cluster;
use crate::manifests;
use crate::object::ObjectRef;
use crate::request;

/// In which words objects are edited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Language {
    /// As YAML.
    Yaml,
    /// As JSON.
    Json,
}

/// The flags of `edit`.
#[derive(Debug, Clone, Args)]
pub struct EditOptions {
    /// TYPE NAME..., TYPE/NAME... or TYPE
    #[arg(value_name = "TYPE[/NAME] [NAME...]")]
    pub arguments: Vec<String>,
    /// Those of manifests.
    #[command(flatten)]
    pub files: FileOptions,
    /// In which words to edit
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "yaml")]
    pub output: Language,
    /// Edit what stands below the object: status or scale
    #[arg(long, value_name = "NAME")]
    pub subresource: Option<String>,
    /// Print the patches that are sent
    #[arg(long)]
    pub output_patch: bool,
    /// Edit managed fields too
    #[arg(long)]
    pub show_managed_fields: bool,
    /// Who is noted as the owner of the fields
    #[arg(long, value_name = "NAME", default_value = "kobune-edit")]
    pub field_manager: String,
    /// What becomes of unknown fields: strict, warn, ignore
    #[arg(long, value_name = "HOW", default_value = "strict", num_args = 0..=1, default_missing_value = "strict", require_equals = true, value_parser = ["true", "strict", "warn", "false", "ignore"])]
    pub validate: String,
    /// Where.
    #[command(flatten)]
    pub place: PlaceOptions,
}

const HEADER: &str = "# Please edit the object below. Lines beginning with a '#' will be ignored,\n\
    # and an empty file will abort the edit. If an error occurs while saving this file will be\n\
    # reopened with the relevant failures.\n#\n";

/// Edits objects.
pub async fn edit(options: EditOptions) -> Result<ExitCode> {
    ending(run(&options).await.map(|()| ExitCode::SUCCESS))
}

async fn run(options: &EditOptions) -> Result<()> {
    let cluster = options.place.connect.connect().await?;
    let choice = ChoiceOptions { files: options.files.clone(), selector: None };
    let wide = Wide { all: true, ..Wide::default() };
    let (mut found, errors) = chosen::objects(&cluster, &options.place, &options.arguments, &choice, wide).await?;
    chosen::all_fine(errors)?;
    if found.is_empty() {
        bail!("edit cancelled, no objects found");
    }
    for one in &mut found {
        if let Some(below) = &options.subresource {
            let path = format!("{}/{}", one.path(), request::query(below));
            let object = request::send(&cluster.client, Method::GET, &path, None, "application/json").await;
            one.object = object.map_err(words::refused)?.body;
        }
        if let Some(metadata) = one.object["metadata"].as_object_mut().filter(|_| !options.show_managed_fields) {
            metadata.remove("managedFields");
        }
    }
    sessions(options, &cluster, found).await
}

/// Opens the editor until everything is saved or nothing more is to be.
async fn sessions(options: &EditOptions, cluster: &Cluster, mut found: Vec<Chosen>) -> Result<()> {
    let printer = PrintOptions { allow_missing_template_keys: true, ..PrintOptions::default() }.printer()?;
    let original = text(options, &found)?;
    let (mut content, mut reasons) = (original.clone(), Vec::<String>::new());
    loop {
        let mut shown = HEADER.to_owned();
        for reason in &reasons {
            shown.extend(reason.lines().map(|line| format!("# {line}\n")));
            shown.push_str("#\n");
        }
        shown.push_str(&content);
        let file = Scratch::write(&shown, if options.output == Language::Json { "json" } else { "yaml" })?;
        if let Err(error) = launch(&file.path) {
            file.keep_if(content != original);
            return Err(error);
        }
        let edited = stripped(&std::fs::read_to_string(&file.path).context("read the edited file")?);
        if edited == original {
            eprintln!("Edit cancelled, no changes made.");
            return Ok(());
        }
        if edited.trim().is_empty() {
            eprintln!("Edit cancelled, saved file was empty.");
            return Ok(());
        }
        if !reasons.is_empty() && edited == content {
            file.keep();
            bail!("Edit cancelled, no valid changes were saved.");
        }
        reasons = save(options, cluster, &printer, &mut found, &edited).await.inspect_err(|_| file.keep())?;
        if reasons.is_empty() {
            return Ok(());
        }
        content = edited;
    }
}

/// Saves what was edited; answers with what the server does not take.
async fn save(
    options: &EditOptions,
    cluster: &Cluster,
    printer: &Printer,
    found: &mut [Chosen],
    edited: &str,
) -> Result<Vec<String>> {
    let documents: Value = match serde_saphyr::from_str(edited) {
        Ok(value) => value,
        Err(_) => {
            let error = manifests::parse("edited-file", edited).err().map(|error| format!("{error:#}"));
            return Ok(vec![format!("The edited file had a syntax error: {}", error.unwrap_or_default())]);
        }
    };
    let objects = match documents["kind"] == "List" {
        true => documents["items"].as_array().cloned().unwrap_or_default(),
        false => vec![documents],
    };
    let mut reasons = Vec::new();
    for after in objects {
        let named = ObjectRef::of(&after);
        let Some(one) = found.iter_mut().find(|one| ObjectRef::of(&one.object).identity() == named.identity()) else {
            reasons.push(
                "At least one of apiVersion, kind and name was changed\n* apiVersion, kind and name may not be changed"
                    .to_owned(),
            );
            continue;
        };
        let Some(patch) = difference(&one.object, &after) else {
            println!("{} skipped", print::named(&after));
            continue;
        };
        if options.output_patch {
            println!("Patch: {patch}");
        }
        let below = options.subresource.as_ref().map(|name| format!("/{}", request::query(name))).unwrap_or_default();
        let validation = match options.validate.as_str() {
            "warn" => "Warn",
            "false" | "ignore" => "Ignore",
            _ => "Strict",
        };
        let manager = request::query(&options.field_manager);
        let path = format!("{}{below}?fieldManager={manager}&fieldValidation={validation}", one.path());
        match request::write(&cluster.client, Method::PATCH, &path, request::MERGE_PATCH, &patch).await {
            Ok(answer) => {
                outcome::warn(&answer.warnings);
                printer.print(&answer.body, "edited")?;
                // What comes next is compared with what is there now.
                one.object = after;
            }
            Err(error) if error.is(422) || error.is(400) => {
                let words = format!("{:#}", words::refused(error));
                let plural = &one.resource.plural;
                eprintln!("error: {plural} {:?} is invalid", named.name);
                reasons.push(format!("{plural} {:?} was not valid:\n* {words}", named.name));
            }
            Err(error) => return Err(words::refused(error)),
        }
    }
    Ok(reasons)
}

fn text(options: &EditOptions, found: &[Chosen]) -> Result<String> {
    let value = match found {
        [one] => one.object.clone(),
        many => {
            let items: Vec<&Value> = many.iter().map(|one| &one.object).collect();
            json!({"apiVersion": "v1", "items": items, "kind": "List", "metadata": {}})
        }
    };
    match options.output {
        Language::Yaml => yaml::yaml(&value),
        Language::Json => yaml::json(&value),
    }
}

/// A text without the lines that are comments.
fn stripped(text: &str) -> String {
    text.split_inclusive('\n').filter(|line| !line.starts_with('#')).collect()
}

/// The merge patch (RFC 7386) that makes one value of another.
fn difference(before: &Value, after: &Value) -> Option<Value> {
    let (Value::Object(old), Value::Object(new)) = (before, after) else {
        return (before != after).then(|| after.clone());
    };
    let mut patch = Map::new();
    for (name, value) in new {
        match old.get(name) {
            None => drop(patch.insert(name.clone(), value.clone())),
            Some(known) => patch.extend(difference(known, value).map(|inner| (name.clone(), inner))),
        }
    }
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    patch.extend(gone.map(|name| (name.clone(), Value::Null)));
    (!patch.is_empty()).then(|| patch.into())
}

/// Opens a file in the user's editor, and waits until it is closed.
fn launch(file: &Path) -> Result<()> {
    let named = |name: &str| std::env::var(name).ok().filter(|editor| !editor.is_empty());
    let editor = named("KUBE_EDITOR").or_else(|| named("EDITOR")).unwrap_or_else(|| "vi".to_owned());
    let words: Vec<&str> = editor.split(' ').filter(|word| !word.is_empty()).collect();
    let (program, arguments) = words.split_first().ok_or_else(|| anyhow!("no editor is named"))?;
    let plain = editor.chars().all(|letter| !"\"'\\".contains(letter));
    let mut command = match plain {
        true => std::process::Command::new(program),
        // With quotes in it the shell knows what is meant.
        false => std::process::Command::new("/bin/bash"),
    };
    match plain {
        true => command.args(arguments).arg(file),
        false => command.arg("-c").arg(format!("{editor} {:?}", file.display().to_string())),
    };
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => bail!("there was a problem with the editor {editor:?}"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("unable to launch the editor {editor:?}")
        }
        Err(error) => Err(error).with_context(|| format!("there was a problem with the editor {editor:?}")),
    }
}

/// A file of the user's alone that goes when nobody needs it any more.
struct Scratch {
    path: PathBuf,
    kept: std::cell::Cell<bool>,
}

impl Scratch {
    fn write(text: &str, extension: &str) -> Result<Scratch> {
        let name = format!("kobune-edit-{:016x}.{extension}", rand::random::<u64>());
        let path = std::env::temp_dir().join(name);
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let mut file = file.with_context(|| format!("write {}", path.display()))?;
        let scratch = Scratch { path, kept: std::cell::Cell::new(false) };
        file.write_all(text.as_bytes()).context("write the file to edit")?;
        Ok(scratch)
    }

    fn keep_if(&self, wanted: bool) {
        if wanted {
            self.keep();
        }
    }

    fn keep(&self) {
        self.kept.set(true);
        eprintln!("A copy of your changes has been stored to {:?}", self.path.display().to_string());
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.kept.get() {
            // Nobody is hurt by a file that stays; there is nobody to tell either.
            drop(std::fs::remove_file(&self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches() {
        let check = |before: Value, after: Value| {
            let Some(patch) = difference(&before, &after) else { return assert_eq!(before, after) };
            let mut object = before.clone();
            kobune_merge::merge_patch(&mut object, &patch);
            assert_eq!(object, after, "{patch}");
        };
        check(json!({"a": 1, "b": {"c": [1], "d": 2}}), json!({"a": 2, "b": {"c": [1, 2]}, "e": {}}));
        check(json!({"a": {"b": 1}}), json!({"a": {"b": 1}}));
        check(json!({"a": {"b": 1}}), json!({"a": 7}));
    }

    #[test]
    fn comments_are_no_content() {
        assert_eq!(stripped("# a\nb: 1\n#\n  # c\n"), "b: 1\n  # c\n");
    }
}
