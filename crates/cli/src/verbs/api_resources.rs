//! `kobune api-resources`: what the server serves, as `kubectl api-resources` prints it.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::from_server;
use crate::connect::ConnectOptions;
use crate::discovery::{Discovery, Resource};
use crate::table;

/// The flags of `api-resources`.
#[derive(Debug, Clone, Args)]
pub struct ApiResourcesOptions {
    /// Only those of this group; "" for the core group
    #[arg(long, value_name = "GROUP")]
    pub api_group: Option<String>,
    /// Only those that live in namespaces, or with =false only those that do not
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub namespaced: Option<bool>,
    /// Only those with all these verbs
    #[arg(long, value_name = "VERB", value_delimiter = ',')]
    pub verbs: Vec<String>,
    /// How to print: name, wide
    #[arg(short, long, value_name = "FORMAT", value_parser = ["name", "wide"])]
    pub output: Option<String>,
    /// Leave the headings out
    #[arg(long)]
    pub no_headers: bool,
    /// Which cluster.
    #[command(flatten)]
    pub connect: ConnectOptions,
}

/// Prints the resources.
pub async fn api_resources(options: ApiResourcesOptions) -> Result<ExitCode> {
    let cluster = options.connect.connect().await?;
    let discovery = Discovery::ask(&cluster.client).await.map_err(from_server)?;
    print!("{}", listed(&options, discovery.resources()));
    Ok(ExitCode::SUCCESS)
}

fn listed(options: &ApiResourcesOptions, resources: &[Resource]) -> String {
    // Of several versions the server names first the one that it prefers.
    let mut chosen: Vec<&Resource> = Vec::new();
    for resource in resources {
        let fits = !resource.verbs.is_empty()
            && options.api_group.as_ref().is_none_or(|group| *group == resource.group)
            && options.namespaced.is_none_or(|namespaced| namespaced == resource.namespaced)
            && options.verbs.iter().all(|verb| resource.can(verb));
        if fits && !chosen.iter().any(|known| known.group == resource.group && known.plural == resource.plural) {
            chosen.push(resource);
        }
    }
    chosen.sort_by(|left, right| (&left.group, &left.plural).cmp(&(&right.group, &right.plural)));
    if options.output.as_deref() == Some("name") {
        return chosen.iter().map(|resource| format!("{}\n", resource.name())).collect();
    }
    let wide = options.output.as_deref() == Some("wide");
    let mut rows: Vec<Vec<String>> = Vec::new();
    if !options.no_headers {
        let names = ["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"].into_iter();
        let more = ["VERBS", "CATEGORIES"].into_iter().filter(|_| wide);
        rows.push(names.chain(more).map(str::to_owned).collect());
    }
    for resource in chosen {
        let mut row = vec![
            resource.plural.clone(),
            resource.short_names.join(","),
            resource.api_version(),
            resource.namespaced.to_string(),
            resource.kind.clone(),
        ];
        if wide {
            row.push(resource.verbs.join(","));
            row.push(resource.categories.join(","));
        }
        rows.push(row);
    }
    table::aligned(&rows)
}
