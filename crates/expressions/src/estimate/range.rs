//! Ranges of sizes and costs. What exceeds 64 bits is the greatest number.

/// The least and the most that an expression may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CostRange {
    /// The least.
    pub min: u64,
    /// The most.
    pub max: u64,
}

/// A range of sizes or costs.
pub(crate) type Range = CostRange;

/// The greatest number times a factor, rounded up.
fn scale(number: u64, factor: f64) -> u64 {
    // A float that is out of range becomes the greatest number, not a wrapped one.
    (number as f64 * factor).ceil() as u64
}

impl CostRange {
    pub(crate) const ZERO: Range = Range { min: 0, max: 0 };
    pub(crate) const UNKNOWN: Range = Range { min: 0, max: u64::MAX };

    pub(crate) fn fixed(number: u64) -> Range {
        Range { min: number, max: number }
    }

    pub(crate) fn plus(self, other: Range) -> Range {
        Range { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    pub(crate) fn times(self, other: Range) -> Range {
        Range { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    pub(crate) fn scaled(self, factor: f64) -> Range {
        Range { min: scale(self.min, factor), max: scale(self.max, factor) }
    }

    pub(crate) fn union(self, other: Range) -> Range {
        Range { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}
