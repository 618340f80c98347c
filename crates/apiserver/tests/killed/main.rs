//! `kill -9` of an API server under load, again and again: every acknowledged write is there, revisions never repeat, a
//! watch goes on or is refused, and the next process starts by itself on what the last one left.
//!
//! The program starts itself again as the server, which drives itself with requests in process and says on its standard
//! output what it is about to do and what was answered. `KOBUNE_KILLS` sets the number of kills.

mod model;
mod serve;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use model::Model;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Kills in all.
const KILLS: u64 = 200;
/// Data folders that are used side by side.
const CHAINS: u64 = 2;
/// The argument that makes this program the server.
const SERVE: &str = "serve";

fn kills() -> u64 {
    match std::env::var("KOBUNE_KILLS") {
        Ok(text) => text.parse().expect("KOBUNE_KILLS is a number"),
        Err(_) => KILLS,
    }
}

/// One process: started, told what to expect, killed after a random number of answers and a random moment more.
fn live(folder: &Path, seed: u64, model: &mut Model) -> Result<(), String> {
    let mut random = StdRng::seed_from_u64(seed);
    let failed = |what: &str, error: std::io::Error| format!("{what}: {error}");
    let mut child = Command::new(std::env::current_exe().map_err(|error| failed("find this program", error))?)
        .args([SERVE, &seed.to_string()])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed("start the server", error))?;
    let mut input = child.stdin.take().expect("it is piped");
    let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
    input.write_all(model.expectations().as_bytes()).map_err(|error| failed("tell what to expect", error))?;
    drop(input);

    let lines = random.random_range(0..400);
    let mut line = String::new();
    for _ in 0..lines {
        line.clear();
        if output.read_line(&mut line).map_err(|error| failed("read from the server", error))? == 0 {
            break;
        }
        model.hear(line.trim_end())?;
    }
    std::thread::sleep(Duration::from_micros(random.random_range(0..3000)));
    child.kill().map_err(|error| failed("kill the server", error))?;
    for line in output.lines() {
        model.hear(&line.map_err(|error| failed("read from the server", error))?)?;
    }
    let status = child.wait().map_err(|error| failed("wait for the server", error))?;
    match status.code() {
        // A signal: it was still at work.
        None => Ok(()),
        Some(code) => Err(format!("the server ended by itself with code {code}")),
    }
}

fn chain(first: u64, rounds: u64) -> Result<u64, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut model = Model::default();
    for seed in first..first + rounds {
        live(folder.path(), seed, &mut model).map_err(|error| format!("kill {seed}: {error}"))?;
    }
    Ok(model.answers())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, word, seed, folder] = arguments.as_slice()
        && word == SERVE
    {
        serve::run(Path::new(folder), seed.parse().expect("the seed is a number"));
    }
    let each = kills().div_ceil(CHAINS);
    let results: Vec<Result<u64, String>> = std::thread::scope(|scope| {
        let chains: Vec<_> = (0..CHAINS).map(|number| scope.spawn(move || chain(number * each, each))).collect();
        chains.into_iter().map(|chain| chain.join().expect("a chain does not panic")).collect()
    });
    let mut code = ExitCode::SUCCESS;
    let mut answers = 0;
    for result in results {
        match result {
            Ok(count) => answers += count,
            Err(error) => {
                eprintln!("{error}");
                code = ExitCode::FAILURE;
            }
        }
    }
    // A server that never answers would pass every check.
    assert!(answers > kills(), "{answers} writes were acknowledged");
    println!("{} kills, {answers} acknowledged writes", each * CHAINS);
    code
}
