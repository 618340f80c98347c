//! Network configurations: what plug-ins a network is made of, from the files of a folder.
//!
//! The format is the CNI specification's section 1; where that leaves room, this does as libcni (`libcni/conf.go`) does.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

/// The versions of the specification that are spoken here, oldest first.
pub(crate) const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A file of more than this is no configuration.
const LARGEST: u64 = 1 << 20;

/// A version as a number that orders; an unknown one has none.
pub(crate) fn rank(version: &str) -> Option<usize> {
    VERSIONS.iter().position(|known| *known == version)
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The file or folder cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// What was to be read.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The content is no configuration.
    #[error("{}: {problem}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// A network: plug-ins that are called one after the other.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct List {
    pub name: String,
    /// The version that is spoken with the plug-ins.
    pub version: String,
    /// The versions that may be spoken, the newest first; where there are several, the plug-ins decide.
    pub candidates: Vec<String>,
    pub disable_check: bool,
    pub disable_gc: bool,
    pub plugins: Vec<Map<String, Value>>,
}

impl List {
    /// From the text of a `.conflist`, or of a `.conf` that describes one plug-in.
    pub fn parse(text: &[u8]) -> Result<List, String> {
        let value: Value = serde_json::from_slice(text).map_err(|error| format!("not JSON: {error}"))?;
        let Value::Object(whole) = value else { return Err("not a JSON object".to_owned()) };
        let name = string(&whole, "name")?.ok_or("no \"name\"")?.to_owned();
        if !is_name(&name) {
            return Err(format!("invalid characters found in network name {name:?}"));
        }
        let candidates = versions(&whole)?;
        let plugins = match whole.get("plugins") {
            Some(Value::Array(plugins)) => plugins
                .iter()
                .map(|plugin| plugin.as_object().cloned().ok_or("a plugin is not an object".to_owned()))
                .collect::<Result<Vec<_>, _>>()?,
            Some(_) => return Err("\"plugins\" is not a list".to_owned()),
            None => vec![whole.clone()],
        };
        for plugin in &plugins {
            check_type(plugin)?;
        }
        Ok(List {
            name,
            version: candidates.first().cloned().expect("there is at least one version"),
            candidates,
            disable_check: flag(&whole, "disableCheck")?,
            disable_gc: flag(&whole, "disableGC")?,
            plugins,
        })
    }

    /// As text that [`List::parse`] reads, for the cache.
    pub fn text(&self) -> String {
        serde_json::json!({
            "name": self.name, "cniVersion": self.version, "disableCheck": self.disable_check,
            "disableGC": self.disable_gc, "plugins": self.plugins,
        })
        .to_string()
    }

    /// Whether the version that is spoken is at least this one.
    pub fn speaks(&self, version: &str) -> bool {
        rank(&self.version) >= rank(version)
    }
}

/// Plug-ins of the file's own, and those of the folder that is named like the network.
fn read(folder: &Path, path: &Path) -> Result<List, ListError> {
    let wrong = |path: &Path, problem: String| ListError::Wrong { path: path.to_owned(), problem };
    let text = read_file(path)?;
    let mut list = List::parse(&text).map_err(|problem| wrong(path, problem))?;
    let whole: Value = serde_json::from_slice(&text).unwrap_or_default();
    let only_inlined = whole.get("loadOnlyInlinedPlugins").and_then(Value::as_bool).unwrap_or(false);
    let is_list = path.extension().is_some_and(|extension| extension == "conflist");
    let beside = folder.join(&list.name);
    if is_list && !only_inlined && beside.is_dir() {
        for path in files(&beside, &["conf"])? {
            let plugin: Value =
                serde_json::from_slice(&read_file(&path)?).map_err(|error| wrong(&path, error.to_string()))?;
            let plugin = plugin.as_object().cloned().ok_or_else(|| wrong(&path, "not a JSON object".to_owned()))?;
            check_type(&plugin).map_err(|problem| wrong(&path, problem))?;
            list.plugins.push(plugin);
        }
    }
    if list.plugins.is_empty() {
        return Err(wrong(path, "the list has no plugins".to_owned()));
    }
    Ok(list)
}

/// The network of a folder: the first file, by name, that is a configuration. `None` where there is no file at all; where all
/// are wrong, what is wrong with the first.
pub(crate) fn load(folder: &Path) -> Result<Option<List>, ListError> {
    let mut first_error = None;
    for path in files(folder, &["conf", "conflist", "json"])? {
        match read(folder, &path) {
            // By it another container runtime gets pods' networks from kobune (`kobune-cri`), not kobune from plug-ins.
            Ok(list) if list.plugins.iter().any(|plugin| plugin.contains_key("kobuneHandsOver")) => {}
            Ok(list) => return Ok(Some(list)),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a network configuration is passed over");
                first_error.get_or_insert(error);
            }
        }
    }
    first_error.map_or(Ok(None), Err)
}

/// The files with these endings, in the order of their names. A folder that is not there is empty.
fn files(folder: &Path, endings: &[&str]) -> Result<Vec<PathBuf>, ListError> {
    let failed = |source| ListError::Read { path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        if ending.is_some_and(|ending| endings.contains(&ending)) && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn read_file(path: &Path) -> Result<Vec<u8>, ListError> {
    let failed = |source| ListError::Read { path: path.to_owned(), source };
    if fs::metadata(path).map_err(failed)?.len() > LARGEST {
        return Err(ListError::Wrong { path: path.to_owned(), problem: format!("larger than {LARGEST} bytes") });
    }
    fs::read(path).map_err(failed)
}

/// Names of networks and ids of containers: the specification's section 2.
pub(crate) fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// A plug-in's type is the name of a program, and no path.
fn check_type(plugin: &Map<String, Value>) -> Result<(), String> {
    match string(plugin, "type")? {
        None | Some("") => Err("a plugin has no \"type\"".to_owned()),
        Some(name) if name.contains(['/', '\\']) || name == "." || name == ".." => {
            Err(format!("invalid plugin name: {name}"))
        }
        Some(_) => Ok(()),
    }
}

fn string<'a>(object: &'a Map<String, Value>, key: &str) -> Result<Option<&'a str>, String> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("{key:?} is not a string")),
    }
}

/// A switch; old configurations spell it as a string.
fn flag(object: &Map<String, Value>, key: &str) -> Result<bool, String> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(_) => Err(format!("{key:?} is neither true nor false")),
    }
}

/// The versions that a configuration allows and that are spoken here, newest first.
fn versions(object: &Map<String, Value>) -> Result<Vec<String>, String> {
    let mut named: Vec<String> = string(object, "cniVersion")?.map(str::to_owned).into_iter().collect();
    match object.get("cniVersions") {
        None | Some(Value::Null) => {}
        Some(Value::Array(all)) => {
            for version in all {
                named.push(version.as_str().ok_or("a version of \"cniVersions\" is not a string")?.to_owned());
            }
        }
        Some(_) => return Err("\"cniVersions\" is not a list".to_owned()),
    }
    named.retain(|version| !version.is_empty());
    if named.is_empty() {
        // What plug-ins take a configuration without one for.
        return Ok(vec![VERSIONS[0].to_owned()]);
    }
    let mut known: Vec<String> = named.iter().filter(|version| rank(version).is_some()).cloned().collect();
    known.sort_by_key(|version| std::cmp::Reverse(rank(version)));
    known.dedup();
    if known.is_empty() {
        return Err(format!("incompatible CNI versions; config is {named:?}, kobune supports {VERSIONS:?}"));
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations() {
        let check = |text: &str, expected: Result<(&str, &str, usize), &str>| {
            let found = List::parse(text.as_bytes());
            match (&found, expected) {
                (Ok(list), Ok(expected)) => {
                    assert_eq!((list.name.as_str(), list.version.as_str(), list.plugins.len()), expected, "{text}");
                    assert_eq!(
                        List::parse(list.text().as_bytes()).map(|again| again.plugins),
                        Ok(list.plugins.clone())
                    );
                }
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{found:?} lacks {expected:?}"),
                _ => panic!("{text}: {found:?}, not {expected:?}"),
            }
        };
        check(
            r#"{"cniVersion": "1.0.0", "name": "a", "plugins": [{"type": "bridge"}, {"type": "portmap"}]}"#,
            Ok(("a", "1.0.0", 2)),
        );
        check(r#"{"cniVersion": "0.3.1", "name": "a", "type": "bridge"}"#, Ok(("a", "0.3.1", 1)));
        check(r#"{"name": "a", "type": "bridge"}"#, Ok(("a", "0.1.0", 1)));
        // The newest of those that both know.
        check(
            r#"{"cniVersion": "0.4.0", "cniVersions": ["0.3.1", "1.1.0", "9.0.0"], "name": "a", "plugins": []}"#,
            Ok(("a", "1.1.0", 0)),
        );
        check(r#"{"cniVersion": "9.0.0", "name": "a", "plugins": []}"#, Err("incompatible CNI versions"));
        check(r#"{"cniVersion": 1, "name": "a", "plugins": []}"#, Err("\"cniVersion\" is not a string"));
        check(r#"{"name": "../a", "plugins": []}"#, Err("invalid characters"));
        check(r#"{"plugins": []}"#, Err("no \"name\""));
        check(r#"{"name": "a", "plugins": [{"type": "../sh"}]}"#, Err("invalid plugin name"));
        check(r#"{"name": "a", "plugins": [{}]}"#, Err("no \"type\""));
        check(r#"{"name": "a", "plugins": ["bridge"]}"#, Err("not an object"));
        check(r#"{"name": "a", "plugins": {}}"#, Err("not a list"));
        check(r#"{"name": "a", "disableCheck": 3, "plugins": []}"#, Err("neither true nor false"));
        check("[]", Err("not a JSON object"));
        check("{", Err("not JSON"));
        let switches = r#"{"name": "a", "disableCheck": "True", "disableGC": true, "plugins": []}"#;
        let list = List::parse(switches.as_bytes()).expect("a list");
        assert!(list.disable_check && list.disable_gc);
    }

    #[test]
    fn the_first_file_by_name_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let name = || load(folder.path()).map(|list| list.map(|list| (list.name, list.plugins.len())));
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, text).expect("written");
        };
        assert!(matches!(name(), Ok(None)));
        assert!(matches!(load(&folder.path().join("nowhere")), Ok(None)));
        write("10-broken.conflist", "{");
        write("README", r#"{"name": "no", "type": "x"}"#);
        assert!(matches!(name(), Err(ListError::Wrong { .. })), "{:?}", name());
        write("30-last.conf", r#"{"name": "last", "type": "x"}"#);
        write("20-mid.conflist", r#"{"name": "mid", "plugins": [{"type": "x"}]}"#);
        assert_eq!(name().expect("a list"), Some(("mid".to_owned(), 1)));
        write("mid/more.conf", r#"{"type": "y"}"#);
        assert_eq!(name().expect("a list"), Some(("mid".to_owned(), 2)));
        write("20-mid.conflist", r#"{"name": "mid", "loadOnlyInlinedPlugins": true, "plugins": [{"type": "x"}]}"#);
        assert_eq!(name().expect("a list"), Some(("mid".to_owned(), 1)));
        write("00-empty.conflist", r#"{"name": "empty", "plugins": []}"#);
        assert_eq!(name().expect("a list"), Some(("mid".to_owned(), 1)));
        write("00-own.conflist", r#"{"name": "own", "plugins": [{"type": "own", "kobuneHandsOver": true}]}"#);
        assert_eq!(name().expect("a list"), Some(("mid".to_owned(), 1)), "kobune's own is for others");
    }
}
