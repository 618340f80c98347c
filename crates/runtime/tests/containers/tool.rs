//! What runs in the containers of the test.

use std::io::{Read, Write};
use std::process::ExitCode;

/// One small program a word.
pub fn main(arguments: Vec<String>) -> ExitCode {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["exit", code] => ExitCode::from(code.parse::<u8>().unwrap_or(99)),
        ["print", out, err] => {
            println!("{out}");
            eprintln!("{err}");
            ExitCode::SUCCESS
        }
        ["hold"] => {
            println!("holding");
            loop {
                std::thread::park();
            }
        }
        ["stubborn"] => {
            // SIGTERM is not even pending for the first process of a namespace without a handler; say that we run and stay.
            println!("staying");
            loop {
                std::thread::park();
            }
        }
        ["cat"] => {
            let mut bytes = Vec::new();
            if std::io::stdin().read_to_end(&mut bytes).is_err() || std::io::stdout().write_all(&bytes).is_err() {
                return ExitCode::FAILURE;
            }
            println!("<end>");
            ExitCode::SUCCESS
        }
        ["file", path] => match std::fs::read_to_string(path) {
            Ok(text) => {
                print!("{text}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        },
        ["write", path, text] => ExitCode::from(u8::from(std::fs::write(path, text).is_err())),
        ["list", path] => {
            let mut names: Vec<String> = std::fs::read_dir(path)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect();
            names.sort();
            println!("{}", names.join(" "));
            ExitCode::SUCCESS
        }
        ["env", name] => {
            println!("{}", std::env::var(name).unwrap_or_default());
            ExitCode::SUCCESS
        }
        ["eat", megabytes] => {
            let mut eaten: Vec<Vec<u8>> = Vec::new();
            for _ in 0..megabytes.parse::<usize>().unwrap_or(0) {
                eaten.push(vec![1; 1 << 20]);
            }
            println!("ate {}", eaten.len());
            ExitCode::SUCCESS
        }
        ["terminal"] => {
            println!("{}", std::io::IsTerminal::is_terminal(&std::io::stdout()));
            ExitCode::SUCCESS
        }
        ["pid"] => {
            println!("{}", std::process::id());
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("unknown tool {words:?}");
            ExitCode::from(98)
        }
    }
}
