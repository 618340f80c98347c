//! Volumes that are the files of an image (KEP-4639): fetched like the image of a container, when a container that mounts
//! one is about to start, and mounted by the runtime where only that container sees them.

use k8s_openapi::api::core::v1::{Container, ImageVolumeSource, Pod, VolumeMount};
use kobune_runtime::{Image, ImageMount};

use super::{MountError, container_path, leads_out, wanted_part};
use crate::pod;

/// The image volumes that a container mounts, in the order in which it does.
pub fn wanted<'a>(owner: &'a Pod, container: &'a Container) -> Vec<(&'a VolumeMount, &'a ImageVolumeSource)> {
    let volumes = pod::spec(owner).volumes.as_deref().unwrap_or_default();
    let source = |mount: &VolumeMount| volumes.iter().find(|volume| volume.name == mount.name)?.image.as_ref();
    container.volume_mounts.iter().flatten().filter_map(|mount| Some((mount, source(mount)?))).collect()
}

/// One of them as the runtime is asked for it.
pub fn mount(wanted: &VolumeMount, image: &Image, env: &[(String, String)]) -> Result<ImageMount, MountError> {
    let sub_path = wanted_part(wanted, env)?.unwrap_or_default();
    if leads_out(&sub_path) {
        return Err(MountError::SubPath { path: sub_path });
    }
    Ok(ImageMount {
        volume: wanted.name.clone(),
        image: image.id.clone(),
        image_ref: image.digests.first().unwrap_or(&image.id).clone(),
        sub_path,
        container_path: container_path(wanted),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn mounts_of_image_volumes() {
        let owner: Pod = serde_json::from_value(json!({"spec": {
            "containers": [{"name": "c", "volumeMounts": [
                {"name": "files", "mountPath": "/files"},
                {"name": "model", "mountPath": "model", "subPathExpr": "$(VERSION)/weights"},
                {"name": "model", "mountPath": "/out", "subPath": "a/../../b"},
            ]}],
            "volumes": [{"name": "files", "emptyDir": {}}, {"name": "model", "image": {"reference": "r.example.org/model:1"}}],
        }}))
        .expect("a pod");
        let image = Image {
            id: "sha256:1".into(),
            tags: Vec::new(),
            digests: vec!["r.example.org/model@sha256:2".into()],
            size: 1,
            config: Default::default(),
            pinned: false,
        };
        let found = wanted(&owner, &pod::spec(&owner).containers[0]);
        assert_eq!(found.len(), 2);
        let env = [("VERSION".to_owned(), "v2".to_owned())];
        let made = mount(found[0].0, &image, &env).expect("it can be mounted");
        assert_eq!((made.sub_path.as_str(), made.container_path.to_str()), ("v2/weights", Some("/model")));
        assert_eq!(made.image_ref, "r.example.org/model@sha256:2");
        assert!(matches!(mount(found[0].0, &image, &[]), Err(MountError::Variable { name }) if name == "VERSION"));
        assert!(matches!(mount(found[1].0, &image, &env), Err(MountError::SubPath { .. })));
    }
}
