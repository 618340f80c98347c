//! A few bits that say which labels an object may have.
//!
//! A list by labels looks at every object of a collection, and most of the time goes into fetching objects from memory
//! only to see that they do not match. The bits stand beside the reference to the object, so most are ruled out unseen.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::object::Facets;

/// Which labels an object may have, or which ones a selector asks for. What is not among an object's bits, the object
/// does not have; what is among them has to be looked up.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelMask(u64);

/// The bit of a hash's low end.
fn bit(hash: u64) -> u64 {
    1 << (hash & 63)
}

fn hash(parts: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    hasher.finish()
}

impl LabelMask {
    /// The labels of an object.
    pub(crate) fn of(facets: &Facets) -> LabelMask {
        facets.labels.iter().fold(LabelMask::default(), |mask, (key, value)| mask.with(key).with_pair(key, value))
    }

    /// Adds a label of any value.
    #[must_use]
    pub fn with(self, key: &str) -> LabelMask {
        LabelMask(self.0 | bit(hash(key)))
    }

    /// Adds a label with its value.
    #[must_use]
    pub fn with_pair(self, key: &str, value: &str) -> LabelMask {
        let hash = hash((key, value));
        LabelMask(self.0 | bit(hash) | bit(hash >> 6))
    }

    /// Whether an object with these bits may have all that the other asks for.
    pub(crate) fn may_have(self, wanted: LabelMask) -> bool {
        self.0 & wanted.0 == wanted.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_never_ruled_out() {
        let facets = Facets::new([("app", "web"), ("tier", "front")], []);
        let mask = LabelMask::of(&facets);
        let any = LabelMask::default();
        for wanted in [any, any.with("app"), any.with_pair("tier", "front"), any.with("tier").with_pair("app", "web")] {
            assert!(mask.may_have(wanted), "{wanted:?}");
        }
        assert!(!LabelMask::of(&Facets::default()).may_have(any.with("app")));
    }

    #[test]
    fn most_of_what_is_not_there_is_ruled_out() {
        let mask = LabelMask::of(&Facets::new([("app", "web"), ("tier", "front"), ("shard", "s7")], []));
        let passed =
            (0..1000).filter(|n| mask.may_have(LabelMask::default().with_pair("shard", &format!("x{n}")))).count();
        assert!(passed < 100, "{passed} of 1000");
    }
}
