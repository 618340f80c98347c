//! Where objects came from and what changed them, for `buildMetadata`.

use std::path::Path;

use crate::error::BuildError;
use crate::remote::Repository;
use crate::resource::{ORIGIN, Resource, TRANSFORMATIONS};

/// A file, a folder, or a generator or transformer and where it is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) path: String,
    pub(crate) repo: String,
    pub(crate) reference: String,
    pub(crate) configured_in: String,
    /// apiVersion, kind, name, namespace.
    pub(crate) configured_by: Option<[String; 4]>,
}

impl Origin {
    /// What a path below this one is.
    pub(crate) fn append(&self, path: &str) -> Origin {
        let mut origin = self.clone();
        let mut path = path.to_owned();
        if let Some(repository) = Repository::parse(&path) {
            origin.repo = repository.url;
            origin.reference = repository.reference;
            origin.path.clear();
            path = repository.folder;
        }
        origin.path = joined(&origin.path, &path);
        origin
    }

    /// A generator or transformer of kustomize's own, said in a kustomization file.
    pub(crate) fn built_in(&self, file: &str, kind: &str) -> Origin {
        Origin {
            path: String::new(),
            configured_in: joined(&self.path, file),
            configured_by: Some(["builtin".to_owned(), kind.to_owned(), String::new(), String::new()]),
            ..self.clone()
        }
    }

    /// A generator or transformer that a file describes.
    pub(crate) fn plugin(resource: &Resource) -> Option<Origin> {
        let text = resource.annotation(ORIGIN)?;
        let node = crate::parse::one(text).ok()?;
        let field = |name: &str| node.get(name).map_or_else(String::new, |value| value.text().to_owned());
        let texts = [resource.api_version(), resource.kind(), resource.name(), resource.namespace()];
        Some(Origin {
            path: String::new(),
            repo: field("repo"),
            reference: field("ref"),
            configured_in: field("path"),
            configured_by: Some(texts.map(str::to_owned)),
        })
    }

    fn lines(&self) -> Vec<String> {
        let quoted = |text: &str| {
            let node = crate::node::Node::List(vec![crate::node::Node::string(text)]);
            let list = crate::emit::object(&node).unwrap_or_default();
            list.trim_start_matches("- ").trim_end().to_owned()
        };
        let mut lines = Vec::new();
        let mut line = |indent: &str, name: &str, text: &str| {
            if !text.is_empty() {
                lines.push(format!("{indent}{name}: {}", quoted(text)));
            }
        };
        line("", "path", &self.path);
        line("", "repo", &self.repo);
        line("", "ref", &self.reference);
        line("", "configuredIn", &self.configured_in);
        if let Some(by) = &self.configured_by {
            lines.push("configuredBy:".to_owned());
            for (name, text) in ["apiVersion", "kind", "name", "namespace"].into_iter().zip(by) {
                if !text.is_empty() {
                    lines.push(format!("  {name}: {}", quoted(text)));
                }
            }
        }
        lines
    }

    /// As it stands in an annotation.
    pub(crate) fn text(&self) -> String {
        self.lines().into_iter().map(|line| line + "\n").collect()
    }
}

fn joined(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let path = Path::new(folder).join(path.trim_start_matches('/'));
    let path = path.to_string_lossy();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    if parts.is_empty() { ".".to_owned() } else { parts.join("/") }
}

/// Says where objects came from that do not say so yet.
pub(crate) fn annotate(resources: &mut [Resource], origin: &Origin) {
    for resource in resources.iter_mut().filter(|resource| resource.annotation(ORIGIN).is_none()) {
        resource.set_annotation(ORIGIN, Some(&origin.text()));
    }
}

/// Says of objects that a transformer went over them.
pub(crate) fn transformed(resources: &mut [Resource], origin: &Origin) -> Result<(), BuildError> {
    for resource in resources {
        if resource.annotation(ORIGIN).is_none() {
            resource.set_annotation(ORIGIN, Some(&origin.text()));
            continue;
        }
        let mut text = resource.annotation(TRANSFORMATIONS).unwrap_or_default().to_owned();
        for (at, line) in origin.lines().into_iter().enumerate() {
            text.push_str(if at == 0 { "- " } else { "  " });
            text.push_str(&line);
            text.push('\n');
        }
        resource.set_annotation(TRANSFORMATIONS, Some(&text));
    }
    Ok(())
}
