//! What runs and how it is reached: Deployments, Jobs, CronJobs, Services, Ingresses and PodDisruptionBudgets.

use anyhow::{Result, anyhow, bail};
use clap::{Args, Subcommand};
use http::Method;
use rand::Rng as _;
use serde_json::{Value, json};

use super::{Common, Made, named};
use crate::discovery::Discovery;
use crate::request;
use crate::verbs::{from_server, selection};

/// A container as the generators make it.
fn container(name: &str, image: &str, command: &[String]) -> Value {
    let mut container = json!({"name": name, "image": image, "resources": {}});
    if !command.is_empty() {
        container["command"] = command.to_vec().into();
    }
    container
}

/// The flags of `create deployment`.
#[derive(Debug, Clone, Args)]
pub struct DeploymentOptions {
    /// The Deployment's name
    pub name: String,
    /// The images of its containers
    #[arg(long, value_name = "IMAGE", value_delimiter = ',', required = true)]
    pub image: Vec<String>,
    /// How many pods
    #[arg(short, long, value_name = "COUNT", default_value_t = 1)]
    pub replicas: i32,
    /// The port of its first container
    #[arg(long, value_name = "PORT")]
    pub port: Option<i32>,
    /// What its container runs
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
    /// What is done with it.
    #[command(flatten)]
    pub common: Common,
}

impl DeploymentOptions {
    pub(super) fn make(self) -> Result<(Common, Made)> {
        if self.image.len() > 1 && !self.command.is_empty() {
            bail!("cannot specify multiple --image options and command");
        }
        let mut containers: Vec<Value> =
            self.image.iter().map(|image| container(&container_name(image), image, &self.command)).collect();
        if let (Some(port), Some(first)) = (self.port.filter(|port| *port >= 0), containers.first_mut()) {
            first["ports"] = json!([{"containerPort": port}]);
        }
        let labels = json!({"app": self.name});
        let mut object = named(&self.name);
        object["metadata"]["labels"] = labels.clone();
        object["spec"] = json!({
            "replicas": self.replicas,
            "selector": {"matchLabels": labels},
            "strategy": {},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}},
        });
        object["status"] = json!({});
        let failure = Some("failed to create deployment:");
        Ok((self.common, Made::new(("apps", "v1", "deployments", true), "Deployment", failure, object)))
    }
}

/// The name of an image without its registry, tag and digest; where it does not fit a container, with something random.
fn container_name(image: &str) -> String {
    let name = image.rsplit('/').next().unwrap_or(image);
    let name = name.split([':', '@']).next().unwrap_or(name);
    if !name.contains(['_', '.']) {
        return name.to_owned();
    }
    // The letters of which upstream's random names are made: no vowels, nothing that looks like another.
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut random = rand::rng();
    let end: String = (0..5).map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())])).collect();
    format!("{}-{end}", name.replace(['_', '.'], "-"))
}

/// The flags of `create job`.
#[derive(Debug, Clone, Args)]
pub struct JobOptions {
    /// The Job's name
    pub name: String,
    /// The image of its container
    #[arg(long, value_name = "IMAGE", default_value = "")]
    pub image: String,
    /// What it is made from: cronjob/NAME
    #[arg(long, value_name = "TYPE/NAME", default_value = "")]
    pub from: String,
    /// What its container runs
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
    /// What is done with it.
    #[command(flatten)]
    pub common: Common,
}

impl JobOptions {
    pub(super) async fn make(self) -> Result<(Common, Made)> {
        if self.image.is_empty() == self.from.is_empty() {
            bail!("either --image or --from must be specified");
        }
        if !self.command.is_empty() && !self.from.is_empty() {
            bail!("cannot specify --from and command");
        }
        let mut object = named(&self.name);
        if self.from.is_empty() {
            let container = container(&self.name, &self.image, &self.command);
            object["spec"] =
                json!({"template": {"metadata": {}, "spec": {"containers": [container], "restartPolicy": "Never"}}});
        } else {
            from_cron_job(&mut object, &self.source().await?);
        }
        object["status"] = json!({});
        let failure = Some("failed to create job:");
        Ok((self.common, Made::new(("batch", "v1", "jobs", true), "Job", failure, object)))
    }

    /// The CronJob.
    async fn source(&self) -> Result<Value> {
        let cluster = self.common.place.connect.connect().await?;
        let discovery = Discovery::ask(&cluster.client).await.map_err(from_server)?;
        let selected = selection::select(&discovery, std::slice::from_ref(&self.from))?;
        let [one] = selected.as_slice() else { bail!("from must be an existing cronjob") };
        let [name] = one.names.as_slice() else { bail!("from must be an existing cronjob") };
        if one.resource.kind != "CronJob" || one.resource.group != "batch" {
            bail!("unknown object type *{}.{}", one.resource.version, one.resource.kind);
        }
        let path = one.resource.object_path(Some(&self.common.place.namespace(&cluster)), name);
        let answer =
            request::send(&cluster.client, Method::GET, &path, None, "application/json").await.map_err(from_server)?;
        Ok(answer.body)
    }
}

fn from_cron_job(object: &mut Value, source: &Value) {
    let template = &source["spec"]["jobTemplate"];
    let annotations = &mut object["metadata"]["annotations"];
    *annotations = json!({"cronjob.kubernetes.io/instantiate": "manual"});
    for (name, value) in template["metadata"]["annotations"].as_object().into_iter().flatten() {
        annotations[name] = value.clone();
    }
    if let Some(labels) = template["metadata"]["labels"].as_object() {
        object["metadata"]["labels"] = labels.clone().into();
    }
    let meta = &source["metadata"];
    object["metadata"]["ownerReferences"] = json!([{"apiVersion": "batch/v1", "kind": "CronJob",
        "name": meta["name"], "uid": meta["uid"], "controller": true}]);
    object["spec"] = template["spec"].clone();
}

/// The flags of `create cronjob`.
#[derive(Debug, Clone, Args)]
pub struct CronJobOptions {
    /// The CronJob's name
    pub name: String,
    /// The image of its container
    #[arg(long, value_name = "IMAGE")]
    pub image: String,
    /// When it runs, as cron writes it
    #[arg(long, value_name = "SCHEDULE")]
    pub schedule: String,
    /// Whether its container starts again: OnFailure, Never
    #[arg(long, value_name = "POLICY", default_value = "OnFailure")]
    pub restart: String,
    /// What its container runs
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
    /// What is done with it.
    #[command(flatten)]
    pub common: Common,
}

impl CronJobOptions {
    pub(super) fn make(self) -> Result<(Common, Made)> {
        let mut object = named(&self.name);
        let pod =
            json!({"containers": [container(&self.name, &self.image, &self.command)], "restartPolicy": self.restart});
        object["spec"] = json!({"schedule": self.schedule, "jobTemplate": {"metadata": {"name": self.name},
            "spec": {"template": {"metadata": {}, "spec": pod}}}});
        object["status"] = json!({});
        let failure = Some("failed to create cronjob:");
        Ok((self.common, Made::new(("batch", "v1", "cronjobs", true), "CronJob", failure, object)))
    }
}

/// The sorts of Services.
#[derive(Debug, Clone, Subcommand)]
pub enum ServiceCommand {
    /// Make a Service within the cluster
    #[command(name = "clusterip")]
    ClusterIp(ClusterIpOptions),
    /// Make a Service on a port of every node
    #[command(name = "nodeport")]
    NodePort(NodePortOptions),
    /// Make a Service with an address of its own
    #[command(name = "loadbalancer")]
    LoadBalancer(PortsOptions),
    /// Make a Service that is another name
    #[command(name = "externalname")]
    ExternalName(ExternalNameOptions),
}

/// The flags of `create service loadbalancer`, and of all others too.
#[derive(Debug, Clone, Args)]
pub struct PortsOptions {
    /// The Service's name
    pub name: String,
    /// Its ports, and those of the pods
    #[arg(long, value_name = "PORT[:TARGET]", value_delimiter = ',')]
    pub tcp: Vec<String>,
    /// What is done with it.
    #[command(flatten)]
    pub common: Common,
}

/// The flags of `create service clusterip`.
#[derive(Debug, Clone, Args)]
pub struct ClusterIpOptions {
    /// Its name and ports.
    #[command(flatten)]
    pub ports: PortsOptions,
    /// Its address; None for none
    #[arg(long = "clusterip", value_name = "ADDRESS", default_value = "")]
    pub cluster_ip: String,
}

/// The flags of `create service nodeport`.
#[derive(Debug, Clone, Args)]
pub struct NodePortOptions {
    /// Its name and ports.
    #[command(flatten)]
    pub ports: PortsOptions,
    /// The port of the nodes
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub node_port: i32,
}

/// The flags of `create service externalname`.
#[derive(Debug, Clone, Args)]
pub struct ExternalNameOptions {
    /// Its name and ports.
    #[command(flatten)]
    pub ports: PortsOptions,
    /// The name that it stands for
    #[arg(long, value_name = "NAME")]
    pub external_name: String,
}

impl ServiceCommand {
    pub(super) fn make(self) -> Result<(Common, Made)> {
        let (kind, ports, cluster_ip, node_port, external_name) = match self {
            ServiceCommand::ClusterIp(options) => ("ClusterIP", options.ports, options.cluster_ip, 0, None),
            ServiceCommand::NodePort(options) => ("NodePort", options.ports, String::new(), options.node_port, None),
            ServiceCommand::LoadBalancer(ports) => ("LoadBalancer", ports, String::new(), 0, None),
            ServiceCommand::ExternalName(options) => {
                ("ExternalName", options.ports, String::new(), 0, Some(options.external_name))
            }
        };
        if cluster_ip != "None" && ports.tcp.is_empty() && kind != "ExternalName" {
            bail!("at least one tcp port specifier must be provided");
        }
        if let Some(name) =
            external_name.as_ref().filter(|name| !kobune_kinds::name::dns1123_subdomain(name).is_empty())
        {
            bail!("invalid service external name {name}");
        }
        let mut object = named(&ports.name);
        object["metadata"]["labels"] = json!({"app": ports.name});
        object["spec"] = json!({"selector": {"app": ports.name}, "type": kind});
        let listed = ports.tcp.iter().map(|text| port(text, node_port)).collect::<Result<Vec<_>>>()?;
        if !listed.is_empty() {
            object["spec"]["ports"] = listed.into();
        }
        if !cluster_ip.is_empty() {
            object["spec"]["clusterIP"] = cluster_ip.into();
        }
        if let Some(name) = external_name {
            object["spec"]["externalName"] = name.into();
        }
        object["status"] = json!({"loadBalancer": {}});
        let failure = format!("failed to create {kind} service:");
        Ok((ports.common, Made::new(("", "v1", "services", true), "Service", Some(&failure), object)))
    }
}

fn port(text: &str, node_port: i32) -> Result<Value> {
    let (own, target) = text.split_once(':').unwrap_or((text, text));
    let own: u16 = own.parse().map_err(|_| anyhow!("strconv.ParseUint: parsing {own:?}: invalid syntax"))?;
    let target = match target.parse::<i64>() {
        Ok(number @ 1..=65535) => Value::from(number),
        Ok(_) if target == text => Value::from(own),
        Ok(_) => bail!("must be between 1 and 65535, inclusive"),
        Err(_) => match kobune_kinds::name::port_name(target) {
            none if none.is_empty() => Value::from(target),
            mistakes => bail!("{}", mistakes.join(",")),
        },
    };
    let mut port = json!({"name": text.replace(':', "-"), "port": own, "targetPort": target, "protocol": "TCP"});
    if node_port != 0 {
        port["nodePort"] = node_port.into();
    }
    Ok(port)
}

/// The flags of `create ingress`.
#[derive(Debug, Clone, Args)]
pub struct IngressOptions {
    /// The Ingress's name
    pub name: String,
    /// Its IngressClass
    #[arg(long, value_name = "NAME", default_value = "")]
    pub class: String,
    /// HOST/PATH=SERVICE:PORT[,tls[=SECRET]]; a path that ends in * stands for all that begin so
    #[arg(long = "rule", value_name = "RULE")]
    pub rules: Vec<String>,
    /// Where everything else goes: SERVICE:PORT
    #[arg(long, value_name = "SERVICE:PORT", default_value = "")]
    pub default_backend: String,
    /// An annotation
    #[arg(long = "annotation", value_name = "NAME=VALUE")]
    pub annotations: Vec<String>,
    /// What is done with it.
    #[command(flatten)]
    pub common: Common,
}

impl IngressOptions {
    pub(super) fn make(self) -> Result<(Common, Made)> {
        if self.default_backend.is_empty() && self.rules.is_empty() {
            bail!(
                "not enough information provided: every ingress has to either specify a default-backend (which catches all traffic) or a list of rules (which catch specific paths)"
            );
        }
        let rules = self.rules.iter().map(|text| rule(text)).collect::<Result<Vec<_>>>()?;
        let mut object = named(&self.name);
        for annotation in &self.annotations {
            let Some((name, value)) = annotation.split_once('=') else {
                bail!("annotation {annotation} is invalid and should be in format key=[value]");
            };
            object["metadata"]["annotations"][name] = value.into();
        }
        object["spec"] = json!({});
        if !self.class.is_empty() {
            object["spec"]["ingressClassName"] = self.class.into();
        }
        if !self.default_backend.is_empty() {
            match self.default_backend.split(':').collect::<Vec<_>>().as_slice() {
                [service, port] => object["spec"]["defaultBackend"] = backend(service, port),
                _ => bail!("default-backend should be in format servicename:serviceport"),
            }
        }
        let (hosts, secrets) = (hosts(&rules), secrets(&rules));
        if !secrets.is_empty() {
            object["spec"]["tls"] = secrets.into();
        }
        if !hosts.is_empty() {
            object["spec"]["rules"] = hosts.into();
        }
        object["status"] = json!({"loadBalancer": {}});
        let failure = Some("failed to create ingress:");
        Ok((self.common, Made::new(("networking.k8s.io", "v1", "ingresses", true), "Ingress", failure, object)))
    }
}

/// A rule of an Ingress as it was given.
#[derive(Debug, PartialEq, Eq)]
struct Rule<'t> {
    host: &'t str,
    path: &'t str,
    service: &'t str,
    port: &'t str,
    /// The secret after `tls`; empty for none.
    tls: Option<&'t str>,
}

fn rule(text: &str) -> Result<Rule<'_>> {
    let wrong = || anyhow!("rule {text} is invalid and should be in format host/path=svcname:svcport[,tls[=secret]]");
    let (front, tls) = match text.split_once(',') {
        Some((front, tls)) => (front, Some(tls)),
        None => (text, None),
    };
    let slash = front.find('/').ok_or_else(wrong)?;
    let (path, backend) = front[slash..].split_once('=').ok_or_else(wrong)?;
    let (service, port) = backend.split_once(':').ok_or_else(wrong)?;
    let word = |text: &str| {
        !text.is_empty() && text.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-'))
    };
    let host = &front[..slash];
    let host_fits =
        host.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '*' | '-' | '.'));
    if !host_fits || !word(service) || !word(port) {
        return Err(wrong());
    }
    let tls = tls.map(|tls| tls.split_once('=').map_or("", |(_, secret)| secret));
    Ok(Rule { host, path, service, port, tls })
}

fn backend(service: &str, port: &str) -> Value {
    let port = match port.parse::<i32>() {
        Ok(number) => json!({"number": number}),
        Err(_) => json!({"name": port}),
    };
    json!({"service": {"name": service, "port": port}})
}

/// The rules, one a host.
fn hosts(rules: &[Rule<'_>]) -> Vec<Value> {
    let mut hosts: Vec<(&str, Vec<Value>)> = Vec::new();
    for rule in rules {
        let (path, kind) = match rule.path.strip_suffix('*') {
            Some(start) => (start, "Prefix"),
            None => (rule.path, "Exact"),
        };
        let entry = json!({"path": path, "pathType": kind, "backend": backend(rule.service, rule.port)});
        match hosts.iter_mut().find(|(host, _)| *host == rule.host) {
            Some((_, paths)) => paths.push(entry),
            None => hosts.push((rule.host, vec![entry])),
        }
    }
    let shown = |(host, paths): (&str, Vec<Value>)| match host {
        "" => json!({"http": {"paths": paths}}),
        host => json!({"host": host, "http": {"paths": paths}}),
    };
    hosts.into_iter().map(shown).collect()
}

/// The hosts with TLS, one entry a secret; a host counts only once.
fn secrets(rules: &[Rule<'_>]) -> Vec<Value> {
    let mut secrets: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for (host, secret) in rules.iter().filter_map(|rule| Some((rule.host, rule.tls?))) {
        if seen.contains(&host) {
            continue;
        }
        match secrets.iter_mut().find(|(known, _)| *known == secret) {
            Some((_, hosts)) => hosts.push(host),
            None if host.is_empty() && secret.is_empty() => {}
            None => secrets.push((secret, Some(host).filter(|host| !host.is_empty()).into_iter().collect())),
        }
        seen.push(host);
    }
    let shown = |(secret, hosts): (&str, Vec<&str>)| {
        let mut entry = json!({});
        if !hosts.is_empty() {
            entry["hosts"] = hosts.into();
        }
        if !secret.is_empty() {
            entry["secretName"] = secret.into();
        }
        entry
    };
    secrets.into_iter().map(shown).collect()
}

/// The flags of `create poddisruptionbudget`.
#[derive(Debug, Clone, Args)]
pub struct BudgetOptions {
    /// The PodDisruptionBudget's name
    pub name: String,
    /// How many pods must be there, as a number or in per cent
    #[arg(long, value_name = "AMOUNT", default_value = "")]
    pub min_available: String,
    /// How many pods may be missing, as a number or in per cent
    #[arg(long, value_name = "AMOUNT", default_value = "")]
    pub max_unavailable: String,
    /// Which pods
    #[arg(long, value_name = "SELECTOR", default_value = "")]
    pub selector: String,
    /// What is done with it.
    #[command(flatten)]
    pub common: Common,
}

impl BudgetOptions {
    pub(super) fn make(self) -> Result<(Common, Made)> {
        if self.selector.is_empty() {
            bail!("a selector must be specified");
        }
        let (field, flag, amount) = match (self.min_available.as_str(), self.max_unavailable.as_str()) {
            ("", "") => bail!("one of min-available or max-unavailable must be specified"),
            (amount, "") => ("minAvailable", "min-available", amount),
            ("", amount) => ("maxUnavailable", "max-unavailable", amount),
            _ => bail!("min-available and max-unavailable cannot be both specified"),
        };
        let digits = amount.strip_suffix('%').unwrap_or(amount);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            bail!("invalid format specified for {flag}");
        }
        let mut object = named(&self.name);
        object["spec"][field] = amount.parse::<i32>().map_or_else(|_| Value::from(amount), Value::from);
        object["spec"]["selector"] = label_selector(&self.selector)?;
        object["status"] =
            json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0});
        let failure = Some("failed to create poddisruptionbudgets:");
        let resource = ("policy", "v1", "poddisruptionbudgets", true);
        Ok((self.common, Made::new(resource, "PodDisruptionBudget", failure, object)))
    }
}

/// A query as a `metav1.LabelSelector`.
fn label_selector(query: &str) -> Result<Value> {
    use kobune_kinds::selector::{LabelSelector, Operator};
    let parsed = LabelSelector::parse(query)?;
    let mut selector = json!({});
    let mut expressions = Vec::new();
    for requirement in parsed.requirements() {
        let key = &requirement.key;
        let operator = match requirement.operator {
            Operator::In => match requirement.values.as_slice() {
                [value] if !query.contains('(') => {
                    selector["matchLabels"][key] = value.clone().into();
                    continue;
                }
                _ => "In",
            },
            Operator::NotIn => "NotIn",
            Operator::Exists => "Exists",
            Operator::DoesNotExist => "DoesNotExist",
            _ => bail!("{query:?} cannot be written as a label selector of an object"),
        };
        let mut expression = json!({"key": key, "operator": operator});
        if !requirement.values.is_empty() {
            expression["values"] = requirement.values.clone().into();
        }
        expressions.push(expression);
    }
    if !expressions.is_empty() {
        selector["matchExpressions"] = expressions.into();
    }
    Ok(selector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_containers() {
        assert_eq!(container_name("registry:5000/a/nginx:1.2"), "nginx");
        assert_eq!(container_name("nginx@sha256:00"), "nginx");
        let odd = container_name("a/my_image.x:1");
        assert!(odd.starts_with("my-image-x-") && odd.len() == 16, "{odd}");
    }

    #[test]
    fn ports() {
        let check = |text: &str, expected: Option<(u16, Value)>| {
            let got = port(text, 0).ok().map(|port| (port["port"].clone(), port["targetPort"].clone()));
            assert_eq!(got, expected.map(|(own, target)| (own.into(), target)), "{text}");
        };
        check("80", Some((80, 80.into())));
        check("80:8080", Some((80, 8080.into())));
        check("80:web", Some((80, "web".into())));
        check("80:70000", None);
        check("web", None);
        assert_eq!(port("5:6", 30000).unwrap()["nodePort"], 30000);
    }

    #[test]
    fn rules_of_ingresses() {
        let check = |text: &str, expected: Option<Rule<'_>>| assert_eq!(rule(text).ok(), expected, "{text}");
        let plain = Rule { host: "a.b", path: "/x*", service: "s", port: "80", tls: None };
        check("a.b/x*=s:80", Some(plain));
        check("/=s:web,tls=k", Some(Rule { host: "", path: "/", service: "s", port: "web", tls: Some("k") }));
        check("a.b/=s:80,tls", Some(Rule { host: "a.b", path: "/", service: "s", port: "80", tls: Some("") }));
        check("a.b=s:80", None);
        check("a b/=s:80", None);
        check("a.b/=s", None);
        let texts = ["a/x=s:1,tls=k", "a/y*=t:web,tls=l", "b/=s:1,tls=k"];
        let rules: Vec<Rule<'_>> = texts.iter().map(|text| rule(text).unwrap()).collect();
        assert_eq!(Value::from(secrets(&rules)), json!([{"hosts": ["a", "b"], "secretName": "k"}]));
        let shown = hosts(&rules);
        assert_eq!(shown[0]["http"]["paths"][1]["pathType"], "Prefix");
        assert_eq!(shown[1]["host"], "b");
    }

    #[test]
    fn selectors() {
        assert_eq!(label_selector("a=b,c=d").unwrap(), json!({"matchLabels": {"a": "b", "c": "d"}}));
        assert_eq!(label_selector("a in (b)").unwrap()["matchExpressions"][0]["operator"], "In");
        assert!(label_selector("a=(").is_err());
    }
}
