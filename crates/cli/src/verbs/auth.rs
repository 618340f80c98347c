//! `kobune auth can-i`: whether the user may do something, as `kubectl auth can-i` answers it.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::{PlaceOptions, from_server};
use crate::discovery::Discovery;
use crate::request;

/// What can be asked about rights.
#[derive(Debug, Clone, Subcommand)]
pub enum AuthCommand {
    /// Say whether something may be done; exits with 1 if it may not
    CanI(CanIOptions),
}

/// The flags of `auth can-i`.
#[derive(Debug, Clone, Args)]
pub struct CanIOptions {
    /// What is to be done: get, list, create, delete, ...
    #[arg(value_name = "VERB")]
    pub verb: String,
    /// To what: TYPE, TYPE/NAME, or a path of the API such as /logs
    #[arg(value_name = "TYPE[/NAME]")]
    pub resource: String,
    /// A subresource, such as log or scale
    #[arg(long, value_name = "NAME")]
    pub subresource: Option<String>,
    /// In all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Print nothing
    #[arg(short, long)]
    pub quiet: bool,
    /// Where.
    #[command(flatten)]
    pub place: PlaceOptions,
}

/// Answers questions about rights.
pub async fn auth(command: AuthCommand) -> Result<ExitCode> {
    let AuthCommand::CanI(options) = command;
    let cluster = options.place.connect.connect().await?;
    let namespace = options.place.namespace(&cluster);
    let spec = if options.resource.starts_with('/') {
        json!({"nonResourceAttributes": {"verb": options.verb, "path": options.resource}})
    } else {
        let (kind, name) = options.resource.split_once('/').unwrap_or((&options.resource, ""));
        let discovery = Discovery::ask(&cluster.client).await.map_err(from_server)?;
        let known = discovery.by_name(kind);
        match known {
            None if kind != "*" => eprintln!("Warning: the server doesn't have a resource type '{kind}'\n"),
            Some(resource) if !resource.namespaced && !options.all_namespaces => eprintln!(
                "Warning: resource '{}' is not namespace scoped{}\n",
                resource.plural,
                if resource.group.is_empty() { String::new() } else { format!(" in group '{}'", resource.group) }
            ),
            _ => {}
        }
        let (group, plural) = match known {
            Some(resource) => (resource.group.clone(), resource.plural.clone()),
            None => kind
                .split_once('.')
                .map_or((String::new(), kind.to_owned()), |(plural, group)| (group.to_owned(), plural.to_owned())),
        };
        json!({"resourceAttributes": {
            "namespace": if options.all_namespaces { "" } else { &namespace },
            "verb": options.verb, "group": group, "resource": plural, "name": name,
            "subresource": options.subresource.clone().unwrap_or_default(),
        }})
    };
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": spec});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let answer =
        request::write(&cluster.client, Method::POST, path, "application/json", &review).await.map_err(from_server)?;
    let status = &answer.body["status"];
    if !options.quiet {
        println!("{}", words(status));
    }
    Ok(if status["allowed"] == true { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn words(status: &Value) -> String {
    if status["allowed"] == true {
        return "yes".to_owned();
    }
    let why = ["reason", "evaluationError"]
        .into_iter()
        .filter_map(|field| status[field].as_str().filter(|text| !text.is_empty()));
    why.fold("no".to_owned(), |text, why| format!("{text} - {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        assert_eq!(words(&json!({"allowed": true, "reason": "because"})), "yes");
        assert_eq!(words(&json!({"allowed": false})), "no");
        assert_eq!(words(&json!({"allowed": false, "reason": "a", "evaluationError": "b"})), "no - a - b");
    }
}
