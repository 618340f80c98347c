//! A git repository, through the program `git`: which commit a branch or a tag is at, and its files.
//!
//! What a repository holds and what its server says is not trusted: no settings, hooks or filters of this machine's users are
//! in force, only the protocols that are allowed are spoken, nothing is asked on a terminal, every call has an end, and so
//! have the size of what is fetched and the number of files.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

use super::spec::{Reference, Source};

/// How long one call of git may take.
const LIMIT: Duration = Duration::from_secs(180);

/// The most that is read of git's errors.
const WORDS: u64 = 8 << 10;

/// The most that is read of an answer: names of references, names of files.
const ANSWER: u64 = 32 << 20;

/// The most files that a checkout may have.
const MOST_FILES: usize = 100_000;

/// What can go wrong with a repository.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// git is not there, or cannot be started.
    #[error("git cannot be run; it is needed to follow a repository")]
    Start(#[source] std::io::Error),
    /// git took too long.
    #[error("git {what} took longer than {} s", LIMIT.as_secs())]
    TooLong {
        /// The call.
        what: String,
    },
    /// git says that it does not work.
    #[error("git {what}: {words}")]
    Git {
        /// The call.
        what: String,
        /// Its words.
        words: String,
    },
    /// The repository has no such branch, tag or commit.
    #[error("the repository has no {0}")]
    NoReference(String),
    /// More than may be.
    #[error("{0}")]
    TooLarge(String),
    /// A link whose end is outside of the repository.
    #[error("the link {0} leads out of the repository")]
    LeadsOut(String),
    /// This machine's disk.
    #[error("{what} {}", .path.display())]
    Disk {
        /// What was to be done.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it did not work.
        source: std::io::Error,
    },
}

/// What git is told beside its arguments: how to reach the repository, with which keys. It is in the environment and in
/// private files, never among the arguments, which everybody on the machine can read.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Settings of git.
    pub settings: Vec<(String, String)>,
    /// Variables.
    pub environment: Vec<(String, String)>,
}

/// Bounds that the operator gives.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// The most bytes that a fetch, and a checkout, may have.
    pub largest: u64,
    /// The protocols that may be spoken, separated by colons.
    pub protocols: String,
}

/// A copy of a repository in a folder of its own: a bare repository, and beside it the files of one commit.
#[derive(Debug, Clone)]
pub struct Repository {
    folder: PathBuf,
    access: Access,
    bounds: Bounds,
}

impl Repository {
    /// The copy in this folder, which is made where it is missing.
    pub fn open(folder: &Path, bounds: Bounds) -> Result<Repository, RepositoryError> {
        use std::os::unix::fs::DirBuilderExt as _;
        let made = std::fs::DirBuilder::new().mode(0o700).recursive(true).create(folder);
        made.map_err(|source| RepositoryError::Disk { what: "make", path: folder.to_owned(), source })?;
        Ok(Repository { folder: folder.to_owned(), access: Access::default(), bounds })
    }

    /// How to reach the repository from now on.
    pub fn access(&mut self, access: Access) {
        self.access = access;
    }

    /// The folder with the files of a checkout.
    pub fn tree(&self) -> PathBuf {
        self.folder.join("tree")
    }

    fn store(&self) -> PathBuf {
        self.folder.join("store")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("sh");
        // `ulimit` is a matter of the shell; it counts blocks of 512 bytes.
        command.args(["-c", r#"ulimit -f "$0" && exec git "$@""#, &(self.bounds.largest / 512).to_string()]);
        command.args(arguments).current_dir(&self.folder).env_clear();
        for kept in
            ["PATH", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE"]
        {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        command.env("HOME", &self.folder).env("LC_ALL", "C").env("GIT_TERMINAL_PROMPT", "0");
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_LFS_SKIP_SMUDGE", "1");
        command.env("GIT_LITERAL_PATHSPECS", "1").env("GIT_ALLOW_PROTOCOL", &self.bounds.protocols);
        let own = [
            ("core.hooksPath", "/dev/null"),
            // Somebody else's repository may be followed where the operator allows files; nothing of it is run.
            ("safe.directory", "*"),
            ("gc.auto", "0"),
            ("fetch.recurseSubmodules", "false"),
            ("http.followRedirects", "initial"),
            ("http.lowSpeedLimit", "1000"),
            ("http.lowSpeedTime", "30"),
            ("advice.detachedHead", "false"),
        ];
        let given = self.access.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let settings: Vec<(&str, &str)> = own.into_iter().chain(given).collect();
        command.env("GIT_CONFIG_COUNT", settings.len().to_string());
        for (number, (name, value)) in settings.into_iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{number}"), name).env(format!("GIT_CONFIG_VALUE_{number}"), value);
        }
        command.envs(self.access.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// Runs git and gives back what it prints.
    async fn git(&self, arguments: &[&str]) -> Result<Vec<u8>, RepositoryError> {
        let what = arguments.iter().find(|word| !word.starts_with('-')).copied().unwrap_or_default().to_owned();
        let mut child = self.command(arguments).spawn().map_err(RepositoryError::Start)?;
        let (out, errors) = (child.stdout.take(), child.stderr.take());
        let work = async {
            let (out, errors) = tokio::join!(read(out, ANSWER), read(errors, WORDS));
            // Who is not read any more ends by itself.
            let status = child.wait().await;
            (out, errors, status)
        };
        let (out, errors, status) =
            tokio::time::timeout(LIMIT, work).await.map_err(|_| RepositoryError::TooLong { what: what.clone() })?;
        let status = status.map_err(RepositoryError::Start)?;
        if status.success() {
            return Ok(out);
        }
        use std::os::unix::process::ExitStatusExt as _;
        let mut words = String::from_utf8_lossy(&errors).trim().to_owned();
        let full = words.contains("File size limit") || words.contains("File too large");
        if full || status.signal() == Some(25) || (words.is_empty() && status.code() == Some(153)) {
            let most = self.bounds.largest >> 20;
            return Err(RepositoryError::TooLarge(format!(
                "the repository is larger than the {most} MB that it may have"
            )));
        }
        if words.is_empty() {
            words = status.to_string();
        }
        Err(RepositoryError::Git { what, words })
    }

    /// The commit that a reference is at now. A commit is where it is.
    pub async fn resolve(&self, source: &Source) -> Result<String, RepositoryError> {
        let names: Vec<String> = match &source.reference {
            Reference::Commit(commit) => return Ok(commit.clone()),
            Reference::Branch(name) => vec![format!("refs/heads/{name}")],
            // The second is the commit of a tag that is an object of its own.
            Reference::Tag(name) => vec![format!("refs/tags/{name}^{{}}"), format!("refs/tags/{name}")],
            Reference::Default => vec!["HEAD".to_owned()],
        };
        let mut arguments = vec!["ls-remote", "--quiet", "--", source.url.as_str()];
        arguments.extend(names.iter().map(String::as_str));
        let answer = String::from_utf8_lossy(&self.git(&arguments).await?).into_owned();
        let found = |name: &str| {
            answer
                .lines()
                .find_map(|line| line.split_once('\t').filter(|(_, known)| *known == name).map(|(commit, _)| commit))
        };
        let commit = names.iter().find_map(|name| found(name));
        match commit.filter(|commit| is_commit(commit)) {
            Some(commit) => Ok(commit.to_owned()),
            None => Err(RepositoryError::NoReference(source.reference.to_string())),
        }
    }

    /// Brings a commit here; nothing is fetched when it is here already. A copy that a kill or a full disk has left broken is
    /// made anew.
    pub async fn fetch(&self, source: &Source, commit: &str) -> Result<(), RepositoryError> {
        if self.has(source, commit).await {
            return Ok(());
        }
        // Each fetch adds to the copy, and without its history there is little that a new one could build upon.
        self.begin(&source.url).await?;
        let mut fetch = vec!["--git-dir=store", "fetch", "--quiet", "--no-tags", "--depth=1"];
        fetch.extend((!source.sparse.is_empty()).then_some("--filter=blob:none"));
        fetch.extend(["origin", commit]);
        let Err(error) = self.git(&fetch).await else { return Ok(()) };
        // Not every server gives single commits away; a branch or a tag may be asked for by its name.
        let name = match &source.reference {
            Reference::Branch(name) => format!("refs/heads/{name}"),
            Reference::Tag(name) => format!("refs/tags/{name}"),
            Reference::Default => "HEAD".to_owned(),
            Reference::Commit(_) => {
                let all = [
                    "--git-dir=store",
                    "fetch",
                    "--quiet",
                    "--no-tags",
                    "origin",
                    "+refs/heads/*:refs/remotes/origin/*",
                ];
                self.git(&all).await?;
                return if self.has(source, commit).await { Ok(()) } else { Err(error) };
            }
        };
        *fetch.last_mut().expect("the fetch names what it fetches") = &name;
        self.git(&fetch).await?;
        if self.has(source, commit).await { Ok(()) } else { Err(error) }
    }

    /// Whether a commit is here, from the same place.
    async fn has(&self, source: &Source, commit: &str) -> bool {
        let url = self.git(&["--git-dir=store", "config", "--get", "remote.origin.url"]).await;
        if !url.is_ok_and(|url| String::from_utf8_lossy(&url).trim() == source.url) {
            return false;
        }
        self.git(&["--git-dir=store", "rev-parse", "--quiet", "--verify", &format!("{commit}^{{tree}}")]).await.is_ok()
    }

    async fn begin(&self, url: &str) -> Result<(), RepositoryError> {
        remove(&self.store())?;
        self.git(&["init", "--quiet", "--bare", "--template=", "store"]).await?;
        self.git(&["--git-dir=store", "config", "remote.origin.url", url]).await?;
        Ok(())
    }

    /// Puts the files of a commit into [`Repository::tree`], in place of those that were there.
    pub async fn check_out(&self, source: &Source, commit: &str) -> Result<(), RepositoryError> {
        remove(&self.tree())?;
        remove(&self.folder.join("index"))?;
        let made = std::fs::create_dir(self.tree());
        made.map_err(|error| RepositoryError::Disk { what: "make", path: self.tree(), source: error })?;
        let folders: Vec<&str> = source.sparse.iter().map(String::as_str).collect();
        // Sizes of files that are not here would have to be fetched one by one.
        let mut list = vec!["--git-dir=store", "ls-tree", "-r", "-z"];
        list.extend(folders.is_empty().then_some("-l"));
        list.extend(["--full-tree", commit, "--"]);
        list.extend(&folders);
        let links = self.look_over(&self.git(&list).await?)?;
        let mut take = vec!["--git-dir=store", "--work-tree=tree", "checkout", "--quiet", "--force", commit, "--"];
        if folders.is_empty() {
            take.push(".");
        }
        take.extend(&folders);
        match self.git(&take).await {
            // An empty commit has no file that could be meant.
            Err(RepositoryError::Git { words, .. }) if words.contains("did not match any file") => {}
            taken => drop(taken?),
        }
        let root = std::fs::canonicalize(self.tree());
        let root = root.map_err(|error| RepositoryError::Disk { what: "find", path: self.tree(), source: error })?;
        for link in links {
            // One that leads nowhere is nobody's business.
            if let Ok(end) = std::fs::canonicalize(root.join(&link))
                && !end.starts_with(&root)
            {
                remove(&self.tree())?;
                return Err(RepositoryError::LeadsOut(link));
            }
        }
        Ok(())
    }

    /// Counts what a commit holds before it is written to the disk, and finds its links.
    fn look_over(&self, list: &[u8]) -> Result<Vec<String>, RepositoryError> {
        let (mut count, mut bytes, mut links) = (0_usize, 0_u64, Vec::new());
        for entry in list.split(|byte| *byte == 0).filter(|entry| !entry.is_empty()) {
            let entry = String::from_utf8_lossy(entry);
            let (facts, name) = entry.split_once('\t').unwrap_or((&entry, ""));
            let mut facts = facts.split_ascii_whitespace();
            if facts.next() == Some("120000") {
                links.push(name.to_owned());
            }
            bytes += facts.nth(2).and_then(|size| size.parse::<u64>().ok()).unwrap_or(0);
            count += 1;
        }
        if count > MOST_FILES || list.len() as u64 >= ANSWER {
            return Err(RepositoryError::TooLarge(format!(
                "the repository has more than {MOST_FILES} files: name folders in spec.source.sparse"
            )));
        }
        if bytes > self.bounds.largest {
            let (has, may) = (bytes >> 20, self.bounds.largest >> 20);
            return Err(RepositoryError::TooLarge(format!(
                "the files have {has} MB and may have {may}: name folders in spec.source.sparse"
            )));
        }
        Ok(links)
    }

    /// Takes the files of a checkout away.
    pub fn clear(&self) -> Result<(), RepositoryError> {
        remove(&self.tree())
    }
}

/// Whether a text is the name of a commit: 40 or 64 hexadecimal digits.
fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn remove(path: &Path) -> Result<(), RepositoryError> {
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(RepositoryError::Disk { what: "remove", path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

/// Reads a stream to its end or to a limit.
async fn read(stream: Option<impl AsyncRead + Unpin>, most: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        // What was read until then is what there is to say.
        let _ = stream.take(most).read_to_end(&mut bytes).await;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(folder: &Path, words: &[&str]) -> String {
        let output = std::process::Command::new("git")
            .args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"])
            .args(words)
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(output.status.success(), "{words:?} {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn commit(folder: &Path, name: &str, text: &str) -> String {
        std::fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
        std::fs::write(folder.join(name), text).unwrap();
        run(folder, &["add", "-A"]);
        run(folder, &["commit", "-q", "-m", "x", "--allow-empty"]);
        run(folder, &["rev-parse", "HEAD"])
    }

    fn source(folder: &Path, reference: Reference) -> Source {
        Source {
            url: format!("file://{}", folder.display()),
            reference,
            path: ".".to_owned(),
            sparse: Vec::new(),
            secret: None,
        }
    }

    fn bounds(largest: u64) -> Bounds {
        Bounds { largest, protocols: "file".to_owned() }
    }

    #[tokio::test]
    async fn references_files_links_and_force_pushes() {
        let scratch = tempfile::tempdir().unwrap();
        let origin = scratch.path().join("origin");
        std::fs::create_dir(&origin).unwrap();
        run(&origin, &["init", "-q"]);
        let first = commit(&origin, "a/one.yaml", "1");
        run(&origin, &["tag", "-a", "v1", "-m", "x"]);
        let second = commit(&origin, "b/two.yaml", "2");
        let copy = Repository::open(&scratch.path().join("copy"), bounds(8 << 20)).unwrap();
        for (reference, expected) in [
            (Reference::Default, &second),
            (Reference::Branch("main".to_owned()), &second),
            (Reference::Tag("v1".to_owned()), &first),
            (Reference::Commit(first.clone()), &first),
        ] {
            let source = source(&origin, reference);
            let found = copy.resolve(&source).await.unwrap();
            assert_eq!(found, *expected, "{}", source.reference);
            copy.fetch(&source, &found).await.unwrap();
            copy.check_out(&source, &found).await.unwrap();
            assert!(copy.tree().join("a/one.yaml").exists());
            assert_eq!(copy.tree().join("b/two.yaml").exists(), found == second);
        }
        let missing = source(&origin, Reference::Branch("none".to_owned()));
        let words = copy.resolve(&missing).await.unwrap_err().to_string();
        assert_eq!(words, "the repository has no branch none");

        // History that was written anew is followed like any other.
        run(&origin, &["reset", "-q", "--hard", &first]);
        let third = commit(&origin, "c/three.yaml", "3");
        let main = source(&origin, Reference::Branch("main".to_owned()));
        assert_eq!(copy.resolve(&main).await.unwrap(), third);
        copy.fetch(&main, &third).await.unwrap();
        copy.check_out(&main, &third).await.unwrap();
        assert!(!copy.tree().join("b").exists() && copy.tree().join("c/three.yaml").exists());

        // Only some folders, with only their files.
        let some = Source { sparse: vec!["c".to_owned()], ..main.clone() };
        let narrow = Repository::open(&scratch.path().join("narrow"), bounds(8 << 20)).unwrap();
        narrow.fetch(&some, &third).await.unwrap();
        narrow.check_out(&some, &third).await.unwrap();
        assert!(!narrow.tree().join("a").exists() && narrow.tree().join("c/three.yaml").exists());

        // A copy that was left broken is made anew.
        std::fs::write(copy.store().join("HEAD"), "").unwrap();
        std::fs::write(copy.store().join("shallow.lock"), "").unwrap();
        copy.fetch(&main, &third).await.unwrap();
        copy.check_out(&main, &third).await.unwrap();

        // Links may lead about, but not out.
        std::os::unix::fs::symlink("a/one.yaml", origin.join("in.yaml")).unwrap();
        let fine = commit(&origin, "d", "4");
        copy.fetch(&main, &fine).await.unwrap();
        copy.check_out(&main, &fine).await.unwrap();
        std::os::unix::fs::symlink("/etc/hostname", origin.join("out.yaml")).unwrap();
        let bad = commit(&origin, "d", "5");
        copy.fetch(&main, &bad).await.unwrap();
        let words = copy.check_out(&main, &bad).await.unwrap_err().to_string();
        assert_eq!(words, "the link out.yaml leads out of the repository");
        assert!(!copy.tree().exists());

        // A repository that is gone, a protocol that is not allowed, more than may be.
        let gone = source(&scratch.path().join("nowhere"), Reference::Default);
        assert!(matches!(copy.resolve(&gone).await, Err(RepositoryError::Git { .. })));
        let strict = Bounds { protocols: "https:ssh".to_owned(), ..bounds(8 << 20) };
        let strict = Repository::open(&scratch.path().join("strict"), strict).unwrap();
        assert!(strict.resolve(&main).await.unwrap_err().to_string().contains("not allowed"));
        std::fs::remove_file(origin.join("out.yaml")).unwrap();
        let noise: Vec<u8> = (0..900_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        std::fs::write(origin.join("large"), noise).unwrap();
        let large = commit(&origin, "d", "6");
        let small = Repository::open(&scratch.path().join("small"), bounds(256 << 10)).unwrap();
        let fetched = async {
            small.fetch(&main, &large).await?;
            small.check_out(&main, &large).await
        };
        assert!(fetched.await.is_err());
        assert!(!small.tree().join("large").exists());
    }
}
