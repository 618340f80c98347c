//! Which port here means which port of a pod, and on which addresses (`k8s.io/kubectl/pkg/cmd/portforward`,
//! `k8s.io/client-go/tools/portforward`). Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, anyhow, bail};
use serde_json::Value;

/// A port here, 0 for any free one, and a port of the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// Here.
    pub local: u16,
    /// There.
    pub remote: u16,
}

/// An address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Whether it comes from `localhost`, of whose two addresses one is enough.
    pub localhost: bool,
}

/// The pairs that arguments name, through a Service's ports where the object is one, by name where the pod names them.
pub fn pairs(arguments: &[String], object: &Value, pod: &Value) -> Result<Vec<Pair>> {
    let service = object["kind"] == "Service";
    check_protocol(arguments, if service { object } else { pod }, service)?;
    let mut pairs = Vec::new();
    for argument in arguments {
        let (local, remote) = split(argument);
        let (local, remote) = if service {
            let (number, named) = match remote.parse::<i64>() {
                Ok(number) => (number, false),
                Err(_) => (service_port(object, remote)?, true),
            };
            let local = if named && local == remote { number.to_string() } else { local.to_owned() };
            (local, target_port(object, pod, number)?.to_string())
        } else {
            if remote.is_empty() {
                bail!("remote port cannot be empty");
            }
            let number = match remote.parse::<i64>() {
                Ok(_) => remote.to_owned(),
                Err(_) => container_port(pod, remote)?.to_string(),
            };
            let local = if local == remote { number.clone() } else { local.to_owned() };
            (local, number)
        };
        pairs.push(pair(argument, &local, &remote)?);
    }
    Ok(pairs)
}

fn split(argument: &str) -> (&str, &str) {
    match argument.split(':').collect::<Vec<_>>().as_slice() {
        [local, remote] => (local, remote),
        parts => (parts[0], parts[0]),
    }
}

fn pair(argument: &str, local: &str, remote: &str) -> Result<Pair> {
    if argument.matches(':').count() > 1 {
        bail!("invalid port format '{argument}'");
    }
    let number = |what: &str, text: &str| -> Result<u16> {
        text.parse::<u16>().map_err(|_| {
            let why = if text.chars().all(|letter| letter.is_ascii_digit()) && !text.is_empty() {
                "value out of range"
            } else {
                "invalid syntax"
            };
            anyhow!("error parsing {what} port '{text}': strconv.ParseUint: parsing {text:?}: {why}")
        })
    };
    let pair =
        Pair { local: number("local", if local.is_empty() { "0" } else { local })?, remote: number("remote", remote)? };
    if pair.remote == 0 {
        bail!("remote port must be > 0");
    }
    Ok(pair)
}

/// Only TCP can be forwarded.
fn check_protocol(arguments: &[String], object: &Value, service: bool) -> Result<()> {
    let containers = object["spec"]["containers"].as_array().into_iter().flatten();
    let ports: Vec<(i64, bool)> = if service {
        of(&object["spec"]["ports"])
            .map(|port| (port["port"].as_i64().unwrap_or(0), port["protocol"] == "UDP"))
            .collect()
    } else {
        let ports = containers.flat_map(|container| of(&container["ports"]));
        ports.map(|port| (port["containerPort"].as_i64().unwrap_or(0), port["protocol"] == "UDP")).collect()
    };
    for argument in arguments {
        let (_, remote) = split(argument);
        let number = match remote.parse::<i64>() {
            Ok(number) => number,
            Err(_) if service => service_port(object, remote)?,
            Err(_) if remote.is_empty() => bail!("remote port cannot be empty"),
            Err(_) => container_port(object, remote)?,
        };
        let mut same = ports.iter().filter(|(port, _)| *port == number).peekable();
        if same.peek().is_some() && same.all(|(_, udp)| *udp) {
            bail!("UDP protocol is not supported for {remote}");
        }
    }
    Ok(())
}

fn of(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn service_port(service: &Value, name: &str) -> Result<i64> {
    let found = of(&service["spec"]["ports"]).find(|port| port["name"] == name);
    found.and_then(|port| port["port"].as_i64()).ok_or_else(|| {
        let service = service["metadata"]["name"].as_str().unwrap_or_default();
        anyhow!("Service '{service}' does not have a named port '{name}'")
    })
}

fn container_port(pod: &Value, name: &str) -> Result<i64> {
    let containers = of(&pod["spec"]["containers"]).chain(of(&pod["spec"]["initContainers"]));
    let found = containers.flat_map(|container| of(&container["ports"])).find(|port| port["name"] == name);
    found.and_then(|port| port["containerPort"].as_i64()).ok_or_else(|| {
        let pod = pod["metadata"]["name"].as_str().unwrap_or_default();
        anyhow!("Pod '{pod}' does not have a named port '{name}'")
    })
}

/// The container's port behind a Service's port.
fn target_port(service: &Value, pod: &Value, number: i64) -> Result<i64> {
    let Some(port) = of(&service["spec"]["ports"]).find(|port| port["port"] == number) else {
        let name = service["metadata"]["name"].as_str().unwrap_or_default();
        bail!("Service {name} does not have a service port {number}");
    };
    if service["spec"]["clusterIP"] == "None" {
        return Ok(number);
    }
    match &port["targetPort"] {
        Value::String(name) => container_port(pod, name),
        target => Ok(target.as_i64().filter(|target| *target != 0).unwrap_or(number)),
    }
}

/// The addresses that `--address` names, in order, each once.
pub fn addresses(texts: &[String]) -> Result<Vec<Address>> {
    let mut addresses = BTreeSet::new();
    for text in texts {
        if text == "localhost" {
            let both = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
            addresses.extend(both.map(|ip| Address { ip, localhost: true }));
        } else {
            let ip = text.parse().map_err(|_| anyhow!("{text} is not a valid IP"))?;
            addresses.insert(Address { ip, localhost: false });
        }
    }
    let mut addresses: Vec<Address> = addresses.into_iter().collect();
    addresses.sort_by_key(|address| address.ip.to_string());
    addresses.dedup_by_key(|address| address.ip);
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn pod() -> Value {
        json!({"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"ports": [
            {"name": "http", "containerPort": 8080, "protocol": "TCP"}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}]}]}})
    }

    #[test]
    fn what_arguments_mean() {
        let service = json!({"kind": "Service", "metadata": {"name": "s"}, "spec": {"clusterIP": "10.0.0.1", "ports": [
            {"name": "web", "port": 80, "targetPort": "http", "protocol": "TCP"}, {"port": 81, "targetPort": 8081, "protocol": "TCP"},
            {"port": 82, "protocol": "TCP"}, {"port": 83, "targetPort": "none", "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}});
        let mut headless = service.clone();
        headless["spec"]["clusterIP"] = "None".into();
        let check = |object: &Value, argument: &str, expected: Result<(u16, u16), &str>| {
            let got = pairs(&[argument.to_owned()], object, &pod());
            match (got, expected) {
                (Ok(got), Ok((local, remote))) => assert_eq!(got, [Pair { local, remote }], "{argument}"),
                (Err(error), Err(words)) => assert_eq!(error.to_string(), words, "{argument}"),
                (got, expected) => panic!("{argument}: {got:?} is not {expected:?}"),
            }
        };
        check(&pod(), "5000", Ok((5000, 5000)));
        check(&pod(), "8888:5000", Ok((8888, 5000)));
        check(&pod(), ":5000", Ok((0, 5000)));
        check(&pod(), "http", Ok((8080, 8080)));
        check(&pod(), "1:http", Ok((1, 8080)));
        check(&pod(), "web", Err("Pod 'p' does not have a named port 'web'"));
        check(&pod(), "53", Err("UDP protocol is not supported for 53"));
        check(&pod(), "1:", Err("remote port cannot be empty"));
        check(&pod(), "0", Err("remote port must be > 0"));
        check(&pod(), "x:5", Err("error parsing local port 'x': strconv.ParseUint: parsing \"x\": invalid syntax"));
        check(
            &pod(),
            "70000",
            Err("error parsing local port '70000': strconv.ParseUint: parsing \"70000\": value out of range"),
        );
        check(&service, "80", Ok((80, 8080)));
        check(&service, "web", Ok((80, 8080)));
        check(&service, "9:81", Ok((9, 8081)));
        check(&service, "82", Ok((82, 82)));
        check(&service, "83", Err("Pod 'p' does not have a named port 'none'"));
        check(&service, "84", Err("Service s does not have a service port 84"));
        check(&service, "mail", Err("Service 's' does not have a named port 'mail'"));
        check(&service, "53", Err("UDP protocol is not supported for 53"));
        check(&headless, "80", Ok((80, 80)));
    }

    #[test]
    fn where_to_listen() {
        let check = |texts: &[&str], expected: &[(&str, bool)]| {
            let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
            let got = addresses(&texts).unwrap();
            let got: Vec<(String, bool)> = got.iter().map(|it| (it.ip.to_string(), it.localhost)).collect();
            let expected: Vec<(String, bool)> = expected.iter().map(|&(ip, local)| (ip.to_owned(), local)).collect();
            assert_eq!(got, expected);
        };
        check(&["localhost"], &[("127.0.0.1", true), ("::1", true)]);
        check(&["10.0.0.1", "0.0.0.0", "10.0.0.1"], &[("0.0.0.0", false), ("10.0.0.1", false)]);
        assert_eq!(addresses(&["host".to_owned()]).unwrap_err().to_string(), "host is not a valid IP");
    }

    proptest! {
        #[test]
        fn no_argument_is_too_much(text in "[0-9a-z:]{0,12}") {
            if let Ok(pairs) = pairs(&[text], &pod(), &pod()) {
                prop_assert!(pairs.iter().all(|pair| pair.remote != 0));
            }
        }
    }
}
