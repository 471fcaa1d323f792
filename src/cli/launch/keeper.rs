//! `mesh launch` as it was started: the **keeper**, whose child is the launcher.
//!
//! It hands signals on to the launcher, which then ends all, and ends as the launcher does. What it
//! is for comes after that: it is a subreaper, too, so what the launcher and guards leave behind
//! where both are killed becomes its own, and it ends that. For a process to survive, keeper,
//! launcher and the guard of that process have to be killed.

use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::child::{LOOK, stream};
use super::tree::children;
use crate::cli::{Failure, runtime};
use crate::limits::LAUNCH_KILL_MS_MAX;

/// Keeps a launcher with our own arguments. Comes back only if there is none, or it was killed.
///
/// # Errors
/// In both cases.
pub(super) fn run(grace: Duration) -> Result<(), Failure> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let (end, told) = runtime()?.block_on(async {
        let (end, told) = keep().await?;
        // Guards tell their processes to end when the launcher is gone, and wait so long for that.
        bury(if end.exited() { Duration::ZERO } else { grace }).await;
        Ok::<_, Failure>((end, told))
    })?;
    let (code, by_signal) = (end.exit_status(), end.terminating_signal());
    // One from the terminal may have come to the launcher before it could leave it to us.
    let told = told.filter(|told| by_signal == Some(told.as_raw()));
    if let Some(code) = code.or_else(|| told.map(|told| 128 + told.as_raw())) {
        std::process::exit(code);
    }
    let number = by_signal.unwrap_or_default();
    let text = format!("the launcher was killed (signal {number}): its nodes were ended");
    Err(anyhow::anyhow!(text).into())
}

/// Until the launcher has ended. Gives the signal, too, that was handed on last.
async fn keep() -> Result<(WaitStatus, Option<Signal>), Failure> {
    let mut ended = signal(SignalKind::child())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    let ours = stream(ours.into())?;
    let mut command = Command::new("/proc/self/exe");
    let command = command.arg0("mesh").args(["launch", "--kept"]);
    // The first of ours is `launch`.
    let command = command.args(std::env::args_os().skip(2));
    let launcher = Pid::from_child(&command.stdin(OwnedFd::from(theirs)).spawn()?);
    let mut last = None;
    loop {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid == launcher {
                return Ok((status, last));
            }
        }
        let told = tokio::select! {
            _ = ended.recv() => continue,
            _ = interrupt.recv() => Signal::INT,
            _ = terminate.recv() => Signal::TERM,
            _ = hangup.recv() => Signal::HUP,
        };
        last = Some(told);
        // There is room for more signals than anybody sends.
        let _ = ours.try_write(&[u8::try_from(told.as_raw()).unwrap_or_default()]);
    }
}

/// Waits for all that is left, kills it after a while, and then those that appear by that.
async fn bury(patience: Duration) {
    let kill_at = Instant::now() + patience;
    let give_up_at = kill_at + Duration::from_millis(LAUNCH_KILL_MS_MAX);
    loop {
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        let left = children();
        let now = Instant::now();
        // Whom the kernel cannot end is not waited for.
        if left.is_empty() || now >= give_up_at {
            return;
        }
        if now >= kill_at {
            for pid in left {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The launcher's end of the socket to its keeper.
pub(super) struct Keeper(UnixStream);

impl Keeper {
    /// Our standard input. Signals are for the keeper from now on: those that come from a terminal,
    /// or to all processes of a service, come to us, too, and would count twice.
    pub(super) fn new() -> Result<Self, Failure> {
        for kind in [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ] {
            let _ = signal(kind)?;
        }
        let stdin = std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned()?;
        Ok(Self(stream(stdin)?))
    }

    /// The next signal. The keeper's end counts as one, and is said for ever. Cancel-safe.
    pub(super) async fn recv(&mut self) -> Option<i32> {
        let mut told = [0; 1];
        match self.0.read(&mut told).await {
            Ok(1..) => Some(told[0].into()),
            _ => None,
        }
    }
}
