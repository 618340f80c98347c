//! Finds and becomes a container's program; tells the shim when it cannot.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{BorrowedFd, RawFd};
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use nix::unistd::{AccessFlags, access, execve};

use crate::protocol::{self, Message};

/// Where a program is, in the words of Go's `exec.LookPath`, which Kubernetes' users know.
pub(super) fn find(name: &str, environment: &[String], cwd: &Path) -> Result<PathBuf, String> {
    let check = |path: &Path| -> Result<(), nix::Error> {
        access(path, AccessFlags::X_OK)?;
        if path.is_dir() { Err(nix::Error::EISDIR) } else { Ok(()) }
    };
    if name.contains('/') {
        let path = cwd.join(name);
        return match check(&path) {
            Ok(()) => Ok(path),
            Err(nix::Error::ENOENT | nix::Error::ENOTDIR) => {
                Err(format!("exec: {name:?}: stat {name}: no such file or directory"))
            }
            Err(nix::Error::EISDIR) => Err(format!("exec: {name:?}: is a directory")),
            Err(_) => Err(format!("exec: {name:?}: permission denied")),
        };
    }
    let path = environment.iter().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or("");
    let mut denied = false;
    for folder in path.split(':').filter(|folder| !folder.is_empty()) {
        let candidate = cwd.join(folder).join(name);
        match check(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(nix::Error::EACCES) => denied = true,
            Err(_) => {}
        }
    }
    Err(if denied {
        format!("exec: {name:?}: permission denied")
    } else {
        format!("exec: {name:?}: executable file not found in $PATH")
    })
}

/// Becomes the program; comes back only with what went wrong.
pub(super) fn become_program(arguments: &[String], environment: &[String], cwd: &Path) -> Result<Infallible, String> {
    let name = arguments.first().ok_or("no command specified")?;
    let path = find(name, environment, cwd)?;
    let text = |list: &[String]| -> Result<Vec<CString>, String> {
        list.iter()
            .map(|word| {
                CString::new(word.as_bytes()).map_err(|_| "a word of the command has a zero byte in it".to_owned())
            })
            .collect()
    };
    let (arguments, environment) = (text(arguments)?, text(environment)?);
    let path = CString::new(path.into_os_string().into_encoded_bytes()).map_err(|error| error.to_string())?;
    execve(&path, &arguments, &environment)
        .map_err(|error| format!("exec {}: {}", path.to_string_lossy(), describe(error)))
}

fn describe(error: nix::Error) -> String {
    match error {
        nix::Error::ENOENT => "no such file or directory".to_owned(),
        nix::Error::EACCES => "permission denied".to_owned(),
        nix::Error::ENOEXEC => "exec format error".to_owned(),
        other => other.desc().to_owned(),
    }
}

/// The last step of libcontainer's init process.
#[derive(Clone)]
pub(super) struct Program {
    /// Where to tell that it failed; closed by a successful exec.
    pub(super) report: RawFd,
}

impl Program {
    fn tell(&self, message: &str) {
        #[expect(unsafe_code, reason = "the descriptor comes through a fork as a number")]
        // SAFETY: the shim's child keeps this descriptor open until it ends, and this process is a fork of it.
        let report = unsafe { BorrowedFd::borrow_raw(self.report) };
        if protocol::send(report, &Message::Failed(message.to_owned()), &[]).is_err() {
            // Nobody listens any more; the exit code says the rest.
            std::process::exit(128);
        }
    }
}

fn parts(spec: &Spec) -> (Vec<String>, Vec<String>, PathBuf) {
    let process = spec.process().as_ref();
    let list = |list: Option<&Option<Vec<String>>>| list.and_then(Clone::clone).unwrap_or_default();
    (
        list(process.map(|process| process.args())),
        list(process.map(|process| process.env())),
        process.map(|process| process.cwd().clone()).unwrap_or_default(),
    )
}

impl Executor for Program {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let (arguments, environment, cwd) = parts(spec);
        let Err(message) = become_program(&arguments, &environment, &cwd);
        self.tell(&message);
        Err(ExecutorError::Other(message))
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let (arguments, environment, cwd) = parts(spec);
        let name = arguments.first().cloned().unwrap_or_default();
        match find(&name, &environment, &cwd) {
            Ok(_) => Ok(()),
            Err(message) => {
                self.tell(&message);
                Err(ExecutorValidationError::ArgValidationError(message))
            }
        }
    }

    fn setup_envs(&self, _environment: std::collections::HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // The program gets the specification's list as it is; this process's own variables do not matter.
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_or_named() {
        let environment = ["PATH=/nowhere:/proc/self".to_owned()];
        assert_eq!(find("exe", &environment, Path::new("/")), Ok("/proc/self/exe".into()));
        assert_eq!(
            find("none", &environment, Path::new("/")),
            Err("exec: \"none\": executable file not found in $PATH".to_owned())
        );
        assert_eq!(
            find("/none", &environment, Path::new("/")),
            Err("exec: \"/none\": stat /none: no such file or directory".to_owned())
        );
        assert_eq!(find("/proc", &environment, Path::new("/")), Err("exec: \"/proc\": is a directory".to_owned()));
        assert_eq!(find("./exe", &environment, Path::new("/proc/self")), Ok("/proc/self/./exe".into()));
    }
}
