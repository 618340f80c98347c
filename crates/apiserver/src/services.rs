//! Which cluster addresses and node ports a service gets. A choice is only that: it counts once it is reserved
//! ([`crate::reservations`]).

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use kobune_kinds::{FieldError, Kind};
use kobune_store::Listing;
use rand::Rng;
use serde_json::{Value, json};

use crate::{
    create::meta,
    error::{Answer, ApiError},
};

/// How many random places are tried before the range is walked.
const RANDOM_TRIES: usize = 32;

/// A range of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cidr {
    network: u128,
    prefix: u32,
    v6: bool,
    text: String,
}

impl Cidr {
    /// Reads `10.96.0.0/16`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let prefix: u32 = prefix.parse().ok()?;
        let (bits, width) = number(address);
        if prefix > width {
            return None;
        }
        let host = width - prefix;
        let network = if host >= 128 { 0 } else { bits >> host << host };
        Some(Self { network, prefix, v6: width == 128, text: text.to_owned() })
    }

    /// The number of usable addresses, at most 2^20 as upstream's bitmaps.
    fn size(&self) -> u128 {
        let host = if self.v6 { 128 - self.prefix } else { 32 - self.prefix };
        let all = if host >= 20 { 1 << 20 } else { 1u128 << host };
        if self.v6 { all - 1 } else { all.saturating_sub(2) }
    }

    /// The usable address with a number from 0.
    pub(crate) fn address(&self, index: u128) -> IpAddr {
        let bits = self.network + 1 + index;
        if self.v6 {
            IpAddr::V6(Ipv6Addr::from(bits))
        } else {
            IpAddr::V4(Ipv4Addr::from(u32::try_from(bits).unwrap_or(u32::MAX)))
        }
    }

    /// Whether there is a usable address with that number.
    pub(crate) fn has(&self, index: u128) -> bool {
        index < self.size()
    }

    fn contains(&self, address: IpAddr) -> bool {
        let (bits, width) = number(address);
        if (width == 128) != self.v6 {
            return false;
        }
        let host = width - self.prefix;
        host >= 128 || (bits >> host) == (self.network >> host)
    }

    fn family(&self) -> &'static str {
        if self.v6 { "IPv6" } else { "IPv4" }
    }
}

fn number(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    }
}

/// The ranges that services get addresses and ports from.
#[derive(Clone, Debug)]
pub(crate) struct Allocator {
    /// The first one's family is the cluster's own.
    ranges: Vec<Cidr>,
    ports: RangeInclusive<u16>,
}

/// The ranges of a ServiceCIDR that addresses may be taken from: none while it is not ready, or when it is going away.
/// Upstream: `pkg/registry/core/service/ipallocator/cidrallocator.go`.
pub(crate) fn ready_ranges(service_cidr: &Value) -> Vec<Cidr> {
    let conditions = service_cidr["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten().any(|one| one["type"] == "Ready" && one["status"] == "True");
    if !ready || !service_cidr["metadata"]["deletionTimestamp"].is_null() {
        return Vec::new();
    }
    let ranges = service_cidr["spec"]["cidrs"].as_array();
    ranges.into_iter().flatten().filter_map(|range| Cidr::parse(range.as_str()?)).collect()
}

/// Addresses and ports of one service.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Holdings {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) ports: Vec<u16>,
}

impl Holdings {
    /// What is held here and not there.
    pub(crate) fn without(&self, other: &Holdings) -> Holdings {
        Holdings {
            addresses: self.addresses.iter().filter(|address| !other.addresses.contains(address)).copied().collect(),
            ports: self.ports.iter().filter(|port| !other.ports.contains(port)).copied().collect(),
        }
    }
}

/// What is taken, as far as one choice is concerned.
pub(crate) struct View {
    /// The reserved addresses, by name.
    pub(crate) addresses: Listing,
    /// The reserved ports, by name.
    pub(crate) ports: Listing,
    /// What turned out to be taken since the listings were made, and what this choice has taken already.
    pub(crate) also: Holdings,
}

impl View {
    fn has_address(&self, address: IpAddr) -> bool {
        self.also.addresses.contains(&address) || self.addresses.get("", &address.to_string()).is_some()
    }

    fn has_port(&self, port: u16) -> bool {
        self.also.ports.contains(&port) || self.ports.get("", &port.to_string()).is_some()
    }
}

impl Allocator {
    pub(crate) fn new(ranges: Vec<Cidr>, ports: RangeInclusive<u16>) -> Self {
        Self { ranges, ports }
    }

    /// The same with further ranges.
    pub(crate) fn with(&self, more: Vec<Cidr>) -> Self {
        let mut all = self.clone();
        for range in more {
            if !all.ranges.contains(&range) {
                all.ranges.push(range);
            }
        }
        all
    }

    fn take_address(&self, wanted: IpAddr, view: &mut View) -> Result<(), String> {
        let usable =
            |range: &Cidr| range.contains(wanted) && number(wanted).0.wrapping_sub(range.network + 1) < range.size();
        if !self.ranges.iter().any(usable) {
            let texts: Vec<&str> = self.ranges.iter().map(|range| range.text.as_str()).collect();
            return Err(format!(
                "failed to allocate IP {wanted}: the provided IP ({wanted}) is not in the valid range. The range of valid IPs is {}",
                texts.join(",")
            ));
        }
        if view.has_address(wanted) {
            return Err(format!("failed to allocate IP {wanted}: provided IP is already allocated"));
        }
        view.also.addresses.push(wanted);
        Ok(())
    }

    /// A free address of a range. The lower part is left to addresses that people choose, as upstream does.
    fn next_address(&self, range: &Cidr, view: &mut View) -> Option<IpAddr> {
        let size = range.size();
        let reserved = if size < 32 { 0 } else { (size / 16).clamp(16, 256).min(size / 2) };
        let mut random = rand::rng();
        let tries = (0..RANDOM_TRIES).map(|_| random.random_range(reserved..size)).collect::<Vec<_>>();
        let found = tries
            .into_iter()
            .chain(reserved..size)
            .chain(0..reserved)
            .map(|index| range.address(index))
            .find(|address| !view.has_address(*address))?;
        view.also.addresses.push(found);
        Some(found)
    }

    fn take_port(&self, wanted: u16, view: &mut View) -> Result<(), String> {
        if !self.ports.contains(&wanted) {
            return Err(format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                self.ports.start(),
                self.ports.end()
            ));
        }
        if view.has_port(wanted) {
            return Err("provided port is already allocated".to_owned());
        }
        view.also.ports.push(wanted);
        Ok(())
    }

    fn next_port(&self, view: &mut View) -> Option<u16> {
        let mut random = rand::rng();
        let tries = (0..RANDOM_TRIES).map(|_| random.random_range(self.ports.clone())).collect::<Vec<_>>();
        let found = tries.into_iter().chain(self.ports.clone()).find(|port| !view.has_port(*port))?;
        view.also.ports.push(found);
        Some(found)
    }

    /// Fills into a new or changed service what it needs, and answers what of that must be reserved. `before` is what it
    /// has already.
    pub(crate) fn choose(
        &self,
        kind: &Kind,
        service: &mut Value,
        before: &Holdings,
        view: &mut View,
    ) -> Answer<Holdings> {
        let name = meta(service, "name").to_owned();
        let mut taken = Holdings::default();
        let invalid = |errors: FieldError| ApiError::invalid(kind, &name, &[errors]);
        self.choose_families(service).map_err(invalid)?;
        self.claim_addresses(service, before, view, &mut taken).map_err(invalid)?;
        self.claim_ports(service, before, view, &mut taken).map_err(invalid)?;
        Ok(taken)
    }

    /// Sets families and their policy where the client says nothing, and adds the second family where it is asked for.
    /// Upstream: `initIPFamilyFields` in `pkg/registry/core/service/storage/alloc.go`.
    fn choose_families(&self, service: &mut Value) -> Result<(), FieldError> {
        let spec = &service["spec"];
        if spec["type"] == "ExternalName" || !spec.is_object() {
            return Ok(());
        }
        let other = |family: &str| if family == "IPv4" { "IPv6" } else { "IPv4" };
        let list = |field: &str| spec[field].as_array().into_iter().flatten();
        let mut families: Vec<String> =
            list("ipFamilies").filter_map(|family| family.as_str().map(str::to_owned)).collect();
        let chosen = families.len().max(addresses_of(spec).len()) > 1;
        if families.is_empty() {
            families.extend(addresses_of(spec).iter().map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" }.to_owned()));
        }
        if families.is_empty() {
            families.extend(self.ranges.first().map(|range| range.family().to_owned()));
        }
        // Nothing is allocated for a headless service, so that it may name families that the cluster lacks; without a
        // selector nobody but its owner knows which endpoints it has.
        let free = spec["clusterIP"] == "None" && spec["selector"].as_object().is_none_or(serde_json::Map::is_empty);
        let policy = match spec["ipFamilyPolicy"].as_str() {
            Some(policy) => policy.to_owned(),
            None if chosen || free => "RequireDualStack".to_owned(),
            None => "SingleStack".to_owned(),
        };
        let has = |family: &str| self.ranges.iter().any(|range| range.family() == family);
        if !free {
            let dual = has("IPv4") && has("IPv6");
            if policy == "RequireDualStack" && !dual {
                let detail = "this cluster is not configured for dual-stack services";
                return Err(FieldError::invalid("spec.ipFamilyPolicy", policy.as_str(), detail));
            }
            if let Some((index, family)) = families.iter().enumerate().find(|(_, family)| !has(family)) {
                let detail = "not configured on this cluster";
                return Err(FieldError::invalid(format!("spec.ipFamilies[{index}]"), family.as_str(), detail));
            }
        }
        if policy != "SingleStack"
            && let [only] = families.as_slice()
            && (free || has(other(only)))
        {
            families.push(other(only).to_owned());
        }
        service["spec"]["ipFamilyPolicy"] = policy.into();
        service["spec"]["ipFamilies"] = json!(families);
        Ok(())
    }

    fn claim_addresses(
        &self,
        service: &mut Value,
        before: &Holdings,
        view: &mut View,
        taken: &mut Holdings,
    ) -> Result<(), FieldError> {
        let spec = &service["spec"];
        if spec["type"] == "ExternalName" || spec["clusterIP"] == "None" {
            return Ok(());
        }
        let given = addresses_of(spec);
        let families: Vec<String> = spec["ipFamilies"]
            .as_array()
            .map(|list| list.iter().filter_map(|family| family.as_str().map(str::to_owned)).collect())
            .unwrap_or_default();
        let mut all: Vec<String> = Vec::new();
        for (index, family) in families.iter().enumerate() {
            let address = match given.get(index) {
                Some(address) => {
                    if !before.addresses.contains(address) {
                        self.take_address(*address, view).map_err(|detail| {
                            FieldError::invalid(
                                "spec.clusterIPs",
                                json!(given.iter().map(ToString::to_string).collect::<Vec<_>>()),
                                detail,
                            )
                        })?;
                        taken.addresses.push(*address);
                    }
                    *address
                }
                None => {
                    let mut ranges = self.ranges.iter().filter(|range| range.family() == family);
                    let Some(address) = ranges.find_map(|range| self.next_address(range, view)) else {
                        return Err(FieldError {
                            kind: kobune_kinds::FieldErrorKind::Internal,
                            field: "spec.clusterIPs".into(),
                            value: None,
                            detail: "failed to allocate a serviceIP: range is full".into(),
                        });
                    };
                    taken.addresses.push(address);
                    address
                }
            };
            all.push(address.to_string());
        }
        if let Some(first) = all.first() {
            service["spec"]["clusterIP"] = first.as_str().into();
            service["spec"]["clusterIPs"] = json!(all);
        }
        Ok(())
    }

    fn claim_ports(
        &self,
        service: &mut Value,
        before: &Holdings,
        view: &mut View,
        taken: &mut Holdings,
    ) -> Result<(), FieldError> {
        if !wants_node_ports(&service["spec"]) {
            return Ok(());
        }
        let Some(ports) = service["spec"]["ports"].as_array_mut() else { return Ok(()) };
        // Explicit ports first, so that a random choice does not take what another entry names.
        let mut own: Vec<(u16, String)> = Vec::new();
        for (index, port) in ports.iter().enumerate() {
            let Some(wanted) =
                port["nodePort"].as_u64().and_then(|wanted| u16::try_from(wanted).ok()).filter(|wanted| *wanted != 0)
            else {
                continue;
            };
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
            let shared = own.iter().any(|(taken, other)| *taken == wanted && *other != protocol);
            if !shared && !before.ports.contains(&wanted) {
                self.take_port(wanted, view)
                    .map_err(|detail| FieldError::invalid(format!("spec.ports[{index}].nodePort"), wanted, detail))?;
                taken.ports.push(wanted);
            }
            own.push((wanted, protocol));
        }
        let mut by_port: HashMap<(u64, String), u16> = HashMap::new();
        for port in ports.iter() {
            if let (Some(number), Some(node)) =
                (port["port"].as_u64(), port["nodePort"].as_u64().filter(|node| *node != 0))
            {
                by_port.insert(
                    (number, port["protocol"].as_str().unwrap_or("TCP").to_owned()),
                    u16::try_from(node).unwrap_or(0),
                );
            }
        }
        for (index, port) in ports.iter_mut().enumerate() {
            if port["nodePort"].as_u64().unwrap_or(0) != 0 {
                continue;
            }
            let number = port["port"].as_u64().unwrap_or(0);
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
            // The same port number with another protocol gets the same node port, as upstream does.
            let twin =
                by_port.iter().find(|((other, of), _)| *other == number && *of != protocol).map(|(_, node)| *node);
            let node = match twin {
                Some(node) => node,
                None => {
                    let Some(node) = self.next_port(view) else {
                        return Err(FieldError {
                            kind: kobune_kinds::FieldErrorKind::Internal,
                            field: format!("spec.ports[{index}].nodePort"),
                            value: None,
                            detail: "failed to allocate a nodePort: range is full".into(),
                        });
                    };
                    taken.ports.push(node);
                    node
                }
            };
            by_port.insert((number, protocol), node);
            port["nodePort"] = node.into();
        }
        self.claim_health_port(service, before, view, taken)
    }

    fn claim_health_port(
        &self,
        service: &mut Value,
        before: &Holdings,
        view: &mut View,
        taken: &mut Holdings,
    ) -> Result<(), FieldError> {
        if !wants_health_port(&service["spec"]) {
            return Ok(());
        }
        match service["spec"]["healthCheckNodePort"]
            .as_u64()
            .and_then(|port| u16::try_from(port).ok())
            .filter(|port| *port != 0)
        {
            Some(wanted) if before.ports.contains(&wanted) => {}
            Some(wanted) => {
                self.take_port(wanted, view)
                    .map_err(|detail| FieldError::invalid("spec.healthCheckNodePort", wanted, detail))?;
                taken.ports.push(wanted);
            }
            None => {
                if let Some(port) = self.next_port(view) {
                    taken.ports.push(port);
                    service["spec"]["healthCheckNodePort"] = port.into();
                }
            }
        }
        Ok(())
    }
}

fn wants_node_ports(spec: &Value) -> bool {
    match spec["type"].as_str() {
        Some("NodePort") => true,
        Some("LoadBalancer") => spec["allocateLoadBalancerNodePorts"] != false,
        _ => false,
    }
}

fn wants_health_port(spec: &Value) -> bool {
    spec["type"] == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local"
}

/// The cluster addresses that a spec names.
fn addresses_of(spec: &Value) -> Vec<IpAddr> {
    let listed: Vec<IpAddr> =
        spec["clusterIPs"].as_array().into_iter().flatten().filter_map(|text| text.as_str()?.parse().ok()).collect();
    if listed.is_empty() {
        spec["clusterIP"].as_str().and_then(|text| text.parse().ok()).into_iter().collect()
    } else {
        listed
    }
}

/// What a stored service holds.
pub(crate) fn held(service: &Value) -> Holdings {
    let spec = &service["spec"];
    let mut ports: Vec<u16> = spec["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|port| port["nodePort"].as_u64().and_then(|port| u16::try_from(port).ok()))
        .chain(spec["healthCheckNodePort"].as_u64().and_then(|port| u16::try_from(port).ok()))
        .filter(|port| *port != 0)
        .collect();
    ports.sort_unstable();
    ports.dedup();
    Holdings { addresses: if spec["type"] == "ExternalName" { Vec::new() } else { addresses_of(spec) }, ports }
}

/// Makes `clusterIP` and `clusterIPs` say the same where the client gave one of them.
pub(crate) fn complete_addresses(service: &mut Value) {
    let spec = &service["spec"];
    if spec["type"] == "ExternalName" || !spec.is_object() {
        return;
    }
    if spec["clusterIP"].as_str().is_some_and(|text| !text.is_empty())
        && spec["clusterIPs"].as_array().is_none_or(Vec::is_empty)
    {
        service["spec"]["clusterIPs"] = json!([service["spec"]["clusterIP"]]);
    }
    let spec = &service["spec"];
    if spec["clusterIP"].as_str().unwrap_or_default().is_empty()
        && let Some(first) = spec["clusterIPs"].get(0).cloned()
    {
        service["spec"]["clusterIP"] = first;
    }
}

/// A service that is to have one family from now on, whose client only repeats the two it had, keeps the first. Upstream:
/// `trimFieldsForDualStackDowngrade` in `pkg/registry/core/service/strategy.go`.
fn release_second_family(service: &mut Value, old: &Value) {
    if service["spec"]["ipFamilyPolicy"] != "SingleStack" || old["spec"]["ipFamilyPolicy"] == "SingleStack" {
        return;
    }
    for field in ["clusterIPs", "ipFamilies"] {
        let same = service["spec"][field] == old["spec"][field];
        if let Some(list) = service["spec"][field].as_array_mut().filter(|_| same) {
            list.truncate(1);
        }
    }
}

/// A PUT that leaves addresses and ports out keeps those that were given.
pub(crate) fn keep_allocated(service: &mut Value, old: &Value) {
    if !service["spec"].is_object() || !old["spec"].is_object() {
        return;
    }
    let (new_type, old_type) = (
        service["spec"]["type"].as_str().unwrap_or("ClusterIP").to_owned(),
        old["spec"]["type"].as_str().unwrap_or("ClusterIP").to_owned(),
    );
    if new_type == "ExternalName" {
        if old_type != "ExternalName" {
            let spec = service["spec"].as_object_mut().expect("checked above");
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if spec.get(field) == old["spec"].get(field) {
                    spec.remove(field);
                }
            }
        }
    } else if old_type != "ExternalName" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            let absent = match &service["spec"][field] {
                Value::Null => true,
                Value::String(text) => text.is_empty(),
                Value::Array(list) => list.is_empty(),
                _ => false,
            };
            if absent && !old["spec"][field].is_null() {
                service["spec"][field] = old["spec"][field].clone();
            }
        }
    } else {
        complete_addresses(service);
    }
    release_second_family(service, old);
    let wants = wants_node_ports(&service["spec"]);
    let had = wants_node_ports(&old["spec"]);
    let old_ports = old["spec"]["ports"].as_array().cloned().unwrap_or_default();
    if let Some(ports) = service["spec"]["ports"].as_array_mut() {
        let named: Vec<u64> = ports.iter().filter_map(|port| port["nodePort"].as_u64()).collect();
        for port in ports.iter_mut() {
            let given = port["nodePort"].as_u64().unwrap_or(0);
            if wants && had && given == 0 {
                let twin = old_ports.iter().find(|old| old["port"] == port["port"] && same_protocol(old, port));
                if let Some(node) = twin.and_then(|twin| twin["nodePort"].as_u64())
                    && !named.contains(&node)
                {
                    port["nodePort"] = node.into();
                }
            } else if !wants && had && new_type == "ClusterIP" {
                // A service that stops being a node port gives its ports back if the client only repeats them.
                if old_ports.iter().any(|old| old["nodePort"] == port["nodePort"])
                    && let Some(port) = port.as_object_mut()
                {
                    port.remove("nodePort");
                }
            }
        }
    }
    if wants_health_port(&service["spec"])
        && wants_health_port(&old["spec"])
        && service["spec"]["healthCheckNodePort"].is_null()
    {
        service["spec"]["healthCheckNodePort"] = old["spec"]["healthCheckNodePort"].clone();
    }
}

fn same_protocol(one: &Value, other: &Value) -> bool {
    one["protocol"].as_str().unwrap_or("TCP") == other["protocol"].as_str().unwrap_or("TCP")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kobune_kinds::Catalogue;
    use kobune_store::{At, Limits, Memory, Range, Revision};

    use super::*;

    fn allocator() -> Allocator {
        Allocator::new(vec![Cidr::parse("10.96.0.0/28").expect("a range")], 30000..=30003)
    }

    /// A view in which nothing is reserved but what was taken by choices before.
    fn view() -> View {
        let memory = Memory::new(Limits::default(), Revision(1), []);
        let empty = |collection| memory.list(&Range::all(collection), At::Latest).expect("it is open");
        View { addresses: empty("a"), ports: empty("p"), also: Holdings::default() }
    }

    fn service(spec: Value) -> Value {
        let mut service = json!({"metadata": {"name": "s", "namespace": "n"}, "spec": spec});
        complete_addresses(&mut service);
        service
    }

    fn kind() -> Arc<Kind> {
        Arc::clone(Catalogue::builtin().by_kind("v1", "Service").expect("built in"))
    }

    #[test]
    fn ranges() {
        let range = Cidr::parse("10.96.0.5/16").expect("a range");
        assert_eq!(range.address(0), "10.96.0.1".parse::<IpAddr>().expect("an address"));
        assert!(
            range.contains("10.96.255.1".parse().expect("an address"))
                && !range.contains("10.97.0.1".parse().expect("an address"))
        );
        assert!(Cidr::parse("10.96.0.0/33").is_none() && Cidr::parse("x").is_none());
        assert_eq!(Cidr::parse("fd00::/108").map(|range| range.size()), Some((1 << 20) - 1));
    }

    #[test]
    fn addresses_are_given_once() {
        let allocator = allocator();
        let mut view = view();
        for _ in 0..14 {
            let mut one = service(json!({"ports": []}));
            let taken = allocator.choose(&kind(), &mut one, &Holdings::default(), &mut view).expect("there is room");
            assert_eq!(one["spec"]["clusterIP"], json!(taken.addresses[0]));
            assert!(one["spec"]["clusterIP"].as_str().is_some_and(|ip| ip.starts_with("10.96.0.")), "{one}");
        }
        let mut full = service(json!({}));
        assert!(allocator.choose(&kind(), &mut full, &Holdings::default(), &mut view).is_err());
    }

    #[test]
    fn families() {
        let check = |ranges: &[&str], spec: Value, expected: Result<Value, &str>| {
            let ranges = ranges.iter().map(|range| Cidr::parse(range).expect("a range")).collect();
            let mut one = service(spec.clone());
            match (
                Allocator::new(ranges, 30000..=30003).choose(&kind(), &mut one, &Holdings::default(), &mut view()),
                expected,
            ) {
                (Ok(taken), Ok(expected)) => {
                    let found =
                        json!([one["spec"]["ipFamilyPolicy"], one["spec"]["ipFamilies"], taken.addresses.len()]);
                    assert_eq!(found, expected, "{spec}");
                }
                (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
                (found, expected) => panic!("{spec}: {found:?}, not {expected:?}"),
            }
        };
        let (v4, v6) = ("10.96.0.0/28", "fd00:96::/112");
        check(&[v4], json!({}), Ok(json!(["SingleStack", ["IPv4"], 1])));
        check(&[v6], json!({}), Ok(json!(["SingleStack", ["IPv6"], 1])));
        check(&[v6], json!({"clusterIP": "None", "selector": {"a": "b"}}), Ok(json!(["SingleStack", ["IPv6"], 0])));
        check(&[v4, v6], json!({}), Ok(json!(["SingleStack", ["IPv4"], 1])));
        check(&[v4, v6], json!({"ipFamilies": ["IPv6"]}), Ok(json!(["SingleStack", ["IPv6"], 1])));
        check(
            &[v4, v6],
            json!({"ipFamilyPolicy": "PreferDualStack"}),
            Ok(json!(["PreferDualStack", ["IPv4", "IPv6"], 2])),
        );
        check(
            &[v6, v4],
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            Ok(json!(["RequireDualStack", ["IPv6", "IPv4"], 2])),
        );
        check(&[v4, v6], json!({"ipFamilies": ["IPv6", "IPv4"]}), Ok(json!(["RequireDualStack", ["IPv6", "IPv4"], 2])));
        check(
            &[v4, v6],
            json!({"clusterIPs": ["10.96.0.5", "fd00:96::5"]}),
            Ok(json!(["RequireDualStack", ["IPv4", "IPv6"], 2])),
        );
        check(&[v4], json!({"ipFamilyPolicy": "PreferDualStack"}), Ok(json!(["PreferDualStack", ["IPv4"], 1])));
        check(&[v4], json!({"clusterIP": "None"}), Ok(json!(["RequireDualStack", ["IPv4", "IPv6"], 0])));
        check(&[v4], json!({"ipFamilyPolicy": "RequireDualStack"}), Err("not configured for dual-stack services"));
        check(
            &[v4],
            json!({"ipFamilies": ["IPv6"]}),
            Err("spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster"),
        );
    }

    #[test]
    fn a_second_family_can_be_given_back() {
        let ranges = ["10.96.0.0/28", "fd00:96::/112"].map(|range| Cidr::parse(range).expect("a range"));
        let (allocator, mut view) = (Allocator::new(ranges.to_vec(), 30000..=30003), view());
        let mut old = service(json!({"ipFamilyPolicy": "PreferDualStack"}));
        allocator.choose(&kind(), &mut old, &Holdings::default(), &mut view).expect("free");
        let mut new = old.clone();
        new["spec"]["ipFamilyPolicy"] = "SingleStack".into();
        keep_allocated(&mut new, &old);
        assert_eq!(new["spec"]["ipFamilies"], json!(["IPv4"]));
        assert_eq!(new["spec"]["clusterIPs"], json!([old["spec"]["clusterIP"]]));
        assert_eq!(held(&old).without(&held(&new)).addresses.len(), 1);
        let mut again = new.clone();
        again["spec"]["ipFamilyPolicy"] = "PreferDualStack".into();
        keep_allocated(&mut again, &new);
        let taken = allocator.choose(&kind(), &mut again, &held(&new), &mut view).expect("free");
        assert_eq!((taken.addresses.len(), again["spec"]["clusterIPs"].as_array().map(Vec::len)), (1, Some(2)));
    }

    #[test]
    fn further_ranges() {
        let with = |status: &str, deleted: Option<&str>| {
            ready_ranges(&json!({"metadata": {"deletionTimestamp": deleted}, "spec": {"cidrs": ["203.0.113.0/24"]},
                "status": {"conditions": [{"type": "Ready", "status": status}]}}))
        };
        assert_eq!((with("False", None).len(), with("True", Some("2026-01-01T00:00:00Z")).len()), (0, 0));
        let (allocator, mut view) = (allocator().with(with("True", None)), view());
        let mut wanted = service(json!({"clusterIP": "203.0.113.10"}));
        allocator.choose(&kind(), &mut wanted, &Holdings::default(), &mut view).expect("it is in the further range");
        for _ in 0..15 {
            let mut one = service(json!({}));
            allocator.choose(&kind(), &mut one, &Holdings::default(), &mut view).expect("a full range is not the end");
        }
    }

    #[test]
    fn what_is_taken_is_refused() {
        let wanted = json!({"clusterIP": "10.96.0.3", "type": "NodePort", "ports": [{"port": 80, "nodePort": 30001}, {"port": 81}]});
        let (allocator, mut view) = (allocator(), view());
        let taken = allocator.choose(&kind(), &mut service(wanted.clone()), &Holdings::default(), &mut view);
        let taken = taken.expect("it is free");
        assert_eq!((taken.addresses.len(), taken.ports.len(), taken.ports[0]), (1, 2, 30001));
        let again = allocator.choose(&kind(), &mut service(wanted), &Holdings::default(), &mut view);
        let error = again.expect_err("it is taken");
        assert_eq!(error.code(), 422);
        assert!(error.to_string().contains("spec.clusterIPs: Invalid value: [\"10.96.0.3\"]: failed to allocate IP 10.96.0.3: provided IP is already allocated"), "{error}");
    }

    #[test]
    fn changes_keep_what_was_given() {
        let (allocator, mut view) = (allocator(), view());
        let mut old = service(json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}));
        allocator.choose(&kind(), &mut old, &Holdings::default(), &mut view).expect("free");
        let mut new = json!({"metadata": {"name": "s", "namespace": "n"}, "spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}});
        keep_allocated(&mut new, &old);
        assert_eq!(new["spec"]["clusterIP"], old["spec"]["clusterIP"]);
        assert_eq!(new["spec"]["ports"], old["spec"]["ports"]);
        let mut plain = json!({"metadata": {"name": "s", "namespace": "n"}, "spec": {"type": "ClusterIP", "ports": old["spec"]["ports"]}});
        keep_allocated(&mut plain, &old);
        assert!(plain["spec"]["ports"][0].get("nodePort").is_none());
        let taken = allocator.choose(&kind(), &mut plain, &held(&old), &mut view).expect("nothing new");
        assert_eq!(taken, Holdings::default());
        assert_eq!(held(&old).without(&held(&plain)).ports.len(), 1, "the port is given back");
    }
}
