//! What is not about objects: discovery, OpenAPI, version and the keys of tokens; health and metrics have their own files.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use kobune_kinds::{discovery, openapi};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    ApiServer, Body,
    accept::{self, Accept, Form, Offer},
    aggregation::{
        Registry,
        discovery::{self as aggregation, AddedV2},
    },
    body::RequestBody,
    call::header as text_header,
    compress,
    error::{Answer, ApiError},
    path::Route,
    query::Query,
    respond,
};

/// The Kubernetes level that clients see.
const MINOR: &str = "36";

/// The version that clients see. Its build part says who answers.
const GIT_VERSION: &str = concat!("v1.36.0+kobune.", env!("CARGO_PKG_VERSION"));

/// What clients call gnostic's protobuf, and what it is called in answers: the `@` is not allowed there.
const GNOSTIC: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
];

/// OpenAPI documents, built once and kept compressed.
#[derive(Default)]
pub(crate) struct Documents(Mutex<Kept>);

/// The documents that have been asked for since their kinds last changed.
#[derive(Default)]
struct Kept {
    documents: HashMap<String, Arc<Document>>,
    /// How often kinds have changed: what was begun before is not kept.
    changes: u64,
    /// What stands for that which other servers add.
    added: Option<[u8; 32]>,
}

/// One document.
struct Document {
    compressed: Bytes,
    tag: String,
}

impl Documents {
    /// Forgets the documents of groups, and the one that shows all groups.
    pub(crate) fn forget(&self, groups: &BTreeSet<Box<str>>) {
        let mut kept = self.0.lock();
        kept.changes += 1;
        kept.documents.retain(|path, _| {
            let group = path.strip_prefix("apis/").and_then(|path| path.split('/').next());
            group.is_some_and(|group| !groups.contains(group)) || path.starts_with("api/")
        });
    }

    /// Forgets the document of all groups when what other servers add to it is no longer what this stands for.
    fn added(&self, fingerprint: [u8; 32]) {
        let mut kept = self.0.lock();
        if kept.added != Some(fingerprint) {
            kept.added = Some(fingerprint);
            kept.changes += 1;
            kept.documents.retain(|path, _| path.contains('/'));
        }
    }

    /// The document of a path, made by `build` the first time.
    fn get(&self, path: &str, build: impl FnOnce() -> Option<Value>) -> Answer<Option<Arc<Document>>> {
        self.get_bytes(path, || build().map(|value| value.to_string().into_bytes()))
    }

    /// The same for a document that is not JSON.
    fn get_bytes(&self, path: &str, build: impl FnOnce() -> Option<Vec<u8>>) -> Answer<Option<Arc<Document>>> {
        let changes = {
            let kept = self.0.lock();
            if let Some(found) = kept.documents.get(path) {
                return Ok(Some(Arc::clone(found)));
            }
            kept.changes
        };
        let Some(bytes) = build() else { return Ok(None) };
        let compressed = compress::whole(&bytes).map_err(|error| ApiError::internal(&error))?;
        let document = Arc::new(Document { compressed: Bytes::from(compressed), tag: tag(&bytes) });
        let mut kept = self.0.lock();
        if kept.changes == changes {
            kept.documents.insert(path.to_owned(), Arc::clone(&document));
        }
        Ok(Some(document))
    }
}

fn tag(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    let mut text = String::with_capacity(66);
    text.push('"');
    for byte in digest {
        text.push_str(&format!("{byte:02X}"));
    }
    text.push('"');
    text
}

impl ApiServer {
    /// Answers everything that is not about objects.
    pub(crate) fn document(
        &self,
        route: &Route,
        query: &Query,
        request: &Request<RequestBody>,
        registry: &Registry,
    ) -> Answer<Response<Body>> {
        // Upstream's discovery knows GET alone; what is registered beside it takes HEAD as well.
        let discovery = matches!(
            route,
            Route::Version | Route::CoreVersions | Route::Groups | Route::Group(_) | Route::Resources { .. }
        );
        let head = *request.method() == Method::HEAD && !discovery;
        if *request.method() != Method::GET && !head {
            return Err(if *route == Route::Unknown {
                ApiError::no_such_path()
            } else {
                ApiError::method_not_allowed()
            });
        }
        match route {
            // These ask the store and are answered before.
            Route::Health { .. } | Route::Metrics | Route::HealthMetrics => Err(ApiError::no_such_path()),
            Route::Version => self.plain(&version(), request),
            Route::OpenApiV2 => self.open_api_v2(request, registry),
            Route::OpenApiV3Index => {
                let mut index = openapi::v3_index(&self.catalogue.load());
                aggregation::add_open_api(&mut index, registry, &self.aggregation);
                self.plain(&index, request)
            }
            Route::OpenApiV3(path) => self.open_api_v3(path, query, request),
            Route::OpenIdConfiguration => {
                let address = format!("https://{}:{}", self.config.advertise_address, self.config.port);
                self.plain(&self.security.openid_configuration(&address), request)
            }
            Route::KeySet => {
                let mut response = self.plain(&self.security.key_set(), request)?;
                response
                    .headers_mut()
                    .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
                Ok(response)
            }
            Route::CoreVersions => self.discovery(request, true, registry, || {
                let mut versions = discovery::api_versions(&self.catalogue.load());
                let address = format!("{}:{}", self.config.advertise_address, self.config.port);
                versions["serverAddressByClientCIDRs"] = json!([{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]);
                versions
            }),
            Route::Groups => self.discovery(request, false, registry, || {
                let mut groups = discovery::api_group_list(&self.catalogue.load());
                aggregation::add_groups(&mut groups, registry);
                groups
            }),
            Route::Group(group) => {
                let found = aggregation::group(discovery::api_group(&self.catalogue.load(), group), group, registry);
                self.typed(&found.ok_or_else(ApiError::no_such_path)?, request)
            }
            Route::Resources { group, version } => {
                let name = if group.is_empty() { version.clone() } else { format!("{group}/{version}") };
                self.typed(
                    &discovery::api_resource_list(&self.catalogue.load(), &name).ok_or_else(ApiError::no_such_path)?,
                    request,
                )
            }
            Route::Index => self.plain(&self.index(), request),
            Route::Resource(_) | Route::Unknown => Err(ApiError::no_such_path()),
        }
    }

    /// A document that is an object of the API, in the form that the client asks for.
    fn typed(&self, value: &Value, request: &Request<RequestBody>) -> Answer<Response<Body>> {
        respond::value(StatusCode::OK, value, negotiate(request, Offer::DOCUMENT)?)
    }

    /// A document that is no object of the API. It is JSON whatever the client asks for: client-go asks for the version
    /// with the media type of all its requests and reads the answer as JSON.
    fn plain(&self, value: &Value, request: &Request<RequestBody>) -> Answer<Response<Body>> {
        let json = Offer { protobuf: false, ..Offer::DOCUMENT };
        respond::value(StatusCode::OK, value, negotiate(request, json).unwrap_or(Accept::JSON))
    }

    /// `/api` and `/apis`: the aggregated form for clients that ask for it, the old one for others.
    fn discovery(
        &self,
        request: &Request<RequestBody>,
        core: bool,
        registry: &Registry,
        old: impl FnOnce() -> Value,
    ) -> Answer<Response<Body>> {
        let accept = negotiate(request, Offer { discovery: true, ..Offer::DOCUMENT })?;
        let value = if accept.form == Form::AggregatedDiscovery {
            let mut list = discovery::aggregated_v2(&self.catalogue.load(), core);
            if !core && !registry.is_local() {
                aggregation::add_aggregated(&mut list, registry, &self.aggregation);
            }
            list
        } else {
            old()
        };
        if accept.form != Form::AggregatedDiscovery {
            let mut response = respond::value(StatusCode::OK, &value, accept)?;
            response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
            return Ok(response);
        }
        let tag = tag(value.to_string().as_bytes());
        let mut response =
            if matches_tag(request, &tag) { not_modified() } else { respond::value(StatusCode::OK, &value, accept)? };
        set(&mut response, header::ETAG, &tag);
        set(&mut response, header::CACHE_CONTROL, "public");
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
        Ok(response)
    }

    fn open_api_v2(&self, request: &Request<RequestBody>, registry: &Registry) -> Answer<Response<Body>> {
        let added = AddedV2::of(registry, &self.aggregation);
        self.documents.added(added.fingerprint());
        let build = || {
            let mut document = openapi::v2_document(&self.catalogue.load());
            added.join(&mut document);
            document
        };
        let asked = text_header(request.headers(), "accept").and_then(|header| header.split(',').next());
        if asked.is_some_and(|first| GNOSTIC.contains(&accept::media_type(first))) {
            let document = self
                .documents
                .get_bytes("v2.pb", || Some(openapi::v2_protobuf(&build())))?
                .ok_or_else(ApiError::no_such_path)?;
            let mut response = send(&document, request)?;
            set(&mut response, header::CONTENT_TYPE, GNOSTIC[1]);
            return Ok(response);
        }
        let accept = negotiate(request, Offer::default())?;
        let document = self.documents.get("v2", || Some(build()))?.ok_or_else(ApiError::no_such_path)?;
        if accept.encoding == accept::Encoding::Yaml {
            return Err(ApiError::not_acceptable(Offer::default()));
        }
        send(&document, request)
    }

    fn open_api_v3(&self, path: &str, query: &Query, request: &Request<RequestBody>) -> Answer<Response<Body>> {
        negotiate(request, Offer::default())?;
        let document = self
            .documents
            .get(path, || openapi::v3_document(&self.catalogue.load(), path))?
            .ok_or_else(ApiError::no_such_path)?;
        let mut response = send(&document, request)?;
        if query.has("hash") {
            // The address has the content's hash in it, so the content never changes.
            set(&mut response, header::CACHE_CONTROL, "public, immutable");
            set(&mut response, header::EXPIRES, "Fri, 01 Jan 2100 00:00:00 GMT");
        }
        Ok(response)
    }

    /// `/`: the paths that there are.
    fn index(&self) -> Value {
        let mut paths: Vec<String> = ["/.well-known/openid-configuration", "/api", "/api/v1", "/apis", "/apis/"]
            .into_iter()
            .map(str::to_owned)
            .collect();
        for (group, versions) in discovery::groups(&self.catalogue.load()) {
            if !group.is_empty() {
                paths.push(format!("/apis/{group}"));
                paths.extend(versions.iter().map(|version| format!("/apis/{group}/{version}")));
            }
        }
        paths.extend(
            [
                "/healthz",
                "/livez",
                "/metrics",
                "/metrics/slis",
                "/openapi/v2",
                "/openapi/v3",
                "/openid/v1/jwks",
                "/readyz",
                "/version",
            ]
            .map(str::to_owned),
        );
        json!({"paths": paths})
    }
}

/// `/version`.
pub(crate) fn version() -> Value {
    json!({
        "major": "1", "minor": MINOR, "emulationMajor": "1", "emulationMinor": MINOR, "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35", "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "rust", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }),
    })
}

/// The encoding of a document.
pub(crate) fn negotiate(request: &Request<RequestBody>, offer: Offer) -> Answer<Accept> {
    let headers = request.headers();
    let mut accept =
        accept::negotiate(text_header(headers, "accept"), offer).ok_or_else(|| ApiError::not_acceptable(offer))?;
    let pretty = Query::parse(request.uri().query()).maybe_flag("pretty");
    accept.pretty = accept::wants_pretty(pretty, text_header(headers, "user-agent"));
    Ok(accept)
}

pub(crate) fn text(code: StatusCode, content: String, kind: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::full(content));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn set(response: &mut Response<Body>, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

fn matches_tag(request: &Request<RequestBody>, tag: &str) -> bool {
    text_header(request.headers(), "if-none-match")
        .is_some_and(|tags| tags.split(',').any(|known| known.trim().trim_start_matches("W/") == tag))
}

fn not_modified() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response
}

/// Sends a document, compressed as it is kept where the client takes that.
fn send(document: &Document, request: &Request<RequestBody>) -> Answer<Response<Body>> {
    if matches_tag(request, &document.tag) {
        let mut response = not_modified();
        set(&mut response, header::ETAG, &document.tag);
        return Ok(response);
    }
    let mut response = if compress::is_accepted(request.headers()) {
        let mut response = respond::json_body(StatusCode::OK, Body::full(document.compressed.clone()));
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response
    } else {
        let expanded = compress::expanded(&document.compressed).map_err(|error| ApiError::internal(&error))?;
        respond::json_body(StatusCode::OK, Body::full(expanded))
    };
    set(&mut response, header::ETAG, &document.tag);
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding, Accept"));
    Ok(response)
}
