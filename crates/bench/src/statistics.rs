//! Percentiles.

/// The value below which the given share of the sorted values lies.
pub fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let index = ((values.len().saturating_sub(1)) as f64 * share) as usize;
    values.get(index).copied().unwrap_or(f64::NAN)
}
