//! How a build reaches files, repositories and charts, and what it may not reach.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use crate::error::{BuildError, refused};
use crate::helm::Chart;
use crate::remote::Repository;

/// What a build needs of the world. Paths are absolute.
pub trait Files {
    /// What a file says.
    fn read(&self, path: &Path) -> std::io::Result<Vec<u8>>;

    /// The path without links; an error when there is nothing.
    fn canonical(&self, path: &Path) -> std::io::Result<PathBuf>;

    /// Whether a path is a folder.
    fn is_dir(&self, path: &Path) -> bool;

    /// What a URL of HTTP answers; nothing when it answers with an error that a repository may explain.
    fn download(&self, url: &str) -> Result<Vec<u8>, BuildError>;

    /// A fresh copy of a repository: the folder it is in, which lives until the build is over.
    fn clone_repository(&self, repository: &Repository) -> Result<PathBuf, BuildError>;

    /// What `helm template` prints for a chart.
    fn render(&self, chart: &Chart) -> Result<Vec<u8>, BuildError>;
}

/// Which files a kustomization may read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoadRestriction {
    /// Only those in or below its own folder; bases may be anywhere.
    #[default]
    RootOnly,
    /// Any.
    None,
}

/// A file system without its disk, for tests and for what comes over the wire.
#[derive(Clone, Debug, Default)]
pub struct MemoryFiles {
    files: BTreeMap<PathBuf, Vec<u8>>,
}

impl MemoryFiles {
    /// Adds a file.
    pub fn with(mut self, path: &str, content: impl Into<Vec<u8>>) -> MemoryFiles {
        self.files.insert(PathBuf::from(path), content.into());
        self
    }
}

impl Files for MemoryFiles {
    fn read(&self, path: &Path) -> std::io::Result<Vec<u8>> {
        self.files.get(path).cloned().ok_or_else(|| std::io::ErrorKind::NotFound.into())
    }

    fn canonical(&self, path: &Path) -> std::io::Result<PathBuf> {
        let path = clean(path);
        if self.files.contains_key(&path) || self.is_dir(&path) {
            Ok(path)
        } else {
            Err(std::io::ErrorKind::NotFound.into())
        }
    }

    fn is_dir(&self, path: &Path) -> bool {
        self.files.keys().any(|file| file != path && file.starts_with(path))
    }

    fn download(&self, url: &str) -> Result<Vec<u8>, BuildError> {
        Err(refused(format!("{url}: there is no network")))
    }

    fn clone_repository(&self, repository: &Repository) -> Result<PathBuf, BuildError> {
        Err(refused(format!("{}: there is no git", repository.raw)))
    }

    fn render(&self, chart: &Chart) -> Result<Vec<u8>, BuildError> {
        Err(refused(format!("{}: there is no helm", chart.name())))
    }
}

/// A path without `.` and `..`, by its words alone.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                clean.pop();
            }
            part => clean.push(part),
        }
    }
    clean
}

/// A folder that a build is in, and how it got there.
#[derive(Clone)]
pub(crate) struct Folder<'f> {
    files: &'f dyn Files,
    pub(crate) root: PathBuf,
    restriction: LoadRestriction,
    repository: Option<(Repository, PathBuf)>,
    parent: Option<Rc<Folder<'f>>>,
}

impl<'f> Folder<'f> {
    /// The folder, or the repository, that the build starts with.
    pub(crate) fn first(
        files: &'f dyn Files,
        target: &str,
        base: &Path,
        restriction: LoadRestriction,
    ) -> Result<Folder<'f>, BuildError> {
        if let Some(repository) = Repository::parse(target) {
            return Folder::cloned(files, repository, None);
        }
        let root = confirm(files, &base.join(target))?;
        Ok(Folder { files, root, restriction, repository: None, parent: None })
    }

    fn cloned(
        files: &'f dyn Files,
        repository: Repository,
        parent: Option<Rc<Folder<'f>>>,
    ) -> Result<Folder<'f>, BuildError> {
        let copy = files.clone_repository(&repository)?;
        let copy = files.canonical(&copy).unwrap_or(copy);
        let root = confirm(files, &copy.join(&repository.folder))?;
        if !root.starts_with(&copy) {
            return Err(refused(format!("{:?} refers to a folder outside of its repository", repository.raw)));
        }
        let repository = Some((repository, copy));
        Ok(Folder { files, root, restriction: LoadRestriction::RootOnly, repository, parent })
    }

    /// The folder or repository that a base names.
    pub(crate) fn base(self: &Rc<Self>, path: &str) -> Result<Folder<'f>, BuildError> {
        if path.is_empty() {
            return Err(refused("new root cannot be empty"));
        }
        if let Some(repository) = Repository::parse(path) {
            for folder in self.ancestors() {
                if let Some((visited, _)) = &folder.repository
                    && visited.raw.starts_with(&repository.raw)
                {
                    return Err(refused(format!(
                        "cycle detected: URI '{}' referenced by previous URI '{}'",
                        repository.raw, visited.raw
                    )));
                }
            }
            return Folder::cloned(self.files, repository, Some(self.clone()));
        }
        if Path::new(path).is_absolute() {
            return Err(refused(format!("new root '{path}' cannot be absolute")));
        }
        let root = confirm(self.files, &clean(&self.root.join(path)))?;
        let containing = self.ancestors().find_map(|folder| folder.repository.as_ref());
        if let Some((_, copy)) = containing
            && !root.starts_with(copy)
        {
            return Err(refused(format!(
                "security; bases in kustomizations found in cloned git repos must be within the repo, but base '{}' is \
                 outside '{}'",
                root.display(),
                copy.display()
            )));
        }
        for folder in self.ancestors() {
            if folder.root.starts_with(&root) {
                return Err(refused(format!(
                    "cycle detected: candidate root '{}' contains visited root '{}'",
                    root.display(),
                    folder.root.display()
                )));
            }
        }
        let parent = Some(self.clone());
        Ok(Folder { files: self.files, root, restriction: self.restriction, repository: None, parent })
    }

    fn ancestors(&self) -> impl Iterator<Item = &Folder<'f>> {
        std::iter::successors(Some(self), |folder| folder.parent.as_deref())
    }

    /// Reads a file that the kustomization here names.
    pub(crate) fn load(&self, path: &str) -> Result<Vec<u8>, BuildError> {
        if path.starts_with("http://") || path.starts_with("https://") {
            return self.files.download(path);
        }
        let full = clean(&self.root.join(path));
        let wrong = |problem: &dyn std::fmt::Display| BuildError::Read {
            path: full.display().to_string(),
            problem: problem.to_string(),
        };
        if self.restriction == LoadRestriction::None {
            return self.files.read(&full).map_err(|error| wrong(&error));
        }
        let real = self.files.canonical(&full).map_err(|error| wrong(&error))?;
        if self.files.is_dir(&real) {
            return Err(wrong(&"must resolve to a file"));
        }
        if !real.parent().is_some_and(|folder| folder.starts_with(&self.root)) {
            return Err(refused(format!(
                "security; file '{}' is not in or below '{}'",
                full.display(),
                self.root.display()
            )));
        }
        self.files.read(&real).map_err(|error| wrong(&error))
    }

    /// Reads a file that is a text.
    pub(crate) fn text(&self, path: &str) -> Result<String, BuildError> {
        let content = self.load(path)?;
        String::from_utf8(content).map_err(|error| BuildError::Read {
            path: path.to_owned(),
            problem: format!("yaml: invalid UTF-8 after {} bytes", error.utf8_error().valid_up_to()),
        })
    }

    pub(crate) fn render(&self, chart: &Chart) -> Result<Vec<u8>, BuildError> {
        self.files.render(chart)
    }
}

fn confirm(files: &dyn Files, path: &Path) -> Result<PathBuf, BuildError> {
    let wrong = |problem: String| BuildError::Read { path: path.display().to_string(), problem };
    let real = files.canonical(path).map_err(|error| wrong(format!("must build at directory: {error}")))?;
    if files.is_dir(&real) { Ok(real) } else { Err(wrong("must build at directory: this is a file".to_owned())) }
}
