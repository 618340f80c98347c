//! `kobune scale`: another number of pods, as `kubectl scale` sets it.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use http::Method;
use serde_json::json;

use super::selection;
use super::{PlaceOptions, from_server};
use crate::discovery::Discovery;
use crate::request;

/// The flags of `scale`.
#[derive(Debug, Clone, Args)]
pub struct ScaleOptions {
    /// TYPE NAME... or TYPE/NAME...
    #[arg(value_name = "TYPE[/NAME] [NAME...]", required = true)]
    pub arguments: Vec<String>,
    /// The number that is wanted
    #[arg(long, value_name = "COUNT")]
    pub replicas: u32,
    /// Only if this is the number now
    #[arg(long, value_name = "COUNT")]
    pub current_replicas: Option<u32>,
    /// Where.
    #[command(flatten)]
    pub place: PlaceOptions,
}

/// Sets numbers of pods.
pub async fn scale(options: ScaleOptions) -> Result<ExitCode> {
    let cluster = options.place.connect.connect().await?;
    let discovery = Discovery::ask(&cluster.client).await.map_err(from_server)?;
    let namespace = options.place.namespace(&cluster);
    for selected in selection::select(&discovery, &options.arguments)? {
        let resource = &selected.resource;
        if selected.names.is_empty() {
            bail!("resource(s) were provided, but no name was specified");
        }
        if !resource.subresources.iter().any(|known| known == "scale") {
            bail!("{} cannot be scaled", resource.name());
        }
        for name in &selected.names {
            let path = format!("{}/scale", resource.object_path(Some(&namespace), name));
            let mut patch = json!({"spec": {"replicas": options.replicas}});
            if let Some(expected) = options.current_replicas {
                let now = request::send(&cluster.client, Method::GET, &path, None, "application/json")
                    .await
                    .map_err(from_server)?;
                let found = now.body["spec"]["replicas"].as_u64().unwrap_or(0);
                if found != u64::from(expected) {
                    bail!("Expected replicas to be {expected}, was {found}");
                }
                // Whoever scales in between makes the patch fail.
                patch["metadata"] = json!({"resourceVersion": now.body["metadata"]["resourceVersion"]});
            }
            let path = format!("{path}?fieldManager=kobune-scale");
            request::write(&cluster.client, Method::PATCH, &path, request::MERGE_PATCH, &patch)
                .await
                .map_err(from_server)?;
            println!("{}/{name} scaled", resource.singular_with_group());
        }
    }
    Ok(ExitCode::SUCCESS)
}
