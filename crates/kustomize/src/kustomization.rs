//! What a kustomization file says.

use crate::decode::Decoder;
use crate::error::{BuildError, Source, refused};
use crate::fields::{FieldSpec, FieldTable, NameReference};
use crate::id::Gvk;
use crate::node::Node;
use crate::parse;

/// A kustomization or component, with what older spellings say moved to where it is said now.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Kustomization {
    pub(crate) is_component: bool,
    pub(crate) openapi_path: Option<String>,
    pub(crate) openapi_version: Option<String>,
    pub(crate) name_prefix: String,
    pub(crate) name_suffix: String,
    pub(crate) namespace: String,
    pub(crate) common_labels: Vec<(String, String)>,
    pub(crate) labels: Vec<Label>,
    pub(crate) common_annotations: Vec<(String, String)>,
    pub(crate) patches_strategic_merge: Vec<String>,
    pub(crate) patches_json6902: Vec<Patch>,
    pub(crate) patches: Vec<Patch>,
    pub(crate) images: Vec<Image>,
    pub(crate) replacements: Vec<Replacement>,
    pub(crate) replicas: Vec<(String, i64)>,
    pub(crate) vars: Vec<Var>,
    pub(crate) sort_options: Option<SortOptions>,
    pub(crate) resources: Vec<String>,
    pub(crate) components: Vec<String>,
    pub(crate) crds: Vec<String>,
    pub(crate) config_maps: Vec<Generator>,
    pub(crate) secrets: Vec<Generator>,
    pub(crate) helm_globals: Option<HelmGlobals>,
    pub(crate) helm_charts: Vec<HelmChart>,
    pub(crate) generator_options: Option<GeneratorOptions>,
    pub(crate) configurations: Vec<String>,
    pub(crate) generators: Vec<String>,
    pub(crate) transformers: Vec<String>,
    pub(crate) validators: Vec<String>,
    pub(crate) build_metadata: Vec<String>,
    /// What older spellings it uses.
    pub(crate) warnings: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Label {
    pub(crate) pairs: Vec<(String, String)>,
    pub(crate) include_selectors: bool,
    pub(crate) include_templates: bool,
    pub(crate) fields: Vec<FieldSpec>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Selector {
    pub(crate) gvk: Gvk,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) annotations: String,
    pub(crate) labels: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Patch {
    pub(crate) path: String,
    pub(crate) patch: String,
    pub(crate) target: Option<Selector>,
    pub(crate) allow_name_change: bool,
    pub(crate) allow_kind_change: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Image {
    pub(crate) name: String,
    pub(crate) new_name: String,
    pub(crate) tag_suffix: String,
    pub(crate) new_tag: String,
    pub(crate) digest: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct FieldOptions {
    pub(crate) delimiter: String,
    pub(crate) index: i64,
    pub(crate) create: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ReplacementSource {
    pub(crate) selector: Selector,
    pub(crate) field_path: String,
    pub(crate) options: FieldOptions,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ReplacementTarget {
    pub(crate) select: Option<Selector>,
    pub(crate) reject: Vec<Selector>,
    pub(crate) field_paths: Vec<String>,
    pub(crate) options: FieldOptions,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Replacement {
    pub(crate) source: Option<ReplacementSource>,
    pub(crate) source_value: Option<String>,
    pub(crate) targets: Option<Vec<ReplacementTarget>>,
    pub(crate) path: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Var {
    pub(crate) name: String,
    pub(crate) gvk: Gvk,
    pub(crate) object: String,
    pub(crate) namespace: String,
    pub(crate) field_path: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SortOptions {
    pub(crate) order: String,
    pub(crate) legacy: Option<(Vec<String>, Vec<String>)>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct GeneratorOptions {
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) annotations: Vec<(String, String)>,
    pub(crate) disable_name_suffix_hash: bool,
    pub(crate) immutable: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Generator {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) behavior: String,
    pub(crate) literals: Vec<String>,
    pub(crate) files: Vec<String>,
    pub(crate) envs: Vec<String>,
    pub(crate) options: Option<GeneratorOptions>,
    /// Of a Secret.
    pub(crate) secret_type: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct HelmGlobals {
    pub(crate) chart_home: String,
    pub(crate) config_home: String,
}

/// A chart to be rendered.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct HelmChart {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) repo: String,
    pub(crate) release_name: String,
    pub(crate) namespace: String,
    pub(crate) additional_values_files: Vec<String>,
    pub(crate) values_file: String,
    pub(crate) values_inline: Option<Node>,
    pub(crate) values_merge: String,
    pub(crate) include_crds: bool,
    pub(crate) skip_hooks: bool,
    pub(crate) api_versions: Vec<String>,
    pub(crate) kube_version: String,
    pub(crate) name_template: String,
    pub(crate) skip_tests: bool,
    pub(crate) debug: bool,
    pub(crate) devel: bool,
}

const VERSION: &str = "kustomize.config.k8s.io/v1beta1";
const COMPONENT_VERSION: &str = "kustomize.config.k8s.io/v1alpha1";

/// Reads a kustomization file.
pub(crate) fn read(source: &Source) -> Result<Kustomization, BuildError> {
    let node = parse::first(source)?.unwrap_or_else(Node::null);
    let mut decoder = Decoder::new(source, true);
    let d = &mut decoder;
    let mut fields = d.object(&node, "a kustomization");
    let o = &mut fields;
    let mut k = Kustomization::default();
    let mut kind = d.text(o.get("kind"), "kind");
    let mut version = d.text(o.get("apiVersion"), "apiVersion");
    let has_metadata = o.get("metadata").is_some_and(|metadata| {
        let mut fields = d.object(metadata, "metadata");
        d.text(fields.get("name"), "metadata.name");
        d.text(fields.get("namespace"), "metadata.namespace");
        d.pairs(fields.get("labels"), "metadata.labels");
        d.pairs(fields.get("annotations"), "metadata.annotations");
        d.close(fields);
        true
    });
    for (name, value) in d.pairs(o.get("openapi"), "openapi") {
        match name.as_str() {
            "path" => k.openapi_path = Some(value),
            "version" => k.openapi_version = Some(value),
            _ => {}
        }
    }
    k.name_prefix = d.text(o.get("namePrefix"), "namePrefix");
    k.name_suffix = d.text(o.get("nameSuffix"), "nameSuffix");
    k.namespace = d.text(o.get("namespace"), "namespace");
    let mut deprecated = |is_there: bool, old: &str, new: &str, experimental: bool| {
        if is_there {
            let first = if experimental { "[EXPERIMENTAL] " } else { "" };
            k.warnings.push(format!(
                "# Warning: '{old}' is deprecated. Please use '{new}' instead. {first}Run 'kustomize edit fix' to update your Kustomization automatically."
            ));
        }
    };
    let bases = o.get("bases");
    let common_labels = o.get("commonLabels");
    let image_tags = o.get("imageTags");
    let json = o.get("patchesJson6902");
    let merges = o.get("patchesStrategicMerge");
    let vars = o.get("vars");
    deprecated(bases.is_some(), "bases", "resources", false);
    deprecated(common_labels.is_some(), "commonLabels", "labels", false);
    deprecated(image_tags.is_some(), "imageTags", "images", false);
    deprecated(json.is_some(), "patchesJson6902", "patches", false);
    deprecated(merges.is_some(), "patchesStrategicMerge", "patches", false);
    deprecated(vars.is_some(), "vars", "replacements", true);
    k.common_labels = d.pairs(common_labels, "commonLabels");
    k.labels = d.list(o.get("labels"), "labels", label);
    k.common_annotations = d.pairs(o.get("commonAnnotations"), "commonAnnotations");
    k.patches_strategic_merge = d.texts(merges, "patchesStrategicMerge");
    k.patches_json6902 = d.list(json, "patchesJson6902", patch);
    k.patches = d.list(o.get("patches"), "patches", patch);
    k.images = d.list(o.get("images"), "images", image);
    k.images.extend(d.list(image_tags, "imageTags", image));
    k.replacements = d.list(o.get("replacements"), "replacements", replacement);
    k.replicas = d.list(o.get("replicas"), "replicas", replica);
    k.vars = d.list(vars, "vars", var);
    k.sort_options = o.get("sortOptions").map(|node| sort_options(d, node));
    k.resources = d.texts(o.get("resources"), "resources");
    k.resources.extend(d.texts(bases, "bases"));
    k.components = d.texts(o.get("components"), "components");
    k.crds = d.texts(o.get("crds"), "crds");
    k.config_maps = d.list(o.get("configMapGenerator"), "configMapGenerator", |d, node| generator(d, node, false));
    k.secrets = d.list(o.get("secretGenerator"), "secretGenerator", |d, node| generator(d, node, true));
    k.helm_globals = o.get("helmGlobals").map(|node| helm_globals(d, node));
    k.helm_charts = d.list(o.get("helmCharts"), "helmCharts", helm_chart);
    let inflators = d.list(o.get("helmChartInflationGenerator"), "helmChartInflationGenerator", old_chart);
    for (chart, globals) in inflators {
        k.helm_charts.push(chart);
        let known = k.helm_globals.get_or_insert_default();
        if !globals.chart_home.is_empty() {
            known.chart_home = globals.chart_home;
        }
        if !globals.config_home.is_empty() {
            known.config_home = globals.config_home;
        }
    }
    k.generator_options = o.get("generatorOptions").map(|node| generator_options(d, node));
    k.configurations = d.texts(o.get("configurations"), "configurations");
    k.generators = d.texts(o.get("generators"), "generators");
    k.transformers = d.texts(o.get("transformers"), "transformers");
    k.validators = d.texts(o.get("validators"), "validators");
    k.build_metadata = d.texts(o.get("buildMetadata"), "buildMetadata");
    let is_empty = !has_metadata && says_nothing(&node);
    d.close(fields);
    if kind.is_empty() {
        kind = "Kustomization".to_owned();
    }
    k.is_component = kind == "Component";
    let wanted = if k.is_component { COMPONENT_VERSION } else { VERSION };
    if version.is_empty() {
        version = wanted.to_owned();
    }
    let place = |field: &str| node.get(field).map(Node::place).unwrap_or_default();
    if !matches!(kind.as_str(), "Kustomization" | "Component") {
        decoder.mistake(place("kind"), "kind should be Kustomization or Component", None);
    }
    if version != wanted {
        decoder.mistake(place("apiVersion"), format!("apiVersion for {kind} should be {wanted}"), None);
    }
    let k = decoder.finish(k)?;
    if is_empty {
        return Err(refused(format!("{}: kustomization.yaml is empty", source.file)));
    }
    Ok(k)
}

/// Whether all that is said is what would hold anyway; an empty list of a current spelling is said on purpose.
fn says_nothing(node: &Node) -> bool {
    let entries = node.as_map().map(|map| map.entries.as_slice()).unwrap_or_default();
    entries.iter().all(|(key, value)| match (key.text.as_str(), value) {
        ("apiVersion" | "kind", _) => true,
        ("bases" | "imageTags" | "helmChartInflationGenerator", Node::List(items)) => items.is_empty(),
        (_, Node::Scalar(scalar)) => value.is_null() || scalar.text.is_empty(),
        _ => false,
    })
}

/// The parts of a selector that a map has.
pub(crate) fn selector(d: &mut Decoder<'_>, node: &Node) -> Selector {
    let mut fields = d.object(node, "a selector");
    let o = &mut fields;
    let selector = Selector {
        gvk: gvk(d, o),
        name: d.text(o.get("name"), "name"),
        namespace: d.text(o.get("namespace"), "namespace"),
        annotations: d.text(o.get("annotationSelector"), "annotationSelector"),
        labels: d.text(o.get("labelSelector"), "labelSelector"),
    };
    d.close(fields);
    selector
}

fn gvk(d: &mut Decoder<'_>, o: &mut crate::decode::Object<'_>) -> Gvk {
    Gvk {
        group: d.text(o.get("group"), "group"),
        version: d.text(o.get("version"), "version"),
        kind: d.text(o.get("kind"), "kind"),
    }
}

pub(crate) fn field_spec(d: &mut Decoder<'_>, node: &Node) -> FieldSpec {
    let mut fields = d.object(node, "a field");
    let o = &mut fields;
    let spec =
        FieldSpec { gvk: gvk(d, o), path: d.text(o.get("path"), "path"), create: d.truth(o.get("create"), "create") };
    d.close(fields);
    spec
}

fn label(d: &mut Decoder<'_>, node: &Node) -> Label {
    let mut fields = d.object(node, "an item of labels");
    let o = &mut fields;
    let label = Label {
        pairs: d.pairs(o.get("pairs"), "pairs"),
        include_selectors: d.truth(o.get("includeSelectors"), "includeSelectors"),
        include_templates: d.truth(o.get("includeTemplates"), "includeTemplates"),
        fields: d.list(o.get("fields"), "fields", field_spec),
    };
    d.close(fields);
    label
}

pub(crate) fn patch(d: &mut Decoder<'_>, node: &Node) -> Patch {
    let mut fields = d.object(node, "a patch");
    let o = &mut fields;
    let mut patch = Patch {
        path: d.text(o.get("path"), "path"),
        patch: d.text(o.get("patch"), "patch"),
        target: o.get("target").map(|node| selector(d, node)),
        ..Patch::default()
    };
    if let Some(options) = o.get("options") {
        let mut fields = d.object(options, "options");
        patch.allow_name_change = d.truth(fields.get("allowNameChange"), "allowNameChange");
        patch.allow_kind_change = d.truth(fields.get("allowKindChange"), "allowKindChange");
        d.close(fields);
    }
    d.close(fields);
    patch
}

pub(crate) fn image(d: &mut Decoder<'_>, node: &Node) -> Image {
    let mut fields = d.object(node, "an image");
    let o = &mut fields;
    let image = Image {
        name: d.text(o.get("name"), "name"),
        new_name: d.text(o.get("newName"), "newName"),
        tag_suffix: d.text(o.get("tagSuffix"), "tagSuffix"),
        new_tag: d.text(o.get("newTag"), "newTag"),
        digest: d.text(o.get("digest"), "digest"),
    };
    d.close(fields);
    image
}

fn field_options(d: &mut Decoder<'_>, node: Option<&Node>) -> FieldOptions {
    let Some(node) = node else { return FieldOptions::default() };
    let mut fields = d.object(node, "options");
    let o = &mut fields;
    d.text(o.get("encoding"), "encoding");
    let options = FieldOptions {
        delimiter: d.text(o.get("delimiter"), "delimiter"),
        index: d.number(o.get("index"), "index"),
        create: d.truth(o.get("create"), "create"),
    };
    d.close(fields);
    options
}

pub(crate) fn replacement(d: &mut Decoder<'_>, node: &Node) -> Replacement {
    let mut fields = d.object(node, "a replacement");
    let o = &mut fields;
    let replacement = Replacement {
        source: o.get("source").map(|node| {
            let mut fields = d.object(node, "source");
            let o = &mut fields;
            let source = ReplacementSource {
                selector: Selector {
                    gvk: gvk(d, o),
                    name: d.text(o.get("name"), "name"),
                    namespace: d.text(o.get("namespace"), "namespace"),
                    ..Selector::default()
                },
                field_path: d.text(o.get("fieldPath"), "fieldPath"),
                options: field_options(d, o.get("options")),
            };
            d.close(fields);
            source
        }),
        source_value: o.get("sourceValue").map(|node| d.text(Some(node), "sourceValue")),
        targets: o.get("targets").map(|node| {
            d.list(Some(node), "targets", |d, node| {
                let mut fields = d.object(node, "a target");
                let o = &mut fields;
                let target = ReplacementTarget {
                    select: o.get("select").map(|node| selector(d, node)),
                    reject: d.list(o.get("reject"), "reject", selector),
                    field_paths: d.texts(o.get("fieldPaths"), "fieldPaths"),
                    options: field_options(d, o.get("options")),
                };
                d.close(fields);
                target
            })
        }),
        path: d.text(o.get("path"), "path"),
    };
    d.close(fields);
    replacement
}

pub(crate) fn replica(d: &mut Decoder<'_>, node: &Node) -> (String, i64) {
    let mut fields = d.object(node, "an item of replicas");
    let replica = (d.text(fields.get("name"), "name"), d.number(fields.get("count"), "count"));
    d.close(fields);
    replica
}

fn var(d: &mut Decoder<'_>, node: &Node) -> Var {
    let mut fields = d.object(node, "a var");
    let mut var = Var { name: d.text(fields.get("name"), "name"), ..Var::default() };
    if let Some(object) = fields.get("objref") {
        let mut fields = d.object(object, "objref");
        let o = &mut fields;
        let api_version = d.text(o.get("apiVersion"), "apiVersion");
        var.gvk = gvk(d, o);
        match api_version.split('/').collect::<Vec<_>>().as_slice() {
            [""] => {}
            [version] => var.gvk.version = (*version).to_owned(),
            [group, version] => {
                var.gvk.group = (*group).to_owned();
                var.gvk.version = (*version).to_owned();
            }
            _ => {}
        }
        var.object = d.text(o.get("name"), "name");
        var.namespace = d.text(o.get("namespace"), "namespace");
        d.close(fields);
    }
    if let Some(field) = fields.get("fieldref") {
        let mut fields = d.object(field, "fieldref");
        var.field_path = d.text(fields.get("fieldPath"), "fieldPath");
        d.close(fields);
    }
    if var.field_path.is_empty() {
        var.field_path = "metadata.name".to_owned();
    }
    d.close(fields);
    var
}

fn sort_options(d: &mut Decoder<'_>, node: &Node) -> SortOptions {
    let mut fields = d.object(node, "sortOptions");
    let mut options = SortOptions { order: d.text(fields.get("order"), "order"), legacy: None };
    if let Some(legacy) = fields.get("legacySortOptions") {
        let mut fields = d.object(legacy, "legacySortOptions");
        let first = d.texts(fields.get("orderFirst"), "orderFirst");
        let last = d.texts(fields.get("orderLast"), "orderLast");
        options.legacy = Some((first, last));
        d.close(fields);
    }
    d.close(fields);
    options
}

fn generator_options(d: &mut Decoder<'_>, node: &Node) -> GeneratorOptions {
    let mut fields = d.object(node, "options of a generator");
    let o = &mut fields;
    let options = GeneratorOptions {
        labels: d.pairs(o.get("labels"), "labels"),
        annotations: d.pairs(o.get("annotations"), "annotations"),
        disable_name_suffix_hash: d.truth(o.get("disableNameSuffixHash"), "disableNameSuffixHash"),
        immutable: d.truth(o.get("immutable"), "immutable"),
    };
    d.close(fields);
    options
}

pub(crate) fn generator(d: &mut Decoder<'_>, node: &Node, is_secret: bool) -> Generator {
    let mut fields = d.object(node, "a generator");
    let o = &mut fields;
    let mut generator = Generator {
        name: d.text(o.get("name"), "name"),
        namespace: d.text(o.get("namespace"), "namespace"),
        behavior: d.text(o.get("behavior"), "behavior"),
        literals: d.texts(o.get("literals"), "literals"),
        files: d.texts(o.get("files"), "files"),
        envs: d.texts(o.get("envs"), "envs"),
        options: o.get("options").map(|node| generator_options(d, node)),
        secret_type: if is_secret { d.text(o.get("type"), "type") } else { String::new() },
    };
    let env = d.text(o.get("env"), "env");
    if !env.is_empty() {
        generator.envs.push(env);
    }
    d.close(fields);
    generator
}

pub(crate) fn helm_globals(d: &mut Decoder<'_>, node: &Node) -> HelmGlobals {
    let mut fields = d.object(node, "helmGlobals");
    let o = &mut fields;
    let globals = HelmGlobals {
        chart_home: d.text(o.get("chartHome"), "chartHome"),
        config_home: d.text(o.get("configHome"), "configHome"),
    };
    d.close(fields);
    globals
}

pub(crate) fn helm_chart(d: &mut Decoder<'_>, node: &Node) -> HelmChart {
    let mut fields = d.object(node, "an item of helmCharts");
    let o = &mut fields;
    let chart = HelmChart {
        name: d.text(o.get("name"), "name"),
        version: d.text(o.get("version"), "version"),
        repo: d.text(o.get("repo"), "repo"),
        release_name: d.text(o.get("releaseName"), "releaseName"),
        namespace: d.text(o.get("namespace"), "namespace"),
        additional_values_files: d.texts(o.get("additionalValuesFiles"), "additionalValuesFiles"),
        values_file: d.text(o.get("valuesFile"), "valuesFile"),
        values_inline: o.get("valuesInline").cloned(),
        values_merge: d.text(o.get("valuesMerge"), "valuesMerge"),
        include_crds: d.truth(o.get("includeCRDs"), "includeCRDs"),
        skip_hooks: d.truth(o.get("skipHooks"), "skipHooks"),
        api_versions: d.texts(o.get("apiVersions"), "apiVersions"),
        kube_version: d.text(o.get("kubeVersion"), "kubeVersion"),
        name_template: d.text(o.get("nameTemplate"), "nameTemplate"),
        skip_tests: d.truth(o.get("skipTests"), "skipTests"),
        debug: d.truth(o.get("debug"), "debug"),
        devel: d.truth(o.get("devel"), "devel"),
    };
    d.close(fields);
    chart
}

/// A chart as the first versions of kustomize spelled it.
fn old_chart(d: &mut Decoder<'_>, node: &Node) -> (HelmChart, HelmGlobals) {
    let mut fields = d.object(node, "an item of helmChartInflationGenerator");
    let o = &mut fields;
    let chart = HelmChart {
        name: d.text(o.get("chartName"), "chartName"),
        version: d.text(o.get("chartVersion"), "chartVersion"),
        repo: d.text(o.get("chartRepoUrl"), "chartRepoUrl"),
        values_file: d.text(o.get("values"), "values"),
        values_inline: o.get("valuesLocal").cloned(),
        values_merge: d.text(o.get("valuesMerge"), "valuesMerge"),
        release_name: d.text(o.get("releaseName"), "releaseName"),
        ..HelmChart::default()
    };
    let globals = HelmGlobals {
        chart_home: d.text(o.get("chartHome"), "chartHome"),
        config_home: d.text(o.get("helmHome"), "helmHome"),
    };
    for ignored in ["chartRepoName", "helmBin", "releaseNamespace"] {
        d.text(o.get(ignored), ignored);
    }
    d.texts(o.get("extraArgs"), "extraArgs");
    d.close(fields);
    (chart, globals)
}

/// Reads a file of `configurations`.
pub(crate) fn field_table(source: &Source) -> Result<FieldTable, BuildError> {
    let node = parse::first(source)?.unwrap_or_else(Node::null);
    let mut d = Decoder::new(source, true);
    let mut fields = d.object(&node, "a configuration");
    let mut table = FieldTable::default();
    for section in FieldTable::SECTIONS {
        let specs = d.list(fields.get(section), section, field_spec);
        if let Some(list) = table.section(section) {
            *list = specs;
        }
    }
    table.name_reference = d.list(fields.get("nameReference"), "nameReference", |d, node| {
        let mut fields = d.object(node, "an item of nameReference");
        let reference = NameReference {
            target: gvk(d, &mut fields),
            fields: d.list(fields.get("fieldSpecs"), "fieldSpecs", field_spec),
        };
        d.close(fields);
        reference
    });
    d.close(fields);
    table.sort();
    d.finish(table)
}
