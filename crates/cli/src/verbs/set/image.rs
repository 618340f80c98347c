//! `kobune set image`: other images for containers (`k8s.io/kubectl/pkg/cmd/set/set_image.go`).

use anyhow::{Result, anyhow, bail};
use clap::Args;
use serde_json::Value;

use super::{Edit, SetOptions, pod_spec, split};

/// The flags of `set image`.
#[derive(Debug, Clone, Args)]
pub struct SetImageOptions {
    /// TYPE NAME..., TYPE/NAME..., or TYPE with -l or --all; then CONTAINER=IMAGE, where * means all containers
    #[arg(value_name = "TYPE[/NAME] [NAME...] CONTAINER=IMAGE...")]
    pub arguments: Vec<String>,
    /// What all have in common.
    #[command(flatten)]
    pub common: SetOptions,
}

/// Sets images.
pub async fn image(options: &SetImageOptions) -> Result<()> {
    let (resources, images) = parse(&options.arguments)?;
    options.common.check(&resources)?;
    if images.is_empty() {
        bail!("at least one image update is required");
    }
    if images.len() > 1 && images.iter().any(|(name, _)| name == "*") {
        bail!("all containers are already specified by *, but saw more than one container_name=container_image pairs");
    }
    let edit = Edit { done: "image updated", failure: "failed to patch image update to pod template: " };
    options
        .common
        .each(&resources, &edit, |object, errors| {
            let missing = plan(object, &images)?;
            errors.extend(missing.into_iter().map(|name| anyhow!("error: unable to find container named {name:?}")));
            Ok(())
        })
        .await
}

/// A container, and the image that it is to have.
type Image = (String, String);

fn parse(arguments: &[String]) -> Result<(Vec<String>, Vec<Image>)> {
    let (resources, changes) = split(arguments, |argument| argument.find('=').is_some_and(|at| at > 0), "image")?;
    if let Some(wrong) = resources.iter().find(|argument| argument.ends_with('-') && argument.as_str() != "-") {
        bail!("invalid image format: {wrong}");
    }
    let images = changes.iter().filter_map(|change| change.split_once('='));
    Ok((resources, images.map(|(name, image)| (name.to_owned(), image.to_owned())).collect()))
}

/// Gives an object the images; answers with the containers that it does not have.
fn plan(object: &mut Value, images: &[Image]) -> Result<Vec<String>> {
    let spec = pod_spec(object)?;
    let mut found = vec![false; images.len()];
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            for ((name, wanted), found) in images.iter().zip(&mut found) {
                if name == "*" || container["name"] == name.as_str() {
                    *found = true;
                    container["image"] = wanted.as_str().into();
                }
            }
        }
    }
    Ok(images.iter().zip(&found).filter(|(_, found)| !**found).map(|((name, _), _)| name.clone()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::set::difference;
    use serde_json::json;

    #[test]
    fn patches() {
        let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"template": {"spec": {
            "containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}], "initContainers": [{"name": "i", "image": "3"}]}}}});
        let check = |line: &str, expected: Value, missing: &[&str]| {
            let (_, images) = parse(&line.split(' ').map(str::to_owned).collect::<Vec<_>>()).unwrap();
            let mut after = object.clone();
            let lost = plan(&mut after, &images).unwrap();
            let patch = difference::patch(&object, &after);
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
        let mut service = json!({"apiVersion": "v1", "kind": "Service"});
        let words = "the object is not a pod or does not have a pod template: *v1.Service";
        assert_eq!(plan(&mut service, &[]).unwrap_err().to_string(), words);
        assert!(parse(&["pod".to_owned(), "a=1".to_owned(), "b".to_owned()]).is_err());
    }
}
