//! Following Ingresses, their classes and their certificates, and saying in their status where they are served.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Debug,
    net::IpAddr,
    sync::Arc,
};

use futures::StreamExt;
use k8s_openapi::api::{
    core::v1::Secret,
    networking::v1::{Ingress, IngressClass},
};
use kobune_network::cluster::Key;
use kube::{
    Api, Resource,
    api::{Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use parking_lot::{Mutex, RwLock};
use rustls::sign::CertifiedKey;
use serde_json::json;
use tokio::sync::Notify;

use crate::{
    CLASS, CONTROLLER,
    certificates::{self, Certificates},
    objects::Facts,
    routes::Routes,
};

/// What the proxy works by.
#[derive(Default)]
pub struct Table {
    /// The routes in force.
    pub routes: RwLock<Arc<Routes>>,
    /// The certificates in force.
    pub certificates: Arc<Certificates>,
}

/// The objects as they are now.
#[derive(Default)]
struct Objects {
    ingresses: BTreeMap<Key, Facts>,
    /// The classes that are served here.
    classes: BTreeSet<String>,
    /// Certificates by their Secret.
    pairs: BTreeMap<Key, Arc<CertifiedKey>>,
}

#[derive(Default)]
struct State {
    objects: Mutex<Objects>,
    changed: Notify,
}

/// Keeps `table` current for ever.
pub async fn run(table: Arc<Table>, client: kube::Client, addresses: Vec<IpAddr>) {
    let state = Arc::<State>::default();
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let certificates_only = watcher::Config::default().fields("type=kubernetes.io/tls");
    tokio::join!(
        make_class(&client),
        follow::<Ingress>(client.clone(), watcher::Config::default(), &state, put_ingress, Objects::keep_ingresses),
        follow::<IngressClass>(client.clone(), watcher::Config::default(), &state, put_class, Objects::keep_classes),
        follow::<Secret>(client.clone(), certificates_only, &state, put_secret, Objects::keep_pairs),
        apply(&table, &state, &client, &addresses),
    );
}

/// Makes the class, which Ingresses that name none get. One of this name that is there is somebody's choice.
async fn make_class(client: &kube::Client) {
    let class = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
        "metadata": {"name": CLASS, "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}},
        "spec": {"controller": CONTROLLER}});
    let class: IngressClass = serde_json::from_value(class).expect("it is an IngressClass");
    match Api::all(client.clone()).create(&PostParams::default(), &class).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.is_already_exists() => {}
        Err(error) => tracing::warn!(%error, "the class of Ingresses that are served here was not made"),
    }
}

fn key_of<K: Resource>(object: &K) -> Key {
    let meta = object.meta();
    (Arc::from(meta.namespace.as_deref().unwrap_or_default()), Arc::from(meta.name.as_deref().unwrap_or_default()))
}

fn put_ingress(objects: &mut Objects, key: Key, ingress: Option<Ingress>) {
    match ingress {
        Some(ingress) => drop(objects.ingresses.insert(key, Facts::of(&ingress))),
        None => drop(objects.ingresses.remove(&key)),
    }
}

fn put_class(objects: &mut Objects, key: Key, class: Option<IngressClass>) {
    let ours = class.and_then(|class| class.spec?.controller).is_some_and(|controller| controller == CONTROLLER);
    if ours {
        objects.classes.insert(key.1.to_string());
    } else {
        objects.classes.remove(&*key.1);
    }
}

fn put_secret(objects: &mut Objects, key: Key, secret: Option<Secret>) {
    let parsed = secret.and_then(|secret| {
        let data = secret.data?;
        let part = |name: &str| data.get(name).map(|bytes| bytes.0.as_slice()).unwrap_or_default();
        let (namespace, name) = &key;
        certificates::parse(part("tls.crt"), part("tls.key"))
            .inspect_err(|error| {
                let secret = format!("{namespace}/{name}");
                tracing::warn!(secret, error = error as &dyn std::error::Error, "this Secret is no certificate");
            })
            .ok()
    });
    match parsed {
        Some(parsed) => drop(objects.pairs.insert(key, parsed)),
        None => drop(objects.pairs.remove(&key)),
    }
}

impl Objects {
    fn keep_ingresses(&mut self, listed: &BTreeSet<Key>) {
        self.ingresses.retain(|key, _| listed.contains(key));
    }

    fn keep_classes(&mut self, listed: &BTreeSet<Key>) {
        self.classes.retain(|name| listed.iter().any(|(_, listed)| **listed == **name));
    }

    fn keep_pairs(&mut self, listed: &BTreeSet<Key>) {
        self.pairs.retain(|key, _| listed.contains(key));
    }

    /// The Ingresses that are served here, oldest first.
    fn ours(&self) -> Vec<(&Key, &Facts)> {
        let ours = |facts: &Facts| facts.class.as_ref().is_some_and(|class| self.classes.contains(class));
        let mut all: Vec<_> = self.ingresses.iter().filter(|(_, facts)| ours(facts)).collect();
        all.sort_by(|(one, first), (other, second)| (&first.created, one).cmp(&(&second.created, other)));
        all
    }

    fn certificates(&self) -> HashMap<String, Arc<CertifiedKey>> {
        let mut by_host = HashMap::new();
        for ((namespace, _), facts) in self.ours() {
            for (secret, hosts) in &facts.tls {
                let Some(pair) = self.pairs.get(&(Arc::clone(namespace), Arc::clone(secret))) else { continue };
                for host in hosts {
                    let host = host.strip_prefix('*').unwrap_or(host).to_ascii_lowercase();
                    by_host.entry(host).or_insert_with(|| Arc::clone(pair));
                }
            }
        }
        by_host
    }
}

/// Exchanges routes and certificates after each change, and writes the status of Ingresses that lack it.
async fn apply(table: &Table, state: &State, client: &kube::Client, addresses: &[String]) {
    loop {
        // A change that comes while this works leaves a notice.
        state.changed.notified().await;
        let unsaid: Vec<Key> = {
            let objects = state.objects.lock();
            let ours = objects.ours();
            *table.routes.write() = Arc::new(Routes::new(ours.iter().map(|(_, facts)| *facts)));
            table.certificates.set(objects.certificates());
            let lacks = ours.iter().filter(|(_, facts)| facts.addresses != addresses);
            lacks.map(|(key, _)| (*key).clone()).collect()
        };
        for (namespace, name) in unsaid {
            let ingress: Vec<_> = addresses.iter().map(|address| json!({"ip": address})).collect();
            let status = json!({"status": {"loadBalancer": {"ingress": ingress}}});
            let api = Api::<Ingress>::namespaced(client.clone(), &namespace);
            match api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                Err(error) => tracing::warn!(%namespace, %name, %error, "the status of an Ingress was not written"),
            }
        }
    }
}

/// Keeps one kind current for ever. What a new list does not name goes when it is complete.
async fn follow<K>(
    client: kube::Client,
    settings: watcher::Config,
    state: &State,
    put: fn(&mut Objects, Key, Option<K>),
    keep: fn(&mut Objects, &BTreeSet<Key>),
) where
    K: Resource<DynamicType = ()> + Clone + Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let mut events = watcher(Api::<K>::all(client), settings).default_backoff().boxed();
    let mut listed = BTreeSet::new();
    while let Some(event) = events.next().await {
        match event {
            Err(error) => tracing::warn!(kind = %K::kind(&()), %error, "watch failed, trying again"),
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(object)) => {
                let key = key_of(&object);
                listed.insert(key.clone());
                put(&mut state.objects.lock(), key, Some(object));
            }
            Ok(watcher::Event::InitDone) => {
                keep(&mut state.objects.lock(), &listed);
                state.changed.notify_one();
            }
            Ok(watcher::Event::Apply(object)) => {
                put(&mut state.objects.lock(), key_of(&object), Some(object));
                state.changed.notify_one();
            }
            Ok(watcher::Event::Delete(object)) => {
                put(&mut state.objects.lock(), key_of(&object), None);
                state.changed.notify_one();
            }
        }
    }
}
