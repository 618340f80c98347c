//! Calls to the members of an etcd cluster: one connection a member, made when first needed; a member that does not answer
//! is left for the next one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use crate::error::{Cause, OpenError};

use super::EtcdConfig;
use super::proto::{
    CompactionRequest, CompactionResponse, RangeRequest, RangeResponse, TxnRequest, TxnResponse, WatchCreateRequest,
    WatchKind, WatchRequest, WatchResponse,
};

/// How long one call may take before another member is tried. An election takes about a second.
const CALL: Duration = Duration::from_secs(3);
/// How long calls are tried in all.
const PATIENCE: Duration = Duration::from_secs(12);
/// The pause between tries.
const PAUSE: Duration = Duration::from_millis(50);
/// When a silent connection is asked for a sign of life, and how long that may take.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3));

/// Why a call failed.
#[derive(Clone, Debug)]
pub(super) enum CallError {
    /// No member has answered, or they have no leader. A write may have happened.
    Unavailable(Cause),
    /// The cluster refuses: the answer will not change by asking again.
    Refused(Cause),
    /// The cluster has no room.
    Full(Cause),
    /// The revision that was asked for has been compacted.
    Compacted,
    /// This key holds an object of another Kubernetes.
    Foreign(String),
}

impl CallError {
    pub(super) fn cause(self) -> Cause {
        match self {
            CallError::Unavailable(cause) | CallError::Refused(cause) | CallError::Full(cause) => cause,
            CallError::Compacted => Arc::new(Status::out_of_range("the revision has been compacted")),
            CallError::Foreign(key) => Arc::new(Status::failed_precondition(format!("{key} is not kobune's"))),
        }
    }
}

impl From<Status> for CallError {
    fn from(status: Status) -> CallError {
        match status.code() {
            Code::OutOfRange if status.message().contains("compacted") => CallError::Compacted,
            Code::ResourceExhausted if status.message().contains("space exceeded") => CallError::Full(Arc::new(status)),
            // An overloaded member says so; a message that is too large stays so.
            Code::ResourceExhausted if status.message().contains("too many requests") => {
                CallError::Unavailable(Arc::new(status))
            }
            Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown
            | Code::Internal
            | Code::Aborted => CallError::Unavailable(Arc::new(status)),
            _ => CallError::Refused(Arc::new(status)),
        }
    }
}

/// The members of a cluster.
pub(super) struct Client {
    members: Vec<Grpc<Channel>>,
    /// The member that answered last.
    current: AtomicUsize,
}

impl Client {
    /// Prepares connections; nothing is sent.
    pub(super) fn new(config: &EtcdConfig) -> Result<Client, OpenError> {
        let mut members = Vec::new();
        for url in &config.servers {
            let failed = |source| OpenError::EtcdAddress { url: url.clone(), source };
            let mut endpoint = Endpoint::from_shared(url.clone())
                .map_err(failed)?
                .connect_timeout(CALL)
                .tcp_nodelay(true)
                .keep_alive_while_idle(true)
                .http2_keep_alive_interval(KEEP_ALIVE.0)
                .keep_alive_timeout(KEEP_ALIVE.1);
            if url.starts_with("https:") {
                let mut tls = ClientTlsConfig::new();
                if let Some(ca) = &config.ca_pem {
                    tls = tls.ca_certificate(Certificate::from_pem(ca));
                }
                if let Some((certificate, key)) = &config.identity_pem {
                    tls = tls.identity(Identity::from_pem(certificate, key));
                }
                endpoint = endpoint.tls_config(tls).map_err(failed)?;
            }
            members.push(Grpc::new(endpoint.connect_lazy()).max_decoding_message_size(usize::MAX));
        }
        if members.is_empty() {
            return Err(OpenError::NoEtcd);
        }
        Ok(Client { members, current: AtomicUsize::new(0) })
    }

    fn member(&self) -> (usize, Grpc<Channel>) {
        let current = self.current.load(Ordering::Relaxed) % self.members.len();
        (current, self.members[current].clone())
    }

    /// Leaves a member for the next one, unless somebody else has done so.
    fn leave(&self, member: usize) {
        let next = (member + 1) % self.members.len();
        if self.current.compare_exchange(member, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            tracing::debug!(next, "another member of etcd is asked from now on");
        }
    }

    async fn once<Q, A>(&self, path: &'static str, request: Q) -> Result<A, CallError>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let (member, mut grpc) = self.member();
        let call = async {
            grpc.ready().await.map_err(|error| Status::unavailable(describe(&error)))?;
            let answer = grpc
                .unary(tonic::Request::new(request), PathAndQuery::from_static(path), ProstCodec::<Q, A>::default())
                .await?;
            Ok(answer.into_inner())
        };
        let answer = match tokio::time::timeout(CALL, call).await {
            Ok(answer) => answer,
            Err(_) => Err(Status::deadline_exceeded("no answer in time")),
        };
        answer.map_err(CallError::from).inspect_err(|error| {
            if matches!(error, CallError::Unavailable(_)) {
                self.leave(member);
            }
        })
    }

    /// Asks until a member answers, for a while. Only for what may be asked twice.
    async fn call<Q, A>(&self, path: &'static str, request: Q) -> Result<A, CallError>
    where
        Q: prost::Message + Clone + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let started = std::time::Instant::now();
        loop {
            match self.once(path, request.clone()).await {
                Err(CallError::Unavailable(_)) if started.elapsed() < PATIENCE => tokio::time::sleep(PAUSE).await,
                answer => return answer,
            }
        }
    }

    /// Reads; the answer reflects every write that was acknowledged by any member before.
    pub(super) async fn range(&self, request: RangeRequest) -> Result<RangeResponse, CallError> {
        self.call("/etcdserverpb.KV/Range", request).await
    }

    /// Tries a transaction at one member. [`CallError::Unavailable`] leaves open whether it happened.
    pub(super) async fn txn_once(&self, request: TxnRequest) -> Result<TxnResponse, CallError> {
        self.once("/etcdserverpb.KV/Txn", request).await
    }

    /// Waits a moment before a transaction is tried again; `false` when that has gone on for too long.
    pub(super) async fn pause(&self, started: std::time::Instant) -> bool {
        tokio::time::sleep(PAUSE).await;
        started.elapsed() < PATIENCE
    }

    /// Forgets what was before a revision.
    pub(super) async fn compact(&self, revision: i64) -> Result<(), CallError> {
        let request = CompactionRequest { revision };
        self.once::<_, CompactionResponse>("/etcdserverpb.KV/Compact", request).await.map(drop)
    }

    /// The events of a range from a revision on.
    pub(super) async fn watch(
        &self,
        (key, range_end): (Bytes, Bytes),
        start_revision: i64,
    ) -> Result<impl Stream<Item = Result<WatchResponse, CallError>> + Unpin + use<>, CallError> {
        let (member, mut grpc) = self.member();
        let create = WatchCreateRequest { key, range_end, start_revision, fragment: true };
        let create = WatchRequest { request: Some(WatchKind::Create(create)) };
        // The request stream stays open, or etcd would end the answers too.
        let requests = futures::stream::iter([create]).chain(futures::stream::pending());
        let mut request = tonic::Request::new(requests);
        // A member that has lost its leader ends the watch instead of staying silent.
        request.metadata_mut().insert("hasleader", tonic::metadata::MetadataValue::from_static("true"));
        let call = async {
            grpc.ready().await.map_err(|error| Status::unavailable(describe(&error)))?;
            let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
            let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
            grpc.streaming(request, path, codec).await
        };
        let answer = match tokio::time::timeout(CALL, call).await {
            Ok(answer) => answer,
            Err(_) => Err(Status::deadline_exceeded("no answer in time")),
        };
        match answer {
            Ok(answer) => Ok(answer.into_inner().map(|part| part.map_err(CallError::from))),
            Err(status) => {
                self.leave(member);
                Err(status.into())
            }
        }
    }

    /// Leaves the current member, whose watch has broken.
    pub(super) fn leave_current(&self) {
        self.leave(self.member().0);
    }
}

/// An error with its causes, which tonic's transport errors hide behind `transport error`.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
