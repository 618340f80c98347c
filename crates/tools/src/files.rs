//! Tools for files and folders.

use std::{
    ffi::OsString,
    fs,
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
    time::SystemTime,
};

use anyhow::{Context, Result};
use clap::Args;

/// Goes through paths, says which failed and why, and fails with `code` when any did.
fn each(paths: &[PathBuf], code: u8, mut work: impl FnMut(&Path) -> io::Result<()>) -> Result<ExitCode> {
    let mut failed = false;
    for path in paths {
        if let Err(error) = work(path) {
            if error.kind() == io::ErrorKind::BrokenPipe {
                return Err(error.into());
            }
            eprintln!("{}: {error}", path.display());
            failed = true;
        }
    }
    Ok(if failed { ExitCode::from(code) } else { ExitCode::SUCCESS })
}

/// Copies as it comes: who waits at the other end sees each piece at once.
fn copy(from: &mut dyn Read, to: &mut [&mut dyn Write]) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        for target in to.iter_mut() {
            target.write_all(&buffer[..length])?;
            target.flush()?;
        }
    }
}

/// `cat`.
#[derive(Args)]
pub(crate) struct Cat {
    /// The files; `-` or none means standard input.
    files: Vec<PathBuf>,
}

impl Cat {
    pub(crate) fn run(mut self) -> Result<ExitCode> {
        if self.files.is_empty() {
            self.files.push(PathBuf::from("-"));
        }
        let mut out = io::stdout().lock();
        each(&self.files, 1, |path| match path.to_str() {
            Some("-") => copy(&mut io::stdin().lock(), &mut [&mut out]),
            _ => copy(&mut fs::File::open(path)?, &mut [&mut out]),
        })
    }
}

/// `tee`.
#[derive(Args)]
pub(crate) struct Tee {
    /// Write behind what the files have.
    #[arg(short, long)]
    append: bool,
    /// The files.
    files: Vec<PathBuf>,
}

impl Tee {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let mut targets = Vec::new();
        for path in &self.files {
            let mut options = fs::OpenOptions::new();
            options.create(true).write(true).append(self.append).truncate(!self.append);
            targets.push(options.open(path).with_context(|| path.display().to_string())?);
        }
        let mut out = io::stdout().lock();
        let mut all: Vec<&mut dyn Write> = vec![&mut out];
        all.extend(targets.iter_mut().map(|file| file as &mut dyn Write));
        copy(&mut io::stdin().lock(), &mut all)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// `ls`.
#[derive(Args)]
pub(crate) struct Ls {
    /// Also names that begin with a dot.
    #[arg(short, long)]
    all: bool,
    /// With mode, owner, group and size.
    #[arg(short)]
    long: bool,
    /// One name a line, which is always so.
    #[arg(short = '1')]
    one: bool,
    /// The folder itself, not what is in it.
    #[arg(short)]
    directory: bool,
    /// What to list; the working folder when absent.
    paths: Vec<PathBuf>,
}

impl Ls {
    pub(crate) fn run(mut self) -> Result<ExitCode> {
        if self.paths.is_empty() {
            self.paths.push(PathBuf::from("."));
        }
        let several = self.paths.len() > 1;
        let mut out = io::stdout().lock();
        each(&self.paths, 2, |path| {
            let meta = fs::symlink_metadata(path)?;
            let is_folder = meta.is_dir() || (meta.is_symlink() && fs::metadata(path).is_ok_and(|meta| meta.is_dir()));
            if self.directory || !is_folder {
                return writeln!(out, "{}", self.line(path, &path.display().to_string(), &meta));
            }
            if several {
                writeln!(out, "{}:", path.display())?;
            }
            let mut names: Vec<OsString> =
                fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<_>>()?;
            names.sort();
            for name in names {
                let text = name.to_string_lossy();
                if self.all || !text.starts_with('.') {
                    let path = path.join(&name);
                    writeln!(out, "{}", self.line(&path, &text, &fs::symlink_metadata(&path)?))?;
                }
            }
            Ok(())
        })
    }

    fn line(&self, path: &Path, name: &str, meta: &fs::Metadata) -> String {
        if !self.long {
            return name.to_owned();
        }
        let target = match fs::read_link(path) {
            Ok(target) if meta.is_symlink() => format!(" -> {}", target.display()),
            _ => String::new(),
        };
        format!("{} {:>5} {:>5} {:>10} {name}{target}", mode(meta), meta.uid(), meta.gid(), meta.len())
    }
}

/// `drwxr-xr-x`.
fn mode(meta: &fs::Metadata) -> String {
    let kind = match meta.mode() & libc::S_IFMT {
        libc::S_IFDIR => 'd',
        libc::S_IFLNK => 'l',
        libc::S_IFCHR => 'c',
        libc::S_IFBLK => 'b',
        libc::S_IFIFO => 'p',
        libc::S_IFSOCK => 's',
        _ => '-',
    };
    let bits = meta.permissions().mode();
    let special = |bit: u32, set: char, position: u32, letter: char| {
        let allowed = bits & (1 << position) != 0;
        match (bits & bit != 0, allowed) {
            (true, true) => set,
            (true, false) => set.to_ascii_uppercase(),
            (false, true) => letter,
            (false, false) => '-',
        }
    };
    let plain = |position: u32, letter: char| if bits & (1 << position) != 0 { letter } else { '-' };
    [
        kind,
        plain(8, 'r'),
        plain(7, 'w'),
        special(0o4000, 's', 6, 'x'),
        plain(5, 'r'),
        plain(4, 'w'),
        special(0o2000, 's', 3, 'x'),
        plain(2, 'r'),
        plain(1, 'w'),
        special(0o1000, 't', 0, 'x'),
    ]
    .iter()
    .collect()
}

/// `mkdir`.
#[derive(Args)]
pub(crate) struct Mkdir {
    /// Also the folders above; what is there already is fine.
    #[arg(short, long)]
    parents: bool,
    /// The folders.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

impl Mkdir {
    pub(crate) fn run(self) -> Result<ExitCode> {
        each(&self.paths, 1, |path| if self.parents { fs::create_dir_all(path) } else { fs::create_dir(path) })
    }
}

/// `rm`.
#[derive(Args)]
pub(crate) struct Rm {
    /// Folders with all that is in them.
    #[arg(short, visible_short_alias = 'R', long)]
    recursive: bool,
    /// What is not there is fine.
    #[arg(short, long)]
    force: bool,
    /// What to remove.
    paths: Vec<PathBuf>,
}

impl Rm {
    pub(crate) fn run(self) -> Result<ExitCode> {
        each(&self.paths, 1, |path| {
            let remove = || {
                let is_folder = fs::symlink_metadata(path)?.is_dir();
                if is_folder && self.recursive { fs::remove_dir_all(path) } else { fs::remove_file(path) }
            };
            match remove() {
                Err(error) if self.force && error.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other,
            }
        })
    }
}

/// `touch`.
#[derive(Args)]
pub(crate) struct Touch {
    /// The files.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

impl Touch {
    pub(crate) fn run(self) -> Result<ExitCode> {
        each(&self.paths, 1, |path| {
            let file = fs::OpenOptions::new().create(true).append(true).open(path)?;
            file.set_modified(SystemTime::now())
        })
    }
}

/// `write-file`.
#[derive(Args)]
pub(crate) struct WriteFile {
    /// Write behind what the file has.
    #[arg(short, long)]
    append: bool,
    /// The file.
    path: PathBuf,
    /// The words, separated by spaces; a newline follows. Standard input when absent.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

impl WriteFile {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let mut options = fs::OpenOptions::new();
        options.create(true).write(true).append(self.append).truncate(!self.append);
        let write = || {
            let mut file = options.open(&self.path)?;
            if self.words.is_empty() {
                copy(&mut io::stdin().lock(), &mut [&mut file])
            } else {
                writeln!(file, "{}", self.words.join(" "))
            }
        };
        write().with_context(|| self.path.display().to_string())?;
        Ok(ExitCode::SUCCESS)
    }
}

/// `test`: `kubectl cp` asks with it whether its target is a folder.
pub(crate) fn test(words: &[OsString]) -> Result<ExitCode> {
    let text: Vec<&str> = words.iter().map(|word| word.to_str().unwrap_or_default()).collect();
    let holds = match text.as_slice() {
        ["!", rest @ ..] => {
            let rest: Vec<OsString> = rest.iter().map(OsString::from).collect();
            return test(&rest).map(
                |code| {
                    if code == ExitCode::SUCCESS { ExitCode::FAILURE } else { ExitCode::SUCCESS }
                },
            );
        }
        ["-e", _] => Path::new(&words[1]).exists(),
        ["-f", _] => Path::new(&words[1]).is_file(),
        ["-d", _] => Path::new(&words[1]).is_dir(),
        ["-L" | "-h", _] => Path::new(&words[1]).is_symlink(),
        ["-s", _] => fs::metadata(&words[1]).is_ok_and(|meta| meta.len() > 0),
        ["-n", word] | [word] => !word.is_empty(),
        ["-z", word] => word.is_empty(),
        [left, "=" | "==", right] => left == right,
        [left, "!=", right] => left != right,
        [] => false,
        _ => {
            eprintln!("test: {} is not a question it knows", text.join(" "));
            return Ok(ExitCode::from(2));
        }
    };
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().to_str().expect("a text");
        let file = format!("{path}/file");
        fs::write(&file, "x").expect("written");
        let check = |words: &[&str], expected: Option<bool>| {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            let code = test(&words).expect("an answer");
            let expected = match expected {
                Some(true) => ExitCode::SUCCESS,
                Some(false) => ExitCode::FAILURE,
                None => ExitCode::from(2),
            };
            assert_eq!(code, expected, "{words:?}");
        };
        check(&["-d", path], Some(true));
        check(&["-d", &file], Some(false));
        check(&["-f", &file], Some(true));
        check(&["-s", &file], Some(true));
        check(&["-e", "/nothing/here"], Some(false));
        check(&["!", "-e", "/nothing/here"], Some(true));
        check(&["a", "=", "a"], Some(true));
        check(&["a", "!=", "a"], Some(false));
        check(&["-z", ""], Some(true));
        check(&[], Some(false));
        check(&["-q", "x"], None);
    }

    #[test]
    fn modes() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        fs::write(&file, "").expect("written");
        for (bits, expected) in [(0o644, "-rw-r--r--"), (0o4755, "-rwsr-xr-x"), (0o1700, "-rwx-----T")] {
            fs::set_permissions(&file, fs::Permissions::from_mode(bits)).expect("set");
            assert_eq!(mode(&fs::metadata(&file).expect("read")), expected);
        }
    }

    #[test]
    fn files_come_and_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        Mkdir { parents: true, paths: vec![at("a/b")] }.run().expect("made");
        WriteFile { append: false, path: at("a/b/c"), words: vec!["one".into(), "two".into()] }.run().expect("written");
        WriteFile { append: true, path: at("a/b/c"), words: vec!["three".into()] }.run().expect("written");
        assert_eq!(fs::read_to_string(at("a/b/c")).expect("read"), "one two\nthree\n");
        Touch { paths: vec![at("d")] }.run().expect("touched");
        assert!(at("d").exists());
        let code = Rm { recursive: false, force: false, paths: vec![at("a"), at("d")] }.run().expect("ran");
        assert_eq!((code, at("a").exists(), at("d").exists()), (ExitCode::FAILURE, true, false));
        let code = Rm { recursive: true, force: true, paths: vec![at("a"), at("d")] }.run().expect("ran");
        assert_eq!((code, at("a").exists()), (ExitCode::SUCCESS, false));
    }
}
