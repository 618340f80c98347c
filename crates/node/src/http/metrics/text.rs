//! Prometheus' text format.

/// A text that grows family by family.
#[derive(Debug, Default)]
pub struct Text(String);

impl Text {
    /// Begins a family: everything until the next belongs to it.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(&format!("# HELP {name} {help}"));
        self.line(&format!("# TYPE {name} {kind}"));
    }

    /// One value. `at` is in milliseconds of the epoch.
    pub fn value(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display, at: Option<i64>) {
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escape(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        match at {
            Some(at) => self.line(&format!("{name}{labels} {value} {at}")),
            None => self.line(&format!("{name}{labels} {value}")),
        }
    }

    /// The whole text.
    pub fn finish(self) -> String {
        self.0
    }

    fn line(&mut self, text: &str) {
        self.0.push_str(text);
        self.0.push('\n');
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Nanoseconds as seconds.
pub fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let mut text = Text::default();
        text.family("a_total", "counter", "What it is.");
        text.value("a_total", &[("x", "say \"hi\"")], 1.5, Some(7));
        text.value("a_total", &[], 2, None);
        assert_eq!(
            text.finish(),
            "# HELP a_total What it is.\n# TYPE a_total counter\na_total{x=\"say \\\"hi\\\"\"} 1.5 7\na_total 2\n"
        );
    }
}
