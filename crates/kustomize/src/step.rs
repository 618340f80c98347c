//! One transformer or generator, ready to run: out of a kustomization's fields, or out of a file of its own.

use crate::decode::Decoder;
use crate::error::{BuildError, Source, refused};
use crate::fields::FieldSpec;
use crate::files::Folder;
use crate::generate;
use crate::hash;
use crate::helm::{Chart, HelmOptions};
use crate::kustomization::{self, Generator, HelmChart, HelmGlobals, Image, Patch, Replacement, Selector};
use crate::node::{Map, Node};
use crate::replace;
use crate::resource::{Behavior, Resource};
use crate::schema::Schema;
use crate::transform::{self, Namespace, PatchText, Pattern, Subjects};

/// Something that changes objects.
pub(crate) enum Step {
    /// Patches that find their objects by id.
    Merge(Vec<Resource>),
    /// A patch of either kind.
    Patch(PatchText, Patch),
    Json6902(serde_json::Value, Selector),
    Namespace {
        name: String,
        specs: Vec<FieldSpec>,
        unset_only: bool,
        subjects: Subjects,
    },
    Affix {
        text: String,
        is_prefix: bool,
        specs: Vec<FieldSpec>,
    },
    Texts {
        pairs: Vec<(String, String)>,
        specs: Vec<FieldSpec>,
    },
    Replicas {
        name: String,
        count: i64,
        specs: Vec<FieldSpec>,
    },
    Image {
        image: Image,
        specs: Vec<FieldSpec>,
    },
    Replace(Vec<Replacement>),
    AddValue {
        value: String,
        targets: Vec<ValueTarget>,
    },
    Hash,
    Several(Vec<Step>),
}

/// Where a value is added.
pub(crate) struct ValueTarget {
    selector: Option<Selector>,
    path: String,
    position: i64,
}

impl Step {
    /// Changes the objects.
    pub(crate) fn run(&self, resources: &mut Vec<Resource>, schema: &Schema) -> Result<(), BuildError> {
        match self {
            Step::Merge(patches) => patches.iter().try_for_each(|patch| {
                let at = find(resources, patch)?;
                let fitted = transform::fit_patch(patch, &resources[at]);
                transform::patch_strategic(&mut resources[at], &fitted, schema)?;
                resources.retain(|resource| !resource.node().is_empty());
                Ok(())
            }),
            Step::Patch(text, patch) => run_patch(resources, text, patch, schema),
            Step::Json6902(operations, selector) => {
                let pattern = Pattern::new(selector)?;
                for resource in resources {
                    if pattern.takes(resource)? {
                        transform::patch_json(resource, operations)?;
                    }
                }
                Ok(())
            }
            Step::Namespace { name, specs, unset_only, subjects } => {
                Namespace { name, specs, unset_only: *unset_only, subjects: *subjects }.run(resources)
            }
            Step::Affix { text, is_prefix, specs } => transform::affix(resources, text, *is_prefix, specs),
            Step::Texts { pairs, specs } => transform::add_texts(resources, pairs, specs),
            Step::Replicas { name, count, specs } => transform::set_replicas(resources, name, *count, specs),
            Step::Image { image, specs } => transform::set_image(resources, image, specs),
            Step::Replace(replacements) => {
                replacements.iter().try_for_each(|replacement| replace::run(resources, replacement))
            }
            Step::AddValue { value, targets } => add_value(resources, value, targets),
            Step::Hash => add_hashes(resources),
            Step::Several(steps) => steps.iter().try_for_each(|step| step.run(resources, schema)),
        }
    }
}

/// The object that a patch is for, by everything it was called.
fn find(resources: &[Resource], patch: &Resource) -> Result<usize, BuildError> {
    let id = patch.first_id();
    let is_meant = |resource: &Resource| {
        // Most objects are ruled out by the name alone.
        (resource.name() == id.name || resource.former.iter().any(|former| former.name == id.name))
            && resource.all_ids().iter().any(|known| known.is(&id))
    };
    let mut found = (0..resources.len()).filter(|at| is_meant(&resources[*at]));
    match (found.next(), found.next()) {
        (Some(at), None) => Ok(at),
        (Some(_), Some(_)) => {
            Err(refused(format!("multiple matches for Id {id}; failed to find unique target for patch {id}")))
        }
        (None, _) => {
            let message = format!("no matches for Id {id}; failed to find unique target for patch {id}");
            let Some(source) = patch.source.as_deref() else { return Err(refused(message)) };
            let place = patch.node().at(&["metadata", "name"]).map(Node::place).unwrap_or_default();
            let namesake = resources.iter().find(|resource| resource.name() == id.name);
            let hint = namesake.map(|resource| format!("there is {} with this name", resource.id()));
            Err(BuildError::Mistakes(vec![source.mistake(place, message, hint)]))
        }
    }
}

fn run_patch(
    resources: &mut Vec<Resource>,
    text: &PatchText,
    patch: &Patch,
    schema: &Schema,
) -> Result<(), BuildError> {
    let pattern = patch.target.as_ref().map(Pattern::new).transpose()?;
    match (text, pattern) {
        (PatchText::Json(operations), Some(pattern)) => {
            for resource in resources {
                if pattern.takes(resource)? {
                    resource.remember();
                    transform::patch_json(resource, operations)?;
                }
            }
            Ok(())
        }
        (PatchText::Json(operations), None) if operations.is_null() => Ok(()),
        (PatchText::Json(_), None) => Err(refused(format!("must specify a target for JSON patch {}", patch.path))),
        (PatchText::Strategic(patches), Some(pattern)) => {
            let one = match patches.as_slice() {
                [] => return Ok(()),
                [one] => one,
                _ => {
                    return Err(refused(
                        "several strategic merge patches in one entry of patches cannot have a target",
                    ));
                }
            };
            for resource in &mut *resources {
                if pattern.takes(resource)? {
                    let fitted = transform::fit_patch(one, resource);
                    transform::patch_strategic(resource, &fitted, schema)?;
                }
            }
            resources.retain(|resource| !resource.node().is_empty());
            if one.allows_name_change || one.allows_kind_change {
                return check_ids(resources);
            }
            Ok(())
        }
        (PatchText::Strategic(patches), None) => patches.iter().try_for_each(|one| {
            let at = find(resources, one)?;
            transform::patch_strategic(&mut resources[at], one, schema)
        }),
    }
}

/// Refuses two objects of one id.
pub(crate) fn check_ids(resources: &[Resource]) -> Result<(), BuildError> {
    let mut seen = std::collections::HashSet::with_capacity(resources.len());
    match resources.iter().find(|resource| !seen.insert(resource.id().key())) {
        Some(twice) => Err(refused(format!("may not add resource with an already registered id: {}", twice.id()))),
        None => Ok(()),
    }
}

fn add_hashes(resources: &mut [Resource]) -> Result<(), BuildError> {
    for resource in resources.iter_mut().filter(|resource| resource.needs_hash) {
        let hash =
            hash::of(resource.node()).map_err(|(_, problem)| refused(format!("{}: {problem}", resource.id())))?;
        resource.remember();
        let name = format!("{}-{hash}", resource.name());
        resource.set_name(&name);
    }
    Ok(())
}

fn add_value(resources: &mut [Resource], value: &str, targets: &[ValueTarget]) -> Result<(), BuildError> {
    for target in targets {
        let pattern = target.selector.as_ref().map(Pattern::new).transpose()?;
        for resource in &mut *resources {
            if let Some(pattern) = &pattern
                && !pattern.takes(resource)?
            {
                continue;
            }
            if target.path == "metadata/namespace" {
                Namespace { name: value, ..Namespace::default() }.one(resource)?;
            } else {
                transform::add_value(resource, &target.path, value, target.position)?;
            }
        }
    }
    Ok(())
}

/// A patch of a kustomization, read.
pub(crate) fn patch(folder: &Folder<'_>, patch: &Patch, source: &Source, schema: &Schema) -> Result<Step, BuildError> {
    let inline = patch.patch.trim();
    let text = match (inline.is_empty(), patch.path.is_empty()) {
        (true, true) => return Err(refused(format!("{}: a patch must specify one of patch and path", source.file))),
        (false, false) => {
            return Err(refused(format!("{}: patch and path cannot be set at the same time", source.file)));
        }
        (false, true) => Source::new(format!("{} (patch)", source.file), inline),
        (true, false) => Source::new(patch.path.as_str(), unix_lines(folder.text(&patch.path)?)),
    };
    let mut read = transform::read_patch(&text, schema)?;
    if let PatchText::Strategic(patches) = &mut read {
        for one in patches {
            one.allows_name_change = patch.allow_name_change;
            one.allows_kind_change = patch.allow_kind_change;
        }
    }
    Ok(Step::Patch(read, patch.clone()))
}

/// A patch of `patchesJson6902`, read.
pub(crate) fn json6902(folder: &Folder<'_>, patch: &Patch, source: &Source) -> Result<Step, BuildError> {
    let Some(target) = &patch.target else {
        return Err(refused(format!("{}: an item of patchesJson6902 needs a target", source.file)));
    };
    if target.name.is_empty() {
        return Err(refused("must specify the target name"));
    }
    let text = match (patch.patch.is_empty(), patch.path.is_empty()) {
        (true, true) => return Err(refused("empty file path and empty jsonOp")),
        (false, false) => return Err(refused("must specify a file path or jsonOp, not both")),
        (false, true) => Source::new(format!("{} (patch)", source.file), patch.patch.as_str()),
        (true, false) => Source::new(patch.path.as_str(), folder.text(&patch.path)?),
    };
    let operations = transform::read_json_patch(&text)?;
    if operations.as_array().is_none_or(Vec::is_empty) {
        return Err(refused(format!("{}: patch appears to be empty", text.file)));
    }
    Ok(Step::Json6902(operations, target.clone()))
}

/// The patches of `patchesStrategicMerge`: files, or patches themselves.
pub(crate) fn merges(
    folder: &Folder<'_>,
    texts: &[String],
    source: &Source,
    schema: &Schema,
) -> Result<Step, BuildError> {
    let mut patches = Vec::new();
    for text in texts {
        let inline = Source::new(format!("{} (patch)", source.file), text.as_str());
        match transform::objects(&inline, schema) {
            Ok(more) => patches.extend(more),
            Err(_) if text.contains('\n') => return transform::objects(&inline, schema).map(Step::Merge),
            Err(_) => {
                let file = Source::new(text.as_str(), unix_lines(folder.text(text)?));
                patches.extend(transform::objects(&file, schema)?);
            }
        }
    }
    if patches.is_empty() {
        return Err(refused(format!("patch appears to be empty; files={texts:?}")));
    }
    Ok(Step::Merge(patches))
}

/// Line breaks as they are in Unix.
pub(crate) fn unix_lines(text: String) -> String {
    if text.contains("\r\n") { text.replace("\r\n", "\n") } else { text }
}

/// The replacements of a kustomization, with those that files hold.
pub(crate) fn replacements(folder: &Folder<'_>, listed: &[Replacement]) -> Result<Step, BuildError> {
    let mut found = Vec::new();
    for replacement in listed {
        if replacement.path.is_empty() {
            found.push(replacement.clone());
            continue;
        }
        if replacement.source.is_some() || replacement.targets.as_ref().is_some_and(|targets| !targets.is_empty()) {
            return Err(refused("cannot specify both path and inline replacement"));
        }
        let source = Source::new(replacement.path.as_str(), folder.text(&replacement.path)?);
        let node = crate::parse::first(&source)?.unwrap_or_else(Node::null);
        let mut decoder = Decoder::new(&source, false);
        match &node {
            Node::List(items) => {
                found.extend(items.iter().map(|item| kustomization::replacement(&mut decoder, item)));
            }
            Node::Map(_) => found.push(kustomization::replacement(&mut decoder, &node)),
            Node::Scalar(_) => return Err(refused(format!("{}: unsupported replacement type", source.file))),
        }
        decoder.finish(())?;
    }
    Ok(Step::Replace(found))
}

/// What a generator makes.
pub(crate) fn generate(
    folder: &Folder<'_>,
    generator: &Generator,
    is_secret: bool,
    schema: &Schema,
) -> Result<Resource, BuildError> {
    let load = |path: &str| folder.load(path);
    let node = generate::object(generator, is_secret, &load)?;
    let mut resource = Resource::new(node, None, schema);
    resource.needs_hash = !generator.options.as_ref().is_some_and(|options| options.disable_name_suffix_hash);
    resource.is_generated = true;
    resource.behavior = match generator.behavior.as_str() {
        "replace" => Behavior::Replace,
        "merge" => Behavior::Merge,
        _ => Behavior::Create,
    };
    Ok(resource)
}

/// What a chart renders to.
pub(crate) fn render(
    folder: &Folder<'_>,
    chart: &HelmChart,
    globals: Option<&HelmGlobals>,
    options: &HelmOptions,
    schema: &Schema,
) -> Result<Vec<Resource>, BuildError> {
    let chart = Chart::new(chart, globals, &folder.root, options)?;
    for file in chart.further_values() {
        folder.load(file).map_err(|error| error.within("could not load additionalValuesFile"))?;
    }
    let name = format!("chart {}", chart.name());
    let text = String::from_utf8_lossy(&folder.render(&chart)?).into_owned();
    let source = Source::new(name, unix_lines(text));
    let mut resources = transform::objects(&source, schema)?;
    for resource in &mut resources {
        resource.from_helm = true;
    }
    Ok(resources)
}

/// What a file that describes a generator makes.
pub(crate) fn file_generator(
    folder: &Folder<'_>,
    resource: &Resource,
    options: &HelmOptions,
    schema: &Schema,
) -> Result<Vec<Resource>, BuildError> {
    let source = config(resource);
    let node = resource.node();
    let mut decoder = Decoder::new(&source, false);
    let kind = built_in_kind(resource)?;
    match kind {
        "ConfigMapGenerator" | "SecretGenerator" => {
            let is_secret = kind == "SecretGenerator";
            let mut generator = kustomization::generator(&mut decoder, node, is_secret);
            if generator.name.is_empty() {
                resource.name().clone_into(&mut generator.name);
            }
            if generator.namespace.is_empty() {
                resource.namespace().clone_into(&mut generator.namespace);
            }
            decoder.finish(())?;
            generate(folder, &generator, is_secret, schema).map(|made| vec![made])
        }
        "HelmChartInflationGenerator" => {
            let chart = kustomization::helm_chart(&mut decoder, node);
            let globals = kustomization::helm_globals(&mut decoder, node);
            decoder.finish(())?;
            render(folder, &chart, Some(&globals), options, schema)
        }
        "IAMPolicyGenerator" => {
            let text = |path: &[&str]| node.at(path).map_or("", Node::text);
            if text(&["cloud"]) != "gke" {
                return Err(refused(format!("cloud provider {} not supported yet", text(&["cloud"]))));
            }
            let account = format!(
                "{}@{}.iam.gserviceaccount.com",
                text(&["serviceAccount", "name"]),
                text(&["serviceAccount", "projectId"])
            );
            let mut object = Map::default();
            object.push("apiVersion", Node::string("v1"));
            object.push("kind", Node::string("ServiceAccount"));
            let mut annotations = Map::default();
            annotations.push("iam.gke.io/gcp-service-account", Node::string(account));
            let mut metadata = Map::default();
            metadata.push("annotations", Node::Map(annotations));
            metadata.push("name", Node::string(text(&["kubernetesService", "name"])));
            if !text(&["kubernetesService", "namespace"]).is_empty() {
                metadata.push("namespace", Node::string(text(&["kubernetesService", "namespace"])));
            }
            object.push("metadata", Node::Map(metadata));
            Ok(vec![Resource::new(Node::Map(object), None, schema)])
        }
        _ => Err(refused(format!("plugin {} not a generator", resource.first_id()))),
    }
}

/// What names the generator or transformer that an object describes.
fn built_in_kind(resource: &Resource) -> Result<&str, BuildError> {
    if resource.api_version() == "builtin" {
        return Ok(resource.kind());
    }
    Err(refused(format!(
        "external plugins are not run: unable to load plugin {} of kind {}",
        resource.first_id(),
        resource.kind()
    )))
}

fn config(resource: &Resource) -> Source {
    resource.source.as_deref().cloned().unwrap_or_else(|| Source::new(resource.id().to_string(), ""))
}

/// The transformer that an object describes.
pub(crate) fn file_transformer(folder: &Folder<'_>, resource: &Resource, schema: &Schema) -> Result<Step, BuildError> {
    let source = config(resource);
    let node = resource.node();
    let mut decoder = Decoder::new(&source, false);
    let d = &mut decoder;
    let mut fields = d.object(node, "a transformer");
    let o = &mut fields;
    let specs = d.list(o.get("fieldSpecs"), "fieldSpecs", kustomization::field_spec);
    let affix =
        |text: String, is_prefix: bool, specs: &[FieldSpec]| Step::Affix { text, is_prefix, specs: specs.to_vec() };
    let has_specs = o.get("fieldSpecs").is_some();
    let needs_specs = |step: Step| {
        if has_specs { Ok(step) } else { Err(refused("fieldSpecs is not expected to be nil")) }
    };
    let kind = built_in_kind(resource)?;
    let step = match kind {
        "AnnotationsTransformer" => Step::Texts { pairs: d.pairs(o.get("annotations"), "annotations"), specs },
        "LabelTransformer" => Step::Texts { pairs: d.pairs(o.get("labels"), "labels"), specs },
        "HashTransformer" => Step::Hash,
        "ImageTagTransformer" => {
            let image = o.get("imageTag").map(|node| kustomization::image(d, node)).unwrap_or_default();
            Step::Image { image, specs }
        }
        "NamespaceTransformer" => {
            let subjects = match d.text(o.get("setRoleBindingSubjects"), "setRoleBindingSubjects").as_str() {
                "" | "defaultOnly" => Subjects::Default,
                "allServiceAccounts" => Subjects::ServiceAccounts,
                "none" => Subjects::Nobody,
                other => {
                    return Err(refused(format!(
                        "invalid value {other:?} for setRoleBindingSubjects: must be one of \"defaultOnly\", \"none\" or \
                         \"allServiceAccounts\""
                    )));
                }
            };
            let unset_only = d.truth(o.get("unsetOnly"), "unsetOnly");
            Step::Namespace { name: resource.namespace().to_owned(), specs, unset_only, subjects }
        }
        "PrefixTransformer" => needs_specs(affix(d.text(o.get("prefix"), "prefix"), true, &specs))?,
        "SuffixTransformer" => needs_specs(affix(d.text(o.get("suffix"), "suffix"), false, &specs))?,
        "PrefixSuffixTransformer" => needs_specs(Step::Several(vec![
            affix(d.text(o.get("prefix"), "prefix"), true, &specs),
            affix(d.text(o.get("suffix"), "suffix"), false, &specs),
        ]))?,
        "PatchTransformer" => patch(folder, &kustomization::patch(d, node), &source, schema)?,
        "PatchJson6902Transformer" => {
            let mut read = kustomization::patch(d, node);
            read.patch = d.text(o.get("jsonOp"), "jsonOp");
            json6902(folder, &read, &source)?
        }
        "PatchStrategicMergeTransformer" => {
            let mut texts = d.texts(o.get("paths"), "paths");
            let inline = d.text(o.get("patches"), "patches");
            if texts.is_empty() && inline.is_empty() {
                return Err(refused("empty file path and empty patch content"));
            }
            texts.extend((!inline.is_empty()).then_some(inline));
            merges(folder, &texts, &source, schema)?
        }
        "ReplacementTransformer" => {
            let listed = d.list(o.get("replacements"), "replacements", kustomization::replacement);
            replacements(folder, &listed)?
        }
        "ReplicaCountTransformer" => {
            let (name, count) = o.get("replica").map(|node| kustomization::replica(d, node)).unwrap_or_default();
            Step::Replicas { name, count, specs }
        }
        "ValueAddTransformer" => {
            let mut value = d.text(o.get("value"), "value").trim().to_owned();
            if value.is_empty() {
                value = folder.root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            }
            let mut targets = d.list(o.get("targets"), "targets", value_target);
            let path = d.text(o.get("targetFilePath"), "targetFilePath");
            if !path.is_empty() {
                let source = Source::new(path.as_str(), folder.text(&path)?);
                let node = crate::parse::first(&source)?.unwrap_or_else(Node::null);
                let mut decoder = Decoder::new(&source, false);
                let mut fields = decoder.object(&node, "targets");
                targets.extend(decoder.list(fields.get("targets"), "targets", value_target));
                decoder.finish(())?;
            }
            if targets.is_empty() {
                return Err(refused("must specify at least one target"));
            }
            if targets.iter().any(|target| target.path.is_empty() || target.position < 0) {
                return Err(refused("fieldPath cannot be empty, and filePathPosition cannot be negative"));
            }
            Step::AddValue { value, targets }
        }
        _ => return Err(refused(format!("plugin {} not a transformer", resource.first_id()))),
    };
    decoder.finish(step)
}

fn value_target(d: &mut Decoder<'_>, node: &Node) -> ValueTarget {
    let mut fields = d.object(node, "a target");
    ValueTarget {
        selector: fields.get("selector").map(|node| kustomization::selector(d, node)),
        path: d.text(fields.get("fieldPath"), "fieldPath"),
        position: d.number(fields.get("filePathPosition"), "filePathPosition"),
    }
}
