//! `TracingConfiguration`, upstream's file.
//!
//! Source: `pkg/apis/apiserver/v1` and `pkg/apis/apiserver/validation` of apiserver, `k8s.io/component-base/tracing/api/v1`.

use std::path::Path;

use http::Uri;
use kobune_grpc::client::Client;
use serde::Deserialize;

use crate::config_file::{self, ConfigError, Problems};

/// Where collectors listen on the machine itself.
const ENDPOINT: &str = "localhost:4317";

/// The versions of the file's kind, whose fields are the same.
const API_VERSIONS: [&str; 3] =
    ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1", "apiserver.config.k8s.io/v1alpha1"];

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct File {
    endpoint: Option<String>,
    sampling_rate_per_million: Option<i64>,
}

/// What the file says.
pub(super) struct Config {
    pub(super) collector: Client,
    pub(super) per_million: u32,
}

/// Reads the file.
pub(super) fn load(path: &Path) -> Result<Config, ConfigError> {
    let file: File = config_file::read(path, "TracingConfiguration", &API_VERSIONS)?;
    let mut problems = Problems::default();
    let endpoint = file.endpoint.unwrap_or_else(|| ENDPOINT.to_owned());
    let address: Option<Uri> = format!("http://{endpoint}").parse().ok();
    let address = address.filter(|uri| uri.port().is_some() && matches!(uri.path(), "" | "/"));
    if address.is_none() {
        problems.add("endpoint", format_args!("Invalid value: {endpoint:?}: expected HOST:PORT"));
    }
    let rate = file.sampling_rate_per_million.unwrap_or(0);
    let per_million = u32::try_from(rate).ok().filter(|rate| *rate <= 1_000_000);
    if per_million.is_none() {
        let why = "sampling rate must be positive and less than or equal to one million";
        problems.add("samplingRatePerMillion", format_args!("Invalid value: {rate}: {why}"));
    }
    problems.into_result(path, ())?;
    Ok(Config { collector: Client::at(address.unwrap_or_default()), per_million: per_million.unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn files() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tracing.yaml");
        let check = |rest: &str, expected: Result<u32, &str>| {
            let head = "apiVersion: apiserver.config.k8s.io/v1beta1\nkind: TracingConfiguration\n";
            std::fs::write(&path, format!("{head}{rest}")).expect("a file");
            match (load(&path).map(|config| config.per_million), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{rest}"),
                (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
                (found, _) => panic!("{rest}: {found:?}"),
            }
        };
        check("", Ok(0));
        check("endpoint: collector:4317\nsamplingRatePerMillion: 100\n", Ok(100));
        check("endpoint: '[::1]:4317'\nsamplingRatePerMillion: 1000000\n", Ok(1_000_000));
        check("samplingRatePerMillion: 1000001\n", Err("samplingRatePerMillion: Invalid value: 1000001"));
        check("samplingRatePerMillion: -1\n", Err("samplingRatePerMillion: Invalid value: -1"));
        check("endpoint: collector\n", Err("endpoint: Invalid value: \"collector\""));
        check("endpoint: 'https://collector:1'\n", Err("endpoint: Invalid value"));
        check("endpont: a\n", Err("unknown field `endpont`"));
    }
}
