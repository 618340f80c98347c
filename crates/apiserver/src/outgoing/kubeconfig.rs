//! A kubeconfig as kube-apiserver reads it for the webhooks that it is configured with: where the server is, whom to trust
//! there, and how to show who asks.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::Engine as _;
use http::Uri;
use rustls::ClientConfig;
use serde::Deserialize;

use super::trust::{Identity, Trust, TrustError};
use crate::config_file::{self, ConfigError};

/// A server that a kubeconfig leads to.
#[derive(Clone)]
pub(crate) struct Remote {
    /// Its address as the file has it.
    pub url: String,
    /// Its address.
    pub uri: Uri,
    /// How to connect, where the address says that TLS is spoken.
    pub client: Arc<ClientConfig>,
    /// The token to show.
    pub bearer: Option<String>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Remote").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Why a kubeconfig leads nowhere.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KubeconfigError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] ConfigError),
    /// Something that the file names is not in it, or is not as it must be.
    #[error("{}: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The certificates cannot be used.
    #[error("{}", path.display())]
    Trust {
        /// The file.
        path: PathBuf,
        /// Why.
        source: TrustError,
    },
}

#[derive(Deserialize)]
struct File {
    #[serde(rename = "current-context", default)]
    current_context: String,
    #[serde(default)]
    contexts: Vec<Named<ContextPart>>,
    #[serde(default)]
    clusters: Vec<Named<ClusterPart>>,
    #[serde(default)]
    users: Vec<Named<UserPart>>,
}

#[derive(Deserialize)]
struct Named<T> {
    name: String,
    #[serde(alias = "context", alias = "cluster", alias = "user")]
    part: T,
}

#[derive(Deserialize)]
struct ContextPart {
    cluster: String,
    #[serde(default)]
    user: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ClusterPart {
    server: String,
    certificate_authority: Option<String>,
    certificate_authority_data: Option<String>,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct UserPart {
    client_certificate: Option<String>,
    client_certificate_data: Option<String>,
    client_key: Option<String>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<String>,
}

impl Remote {
    /// The server of a file's current context.
    pub(crate) fn load(path: &Path) -> Result<Remote, KubeconfigError> {
        let wrong = |problem: String| KubeconfigError::Content { path: path.to_owned(), problem };
        let text = config_file::read_text(path)?;
        let file: File = serde_saphyr::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        let missing = |what: &str, name: &str| wrong(format!("there is no {what} {name:?}"));
        let name = &file.current_context;
        let context = file.contexts.iter().find(|context| context.name == *name);
        let context = &context.ok_or_else(|| missing("context", name))?.part;
        let cluster = file.clusters.into_iter().find(|cluster| cluster.name == context.cluster);
        let cluster = cluster.ok_or_else(|| missing("cluster", &context.cluster))?.part;
        let user = match context.user.as_str() {
            "" => UserPart::default(),
            name => {
                let user = file.users.into_iter().find(|user| user.name == name);
                user.ok_or_else(|| missing("user", name))?.part
            }
        };
        let uri = cluster.server.parse::<Uri>().ok();
        // Servers without TLS are for such that run beside this one; upstream takes them too.
        let uri = uri.filter(|uri| matches!(uri.scheme_str(), Some("https" | "http")) && uri.host().is_some());
        let uri = uri.ok_or_else(|| wrong(format!("the server {:?} is no http or https address", cluster.server)))?;
        // Files are named from the folder of the kubeconfig.
        let beside = |name: &str| path.parent().unwrap_or(Path::new(".")).join(name);
        let either = |data: Option<String>, file: Option<String>| match (data, file) {
            (Some(data), _) => base64::engine::general_purpose::STANDARD
                .decode(data)
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .map(Some)
                .ok_or_else(|| wrong("data is no text in base64".to_owned())),
            (None, Some(file)) => Ok(Some(config_file::read_text(&beside(&file))?)),
            (None, None) => Ok(None),
        };
        let trust = match either(cluster.certificate_authority_data, cluster.certificate_authority)? {
            _ if cluster.insecure_skip_tls_verify => Trust::Anybody,
            Some(pem) => Trust::Bundle(pem.into()),
            None => Trust::System,
        };
        let certificate = either(user.client_certificate_data, user.client_certificate)?;
        let key = either(user.client_key_data, user.client_key)?;
        let failed = |source| KubeconfigError::Trust { path: path.to_owned(), source };
        let identity = match (certificate, key) {
            (Some(cert_pem), Some(key_pem)) => {
                Some(Identity::of(&kobune_pki::Pair { cert_pem, key_pem }).map_err(failed)?)
            }
            (None, None) => None,
            _ => return Err(wrong("a client certificate needs its key".to_owned())),
        };
        let bearer = match (user.token, user.token_file) {
            (Some(token), _) => Some(token),
            (None, Some(file)) => Some(config_file::read_text(&beside(&file))?.trim().to_owned()),
            (None, None) => None,
        };
        let client = Arc::new(trust.client(identity.as_ref()).map_err(failed)?);
        Ok(Remote { url: cluster.server, uri, client, bearer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_lead_to_servers() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config");
        std::fs::write(folder.path().join("token"), "secret\n").expect("a file");
        let check = |text: &str, expected: Result<(&str, Option<&str>), &str>| {
            std::fs::write(&path, text).expect("a file");
            match (Remote::load(&path), expected) {
                (Ok(remote), Ok((url, bearer))) => {
                    assert_eq!((remote.url.as_str(), remote.bearer.as_deref()), (url, bearer))
                }
                (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        };
        let with = |cluster: &str, user: &str| {
            format!(
                "apiVersion: v1\nkind: Config\ncurrent-context: w\ncontexts: [{{name: w, context: {{cluster: c, user: u}}}}]\n\
                 clusters: [{{name: c, cluster: {{{cluster}}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n"
            )
        };
        let lax = "insecure-skip-tls-verify: true";
        check(&with(&format!("server: 'https://h/x', {lax}"), "token: t"), Ok(("https://h/x", Some("t"))));
        check(&with(&format!("server: 'https://h', {lax}"), "tokenFile: token"), Ok(("https://h", Some("secret"))));
        check(&with(&format!("server: 'https://h', {lax}"), ""), Ok(("https://h", None)));
        check(&with("server: 'http://h'", ""), Ok(("http://h", None)));
        check(&with("server: 'unix:///h'", ""), Err("is no http or https address"));
        check(&with("server: h", ""), Err("is no http or https address"));
        check(&with("server: 'https://h', certificate-authority-data: '?'", ""), Err("no text in base64"));
        check(&with("server: 'https://h', certificate-authority-data: aGVsbG8=", ""), Err("config"));
        check(&with(&format!("server: 'https://h', {lax}"), "client-key: token"), Err("needs its key"));
        check("current-context: w", Err("there is no context \"w\""));
    }
}
