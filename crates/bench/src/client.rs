//! kube-rs clients that are on the cluster's host.

use anyhow::{Context, Result};
use http::Request;
use kobune_testbed::Cluster;
use kube::config::{KubeConfigOptions, Kubeconfig};

/// Runs `body` on the cluster's host in a tokio runtime whose sockets belong there.
pub fn on_host<T: Send, F: Future<Output = Result<T>>>(
    cluster: &Cluster,
    body: impl FnOnce(kube::Config) -> F + Send,
) -> Result<T> {
    let path = cluster.kubeconfig();
    cluster.host().enter(move || {
        // One thread: what it opens belongs to the host's network namespace.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let kubeconfig = Kubeconfig::read_from(path)?;
            let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
            body(config).await
        })
    })?
}

/// Sends a request and gives the answer's text; an answer that is an error is an error.
pub async fn send(client: &kube::Client, method: &str, path: &str, body: Option<String>) -> Result<String> {
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", kind)
        .body(body.unwrap_or_default().into_bytes())?;
    client.request_text(request).await.with_context(|| format!("{method} {path}"))
}
