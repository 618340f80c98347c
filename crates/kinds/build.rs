//! Turns the types of `k8s-openapi` and the facts of `merge-facts.tsv`, `field-numbers.tsv`, `omitted-when-zero.tsv` and `always-written.tsv`
//! into two compressed blobs.
//!
//! `schema.z` has the structure (types, fields, how lists merge) and is read at start; `descriptions.z` has the prose
//! and is only read to render OpenAPI. Both are described in `src/schema/load.rs`, which reads them.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use k8s_openapi::api as k;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions;
use k8s_openapi::apimachinery::pkg::{apis::meta, version};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration;
use schemars::SchemaGenerator;
use serde_json::{Map, Value};

macro_rules! roots {
    ($generator:ident, $($type:path),* $(,)?) => {
        $( let _ = $generator.subschema_for::<$type>(); )*
    };
}

fn definitions() -> Map<String, Value> {
    let mut generator = SchemaGenerator::default();
    roots!(
        generator,
        k::admissionregistration::v1::MutatingAdmissionPolicy,
        k::admissionregistration::v1::MutatingAdmissionPolicyBinding,
        k::admissionregistration::v1::MutatingWebhookConfiguration,
        k::admissionregistration::v1::ValidatingAdmissionPolicy,
        k::admissionregistration::v1::ValidatingAdmissionPolicyBinding,
        k::admissionregistration::v1::ValidatingWebhookConfiguration,
        apiextensions::v1::CustomResourceDefinition,
        apiregistration::v1::APIService,
        k::apps::v1::ControllerRevision,
        k::apps::v1::DaemonSet,
        k::apps::v1::Deployment,
        k::apps::v1::ReplicaSet,
        k::apps::v1::StatefulSet,
        k::authentication::v1::SelfSubjectReview,
        k::authentication::v1::TokenRequest,
        k::authentication::v1::TokenReview,
        k::authorization::v1::LocalSubjectAccessReview,
        k::authorization::v1::SelfSubjectAccessReview,
        k::authorization::v1::SelfSubjectRulesReview,
        k::authorization::v1::SubjectAccessReview,
        k::autoscaling::v1::HorizontalPodAutoscaler,
        k::autoscaling::v1::Scale,
        k::autoscaling::v2::HorizontalPodAutoscaler,
        k::batch::v1::CronJob,
        k::batch::v1::Job,
        k::certificates::v1::CertificateSigningRequest,
        k::coordination::v1::Lease,
        k::core::v1::Binding,
        k::core::v1::ComponentStatus,
        k::core::v1::ConfigMap,
        k::core::v1::Endpoints,
        k::core::v1::Event,
        k::core::v1::LimitRange,
        k::core::v1::Namespace,
        k::core::v1::Node,
        k::core::v1::PersistentVolume,
        k::core::v1::PersistentVolumeClaim,
        k::core::v1::Pod,
        k::core::v1::PodTemplate,
        k::core::v1::ReplicationController,
        k::core::v1::ResourceQuota,
        k::core::v1::Secret,
        k::core::v1::Service,
        k::core::v1::ServiceAccount,
        k::discovery::v1::EndpointSlice,
        k::events::v1::Event,
        k::flowcontrol::v1::FlowSchema,
        k::flowcontrol::v1::PriorityLevelConfiguration,
        k::networking::v1::IPAddress,
        k::networking::v1::Ingress,
        k::networking::v1::IngressClass,
        k::networking::v1::NetworkPolicy,
        k::networking::v1::ServiceCIDR,
        k::node::v1::RuntimeClass,
        k::policy::v1::Eviction,
        k::policy::v1::PodDisruptionBudget,
        k::rbac::v1::ClusterRole,
        k::rbac::v1::ClusterRoleBinding,
        k::rbac::v1::Role,
        k::rbac::v1::RoleBinding,
        k::resource::v1::DeviceClass,
        k::resource::v1::ResourceClaim,
        k::resource::v1::ResourceClaimTemplate,
        k::resource::v1::ResourceSlice,
        k::scheduling::v1::PriorityClass,
        k::storage::v1::CSIDriver,
        k::storage::v1::CSINode,
        k::storage::v1::CSIStorageCapacity,
        k::storage::v1::StorageClass,
        k::storage::v1::VolumeAttachment,
        k::storage::v1::VolumeAttributesClass,
        meta::v1::APIGroup,
        meta::v1::APIGroupList,
        meta::v1::APIResourceList,
        meta::v1::APIVersions,
        meta::v1::DeleteOptions,
        meta::v1::ListMeta,
        meta::v1::Patch,
        meta::v1::Status,
        meta::v1::WatchEvent<k8s_openapi::apimachinery::pkg::runtime::RawExtension>,
        version::Info,
    );
    generator.take_definitions(true)
}

/// One line of `merge-facts.tsv`.
#[derive(Default)]
struct Fact<'a> {
    collection: &'a str,
    keys: &'a str,
    strategy: &'a str,
    merge_key: &'a str,
    default: &'a str,
}

fn facts(text: &str) -> BTreeMap<(&str, &str), Fact<'_>> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let columns: Vec<&str> = line.split('\t').collect();
            let &[kind, field, collection, keys, strategy, merge_key, default] = columns.as_slice() else {
                return None;
            };
            Some(((kind, field), Fact { collection, keys, strategy, merge_key, default }))
        })
        .collect()
}

/// The numbers of all fields of a type as the reader takes them: those of structs that JSON has inline behind the
/// number of that struct, as in `2.1`; a `*` at the end marks a pointer.
fn numbers<'a>(types: &BTreeMap<&str, &'a str>, name: &str, path: &str, found: &mut BTreeMap<&'a str, String>) {
    let entries: &'a str = types.get(name).copied().unwrap_or_default();
    for (number, field) in entries.split(' ').filter_map(|entry| entry.split_once('=')) {
        match field.strip_prefix('>') {
            Some(inline) => numbers(types, inline, &format!("{path}{number}."), found),
            None => {
                let (field, pointer) = field.strip_suffix('*').map_or((field, ""), |field| (field, "*"));
                found.insert(field, format!("{path}{number}{pointer}"));
            }
        }
    }
}

/// The type that `schema` refers to, also through the `allOf` in which a description wraps a reference.
fn reference(schema: &Value) -> Option<&str> {
    let direct = schema.get("$ref").and_then(Value::as_str);
    let wrapped = || schema.get("allOf")?.get(0)?.get("$ref")?.as_str();
    direct.or_else(wrapped)?.rsplit('/').next()
}

/// The shape of a value in the notation that `src/schema/load.rs` reads.
fn shape(schema: &Value, index: &BTreeMap<&str, usize>) -> Result<String, Box<dyn Error>> {
    if let Some(name) = reference(schema) {
        return Ok(format!("@{}", index.get(name).ok_or_else(|| format!("no definition of {name}"))?));
    }
    if schema.get("x-kubernetes-int-or-string").is_some() {
        return Ok("x".to_owned());
    }
    let format = schema.get("format").and_then(Value::as_str).unwrap_or_default();
    Ok(match (schema.get("type").and_then(Value::as_str).unwrap_or_default(), format) {
        ("string", "byte") => "y".to_owned(),
        ("string", "date-time") => "t".to_owned(),
        ("string", _) => "s".to_owned(),
        ("integer", "int64") => "l".to_owned(),
        ("integer", _) => "i".to_owned(),
        ("number", _) => "d".to_owned(),
        ("boolean", _) => "b".to_owned(),
        ("array", _) => format!("[{}", shape(&schema["items"], index)?),
        ("object", _) if schema.get("additionalProperties").is_some() => {
            format!("{{{}", shape(&schema["additionalProperties"], index)?)
        }
        ("object", _) => "*".to_owned(),
        other => return Err(format!("a schema of an unknown form {other:?}: {schema}").into()),
    })
}

/// The shape of a named type that is not a plain object.
fn named_shape(name: &str, schema: &Value, index: &BTreeMap<&str, usize>) -> Result<String, Box<dyn Error>> {
    Ok(match name.rsplit('.').next().unwrap_or(name) {
        "Quantity" => "q".to_owned(),
        "MicroTime" => "u".to_owned(),
        "JSONSchemaPropsOrArray" | "JSONSchemaPropsOrBool" | "JSONSchemaPropsOrStringArray" => {
            let props = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
            format!("|{}", index[props])
        }
        _ => shape(schema, index)?,
    })
}

fn compress(path: &Path, text: &str) -> Result<(), Box<dyn Error>> {
    let mut encoder = flate2::write::ZlibEncoder::new(std::fs::File::create(path)?, flate2::Compression::best());
    encoder.write_all(text.as_bytes())?;
    encoder.finish()?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=merge-facts.tsv");
    println!("cargo::rerun-if-changed=field-numbers.tsv");
    println!("cargo::rerun-if-changed=omitted-when-zero.tsv");
    println!("cargo::rerun-if-changed=always-written.tsv");
    let text = std::fs::read_to_string("merge-facts.tsv")?;
    let facts = facts(&text);
    let text = std::fs::read_to_string("field-numbers.tsv")?;
    let number_facts: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('\t')).collect();
    let text = std::fs::read_to_string("omitted-when-zero.tsv")?;
    let omitted: BTreeMap<&str, Vec<&str>> = text
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(name, fields)| (name, fields.split(' ').collect()))
        .collect();
    let text = std::fs::read_to_string("always-written.tsv")?;
    let written: BTreeMap<&str, BTreeMap<&str, &str>> = text
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(name, fields)| (name, fields.split(' ').filter_map(|field| field.split_once('=')).collect()))
        .collect();
    let definitions = definitions();
    let index: BTreeMap<&str, usize> = definitions.keys().enumerate().map(|(i, name)| (name.as_str(), i)).collect();

    let mut structure = String::new();
    let mut descriptions: Vec<&str> = Vec::new();
    for (name, schema) in &definitions {
        descriptions.push(schema.get("description").and_then(Value::as_str).unwrap_or_default());
        let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
            writeln!(structure, "A\t{name}\t{}", named_shape(name, schema, &index)?)?;
            continue;
        };
        let atomic = facts.get(&(name.as_str(), "")).is_some_and(|fact| fact.collection == "map:atomic");
        writeln!(structure, "T\t{name}\t{}", u8::from(atomic))?;
        let required: Vec<&str> =
            schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let omits = |field: &str| omitted.get(name.as_str()).is_some_and(|fields| fields.contains(&field));
        // What is written when nothing was set: `w` for the zero of the field's shape, `n` for null.
        let always = |field: &str| match written.get(name.as_str()).and_then(|fields| fields.get(field)) {
            Some(&"null") => "n",
            Some(_) => "w",
            None => "",
        };
        let mut wire = BTreeMap::new();
        numbers(&number_facts, name, "", &mut wire);
        // Sorted by bytes: the reader searches fields by halving.
        let mut fields: Vec<(&String, &Value)> = properties.iter().collect();
        fields.sort_by_key(|(field, _)| *field);
        for (field, schema) in fields {
            let none = Fact::default();
            let fact = facts.get(&(name.as_str(), field.as_str())).unwrap_or(&none);
            writeln!(
                structure,
                "F\t{field}\t{}\t{}{}{}\t{}\t{}\t{}\t{}\t{}\t{}",
                shape(schema, &index)?,
                if required.contains(&field.as_str()) { "r" } else { "" },
                if omits(field) { "z" } else { "" },
                always(field),
                fact.collection,
                fact.keys,
                fact.strategy,
                fact.merge_key,
                fact.default,
                wire.get(field.as_str()).map(String::as_str).unwrap_or_default(),
            )?;
            descriptions.push(schema.get("description").and_then(Value::as_str).unwrap_or_default());
        }
    }
    let out = std::env::var("OUT_DIR")?;
    compress(&Path::new(&out).join("schema.z"), &structure)?;
    compress(&Path::new(&out).join("descriptions.z"), &descriptions.join("\0"))?;
    Ok(())
}
