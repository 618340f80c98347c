//! `kobune cp`: files and folders into containers and out of them, in a tar stream of the container's own `tar`
//! (`k8s.io/kubectl/pkg/cmd/cp`).

mod archive;
mod paths;

use std::io::{self, Read};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::{Buf as _, Bytes};
use clap::Args;
use tokio::sync::mpsc;

use self::paths::Place;
use super::channels::{self, Call, Output, Streams};
use super::words::{Failure, ending};
use super::{PlaceOptions, pods};
use crate::connect::Cluster;

/// The flags of `cp`.
#[derive(Debug, Clone, Args)]
pub struct CpOptions {
    /// From where, and to where; one of them in a pod: [[NAMESPACE/]POD:]PATH
    #[arg(value_name = "SOURCE DESTINATION", required = true)]
    pub arguments: Vec<String>,
    /// The container [default: that of the annotation kubectl.kubernetes.io/default-container, or the first]
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// Do not keep owners and permissions in the container
    #[arg(long)]
    pub no_preserve: bool,
    /// How often to go on where a copy from a container broke off; below 0 for as often as it takes
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true, default_value_t = 0)]
    pub retries: i64,
    /// Where.
    #[command(flatten)]
    pub place: PlaceOptions,
}

/// Copies.
pub async fn cp(options: CpOptions) -> Result<ExitCode> {
    ending(run(&options).await)
}

async fn run(options: &CpOptions) -> Result<ExitCode> {
    let [source, destination] = options.arguments.as_slice() else {
        bail!("source and destination are required");
    };
    let (source, destination) = (paths::place(source)?, paths::place(destination)?);
    if source.path().is_empty() || destination.path().is_empty() {
        bail!("filepath can not be empty");
    }
    let cluster = options.place.connect.connect().await?;
    match (source, destination) {
        (Place::Pod { namespace, name, path }, Place::Here(here)) => {
            let pod = Pod::find(options, &cluster, namespace, name).await?;
            from_pod(options, &cluster.client, &pod, &path, &here).await?;
        }
        (Place::Here(here), Place::Pod { namespace, name, path }) => {
            if std::fs::metadata(&here).is_err() {
                bail!("{here} doesn't exist in local filesystem");
            }
            let pod = Pod::find(options, &cluster, namespace, name).await?;
            to_pod(options, &cluster.client, &pod, &here, path).await?;
        }
        (Place::Pod { .. }, Place::Pod { .. }) => bail!("one of src or dest must be a local file specification"),
        (Place::Here(_), Place::Here(_)) => bail!("one of src or dest must be a remote file specification"),
    }
    Ok(ExitCode::SUCCESS)
}

/// A container of a pod.
struct Pod {
    namespace: String,
    name: String,
    container: String,
}

impl Pod {
    async fn find(options: &CpOptions, cluster: &Cluster, namespace: Option<String>, name: String) -> Result<Pod> {
        let namespace = namespace.unwrap_or_else(|| options.place.namespace(cluster));
        let pod = pods::find(cluster, &namespace, "pods", &name, std::time::Duration::MAX).await?.pod;
        pods::check_phase(&pod, "exec into a container in")?;
        let container = pods::container(&pod, options.container.as_deref(), false)?;
        let container = container["name"].as_str().unwrap_or_default().to_owned();
        Ok(Pod { namespace, name, container })
    }

    fn call<'a>(&'a self, command: &'a [String]) -> Call<'a> {
        Call {
            verb: "exec",
            namespace: &self.namespace,
            pod: &self.name,
            container: &self.container,
            command,
            tty: false,
        }
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

async fn to_pod(options: &CpOptions, client: &kube::Client, pod: &Pod, here: &str, there: String) -> Result<()> {
    let mut there = there;
    let test = words(&["test", "-d", &there]);
    let silent = Streams { input: None, sizes: None, output: Output::Nothing, errors: Output::Nothing };
    // What else may be wrong, `tar` will say.
    if channels::call(client, &pod.call(&test), silent).await.is_ok() {
        there = paths::join(&there, &paths::base(&paths::clean(here)));
    }
    let mut command = match options.no_preserve {
        true => words(&["tar", "--no-same-permissions", "--no-same-owner", "-xmf", "-"]),
        false => words(&["tar", "-xmf", "-"]),
    };
    let there = paths::clean(&there);
    command.extend(words(&["-C", &paths::folder(&there)]));
    let (sender, input) = mpsc::channel(8);
    let (here, name) = (paths::clean(here), paths::base(&there));
    let packing = on_thread(move || archive::pack(&here, &name, Feed(sender)))?;
    let streams = Streams { input: Some(input), sizes: None, output: Output::Standard, errors: Output::Errors };
    let call = pod.call(&command);
    let carried = channels::call(client, &call, streams);
    // What keeps a file from being read is the reason why the far end misses something, not the other way round.
    tokio::pin!(carried);
    let packed = tokio::select! {
        packed = packing => Some(packed?),
        result = &mut carried => { result?; None }
    };
    match packed {
        Some(Err(error)) if broken(&error) => carried.await,
        Some(Err(error)) => Err(error),
        Some(Ok(())) => carried.await,
        None => Ok(()),
    }
}

/// Whether all that went wrong is that the other side does not listen any more.
fn broken(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).any(|it| it.kind() == io::ErrorKind::BrokenPipe)
}

async fn from_pod(options: &CpOptions, client: &kube::Client, pod: &Pod, there: &str, here: &str) -> Result<()> {
    let (sender, receiver) = mpsc::channel(8);
    let count = Arc::new(AtomicU64::new(0));
    let manual = format!("kobune exec -n {:?} {:?} -- tar cf - {there:?} | tar xf -", pod.namespace, pod.name);
    let (prefix, here) = (paths::prefix(there), here.to_owned());
    let unpacking = on_thread(move || archive::unpack(Drain::new(receiver), &prefix, &here, &manual))?;
    let carrying = async {
        let mut retries = 0;
        loop {
            let done = count.load(Ordering::Relaxed);
            let command = match options.retries {
                0 => words(&["tar", "cf", "-", there]),
                _ => {
                    let quoted = there.replace('\'', r"'\''");
                    words(&["sh", "-c", &format!("tar cf - '{quoted}' | tail -c+{}", done + 1)])
                }
            };
            let output = Output::Pipe(sender.clone(), Arc::clone(&count));
            let streams = Streams { input: None, sizes: None, output, errors: Output::Standard };
            match channels::call(client, &pod.call(&command), streams).await {
                // A command that ended badly would do so again.
                Err(error)
                    if error.downcast_ref::<Failure>().is_none()
                        && (options.retries < 0 || retries < options.retries) =>
                {
                    retries += 1;
                    let done = count.load(Ordering::Relaxed);
                    println!("Resuming copy at {done} bytes, retry {retries}/{}", options.retries);
                }
                result => {
                    drop(sender);
                    return result;
                }
            }
        }
    };
    let (carried, unpacked) = tokio::join!(carrying, unpacking);
    match (carried, unpacked?) {
        // The far end says best what went wrong there, but a near end that stopped reading is the cause.
        (Err(error), unpacked) if error.downcast_ref::<Failure>().is_some_and(|failure| failure.words.is_empty()) => {
            unpacked.and(Err(error))
        }
        (Err(error), _) => Err(error),
        (Ok(()), unpacked) => unpacked,
    }
}

/// Work that waits for files goes to a thread of its own.
fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<impl Future<Output = Result<T>>> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("tar".to_owned())
        .spawn(move || drop(sender.send(work())))
        .context("start a thread")?;
    Ok(async { receiver.await.map_err(|_| anyhow!("the thread that reads or writes files ended")) })
}

/// The near end of a command's input, for a thread that writes.
struct Feed(mpsc::Sender<Bytes>);

impl io::Write for Feed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Bytes::copy_from_slice(bytes));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The near end of a command's output, for a thread that reads.
struct Drain {
    receiver: mpsc::Receiver<Bytes>,
    rest: Bytes,
}

impl Drain {
    fn new(receiver: mpsc::Receiver<Bytes>) -> Drain {
        Drain { receiver, rest: Bytes::new() }
    }
}

impl Read for Drain {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.receiver.blocking_recv() {
                Some(bytes) => self.rest = bytes,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.rest.len());
        self.rest.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
