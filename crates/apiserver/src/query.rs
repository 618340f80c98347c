//! The query of a request.

use percent_encoding::percent_decode_str;

/// The decoded parameters of a query, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query string; a parameter without `=` is empty.
    pub(crate) fn parse(text: Option<&str>) -> Self {
        let Some(text) = text else { return Self::default() };
        Self(
            text.split('&')
                .filter(|part| !part.is_empty())
                .map(|part| {
                    let (key, value) = part.split_once('=').unwrap_or((part, ""));
                    (decode(key), decode(value))
                })
                .collect(),
        )
    }

    /// The first value of a parameter that is not empty.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, value)| name == key && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// All values of a parameter.
    pub(crate) fn all<'q>(&'q self, key: &'q str) -> impl Iterator<Item = &'q str> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Whether the parameter is there at all, also without a value.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(name, _)| name == key)
    }

    /// A boolean as upstream reads it: absent, `0` and `false` are false, everything else is true.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.0
            .iter()
            .find(|(name, _)| name == key)
            .is_some_and(|(_, value)| !matches!(value.to_ascii_lowercase().as_str(), "0" | "f" | "false"))
    }

    /// A boolean that may be absent.
    pub(crate) fn maybe_flag(&self, key: &str) -> Option<bool> {
        self.has(key).then(|| self.flag(key))
    }

    /// An integer; an error names the parameter.
    pub(crate) fn integer(&self, key: &str) -> Result<Option<i64>, String> {
        self.get(key)
            .map(|text| text.parse().map_err(|_| format!("strconv.ParseInt: parsing \"{text}\": invalid syntax")))
            .transpose()
    }
}

fn decode(text: &str) -> String {
    if text.contains('+') {
        percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
    } else {
        percent_decode_str(text).decode_utf8_lossy().into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        let query = Query::parse(Some(
            "watch=1&labelSelector=a%3Db,c+in+(d)&dryRun=All&limit=5&follow&x=false&command=a&command=",
        ));
        assert!(query.flag("watch") && query.flag("follow") && !query.flag("x") && !query.flag("absent"));
        assert_eq!(query.get("labelSelector"), Some("a=b,c in (d)"));
        assert_eq!(query.integer("limit"), Ok(Some(5)));
        assert!(query.integer("dryRun").is_err());
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["a", ""]);
        assert_eq!(query.maybe_flag("nothing"), None);
    }
}
