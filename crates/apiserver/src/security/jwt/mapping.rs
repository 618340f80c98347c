//! From the claims of a verified token to a user: pure.
//!
//! Source: `plugin/pkg/authenticator/token/oidc/oidc.go` and `pkg/authentication/cel` of apiserver, Kubernetes 1.36.

use std::{collections::BTreeMap, sync::LazyLock};

use kobune_expressions::{Environment, Meter, PER_EXPRESSION, Program, Type, Value};
use serde_json::{Value as Json, json};

use crate::security::User;

/// Where the identity of a token shows among a user's facts.
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// What expressions about claims may name.
static CLAIMS: LazyLock<Environment> =
    LazyLock::new(|| Environment::new().variable("claims", Type::map(Type::String, Type::Dyn)));

/// What expressions about the user may name.
static USER: LazyLock<Environment> = LazyLock::new(|| {
    let texts = || Type::list(Type::String);
    let user = Type::object(
        "kubernetes.UserInfo",
        [
            ("username", Type::String),
            ("uid", Type::String),
            ("groups", texts()),
            ("extra", Type::map(Type::String, texts())),
        ],
    );
    Environment::new().variable("user", user)
});

/// A compiled expression with its source.
#[derive(Debug)]
pub(super) struct Expression {
    source: String,
    program: Program,
}

impl Expression {
    /// An expression over `claims` that gives anything.
    pub(super) fn of_claims(source: &str) -> Result<Self, String> {
        Self::compile(source, &CLAIMS)
    }

    /// An expression over `claims` that says whether something holds.
    pub(super) fn about_claims(source: &str) -> Result<Self, String> {
        Self::compile(source, &CLAIMS)?.must_judge()
    }

    /// An expression over `user` that says whether something holds.
    pub(super) fn about_user(source: &str) -> Result<Self, String> {
        Self::compile(source, &USER)?.must_judge()
    }

    fn compile(source: &str, environment: &Environment) -> Result<Self, String> {
        let program = Program::compile(source, environment).map_err(|error| format!("compilation failed: {error}"))?;
        Ok(Self { source: source.to_owned(), program })
    }

    fn must_judge(self) -> Result<Self, String> {
        match self.program.result().is_exactly(&Type::Bool) {
            true => Ok(self),
            false => Err("must evaluate to bool".to_owned()),
        }
    }

    /// Whether the expression looks at a claim by its name.
    pub(super) fn uses_claim(&self, claim: &str) -> bool {
        self.program.selects("claims", claim)
    }

    fn evaluate(&self, over: &Json) -> Result<Json, String> {
        let mut meter = Meter::new(PER_EXPRESSION);
        let value = self.program.evaluate(&[Value::untyped(over)], &mut meter);
        let value = value.and_then(|value| value.to_json());
        value.map_err(|error| format!("expression '{}' resulted in error: {error}", self.source))
    }

    fn text(&self, claims: &Json, what: &str) -> Result<String, String> {
        let failed = |problem: &str| format!("error evaluating {what} claim expression: {problem}");
        match self.evaluate(claims).map_err(|error| failed(&error))? {
            Json::String(text) => Ok(text),
            _ => Err(failed(&format!("{what} claim expression must return a string"))),
        }
    }

    fn texts(&self, claims: &Json, what: &str) -> Result<Vec<String>, String> {
        let failed = |problem: &str| format!("error evaluating {what} claim expression: {problem}");
        texts(&self.evaluate(claims).map_err(|error| failed(&error))?)
            .ok_or_else(|| failed("expression must return a string or a list of strings"))
    }
}

/// One text or several; null is none, and empty ones do not count.
fn texts(value: &Json) -> Option<Vec<String>> {
    let mut found = match value {
        Json::Null => Vec::new(),
        Json::String(text) => vec![text.clone()],
        Json::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<_>>()?,
        _ => return None,
    };
    found.retain(|text| !text.is_empty());
    Some(found)
}

/// A claim that must be true, with the words for when it is not.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) expression: Expression,
    pub(super) message: String,
}

impl Rule {
    fn check(&self, over: &Json) -> Result<(), String> {
        match self.expression.evaluate(over)? {
            Json::Bool(true) => Ok(()),
            _ if self.message.is_empty() => Err(format!("validation expression '{}' failed", self.expression.source)),
            _ => Err(format!("validation expression '{}' failed: {}", self.expression.source, self.message)),
        }
    }
}

/// Where a part of the user comes from.
#[derive(Debug)]
pub(super) enum Source {
    /// A claim, behind a prefix.
    Claim { name: String, prefix: String },
    /// An expression over all claims.
    Expression(Expression),
    /// Nowhere.
    Nothing,
}

/// How claims become a user.
#[derive(Debug)]
pub(super) struct Mapping {
    pub(super) username: Source,
    pub(super) groups: Source,
    pub(super) uid: Source,
    pub(super) extra: Vec<(String, Expression)>,
    /// Claims that must have exactly this text.
    pub(super) required: BTreeMap<String, String>,
    pub(super) rules: Vec<Rule>,
    pub(super) user_rules: Vec<Rule>,
}

/// A claim that is a text.
fn claim<'c>(claims: &'c Json, name: &str) -> Result<&'c str, String> {
    match claims.get(name) {
        None => Err("claim not present".to_owned()),
        Some(Json::String(text)) => Ok(text),
        Some(_) => Err("claim is not a string".to_owned()),
    }
}

impl Mapping {
    /// The user that a token's claims make, or why they make none.
    pub(super) fn user(&self, claims: &Json) -> Result<User, String> {
        let mut user = User { name: self.username(claims)?, ..User::default() };
        user.groups = self.groups(claims)?;
        user.uid = match &self.uid {
            Source::Nothing => String::new(),
            Source::Claim { name, .. } => {
                claim(claims, name).map_err(|problem| format!("parse uid claim {name:?}: {problem}"))?.to_owned()
            }
            Source::Expression(expression) => expression.text(claims, "uid")?,
        };
        if let Ok(id) = claim(claims, "jti") {
            user.extra.insert(CREDENTIAL_ID.to_owned(), vec![format!("JTI={id}")]);
        }
        for (key, expression) in &self.extra {
            let values = expression.texts(claims, "extra")?;
            if !values.is_empty() {
                user.extra.insert(key.clone(), values);
            }
        }
        for (name, wanted) in &self.required {
            if claims.get(name).is_none() {
                return Err(format!("required claim {name} not present in ID token"));
            }
            let found = claim(claims, name).map_err(|problem| format!("parse claim {name}: {problem}"))?;
            if found != wanted {
                return Err(format!("required claim {name} value does not match. Got = {found}, want = {wanted}"));
            }
        }
        for rule in &self.rules {
            rule.check(claims).map_err(|error| format!("error evaluating claim validation expression: {error}"))?;
        }
        if !self.user_rules.is_empty() {
            let shown = json!({"username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra});
            for rule in &self.user_rules {
                rule.check(&shown).map_err(|error| format!("error evaluating user info validation rule: {error}"))?;
            }
        }
        Ok(user)
    }

    fn username(&self, claims: &Json) -> Result<String, String> {
        let (name, prefix) = match &self.username {
            Source::Expression(expression) => {
                let name = expression.text(claims, "username")?;
                if name.is_empty() {
                    return Err("empty username via CEL expression is not allowed".to_owned());
                }
                return Ok(name);
            }
            Source::Claim { name, prefix } => (name, prefix),
            Source::Nothing => return Err("nothing names the user".to_owned()),
        };
        let found = claim(claims, name).map_err(|problem| format!("parse username claims {name:?}: {problem}"))?;
        // An address that its provider has not verified names nobody.
        if name == "email" {
            match claims.get("email_verified") {
                None | Some(Json::Bool(true)) => {}
                Some(Json::Bool(false)) => return Err("email not verified".to_owned()),
                Some(_) => return Err("parse 'email_verified' claim: it is not a boolean".to_owned()),
            }
        }
        Ok(format!("{prefix}{found}"))
    }

    fn groups(&self, claims: &Json) -> Result<Vec<String>, String> {
        match &self.groups {
            Source::Nothing => Ok(Vec::new()),
            Source::Expression(expression) => expression.texts(claims, "group"),
            Source::Claim { name, prefix } => match claims.get(name) {
                None => Ok(Vec::new()),
                Some(Json::String(group)) => Ok(vec![format!("{prefix}{group}")]),
                Some(Json::Array(groups)) => groups
                    .iter()
                    .map(|group| group.as_str().map(|group| format!("{prefix}{group}")))
                    .collect::<Option<_>>()
                    .ok_or_else(|| format!("parse groups claim {name:?}: it is no list of strings")),
                Some(_) => Err(format!("parse groups claim {name:?}: it is neither a string nor a list")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Mapping {
        Mapping {
            username: Source::Claim { name: "sub".into(), prefix: "oidc:".into() },
            groups: Source::Claim { name: "roles".into(), prefix: "g:".into() },
            uid: Source::Nothing,
            extra: Vec::new(),
            required: BTreeMap::new(),
            rules: Vec::new(),
            user_rules: Vec::new(),
        }
    }

    fn expression(source: &str) -> Expression {
        Expression::of_claims(source).expect("it compiles")
    }

    #[test]
    fn claims_make_users() {
        let mapping = plain();
        let check = |claims: Json, expected: Result<(&str, &[&str]), &str>| {
            let found = mapping.user(&claims);
            match (&found, expected) {
                (Ok(user), Ok((name, groups))) => {
                    assert_eq!(
                        (user.name.as_str(), user.groups.as_slice()),
                        (name, &groups.iter().map(|group| (*group).to_owned()).collect::<Vec<_>>()[..])
                    );
                }
                (Err(problem), Err(expected)) => assert_eq!(problem, expected),
                _ => panic!("{claims}: {found:?}"),
            }
        };
        check(json!({"sub": "jane", "roles": ["a", "b"]}), Ok(("oidc:jane", &["g:a", "g:b"])));
        check(json!({"sub": "jane", "roles": "a"}), Ok(("oidc:jane", &["g:a"])));
        check(json!({"sub": "jane"}), Ok(("oidc:jane", &[])));
        check(json!({"sub": 1}), Err(r#"parse username claims "sub": claim is not a string"#));
        check(json!({}), Err(r#"parse username claims "sub": claim not present"#));
        check(json!({"sub": "a", "roles": [1]}), Err(r#"parse groups claim "roles": it is no list of strings"#));
    }

    #[test]
    fn addresses_must_be_verified() {
        let mapping = Mapping { username: Source::Claim { name: "email".into(), prefix: String::new() }, ..plain() };
        let check = |verified: Json, good: bool| {
            let mut claims = json!({"email": "a@b"});
            if !verified.is_null() {
                claims["email_verified"] = verified;
            }
            assert_eq!(mapping.user(&claims).is_ok(), good, "{claims}");
        };
        check(Json::Null, true);
        check(true.into(), true);
        check(false.into(), false);
        check("true".into(), false);
    }

    #[test]
    fn expressions_make_users() {
        let mapping = Mapping {
            username: Source::Expression(expression("claims.sub + ':x'")),
            groups: Source::Expression(expression("claims.roles.split(',')")),
            uid: Source::Expression(expression("claims.?id.orValue('')")),
            extra: vec![
                ("example.com/tenant".into(), expression("claims.tenant")),
                ("example.com/none".into(), expression("claims.?none.orValue('')")),
            ],
            ..plain()
        };
        let user = mapping
            .user(&json!({"sub": "jane", "roles": "a,b", "id": "7", "tenant": "t", "jti": "j"}))
            .expect("a user");
        assert_eq!(
            (user.name.as_str(), user.uid.as_str(), user.groups),
            ("jane:x", "7", vec!["a".to_owned(), "b".to_owned()])
        );
        let extra: Vec<(&str, &str)> =
            user.extra.iter().map(|(key, values)| (key.as_str(), values[0].as_str())).collect();
        assert_eq!(extra, [(CREDENTIAL_ID, "JTI=j"), ("example.com/tenant", "t")]);
        let failure = mapping.user(&json!({"sub": "jane", "roles": "a"})).expect_err("no tenant");
        assert!(failure.contains("no such key: tenant"), "{failure}");
        let mapping = Mapping { username: Source::Expression(expression("''")), ..plain() };
        assert_eq!(mapping.user(&json!({})).expect_err("no name"), "empty username via CEL expression is not allowed");
        let mapping = Mapping { groups: Source::Expression(expression("1")), ..plain() };
        let failure = mapping.user(&json!({"sub": "a"})).expect_err("no groups");
        assert_eq!(
            failure,
            "error evaluating group claim expression: expression must return a string or a list of strings"
        );
    }

    #[test]
    fn rules_refuse() {
        let rule = |expression: Result<Expression, String>, message: &str| Rule {
            expression: expression.expect("it compiles"),
            message: message.to_owned(),
        };
        let mapping = Mapping {
            required: BTreeMap::from([("hd".to_owned(), "example.com".to_owned())]),
            rules: vec![rule(Expression::about_claims("claims.exp - claims.iat <= 3600"), "too long")],
            user_rules: vec![rule(Expression::about_user("!user.username.startsWith('oidc:system:')"), "")],
            ..plain()
        };
        let check = |claims: Json, expected: &str| assert_eq!(mapping.user(&claims).expect_err("a refusal"), expected);
        let good = json!({"sub": "jane", "hd": "example.com", "exp": 3600, "iat": 0});
        assert_eq!(mapping.user(&good).expect("a user").name, "oidc:jane");
        let with = |field: &str, value: Json| {
            let mut claims = good.clone();
            claims[field] = value;
            claims
        };
        check(with("hd", "other".into()), "required claim hd value does not match. Got = other, want = example.com");
        check(json!({"sub": "a"}), "required claim hd not present in ID token");
        check(
            with("exp", 9999.into()),
            "error evaluating claim validation expression: validation expression 'claims.exp - claims.iat <= 3600' failed: too long",
        );
        check(
            with("sub", "system:admin".into()),
            "error evaluating user info validation rule: validation expression '!user.username.startsWith('oidc:system:')' failed",
        );
        assert_eq!(Expression::about_claims("claims.sub").expect_err("no judgement"), "must evaluate to bool");
        assert!(expression("claims.?email.orValue('')").uses_claim("email"));
        assert!(expression("has(claims.email) ? 'a' : 'b'").uses_claim("email"));
        assert!(!expression("claims.mail").uses_claim("email"));
    }
}
