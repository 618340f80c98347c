//! Spans on the wire: the messages of `opentelemetry.proto.trace.v1` that are needed, and the task that sends them.

use std::time::{Duration, SystemTime};

use kobune_grpc::client::{Client, words};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Ended, Fact, Side};

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// How many spans are sent at once, and how long one waits for others.
const BATCH: usize = 512;
const LINGER: Duration = Duration::from_secs(1);

/// How long the collector may take.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ExportRequest {
    #[prost(message, repeated, tag = "1")]
    pub(super) resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ExportResponse {}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    pub(super) resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    pub(super) scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Resource {
    #[prost(message, repeated, tag = "1")]
    pub(super) attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    pub(super) spans: Vec<Span>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Span {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    pub(super) name: String,
    #[prost(int32, tag = "6")]
    pub(super) kind: i32,
    #[prost(fixed64, tag = "7")]
    pub(super) start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    pub(super) end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    pub(super) attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    pub(super) status: Option<SpanStatus>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SpanStatus {
    #[prost(string, tag = "2")]
    pub(super) message: String,
    #[prost(int32, tag = "3")]
    pub(super) code: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct KeyValue {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(message, optional, tag = "2")]
    pub(super) value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AnyValue {
    #[prost(oneof = "Value", tags = "1, 3")]
    pub(super) value: Option<Value>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Value {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
}

fn attribute(key: &str, fact: Fact) -> KeyValue {
    let value = match fact {
        Fact::Text(text) => Value::Text(text),
        Fact::Number(number) => Value::Number(number),
    };
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

fn nanoseconds(time: SystemTime) -> u64 {
    // A clock before 1970 is a clock that was never set.
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn span(ended: Ended) -> Span {
    Span {
        trace_id: ended.trace.to_vec(),
        span_id: ended.span.to_vec(),
        parent_span_id: ended.parent.map(|parent| parent.to_vec()).unwrap_or_default(),
        name: ended.name,
        kind: match ended.side {
            Side::Internal => 1,
            Side::Server => 2,
            Side::Client => 3,
        },
        start_time_unix_nano: nanoseconds(ended.began),
        end_time_unix_nano: nanoseconds(ended.end),
        attributes: ended.facts.into_iter().map(|(key, fact)| attribute(key, fact)).collect(),
        status: ended.error.map(|message| SpanStatus { message, code: 2 }),
    }
}

/// Sends spans in batches until nobody makes any more. A batch that the collector does not take is lost: traces are for
/// looking at what happens, and old ones in the way of new ones help nobody.
pub(super) async fn send(collector: Client, mut ended: mpsc::Receiver<Ended>) {
    let mut failing = false;
    while let Some(first) = ended.recv().await {
        let end = Instant::now() + LINGER;
        let mut spans = vec![span(first)];
        while spans.len() < BATCH {
            // Dropping the wait loses nothing: a span stays in the queue until it is taken.
            match tokio::time::timeout_at(end, ended.recv()).await {
                Ok(Some(more)) => spans.push(span(more)),
                Ok(None) | Err(_) => break,
            }
        }
        let resource = Resource {
            attributes: vec![
                attribute("service.name", Fact::Text("apiserver".to_owned())),
                attribute("service.version", Fact::Text(env!("CARGO_PKG_VERSION").to_owned())),
            ],
        };
        let request = ExportRequest {
            resource_spans: vec![ResourceSpans { resource: Some(resource), scope_spans: vec![ScopeSpans { spans }] }],
        };
        match collector.call::<_, ExportResponse>(EXPORT, request, PATIENCE).await {
            Ok(_) => failing = false,
            Err(status) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(error = words(&status), "the collector takes no spans");
                }
            }
        }
    }
}
