//! Hostile input: nothing panics, nothing grows without bound, and what was written reads as what it was.

use std::path::Path;

use kobune_kustomize::{MemoryFiles, Options, build, emit, parse};
use proptest::prelude::*;

fn build_one(kustomization: &str, object: &str) -> Option<String> {
    let files = MemoryFiles::default().with("/k/kustomization.yaml", kustomization).with("/k/a.yaml", object);
    build(&files, "/k", Path::new("/"), &Options::default()).and_then(|output| output.yaml()).ok()
}

/// Pieces that mean something to YAML, so that texts out of them get far.
fn hostile() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "a",
        "b: ",
        "- ",
        "\n",
        "  ",
        "\t",
        "&x ",
        "*x",
        "<<: ",
        "---\n",
        "...\n",
        "|\n",
        ">-\n",
        "\"",
        "'",
        "{",
        "}",
        "[",
        "]",
        ", ",
        "#",
        ": ",
        "? ",
        "!!int ",
        "!!binary ",
        "\r\n",
        "\u{feff}",
        "1e9",
        "0o7",
        "2001-01-01",
        "~",
        "null",
        "$patch: ",
        "kind: ConfigMap\n",
        "apiVersion: v1\n",
        "metadata: {name: a}\n",
        "😀",
        "\u{85}",
        "\0",
        "%YAML 1.2\n",
        "items:\n",
    ]);
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn nothing_panics(kustomization in hostile(), object in hostile()) {
        build_one(&kustomization, &object);
        build_one("resources: [a.yaml]\nnamePrefix: p-\nnamespace: n\npatches: [{path: a.yaml, target: {kind: .*}}]\n", &object);
        let patched = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\ndata:\n  x: y\n{object}");
        build_one("resources: [a.yaml]\ncommonLabels: {a: b}\n", &patched);
    }

    #[test]
    fn what_is_written_reads_the_same(text in hostile()) {
        if let Ok(node) = parse::one(&text)
            && node.as_map().is_some()
            && let Ok(written) = emit::object(&node)
        {
            let again = parse::one(&written).expect("what was written can be read");
            // A folded text may change once, when it is written folded again on the way; after that it stays.
            prop_assert_eq!(emit::object(&again).expect("and written again"), written);
        }
    }

    #[test]
    fn building_is_deterministic(object in hostile()) {
        let kustomization = "resources: [a.yaml]\nconfigMapGenerator: [{name: g, literals: [a=b]}]\nnameSuffix: -s\n";
        prop_assert_eq!(build_one(kustomization, &object), build_one(kustomization, &object));
    }
}

#[test]
fn aliases_cannot_explode() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let item = format!("*a{}, ", level - 1).repeat(10);
        bomb.push_str(&format!("a{level}: &a{level} [{item}]\n"));
    }
    let error = parse::one(&bomb).expect_err("a bomb");
    assert!(error.contains("excessive aliasing"), "{error}");
    // Anchors in anchors make a document deep, one level a line.
    let mut deep = "a0: &a0 {x: 1}\n".to_owned();
    for level in 1..2_000 {
        deep.push_str(&format!("a{level}: &a{level} {{x: *a{}}}\n", level - 1));
    }
    assert!(parse::one(&deep).is_err());
    assert!(parse::one("a: &a [*a]\n").is_err());
    assert!(parse::one(&"[".repeat(100_000)).is_err());
    assert!(parse::one(&"- ".repeat(100_000)).is_err());
}

#[test]
fn ten_megabytes_are_read() {
    let line = format!("  key: {}\n", "word ".repeat(200));
    let text = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\ndata:\n{}", {
        let lines = (0..10_000).map(|number| line.replacen("key", &format!("key{number}"), 1));
        lines.collect::<String>()
    });
    assert!(text.len() > 10_000_000);
    let yaml = build_one("resources: [a.yaml]\n", &text).expect("an object");
    assert!(yaml.len() > 10_000_000);
}

#[test]
fn a_kustomization_stays_in_its_folder() {
    let files = MemoryFiles::default()
        .with("/k/kustomization.yaml", "resources: [../a.yaml]\n")
        .with("/a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n");
    let error = build(&files, "/k", Path::new("/"), &Options::default()).expect_err("outside").to_string();
    assert!(error.contains("is not in or below"), "{error}");
    let options = Options { load_restriction: kobune_kustomize::LoadRestriction::None, ..Options::default() };
    assert_eq!(build(&files, "/k", Path::new("/"), &options).expect("allowed").resources.len(), 1);
    let cycle = MemoryFiles::default().with("/k/kustomization.yaml", "resources: [../k]\n");
    let error = build(&cycle, "/k", Path::new("/"), &Options::default()).expect_err("a cycle").to_string();
    assert!(error.contains("cycle detected"), "{error}");
}
