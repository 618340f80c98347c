//! Talks to the node that has a local volume, through the API server's `nodes/proxy`.

use serde_json::json;

use crate::queue::is_not_found;

fn request(method: http::Method, node: &str, volume: &str, body: Vec<u8>) -> kube::Result<http::Request<Vec<u8>>> {
    let path = format!("/api/v1/nodes/{node}/proxy/localVolumes/{volume}");
    let request = http::Request::builder().method(method).uri(path).header("content-type", "application/json");
    request.body(body).map_err(kube::Error::HttpError)
}

/// Has the node make the volume, or grow it to this size.
pub async fn ensure(client: &kube::Client, node: &str, volume: &str, bytes: i64, block: bool) -> kube::Result<()> {
    let body = json!({"capacity": bytes, "block": block}).to_string();
    client.request_text(request(http::Method::PUT, node, volume, body.into_bytes())?).await.map(drop)
}

/// Has the node delete the volume with all that is in it; one that is not there is fine.
pub async fn delete(client: &kube::Client, node: &str, volume: &str) -> kube::Result<()> {
    match client.request_text(request(http::Method::DELETE, node, volume, Vec::new())?).await {
        Err(error) if !is_not_found(&error) => Err(error),
        _ => Ok(()),
    }
}
