//! `AuthorizationConfiguration`, upstream's file, and the older flags, which say less of the same.
//!
//! Source: `pkg/apis/apiserver/v1/types.go`, `pkg/apis/apiserver/validation` of apiserver and
//! `pkg/kubeapiserver/options/authorization.go`, Kubernetes 1.36.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kobune_kinds::name;
use serde::Deserialize;

use super::{
    Authorizer, Kind,
    conditions::Condition,
    metrics::Metrics,
    webhook::{FailurePolicy, Settings, Webhook},
};
use crate::{
    config_file::{self, ConfigError, Problems},
    duration::parse_duration,
    outgoing::{
        kubeconfig::{KubeconfigError, Remote},
        poster::Poster,
    },
};

/// The versions of the file's kind, whose fields are the same.
const API_VERSIONS: [&str; 3] =
    ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1", "apiserver.config.k8s.io/v1alpha1"];

/// How long a webhook may be given.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long answers are kept where the file does not say.
const KEEP_ALLOWED: Duration = Duration::from_secs(5 * 60);
const KEEP_REFUSED: Duration = Duration::from_secs(30);

/// How many conditions a webhook may have.
const MOST_CONDITIONS: usize = 64;

/// How many webhooks there may be: each request may wait for all of them.
const MOST_AUTHORIZERS: usize = 16;

/// Why there are no such authorizers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorizationError {
    /// The file cannot be used.
    #[error(transparent)]
    File(ConfigError),
    /// A webhook's kubeconfig cannot be used.
    #[error("cannot use the kubeconfig of the authorizer {name:?}")]
    Kubeconfig {
        /// The authorizer.
        name: String,
        /// Why.
        source: KubeconfigError,
    },
    /// The flags contradict each other.
    #[error("{0}")]
    Flags(String),
}

/// The versions of `SubjectAccessReview` that webhooks are asked in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubjectAccessReviewVersion {
    /// `authorization.k8s.io/v1`.
    V1,
    /// `authorization.k8s.io/v1beta1`.
    V1Beta1,
}

impl SubjectAccessReviewVersion {
    /// From the name of the version alone.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "v1" => Some(Self::V1),
            "v1beta1" => Some(Self::V1Beta1),
            _ => None,
        }
    }

    pub(super) fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "authorization.k8s.io/v1",
            Self::V1Beta1 => "authorization.k8s.io/v1beta1",
        }
    }
}

/// `--authorization-mode` and the flags about its webhook.
#[derive(Clone, Debug)]
pub struct ModeOptions {
    /// `--authorization-mode`.
    pub modes: Vec<String>,
    /// `--authorization-webhook-config-file`.
    pub webhook_config_file: Option<PathBuf>,
    /// `--authorization-webhook-version`.
    pub webhook_version: SubjectAccessReviewVersion,
    /// `--authorization-webhook-cache-authorized-ttl`; zero keeps nothing.
    pub webhook_keep_allowed: Duration,
    /// `--authorization-webhook-cache-unauthorized-ttl`; zero keeps nothing.
    pub webhook_keep_refused: Duration,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct File {
    authorizers: Vec<AuthorizerPart>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct AuthorizerPart {
    r#type: String,
    name: String,
    webhook: Option<WebhookPart>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct WebhookPart {
    #[serde(rename = "authorizedTTL")]
    authorized_ttl: Option<String>,
    cache_authorized_requests: bool,
    #[serde(rename = "unauthorizedTTL")]
    unauthorized_ttl: Option<String>,
    cache_unauthorized_requests: bool,
    timeout: String,
    subject_access_review_version: String,
    match_condition_subject_access_review_version: String,
    failure_policy: String,
    connection_info: ConnectionPart,
    match_conditions: Vec<ConditionPart>,
}

impl Default for WebhookPart {
    fn default() -> Self {
        Self {
            authorized_ttl: None,
            cache_authorized_requests: true,
            unauthorized_ttl: None,
            cache_unauthorized_requests: true,
            timeout: String::new(),
            subject_access_review_version: String::new(),
            match_condition_subject_access_review_version: String::new(),
            failure_policy: String::new(),
            connection_info: ConnectionPart::default(),
            match_conditions: Vec::new(),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct ConnectionPart {
    r#type: String,
    kube_config_file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct ConditionPart {
    expression: String,
}

/// The types that need no webhook, by their names in files and flags.
fn plain(name: &str) -> Option<Kind> {
    match name {
        "Node" => Some(Kind::Node),
        "RBAC" => Some(Kind::Rbac),
        "AlwaysAllow" => Some(Kind::AlwaysAllow),
        "AlwaysDeny" => Some(Kind::AlwaysDeny),
        _ => None,
    }
}

/// The authorizers that a file's text describes.
pub(super) fn read(path: &Path, text: &str, metrics: &Arc<Metrics>) -> Result<Vec<Authorizer>, AuthorizationError> {
    let parsed = config_file::parse::<File>(text, "AuthorizationConfiguration", &API_VERSIONS);
    let file =
        parsed.map_err(|problem| AuthorizationError::File(ConfigError::Parse { path: path.to_owned(), problem }))?;
    let mut problems = Problems::default();
    if file.authorizers.is_empty() {
        problems.add("authorizers", "at least one authorization mode must be defined");
    }
    if file.authorizers.len() > MOST_AUTHORIZERS {
        problems.add("authorizers", format_args!("there may be {MOST_AUTHORIZERS} at most"));
    }
    let (mut names, mut types) = (BTreeSet::new(), BTreeSet::new());
    let mut read = Vec::new();
    for (index, part) in file.authorizers.into_iter().enumerate() {
        let field = format!("authorizers[{index}]");
        if part.name.is_empty() {
            problems.add(format_args!("{field}.name"), "Required value");
        } else if !names.insert(part.name.clone()) {
            problems.add(format_args!("{field}.name"), format_args!("Duplicate value: {:?}", part.name));
        } else {
            for problem in name::dns1123_subdomain(&part.name) {
                problems.add(format_args!("{field}.name"), format_args!("Invalid value: {:?}: {problem}", part.name));
            }
        }
        match (part.r#type.as_str(), part.webhook) {
            ("", _) => problems.add(format_args!("{field}.type"), "Required value"),
            ("Webhook", None) => {
                problems.add(format_args!("{field}.webhook"), "Required value: required when type=Webhook");
            }
            ("Webhook", Some(webhook)) => {
                let settings = webhook_settings(&part.name, &webhook, &format!("{field}.webhook"), &mut problems);
                if let Some((settings, kubeconfig)) = settings {
                    read.push((part.name, Err((settings, kubeconfig))));
                }
            }
            (kind, webhook) => {
                match plain(kind) {
                    None => {
                        let known = "\"AlwaysAllow\", \"AlwaysDeny\", \"Node\", \"RBAC\", \"Webhook\"";
                        problems.add(
                            format_args!("{field}.type"),
                            format_args!("Unsupported value: {kind:?}: supported values: {known}"),
                        );
                    }
                    Some(_) if !types.insert(kind.to_owned()) => {
                        problems.add(format_args!("{field}.type"), format_args!("Duplicate value: {kind:?}"));
                    }
                    Some(kind) => read.push((part.name, Ok(kind))),
                }
                if webhook.is_some() {
                    problems.add(
                        format_args!("{field}.webhook"),
                        "Invalid value: non-null: may only be specified when type=Webhook",
                    );
                }
            }
        }
    }
    problems.into_result(path, ()).map_err(AuthorizationError::File)?;
    read.into_iter()
        .map(|(name, kind)| {
            let kind = match kind {
                Ok(kind) => kind,
                Err((settings, kubeconfig)) => webhook(settings, &kubeconfig, metrics)?,
            };
            Ok(Authorizer::new(&name, kind, metrics))
        })
        .collect()
}

fn webhook(settings: Settings, kubeconfig: &Path, metrics: &Arc<Metrics>) -> Result<Kind, AuthorizationError> {
    let remote = Remote::load(kubeconfig)
        .map_err(|source| AuthorizationError::Kubeconfig { name: settings.name.clone(), source })?;
    Ok(Kind::Webhook(Arc::new(Webhook::new(settings, Poster::new(remote), Arc::clone(metrics)))))
}

/// What a file says of a webhook, and its kubeconfig.
fn webhook_settings(
    name: &str,
    part: &WebhookPart,
    field: &str,
    problems: &mut Problems,
) -> Option<(Settings, PathBuf)> {
    let mut at = |place: &str, problem: &dyn std::fmt::Display| problems.add(format_args!("{field}.{place}"), problem);
    let mut keep = |place: &str, text: &Option<String>, otherwise: Duration| match text.as_deref() {
        None => Some(otherwise),
        Some(text) => match parse_duration(text) {
            // Nothing said is what upstream's zero means.
            Some(Duration::ZERO) => Some(otherwise),
            Some(keep) => Some(keep),
            None => {
                at(place, &format_args!("Invalid value: {text:?}: must be a duration greater than zero"));
                None
            }
        },
    };
    let keep_allowed = keep("authorizedTTL", &part.authorized_ttl, KEEP_ALLOWED);
    let keep_refused = keep("unauthorizedTTL", &part.unauthorized_ttl, KEEP_REFUSED);
    let timeout = match parse_duration(&part.timeout) {
        _ if part.timeout.is_empty() => {
            at("timeout", &"Required value");
            None
        }
        Some(Duration::ZERO) => {
            at("timeout", &"Required value");
            None
        }
        Some(timeout) if timeout <= LONGEST_TIMEOUT => Some(timeout),
        _ => {
            at("timeout", &format_args!("Invalid value: {:?}: must be > 0s and <= 30s", part.timeout));
            None
        }
    };
    let version = SubjectAccessReviewVersion::parse(&part.subject_access_review_version);
    match (part.subject_access_review_version.as_str(), version) {
        ("", _) => at("subjectAccessReviewVersion", &"Required value"),
        (text, None) => at(
            "subjectAccessReviewVersion",
            &format_args!("Unsupported value: {text:?}: supported values: \"v1\", \"v1beta1\""),
        ),
        _ => {}
    }
    match part.match_condition_subject_access_review_version.as_str() {
        "v1" => {}
        "" if part.match_conditions.is_empty() => {}
        "" => at(
            "matchConditionSubjectAccessReviewVersion",
            &"Required value: required if match conditions are specified",
        ),
        text => at(
            "matchConditionSubjectAccessReviewVersion",
            &format_args!("Unsupported value: {text:?}: supported values: \"v1\""),
        ),
    }
    let failure_policy = match part.failure_policy.as_str() {
        "NoOpinion" => Some(FailurePolicy::NoOpinion),
        "Deny" => Some(FailurePolicy::Deny),
        "" => {
            at("failurePolicy", &"Required value");
            None
        }
        text => {
            at(
                "failurePolicy",
                &format_args!("Unsupported value: {text:?}: supported values: \"Deny\", \"NoOpinion\""),
            );
            None
        }
    };
    let kubeconfig = match (part.connection_info.r#type.as_str(), &part.connection_info.kube_config_file) {
        ("KubeConfigFile", None) => {
            at("connectionInfo.kubeConfigFile", &"Required value");
            None
        }
        ("KubeConfigFile", Some(path)) if !path.is_absolute() => {
            at("connectionInfo.kubeConfigFile", &format_args!("Invalid value: {path:?}: must be an absolute path"));
            None
        }
        ("KubeConfigFile", Some(path)) => Some(path.clone()),
        ("", _) => {
            at("connectionInfo.type", &"Required value");
            None
        }
        // Upstream has InClusterConfig too, for servers that run as pods of another cluster.
        (text, _) => {
            at(
                "connectionInfo.type",
                &format_args!("Unsupported value: {text:?}: supported values: \"KubeConfigFile\""),
            );
            None
        }
    };
    if part.match_conditions.len() > MOST_CONDITIONS {
        at("matchConditions", &format_args!("Too many: must have at most {MOST_CONDITIONS} items"));
    }
    let (mut conditions, mut sources) = (Vec::new(), BTreeSet::new());
    for (index, condition) in part.match_conditions.iter().take(MOST_CONDITIONS).enumerate() {
        let source = condition.expression.trim();
        let place = format!("matchConditions[{index}].expression");
        if source.is_empty() {
            at(&place, &"Required value");
        } else if !sources.insert(source) {
            at(&place, &format_args!("Duplicate value: {source:?}"));
        } else {
            match Condition::compile(source) {
                Ok(condition) => conditions.push(condition),
                Err(problem) => at(&place, &format_args!("Invalid value: {source:?}: {problem}")),
            }
        }
    }
    let settings = Settings {
        name: name.to_owned(),
        version: version?,
        timeout: timeout?,
        keep_allowed: keep_allowed.filter(|_| part.cache_authorized_requests),
        keep_refused: keep_refused.filter(|_| part.cache_unauthorized_requests),
        failure_policy: failure_policy?,
        conditions,
    };
    Some((settings, kubeconfig?))
}

/// A new file must have the types that need no webhook and that the old one had: whoever takes away RBAC means to start
/// anew. Source: `pkg/kubeapiserver/authorizer/reload.go`.
pub(super) fn require_types(path: &Path, old: &[Authorizer], new: &[Authorizer]) -> Result<(), AuthorizationError> {
    let types = |chain: &[Authorizer]| -> BTreeSet<&'static str> {
        chain.iter().map(|one| one.kind.name()).filter(|kind| *kind != "Webhook").collect()
    };
    let new = types(new);
    let mut problems = Problems::default();
    for missing in types(old).difference(&new) {
        problems.add("authorizers", format_args!("an authorizer of type {missing} is required, as before"));
    }
    problems.into_result(path, ()).map_err(AuthorizationError::File)
}

/// The authorizers that the flags describe.
pub(super) fn of_modes(options: &ModeOptions, metrics: &Arc<Metrics>) -> Result<Vec<Authorizer>, AuthorizationError> {
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    let mut chain = Vec::new();
    if options.modes.is_empty() {
        problems.push("--authorization-mode: at least one mode is needed".to_owned());
    }
    for mode in &options.modes {
        if !seen.insert(mode.as_str()) {
            problems.push(format!("--authorization-mode: {mode:?} is named twice"));
        } else if let Some(kind) = plain(mode) {
            chain.push(Authorizer::new(&mode.to_ascii_lowercase(), kind, metrics));
        } else if mode == "Webhook" {
            match &options.webhook_config_file {
                None => {
                    problems.push("--authorization-mode: Webhook needs --authorization-webhook-config-file".to_owned())
                }
                Some(path) => {
                    let settings = Settings {
                        name: "default".to_owned(),
                        version: options.webhook_version,
                        timeout: LONGEST_TIMEOUT,
                        keep_allowed: (!options.webhook_keep_allowed.is_zero()).then_some(options.webhook_keep_allowed),
                        keep_refused: (!options.webhook_keep_refused.is_zero()).then_some(options.webhook_keep_refused),
                        failure_policy: FailurePolicy::NoOpinion,
                        conditions: Vec::new(),
                    };
                    chain.push(Authorizer::new("default", webhook(settings, path, metrics)?, metrics));
                }
            }
        } else {
            let known = "Node, RBAC, Webhook, AlwaysAllow and AlwaysDeny";
            problems.push(format!("--authorization-mode: {mode:?} is none of {known}"));
        }
    }
    if options.webhook_config_file.is_some() && !seen.contains("Webhook") {
        problems.push("--authorization-webhook-config-file: needs Webhook in --authorization-mode".to_owned());
    }
    if problems.is_empty() { Ok(chain) } else { Err(AuthorizationError::Flags(problems.join("; "))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\n";

    fn kubeconfig(folder: &Path) -> PathBuf {
        let path = folder.join("kubeconfig");
        let text = "current-context: w\ncontexts: [{name: w, context: {cluster: c}}]\n\
                    clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1/', insecure-skip-tls-verify: true}}]\n";
        std::fs::write(&path, text).expect("a file");
        path
    }

    #[test]
    fn files_are_checked_as_a_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let kubeconfig = kubeconfig(folder.path());
        let check = |text: &str, expected: Result<&[&str], &[&str]>| {
            let text = format!("{HEAD}{}", text.replace("KUBECONFIG", &kubeconfig.display().to_string()));
            let found = read(Path::new("c.yaml"), &text, &Arc::default());
            match (found, expected) {
                (Ok(chain), Ok(names)) => {
                    assert_eq!(chain.iter().map(|one| one.kind.name()).collect::<Vec<_>>(), names, "{text}");
                }
                (Err(error), Err(words)) => {
                    for word in words {
                        assert!(error.to_string().contains(word), "{word:?} in {error}");
                    }
                }
                (found, _) => panic!("{text}: {found:?}"),
            }
        };
        let hook = "subjectAccessReviewVersion: v1, matchConditionSubjectAccessReviewVersion: v1, failurePolicy: Deny, \
                    timeout: 3s, connectionInfo: {type: KubeConfigFile, kubeConfigFile: KUBECONFIG}";
        check("authorizers: [{type: Node, name: node}, {type: RBAC, name: rbac}]\n", Ok(&["Node", "RBAC"]));
        check(
            &format!(
                "authorizers: [{{type: Webhook, name: w.example.com, webhook: {{{hook}, matchConditions: \
                 [{{expression: \"has(request.resourceAttributes)\"}}]}}}}, {{type: RBAC, name: rbac}}]\n"
            ),
            Ok(&["Webhook", "RBAC"]),
        );
        check("authorizers: []\n", Err(&["authorizers: at least one"]));
        check(
            "authorizers: [{type: RBAC, name: rbac}, {type: RBAC, name: rbac}, {type: ABAC, name: A}, {name: other}]\n",
            Err(&[
                "authorizers[1].name: Duplicate value: \"rbac\"",
                "authorizers[1].type: Duplicate value: \"RBAC\"",
                "authorizers[2].type: Unsupported value: \"ABAC\"",
                "authorizers[2].name: Invalid value: \"A\"",
                "authorizers[3].type: Required value",
            ]),
        );
        check("authorizers: [{type: Webhook, name: w}]\n", Err(&["authorizers[0].webhook: Required value"]));
        check(
            &format!("authorizers: [{{type: RBAC, name: rbac, webhook: {{{hook}}}}}]\n"),
            Err(&["authorizers[0].webhook: Invalid value: non-null"]),
        );
        check(
            "authorizers: [{type: Webhook, name: w, webhook: {timeout: 31s, authorizedTTL: soon, failurePolicy: Open, \
             connectionInfo: {type: KubeConfigFile, kubeConfigFile: here}, matchConditions: [{expression: request.user}, \
             {expression: ''}]}}]\n",
            Err(&[
                "authorizers[0].webhook.timeout: Invalid value: \"31s\"",
                "authorizers[0].webhook.authorizedTTL: Invalid value: \"soon\"",
                "authorizers[0].webhook.failurePolicy: Unsupported value: \"Open\"",
                "authorizers[0].webhook.subjectAccessReviewVersion: Required value",
                "authorizers[0].webhook.matchConditionSubjectAccessReviewVersion: Required value",
                "authorizers[0].webhook.connectionInfo.kubeConfigFile: Invalid value: \"here\": must be an absolute path",
                "authorizers[0].webhook.matchConditions[0].expression: Invalid value: \"request.user\": must evaluate to bool",
                "authorizers[0].webhook.matchConditions[1].expression: Required value",
            ]),
        );
        check("authorizers: [{type: RBAC, name: rbac, nmae: x}]\n", Err(&["unknown field `nmae`"]));
    }

    #[test]
    fn flags_make_the_same() {
        let folder = tempfile::tempdir().expect("a folder");
        let kubeconfig = kubeconfig(folder.path());
        let check = |modes: &[&str], file: bool, expected: Result<&[&str], &str>| {
            let options = ModeOptions {
                modes: modes.iter().map(|mode| (*mode).to_owned()).collect(),
                webhook_config_file: file.then(|| kubeconfig.clone()),
                webhook_version: SubjectAccessReviewVersion::V1,
                webhook_keep_allowed: Duration::ZERO,
                webhook_keep_refused: Duration::ZERO,
            };
            match (of_modes(&options, &Arc::default()), expected) {
                (Ok(chain), Ok(kinds)) => {
                    assert_eq!(chain.iter().map(|one| one.kind.name()).collect::<Vec<_>>(), kinds);
                }
                (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
                (found, _) => panic!("{modes:?}: {found:?}"),
            }
        };
        check(&["Node", "RBAC"], false, Ok(&["Node", "RBAC"]));
        check(&["Webhook", "RBAC"], true, Ok(&["Webhook", "RBAC"]));
        check(&["Webhook"], false, Err("needs --authorization-webhook-config-file"));
        check(&["RBAC"], true, Err("needs Webhook in"));
        check(&["RBAC", "RBAC"], false, Err("named twice"));
        check(&["ABAC"], false, Err("is none of"));
        check(&[], false, Err("at least one"));
    }

    #[test]
    fn reloads_keep_what_stood_there_by_itself() {
        let metrics = Arc::default();
        let chain = |text: &str| read(Path::new("c"), &format!("{HEAD}authorizers: {text}\n"), &metrics).expect(text);
        let (both, one) =
            (chain("[{type: Node, name: node}, {type: RBAC, name: rbac}]"), chain("[{type: RBAC, name: only}]"));
        assert!(require_types(Path::new("c"), &one, &both).is_ok());
        let error = require_types(Path::new("c"), &both, &one).expect_err("Node is missing");
        assert!(error.to_string().contains("type Node is required"), "{error}");
    }
}
