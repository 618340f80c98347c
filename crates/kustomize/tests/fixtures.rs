//! Folders with what kustomize 5.8.1 makes of them, beside each other; the same against the real `kubectl kustomize`; and
//! folders with mistakes, with what is said about them.

use std::path::{Path, PathBuf};

use kobune_kustomize::{BuildError, Chart, Files, Options, Output, Repository, build};

struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> std::io::Result<Vec<u8>> {
        std::fs::read(path)
    }

    fn canonical(&self, path: &Path) -> std::io::Result<PathBuf> {
        std::fs::canonicalize(path)
    }

    fn is_dir(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn download(&self, url: &str) -> Result<Vec<u8>, BuildError> {
        Err(BuildError::Refused(format!("{url}: tests download nothing")))
    }

    fn clone_repository(&self, repository: &Repository) -> Result<PathBuf, BuildError> {
        Err(BuildError::Refused(format!("{}: tests clone nothing", repository.raw)))
    }

    fn render(&self, chart: &Chart) -> Result<Vec<u8>, BuildError> {
        Err(BuildError::Refused(format!("{}: tests render nothing", chart.name())))
    }
}

fn folders(name: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name);
    let entries = std::fs::read_dir(&root).expect("the folder of fixtures");
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    folders.sort();
    assert!(folders.len() > 3, "{} has the fixtures", root.display());
    folders
}

fn run(folder: &Path) -> Result<Output, BuildError> {
    build(&Disk, &folder.display().to_string(), Path::new("/"), &Options::default())
}

#[test]
fn as_kustomize_builds_them() {
    for folder in folders("fixtures") {
        let expected = std::fs::read_to_string(folder.join("expected.yaml")).expect("what kustomize made");
        let output = run(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        assert_eq!(output.yaml().expect("YAML"), expected, "{}", folder.display());
        assert_eq!(run(&folder).and_then(|output| output.yaml()).expect("YAML"), expected, "building twice");
    }
}

#[test]
fn as_kubectl_builds_them() {
    let home = std::env::var_os("HOME").unwrap_or_default();
    let tools = std::env::var_os("KOBUNE_TEST_TOOLS")
        .map_or_else(|| Path::new(&home).join(".cache/kobune-tools"), PathBuf::from);
    let kubectl = tools.join("kubectl");
    if !kubectl.exists() {
        eprintln!("skipped: as_kubectl_builds_them needs {} (make test-tools)", kubectl.display());
        return;
    }
    for folder in folders("fixtures") {
        let output = std::process::Command::new(&kubectl).arg("kustomize").arg(&folder).output().expect("kubectl runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let ours = run(&folder).and_then(|output| output.yaml()).expect("YAML");
        assert_eq!(ours, String::from_utf8_lossy(&output.stdout), "{}", folder.display());
    }
}

#[test]
fn mistakes_say_where_they_are() {
    for folder in folders("bad") {
        let error = run(&folder).and_then(|output| output.yaml()).expect_err("a mistake").to_string();
        let root = std::fs::canonicalize(&folder).expect("the folder").display().to_string();
        let error = error.replace(&root, "FOLDER");
        let expected = std::fs::read_to_string(folder.join("expected.txt")).expect("what is to be said");
        assert_eq!(error, expected.trim_end(), "{}", folder.display());
    }
}
