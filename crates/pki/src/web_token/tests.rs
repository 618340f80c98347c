//! `vectors.json` was made with OpenSSL: a key set and tokens signed by its keys, whose private parts are thrown away.

use serde_json::json;

use super::*;

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors.json")).expect("JSON")
}

#[test]
fn signatures_of_others() {
    let vectors = vectors();
    let keys = WebKeys::read(&vectors["keys"]).expect("a key set");
    for algorithm in ["RS256", "PS384", "ES384"] {
        let token = vectors["tokens"][algorithm].as_str().expect("a token");
        assert_eq!(untrusted_issuer(token).as_deref(), Some("https://i.example"));
        let parsed = WebToken::parse(token).expect("a token");
        assert_eq!(parsed.algorithm.name(), algorithm);
        assert_eq!(parsed.claims(&keys).expect("a good signature")["sub"], algorithm);
        // Another payload under the same signature.
        let parts: Vec<&str> = token.split('.').collect();
        let forged = URL_SAFE_NO_PAD.encode(r#"{"iss":"https://i.example","sub":"root"}"#);
        let forged = format!("{}.{forged}.{}", parts[0], parts[2]);
        let parsed = WebToken::parse(&forged).expect("a token");
        assert_eq!(parsed.claims(&keys), Err(WebTokenError::Signature));
        assert_eq!(parsed.claims(&WebKeys::default()), Err(WebTokenError::Signature));
    }
}

#[test]
fn keys_are_for_what_they_say() {
    let vectors = vectors();
    let token = vectors["tokens"]["RS256"].as_str().expect("a token");
    let token = WebToken::parse(token).expect("a token");
    let check = |change: &dyn Fn(&mut Value), good: bool| {
        let mut set = vectors["keys"].clone();
        change(&mut set["keys"][0]);
        let keys = WebKeys::read(&set).expect("a key set");
        assert_eq!(token.claims(&keys).is_ok(), good, "{set}");
    };
    check(&|key| key["alg"] = "RS256".into(), true);
    check(&|key| key["alg"] = "PS256".into(), false);
    check(&|key| key["use"] = "enc".into(), false);
    check(&|key| key["kid"] = "other".into(), false);
    check(&|key| key["n"] = "AQAB".into(), false);
    assert!(WebKeys::read(&json!({})).is_none());
    assert!(WebKeys::read(&json!({"keys": [{"kty": "oct"}, 1]})).expect("a key set").is_empty());
}

#[test]
fn what_is_no_token() {
    let check =
        |token: &str, expected: WebTokenError| assert_eq!(WebToken::parse(token).err(), Some(expected), "{token}");
    check("", WebTokenError::Malformed);
    check("a.b", WebTokenError::Malformed);
    check("a.b.c.d", WebTokenError::Malformed);
    check(&"x".repeat(MAXIMUM_LENGTH + 1), WebTokenError::Malformed);
    let of = |header: &str| format!("{}.{}.", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode("{}"));
    check(&of(r#"{"alg":"none"}"#), WebTokenError::Algorithm("none".to_owned()));
    check(&of(r#"{"alg":"HS256"}"#), WebTokenError::Algorithm("HS256".to_owned()));
    assert_eq!(untrusted_issuer("a.b.c"), None);
    assert_eq!(untrusted_issuer(&of("{}")), None);
}
