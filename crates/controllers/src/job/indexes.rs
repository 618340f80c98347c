//! Sets of completion indexes, as a Job's status writes them: `0,3-5,7`.

use std::fmt;

/// Ascending, apart from each other, both ends included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexes(Vec<(u32, u32)>);

impl Indexes {
    /// Reads the text form; indexes from `completions` on, and what is no index, are left out.
    pub fn parse(text: &str, completions: u32) -> Self {
        let mut set = Self::default();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) else { continue };
            if first <= last && first < completions {
                set.insert_range(first, last.min(completions - 1));
            }
        }
        set
    }

    /// Whether an index is in the set.
    pub fn contains(&self, index: u32) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }

    /// Adds an index.
    pub fn insert(&mut self, index: u32) {
        self.insert_range(index, index);
    }

    fn insert_range(&mut self, mut first: u32, mut last: u32) {
        let from = self.0.partition_point(|(_, end)| end.saturating_add(1) < first);
        let until = self.0.partition_point(|(start, _)| *start <= last.saturating_add(1));
        if let Some((start, _)) = self.0.get(from).filter(|_| from < until) {
            first = first.min(*start);
            last = last.max(self.0[until - 1].1);
        }
        self.0.splice(from..until.max(from), [(first, last)]);
    }

    /// How many indexes there are.
    pub fn len(&self) -> u32 {
        self.0.iter().fold(0, |sum: u32, (first, last)| sum.saturating_add(last - first + 1))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many of `other`'s indexes are in this set.
    pub fn overlap(&self, other: &Self) -> u32 {
        let (mut mine, mut theirs, mut common) = (0, 0, 0_u32);
        while let (Some((a, b)), Some((c, d))) = (self.0.get(mine), other.0.get(theirs)) {
            let (first, last) = (*a.max(c), *b.min(d));
            if first <= last {
                common = common.saturating_add(last - first + 1);
            }
            if b < d { mine += 1 } else { theirs += 1 }
        }
        common
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                // Upstream writes two neighbours apart.
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts() {
        let check = |text: &str, completions: u32, expected: &str, count: u32| {
            let set = Indexes::parse(text, completions);
            assert_eq!((set.to_string().as_str(), set.len()), (expected, count), "{text}");
        };
        check("", 5, "", 0);
        check("0", 5, "0", 1);
        check("0,1", 5, "0,1", 2);
        check("0-2,4", 5, "0-2,4", 4);
        check("3,0-2", 5, "0-3", 4);
        check("0-9", 5, "0-4", 5);
        check("x,5-3,-1,2", 5, "2", 1);
        check("0-4294967295", 4_000_000_000, "0-3999999999", 4_000_000_000);
    }

    proptest! {
        #[test]
        fn is_a_set(inserted in prop::collection::vec(0_u32..40, 0..40), other in prop::collection::btree_set(0_u32..40, 0..20)) {
            let mut set = Indexes::default();
            inserted.iter().for_each(|index| set.insert(*index));
            let model: BTreeSet<u32> = inserted.into_iter().collect();
            prop_assert_eq!(set.len() as usize, model.len());
            prop_assert!((0..40).all(|index| set.contains(index) == model.contains(&index)));
            prop_assert_eq!(Indexes::parse(&set.to_string(), 40), set.clone());
            let mut second = Indexes::default();
            other.iter().for_each(|index| second.insert(*index));
            prop_assert_eq!(set.overlap(&second) as usize, model.intersection(&other).count());
        }
    }
}
