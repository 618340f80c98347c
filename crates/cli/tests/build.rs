//! `kobune build` with the programs that it runs: bases in git repositories, and charts.

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;
use kobune_cli::BuildOptions;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    options: BuildOptions,
}

fn run(arguments: &[&str], output: &Path) -> anyhow::Result<String> {
    let output_flag = format!("--output={}", output.display());
    let line = Line::parse_from(["build"].into_iter().chain(arguments.iter().copied()).chain([output_flag.as_str()]));
    kobune_cli::build(&line.options)?;
    Ok(std::fs::read_to_string(output)?)
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    std::fs::write(path, text).expect("a file");
}

fn git(folder: &Path, arguments: &[&str]) {
    let identity = ["-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "init.defaultBranch=main"];
    let status = Command::new("git").args(identity).args(arguments).current_dir(folder).status().expect("git runs");
    assert!(status.success(), "git {arguments:?}");
}

const MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: NAME\n";

#[test]
fn bases_in_repositories() {
    let root = tempfile::tempdir().expect("a folder");
    let work = root.path().join("work");
    write(&work, "base/kustomization.yaml", "resources: [a.yaml, ../shared]\n");
    write(&work, "base/a.yaml", &MAP.replace("NAME", "a"));
    write(&work, "shared/kustomization.yaml", "resources: [b.yaml]\n");
    write(&work, "shared/b.yaml", &MAP.replace("NAME", "b"));
    git(&work, &["init", "--quiet"]);
    git(&work, &["add", "."]);
    git(&work, &["commit", "--quiet", "-m", "one"]);
    git(&work, &["tag", "v1"]);
    write(&work, "base/a.yaml", &MAP.replace("NAME", "later"));
    git(&work, &["commit", "--quiet", "-am", "two"]);
    let bare = root.path().join("bare.git");
    git(root.path(), &["clone", "--quiet", "--bare", "work", "bare.git"]);

    let url = format!("file://{}//base?ref=v1", bare.display());
    let out = root.path().join("out.yaml");
    let expected = format!("{}---\n{}", MAP.replace("NAME", "a"), MAP.replace("NAME", "b"));
    assert_eq!(run(&[&url], &out).expect("a build"), expected);

    let overlay = root.path().join("overlay");
    let text = format!("resources:\n- file://{}//base\nnamePrefix: p-\n", bare.display());
    write(&overlay, "kustomization.yaml", &text);
    let built = run(&[&overlay.display().to_string()], &out).expect("a build");
    assert!(built.contains("name: p-later\n") && built.contains("name: p-b\n"), "{built}");

    write(&overlay, "kustomization.yaml", &text.replace("//base", "//base?ref=absent"));
    let error = run(&[&overlay.display().to_string()], &out).expect_err("no such branch");
    assert!(format!("{error:#}").contains("git fetch"), "{error:#}");
    // What git fetched is gone.
    let prefix = format!("kobune-build-{}-", std::process::id());
    let left = std::fs::read_dir(std::env::temp_dir()).expect("a folder").filter_map(Result::ok);
    let left: Vec<PathBuf> = left
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)))
        .filter(|path| path.join("1/.git").exists())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn charts() {
    let home = std::env::var_os("HOME").unwrap_or_default();
    let tools = std::env::var_os("KOBUNE_TEST_TOOLS")
        .map_or_else(|| Path::new(&home).join(".cache/kobune-tools"), PathBuf::from);
    let helm = tools.join("helm");
    if !helm.exists() {
        eprintln!("skipped: charts needs {} (make test-tools)", helm.display());
        return;
    }
    let root = tempfile::tempdir().expect("a folder");
    write(root.path(), "charts/c/Chart.yaml", "apiVersion: v2\nname: c\nversion: 1.0.0\n");
    write(root.path(), "charts/c/values.yaml", "color: blue\nsize: 1\n");
    let template = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ .Release.Name }}\n  namespace: \
                    {{ .Release.Namespace }}\ndata:\n  color: {{ .Values.color }}\n  size: {{ .Values.size | quote }}\n";
    write(root.path(), "charts/c/templates/map.yaml", template);
    write(
        root.path(),
        "kustomization.yaml",
        "namespace: shop\nhelmCharts:\n- {name: c, releaseName: r, valuesInline: {color: red}}\n",
    );
    let folder = root.path().display().to_string();
    let out = root.path().join("out.yaml");
    let refused = run(&[&folder], &out).expect_err("not asked for");
    assert!(format!("{refused:#}").contains("--enable-helm"), "{refused:#}");
    let command = format!("--helm-command={}", helm.display());
    let built = run(&[&folder, "--enable-helm", &command], &out).expect("a build");
    let expected = "apiVersion: v1\ndata:\n  color: red\n  size: \"1\"\nkind: ConfigMap\nmetadata:\n  name: r\n  namespace: shop\n";
    assert_eq!(built, expected);
}

#[test]
fn one_file_an_object() {
    let root = tempfile::tempdir().expect("a folder");
    write(root.path(), "k/kustomization.yaml", "resources: [a.yaml]\n");
    write(root.path(), "k/a.yaml", &format!("{}---\n{}", MAP.replace("NAME", "a"), MAP.replace("NAME", "b")));
    let out = root.path().join("out");
    std::fs::create_dir(&out).expect("a folder");
    let line = Line::parse_from([
        "build".to_owned(),
        root.path().join("k").display().to_string(),
        format!("-o={}", out.display()),
    ]);
    kobune_cli::build(&line.options).expect("a build");
    let written = std::fs::read_to_string(out.join("v1_configmap_b.yaml")).expect("a file");
    assert_eq!(written, MAP.replace("NAME", "b"));
}
