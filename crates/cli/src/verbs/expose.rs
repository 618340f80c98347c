//! `kobune expose`: a Service for the pods of something (`k8s.io/kubectl/pkg/cmd/expose`).

use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use http::Method;
use serde_json::{Map, Value, json};

use super::chosen::{self, ChoiceOptions, Chosen, DryRunOptions, FileOptions, Wide};
use super::print::PrintOptions;
use super::words::{self, ending};
use super::{PlaceOptions, pods};
use crate::request;

/// The flags of `expose`.
#[derive(Debug, Clone, Args)]
pub struct ExposeOptions {
    /// TYPE NAME or TYPE/NAME of a pod, a service or a workload
    #[arg(value_name = "TYPE[/NAME] [NAME...]")]
    pub arguments: Vec<String>,
    /// Those of manifests.
    #[command(flatten)]
    pub files: FileOptions,
    /// The Service's name [default: that of the object]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// The Service's port [default: the ports of the object]
    #[arg(long, value_name = "PORT")]
    pub port: Option<String>,
    /// The pods' port, by its number or name
    #[arg(long, value_name = "PORT")]
    pub target_port: Option<String>,
    /// TCP, UDP or SCTP [default: that of the object's ports]
    #[arg(long, value_name = "PROTOCOL")]
    pub protocol: Option<String>,
    /// ClusterIP, NodePort, LoadBalancer or ExternalName
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<String>,
    /// The labels of its pods [default: those that the object selects]
    #[arg(long, value_name = "NAME=VALUE,...")]
    pub selector: Option<String>,
    /// The Service's own labels [default: those of the object]
    #[arg(short, long, value_name = "NAME=VALUE,...")]
    pub labels: Option<String>,
    /// None or ClientIP
    #[arg(long, value_name = "AFFINITY")]
    pub session_affinity: Option<String>,
    /// Its address; None for a Service without one
    #[arg(long, value_name = "ADDRESS")]
    pub cluster_ip: Option<String>,
    /// Another address at which it is reached
    #[arg(long, value_name = "ADDRESS")]
    pub external_ip: Option<String>,
    /// The address of its load balancer
    #[arg(long, value_name = "ADDRESS")]
    pub load_balancer_ip: Option<String>,
    /// Who is noted as the owner of the fields
    #[arg(long, value_name = "NAME", default_value = "kobune-expose")]
    pub field_manager: String,
    /// Whether to do it.
    #[command(flatten)]
    pub dry_run: DryRunOptions,
    /// How to print it.
    #[command(flatten)]
    pub print: PrintOptions,
    /// Where.
    #[command(flatten)]
    pub place: PlaceOptions,
}

/// Makes Services.
pub async fn expose(options: ExposeOptions) -> Result<ExitCode> {
    ending(run(&options).await.map(|()| ExitCode::SUCCESS))
}

async fn run(options: &ExposeOptions) -> Result<()> {
    let printer = options.print.printer()?;
    let cluster = options.place.connect.connect().await?;
    let choice = ChoiceOptions { files: options.files.clone(), selector: None };
    let (found, mut errors) =
        chosen::objects(&cluster, &options.place, &options.arguments, &choice, Wide::default()).await?;
    for one in &found {
        let mut service = match service(options, one) {
            Ok(service) => service,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        if options.dry_run.is_here() {
            if let Some(namespace) = &options.place.namespace {
                service["metadata"]["namespace"] = namespace.as_str().into();
            }
        } else {
            let path = format!(
                "/api/v1/namespaces/{}/services?fieldManager={}{}",
                request::query(&options.place.namespace(&cluster)),
                request::query(&options.field_manager),
                options.dry_run.query()
            );
            match request::write(&cluster.client, Method::POST, &path, "application/json", &service).await {
                Ok(answer) => service = answer.body,
                Err(error) => {
                    errors.push(words::refused(error));
                    continue;
                }
            }
        }
        printer.print(&service, &format!("exposed{}", options.dry_run.suffix()))?;
    }
    chosen::all_fine(errors)
}

/// The Service for an object.
fn service(options: &ExposeOptions, one: &Chosen) -> Result<Value> {
    let exposable = ["ReplicationController", "Service", "Pod", "Deployment", "ReplicaSet"];
    if !exposable.contains(&one.resource.kind.as_str()) {
        bail!("cannot expose a {}", one.resource.group_kind());
    }
    let selector = match &options.selector {
        Some(text) => labels(text)?,
        None => selector(&one.object)
            .map_err(|error| anyhow!("couldn't retrieve selectors via --selector flag or introspection: {error}"))?,
    };
    let known = ports(&one.object);
    let wanted = match &options.port {
        Some(port) => port.split(',').map(str::to_owned).collect::<Vec<_>>(),
        None => {
            let mut numbers: Vec<String> = Vec::new();
            for (port, _) in &known {
                if !numbers.contains(port) {
                    numbers.push(port.clone());
                }
            }
            if numbers.is_empty() && options.cluster_ip.as_deref() != Some("None") {
                bail!("couldn't find port via --port flag or introspection");
            }
            numbers
        }
    };
    let mut metadata = Map::new();
    let own = match &options.labels {
        Some(text) => labels(text)?,
        None => one.object["metadata"]["labels"].as_object().cloned().unwrap_or_default(),
    };
    if !own.is_empty() {
        metadata.insert("labels".to_owned(), own.into());
    }
    let name: String = options.name.clone().unwrap_or_else(|| one.name.chars().take(63).collect());
    metadata.insert("name".to_owned(), name.into());
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata,
        "spec": {"ports": service_ports(options, &wanted, &known)?, "selector": selector}, "status": {"loadBalancer": {}}});
    let spec = &mut service["spec"];
    if wanted.is_empty() {
        spec["ports"].take();
        spec.as_object_mut().map(|spec| spec.remove("ports"));
    }
    match options.session_affinity.as_deref() {
        None | Some("None" | "ClientIP") => {}
        Some(other) => bail!("unknown session affinity: {other}"),
    }
    for (field, value) in
        [("type", &options.kind), ("sessionAffinity", &options.session_affinity), ("clusterIP", &options.cluster_ip)]
    {
        if let Some(value) = value {
            spec[field] = value.as_str().into();
        }
    }
    if let Some(address) = &options.external_ip {
        spec["externalIPs"] = json!([address]);
    }
    if let Some(address) = options.load_balancer_ip.as_ref().filter(|_| options.kind.as_deref() == Some("LoadBalancer"))
    {
        spec["loadBalancerIP"] = address.as_str().into();
    }
    Ok(service)
}

fn labels(text: &str) -> Result<Map<String, Value>> {
    let mut labels = Map::new();
    for part in text.split(',') {
        match part.split('=').collect::<Vec<_>>().as_slice() {
            ["", _] => bail!("unexpected empty label key"),
            [name, value] => labels.insert((*name).to_owned(), (*value).into()),
            _ => bail!("unexpected label spec: {part}"),
        };
    }
    Ok(labels)
}

/// The labels that select the pods of an object.
fn selector(object: &Value) -> Result<Map<String, Value>> {
    let kind = object["kind"].as_str().unwrap_or_default();
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let found = match kind {
        "Pod" => {
            let labels = object["metadata"]["labels"].as_object().cloned().unwrap_or_default();
            if labels.is_empty() {
                bail!("the pod has no labels and cannot be exposed");
            }
            return Ok(labels);
        }
        "Service" | "ReplicationController" => &object["spec"]["selector"],
        _ => {
            if object["spec"]["selector"]["matchExpressions"].as_array().is_some_and(|terms| !terms.is_empty()) {
                bail!("couldn't convert expressions - \"{}\" to map-based selector format", pods::selector(object)?);
            }
            &object["spec"]["selector"]["matchLabels"]
        }
    };
    match found.as_object().filter(|labels| !labels.is_empty()) {
        Some(labels) => Ok(labels.clone()),
        None if kind == "Service" => bail!("the service has no pod selector set"),
        None => bail!("invalid {} {name:?}: no selectors, therefore cannot be exposed", kind.to_lowercase()),
    }
}

/// The ports of an object, each with its protocol.
fn ports(object: &Value) -> Vec<(String, String)> {
    let pair = |port: &Value, protocol: &Value| {
        (port.to_string(), protocol.as_str().filter(|text| !text.is_empty()).unwrap_or("TCP").to_owned())
    };
    let of_spec = |spec: &Value| -> Vec<(String, String)> {
        let containers = spec["containers"].as_array().into_iter().flatten();
        let ports = containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
        ports.map(|port| pair(&port["containerPort"], &port["protocol"])).collect()
    };
    match object["kind"].as_str() {
        Some("Pod") => of_spec(&object["spec"]),
        Some("Service") => {
            let ports = object["spec"]["ports"].as_array().into_iter().flatten();
            ports.map(|port| pair(&port["port"], &port["protocol"])).collect()
        }
        _ => of_spec(&object["spec"]["template"]["spec"]),
    }
}

fn service_ports(options: &ExposeOptions, wanted: &[String], known: &[(String, String)]) -> Result<Vec<Value>> {
    let mut ports = Vec::new();
    let mut add = |name: Option<String>, number: i64, protocol: &str| {
        let target = match &options.target_port {
            Some(text) => text.parse::<i64>().map_or_else(|_| text.as_str().into(), Value::from),
            None => number.into(),
        };
        let mut port = json!({"port": number, "protocol": protocol, "targetPort": target});
        if let Some(name) = name {
            port["name"] = name.into();
        }
        ports.push(port);
    };
    for (at, text) in wanted.iter().enumerate() {
        let number: i64 = text.parse().map_err(|_| anyhow!("strconv.Atoi: parsing {text:?}: invalid syntax"))?;
        let name = (wanted.len() > 1).then(|| format!("port-{}", at + 1));
        let protocols: Vec<&String> = known.iter().filter(|(port, _)| port == text).map(|(_, it)| it).collect();
        match (&options.protocol, protocols.as_slice()) {
            (Some(protocol), _) => add(name, number, protocol),
            (None, []) => add(name, number, "TCP"),
            (None, [protocol]) => add(name, number, protocol),
            (None, many) => {
                for protocol in many {
                    add(Some(format!("port-{}-{}", at + 1, protocol.to_lowercase())), number, protocol);
                }
            }
        }
    }
    Ok(ports)
}
