//! `kobune token`: tokens with which machines join, kept as kubeadm keeps them (Secrets of type
//! `bootstrap.kubernetes.io/token`), so that either program can list and delete the other's.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, PostParams};
use rand::Rng;

/// What a Secret of a token is called, before its id.
const PREFIX: &str = "bootstrap-token-";
/// The group of machines that want to be nodes.
const GROUP: &str = "system:bootstrappers:kubeadm:default-node-token";
const ALPHABET: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// What can be done with tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it
    Create {
        /// How long it is good for, such as 30m or 24h; 0 for ever
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = parse_ttl)]
        ttl: SignedDuration,
        /// What it is for
        #[arg(long, value_name = "TEXT", default_value = "")]
        description: String,
        /// Print the whole command for the other machine
        #[arg(long)]
        print_join_command: bool,
        /// Which cluster is meant.
        #[command(flatten)]
        cluster: ClusterOptions,
    },
    /// List the tokens
    #[command(visible_alias = "ls")]
    List {
        /// Which cluster is meant.
        #[command(flatten)]
        cluster: ClusterOptions,
    },
    /// Delete tokens, by their first six characters or whole
    #[command(visible_alias = "rm")]
    Delete {
        /// The tokens
        #[arg(value_name = "TOKEN", required = true)]
        tokens: Vec<String>,
        /// Which cluster is meant.
        #[command(flatten)]
        cluster: ClusterOptions,
    },
}

/// Which cluster is meant.
#[derive(Debug, Args)]
pub struct ClusterOptions {
    /// The kubeconfig to use [default: KUBECONFIG, then ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

fn parse_ttl(text: &str) -> Result<SignedDuration, String> {
    if text == "0" {
        return Ok(SignedDuration::ZERO);
    }
    let span: SignedDuration = text.parse().map_err(|error| format!("expected a duration such as 24h: {error}"))?;
    if span.is_positive() { Ok(span) } else { Err("expected a duration above zero".to_owned()) }
}

/// Runs `kobune token`.
pub async fn token(command: TokenCommand) -> Result<()> {
    match command {
        TokenCommand::Create { ttl, description, print_join_command, cluster } => {
            let config = crate::config(cluster.kubeconfig.as_deref()).await?;
            let server = config.cluster_url.to_string();
            let client = kube::Client::try_from(config).context("make a client of the cluster")?;
            let token = create(&client, ttl, &description).await?;
            if print_join_command {
                let pin = pin(&client).await?;
                let server = server.trim_end_matches('/');
                println!("kobune agent --server {server} --token {token} --discovery-token-ca-cert-hash {pin}");
            } else {
                println!("{token}");
            }
            Ok(())
        }
        TokenCommand::List { cluster } => list(&crate::client(cluster.kubeconfig.as_deref()).await?).await,
        TokenCommand::Delete { tokens, cluster } => {
            let secrets = secrets(&crate::client(cluster.kubeconfig.as_deref()).await?);
            for token in tokens {
                let id = token.split('.').next().unwrap_or_default();
                let deleted = secrets.delete(&format!("{PREFIX}{id}"), &DeleteParams::default()).await;
                deleted.with_context(|| format!("delete the token {id}"))?;
                println!("token {id} deleted");
            }
            Ok(())
        }
    }
}

fn secrets(client: &kube::Client) -> Api<Secret> {
    Api::namespaced(client.clone(), "kube-system")
}

/// Characters that nobody can guess.
fn random(length: usize) -> String {
    let mut source = rand::rng();
    (0..length).map(|_| char::from(ALPHABET[source.random_range(0..ALPHABET.len())])).collect()
}

async fn create(client: &kube::Client, ttl: SignedDuration, description: &str) -> Result<String> {
    let (id, secret) = (random(6), random(16));
    let mut data = BTreeMap::from([
        ("token-id", id.clone()),
        ("token-secret", secret.clone()),
        ("usage-bootstrap-authentication", "true".to_owned()),
        ("usage-bootstrap-signing", "true".to_owned()),
        ("auth-extra-groups", GROUP.to_owned()),
    ]);
    if !ttl.is_zero() {
        let end = Timestamp::now().checked_add(ttl).context("the time to live is too long")?;
        data.insert("expiration", end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    }
    if !description.is_empty() {
        data.insert("description", description.to_owned());
    }
    let secret_object = Secret {
        metadata: ObjectMeta { name: Some(format!("{PREFIX}{id}")), ..ObjectMeta::default() },
        type_: Some("bootstrap.kubernetes.io/token".to_owned()),
        string_data: Some(data.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ..Secret::default()
    };
    secrets(client).create(&PostParams::default(), &secret_object).await.context("create the token")?;
    Ok(format!("{id}.{secret}"))
}

/// The hash of the authority's public key, as `kubeadm join` takes it.
async fn pin(client: &kube::Client) -> Result<String> {
    let roots: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    let found = roots.get("kube-root-ca.crt").await.context("read the cluster's authority")?;
    let pem = found.data.and_then(|mut data| data.remove("ca.crt")).context("the cluster publishes no authority")?;
    Ok(format!("sha256:{}", kobune_pki::public_key_hash(&pem)?))
}

async fn list(client: &kube::Client) -> Result<()> {
    let of_tokens = ListParams::default().fields("type=bootstrap.kubernetes.io/token");
    let found = secrets(client).list(&of_tokens).await.context("list the tokens")?;
    println!("{:<8}{:<22}{:<24}DESCRIPTION", "TOKEN", "EXPIRES", "USAGES");
    for secret in found {
        let text = |key: &str| {
            let bytes = secret.data.as_ref().and_then(|data| data.get(key)).map(|value| value.0.clone());
            String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
        };
        let usages = [("usage-bootstrap-authentication", "authentication"), ("usage-bootstrap-signing", "signing")];
        let usages: Vec<&str> =
            usages.into_iter().filter(|(key, _)| text(key) == "true").map(|(_, word)| word).collect();
        let expires = Some(text("expiration")).filter(|text| !text.is_empty()).unwrap_or_else(|| "never".to_owned());
        println!("{:<8}{expires:<22}{:<24}{}", text("token-id"), usages.join(","), text("description"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives() {
        let check = |text: &str, expected: Option<i64>| {
            assert_eq!(parse_ttl(text).ok().map(|ttl| ttl.as_secs()), expected, "{text}")
        };
        check("24h", Some(86_400));
        check("30m", Some(1800));
        check("0", Some(0));
        check("-1h", None);
        check("soon", None);
    }

    #[test]
    fn random_texts_differ() {
        assert_eq!(random(16).len(), 16);
        assert_ne!(random(16), random(16));
    }
}
