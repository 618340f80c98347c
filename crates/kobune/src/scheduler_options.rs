//! The flags of the scheduler.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use kobune_scheduler::Config;

/// What the scheduler is told.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Scheduler")]
pub struct SchedulerOptions {
    /// Judge pods as this KubeSchedulerConfiguration says [default: upstream's defaults]
    #[arg(long, value_name = "FILE", env = "KOBUNE_SCHEDULER_CONFIG")]
    pub scheduler_config: Option<PathBuf>,
}

impl SchedulerOptions {
    /// Reads the file, if one was given.
    pub fn config(&self) -> Result<Config> {
        let Some(path) = &self.scheduler_config else { return Ok(Config::default()) };
        let read = || -> Result<Config> {
            let text = std::fs::read_to_string(path)?;
            Ok(Config::from_value(serde_saphyr::from_str(&text)?)?)
        };
        read().with_context(|| format!("--scheduler-config {}", path.display()))
    }

    /// The flags in force.
    pub fn show(&self) -> Vec<(&'static str, String)> {
        let path = self.scheduler_config.as_ref().map(|path| path.display().to_string());
        vec![("scheduler-config", path.unwrap_or_default())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("scheduler.yaml");
        let options = SchedulerOptions { scheduler_config: Some(path.clone()) };
        let read = |text: &str| {
            std::fs::write(&path, text).expect("a file");
            options.config().map(|config| config.profiles.into_iter().map(|profile| profile.name).collect::<Vec<_>>())
        };
        let head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";
        let named = format!("{head}profiles: [{{schedulerName: a}}, {{schedulerName: b}}]\n");
        assert_eq!(read(&named).expect("a configuration"), ["a", "b"]);
        let wrong = read(&format!("{head}extenders: [{{}}]\n")).expect_err("a mistake");
        assert!(format!("{wrong:#}").contains("extenders[0].urlPrefix"), "{wrong:#}");
        assert_eq!(SchedulerOptions::default().config().expect("the default"), Config::default());
    }
}
