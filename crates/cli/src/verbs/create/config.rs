//! What configures others: Namespaces, ConfigMaps, Secrets, ServiceAccounts, quotas and priorities.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{Common, Made, named};

/// The flags of `create namespace`.
#[derive(Debug, Clone, Args)]
pub struct NamespaceOptions {
    /// The Namespace's name
    pub name: String,
    /// What is done with it.
    #[command(flatten)]
    pub common: Common,
}

impl NamespaceOptions {
    pub(super) fn make(self) -> Result<(Common, Made)> {
        let mut object = named(&self.name);
        object["spec"] = json!({});
        object["status"] = json!({});
        Ok((self.common, Made::new(("", "v1", "namespaces", false), "Namespace", None, object)))
    }
}

/// Where keys and values come from.
#[derive(Debug, Clone, Args)]
pub struct Sources {
    /// A file, whose name becomes the key, KEY=FILE, or a folder with such files
    #[arg(long, value_name = "[KEY=]FILE", value_delimiter = ',')]
    pub from_file: Vec<String>,
    /// A key and its value
    #[arg(long, value_name = "KEY=VALUE")]
    pub from_literal: Vec<String>,
    /// A file with a KEY=VALUE a line
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    pub from_env_file: Vec<PathBuf>,
    /// Add a hash of the content to the name
    #[arg(long)]
    pub append_hash: bool,
}

/// Keys and values in the order in which they were given.
type Entries = Vec<(String, Vec<u8>)>;

impl Sources {
    /// All keys and values.
    fn read(&self) -> Result<Entries> {
        let others = self.from_file.len() + self.from_literal.len();
        if !self.from_env_file.is_empty() && others > 0 {
            bail!("from-env-file cannot be combined with from-file or from-literal");
        }
        let mut entries = Vec::new();
        for source in &self.from_file {
            from_file(source, &mut entries)?;
        }
        for source in &self.from_literal {
            match source.split_once('=') {
                Some((key, value)) if !key.is_empty() => entries.push((key.to_owned(), value.as_bytes().to_vec())),
                _ => bail!("invalid literal source {source}, expected key=value"),
            }
        }
        for file in &self.from_env_file {
            from_env_file(file, &mut entries)?;
        }
        Ok(entries)
    }
}

fn from_file(source: &str, entries: &mut Entries) -> Result<()> {
    let (key, path) = match source.matches('=').count() {
        0 => (None, source),
        1 => match source.split_once('=') {
            Some(("", path)) => bail!("key name for file path {path} missing"),
            Some((key, "")) => bail!("file path for key name {key} missing"),
            Some((key, path)) => (Some(key), path),
            None => (None, source),
        },
        _ => bail!("key names or file paths cannot contain '='"),
    };
    let info = std::fs::metadata(path).map_err(|error| anyhow!("error reading {path}: {}", words(&error)))?;
    if !info.is_dir() {
        let name = key.map(str::to_owned).or_else(|| Path::new(path).file_name()?.to_str().map(str::to_owned));
        entries.push((name.unwrap_or_default(), read(Path::new(path))?));
        return Ok(());
    }
    if key.is_some() {
        bail!("cannot give a key name for a directory path");
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|error| anyhow!("error listing files in {path}: {}", words(&error)))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
        }
    }
    files.sort();
    for (name, path) in files {
        entries.push((name, read(&path)?));
    }
    Ok(())
}

/// An error of the system in Go's words.
fn words(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| anyhow!("open {}: {}", path.display(), words(&error)))
}

fn from_env_file(file: &Path, entries: &mut Entries) -> Result<()> {
    let bytes = std::fs::read(file).map_err(|error| anyhow!("error reading {}: {}", file.display(), words(&error)))?;
    let text =
        String::from_utf8(bytes).with_context(|| format!("env file {} contains invalid utf8 bytes", file.display()))?;
    for line in text.strip_prefix('\u{feff}').unwrap_or(&text).lines() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = match line.split_once('=') {
            Some((key, value)) => (key, value.to_owned()),
            // A name alone takes its value from the environment.
            None => (line, std::env::var(line).unwrap_or_default()),
        };
        let mistakes = kobune_kinds::name::env_var_name(key);
        if !mistakes.is_empty() {
            bail!("{key:?} is not a valid key name: {}", mistakes.join(";"));
        }
        entries.push((key.to_owned(), value.into_bytes()));
    }
    Ok(())
}

/// What is wrong with a key of a ConfigMap or a Secret.
fn check_key(key: &str, separator: &str) -> Result<(), String> {
    match kobune_kinds::name::config_map_key(key) {
        none if none.is_empty() => Ok(()),
        mistakes => Err(mistakes.join(separator)),
    }
}

/// The end of a name that changes with the content (`k8s.io/kubectl/pkg/util/hash`).
fn hash(of: &Value) -> Result<String> {
    // Compact, with the letters escaped that Go escapes.
    let text = serde_json::to_string(of)?.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
    let digits: String = Sha256::digest(text.as_bytes()).iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    let letter = |digit| match digit {
        '0' => 'g',
        '1' => 'h',
        '3' => 'k',
        'a' => 'm',
        'e' => 't',
        other => other,
    };
    Ok(digits.chars().map(letter).collect())
}

/// The flags of `create configmap`.
#[derive(Debug, Clone, Args)]
pub struct ConfigMapOptions {
    /// The ConfigMap's name
    pub name: String,
    /// What is in it.
    #[command(flatten)]
    pub sources: Sources,
    /// What is done with it.
    #[command(flatten)]
    pub common: Common,
}

impl ConfigMapOptions {
    pub(super) fn make(self) -> Result<(Common, Made)> {
        let (mut data, mut binary) = (Map::new(), Map::new());
        for (key, bytes) in self.sources.read()? {
            check_key(&key, ",")
                .map_err(|words| anyhow!("{key:?} is not a valid key name for a ConfigMap: {words}"))?;
            for (map, kind) in [(&data, "Data"), (&binary, "BinaryData")] {
                if map.contains_key(&key) {
                    bail!(
                        "cannot add key {key:?}, another key by that name already exists in {kind} for ConfigMap {:?}",
                        self.name
                    );
                }
            }
            match String::from_utf8(bytes) {
                Ok(text) => data.insert(key, text.into()),
                Err(error) => binary.insert(key, STANDARD.encode(error.as_bytes()).into()),
            };
        }
        let mut name = self.name;
        if self.sources.append_hash {
            let mut content = json!({"kind": "ConfigMap", "name": name, "data": data});
            if !binary.is_empty() {
                content["binaryData"] = binary.clone().into();
            }
            name = format!("{name}-{}", hash(&content)?);
        }
        let mut object = named(&name);
        for (field, map) in [("data", data), ("binaryData", binary)] {
            if !map.is_empty() {
                object[field] = map.into();
            }
        }
        let failure = Some("failed to create configmap:");
        Ok((self.common, Made::new(("", "v1", "configmaps", true), "ConfigMap", failure, object)))
    }
}

/// The sorts of Secrets.
#[derive(Debug, Clone, Subcommand)]
pub enum SecretCommand {
    /// Make a Secret of files, folders and literal values
    Generic(GenericSecretOptions),
    /// Make a Secret of a certificate and its key
    Tls(TlsSecretOptions),
    /// Make a Secret with what a registry of images asks for
    DockerRegistry(RegistrySecretOptions),
}

/// The flags of `create secret generic`.
#[derive(Debug, Clone, Args)]
pub struct GenericSecretOptions {
    /// The Secret's name
    pub name: String,
    /// The Secret's type
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<String>,
    /// What is in it.
    #[command(flatten)]
    pub sources: Sources,
    /// What is done with it.
    #[command(flatten)]
    pub common: Common,
}

/// The flags of `create secret tls`.
#[derive(Debug, Clone, Args)]
pub struct TlsSecretOptions {
    /// The Secret's name
    pub name: String,
    /// The file of the certificate, in PEM
    #[arg(long, value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// The file of its key, in PEM
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Add a hash of the content to the name
    #[arg(long)]
    pub append_hash: bool,
    /// What is done with it.
    #[command(flatten)]
    pub common: Common,
}

/// The flags of `create secret docker-registry`.
#[derive(Debug, Clone, Args)]
pub struct RegistrySecretOptions {
    /// The Secret's name
    pub name: String,
    /// The user
    #[arg(long, value_name = "NAME", default_value = "")]
    pub docker_username: String,
    /// The password
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub docker_password: String,
    /// The user's mail address
    #[arg(long, value_name = "ADDRESS", default_value = "")]
    pub docker_email: String,
    /// The registry
    #[arg(long, value_name = "URL", default_value = "https://index.docker.io/v1/")]
    pub docker_server: String,
    /// A file such as ~/.docker/config.json, or KEY=FILE
    #[arg(long, value_name = "[KEY=]FILE", value_delimiter = ',')]
    pub from_file: Vec<String>,
    /// Add a hash of the content to the name
    #[arg(long)]
    pub append_hash: bool,
    /// What is done with it.
    #[command(flatten)]
    pub common: Common,
}

impl SecretCommand {
    pub(super) fn make(self) -> Result<(Common, Made)> {
        let (name, kind, entries, append_hash, common) = match self {
            SecretCommand::Generic(options) => {
                let entries = options.sources.read()?;
                (options.name, options.kind.unwrap_or_default(), entries, options.sources.append_hash, options.common)
            }
            SecretCommand::Tls(options) => {
                let (Some(cert), Some(key)) = (&options.cert, &options.key) else {
                    bail!("key and cert must be specified");
                };
                let read = |file: &Path| {
                    std::fs::read(file)
                        .map_err(|error| anyhow!("Cannot read file {}, open {0}: {}", file.display(), words(&error)))
                };
                let (cert, key) = (read(cert)?, read(key)?);
                check_pair(&cert, &key)?;
                let entries = vec![("tls.crt".to_owned(), cert), ("tls.key".to_owned(), key)];
                (options.name, "kubernetes.io/tls".to_owned(), entries, options.append_hash, options.common)
            }
            SecretCommand::DockerRegistry(options) => {
                let mut entries = Vec::new();
                for source in &options.from_file {
                    from_file(source, &mut entries)?;
                }
                let (user, password, server) =
                    (&options.docker_username, &options.docker_password, &options.docker_server);
                if options.from_file.is_empty() {
                    if user.is_empty() || password.is_empty() || server.is_empty() {
                        bail!(
                            "either --from-file or the combination of --docker-username, --docker-password and --docker-server is required"
                        );
                    }
                    entries.push((
                        ".dockerconfigjson".to_owned(),
                        registry(user, password, &options.docker_email, server),
                    ));
                }
                let kind = "kubernetes.io/dockerconfigjson".to_owned();
                (options.name, kind, entries, options.append_hash, options.common)
            }
        };
        let mut data = Map::new();
        for (key, bytes) in entries {
            check_key(&key, ";").map_err(|words| anyhow!("{key:?} is not valid key name for a Secret {words}"))?;
            if data.contains_key(&key) {
                bail!("cannot add key {key}, another key by that name already exists");
            }
            data.insert(key, STANDARD.encode(bytes).into());
        }
        let full = match append_hash {
            true => format!("{name}-{}", hash(&json!({"kind": "Secret", "type": kind, "name": name, "data": data}))?),
            false => name,
        };
        let mut object = named(&full);
        if !data.is_empty() {
            object["data"] = data.into();
        }
        if !kind.is_empty() {
            object["type"] = kind.into();
        }
        Ok((common, Made::new(("", "v1", "secrets", true), "Secret", Some("failed to create secret"), object)))
    }
}

/// What a registry's Secret holds, with the fields in Go's order.
fn registry(user: &str, password: &str, mail: &str, server: &str) -> Vec<u8> {
    let mut fields = format!("\"username\":{},\"password\":{}", json!(user), json!(password));
    if !mail.is_empty() {
        fields.push_str(&format!(",\"email\":{}", json!(mail)));
    }
    let auth = STANDARD.encode(format!("{user}:{password}"));
    let text = format!("{{\"auths\":{{{}:{{{fields},\"auth\":{}}}}}}}", json!(server), json!(auth));
    text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026").into_bytes()
}

/// Whether there is a certificate and a key, before the server is asked.
fn check_pair(cert: &[u8], key: &[u8]) -> Result<()> {
    let labels = |bytes: &[u8]| -> Vec<String> {
        let text = String::from_utf8_lossy(bytes);
        let starts = text.lines().filter_map(|line| line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----"));
        starts.map(str::to_owned).collect()
    };
    if !labels(cert).iter().any(|label| label == "CERTIFICATE") {
        bail!("tls: failed to find any PEM data in certificate input");
    }
    if !labels(key).iter().any(|label| label == "PRIVATE KEY" || label.ends_with(" PRIVATE KEY")) {
        bail!("tls: failed to find any PEM data in key input");
    }
    Ok(())
}

/// The flags of `create serviceaccount`.
#[derive(Debug, Clone, Args)]
pub struct ServiceAccountOptions {
    /// The ServiceAccount's name
    pub name: String,
    /// What is done with it.
    #[command(flatten)]
    pub common: Common,
}

impl ServiceAccountOptions {
    pub(super) fn make(self) -> Result<(Common, Made)> {
        let failure = Some("failed to create serviceaccount:");
        let object = named(&self.name);
        Ok((self.common, Made::new(("", "v1", "serviceaccounts", true), "ServiceAccount", failure, object)))
    }
}

/// The flags of `create quota`.
#[derive(Debug, Clone, Args)]
pub struct QuotaOptions {
    /// The ResourceQuota's name
    pub name: String,
    /// The amounts that nobody goes beyond
    #[arg(long, value_name = "RESOURCE=AMOUNT,...", default_value = "")]
    pub hard: String,
    /// What sort of pods count
    #[arg(long, value_name = "SCOPE,...", default_value = "")]
    pub scopes: String,
    /// What is done with it.
    #[command(flatten)]
    pub common: Common,
}

impl QuotaOptions {
    pub(super) fn make(self) -> Result<(Common, Made)> {
        let mut object = named(&self.name);
        object["spec"] = json!({});
        object["status"] = json!({});
        for statement in self.hard.split(',').filter(|_| !self.hard.is_empty()) {
            let parts: Vec<&str> = statement.split('=').collect();
            let [resource, amount] = parts.as_slice() else {
                bail!("Invalid argument syntax {statement}, expected <resource>=<value>");
            };
            object["spec"]["hard"][*resource] = kobune_kinds::quantity::canonical(amount)?.into();
        }
        if !self.scopes.is_empty() {
            let scopes: Vec<&str> = self.scopes.split(',').collect();
            if scopes.contains(&"") {
                bail!("invalid resource quota scope \"\"");
            }
            object["spec"]["scopes"] = scopes.into();
        }
        let failure = Some("failed to create quota:");
        Ok((self.common, Made::new(("", "v1", "resourcequotas", true), "ResourceQuota", failure, object)))
    }
}

/// The flags of `create priorityclass`.
#[derive(Debug, Clone, Args)]
pub struct PriorityClassOptions {
    /// The PriorityClass's name
    pub name: String,
    /// How important its pods are
    #[arg(long, value_name = "NUMBER", default_value_t = 0, allow_negative_numbers = true)]
    pub value: i32,
    /// Take it for pods that name none
    #[arg(long, num_args = 0..=1, default_value_t = false, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    pub global_default: bool,
    /// What it is for
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub description: String,
    /// Whether its pods drive others out
    #[arg(long, value_name = "POLICY", default_value = "PreemptLowerPriority")]
    pub preemption_policy: String,
    /// What is done with it.
    #[command(flatten)]
    pub common: Common,
}

impl PriorityClassOptions {
    pub(super) fn make(self) -> Result<(Common, Made)> {
        let mut object = named(&self.name);
        object["value"] = self.value.into();
        object["preemptionPolicy"] = self.preemption_policy.into();
        if self.global_default {
            object["globalDefault"] = true.into();
        }
        if !self.description.is_empty() {
            object["description"] = self.description.into();
        }
        let failure = Some("failed to create priorityclass:");
        let resource = ("scheduling.k8s.io", "v1", "priorityclasses", false);
        Ok((self.common, Made::new(resource, "PriorityClass", failure, object)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_keys_come_from() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("b"), "bee").unwrap();
        std::fs::write(path("env"), "\u{feff}# c\n A=1=2\n\nB=\n").unwrap();
        let sources = |files: &[String], literals: &[&str], envs: &[&str]| Sources {
            from_file: files.to_vec(),
            from_literal: literals.iter().map(|&text| text.to_owned()).collect(),
            from_env_file: envs.iter().map(PathBuf::from).collect(),
            append_hash: false,
        };
        let keys = |sources: Sources| -> Result<Vec<String>> {
            let pair = |(key, value)| format!("{key}={}", String::from_utf8(value).unwrap());
            Ok(sources.read()?.into_iter().map(pair).collect())
        };
        assert_eq!(
            keys(sources(&[path("b"), format!("k={}", path("b"))], &["x=y=z"], &[])).unwrap(),
            ["b=bee", "k=bee", "x=y=z"]
        );
        assert_eq!(keys(sources(&[], &[], &[&path("env")])).unwrap(), ["A=1=2", "B="]);
        let folder_keys = keys(sources(&[folder.path().display().to_string()], &[], &[])).unwrap();
        assert!(folder_keys[0] == "b=bee" && folder_keys.len() == 2, "{folder_keys:?}");
        for (wrong, words) in [
            (sources(&[], &["=x"], &[]), "invalid literal source"),
            (sources(&["=x".to_owned()], &[], &[]), "key name for file path x missing"),
            (sources(&["x=".to_owned()], &[], &[]), "file path for key name x missing"),
            (sources(&["a=b=c".to_owned()], &[], &[]), "cannot contain '='"),
            (sources(&[path("none")], &[], &[]), "no such file or directory"),
            (sources(&[], &["a=b"], &["env"]), "cannot be combined"),
        ] {
            let error = keys(wrong).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn keys_and_hashes() {
        for (key, good) in [("a.b_c-D", true), ("", false), ("a b", false), (".", false), ("..x", false), (".x", true)]
        {
            assert_eq!(check_key(key, ",").is_ok(), good, "{key}");
        }
        // kubectl's own test has these.
        assert_eq!(hash(&json!({"kind": "ConfigMap", "name": "", "data": {}})).unwrap(), "42745tchd9");
        assert_eq!(hash(&json!({"kind": "Secret", "type": "my-type", "name": "", "data": {}})).unwrap(), "t75bgf6ctb");
        let text = String::from_utf8(registry("u", "p", "", "s")).unwrap();
        assert_eq!(text, r#"{"auths":{"s":{"username":"u","password":"p","auth":"dTpw"}}}"#);
    }
}
