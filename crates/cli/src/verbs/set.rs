//! `kobune set image`: other images for containers (`k8s.io/kubectl/pkg/cmd/set/set_image.go`).

use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::PlaceOptions;
use super::chosen::{self, ChoiceOptions, Wide};
use super::create::DryRun;
use super::words::{self, ending};

/// What is set.
#[derive(Debug, Clone, Subcommand)]
pub enum SetCommand {
    /// Give containers other images
    Image(SetImageOptions),
}

/// The flags of `set image`.
#[derive(Debug, Clone, Args)]
pub struct SetImageOptions {
    /// TYPE NAME..., TYPE/NAME..., or TYPE with -l or --all; then CONTAINER=IMAGE, where * means all containers
    #[arg(value_name = "TYPE[/NAME] [NAME...] CONTAINER=IMAGE...")]
    pub arguments: Vec<String>,
    /// All objects of the namespace
    #[arg(long)]
    pub all: bool,
    /// Change nothing; with =server the server tries it
    #[arg(long, value_enum, value_name = "WHERE", default_value = "none")]
    pub dry_run: DryRun,
    /// Others.
    #[command(flatten)]
    pub choice: ChoiceOptions,
    /// Where.
    #[command(flatten)]
    pub place: PlaceOptions,
}

/// Sets it.
pub async fn set(command: SetCommand) -> Result<ExitCode> {
    let SetCommand::Image(options) = command;
    ending(image(&options).await.map(|()| ExitCode::SUCCESS))
}

async fn image(options: &SetImageOptions) -> Result<()> {
    let (resources, images) = parse(&options.arguments)?;
    if options.all && options.choice.selector.is_some() {
        bail!("cannot set --all and --selector at the same time");
    }
    if resources.is_empty() && options.choice.filename.is_empty() {
        bail!("one or more resources must be specified as <resource> <name> or <resource>/<name>");
    }
    if images.is_empty() {
        bail!("at least one image update is required");
    }
    if images.len() > 1 && images.iter().any(|(name, _)| name == "*") {
        bail!("all containers are already specified by *, but saw more than one container_name=container_image pairs");
    }
    let cluster = options.place.connect.connect().await?;
    let wide = Wide { all: options.all, ..Wide::default() };
    let (found, mut errors) = chosen::objects(&cluster, &options.place, &resources, &options.choice, wide).await?;
    for one in &found {
        let (patch, missing) = match plan(&one.object, &images) {
            Ok(planned) => planned,
            Err(error) => {
                errors.push(anyhow!("error: {}/{} {error}", one.resource.name(), one.name));
                continue;
            }
        };
        errors.extend(missing.into_iter().map(|name| anyhow!("error: unable to find container named {name:?}")));
        let Some(patch) = patch else { continue };
        if options.dry_run != DryRun::Client {
            let dry = options.dry_run == DryRun::Server;
            let media = "application/strategic-merge-patch+json";
            if let Err(error) = chosen::patch(&cluster, one, media, &patch, "kobune-set", dry).await {
                errors.push(anyhow!("failed to patch image update to pod template: {}", words::refused(error)));
                continue;
            }
        }
        println!("{} image updated{}", one.label(), chosen::suffix(options.dry_run));
    }
    chosen::all_fine(errors)
}

/// A container, and the image that it is to have.
type Image = (String, String);

fn parse(arguments: &[String]) -> Result<(Vec<String>, Vec<Image>)> {
    let (mut resources, mut images) = (Vec::new(), Vec::new());
    for argument in arguments {
        match argument.split_once('=') {
            Some((name, image)) if !name.is_empty() => images.push((name.to_owned(), image.to_owned())),
            _ if argument.ends_with('-') && argument != "-" => bail!("invalid image format: {argument}"),
            _ if images.is_empty() => resources.push(argument.clone()),
            _ => bail!("all resources must be specified before image changes: {argument}"),
        }
    }
    Ok((resources, images))
}

/// The patch that gives an object the images, where that changes something, and the containers that it does not have.
fn plan(object: &Value, images: &[Image]) -> Result<(Option<Value>, Vec<String>)> {
    let steps: &[&str] = match object["kind"].as_str().unwrap_or_default() {
        "Pod" => &["spec"],
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" | "ReplicationController" => {
            &["spec", "template", "spec"]
        }
        "CronJob" => &["spec", "jobTemplate", "spec", "template", "spec"],
        kind => {
            let version = object["apiVersion"].as_str().unwrap_or_default().rsplit('/').next().unwrap_or_default();
            bail!("the object is not a pod or does not have a pod template: *{version}.{kind}")
        }
    };
    let spec = steps.iter().fold(object, |object, step| &object[*step]);
    let mut found = vec![false; images.len()];
    let mut changed = serde_json::Map::new();
    for list in ["initContainers", "containers"] {
        let mut new = Vec::new();
        for container in spec[list].as_array().into_iter().flatten() {
            let mut image = container["image"].as_str().unwrap_or_default();
            for ((name, wanted), found) in images.iter().zip(&mut found) {
                if name == "*" || container["name"] == name.as_str() {
                    *found = true;
                    image = wanted;
                }
            }
            if container["image"] != image {
                new.push(json!({"name": container["name"], "image": image}));
            }
        }
        if !new.is_empty() {
            changed.insert(list.to_owned(), new.into());
        }
    }
    let missing = images.iter().zip(&found).filter(|(_, found)| !**found).map(|((name, _), _)| name.clone()).collect();
    let patch = (!changed.is_empty())
        .then(|| steps.iter().rev().fold(Value::Object(changed), |inner, step| json!({*step: inner})));
    Ok((patch, missing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches() {
        let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"template": {"spec": {
            "containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}], "initContainers": [{"name": "i", "image": "3"}]}}}});
        let check = |line: &str, expected: Value, missing: &[&str]| {
            let (_, images) = parse(&line.split(' ').map(str::to_owned).collect::<Vec<_>>()).unwrap();
            let (patch, lost) = plan(&object, &images).unwrap();
            let patch = patch.map_or(Value::Null, |patch| patch["spec"]["template"]["spec"].clone());
            assert_eq!((patch, lost), (expected, missing.iter().map(|&name| name.to_owned()).collect()), "{line}");
        };
        check("deploy/x a=9", json!({"containers": [{"name": "a", "image": "9"}]}), &[]);
        check("deploy/x a=1", Value::Null, &[]);
        check(
            "deploy/x *=1",
            json!({"containers": [{"name": "b", "image": "1"}], "initContainers": [{"name": "i", "image": "1"}]}),
            &[],
        );
        check("deploy/x i=4 z=5", json!({"initContainers": [{"name": "i", "image": "4"}]}), &["z"]);
        let service = json!({"apiVersion": "v1", "kind": "Service"});
        let words = "the object is not a pod or does not have a pod template: *v1.Service";
        assert_eq!(plan(&service, &[]).unwrap_err().to_string(), words);
        assert!(parse(&["pod".to_owned(), "a=1".to_owned(), "b".to_owned()]).is_err());
    }
}
