//! `tar`, as far as `kubectl cp` needs: `tar cf - PATH...`, `tar xmf - -C FOLDER`, `tar tf -`.

use std::{
    ffi::OsString,
    fs,
    io::{self, Read, Write},
    path::{Component, Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use clap::Args;

/// `tar`.
#[derive(Args)]
pub(crate) struct Tar {
    /// c, x or t with f, and m, o, p, v, -C FOLDER, as in `tar cf - PATH`, `tar -xmf - -C FOLDER`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    words: Vec<OsString>,
}

/// What the words ask for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request {
    action: Option<char>,
    file: Option<PathBuf>,
    folder: Option<PathBuf>,
    verbose: bool,
    keep_times: bool,
    paths: Vec<PathBuf>,
}

impl Request {
    fn parse(words: Vec<OsString>) -> Result<Request> {
        let mut request = Request { keep_times: true, ..Request::default() };
        let mut words = words.into_iter().enumerate();
        let mut only_paths = false;
        while let Some((position, word)) = words.next() {
            let text = word.to_str().unwrap_or_default();
            let letters = match text.strip_prefix('-') {
                _ if only_paths => None,
                Some("-") => {
                    only_paths = true;
                    continue;
                }
                Some("-no-same-owner" | "-no-same-permissions" | "-same-permissions") => continue,
                Some(rest) if rest.starts_with('-') => bail!("{text} is not a flag it knows"),
                Some("") => None,
                Some(letters) => Some(letters),
                None if position == 0 => Some(text),
                None => None,
            };
            let Some(letters) = letters else {
                request.paths.push(PathBuf::from(word));
                continue;
            };
            let letters = letters.to_owned();
            for letter in letters.chars() {
                match letter {
                    'c' | 'x' | 't' => request.action = Some(letter),
                    'v' => request.verbose = true,
                    'm' => request.keep_times = false,
                    'o' | 'p' => {}
                    'f' | 'C' => {
                        let value = words.next().map(|(_, word)| PathBuf::from(word));
                        let value = value.with_context(|| format!("-{letter} lacks what follows it"))?;
                        if letter == 'f' {
                            request.file = Some(value);
                        } else {
                            request.folder = Some(value);
                        }
                    }
                    _ => bail!("-{letter} is not a flag it knows"),
                }
            }
        }
        Ok(request)
    }

    /// The file, unless it is standard input or output.
    fn real_file(&self) -> Option<&Path> {
        self.file.as_deref().filter(|file| *file != Path::new("-"))
    }
}

impl Tar {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let request = Request::parse(self.words)?;
        let file = request.real_file();
        let opened = |file: &Path| fs::File::open(file).with_context(|| file.display().to_string());
        match request.action {
            Some('c') => {
                let out: Box<dyn Write> = match file {
                    Some(file) => Box::new(fs::File::create(file).with_context(|| file.display().to_string())?),
                    None => Box::new(io::stdout().lock()),
                };
                pack(&request, io::BufWriter::new(out))
            }
            Some(action @ ('x' | 't')) => {
                let from: Box<dyn Read> = match file {
                    Some(file) => Box::new(opened(file)?),
                    None => Box::new(io::stdin().lock()),
                };
                if action == 'x' { unpack(&request, from) } else { list(from) }
            }
            _ => bail!("one of c, x and t is needed"),
        }
    }
}

fn pack(request: &Request, out: impl Write) -> Result<ExitCode> {
    let mut builder = tar::Builder::new(out);
    builder.follow_symlinks(false);
    let mut code = ExitCode::SUCCESS;
    let mut said = false;
    for path in &request.paths {
        let real = request.folder.as_deref().map_or_else(|| path.clone(), |folder| folder.join(path));
        if path.is_absolute() && !said {
            eprintln!("tar: names in the archive begin without /");
            said = true;
        }
        let name: PathBuf = path.components().filter(|part| !matches!(part, Component::RootDir)).collect();
        let name = if name.as_os_str().is_empty() { PathBuf::from(".") } else { name };
        let add = |builder: &mut tar::Builder<_>| -> io::Result<()> {
            if fs::symlink_metadata(&real)?.is_dir() {
                builder.append_dir_all(&name, &real)
            } else {
                builder.append_path_with_name(&real, &name)
            }
        };
        if let Err(error) = add(&mut builder) {
            eprintln!("tar: {}: {error}", path.display());
            code = ExitCode::from(2);
        }
    }
    builder.into_inner().and_then(|mut out| out.flush()).context("the archive")?;
    Ok(code)
}

fn unpack(request: &Request, from: impl Read) -> Result<ExitCode> {
    let folder = request.folder.clone().unwrap_or_else(|| PathBuf::from("."));
    let mut archive = tar::Archive::new(from);
    archive.set_preserve_mtime(request.keep_times);
    archive.set_overwrite(true);
    let mut code = ExitCode::SUCCESS;
    for entry in archive.entries().context("the archive")? {
        let mut entry = entry.context("the archive")?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if request.verbose {
            eprintln!("{name}");
        }
        // Names that would lead out of the folder are left out, which is what `false` says.
        match entry.unpack_in(&folder) {
            Ok(true) => {}
            Ok(false) => {
                eprintln!("tar: {name} leads out of the folder");
                code = ExitCode::from(2);
            }
            Err(error) => {
                eprintln!("tar: {name}: {error}");
                code = ExitCode::from(2);
            }
        }
    }
    Ok(code)
}

fn list(from: impl Read) -> Result<ExitCode> {
    let mut out = io::stdout().lock();
    for entry in tar::Archive::new(from).entries().context("the archive")? {
        let entry = entry.context("the archive")?;
        writeln!(out, "{}", String::from_utf8_lossy(&entry.path_bytes()))?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Request> {
        Request::parse(words.split(' ').map(OsString::from).collect())
    }

    #[test]
    fn kubectls_spellings() {
        let check = |words: &str, action, folder: Option<&str>, paths: &[&str]| {
            let request = parse(words).expect("understood");
            assert_eq!((request.action, request.file.clone()), (Some(action), Some(PathBuf::from("-"))), "{words}");
            assert_eq!(request.folder.as_deref(), folder.map(Path::new), "{words}");
            assert_eq!(request.paths, paths.iter().map(PathBuf::from).collect::<Vec<_>>(), "{words}");
        };
        check("cf - /etc/hosts", 'c', None, &["/etc/hosts"]);
        check("-xmf - -C /tmp", 'x', Some("/tmp"), &[]);
        check("--no-same-permissions --no-same-owner -xmf - -C /tmp", 'x', Some("/tmp"), &[]);
        check("xf - -C /tmp", 'x', Some("/tmp"), &[]);
        check("cf - -C /tmp -- -odd", 'c', Some("/tmp"), &["-odd"]);
        for words in ["cf", "-z", "--gzip", "-C"] {
            assert!(parse(words).is_err(), "{words}");
        }
    }

    #[test]
    fn what_is_packed_comes_out_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("from/deep")).expect("made");
        fs::write(at("from/deep/file"), "text").expect("written");
        std::os::unix::fs::symlink("deep/file", at("from/link")).expect("linked");
        fs::create_dir(at("to")).expect("made");
        let mut archive = Vec::new();
        let request = Request { folder: Some(at("")), paths: vec!["from".into()], ..Request::default() };
        assert_eq!(pack(&request, &mut archive).expect("packed"), ExitCode::SUCCESS);
        let request = Request { folder: Some(at("to")), ..Request::default() };
        assert_eq!(unpack(&request, archive.as_slice()).expect("unpacked"), ExitCode::SUCCESS);
        assert_eq!(fs::read_to_string(at("to/from/link")).expect("read"), "text");
        assert!(unpack(&request, &archive[..700]).is_err());
    }
}
