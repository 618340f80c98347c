//! `AuthenticationConfiguration`, upstream's file, and the older `--oidc-*` flags, which say less of the same.
//!
//! Source: `pkg/apis/apiserver/v1/types.go` and `pkg/apis/apiserver/validation` of apiserver, Kubernetes 1.36.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use http::Uri;
use kobune_pki::Algorithm;
use serde::Deserialize;

use super::{
    Authentication, Authenticator,
    issuer::Issuer,
    mapping::{Expression, Mapping, Rule, Source},
};
use crate::{
    config_file::{self, ConfigError, Problems},
    outgoing::trust::Trust,
};

/// The versions of the file's kind, whose fields are the same.
const API_VERSIONS: [&str; 3] =
    ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1", "apiserver.config.k8s.io/v1alpha1"];

/// How many issuers there may be.
const MOST_ISSUERS: usize = 64;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct File {
    jwt: Vec<JwtPart>,
    anonymous: Option<AnonymousPart>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct AnonymousPart {
    enabled: bool,
    conditions: Vec<ConditionPart>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct ConditionPart {
    path: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct JwtPart {
    issuer: IssuerPart,
    claim_validation_rules: Vec<ClaimRulePart>,
    claim_mappings: MappingsPart,
    user_validation_rules: Vec<UserRulePart>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct IssuerPart {
    url: String,
    #[serde(rename = "discoveryURL")]
    discovery_url: String,
    certificate_authority: String,
    audiences: Vec<String>,
    audience_match_policy: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct ClaimRulePart {
    claim: String,
    required_value: String,
    expression: String,
    message: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct UserRulePart {
    expression: String,
    message: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct MappingsPart {
    username: SourcePart,
    groups: SourcePart,
    uid: SourcePart,
    extra: Vec<ExtraPart>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct SourcePart {
    claim: String,
    prefix: Option<String>,
    expression: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct ExtraPart {
    key: String,
    value_expression: String,
}

/// One issuer as the `--oidc-*` flags of kube-apiserver describe it.
#[derive(Clone, Debug)]
pub struct OidcOptions {
    /// `--oidc-issuer-url`.
    pub issuer_url: String,
    /// `--oidc-client-id`: the audience of its tokens.
    pub client_id: String,
    /// What stands in `--oidc-ca-file`; the machine's authorities otherwise.
    pub certificate_authority: Option<String>,
    /// `--oidc-username-claim`.
    pub username_claim: String,
    /// `--oidc-username-prefix`: `-` for none; without it the issuer and `#`, except before addresses.
    pub username_prefix: Option<String>,
    /// `--oidc-groups-claim`.
    pub groups_claim: Option<String>,
    /// `--oidc-groups-prefix`.
    pub groups_prefix: Option<String>,
    /// `--oidc-required-claim`: claims and the texts that they must have.
    pub required_claims: Vec<(String, String)>,
    /// `--oidc-signing-algs`; RS256 when there are none.
    pub signing_algs: Vec<String>,
}

/// Why the flags describe no issuer.
#[derive(Debug, thiserror::Error)]
#[error("{}", problems.join("; "))]
pub struct OidcError {
    /// Everything that is wrong, each with its field.
    problems: Vec<String>,
}

impl Authentication {
    /// Reads the file. `own` is the issuer of this server's own tokens, which nobody else may be.
    pub fn load(path: &Path, own: &str) -> Result<Arc<Self>, ConfigError> {
        let file: File = config_file::read(path, "AuthenticationConfiguration", &API_VERSIONS)?;
        let mut problems = Problems::default();
        let authentication = build(file, own, &Algorithm::ALL, &mut problems);
        problems.into_result(path, Arc::new(authentication))
    }

    /// One issuer, by flags.
    pub fn of_flags(options: &OidcOptions, own: &str) -> Result<Arc<Self>, OidcError> {
        let mut problems = Problems::default();
        let names =
            if options.signing_algs.is_empty() { vec!["RS256".to_owned()] } else { options.signing_algs.clone() };
        let mut algorithms = Vec::new();
        for name in &names {
            match Algorithm::named(name) {
                Some(algorithm) => algorithms.push(algorithm),
                None => problems.add("oidc-signing-algs", format_args!("unsupported signing alg: {name:?}")),
            }
        }
        let username_prefix = match options.username_prefix.as_deref() {
            None if options.username_claim == "email" => String::new(),
            None => format!("{}#", options.issuer_url),
            Some("-") => String::new(),
            Some(prefix) => prefix.to_owned(),
        };
        let required = options.required_claims.iter().map(|(claim, value)| ClaimRulePart {
            claim: claim.clone(),
            required_value: value.clone(),
            ..ClaimRulePart::default()
        });
        let groups = options.groups_claim.as_ref().map_or_else(SourcePart::default, |claim| SourcePart {
            claim: claim.clone(),
            prefix: Some(options.groups_prefix.clone().unwrap_or_default()),
            expression: String::new(),
        });
        let username = SourcePart {
            claim: options.username_claim.clone(),
            prefix: Some(username_prefix),
            expression: String::new(),
        };
        let jwt = JwtPart {
            issuer: IssuerPart {
                url: options.issuer_url.clone(),
                certificate_authority: options.certificate_authority.clone().unwrap_or_default(),
                audiences: vec![options.client_id.clone()],
                ..IssuerPart::default()
            },
            claim_validation_rules: required.collect(),
            claim_mappings: MappingsPart { username, groups, ..MappingsPart::default() },
            user_validation_rules: Vec::new(),
        };
        let file = File { jwt: vec![jwt], anonymous: None };
        let authentication = build(file, own, &algorithms, &mut problems);
        problems.into_list().map_or_else(|| Ok(Arc::new(authentication)), |problems| Err(OidcError { problems }))
    }
}

fn build(file: File, own: &str, algorithms: &[Algorithm], problems: &mut Problems) -> Authentication {
    if file.jwt.len() > MOST_ISSUERS {
        problems.add("jwt", format_args!("Too many: {}: must have at most {MOST_ISSUERS} items", file.jwt.len()));
    }
    let mut seen = BTreeSet::new();
    let mut authenticators = Vec::new();
    for (index, part) in file.jwt.into_iter().enumerate() {
        let path = format!("jwt[{index}]");
        for (field, url) in [("url", &part.issuer.url), ("discoveryURL", &part.issuer.discovery_url)] {
            if !url.is_empty() && !seen.insert((field, url.clone())) {
                problems.add(format_args!("{path}.issuer.{field}"), format_args!("Duplicate value: {url:?}"));
            }
        }
        let issuer = issuer(&part.issuer, own, algorithms, &format!("{path}.issuer"), problems);
        let mapping = mapping(part, &path, problems);
        authenticators.push(Authenticator { issuer, mapping });
    }
    let anonymous = file.anonymous.map(|part| {
        if !part.enabled && !part.conditions.is_empty() {
            problems.add("anonymous.conditions", "enabled should be set to true when conditions are defined");
        }
        (part.enabled, part.conditions.into_iter().map(|condition| condition.path).collect())
    });
    Authentication { authenticators, anonymous }
}

fn check_url(url: &str, field: &str, problems: &mut Problems) {
    let Ok(parsed) = url.parse::<Uri>() else {
        problems.add(field, format_args!("Invalid value: {url:?}: it is no URL"));
        return;
    };
    let mut wrong = |words: &str| problems.add(field, format_args!("Invalid value: {url:?}: {words}"));
    if parsed.scheme_str() != Some("https") || parsed.host().is_none() {
        wrong("URL scheme must be https");
    }
    if parsed.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        wrong("URL must not contain a username or password");
    }
    if url.contains('?') {
        wrong("URL must not contain a query");
    }
    if url.contains('#') {
        wrong("URL must not contain a fragment");
    }
}

fn issuer(part: &IssuerPart, own: &str, algorithms: &[Algorithm], path: &str, problems: &mut Problems) -> Issuer {
    let at = |field: &str| format!("{path}.{field}");
    if part.url.is_empty() {
        problems.add(at("url"), "Required value");
    } else {
        if part.url == own {
            let words = format!("Invalid value: {own:?}: URL must not overlap with disallowed issuers: [{own}]");
            problems.add(at("url"), words);
        }
        check_url(&part.url, &at("url"), problems);
    }
    if !part.discovery_url.is_empty() {
        if part.discovery_url.trim_end_matches('/') == part.url.trim_end_matches('/') {
            problems.add(at("discoveryURL"), "discoveryURL must be different from URL");
        }
        check_url(&part.discovery_url, &at("discoveryURL"), problems);
    }
    if part.audiences.is_empty() {
        problems.add(at("audiences"), format_args!("Required value: at least one {path}.audiences is required"));
    }
    for (index, audience) in part.audiences.iter().enumerate() {
        let field = format!("{}[{index}]", at("audiences"));
        if audience.is_empty() {
            problems.add(&field, "Required value");
        } else if part.audiences[..index].contains(audience) {
            problems.add(&field, format_args!("Duplicate value: {audience:?}"));
        }
    }
    match (part.audience_match_policy.as_str(), part.audiences.len()) {
        ("MatchAny", _) | ("", 0 | 1) => {}
        (_, 0 | 1) => {
            problems
                .add(at("audienceMatchPolicy"), "audienceMatchPolicy must be empty or MatchAny for single audience");
        }
        _ => problems.add(at("audienceMatchPolicy"), "audienceMatchPolicy must be MatchAny for multiple audiences"),
    }
    let trust = match part.certificate_authority.as_str() {
        "" => Trust::System,
        pem => {
            let trust = Trust::Bundle(pem.into());
            if let Err(error) = trust.client(None) {
                problems.add(at("certificateAuthority"), format_args!("Invalid value: \"<omitted>\": {error}"));
            }
            trust
        }
    };
    let discovery = (!part.discovery_url.is_empty()).then(|| part.discovery_url.clone());
    Issuer::new(part.url.clone(), discovery, trust, part.audiences.clone(), algorithms.to_vec())
}

/// Where a part of the user comes from. `prefixed` says whether a claim must say what stands before it.
fn source(part: SourcePart, path: &str, required: bool, prefixed: bool, problems: &mut Problems) -> Source {
    match (part.claim.is_empty(), part.expression.is_empty()) {
        (true, true) => {
            if required {
                problems.add(path, "Required value: claim or expression is required");
            }
            Source::Nothing
        }
        (false, false) => {
            problems.add(path, "Invalid value: \"\": claim and expression can't both be set");
            Source::Nothing
        }
        (false, true) => {
            if prefixed && part.prefix.is_none() {
                let words = "Required value: prefix is required when claim is set. It can be set to an empty string to \
                             disable prefixing";
                problems.add(format_args!("{path}.prefix"), words);
            }
            Source::Claim { name: part.claim, prefix: part.prefix.unwrap_or_default() }
        }
        (true, false) => {
            if let Some(prefix) = part.prefix {
                let words = format!("Invalid value: {prefix:?}: may not be specified when expression is set");
                problems.add(format_args!("{path}.prefix"), words);
            }
            compiled(Expression::of_claims(&part.expression), &format!("{path}.expression"), &part.expression, problems)
                .map_or(Source::Nothing, Source::Expression)
        }
    }
}

fn compiled(
    outcome: Result<Expression, String>,
    field: &str,
    source: &str,
    problems: &mut Problems,
) -> Option<Expression> {
    outcome.map_err(|problem| problems.add(field, format_args!("Invalid value: {source:?}: {problem}"))).ok()
}

fn mapping(part: JwtPart, path: &str, problems: &mut Problems) -> Mapping {
    let mut required = BTreeMap::new();
    let mut rules = Vec::new();
    let mut seen = BTreeSet::new();
    for (index, rule) in part.claim_validation_rules.into_iter().enumerate() {
        let path = format!("{path}.claimValidationRules[{index}]");
        match (rule.claim.is_empty(), rule.expression.is_empty()) {
            (true, true) => problems.add(&path, "Required value: claim or expression is required"),
            (false, false) => {
                problems.add(
                    &path,
                    format_args!("Invalid value: {:?}: claim and expression can't both be set", rule.claim),
                );
            }
            (false, true) => {
                if !rule.message.is_empty() {
                    problems.add(format_args!("{path}.message"), "may not be specified when claim is set");
                }
                if required.insert(rule.claim.clone(), rule.required_value).is_some() {
                    problems.add(format_args!("{path}.claim"), format_args!("Duplicate value: {:?}", rule.claim));
                }
            }
            (true, false) => {
                if !rule.required_value.is_empty() {
                    problems.add(format_args!("{path}.requiredValue"), "may not be specified when expression is set");
                }
                let field = format!("{path}.expression");
                if !seen.insert(rule.expression.clone()) {
                    problems.add(&field, format_args!("Duplicate value: {:?}", rule.expression));
                    continue;
                }
                let outcome = Expression::about_claims(&rule.expression);
                let expression = compiled(outcome, &field, &rule.expression, problems);
                rules.extend(expression.map(|expression| Rule { expression, message: rule.message }));
            }
        }
    }
    let mappings = part.claim_mappings;
    let at = |field: &str| format!("{path}.claimMappings.{field}");
    let username = source(mappings.username, &at("username"), true, true, problems);
    let groups = source(mappings.groups, &at("groups"), false, true, problems);
    let uid = source(mappings.uid, &at("uid"), false, false, problems);
    let mut extra: Vec<(String, Expression)> = Vec::new();
    for (index, part) in mappings.extra.into_iter().enumerate() {
        let path = at(&format!("extra[{index}]"));
        check_extra_key(&part.key, &format!("{path}.key"), problems);
        if extra.iter().any(|(known, _)| *known == part.key) {
            problems.add(format_args!("{path}.key"), format_args!("Duplicate value: {:?}", part.key));
            continue;
        }
        let field = format!("{path}.valueExpression");
        if part.value_expression.is_empty() {
            problems.add(&field, "Required value");
            continue;
        }
        let outcome = Expression::of_claims(&part.value_expression);
        let expression = compiled(outcome, &field, &part.value_expression, problems);
        extra.extend(expression.map(|expression| (part.key, expression)));
    }
    if let Source::Expression(expression) = &username
        && expression.uses_claim("email")
    {
        let rules = rules.iter().map(|rule| &rule.expression);
        let all = rules.chain(extra.iter().map(|(_, expression)| expression)).chain([expression]);
        if !all.into_iter().any(|expression| expression.uses_claim("email_verified")) {
            let words = "claims.email_verified must be used in claimMappings.username.expression or \
                         claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email \
                         is used in claimMappings.username.expression";
            problems.add(at("username.expression"), words);
        }
    }
    let mut user_rules = Vec::new();
    let mut seen = BTreeSet::new();
    for (index, rule) in part.user_validation_rules.into_iter().enumerate() {
        let field = format!("{path}.userValidationRules[{index}].expression");
        if rule.expression.is_empty() {
            problems.add(&field, "Required value");
        } else if !seen.insert(rule.expression.clone()) {
            problems.add(&field, format_args!("Duplicate value: {:?}", rule.expression));
        } else {
            let expression = compiled(Expression::about_user(&rule.expression), &field, &rule.expression, problems);
            user_rules.extend(expression.map(|expression| Rule { expression, message: rule.message }));
        }
    }
    Mapping { username, groups, uid, extra, required, rules, user_rules }
}

/// A key of more facts: a domain of its owner, a slash, and a name.
fn check_extra_key(key: &str, field: &str, problems: &mut Problems) {
    let mut wrong = |words: &str| problems.add(field, format_args!("Invalid value: {key:?}: {words}"));
    match key.split_once('/') {
        None => wrong("must be a domain-prefixed path (such as \"acme.io/foo\")"),
        Some((domain, name)) => {
            if !kobune_kinds::name::dns1123_subdomain(domain).is_empty() || name.is_empty() {
                wrong("must be a domain-prefixed path (such as \"acme.io/foo\")");
            }
            let of = |reserved: &str| domain == reserved || domain.ends_with(&format!(".{reserved}"));
            if of("k8s.io") || of("kubernetes.io") {
                wrong("k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use");
            }
        }
    }
    if key.chars().any(char::is_uppercase) {
        wrong("must be lowercase");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Arc<Authentication>, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("authentication.yaml");
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n";
        std::fs::write(&path, format!("{head}{text}")).expect("a file");
        Authentication::load(&path, "https://own.example").map_err(|error| error.to_string())
    }

    #[test]
    fn files_describe_issuers() {
        let found = load(
            "jwt:\n- issuer: {url: 'https://a.example', audiences: [x, z], audienceMatchPolicy: MatchAny}\n  \
             claimMappings: {username: {claim: sub, prefix: ''}, groups: {expression: claims.roles}}\n\
             anonymous: {enabled: true, conditions: [{path: /livez}]}\n",
        )
        .expect("a configuration");
        assert_eq!(found.authenticators.len(), 1);
        assert_eq!(found.authenticators[0].issuer.audiences, ["x", "z"]);
        assert_eq!(found.anonymous, Some((true, vec!["/livez".to_owned()])));
        assert!(load("").expect("nothing is a configuration too").authenticators.is_empty());
    }

    #[test]
    fn all_mistakes_are_named() {
        let check = |text: &str, expected: &[&str]| {
            let problem = load(text).expect_err("mistakes");
            for expected in expected {
                assert!(problem.contains(expected), "{expected} is not in {problem}");
            }
        };
        check("jwt: [{isuer: {}}]", &["unknown field `isuer`"]);
        check(
            "jwt:\n- {}\n- issuer: {url: 'http://u:p@a/?x#y', discoveryURL: 'https://b', audiences: [x, x, '']}\n  \
             claimMappings: {username: {claim: a, expression: b}, groups: {claim: g}, extra: [{key: Foo, valueExpression: \
             '1 +'}, {key: a.k8s.io/x}]}\n  claimValidationRules: [{}, {expression: claims.a}, {claim: a, message: m}]\n  \
             userValidationRules: [{expression: user.nme == 'a'}]\n- issuer: {url: 'https://own.example', audiences: [a]}\n  \
             claimMappings: {username: {expression: claims.email}}\n",
            &[
                "jwt[0].issuer.url: Required value",
                "jwt[0].issuer.audiences: Required value",
                "jwt[0].claimMappings.username: Required value: claim or expression is required",
                "jwt[1].issuer.url: Invalid value: \"http://u:p@a/?x#y\": URL scheme must be https",
                "URL must not contain a username or password",
                "URL must not contain a query",
                "URL must not contain a fragment",
                "jwt[1].issuer.audiences[1]: Duplicate value: \"x\"",
                "jwt[1].issuer.audiences[2]: Required value",
                "audienceMatchPolicy must be MatchAny for multiple audiences",
                "jwt[1].claimMappings.username: Invalid value: \"\": claim and expression can't both be set",
                "jwt[1].claimMappings.groups.prefix: Required value",
                "jwt[1].claimMappings.extra[0].key: Invalid value: \"Foo\"",
                "must be lowercase",
                "jwt[1].claimMappings.extra[0].valueExpression: Invalid value: \"1 +\": compilation failed",
                "k8s.io, kubernetes.io and their subdomains are reserved",
                "jwt[1].claimMappings.extra[1].valueExpression: Required value",
                "jwt[1].claimValidationRules[0]: Required value",
                "jwt[1].claimValidationRules[1].expression: Invalid value: \"claims.a\": must evaluate to bool",
                "jwt[1].claimValidationRules[2].message: may not be specified when claim is set",
                "jwt[1].userValidationRules[0].expression: Invalid value",
                "jwt[2].issuer.url: Invalid value: \"https://own.example\": URL must not overlap",
                "claims.email_verified must be used",
            ],
        );
        check("anonymous: {enabled: false, conditions: [{path: /x}]}", &["enabled should be set to true"]);
    }

    #[test]
    fn flags_describe_one_issuer() {
        let options = OidcOptions {
            issuer_url: "https://a.example".to_owned(),
            client_id: "x".to_owned(),
            certificate_authority: None,
            username_claim: "sub".to_owned(),
            username_prefix: None,
            groups_claim: Some("groups".to_owned()),
            groups_prefix: None,
            required_claims: vec![("hd".to_owned(), "example.com".to_owned())],
            signing_algs: Vec::new(),
        };
        let name = |options: &OidcOptions| {
            let found = Authentication::of_flags(options, "https://own.example").expect("an issuer");
            let claims = serde_json::json!({"sub": "jane", "email": "j@x", "hd": "example.com", "groups": ["g"]});
            let user = found.authenticators[0].mapping.user(&claims).expect("a user");
            assert_eq!(user.groups, ["g"]);
            assert_eq!(found.authenticators[0].issuer.algorithms, [Algorithm::Rs256]);
            user.name
        };
        assert_eq!(name(&options), "https://a.example#jane");
        let with = |prefix: &str| OidcOptions { username_prefix: Some(prefix.to_owned()), ..options.clone() };
        assert_eq!(name(&with("-")), "jane");
        assert_eq!(name(&with("p:")), "p:jane");
        assert_eq!(name(&OidcOptions { username_claim: "email".to_owned(), ..options.clone() }), "j@x");
        let wrong = OidcOptions { signing_algs: vec!["HS256".to_owned()], client_id: String::new(), ..options };
        let problem = Authentication::of_flags(&wrong, "https://own.example").expect_err("mistakes").to_string();
        assert!(problem.contains("unsupported signing alg: \"HS256\""), "{problem}");
        assert!(problem.contains("audiences[0]: Required value"), "{problem}");
    }
}
