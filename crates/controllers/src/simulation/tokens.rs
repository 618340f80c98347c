//! Three years of tokens that nobody asked for.

use std::time::Duration;

use futures::FutureExt as _;
use serde_json::{Value, json};

use super::machines::{Habits, change, delete};
use super::objects::{Objects, Write, text};
use super::server::{Server, make};
use super::{Life, Scenario, TROUBLE};
use crate::service_account_tokens::Known;
use crate::{clock, legacy_token_cleaner};

/// Of so many seeds one is tried: each takes as long as several of others.
const EACH: usize = 4;
/// How long the machine runs each time: it looks again after a day at what it could not take at first.
const HOURS: u32 = 26;
const FIRST: &str = "2026-01-01T00:00:00Z";
/// The days after the first on which the machine runs, and which tokens there are then; those with an exclamation mark are invalid.
const DAYS: [(i64, &[&str]); 9] = [
    (10, &["asked-for", "mounted", "often-used", "revived", "unmounted", "unused", "used-once"]),
    (300, &["asked-for", "mounted", "often-used", "revived", "unmounted", "unused", "used-once"]),
    (370, &["asked-for", "mounted", "often-used", "revived!", "unmounted", "unused!", "used-once"]),
    (450, &["asked-for", "mounted", "often-used", "revived!", "unmounted", "unused!", "used-once!"]),
    (500, &["asked-for", "mounted", "often-used", "revived", "unmounted", "unused!", "used-once!"]),
    (600, &["asked-for", "mounted", "often-used", "revived", "unmounted!", "unused!", "used-once!"]),
    (700, &["asked-for", "mounted", "often-used", "revived", "unmounted!", "unused!", "used-once!"]),
    (820, &["asked-for", "mounted", "often-used", "revived", "unmounted!"]),
    (1090, &["asked-for", "mounted", "often-used", "revived!"]),
];
const USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID: &str = "kubernetes.io/legacy-token-invalid-since";

fn today() -> String {
    clock::now().strftime("%F").to_string()
}

fn label<'o>(object: &'o Value, name: &str) -> &'o str {
    object["metadata"]["labels"][name].as_str().unwrap_or_default()
}

/// Days from one, as text, to another; many when there is none.
fn days(from: &str, to: &str) -> i32 {
    let day = |text: &str| text.parse::<jiff::civil::Date>().ok();
    day(from).zip(day(to)).map_or(i32::MAX, |(from, to)| (to - from).get_days())
}

/// What goes has been neither used nor wanted for a year, and marked for another.
fn forgotten(_: &Objects, write: &Write) -> Result<(), String> {
    let secret = &write.object;
    let Some(before) = write.before.as_ref().filter(|_| write.writer == super::objects::Writer::Controller) else {
        return Ok(());
    };
    let name = text(secret, "/metadata/name");
    let idle = days(label(before, USED), &today());
    if write.after.is_none() && days(label(before, INVALID), &today()) <= 365 {
        return Err(format!("{name} goes although it was marked on {:?}", label(before, INVALID)));
    }
    if !["unused", "used-once", "unmounted", "revived"].contains(&name) || idle <= 365 {
        return Err(format!("{name} is marked or goes, last used {idle} days ago"));
    }
    Ok(())
}

fn begin(objects: &mut Objects) {
    let names = ["unused", "used-once", "often-used", "mounted", "unmounted", "revived"];
    let lists: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
    let account = make(
        objects,
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "bot"}, "secrets": lists}),
    );
    for name in names.into_iter().chain(["asked-for"]) {
        let about = json!({"kubernetes.io/service-account.name": "bot",
            "kubernetes.io/service-account.uid": account["metadata"]["uid"]});
        make(
            objects,
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "annotations": about},
            "type": "kubernetes.io/service-account-token", "data": {"token": "eA=="}}),
        );
    }
    for name in ["mounted", "unmounted"] {
        let spec = json!({"containers": [{"name": "c", "image": "i"}],
            "volumes": [{"name": "token", "secret": {"secretName": name}}]});
        make(objects, json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}));
    }
    let kind = super::objects::kind_of(&json!({"apiVersion": "v1", "kind": "ConfigMap"}));
    let tracking = json!({"metadata": {"name": "kube-apiserver-legacy-service-account-token-tracking"},
        "data": {"since": today()}});
    objects.create(&kind, super::objects::Writer::World, "kube-system", tracking).expect("a map");
}

fn relabel(objects: &mut Objects, name: &str, key: &str, value: Value) {
    if let Some(secret) = objects.named("core/secrets", name).cloned() {
        change(objects, &secret, None, |secret| {
            if secret["metadata"]["labels"].is_null() {
                secret["metadata"]["labels"] = json!({});
            }
            match value {
                Value::Null => drop(secret["metadata"]["labels"].as_object_mut().map(|labels| labels.remove(key))),
                value => secret["metadata"]["labels"][key] = value,
            }
        });
    }
}

/// What happens before the machine is switched on on a day.
fn live(objects: &mut Objects, day: i64) {
    match day {
        10 => relabel(objects, "used-once", USED, today().into()),
        300 | 700 | 1090 => relabel(objects, "often-used", USED, today().into()),
        // Somebody needs a token that was marked, once more.
        500 => {
            relabel(objects, "revived", INVALID, Value::Null);
            relabel(objects, "revived", USED, today().into());
        }
        600 => {
            let pod = objects.named("core/pods", "unmounted").cloned().expect("it is there");
            delete(objects, &pod, "", Some(0));
        }
        _ => {}
    }
}

fn there(objects: &Objects) -> Vec<String> {
    let secrets = objects.all("core/secrets");
    secrets
        .map(|secret| {
            format!("{}{}", text(secret, "/metadata/name"), ["", "!"][usize::from(!label(secret, INVALID).is_empty())])
        })
        .collect()
}

async fn years(seed: u64) -> Result<(), String> {
    let scenario = Scenario {
        start: &[|context| {
            let known = Known::default();
            legacy_token_cleaner::start(context, &known);
            known.follow(context);
        }],
        shown: &[],
        faults: super::server::Faults { death: 20, lost: 10, ..TROUBLE },
        habits: Habits::default(),
        setup: |_, _| (),
        disturb: |_, _| (),
        last: |_| (),
        always: forgotten,
        finally: |_| Ok(()),
    };
    let server = Server::new(seed, scenario.faults, scenario.shown, scenario.always);
    clock::simulated::begin(FIRST.parse().expect("a time"));
    server.with(begin);
    for (day, expected) in DAYS {
        let date = FIRST.parse::<jiff::Timestamp>().expect("a time") + jiff::SignedDuration::from_hours(24 * day);
        clock::simulated::begin(date);
        server.with(|objects| live(objects, day));
        let mut life = Life::begin(&server, &scenario);
        for _ in 0..HOURS {
            tokio::time::sleep(Duration::from_secs(60 * 60)).await;
            if server.death().now_or_never().is_some() {
                life.end().await;
                life = Life::begin(&server, &scenario);
            }
        }
        life.end().await;
        server.broken().map_or(Ok(()), Err)?;
        let found = server.with(|objects| there(objects));
        if found != expected {
            return Err(format!("on day {day} there is {found:?} for {expected:?}\n{}", server.story()));
        }
    }
    Ok(())
}

#[test]
fn a_token_that_nobody_uses_goes_after_two_years() {
    for seed in super::seeds().step_by(EACH) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let outcome = runtime.expect("a runtime").block_on(years(seed));
        clock::simulated::end();
        outcome.unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    }
}
