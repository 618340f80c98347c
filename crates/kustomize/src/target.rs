//! One kustomization after the other: what a folder's objects are once its bases, generators, components and transformers
//! had their turn.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use crate::Options;
use crate::crds;
use crate::error::{BuildError, Source, refused};
use crate::fields::{self, BUILT_IN, FieldSpec, FieldTable};
use crate::files::Folder;
use crate::generate;
use crate::id::Id;
use crate::kustomization::{self, Kustomization, Label, Var};
use crate::node::Node;
use crate::origin::{self, Origin};
use crate::references;
use crate::resource::{Behavior, LOCAL, ORIGIN, Resource, TRANSFORMATIONS};
use crate::schema::Schema;
use crate::step::{self, Step};
use crate::transform;

/// What holds for a whole build.
pub(crate) struct Context<'o> {
    pub(crate) options: &'o Options,
    /// Set by the first kustomization that brings a schema.
    pub(crate) schema: RefCell<Option<Schema>>,
    pub(crate) warnings: RefCell<Vec<String>>,
    /// The options of the first kustomization, which hold below it too.
    build_metadata: RefCell<Vec<String>>,
}

impl<'o> Context<'o> {
    pub(crate) fn new(options: &'o Options) -> Context<'o> {
        Context {
            options,
            schema: RefCell::new(None),
            warnings: RefCell::new(Vec::new()),
            build_metadata: RefCell::new(Vec::new()),
        }
    }

    fn schema(&self) -> Schema {
        self.schema.borrow().clone().unwrap_or_default()
    }
}

/// What has come together so far.
#[derive(Default)]
pub(crate) struct Accumulator {
    pub(crate) resources: Vec<Resource>,
    /// The ids of all resources, while they are known.
    ids: Option<HashSet<Key>>,
    /// Fields beyond the built-in ones, together with those.
    table: Option<Box<FieldTable>>,
    /// Whether any table, if only the built-in one, has come in.
    has_table: bool,
    vars: Vec<Var>,
}

type Key = (crate::id::Gvk, String, String);

impl Accumulator {
    fn table(&self) -> &FieldTable {
        self.table.as_deref().unwrap_or(&BUILT_IN)
    }

    fn append(&mut self, more: Vec<Resource>) -> Result<(), BuildError> {
        let ids = self.ids.get_or_insert_with(|| self.resources.iter().map(|resource| resource.id().key()).collect());
        for resource in more {
            if !ids.insert(resource.id().key()) {
                let message = format!("may not add resource with an already registered id: {}", resource.id());
                let Some(source) = resource.source.as_deref() else { return Err(refused(message)) };
                let place = resource.node().at(&["metadata", "name"]).map(Node::place).unwrap_or_default();
                let hint = Some("list it once, or change the other with a patch".to_owned());
                return Err(BuildError::Mistakes(vec![source.mistake(place, message, hint)]));
            }
            self.resources.push(resource);
        }
        Ok(())
    }

    /// Adds fields that a file names to those that are known.
    ///
    /// kustomize merges tables into what is there, and into nothing where nothing is there yet: then a field of one kind
    /// hides the same field of all kinds.
    fn add_table(&mut self, table: FieldTable) -> Result<(), BuildError> {
        if table == FieldTable::default() {
            return Ok(());
        }
        let mut own = BUILT_IN.clone();
        own.merge(table)?;
        self.merge_table(own)
    }

    fn merge_table(&mut self, table: FieldTable) -> Result<(), BuildError> {
        let mut known = match self.table.take() {
            Some(known) => known,
            None if self.has_table => Box::new(BUILT_IN.clone()),
            None => Box::default(),
        };
        known.merge(table)?;
        self.table = Some(known);
        self.has_table = true;
        Ok(())
    }

    fn add_vars(&mut self, vars: Vec<Var>) -> Result<(), BuildError> {
        for var in vars {
            if self.vars.iter().any(|known| known.name == var.name) {
                return Err(refused(format!("var '{}' already encountered", var.name)));
            }
            self.vars.push(var);
        }
        Ok(())
    }

    fn merge(&mut self, other: Accumulator) -> Result<(), BuildError> {
        self.append(other.resources)?;
        if let Some(table) = other.table {
            self.merge_table(*table)?;
        }
        self.has_table = true;
        self.add_vars(other.vars)
    }

    /// Adds what a generator made: new, or in the place of, or merged into, what is there.
    fn absorb(&mut self, mut made: Resource) -> Result<(), BuildError> {
        let id = made.id().clone();
        let is_same = |resource: &Resource| {
            !resource.node().is_empty() && resource.all_ids().iter().any(|known: &Id| known.is(&id))
        };
        let found: Vec<usize> = (0..self.resources.len()).filter(|at| is_same(&self.resources[*at])).collect();
        match (found.as_slice(), made.behavior) {
            ([], Behavior::Create) => self.append(vec![made]),
            ([], _) => Err(refused(format!("id {id} does not exist; cannot merge or replace"))),
            ([_], Behavior::Create) => Err(refused(format!(
                "id {id} exists; can not use behavior: 'create', behavior must be merge or replace"
            ))),
            ([at], behavior) => {
                let old = &self.resources[*at];
                let origin = old.annotation(ORIGIN).map(str::to_owned);
                take_metadata(&mut made, old);
                if behavior == Behavior::Merge {
                    merge_data(&mut made, old);
                    if let Some(origin) = origin {
                        made.set_annotation(ORIGIN, Some(&origin));
                    }
                }
                self.ids = None;
                self.resources[*at] = made;
                Ok(())
            }
            _ => Err(refused(format!("found multiple objects that could accept merge of {id}"))),
        }
    }
}

/// Labels, annotations, name and history of an object go to the one that takes its place.
fn take_metadata(made: &mut Resource, old: &Resource) {
    for field in ["labels", "annotations"] {
        let mut texts: HashMap<String, String> = old.texts(field).into_iter().collect();
        texts.extend(made.texts(field));
        made.set_texts(field, texts.into_iter().collect());
    }
    made.set_name(old.name());
    made.set_namespace(old.namespace());
    made.former.clone_from(&old.former);
    made.prefixes.clone_from(&old.prefixes);
    made.suffixes.clone_from(&old.suffixes);
    made.behavior = old.behavior;
    made.needs_hash &= old.needs_hash;
    made.variables.clone_from(&old.variables);
}

fn merge_data(made: &mut Resource, old: &Resource) {
    for field in ["data", "binaryData"] {
        let texts = |resource: &Resource| -> Vec<(String, String)> {
            let entries = resource.node().get(field).and_then(Node::as_map).map(|map| map.entries.as_slice());
            entries.unwrap_or_default().iter().map(|(key, value)| (key.text.clone(), value.text().to_owned())).collect()
        };
        let mut merged: std::collections::BTreeMap<String, String> = texts(old).into_iter().collect();
        merged.extend(texts(made));
        let Some(map) = made.node_mut().as_map_mut() else { continue };
        map.remove(field);
        if merged.is_empty() {
            continue;
        }
        if let Some(data) = map.map_at(field) {
            for (key, text) in merged {
                data.push(&key, Node::string(text));
            }
        }
    }
}

/// A kustomization and the folder that it is in.
pub(crate) struct Target<'f, 'c> {
    folder: Rc<Folder<'f>>,
    pub(crate) kustomization: Kustomization,
    source: Source,
    context: &'c Context<'c>,
    /// Where the target is, when that is to be told.
    origin: Option<Origin>,
    /// The namespace that charts below take when they name none.
    helm_namespace: String,
}

/// The names that a kustomization file may have.
const FILE_NAMES: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];

impl<'f, 'c> Target<'f, 'c> {
    /// Reads the kustomization of a folder.
    pub(crate) fn load(folder: Folder<'f>, context: &'c Context<'c>) -> Result<Target<'f, 'c>, BuildError> {
        let found: Vec<(&str, String)> =
            FILE_NAMES.iter().filter_map(|name| folder.text(name).ok().map(|text| (*name, text))).collect();
        let root = folder.root.display();
        let (name, text) = match found.as_slice() {
            [one] => one,
            [] => {
                return Err(refused(format!(
                    "unable to find one of 'kustomization.yaml', 'kustomization.yml' or 'Kustomization' in directory '{root}'"
                )));
            }
            _ => return Err(refused(format!("Found multiple kustomization files under: {root}"))),
        };
        let file = folder.root.join(name).display().to_string();
        let source = Source::new(file, text.as_str());
        let kustomization = kustomization::read(&source)?;
        context.warnings.borrow_mut().extend(kustomization.warnings.iter().cloned());
        let target = Target {
            folder: Rc::new(folder),
            kustomization,
            source,
            context,
            origin: None,
            helm_namespace: String::new(),
        };
        target.set_schema()?;
        Ok(target)
    }

    fn set_schema(&self) -> Result<(), BuildError> {
        let k = &self.kustomization;
        if self.context.schema.borrow().is_some() {
            return Ok(());
        }
        match (&k.openapi_path, &k.openapi_version) {
            (Some(_), Some(_)) => Err(refused("builtin version and custom schema provided, cannot use both")),
            (Some(path), None) => {
                let source = Source::new(path.as_str(), self.folder.text(path)?);
                let node = crate::parse::first(&source)?.unwrap_or_else(Node::null);
                let value = crate::json::value_1_1(&node)
                    .map_err(|(place, problem)| BuildError::Mistakes(vec![source.mistake(place, problem, None)]))?;
                *self.context.schema.borrow_mut() = Some(Schema::custom(&value));
                Ok(())
            }
            (None, Some(version)) if version != "v1.21.2" && !version.is_empty() => {
                Err(refused("the specified OpenAPI version is not built in"))
            }
            _ => Ok(()),
        }
    }

    /// Everything, as it is printed.
    pub(crate) fn build(mut self) -> Result<(Vec<Resource>, Kustomization), BuildError> {
        let metadata = self.kustomization.build_metadata.clone();
        if !metadata.is_empty() {
            self.origin = Some(Origin::default());
        }
        *self.context.build_metadata.borrow_mut() = metadata.clone();
        let schema = self.context.schema();
        let mut accumulator = self.accumulate(Accumulator::default())?;
        Step::Hash.run(&mut accumulator.resources, &schema)?;
        let table = accumulator.table.take();
        let table = table.as_deref().unwrap_or(&BUILT_IN);
        references::fix(&mut accumulator.resources, table)?;
        self.resolve_vars(&mut accumulator, table)?;
        let mut resources = accumulator.resources;
        resources.retain(|resource| resource.annotation(LOCAL).is_none_or(|value| value == "false"));
        let mut drops = Vec::new();
        if !metadata.iter().any(|option| option == "originAnnotations") {
            drops.push(ORIGIN);
        }
        if !metadata.iter().any(|option| option == "transformerAnnotations") {
            drops.push(TRANSFORMATIONS);
        }
        if metadata.iter().any(|option| option == "managedByLabel") || self.context.options.managed_by_label {
            let pairs = [("app.kubernetes.io/managed-by".to_owned(), MANAGED_BY.to_owned())];
            let specs = [FieldSpec { path: "metadata/labels".to_owned(), create: true, ..FieldSpec::default() }];
            transform::add_texts(&mut resources, &pairs, &specs)?;
        }
        for resource in &mut resources {
            resource.finish_annotations(&drops);
        }
        Ok((resources, self.kustomization))
    }

    fn resolve_vars(&self, accumulator: &mut Accumulator, table: &FieldTable) -> Result<(), BuildError> {
        let mut values = HashMap::new();
        for var in &accumulator.vars {
            let holder = accumulator.resources.iter().find(|resource| resource.variables.contains(&var.name));
            let Some(holder) = holder else {
                let name = &var.name;
                return Err(refused(format!("var '{name}' cannot be mapped to a field in the set of known resources")));
            };
            let Some(value) = references::value_at(holder.node(), &var.field_path)? else {
                let name = &var.name;
                return Err(refused(format!(
                    "field {} specified in var '{name}' not found in corresponding resource",
                    var.field_path
                )));
            };
            values.insert(var.name.clone(), value);
        }
        if values.is_empty() {
            return Ok(());
        }
        let unused = references::replace_vars(&mut accumulator.resources, &values, &table.var_reference)?;
        if !unused.is_empty() {
            let warning = format!("well-defined vars that were never replaced: {}", unused.join(","));
            self.context.warnings.borrow_mut().push(warning);
        }
        Ok(())
    }

    fn accumulate(&mut self, mut accumulator: Accumulator) -> Result<Accumulator, BuildError> {
        let resources = std::mem::take(&mut self.kustomization.resources);
        self.resources(&mut accumulator, &resources)?;
        let mut table = FieldTable::default();
        for path in &self.kustomization.configurations {
            let source = Source::new(path.as_str(), self.folder.text(path)?);
            table.merge(kustomization::field_table(&source)?)?;
        }
        accumulator.add_table(table)?;
        accumulator.has_table = true;
        for path in &self.kustomization.crds {
            let source = Source::new(path.as_str(), self.folder.text(path)?);
            accumulator.merge_table(crds::field_table(&source)?)?;
        }
        self.generate(&mut accumulator)?;
        let components = std::mem::take(&mut self.kustomization.components);
        for path in &components {
            let folder = self.folder.base(path).map_err(|error| error.within(format!("component {path}")))?;
            accumulator = self
                .directory(accumulator, folder, path, true)
                .map_err(|error| error.within(format!("component {path}")))?;
        }
        self.transform(&mut accumulator)?;
        self.validate(&mut accumulator)?;
        self.take_vars(&mut accumulator)?;
        Ok(accumulator)
    }

    fn resources(&mut self, accumulator: &mut Accumulator, paths: &[String]) -> Result<(), BuildError> {
        for path in paths {
            let Err(as_file) = self.file(accumulator, path) else { continue };
            let folder = match self.folder.base(path) {
                Ok(folder) => folder,
                // The text is a file's, and what is wrong with it is worth more than that it is no folder.
                Err(_) if as_file.is_malformed() => return Err(as_file),
                Err(error) => {
                    let message = format!("{as_file}; as a folder: {error}");
                    let node = crate::parse::first(&self.source).ok().flatten();
                    let place = node.as_ref().and_then(|node| place_of(node, path)).unwrap_or_default();
                    let mistake = self.source.mistake(place, message, None);
                    return Err(BuildError::Mistakes(vec![mistake]));
                }
            };
            let own = std::mem::take(accumulator);
            *accumulator = self.directory(own, folder, path, false).map_err(|error| error.within(path.as_str()))?;
        }
        Ok(())
    }

    fn file(&self, accumulator: &mut Accumulator, path: &str) -> Result<(), BuildError> {
        let text = step::unix_lines(self.folder.text(path)?);
        let source = Source::new(path, text);
        let mut resources = transform::objects(&source, &self.context.schema())?;
        if let Some(origin) = &self.origin {
            let text = origin.append(path).text();
            for resource in &mut resources {
                resource.set_annotation(ORIGIN, Some(&text));
            }
        }
        step::check_ids(&resources)?;
        accumulator.append(resources)
    }

    fn directory(
        &self,
        mut accumulator: Accumulator,
        folder: Folder<'f>,
        path: &str,
        is_component: bool,
    ) -> Result<Accumulator, BuildError> {
        let root = folder.root.display().to_string();
        let mut target = Target::load(folder, self.context)?;
        target.origin = self.origin.as_ref().map(|origin| origin.append(path));
        target.helm_namespace = match self.kustomization.namespace.as_str() {
            "" => self.helm_namespace.clone(),
            namespace => namespace.to_owned(),
        };
        match (is_component, target.kustomization.is_component) {
            (true, false) => {
                return Err(refused(format!("expected kind 'Component' for path '{root}' but got 'Kustomization'")));
            }
            (false, true) => return Err(refused(format!("expected kind != 'Component' for path '{root}'"))),
            _ => {}
        }
        if is_component {
            // A component works on what is there.
            let mut all = target.accumulate(accumulator)?;
            all.ids = None;
            return Ok(all);
        }
        let below = target.accumulate(Accumulator::default())?;
        accumulator.merge(below)?;
        Ok(accumulator)
    }

    fn generate(&mut self, accumulator: &mut Accumulator) -> Result<(), BuildError> {
        let k = &self.kustomization;
        let schema = self.context.schema();
        let origin = |kind: &str| self.origin.as_ref().map(|origin| origin.built_in(self.file_name(), kind));
        let mut made: Vec<(Vec<Resource>, Option<Origin>)> = Vec::new();
        for (generators, is_secret, kind) in
            [(&k.config_maps, false, "ConfigMapGenerator"), (&k.secrets, true, "SecretGenerator")]
        {
            for generator in generators {
                let mut generator = generator.clone();
                generator.options = generate::with_global(generator.options, k.generator_options.as_ref());
                let resource = step::generate(&self.folder, &generator, is_secret, &schema)
                    .map_err(|error| error.within(format!("{}: {kind} {:?}", self.source.file, generator.name)))?;
                made.push((vec![resource], origin(kind)));
            }
        }
        for chart in &k.helm_charts {
            let mut chart = chart.clone();
            if chart.namespace.is_empty() {
                chart.namespace.clone_from(if k.namespace.is_empty() { &self.helm_namespace } else { &k.namespace });
            }
            let options = &self.context.options.helm;
            let resources = step::render(&self.folder, &chart, k.helm_globals.as_ref(), options, &schema)?;
            made.push((resources, origin("HelmChartInflationGenerator")));
        }
        let listed = std::mem::take(&mut self.kustomization.generators);
        for resource in self.plugins(&listed)? {
            let origin = Origin::plugin(&resource);
            let resources = step::file_generator(&self.folder, &resource, &self.context.options.helm, &schema)
                .map_err(|error| error.within("loading generator plugins"))?;
            made.push((resources, origin));
        }
        for (mut resources, origin) in made {
            if let Some(origin) = &origin {
                origin::annotate(&mut resources, origin);
            }
            for resource in resources {
                accumulator.absorb(resource)?;
            }
        }
        Ok(())
    }

    fn file_name(&self) -> &str {
        self.source.file.rsplit('/').next().unwrap_or_default()
    }

    /// The objects that describe generators or transformers: written into the list, or in files and folders.
    fn plugins(&mut self, listed: &[String]) -> Result<Vec<Resource>, BuildError> {
        let mut accumulator = Accumulator::default();
        let mut paths = Vec::new();
        for text in listed {
            let source = Source::new(format!("{} (inline)", self.source.file), text.as_str());
            match transform::objects(&source, &self.context.schema()) {
                Ok(mut resources) => {
                    if let Some(origin) = &self.origin {
                        let text = origin.append(self.file_name()).text();
                        for resource in &mut resources {
                            resource.set_annotation(ORIGIN, Some(&text));
                        }
                    }
                    accumulator.append(resources)?;
                }
                Err(error) if text.contains('\n') => return Err(error),
                Err(_) => paths.push(text.clone()),
            }
        }
        self.resources(&mut accumulator, &paths)?;
        Ok(accumulator.resources)
    }

    fn transform(&mut self, accumulator: &mut Accumulator) -> Result<(), BuildError> {
        let schema = self.context.schema();
        let steps = self.steps(accumulator.table(), &schema)?;
        let listed = std::mem::take(&mut self.kustomization.transformers);
        let origin = self.origin.clone();
        let file = self.file_name().to_owned();
        let built_in =
            steps.into_iter().map(|(kind, step)| (step, origin.as_ref().map(|origin| origin.built_in(&file, kind))));
        let mut all: Vec<(Step, Option<Origin>)> = built_in.collect();
        for resource in self.plugins(&listed)? {
            let step = step::file_transformer(&self.folder, &resource, &schema)
                .map_err(|error| error.within(format!("transformer {}", resource.id())))?;
            all.push((step, Origin::plugin(&resource)));
        }
        if all.is_empty() {
            return Ok(());
        }
        accumulator.ids = None;
        for (step, origin) in all {
            step.run(&mut accumulator.resources, &schema)?;
            if let Some(origin) = origin {
                origin::transformed(&mut accumulator.resources, &origin)?;
            }
            accumulator.resources.retain(|resource| !resource.node().is_empty());
        }
        Ok(())
    }

    /// The transformers that the kustomization's fields ask for, in kustomize's order.
    fn steps(&self, table: &FieldTable, schema: &Schema) -> Result<Vec<(&'static str, Step)>, BuildError> {
        let k = &self.kustomization;
        let mut steps: Vec<(&'static str, Step)> = Vec::new();
        if !k.patches_strategic_merge.is_empty() {
            let step = step::merges(&self.folder, &k.patches_strategic_merge, &self.source, schema)?;
            steps.push(("PatchStrategicMergeTransformer", step));
        }
        for patch in &k.patches {
            steps.push(("PatchTransformer", step::patch(&self.folder, patch, &self.source, schema)?));
        }
        if !k.namespace.is_empty() {
            let step = Step::Namespace {
                name: k.namespace.clone(),
                specs: table.namespace.clone(),
                unset_only: false,
                subjects: transform::Subjects::Default,
            };
            steps.push(("NamespaceTransformer", step));
        }
        for (text, is_prefix, specs, kind) in [
            (&k.name_prefix, true, &table.name_prefix, "PrefixTransformer"),
            (&k.name_suffix, false, &table.name_suffix, "SuffixTransformer"),
        ] {
            if !text.is_empty() {
                steps.push((kind, Step::Affix { text: text.clone(), is_prefix, specs: specs.clone() }));
            }
        }
        for label in &k.labels {
            steps.push((
                "LabelTransformer",
                Step::Texts { pairs: label.pairs.clone(), specs: label_fields(label, table)? },
            ));
        }
        if !k.labels.is_empty() || !k.common_labels.is_empty() {
            let step = Step::Texts { pairs: k.common_labels.clone(), specs: table.common_labels.clone() };
            steps.push(("LabelTransformer", step));
        }
        if !k.common_annotations.is_empty() {
            let step = Step::Texts { pairs: k.common_annotations.clone(), specs: table.common_annotations.clone() };
            steps.push(("AnnotationsTransformer", step));
        }
        for patch in &k.patches_json6902 {
            steps.push(("PatchJson6902Transformer", step::json6902(&self.folder, patch, &self.source)?));
        }
        for (name, count) in &k.replicas {
            let step = Step::Replicas { name: name.clone(), count: *count, specs: table.replicas.clone() };
            steps.push(("ReplicaCountTransformer", step));
        }
        for image in &k.images {
            steps.push(("ImageTagTransformer", Step::Image { image: image.clone(), specs: table.images.clone() }));
        }
        if !k.replacements.is_empty() {
            steps.push(("ReplacementTransformer", step::replacements(&self.folder, &k.replacements)?));
        }
        Ok(steps)
    }

    /// Runs transformers that may only look: whatever they change is a mistake.
    fn validate(&mut self, accumulator: &mut Accumulator) -> Result<(), BuildError> {
        let listed = std::mem::take(&mut self.kustomization.validators);
        let schema = self.context.schema();
        for resource in self.plugins(&listed)? {
            let step = step::file_transformer(&self.folder, &resource, &schema)?;
            let before: Vec<Node> = accumulator.resources.iter().map(|resource| resource.node().clone()).collect();
            step.run(&mut accumulator.resources, &schema)?;
            let same = accumulator.resources.len() == before.len()
                && accumulator.resources.iter().zip(&before).all(|(after, before)| after.node() == before);
            if !same {
                return Err(refused(format!("validator {} shouldn't modify the resource map", resource.id())));
            }
        }
        Ok(())
    }

    /// Notes which objects give variables their values.
    fn take_vars(&mut self, accumulator: &mut Accumulator) -> Result<(), BuildError> {
        let vars = std::mem::take(&mut self.kustomization.vars);
        for var in &vars {
            let is_meant = |id: &Id| {
                id.name == var.object
                    && id.gvk == var.gvk
                    && (var.namespace.is_empty() || id.effective_namespace() == effective(&var.namespace))
            };
            let mut found = accumulator.resources.iter_mut().filter(|resource| resource.all_ids().iter().any(is_meant));
            match (found.next(), found.next()) {
                (Some(one), None) => one.variables.push(var.name.clone()),
                (Some(_), Some(_)) => {
                    let name = &var.name;
                    return Err(refused(format!("found several objects for var {name} (unable to disambiguate)")));
                }
                (None, _) => {}
            }
        }
        accumulator.add_vars(vars)
    }
}

/// What is written on objects that say who manages them.
const MANAGED_BY: &str = "kustomize-v5.8.1";

fn effective(namespace: &str) -> &str {
    if namespace.is_empty() { "default" } else { namespace }
}

/// Where an item of `labels` writes.
fn label_fields(label: &Label, table: &FieldTable) -> Result<Vec<FieldSpec>, BuildError> {
    let mut specs = label.fields.clone();
    let merge = |specs: &mut Vec<FieldSpec>, more: &[FieldSpec]| {
        fields::merge_specs(specs, more).map_err(|error| error.within("failed to merge labels"))
    };
    merge(&mut specs, &table.labels)?;
    if label.include_selectors {
        merge(&mut specs, &table.common_labels)?;
        return Ok(specs);
    }
    if label.include_templates {
        merge(&mut specs, &table.template_labels)?;
    }
    let own = FieldSpec { path: "metadata/labels".to_owned(), create: true, ..FieldSpec::default() };
    merge(&mut specs, &[own])?;
    Ok(specs)
}

/// Where a path is listed.
fn place_of(node: &Node, path: &str) -> Option<crate::node::Place> {
    let map = node.as_map()?;
    let items = map.entries.iter().filter_map(|(_, value)| value.as_list()).flatten();
    items.filter(|item| item.as_str() == Some(path)).map(Node::place).next()
}
