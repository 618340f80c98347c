//! `postStart` and `preStop`: what a container wants done right after its start and right before its end.

use std::time::Duration;

use k8s_openapi::api::core::v1::LifecycleHandler;

use crate::errors::chain;
use crate::probes::{Outcome, Target, http_get};

/// Runs a handler to its end; the error is the event's text.
pub async fn run(target: &Target, handler: &LifecycleHandler) -> Result<(), String> {
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        // No limit of its own: the caller ends it with the grace period.
        return match target.runtime.exec_sync(&target.id, command, Duration::ZERO).await {
            Ok(result) if result.exit_code == 0 => Ok(()),
            Ok(result) => {
                let output =
                    String::from_utf8_lossy(if result.stderr.is_empty() { &result.stdout } else { &result.stderr })
                        .into_owned();
                Err(format!("command exited with {}: {}", result.exit_code, output.get(..1024).unwrap_or(&output)))
            }
            Err(error) => Err(chain(&error)),
        };
    }
    if let Some(http) = &handler.http_get {
        return match http_get(target, http, "kube-lifecycle/1.36").await {
            Outcome::Success | Outcome::Warning(_) => Ok(()),
            Outcome::Failure(message) => Err(message),
        };
    }
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(sleep.seconds.max(0).unsigned_abs())).await;
        return Ok(());
    }
    Err("invalid handler: it has no action that this node knows".to_owned())
}
