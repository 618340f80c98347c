//! The file that kubectl reads: one cluster, one user, one context, everything embedded.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::Pair;

/// A kubeconfig with embedded certificates, whose only context is called `kobune`.
///
/// `server_url` is the API server's address (`https://127.0.0.1:6443`), `ca_pem` the authority's certificate and
/// `user` the client certificate and key. The text is secret: write it with [`crate::write_private`].
pub fn kubeconfig(server_url: &str, ca_pem: &str, user: &Pair) -> String {
    let authority = STANDARD.encode(ca_pem);
    let certificate = STANDARD.encode(&user.cert_pem);
    let key = STANDARD.encode(&user.key_pem);
    // A JSON string is a YAML string too: whatever the address holds, the file stays well-formed.
    let server = serde_json::Value::from(server_url);
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: kobune\n  cluster:\n    server: {server}\n    certificate-authority-data: {authority}\n\
         contexts:\n\
         - name: kobune\n  context:\n    cluster: kobune\n    user: kobune\n\
         current-context: kobune\n\
         preferences: {{}}\n\
         users:\n\
         - name: kobune\n  user:\n    client-certificate-data: {certificate}\n    client-key-data: {key}\n"
    )
}

/// A kubeconfig with nothing but the way to a cluster, as ConfigMap `cluster-info` publishes it.
pub fn cluster_info(server_url: &str, ca_pem: &str) -> String {
    let authority = STANDARD.encode(ca_pem);
    let server = serde_json::Value::from(server_url);
    format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {authority}\n    server: {server}\n  \
         name: \"\"\ncontexts: null\ncurrent-context: \"\"\nkind: Config\npreferences: {{}}\nusers: null\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_embedded() {
        let pair = Pair { cert_pem: "CERT".into(), key_pem: "KEY".into() };
        let text = kubeconfig("https://127.0.0.1:6443", "CA", &pair);
        for part in [
            "\n    server: \"https://127.0.0.1:6443\"\n",
            "\n    certificate-authority-data: Q0E=\n",
            "\n    client-certificate-data: Q0VSVA==\n",
            "\n    client-key-data: S0VZ\n",
            "\ncurrent-context: kobune\n",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
    }
}
