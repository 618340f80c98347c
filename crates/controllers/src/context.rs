//! What every controller gets: the client, the shared caches, the recorder, and a place for its tasks.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{
    Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, ReplicationController, ResourceQuota, Service,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use kobune_scheduler::recorder::Recorder;
use kube::runtime::watcher;
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Config;
use crate::informer::{Store, follow};
use crate::object::{Cached, ObjectKey};
use crate::pod::{Pod, PodInput};
use crate::queue::{PassError, Queue, Revisit, work};

/// The shared caches.
#[derive(Default)]
pub struct Caches {
    pub pods: Arc<Store<Pod>>,
    pub nodes: Arc<Store<Node>>,
    pub namespaces: Arc<Store<Namespace>>,
    pub services: Arc<Store<Service>>,
    pub endpoints: Arc<Store<Endpoints>>,
    pub endpoint_slices: Arc<Store<EndpointSlice>>,
    pub replica_sets: Arc<Store<ReplicaSet>>,
    pub deployments: Arc<Store<Deployment>>,
    pub daemon_sets: Arc<Store<DaemonSet>>,
    pub stateful_sets: Arc<Store<StatefulSet>>,
    pub jobs: Arc<Store<Job>>,
    pub cron_jobs: Arc<Store<CronJob>>,
    pub disruption_budgets: Arc<Store<PodDisruptionBudget>>,
    pub replication_controllers: Arc<Store<ReplicationController>>,
    pub controller_revisions: Arc<Store<ControllerRevision>>,
    pub claims: Arc<Store<PersistentVolumeClaim>>,
    pub volumes: Arc<Store<PersistentVolume>>,
    pub storage_classes: Arc<Store<StorageClass>>,
    pub quotas: Arc<Store<ResourceQuota>>,
}

type TouchHandler = Box<dyn Fn(&str, &str, &str) + Send + Sync>;

/// Tells who wants to know that an object of some kind has changed, without saying how.
#[derive(Default)]
pub struct Touched(RwLock<Vec<TouchHandler>>);

impl Touched {
    /// Calls `handler` with the group, the plural name and the namespace of each object that changes. It must not block.
    pub fn on_touch(&self, handler: impl Fn(&str, &str, &str) + Send + Sync + 'static) {
        self.0.write().push(Box::new(handler));
    }

    /// An object in a namespace has changed.
    pub fn touch(&self, group: &str, plural: &str, namespace: &str) {
        for handler in self.0.read().iter() {
            handler(group, plural, namespace);
        }
    }
}

/// What a controller works with.
pub struct Context {
    /// The API.
    pub client: kube::Client,
    /// What the cluster is like.
    pub config: Config,
    /// The shared caches.
    pub caches: Caches,
    /// Changes of objects of every kind, as the garbage collector sees them.
    pub touched: Touched,
    /// Events; each controller makes its own with `for_component`.
    pub recorder: Recorder,
    /// Cancelled when everything is to stop.
    pub token: CancellationToken,
    /// All tasks of the controllers.
    pub tasks: TaskTracker,
}

impl Context {
    /// Starts a task that ends with the controllers, and says so when it panics.
    pub fn spawn(&self, task: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let token = self.token.clone();
        self.tasks.spawn(async move {
            let inner = tokio::spawn(future);
            let abort = inner.abort_handle();
            // Dropping the join handle leaves the task to the abort below.
            tokio::select! {
                biased;
                () = token.cancelled() => abort.abort(),
                ended = inner => if let Err(error) = ended {
                    tracing::error!(task, error = &error as &dyn std::error::Error, "a task of the controllers ended badly");
                },
            }
        });
    }

    fn follow<K, C>(&self, task: &'static str, store: &Arc<Store<C>>)
    where
        K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
        C: Cached + From<K>,
    {
        self.follow_some::<K, C>(task, watcher::Config::default(), store);
    }

    /// Follows what `settings` select of a kind.
    pub fn follow_some<K, C>(&self, task: &'static str, settings: watcher::Config, store: &Arc<Store<C>>)
    where
        K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
        C: Cached + From<K>,
    {
        self.spawn(task, follow::<K, C>(self.client.clone(), settings, store.clone(), self.token.clone()));
    }

    /// Starts the watches of all shared caches; handlers have to be in place before.
    pub fn follow_all(&self) {
        let caches = &self.caches;
        self.follow::<PodInput, _>("pods", &caches.pods);
        self.follow::<Node, _>("nodes", &caches.nodes);
        self.follow::<Namespace, _>("namespaces", &caches.namespaces);
        self.follow::<Service, _>("services", &caches.services);
        self.follow::<Endpoints, _>("endpoints", &caches.endpoints);
        self.follow::<EndpointSlice, _>("endpointslices", &caches.endpoint_slices);
        self.follow::<ReplicaSet, _>("replicasets", &caches.replica_sets);
        self.follow::<Deployment, _>("deployments", &caches.deployments);
        self.follow::<DaemonSet, _>("daemonsets", &caches.daemon_sets);
        self.follow::<StatefulSet, _>("statefulsets", &caches.stateful_sets);
        self.follow::<Job, _>("jobs", &caches.jobs);
        self.follow::<CronJob, _>("cronjobs", &caches.cron_jobs);
        self.follow::<PodDisruptionBudget, _>("poddisruptionbudgets", &caches.disruption_budgets);
        self.follow::<ReplicationController, _>("replicationcontrollers", &caches.replication_controllers);
        self.follow::<ControllerRevision, _>("controllerrevisions", &caches.controller_revisions);
        self.follow::<PersistentVolumeClaim, _>("persistentvolumeclaims", &caches.claims);
        self.follow::<PersistentVolume, _>("persistentvolumes", &caches.volumes);
        self.follow::<StorageClass, _>("storageclasses", &caches.storage_classes);
        self.follow::<ResourceQuota, _>("resourcequotas", &caches.quotas);
    }

    /// Starts a controller, unless it was left out: waits for `ready`, then runs `pass` over the keys of `queue`.
    pub fn run_controller<P, F>(
        &self,
        name: &'static str,
        queue: Arc<Queue>,
        ready: impl Future<Output = ()> + Send + 'static,
        pass: P,
    ) where
        P: Fn(ObjectKey) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Revisit, PassError>> + Send + 'static,
    {
        if !self.config.controllers.runs(name) {
            queue.close();
            return;
        }
        let (token, workers) = (self.token.clone(), self.config.controllers.workers(name));
        self.spawn(name, async move {
            ready.await;
            work(name, queue, token, workers, pass).await;
        });
    }
}

/// Puts the key of each changed object into `queue`.
pub fn enqueue_changes<C: Cached>(store: &Store<C>, queue: &Arc<Queue>) {
    let queue = queue.clone();
    store.on_change(move |before, after| {
        if let Some(object) = after.or(before) {
            queue.add(object.key());
        }
    });
}

/// Puts the owner of each changed object into `queue`, when the owner is of `kind`; both the owner before and after a change.
pub fn enqueue_owners<C: Cached>(store: &Store<C>, kind: &'static str, queue: &Arc<Queue>) {
    let queue = queue.clone();
    store.on_change(move |before, after| {
        for object in [before, after].into_iter().flatten() {
            if let Some(owner) = object.controller().filter(|owner| owner.kind == kind) {
                queue.add(ObjectKey::new(&object.key().namespace, &owner.name));
            }
        }
    });
}

/// Puts the objects that select an orphaned pod into `queue`: any of them may adopt it.
pub fn enqueue_selecting<C: Cached>(
    pods: &Store<Pod>,
    owners: &Arc<Store<C>>,
    queue: &Arc<Queue>,
    selects: fn(&C, &Pod) -> bool,
) {
    let (owners, queue) = (owners.clone(), queue.clone());
    pods.on_change(move |_, after| {
        let Some(pod) = after.filter(|pod| pod.controller().is_none() && !pod.deleting()) else { return };
        for owner in owners.in_namespace(pod.namespace()) {
            if selects(&owner, pod) {
                queue.add(owner.key());
            }
        }
    });
}
