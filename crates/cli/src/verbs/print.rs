//! `-o` and what belongs to it: how objects are printed (`k8s.io/cli-runtime/pkg/genericclioptions`' `PrintFlags`). What a verb
//! cannot print is said before it does anything.

use std::cell::Cell;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use serde_json::Value;

use super::{formats, go, go_template, kyaml, outcome, yaml};
use crate::jsonpath;
use crate::object::ObjectRef;

/// The flags that say how objects are printed.
#[derive(Debug, Clone, Default, Args)]
pub struct PrintOptions {
    /// How to print: json, yaml, kyaml, name, go-template=TEMPLATE, go-template-file=FILE, jsonpath=TEMPLATE,
    /// jsonpath-file=FILE, jsonpath-as-json=TEMPLATE
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<String>,
    /// The template of -o go-template or jsonpath, or the file of -o go-template-file or jsonpath-file
    #[arg(long, value_name = "TEMPLATE|FILE")]
    pub template: Option<String>,
    /// A field that a template names may be missing
    #[arg(long, value_name = "YES", num_args = 0..=1, default_value_t = true, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    pub allow_missing_template_keys: bool,
    /// Print managed fields in JSON and YAML
    #[arg(long, num_args = 0..=1, default_value_t = false, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    pub show_managed_fields: bool,
}

/// How objects are printed.
#[derive(Debug, Clone)]
pub enum Format {
    /// With all columns.
    Wide,
    /// As JSON.
    Json,
    /// As YAML.
    Yaml,
    /// As KYAML.
    Kyaml,
    /// By name.
    Name,
    /// What a Go template makes of them.
    Go(go_template::Template),
    /// What a JSONPath template makes of them.
    JsonPath(jsonpath::Template),
    /// What JSONPaths find, as JSON.
    JsonPathAsJson(jsonpath::Template),
    /// In columns that somebody chose.
    Columns(formats::Columns),
}

/// What every verb can print.
const PLAIN: [&str; 11] = [
    "go-template",
    "go-template-file",
    "json",
    "jsonpath",
    "jsonpath-as-json",
    "jsonpath-file",
    "kyaml",
    "name",
    "template",
    "templatefile",
    "yaml",
];

impl PrintOptions {
    /// How to print; nothing where nobody says.
    pub fn format(&self) -> Result<Option<Format>> {
        self.read(&PLAIN)
    }

    /// The same for a verb that prints tables, and so has wide and chosen columns too.
    pub fn format_of_table(&self) -> Result<Option<Format>> {
        let mut known = [&PLAIN as &[&str], &["wide", "custom-columns", "custom-columns-file"]].concat();
        known.sort_unstable();
        self.read(&known)
    }

    fn read(&self, known: &[&str]) -> Result<Option<Format>> {
        let text = match (self.output.as_deref(), &self.template) {
            (None | Some(""), None) => return Ok(None),
            (None | Some(""), Some(_)) => "go-template",
            (Some(text), _) => text,
        };
        let (name, argument) = match text.split_once('=') {
            Some((name, argument)) => (name, Some(argument)),
            None => (text, self.template.as_deref()),
        };
        if !known.contains(&name) {
            bail!(
                "unable to match a printer suitable for the output format {name:?}, allowed formats are: {}",
                known.join(",")
            );
        }
        let given = || argument.filter(|text| !text.is_empty()).map(str::to_owned);
        let template = || given().ok_or_else(|| anyhow!("template format specified but no template given"));
        let file = || {
            let path = template()?;
            std::fs::read_to_string(&path)
                .map_err(|error| anyhow!("error reading --template {path}, open {path}: {}", reason(&error)))
        };
        let go = |source: &str| {
            go_template::Template::parse(source).map_err(|error| anyhow!("error parsing template {source}, {error}"))
        };
        let path = |source: &str| {
            jsonpath::Template::parse(source).map_err(|error| anyhow!("error parsing jsonpath {source}, {error}"))
        };
        Ok(Some(match name {
            "wide" => Format::Wide,
            "json" => Format::Json,
            "yaml" => Format::Yaml,
            "kyaml" => Format::Kyaml,
            "name" => Format::Name,
            "go-template" | "template" => Format::Go(go(&template()?)?),
            "go-template-file" | "templatefile" => Format::Go(go(&file()?)?),
            "jsonpath" => Format::JsonPath(path(&template()?)?),
            "jsonpath-file" => Format::JsonPath(path(&file()?)?),
            "jsonpath-as-json" => Format::JsonPathAsJson(path(&template()?)?),
            "custom-columns" => {
                let spec =
                    given().ok_or_else(|| anyhow!("custom-columns format specified but no custom columns given"))?;
                Format::Columns(formats::Columns::parse(&spec)?)
            }
            _ => {
                let path =
                    given().ok_or_else(|| anyhow!("custom-columns format specified but no custom columns given"))?;
                let text = std::fs::read_to_string(&path)
                    .map_err(|error| anyhow!("error reading template {path}, open {path}: {}", reason(&error)))?;
                Format::Columns(formats::Columns::from_template(&text)?)
            }
        }))
    }

    /// What prints the objects of a verb that changes them.
    pub fn printer(&self) -> Result<Printer> {
        let format = self.format()?;
        Ok(Printer {
            format,
            strict: !self.allow_missing_template_keys,
            managed: self.show_managed_fields,
            count: Cell::new(0),
        })
    }

    /// What prints whole objects in a format that is known already.
    pub fn printer_of(&self, format: Format) -> Printer {
        Printer {
            format: Some(format),
            strict: !self.allow_missing_template_keys,
            managed: self.show_managed_fields,
            count: Cell::new(0),
        }
    }
}

/// An error of the file system as Go says it.
fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

/// Prints objects one after another.
#[derive(Debug)]
pub struct Printer {
    format: Option<Format>,
    strict: bool,
    managed: bool,
    count: Cell<usize>,
}

impl Printer {
    /// Whether objects are printed by a line that says what was done.
    pub fn says(&self) -> bool {
        self.format.is_none()
    }

    /// The format, where somebody chose one.
    pub fn format(&self) -> Option<&Format> {
        self.format.as_ref()
    }

    /// Whether managed fields are shown.
    pub fn shows_managed_fields(&self) -> bool {
        self.managed
    }

    /// Writes an object to standard output, or what was done with it.
    pub fn print(&self, object: &Value, done: &str) -> Result<()> {
        let mut text = String::new();
        let result = self.text(object, done, &mut text);
        // A template that fails has written what came before.
        outcome::write(&text)?;
        result
    }

    /// The text of an object.
    pub fn text(&self, object: &Value, done: &str, out: &mut String) -> Result<()> {
        let first = self.count.replace(self.count.get() + 1) == 0;
        let clean;
        let shown = match (&self.format, self.managed) {
            (Some(Format::Json | Format::Yaml | Format::Kyaml), false) => {
                clean = without_managed_fields(object);
                &clean
            }
            _ => object,
        };
        match &self.format {
            None => out.push_str(&format!("{} {done}\n", named(object))),
            Some(Format::Name) => out.push_str(&format!("{}\n", named(object))),
            Some(Format::Json) => out.push_str(&yaml::json(shown)?),
            Some(Format::Yaml) => {
                out.push_str(if first { "" } else { "---\n" });
                out.push_str(&yaml::yaml(shown)?);
            }
            Some(Format::Kyaml) => out.push_str(&kyaml::kyaml(shown)),
            Some(Format::Go(template)) => {
                let Err(mistake) = template.fill(object, self.strict, out) else { return Ok(()) };
                let source = template.source();
                out.push_str(&format!(
                    "Error executing template: {mistake}. Printing more information for debugging the template:\n\ttemplate was:\n\t\t{source}\n\traw data was:\n\t\t{}\n\tobject given to template engine was:\n\t\t{}\n\n",
                    object,
                    go::decoded(object)
                ));
                bail!("error executing template {}: {mistake}", go::quoted(source));
            }
            Some(Format::JsonPath(template)) => out.push_str(&template.fill(object)?),
            Some(Format::JsonPathAsJson(template)) => {
                for found in template.found(object)? {
                    out.push_str(&yaml::json(&Value::Array(found))?);
                }
            }
            Some(Format::Wide | Format::Columns(_)) => bail!("there are no columns here"),
        }
        Ok(())
    }
}

fn without_managed_fields(object: &Value) -> Value {
    let mut object = object.clone();
    let strip = |object: &mut Value| {
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
    };
    strip(&mut object);
    if object["kind"].as_str().is_some_and(|kind| kind.ends_with("List"))
        && let Some(items) = object.get_mut("items").and_then(Value::as_array_mut)
    {
        items.iter_mut().for_each(strip);
    }
    object
}

/// `deployment.apps/web`, of an object alone.
pub fn named(object: &Value) -> String {
    let found = ObjectRef::of(object);
    let group = if found.group().is_empty() { String::new() } else { format!(".{}", found.group()) };
    format!("{}{group}/{}", found.kind.to_lowercase(), found.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn options(output: &str, template: Option<&str>) -> PrintOptions {
        PrintOptions {
            output: Some(output.to_owned()),
            template: template.map(str::to_owned),
            allow_missing_template_keys: true,
            show_managed_fields: false,
        }
    }

    #[test]
    fn formats() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "managedFields": []}});
        let check = |output: &str, template: Option<&str>, expected: &str| {
            let mut text = String::new();
            options(output, template).printer().unwrap().text(&pod, "done", &mut text).unwrap();
            assert_eq!(text, expected, "{output}");
        };
        check("", None, "pod/a done\n");
        check("name", None, "pod/a\n");
        check("yaml", None, "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n");
        check("go-template={{.kind}}", None, "Pod");
        check("template", Some("{{.kind}}"), "Pod");
        check("", Some("{{.kind}}"), "Pod");
        check("jsonpath={.kind}", None, "Pod");
        check("jsonpath-as-json={.kind}", None, "[\n    \"Pod\"\n]\n");
    }

    #[test]
    fn mistakes() {
        let check = |output: &str, words: &str| {
            let error = options(output, None).format_of_table().unwrap_err().to_string();
            assert!(error.starts_with(words), "{output}: {error}");
        };
        check(
            "bad",
            "unable to match a printer suitable for the output format \"bad\", allowed formats are: custom-columns,custom-columns-file,go-template,",
        );
        check("go-template", "template format specified but no template given");
        check("go-template={{.a", "error parsing template {{.a, template: output:1: unclosed action");
        check("jsonpath-file=/none", "error reading --template /none, open /none: no such file or directory");
        check("custom-columns", "custom-columns format specified but no custom columns given");
        assert!(options("wide", None).format().is_err());
    }

    #[test]
    fn documents_are_apart() {
        let printer = options("yaml", None).printer().unwrap();
        let mut text = String::new();
        printer.text(&json!({"a": 1}), "", &mut text).unwrap();
        printer.text(&json!({"b": 1}), "", &mut text).unwrap();
        assert_eq!(text, "a: 1\n---\nb: 1\n");
    }
}
