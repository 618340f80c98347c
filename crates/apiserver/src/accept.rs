//! Content negotiation: what form of an answer a client accepts.

use http::HeaderValue;

/// What becomes of an object or a list before it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The object itself.
    Object,
    /// A `meta.k8s.io/v1` Table with the kind's columns.
    Table,
    /// Only the metadata: `PartialObjectMetadata`, or the list of it.
    Partial,
    /// An `apidiscovery.k8s.io/v2` document.
    AggregatedDiscovery,
}

/// How the bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// JSON.
    Json,
    /// YAML, which upstream offers too.
    Yaml,
    /// Kubernetes' protobuf encoding.
    Protobuf,
}

/// What an endpoint can answer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Offer {
    /// The answer has a protobuf form.
    pub protobuf: bool,
    /// The answer is an object or a list, of which the metadata alone can be shown.
    pub partial: bool,
    /// The answer can be shown as a Table.
    pub table: bool,
    /// The answer is a discovery document with an aggregated form.
    pub discovery: bool,
}

impl Offer {
    /// A document or an error.
    pub(crate) const DOCUMENT: Self = Self { protobuf: true, partial: false, table: false, discovery: false };

    /// The media types, for the messages of a 406 and a 415.
    pub(crate) fn media_types(self) -> &'static str {
        if self.protobuf { OFFERED } else { OFFERED_WITHOUT_PROTOBUF }
    }
}

/// What a client accepts, decided for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accept {
    /// What is sent.
    pub form: Form,
    /// How it is written.
    pub encoding: Encoding,
    /// Whether JSON is indented.
    pub pretty: bool,
    /// Group and version of Tables and partial objects.
    pub meta_version: &'static str,
}

impl Accept {
    /// Plain JSON.
    pub(crate) const JSON: Self =
        Self { form: Form::Object, encoding: Encoding::Json, pretty: false, meta_version: META_V1 };
}

/// Group and version of Tables and partial objects, and those that old clients ask for.
const META_V1: &str = "meta.k8s.io/v1";
const META_V1BETA1: &str = "meta.k8s.io/v1beta1";

/// The media types of built-in kinds.
pub(crate) const OFFERED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// The media types of what has no protobuf form.
const OFFERED_WITHOUT_PROTOBUF: &str = "application/json, application/yaml";

/// One entry of an `Accept` header.
struct Range<'h> {
    kind: &'h str,
    subtype: &'h str,
    quality: f32,
    form: &'h str,
    group: &'h str,
    version: &'h str,
}

fn ranges(header: &str) -> Vec<Range<'_>> {
    let mut found: Vec<Range<'_>> = header
        .split(',')
        .filter_map(|entry| {
            let mut parts = entry.split(';').map(str::trim);
            let (kind, subtype) = parts.next()?.split_once('/')?;
            let mut range =
                Range { kind: kind.trim(), subtype: subtype.trim(), quality: 1.0, form: "", group: "", version: "" };
            for part in parts {
                match part.split_once('=') {
                    Some(("q", value)) => range.quality = value.trim().parse().unwrap_or(0.0),
                    Some(("as", value)) => range.form = value.trim(),
                    Some(("g", value)) => range.group = value.trim(),
                    Some(("v", value)) => range.version = value.trim(),
                    _ => {}
                }
            }
            Some(range)
        })
        .collect();
    found.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    found
}

/// Whether somebody reads the answer: by the parameter `pretty`, or by a program that is used by hand.
pub(crate) fn wants_pretty(pretty: Option<bool>, agent: Option<&str>) -> bool {
    let by_hand =
        || ["curl", "Wget", "Mozilla/5.0"].iter().any(|name| agent.is_some_and(|agent| agent.starts_with(name)));
    pretty.unwrap_or_else(by_hand)
}

/// Decides on the first range that the server can serve; `None` means 406.
pub(crate) fn negotiate(header: Option<&str>, offer: Offer) -> Option<Accept> {
    let header = header.map(str::trim).unwrap_or_default();
    if header.is_empty() || header == "application/json" || header == "*/*" {
        return Some(Accept::JSON);
    }
    for range in ranges(header) {
        if range.quality <= 0.0 {
            continue;
        }
        let encoding = match (range.kind, range.subtype) {
            ("*", "*") | ("application", "*" | "json") => Encoding::Json,
            ("application", "yaml") => Encoding::Yaml,
            ("application", "vnd.kubernetes.protobuf") if offer.protobuf || offer.partial => Encoding::Protobuf,
            _ => continue,
        };
        let meta_version = if range.version == "v1beta1" { META_V1BETA1 } else { META_V1 };
        let form = match (range.form, range.group, range.version) {
            ("", ..) => Form::Object,
            ("Table", "meta.k8s.io", "v1" | "v1beta1") if offer.table && encoding != Encoding::Protobuf => Form::Table,
            ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1" | "v1beta1")
                if offer.partial =>
            {
                Form::Partial
            }
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") if offer.discovery && encoding == Encoding::Json => {
                Form::AggregatedDiscovery
            }
            _ => continue,
        };
        // Custom resources have no protobuf form, but the metadata of every object has one.
        if encoding == Encoding::Protobuf && form == Form::Object && !offer.protobuf {
            continue;
        }
        return Some(Accept { form, encoding, pretty: false, meta_version });
    }
    None
}

/// How an error is written: as the client asked for its answer, or else as JSON.
pub(crate) fn for_error(header: Option<&HeaderValue>, pretty: bool) -> Accept {
    let accept = negotiate(header.and_then(|header| header.to_str().ok()), Offer::DOCUMENT).unwrap_or(Accept::JSON);
    Accept { pretty, ..accept }
}

/// Whether a body of this type is one of these; parameters such as `charset` are not looked at.
pub(crate) fn media_type(header: &str) -> &str {
    header.split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_headers() {
        let objects = Offer { protobuf: true, partial: true, table: true, discovery: false };
        let custom = Offer { protobuf: false, ..objects };
        let review = Offer { table: false, ..objects };
        let check = |header: &str, offer: Offer, expected: Option<(Form, Encoding)>| {
            let found = negotiate(Some(header), offer).map(|accept| (accept.form, accept.encoding));
            assert_eq!(found, expected, "{header}");
        };
        let json = Some((Form::Object, Encoding::Json));
        check("", objects, json);
        check("*/*", objects, json);
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io";
        check(&format!("{table},application/json"), objects, Some((Form::Table, Encoding::Json)));
        check(table, review, None);
        check("application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io", objects, None);
        let protobuf = Some((Form::Object, Encoding::Protobuf));
        check("application/vnd.kubernetes.protobuf,application/json", objects, protobuf);
        check("application/vnd.kubernetes.protobuf,application/json", custom, json);
        check("application/json,application/vnd.kubernetes.protobuf", objects, json);
        check("application/vnd.kubernetes.protobuf", custom, None);
        let partial = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        check(partial, custom, Some((Form::Partial, Encoding::Protobuf)));
        check(partial, Offer::DOCUMENT, None);
        check(
            "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
            objects,
            Some((Form::Partial, Encoding::Json)),
        );
        check("application/json;as=Strange;g=meta.k8s.io;v=v1", objects, None);
        check("application/json;as=Table;g=meta.k8s.io;v=v2", objects, None);
        check("text/html;q=0.9, application/json;q=0.1", objects, json);
        check("application/json;q=0", objects, None);
        check("application/yaml", objects, Some((Form::Object, Encoding::Yaml)));
        let discovery = Offer { discovery: true, ..Offer::DOCUMENT };
        check(
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json",
            discovery,
            Some((Form::AggregatedDiscovery, Encoding::Json)),
        );
    }

    #[test]
    fn old_tables_keep_their_version() {
        let offer = Offer { table: true, ..Offer::default() };
        let accept = negotiate(Some("application/json;as=Table;v=v1beta1;g=meta.k8s.io"), offer).expect("offered");
        assert_eq!(accept.meta_version, "meta.k8s.io/v1beta1");
    }

    #[test]
    fn hands_get_indented_answers() {
        assert!(wants_pretty(None, Some("curl/8.5.0")) && wants_pretty(Some(true), None));
        assert!(!wants_pretty(Some(false), Some("curl/8.5.0")) && !wants_pretty(None, Some("kubectl/v1.36.0")));
    }
}
