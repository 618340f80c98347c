//! What runs in the containers of the test.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::ExitCode;

/// One small program a word.
pub fn main(arguments: Vec<String>) -> ExitCode {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["exit", code] => ExitCode::from(code.parse::<u8>().unwrap_or(99)),
        ["hold"] => {
            println!("holding");
            loop {
                std::thread::park();
            }
        }
        ["last-words", words, code] => {
            let written = std::fs::write("/dev/termination-log", words);
            ExitCode::from(if written.is_ok() { code.parse::<u8>().unwrap_or(99) } else { 98 })
        }
        ["show", paths @ ..] => {
            for path in paths {
                match std::fs::read_to_string(path) {
                    Ok(text) => println!("{}", text.trim_end()),
                    Err(error) => println!("{path}: {error}"),
                }
            }
            ExitCode::SUCCESS
        }
        ["owners", paths @ ..] => {
            use std::os::unix::fs::MetadataExt;
            for path in paths {
                match std::fs::metadata(path) {
                    Ok(file) => println!("{path} {}:{}", file.uid(), file.gid()),
                    Err(error) => println!("{path}: {error}"),
                }
            }
            ExitCode::SUCCESS
        }
        [command @ ("write" | "write-hold"), path] => {
            // By its own name, as programs do that log to a file.
            for (path, words) in [(*path, "mine"), ("/dev/stdout", "written\n")] {
                if let Err(error) = std::fs::write(path, words) {
                    println!("{path}: {error}");
                    return ExitCode::FAILURE;
                }
            }
            if *command == "write" {
                return ExitCode::SUCCESS;
            }
            loop {
                std::thread::park();
            }
        }
        ["env", names @ ..] => {
            for name in names {
                println!("{name}={}", std::env::var(name).unwrap_or_default());
            }
            ExitCode::SUCCESS
        }
        ["env-hold", name] => {
            println!("{name}={}", std::env::var(name).unwrap_or_default());
            loop {
                std::thread::park();
            }
        }
        ["once", path, code] => {
            if std::fs::File::create_new(path).is_ok() {
                return ExitCode::from(code.parse::<u8>().unwrap_or(99));
            }
            loop {
                std::thread::park();
            }
        }
        ["cat"] => {
            let mut text = String::new();
            if std::io::stdin().read_to_string(&mut text).is_err() {
                return ExitCode::FAILURE;
            }
            print!("{text}");
            ExitCode::from(7)
        }
        ["serve", port] => serve(port),
        other => {
            eprintln!("what is {other:?}?");
            ExitCode::from(64)
        }
    }
}

/// Answers every request with 200 while `/tmp/sick` does not exist, with 500 otherwise.
fn serve(port: &str) -> ExitCode {
    let Ok(listener) = TcpListener::bind(format!("0.0.0.0:{port}")) else { return ExitCode::FAILURE };
    println!("serving");
    for stream in listener.incoming().flatten() {
        let mut stream = stream;
        let mut buffer = [0; 1024];
        if stream.read(&mut buffer).is_err() {
            continue;
        }
        let status = if std::path::Path::new("/tmp/sick").exists() { "500 Sick" } else { "200 OK" };
        // A client that has gone needs no answer.
        drop(write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"));
    }
    ExitCode::SUCCESS
}
