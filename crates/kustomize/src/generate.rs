//! ConfigMaps and Secrets out of literals, files and environment files.

use base64::Engine;

use crate::error::{BuildError, refused};
use crate::kustomization::{Generator, GeneratorOptions};
use crate::node::{Map, Node, Scalar, Tag};

/// How a generator reads files.
pub(crate) type Load<'l> = dyn Fn(&str) -> Result<Vec<u8>, BuildError> + 'l;

/// What the kustomization says for all generators, added to what one says itself.
pub(crate) fn with_global(
    own: Option<GeneratorOptions>,
    global: Option<&GeneratorOptions>,
) -> Option<GeneratorOptions> {
    let Some(global) = global else { return own };
    let mut own = own.unwrap_or_default();
    for (mine, theirs) in [(&mut own.labels, &global.labels), (&mut own.annotations, &global.annotations)] {
        for (key, value) in theirs {
            if !mine.iter().any(|(known, _)| known == key) {
                mine.push((key.clone(), value.clone()));
            }
        }
        mine.sort();
    }
    own.disable_name_suffix_hash |= global.disable_name_suffix_hash;
    own.immutable |= global.immutable;
    Some(own)
}

/// The object that a generator makes.
pub(crate) fn object(generator: &Generator, is_secret: bool, load: &Load<'_>) -> Result<Node, BuildError> {
    if generator.name.is_empty() {
        return Err(refused("a configmap must have a name"));
    }
    let mut map = Map::default();
    map.push("apiVersion", Node::string("v1"));
    map.push("kind", Node::string(if is_secret { "Secret" } else { "ConfigMap" }));
    let mut metadata = Map::default();
    metadata.set("name", Node::Scalar(Scalar::open(generator.name.as_str())));
    if !generator.namespace.is_empty() {
        metadata.set("namespace", Node::Scalar(Scalar::open(generator.namespace.as_str())));
    }
    let options = generator.options.clone().unwrap_or_default();
    for (field, pairs) in [("labels", &options.labels), ("annotations", &options.annotations)] {
        if pairs.is_empty() {
            continue;
        }
        let mut texts = Map::default();
        for (key, value) in pairs {
            texts.push(key, Node::string(value.as_str()));
        }
        metadata.push(field, Node::Map(texts));
    }
    map.push("metadata", Node::Map(metadata));
    if is_secret {
        let kind = if generator.secret_type.is_empty() { "Opaque" } else { &generator.secret_type };
        map.push("type", Node::string(kind));
    }
    let mut pairs = pairs(generator, load)?;
    pairs.sort();
    if let Some(twice) = pairs.windows(2).find(|two| two[0].0 == two[1].0) {
        let (name, key) = (&generator.name, &twice[0].0);
        return Err(refused(format!("configmap {name} illegally repeats the key `{key}`")));
    }
    if is_secret {
        let data = map.push("data", Node::Map(Map::default()));
        for (key, value) in pairs {
            if let Some(data) = data.as_map_mut() {
                data.push(&key, Node::string(base64_lines(&value)));
            }
        }
    } else {
        for (key, value) in pairs {
            let (field, text) = match String::from_utf8(value) {
                Ok(text) => ("data", text),
                Err(binary) => ("binaryData", base64_lines(binary.as_bytes())),
            };
            if let Some(data) = map.map_at(field) {
                data.push(&key, Node::string(text));
            }
        }
    }
    if options.immutable {
        map.push("immutable", Node::Scalar(Scalar { tag: Tag::Bool, ..Scalar::open("true") }));
    }
    Ok(Node::Map(map))
}

/// Base64 in lines of 70 letters when it is longer than one.
pub(crate) fn base64_lines(bytes: &[u8]) -> String {
    const LINE: usize = 70;
    let text = base64::engine::general_purpose::STANDARD.encode(bytes);
    if text.len() < LINE {
        return text;
    }
    let mut lines = String::with_capacity(text.len() + text.len() / LINE + 1);
    for (at, letter) in text.chars().enumerate() {
        if at > 0 && at % LINE == 0 {
            lines.push('\n');
        }
        lines.push(letter);
    }
    lines.push('\n');
    lines
}

type Pairs = Vec<(String, Vec<u8>)>;

fn pairs(generator: &Generator, load: &Load<'_>) -> Result<Pairs, BuildError> {
    let mut pairs = Vec::new();
    for path in &generator.envs {
        let lines = load(path).and_then(|content| env_lines(&content));
        pairs.extend(lines.map_err(|error| error.within(format!("env source file {path}")))?);
    }
    for literal in &generator.literals {
        let (key, value) = literal
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| refused(format!("invalid literal source {literal}, expected key=value")))?;
        pairs.push((key.to_owned(), unquoted(value).as_bytes().to_vec()));
    }
    for source in &generator.files {
        let (key, path) = file_source(source)?;
        let content = load(path).map_err(|error| error.within(format!("file source {source}")))?;
        pairs.push((key.to_owned(), content));
    }
    Ok(pairs)
}

fn file_source(source: &str) -> Result<(&str, &str), BuildError> {
    match source.split('=').collect::<Vec<_>>().as_slice() {
        [path] => Ok((path.trim_end_matches('/').rsplit('/').next().unwrap_or(path), path)),
        ["", path] => Err(refused(format!("missing key name for file path {path:?} in source {source:?}"))),
        [key, ""] => Err(refused(format!("missing file path for key name {key:?} in source {source:?}"))),
        [key, path] => Ok((key, path)),
        _ => Err(refused(format!("source {source:?} key name or file path contains '='"))),
    }
}

fn unquoted(text: &str) -> &str {
    let quote = |quote: char| text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    quote('"').or_else(|| quote('\'')).unwrap_or(text)
}

fn env_lines(content: &[u8]) -> Result<Pairs, BuildError> {
    let mut pairs = Vec::new();
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    for line in content.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = std::str::from_utf8(line)
            .map_err(|_| refused(format!("invalid utf8 bytes: {}", String::from_utf8_lossy(line))))?;
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        if !key.is_empty() {
            pairs.push((key.to_owned(), value.as_bytes().to_vec()));
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources() {
        assert_eq!(file_source("a/b.txt").expect("a path"), ("b.txt", "a/b.txt"));
        assert_eq!(file_source("k=a/b.txt").expect("a path"), ("k", "a/b.txt"));
        for wrong in ["=a", "a=", "a=b=c"] {
            assert!(file_source(wrong).is_err(), "{wrong}");
        }
        assert_eq!(unquoted("'a'"), "a");
        assert_eq!(unquoted("\"a'"), "\"a'");
        let lines = env_lines(b"\xef\xbb\xbfA=1\r\n# no\n  B=x=y\n\nC\n").expect("lines");
        let lines: Vec<_> = lines.iter().map(|(key, value)| (key.as_str(), value.as_slice())).collect();
        assert_eq!(lines, [("A", b"1" as &[u8]), ("B", b"x=y"), ("C", b"")]);
    }
}
