//! Objects out of files and folders.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kube::api::DynamicObject;

/// Reads the objects of a file, of all `.yaml`, `.yml` and `.json` files of a folder (by name), or of standard input (`-`).
pub fn read(source: &Path) -> Result<Vec<DynamicObject>> {
    if source == Path::new("-") {
        let text = std::io::read_to_string(std::io::stdin().lock()).context("read standard input")?;
        return parse(&text).context("standard input");
    }
    let mut objects = Vec::new();
    for file in files(source)? {
        let text = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        objects.extend(parse(&text).with_context(|| file.display().to_string())?);
    }
    Ok(objects)
}

fn files(source: &Path) -> Result<Vec<PathBuf>> {
    if !source.is_dir() {
        return Ok(vec![source.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(source).with_context(|| format!("read {}", source.display()))? {
        let path = entry?.path();
        let wanted =
            path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known));
        if wanted && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        bail!("{} has no .yaml, .yml or .json file", source.display());
    }
    Ok(files)
}

/// The objects of a YAML stream or of JSON; the items of lists in their place, empty documents left out.
fn parse(text: &str) -> Result<Vec<DynamicObject>> {
    let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(text)?;
    let mut objects = Vec::new();
    for (index, document) in documents.into_iter().enumerate() {
        collect(document, &mut objects).with_context(|| format!("document {}", index + 1))?;
    }
    Ok(objects)
}

fn collect(mut document: serde_json::Value, into: &mut Vec<DynamicObject>) -> Result<()> {
    if document.is_null() {
        return Ok(());
    }
    let is_list = document["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
    if let Some(items) = document["items"].as_array_mut().filter(|_| is_list) {
        for item in std::mem::take(items) {
            collect(item, into)?;
        }
        return Ok(());
    }
    let object: DynamicObject = serde_json::from_value(document).context("not an object of Kubernetes")?;
    if object.types.is_none() {
        bail!("apiVersion and kind are missing");
    }
    if object.metadata.name.is_none() {
        bail!("metadata.name is missing");
    }
    into.push(object);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Result<Vec<String>> {
        Ok(parse(text)?.into_iter().filter_map(|object| object.metadata.name).collect())
    }

    #[test]
    fn streams_lists_and_mistakes() {
        let one = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";
        assert_eq!(names(one).unwrap(), ["a"]);
        assert_eq!(names(&format!("---\n{one}---\n---\n{}", one.replace("a}", "b}"))).unwrap(), ["a", "b"]);
        let list =
            r#"{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"}}]}"#;
        assert_eq!(names(list).unwrap(), ["p"]);
        for (wrong, expected) in [
            ("kind: ConfigMap", "document 1"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {}", "metadata.name is missing"),
            ("a: [", ""),
        ] {
            let error = format!("{:#}", names(wrong).expect_err(wrong));
            assert!(error.contains(expected), "{error}");
        }
    }
}
