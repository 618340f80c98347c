//! Reads a container's log: from its beginning, its end or a time, and as it grows.
//!
//! The log is renamed to `.1` when it is full. A reader keeps the renamed file open to its end, then opens the new one:
//! nothing is lost and nothing comes twice. It waits by inotify on the folder, not by looking again.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use super::line::{Line, parse};

/// How much is read at a time.
const BLOCK: usize = 32 * 1024;

/// What a client wants to see.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Go on with what is written later.
    pub follow: bool,
    /// Only so many of the last lines.
    pub tail: Option<u64>,
    /// Only lines from this time on.
    pub since: Option<Timestamp>,
    /// Put the time before each line.
    pub timestamps: bool,
    /// No more bytes than this.
    pub limit: Option<u64>,
    /// Only standard error (`true`) or standard output (`false`).
    pub stderr: Option<bool>,
}

/// Turns log lines into what the client sees. Pure.
struct Filter {
    options: Options,
    left: Option<u64>,
    /// The last line written was a part: the next one continues it and has no time of its own.
    within: bool,
    since_reached: bool,
}

impl Filter {
    fn new(options: Options) -> Filter {
        Filter { left: options.limit, since_reached: options.since.is_none(), options, within: false }
    }

    /// Appends a line; whether there is room for more.
    fn push(&mut self, line: &Line<'_>, output: &mut BytesMut) -> bool {
        if self.options.stderr.is_some_and(|stderr| stderr != line.stderr) {
            return true;
        }
        if !self.since_reached {
            let reached =
                self.options.since.is_none_or(|since| line.time.parse::<Timestamp>().is_ok_and(|time| time >= since));
            if !reached {
                return true;
            }
            self.since_reached = true;
        }
        let before = output.len();
        if self.options.timestamps && !self.within {
            output.extend_from_slice(line.time.as_bytes());
            output.extend_from_slice(b" ");
        }
        output.extend_from_slice(line.text);
        if !line.partial {
            output.extend_from_slice(b"\n");
        }
        self.within = line.partial;
        let Some(left) = &mut self.left else { return true };
        let wrote = (output.len() - before) as u64;
        if wrote >= *left {
            output.truncate(before + usize::try_from(*left).unwrap_or(usize::MAX));
            return false;
        }
        *left -= wrote;
        true
    }
}

/// Where in a file the last `lines` lines begin, and how many lines are missing to that. Reads backwards.
fn tail_start(file: &mut File, lines: u64) -> io::Result<(u64, u64)> {
    let mut end = file.metadata()?.len();
    let mut missing = lines;
    let mut block = vec![0; BLOCK];
    let whole = end;
    while end > 0 {
        let size = usize::try_from(end).unwrap_or(BLOCK).min(BLOCK);
        let start = end - size as u64;
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block[..size])?;
        for index in (0..size).rev() {
            // The line end at the very end of the file ends the last line; it does not begin one.
            if block[index] == b'\n' && start + index as u64 + 1 != whole {
                if missing == 1 {
                    return Ok((start + index as u64 + 1, 0));
                }
                missing -= 1;
            }
        }
        end = start;
    }
    Ok((0, if whole == 0 { missing } else { missing - 1 }))
}

/// A log being read.
pub struct Reader {
    path: PathBuf,
    queue: Vec<File>,
    current: Option<(File, u64)>,
    rest: Vec<u8>,
    filter: Filter,
}

impl Reader {
    /// Opens the log at the place where the options begin. Blocks.
    pub fn open(path: PathBuf, options: Options) -> io::Result<Reader> {
        let mut files = Vec::new();
        for file in super::files(&path)? {
            match File::open(&file) {
                Ok(file) => files.push(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        files.reverse();
        if let Some(lines) = options.tail {
            let mut missing = lines;
            let mut kept = Vec::new();
            for mut file in files {
                if missing == 0 {
                    if kept.is_empty() {
                        file.seek(SeekFrom::End(0))?;
                        kept.push(file);
                    }
                    break;
                }
                let (start, still) = tail_start(&mut file, missing)?;
                file.seek(SeekFrom::Start(start))?;
                kept.push(file);
                missing = still;
            }
            files = kept;
        }
        // The newest file is the first of the list now: taking from the end goes forward in time.
        Ok(Reader { path, queue: files, current: None, rest: Vec::new(), filter: Filter::new(options) })
    }

    /// Reads what is there, up to a block; `None` when the end or the limit is reached. Blocks for one read.
    fn next_block(&mut self) -> io::Result<Option<(Bytes, bool)>> {
        loop {
            if self.current.is_none() {
                match self.queue.pop() {
                    Some(file) => {
                        let inode = file.metadata()?.ino();
                        self.current = Some((file, inode));
                    }
                    None => return Ok(None),
                }
            }
            let Some((file, _)) = &mut self.current else { return Ok(None) };
            let mut block = vec![0; BLOCK];
            let count = file.read(&mut block)?;
            if count == 0 {
                if self.queue.is_empty() {
                    return Ok(None);
                }
                self.current = None;
                self.rest.clear();
                continue;
            }
            self.rest.extend_from_slice(&block[..count]);
            let mut output = BytesMut::new();
            let mut used = 0;
            let mut more = true;
            while more && let Some(end) = self.rest[used..].iter().position(|byte| *byte == b'\n') {
                if let Some(line) = parse(&self.rest[used..used + end]) {
                    more = self.filter.push(&line, &mut output);
                }
                used += end + 1;
            }
            self.rest.drain(..used);
            if output.is_empty() && more {
                continue;
            }
            return Ok(Some((output.freeze(), more)));
        }
    }

    /// Opens the new file if the log was rotated since; whether there is one. Blocks.
    fn rotated(&mut self) -> io::Result<bool> {
        let known = self.current.as_ref().map(|(_, inode)| *inode);
        match File::open(&self.path) {
            Ok(file) => {
                if Some(file.metadata()?.ino()) == known {
                    return Ok(false);
                }
                self.queue.insert(0, file);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends everything to a client. With `follow`, `ended` says when the container has ended: then what is left is read and it is over.
    pub async fn run(mut self, to: mpsc::Sender<io::Result<Bytes>>, ended: impl Future<Output = ()>) {
        if let Err(error) = self.send_all(&to, ended).await {
            // Without a receiver the client is gone, and nobody wants to know.
            drop(to.send(Err(error)).await);
        }
    }

    async fn send_all(
        &mut self,
        to: &mpsc::Sender<io::Result<Bytes>>,
        ended: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let mut watch = if self.filter.options.follow { Some(self.watch()?) } else { None };
        let mut ended = std::pin::pin!(ended);
        let mut last_round = false;
        loop {
            while let Some((bytes, more)) = self.next_block()? {
                if !bytes.is_empty() && to.send(Ok(bytes)).await.is_err() {
                    return Ok(());
                }
                if !more {
                    return Ok(());
                }
            }
            let Some(watch) = &mut watch else { return Ok(()) };
            if self.rotated()? {
                continue;
            }
            if last_round {
                return Ok(());
            }
            // Nothing is lost when one of these is dropped: each round reads everything that is there.
            let mut events = [0; 4096];
            tokio::select! {
                count = watch.read(&mut events) => {
                    // What the events say does not matter: each round reads everything that is there.
                    count?;
                }
                () = &mut ended => last_round = true,
                () = to.closed() => return Ok(()),
            }
        }
    }

    /// A descriptor that becomes readable when something happens in the log's folder.
    fn watch(&self) -> io::Result<pipe::Receiver> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let folder = self.path.parent().ok_or(io::ErrorKind::NotFound)?;
        inotify.add_watch(folder, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO)?;
        // An inotify descriptor is read like a pipe.
        pipe::Receiver::from_owned_fd_unchecked(inotify.as_fd().try_clone_to_owned()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &std::path::Path, name: &str, lines: std::ops::Range<u32>) {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(folder.join(name)).expect("opened");
        for line in lines {
            writeln!(file, "2026-01-01T00:00:{line:02}.000000000Z stdout F line {line}").expect("written");
        }
    }

    async fn read(path: PathBuf, options: Options) -> String {
        let (sender, mut receiver) = mpsc::channel(8);
        let reader = Reader::open(path, options).expect("opened");
        let run = reader.run(sender, std::future::ready(()));
        let collect = async {
            let mut text = Vec::new();
            while let Some(bytes) = receiver.recv().await {
                text.extend_from_slice(&bytes.expect("read"));
            }
            String::from_utf8(text).expect("text")
        };
        tokio::join!(run, collect).1
    }

    #[tokio::test]
    async fn reads_as_asked() {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), "0.log.1", 0..3);
        write(folder.path(), "0.log", 3..5);
        let path = folder.path().join("0.log");
        let check = async |options: Options, expected: &str| {
            let text = read(path.clone(), options.clone()).await.replace("line ", "").replace('\n', ",");
            assert_eq!(text, expected, "{options:?}");
        };
        check(Options::default(), "0,1,2,3,4,").await;
        check(Options { tail: Some(0), ..Options::default() }, "").await;
        check(Options { tail: Some(1), ..Options::default() }, "4,").await;
        check(Options { tail: Some(2), ..Options::default() }, "3,4,").await;
        check(Options { tail: Some(4), ..Options::default() }, "1,2,3,4,").await;
        check(Options { tail: Some(99), ..Options::default() }, "0,1,2,3,4,").await;
        let since = "2026-01-01T00:00:03Z".parse().expect("a time");
        check(Options { since: Some(since), ..Options::default() }, "3,4,").await;
        check(Options { limit: Some(9), ..Options::default() }, "0,li").await;
        check(Options { timestamps: true, tail: Some(1), ..Options::default() }, "2026-01-01T00:00:04.000000000Z 4,")
            .await;
        check(Options { stderr: Some(true), ..Options::default() }, "").await;
        check(Options { follow: true, ..Options::default() }, "0,1,2,3,4,").await;
    }

    #[tokio::test]
    async fn follows_over_a_rotation() {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), "0.log", 0..2);
        let (sender, mut receiver) = mpsc::channel(8);
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let reader =
            Reader::open(folder.path().join("0.log"), Options { follow: true, ..Options::default() }).expect("opened");
        let task = tokio::spawn(reader.run(sender, async move { drop(ended.await) }));
        let mut text = String::new();
        let mut read_until = async |wanted: &str| {
            while !text.ends_with(wanted) {
                let bytes = receiver.recv().await.expect("more").expect("read");
                text.push_str(&String::from_utf8_lossy(&bytes));
            }
        };
        read_until("line 1\n").await;
        write(folder.path(), "0.log", 2..3);
        std::fs::rename(folder.path().join("0.log"), folder.path().join("0.log.1")).expect("renamed");
        write(folder.path(), "0.log", 3..4);
        read_until("line 3\n").await;
        end.send(()).expect("the reader runs");
        task.await.expect("no panic");
        assert_eq!(text, "line 0\nline 1\nline 2\nline 3\n");
    }
}
