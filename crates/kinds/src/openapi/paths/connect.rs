//! Subresources that are connections: exec, attach, port-forward and proxies, with every method that they take.

use serde_json::{Map, Value, json};

use super::{ANY, OK, Operation, Parameter, capital, parameter};
use crate::kind::{Kind, Subresource};
use crate::openapi::definitions::{Definitions, group_version_kind};

const STREAM: &[&str] = &["get", "post"];
const PROXY: &[&str] = &["delete", "get", "head", "options", "patch", "post", "put"];

const CONTAINER: Parameter =
    ("container", "string", "The container; the only one, or the default one, when not given.");
const STDERR: Parameter = ("stderr", "boolean", "Redirect the standard error stream of the pod for this call.");
const STDIN: Parameter = ("stdin", "boolean", "Redirect the standard input stream of the pod for this call.");
const STDOUT: Parameter = ("stdout", "boolean", "Redirect the standard output stream of the pod for this call.");
const TTY: Parameter = ("tty", "boolean", "Whether a terminal is allocated for the call.");
const COMMAND: Parameter =
    ("command", "string", "The command to execute, one parameter an argument. Not run in a shell.");
const PORTS: Parameter = ("ports", "integer", "The ports to forward; required by WebSockets.");
const PATH: Parameter = ("path", "string", "The URL path, with its query, for the request that is passed on.");

/// The query parameters of reading a log.
pub(super) const LOG: &[Parameter] = &[
    CONTAINER,
    ("follow", "boolean", "Follow the log stream of the pod."),
    ("insecureSkipTLSVerifyBackend", "boolean", "Do not check the certificate of the node that has the log."),
    ("limitBytes", "integer", "How many bytes to read before the log ends."),
    ("previous", "boolean", "The log of the container that ran before."),
    ("sinceSeconds", "integer", "How many seconds ago the shown log begins."),
    ("stream", "string", "Which stream to return: \"All\", \"Stdout\" or \"Stderr\"."),
    ("tailLines", "integer", "How many lines from the end to show."),
    ("timestamps", "boolean", "Put a time before every line."),
];

/// Whether a subresource is a connection.
pub(super) fn is_connection(sub: &Subresource) -> bool {
    matches!(&*sub.name, "exec" | "attach" | "portforward" | "proxy")
}

fn parameters(sub: &str) -> &'static [Parameter] {
    match sub {
        "exec" => &[COMMAND, CONTAINER, STDERR, STDIN, STDOUT, TTY],
        "attach" => &[CONTAINER, STDERR, STDIN, STDOUT, TTY],
        "portforward" => &[PORTS],
        _ => &[PATH],
    }
}

/// The paths of a connection, put into `paths`.
pub(super) fn render(
    kind: &Kind,
    sub: &Subresource,
    base: &str,
    definitions: &Definitions,
    paths: &mut Map<String, Value>,
) {
    let proxy = &*sub.name == "proxy";
    let methods = if proxy { PROXY } else { STREAM };
    paths.insert(base.to_owned(), item(kind, sub, methods, false, definitions));
    if proxy {
        paths.insert(format!("{base}/{{path}}"), item(kind, sub, methods, true, definitions));
    }
}

fn item(kind: &Kind, sub: &Subresource, methods: &[&'static str], with_path: bool, definitions: &Definitions) -> Value {
    let dialect = definitions.dialect;
    let mut item = Map::new();
    for method in methods {
        let scope = if kind.namespaced { "Namespaced" } else { "" };
        let tail = if with_path { "WithPath" } else { "" };
        let name = format!("{scope}{}{}{tail}", kind.kind, capital(&sub.name));
        let operation = Operation {
            id: format!("connect{}{}{}{name}", super::camel(&kind.group), capital(&kind.version), capital(method)),
            summary: format!("connect {} requests to {} of {}", method.to_uppercase(), sub.name, kind.kind),
            action: "connect",
            gvk: group_version_kind(&sub.group, &sub.version, &sub.kind),
            group: &kind.group,
            version: &kind.version,
            parameters: Vec::new(),
            body: None,
            answer: json!({"type": "string"}),
            answer_types: ANY,
            codes: OK,
        };
        item.insert((*method).to_owned(), operation.render(dialect));
    }
    let mut shared: Vec<Value> = parameters(&sub.name).iter().map(|each| parameter(dialect, *each, "query")).collect();
    shared.extend(super::placed(kind, true, dialect));
    if with_path {
        shared.push(parameter(dialect, ("path", "string", "path to the resource"), "path"));
    }
    item.insert("parameters".to_owned(), Value::Array(shared));
    Value::Object(item)
}
