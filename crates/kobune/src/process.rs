//! A long-running process: logging, the tokio runtime and the signals that end it.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::spare_memory;

/// How long parts may take to finish after the first signal.
pub const DRAIN: Duration = Duration::from_secs(20);

/// Runs a command until it ends or is told to: the first SIGINT or SIGTERM cancels the token that `body` gets, and a
/// second one ends the process at once.
pub fn run<F: Future<Output = Result<()>>>(body: impl FnOnce(CancellationToken) -> F) -> Result<()> {
    start_logging();
    // Both rustls users, hyper's and kube's, find this one.
    rustls::crypto::ring::default_provider().install_default().ok().context("install the TLS provider")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, |count| count.get().clamp(2, 4)))
        .thread_keep_alive(Duration::from_secs(2))
        .enable_all()
        .build()
        .context("start the runtime")?;
    let result = runtime.block_on(async {
        let token = CancellationToken::new();
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let on_signal = token.clone();
        let signals = async move {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            tracing::info!("stopping; pods go on, `kobune down` stops them too");
            on_signal.cancel();
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            tracing::warn!("told to stop twice: ending without waiting");
        };
        tokio::spawn(spare_memory::give_back(token.clone()));
        tokio::select! {
            result = body(token) => result,
            () = signals => Ok(()),
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(2));
    result
}

/// Log lines on standard error; `KOBUNE_LOG` says what is wanted (`debug`, `kobune_node=debug,info`, ...).
pub fn start_logging() {
    let filter = EnvFilter::try_from_env("KOBUNE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
}

/// Runs a short piece of work of a command that needs no signals.
pub fn offline<T>(body: impl Future<Output = Result<T>>) -> Result<T> {
    rustls::crypto::ring::default_provider().install_default().ok().context("install the TLS provider")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(body)
}
