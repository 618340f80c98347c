//! What a repository asks for, from a Secret with the keys that Flux's have too: `username` and `password`, `bearerToken`,
//! `ca.crt`, `identity` and `known_hosts`.

use std::path::Path;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::repository::Access;

/// Tells git how to reach a repository; keys are written into private files of the folder.
pub fn access(url: &str, secret: Option<&Value>, folder: &Path) -> Result<Access> {
    let over_ssh = url.starts_with("ssh://") || (!url.contains("://") && url.contains('@'));
    let mut access = Access::default();
    let text = |name: &str| -> Result<Option<String>> {
        let Some(data) = secret.and_then(|secret| secret["data"][name].as_str()) else { return Ok(None) };
        let bytes = STANDARD.decode(data).with_context(|| format!("the Secret's {name} is no base64"))?;
        Ok(Some(String::from_utf8(bytes).with_context(|| format!("the Secret's {name} is no text"))?))
    };
    if over_ssh {
        let (Some(identity), Some(hosts)) = (text("identity")?, text("known_hosts")?) else {
            bail!(
                "a repository over ssh needs a Secret with identity (a private key) and known_hosts: name it in spec.source.secretRef"
            );
        };
        let (identity_file, hosts_file) = (folder.join("identity"), folder.join("known_hosts"));
        write(&identity_file, &identity)?;
        write(&hosts_file, &hosts)?;
        // The program splits this at blanks, so the files are named from the folder it is started in.
        let command = "ssh -F none -i identity -o IdentitiesOnly=yes -o UserKnownHostsFile=known_hosts -o GlobalKnownHostsFile=none \
                       -o StrictHostKeyChecking=yes -o BatchMode=yes -o ConnectTimeout=20 -o ServerAliveInterval=15";
        access.environment.push(("GIT_SSH_COMMAND".to_owned(), command.to_owned()));
        return Ok(access);
    }
    if secret.is_none() {
        return Ok(access);
    }
    let header = match (text("bearerToken")?, text("username")?, text("password")?) {
        (Some(token), ..) => Some(format!("Authorization: Bearer {}", token.trim())),
        (None, Some(user), Some(password)) => Some(format!(
            "Authorization: Basic {}",
            STANDARD.encode(format!("{user}:{}", password.trim_end_matches('\n')))
        )),
        (None, None, Some(password)) => Some(format!(
            "Authorization: Basic {}",
            STANDARD.encode(format!("git:{}", password.trim_end_matches('\n')))
        )),
        _ => None,
    };
    if let Some(header) = header {
        // For this host only: a redirect must not carry it elsewhere.
        access.settings.push((format!("http.{}.extraHeader", root(url)), header));
    }
    if let Some(authority) = text("ca.crt")? {
        let file = folder.join("ca.crt");
        write(&file, &authority)?;
        access.settings.push(("http.sslCAInfo".to_owned(), file.display().to_string()));
    }
    Ok(access)
}

/// `https://host/` of a URL.
fn root(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
    format!("{scheme}://{}/", rest.split('/').next().unwrap_or_default())
}

fn write(path: &Path, text: &str) -> Result<()> {
    kobune_pki::write_private(path, text.as_bytes()).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn how_git_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let secret = |pairs: &[(&str, &str)]| {
            let data: serde_json::Map<String, Value> =
                pairs.iter().map(|(name, value)| ((*name).to_owned(), STANDARD.encode(value).into())).collect();
            json!({"data": data})
        };
        let told = access(
            "https://git.example.com/a/b",
            Some(&secret(&[("username", "u"), ("password", "p\n")])),
            folder.path(),
        );
        let settings = told.unwrap().settings;
        assert_eq!(
            settings,
            [(
                "http.https://git.example.com/.extraHeader".to_owned(),
                format!("Authorization: Basic {}", STANDARD.encode("u:p"))
            )]
        );
        let told =
            access("https://h/a", Some(&secret(&[("bearerToken", "t"), ("ca.crt", "pem")])), folder.path()).unwrap();
        assert_eq!(told.settings[0].1, "Authorization: Bearer t");
        assert_eq!(std::fs::read_to_string(folder.path().join("ca.crt")).unwrap(), "pem");
        let keys = secret(&[("identity", "key"), ("known_hosts", "hosts")]);
        assert!(
            access("git@h:a/b", Some(&keys), folder.path()).unwrap().environment[0]
                .1
                .contains("StrictHostKeyChecking=yes")
        );
        assert!(access("ssh://git@h/a", None, folder.path()).unwrap_err().to_string().contains("known_hosts"));
        assert!(access("https://h/a", None, folder.path()).unwrap().settings.is_empty());
    }
}
