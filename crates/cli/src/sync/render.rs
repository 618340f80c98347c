//! From the files of a checkout to manifests: a kustomization where there is one, else the plain manifests of the folder.

use std::path::PathBuf;

use anyhow::{Result, anyhow, bail};

use crate::build;
use crate::manifests::{self, Manifest};

/// The names that a kustomization may have.
const KUSTOMIZATIONS: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];

/// What is wanted of a checkout.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The folder with the checkout.
    pub root: PathBuf,
    /// The folder in it.
    pub path: String,
    /// Plain manifests of folders below, too.
    pub recursive: bool,
    /// Whether bases may come from other machines.
    pub remote: bool,
}

/// Reads the manifests. Nothing outside of the checkout is looked at, and no objects at all are a mistake: an empty folder is
/// more likely one than the wish to delete everything.
pub fn render(wanted: &Wanted) -> Result<Vec<Manifest>> {
    let root = std::fs::canonicalize(&wanted.root)?;
    let inside = |error: anyhow::Error| {
        let words = format!("{error:#}");
        let own = format!("{}/", root.display());
        // Where the copy is on this machine is nothing to tell.
        let above = root.parent().map(|above| above.display().to_string()).unwrap_or_default();
        anyhow!(words.replace(&own, "").replace(&root.display().to_string(), ".").replace(&above, ".."))
    };
    let folder = std::fs::canonicalize(root.join(&wanted.path))
        .map_err(|_| anyhow!("the repository has no folder {}", wanted.path))?;
    if !folder.starts_with(&root) {
        bail!("{} leads out of the repository", wanted.path);
    }
    let manifests = if KUSTOMIZATIONS.iter().any(|name| folder.join(name).is_file()) {
        let built = build::confined(&folder, &root, wanted.remote).map_err(inside)?;
        manifests::parse(&format!("build of {}", wanted.path), &built).map_err(inside)?
    } else {
        manifests::read_below(&[folder], wanted.recursive, &root).map_err(inside)?
    };
    if manifests.is_empty() {
        bail!("there are no objects in {}", wanted.path);
    }
    Ok(manifests)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn wanted(root: &Path, path: &str) -> Wanted {
        Wanted { root: root.to_owned(), path: path.to_owned(), recursive: false, remote: false }
    }

    #[test]
    fn what_a_checkout_may_say() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("tree");
        let write = |name: &str, text: &str| {
            let path = scratch.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";
        write("tree/plain/a.yaml", map);
        write("tree/plain/below/b.yaml", "no: [manifest");
        write("tree/built/kustomization.yaml", "resources: [../plain/a.yaml]\n");
        write("tree/base/kustomization.yaml", "resources: [a.yaml]\n");
        write("tree/base/a.yaml", map);
        write("tree/over/kustomization.yaml", "resources: [../base]\nnamePrefix: x-\n");
        write("tree/climbs/kustomization.yaml", "resources: [../../outside]\n");
        write("tree/remote/kustomization.yaml", "resources: ['https://example.com/a.yaml']\n");
        write("tree/none/kustomization.yaml", "resources: []\n");
        write("outside/kustomization.yaml", "resources: [a.yaml]\n");
        write("outside/a.yaml", map);
        let names = |path: &str| -> Vec<String> {
            let found = render(&wanted(&root, path)).unwrap();
            found
                .iter()
                .map(|it| format!("{} {}", it.value["metadata"]["name"].as_str().unwrap(), it.place()))
                .collect()
        };
        assert_eq!(names("plain"), ["a plain/a.yaml:1"]);
        assert_eq!(names("over"), ["x-a build of over:1"]);
        let refused = |path: &str, words: &str| {
            let error = format!("{:#}", render(&wanted(&root, path)).unwrap_err());
            assert!(error.contains(words), "{path}: {error}");
            assert!(!error.contains(&*scratch.path().to_string_lossy()), "{path}: {error}");
        };
        refused("nowhere", "no folder nowhere");
        refused("climbs", "leads out of the repository");
        refused("remote", "--allow-remote-bases");
        refused("none", "no objects");
        let mut all = wanted(&root, "plain");
        all.recursive = true;
        let error = format!("{:#}", render(&all).unwrap_err());
        assert!(error.contains("plain/below/b.yaml:"), "{error}");
    }
}
