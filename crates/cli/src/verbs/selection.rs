//! What `TYPE NAME`, `TYPE/NAME` and `TYPE1,TYPE2` mean, as kubectl's resource builder reads them.

use anyhow::{Result, bail};

use crate::discovery::{Discovery, Resource};

/// A resource, and the names of its objects; none for all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    /// The resource.
    pub resource: Resource,
    /// The objects' names.
    pub names: Vec<String>,
}

/// Reads the arguments of a verb.
pub fn select(discovery: &Discovery, arguments: &[String]) -> Result<Vec<Selected>> {
    let Some(first) = arguments.first() else {
        bail!(
            "You must specify the type of resource to get. Use \"kobune api-resources\" for a complete list of supported resources."
        );
    };
    let mut selected: Vec<Selected> = Vec::new();
    if arguments.iter().any(|argument| argument.contains('/')) {
        for argument in arguments {
            let Some((kind, name)) = argument.split_once('/') else {
                bail!(
                    "there is no need to specify a resource type as a separate argument when passing arguments in resource/name form (e.g. 'kobune get resource/<resource_name>' instead of 'kobune get resource resource/<resource_name>'"
                );
            };
            if name.is_empty() || name.contains('/') {
                bail!("arguments in resource/name form may not have more than one slash");
            }
            let resource = find(discovery, kind)?;
            match selected.iter_mut().find(|known| known.resource == resource) {
                Some(known) => known.names.push(name.to_owned()),
                None => selected.push(Selected { resource, names: vec![name.to_owned()] }),
            }
        }
        return Ok(selected);
    }
    let names = &arguments[1..];
    for kind in first.split(',').filter(|kind| !kind.is_empty()) {
        let category: Vec<&Resource> = in_category(discovery, kind);
        if category.is_empty() || discovery.by_name(kind).is_some() {
            selected.push(Selected { resource: find(discovery, kind)?, names: names.to_vec() });
        } else {
            selected.extend(
                category.into_iter().map(|resource| Selected { resource: resource.clone(), names: names.to_vec() }),
            );
        }
    }
    Ok(selected)
}

fn find(discovery: &Discovery, name: &str) -> Result<Resource> {
    match discovery.by_name(name) {
        Some(resource) => Ok(resource.clone()),
        None => bail!("the server doesn't have a resource type {name:?}"),
    }
}

fn in_category<'d>(discovery: &'d Discovery, name: &str) -> Vec<&'d Resource> {
    let mut found: Vec<&Resource> = Vec::new();
    for resource in
        discovery.resources().iter().filter(|resource| resource.categories.iter().any(|known| known == name))
    {
        if resource.can("list")
            && !found.iter().any(|known| known.group == resource.group && known.plural == resource.plural)
        {
            found.push(resource);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn discovery() -> Discovery {
        let resource = |group: &str, kind: &str, plural: &str, short: &str, category: &str| Resource {
            group: group.to_owned(),
            version: "v1".to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
            singular: kind.to_lowercase(),
            short_names: vec![short.to_owned()],
            categories: vec![category.to_owned()],
            namespaced: true,
            verbs: vec!["list".to_owned()],
            subresources: Vec::new(),
        };
        Discovery::of(vec![
            resource("", "Pod", "pods", "po", "all"),
            resource("apps", "Deployment", "deployments", "deploy", "all"),
            resource("", "ConfigMap", "configmaps", "cm", ""),
        ])
    }

    #[test]
    fn what_arguments_mean() {
        let check = |arguments: &[&str], expected: Result<&[(&str, &[&str])], &str>| {
            let arguments: Vec<String> = arguments.iter().map(|&text| text.to_owned()).collect();
            let got = select(&discovery(), &arguments);
            match expected {
                Ok(expected) => {
                    let got = got.unwrap_or_else(|error| panic!("{arguments:?} {error}"));
                    let got: Vec<(String, Vec<String>)> =
                        got.into_iter().map(|it| (it.resource.name(), it.names)).collect();
                    let own = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
                    let expected: Vec<(String, Vec<String>)> =
                        expected.iter().map(|(name, names)| ((*name).to_owned(), own(names))).collect();
                    assert_eq!(got, expected, "{arguments:?}");
                }
                Err(words) => assert!(got.unwrap_err().to_string().contains(words), "{arguments:?}"),
            }
        };
        check(&["po"], Ok(&[("pods", &[])]));
        check(&["pods", "a", "b"], Ok(&[("pods", &["a", "b"])]));
        check(&["pod/a", "deploy/b", "pods/c"], Ok(&[("pods", &["a", "c"]), ("deployments.apps", &["b"])]));
        check(&["po,cm"], Ok(&[("pods", &[]), ("configmaps", &[])]));
        check(&["all"], Ok(&[("pods", &[]), ("deployments.apps", &[])]));
        check(&["boats"], Err("the server doesn't have a resource type \"boats\""));
        check(&["pod/a", "b"], Err("there is no need to specify a resource type"));
        check(&["pod/a/b"], Err("more than one slash"));
        check(&[], Err("You must specify the type of resource"));
    }
}
