//! How a base names a repository: the forms of URL that kustomize takes.

/// A repository, and the folder in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// The text as it was written.
    pub raw: String,
    /// What `git fetch` takes.
    pub url: String,
    /// The folder in it, without a leading slash.
    pub folder: String,
    /// The branch, tag or commit; empty for the default branch.
    pub reference: String,
    /// How long git may take, in seconds.
    pub timeout: u64,
    /// Whether submodules are fetched too.
    pub submodules: bool,
}

/// How long git may take when the URL says nothing.
const TIMEOUT: u64 = 27;

impl Repository {
    /// Reads a text; nothing when it names no repository but, perhaps, a folder.
    pub fn parse(raw: &str) -> Option<Repository> {
        if raw.starts_with('/') {
            return None;
        }
        let (address, query) = raw.split_once('?').unwrap_or((raw, ""));
        let (host, path) = host(address)?;
        let (repository, folder) = split(&path, host.starts_with("file://"))?;
        if repository.is_empty() || leaves(&folder) {
            return None;
        }
        let mut found = Repository {
            raw: raw.to_owned(),
            url: format!("{host}{repository}"),
            folder: folder.strip_prefix('/').unwrap_or(&folder).to_owned(),
            reference: String::new(),
            timeout: TIMEOUT,
            submodules: true,
        };
        found.options(query);
        Some(found)
    }

    fn options(&mut self, query: &str) {
        let get = |name: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs
                .into_iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| unescape(value))
                .filter(|value| !value.is_empty())
        };
        self.reference = get("ref").or_else(|| get("version")).unwrap_or_default();
        if let Some(seconds) = get("timeout").and_then(|text| seconds(&text)) {
            self.timeout = seconds;
        }
        match get("submodules").as_deref() {
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => self.submodules = false,
            _ => self.submodules = true,
        }
    }
}

/// A number of seconds, or a number with a unit.
fn seconds(text: &str) -> Option<u64> {
    if let Ok(number) = text.parse::<u64>() {
        return (number > 0).then_some(number);
    }
    let at = text.find(|letter: char| !letter.is_ascii_digit())?;
    let number: u64 = text[..at].parse().ok()?;
    let seconds = match &text[at..] {
        "s" => number,
        "m" => number * 60,
        "h" => number * 3600,
        "ms" => number.div_ceil(1000),
        _ => return None,
    };
    (seconds > 0).then_some(seconds)
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        match (first, tail) {
            (b'%', [high, low, after @ ..]) => {
                let hex = std::str::from_utf8(&[*high, *low]).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok());
                match hex {
                    Some(byte) => {
                        bytes.push(byte);
                        rest = after;
                    }
                    None => bytes.push(b'%'),
                }
            }
            (b'+', _) => bytes.push(b' '),
            (byte, _) => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn strip<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    let head = text.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])
}

/// The host part that git needs, and the rest.
fn host(address: &str) -> Option<(String, String)> {
    let address = strip(address, "git::").unwrap_or(address);
    let (scheme, rest) = ["ssh://", "https://", "http://", "file://"]
        .into_iter()
        .find_map(|scheme| strip(address, scheme).map(|rest| (scheme, rest)))
        .unwrap_or(("", address));
    let user = rest.split_once('@').map(|(user, _)| user).filter(|user| {
        user.starts_with(|letter: char| letter.is_ascii_alphabetic())
            && user.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-')
    });
    let user = user.map(|user| format!("{user}@")).unwrap_or_default();
    let rest = &rest[user.len()..];
    let is_github = strip(rest, "github.com/").or_else(|| strip(rest, "github.com:")).is_some();
    let may_be_scp = scheme.is_empty() && (!user.is_empty() || is_github);
    if scheme.is_empty() && !may_be_scp {
        return None;
    }
    if scheme == "file://" {
        return Some((scheme.to_owned(), format!("{user}{rest}")));
    }
    let slash = rest.find('/');
    let colon = rest.find(':').filter(|colon| may_be_scp && (slash.is_none() || *colon > 0));
    let end = match (slash, colon) {
        (Some(slash), Some(colon)) => Some(slash.min(colon)),
        (slash, colon) => slash.or(colon),
    };
    let (name, path) = match end {
        Some(end) => (&rest[..=end], &rest[end + 1..]),
        None => (rest, ""),
    };
    if is_github {
        let over_ssh = scheme == "ssh://" || !user.is_empty();
        let host = if over_ssh { format!("{user}github.com:") } else { "https://github.com/".to_owned() };
        return Some((host, path.to_owned()));
    }
    (!name.is_empty()).then(|| (format!("{scheme}{user}{name}"), path.to_owned()))
}

/// The repository's path and the folder in it.
fn split(path: &str, is_file: bool) -> Option<(String, String)> {
    if let Some(at) = path.find("_git/") {
        let (root, rest) = path.split_at(at + "_git/".len());
        let (name, folder) = rest.split_once('/').unwrap_or((rest, ""));
        return Some((format!("{root}{name}"), folder.to_owned()));
    }
    if let Some((repository, folder)) = path.split_once("//") {
        return Some((repository.to_owned(), folder.to_owned()));
    }
    if let Some(at) = path.find(".git") {
        let (repository, folder) = path.split_at(at + ".git".len());
        return Some((repository.to_owned(), folder.to_owned()));
    }
    if is_file {
        return Some((path.to_owned(), String::new()));
    }
    // The owner and the name.
    let mut parts = path.splitn(3, '/');
    let (owner, name) = (parts.next()?, parts.next()?);
    Some((format!("{owner}/{name}"), parts.next().unwrap_or_default().to_owned()))
}

/// Whether a folder is outside of its repository.
fn leaves(folder: &str) -> bool {
    let mut depth = 0_i32;
    for part in folder.trim_start_matches('/').split('/') {
        match part {
            "" | "." => {}
            ".." => depth -= 1,
            _ => depth += 1,
        }
        if depth < 0 {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let check = |raw: &str, expected: Option<(&str, &str, &str)>| {
            let found = Repository::parse(raw);
            let parts =
                found.as_ref().map(|found| (found.url.as_str(), found.folder.as_str(), found.reference.as_str()));
            assert_eq!(parts, expected, "{raw}");
        };
        let github = "https://github.com/a/b";
        check("github.com/a/b", Some((github, "", "")));
        check("https://github.com/a/b/c/d?ref=v1", Some((github, "c/d", "v1")));
        check("github.com/a/b//c?version=v1&ref=v2", Some((github, "c", "v2")));
        check("git@github.com:a/b.git//c", Some(("git@github.com:a/b.git", "c", "")));
        check("ssh://git@github.com/a/b", Some(("git@github.com:a/b", "", "")));
        check("git::https://example.com/a/b.git/c?ref=x", Some(("https://example.com/a/b.git", "c", "x")));
        check("git@example.com:a/b/c", Some(("git@example.com:a/b", "c", "")));
        check("https://dev.azure.com/o/p/_git/r/c", Some(("https://dev.azure.com/o/p/_git/r", "c", "")));
        check("file:///srv/repo.git//c?ref=main", Some(("file:///srv/repo.git", "c", "main")));
        check("file:///srv/repo", Some(("file:///srv/repo", "", "")));
        for folder in ["../base", "base", "/abs", "./x.git", "https://example.com", "github.com/a/b//../c"] {
            check(folder, None);
        }
        let slow = Repository::parse("github.com/a/b?timeout=2m&submodules=false").expect("a repository");
        assert_eq!((slow.timeout, slow.submodules), (120, false));
    }
}
