//! Content negotiation: what form of an answer a client accepts.

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
}

impl Accept {
    /// Plain JSON.
    pub(crate) const JSON: Self = Self { form: Form::Object, encoding: Encoding::Json, pretty: false };
}

/// The answer types that exist, for the message of a 406.
pub(crate) const OFFERED: &str = "application/json, application/yaml";

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

/// Decides on the first range that the server can serve; `None` means 406.
///
/// `transforms` says whether Table and PartialObjectMetadata are possible here (objects of the registry), `discovery`
/// whether the answer is a discovery document.
pub(crate) fn negotiate(header: Option<&str>, transforms: bool, discovery: bool) -> Option<Accept> {
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
            _ => continue,
        };
        let form = match (range.form, range.group) {
            ("", _) => Form::Object,
            ("Table", "meta.k8s.io") if transforms && matches!(range.version, "v1" | "v1beta1") => Form::Table,
            ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io")
                if transforms && matches!(range.version, "v1" | "v1beta1") =>
            {
                Form::Partial
            }
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io") if discovery && range.version == "v2" => {
                Form::AggregatedDiscovery
            }
            _ => continue,
        };
        return Some(Accept { form, encoding, pretty: false });
    }
    None
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
        let check = |header: &str, expected: Option<Form>| {
            assert_eq!(negotiate(Some(header), true, false).map(|accept| accept.form), expected, "{header}");
        };
        check("", Some(Form::Object));
        check("*/*", Some(Form::Object));
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
            Some(Form::Table),
        );
        check("application/vnd.kubernetes.protobuf,application/json", Some(Form::Object));
        check("application/vnd.kubernetes.protobuf", None);
        check("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Some(Form::Partial));
        check("application/json;as=Strange;g=meta.k8s.io;v=v1", None);
        check("text/html;q=0.9, application/json;q=0.1", Some(Form::Object));
        check("application/json;q=0", None);
        assert_eq!(
            negotiate(Some("application/yaml"), true, false).map(|accept| accept.encoding),
            Some(Encoding::Yaml)
        );
        assert_eq!(
            negotiate(
                Some("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"),
                false,
                true
            )
            .map(|accept| accept.form),
            Some(Form::AggregatedDiscovery)
        );
    }
}
