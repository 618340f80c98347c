//! PATCH: JSON patch, merge patch, strategic merge patch and server-side apply.

use jiff::Timestamp;
use kobune_kinds::{DecodeError, FieldError, FieldValidation, Kind, Media, Yaml};
use serde_json::{Value, json};

use crate::{
    ApiServer,
    accept::media_type,
    call::Call,
    create::{Ownership, meta, metadata, settle_namespace},
    decode,
    error::{Answer, ApiError},
    fields,
    respond::Made,
    update::Changed,
};

/// The patch types, for the message of a 415.
const OFFERED: &str = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, \
                       application/apply-patch+yaml";

/// The same for custom resources, whose schemas say nothing about strategic merging.
const OFFERED_CUSTOM: &str = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";

/// How often an apply looks anew at whether its object is there.
const ATTEMPTS: usize = 5;

/// A patch that was read.
#[derive(Clone, Debug)]
pub(crate) enum Patch {
    /// RFC 6902.
    Json(Value),
    /// RFC 7386.
    Merge(Value),
    /// Kubernetes' own, which follows the schema.
    Strategic(Value),
    /// Server-side apply.
    Apply {
        /// The fields that the manager wants to own.
        configuration: Value,
        /// What is wrong with how it is written, beside what it says.
        problem: Option<String>,
        /// Whether conflicts are taken over.
        force: bool,
    },
}

impl Patch {
    /// Reads a patch by the type of its body.
    pub(crate) fn read(call: &Call, body: &[u8]) -> Answer<Self> {
        match media_type(&call.content_type) {
            "application/json-patch+json" => {
                let patch = decode::any(body, Media::Json)?;
                Ok(Self::Json(patch))
            }
            "application/merge-patch+json" => Ok(Self::Merge(object(decode::any(body, Media::Json)?)?)),
            "application/strategic-merge-patch+json" if call.kind.custom().is_none() => {
                Ok(Self::Strategic(object(decode::any(body, Media::Json)?)?))
            }
            "application/apply-patch+yaml" => {
                let yaml = Yaml::parse(body)
                    .map_err(|error| ApiError::bad_request(format!("error decoding YAML: {error}")))?;
                let problem = yaml.problem().map(|problem| format!("error converting YAML to JSON: {problem}"));
                Ok(Self::Apply { configuration: object(yaml.value)?, problem, force: call.query.flag("force") })
            }
            _ if call.kind.custom().is_some() => Err(ApiError::unsupported_media_type(OFFERED_CUSTOM)),
            _ => Err(ApiError::unsupported_media_type(OFFERED)),
        }
    }

    /// Applies the patch to an object. Apply is done elsewhere, as it also works without one.
    fn onto(&self, call: &Call, current: &Value) -> Answer<Value> {
        match self {
            Self::Json(patch) => kobune_merge::json_patch(current, patch).map_err(|error| refused(&error)),
            Self::Merge(patch) => {
                let mut object = current.clone();
                kobune_merge::merge_patch(&mut object, patch);
                Ok(object)
            }
            Self::Strategic(patch) => {
                kobune_merge::strategic_merge_patch(current, patch, call.kind.schema()).map_err(|error| refused(&error))
            }
            Self::Apply { .. } => Err(ApiError::internal_words("apply is no patch of the object")),
        }
    }
}

fn object(value: Value) -> Answer<Value> {
    if value.is_object() { Ok(value) } else { Err(ApiError::bad_request("error decoding patch: it is no object")) }
}

/// A patch that cannot be applied, with the status that upstream gives it.
pub(crate) fn refused(error: &kobune_merge::PatchError) -> ApiError {
    match error.status() {
        400 => ApiError::bad_request(error.to_string()),
        413 => ApiError::new(413, "RequestEntityTooLarge", error.to_string()),
        code => ApiError::new(code, "Invalid", "the server rejected our request due to an error in our request")
            .with_details(json!({"causes": [{"message": error.to_string()}]})),
    }
}

impl ApiServer {
    /// PATCH of an object or of its status.
    pub(crate) async fn patch(&self, call: &Call, body: &[u8]) -> Answer<Made> {
        let patch = Patch::read(call, body)?;
        match patch {
            Patch::Apply { configuration, problem, force } => self.apply(call, configuration, problem, force).await,
            patch => {
                self.change(call, |current, _| {
                    let mut object = patch.onto(call, current)?;
                    let warnings =
                        check(call, &mut object).or_else(|error| Err(misfit(&patch, call, current, error)?))?;
                    Ok(Changed { warnings, ..Changed::new(object) })
                })
                .await
            }
        }
    }

    /// Server-side apply.
    async fn apply(&self, call: &Call, mut configuration: Value, problem: Option<String>, force: bool) -> Answer<Made> {
        let kind = &call.kind;
        let name = call.name();
        let named = fields::named(call, &configuration);
        is_of_kind(kind, &configuration, &named)?;
        let mut warnings = fits(call, &mut configuration, &named)?;
        match (call.validation, problem) {
            (FieldValidation::Strict, Some(problem)) => {
                return Err(ApiError::bad_request(format!("error strict decoding YAML: {problem}")));
            }
            (FieldValidation::Warn, Some(problem)) => warnings.push(problem),
            _ => {}
        }
        if configuration
            .pointer("/metadata/managedFields")
            .and_then(Value::as_array)
            .is_some_and(|list| !list.is_empty())
        {
            return Err(ApiError::bad_request("metadata.managedFields must be nil"));
        }
        let given = meta(&configuration, "name");
        if !given.is_empty() && given != name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({name})"
            )));
        }
        metadata(&mut configuration).insert("name".into(), name.into());
        settle_namespace(kind, &mut configuration, call.namespace())?;
        metadata(&mut configuration).remove("managedFields");
        // Between the look and the write somebody else may create it, or the last finalizer of a dying one may go: then it
        // is looked at once more.
        for _ in 0..ATTEMPTS {
            if self.read(&call.key()).await?.is_some() {
                let changed = self
                    .change(call, |current, _| {
                        let mut object = fields::apply(Some(current), &configuration, &named, call, force)?;
                        shape(call, &mut object, &named)?;
                        let warnings = warnings.clone();
                        Ok(Changed { ownership: Ownership::Applied, warnings, ..Changed::new(object) })
                    })
                    .await;
                match changed {
                    Err(error) if error.code() == 404 && self.read(&call.key()).await?.is_none() => continue,
                    outcome => return outcome,
                }
            }
            if call.subresource().is_some() {
                return Err(ApiError::not_found(kind, name));
            }
            if !meta(&configuration, "uid").is_empty() {
                return Err(ApiError::conflict(
                    kind,
                    name,
                    &format!(
                        "uid mismatch: the provided object specified uid {}, and no existing object was found",
                        meta(&configuration, "uid")
                    ),
                ));
            }
            if !meta(&configuration, "resourceVersion").is_empty() {
                return Err(ApiError::not_found(kind, name));
            }
            self.allowed_to_create(call).await?;
            let mut object = fields::apply(None, &configuration, &named, call, force)?;
            shape(call, &mut object, &named)?;
            match self.create_object(call, object, Ownership::Applied).await {
                Err(error) if error.code() == 409 => {}
                Err(error) => return Err(error),
                Ok(made) => return Ok(made.with_warnings(warnings)),
            }
        }
        Err(ApiError::stale(kind, name))
    }
}

/// Who applies says of which version and kind the configuration is, which nobody else can know.
fn is_of_kind(kind: &Kind, configuration: &Value, named: &str) -> Answer<()> {
    let text = |field: &str| configuration.get(field).and_then(Value::as_str).unwrap_or_default();
    let (found, expected) = (text("apiVersion"), kind.api_version());
    if found != expected {
        return Err(ApiError::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {found}, expected: {expected}"
        )));
    }
    if text("kind").is_empty() {
        let problem = format!(": no corresponding type for {}/{}, Kind=", kind.group, kind.version);
        return Err(fields::untyped("failed to create typed patch object", named, &problem));
    }
    Ok(())
}

/// Checks a configuration against its type. Fields that the schema does not name are always an error here, as nobody could
/// own them.
fn fits(call: &Call, configuration: &mut Value, named: &str) -> Answer<Vec<String>> {
    let mut problems = kobune_merge::mistakes(configuration, call.kind.schema());
    let checked = call.kind.check_configuration(configuration, FieldValidation::Warn);
    let warnings = match checked {
        Err(error) if problems.is_empty() => return Err(ApiError::bad_request(error.to_string())),
        checked => checked.unwrap_or_default(),
    };
    let unknown = warnings.iter().filter_map(|found| found.strip_prefix("unknown field \"")?.strip_suffix('"'));
    for field in unknown {
        // What is in a value of a wrong type is not looked at.
        let is_below = |problem: &String| {
            let place = problem.split(": ").next().unwrap_or_default();
            field.strip_prefix(place.trim_start_matches('.')).is_some_and(|rest| rest.starts_with(['.', '[']))
        };
        if !problems.iter().any(is_below) {
            problems.push(format!(".{field}: field not declared in schema"));
        }
    }
    if problems.is_empty() {
        return Ok(warnings);
    }
    problems.sort();
    Err(fields::refused(kobune_merge::ApplyError::Untyped { problems }, named))
}

/// Gives what an apply has made its shape: a configuration's values are merged as they are written.
fn shape(call: &Call, object: &mut Value, named: &str) -> Answer<()> {
    let kind = &call.kind;
    if kind.custom().is_none() {
        kind.check_shape(object, FieldValidation::Ignore).map_err(|error| {
            let problem = match error {
                DecodeError::Content { message, .. } => message,
                error => error.to_string(),
            };
            let version = format!("{}/{}, Kind={}", kind.group, kind.version, kind.kind);
            let problem = format!(" to proper version: unable to convert unstructured object to {version}: {problem}");
            fields::untyped("failed to convert new object", named, &problem)
        })?;
    }
    kind.default(object);
    Ok(())
}

/// Checks what a patch has made, as a body of a PUT is checked.
pub(crate) fn check(call: &Call, object: &mut Value) -> Result<Vec<String>, DecodeError> {
    let warnings = call.kind.check_shape(object, call.validation)?;
    call.kind.default(object);
    Ok(warnings)
}

/// What upstream says of a patch after which an object does not fit its type: it shows the patched object, or the patch
/// where that is a strategic one.
fn misfit(patch: &Patch, call: &Call, current: &Value, error: DecodeError) -> Answer<ApiError> {
    let shown = match patch {
        Patch::Strategic(patch) => kobune_merge::printed(patch),
        patch => patch.onto(call, current)?.to_string(),
    };
    let problem = match error {
        DecodeError::Content { message, .. } => message,
        error => error.to_string(),
    };
    Ok(ApiError::nameless(&[FieldError::invalid("patch", shown, problem)]))
}

/// The time that managed fields carry.
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}
