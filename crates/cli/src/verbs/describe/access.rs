//! Who may do what, and what configures programs: ServiceAccounts, roles and their bindings, signing requests, Secrets
//! and ConfigMaps.

use std::collections::BTreeMap;

use base64::Engine as _;
use jiff::Timestamp;
use serde_json::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer as _, GeneralName};

use super::read::{int, items, labels, moment, pairs, text, texts};
use super::writer::Writer;
use super::{Related, metadata};
use crate::verbs::go;

/// A ServiceAccount.
pub fn service_account(w: &mut Writer, object: &Value, related: &Related, now: Timestamp) {
    metadata::name_and_namespace(w, object);
    metadata::labels_and_annotations(w, object);
    let mut title = "Image pull secrets:";
    let secrets = items(&object["imagePullSecrets"]);
    if secrets.is_empty() {
        w.line(0, format!("{title}\t<none>"));
    }
    for secret in secrets {
        w.line(0, format!("{title}\t{}", text(&secret["name"])));
        title = "                   ";
    }
    metadata::events(w, related.events(), now);
}

/// A rule for one resource or one URL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Rule {
    verbs: Vec<String>,
    group: Option<String>,
    resource: Option<String>,
    resource_name: Option<String>,
    url: Option<String>,
}

impl Rule {
    /// What rules are sorted by: the text that Go's generated code makes of one.
    fn text(&self) -> String {
        let list = |one: &Option<String>| go::list(one.as_slice());
        format!(
            "&PolicyRule{{Verbs:{},APIGroups:{},Resources:{},ResourceNames:{},NonResourceURLs:{},}}",
            go::list(&self.verbs),
            list(&self.group),
            list(&self.resource),
            list(&self.resource_name),
            list(&self.url)
        )
    }
}

/// Rules as one row a resource with all its verbs (kubectl's `rbac.BreakdownRule` and `CompactRules`).
fn compacted(rules: &Value) -> Vec<Rule> {
    let mut simple: BTreeMap<(String, String, Option<String>), Rule> = BTreeMap::new();
    let mut compacted = Vec::new();
    for rule in items(rules) {
        let [verbs, groups, resources, names, urls] =
            ["verbs", "apiGroups", "resources", "resourceNames", "nonResourceURLs"].map(|field| texts(&rule[field]));
        let names: Vec<Option<String>> =
            if names.is_empty() { vec![None] } else { names.into_iter().map(Some).collect() };
        for (group, resource, verb) in groups.iter().flat_map(|group| {
            let verbs = &verbs;
            resources.iter().flat_map(move |resource| verbs.iter().map(move |verb| (group, resource, verb)))
        }) {
            for name in &names {
                let known = simple.entry((group.clone(), resource.clone(), name.clone())).or_insert_with(|| Rule {
                    group: Some(group.clone()),
                    resource: Some(resource.clone()),
                    resource_name: name.clone(),
                    ..Rule::default()
                });
                if !known.verbs.contains(verb) {
                    known.verbs.push(verb.clone());
                }
            }
        }
        for url in &urls {
            compacted.extend(verbs.iter().map(|verb| Rule {
                verbs: vec![verb.clone()],
                url: Some(url.clone()),
                ..Rule::default()
            }));
        }
    }
    compacted.extend(simple.into_values());
    compacted.sort_by_key(Rule::text);
    compacted
}

/// A Role or a ClusterRole.
pub fn role(w: &mut Writer, object: &Value, _: &Related, _: Timestamp) {
    metadata::name(w, object);
    metadata::labels_and_annotations(w, object);
    w.line(0, "PolicyRule:");
    w.line(1, "Resources\tNon-Resource URLs\tResource Names\tVerbs");
    w.line(1, "---------\t-----------------\t--------------\t-----");
    for rule in compacted(&object["rules"]) {
        let resource = rule.resource.as_deref().unwrap_or_default();
        let (resource, below) = match resource.split_once('/') {
            Some((resource, below)) => (resource, format!("/{below}")),
            None => (resource, String::new()),
        };
        let group = rule.group.as_deref().filter(|group| !group.is_empty());
        let group = group.map(|group| format!(".{group}")).unwrap_or_default();
        let [urls, names] = [&rule.url, &rule.resource_name].map(|one| go::list(one.as_slice()));
        w.line(1, format!("{resource}{group}{below}\t{urls}\t{names}\t{}", go::list(&rule.verbs)));
    }
}

/// A RoleBinding or a ClusterRoleBinding.
pub fn binding(w: &mut Writer, object: &Value, _: &Related, _: Timestamp) {
    metadata::name(w, object);
    metadata::labels_and_annotations(w, object);
    w.line(0, "Role:");
    w.field(1, "Kind", text(&object["roleRef"]["kind"]));
    w.field(1, "Name", text(&object["roleRef"]["name"]));
    w.line(0, "Subjects:");
    w.line(1, "Kind\tName\tNamespace");
    w.line(1, "----\t----\t---------");
    for subject in items(&object["subjects"]) {
        let [kind, name, namespace] = ["kind", "name", "namespace"].map(|field| text(&subject[field]));
        w.line(1, format!("{kind}\t{name}\t{namespace}"));
    }
}

/// How many bytes a field of base64 holds.
fn decoded(value: &Value) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(text(value)).unwrap_or_default()
}

/// A Secret: how much is in it, not what.
pub fn secret(w: &mut Writer, object: &Value, _: &Related, _: Timestamp) {
    metadata::name_and_namespace(w, object);
    metadata::labels_and_annotations(w, object);
    w.line(0, format!("\nType:\t{}", text(&object["type"])));
    w.line(0, "\nData\n====");
    for (name, _) in pairs(&object["data"]) {
        let bytes = decoded(&object["data"][name]);
        if name == "token" && object["type"] == "kubernetes.io/service-account-token" {
            w.field(0, name, String::from_utf8_lossy(&bytes));
        } else {
            w.field(0, name, format!("{} bytes", bytes.len()));
        }
    }
}

/// A ConfigMap.
pub fn config_map(w: &mut Writer, object: &Value, related: &Related, now: Timestamp) {
    metadata::name_and_namespace(w, object);
    metadata::labels_and_annotations(w, object);
    w.line(0, "\nData\n====");
    for (name, value) in pairs(&object["data"]) {
        w.line(0, format!("{name}:\n----"));
        w.line(0, value);
        w.line(0, "");
    }
    w.line(0, "\nBinaryData\n====");
    for (name, _) in pairs(&object["binaryData"]) {
        w.line(0, format!("{name}: {} bytes", decoded(&object["binaryData"][name]).len()));
    }
    w.line(0, "");
    metadata::events(w, related.events(), now);
}

/// What a signing request asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request {
    common_name: String,
    serial_number: String,
    subject: Vec<(&'static str, Vec<String>)>,
    names: Vec<(&'static str, Vec<String>)>,
}

/// The parts of a subject in the order in which they are shown, by their object identifiers.
const PARTS: &[(&str, &str)] = &[
    ("Organization", "2.5.4.10"),
    ("Organizational Unit", "2.5.4.11"),
    ("Country", "2.5.4.6"),
    ("Locality", "2.5.4.7"),
    ("Province", "2.5.4.8"),
    ("StreetAddress", "2.5.4.9"),
    ("PostalCode", "2.5.4.17"),
];

fn request(pem: &[u8]) -> Result<Request, String> {
    let wrong = || "Error parsing CSR: PEM block type must be CERTIFICATE REQUEST".to_owned();
    let (_, block) = x509_parser::pem::parse_x509_pem(pem).map_err(|_| wrong())?;
    if block.label != "CERTIFICATE REQUEST" {
        return Err(wrong());
    }
    let (_, parsed) =
        X509CertificationRequest::from_der(&block.contents).map_err(|error| format!("Error parsing CSR: {error}"))?;
    let subject = &parsed.certification_request_info.subject;
    let values = |oid: &str| -> Vec<String> {
        let attributes = subject.iter_attributes().filter(|attribute| attribute.attr_type().to_id_string() == oid);
        attributes.filter_map(|attribute| attribute.as_str().ok().map(str::to_owned)).collect()
    };
    let mut request = Request {
        common_name: values("2.5.4.3").pop().unwrap_or_default(),
        serial_number: values("2.5.4.5").pop().unwrap_or_default(),
        subject: PARTS.iter().map(|(title, oid)| (*title, values(oid))).collect(),
        names: Vec::new(),
    };
    let (mut dns, mut mail, mut uris, mut addresses) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for extension in parsed.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(name) => dns.push((*name).to_owned()),
                GeneralName::RFC822Name(name) => mail.push((*name).to_owned()),
                GeneralName::URI(name) => uris.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => {
                    let four = <[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from);
                    let any = four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from));
                    addresses.extend(any.ok().map(|address| address.to_string()));
                }
                _ => {}
            }
        }
    }
    request.names = vec![("DNS Names", dns), ("Email Addresses", mail), ("URIs", uris), ("IP Addresses", addresses)];
    Ok(request)
}

/// What is wrong with the text of a signing request, where something is.
pub fn check_signing_request(object: &Value) -> Result<(), String> {
    request(&decoded(&object["spec"]["request"])).map(drop)
}

/// A CertificateSigningRequest.
pub fn signing_request(w: &mut Writer, object: &Value, related: &Related, now: Timestamp) {
    let (meta, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
    let asked = request(&decoded(&spec["request"])).unwrap_or_default();
    metadata::name(w, object);
    w.field(0, "Labels", labels(&meta["labels"]));
    w.field(0, "Annotations", labels(&meta["annotations"]));
    w.field(0, "CreationTimestamp", moment(&meta["creationTimestamp"]));
    w.field(0, "Requesting User", text(&spec["username"]));
    let signer = text(&spec["signerName"]);
    if !signer.is_empty() {
        w.field(0, "Signer", signer);
    }
    if !spec["expirationSeconds"].is_null() {
        w.field(0, "Requested Duration", kobune_kinds::duration::human(int(&spec["expirationSeconds"])));
    }
    let has = |kind: &str| items(&status["conditions"]).iter().any(|condition| condition["type"] == kind);
    let mut words = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (_, true) => "Approved",
        _ => "Pending",
    }
    .to_owned();
    if has("Failed") {
        words.push_str(",Failed");
    }
    if !text(&status["certificate"]).is_empty() {
        words.push_str(",Issued");
    }
    w.field(0, "Status", words);
    w.line(0, "Subject:");
    w.line(0, format!("\tCommon Name:\t{}", asked.common_name));
    w.line(0, format!("\tSerial Number:\t{}", asked.serial_number));
    let listed = |w: &mut Writer, parts: &[(&str, Vec<String>)]| {
        for (title, values) in parts.iter().filter(|(_, values)| !values.is_empty()) {
            w.line(0, format!("\t{title}:\t{}", values.join("\n\t\t")));
        }
    };
    listed(w, &asked.subject);
    if asked.names.iter().any(|(_, values)| !values.is_empty()) {
        w.line(0, "Subject Alternative Names:");
    }
    listed(w, &asked.names);
    metadata::events(w, related.events(), now);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_are_put_together() {
        let rules = json!([
            {"apiGroups": ["", "apps"], "resources": ["pods/log"], "verbs": ["get", "list"]},
            {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["watch", "get"]},
            {"nonResourceURLs": ["/healthz"], "verbs": ["get"]},
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a", "b"], "verbs": ["get"]},
        ]);
        let mut w = Writer::new();
        role(&mut w, &json!({"metadata": {"name": "r"}, "rules": rules}), &Related::default(), Timestamp::UNIX_EPOCH);
        let expected = "Name:         r\nLabels:       <none>\nAnnotations:  <none>\nPolicyRule:\n  \
            Resources      Non-Resource URLs  Resource Names  Verbs\n  \
            ---------      -----------------  --------------  -----\n  \
            pods/log       []                 []              [get list watch]\n  \
            pods.apps/log  []                 []              [get list]\n                 \
            [/healthz]         []              [get]\n  \
            secrets        []                 [a]             [get]\n  \
            secrets        []                 [b]             [get]\n";
        assert_eq!(w.finish(), expected);
    }

    #[test]
    fn signing_requests() {
        let (pem, _) =
            kobune_pki::new_request("me", "us", &[kobune_pki::San::parse("x.y"), kobune_pki::San::parse("10.0.0.1")])
                .unwrap();
        let found = request(pem.as_bytes()).unwrap();
        assert_eq!(found.common_name, "me");
        assert_eq!(found.subject[0], ("Organization", vec!["us".to_owned()]));
        assert_eq!(found.names[0].1, ["x.y"]);
        assert_eq!(found.names[3].1, ["10.0.0.1"]);
        assert!(request(b"no").is_err());
        assert!(check_signing_request(&json!({"spec": {"request": 7}})).is_err());
    }
}
