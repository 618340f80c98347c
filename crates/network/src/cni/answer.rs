//! What plug-ins answer: results of every version of the specification, and errors.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::list::rank;

/// The link that pods have.
pub(crate) const LINK: &str = "eth0";

/// A result, in the form of the version that it says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer(pub Map<String, Value>);

impl Answer {
    /// Reads what a plug-in wrote and makes it one of the version that is spoken, in which the next plug-in expects it.
    pub fn parse(text: &[u8], version: &str) -> Result<Answer, String> {
        let value: Value = serde_json::from_slice(text).map_err(|error| format!("not JSON: {error}"))?;
        let Value::Object(object) = value else { return Err("not a JSON object".to_owned()) };
        let own = match object.get("cniVersion") {
            None | Some(Value::Null) => "0.1.0".to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(_) => return Err("\"cniVersion\" is not a string".to_owned()),
        };
        let Some(own_rank) = rank(&own) else { return Err(format!("unsupported CNI result version {own:?}")) };
        let object = if is_old(own_rank) { modern(&object)? } else { object };
        let answer = Answer(object);
        answer.check()?;
        Ok(answer.in_version(version, own_rank))
    }

    /// Everything that is read later has to have its form.
    fn check(&self) -> Result<(), String> {
        self.ips()?;
        for link in list(&self.0, "interfaces")? {
            if !link.is_object() {
                return Err("an interface is not an object".to_owned());
            }
        }
        Ok(())
    }

    fn in_version(mut self, version: &str, own: usize) -> Answer {
        let wanted = rank(version).expect("only known versions are spoken");
        if is_old(wanted) {
            return Answer(old(&self.0, version));
        }
        // Before 1.0.0 each address says its family.
        let says_family = wanted < rank("1.0.0").expect("known");
        if let Some(Value::Array(ips)) = self.0.get_mut("ips") {
            for ip in ips.iter_mut().filter_map(Value::as_object_mut) {
                let address = ip.get("address").and_then(Value::as_str).and_then(|text| text.parse::<IpNet>().ok());
                if says_family && !ip.contains_key("version") {
                    let family = if address.is_some_and(|address| address.addr().is_ipv6()) { "6" } else { "4" };
                    ip.insert("version".to_owned(), family.into());
                } else if !says_family && own < rank("1.0.0").expect("known") {
                    ip.remove("version");
                }
            }
        }
        self.0.insert("cniVersion".to_owned(), version.into());
        self
    }

    /// The addresses, each with the place of its link in `interfaces`.
    fn ips(&self) -> Result<Vec<(IpAddr, Option<usize>)>, String> {
        let mut found = Vec::new();
        for ip in list(&self.0, "ips")? {
            #[derive(Deserialize)]
            struct Ip {
                address: String,
                interface: Option<i64>,
            }
            let ip = Ip::deserialize(ip).map_err(|error| format!("an address: {error}"))?;
            let address: IpNet =
                ip.address.parse().map_err(|_| format!("{:?} is not an address with a prefix", ip.address))?;
            found.push((address.addr(), ip.interface.and_then(|place| usize::try_from(place).ok())));
        }
        Ok(found)
    }

    /// The pod's addresses: those of its own link, or of none in particular, at most one of each family.
    pub fn pod_addresses(&self) -> Vec<IpAddr> {
        let links = list(&self.0, "interfaces").unwrap_or_default();
        let is_pods = |place: usize| {
            links.get(place).is_some_and(|link| {
                let text = |key: &str| link.get(key).and_then(Value::as_str).unwrap_or_default();
                text("name") == LINK && !text("sandbox").is_empty()
            })
        };
        let mut found: Vec<IpAddr> = Vec::new();
        for (address, place) in self.ips().unwrap_or_default() {
            let taken = found.iter().any(|other| other.is_ipv4() == address.is_ipv4());
            if !taken && place.is_none_or(is_pods) {
                found.push(address);
            }
        }
        found
    }

    /// The hardware address of the pod's link, if it is said.
    pub fn hardware_address(&self) -> Option<[u8; 6]> {
        let links = list(&self.0, "interfaces").ok()?;
        let own = links.into_iter().find(|link| {
            link.get("name").and_then(Value::as_str) == Some(LINK)
                && link.get("sandbox").and_then(Value::as_str).is_some_and(|sandbox| !sandbox.is_empty())
        })?;
        let mut bytes = own.get("mac")?.as_str()?.split(':').map(|byte| u8::from_str_radix(byte, 16));
        let mut address = [0; 6];
        for byte in &mut address {
            *byte = bytes.next()?.ok()?;
        }
        bytes.next().is_none().then_some(address)
    }
}

fn is_old(rank_of: usize) -> bool {
    rank_of < rank("0.3.0").expect("known")
}

fn list<'a>(object: &'a Map<String, Value>, key: &str) -> Result<Vec<&'a Value>, String> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(all)) => Ok(all.iter().collect()),
        Some(_) => Err(format!("{key:?} is not a list")),
    }
}

/// Results of 0.1.0 and 0.2.0 have one address of each family: `ip4` and `ip6`.
fn modern(old: &Map<String, Value>) -> Result<Map<String, Value>, String> {
    let (mut ips, mut routes) = (Vec::new(), Vec::new());
    for key in ["ip4", "ip6"] {
        let Some(of_family) = old.get(key).filter(|value| !value.is_null()) else { continue };
        let address = of_family.get("ip").cloned().ok_or_else(|| format!("{key:?} has no \"ip\""))?;
        let mut ip = json!({"address": address});
        if let Some(gateway) = of_family.get("gateway") {
            ip["gateway"] = gateway.clone();
        }
        ips.push(ip);
        routes.extend(of_family.get("routes").and_then(Value::as_array).into_iter().flatten().cloned());
    }
    let mut made = json!({"ips": ips, "routes": routes});
    if let Some(dns) = old.get("dns") {
        made["dns"] = dns.clone();
    }
    match made {
        Value::Object(made) => Ok(made),
        _ => unreachable!("an object was made"),
    }
}

fn old(new: &Map<String, Value>, version: &str) -> Map<String, Value> {
    let mut made = Map::from_iter([("cniVersion".to_owned(), Value::from(version))]);
    let is_v6 = |text: &str| text.contains(':');
    for ip in list(new, "ips").unwrap_or_default() {
        let Some(address) = ip.get("address").and_then(Value::as_str) else { continue };
        let key = if is_v6(address) { "ip6" } else { "ip4" };
        if made.contains_key(key) {
            continue;
        }
        let routes = list(new, "routes").unwrap_or_default().into_iter().filter(|route| {
            route.get("dst").and_then(Value::as_str).is_some_and(|destination| is_v6(destination) == is_v6(address))
        });
        let mut of_family = json!({"ip": address, "routes": routes.collect::<Vec<_>>()});
        if let Some(gateway) = ip.get("gateway") {
            of_family["gateway"] = gateway.clone();
        }
        made.insert(key.to_owned(), of_family);
    }
    if let Some(dns) = new.get("dns") {
        made.insert("dns".to_owned(), dns.clone());
    }
    made
}

/// What a plug-in that failed said: the specification's section 5.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Failure {
    pub code: u64,
    pub msg: String,
    pub details: String,
}

impl Failure {
    /// From the two outputs of a plug-in that did not end well, in libcni's words (`pkg/invoke/raw_exec.go`).
    pub fn parse(stdout: &[u8], stderr: &[u8], how: &str) -> String {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if let Ok(failure) = serde_json::from_slice::<Failure>(stdout)
            && !(failure.msg.is_empty() && failure.details.is_empty())
        {
            let Failure { msg, details, .. } = failure;
            return if details.is_empty() { msg } else { format!("{msg}; {details}") };
        }
        match (text(stdout), text(stderr)) {
            (out, err) if out.is_empty() && err.is_empty() => {
                format!("netplugin failed with no error message: {how}")
            }
            (out, err) if out.is_empty() => format!("netplugin failed: {err:?}"),
            (out, _) => format!("netplugin failed: {out:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(answer: &Answer) -> String {
        answer.pod_addresses().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn addresses_of_results() {
        let check = |text: &str, expected: Result<&str, &str>| {
            for version in super::super::list::VERSIONS {
                let found = Answer::parse(text.as_bytes(), version);
                match (&found, expected) {
                    // Old versions have no interfaces; whose an address is has been lost then.
                    (Ok(_), Ok(_)) if is_old(rank(version).expect("known")) => {}
                    (Ok(answer), Ok(expected)) => {
                        assert_eq!(ips(answer), expected, "{version}: {text}");
                        assert_eq!(answer.0["cniVersion"], *version);
                    }
                    (Err(found), Err(expected)) => assert!(found.contains(expected), "{found:?} lacks {expected:?}"),
                    _ => panic!("{text}: {found:?}, not {expected:?}"),
                }
            }
        };
        check(
            r#"{"cniVersion": "1.0.0", "interfaces": [{"name": "cni0"}, {"name": "eth0", "sandbox": "/n", "mac": "0a:58:0a:f4:00:02"}],
                "ips": [{"address": "10.1.0.1/24", "interface": 0}, {"address": "10.1.0.5/24", "interface": 1}, {"address": "fd00::5/64", "interface": 1}, {"address": "10.1.0.6/24", "interface": 1}]}"#,
            Ok("10.1.0.5 fd00::5"),
        );
        check(r#"{"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.1.0.5/24"}]}"#, Ok("10.1.0.5"));
        check(
            r#"{"cniVersion": "0.2.0", "ip4": {"ip": "10.1.0.5/24"}, "ip6": {"ip": "fd00::5/64"}}"#,
            Ok("10.1.0.5 fd00::5"),
        );
        check(r#"{"ip4": {"ip": "10.1.0.5/24"}}"#, Ok("10.1.0.5"));
        check(r#"{"cniVersion": "1.1.0"}"#, Ok(""));
        check(r#"{"cniVersion": "1.1.0", "ips": [{"address": "10.1.0.5/24", "interface": 7}]}"#, Ok(""));
        check(r#"{"cniVersion": "1.1.0", "ips": [{"address": "10.1.0.5"}]}"#, Err("not an address with a prefix"));
        check(r#"{"cniVersion": "1.1.0", "ips": [{"address": 5}]}"#, Err("an address"));
        check(r#"{"cniVersion": "1.1.0", "ips": {}}"#, Err("not a list"));
        check(r#"{"cniVersion": "1.1.0", "interfaces": [3]}"#, Err("an interface is not an object"));
        check(r#"{"cniVersion": "7.0.0"}"#, Err("unsupported CNI result version"));
        check(r#"{"cniVersion": 1}"#, Err("not a string"));
        check("[]", Err("not a JSON object"));
        check("", Err("not JSON"));
    }

    #[test]
    fn results_change_their_version() {
        let new = r#"{"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.5/24", "gateway": "10.1.0.1"}, {"address": "fd00::5/64"}],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}], "dns": {"nameservers": ["10.1.0.1"]}}"#;
        let check = |text: &str, version: &str, expected: Value| {
            let answer = Answer::parse(text.as_bytes(), version).expect("an answer");
            assert_eq!(Value::Object(answer.0), expected);
        };
        check(
            new,
            "0.2.0",
            json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.1.0.5/24", "gateway": "10.1.0.1", "routes": [{"dst": "0.0.0.0/0"}]},
                "ip6": {"ip": "fd00::5/64", "routes": [{"dst": "::/0"}]}, "dns": {"nameservers": ["10.1.0.1"]}}),
        );
        check(
            r#"{"cniVersion": "1.0.0", "ips": [{"address": "fd00::5/64"}]}"#,
            "0.3.1",
            json!({"cniVersion": "0.3.1", "ips": [{"address": "fd00::5/64", "version": "6"}]}),
        );
        check(
            r#"{"cniVersion": "0.4.0", "ips": [{"address": "10.1.0.5/24", "version": "4"}], "own": 1}"#,
            "1.1.0",
            json!({"cniVersion": "1.1.0", "ips": [{"address": "10.1.0.5/24"}], "own": 1}),
        );
    }

    #[test]
    fn failures_in_words() {
        let check = |stdout: &str, stderr: &str, expected: &str| {
            assert_eq!(Failure::parse(stdout.as_bytes(), stderr.as_bytes(), "exit status: 1"), expected);
        };
        check(r#"{"cniVersion": "1.0.0", "code": 7, "msg": "no range"}"#, "noise", "no range");
        check(r#"{"code": 7, "msg": "no range", "details": "full"}"#, "", "no range; full");
        check("", "it broke\n", "netplugin failed: \"it broke\"");
        check("{\"code\": 7}", "", "netplugin failed: \"{\\\"code\\\": 7}\"");
        check("", "", "netplugin failed with no error message: exit status: 1");
    }
}
