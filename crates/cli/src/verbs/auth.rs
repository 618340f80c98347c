//! `kobune auth`: whether the user may do something, and who that is (`k8s.io/kubectl/pkg/cmd/auth`).

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::print::PrintOptions;
use super::words::{ending, refused};
use super::{PlaceOptions, from_server, go, outcome};
use crate::connect::ConnectOptions;
use crate::discovery::Discovery;
use crate::{request, table};

/// What can be asked about rights.
#[derive(Debug, Clone, Subcommand)]
pub enum AuthCommand {
    /// Say whether something may be done; exits with 1 if it may not
    CanI(CanIOptions),
    /// Print who the API server takes the user for
    #[command(name = "whoami")]
    WhoAmI(WhoAmIOptions),
}

/// The flags of `auth whoami`.
#[derive(Debug, Clone, Args)]
pub struct WhoAmIOptions {
    /// How to print it.
    #[command(flatten)]
    pub print: PrintOptions,
    /// Which cluster.
    #[command(flatten)]
    pub connect: ConnectOptions,
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
    match command {
        AuthCommand::CanI(options) => can_i(options).await,
        AuthCommand::WhoAmI(options) => ending(who_am_i(&options).await.map(|()| ExitCode::SUCCESS)),
    }
}

async fn who_am_i(options: &WhoAmIOptions) -> Result<()> {
    let printer = options.print.printer()?;
    let cluster = options.connect.connect().await?;
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let answer = match request::write(&cluster.client, Method::POST, path, "application/json", &review).await {
        Ok(answer) => answer.body,
        Err(error) if error.is(404) => bail!("the selfsubjectreviews API is not enabled in the cluster"),
        Err(error) if error.is(403) => {
            bail!("the selfsubjectreviews API is not enabled in the cluster or you do not have permission to call it")
        }
        Err(error) => return Err(refused(error)),
    };
    if !printer.says() {
        return printer.print(&answer, "");
    }
    outcome::write(&table::aligned(&attributes(&answer["status"]["userInfo"])))
}

/// What is known of a user, in rows.
fn attributes(user: &Value) -> Vec<Vec<String>> {
    let mut rows = vec![vec!["ATTRIBUTE".to_owned(), "VALUE".to_owned()]];
    let mut add = |name: String, value: &Value| {
        if value.as_str().is_some_and(|text| !text.is_empty()) || value.as_array().is_some_and(|list| !list.is_empty())
        {
            rows.push(vec![name, go::value(value)]);
        }
    };
    for (name, field) in [("Username", "username"), ("UID", "uid"), ("Groups", "groups")] {
        add(name.to_owned(), &user[field]);
    }
    for (name, values) in user["extra"].as_object().into_iter().flatten() {
        add(format!("Extra: {name}"), values);
    }
    rows
}

async fn can_i(options: CanIOptions) -> Result<ExitCode> {
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
