//! Places of `cp` and paths in them, as Go's `path` package and kubectl's `filespec.go` treat them. Pure.

use anyhow::{Result, bail};

/// Where something is copied from or to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On this machine.
    Here(String),
    /// In a pod.
    Pod {
        /// The pod's namespace, where it is said.
        namespace: Option<String>,
        /// The pod.
        name: String,
        /// The path there.
        path: String,
    },
}

impl Place {
    /// The path.
    pub fn path(&self) -> &str {
        match self {
            Place::Here(path) | Place::Pod { path, .. } => path,
        }
    }
}

/// Reads `[[NAMESPACE/]POD:]PATH`.
pub fn place(text: &str) -> Result<Place> {
    let Some((pod, path)) = text.split_once(':') else {
        return Ok(Place::Here(without_slash(text).to_owned()));
    };
    let path = without_slash(&path.replace('\\', "/")).to_owned();
    match pod.split('/').collect::<Vec<_>>().as_slice() {
        [name] if !name.is_empty() => Ok(Place::Pod { namespace: None, name: (*name).to_owned(), path }),
        [namespace, name] if !name.is_empty() => {
            let namespace = (!namespace.is_empty()).then(|| (*namespace).to_owned());
            Ok(Place::Pod { namespace, name: (*name).to_owned(), path })
        }
        _ => bail!("filespec must match the canonical format: [[namespace/]pod:]file/path"),
    }
}

fn without_slash(path: &str) -> &str {
    if path == "/" { path } else { path.strip_suffix('/').unwrap_or(path) }
}

/// The shortest path that means the same, by its letters alone (Go's `path.Clean`).
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

/// The last part of a clean path.
pub fn base(path: &str) -> String {
    match path.rsplit('/').next() {
        Some(last) if !last.is_empty() => last.to_owned(),
        _ => "/".to_owned(),
    }
}

/// What a clean path is in.
pub fn folder(path: &str) -> String {
    match path.rsplit_once('/') {
        Some(("", _)) => "/".to_owned(),
        Some((folder, _)) => folder.to_owned(),
        None => ".".to_owned(),
    }
}

/// A path below another one, clean.
pub fn join(left: &str, right: &str) -> String {
    match (left, right) {
        ("", right) => clean(right),
        (left, "") => clean(left),
        (left, right) => clean(&format!("{left}/{right}")),
    }
}

/// What the names in an archive of a path begin with: `tar` leaves out the slash at the start.
pub fn prefix(path: &str) -> String {
    let mut path = clean(path.trim_start_matches(['/', '\\']));
    while let Some(rest) = path.strip_prefix("../") {
        path = rest.to_owned();
    }
    if path == "." || path == ".." { String::new() } else { path }
}

/// Where the entry of an archive goes: a path that is the destination or below it. `None` for one that would be elsewhere.
/// Fails when the name is none that an archive of this prefix can have.
pub fn target(name: &str, prefix: &str, destination: &str) -> Result<Option<String>> {
    // As `tar` may or may not say it.
    let name = name.strip_prefix("./").unwrap_or(name);
    let Some(rest) = name.strip_prefix(prefix) else {
        bail!("tar contents corrupted");
    };
    let mut depth = 0_i64;
    // More cautious than a comparison of cleaned paths: also what only passes by outside is refused.
    for part in rest.split(['/', '\\']) {
        match part {
            "" | "." => {}
            ".." => depth -= 1,
            _ => depth += 1,
        }
        if depth < 0 {
            return Ok(None);
        }
    }
    if prefix.is_empty() && rest.starts_with('/') {
        return Ok(None);
    }
    Ok(Some(join(destination, rest)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn places() {
        let here = |path: &str| Place::Here(path.to_owned());
        let pod = |namespace: Option<&str>, name: &str, path: &str| Place::Pod {
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
            path: path.to_owned(),
        };
        assert_eq!(place("/a/b/").unwrap(), here("/a/b"));
        assert_eq!(place("p:/a").unwrap(), pod(None, "p", "/a"));
        assert_eq!(place("n/p:a\\b/").unwrap(), pod(Some("n"), "p", "a/b"));
        assert_eq!(place("p:").unwrap().path(), "");
        assert!(place(":/a").is_err() && place("a/b/c:/d").is_err());
    }

    #[test]
    fn paths_of_go() {
        let check = |path: &str, cleaned: &str, last: &str, outer: &str| {
            let got = clean(path);
            assert_eq!(got, cleaned);
            assert_eq!((base(&got).as_str(), folder(&got).as_str()), (last, outer), "{path}");
        };
        check("/a//b/../c/.", "/a/c", "c", "/a");
        check("a", "a", "a", ".");
        check("../a/../..", "../..", "..", "..");
        check("/..", "/", "/", "/");
        check("", ".", ".", ".");
        assert_eq!(join("/a", "b"), "/a/b");
        assert_eq!(join("a", ""), "a");
        assert_eq!(prefix("/tmp/x/"), "tmp/x");
        assert_eq!(prefix("../../x"), "x");
        assert_eq!(prefix("/"), "");
    }

    #[test]
    fn where_entries_go() {
        let check = |name: &str, prefix: &str, expected: Result<Option<&str>, ()>| {
            let got = target(name, prefix, "out").map_err(drop);
            assert_eq!(got, expected.map(|path| path.map(str::to_owned)), "{name}");
        };
        check("tmp/x", "tmp/x", Ok(Some("out")));
        check("tmp/x/a/b", "tmp/x", Ok(Some("out/a/b")));
        check("./x/a", "x", Ok(Some("out/a")));
        check("tmp/x/../../etc/passwd", "tmp/x", Ok(None));
        check("tmp/x/a/../../y", "tmp/x", Ok(None));
        check("tmp/x/a/../b", "tmp/x", Ok(Some("out/b")));
        check("tmp/x/..\\y", "tmp/x", Ok(None));
        check("/etc/passwd", "", Ok(None));
        check("../etc/passwd", "", Ok(None));
        check("etc/passwd", "tmp/x", Err(()));
    }

    proptest! {
        #[test]
        fn nothing_escapes(name in r"([a.]{1,2}|\.\.|/|\\){0,12}", prefix in "(a|a/a)?", destination in "(/o|o|\\.|/)") {
            if let Ok(Some(path)) = target(&name, &prefix, &destination) {
                prop_assert!(!path.split('/').any(|part| part == ".."), "{path}");
                let inside = path == destination || destination == "." && !path.starts_with('/')
                    || path.starts_with(&format!("{}/", destination.trim_end_matches('/')));
                prop_assert!(inside, "{path} is not in {destination}");
            }
        }
    }
}
