//! A clock that is set while a program runs: the unchanged executable, which reads its clock as it always does, sees another
//! time than the rest of the machine.
//!
//! A program asks for the time in a page that the kernel gives it (the vDSO), without a system call. There the functions are
//! replaced in this one process, before its first instruction, by ones that ask the kernel and add a shift. The monotonic
//! clock is as ever, and so are the clocks of the programs that it starts.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::ptrace;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// `clock_gettime(rdi, rsi)`: the system call, and for the clocks of the day the shift behind the code.
const CLOCK_GETTIME: [u8; 32] = [
    0xb8, 0xe4, 0, 0, 0, // mov eax, 228
    0x0f, 0x05, // syscall
    0x85, 0xc0, 0x75, 0x14, // test eax, eax; jne end
    0x83, 0xff, 0x00, 0x74, 0x05, // cmp edi, CLOCK_REALTIME; je add
    0x83, 0xff, 0x05, 0x75, 0x0a, // cmp edi, CLOCK_REALTIME_COARSE; jne end
    0x48, 0x8b, 0x0d, 4, 0, 0, 0, // add: mov rcx, [shift]
    0x48, 0x01, 0x0e, // add [rsi], rcx
    0xc3, // end: ret
];
/// `gettimeofday(rdi, rsi)`, the same.
const GETTIMEOFDAY: [u8; 32] = [
    0xb8, 0x60, 0, 0, 0, // mov eax, 96
    0x0f, 0x05, // syscall
    0x85, 0xc0, 0x75, 0x0f, // test eax, eax; jne end
    0x48, 0x85, 0xff, 0x74, 0x0a, // test rdi, rdi; je end
    0x48, 0x8b, 0x0d, 9, 0, 0, 0, // mov rcx, [shift]
    0x48, 0x01, 0x0f, // add [rdi], rcx
    0xc3, // end: ret
    0x90, 0x90, 0x90, 0x90, 0x90,
];

/// The clock of a process.
#[derive(Debug)]
pub struct Clock {
    memory: File,
    /// Where the shifts are.
    shifts: Vec<u64>,
}

impl Clock {
    /// Starts a command whose program is the `execs`-th that its process becomes; that program's clock is shifted by so many
    /// seconds.
    pub fn start(command: &mut Command, execs: usize, shift: i64) -> Result<(Child, Clock)> {
        ensure!(cfg!(target_arch = "x86_64"), "clocks are only shifted on x86_64");
        let trace = || ptrace::traceme().map_err(std::io::Error::from);
        #[expect(unsafe_code, reason = "who is to be stopped before its first instruction has to ask for it itself")]
        // SAFETY: between fork and exec only one system call is made.
        let command = unsafe { command.pre_exec(trace) };
        let child = command.spawn().context("start a program with another clock")?;
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        for exec in 1..=execs {
            match waitpid(pid, None)? {
                WaitStatus::Stopped(..) if exec < execs => ptrace::cont(pid, None)?,
                WaitStatus::Stopped(..) => {}
                other => bail!("the program ended before it began: {other:?}"),
            }
        }
        let clock = Clock::take(child.id())?;
        clock.set(shift)?;
        ptrace::detach(pid, None)?;
        Ok((child, clock))
    }

    /// Replaces the functions of a process that is stopped.
    fn take(process: u32) -> Result<Clock> {
        let maps = std::fs::read_to_string(format!("/proc/{process}/maps"))?;
        let line = maps.lines().find(|line| line.ends_with("[vdso]")).context("the process has a vDSO")?;
        let (first, last) = line.split(' ').next().and_then(|range| range.split_once('-')).context("a range")?;
        let (base, end) = (u64::from_str_radix(first, 16)?, u64::from_str_radix(last, 16)?);
        let memory = File::options().read(true).write(true).open(format!("/proc/{process}/mem"))?;
        let mut image = vec![0; usize::try_from(end - base)?];
        memory.read_exact_at(&mut image, base).context("read the vDSO")?;
        let mut shifts = Vec::new();
        for (name, code) in [("__vdso_clock_gettime", CLOCK_GETTIME), ("__vdso_gettimeofday", GETTIMEOFDAY)] {
            let (offset, size) = symbol(&image, name).with_context(|| format!("the vDSO has {name}"))?;
            ensure!(size >= 40, "{name} has room for 40 bytes, not only {size}");
            memory.write_all_at(&code, base + offset).context("write to the vDSO")?;
            shifts.push(base + offset + 32);
        }
        Ok(Clock { memory, shifts })
    }

    /// Sets the clock so many seconds ahead of the machine's (or behind it).
    pub fn set(&self, shift: i64) -> Result<()> {
        for address in &self.shifts {
            self.memory.write_all_at(&shift.to_le_bytes(), *address).context("set the clock")?;
        }
        Ok(())
    }
}

/// A number at a place of an ELF image.
fn number<const N: usize>(image: &[u8], at: u64) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    let bytes = image.get(at..at.checked_add(N)?)?;
    Some(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

/// Where a function is in a 64-bit ELF image whose addresses begin at 0, and its size.
fn symbol(image: &[u8], wanted: &str) -> Option<(u64, u64)> {
    let (headers, size, count) = (number::<8>(image, 32)?, number::<2>(image, 54)?, number::<2>(image, 56)?);
    let kind = |index: u64| number::<4>(image, headers + index * size);
    let dynamic = (0..count).find(|index| kind(*index) == Some(2))?;
    let dynamic = number::<8>(image, headers + dynamic * size + 16)?;
    let entry = |tag: u64| {
        let mut at = dynamic;
        loop {
            match number::<8>(image, at)? {
                0 => return None,
                known if known == tag => return number::<8>(image, at + 8),
                _ => at += 16,
            }
        }
    };
    let (names, symbols) = (entry(5)?, entry(6)?);
    (0..).map(|index| symbols + index * 24).take_while(|at| *at < names).find_map(|at| {
        let name = image.get(usize::try_from(names + number::<4>(image, at)?).ok()?..)?;
        let name = name.split(|byte| *byte == 0).next()?;
        (name == wanted.as_bytes()).then_some(())?;
        Some((number::<8>(image, at + 8)?, number::<8>(image, at + 16)?))
    })
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_program_sees_another_year() {
        let read = |shift: i64| {
            let mut command = Command::new("date");
            command.arg("+%s").stdout(Stdio::piped());
            let (child, _clock) = Clock::start(&mut command, 1, shift).expect("it starts");
            let said = child.wait_with_output().expect("it ends").stdout;
            String::from_utf8_lossy(&said).trim().parse::<i64>().expect("a number")
        };
        let day = 24 * 60 * 60;
        let (now, later) = (read(0), read(5000 * day));
        assert!((5000 * day..5000 * day + 60).contains(&(later - now)), "{now} {later}");
        assert!(read(-now) < 60, "the year is 1970");
    }
}
