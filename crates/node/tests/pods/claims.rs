//! Devices of claims: a DRA driver prepares them before the pod starts and gives them up when it is gone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use anyhow::{Result, ensure};
use prost::Message;
use serde_json::{Value, json};

use crate::plugins::Plugin;
use crate::world::World;

const DRIVER: &str = "things.example.com";
const CLAIM: &str = "/apis/resource.k8s.io/v1/namespaces/ns/resourceclaims/mine";

#[derive(Clone, PartialEq, prost::Message)]
struct Info {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, repeated, tag = "4")]
    versions: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Claims {
    #[prost(message, repeated, tag = "1")]
    claims: Vec<Claim>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Claim {
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Answer {
    #[prost(map = "string, message", tag = "1")]
    claims: HashMap<String, Prepared>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Prepared {
    #[prost(message, repeated, tag = "1")]
    devices: Vec<Device>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Device {
    #[prost(string, repeated, tag = "1")]
    requests: Vec<String>,
    #[prost(string, tag = "2")]
    pool: String,
    #[prost(string, tag = "3")]
    device: String,
    #[prost(string, repeated, tag = "4")]
    cdi: Vec<String>,
}

type Asked = Arc<Mutex<Vec<String>>>;

fn start(world: &World, asked: &Asked) -> Result<Plugin> {
    let asked = Arc::clone(asked);
    let answers = Arc::new(move |method: &str, message: &[u8]| {
        let verb = method.rsplit('/').next().unwrap_or_default();
        if verb == "GetInfo" {
            let versions = vec!["v1.DRAPlugin".to_owned()];
            return Ok(Info { kind: "DRAPlugin".into(), name: DRIVER.into(), versions }.encode_to_vec());
        }
        if verb == "NotifyRegistrationStatus" {
            return Ok(Vec::new());
        }
        if !method.starts_with("/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/") {
            return Err(format!("{method} is not known"));
        }
        let wanted = Claims::decode(message).map_err(|error| error.to_string())?;
        let mut answer = Answer { claims: HashMap::new() };
        for claim in wanted.claims {
            asked.lock().expect("not poisoned").push(format!("{verb} {}", claim.name));
            let device = |request: &str| Device {
                requests: vec![request.to_owned()],
                pool: "n".to_owned(),
                device: request.to_owned(),
                cdi: vec![format!("example.com/thing={request}")],
            };
            let devices = if verb == "NodePrepareResources" { vec![device("one"), device("two")] } else { Vec::new() };
            answer.claims.insert(claim.uid, Prepared { devices });
        }
        Ok(answer.encode_to_vec())
    });
    Plugin::start(&world.node_dir().join("plugins_registry").join("things-reg.sock"), answers, None)
}

/// The claim as the scheduler leaves it for the pod that is there.
fn allocate(world: &World, pod: &str) {
    let uid = world.api.get(&World::path(pod)).unwrap_or_default()["metadata"]["uid"].clone();
    let result = |request: &str| json!({"driver": DRIVER, "pool": "n", "device": request, "request": request});
    let status = json!({
        "allocation": {"devices": {"results": [result("one"), result("two")]}},
        "reservedFor": [{"resource": "pods", "name": pod, "uid": uid}],
    });
    let meta = json!({"name": "mine", "namespace": "ns", "uid": "claim-uid"});
    world.api.put(CLAIM, json!({"metadata": meta, "spec": {}, "status": status}));
}

/// A pod waits for its claim and its driver, gets what it asks for, and leaves nothing prepared.
pub async fn devices_of_claims(world: &mut World) -> Result<()> {
    std::fs::create_dir_all(world.cdi())?;
    let edits = |name: &str| json!({"name": name, "containerEdits": {"env": [format!("THING_{name}=here")], "deviceNodes": [{"path": format!("/dev/{name}"), "hostPath": "/dev/null"}]}});
    let file = json!({"cdiVersion": "0.6.0", "kind": "example.com/thing", "devices": [edits("one"), edits("two")]});
    std::fs::write(world.cdi().join("things.json"), file.to_string())?;

    let claims = |wanted: Value| json!({"claims": [wanted]});
    let some = json!({"name": "some", "run": "env THING_one THING_two", "resources": claims(json!({"name": "t", "request": "one"}))});
    let all = json!({"name": "all", "run": "env THING_one THING_two", "resources": claims(json!({"name": "t"}))});
    let none = json!({"name": "none", "run": "env THING_one THING_two"});
    world.create(
        "claimer",
        json!({
            "restartPolicy": "Never",
            "containers": [some, all, none],
            "resourceClaims": [{"name": "t", "resourceClaimName": "mine"}],
        }),
    );
    world
        .until("the pod says that its claim is missing", async |world| {
            let reasons = world.reasons("claimer");
            if reasons.contains(&"FailedPrepareDynamicResources".to_owned()) {
                Ok(())
            } else {
                Err(format!("{reasons:?}"))
            }
        })
        .await?;
    allocate(world, "claimer");
    let asked = Asked::default();
    let driver = start(world, &asked)?;
    world.phase("claimer", "Succeeded").await?;
    ensure!(world.written("claimer", "some").await? == "THING_one=here\nTHING_two=\n");
    ensure!(world.written("claimer", "all").await? == "THING_one=here\nTHING_two=here\n");
    ensure!(world.written("claimer", "none").await? == "THING_one=\nTHING_two=\n");
    world.delete("claimer", 0);
    world.gone("claimer").await?;
    let told = asked.lock().expect("not poisoned").clone();
    ensure!(told == ["NodePrepareResources mine", "NodeUnprepareResources mine"], "{told:?}");

    // Somebody else's claim.
    world.create(
        "thief",
        json!({
            "containers": [{"name": "c", "run": "hold"}],
            "resourceClaims": [{"name": "t", "resourceClaimName": "mine"}],
        }),
    );
    world
        .until("the pod may not have it", async |world| {
            let events = world.api.all("/events/");
            let said = events.iter().filter(|event| event["involvedObject"]["name"] == "thief");
            let said: Vec<&str> = said.filter_map(|event| event["message"].as_str()).collect();
            let told = said.iter().any(|text| text.contains("is not allowed to use ResourceClaim mine"));
            if told { Ok(()) } else { Err(format!("{said:?}")) }
        })
        .await?;
    drop(driver);
    world.delete("thief", 0);
    world.gone("thief").await
}
