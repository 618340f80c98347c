//! A request as policies see it.

use std::sync::Arc;

use kobune_kinds::Kind;
use serde_json::Value as Json;

use super::inputs::Subject;
use crate::{
    ApiServer,
    error::{Answer, ApiError},
    webhook::Request,
};

/// The request in each of the versions in which policies mean it, made when it is first needed.
pub(super) struct Subjects<'a> {
    server: &'a ApiServer,
    request: &'a Request<'a>,
    made: Vec<(Arc<Kind>, Subject)>,
}

impl<'a> Subjects<'a> {
    pub(super) fn new(server: &'a ApiServer, request: &'a Request<'a>) -> Self {
        Self { server, request, made: Vec::new() }
    }

    /// The namespace of the request's object.
    pub(super) fn namespace(&self) -> &'a str {
        if self.request.kind.namespaced { self.request.namespace } else { "" }
    }

    /// The request as policies see it that mean `kind`.
    pub(super) async fn get(
        &mut self,
        kind: &Arc<Kind>,
        object: Option<&Json>,
        old: Option<&Json>,
    ) -> Answer<&mut Subject> {
        let known = self.made.iter().position(|(known, _)| Arc::ptr_eq(known, kind));
        let index = match known {
            Some(index) => index,
            None => {
                let subject = self.make(kind, object, old).await?;
                self.made.push((Arc::clone(kind), subject));
                self.made.len() - 1
            }
        };
        Ok(&mut self.made[index].1)
    }

    async fn make(&self, kind: &Arc<Kind>, object: Option<&Json>, old: Option<&Json>) -> Answer<Subject> {
        let namespace = match self.namespace() {
            "" => Json::Null,
            name => {
                let key = kobune_store::Key::new("core/namespaces", "", name);
                let record = self.server.read(&key).await?;
                let record = record.ok_or_else(|| ApiError::not_found_named("", "namespaces", name))?;
                serde_json::from_slice(&record.value).map_err(|error| ApiError::internal(&error))?
            }
        };
        Ok(Subject { namespace, ..self.request.subject(self.server, kind, object, old).await? })
    }
}
