//! The files that a kubeconfig consists of: found as kubectl finds them, changed where an entry stands, written whole under
//! a lock, with everything in them that nobody here knows.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use base64::Engine as _;
use serde_json::{Value, json};

use super::{FileOptions, normal};
use crate::verbs::yaml;

/// A list of named entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// Clusters.
    Clusters,
    /// Contexts.
    Contexts,
    /// Users.
    Users,
}

impl Section {
    /// The field of the list, and that of an entry's content.
    pub fn fields(self) -> (&'static str, &'static str) {
        match self {
            Section::Clusters => ("clusters", "cluster"),
            Section::Contexts => ("contexts", "context"),
            Section::Users => ("users", "user"),
        }
    }

    /// What an entry is called.
    pub fn word(self) -> &'static str {
        self.fields().1
    }
}

/// One file.
#[derive(Debug)]
struct File {
    path: PathBuf,
    value: Value,
    exists: bool,
    changed: bool,
    /// Held from reading to writing; taken away when dropped.
    _lock: Option<Lock>,
}

/// All files, those that come first being the stronger ones.
#[derive(Debug)]
pub struct Kubeconfigs {
    files: Vec<File>,
    default: usize,
}

/// A file beside the kubeconfig that kubectl, too, makes before it changes anything.
#[derive(Debug)]
struct Lock(PathBuf);

impl Lock {
    fn take(path: &Path) -> Result<Lock> {
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let lock = PathBuf::from(name);
        if let Some(folder) = lock.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&lock)
            .with_context(|| format!("somebody else changes {}: make {}", path.display(), lock.display()))?;
        Ok(Lock(lock))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A lock that stays is said by whoever finds it.
        drop(std::fs::remove_file(&self.0));
    }
}

/// The paths that count.
fn paths(options: &FileOptions) -> Result<Vec<PathBuf>> {
    if let Some(path) = &options.kubeconfig {
        return Ok(vec![path.clone()]);
    }
    let mut found: Vec<PathBuf> = Vec::new();
    for path in std::env::var_os("KUBECONFIG").iter().flat_map(std::env::split_paths) {
        if !path.as_os_str().is_empty() && !found.contains(&path) {
            found.push(path);
        }
    }
    if found.is_empty() {
        let home = std::env::home_dir().ok_or_else(|| anyhow!("there is no home folder: set KUBECONFIG"))?;
        found.push(home.join(".kube/config"));
    }
    Ok(found)
}

impl Kubeconfigs {
    /// Reads the files, to look at them.
    pub fn read(options: &FileOptions) -> Result<Kubeconfigs> {
        Kubeconfigs::open(options, false)
    }

    /// Reads the files and keeps others from changing them.
    pub fn lock(options: &FileOptions) -> Result<Kubeconfigs> {
        Kubeconfigs::open(options, true)
    }

    fn open(options: &FileOptions, lock: bool) -> Result<Kubeconfigs> {
        let paths = paths(options)?;
        let existing = paths.iter().position(|path| path.exists());
        let default = existing.unwrap_or(paths.len() - 1);
        let mut files = Vec::new();
        for (index, path) in paths.into_iter().enumerate() {
            let held = if lock && (path.exists() || index == default) { Some(Lock::take(&path)?) } else { None };
            let text = match std::fs::read_to_string(&path) {
                Ok(text) => Some(text),
                Err(error)
                    if error.kind() == std::io::ErrorKind::NotFound && (lock || options.kubeconfig.is_none()) =>
                {
                    None
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    bail!("stat {}: no such file or directory", path.display())
                }
                Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
            };
            let exists = text.is_some();
            let value = match text.as_deref().map(str::trim) {
                None | Some("") => Value::Null,
                Some(text) => serde_saphyr::from_str(text)
                    .map_err(|error| anyhow!("error loading config file \"{}\": {error}", path.display()))?,
            };
            let value = match value {
                Value::Null => json!({}),
                value @ Value::Object(_) => value,
                _ => bail!("error loading config file \"{}\": it is no kubeconfig", path.display()),
            };
            files.push(File { path, value, exists, changed: false, _lock: held });
        }
        Ok(Kubeconfigs { files, default })
    }

    /// The file that new entries go to.
    pub fn default_path(&self) -> PathBuf {
        self.files[self.default].path.clone()
    }

    /// The context that is the current one; empty for none.
    pub fn current_context(&self) -> String {
        let set = self.files.iter().filter_map(|file| file.value["current-context"].as_str());
        set.filter(|name| !name.is_empty()).map(str::to_owned).next().unwrap_or_default()
    }

    /// Makes a context the current one, in the file that says so now.
    pub fn set_current_context(&mut self, name: &str) {
        let says = |file: &File| file.value["current-context"].as_str().is_some_and(|name| !name.is_empty());
        let at = self.files.iter().position(says).unwrap_or(self.default);
        self.files[at].value["current-context"] = name.into();
        self.files[at].changed = true;
    }

    /// Where an entry stands.
    fn find(&self, section: Section, name: &str) -> Option<(usize, usize)> {
        let (list, _) = section.fields();
        self.files.iter().enumerate().find_map(|(index, file)| {
            let entries = file.value[list].as_array()?;
            Some((index, entries.iter().position(|entry| entry["name"] == name)?))
        })
    }

    /// The content of an entry.
    pub fn entry(&self, section: Section, name: &str) -> Option<&Value> {
        let (file, at) = self.find(section, name)?;
        let (list, field) = section.fields();
        Some(&self.files[file].value[list][at][field])
    }

    /// Changes an entry where it stands, or makes one; says whether it was there.
    pub fn change(
        &mut self,
        section: Section,
        name: &str,
        change: impl FnOnce(&mut Value) -> Result<()>,
    ) -> Result<bool> {
        let (list, field) = section.fields();
        let found = self.find(section, name);
        let (file, at) = match found {
            Some(place) => place,
            None => {
                let file = &mut self.files[self.default];
                if !file.value[list].is_array() {
                    file.value[list] = json!([]);
                }
                let entries = file.value[list].as_array_mut().context("the list was just made")?;
                entries.push(json!({"name": name, field: {}}));
                (self.default, entries.len() - 1)
            }
        };
        let entry = &mut self.files[file].value[list][at][field];
        if !entry.is_object() {
            *entry = json!({});
        }
        change(entry)?;
        self.files[file].changed = true;
        Ok(found.is_some())
    }

    /// Gives an entry another name.
    pub fn rename(&mut self, section: Section, name: &str, new_name: &str) {
        if let Some((file, at)) = self.find(section, name) {
            self.files[file].value[section.fields().0][at]["name"] = new_name.into();
            self.files[file].changed = true;
        }
    }

    /// Takes an entry away.
    pub fn remove(&mut self, section: Section, name: &str) -> Option<Value> {
        let (file, at) = self.find(section, name)?;
        self.files[file].changed = true;
        Some(self.files[file].value[section.fields().0].as_array_mut()?.remove(at))
    }

    /// What all files say together.
    pub fn merged(&self) -> Value {
        let mut merged = json!({});
        for section in [Section::Clusters, Section::Contexts, Section::Users] {
            let (list, _) = section.fields();
            let mut entries: Vec<Value> = Vec::new();
            for entry in self.files.iter().flat_map(|file| file.value[list].as_array().into_iter().flatten()) {
                if !entries.iter().any(|known| known["name"] == entry["name"]) {
                    entries.push(entry.clone());
                }
            }
            merged[list] = if entries.is_empty() { Value::Null } else { entries.into() };
        }
        for field in ["preferences", "extensions"] {
            if let Some(found) = self.files.iter().find_map(|file| file.value.get(field)) {
                merged[field] = found.clone();
            }
        }
        merged["current-context"] = self.current_context().into();
        merged
    }

    /// Puts the content of named files in place of their names.
    pub fn flatten(&self, config: &mut Value) -> Result<()> {
        for (section, field) in [
            (Section::Clusters, "certificate-authority"),
            (Section::Users, "client-certificate"),
            (Section::Users, "client-key"),
        ] {
            let (list, inner) = section.fields();
            for entry in config[list].as_array_mut().into_iter().flatten() {
                let name = entry["name"].as_str().unwrap_or_default().to_owned();
                let Some(path) = entry[inner][field].as_str().filter(|path| !path.is_empty()).map(PathBuf::from) else {
                    continue;
                };
                let (file, _) = self.find(section, &name).context("every entry stands in a file")?;
                let path = self.files[file].path.parent().unwrap_or(Path::new("")).join(path);
                let bytes =
                    std::fs::read(&path).map_err(|_| anyhow!("open {}: no such file or directory", path.display()))?;
                let content = entry[inner].as_object_mut().context("it has a field")?;
                content.remove(field);
                if !bytes.is_empty() {
                    let text = base64::engine::general_purpose::STANDARD.encode(bytes);
                    content.insert(format!("{field}-data"), text.into());
                }
            }
        }
        Ok(())
    }

    /// Writes the files that were changed: each as a whole, or not at all.
    pub fn write(self) -> Result<()> {
        for file in self.files.iter().filter(|file| file.changed) {
            let text = yaml::yaml(&normal::file(&file.value))?;
            // A link stays one.
            let path = if file.exists { file.path.canonicalize()? } else { file.path.clone() };
            let mode = std::fs::metadata(&path).map_or(0o600, |info| info.permissions().mode() & 0o777);
            let mut name = path.file_name().context("a kubeconfig has a name")?.to_owned();
            name.push(format!(".{}.new", std::process::id()));
            let new = path.with_file_name(name);
            let written = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new).and_then(|mut out| {
                out.write_all(text.as_bytes())?;
                out.sync_all()
            });
            let renamed = written.and_then(|()| std::fs::rename(&new, &path));
            if let Err(error) = renamed {
                drop(std::fs::remove_file(&new));
                return Err(error).with_context(|| format!("write {}", path.display()));
            }
        }
        Ok(())
    }
}
