//! Sets fields of contexts, clusters and users.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use base64::Engine as _;
use clap::Args;
use serde_json::{Map, Value, json};

use super::FileOptions;
use super::files::{Kubeconfigs, Section};

type Content = Map<String, Value>;

fn fields(entry: &mut Value) -> Result<&mut Content> {
    entry.as_object_mut().ok_or_else(|| anyhow!("an entry of the kubeconfig is no map"))
}

/// Sets a text, or takes it away where it is empty.
fn set(content: &mut Content, field: &str, value: &str) {
    if value.is_empty() {
        content.remove(field);
    } else {
        content.insert(field.to_owned(), value.into());
    }
}

/// Names a file, or takes over what is in it.
fn set_file(content: &mut Content, field: &str, path: &Path, embed: bool) -> Result<()> {
    let data = format!("{field}-data");
    if embed {
        let bytes = std::fs::read(path).map_err(|_| {
            anyhow!("could not stat {field} file {0}: stat {0}: no such file or directory", path.display())
        })?;
        content.insert(data, base64::engine::general_purpose::STANDARD.encode(bytes).into());
        content.remove(field);
    } else if path.as_os_str().is_empty() {
        content.remove(field);
    } else {
        let whole = std::path::absolute(path)?;
        content.insert(field.to_owned(), whole.display().to_string().into());
        content.remove(&data);
    }
    Ok(())
}

/// The flags of `config set-context`.
#[derive(Debug, Clone, Args)]
pub struct SetContextOptions {
    /// The context
    pub name: Option<String>,
    /// The current context
    #[arg(long)]
    pub current: bool,
    /// Its cluster
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// Its user
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Its namespace
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// In which file.
    #[command(flatten)]
    pub file: FileOptions,
}

impl SetContextOptions {
    pub(super) fn run(&self) -> Result<String> {
        let given = self.name.as_deref().unwrap_or_default();
        match (given.is_empty(), self.current) {
            (true, false) => bail!("you must specify a non-empty context name or --current"),
            (false, true) => bail!("you cannot specify both a context name and --current"),
            _ => {}
        }
        let mut files = Kubeconfigs::lock(&self.file)?;
        let name = if self.current { files.current_context() } else { given.to_owned() };
        if name.is_empty() {
            bail!("no current context is set");
        }
        let known = files.change(Section::Contexts, &name, |entry| {
            let content = fields(entry)?;
            for (field, value) in [("cluster", &self.cluster), ("user", &self.user), ("namespace", &self.namespace)] {
                if let Some(value) = value {
                    set(content, field, value);
                }
            }
            Ok(())
        })?;
        files.write()?;
        Ok(format!("Context {name:?} {}.\n", if known { "modified" } else { "created" }))
    }
}

/// The flags of `config set-cluster`.
#[derive(Debug, Clone, Args)]
pub struct SetClusterOptions {
    /// The cluster
    pub name: String,
    /// The address of its API server
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// The name that its certificate must have
    #[arg(long, value_name = "NAME")]
    pub tls_server_name: Option<String>,
    /// Believe any certificate
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub insecure_skip_tls_verify: Option<bool>,
    /// The file of the authority that signs its certificate
    #[arg(long, value_name = "FILE")]
    pub certificate_authority: Option<PathBuf>,
    /// Take over what is in the file
    #[arg(long, num_args = 0..=1, default_value_t = false, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    pub embed_certs: bool,
    /// The proxy in between
    #[arg(long, value_name = "URL")]
    pub proxy_url: Option<String>,
    /// In which file.
    #[command(flatten)]
    pub file: FileOptions,
}

impl SetClusterOptions {
    pub(super) fn run(&self) -> Result<String> {
        let authority = self.certificate_authority.as_deref().filter(|path| !path.as_os_str().is_empty());
        if self.insecure_skip_tls_verify == Some(true) && authority.is_some() {
            bail!("you cannot specify a certificate authority and insecure mode at the same time");
        }
        if self.embed_certs && authority.is_none() {
            bail!("you must specify a --certificate-authority to embed");
        }
        let mut files = Kubeconfigs::lock(&self.file)?;
        files.change(Section::Clusters, &self.name, |entry| {
            let content = fields(entry)?;
            if let Some(server) = &self.server {
                set(content, "server", server);
                content.remove("tls-server-name");
            }
            if let Some(name) = &self.tls_server_name {
                set(content, "tls-server-name", name);
            }
            if let Some(insecure) = self.insecure_skip_tls_verify {
                content.insert("insecure-skip-tls-verify".to_owned(), insecure.into());
                if insecure {
                    content.remove("certificate-authority");
                    content.remove("certificate-authority-data");
                }
            }
            if let Some(path) = &self.certificate_authority {
                set_file(content, "certificate-authority", path, self.embed_certs)?;
                if authority.is_some() {
                    content.remove("insecure-skip-tls-verify");
                }
            }
            if let Some(proxy) = &self.proxy_url {
                set(content, "proxy-url", proxy);
            }
            Ok(())
        })?;
        files.write()?;
        Ok(format!("Cluster {:?} set.\n", self.name))
    }
}

/// The flags of `config set-credentials`.
#[derive(Debug, Clone, Args)]
pub struct SetCredentialsOptions {
    /// The user
    pub name: String,
    /// The file of the user's certificate
    #[arg(long, value_name = "FILE")]
    pub client_certificate: Option<PathBuf>,
    /// The file of its key
    #[arg(long, value_name = "FILE")]
    pub client_key: Option<PathBuf>,
    /// Take over what is in the files
    #[arg(long, num_args = 0..=1, default_value_t = false, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    pub embed_certs: bool,
    /// The user's token
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<String>,
    /// The user's name for a password
    #[arg(long, value_name = "NAME")]
    pub username: Option<String>,
    /// The user's password
    #[arg(long, value_name = "TEXT")]
    pub password: Option<String>,
    /// The program that says who the user is
    #[arg(long, value_name = "PROGRAM")]
    pub exec_command: Option<String>,
    /// The version of its answers
    #[arg(long, value_name = "GROUP/VERSION")]
    pub exec_api_version: Option<String>,
    /// Its arguments
    #[arg(long, value_name = "TEXT", value_delimiter = ',')]
    pub exec_arg: Vec<String>,
    /// Its environment; NAME- takes a name away
    #[arg(long, value_name = "NAME=VALUE")]
    pub exec_env: Vec<String>,
    /// Whether it may ask people
    #[arg(long, value_name = "MODE", value_parser = ["IfAvailable", "Never", "Always"])]
    pub exec_interactive_mode: Option<String>,
    /// Tell it about the cluster
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub exec_provide_cluster_info: Option<bool>,
    /// In which file.
    #[command(flatten)]
    pub file: FileOptions,
}

impl SetCredentialsOptions {
    pub(super) fn run(&self) -> Result<String> {
        let filled = |value: &Option<String>| value.as_ref().is_some_and(|text| !text.is_empty());
        let (token, basic) = (filled(&self.token), filled(&self.username) || filled(&self.password));
        if token && basic {
            bail!(
                "you cannot specify more than one authentication method at the same time: --token, --username/--password"
            );
        }
        if self.embed_certs && self.client_certificate.is_none() && self.client_key.is_none() {
            bail!("you must specify a --client-certificate or --client-key to embed");
        }
        let mut files = Kubeconfigs::lock(&self.file)?;
        files.change(Section::Users, &self.name, |entry| {
            let content = fields(entry)?;
            for (field, path) in [("client-certificate", &self.client_certificate), ("client-key", &self.client_key)] {
                if let Some(path) = path {
                    set_file(content, field, path, self.embed_certs)?;
                }
            }
            for (field, value) in [("token", &self.token), ("username", &self.username), ("password", &self.password)] {
                if let Some(value) = value {
                    set(content, field, value);
                }
            }
            self.exec(content)?;
            // One way in takes the other's place.
            if token {
                content.remove("username");
                content.remove("password");
            }
            if basic {
                content.remove("token");
            }
            Ok(())
        })?;
        files.write()?;
        Ok(format!("User {:?} set.\n", self.name))
    }

    fn exec(&self, content: &mut Content) -> Result<()> {
        if let Some(command) = &self.exec_command {
            let exec = content.entry("exec").or_insert_with(|| json!({}));
            exec["command"] = command.clone().into();
            exec["args"] = Value::Null;
        }
        // Without a program there is nothing to set.
        let Some(exec) = content.get_mut("exec").filter(|exec| exec.is_object()) else { return Ok(()) };
        if let Some(version) = &self.exec_api_version {
            exec["apiVersion"] = version.clone().into();
        }
        if !self.exec_arg.is_empty() {
            exec["args"] = self.exec_arg.clone().into();
        }
        if let Some(mode) = &self.exec_interactive_mode {
            exec["interactiveMode"] = mode.clone().into();
        }
        if let Some(provide) = self.exec_provide_cluster_info {
            exec["provideClusterInfo"] = provide.into();
        }
        let mut env: Vec<Value> = exec["env"].as_array().cloned().unwrap_or_default();
        for pair in &self.exec_env {
            match pair.split_once('=') {
                Some((name, value)) if !name.is_empty() => match env.iter_mut().find(|known| known["name"] == name) {
                    Some(known) => known["value"] = value.into(),
                    None => env.push(json!({"name": name, "value": value})),
                },
                _ => match pair.strip_suffix('-').filter(|name| !name.is_empty()) {
                    Some(name) => env.retain(|known| known["name"] != name),
                    None => bail!("invalid exec-env format: {pair}"),
                },
            }
        }
        if !self.exec_env.is_empty() {
            exec["env"] = env.into();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_made_and_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        let file = FileOptions { kubeconfig: Some(path.clone()) };
        let context = |name: Option<&str>, cluster: Option<&str>| SetContextOptions {
            name: name.map(str::to_owned),
            current: name.is_none(),
            cluster: cluster.map(str::to_owned),
            user: None,
            namespace: None,
            file: file.clone(),
        };
        assert!(context(None, None).run().is_err());
        assert_eq!(context(Some("a"), Some("c")).run().unwrap(), "Context \"a\" created.\n");
        assert_eq!(context(Some("a"), Some("d")).run().unwrap(), "Context \"a\" modified.\n");
        let text = std::fs::read_to_string(&path).unwrap();
        let expected = "apiVersion: v1\nclusters: null\ncontexts:\n- context:\n    cluster: d\n    user: \"\"\n  name: a\n\
            current-context: \"\"\nkind: Config\nusers: null\n";
        assert_eq!(text, expected);
        // Whoever changes the file at the same time is noticed, and nothing else is left behind.
        std::fs::write(folder.path().join("config.lock"), "").unwrap();
        assert!(context(Some("b"), None).run().unwrap_err().to_string().contains("somebody else changes"));
        std::fs::remove_file(folder.path().join("config.lock")).unwrap();
        std::fs::write(&path, "odd: kept\nclusters: [{name: x, cluster: {mine: 1}}]\n").unwrap();
        assert!(context(Some("b"), None).run().is_ok());
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("odd: kept") && text.contains("mine: 1"), "{text}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
