//! `kobune certificate`: whether a certificate may be signed (`k8s.io/kubectl/pkg/cmd/certificates`).

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::PlaceOptions;
use super::chosen::{self, ChoiceOptions, Chosen, FileOptions, Wide};
use super::print::PrintOptions;
use super::words::{self, ending};
use crate::connect::Cluster;
use crate::request;

/// What to do with a request for a certificate.
#[derive(Debug, Clone, Subcommand)]
pub enum CertificateCommand {
    /// Let certificates be signed
    Approve(CertificateOptions),
    /// Let certificates not be signed
    Deny(CertificateOptions),
}

/// The flags of `certificate`.
#[derive(Debug, Clone, Args)]
pub struct CertificateOptions {
    /// The requests
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Those of manifests.
    #[command(flatten)]
    pub files: FileOptions,
    /// Say it again, even if it was said already
    #[arg(long)]
    pub force: bool,
    /// How to print them.
    #[command(flatten)]
    pub print: PrintOptions,
    /// Where.
    #[command(flatten)]
    pub place: PlaceOptions,
}

/// How often an approval is tried that another writer keeps from being made.
const ATTEMPTS: usize = 10;

/// Approves or denies.
pub async fn certificate(command: CertificateCommand) -> Result<ExitCode> {
    let (options, approve) = match command {
        CertificateCommand::Approve(options) => (options, true),
        CertificateCommand::Deny(options) => (options, false),
    };
    ending(run(&options, approve).await.map(|()| ExitCode::SUCCESS))
}

async fn run(options: &CertificateOptions, approve: bool) -> Result<()> {
    if options.names.is_empty() && options.files.is_empty() {
        bail!("one or more CSRs must be specified as <name> or -f <filename>");
    }
    let printer = options.print.printer()?;
    let cluster = options.place.connect.connect().await?;
    let mut arguments = options.names.clone();
    if !arguments.is_empty() {
        arguments.insert(0, "certificatesigningrequests".to_owned());
    }
    let choice = ChoiceOptions { files: options.files.clone(), selector: None };
    let (found, mut errors) = chosen::objects(&cluster, &options.place, &arguments, &choice, Wide::default()).await?;
    for one in &found {
        match decide(&cluster, one, approve, options.force).await {
            Ok(()) => printer.print(&one.object, if approve { "approved" } else { "denied" })?,
            Err(error) => errors.push(error),
        }
    }
    chosen::all_fine(errors)
}

async fn decide(cluster: &Cluster, one: &Chosen, approve: bool, force: bool) -> Result<()> {
    if one.resource.kind != "CertificateSigningRequest" {
        bail!(
            "can only handle CertificateSigningRequest.certificates.k8s.io objects, got {}",
            one.resource.group_kind()
        );
    }
    let mut object = one.object.clone();
    for attempt in 1.. {
        let Some(decided) = decided(&object, approve, force)? else { return Ok(()) };
        let path = format!("{}/approval", one.path());
        match request::write(&cluster.client, Method::PUT, &path, "application/json", &decided).await {
            Ok(_) => break,
            Err(error) if error.is(409) && attempt < ATTEMPTS => {
                let live = request::send(&cluster.client, Method::GET, &one.path(), None, "application/json").await;
                object = live.map_err(words::refused)?.body;
            }
            Err(error) => return Err(words::refused(error)),
        }
    }
    Ok(())
}

/// The request with the condition; nothing where it is there already.
fn decided(object: &Value, approve: bool, force: bool) -> Result<Option<Value>> {
    let (wanted, other) = if approve { ("Approved", "Denied") } else { ("Denied", "Approved") };
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    if conditions.iter().any(|condition| condition["type"] == other) {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        bail!("certificate signing request {name:?} is already {other}");
    }
    if conditions.iter().any(|condition| condition["type"] == wanted) {
        return Ok(force.then(|| object.clone()));
    }
    let (reason, verb) = if approve { ("KobuneApprove", "approve") } else { ("KobuneDeny", "deny") };
    let mut object = object.clone();
    let mut conditions = conditions;
    conditions.push(json!({"type": wanted, "status": "True", "reason": reason,
        "message": format!("This CSR was {} by kobune certificate {verb}.", wanted.to_lowercase()),
        "lastUpdateTime": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()}));
    object["status"]["conditions"] = conditions.into();
    Ok(Some(object))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions() {
        let open = json!({"metadata": {"name": "a"}});
        let approved = decided(&open, true, false).unwrap().expect("it is decided now");
        assert_eq!(approved["status"]["conditions"][0]["type"], "Approved");
        assert_eq!(decided(&approved, true, false).unwrap(), None);
        assert!(decided(&approved, true, true).unwrap().is_some());
        let error = decided(&approved, false, false).unwrap_err().to_string();
        assert_eq!(error, "certificate signing request \"a\" is already Approved");
    }
}
