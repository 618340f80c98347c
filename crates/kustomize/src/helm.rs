//! What helm is asked to do for a chart. Running it is not done here.

use std::path::{Path, PathBuf};

use crate::emit;
use crate::error::{BuildError, refused};
use crate::kustomization::{HelmChart, HelmGlobals};
use crate::node::{Map, Node};
use crate::parse;
use crate::schema::Schema;
use crate::strategic::{self, NewItems};

/// How helm may be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HelmOptions {
    /// Whether it may be used at all.
    pub enabled: bool,
    /// API versions that charts see, instead of what the kustomization says.
    pub api_versions: Vec<String>,
    /// The version of Kubernetes that charts see, likewise.
    pub kube_version: String,
    /// Whether helm says more.
    pub debug: bool,
}

/// A chart to be rendered, and what with.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    chart: HelmChart,
    config_home: String,
    /// The folder that holds the chart's folder.
    pub home: PathBuf,
    /// The file with the chart's own values.
    pub values_file: PathBuf,
    root: PathBuf,
}

impl Chart {
    pub(crate) fn new(
        chart: &HelmChart,
        globals: Option<&HelmGlobals>,
        root: &Path,
        options: &HelmOptions,
    ) -> Result<Chart, BuildError> {
        if !options.enabled {
            return Err(refused("helm charts need the flag --enable-helm"));
        }
        let mut chart = chart.clone();
        if chart.name.is_empty() {
            return Err(refused("chart name cannot be empty"));
        }
        match chart.values_merge.as_str() {
            "" => chart.values_merge = "override".to_owned(),
            "merge" | "override" | "replace" => {}
            _ => return Err(refused("valuesMerge must be one of [merge override replace]")),
        }
        if chart.kube_version.is_empty() {
            chart.kube_version.clone_from(&options.kube_version);
        }
        if chart.api_versions.is_empty() {
            chart.api_versions.clone_from(&options.api_versions);
        }
        chart.debug |= options.debug;
        let globals = globals.cloned().unwrap_or_default();
        let home = if globals.chart_home.is_empty() { "charts" } else { globals.chart_home.as_str() };
        let mut home = root.join(home);
        if !chart.version.is_empty() && !chart.repo.is_empty() {
            home.push(format!("{}-{}", chart.name, chart.version));
        }
        let home = crate::files::clean(&home);
        let values_file = match chart.values_file.as_str() {
            "" => home.join(&chart.name).join("values.yaml"),
            file => root.join(file),
        };
        let root = root.to_owned();
        Ok(Chart { chart, config_home: globals.config_home, home, values_file, root })
    }

    /// The chart's name.
    pub fn name(&self) -> &str {
        &self.chart.name
    }

    /// Where helm keeps its own settings, if the kustomization says so.
    pub fn config_home(&self) -> Option<&str> {
        (!self.config_home.is_empty()).then_some(self.config_home.as_str())
    }

    /// Further files with values, which must be below the kustomization.
    pub(crate) fn further_values(&self) -> &[String] {
        &self.chart.additional_values_files
    }

    /// What fetches the chart when its folder is not there; the error when nothing says where from.
    pub fn pull(&self) -> Result<Vec<String>, BuildError> {
        let chart = &self.chart;
        let folder = self.home.join(&chart.name);
        if chart.repo.is_empty() {
            let folder = folder.display();
            return Err(refused(format!("no repo specified for pull, no chart found at '{folder}'")));
        }
        let mut arguments: Vec<String> = vec!["pull".into(), "--untar".into(), "--untardir".into()];
        arguments.push(self.home.display().to_string());
        if chart.repo.starts_with("oci://") {
            arguments.push(format!("{}/{}", chart.repo.trim_end_matches('/'), chart.name));
        } else {
            arguments.extend(["--repo".into(), chart.repo.clone(), chart.name.clone()]);
        }
        if !chart.version.is_empty() {
            arguments.extend(["--version".into(), chart.version.clone()]);
        }
        if chart.devel {
            arguments.push("--devel".into());
        }
        Ok(arguments)
    }

    /// The values to render with: the chart's own file, with what the kustomization says merged in.
    pub fn values(&self, own: &[u8]) -> Result<Vec<u8>, BuildError> {
        let Some(inline) = self.chart.values_inline.as_ref().filter(|values| !values.is_empty()) else {
            return Ok(own.to_vec());
        };
        let wrong = |problem: String| refused(format!("could not parse values file: {problem}"));
        let merged = match self.chart.values_merge.as_str() {
            "replace" => inline.clone(),
            mode => {
                let own = std::str::from_utf8(own).map_err(|error| wrong(error.to_string()))?;
                let own = parse::one(own).map_err(wrong)?;
                let (target, patch) = if mode == "merge" { (inline.clone(), own) } else { (own, inline.clone()) };
                strategic::merge(Some(target), patch, &Schema::default(), NewItems::End)
                    .map_err(|problem| refused(format!("could not merge values: {problem}")))?
                    .unwrap_or_else(|| Node::Map(Map::default()))
            }
        };
        emit::object(&merged).map(String::into_bytes).map_err(|(_, problem)| wrong(problem))
    }

    /// What renders the chart with values in a file.
    pub fn template(&self, values_file: &Path) -> Vec<String> {
        let chart = &self.chart;
        let mut arguments: Vec<String> = vec!["template".into()];
        if chart.release_name.is_empty() {
            arguments.push("--generate-name".into());
        } else {
            arguments.push(chart.release_name.clone());
        }
        arguments.push(self.home.join(&chart.name).display().to_string());
        let mut option = |name: &str, value: &str| {
            if !value.is_empty() {
                arguments.extend([name.to_owned(), value.to_owned()]);
            }
        };
        option("--namespace", &chart.namespace);
        option("--name-template", &chart.name_template);
        option("-f", &values_file.display().to_string());
        for file in &chart.additional_values_files {
            option("-f", &self.root.join(file).display().to_string());
        }
        for version in &chart.api_versions {
            option("--api-versions", version);
        }
        option("--kube-version", &chart.kube_version);
        let switches = [
            (chart.include_crds, "--include-crds"),
            (chart.skip_tests, "--skip-tests"),
            (chart.skip_hooks, "--no-hooks"),
            (chart.debug, "--debug"),
            (chart.devel, "--devel"),
        ];
        arguments.extend(switches.iter().filter(|(is_on, _)| *is_on).map(|(_, switch)| (*switch).to_owned()));
        arguments
    }
}
