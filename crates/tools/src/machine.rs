//! Tools that say where one is: environment and mounts.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Write},
    os::unix::ffi::OsStrExt,
    process::ExitCode,
};

use anyhow::{Context, Result};

/// `env`.
pub(crate) fn env(name: Option<&OsStr>) -> Result<ExitCode> {
    let mut out = io::stdout().lock();
    let mut line = |words: &[&[u8]]| -> io::Result<()> {
        words.iter().try_for_each(|word| out.write_all(word))?;
        out.write_all(b"\n")
    };
    match name {
        Some(name) => match std::env::var_os(name) {
            Some(value) => line(&[value.as_bytes()])?,
            None => return Ok(ExitCode::FAILURE),
        },
        None => {
            for (name, value) in std::env::vars_os() {
                line(&[name.as_bytes(), b"=", value.as_bytes()])?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `mount-info`.
pub(crate) fn mount_info() -> Result<ExitCode> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
    let mut out = io::stdout().lock();
    for line in text.lines() {
        if let Some(line) = mount_line(line) {
            writeln!(out, "{line}")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw` in short.
fn mount_line(line: &str) -> Option<String> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (root, path, options) = (left.next()?, left.next()?, left.next()?);
    let shared: Vec<&str> = left.collect();
    let mut right = right.split(' ');
    let (kind, source) = (right.next()?, right.next()?);
    Some(format!("{path} {kind} {source}[{root}] {options} {}", shared.join(",")).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_in_short() {
        let check = |line: &str, expected: Option<&str>| assert_eq!(mount_line(line).as_deref(), expected);
        check(
            "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue",
            Some("/mnt2 ext3 /dev/root[/mnt1] rw,noatime master:1"),
        );
        check("36 35 98:0 / /x rw - tmpfs tmpfs rw", Some("/x tmpfs tmpfs[/] rw"));
        check("nonsense", None);
    }
}
