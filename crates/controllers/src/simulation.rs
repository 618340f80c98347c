//! Controllers against a server that a seed makes slow, forgetful and deadly.
//!
//! A [`Scenario`] names controllers, what there is at first, what somebody does meanwhile, what must hold after every single
//! write, and what must be there in the end. A seed then says how long each request and each event is on its way, which are
//! refused, whose answers are lost, which watches break, expire or repeat themselves, when the process dies in the middle of
//! what it does and starts anew, and what the nodes do to pods. Time is tokio's paused clock, so that an hour costs nothing.
//!
//! ```text
//!   scenario ── start ──> controllers ──kube::Client──> Server (faults, versions, watches)
//!                             ^   dies, starts anew         │ every write ──> `always`
//!                             └──────── seed ───────────────┴ nodes, people
//! ```
//!
//! In the end everything calms down: the controllers have to bring about what they should (`finally`), and then to be silent.

mod autoscaling;
mod devices;
mod extenders;
mod machines;
mod namespaces;
mod nodes;
mod objects;
mod policies;
mod server;
mod tokens;
mod workloads;

use std::sync::Arc;
use std::time::Duration;

use kobune_scheduler::recorder::Recorder;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Config;
use crate::clock;
use crate::context::{Caches, Context, Touched};
use machines::Habits;
use objects::{Objects, Write};
use server::{Faults, Server, make};

/// How many seeds a test tries, unless `KOBUNE_SIMULATION_SEEDS` says otherwise; the first is 0 or
/// `KOBUNE_SIMULATION_FIRST`. `make simulations` tries thousands.
const SEEDS: u64 = 8;
/// How often something happens before everything calms down.
const STEPS: u32 = 60;
/// How long after the last write everything counts as settled: longer than any delay of a queue but the longest.
const SETTLED: Duration = Duration::from_secs(300);
/// How long nothing may be asked of the server once all has settled.
const SILENCE: Duration = Duration::from_secs(3600);

/// What is simulated.
pub struct Scenario {
    /// The controllers.
    pub start: &'static [fn(&Arc<Context>)],
    /// What discovery shows, for those that need it.
    pub shown: &'static [&'static str],
    /// What goes wrong.
    pub faults: Faults,
    /// How pods fare.
    pub habits: Habits,
    /// What there is at first.
    pub setup: fn(&mut Objects, &mut SmallRng),
    /// What somebody does now and then.
    pub disturb: fn(&mut Objects, &mut SmallRng),
    /// What somebody does last, before everything calms down.
    pub last: fn(&mut Objects),
    /// What must hold after every write.
    pub always: fn(&Objects, &Write) -> Result<(), String>,
    /// What must hold in the end.
    pub finally: fn(&Objects) -> Result<(), String>,
}

/// All that goes wrong in an ordinary scenario.
pub const TROUBLE: Faults =
    Faults { refused: 15, lost: 0, death: 60, broken: 20, expired: 60, twice: 10, slow: 60, dies_at: None };

/// One life of the process: from its start to its death.
struct Life {
    token: CancellationToken,
    context: Arc<Context>,
}

impl Life {
    fn begin(server: &Server, scenario: &Scenario) -> Self {
        let (client, token) = (server.client(), CancellationToken::new());
        let (recorder, writer) = Recorder::new(client.clone(), "simulated");
        let context = Arc::new(Context {
            client,
            config: Config::default(),
            caches: Caches::default(),
            touched: Touched::default(),
            recorder,
            token: token.clone(),
            tasks: TaskTracker::new(),
        });
        context.spawn("events", writer);
        scenario.start.iter().for_each(|start| start(&context));
        context.follow_all();
        Self { token, context }
    }

    async fn end(self) {
        self.token.cancel();
        self.context.tasks.close();
        self.context.tasks.wait().await;
    }
}

/// Tries a scenario with many seeds.
pub fn simulate(scenario: &Scenario) {
    for seed in seeds() {
        run(scenario, seed);
        tell(seed);
    }
}

/// Says every hundred seeds how far a test has come, past what the test harness keeps back.
fn tell(seed: u64) {
    use std::io::Write as _;
    if (seed + 1).is_multiple_of(100) {
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        // Nobody to tell is no failure.
        drop(writeln!(std::io::stderr(), "{test}: {} seeds", seed + 1));
    }
}

/// The seeds that are tried.
fn seeds() -> std::ops::Range<u64> {
    let said = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let first = said("KOBUNE_SIMULATION_FIRST").unwrap_or(0);
    first..first + said("KOBUNE_SIMULATION_SEEDS").unwrap_or(SEEDS)
}

/// Lets the process die at each of its first requests in turn, before and after the request is carried out.
pub fn die_at_each_step(scenario: &Scenario, requests: u64) {
    for at in 2..requests * 2 {
        let faults = Faults { dies_at: Some(at), slow: 20, ..Faults::default() };
        run(&Scenario { faults, start: scenario.start, ..*scenario }, 7);
    }
}

fn run(scenario: &Scenario, seed: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async {
        clock::simulated::begin("2026-01-01T00:00:00Z".parse().expect("a time"));
        let server = Server::new(seed, scenario.faults, scenario.shown, scenario.always);
        let outcome = play(scenario, seed, &server).await;
        clock::simulated::end();
        if let Err(what) = outcome {
            panic!("seed {seed}: {what}\n{}", server.story());
        }
    });
}

async fn play(scenario: &Scenario, seed: u64, server: &Server) -> Result<(), String> {
    let mut random = SmallRng::seed_from_u64(seed ^ 0x5EED);
    server.with(|objects| {
        for number in 0..3 {
            make(objects, json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("n{number}")}}));
        }
        (scenario.setup)(objects, &mut random);
    });
    let mut life = Life::begin(server, scenario);
    for _ in 0..STEPS {
        let wait = Duration::from_millis(random.random_range(0..400));
        // A death that is not waited for now is told at the next turn.
        tokio::select! {
            biased;
            () = server.death() => {
                life.end().await;
                life = Life::begin(server, scenario);
            }
            () = tokio::time::sleep(wait) => {}
        }
        server.with(|objects| {
            if random.random_ratio(1, 6) {
                (scenario.disturb)(objects, &mut random);
            }
            let pods: Vec<Arc<Value>> = objects.all("core/pods").cloned().collect();
            for _ in 0..3 {
                if let Some(pod) =
                    pods.choose(&mut random).and_then(|pod| objects.with_uid(objects::text(pod, "/metadata/uid")))
                {
                    machines::step(objects, &pod.clone(), scenario.habits, &mut random);
                }
            }
        });
        server.broken().map_or(Ok(()), Err)?;
    }
    // A process that has died and was not noticed is started before nothing goes wrong any more.
    server.calm();
    server.with(scenario.last);
    life.end().await;
    let life = Life::begin(server, scenario);
    settle(server, &mut random).await?;
    server.with(|objects| (scenario.finally)(objects))?;
    let before = server.requests();
    tokio::time::sleep(SILENCE).await;
    life.end().await;
    let asked = server.requests() - before;
    if asked > 0 {
        return Err(format!("{asked} requests although nothing was to do"));
    }
    Ok(())
}

/// Lets the nodes do their work until nothing changes any more.
async fn settle(server: &Server, random: &mut SmallRng) -> Result<(), String> {
    let mut quiet = Duration::ZERO;
    for _ in 0..4000 {
        let before = server.with(|objects| objects.revision());
        server.with(|objects| {
            let pods: Vec<Arc<Value>> = objects.all("core/pods").cloned().collect();
            for pod in pods {
                // What one pod does may have taken another away.
                if let Some(pod) = objects.with_uid(objects::text(&pod, "/metadata/uid")).cloned() {
                    machines::step(objects, &pod, Habits::default(), random);
                }
            }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        server.broken().map_or(Ok(()), Err)?;
        let after = server.with(|objects| objects.revision());
        quiet = if before == after { quiet + Duration::from_secs(1) } else { Duration::ZERO };
        if quiet > SETTLED {
            return Ok(());
        }
    }
    Err("it does not settle".to_owned())
}
