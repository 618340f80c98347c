//! DeviceClass.

use serde_json::Value;

use super::device::{configuration, selectors, too_many};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, list};
use crate::validation::Errors;

/// A class may have this many configurations.
pub(super) const CONFIGURATIONS: usize = 32;

pub(super) fn create(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    selectors(list(spec, "selectors"), &path.child("selectors"), errors);
    let (place, configs) = (path.child("config"), list(spec, "config"));
    if !too_many(configs.len(), CONFIGURATIONS, &place, errors) {
        for (index, config) in configs.iter().enumerate() {
            configuration(config, &place.index(index), false, errors);
        }
    }
    if let Some(resource) = spec["extendedResourceName"].as_str()
        && !is_extended_resource(resource)
    {
        let detail = "must be a valid extended resource name";
        errors.push(FieldError::invalid(path.child("extendedResourceName"), resource, detail));
    }
}

/// Whether a resource belongs to somebody other than Kubernetes, and can be the name of a quota.
fn is_extended_resource(resource: &str) -> bool {
    resource.contains('/')
        && !resource.contains("kubernetes.io/")
        && !resource.starts_with("requests.")
        && name::qualified_name(&format!("requests.{resource}")).is_empty()
}
