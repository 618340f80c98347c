//! The world of a build: the disk, repositories through the program `git`, charts through the program `helm`, and files from
//! web servers.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use kobune_kustomize::{BuildError, Chart, Files, Repository};

/// Files, `git` and `helm`, with a folder for what they fetch that goes when the build is over.
pub(super) struct Disk {
    helm: String,
    scratch: RefCell<Option<PathBuf>>,
    count: Cell<u32>,
    /// Repositories that were fetched, by URL, reference and submodules: several bases often come from one.
    copies: RefCell<HashMap<(String, String, bool), PathBuf>>,
    /// The folder that nothing may lead out of, and whether other machines may be asked.
    confined: Option<(PathBuf, bool)>,
}

impl Disk {
    pub(super) fn new(helm: &str) -> Disk {
        Disk {
            helm: helm.to_owned(),
            scratch: RefCell::new(None),
            count: Cell::new(0),
            copies: RefCell::new(HashMap::new()),
            confined: None,
        }
    }

    /// The same for manifests that are not trusted: nothing outside of `root` is read.
    pub(super) fn confined(root: &Path, remote: bool) -> Disk {
        let mut disk = Disk::new("helm");
        disk.confined = Some((root.to_owned(), remote));
        disk
    }

    /// The path without links, if it may be looked at.
    fn inside(&self, path: &Path) -> std::io::Result<PathBuf> {
        let real = std::fs::canonicalize(path)?;
        let Some((root, _)) = &self.confined else { return Ok(real) };
        let fetched = self.scratch.borrow().as_ref().is_some_and(|scratch| real.starts_with(scratch));
        if fetched || real.starts_with(root) {
            return Ok(real);
        }
        Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, "it leads out of the repository"))
    }

    /// Refuses to ask another machine where that is not allowed.
    fn may_ask(&self, url: &str) -> Result<(), BuildError> {
        let problem = match &self.confined {
            Some((_, false)) => "what is not in the repository itself is not fetched (see --allow-remote-bases)",
            // git would also read folders of this machine.
            Some((_, true)) if !url.starts_with("https://") && !url.starts_with("ssh://") => {
                "only https:// and ssh:// are allowed here"
            }
            _ => return Ok(()),
        };
        Err(BuildError::Read { path: url.to_owned(), problem: problem.to_owned() })
    }

    /// A new folder that nobody else can look into.
    fn folder(&self) -> Result<PathBuf, BuildError> {
        use std::os::unix::fs::DirBuilderExt;
        let mut builder = std::fs::DirBuilder::new();
        builder.mode(0o700);
        let mut scratch = self.scratch.borrow_mut();
        let root = match &*scratch {
            Some(root) => root.clone(),
            None => {
                let name = format!("kobune-build-{}-{:08x}", std::process::id(), rand::random::<u32>());
                let root = std::env::temp_dir().join(name);
                builder.create(&root).map_err(|error| unreadable(&root, &error))?;
                *scratch = Some(root.clone());
                root
            }
        };
        self.count.set(self.count.get() + 1);
        let folder = root.join(self.count.get().to_string());
        builder.create(&folder).map_err(|error| unreadable(&folder, &error))?;
        Ok(folder)
    }

    fn helm(&self, chart: &Chart, home: &Path, arguments: &[String]) -> Result<Vec<u8>, BuildError> {
        let home = chart.config_home().map_or_else(|| home.join("helm"), PathBuf::from);
        let mut command = Command::new(&self.helm);
        command.args(arguments).env("HELM_CONFIG_HOME", &home);
        command.env("HELM_CACHE_HOME", home.join(".cache")).env("HELM_DATA_HOME", home.join(".data"));
        let output = command.stdin(Stdio::null()).output().map_err(|error| BuildError::Program {
            program: self.helm.clone(),
            problem: format!("cannot be run: {error}"),
        })?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(BuildError::Program { program: format!("{} {}", self.helm, arguments.join(" ")), problem: said })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(scratch) = self.scratch.get_mut().take()
            && let Err(error) = std::fs::remove_dir_all(&scratch)
        {
            eprintln!("kobune: cannot remove {}: {error}", scratch.display());
        }
    }
}

fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> BuildError {
    BuildError::Read { path: path.display().to_string(), problem: error.to_string() }
}

impl Files for Disk {
    fn read(&self, path: &Path) -> std::io::Result<Vec<u8>> {
        std::fs::read(self.inside(path)?)
    }

    fn canonical(&self, path: &Path) -> std::io::Result<PathBuf> {
        self.inside(path)
    }

    fn is_dir(&self, path: &Path) -> bool {
        self.inside(path).is_ok_and(|real| real.is_dir())
    }

    fn download(&self, url: &str) -> Result<Vec<u8>, BuildError> {
        self.may_ask(url)?;
        let failed = |problem: String| BuildError::Read { path: url.to_owned(), problem };
        crate::download::get(url).map_err(|error| failed(format!("{error:#}")))
    }

    fn clone_repository(&self, repository: &Repository) -> Result<PathBuf, BuildError> {
        self.may_ask(&repository.url)?;
        let key = (repository.url.clone(), repository.reference.clone(), repository.submodules);
        if let Some(folder) = self.copies.borrow().get(&key) {
            return Ok(folder.clone());
        }
        let folder = self.folder()?;
        let limit = Duration::from_secs(repository.timeout);
        let reference = if repository.reference.is_empty() { "HEAD" } else { &repository.reference };
        // A name that begins with a dash would be an option.
        for word in [&repository.url, reference] {
            if word.starts_with('-') {
                let problem = format!("{word} is no name");
                return Err(BuildError::Program { program: "git".to_owned(), problem });
            }
        }
        let mut steps = vec![
            vec!["init", "--quiet"],
            vec!["remote", "add", "origin", &repository.url],
            vec!["fetch", "--quiet", "--depth=1", &repository.url, reference],
            vec!["checkout", "--quiet", "FETCH_HEAD"],
        ];
        if repository.submodules {
            steps.push(vec!["submodule", "--quiet", "update", "--init", "--recursive"]);
        }
        for arguments in steps {
            git(&folder, &arguments, limit)
                .map_err(|error| BuildError::Program { program: "git".to_owned(), problem: format!("{error:#}") })?;
        }
        self.copies.borrow_mut().insert(key, folder.clone());
        Ok(folder)
    }

    fn render(&self, chart: &Chart) -> Result<Vec<u8>, BuildError> {
        if self.confined.is_some() {
            let problem = "charts are not rendered here".to_owned();
            return Err(BuildError::Program { program: self.helm.clone(), problem });
        }
        let scratch = self.folder()?;
        if !chart.home.join(chart.name()).is_dir() {
            self.helm(chart, &scratch, &chart.pull()?)?;
        }
        let own = std::fs::read(&chart.values_file).map_err(|error| unreadable(&chart.values_file, &error))?;
        let values = scratch.join("values.yaml");
        std::fs::write(&values, chart.values(&own)?).map_err(|error| unreadable(&values, &error))?;
        self.helm(chart, &scratch, &chart.template(&values))
    }
}

/// Runs git, which must end within a time.
fn git(folder: &Path, arguments: &[&str], limit: Duration) -> Result<()> {
    let what = format!("git {}", arguments.join(" "));
    let mut command = Command::new("git");
    command.args(arguments).current_dir(folder).env("GIT_TERMINAL_PROMPT", "0");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("git cannot be run; it is needed for bases in repositories")?;
    let mut errors = child.stderr.take().context("git has no standard error")?;
    let (sender, receiver) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut said = String::new();
        let result = errors.read_to_string(&mut said);
        // The other end is gone when git took too long.
        sender.send(()).ok();
        result.map(|_| said)
    });
    if receiver.recv_timeout(limit).is_err() {
        child.kill().with_context(|| format!("end {what}"))?;
        child.wait().with_context(|| format!("wait for {what}"))?;
        anyhow::bail!("{what} took longer than {} s", limit.as_secs());
    }
    let status = child.wait().with_context(|| format!("wait for {what}"))?;
    let said = reader.join().map_err(|_| anyhow::anyhow!("the reader of git's words is gone"))??;
    if status.success() { Ok(()) } else { anyhow::bail!("{what}: {}", said.trim()) }
}
