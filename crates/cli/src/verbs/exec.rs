//! `kobune exec` and `kobune attach`: a command in a container, or the one that it runs, with this terminal or these streams
//! (`k8s.io/kubectl/pkg/cmd/exec`, `pkg/cmd/attach`).

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::Value;

use super::channels::{self, Call, Output, Streams};
use super::words::{Failure, ending};
use super::{PlaceOptions, pods, terminal};

/// The flags of `exec`.
#[derive(Debug, Clone, Args)]
pub struct ExecOptions {
    /// A pod, or TYPE/NAME of what has pods, such as deployment/web
    #[arg(value_name = "POD|TYPE/NAME", required = true)]
    pub target: Vec<String>,
    /// The command and its arguments, after --
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
    /// What both verbs have.
    #[command(flatten)]
    pub session: SessionOptions,
    /// Where.
    #[command(flatten)]
    pub place: PlaceOptions,
}

/// The flags of `attach`.
#[derive(Debug, Clone, Args)]
pub struct AttachOptions {
    /// A pod, TYPE/NAME, or TYPE NAME of what has pods
    #[arg(value_name = "POD|TYPE/NAME", required = true)]
    pub target: Vec<String>,
    /// What both verbs have.
    #[command(flatten)]
    pub session: SessionOptions,
    /// Where.
    #[command(flatten)]
    pub place: PlaceOptions,
}

/// What `exec` and `attach` have in common.
#[derive(Debug, Clone, Args)]
pub struct SessionOptions {
    /// The container [default: that of the annotation kubectl.kubernetes.io/default-container, or the first]
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// How.
    #[command(flatten)]
    pub terminal: TerminalOptions,
}

/// What every verb has that holds a session with a container.
#[derive(Debug, Clone, Args)]
pub struct TerminalOptions {
    /// Pass standard input to the container
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// Standard input is a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Print nothing but what comes from the container
    #[arg(short, long)]
    pub quiet: bool,
    /// How long to wait for a pod to be there and to run
    #[arg(long, value_name = "DURATION", default_value = "1m0s")]
    pub pod_running_timeout: String,
}

/// Runs a command in a container.
pub async fn exec(options: ExecOptions) -> Result<ExitCode> {
    ending(run_exec(&options).await)
}

async fn run_exec(options: &ExecOptions) -> Result<ExitCode> {
    let [target] = options.target.as_slice() else {
        bail!(
            "exec [POD] [COMMAND] is not supported anymore. Use exec [POD] -- [COMMAND] instead\nSee 'kobune exec -h' for help and examples"
        );
    };
    if options.command.is_empty() {
        bail!("you must specify at least one command for the container");
    }
    let session = &options.session;
    let limit = pods::timeout(&session.terminal.pod_running_timeout)?;
    let (kind, name) = pods::split(target)?;
    let cluster = options.place.connect.connect().await?;
    let namespace = options.place.namespace(&cluster);
    let pod = pods::find(&cluster, &namespace, kind, name, limit).await?.pod;
    pods::check_phase(&pod, "exec into a container in")?;
    let container = pods::container(&pod, session.container.as_deref(), session.terminal.quiet)?;
    let tty = wants_terminal(session.terminal.stdin, session.terminal.tty, session.terminal.quiet);
    let call = Call {
        verb: "exec",
        namespace: &namespace,
        pod: text(&pod["metadata"]["name"]),
        container: text(&container["name"]),
        command: &options.command,
        tty,
    };
    let sizes = terminal::size().into_iter().collect();
    converse(&cluster.client, &call, session.terminal.stdin, sizes).await?;
    Ok(ExitCode::SUCCESS)
}

/// Attaches to what a container runs.
pub async fn attach(options: AttachOptions) -> Result<ExitCode> {
    ending(run_attach(&options).await)
}

async fn run_attach(options: &AttachOptions) -> Result<ExitCode> {
    let (kind, name) = match options.target.as_slice() {
        [target] => pods::split(target)?,
        [kind, name] => (kind.as_str(), name.as_str()),
        more => bail!(
            "expected POD, TYPE/NAME, or TYPE NAME, (at most 2 arguments) saw {}: [{}]",
            more.len(),
            more.join(" ")
        ),
    };
    let session = &options.session;
    let limit = pods::timeout(&session.terminal.pod_running_timeout)?;
    let cluster = options.place.connect.connect().await?;
    let namespace = options.place.namespace(&cluster);
    let pod = pods::find(&cluster, &namespace, kind, name, limit).await?.pod;
    pods::check_phase(&pod, "attach a container in")?;
    attach_to(&cluster.client, &namespace, &pod, session).await
}

/// Attaches to a pod that was found already.
pub async fn attach_to(
    client: &kube::Client,
    namespace: &str,
    pod: &Value,
    session: &SessionOptions,
) -> Result<ExitCode> {
    let container = pods::container(pod, session.container.as_deref(), session.terminal.quiet)
        .context("cannot attach to the container")?;
    let (name, container_name) = (text(&pod["metadata"]["name"]), text(&container["name"]));
    let has = container["tty"] == true;
    if session.terminal.tty && !has && !session.terminal.quiet {
        eprintln!("error: Unable to use a TTY - container {container_name} did not allocate one");
    }
    let tty = wants_terminal(session.terminal.stdin, has, session.terminal.quiet);
    let call = Call { verb: "attach", namespace, pod: name, container: container_name, command: &[], tty };
    // Another size first, so that whatever draws there draws all again.
    let sizes = terminal::size()
        .map(|(width, height)| vec![(width.saturating_add(1), height.saturating_add(1)), (width, height)]);
    if !session.terminal.quiet {
        eprintln!(
            "All commands and output from this session will be recorded in container logs, including credentials and sensitive information passed through the command prompt."
        );
        eprintln!("If you don't see a command prompt, try pressing enter.");
    }
    converse(client, &call, session.terminal.stdin, sizes.unwrap_or_default()).await?;
    if !session.terminal.quiet && session.terminal.stdin && tty {
        println!("Session ended, resume using 'kobune attach {name} -c {container_name} -n {namespace} -i -t' command");
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the terminal takes part: that is what is wanted, and standard input is one.
fn wants_terminal(stdin: bool, tty: bool, quiet: bool) -> bool {
    if !stdin || !tty {
        return false;
    }
    if !terminal::is_there() && !quiet {
        eprintln!("Unable to use a TTY - input is not a terminal or the right kind of file");
    }
    terminal::is_there()
}

/// Holds a session on the standard streams.
async fn converse(client: &kube::Client, call: &Call<'_>, stdin: bool, sizes: Vec<terminal::Size>) -> Result<()> {
    if !call.tty {
        let input = if stdin { Some(terminal::input().context("read standard input")?) } else { None };
        let streams = Streams { input, sizes: None, output: Output::Standard, errors: Output::Errors };
        return channels::call(client, call, streams).await;
    }
    let mut signals = terminal::Signals::listen().context("listen for signals")?;
    let sizes = terminal::sizes(sizes).context("listen for signals")?;
    let raw = terminal::Raw::enter().context("make the terminal raw")?;
    let input = Some(terminal::input().context("read standard input")?);
    let streams = Streams { input, sizes: Some(sizes), output: Output::Standard, errors: Output::Standard };
    let result = tokio::select! {
        result = channels::call(client, call, streams) => result,
        () = signals.any() => Err(Failure::silent().into()),
    };
    // Before anything is said.
    drop(raw);
    result
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
