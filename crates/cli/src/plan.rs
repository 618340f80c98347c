//! `kobune plan`: what would happen, as people read it.

pub mod ask;
pub mod effects;
pub mod explain;
mod local;
pub mod model;
#[cfg(test)]
mod properties;
pub mod report;
pub mod sealed;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::batch::{self, BatchOptions};
use crate::style::ColorChoice;

/// How a plan is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For a terminal.
    Text,
    /// For programs.
    Json,
    /// For a comment on a pull request.
    Markdown,
    /// One page that needs nothing else.
    Html,
}

/// The flags of `plan`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Exit code: 0 when nothing would change, 1 when something would, 2 when something is wrong.")]
pub struct PlanOptions {
    /// What is to be applied, and how.
    #[command(flatten)]
    pub batch: BatchOptions,
    /// How to write the plan
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Output,
    /// One line an object, without its fields
    #[arg(long)]
    pub summary: bool,
    /// Also keep the plan in a file, for `apply --plan FILE`; it holds the manifests, secrets included
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// When to use colours
    #[arg(long, value_enum, default_value = "auto")]
    pub color: ColorChoice,
}

/// Shows what would happen. The exit codes are those of `kubectl diff`.
pub async fn plan(options: PlanOptions) -> Result<ExitCode> {
    if options.batch.is_empty() {
        bail!("what is to be planned? give -f FILE, -f FOLDER, -f - for standard input, or -k KUSTOMIZATION");
    }
    let manifests = options.batch.read()?;
    let cluster = options.batch.connect.connect().await?;
    let batch = batch::compare(&options.batch, manifests, cluster).await?;
    if let Some(file) = &options.out {
        sealed::write(file, &options.batch, &batch).await?;
    }
    let plan = &batch.plan;
    let text = match options.output {
        Output::Text => report::text::write(plan, options.summary, options.color.style(&std::io::stdout())),
        Output::Json => format!("{}\n", serde_json::to_string_pretty(plan).context("write the plan as JSON")?),
        Output::Markdown => report::markdown::write(plan, options.summary),
        Output::Html => report::html::write(plan),
    };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("write to standard output")?;
    Ok(if plan.has_changes() { ExitCode::from(1) } else { ExitCode::SUCCESS })
}
