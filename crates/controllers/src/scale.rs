//! The `scale` subresource of any kind that has one, found by what a reference says: version and kind.

use std::collections::HashMap;

use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIResource, APIResourceList};
use kube::api::PostParams;
use parking_lot::Mutex;

use crate::queue::is_not_found;

/// Where the objects of a kind are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The plural name.
    pub plural: String,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
    /// Whether they have a scale.
    pub scales: bool,
}

/// Reads and writes scales. What discovery says about a version is kept until it proves wrong.
pub struct Scales {
    client: kube::Client,
    known: Mutex<HashMap<(String, String), Mapping>>,
}

/// The kind among those of its version.
fn mapping(list: &APIResourceList, kind: &str) -> Option<Mapping> {
    let is_whole = |resource: &&APIResource| resource.kind == kind && !resource.name.contains('/');
    let whole = list.resources.iter().find(is_whole)?;
    let scale = format!("{}/scale", whole.name);
    Some(Mapping {
        plural: whole.name.clone(),
        namespaced: whole.namespaced,
        scales: list.resources.iter().any(|resource| resource.name == scale),
    })
}

impl Scales {
    /// Nothing is known yet.
    pub fn new(client: kube::Client) -> Self {
        Self { client, known: Mutex::default() }
    }

    /// Where the objects of a kind are; `None` when it is not served.
    pub async fn mapping(&self, api_version: &str, kind: &str) -> Result<Option<Mapping>, kube::Error> {
        let key = (api_version.to_owned(), kind.to_owned());
        if let Some(known) = self.known.lock().get(&key) {
            return Ok(Some(known.clone()));
        }
        let asked = if api_version.contains('/') {
            self.client.list_api_group_resources(api_version).await
        } else {
            self.client.list_core_api_resources(api_version).await
        };
        let list = match asked {
            Ok(list) => list,
            Err(error) if is_not_found(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let found = mapping(&list, kind);
        if let Some(found) = &found {
            self.known.lock().insert(key, found.clone());
        }
        Ok(found)
    }

    async fn path(&self, namespace: &str, api_version: &str, kind: &str) -> Result<Option<String>, kube::Error> {
        let found = self.mapping(api_version, kind).await?.filter(|mapping| mapping.scales && mapping.namespaced);
        let root = if api_version.contains('/') { "/apis" } else { "/api" };
        Ok(found.map(|mapping| format!("{root}/{api_version}/namespaces/{namespace}/{}", mapping.plural)))
    }

    /// The scale of an object; `None` when there is no such object, or none that scales.
    pub async fn get(
        &self,
        namespace: &str,
        api_version: &str,
        kind: &str,
        name: &str,
    ) -> Result<Option<Scale>, kube::Error> {
        let Some(path) = self.path(namespace, api_version, kind).await? else { return Ok(None) };
        let request = kube::core::Request::new(path).get_subresource("scale", name);
        match self.client.request::<Scale>(request.map_err(kube::Error::BuildRequest)?).await {
            Ok(scale) => Ok(Some(scale)),
            Err(error) if is_not_found(&error) => {
                // The object is gone, or its definition: the next time discovery says which.
                self.known.lock().remove(&(api_version.to_owned(), kind.to_owned()));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes a scale.
    pub async fn replace(
        &self,
        namespace: &str,
        api_version: &str,
        kind: &str,
        name: &str,
        scale: &Scale,
    ) -> Result<Option<Scale>, kube::Error> {
        let Some(path) = self.path(namespace, api_version, kind).await? else { return Ok(None) };
        let body = serde_json::to_vec(scale).map_err(kube::Error::SerdeError)?;
        let request = kube::core::Request::new(path).replace_subresource("scale", name, &PostParams::default(), body);
        self.client.request::<Scale>(request.map_err(kube::Error::BuildRequest)?).await.map(Some)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn kinds_are_found_with_their_scales() {
        let resource = |name: &str, kind: &str| json!({"name": name, "kind": kind, "namespaced": true, "singularName": "", "verbs": []});
        let list: APIResourceList = serde_json::from_value(json!({"groupVersion": "x.io/v1", "resources": [
            resource("boats", "Boat"), resource("boats/scale", "Scale"), resource("boats/status", "Boat"), resource("oars", "Oar")]}))
        .expect("a list");
        let check = |kind: &str, expected: Option<(&str, bool)>| {
            let found = mapping(&list, kind);
            let found = found.as_ref().map(|mapping| (mapping.plural.as_str(), mapping.scales));
            assert_eq!(found, expected, "{kind}");
        };
        check("Boat", Some(("boats", true)));
        check("Oar", Some(("oars", false)));
        check("Scale", None);
    }
}
