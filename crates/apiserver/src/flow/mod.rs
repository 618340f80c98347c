//! Priority and fairness: which requests may be worked on at once, and whose turn it is when there are too many.
//!
//! FlowSchemas sort requests into flows ([`classify`]), PriorityLevelConfigurations share the server's places among levels,
//! and within a level each flow gets its turn ([`queue`]): one flooding client makes its own flow wait and no other. Both
//! kinds are read once a change. A request that finds a place pays two short locks and a few comparisons.

mod classify;
mod queue;

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue};
use kobune_store::{Record, Store, StoreError};
use parking_lot::Mutex;
use serde_json::Value;

use crate::{
    cached::Cached,
    metrics::{Labels, Writer},
    security::User,
};
use classify::Schema;
use queue::{LevelConfig, Places};

pub(crate) use classify::Asked;
pub(crate) use queue::{Place, Refused};

/// How long a request may wait for its place: a quarter of the longest time of a request, as upstream.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// The objects that a list looks at for each seat that it takes, as upstream (KEP-1040).
const OBJECTS_A_SEAT: usize = 100;

/// The most seats that a list takes, as upstream.
const WIDEST: usize = 10;

/// The seats of a list that looks at so many objects.
pub(crate) fn list_seats(objects: usize) -> u64 {
    objects.div_ceil(OBJECTS_A_SEAT).clamp(1, WIDEST) as u64
}

/// A request's flow.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    /// The uid of its FlowSchema.
    schema: HeaderValue,
    /// The uid of its PriorityLevelConfiguration.
    level_uid: HeaderValue,
    level: String,
    hash: u64,
}

impl Flow {
    /// Tells the client what its request counts as.
    pub(crate) fn mark(&self, headers: &mut HeaderMap) {
        headers.insert("x-kubernetes-pf-flowschema-uid", self.schema.clone());
        headers.insert("x-kubernetes-pf-prioritylevel-uid", self.level_uid.clone());
    }
}

/// The flows and places of a server.
pub(crate) struct FlowControl {
    schemas: Cached<Vec<Schema>>,
    levels: Cached<Vec<LevelConfig>>,
    places: Arc<Places>,
    /// The configuration that `places` has.
    current: Mutex<Option<Arc<Vec<LevelConfig>>>>,
}

impl FlowControl {
    /// `total` is the number of requests that may be worked on at once; 0 is any number.
    pub(crate) fn new(total: usize) -> Self {
        Self {
            schemas: Cached::new("flowcontrol.apiserver.k8s.io/flowschemas", read_schemas),
            levels: Cached::new("flowcontrol.apiserver.k8s.io/prioritylevelconfigurations", read_levels),
            places: Arc::new(Places::new(total)),
            current: Mutex::default(),
        }
    }

    /// The flow of a request; `None` when no FlowSchema wants it.
    pub(crate) async fn classify(
        &self,
        store: &dyn Store,
        user: &User,
        asked: &Asked<'_>,
    ) -> Result<Option<Flow>, StoreError> {
        let levels = self.levels.get(store).await?;
        {
            let mut current = self.current.lock();
            if !current.as_ref().is_some_and(|known| Arc::ptr_eq(known, &levels)) {
                self.places.configure(&levels);
                *current = Some(Arc::clone(&levels));
            }
        }
        let schemas = self.schemas.get(store).await?;
        let found = schemas.iter().filter(|schema| schema.matches(user, asked)).find_map(|schema| {
            // A schema that names a level that is not there sorts nothing.
            levels.iter().find(|level| level.name == schema.level).map(|level| (schema, level))
        });
        Ok(found.map(|(schema, level)| Flow {
            schema: schema.uid.clone(),
            level_uid: level.uid.clone(),
            level: level.name.clone(),
            hash: schema.flow_hash(user, asked),
        }))
    }

    /// A place for a request of a flow that takes so many seats; waits for it where the level lets requests wait.
    pub(crate) async fn place(&self, flow: &Flow, seats: u64) -> Result<Place, Refused> {
        self.places.take(&flow.level, flow.hash, seats, LONGEST_WAIT).await
    }

    /// Adds the lines of `/metrics`.
    pub(crate) fn write(&self, out: &mut Writer) {
        let levels = self.places.counts();
        let mut family = |name: &str, kind: &str, help: &str, value: fn(&queue::Counts) -> u64| {
            let name = format!("apiserver_flowcontrol_{name}");
            out.family(&name, kind, help);
            for level in &levels {
                out.value(&name, &Labels::new().with("priority_level", &level.name), value(level));
            }
        };
        family("nominal_limit_seats", "gauge", "Nominal number of execution seats of each level.", |level| {
            level.nominal
        });
        family("current_executing_seats", "gauge", "Seats in use of each level.", |level| level.used);
        family("current_inqueue_requests", "gauge", "Number of requests that wait in each level.", |level| {
            level.waiting
        });
        family("dispatched_requests_total", "counter", "Number of requests that got a seat.", |level| level.dispatched);
        let name = "apiserver_flowcontrol_rejected_requests_total";
        out.family(name, "counter", "Number of requests that were turned away, by level and reason.");
        for level in &levels {
            for (reason, count) in [
                ("concurrency-limit", level.refused[0]),
                ("queue-full", level.refused[1]),
                ("time-out", level.refused[2]),
            ] {
                let labels = Labels::new().with("priority_level", &level.name).with("reason", reason);
                out.value(name, &labels, count);
            }
        }
    }
}

fn objects<T>(records: &[Record], read: impl Fn(&Value) -> Option<T>) -> Vec<T> {
    let parsed = records.iter().filter_map(|record| match serde_json::from_slice::<Value>(&record.value) {
        Ok(object) => Some(object),
        Err(error) => {
            tracing::error!(key = %record.key, %error, "a stored object of flow control is unreadable");
            None
        }
    });
    parsed.filter_map(|object| read(&object)).collect()
}

fn read_schemas(records: &[Record]) -> Vec<Schema> {
    let mut schemas = objects(records, Schema::of);
    schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
    schemas
}

fn read_levels(records: &[Record]) -> Vec<LevelConfig> {
    objects(records, LevelConfig::of)
}
