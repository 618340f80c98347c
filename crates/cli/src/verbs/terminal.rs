//! The terminal of `exec -t` and `attach -t`: raw while a guard lives, and its size.

use std::io::{self, IsTerminal as _, Read as _};

use bytes::Bytes;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use terminal_size::{Height, Width};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// How much is read at once.
const PIECE: usize = 32 << 10;

/// The terminal of standard input in raw mode. Whichever way this goes away, the terminal is as it was before.
pub struct Raw {
    before: Termios,
}

impl Raw {
    /// Makes the terminal raw.
    pub fn enter() -> io::Result<Raw> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(io::stdin(), SetArg::TCSANOW, &raw)?;
        Ok(Raw { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that has gone needs nothing.
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.before);
    }
}

/// Whether standard input is a terminal.
pub fn is_there() -> bool {
    io::stdin().is_terminal()
}

/// Columns and lines.
pub type Size = (u16, u16);

/// The terminal's size.
pub fn size() -> Option<Size> {
    let (Width(width), Height(height)) = terminal_size::terminal_size_of(io::stdout())?;
    Some((width, height))
}

/// The sizes to tell, in order, and then one at every change.
pub fn sizes(first: Vec<Size>) -> io::Result<mpsc::Receiver<Size>> {
    let mut changed = signal(SignalKind::window_change())?;
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        for size in first {
            if sender.send(size).await.is_err() {
                return;
            }
        }
        while changed.recv().await.is_some() {
            if let Some(size) = size()
                && sender.send(size).await.is_err()
            {
                return;
            }
        }
    });
    Ok(receiver)
}

/// Standard input. Its own thread reads it: nobody can be made to stop waiting for a key, and nothing waits for that thread.
pub fn input() -> io::Result<mpsc::Receiver<Bytes>> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let mut buffer = vec![0; PIECE];
        loop {
            match io::stdin().lock().read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return,
                Ok(count) => {
                    if sender.blocking_send(Bytes::copy_from_slice(&buffer[..count])).is_err() {
                        return;
                    }
                }
            }
        }
    })?;
    Ok(receiver)
}

/// The signals that end a session. While the terminal is raw they must not end the process before it is restored.
pub struct Signals([Signal; 4]);

impl Signals {
    /// From now on they arrive here.
    pub fn listen() -> io::Result<Signals> {
        let kinds = [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::quit(), SignalKind::terminate()];
        let [hangup, interrupt, quit, terminate] = kinds.map(signal);
        Ok(Signals([hangup?, interrupt?, quit?, terminate?]))
    }

    /// Ends when one arrives.
    pub async fn any(&mut self) {
        let [hangup, interrupt, quit, terminate] = &mut self.0;
        tokio::select! {
            _ = hangup.recv() => {}
            _ = interrupt.recv() => {}
            _ = quit.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}
