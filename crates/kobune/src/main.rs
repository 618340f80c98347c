//! The executable: reads the command line, wires the parts together, nothing else.

mod admin;
mod agent;
mod alone;
mod api_options;
mod authentication;
mod authorization;
mod cli;
mod csi;
mod discovery;
mod down;
mod election;
mod image;
mod image_folder;
mod instance;
mod join;
mod leader_options;
mod metrics;
mod placement_options;
mod process;
mod scheduler_options;
mod server;
mod settings;
mod simulate;
mod snapshot;
mod spare_memory;
mod storage;
mod up;
mod user_agent;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory as _;

use crate::cli::{Cli, Command, ConfigCommand};

fn main() -> ExitCode {
    // Before anything starts a thread: a shim stays single-threaded and small, and the tools are called by their names.
    let mut arguments = std::env::args_os();
    let called = arguments.next().unwrap_or_default();
    if let Some(tool) = Path::new(&called).file_name().filter(|name| *name != "kobune").and_then(kobune_tools::by_name)
    {
        return tool(arguments);
    }
    // A container runtime may call this program for a pod's network, under any name.
    if kobune_cri::is_plugin_call() {
        return kobune_cri::plugin_main();
    }
    let arguments: Vec<OsString> = arguments.collect();
    match arguments.first().and_then(|word| word.to_str()) {
        Some("shim") => return kobune_runtime::shim_main(arguments.into_iter().skip(1)),
        Some("tool") => return kobune_tools::main(arguments.into_iter().skip(1)),
        _ => {}
    }
    let cli = Cli::of(arguments);
    // As of `kubectl diff`: 1 says that something would change.
    let failure = if matches!(cli.command, Command::Plan(_)) { ExitCode::from(2) } else { ExitCode::FAILURE };
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("kobune: {error:#}");
            failure
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let done = match cli.command {
        Command::Plan(options) => return process::offline(kobune_cli::plan(options)),
        Command::Get(options) => return process::offline(kobune_cli::get(options)),
        Command::Create(options) => return process::offline(kobune_cli::create(options)),
        Command::Explain(options) => return process::offline(kobune_cli::explain(options)),
        Command::Describe(options) => return process::offline(kobune_cli::describe(options)),
        Command::Delete(options) => return process::offline(kobune_cli::delete(options)),
        Command::Scale(options) => return process::offline(kobune_cli::scale(options)),
        Command::Autoscale(options) => return process::offline(kobune_cli::autoscale(options)),
        Command::Expose(options) => return process::offline(kobune_cli::expose(options)),
        Command::Replace(options) => return process::offline(kobune_cli::replace(options)),
        Command::Diff(options) => return process::offline(kobune_cli::diff(options)),
        Command::Edit(options) => return process::offline(kobune_cli::edit(options)),
        Command::Certificate(command) => return process::offline(kobune_cli::certificate(command)),
        Command::Auth(command) => return process::offline(kobune_cli::auth(command)),
        Command::Logs(options) => return process::offline(kobune_cli::logs(options)),
        Command::Exec(options) => return process::offline(kobune_cli::exec(options)),
        Command::Attach(options) => return process::offline(kobune_cli::attach(options)),
        Command::PortForward(options) => return process::offline(kobune_cli::port_forward(options)),
        Command::Cp(options) => return process::offline(kobune_cli::cp(options)),
        Command::Rollout(command) => return process::offline(kobune_cli::rollout(command)),
        Command::Wait(options) => return process::offline(kobune_cli::wait(options)),
        Command::Events(options) => return process::offline(kobune_cli::events(options)),
        Command::Top(command) => return process::offline(kobune_cli::top(command)),
        Command::Label(options) => return process::offline(kobune_cli::label(options)),
        Command::Annotate(options) => return process::offline(kobune_cli::annotate(options)),
        Command::Patch(options) => return process::offline(kobune_cli::patch(options)),
        Command::Cordon(options) => return process::offline(kobune_cli::cordon(options)),
        Command::Uncordon(options) => return process::offline(kobune_cli::uncordon(options)),
        Command::Drain(options) => return process::offline(kobune_cli::drain(options)),
        Command::Taint(options) => return process::offline(kobune_cli::taint(options)),
        Command::Run(options) => return process::offline(kobune_cli::run(options)),
        Command::Set(command) => return process::offline(kobune_cli::set(command)),
        Command::ApiResources(options) => return process::offline(kobune_cli::api_resources(options)),
        Command::ApiVersions(options) => return process::offline(kobune_cli::api_versions(options)),
        Command::ClusterInfo(options) => return process::offline(kobune_cli::cluster_info(options)),
        Command::Version(options) => return process::offline(kobune_cli::version(options, settings::VERSION)),
        Command::Completion(options) => return kobune_cli::completion(&options),
        Command::Complete { words } => return process::offline(kobune_cli::complete(Cli::command(), &words)),
        Command::Apply(options) => return process::offline(kobune_cli::apply(options)),
        Command::History(options) => return process::offline(kobune_cli::history(options)),
        Command::Rollback(options) => return process::offline(kobune_cli::rollback(options)),
        Command::Sync(options) => process::run(|token| kobune_cli::sync(options, token)),
        Command::Up(options) => process::run(|token| up::run(options, up::Parts::All, token)),
        Command::Server(options) => process::run(|token| up::run(options, up::Parts::Server, token)),
        Command::Agent(options) => process::run(|token| agent::run(options, token)),
        Command::Controllers(options) => process::run(|token| alone::controllers(options, token)),
        Command::Scheduler(options) => process::run(|token| alone::scheduler(options, token)),
        Command::Csi(options) => process::run(|token| csi::run(options, token)),
        Command::Simulate(options) => process::run(|token| simulate::run(options, token)),
        Command::Build(options) => kobune_cli::build(&options),
        Command::Token(command) => process::offline(kobune_cli::token(command)),
        Command::Down(options) => down::run(&options),
        Command::Snapshot { command } => process::offline(snapshot::run(command)),
        Command::Image { command } => image::run(command),
        Command::Config { command: ConfigCommand::Show(options) } => settings::show(*options),
        Command::Config { command: ConfigCommand::Kubeconfig(command) } => return Ok(kobune_cli::kubeconfig(*command)),
        Command::Shim | Command::Tool => unreachable!("handled before the command line is read"),
    };
    done.map(|()| ExitCode::SUCCESS)
}
