//! `dnsConfig`.

use serde_json::Value;

use super::super::{Errors, invalid};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, list, text};

/// Limits of the resolver in the C library.
const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARACTERS: usize = 2048;

pub(super) fn resolver(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let config = &spec["dnsConfig"];
    let servers = list(config, "nameservers");
    if text(spec, "dnsPolicy") == "None" {
        if config.is_null() {
            errors.push(FieldError::required(path, "must provide `dnsConfig` when `dnsPolicy` is None"));
            return;
        }
        if servers.is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.push(FieldError::required(path.child("nameservers"), detail));
            return;
        }
    }
    let place = path.child("nameservers");
    if servers.len() > MAX_SERVERS {
        let detail = format!("must not have more than {MAX_SERVERS} nameservers");
        errors.push(FieldError::invalid(place, config["nameservers"].clone(), detail));
    }
    for (index, server) in servers.iter().enumerate() {
        invalid(errors, &place.index(index), server, name::ip(server.as_str().unwrap_or_default()));
    }
    let place = path.child("searches");
    let searches = list(config, "searches");
    if searches.len() > MAX_SEARCHES {
        let detail = format!("must not have more than {MAX_SEARCHES} search paths");
        errors.push(FieldError::invalid(place, config["searches"].clone(), detail));
    }
    let spaces = searches.len().saturating_sub(1);
    let characters: usize = searches.iter().filter_map(Value::as_str).map(str::len).sum();
    if characters + spaces > MAX_SEARCH_CHARACTERS {
        let detail =
            format!("must not have more than {MAX_SEARCH_CHARACTERS} characters (including spaces) in the search list");
        errors.push(FieldError::invalid(place, config["searches"].clone(), detail));
    }
    for (index, search) in searches.iter().filter_map(Value::as_str).enumerate() {
        if search != "." {
            let search = search.strip_suffix('.').unwrap_or(search);
            let wrong = name::dns1123_subdomain_with_underscore(search);
            invalid(errors, &place.index(index), &Value::from(search), wrong);
        }
    }
    let place = path.child("options");
    for (index, option) in list(config, "options").iter().enumerate() {
        if text(option, "name").is_empty() {
            errors.push(FieldError::required(place.index(index), "must not be empty"));
        }
    }
}
