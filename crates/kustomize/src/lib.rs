//! Kustomize without I/O: a folder behind the small trait [`Files`] in, objects and their YAML out.
//!
//! [`build`] gives the same bytes as `kustomize build` 5.8. That decides much here: texts keep open types until they are
//! written ([`node`]), YAML is read by the rules of two of Go's libraries ([`scalar`]) and written by those of one ([`emit`]),
//! lists merge by the schema of Kubernetes 1.21 ([`schema`]), and names travel with a history so that references can be
//! mended at the end. `target` goes through one kustomization after the other; `transform`, `replace` and `references` are
//! what happens to the objects.

mod crds;
mod decode;
pub mod emit;
mod error;
mod fields;
mod files;
mod generate;
mod hash;
mod helm;
mod id;
mod json;
mod kustomization;
pub mod node;
mod origin;
pub mod parse;
mod plain;
mod references;
mod remote;
mod replace;
mod resource;
pub mod scalar;
pub mod schema;
mod sort;
mod step;
mod strategic;
mod target;
mod transform;

use std::path::Path;

pub use error::{BuildError, Mistake, Source};
pub use files::{Files, LoadRestriction, MemoryFiles};
pub use helm::{Chart, HelmOptions};
pub use id::{Gvk, Id};
pub use remote::Repository;
pub use resource::Resource;

/// In which order objects are printed when the kustomization does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reorder {
    /// By kind, so that what others need comes first.
    #[default]
    Legacy,
    /// As they were read.
    None,
}

/// How to build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Which files may be read.
    pub load_restriction: LoadRestriction,
    /// In which order objects are printed.
    pub reorder: Reorder,
    /// Whether every object is labelled as managed.
    pub managed_by_label: bool,
    /// How helm may be used.
    pub helm: HelmOptions,
}

/// What a build gave.
#[derive(Clone, Debug)]
pub struct Output {
    /// The objects in the order in which they are printed.
    pub resources: Vec<Resource>,
    /// What the user should know, such as older spellings.
    pub warnings: Vec<String>,
}

/// Builds a folder or a repository; a relative folder is one below `base`.
pub fn build(files: &dyn Files, target: &str, base: &Path, options: &Options) -> Result<Output, BuildError> {
    let context = target::Context::new(options);
    let folder = files::Folder::first(files, target, base, options.load_restriction)?;
    let (mut resources, kustomization) = target::Target::load(folder, &context)?.build()?;
    match &kustomization.sort_options {
        Some(sorting) => match (sorting.order.as_str(), &sorting.legacy) {
            ("legacy", order) => sort::legacy(&mut resources, order.as_ref()),
            ("fifo", None) => {}
            ("fifo", Some(_)) => {
                return Err(error::refused(
                    "the field 'sortOptions.legacySortOptions' is set but the selected sort order is 'fifo', not 'legacy'",
                ));
            }
            _ => return Err(error::refused("the field 'sortOptions.order' must be one of [fifo, legacy]")),
        },
        None if options.reorder == Reorder::Legacy => sort::legacy(&mut resources, None),
        None => {}
    }
    let warnings = context.warnings.into_inner();
    Ok(Output { resources, warnings })
}

impl Output {
    /// All objects as one stream of YAML documents.
    pub fn yaml(&self) -> Result<String, BuildError> {
        let mut stream = String::new();
        for resource in &self.resources {
            if !stream.is_empty() {
                stream.push_str("---\n");
            }
            stream.push_str(&resource.yaml()?);
        }
        Ok(stream)
    }
}

impl Resource {
    /// The object as YAML.
    pub fn yaml(&self) -> Result<String, BuildError> {
        emit::object(self.node()).map_err(|(place, problem)| match &self.source {
            Some(source) => BuildError::Mistakes(vec![source.mistake(place, problem, None)]),
            None => error::refused(format!("{}: {problem}", self.id())),
        })
    }
}
