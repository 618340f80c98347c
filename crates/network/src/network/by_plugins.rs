//! Attaching by CNI plug-ins: the namespace is made here, all in it and everything that leads to it by them.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{Attachment, Network, NetworkError, Record, Step, Wanted, blocking};
use crate::{
    cni::{self, Plugins},
    namespace,
};

/// A network that says that it is not ready is asked again after this long, as often as the kubelet asks its runtime.
const ASK_AGAIN: Duration = Duration::from_secs(5);

impl Network {
    /// As [`Network::attach_as`]; the caller holds the pod's lock.
    pub(super) async fn attach_by(
        self: &Arc<Self>,
        plugins: &Plugins,
        uid: &str,
        wanted: Wanted,
    ) -> Result<Attachment, NetworkError> {
        if !cni::is_id(uid) {
            return Err(NetworkError::Uid { uid: uid.to_owned() });
        }
        let path = self.config.namespaces().join(uid);
        let existing = self.state.lock().pods.get(uid).cloned();
        if let Some(record) = existing {
            if let Err(error) = plugins.check(uid, &path).await {
                tracing::warn!(uid, error = %cni::chain(&error), "a network plug-in says that a pod is not as it was attached");
            }
            return Ok(self.attachment(uid, &record));
        }
        let here = path.clone();
        blocking(move || {
            // Whatever is there belongs to no record: an attach that a kill interrupted.
            namespace::remove(&here).map_err(Step::RemoveNamespace.failed())?;
            namespace::create_apart(&here, wanted.users)
        })
        .await?;
        let added = plugins.add(uid, &path, &wanted.told, &wanted.host_ports).await;
        let result = match added {
            Ok(added) => {
                let record =
                    Record { link: String::new(), ips: added.ips, mac: added.mac, host_ports: Vec::new(), facts: None };
                self.write_record(uid, &record).map(|()| record)
            }
            Err(source) => Err(NetworkError::Plugins { action: "setup", uid: uid.to_owned(), source }),
        };
        match result {
            Ok(record) => {
                let attachment = self.attachment(uid, &record);
                self.state.lock().pods.insert(uid.to_owned(), record);
                self.pods_changed();
                Ok(attachment)
            }
            Err(error) => {
                if let Err(second) = namespace::remove(&path) {
                    tracing::warn!(uid, error = %second, "clearing up after a failed attach did not finish");
                }
                Err(error)
            }
        }
    }

    /// Has plug-ins take back what they gave a pod; the caller holds its lock.
    pub(super) async fn detach_by_plugins(&self, uid: &str) -> Result<(), NetworkError> {
        let Some(plugins) = &self.plugins else { return Ok(()) };
        let path = self.config.namespaces().join(uid);
        let netns = namespace::is_pinned(&path).then_some(&*path);
        let failed = |source| NetworkError::Plugins { action: "destroy", uid: uid.to_owned(), source };
        plugins.del(uid, netns).await.map_err(failed)
    }

    /// Looks anew at which network plug-ins there are and whether they work, and has those of before take back what pods have
    /// left that are no more. Answers after how long to ask again a network that is not ready; otherwise this is to be called
    /// when something in the folder of configurations has changed.
    pub async fn refresh_plugins(self: &Arc<Self>) -> Option<Duration> {
        let plugins = self.plugins.as_ref()?;
        let ask_again = plugins.reload().await;
        match plugins.attached().await {
            Ok(attached) => self.take_back(plugins, attached).await,
            Err(error) => tracing::warn!(error = %cni::chain(&error), "what network plug-ins gave is not known"),
        }
        plugins.collect().await;
        ask_again.then_some(ASK_AGAIN)
    }

    async fn take_back(&self, plugins: &Plugins, attached: BTreeSet<String>) {
        for uid in attached {
            let lock = self.lock(&uid);
            let guard = lock.lock().await;
            // Asked for only now that nobody attaches it.
            if !self.state.lock().pods.contains_key(&uid)
                && let Err(error) = plugins.del(&uid, None).await
            {
                tracing::warn!(uid, error = %cni::chain(&error), "a network plug-in did not take back what a former pod had");
            }
            drop(guard);
            self.unlock(&uid, lock);
        }
    }
}
