//! `kobune up` and `kobune server`: a whole cluster in one process.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::agent::{self, Identity, Machine};
use crate::cli::UpOptions;
use crate::server::{self, Server};
use crate::{admin, instance, process, settings};

/// Which parts run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parts {
    /// Server and node.
    All,
    /// The server alone.
    Server,
}

/// Runs until `token` is cancelled or a part fails.
pub async fn run(options: UpOptions, wanted: Parts, token: CancellationToken) -> Result<()> {
    let start = Instant::now();
    let (server_settings, node_settings) = settings::resolve(&options)?;
    let names = server_settings.names.clone();
    let _instance = instance::take(&names.data_dir)?;
    if options.ingress.ingress && wanted == Parts::Server {
        bail!("--ingress needs a node: run `kobune up`");
    }
    let machine = match wanted {
        Parts::All => Some(Machine::open(&names, &node_settings).await?),
        Parts::Server => None,
    };
    let ips = machine.as_ref().map_or(&node_settings.ips, |machine| &machine.ips);
    let ip = ips.first().copied().unwrap_or_else(server::own_address);
    let server = Server::build(server_settings, &node_settings.name, ip).await?;
    let identity = match &machine {
        Some(_) => Some(Identity {
            client: server.client_as(&format!("system:node:{}", node_settings.name), &["system:nodes"]),
            proxy: server.client_as("system:kube-proxy", &[]),
            tls: agent::serving_tls(server.authority(), &names, &node_settings.name, ips)?,
        }),
        None => None,
    };
    let ingress_client = server.client_as("system:kobune-ingress", &[]);

    let mut parts = JoinSet::new();
    let serving = CancellationToken::new();
    let own_pod_cidrs = match &machine {
        Some(_) => node_settings.pod_cidrs.iter().map(ToString::to_string).collect(),
        None => Vec::new(),
    };
    server.start(own_pod_cidrs, &mut parts, &token, serving.clone());
    if let (Some(machine), Some(identity)) = (&machine, identity) {
        let cluster = agent::start(machine, identity, &names, &node_settings, &mut parts, &token).await?;
        if options.ingress.ingress {
            let config = kobune_ingress::Config {
                http_port: options.ingress.ingress_http_port,
                https_port: options.ingress.ingress_https_port,
                addresses: machine.ips.clone(),
            };
            let proxy = kobune_ingress::run(config, ingress_client, cluster, token.clone());
            parts.spawn(async { ("ingress", proxy.await.context("ingress")) });
        }
        let admin = admin::serve(&names.data_dir, machine.images.clone(), token.clone())?;
        parts.spawn(async { ("admin socket", admin.await) });
    }
    announce(ip, options.port, &names, start);
    supervise(parts, &token, Some(serving)).await
}

/// Says where the cluster answers.
pub fn announce(ip: IpAddr, port: u16, names: &settings::Names, start: Instant) {
    let url = std::net::SocketAddr::new(ip, port);
    tracing::info!(
        took_ms = start.elapsed().as_millis(),
        "kobune {} answers at https://{url}",
        env!("CARGO_PKG_VERSION")
    );
    tracing::info!("export KUBECONFIG={}", names.data_dir.join("admin.kubeconfig").display());
}

/// Waits for the parts: all run until `token` is cancelled, then each may finish within a bound. A part that ends
/// early ends the whole.
pub async fn supervise(
    mut parts: JoinSet<(&'static str, Result<()>)>,
    token: &CancellationToken,
    serving: Option<CancellationToken>,
) -> Result<()> {
    let early = tokio::select! {
        // Told to stop comes first: parts that end at once then do what they were told.
        biased;
        () = token.cancelled() => None,
        ended = parts.join_next() => ended,
    };
    let failure = match early {
        Some(Ok((name, Ok(())))) => Some(anyhow::anyhow!("{name} ended by itself")),
        Some(Ok((_, Err(error)))) => Some(error),
        Some(Err(panic)) => Some(anyhow::Error::new(panic).context("a part of kobune panicked")),
        None => None,
    };
    token.cancel();
    let drained = tokio::time::timeout(process::DRAIN, async {
        // The API server is one of the parts: it is the last to go, so that the others can say goodbye.
        let last = usize::from(serving.is_some());
        while parts.len() > last {
            report(parts.join_next().await);
        }
        if let Some(serving) = serving {
            serving.cancel();
        }
        while !parts.is_empty() {
            report(parts.join_next().await);
        }
    });
    if drained.await.is_err() && failure.is_none() {
        bail!("not everything finished within {} s", process::DRAIN.as_secs());
    }
    failure.map_or(Ok(()), Err)
}

fn report(ended: Option<std::result::Result<(&'static str, Result<()>), tokio::task::JoinError>>) {
    match ended {
        Some(Ok((_, Ok(())))) | None => {}
        Some(Ok((name, Err(error)))) => tracing::warn!("{name}: {error:#}"),
        Some(Err(error)) => tracing::error!("a part of kobune panicked: {error}"),
    }
}
