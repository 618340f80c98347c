//! `kobune version`, `api-versions` and `cluster-info`: what is spoken to, as kubectl says it.

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::{from_server, outcome, yaml};
use crate::connect::{Cluster, ConnectOptions};
use crate::request;

/// Whose bytes `build` has (<https://github.com/kubernetes-sigs/kustomize/releases>).
const KUSTOMIZE: &str = "v5.7.1";

/// The flags of `version`.
#[derive(Debug, Clone, Args)]
pub struct VersionOptions {
    /// Only that of this program
    #[arg(long)]
    pub client: bool,
    /// How to print: json, yaml
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json", "yaml"])]
    pub output: Option<String>,
    /// Which cluster.
    #[command(flatten)]
    pub connect: ConnectOptions,
}

/// The flags of `api-versions`.
#[derive(Debug, Clone, Args)]
pub struct ApiVersionsOptions {
    /// Which cluster.
    #[command(flatten)]
    pub connect: ConnectOptions,
}

/// The flags of `cluster-info`.
#[derive(Debug, Clone, Args)]
pub struct ClusterInfoOptions {
    /// The namespace of the cluster's services
    #[arg(short, long, value_name = "NAME", default_value = "kube-system")]
    pub namespace: String,
    /// Which cluster.
    #[command(flatten)]
    pub connect: ConnectOptions,
}

async fn get(cluster: &Cluster, path: &str) -> Result<Value> {
    let answer = request::send(&cluster.client, Method::GET, path, None, "application/json").await;
    Ok(answer.map_err(from_server)?.body)
}

/// Prints versions; `own` is that of this program.
pub async fn version(options: VersionOptions, own: &str) -> Result<ExitCode> {
    outcome::told(async {
        let server = if options.client { Ok(None) } else { server_version(&options.connect).await.map(Some) };
        let (major, minor) = numbers(own).unwrap_or_default();
        let mut versions = json!({
            "clientVersion": {
                "major": major.to_string(), "minor": minor.to_string(), "gitVersion": own, "gitCommit": "",
                "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "rust", "compiler": "rustc",
                "platform": format!("{}/{}", std::env::consts::OS, architecture()),
            },
            "kustomizeVersion": KUSTOMIZE,
        });
        if let Ok(Some(found)) = &server {
            versions["serverVersion"] = found.clone();
        }
        outcome::write(&match options.output.as_deref() {
            Some("yaml") => format!("{}\n", yaml::yaml(&versions)?),
            Some(_) => format!("{}\n", serde_json::to_string_pretty(&versions)?),
            None => {
                let server = match &server {
                    Ok(Some(found)) => {
                        format!("Server Version: {}\n", found["gitVersion"].as_str().unwrap_or_default())
                    }
                    _ => String::new(),
                };
                format!("Client Version: {own}\nKustomize Version: {KUSTOMIZE}\n{server}")
            }
        })?;
        if let Some(words) = server?.as_ref().and_then(|found| skew(own, found["gitVersion"].as_str()?)) {
            eprintln!("Warning: {words}");
        }
        Ok(ExitCode::SUCCESS)
    })
    .await
}

async fn server_version(connect: &ConnectOptions) -> Result<Value> {
    get(&connect.connect().await?, "/version").await
}

/// The processor in Go's words.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Major and minor version.
fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.strip_prefix('v').unwrap_or(version).split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// What is said of two versions that are too far apart.
fn skew(client: &str, server: &str) -> Option<String> {
    let ((major, minor), (server_major, server_minor)) = (numbers(client)?, numbers(server)?);
    let far = major != server_major || minor.abs_diff(server_minor) > 1;
    far.then(|| {
        format!(
            "version difference between client ({major}.{minor}) and server ({server_major}.{server_minor}) exceeds the supported minor version skew of +/-1"
        )
    })
}

/// Prints the versions of all groups.
pub async fn api_versions(options: ApiVersionsOptions) -> Result<ExitCode> {
    outcome::told(async {
        let cluster = options.connect.connect().await?;
        let failed = |error| anyhow!("couldn't get available api versions from server: {error:#}");
        let core = get(&cluster, "/api").await.map_err(failed)?;
        let groups = get(&cluster, "/apis").await.map_err(failed)?;
        let of_core = core["versions"].as_array().into_iter().flatten();
        let of_groups = groups["groups"].as_array().into_iter().flatten();
        let of_groups = of_groups.flat_map(|group| group["versions"].as_array().into_iter().flatten());
        let versions = of_core.chain(of_groups.map(|version| &version["groupVersion"]));
        let mut lines: Vec<String> = versions.filter_map(Value::as_str).map(|text| format!("{text}\n")).collect();
        lines.sort();
        outcome::write(&lines.concat())?;
        Ok(ExitCode::SUCCESS)
    })
    .await
}

/// Prints the addresses of the API server and of the cluster's services.
pub async fn cluster_info(options: ClusterInfoOptions) -> Result<ExitCode> {
    outcome::told(async {
        let cluster = options.connect.connect().await?;
        let path = format!("/api/v1/namespaces/{}/services", request::query(&options.namespace));
        let selector = request::query("kubernetes.io/cluster-service=true");
        let services = get(&cluster, &format!("{path}?labelSelector={selector}")).await?;
        let mut out = format!("Kubernetes control plane is running at {}\n", cluster.url);
        for service in services["items"].as_array().into_iter().flatten() {
            let (name, link) = service_link(&cluster.url, service);
            out.push_str(&format!("{name} is running at {link}\n"));
        }
        out.push_str("\nTo further debug and diagnose cluster problems, use 'kubectl cluster-info dump'.\n");
        outcome::write(&out)?;
        Ok(ExitCode::SUCCESS)
    })
    .await
}

/// The name of a service of the cluster, and where it can be reached.
fn service_link(url: &str, service: &Value) -> (String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let meta = &service["metadata"];
    let own = text(&meta["name"]);
    let ports = service["spec"]["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let shown = text(&meta["labels"]["kubernetes.io/name"]);
    let shown = if shown.is_empty() { own.clone() } else { shown };
    if let Some(address) = service["status"]["loadBalancer"]["ingress"].get(0) {
        let host = match text(&address["ip"]) {
            none if none.is_empty() => text(&address["hostname"]),
            ip => ip,
        };
        let links = ports.iter().map(|port| format!("http://{host}:{} ", port["port"]));
        return (shown, links.collect());
    }
    let name = match ports.first() {
        None => own,
        Some(port) => {
            let secure = port["name"] == "https" || port["port"] == 443;
            match (secure, text(&port["name"])) {
                (true, port) => format!("https:{own}:{port}"),
                (false, port) if port.is_empty() => own,
                (false, port) => format!("{own}:{port}"),
            }
        }
    };
    (shown, format!("{url}/api/v1/namespaces/{}/services/{name}/proxy", text(&meta["namespace"])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_apart() {
        assert_eq!(skew("v1.36.0+kobune.0.1.0", "v1.35.2"), None);
        assert!(skew("v1.36.0", "v1.33.1").unwrap().contains("client (1.36) and server (1.33)"));
        assert_eq!(skew("v1.36.0", "odd"), None);
    }

    #[test]
    fn links() {
        let service = |ports: Value, more: Value| {
            let mut service = json!({"metadata": {"name": "dns", "namespace": "s", "labels": {"kubernetes.io/name": "DNS"}},
                "spec": {"ports": ports}});
            service["status"] = more;
            service_link("https://h", &service).1
        };
        let base = "https://h/api/v1/namespaces/s/services";
        assert_eq!(service(json!([{"name": "dns", "port": 53}]), Value::Null), format!("{base}/dns:dns/proxy"));
        assert_eq!(service(json!([{"port": 443}]), Value::Null), format!("{base}/https:dns:/proxy"));
        assert_eq!(service(json!([]), Value::Null), format!("{base}/dns/proxy"));
        let balanced = json!({"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}});
        assert_eq!(service(json!([{"port": 80}]), balanced), "http://1.2.3.4:80 ");
    }
}
