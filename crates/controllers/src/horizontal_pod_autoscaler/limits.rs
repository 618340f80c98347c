//! From what metrics propose to what is done: never out of bounds, never faster than allowed, and never back and forth.
//!
//! Upstream: `normalizeDesiredReplicas` and `normalizeDesiredReplicasWithBehaviors` in
//! <https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/podautoscaler/horizontal.go>.

use std::time::Duration;

use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerBehavior};
use tokio::time::Instant;

/// How long fewer replicas have to seem enough, where an autoscaler does not say; upstream's default.
const DOWNSCALE_STABILIZATION: Duration = Duration::from_secs(300);

/// What an autoscaler remembers from pass to pass. After a restart it begins anew, as upstream's.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// What was proposed, and when.
    recommendations: Vec<(i32, Instant)>,
    /// By how much was scaled up, and when.
    ups: Vec<(i32, Instant)>,
    /// By how much was scaled down, and when.
    downs: Vec<(i32, Instant)>,
}

/// What is certain when replicas are settled.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// Replicas now.
    pub current: i32,
    /// What metrics propose.
    pub proposed: i32,
    /// Fewest.
    pub min: i32,
    /// Most.
    pub max: i32,
    /// The time.
    pub now: Instant,
}

/// Reason and message of a condition.
pub type Told = (&'static str, &'static str);

/// What was settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The replicas that there are to be.
    pub replicas: i32,
    /// For condition `AbleToScale`.
    pub able: Told,
    /// For condition `ScalingLimited`, and whether it is True.
    pub limited: (bool, Told),
}

const READY: Told = ("ReadyForNewScale", "recommended size matches current size");
const WITHIN: Told = ("DesiredWithinRange", "the desired count is within the acceptable range");
const TOO_FEW: Told = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const TOO_MANY: Told = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const UP_LIMIT: Told = ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const DOWN_LIMIT: Told =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");
const UP_STABILIZED: Told = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const DOWN_STABILIZED: Told = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);

fn seconds(number: i32) -> Duration {
    Duration::from_secs(u64::try_from(number).unwrap_or(0))
}

/// The sum of the changes of a period.
fn changed(events: &[(i32, Instant)], period: Duration, now: Instant) -> i32 {
    let recent = events.iter().filter(|(_, at)| now.duration_since(*at) < period);
    recent.fold(0, |sum: i32, (change, _)| sum.saturating_add(*change))
}

fn longest_period(rules: Option<&HPAScalingRules>) -> Duration {
    let policies = rules.and_then(|rules| rules.policies.as_ref()).into_iter().flatten();
    policies.map(|policy| seconds(policy.period_seconds)).max().unwrap_or_default()
}

impl Memory {
    /// A first recommendation is what is there.
    pub fn begin(&mut self, current: i32, now: Instant) {
        if self.recommendations.is_empty() {
            self.recommendations.push((current, now));
        }
    }

    /// Settles the replicas that there are to be.
    pub fn settle(&mut self, behavior: Option<&HorizontalPodAutoscalerBehavior>, scope: Scope) -> Settled {
        let (stable, able) = match behavior {
            None => {
                let (_, stable) = self.range(Duration::ZERO, DOWNSCALE_STABILIZATION, scope);
                let able = if stable == scope.proposed { READY } else { DOWN_STABILIZED };
                (stable, able)
            }
            Some(behavior) => {
                let window =
                    |rules: Option<&HPAScalingRules>| rules.and_then(|rules| rules.stabilization_window_seconds);
                let up = window(behavior.scale_up.as_ref()).map_or(Duration::ZERO, seconds);
                let down = window(behavior.scale_down.as_ref()).map_or(DOWNSCALE_STABILIZATION, seconds);
                let (at_least, at_most) = self.range(up, down, scope);
                // Not `clamp`: the bounds may cross, and then the upper one wins, as upstream.
                let stable = scope.current.max(at_least).min(at_most);
                let able = match stable == scope.proposed {
                    true => READY,
                    false if scope.proposed >= scope.current => UP_STABILIZED,
                    false => DOWN_STABILIZED,
                };
                (stable, able)
            }
        };
        let stable_scope = Scope { proposed: stable, ..scope };
        let (replicas, told) = match behavior {
            None => plain(stable_scope),
            Some(behavior) => self.at_rate(behavior, stable_scope),
        };
        Settled { replicas, able, limited: (replicas != stable, told) }
    }

    /// The least that was recommended while a rise has to last, and the most while a fall has to; remembers this one.
    fn range(&mut self, up: Duration, down: Duration, scope: Scope) -> (i32, i32) {
        let Scope { proposed, now, .. } = scope;
        let (mut at_least, mut at_most) = (proposed, proposed);
        for (recommended, at) in &self.recommendations {
            if now.duration_since(*at) < up {
                at_least = at_least.min(*recommended);
            }
            if now.duration_since(*at) < down {
                at_most = at_most.max(*recommended);
            }
        }
        self.recommendations.retain(|(_, at)| now.duration_since(*at) < up.max(down));
        self.recommendations.push((proposed, now));
        (at_least, at_most)
    }

    fn at_rate(&self, behavior: &HorizontalPodAutoscalerBehavior, scope: Scope) -> (i32, Told) {
        let Scope { current, proposed, min, max, now } = scope;
        if proposed > current {
            let limit = self.up_limit(behavior.scale_up.as_ref(), current, now).max(current);
            let (most, told) = if max > limit { (limit, UP_LIMIT) } else { (max, TOO_MANY) };
            if proposed > most {
                return (most, told);
            }
        } else if proposed < current {
            let limit = self.down_limit(behavior.scale_down.as_ref(), current, now).min(current);
            let (least, told) = if min < limit { (limit, DOWN_LIMIT) } else { (min, TOO_FEW) };
            if proposed < least {
                return (least, told);
            }
        }
        (proposed, WITHIN)
    }

    /// What policies allow, each counted from what there was at the beginning of its period.
    fn limits(
        &self,
        rules: &HPAScalingRules,
        current: i32,
        now: Instant,
        limit: impl Fn(i32, &str, i32) -> i32,
    ) -> Vec<i32> {
        let policies = rules.policies.iter().flatten();
        let each = policies.map(|policy| {
            let period = seconds(policy.period_seconds);
            let before = current.saturating_sub(changed(&self.ups, period, now)).saturating_add(changed(
                &self.downs,
                period,
                now,
            ));
            limit(before, &policy.type_, policy.value)
        });
        each.collect()
    }

    fn up_limit(&self, rules: Option<&HPAScalingRules>, current: i32, now: Instant) -> i32 {
        let Some(rules) = rules else { return plain_up_limit(current) };
        let limits = self.limits(rules, current, now, |before, kind, value| match kind {
            "Pods" => before.saturating_add(value),
            _ => (f64::from(before) * (1.0 + f64::from(value) / 100.0)).ceil() as i32,
        });
        match rules.select_policy.as_deref() {
            Some("Disabled") => current,
            Some("Min") => limits.into_iter().min().unwrap_or(i32::MAX),
            _ => limits.into_iter().max().unwrap_or_else(|| plain_up_limit(current)),
        }
    }

    fn down_limit(&self, rules: Option<&HPAScalingRules>, current: i32, now: Instant) -> i32 {
        let Some(rules) = rules else { return 0 };
        let limits = self.limits(rules, current, now, |before, kind, value| match kind {
            "Pods" => before.saturating_sub(value),
            _ => (f64::from(before) * (1.0 - f64::from(value) / 100.0)) as i32,
        });
        match rules.select_policy.as_deref() {
            Some("Disabled") => current,
            // The smallest change leaves the most.
            Some("Min") => limits.into_iter().max().unwrap_or(0),
            _ => limits.into_iter().min().unwrap_or(0),
        }
    }

    /// Remembers that was scaled.
    pub fn scaled(&mut self, behavior: Option<&HorizontalPodAutoscalerBehavior>, from: i32, to: i32, now: Instant) {
        let Some(behavior) = behavior else { return };
        let (events, period) = if to > from {
            (&mut self.ups, longest_period(behavior.scale_up.as_ref()))
        } else {
            (&mut self.downs, longest_period(behavior.scale_down.as_ref()))
        };
        events.retain(|(_, at)| now.duration_since(*at) < period);
        events.push(((to - from).abs(), now));
    }
}

/// Double, or four: how far an autoscaler without a behaviour goes at once.
fn plain_up_limit(current: i32) -> i32 {
    current.saturating_mul(2).max(4)
}

fn plain(scope: Scope) -> (i32, Told) {
    let Scope { current, proposed, min, max, .. } = scope;
    let limit = plain_up_limit(current);
    let (most, told) = if max > limit { (limit, UP_LIMIT) } else { (max, TOO_MANY) };
    if proposed < min {
        (min, TOO_FEW)
    } else if proposed > most {
        (most, told)
    } else {
        (proposed, WITHIN)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn behavior(value: Value) -> HorizontalPodAutoscalerBehavior {
        serde_json::from_value(value).expect("a behaviour")
    }

    #[test]
    fn without_a_behaviour() {
        let (start, mut memory) = (Instant::now(), Memory::default());
        let mut check = |after: u64, current: i32, proposed: i32, replicas: i32, able: Told, limited: (bool, Told)| {
            let now = start + Duration::from_secs(after);
            memory.begin(current, now);
            let found = memory.settle(None, Scope { current, proposed, min: 2, max: 10, now });
            assert_eq!(found, Settled { replicas, able, limited }, "{current} {proposed} after {after}");
        };
        check(0, 2, 3, 3, READY, (false, WITHIN));
        check(15, 3, 100, 6, READY, (true, UP_LIMIT));
        check(30, 6, 100, 10, READY, (true, TOO_MANY));
        check(45, 10, 1, 10, DOWN_STABILIZED, (true, TOO_MANY));
        check(329, 10, 1, 10, DOWN_STABILIZED, (true, TOO_MANY));
        check(331, 10, 1, 2, READY, (true, TOO_FEW));
    }

    #[test]
    fn at_a_rate() {
        let rules = behavior(json!({
            "scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [
                {"type": "Pods", "value": 2, "periodSeconds": 60}, {"type": "Percent", "value": 50, "periodSeconds": 60}]},
            "scaleDown": {"stabilizationWindowSeconds": 0, "policies": [{"type": "Percent", "value": 10, "periodSeconds": 60}]},
        }));
        let (start, mut memory) = (Instant::now(), Memory::default());
        let mut check = |after: u64, current: i32, proposed: i32, replicas: i32, reason: &str| {
            let now = start + Duration::from_secs(after);
            let found = memory.settle(Some(&rules), Scope { current, proposed, min: 1, max: 100, now });
            assert_eq!((found.replicas, found.limited.1.0), (replicas, reason), "{current} {proposed} after {after}");
            memory.scaled(Some(&rules), current, replicas, now);
        };
        check(0, 10, 40, 15, "ScaleUpLimit");
        check(15, 15, 40, 15, "ScaleUpLimit");
        check(61, 15, 40, 23, "ScaleUpLimit");
        check(122, 23, 10, 20, "ScaleDownLimit");
        check(130, 20, 10, 20, "ScaleDownLimit");
        check(183, 20, 19, 19, "DesiredWithinRange");
    }

    #[test]
    fn neither_up_nor_down_on_a_whim() {
        let rules =
            behavior(json!({"scaleUp": {"stabilizationWindowSeconds": 60}, "scaleDown": {"selectPolicy": "Disabled"}}));
        let (start, mut memory) = (Instant::now(), Memory::default());
        let mut check = |after: u64, current: i32, proposed: i32, replicas: i32, able: Told| {
            let now = start + Duration::from_secs(after);
            let found = memory.settle(Some(&rules), Scope { current, proposed, min: 1, max: 100, now });
            assert_eq!((found.replicas, found.able), (replicas, able), "{current} {proposed} after {after}");
        };
        check(0, 5, 5, 5, READY);
        check(15, 5, 8, 5, UP_STABILIZED);
        check(61, 5, 8, 8, READY);
        check(500, 8, 2, 8, READY);
    }

    proptest! {
        /// Whatever is proposed in whatever order, the bounds hold as soon as they held once, and a step up is no greater
        /// than the rules allow.
        #[test]
        fn within_bounds(proposals in prop::collection::vec((0_i32..50, 16_u64..200), 1..40), with_rules in prop::bool::ANY) {
            let rules = behavior(json!({"scaleUp": {"policies": [{"type": "Pods", "value": 3, "periodSeconds": 15}]}}));
            let rules = with_rules.then_some(&rules);
            let (mut now, mut memory, mut current) = (Instant::now(), Memory::default(), 4);
            for (proposed, pause) in proposals {
                now += Duration::from_secs(pause);
                memory.begin(current, now);
                let found = memory.settle(rules, Scope { current, proposed, min: 2, max: 20, now });
                prop_assert!((2..=20).contains(&found.replicas), "{found:?}");
                let most = if with_rules { current + 3 } else { (current * 2).max(4) };
                prop_assert!(found.replicas <= most.max(current), "{found:?} from {current}");
                memory.scaled(rules, current, found.replicas, now);
                current = found.replicas;
            }
        }
    }
}
