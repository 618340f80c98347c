//! The `continue` token of a list: where its next page begins, and which state it shows.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

/// How long a list may take from its first page to its last, in seconds: upstream's compaction interval. Snapshots may
/// live longer, but clients have to be able to rely on the end of theirs as well.
const LIFE: i64 = 300;

const VERSION: &str = "meta.k8s.io/v1";

/// A token. Clients treat it as opaque; the form is that of upstream's `storage/continue.go` with a time added.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct ContinueToken {
    v: String,
    rv: i64,
    start: String,
    at: i64,
}

/// The state of which a page is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageState {
    /// As it is now: the list goes on although it is not consistent with its first page any more.
    Latest,
    /// As it was at the revision of the first page.
    Exact(u64),
}

impl ContinueToken {
    /// A token for the page after the object `namespace/name` of a list that shows `revision` and whose first page was
    /// made at `made`, in seconds since 1970.
    pub fn new(revision: u64, made: i64, namespace: &str, name: &str) -> ContinueToken {
        ContinueToken {
            v: VERSION.to_owned(),
            rv: i64::try_from(revision).unwrap_or(i64::MAX),
            start: format!("{namespace}/{name}"),
            at: made,
        }
    }

    /// The same place in the list, shown as it is now.
    #[must_use]
    pub fn inconsistent(self) -> ContinueToken {
        ContinueToken { rv: -1, ..self }
    }

    /// Reads a token; `None` when it is not one that [`ContinueToken::encode`] has made.
    pub fn decode(text: &str) -> Option<ContinueToken> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()?;
        let token: ContinueToken = serde_json::from_slice(&bytes).ok()?;
        (token.v == VERSION && token.start.contains('/')).then_some(token)
    }

    /// The text that a client is given.
    pub fn encode(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).expect("four plain fields are always writable"))
    }

    /// Which state the token's list shows; `None` when that is too long ago. Wherever the clock has been set to, a token
    /// of the future is one of the past.
    pub fn state(&self, now: i64) -> Option<PageState> {
        match u64::try_from(self.rv) {
            Err(_) => Some(PageState::Latest),
            Ok(revision) => {
                let age = now.checked_sub(self.at)?;
                (0..LIFE).contains(&age).then_some(PageState::Exact(revision))
            }
        }
    }

    /// When the first page was made, in seconds since 1970.
    pub fn made(&self) -> i64 {
        self.at
    }

    /// Namespace and name of the last object of the page before.
    pub fn place(&self) -> (&str, &str) {
        self.start.split_once('/').unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_where_and_for_how_long() {
        let token = ContinueToken::new(7, 1000, "ns", "a");
        let again = ContinueToken::decode(&token.encode()).expect("its own encoding");
        assert_eq!(again, token);
        assert_eq!(again.place(), ("ns", "a"));
        let state = |now| token.state(now);
        assert_eq!(state(1000), Some(PageState::Exact(7)));
        assert_eq!(state(1299), Some(PageState::Exact(7)));
        for late in [1300, 999, i64::MIN, i64::MAX] {
            assert_eq!(state(late), None, "{late}");
        }
        assert_eq!(token.inconsistent().state(i64::MAX), Some(PageState::Latest));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for bad in ["", "x", "e30", "eyJ2IjoibWV0YS5rOHMuaW8vdjEifQ", "\u{1F6A3}"] {
            assert_eq!(ContinueToken::decode(bad), None, "{bad}");
        }
    }
}
