//! Objects out of files, folders, addresses and standard input, with the place of every one of them, so that whatever is
//! found wrong later can be shown where it stands.
//!
//! All texts are read before anything is said: mistakes come together, not one a run.

mod locate;
mod mistake;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use serde_saphyr::DuplicateKeyPolicy;

pub use locate::Step;
pub use mistake::{Mistake, Mistakes};

/// The largest text that is read from one file; a manifest is nothing like it, and a mistaken `-f` should not take all memory.
const LARGEST: u64 = 64 << 20;

/// One document of a text, as it was written.
#[derive(Debug)]
pub struct Document {
    /// The file's name as the user gave it.
    pub file: String,
    /// The text of this document alone.
    text: String,
    /// How many lines of the file come before it.
    lines_before: usize,
}

impl Document {
    /// What is wrong at a path of the document; where the path is not there, at the nearest place above it.
    pub fn mistake(&self, path: &[Step], message: impl Into<String>) -> Mistake {
        let place = locate::locate(&self.text, path);
        let mut mistake = Mistake::new(&self.file, message);
        if let Some(found) = place {
            let hidden = self.text.contains("kind: Secret");
            mistake = mistake.at(self.lines_before + found.line, found.column);
            if let Some(line) = self.text.lines().nth(found.line.saturating_sub(1)).filter(|_| !hidden) {
                mistake = mistake.line(line, found.width);
            }
        }
        mistake
    }

    /// `file:line` of a place in the document's first object.
    pub fn place(&self, path: &[Step]) -> String {
        if self.text.is_empty() {
            return self.file.clone();
        }
        let line = locate::locate(&self.text, path).map_or(1, |found| found.line);
        format!("{}:{}", self.file, self.lines_before + line)
    }
}

/// An object as a manifest says it.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// The object.
    pub value: Value,
    document: Arc<Document>,
    /// Where in the document the object begins: not at its root when it is a list's item.
    prefix: Vec<Step>,
}

impl Manifest {
    /// Something that is wrong with the object, at a path within it.
    pub fn mistake(&self, path: &[Step], message: impl Into<String>) -> Mistake {
        let full: Vec<Step> = self.prefix.iter().chain(path).cloned().collect();
        self.document.mistake(&full, message)
    }

    /// `file:line`.
    pub fn place(&self) -> String {
        self.document.place(&self.prefix)
    }

    /// An object that no file holds: what a plan file or a revision kept.
    pub fn without_file(value: Value, origin: &str) -> Manifest {
        let document = Document { file: origin.to_owned(), text: String::new(), lines_before: 0 };
        Manifest { value, document: Arc::new(document), prefix: Vec::new() }
    }

    /// The steps of a path as the API server writes it; items that it names by their keys are looked up.
    pub fn steps(&self, text: &str) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut here = Some(&self.value);
        for part in Step::parts(text) {
            let step = match part.strip_prefix('[').and_then(|part| part.strip_suffix(']')) {
                None => Step::Key(part.to_owned()),
                Some(inside) => match (inside.parse(), here) {
                    (Ok(index), _) => Step::Index(index),
                    (Err(_), Some(Value::Array(items))) => {
                        let has = |item: &Value, pair: &str| {
                            pair.split_once('=').is_some_and(|(name, value)| {
                                let own = if name.is_empty() { Some(item) } else { item.get(name) };
                                own.is_none_or(|own| {
                                    serde_json::from_str::<Value>(value).is_ok_and(|value| value == *own)
                                })
                            })
                        };
                        match items.iter().position(|item| inside.split(',').all(|pair| has(item, pair))) {
                            Some(index) => Step::Index(index),
                            None => break,
                        }
                    }
                    (Err(_), _) => Step::Key(inside.trim_matches('"').to_owned()),
                },
            };
            here = here.and_then(|value| match &step {
                Step::Key(name) => value.get(name),
                Step::Index(index) => value.get(index),
            });
            steps.push(step);
        }
        steps
    }

    /// The text of a field below the root.
    pub fn text(&self, path: &[&str]) -> Option<&str> {
        path.iter().try_fold(&self.value, |value, name| value.get(name))?.as_str()
    }
}

/// Reads the objects of files, of all `.yaml`, `.yml` and `.json` files of folders (by name; with everything below them when
/// `recursive`), and of standard input (`-`).
pub fn read(sources: &[PathBuf], recursive: bool) -> Result<Vec<Manifest>> {
    read_below(sources, recursive, Path::new(""))
}

/// The same with objects as they stand there, for whoever sends them whole: with what the server fills in, and with names that
/// it is to make.
pub fn read_whole(sources: &[PathBuf], recursive: bool) -> Result<Vec<Manifest>> {
    read_into(Reader { whole: true, ..Reader::default() }, sources, recursive, Path::new(""))
}

/// The same, with files named from a folder on.
pub fn read_below(sources: &[PathBuf], recursive: bool, root: &Path) -> Result<Vec<Manifest>> {
    read_into(Reader::default(), sources, recursive, root)
}

fn read_into(mut reader: Reader, sources: &[PathBuf], recursive: bool, root: &Path) -> Result<Vec<Manifest>> {
    for source in sources {
        if source == Path::new("-") {
            let text = std::io::read_to_string(std::io::stdin().lock()).context("read standard input")?;
            reader.text("standard input", &text);
            continue;
        }
        for file in files(source, recursive)? {
            let name = file.strip_prefix(root).unwrap_or(&file).display().to_string();
            let size = std::fs::metadata(&file).with_context(|| format!("read {name}"))?.len();
            if size > LARGEST {
                bail!("{name}: {} MB are more than a manifest may have ({} MB)", size >> 20, LARGEST >> 20);
            }
            let bytes = std::fs::read(&file).with_context(|| format!("read {name}"))?;
            match String::from_utf8(bytes) {
                Ok(text) => reader.text(&name, &text),
                Err(error) => {
                    let line =
                        error.as_bytes()[..error.utf8_error().valid_up_to()].split(|byte| *byte == b'\n').count();
                    reader.mistakes.push(Mistake::new(&name, "this is not UTF-8").at(line, 1));
                }
            }
        }
    }
    reader.finish()
}

/// Reads the objects of one text.
pub fn parse(name: &str, text: &str) -> Result<Vec<Manifest>> {
    let mut reader = Reader::default();
    reader.text(name, text);
    reader.finish()
}

fn files(source: &Path, recursive: bool) -> Result<Vec<PathBuf>> {
    if !source.is_dir() {
        return Ok(vec![source.to_owned()]);
    }
    let mut found = Vec::new();
    let mut folders = vec![source.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
            let entry = entry?;
            let path = entry.path();
            let wanted = path
                .extension()
                .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known));
            if entry.file_type()?.is_dir() {
                folders.extend(recursive.then_some(path));
            } else if wanted && path.is_file() {
                found.push(path);
            }
        }
    }
    found.sort();
    if found.is_empty() {
        bail!("{} has no .yaml, .yml or .json file", source.display());
    }
    Ok(found)
}

#[derive(Default)]
struct Reader {
    /// Whether objects stay as they stand.
    whole: bool,
    manifests: Vec<Manifest>,
    mistakes: Vec<Mistake>,
}

impl Reader {
    /// Takes the documents of a text apart as kubectl does: at lines that begin with `---`. So a mistake in one of them
    /// hides none in another.
    fn text(&mut self, file: &str, text: &str) {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut start = (0, 0);
        let mut offset = 0;
        for (number, line) in text.split_inclusive('\n').enumerate() {
            let rest = line.strip_prefix("---");
            if rest.is_some_and(|rest| rest.trim_end().is_empty() || rest.starts_with([' ', '\t'])) {
                self.document(file, &text[start.0..offset], start.1);
                start = match rest.map(|rest| rest.trim()) {
                    // Content may stand behind the dashes: then they stay, as the start of the document.
                    Some(rest) if !rest.is_empty() && !rest.starts_with('#') => (offset, number),
                    _ => (offset + line.len(), number + 1),
                };
            }
            offset += line.len();
        }
        self.document(file, &text[start.0..], start.1);
    }

    fn document(&mut self, file: &str, text: &str, lines_before: usize) {
        if text.lines().all(|line| line.trim_start().is_empty() || line.starts_with('#')) {
            return;
        }
        let document = Document { file: file.to_owned(), text: text.to_owned(), lines_before };
        let options = serde_saphyr::options! {
            duplicate_keys: DuplicateKeyPolicy::Error,
            legacy_octal_numbers: true,
            with_snippet: false,
        };
        match serde_saphyr::from_str_with_options::<Value>(text, options) {
            Ok(value) => self.object(value, &Arc::new(document), Vec::new()),
            Err(error) => self.mistakes.push(syntax(&document, &error)),
        }
    }

    fn object(&mut self, mut value: Value, document: &Arc<Document>, prefix: Vec<Step>) {
        if value.is_null() {
            return;
        }
        let manifest = Manifest { value: Value::Null, document: Arc::clone(document), prefix: prefix.clone() };
        if !value.is_object() {
            self.mistakes
                .push(manifest.mistake(&[], "this is not an object: apiVersion, kind and metadata are missing"));
            return;
        }
        let is_list = value["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
        if let Some(items) = value.get_mut("items").and_then(Value::as_array_mut).filter(|_| is_list) {
            for (index, item) in std::mem::take(items).into_iter().enumerate() {
                let place = [Step::from("items"), Step::Index(index)];
                self.object(item, document, prefix.iter().cloned().chain(place).collect());
            }
            return;
        }
        let before = self.mistakes.len();
        for field in ["apiVersion", "kind"] {
            match &value[field] {
                Value::String(text) if !text.is_empty() => {}
                Value::Null => self.mistakes.push(manifest.mistake(&[], format!("{field} is missing"))),
                _ => self.mistakes.push(manifest.mistake(&[field.into()], format!("{field} must be a text"))),
            }
        }
        for field in ["name", "namespace"] {
            let path = [Step::from("metadata"), field.into()];
            match value["metadata"].get(field) {
                Some(Value::String(text)) if !text.is_empty() || field == "namespace" => {}
                None | Some(Value::Null) if field == "namespace" => {}
                None | Some(Value::Null) if self.whole && value["metadata"]["generateName"].is_string() => {}
                None | Some(Value::Null) if value["metadata"]["generateName"].is_string() => self.mistakes.push(
                    manifest
                        .mistake(&[Step::from("metadata"), "generateName".into()], "metadata.name is missing")
                        .hint("an object is found again by its name; `create` takes generateName"),
                ),
                None | Some(Value::Null) => {
                    self.mistakes.push(manifest.mistake(&[Step::from("metadata")], "metadata.name is missing"))
                }
                Some(Value::String(_)) => self.mistakes.push(manifest.mistake(&path, "metadata.name is empty")),
                Some(other) => self.mistakes.push(
                    manifest
                        .mistake(&path, format!("metadata.{field} must be a text, and this is {}", type_of(other)))
                        .hint(format!("put it in quotes: {field}: \"{other}\"")),
                ),
            }
        }
        // What the server fills in would make the object look changed, or refuse it.
        if self.whole {
            if self.mistakes.len() == before {
                self.manifests.push(Manifest { value, ..manifest });
            }
            return;
        }
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in ["managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink"] {
                metadata.remove(field);
            }
        }
        if let Some(object) = value.as_object_mut() {
            object.remove("status");
        }
        if self.mistakes.len() == before {
            self.manifests.push(Manifest { value, ..manifest });
        }
    }

    fn finish(mut self) -> Result<Vec<Manifest>> {
        let mut seen: HashMap<[String; 4], String> = HashMap::new();
        for manifest in self.manifests.iter().filter(|_| !self.whole) {
            let text = |path: &[&str]| manifest.text(path).unwrap_or_default().to_owned();
            let group = text(&["apiVersion"]).rsplit_once('/').map_or(String::new(), |(group, _)| group.to_owned());
            let key = [group, text(&["kind"]), text(&["metadata", "namespace"]), text(&["metadata", "name"])];
            if let Some(first) = seen.get(&key) {
                let name = format!("{}/{} is here twice", key[1].to_lowercase(), key[3]);
                let path = [Step::from("metadata"), "name".into()];
                self.mistakes.push(manifest.mistake(&path, name).hint(format!("the first one is at {first}")));
            } else {
                seen.insert(key, manifest.place());
            }
        }
        if self.mistakes.is_empty() { Ok(self.manifests) } else { Err(Mistakes(self.mistakes).into()) }
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

/// What the parser says about a text, with what most often is behind it.
fn syntax(document: &Document, error: &serde_saphyr::Error) -> Mistake {
    let mut words = error.to_string();
    // The place is shown apart; the parser repeats it in its words.
    if let Some(at) = words.find(" at line ") {
        words.truncate(at);
    }
    if let Some((_, rest)) = words.split_once(": ").filter(|(start, _)| start.starts_with("error: line ")) {
        words = rest.to_owned();
    }
    let mut mistake = Mistake::new(&document.file, words.lines().next().unwrap_or("this is not YAML").to_owned());
    let Some(location) = error.location() else {
        return mistake;
    };
    let (line, column) =
        (usize::try_from(location.line()).unwrap_or(1), usize::try_from(location.column()).unwrap_or(1));
    mistake = mistake.at(document.lines_before + line, column);
    let Some(text) = document.text.lines().nth(line.saturating_sub(1)) else {
        return mistake;
    };
    if text.trim_start_matches(' ').starts_with('\t') {
        mistake = mistake.hint("YAML is indented with spaces, never with tabs");
    } else if text.contains(": ") && text.matches(": ").count() > 1 {
        mistake = mistake.hint("a value that holds \": \" must stand in quotes");
    }
    if document.text.contains("kind: Secret") { mistake } else { mistake.line(text, 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Result<Vec<String>> {
        Ok(parse("a.yaml", text)?
            .into_iter()
            .filter_map(|it| it.text(&["metadata", "name"]).map(str::to_owned))
            .collect())
    }

    #[test]
    fn streams_and_lists() {
        let one = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";
        let check = |text: &str, expected: &[&str]| assert_eq!(names(text).unwrap(), expected, "{text}");
        check(one, &["a"]);
        check(&format!("\u{feff}---\n# nothing\n{one}---\n---\n{}", one.replace("a}", "b}")), &["a", "b"]);
        check(&one.replace('\n', "\r\n"), &["a"]);
        check(
            r#"{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"}}]}"#,
            &["p"],
        );
        check(
            "--- {apiVersion: v1, kind: Pod, metadata: {name: p}}\n--- # next\nkind: Pod\napiVersion: v1\nmetadata:\n  name: q",
            &["p", "q"],
        );
        let octal = &parse("a", &format!("{one}mode: 0644\nflag: yes\n")).unwrap()[0];
        assert_eq!(
            (&octal.value["mode"], &octal.value["flag"]),
            (&420.into(), &true.into()),
            "as sigs.k8s.io/yaml reads them"
        );
    }

    #[test]
    fn mistakes_come_together_and_say_where() {
        let check = |text: &str, expected: &[&str]| {
            let error = names(text).expect_err(text).to_string();
            for part in expected {
                assert!(error.contains(part), "{text}\n{error}\nlacks {part}");
            }
        };
        check("kind: ConfigMap", &["a.yaml:1:1: apiVersion is missing", "metadata.name is missing"]);
        check(
            "apiVersion: v1\nkind: Pod\nmetadata: {}\n---\na: [\n",
            &["a.yaml:3:1: metadata.name is missing", "a.yaml:"],
        );
        check(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: 7\n",
            &[
                "a.yaml:4:9: metadata.name must be a text, and this is a number",
                "4 |   name: 7",
                "|         ^",
                "name: \"7\"",
            ],
        );
        check("a: 1\na: 2\n", &["a.yaml:2:1: ", "duplicate"]);
        check("a:\n\tb: 1\n", &["a.yaml:2", "never with tabs"]);
        let one = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";
        check(&format!("{one}---\n{one}"), &["a.yaml:7:18: configmap/a is here twice", "the first one is at a.yaml:1"]);
        check("- a\n- b\n", &["this is not an object"]);
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: a}, {name: b, x: 1}]}\n";
        let pod = &parse("a", text).unwrap()[0];
        let place = pod.mistake(&pod.steps(".spec.containers[name=\"b\"].x"), "m").to_string();
        assert!(place.starts_with("a:4:45: m"), "{place}");
        let secret =
            names("apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata:\n  a: b: hush\n").unwrap_err().to_string();
        assert!(!secret.contains("hush"), "{secret}");
    }
}
