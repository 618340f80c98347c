//! One request about objects, after its path, query and user are known.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::HeaderMap;
use jiff::Timestamp;
use kobune_kinds::{FieldValidation, Kind};
use kobune_store::Key;

use crate::{
    accept::Accept, audit::Trail, error::Answer, options::WriteOptions, path::Target, query::Query, security::User,
};

/// How long a request may take before it is given up: upstream's bound for everything but watches and connections.
const TIMEOUT: Duration = Duration::from_secs(34);

/// A request about objects of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// Who asks.
    pub user: Arc<User>,
    /// What the path names.
    pub target: Target,
    /// The kind of the path's resource.
    pub kind: Arc<Kind>,
    /// The query's parameters.
    pub query: Query,
    /// What the client accepts.
    pub accept: Accept,
    /// The name under which fields are tracked.
    pub manager: String,
    /// Whether nothing is to be kept.
    pub dry_run: bool,
    /// What happens on unknown fields.
    pub validation: FieldValidation,
    /// The `Content-Type` of the body.
    pub content_type: String,
    /// When those who wait for others on behalf of the request give up.
    pub deadline: Instant,
    /// Its audit trail, if there is one.
    pub trail: Option<Arc<Trail>>,
}

impl Call {
    /// Reads the parameters that writes share, where the verb is one that writes.
    pub(crate) fn read(
        user: Arc<User>,
        target: Target,
        kind: Arc<Kind>,
        query: Query,
        accept: Accept,
        headers: &HeaderMap,
        verb: Option<&str>,
    ) -> Answer<Self> {
        let mut call = Self {
            user,
            target,
            kind,
            query,
            accept,
            manager: String::new(),
            dry_run: false,
            validation: FieldValidation::Warn,
            content_type: String::new(),
            deadline: Instant::now() + TIMEOUT,
            trail: None,
        };
        let Some(verb) = verb else { return Ok(call) };
        call.content_type = header(headers, "content-type").unwrap_or_default().to_owned();
        let WriteOptions { manager, dry_run, validation } = WriteOptions::read(verb, &call.query, headers)?;
        (call.manager, call.dry_run, call.validation) = (manager, dry_run, validation);
        Ok(call)
    }

    /// The namespace of the path, empty for objects of the cluster.
    pub(crate) fn namespace(&self) -> &str {
        if self.kind.namespaced { self.target.namespace.as_deref().unwrap_or_default() } else { "" }
    }

    /// The name of the path, empty for collections.
    pub(crate) fn name(&self) -> &str {
        self.target.name.as_deref().unwrap_or_default()
    }

    /// The subresource of the path.
    pub(crate) fn subresource(&self) -> Option<&str> {
        self.target.subresource.as_deref()
    }

    /// The store's key of the object that the path names.
    pub(crate) fn key(&self) -> Key {
        key(&self.kind, self.namespace(), self.name())
    }
}

/// The store's key of an object.
pub(crate) fn key(kind: &Kind, namespace: &str, name: &str) -> Key {
    Key { collection: Arc::clone(&kind.collection), namespace: kobune_store::intern(namespace), name: Arc::from(name) }
}

/// A header as text.
pub(crate) fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Now, as objects carry it: whole seconds.
pub(crate) fn now_text() -> String {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}
