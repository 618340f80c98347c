//! `kobune run`: a pod of one container, at once (`k8s.io/kubectl/pkg/cmd/run`).

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::{Args, ValueEnum};
use futures::io::AsyncReadExt as _;
use serde_json::{Map, Value, json};

use super::create::{self, Common, DryRun};
use super::exec::{self, SessionOptions, TerminalOptions};
use super::follow::{News, follow};
use super::words::{self, Failure, ending};
use super::{outcome, pods};
use crate::connect::Cluster;
use crate::request;

/// When a container is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Restart {
    /// Whenever it has ended.
    #[value(name = "Always")]
    Always,
    /// When it has failed.
    #[value(name = "OnFailure")]
    OnFailure,
    /// Not at all.
    #[value(name = "Never")]
    Never,
}

/// The flags of `run`.
#[derive(Debug, Clone, Args)]
pub struct RunOptions {
    /// The pod's name
    #[arg(value_name = "NAME")]
    pub name: String,
    /// The arguments of the image's command, or with --command the command itself
    #[arg(value_name = "ARGUMENT")]
    pub arguments: Vec<String>,
    /// The image
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// When to pull it: Always, IfNotPresent or Never
    #[arg(long, value_name = "POLICY", value_parser = ["Always", "IfNotPresent", "Never"])]
    pub image_pull_policy: Option<String>,
    /// The arguments are the command
    #[arg(long)]
    pub command: bool,
    /// A variable of the environment
    #[arg(long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Labels [default: run=NAME]
    #[arg(short, long, value_name = "NAME=VALUE,...")]
    pub labels: Option<String>,
    /// An annotation
    #[arg(long, value_name = "NAME=VALUE")]
    pub annotations: Vec<String>,
    /// The port that the container has
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// When the container is started again [default: Always, with -i OnFailure]
    #[arg(long, value_enum, value_name = "POLICY")]
    pub restart: Option<Restart>,
    /// Run it with all privileges
    #[arg(long)]
    pub privileged: bool,
    /// Attach to it as soon as it runs [default with -i]
    #[arg(long)]
    pub attach: bool,
    /// Delete the pod in the end
    #[arg(long)]
    pub rm: bool,
    /// Leave its input open when this command ends
    #[arg(long)]
    pub leave_stdin_open: bool,
    /// How to attach to it.
    #[command(flatten)]
    pub terminal: TerminalOptions,
    /// What it has in common with `create`.
    #[command(flatten)]
    pub common: Common,
}

/// Runs a pod.
pub async fn run(options: RunOptions) -> Result<ExitCode> {
    ending(begin(&options).await)
}

async fn begin(options: &RunOptions) -> Result<ExitCode> {
    let attached = options.attach || options.terminal.stdin;
    let pod = pod(options)?;
    if options.rm && !attached {
        bail!("--rm should only be used for attached containers");
    }
    let common = &options.common;
    if attached && common.dry_run != DryRun::None {
        bail!("--dry-run=[server|client] can't be used with attached containers options (--attach, --stdin, or --tty)");
    }
    let limit = pods::timeout(&options.terminal.pod_running_timeout)?;
    let printer = common.print.printer()?;
    if common.dry_run == DryRun::Client {
        common.show(&printer, &pod)?;
        return Ok(ExitCode::SUCCESS);
    }
    let cluster = common.place.connect.connect().await?;
    let namespace = common.place.namespace(&cluster);
    let folder = format!("/api/v1/namespaces/{}/pods", request::query(&namespace));
    let made = create::send(&cluster, &folder, common, &pod).await.map_err(words::refused)?;
    if !attached {
        common.show(&printer, &made)?;
        return Ok(ExitCode::SUCCESS);
    }
    let result = tokio::select! {
        result = converse(options, &cluster, &namespace, &folder, limit) => result,
        // What was to go with this command goes also when it is interrupted.
        result = tokio::signal::ctrl_c(), if options.rm => Err(result.map_or_else(Into::into, |()| Failure::silent().into())),
    };
    if options.rm {
        let path = format!("{folder}/{}", request::query(&options.name));
        match request::delete(&cluster.client, &path, &json!({"propagationPolicy": "Background"})).await {
            Ok(_) if !options.terminal.quiet => println!("pod {:?} deleted from {namespace} namespace", options.name),
            Ok(_) => {}
            Err(error) if error.is(404) => {}
            Err(error) => eprintln!("error: the pod was not deleted: {error}"),
        }
    }
    result
}

/// Waits until the pod runs, attaches to it, and ends as it ends.
async fn converse(
    options: &RunOptions,
    cluster: &Cluster,
    namespace: &str,
    folder: &str,
    limit: Duration,
) -> Result<ExitCode> {
    let ended = |pod: &Value| matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    let ready = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        let ready = conditions.into_iter().any(|it| it["type"] == "Ready" && it["status"] == "True");
        ended(pod) || (pod["status"]["phase"] == "Running" && ready)
    };
    let pod = until(options, cluster, folder, limit, ready).await?;
    // What was said before anybody was attached.
    log(cluster, folder, &options.name, None).await?;
    let said = jiff::Timestamp::now();
    if !ended(&pod) {
        let session = SessionOptions { container: None, terminal: options.terminal.clone() };
        if let Err(error) = exec::attach_to(&cluster.client, namespace, &pod, &session).await {
            if error.downcast_ref::<Failure>().is_some_and(|failure| failure.words.is_empty()) {
                return Err(error);
            }
            // It may have ended in between.
            let name = &options.name;
            eprintln!("warning: couldn't attach to pod/{name}, falling back to streaming logs: {error:#}");
            log(cluster, folder, name, Some(said)).await?;
        }
    }
    let restart = restart(options);
    if options.leave_stdin_open || restart == Restart::Always {
        return Ok(ExitCode::SUCCESS);
    }
    let done = |pod: &Value| match restart {
        Restart::OnFailure => pod["status"]["phase"] == "Succeeded",
        _ => ended(pod),
    };
    outcome_of(&until(options, cluster, folder, limit, done).await?)
}

/// Waits until the pod is so far.
async fn until(
    options: &RunOptions,
    cluster: &Cluster,
    folder: &str,
    limit: Duration,
    so_far: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let query = format!("fieldSelector={}", request::query(&format!("metadata.name={}", options.name)));
    let gone = || anyhow!("Error from server (NotFound): pods {:?} not found", options.name);
    let found = follow(&cluster.client, folder, &query, |news| match news {
        News::Listed(pods) => {
            let pod = pods.into_iter().next().ok_or_else(gone)?;
            Ok(so_far(&pod).then_some(pod))
        }
        News::Event(kind, _) if kind == "DELETED" => Err(gone()),
        News::Event(_, pod) => Ok(so_far(&pod).then_some(pod)),
    });
    tokio::time::timeout(limit, found).await.map_err(|_| anyhow!("timed out waiting for the condition"))?
}

/// Prints what the container has said so far, or since a moment.
async fn log(cluster: &Cluster, folder: &str, name: &str, since: Option<jiff::Timestamp>) -> Result<()> {
    let since = since.map(|since| format!("?sinceTime={}", request::query(&since.to_string()))).unwrap_or_default();
    let path = format!("{folder}/{}/log{since}", request::query(name));
    let request = http::Request::get(path).body(Vec::new())?;
    let stream = cluster.client.request_stream(request).await.map_err(super::channels::refusal)?;
    let mut stream = std::pin::pin!(stream);
    let mut buffer = vec![0; 32 << 10];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            count => outcome::write_bytes(&buffer[..count])?,
        }
    }
}

/// The exit code of a pod that has ended.
fn outcome_of(pod: &Value) -> Result<ExitCode> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = format!("{}/{}", text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]));
    match pod["status"]["phase"].as_str() {
        Some("Succeeded") => Ok(ExitCode::SUCCESS),
        Some("Failed") => {
            let state = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
            match state["exitCode"].as_u64().and_then(|code| u8::try_from(code).ok()) {
                None | Some(0) => bail!("pod {name} failed with unknown exit code"),
                Some(code) => {
                    let words =
                        format!("pod {name} terminated ({})\n{}", text(&state["reason"]), text(&state["message"]));
                    Err(Failure { words, code }.into())
                }
            }
        }
        phase => bail!("pod {name} left in phase {}", phase.unwrap_or_default()),
    }
}

fn restart(options: &RunOptions) -> Restart {
    options.restart.unwrap_or(if options.terminal.stdin { Restart::OnFailure } else { Restart::Always })
}

/// The pod that the flags come to.
fn pod(options: &RunOptions) -> Result<Value> {
    let Some(image) = options.image.as_deref().filter(|image| !image.is_empty()) else {
        bail!("required flag(s) \"image\" not set");
    };
    if options.terminal.tty && !options.terminal.stdin {
        bail!("-i/--stdin is required for containers with -t/--tty=true");
    }
    let mut container = json!({"name": options.name, "image": image, "resources": {}});
    let fields = &mut container;
    if let Some(policy) = &options.image_pull_policy {
        fields["imagePullPolicy"] = policy.as_str().into();
    }
    if !options.arguments.is_empty() {
        fields[if options.command { "command" } else { "args" }] = options.arguments.clone().into();
    }
    let mut env = Vec::new();
    for variable in &options.env {
        match variable.split_once('=') {
            Some((name, value)) if !name.is_empty() && value.is_empty() => env.push(json!({"name": name})),
            Some((name, value)) if !name.is_empty() => env.push(json!({"name": name, "value": value})),
            _ => bail!("invalid env: {variable}"),
        }
    }
    if !env.is_empty() {
        fields["env"] = env.into();
    }
    if let Some(port) = options.port {
        fields["ports"] = json!([{"containerPort": port}]);
    }
    if options.privileged {
        fields["securityContext"] = json!({"privileged": true});
    }
    if options.terminal.stdin {
        fields["stdin"] = true.into();
        if !options.leave_stdin_open {
            fields["stdinOnce"] = true.into();
        }
    }
    if options.terminal.tty {
        fields["tty"] = true.into();
    }
    let mut metadata = json!({"name": options.name, "labels": labels(options)?});
    let mut annotations = Map::new();
    for annotation in &options.annotations {
        let Some((name, value)) = annotation.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            bail!("invalid annotations format: {annotation}");
        };
        annotations.insert(name.to_owned(), value.into());
    }
    if !annotations.is_empty() {
        metadata["annotations"] = annotations.into();
    }
    if let Some(namespace) = &options.common.place.namespace {
        metadata["namespace"] = namespace.as_str().into();
    }
    let restart = match restart(options) {
        Restart::Always => "Always",
        Restart::OnFailure => "OnFailure",
        Restart::Never => "Never",
    };
    Ok(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata,
        "spec": {"containers": [container], "dnsPolicy": "ClusterFirst", "restartPolicy": restart}, "status": {}}))
}

fn labels(options: &RunOptions) -> Result<Value> {
    let Some(text) = options.labels.as_deref().filter(|text| !text.is_empty()) else {
        return Ok(json!({"run": options.name}));
    };
    let mut labels = Map::new();
    for label in text.split(',') {
        match label.split_once('=') {
            Some(("", _)) => bail!("unexpected empty label key"),
            Some((name, value)) if !value.contains('=') => labels.insert(name.to_owned(), value.into()),
            _ => bail!("unexpected label spec: {label}"),
        };
    }
    Ok(labels.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: RunOptions,
    }

    fn made(line: &str) -> Result<Value> {
        let words = ["run"].into_iter().chain(line.split(' '));
        pod(&Line::try_parse_from(words).map_err(|error| anyhow!("{error}"))?.options)
    }

    #[test]
    fn pods() {
        let check = |line: &str, container: Value, restart: &str| {
            let pod = made(line).unwrap();
            assert_eq!(pod["spec"]["containers"][0], container, "{line}");
            assert_eq!(pod["spec"]["restartPolicy"], restart, "{line}");
        };
        check("a --image=i", json!({"name": "a", "image": "i", "resources": {}}), "Always");
        check(
            "a --image=i -it --env=X=1 --port=80 -- sh -c x",
            json!({"name": "a", "image": "i", "resources": {}, "args": ["sh", "-c", "x"], "env": [{"name": "X", "value": "1"}],
                "ports": [{"containerPort": 80}], "stdin": true, "stdinOnce": true, "tty": true}),
            "OnFailure",
        );
        let command =
            json!({"name": "a", "image": "i", "resources": {}, "command": ["sh"], "imagePullPolicy": "Never"});
        check("a --image=i --restart=Never --image-pull-policy=Never --command -- sh", command, "Never");
        assert_eq!(made("a --image=i").unwrap()["metadata"]["labels"], json!({"run": "a"}));
        assert_eq!(made("a --image=i -l x=1,y=2").unwrap()["metadata"]["labels"], json!({"x": "1", "y": "2"}));
        for (line, words) in [
            ("a", "required flag(s) \"image\" not set"),
            ("a --image=i -t", "-i/--stdin is required"),
            ("a --image=i --env=x", "invalid env: x"),
            ("a --image=i -l x", "unexpected label spec: x"),
        ] {
            assert!(made(line).unwrap_err().to_string().contains(words), "{line}");
        }
    }

    #[test]
    fn ends() {
        let pod = |phase: &str, code: u64| {
            json!({"metadata": {"namespace": "n", "name": "p"}, "status": {"phase": phase,
                "containerStatuses": [{"state": {"terminated": {"exitCode": code, "reason": "Error"}}}]}})
        };
        assert!(outcome_of(&pod("Succeeded", 0)).is_ok());
        let error = outcome_of(&pod("Failed", 7)).unwrap_err();
        assert_eq!(error.downcast_ref::<Failure>().map(|failure| failure.code), Some(7));
        assert_eq!(error.to_string(), "pod n/p terminated (Error)\n");
        assert!(outcome_of(&pod("Failed", 0)).unwrap_err().to_string().contains("unknown exit code"));
    }
}
