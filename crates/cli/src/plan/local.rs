//! Planning what no server can be asked about yet: Kubernetes' own kinds are checked with the schemas, defaults and rules that
//! kobune's own API server has.

use kobune_kinds::{Catalogue, FieldValidation};
use serde_json::Value;

use crate::discovery::distance;
use crate::fields;
use crate::manifests::{Mistake, Step};
use crate::plan::ask::{Asked, Coming};
use crate::targets::Target;

/// Plans an object without the server.
pub fn plan(target: &Target, live: Option<Value>, coming: &Coming, why: String) -> Result<Asked, Vec<Mistake>> {
    let manifest = &target.manifest.value;
    let mut warnings = Vec::new();
    if let Some(kind) = coming.catalogue.by_kind(&target.object.api_version, &target.object.kind) {
        let mut object = manifest.clone();
        // A newer server may know more fields, so unknown ones are no mistake here.
        match kind.check_shape(&mut object, FieldValidation::Warn) {
            Ok(unknown) => warnings.extend(unknown),
            Err(error) => return Err(vec![target.mistake(format!("{}: {error}", target.object))]),
        }
        kind.default(&mut object);
        kind.prepare_create(&mut object);
        let errors = kind.validate(&object);
        if !errors.is_empty() {
            let mistake = |error: &kobune_kinds::FieldError| {
                target.manifest.mistake(&target.manifest.steps(&error.field), format!("{}: {error}", target.object))
            };
            return Err(errors.iter().map(mistake).collect());
        }
        warnings.extend(kind.warnings(&object, None));
    }
    let result = match &live {
        Some(live) => fields::overlay(live, manifest, Some(&fields::all_fields([live]))),
        None => manifest.clone(),
    };
    Ok(Asked { live, result, warnings, local: Some(why), ..Asked::default() })
}

/// The field of the same object that somebody may have meant who wrote one that does not exist.
pub fn nearest_field(target: &Target, path: &[Step]) -> Option<String> {
    let kind = Catalogue::builtin().by_kind(&target.object.api_version, &target.object.kind).cloned()?;
    let Some((Step::Key(wrong), steps)) = path.split_last() else {
        return None;
    };
    let mut schema = kind.schema();
    for step in steps {
        schema = match step {
            Step::Key(name) => schema.child(name)?,
            Step::Index(_) => schema.item()?,
        };
    }
    let near = schema.fields().map(|(name, _)| (distance(name, wrong), name));
    let (far, nearest) = near.min()?;
    (far <= 1 + wrong.len() / 4).then(|| nearest.to_owned())
}
