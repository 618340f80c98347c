//! Encryption at rest by upstream's `EncryptionConfiguration`: which resources, with which ciphers and keys, or by which key
//! management services.
//!
//! Only the bytes on disk are encrypted. The first provider of a resource writes; all of them read, so keys rotate by
//! putting the new one first. What another key or provider wrote is written anew at the next start, without anybody
//! having to touch every object.

mod config;
mod kms;
mod kms_link;
mod provider;

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use kobune_store::{Key, Opened, SEALED_PREFIX, Seal, SealError};
use rand::RngCore as _;

use crate::config_file::ConfigError;
use provider::Provider;

/// What encrypts objects on disk.
#[derive(Debug)]
pub struct Encryption {
    /// In the order of the file: the first one that names a resource decides.
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    /// `secrets`, `deployments.apps`, `*.apps`, `*.` (the core group) or `*.*`.
    resources: Vec<String>,
    providers: Vec<Provider>,
}

impl Encryption {
    /// Reads upstream's configuration file.
    pub fn load(path: &Path) -> Result<Arc<Encryption>, ConfigError> {
        Ok(Arc::new(Encryption { rules: config::load(path)? }))
    }

    /// The text of a configuration that encrypts Secrets with a new random key.
    pub fn new_configuration() -> String {
        let mut key = [0u8; 32];
        rand::rng().fill_bytes(&mut key);
        let secret = base64::engine::general_purpose::STANDARD.encode(key);
        format!(
            "# Without this file the Secrets of this cluster cannot be read. To change the key, add a new one before it,\n\
             # start kobune again (it encrypts everything anew), and remove the old one.\n\
             apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  \
             providers:\n  - secretbox:\n      keys:\n      - name: key1\n        secret: {secret}\n  - identity: {{}}\n"
        )
    }

    /// What is wrong with the key management services that encrypt, if anything is.
    pub(crate) fn check(&self) -> Result<(), String> {
        let providers = self.rules.iter().flat_map(|rule| &rule.providers);
        let found: Vec<String> = providers
            .filter_map(|provider| match provider {
                Provider::Kms(kms) => kms.check().err(),
                _ => None,
            })
            .collect();
        if found.is_empty() { Ok(()) } else { Err(found.join("; ")) }
    }

    /// Whether there are key management services.
    pub(crate) fn asks_others(&self) -> bool {
        let mut providers = self.rules.iter().flat_map(|rule| &rule.providers);
        providers.any(|provider| matches!(provider, Provider::Kms(_)))
    }

    fn rule(&self, key: &Key) -> Option<&Rule> {
        let (group, plural) = key.collection.split_once('/').unwrap_or(("core", &key.collection));
        let group = if group == "core" { "" } else { group };
        self.rules.iter().find(|rule| rule.resources.iter().any(|pattern| names(pattern, group, plural)))
    }
}

/// Whether a pattern of the configuration names a resource.
fn names(pattern: &str, group: &str, plural: &str) -> bool {
    match pattern.split_once('.') {
        None => group.is_empty() && pattern == plural,
        Some(("*", "*")) => true,
        Some(("*", wanted)) => wanted == group,
        Some((resource, wanted)) => resource == plural && wanted == group,
    }
}

/// What binds a sealed value to its place, so that nobody can put one object's value under another's name.
fn context(key: &Key) -> String {
    format!("/registry/{}/{}/{}", key.collection, key.namespace, key.name)
}

impl Seal for Encryption {
    fn seal<'v>(&self, key: &Key, value: &'v [u8]) -> Result<Cow<'v, [u8]>, SealError> {
        match self.rule(key).and_then(|rule| rule.providers.first()) {
            Some(provider) => provider.seal(&context(key), value),
            None => Ok(Cow::Borrowed(value)),
        }
    }

    fn open<'v>(&self, key: &Key, stored: &'v [u8]) -> Result<Opened<'v>, SealError> {
        let plain = !stored.starts_with(SEALED_PREFIX);
        let Some(rule) = self.rule(key) else {
            if plain {
                return Ok(Opened { value: Cow::Borrowed(stored), stale: false });
            }
            return Err(SealError { problem: "it is encrypted, and the configuration does not name it".to_owned() });
        };
        for (place, provider) in rule.providers.iter().enumerate() {
            if let Some(opened) = provider.open(&context(key), stored)? {
                return Ok(Opened { value: opened.value, stale: opened.stale || place > 0 });
            }
        }
        if plain {
            // A resource that is named for the first time: what is there was written before.
            return Ok(Opened { value: Cow::Borrowed(stored), stale: true });
        }
        Err(SealError { problem: "no provider of the configuration has its key".to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Arc<Encryption>, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("encryption.yaml");
        std::fs::write(&path, text).unwrap();
        Encryption::load(&path)
    }

    fn config(providers: &str) -> Arc<Encryption> {
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n";
        load(&format!("{head}- resources: [secrets, '*.apps']\n  providers: {providers}\n")).unwrap()
    }

    fn key(byte: u8, length: usize, name: &str) -> String {
        let secret = base64::engine::general_purpose::STANDARD.encode(vec![byte; length]);
        format!("{{name: {name}, secret: {secret}}}")
    }

    fn secret() -> Key {
        Key::new("core/secrets", "default", "token")
    }

    #[test]
    fn what_is_sealed_can_be_opened_where_it_belongs() {
        let value = br#"{"data":{"password":"aHVudGVyMg=="}}"#;
        for (provider, length, prefix) in [
            ("secretbox", 32, "k8s:enc:secretbox:v1:k:"),
            ("aescbc", 16, "k8s:enc:aescbc:v1:k:"),
            ("aescbc", 24, "k8s:enc:aescbc:v1:k:"),
            ("aescbc", 32, "k8s:enc:aescbc:v1:k:"),
            ("aesgcm", 16, "k8s:enc:aesgcm:v1:k:"),
            ("aesgcm", 24, "k8s:enc:aesgcm:v1:k:"),
            ("aesgcm", 32, "k8s:enc:aesgcm:v1:k:"),
        ] {
            let encryption = config(&format!("[{provider}: {{keys: [{}]}}]", key(7, length, "k")));
            let sealed = encryption.seal(&secret(), value).unwrap().into_owned();
            assert!(sealed.starts_with(prefix.as_bytes()), "{provider} {length}");
            assert!(!sealed.windows(8).any(|window| window == b"aHVudGVy"));
            assert_ne!(sealed, encryption.seal(&secret(), value).unwrap().as_ref(), "no two are alike");
            let opened = encryption.open(&secret(), &sealed).unwrap();
            assert_eq!((opened.value.as_ref(), opened.stale), (&value[..], false));
            for at in prefix.len()..sealed.len() {
                let mut damaged = sealed.clone();
                damaged[at] ^= 1;
                let same = encryption.open(&secret(), &damaged).is_ok_and(|opened| opened.value.as_ref() == value);
                assert!(!same, "{provider}: damage at {at} goes unnoticed");
            }
            assert!(encryption.open(&secret(), &sealed[..prefix.len() + 3]).is_err());
            if provider == "aesgcm" {
                assert!(encryption.open(&Key::new("core/secrets", "default", "other"), &sealed).is_err());
            }
        }
    }

    #[test]
    fn keys_rotate() {
        let old = config(&format!("[secretbox: {{keys: [{}]}}]", key(1, 32, "old")));
        let both = config(&format!("[secretbox: {{keys: [{}, {}]}}]", key(2, 32, "new"), key(1, 32, "old")));
        let new = config(&format!("[secretbox: {{keys: [{}]}}]", key(2, 32, "new")));
        let cipher = config(&format!("[aesgcm: {{keys: [{0}]}}, secretbox: {{keys: [{0}]}}]", key(2, 32, "new")));
        let back = config(&format!("[identity: {{}}, secretbox: {{keys: [{}]}}]", key(2, 32, "new")));
        let sealed = old.seal(&secret(), b"{}").unwrap().into_owned();
        assert!(both.open(&secret(), &sealed).unwrap().stale);
        assert!(new.open(&secret(), &sealed).is_err());
        let sealed = both.seal(&secret(), b"{}").unwrap().into_owned();
        assert!(!both.open(&secret(), &sealed).unwrap().stale);
        assert!(!new.open(&secret(), &sealed).unwrap().stale);
        assert!(cipher.open(&secret(), &sealed).unwrap().stale);
        assert!(back.open(&secret(), &sealed).unwrap().stale);
        assert_eq!(back.seal(&secret(), b"{}").unwrap().as_ref(), b"{}");
        assert!(!back.open(&secret(), b"{}").unwrap().stale);
        assert!(new.open(&secret(), b"{}").unwrap().stale, "what was plain before is encrypted next");
    }

    #[test]
    fn resources_are_named() {
        let check = |pattern: &str, group: &str, plural: &str, expected: bool| {
            assert_eq!(names(pattern, group, plural), expected, "{pattern} {group}/{plural}");
        };
        check("secrets", "", "secrets", true);
        check("secrets", "", "configmaps", false);
        check("secrets", "example.com", "secrets", false);
        check("pandas.awesome.bears.example", "awesome.bears.example", "pandas", true);
        check("*.apps", "apps", "deployments", true);
        check("*.apps", "", "secrets", false);
        check("*.", "", "secrets", true);
        check("*.", "apps", "deployments", false);
        check("*.*", "apps", "deployments", true);
        let encryption = config(&format!("[secretbox: {{keys: [{}]}}]", key(1, 32, "k")));
        let map = Key::new("core/configmaps", "default", "m");
        assert_eq!(encryption.seal(&map, b"{}").unwrap().as_ref(), b"{}");
        assert!(encryption.seal(&Key::new("apps/deployments", "a", "b"), b"{}").unwrap().starts_with(SEALED_PREFIX));
    }

    #[test]
    fn the_own_configuration_is_good() {
        let encryption = load(&Encryption::new_configuration()).unwrap();
        let sealed = encryption.seal(&secret(), b"{}").unwrap().into_owned();
        assert!(sealed.starts_with(b"k8s:enc:secretbox:v1:key1:"));
        assert_eq!(encryption.open(&secret(), &sealed).unwrap().value.as_ref(), b"{}");
    }

    #[test]
    fn mistakes_are_named() {
        let check = |rest: &str, expected: &str| {
            let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n";
            let message = load(&format!("{head}{rest}")).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        check("- {resources: [], providers: [identity: {}]}", "resources[0].resources: Required value");
        check("- {resources: [secrets], providers: []}", "resources[0].providers: Required value");
        check("- {resources: [secrets], providers: [{}]}", "provider does not contain any of the expected providers");
        check(
            "- {resources: [secrets], providers: [kms: {name: 'a:b', timeout: never, cachesize: 5}]}",
            "resources[0].providers[0].kms.apiVersion: Unsupported value: \"\"",
        );
        let kms = |rest: &str| format!("- {{resources: [secrets], providers: [kms: {{apiVersion: v2, {rest}}}]}}");
        check(&kms("name: a"), "kms.endpoint: Required value");
        check(&kms("name: 'a:b', endpoint: 'unix:///s'"), "kms.name: Invalid value: \"a:b\"");
        check(&kms("name: a, endpoint: 'https://s'"), "kms.endpoint: Invalid value: \"https://s\"");
        check(&kms("name: a, endpoint: 'unix:///s', timeout: never"), "kms.timeout: Invalid value: \"never\"");
        check(&kms("name: a, endpoint: 'unix:///s', cachesize: 5"), "kms.cachesize: Invalid value: 5");
        check(
            "- {resources: [secrets], providers: [secretbox: {keys: [{name: k, secret: YQ==}]}]}",
            "secret is not of the expected length, got 1, expected one of [32]",
        );
        check("- {resources: [secrets], providers: [aescbc: {keys: [{name: '', secret: '!'}]}]}", "keys[0].name");
        check("- {resources: [secrets], providers: [aescbc: {keys: []}]}", "keys: Required value");
        check(
            "- {resources: [secrets, secrets], providers: [identity: {}]}",
            "resources[0].resources[1]: Duplicate value: \"secrets\"",
        );
    }
}
