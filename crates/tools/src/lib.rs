//! Small programs for examples and tests: what the image `kobune.local/kobune` runs.
//!
//! They are reached as `kobune tool NAME ...` and, in the image, under their own names: the executable looks at what
//! it was called by. There is no C library and no shell in that image, so that they look up names themselves and end
//! on SIGTERM also as process 1, which the kernel otherwise protects from signals that it does not handle.

mod files;
mod http_echo;
mod http_get;
mod machine;
mod network;
mod process;
mod resolver;
mod tape;

use std::{
    ffi::{OsStr, OsString},
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The names of all tools: what the image has in `/bin`.
pub const NAMES: &[&str] = &[
    "burn",
    "cat",
    "dns",
    "eat",
    "echo",
    "env",
    "exit",
    "false",
    "hostname",
    "http-echo",
    "http-get",
    "id",
    "ls",
    "mkdir",
    "mount-info",
    "pause",
    "ps",
    "rm",
    "sleep",
    "tar",
    "tcp-echo",
    "tcp-get",
    "tee",
    "test",
    "touch",
    "true",
    "udp-echo",
    "udp-get",
    "write-file",
];

/// Runs `kobune tool ARGS...`; the first of `arguments` is the tool's name.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    start("kobune tool", arguments)
}

/// The tool of this name, to be run with the arguments that follow it.
pub fn by_name(name: &OsStr) -> Option<impl FnOnce(std::env::ArgsOs) -> ExitCode + use<>> {
    let name = NAMES.iter().find(|known| name == **known)?;
    Some(move |arguments: std::env::ArgsOs| {
        // `cat --help` speaks of `cat`, not of `kobune tool cat`: the program's own name is left empty.
        start("", [OsString::from(name)].into_iter().chain(arguments))
    })
}

fn start(program: &str, arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments = [OsString::from(program)].into_iter().chain(arguments);
    let tool = match Tools::try_parse_from(arguments) {
        Ok(tools) => tools.tool,
        Err(error) => {
            let code = if error.use_stderr() { 2 } else { 0 };
            return match error.print() {
                Ok(()) => ExitCode::from(code),
                Err(_) => ExitCode::FAILURE,
            };
        }
    };
    let finished = process::end_on_signals().and_then(|()| run(tool)).and_then(|code| {
        io::stdout().flush()?;
        Ok(code)
    });
    match finished {
        Ok(code) => code,
        Err(error) => {
            // Who reads no further has had enough: `... | head` is no failure to speak of.
            let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
            if !causes.any(|cause| cause.kind() == io::ErrorKind::BrokenPipe) {
                eprintln!("{error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

#[derive(Parser)]
#[command(
    about = "Small programs for examples and tests",
    long_about = "Small programs for examples and tests. The image kobune.local/kobune has each under its own name.",
    disable_version_flag = true
)]
struct Tools {
    #[command(subcommand)]
    tool: Tool,
}

#[derive(Subcommand)]
enum Tool {
    /// Keep processors busy.
    Burn(process::BurnOptions),
    /// Write files, or standard input, to standard output.
    Cat(files::Cat),
    /// Ask the DNS.
    Dns(network::DnsOptions),
    /// Take memory and hold it.
    Eat(process::EatOptions),
    /// Write the arguments.
    Echo {
        /// Do not end the line.
        #[arg(short)]
        n: bool,
        /// What to write, separated by spaces.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
    /// Write the environment, or one variable's value.
    Env {
        /// The one variable; the exit code is 1 when it is not set.
        name: Option<OsString>,
    },
    /// End with an exit code.
    Exit(process::ExitOptions),
    /// End with exit code 1.
    False {
        /// Ignored.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        ignored: Vec<OsString>,
    },
    /// Write the host's name, which in a pod is the pod's.
    Hostname,
    /// Answer HTTP requests with who and where one is.
    HttpEcho(http_echo::Options),
    /// Fetch a page by plain HTTP and write it.
    HttpGet(http_get::Options),
    /// Write user and groups.
    Id,
    /// List folders.
    Ls(files::Ls),
    /// Make folders.
    Mkdir(files::Mkdir),
    /// List mounts: where, of which type, from what, with which options.
    MountInfo,
    /// List processes.
    Ps,
    /// Remove files and folders.
    Rm(files::Rm),
    /// Hold a pod's namespaces: wait, and take in what other processes leave behind.
    Pause,
    /// Wait.
    Sleep(process::SleepOptions),
    /// Pack and unpack archives, as far as `kubectl cp` needs.
    Tar(tape::Tar),
    /// Send back whatever TCP clients send.
    TcpEcho(network::ListenOptions),
    /// Send a line to a TCP server and write the line that comes back.
    TcpGet(network::LineOptions),
    /// Copy standard input to standard output and files.
    Tee(files::Tee),
    /// Say by the exit code whether something is there: -e, -f, -d, -s PATH, -z, -n TEXT.
    Test {
        /// The question.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
    /// Make files that are not there; set the time of those that are.
    Touch(files::Touch),
    /// End with exit code 0.
    True {
        /// Ignored.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        ignored: Vec<OsString>,
    },
    /// Send back whatever UDP clients send.
    UdpEcho(network::ListenOptions),
    /// Send a packet to a UDP server and write what comes back.
    UdpGet(network::LineOptions),
    /// Write text to a file, which must be in a folder that exists.
    WriteFile(files::WriteFile),
}

fn run(tool: Tool) -> Result<ExitCode> {
    match tool {
        Tool::Burn(options) => process::burn(&options),
        Tool::Cat(cat) => cat.run(),
        Tool::Dns(options) => network::dns(&options),
        Tool::Eat(options) => process::eat(&options),
        Tool::Echo { n, words } => echo(n, &words),
        Tool::Env { name } => machine::env(name.as_deref()),
        Tool::Exit(options) => Ok(ExitCode::from(options.code)),
        Tool::False { .. } => Ok(ExitCode::FAILURE),
        Tool::Hostname => process::hostname(),
        Tool::HttpEcho(options) => http_echo::run(&options),
        Tool::HttpGet(options) => http_get::run(&options),
        Tool::Id => process::id(),
        Tool::Ls(ls) => ls.run(),
        Tool::Mkdir(mkdir) => mkdir.run(),
        Tool::MountInfo => machine::mount_info(),
        Tool::Pause => process::pause(),
        Tool::Ps => process::list(),
        Tool::Rm(rm) => rm.run(),
        Tool::Sleep(options) => process::sleep(&options),
        Tool::Tar(tar) => tar.run(),
        Tool::TcpEcho(options) => network::tcp_echo(&options),
        Tool::TcpGet(options) => network::tcp_get(&options),
        Tool::Tee(tee) => tee.run(),
        Tool::Test { words } => files::test(&words),
        Tool::Touch(touch) => touch.run(),
        Tool::True { .. } => Ok(ExitCode::SUCCESS),
        Tool::UdpEcho(options) => network::udp_echo(&options),
        Tool::UdpGet(options) => network::udp_get(&options),
        Tool::WriteFile(write_file) => write_file.run(),
    }
}

fn echo(n: bool, words: &[OsString]) -> Result<ExitCode> {
    let mut line = words.join(OsStr::new(" ")).into_encoded_bytes();
    if !n {
        line.push(b'\n');
    }
    io::stdout().write_all(&line)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_every_name_is_a_tool() {
        let command = Tools::command();
        command.clone().debug_assert();
        let mut known: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
        known.sort_unstable();
        assert_eq!(known, NAMES);
    }

    #[test]
    fn words_that_look_like_flags_stay_words() {
        let check = |words: &[&str], expected: &[&str]| {
            let arguments = ["", "echo"].iter().chain(words);
            match Tools::try_parse_from(arguments).map(|tools| tools.tool) {
                Ok(Tool::Echo { words, .. }) => assert_eq!(words, expected),
                _ => panic!("{words:?} is not an echo"),
            }
        };
        check(&["a", "--b", "-c"], &["a", "--b", "-c"]);
        check(&["--", "-n"], &["-n"]);
    }
}
