//! Texts: selectors, tokens of lists, quantities, schedules, kustomizations.

use jiff::{Timestamp, tz::TimeZone};
use kobune_kinds::continue_token::ContinueToken;
use kobune_kinds::selector::{FieldSelector, LabelSelector};
use kobune_kinds::{cron::Schedule, quantity::Quantity};
use kobune_kustomize::{MemoryFiles, Options, build};

pub(crate) fn selectors(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(selector) = LabelSelector::parse(text) {
        let written = selector.to_string();
        let again = LabelSelector::parse(&written).expect("what was written can be read");
        assert_eq!(again.to_string(), written, "writing and reading changes nothing");
        selector.matches(|key| (key.len() % 2 == 0).then_some("1"));
    }
    if let Ok(selector) = FieldSelector::parse(text) {
        selector.matches(|field| (field.len() % 2 == 0).then_some("1"));
    }
}

pub(crate) fn tokens(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(token) = ContinueToken::decode(text) {
        assert_eq!(ContinueToken::decode(&token.encode()).as_ref(), Some(&token));
        let (namespace, name) = token.place();
        assert!(namespace.len() + name.len() < text.len());
        token.state(0);
        token.state(i64::MAX);
    }
    if let Ok(quantity) = text.parse::<Quantity>() {
        let written = quantity.to_string();
        let again: Quantity = written.parse().expect("what was written can be read");
        assert_eq!(again.to_string(), written);
    }
    if let Ok(schedule) = Schedule::parse(text)
        && let Some(next) = schedule.next(Timestamp::UNIX_EPOCH, &TimeZone::UTC)
    {
        assert!(next > Timestamp::UNIX_EPOCH);
        schedule.interval();
    }
}

/// A text as a kustomization, as an object, and as a patch of one.
pub(crate) fn kustomize(data: &[u8]) {
    let folder = |kustomization: &[u8]| {
        MemoryFiles::default().with("/k/kustomization.yaml", kustomization).with("/k/a.yaml", data)
    };
    let root = std::path::Path::new("/");
    let run = |files: &MemoryFiles| {
        let first = build(files, "/k", root, &Options::default()).and_then(|output| output.yaml()).ok();
        let again = build(files, "/k", root, &Options::default()).and_then(|output| output.yaml()).ok();
        assert_eq!(first, again, "building twice gives the same");
    };
    run(&folder(data));
    run(&folder(
        b"resources: [a.yaml]\nnamePrefix: p-\nnamespace: n\nlabels: [{pairs: {a: b}, includeSelectors: true}]\n",
    ));
    run(&folder(b"resources: [a.yaml]\npatches: [{path: a.yaml}]\nconfigMapGenerator: [{name: g, files: [a.yaml]}]\n"));
}
