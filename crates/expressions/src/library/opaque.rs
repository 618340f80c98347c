//! Values that only their own functions look into.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use kobune_kinds::quantity::Quantity;

use crate::library::{format::Format, url::Url};
use crate::types::Opaque;

/// What a library holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Held {
    /// A URL.
    Url(Url),
    /// A quantity of a resource.
    Quantity(Quantity),
    /// An address.
    Ip(IpAddr),
    /// A network.
    Cidr(IpNet),
    /// A semantic version.
    Semver(semver::Version),
    /// A named format.
    Format(&'static Format),
}

impl Held {
    pub(crate) fn kind(&self) -> Opaque {
        match self {
            Held::Url(_) => Opaque::Url,
            Held::Quantity(_) => Opaque::Quantity,
            Held::Ip(_) => Opaque::Ip,
            Held::Cidr(_) => Opaque::Cidr,
            Held::Semver(_) => Opaque::Semver,
            Held::Format(_) => Opaque::Format,
        }
    }

    /// The size in bytes that prices are made of.
    pub(crate) fn size(&self) -> usize {
        match self {
            Held::Ip(IpAddr::V4(_)) => 4,
            Held::Ip(IpAddr::V6(_)) => 16,
            Held::Cidr(network) => usize::from(network.prefix_len()).div_ceil(8),
            _ => 1,
        }
    }

    /// The length of the format's expression.
    pub(crate) fn pattern_length(&self) -> u64 {
        match self {
            Held::Format(format) => format.pattern_length,
            _ => 1,
        }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Held::Url(url) => url.fmt(f),
            Held::Quantity(quantity) => quantity.fmt(f),
            Held::Ip(address) => address.fmt(f),
            Held::Cidr(network) => network.fmt(f),
            Held::Semver(version) => version.fmt(f),
            Held::Format(format) => f.write_str(format.name),
        }
    }
}
