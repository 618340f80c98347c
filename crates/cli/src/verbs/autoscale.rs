//! `kobune autoscale`: a HorizontalPodAutoscaler for a workload (`k8s.io/kubectl/pkg/cmd/autoscale`).

use std::process::ExitCode;
use std::str::FromStr as _;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use http::Method;
use kobune_kinds::quantity::Quantity;
use serde_json::{Value, json};

use super::chosen::{self, ChoiceOptions, Chosen, DryRunOptions, FileOptions, Wide};
use super::print::PrintOptions;
use super::words::{self, ending};
use super::{PlaceOptions, go};
use crate::request;

/// The flags of `autoscale`.
#[derive(Debug, Clone, Args)]
pub struct AutoscaleOptions {
    /// TYPE NAME... or TYPE/NAME...
    #[arg(value_name = "TYPE[/NAME] [NAME...]")]
    pub arguments: Vec<String>,
    /// Those of manifests.
    #[command(flatten)]
    pub files: FileOptions,
    /// The autoscaler's name [default: that of the workload]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// The fewest pods
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true, default_value_t = -1)]
    pub min: i64,
    /// The most pods
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    pub max: i64,
    /// How much of the processors that they request pods use on average, such as 70%, or how much at all, such as 500m
    #[arg(long, value_name = "SHARE|AMOUNT")]
    pub cpu: Option<String>,
    /// The share of the processors, in hundredths
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub cpu_percent: Option<i64>,
    /// The same of the memory, such as 60% or 200Mi
    #[arg(long, value_name = "SHARE|AMOUNT")]
    pub memory: Option<String>,
    /// Who is noted as the owner of the fields
    #[arg(long, value_name = "NAME", default_value = "kobune-autoscale")]
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

/// Makes autoscalers.
pub async fn autoscale(options: AutoscaleOptions) -> Result<ExitCode> {
    ending(run(&options).await.map(|()| ExitCode::SUCCESS))
}

async fn run(options: &AutoscaleOptions) -> Result<()> {
    if options.cpu_percent.is_some() {
        eprintln!(
            "Flag --cpu-percent has been deprecated, Use --cpu with percentage or resource quantity format (e.g., '70%' for utilization or '500m' for milliCPU)."
        );
    }
    let metrics = metrics(options)?;
    let printer = options.print.printer()?;
    let cluster = options.place.connect.connect().await?;
    let choice = ChoiceOptions { files: options.files.clone(), selector: None };
    let (found, mut errors) =
        chosen::objects(&cluster, &options.place, &options.arguments, &choice, Wide::default()).await?;
    if found.is_empty() && errors.is_empty() {
        bail!("no objects passed to autoscale");
    }
    for one in &found {
        if !one.resource.subresources.iter().any(|known| known == "scale") {
            errors.push(anyhow!(
                "cannot autoscale a {}: could not find scale subresource for {}/{}, Resource={} in discovery information",
                one.resource.kind,
                one.resource.group,
                one.resource.version,
                one.resource.plural
            ));
            continue;
        }
        let mut autoscaler = autoscaler(options, one, &metrics);
        let mut done = "created";
        if !options.dry_run.is_here() {
            done = "autoscaled";
            let path = format!(
                "/apis/autoscaling/v2/namespaces/{}/horizontalpodautoscalers?fieldManager={}{}",
                request::query(&options.place.namespace(&cluster)),
                request::query(&options.field_manager),
                options.dry_run.query()
            );
            match request::write(&cluster.client, Method::POST, &path, "application/json", &autoscaler).await {
                Ok(answer) => autoscaler = answer.body,
                Err(error) => {
                    errors.push(words::refused(error));
                    continue;
                }
            }
        }
        printer.print(&autoscaler, &format!("{done}{}", options.dry_run.suffix()))?;
    }
    chosen::all_fine(errors)
}

fn autoscaler(options: &AutoscaleOptions, one: &Chosen, metrics: &[Value]) -> Value {
    let mut object = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": options.name.as_ref().unwrap_or(&one.name)},
        "spec": {"maxReplicas": options.max, "scaleTargetRef":
            {"apiVersion": one.resource.api_version(), "kind": one.resource.kind, "name": one.name}},
        "status": {"currentMetrics": null, "desiredReplicas": 0}});
    if let Some(namespace) = &options.place.namespace {
        object["metadata"]["namespace"] = namespace.as_str().into();
    }
    if options.min > 0 {
        object["spec"]["minReplicas"] = options.min.into();
    }
    if !metrics.is_empty() {
        object["spec"]["metrics"] = metrics.into();
    }
    object
}

fn metrics(options: &AutoscaleOptions) -> Result<Vec<Value>> {
    if options.max < 1 {
        bail!("--max=MAXPODS is required and must be at least 1, max: {}", options.max);
    }
    if options.max < options.min {
        bail!("--max=MAXPODS must be larger or equal to --min=MINPODS, max: {}, min: {}", options.max, options.min);
    }
    let share = options.cpu_percent.filter(|share| *share > 0);
    if share.is_some() && options.cpu.is_some() {
        bail!("--cpu-percent and --cpu are mutually exclusive");
    }
    let metric = |name: &str, target: Value| json!({"type": "Resource", "resource": {"name": name, "target": target}});
    let mut metrics = Vec::new();
    if let Some(share) = share {
        metrics.push(metric("cpu", json!({"type": "Utilization", "averageUtilization": share})));
    }
    for (name, text, unit) in [("cpu", &options.cpu, "m"), ("memory", &options.memory, "Mi")] {
        if let Some(text) = text.as_deref().map(str::trim).filter(|text| !text.is_empty()) {
            metrics.push(metric(name, target(name, text, unit)?));
        }
    }
    Ok(metrics)
}

fn target(name: &str, text: &str, unit: &str) -> Result<Value> {
    if let Some(share) = text.strip_suffix('%') {
        let number: u32 = share.parse().map_err(|_| anyhow!("invalid percentage value: {share}"))?;
        return Ok(json!({"type": "Utilization", "averageUtilization": number}));
    }
    let amount = match text.parse::<f64>() {
        Ok(number) => format!("{}{unit}", go::float(number)),
        Err(_) => text.to_owned(),
    };
    match Quantity::from_str(&amount) {
        Ok(amount) => Ok(json!({"type": "AverageValue", "averageValue": amount.to_string()})),
        Err(_) => bail!("invalid resource {name} value: {text}"),
    }
}
