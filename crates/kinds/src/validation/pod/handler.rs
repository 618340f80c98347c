//! Probes and lifecycle hooks.

use serde_json::Value;

use super::super::{Errors, invalid, none_negative, required};
use super::Context;
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, list, text};

/// The probes and hooks of a container that may have some.
pub(super) fn handlers(container: &Value, context: &Context<'_>, path: &Path<'_>, errors: &mut Errors) {
    let lifecycle = &container["lifecycle"];
    let place = path.child("lifecycle");
    for hook in ["postStart", "preStop"] {
        if !lifecycle[hook].is_null() {
            let actions = ["exec", "httpGet", "tcpSocket", "sleep"];
            handler(&lifecycle[hook], &actions, context.grace_period, &place.child(hook), errors);
        }
    }
    stop_signal(container, &place, errors);
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if !container[kind].is_null() {
            probe(&container[kind], kind, context, &path.child(kind), errors);
        }
    }
}

fn stop_signal(container: &Value, path: &Path<'_>, errors: &mut Errors) {
    let signal = &container["lifecycle"]["stopSignal"];
    if let Some(signal) = signal.as_str().filter(|signal| !SIGNALS.contains(signal)) {
        errors.push(FieldError::not_supported(path.child("stopSignal"), signal, &SIGNALS));
    }
}

const SIGNALS: [&str; 65] = [
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGRTMAX",
    "SIGRTMAX-1",
    "SIGRTMAX-10",
    "SIGRTMAX-11",
    "SIGRTMAX-12",
    "SIGRTMAX-13",
    "SIGRTMAX-14",
    "SIGRTMAX-2",
    "SIGRTMAX-3",
    "SIGRTMAX-4",
    "SIGRTMAX-5",
    "SIGRTMAX-6",
    "SIGRTMAX-7",
    "SIGRTMAX-8",
    "SIGRTMAX-9",
    "SIGRTMIN",
    "SIGRTMIN+1",
    "SIGRTMIN+10",
    "SIGRTMIN+11",
    "SIGRTMIN+12",
    "SIGRTMIN+13",
    "SIGRTMIN+14",
    "SIGRTMIN+15",
    "SIGRTMIN+2",
    "SIGRTMIN+3",
    "SIGRTMIN+4",
    "SIGRTMIN+5",
    "SIGRTMIN+6",
    "SIGRTMIN+7",
    "SIGRTMIN+8",
    "SIGRTMIN+9",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];

fn probe(probe: &Value, kind: &str, context: &Context<'_>, path: &Path<'_>, errors: &mut Errors) {
    handler(probe, &["exec", "httpGet", "tcpSocket", "grpc"], context.grace_period, path, errors);
    let numbers = ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"];
    none_negative(errors, path, probe, &numbers);
    let grace = &probe["terminationGracePeriodSeconds"];
    if grace.as_i64().is_some_and(|seconds| seconds <= 0) {
        let detail = "must be greater than 0";
        errors.push(FieldError::invalid(path.child("terminationGracePeriodSeconds"), grace.clone(), detail));
    }
    if kind == "readinessProbe" {
        if !grace.is_null() {
            let detail = "must not be set for readinessProbes";
            errors.push(FieldError::invalid(path.child("terminationGracePeriodSeconds"), grace.clone(), detail));
        }
    } else if probe["successThreshold"] != 1 {
        let given = probe["successThreshold"].clone();
        errors.push(FieldError::invalid(path.child("successThreshold"), given, "must be 1"));
    }
}

/// Something to do: exactly one of the actions.
fn handler(handler: &Value, actions: &[&str], grace: Option<i64>, path: &Path<'_>, errors: &mut Errors) {
    let mut count = 0;
    for action in actions {
        let given = &handler[*action];
        if given.is_null() {
            continue;
        }
        count += 1;
        let path = path.child(action);
        if count > 1 {
            errors.push(FieldError::forbidden(path, "may not specify more than 1 handler type"));
            continue;
        }
        match *action {
            "exec" if list(given, "command").is_empty() => {
                errors.push(FieldError::required(path.child("command"), ""));
            }
            "exec" => {}
            "httpGet" => http_get(given, &path, errors),
            "sleep" => {
                let seconds = given["seconds"].as_i64().unwrap_or(0);
                if let Some(grace) = grace.filter(|grace| seconds < 0 || seconds > *grace) {
                    let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                    errors.push(FieldError::invalid(path, seconds, detail));
                }
            }
            _ => port(&given["port"], &path.child("port"), errors),
        }
    }
    if count == 0 {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
}

fn http_get(action: &Value, path: &Path<'_>, errors: &mut Errors) {
    required(errors, path, action, "path");
    port(&action["port"], &path.child("port"), errors);
    let scheme = text(action, "scheme");
    if !matches!(scheme, "HTTP" | "HTTPS") {
        errors.push(FieldError::not_supported(path.child("scheme"), scheme, &["HTTP", "HTTPS"]));
    }
    for header in list(action, "httpHeaders") {
        let given = text(header, "name");
        for message in name::http_header_name(given) {
            errors.push(FieldError::invalid(path.child("httpHeaders"), given, message));
        }
    }
}

/// A port's number or name.
pub(in crate::validation) fn port(port: &Value, path: &Path<'_>, errors: &mut Errors) {
    match port {
        Value::String(named) => invalid(errors, path, port, name::port_name(named)),
        Value::Null => invalid(errors, path, &Value::from(0), name::port_number(0)),
        number => invalid(errors, path, port, name::port_number(number.as_i64().unwrap_or(0))),
    }
}
