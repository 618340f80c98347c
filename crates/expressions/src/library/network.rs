//! Addresses and networks. Forms that different programs read differently are refused, as upstream does: zones,
//! IPv4 inside IPv6, leading zeros.

use std::net::IpAddr;
use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;

use crate::catalogue::{Arguments, Rows};
use crate::error::EvaluationError;
use crate::library::opaque::Held;
use crate::library::{mismatch, only_text};
use crate::meter::Price::{ContainsCidr, ContainsIp, Fixed, Length};
use crate::value::{Evaluated, Value};

/// Bytes from base64.
pub(crate) fn base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// Bytes as base64.
pub(crate) fn to_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

fn is_mapped(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(six) if six.to_ipv4_mapped().is_some())
}

fn parse_ip(text: &str) -> Result<IpAddr, EvaluationError> {
    let fail = |why: &str| Err(EvaluationError::failed(why.to_owned()));
    if text.contains('%') {
        return fail(&format!("IP address {text:?} with zone value is not allowed"));
    }
    match text.parse::<IpAddr>() {
        Ok(address) if is_mapped(&address) => fail(&format!("IPv4-mapped IPv6 address {text:?} is not allowed")),
        Ok(address) => Ok(address),
        Err(_) => fail(&format!(
            "IP Address {text:?} parse error during conversion from string: ParseAddr({text:?}): unable to parse IP"
        )),
    }
}

fn parse_cidr(text: &str) -> Result<IpNet, EvaluationError> {
    let wrong = |why: &str| {
        EvaluationError::failed(format!("network address parse error during conversion from string: {why}"))
    };
    let plain_length = |length: &str| length == "0" || !length.starts_with(['0', '+']);
    match text.split_once('/') {
        Some((_, length)) if plain_length(length) => {}
        Some(_) => return Err(wrong(&format!("netip.ParsePrefix({text:?}): bad bits after slash"))),
        None => return Err(wrong(&format!("netip.ParsePrefix({text:?}): no '/'"))),
    }
    match text.parse::<IpNet>() {
        Ok(network) if is_mapped(&network.addr()) => {
            Err(EvaluationError::failed(format!("IPv4-mapped IPv6 address {text:?} is not allowed")))
        }
        Ok(network) => Ok(network),
        Err(_) => Err(wrong(&format!("netip.ParsePrefix({text:?}): unable to parse IP"))),
    }
}

fn held<'a>(held: Held) -> Value<'a> {
    Value::Held(Rc::new(held))
}

fn address(arguments: &Arguments<'_, '_>) -> Result<IpAddr, EvaluationError> {
    match arguments.values {
        [Value::Held(inner)] => match &**inner {
            Held::Ip(address) => Ok(*address),
            Held::Cidr(network) => Ok(network.addr()),
            _ => Err(EvaluationError::no_such_overload()),
        },
        _ => Err(EvaluationError::no_such_overload()),
    }
}

fn network<'c>(value: &'c Value<'_>) -> Result<&'c IpNet, EvaluationError> {
    match value {
        Value::Held(inner) => match &**inner {
            Held::Cidr(network) => Ok(network),
            _ => Err(EvaluationError::no_such_overload()),
        },
        _ => Err(EvaluationError::no_such_overload()),
    }
}

fn ip<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    match arguments.values {
        [Value::String(text)] => parse_ip(text).map(|address| held(Held::Ip(address))),
        _ => address(arguments).map(|address| held(Held::Ip(address))),
    }
}

fn is_ip<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    Ok(Value::Bool(parse_ip(only_text(arguments)?).is_ok()))
}

fn is_canonical<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let text = only_text(arguments)?;
    parse_ip(text).map(|address| Value::Bool(address.to_string() == text))
}

fn family<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    address(arguments).map(|address| Value::Int(if address.is_ipv4() { 4 } else { 6 }))
}

fn is_unspecified<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    address(arguments).map(|address| Value::Bool(address.is_unspecified()))
}

fn is_loopback<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    address(arguments).map(|address| Value::Bool(address.is_loopback()))
}

fn link_local_multicast(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => four.octets()[..3] == [224, 0, 0],
        IpAddr::V6(six) => six.segments()[0] & 0xff0f == 0xff02,
    }
}

fn link_local_unicast(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => four.is_link_local(),
        IpAddr::V6(six) => six.is_unicast_link_local(),
    }
}

fn is_link_local_multicast<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    address(arguments).map(|address| Value::Bool(link_local_multicast(&address)))
}

fn is_link_local_unicast<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    address(arguments).map(|address| Value::Bool(link_local_unicast(&address)))
}

fn is_global_unicast<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    address(arguments).map(|address| {
        let broadcast = matches!(address, IpAddr::V4(four) if four.is_broadcast());
        let other = broadcast || address.is_unspecified() || address.is_loopback() || address.is_multicast();
        Value::Bool(!other && !link_local_unicast(&address))
    })
}

fn cidr<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    parse_cidr(only_text(arguments)?).map(|network| held(Held::Cidr(network)))
}

fn is_cidr<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    Ok(Value::Bool(parse_cidr(only_text(arguments)?).is_ok()))
}

fn contains_ip<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let [target, other] = arguments.values else { return mismatch() };
    let network = network(target)?;
    let address = match other {
        Value::String(text) => parse_ip(text)?,
        Value::Held(inner) => match &**inner {
            Held::Ip(address) => *address,
            _ => return mismatch(),
        },
        _ => return mismatch(),
    };
    Ok(Value::Bool(network.contains(&address)))
}

fn contains_cidr<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let [target, other] = arguments.values else { return mismatch() };
    let outer = network(target)?;
    let inner = match other {
        Value::String(text) => parse_cidr(text)?,
        other => *network(other)?,
    };
    Ok(Value::Bool(inner.prefix_len() >= outer.prefix_len() && outer.contains(&inner.addr())))
}

fn prefix_length<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let [target] = arguments.values else { return mismatch() };
    network(target).map(|network| Value::Int(network.prefix_len().into()))
}

fn masked<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let [target] = arguments.values else { return mismatch() };
    network(target).map(|network| held(Held::Cidr(network.trunc())))
}

pub(crate) const FUNCTIONS: Rows = &[
    ("ip", ip, &[("(string) ip", Length(0, 0.1)), ("cidr.() ip", Fixed(1))]),
    ("isIP", is_ip, &[("(string) bool", Length(0, 0.1))]),
    ("ip.isCanonical", is_canonical, &[("(string) bool", Length(0, 0.2))]),
    ("family", family, &[("ip.() int", Fixed(1))]),
    ("isUnspecified", is_unspecified, &[("ip.() bool", Fixed(1))]),
    ("isLoopback", is_loopback, &[("ip.() bool", Fixed(1))]),
    ("isLinkLocalMulticast", is_link_local_multicast, &[("ip.() bool", Fixed(1))]),
    ("isLinkLocalUnicast", is_link_local_unicast, &[("ip.() bool", Fixed(1))]),
    ("isGlobalUnicast", is_global_unicast, &[("ip.() bool", Fixed(1))]),
    ("cidr", cidr, &[("(string) cidr", Length(0, 0.1))]),
    ("isCIDR", is_cidr, &[("(string) bool", Length(0, 0.1))]),
    ("containsIP", contains_ip, &[("cidr.(string) bool", ContainsIp), ("cidr.(ip) bool", ContainsIp)]),
    ("containsCIDR", contains_cidr, &[("cidr.(string) bool", ContainsCidr), ("cidr.(cidr) bool", ContainsCidr)]),
    ("prefixLength", prefix_length, &[("cidr.() int", Fixed(1))]),
    ("masked", masked, &[("cidr.() cidr", Fixed(1))]),
];
