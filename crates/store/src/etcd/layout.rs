//! Where objects live in etcd: `<prefix>/<path of the collection>/[<namespace>/]<name>`, as upstream's API server has it,
//! so that tools which know `/registry` find their way.

use std::collections::HashMap;

use bytes::Bytes;

use crate::object::Key;

/// How keys of the store and of etcd translate into each other.
pub(super) struct Layout {
    prefix: String,
    paths: HashMap<String, String>,
    collections: HashMap<String, String>,
}

impl Layout {
    /// `paths` are collections with a path of their own. Any other collection must have a group with a dot in it, as
    /// those of custom resources do, and its path is its own name.
    pub(super) fn new(prefix: &str, paths: &[(String, String)]) -> Layout {
        Layout {
            prefix: format!("/{}/", prefix.trim_matches('/')),
            paths: paths.iter().cloned().collect(),
            collections: paths.iter().map(|(collection, path)| (path.clone(), collection.clone())).collect(),
        }
    }

    /// The first key and the one behind the last.
    pub(super) fn everything(&self) -> (Bytes, Bytes) {
        behind(self.prefix.clone())
    }

    /// The first key of a collection and the one behind its last.
    pub(super) fn collection(&self, collection: &str) -> (Bytes, Bytes) {
        behind(format!("{}{}/", self.prefix, self.path_of(collection)))
    }

    /// A key of the store's own.
    pub(super) fn own(&self, name: &str) -> Bytes {
        Bytes::from(format!("{}kobune/{name}", self.prefix))
    }

    fn path_of<'a>(&'a self, collection: &'a str) -> &'a str {
        self.paths.get(collection).map_or(collection, String::as_str)
    }

    /// etcd's key of an object.
    pub(super) fn path(&self, key: &Key) -> Bytes {
        let collection = self.path_of(&key.collection);
        let separator = if key.namespace.is_empty() { "" } else { "/" };
        Bytes::from(format!("{}{collection}/{}{separator}{}", self.prefix, key.namespace, key.name))
    }

    /// The object that lives at a key of etcd; `None` for what kobune did not put there.
    pub(super) fn key(&self, path: &[u8]) -> Option<Key> {
        let rest = std::str::from_utf8(path).ok()?.strip_prefix(self.prefix.as_str())?;
        let (first, after_first) = rest.split_once('/')?;
        let two = after_first.find('/').map(|end| (&rest[..first.len() + 1 + end], &after_first[end + 1..]));
        let known = |(path, rest): (&str, _)| Some((self.collections.get(path)?.as_str(), rest));
        let (collection, place) = two
            .and_then(known)
            .or_else(|| known((first, after_first)))
            .or_else(|| two.filter(|_| first.contains('.')))?;
        let (namespace, name) = place.split_once('/').unwrap_or(("", place));
        (!name.is_empty() && !name.contains('/')).then(|| Key::new(collection, namespace, name))
    }
}

/// The range of all keys with a prefix that ends with a slash: the character behind a slash is a zero.
fn behind(prefix: String) -> (Bytes, Bytes) {
    let mut end = prefix.clone().into_bytes();
    end.pop();
    end.push(b'/' + 1);
    (prefix.into(), end.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        let paths = [
            ("core/pods", "pods"),
            ("core/services", "services/specs"),
            ("core/nodes", "minions"),
            ("apps/deployments", "deployments"),
            ("apiextensions.k8s.io/customresourcedefinitions", "apiextensions.k8s.io/customresourcedefinitions"),
        ];
        Layout::new("/registry", &paths.map(|(collection, path)| (collection.to_owned(), path.to_owned())))
    }

    #[test]
    fn keys_go_there_and_back() {
        let check = |key: Key, path: &str| {
            assert_eq!(layout().path(&key), path);
            assert_eq!(layout().key(path.as_bytes()), Some(key));
        };
        check(Key::new("core/pods", "default", "web"), "/registry/pods/default/web");
        check(Key::new("core/services", "default", "web"), "/registry/services/specs/default/web");
        check(Key::new("core/nodes", "", "one"), "/registry/minions/one");
        check(Key::new("apps/deployments", "a", "b"), "/registry/deployments/a/b");
        check(Key::new("example.com/widgets", "a", "b"), "/registry/example.com/widgets/a/b");
        check(Key::new("example.com/widgets", "", "b"), "/registry/example.com/widgets/b");
        check(
            Key::new("apiextensions.k8s.io/customresourcedefinitions", "", "widgets.example.com"),
            "/registry/apiextensions.k8s.io/customresourcedefinitions/widgets.example.com",
        );
    }

    #[test]
    fn what_is_foreign_is_left_alone() {
        for path in ["/other/pods/a/b", "/registry/pods/", "/registry/unknown/a/b", "/registry/pods/a/b/c", "/registry"]
        {
            assert_eq!(layout().key(path.as_bytes()), None, "{path}");
        }
        assert_eq!(layout().key(b"/registry/pods/\xff"), None);
        assert_eq!(layout().key(&layout().own("sync")), None);
    }

    #[test]
    fn ranges_end_behind_their_last_key() {
        let (start, end) = layout().collection("core/pods");
        assert_eq!((&start[..], &end[..]), (&b"/registry/pods/"[..], &b"/registry/pods0"[..]));
        assert_eq!(layout().everything().1, "/registry0");
    }
}
