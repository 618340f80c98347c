//! One call of a plug-in: a program with a few variables, its configuration on standard input and its answer on standard
//! output. The specification's section 2.

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::Command,
};

use super::{
    CniError,
    answer::{Failure, LINK},
};

/// More than this is no answer.
const LARGEST: u64 = 1 << 20;

/// A program that is being replaced cannot be started; that lasts for a moment.
const BUSY: (u32, Duration) = (5, Duration::from_secs(1));

/// What a plug-in is called for.
#[derive(Clone, Debug)]
pub(crate) struct Call<'a> {
    /// `ADD`, `DEL`, `CHECK`, `GC`, `STATUS` or `VERSION`.
    pub command: &'static str,
    /// The plug-in's type, the name of its program.
    pub plugin: &'a str,
    /// Where programs are.
    pub folders: &'a [PathBuf],
    /// Of which container, where the command is about one.
    pub container: Option<&'a str>,
    /// Its network namespace, if it is still there.
    pub netns: Option<&'a Path>,
    /// `CNI_ARGS`.
    pub arguments: &'a str,
    /// The plug-in's configuration.
    pub input: String,
    /// How long it may take.
    pub within: Duration,
}

/// The program of a plug-in.
pub(crate) fn find(plugin: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    folders.iter().map(|folder| folder.join(plugin)).find(|path| path.is_file())
}

/// Calls a plug-in and gives back what it wrote.
pub(crate) async fn invoke(call: Call<'_>) -> Result<Vec<u8>, CniError> {
    let failed = |message: String| CniError::Plugin {
        plugin: call.plugin.to_owned(),
        command: call.command.to_ascii_lowercase(),
        message,
    };
    let program = find(call.plugin, call.folders).ok_or_else(|| {
        let folders: Vec<_> = call.folders.iter().map(|folder| folder.display().to_string()).collect();
        failed(format!("failed to find plugin {:?} in path [{}]", call.plugin, folders.join(" ")))
    })?;
    let path = std::env::join_paths(call.folders).map_err(|error| failed(error.to_string()))?;
    let mut command = Command::new(program);
    command.env("CNI_COMMAND", call.command).env("CNI_PATH", path);
    for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"] {
        command.env_remove(name);
    }
    if let Some(container) = call.container {
        command.env("CNI_CONTAINERID", container).env("CNI_IFNAME", LINK).env("CNI_ARGS", call.arguments);
        command.env("CNI_NETNS", call.netns.unwrap_or(Path::new("")));
    }
    // In a group of its own, so that what it starts (programs for addresses) ends with it.
    command.process_group(0).kill_on_drop(true).current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = start(&mut command).await.map_err(|error| failed(error.to_string()))?;
    let mut group = child.id().and_then(|id| i32::try_from(id).ok()).map(|id| Group { id, ended: false });
    let (mut input, output) = (child.stdin.take().expect("asked for"), child.stdout.take().expect("asked for"));
    let errors = child.stderr.take().expect("asked for");
    let work = async {
        let write = async {
            // One that reads nothing is at liberty to; what it answers says whether that was right.
            let _ = input.write_all(call.input.as_bytes()).await;
            drop(input);
        };
        let ((), output, errors) = tokio::join!(write, read(output), read(errors));
        Ok::<_, io::Error>((output?, errors?, child.wait().await?))
    };
    let ended = tokio::time::timeout(call.within, work).await;
    let (output, errors, status) = match ended {
        Ok(ended) => ended.map_err(|error| failed(error.to_string()))?,
        Err(_) => {
            return Err(failed(format!("netplugin did not end within {} s and was killed", call.within.as_secs())));
        }
    };
    // What it leaves behind on purpose, a daemon of its own, goes on; only a call that was cut short kills.
    if let Some(group) = &mut group {
        group.ended = true;
    }
    if status.success() {
        return Ok(output);
    }
    Err(failed(Failure::parse(&output, &errors, &status.to_string())))
}

/// A group of processes that is killed unless it has ended in its own time, also when the call is dropped.
struct Group {
    id: i32,
    ended: bool,
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        match killpg(Pid::from_raw(self.id), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => tracing::warn!(group = self.id, %error, "a network plug-in could not be killed"),
        }
    }
}

async fn start(command: &mut Command) -> io::Result<tokio::process::Child> {
    let mut attempts = 0;
    loop {
        match command.spawn() {
            Err(error) if error.raw_os_error() == Some(libc::ETXTBSY) && attempts < BUSY.0 => {
                attempts += 1;
                tokio::time::sleep(BUSY.1).await;
            }
            result => return result,
        }
    }
}

async fn read(from: impl AsyncRead + Unpin) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(LARGEST + 1).read_to_end(&mut bytes).await?;
    if bytes.len() as u64 > LARGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("netplugin wrote more than {LARGEST} bytes")));
    }
    Ok(bytes)
}
