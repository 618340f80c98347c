//! `kobune create token`: a token with which a program is a ServiceAccount.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::{Common, DryRun};
use crate::request;
use crate::verbs::outcome;

/// The kinds that a token can be bound to, and their versions.
const BOUND: &[(&str, &str)] = &[("Node", "v1"), ("Pod", "v1"), ("Secret", "v1")];

/// The flags of `create token`.
#[derive(Debug, Clone, Args)]
pub struct TokenOptions {
    /// The ServiceAccount
    pub name: String,
    /// Whom the token is for [default: the API server]
    #[arg(long, value_name = "NAME")]
    pub audience: Vec<String>,
    /// How long it is valid, such as 10m or 1h
    #[arg(long, value_name = "TIME")]
    pub duration: Option<String>,
    /// The kind of the object with which it ends: Node, Pod, Secret
    #[arg(long, value_name = "KIND", default_value = "")]
    pub bound_object_kind: String,
    /// The name of that object
    #[arg(long, value_name = "NAME", default_value = "")]
    pub bound_object_name: String,
    /// The uid of that object
    #[arg(long, value_name = "UID", default_value = "")]
    pub bound_object_uid: String,
    /// What is done with it.
    #[command(flatten)]
    pub common: Common,
}

impl TokenOptions {
    /// What the server is asked.
    fn spec(&self) -> Result<Value> {
        let mut spec = json!({"audiences": null, "expirationSeconds": null, "boundObjectRef": null});
        if self.audience.iter().any(String::is_empty) {
            bail!("--audience must not be an empty string");
        }
        if !self.audience.is_empty() {
            spec["audiences"] = self.audience.clone().into();
        }
        if let Some(duration) = &self.duration {
            let seconds = crate::duration::parse(duration)
                .ok_or_else(|| {
                    anyhow!(
                        "invalid argument {duration:?} for \"--duration\" flag: time: invalid duration {duration:?}"
                    )
                })?
                .as_secs();
            if seconds > 0 {
                spec["expirationSeconds"] = seconds.into();
            }
        }
        let (kind, name, uid) = (&self.bound_object_kind, &self.bound_object_name, &self.bound_object_uid);
        if kind.is_empty() {
            for (flag, value) in [("name", name), ("uid", uid)] {
                if !value.is_empty() {
                    bail!("--bound-object-{flag} can only be set if --bound-object-kind is provided");
                }
            }
            return Ok(spec);
        }
        let Some((_, version)) = BOUND.iter().find(|(known, _)| known == kind) else {
            let known: Vec<&str> = BOUND.iter().map(|(kind, _)| *kind).collect();
            bail!("supported --bound-object-kind values are {}", known.join(", "));
        };
        if name.is_empty() {
            bail!("--bound-object-name is required if --bound-object-kind is provided");
        }
        spec["boundObjectRef"] = json!({"kind": kind, "apiVersion": version, "name": name, "uid": uid});
        Ok(spec)
    }

    pub(super) async fn ask(self) -> Result<ExitCode> {
        if self.common.dry_run != DryRun::None {
            bail!("unknown flag: --dry-run");
        }
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "metadata": {}, "spec": self.spec()?, "status": {"token": "", "expirationTimestamp": null}});
        let cluster = self.common.place.connect.connect().await?;
        let namespace = request::query(&self.common.place.namespace(&cluster));
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{}/token", request::query(&self.name));
        let failed = |words: &str| anyhow!("failed to create token: {words}");
        let answer = request::write(&cluster.client, Method::POST, &path, "application/json", &review)
            .await
            .map_err(|error| failed(&error.to_string()))?;
        outcome::warn(&answer.warnings);
        let token = answer.body["status"]["token"].as_str().unwrap_or_default().to_owned();
        if token.is_empty() {
            return Err(failed("no token in server response"));
        }
        let printer = self.common.print.printer()?;
        if !printer.says() {
            printer.print(&answer.body, "")?;
        } else {
            outcome::write(&format!("{token}{}", if std::io::stdout().is_terminal() { "\n" } else { "" }))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
