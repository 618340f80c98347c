//! Which clusters are spoken to without the proxy of the environment.
//!
//! `HTTPS_PROXY` and `NO_PROXY` mean here what they mean for kubectl: Go's `golang.org/x/net/http/httpproxy`. A `proxy-url` of
//! the kubeconfig is used whatever the environment says.

use std::net::IpAddr;

use ipnet::IpNet;

/// Leaves the proxy of the environment out where `NO_PROXY` names the API server, or where that is this machine.
pub fn settle_proxy(config: &mut kube::Config) {
    let named = ["HTTPS_PROXY", "https_proxy"].into_iter().find_map(set);
    let of_environment = named.is_some_and(|named| named.parse().ok() == config.proxy_url);
    let exceptions = ["NO_PROXY", "no_proxy"].into_iter().find_map(set).unwrap_or_default();
    let host = config.cluster_url.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = config.cluster_url.port_u16().unwrap_or(443);
    if of_environment && goes_directly(host, port, &exceptions) {
        config.proxy_url = None;
    }
}

fn set(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whether a host is spoken to without a proxy: this machine always, else what the exceptions name. Those are names (with
/// their subdomains; with a dot in front only those), addresses, ranges of addresses, each but the last with a port or
/// without, or `*` for everything.
fn goes_directly(host: &str, port: u16, exceptions: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
        return true;
    }
    exceptions.split(',').map(str::trim).filter(|exception| !exception.is_empty()).any(|exception| {
        if exception == "*" {
            return true;
        }
        let exception = exception.to_ascii_lowercase();
        if let (Ok(range), Some(address)) = (exception.parse::<IpNet>(), address) {
            return range.contains(&address);
        }
        if let Ok(named) = exception.trim_matches(['[', ']']).parse::<IpAddr>() {
            return address == Some(named);
        }
        let (name, named_port) = match exception.rsplit_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (exception.as_str(), None),
        };
        if named_port.is_some_and(|named| named.parse() != Ok(port)) {
            return false;
        }
        if let Ok(named) = name.trim_matches(['[', ']']).parse::<IpAddr>() {
            return address == Some(named);
        }
        match name.trim_start_matches('*').strip_prefix('.') {
            Some(parent) => host.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.')),
            None => host == name || host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.')),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions() {
        let check = |host: &str, exceptions: &str, expected: bool| {
            assert_eq!(goes_directly(host, 6443, exceptions), expected, "{host} with {exceptions:?}");
        };
        for host in ["localhost", "127.0.0.1", "127.8.0.1", "::1"] {
            check(host, "", true);
        }
        check("10.0.0.1", "", false);
        check("10.0.0.1", "*", true);
        check("10.0.0.1", "10.0.0.2, 10.0.0.1", true);
        check("10.0.0.1", "10.0.0.1:6443", true);
        check("10.0.0.1", "10.0.0.1:443", false);
        check("10.0.0.1", "10.0.0.0/8", true);
        check("11.0.0.1", "10.0.0.0/8,", false);
        check("fd00::1", "fd00::/64", true);
        check("fd00::1", "[fd00::1]:6443", true);
        check("fd00::1", "fd00::1", true);
        check("fd00::1", "fd00::2", false);
        check("api.shop.example", "shop.example", true);
        check("API.shop.example.", "Shop.Example", true);
        check("shop.example", "shop.example", true);
        check("workshop.example", "shop.example", false);
        check("shop.example", ".shop.example", false);
        check("api.shop.example", ".shop.example", true);
        check("api.shop.example", "*.shop.example", true);
        check("api.shop.example", "shop.example:6443", true);
        check("api.shop.example", "shop.example:1", false);
        check("api.shop.example", "10.0.0.0/8", false);
    }
}
