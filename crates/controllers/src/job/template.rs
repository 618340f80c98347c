//! A Job's pods.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector};

use super::plan::{FINALIZER, INDEX, INDEX_FAILURES, New, indexed};
use crate::ownership::controller_reference;
use crate::pod_control::NewPod;

/// The variable that tells a container its index.
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

/// The pod that is to be made.
pub fn pod(job: &Job, new: &New) -> NewPod {
    let spec = job.spec.clone().unwrap_or_default();
    let namespace = job.metadata.namespace.clone().unwrap_or_default();
    let is_indexed = indexed(&spec);
    let mut made = NewPod::from_template(&spec.template, &namespace, controller_reference(job));
    let meta = &mut made.pod.metadata;
    meta.finalizers.get_or_insert_default().push(FINALIZER.to_owned());
    let pod_spec = made.pod.spec.get_or_insert_default();
    let Some(index) = new.index.filter(|_| is_indexed) else { return made };
    let name = job.metadata.name.as_deref().unwrap_or_default();
    meta.generate_name = Some(format!("{name}-{index}-"));
    meta.labels.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(INDEX.to_owned(), index.to_string());
    if let Some(times) = new.index_failures {
        annotations.insert(INDEX_FAILURES.to_owned(), times.to_string());
    }
    pod_spec.hostname = Some(format!("{name}-{index}"));
    let containers = pod_spec.init_containers.iter_mut().flatten().chain(pod_spec.containers.iter_mut());
    for container in containers {
        let env = container.env.get_or_insert_default();
        if env.iter().all(|variable| variable.name != INDEX_VARIABLE) {
            env.push(EnvVar {
                name: INDEX_VARIABLE.to_owned(),
                value_from: Some(EnvVarSource {
                    field_ref: Some(ObjectFieldSelector {
                        api_version: None,
                        field_path: format!("metadata.labels['{INDEX}']"),
                    }),
                    ..EnvVarSource::default()
                }),
                value: None,
            });
        }
    }
    made
}
