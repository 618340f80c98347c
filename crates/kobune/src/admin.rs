//! The way in for `kobune image` while kobune runs: a Unix socket in the data folder that only root can reach.
//!
//! One request a connection, one line of JSON; the answer is one line of JSON.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use kobune_runtime::Images;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

/// What can be asked.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Add the images of an archive on this machine.
    Load(PathBuf),
    /// Fetch an image.
    Pull(String),
    /// List the images.
    List,
    /// Remove a name or an image.
    Remove(String),
}

/// An image in a list.
#[derive(Debug, Serialize, Deserialize)]
pub struct Listed {
    /// Digest of its config.
    pub id: String,
    /// Its names.
    pub names: Vec<String>,
    /// Bytes of its layers as stored.
    pub size: u64,
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// The names of the images that were added.
    Names(Vec<String>),
    /// The images.
    Images(Vec<Listed>),
    /// It is done.
    Done,
    /// It failed, with the causes.
    Failed(String),
}

/// Does what is asked.
pub async fn perform(images: &Arc<Images>, request: Request) -> Result<Answer> {
    match request {
        Request::Load(path) => {
            let images = Arc::clone(images);
            let names = tokio::task::spawn_blocking(move || {
                let file = std::fs::File::open(&path).with_context(|| format!("open {}", path.display()))?;
                images.load(file).with_context(|| format!("load {}", path.display()))
            });
            Ok(Answer::Names(names.await??))
        }
        Request::Pull(reference) => {
            let image = images.pull(&reference, None).await?;
            Ok(Answer::Names(if image.tags.is_empty() { image.digests } else { image.tags }))
        }
        Request::List => {
            let listed = images.list().into_iter().map(|image| {
                let names = if image.tags.is_empty() { image.digests } else { image.tags };
                Listed { id: image.id, names, size: image.size }
            });
            Ok(Answer::Images(listed.collect()))
        }
        Request::Remove(reference) => {
            images.get(&reference).with_context(|| format!("image {reference} not found"))?;
            images.remove(&reference)?;
            Ok(Answer::Done)
        }
    }
}

fn socket_path(data_dir: &Path) -> PathBuf {
    data_dir.join("run/kobune.sock")
}

/// Binds the socket and returns what serves it. Without `images` another program keeps them.
pub fn serve(
    data_dir: &Path,
    images: Option<Arc<Images>>,
    token: CancellationToken,
) -> Result<impl Future<Output = Result<()>> + use<>> {
    let path = socket_path(data_dir);
    let attempt = || format!("open the admin socket {}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(attempt)?;
    }
    // The lock on the data folder says that nobody else uses a socket that is still there.
    if path.exists() {
        std::fs::remove_file(&path).with_context(attempt)?;
    }
    let listener = UnixListener::bind(&path).with_context(attempt)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).with_context(attempt)?;
    Ok(async move {
        loop {
            let accepted = tokio::select! {
                () = token.cancelled() => return Ok(()),
                accepted = listener.accept() => accepted,
            };
            let (stream, _) = accepted.context("accept on the admin socket")?;
            let images = images.clone();
            tokio::spawn(async move {
                if let Err(error) = converse(stream, images.as_ref()).await {
                    tracing::warn!("admin socket: {error:#}");
                }
            });
        }
    })
}

async fn converse(mut stream: tokio::net::UnixStream, images: Option<&Arc<Images>>) -> Result<()> {
    let mut line = String::new();
    tokio::io::BufReader::new(&mut stream).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(request) => match images {
            Some(images) => perform(images, request).await.unwrap_or_else(|error| Answer::Failed(format!("{error:#}"))),
            None => Answer::Failed(
                "images are kept by another container runtime: use its own tools, such as `ctr -n k8s.io images` or \
                 crictl"
                    .to_owned(),
            ),
        },
        Err(error) => Answer::Failed(format!("not a request: {error}")),
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    Ok(())
}

/// Asks the kobune that runs on a data folder; `None` when none does.
pub fn ask(data_dir: &Path, request: &Request) -> Result<Option<Answer>> {
    let mut stream = match UnixStream::connect(socket_path(data_dir)) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error).context("connect to kobune"),
    };
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).context("ask kobune")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).context("hear from kobune")?;
    match serde_json::from_str(&answer).context("understand kobune")? {
        Answer::Failed(cause) => Err(anyhow!(cause)),
        answer => Ok(Some(answer)),
    }
}
