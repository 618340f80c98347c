//! The query of a request, decoded.

/// Names and values of a query in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads `a=b&c=d`.
    pub fn parse(text: &str) -> Query {
        let decode =
            |text: &str| percent_encoding::percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        Query(pairs.collect())
    }

    /// The first value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// All values of a name.
    pub fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(known, _)| known == name).map(|(_, value)| value.clone()).collect()
    }

    /// Whether any of the names is there and true, as Go reads it.
    pub fn is_true(&self, names: &[&str]) -> bool {
        names
            .iter()
            .any(|name| self.get(name).is_some_and(|value| matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let query = Query::parse("command=ls&command=-l%20x&tty=1&input=true&a+b=c+d");
        assert_eq!(query.all("command"), ["ls", "-l x"]);
        assert_eq!(query.get("a b"), Some("c d"));
        assert!(query.is_true(&["tty"]) && query.is_true(&["stdin", "input"]) && !query.is_true(&["output"]));
    }
}
