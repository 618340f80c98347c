//! Claims, slices and classes in, devices and upstream's words out.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const DRIVER: &str = "gpu.example.com";

fn devices(slices: Vec<Value>, claims: Vec<Value>) -> Devices {
    let mut devices = Devices::default();
    let selectors = json!([{"cel": {"expression": "device.driver == \"gpu.example.com\""}}]);
    let config = json!([{"opaque": {"driver": DRIVER, "parameters": {"of": "class"}}}]);
    let class = json!({"metadata": {"name": "gpu"}, "spec": {"selectors": selectors, "config": config}});
    devices.set_class(serde_json::from_value(class).expect("a class"));
    for slice in slices {
        devices.set_slice(serde_json::from_value(slice).expect("a slice"));
    }
    for (number, mut claim) in claims.into_iter().enumerate() {
        claim["metadata"] = json!({"name": format!("c{number}"), "namespace": "default", "uid": format!("u{number}")});
        devices.set_claim(serde_json::from_value(claim).expect("a claim"));
    }
    devices
}

fn slice(node: &str, list: Value) -> Value {
    json!({"metadata": {"name": format!("slice-{node}")}, "spec": {"driver": DRIVER, "nodeName": node,
        "pool": {"name": node, "generation": 1, "resourceSliceCount": 1}, "devices": list}})
}

fn exactly(name: &str, more: Value) -> Value {
    let mut exact = json!({"deviceClassName": "gpu"});
    for (key, value) in more.as_object().into_iter().flatten() {
        exact[key] = value.clone();
    }
    json!({"name": name, "exactly": exact})
}

fn claim(requests: Value) -> Value {
    json!({"spec": {"devices": {"requests": requests}}})
}

fn pod(claims: usize) -> PodInfo {
    let mut pod = crate::pod::tests::pod("p", json!({}));
    pod.device_claims = (0..claims)
        .map(|number| DeviceClaimUse { claim: Some(format!("c{number}").into()), generated: false })
        .collect();
    pod
}

/// The chosen devices of each claim by `request=device`, or why there are none.
fn ask(devices: &Devices, claims: usize, node: &str) -> String {
    let pod = pod(claims);
    let labels = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
    let place = Place { name: node, labels: &labels };
    let answer = devices.question(&pod).and_then(|question| question.expect("claims").ask(place));
    match answer {
        Err(why) => why,
        Ok(results) => {
            let one = |result: &AllocationResult| {
                let results = result.devices.iter().flat_map(|devices| devices.results.iter().flatten());
                let texts = results.map(|result| {
                    let consumed = result.consumed_capacity.iter().flatten();
                    let consumed: String = consumed.map(|(name, amount)| format!("({name} {})", amount.0)).collect();
                    format!("{}={}{consumed}", result.request, result.device)
                });
                texts.collect::<Vec<_>>().join(" ")
            };
            results.iter().map(one).collect::<Vec<_>>().join("; ")
        }
    }
}

fn named(name: &str, more: Value) -> Value {
    let mut device = json!({"name": name});
    for (key, value) in more.as_object().into_iter().flatten() {
        device[key] = value.clone();
    }
    device
}

#[test]
fn exact_requests() {
    let check = |list: Value, claims: Vec<Value>, node: &str, expected: &str| {
        let number = claims.len();
        assert_eq!(ask(&devices(vec![slice("n", list)], claims), number, node), expected);
    };
    let three = || {
        let model = |text: &str| json!({"attributes": {"model": {"string": text}, "numa": {"int": 0}}});
        json!([named("d0", model("a")), named("d1", model("b")), named("d2", model("a"))])
    };
    let cel = |text: &str| json!([{"cel": {"expression": text}}]);
    let model_a = cel("device.attributes[\"gpu.example.com\"].model == \"a\"");
    let none = "cannot allocate all claims";
    check(three(), vec![claim(json!([exactly("r", json!({}))]))], "n", "r=d0");
    check(three(), vec![claim(json!([exactly("r", json!({}))]))], "other", none);
    check(three(), vec![claim(json!([exactly("r", json!({"count": 3}))]))], "n", "r=d0 r=d1 r=d2");
    check(three(), vec![claim(json!([exactly("r", json!({"count": 4}))]))], "n", none);
    check(three(), vec![claim(json!([exactly("r", json!({"count": 2, "selectors": model_a}))]))], "n", "r=d0 r=d2");
    check(
        three(),
        vec![claim(json!([exactly("r", json!({"allocationMode": "All", "selectors": model_a}))]))],
        "n",
        "r=d0 r=d2",
    );
    let broken = cel("device.attributes[\"gpu.example.com\"].nothing == \"a\"");
    let answer = ask(
        &devices(vec![slice("n", three())], vec![claim(json!([exactly("r", json!({"selectors": broken}))]))]),
        1,
        "n",
    );
    assert!(
        answer.starts_with("claim default/c0, request r, device gpu.example.com/n/d0: CEL runtime error"),
        "{answer}"
    );
    // The first request takes what the second needs, until the search goes back.
    let greedy = json!([exactly("any", json!({})), exactly("a", json!({"count": 2, "selectors": model_a}))]);
    check(three(), vec![claim(greedy)], "n", "any=d1 a=d0 a=d2");
    let two = vec![claim(json!([exactly("r", json!({"count": 2}))])), claim(json!([exactly("s", json!({}))]))];
    check(three(), two, "n", "r=d0 r=d1; s=d2");
    let missing = json!([{"name": "r", "exactly": {"deviceClassName": "other"}}]);
    check(three(), vec![claim(missing)], "n", "request r: device class other does not exist");
}

#[test]
fn alternatives_constraints_and_taints() {
    let numa = |node: i64| json!({"attributes": {"numa": {"int": node}, "size": {"int": node + 1}}});
    let list = json!([
        named("d0", numa(0)),
        named("d1", numa(1)),
        named("d2", numa(1)),
        named("d3", json!({"taints": [{"key": "broken", "effect": "NoSchedule"}]}))
    ]);
    let check = |requests: Value, constraints: Value, expected: &str| {
        let mut claim = claim(requests);
        claim["spec"]["devices"]["constraints"] = constraints;
        assert_eq!(ask(&devices(vec![slice("n", list.clone())], vec![claim]), 1, "n"), expected);
    };
    let first = json!([{"name": "r", "firstAvailable": [
        {"name": "many", "deviceClassName": "gpu", "count": 9}, {"name": "one", "deviceClassName": "gpu"}]}]);
    check(first, json!([]), "r/one=d0");
    let same = json!([{"matchAttribute": "gpu.example.com/numa"}]);
    let pair = json!([exactly("r", json!({})), exactly("s", json!({}))]);
    check(pair.clone(), same, "r=d1 s=d2");
    check(pair.clone(), json!([{"distinctAttribute": "gpu.example.com/numa"}]), "r=d0 s=d1");
    check(pair.clone(), json!([{"matchAttribute": "gpu.example.com/numa", "requests": ["r"]}]), "r=d0 s=d1");
    check(pair, json!([{"matchAttribute": "gpu.example.com/unknown"}]), "cannot allocate all claims");
    check(json!([exactly("r", json!({"count": 4}))]), json!([]), "cannot allocate all claims");
    let tolerant = json!({"count": 4, "tolerations": [{"key": "broken", "operator": "Exists"}]});
    check(json!([exactly("r", tolerant)]), json!([]), "r=d0 r=d1 r=d2 r=d3");
}

#[test]
fn parts_of_devices() {
    let part = |name: &str, memory: &str| {
        named(name, json!({"consumesCounters": [{"counterSet": "card", "counters": {"memory": {"value": memory}}}]}))
    };
    let mut of_parts = slice("n", json!([part("whole", "40Gi"), part("left", "20Gi"), part("right", "20Gi")]));
    of_parts["spec"]["sharedCounters"] = json!([{"name": "card", "counters": {"memory": {"value": "40Gi"}}}]);
    let two = json!([exactly("r", json!({})), exactly("s", json!({}))]);
    assert_eq!(ask(&devices(vec![of_parts.clone()], vec![claim(two)]), 1, "n"), "r=left s=right");
    let three = json!([exactly("r", json!({"count": 3}))]);
    assert_eq!(ask(&devices(vec![of_parts], vec![claim(three)]), 1, "n"), "cannot allocate all claims");

    let shared = named(
        "d",
        json!({"allowMultipleAllocations": true, "capacity": {"memory": {"value": "10Gi",
        "requestPolicy": {"default": "1Gi", "validRange": {"min": "1Gi", "step": "2Gi"}}}}}),
    );
    let takes = |amount: &str| claim(json!([exactly("r", json!({"capacity": {"requests": {"memory": amount}}}))]));
    let all = |claims: Vec<Value>| {
        let number = claims.len();
        ask(&devices(vec![slice("n", json!([shared]))], claims), number, "n")
    };
    let gibi = |number: u64| number * 1024 * 1024 * 1024;
    assert_eq!(all(vec![takes("4Gi"), takes("2Gi")]), format!("r=d(memory {}); r=d(memory {})", gibi(5), gibi(3)));
    assert_eq!(all(vec![takes("4Gi"), takes("6Gi")]), "cannot allocate all claims");
    assert_eq!(all(vec![claim(json!([exactly("r", json!({}))]))]), format!("r=d(memory {})", gibi(1)));
}

#[test]
fn pools_and_reach() {
    let mut old = slice("n", json!([named("old", json!({}))]));
    old["metadata"]["name"] = json!("before");
    let mut new = slice("n", json!([named("new", json!({}))]));
    new["spec"]["pool"]["generation"] = json!(2);
    let one = || vec![claim(json!([exactly("r", json!({}))]))];
    assert_eq!(ask(&devices(vec![old, new.clone()], one()), 1, "n"), "r=new");
    new["spec"]["pool"]["resourceSliceCount"] = json!(2);
    assert_eq!(ask(&devices(vec![new], one()), 1, "n"), "cannot allocate all claims");
    let twins = slice("n", json!([named("d", json!({})), named("d", json!({}))]));
    assert_eq!(ask(&devices(vec![twins], one()), 1, "n"), "cannot allocate all claims");
    let mut zonal = slice("n", json!([named("d", json!({}))]));
    zonal["spec"]["nodeName"] = Value::Null;
    zonal["spec"]["nodeSelector"] =
        json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]});
    let zonal = devices(vec![zonal], one());
    assert_eq!(ask(&zonal, 1, "anywhere"), "r=d");
    let labels = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
    let pod = pod(1);
    let place = Place { name: "anywhere", labels: &labels };
    let found = zonal.question(&pod).expect("a question").expect("claims").ask(place).expect("devices");
    let term = &found[0].node_selector.as_ref().expect("a selector").node_selector_terms[0];
    assert_eq!(term.match_expressions.as_ref().expect("expressions")[0].key, "zone");
    let config = found[0].devices.as_ref().and_then(|devices| devices.config.as_ref()).expect("configuration");
    assert_eq!((config[0].source.as_str(), config[0].requests.clone()), ("FromClass", Some(vec!["r".to_owned()])));
}

#[test]
fn claims_say_why_they_keep_a_pod() {
    let mut devices =
        devices(vec![slice("n", json!([named("d", json!({}))]))], vec![claim(json!([exactly("r", json!({}))]))]);
    let word = |devices: &Devices, pod: &PodInfo| devices.question(pod).map(|_| ()).expect_err("it waits");
    let mut user = pod(2);
    assert_eq!(word(&devices, &user), "resourceclaim.resource.k8s.io \"c1\" not found");
    user.device_claims = Box::new([DeviceClaimUse { claim: None, generated: true }]);
    assert_eq!(word(&devices, &user), "pod \"default/p\": ResourceClaim not created yet");
    user.device_claims = Box::new([DeviceClaimUse { claim: Some("c0".into()), generated: true }]);
    assert_eq!(word(&devices, &user), "ResourceClaim default/c0 was not created for pod default/p (pod is not owner)");

    // What is on its way to a claim belongs to nobody else, until its pod is given up.
    let labels = BTreeMap::new();
    let place = Place { name: "n", labels: &labels };
    let writes = devices.assume(&pod(1), place).expect("devices");
    assert_eq!(writes.len(), 1);
    assert_eq!(word(&devices, &pod(1)), "resourceclaim \"c0\" is in the process of being allocated");
    let mut second = claim(json!([exactly("r", json!({}))]));
    second["metadata"] = json!({"name": "c1", "namespace": "default", "uid": "u1"});
    devices.set_claim(serde_json::from_value(second).expect("a claim"));
    let mut other = pod(1);
    other.device_claims = Box::new([DeviceClaimUse { claim: Some("c1".into()), generated: false }]);
    let question = devices.question(&other).expect("a question").expect("claims");
    assert_eq!(question.ask(place), Err("cannot allocate all claims".to_owned()));
    assert!(devices.release("p"));
    let question = devices.question(&other).expect("a question").expect("claims");
    assert!(question.ask(place).is_ok());

    // One that has its devices is tied to where they are; nobody using them, they can be given back.
    let mut taken = (*writes[0].claim).clone();
    taken.status.get_or_insert_default().allocation.clone_from(&writes[0].allocation);
    devices.set_claim(taken);
    let question = devices.question(&user_of("c0")).expect("a question").expect("claims");
    assert_eq!(
        question.ask(Place { name: "m", labels: &labels }),
        Err("resourceclaim not available on the node".to_owned())
    );
    assert!(devices.to_give_back(&user_of("c0")).is_some());
    assert_eq!(ask_one(&devices, "c1", "n"), "cannot allocate all claims");
}

fn user_of(claim: &str) -> PodInfo {
    let mut user = pod(0);
    user.device_claims = Box::new([DeviceClaimUse { claim: Some(claim.into()), generated: false }]);
    user
}

fn ask_one(devices: &Devices, claim: &str, node: &str) -> String {
    let user = user_of(claim);
    let labels = BTreeMap::new();
    let question = devices.question(&user).expect("a question").expect("claims");
    question.ask(Place { name: node, labels: &labels }).map_or_else(|why| why, |_| "found".to_owned())
}

proptest! {
    /// Whatever is asked for: no device is given twice, and if some way to share the devices out exists, one is found.
    #[test]
    fn devices_are_given_once_and_puzzles_are_solved(
        models in prop::collection::vec(0_i64..3, 1..6),
        wanted in prop::collection::vec((prop::option::of(0_i64..3), 1_usize..3), 1..4),
    ) {
        let list: Vec<Value> = models.iter().enumerate()
            .map(|(number, model)| named(&format!("d{number}"), json!({"attributes": {"model": {"int": model}}})))
            .collect();
        let requests: Vec<Value> = wanted.iter().enumerate().map(|(number, (model, count))| {
            let selectors: Vec<Value> = model.iter().map(|model| json!({"cel": {"expression":
                format!("device.attributes[\"gpu.example.com\"].model == {model}")}})).collect();
            exactly(&format!("r{number}"), json!({"count": count, "selectors": selectors}))
        }).collect();
        let answer = ask(&devices(vec![slice("n", json!(list))], vec![claim(json!(requests))]), 1, "n");
        // Requests for one model need that many of it; the rest takes what is left.
        let of = |model: i64| wanted.iter().filter(|(asked, _)| *asked == Some(model)).map(|(_, count)| count).sum::<usize>();
        let total: usize = wanted.iter().map(|(_, count)| count).sum();
        let possible = total <= models.len() && (0..3).all(|model| of(model) <= models.iter().filter(|is| **is == model).count());
        prop_assert_eq!(answer != "cannot allocate all claims", possible, "{}", answer);
        if possible {
            let given: Vec<&str> = answer.split(' ').filter_map(|part| part.split('=').nth(1)).collect();
            prop_assert_eq!(given.len(), total);
            prop_assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), total);
        }
    }
}
