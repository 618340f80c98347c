//! The flags about standing for a lease, with upstream's names and defaults.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::{ArgAction, Args};

use crate::api_options::duration;
use crate::election::Terms;

/// How a part that may stand by takes its turn.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Leader election")]
pub struct LeaderOptions {
    /// Work only while the lease is held, so that several may stand by
    #[arg(
        long,
        value_name = "BOOL",
        env = "KOBUNE_LEADER_ELECT",
        default_value_t = true,
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub leader_elect: bool,
    /// How long others wait for a lease that is not renewed before they take it
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration)]
    pub leader_elect_lease_duration: Duration,
    /// How long the holder tries to renew its lease before it stops working
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub leader_elect_renew_deadline: Duration,
    /// The pause between tries to take or to renew the lease
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    pub leader_elect_retry_period: Duration,
    /// The name of the lease [default: upstream's, kube-controller-manager or kube-scheduler]
    #[arg(long, value_name = "NAME")]
    pub leader_elect_resource_name: Option<String>,
    /// The namespace of the lease
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-system")]
    pub leader_elect_resource_namespace: String,
}

impl LeaderOptions {
    /// The terms of the election for a lease that is called so unless the flags say otherwise.
    pub fn terms(&self, lease: &str) -> Result<Terms> {
        let terms = Terms {
            name: self.leader_elect_resource_name.clone().unwrap_or_else(|| lease.to_owned()),
            namespace: self.leader_elect_resource_namespace.clone(),
            duration: self.leader_elect_lease_duration,
            deadline: self.leader_elect_renew_deadline,
            retry: self.leader_elect_retry_period,
        };
        // Upstream's rules: who gives up does so before others may begin, and has tried more than once.
        if terms.duration <= terms.deadline {
            bail!("--leader-elect-lease-duration must be greater than --leader-elect-renew-deadline");
        }
        if terms.deadline <= terms.retry.mul_f64(1.2) {
            bail!("--leader-elect-renew-deadline must be greater than 1.2 times --leader-elect-retry-period");
        }
        if terms.duration < Duration::from_secs(1) || terms.retry.is_zero() {
            bail!(
                "--leader-elect-lease-duration must be a second at least, and --leader-elect-retry-period more than nothing"
            );
        }
        Ok(terms)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        leader: LeaderOptions,
    }

    fn read(words: &[&str]) -> LeaderOptions {
        Line::try_parse_from(std::iter::once("x").chain(words.iter().copied())).expect("flags").leader
    }

    #[test]
    fn flags() {
        let check = |words: &[&str], expected: Option<&str>| {
            let found = read(words).terms("lease").err().map(|error| error.to_string());
            assert!(
                found.as_deref().is_some_and(|found| expected.is_some_and(|part| found.contains(part)))
                    || (found.is_none() && expected.is_none()),
                "{words:?}: {found:?}"
            );
        };
        check(&[], None);
        check(&["--leader-elect-lease-duration=10s"], Some("must be greater than --leader-elect-renew-deadline"));
        check(&["--leader-elect-renew-deadline=2s"], Some("1.2 times"));
        check(
            &[
                "--leader-elect-lease-duration=60s",
                "--leader-elect-renew-deadline=40s",
                "--leader-elect-retry-period=5s",
            ],
            None,
        );
        assert!(read(&[]).leader_elect && read(&["--leader-elect"]).leader_elect);
        assert!(!read(&["--leader-elect=false"]).leader_elect);
        let terms = read(&["--leader-elect-resource-name=mine"]).terms("lease").expect("terms");
        assert_eq!((terms.name.as_str(), terms.namespace.as_str()), ("mine", "kube-system"));
        assert_eq!(read(&[]).terms("lease").expect("terms"), Terms::of("lease"));
    }
}
