//! The objects that a verb works on: named, selected, or those of manifests, as kubectl's resource builder finds them. One that
//! cannot be had keeps nobody from working on the others.

use std::path::PathBuf;

use anyhow::{Error, Result, anyhow, bail};
use clap::Args;
use http::Method;
use serde_json::Value;

use super::create::DryRun;
use super::print::{PrintOptions, Printer};
use super::{PlaceOptions, outcome, selection, words};
use crate::build;
use crate::connect::Cluster;
use crate::discovery::{Discovery, Resource};
use crate::manifests::{self, Manifest};
use crate::object::ObjectRef;
use crate::request;

/// The flags that name manifests.
#[derive(Debug, Clone, Default, Args)]
pub struct FileOptions {
    /// What these manifests name: files, folders, or - for standard input
    #[arg(short, long, value_name = "FILE", value_delimiter = ',')]
    pub filename: Vec<PathBuf>,
    /// What a kustomization folder comes to
    #[arg(short, long, value_name = "DIR")]
    pub kustomize: Option<String>,
    /// Take everything below a folder, not only what is in it
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

impl FileOptions {
    /// Whether nobody names any.
    pub fn is_empty(&self) -> bool {
        self.filename.is_empty() && self.kustomize.is_none()
    }

    /// Reads them.
    pub fn read(&self) -> Result<Vec<Manifest>> {
        self.check()?;
        match &self.kustomize {
            Some(target) => manifests::parse(&format!("build of {target}"), &build::yaml(target)?),
            None => manifests::read(&self.filename, self.recursive),
        }
    }

    /// Reads objects as they stand there.
    pub fn read_whole(&self) -> Result<Vec<Manifest>> {
        self.check()?;
        match &self.kustomize {
            Some(_) => self.read(),
            None => manifests::read_whole(&self.filename, self.recursive),
        }
    }

    fn check(&self) -> Result<()> {
        if self.kustomize.is_some() && !self.filename.is_empty() {
            bail!("only one of -f or -k can be specified");
        }
        if self.kustomize.is_some() && self.recursive {
            bail!("the -k flag can't be used with -f or -R");
        }
        outcome::check_paths(&self.filename)
    }
}

/// The flags that choose objects.
#[derive(Debug, Clone, Default, Args)]
pub struct ChoiceOptions {
    /// Those of manifests.
    #[command(flatten)]
    pub files: FileOptions,
    /// Objects with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
}

/// The flag with which nothing is changed.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct DryRunOptions {
    /// Change nothing; with =server the server tries it
    #[arg(id = "dry_run", long = "dry-run", value_enum, value_name = "WHERE", default_value = "none")]
    pub at: DryRun,
}

impl DryRunOptions {
    /// Whether the server is not asked at all.
    pub fn is_here(self) -> bool {
        self.at == DryRun::Client
    }

    /// What a request to the server says of it.
    pub fn query(self) -> &'static str {
        if self.at == DryRun::Server { "&dryRun=All" } else { "" }
    }

    /// What is said behind a line about something that was only tried.
    pub fn suffix(self) -> &'static str {
        suffix(self.at)
    }
}

/// What verbs that change objects have in common: which objects, whether only to try it, and how to print them.
#[derive(Debug, Clone, Args)]
pub struct ChangeOptions {
    /// Which, beside those that are named.
    #[command(flatten)]
    pub choice: ChoiceOptions,
    /// Whether to do it.
    #[command(flatten)]
    pub dry_run: DryRunOptions,
    /// How to print them.
    #[command(flatten)]
    pub print: PrintOptions,
    /// Who is noted as the owner of the fields [default: kobune- and the verb]
    #[arg(long, value_name = "NAME")]
    pub field_manager: Option<String>,
    /// Where.
    #[command(flatten)]
    pub place: PlaceOptions,
}

impl ChangeOptions {
    /// Who is noted as the owner of the fields.
    pub fn manager(&self, verb: &str) -> String {
        self.field_manager.clone().unwrap_or_else(|| format!("kobune-{verb}"))
    }

    /// Applies a patch to one object; answers with the new one. With `--dry-run=client` it is the object as it is.
    pub async fn patch(
        &self,
        cluster: &Cluster,
        chosen: &Chosen,
        media: &str,
        patch: &Value,
        verb: &str,
    ) -> Result<Value, request::RequestError> {
        if self.dry_run.is_here() {
            return Ok(chosen.object.clone());
        }
        let dry = self.dry_run.at == DryRun::Server;
        self::patch(cluster, chosen, media, patch, &request::query(&self.manager(verb)), dry).await
    }

    /// Prints an object that was changed, or what was done with it.
    pub fn print(&self, printer: &Printer, object: &Value, done: &str) -> Result<()> {
        printer.print(object, &format!("{done}{}", self.dry_run.suffix()))
    }
}

/// What else chooses, where a verb has it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wide<'a> {
    /// All objects of the type; a type alone means them in some verbs.
    pub all: bool,
    /// Those of all namespaces.
    pub all_namespaces: bool,
    /// Only those with these fields.
    pub fields: Option<&'a str>,
}

/// One object.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// Its resource.
    pub resource: Resource,
    /// Its namespace; none for objects of the whole cluster.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// The object as it is now.
    pub object: Value,
}

impl Chosen {
    /// The object's path.
    pub fn path(&self) -> String {
        self.resource.object_path(self.namespace.as_deref(), &self.name)
    }

    /// The path of the folder that it is in, and the query that selects it alone.
    pub fn folder(&self) -> (String, String) {
        let query = format!("fieldSelector={}", request::query(&format!("metadata.name={}", self.name)));
        (self.resource.path(self.namespace.as_deref()), query)
    }

    /// `deployment.apps/web`.
    pub fn label(&self) -> String {
        format!("{}/{}", self.resource.singular_with_group(), self.name)
    }
}

/// The objects that are meant, and what is wrong with others.
pub async fn objects(
    cluster: &Cluster,
    place: &PlaceOptions,
    arguments: &[String],
    choice: &ChoiceOptions,
    wide: Wide<'_>,
) -> Result<(Vec<Chosen>, Vec<Error>)> {
    if arguments.is_empty() && choice.files.is_empty() {
        bail!(
            "You must provide one or more resources by argument or filename.\nExample resource specifications include:\n   '-f rsrc.yaml'\n   '--filename=rsrc.json'\n   '<resource> <name>'\n   '<resource>'"
        );
    }
    let discovery = Discovery::ask(&cluster.client).await.map_err(words::refused)?;
    let namespace = place.namespace(cluster);
    let (mut chosen, mut errors) = (Vec::new(), Vec::new());
    let named = async |resource: &Resource, namespace: &str, name: &str| -> Result<Chosen> {
        let path = resource.object_path(Some(namespace), name);
        let answer = request::send(&cluster.client, Method::GET, &path, None, "application/json").await;
        Ok(found(resource, answer.map_err(words::refused)?.body))
    };
    if !choice.files.is_empty() {
        for manifest in choice.files.read()? {
            let (resource, own) = match of_manifest(&discovery, place, &namespace, &manifest) {
                Ok(found) => found,
                Err(error) => {
                    errors.push(error);
                    continue;
                }
            };
            let name = ObjectRef::of(&manifest.value).name;
            match named(&resource, own.as_deref().unwrap_or_default(), &name).await {
                Ok(object) => chosen.push(object),
                Err(error) => errors.push(error),
            }
        }
        return Ok((chosen, errors));
    }
    for selected in selection::select(&discovery, arguments)? {
        let resource = &selected.resource;
        if !selected.names.is_empty() {
            if choice.selector.is_some() {
                bail!("name cannot be provided when a selector is specified");
            }
            if wide.all_namespaces {
                bail!("a resource cannot be retrieved by name across all namespaces");
            }
            for name in &selected.names {
                match named(resource, &namespace, name).await {
                    Ok(object) => chosen.push(object),
                    Err(error) => errors.push(error),
                }
            }
            continue;
        }
        if choice.selector.is_none() && wide.fields.is_none() && !wide.all {
            bail!("resource(s) were provided, but no name was specified");
        }
        let path = format!(
            "{}?labelSelector={}&fieldSelector={}",
            resource.path((!wide.all_namespaces).then_some(namespace.as_str())),
            request::query(choice.selector.as_deref().unwrap_or_default()),
            request::query(wide.fields.unwrap_or_default())
        );
        let list = request::send(&cluster.client, Method::GET, &path, None, "application/json").await;
        match list.map_err(words::refused) {
            Ok(list) => {
                let items = list.body["items"].as_array().cloned().unwrap_or_default();
                chosen.extend(items.into_iter().map(|item| found(resource, item)));
            }
            Err(error) => errors.push(error),
        }
    }
    Ok((chosen, errors))
}

/// The resource and the namespace of a manifest's object, in kubectl's words where there is none.
pub fn of_manifest(
    discovery: &Discovery,
    place: &PlaceOptions,
    namespace: &str,
    manifest: &Manifest,
) -> Result<(Resource, Option<String>)> {
    let found = ObjectRef::of(&manifest.value);
    let Some(resource) = discovery.of_object(&found) else {
        bail!(
            "resource mapping not found for name: {:?} namespace: {:?} from {:?}: no matches for kind {:?} in version {:?}\nensure CRDs are installed first",
            found.name,
            found.namespace.unwrap_or_default(),
            source(manifest),
            found.kind,
            found.api_version
        );
    };
    if !resource.namespaced {
        return Ok((resource.clone(), None));
    }
    if let (Some(own), Some(flag)) = (&found.namespace, &place.namespace)
        && own != flag
    {
        bail!(
            "the namespace from the provided object {own:?} does not match the namespace {flag:?}. You must pass '--namespace={own}' to perform this operation."
        );
    }
    Ok((resource.clone(), Some(found.namespace.unwrap_or_else(|| namespace.to_owned()))))
}

/// The file of a manifest, as kubectl names it.
pub fn source(manifest: &Manifest) -> String {
    match manifest.place().rsplit_once(':') {
        Some(("standard input", _)) => "STDIN".to_owned(),
        Some((file, _)) => file.to_owned(),
        None => String::new(),
    }
}

fn found(resource: &Resource, mut object: Value) -> Chosen {
    // The items of a list do not say what they are.
    object["apiVersion"] = resource.api_version().into();
    object["kind"] = resource.kind.clone().into();
    let named = ObjectRef::of(&object);
    Chosen { resource: resource.clone(), namespace: named.namespace, name: named.name, object }
}

/// Applies a patch to one object; answers with the new one. `dry` leaves everything as it is.
pub async fn patch(
    cluster: &Cluster,
    chosen: &Chosen,
    media: &str,
    patch: &Value,
    manager: &str,
    dry: bool,
) -> Result<Value, request::RequestError> {
    let dry = if dry { "&dryRun=All" } else { "" };
    let path = format!("{}?fieldManager={manager}{dry}", chosen.path());
    request::write(&cluster.client, Method::PATCH, &path, media, patch).await.map(|answer| answer.body)
}

/// Whether the server only tries it. What only the server can work out cannot be tried without it.
pub fn only_server(dry_run: DryRun) -> Result<bool> {
    match dry_run {
        DryRun::None => Ok(false),
        DryRun::Server => Ok(true),
        DryRun::Client => bail!(
            "--dry-run=client is not possible here, as only the server knows what comes of it; there is --dry-run=server"
        ),
    }
}

/// What is said behind a line about something that was only tried.
pub fn suffix(dry_run: DryRun) -> &'static str {
    match dry_run {
        DryRun::None => "",
        DryRun::Client => " (dry run)",
        DryRun::Server => " (server dry run)",
    }
}

/// Fails where something failed, with all of it (kubectl's aggregated errors).
pub fn all_fine(errors: Vec<Error>) -> Result<()> {
    let mut lines = errors.into_iter();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(()),
        (Some(error), None) => Err(error),
        (Some(first), Some(second)) => {
            let lines = [first, second].into_iter().chain(lines).map(|error| format!("{error:#}"));
            Err(anyhow!(words::Failure { words: lines.collect::<Vec<_>>().join("\n"), code: 1 }))
        }
    }
}
