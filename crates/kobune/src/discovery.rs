//! What a machine that has only a token learns about a cluster: its authority, from the ConfigMap `cluster-info`, which
//! anyone may read and which is signed with the token.
//!
//! Upstream: KEP 130 (bootstrap discovery), `cmd/kubeadm/app/discovery/token`.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Api;

/// A token that lets a machine ask to be a node, `<6 characters>.<16 characters>`.
#[derive(Clone, PartialEq, Eq)]
pub struct BootstrapToken {
    id: String,
    secret: String,
}

impl fmt::Debug for BootstrapToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.…", self.id)
    }
}

impl FromStr for BootstrapToken {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let plain = |part: &str, length: usize| {
            part.len() == length && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        match text.trim().split_once('.') {
            Some((id, secret)) if plain(id, 6) && plain(secret, 16) => {
                Ok(Self { id: id.to_owned(), secret: secret.to_owned() })
            }
            _ => bail!("a token has the form abcdef.0123456789abcdef"),
        }
    }
}

/// A client of a server: with whom it trusts, or trusting anybody; with a token, or as nobody.
pub fn client(server: &str, authority_pem: Option<&str>, token: Option<&BootstrapToken>) -> Result<kube::Client> {
    let mut config = kube::Config::new(server.parse().with_context(|| format!("read the address {server}"))?);
    match authority_pem {
        Some(pem) => config.root_cert = Some(vec![kobune_pki::certificate_der(pem)?]),
        None => config.accept_invalid_certs = true,
    }
    if let Some(token) = token {
        config.auth_info.token = Some(format!("{}.{}", token.id, token.secret).into());
    }
    kube::Client::try_from(config).context("make a client of the server")
}

/// The authority of a cluster. That the answer is true is known from its signature by the token, and besides, where pins
/// are given, from the authority's key.
pub async fn authority(server: &str, token: &BootstrapToken, pins: &[String]) -> Result<String> {
    let api: Api<ConfigMap> = Api::namespaced(client(server, None, None)?, "kube-public");
    let found = api.get("cluster-info").await.context("read the ConfigMap kube-public/cluster-info")?;
    let data = found.data.unwrap_or_default();
    let kubeconfig = data.get("kubeconfig").context("cluster-info has no kubeconfig")?;
    let signature = data.get(&format!("jws-kubeconfig-{}", token.id));
    let signature = signature.context("the server does not know this token: it is wrong or has expired")?;
    if !is_signed(kubeconfig, signature, token) {
        bail!("cluster-info is not signed with this token: the token is wrong, or somebody is between");
    }
    let config = kube::config::Kubeconfig::from_yaml(kubeconfig).context("read the kubeconfig of cluster-info")?;
    let cluster = config.clusters.first().and_then(|cluster| cluster.cluster.as_ref());
    let encoded = cluster.and_then(|cluster| cluster.certificate_authority_data.as_ref());
    let encoded = encoded.context("cluster-info names no certificate authority")?;
    let pem = base64::engine::general_purpose::STANDARD.decode(encoded).context("read the certificate authority")?;
    let pem = String::from_utf8(pem).context("the certificate authority is no text")?;
    let pin = format!("sha256:{}", kobune_pki::public_key_hash(&pem)?);
    if !pins.is_empty() && !pins.iter().any(|wanted| wanted.eq_ignore_ascii_case(&pin)) {
        bail!("the cluster's authority has the hash {pin}, which is none of those given");
    }
    Ok(pem)
}

/// Whether a detached JSON web signature (RFC 7515, appendix F) of the text was made with the token's secret.
fn is_signed(text: &str, signature: &str, token: &BootstrapToken) -> bool {
    let parts: Vec<&str> = signature.split('.').collect();
    let [header, "", mac] = parts[..] else { return false };
    let Ok(mac) = URL_SAFE_NO_PAD.decode(mac) else { return false };
    let Some(fields) =
        URL_SAFE_NO_PAD.decode(header).ok().and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok())
    else {
        return false;
    };
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, token.secret.as_bytes());
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(text));
    fields["alg"] == "HS256"
        && fields["kid"] == token.id.as_str()
        && ring::hmac::verify(&key, signed.as_bytes(), &mac).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> BootstrapToken {
        "abcdef.0123456789abcdef".parse().expect("a token")
    }

    #[test]
    fn tokens() {
        let check = |text: &str, good: bool| assert_eq!(text.parse::<BootstrapToken>().is_ok(), good, "{text}");
        check("abcdef.0123456789abcdef", true);
        check(" abcdef.0123456789abcdef\n", true);
        check("abcdef.0123456789abcde", false);
        check("ABCDEF.0123456789abcdef", false);
        check("abcdef", false);
        assert!(!format!("{:?}", token()).contains("0123"), "a secret is not shown");
    }

    #[test]
    fn signatures() {
        let header = |alg: &str, kid: &str| URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{alg}","kid":"{kid}"}}"#));
        let sign = |text: &str, header: &str, secret: &str| {
            let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
            let mac = ring::hmac::sign(&key, format!("{header}.{}", URL_SAFE_NO_PAD.encode(text)).as_bytes());
            format!("{header}..{}", URL_SAFE_NO_PAD.encode(mac))
        };
        let good = header("HS256", "abcdef");
        assert!(is_signed("text", &sign("text", &good, "0123456789abcdef"), &token()));
        assert!(!is_signed("other", &sign("text", &good, "0123456789abcdef"), &token()));
        assert!(!is_signed("text", &sign("text", &good, "0123456789abcdee"), &token()));
        let none = header("none", "abcdef");
        assert!(!is_signed("text", &sign("text", &none, "0123456789abcdef"), &token()));
        let another = header("HS256", "abcdeg");
        assert!(!is_signed("text", &sign("text", &another, "0123456789abcdef"), &token()));
        assert!(!is_signed("text", "nonsense", &token()));
    }
}
