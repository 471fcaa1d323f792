//! `mesh launch-child`: stands between the launcher and one process of a node, whatever kills
//! either of them.
//!
//! The **guard** is the launcher's child. All that the node's process leaves behind becomes the
//! guard's (it is a subreaper), so it can end the whole tree: when the launcher says so, when the
//! launcher is gone, and when the node's own process has ended. Its standard input is a socket to
//! the launcher: orders come in, what became of the process goes out, and the end of it is the end
//! of the launcher. It starts itself once more (`--exec`) to become the node's program, after
//! asking the kernel for SIGKILL should the guard die: the node does not outlive both.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::Args;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::tree::{children, descendants};
use crate::cli::{Failure, runtime};

/// An order of the launcher: end the process.
pub(super) const TERMINATE: u8 = b'T';
/// An order of the launcher: kill the process.
pub(super) const KILL: u8 = b'K';
/// Those that appear while all are being killed are looked for this often.
pub(super) const LOOK: Duration = Duration::from_millis(20);

/// For `mesh launch` alone.
#[derive(Args, Clone, Debug)]
pub struct ChildArgs {
    /// Become the program, as a child of this process
    #[arg(long, value_name = "PID")]
    exec: Option<i32>,
    /// Time between being told to end and being killed
    #[arg(long, default_value_t = 0)]
    grace_ms: u64,
    /// Nice value
    #[arg(long, allow_hyphen_values = true)]
    priority: Option<i32>,
    /// Cores to run on
    #[arg(long, value_delimiter = ',')]
    cpu: Vec<usize>,
    /// Directory to run in
    #[arg(long)]
    cwd: Option<PathBuf>,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

impl ChildArgs {
    pub(super) fn new(command: &[String], grace: Duration) -> Self {
        Self {
            exec: None,
            grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX),
            priority: None,
            cpu: Vec::new(),
            cwd: None,
            command: command.iter().map(OsString::from).collect(),
        }
    }

    pub(super) fn placed(
        mut self,
        priority: Option<i32>,
        cpu: &[usize],
        cwd: Option<PathBuf>,
    ) -> Self {
        (self.priority, self.cpu, self.cwd) = (priority, cpu.to_vec(), cwd);
        self
    }

    /// The command that gets these.
    pub(super) fn to_command(&self) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("mesh");
        command.arg("launch-child");
        let mut option = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                command.arg(format!("--{name}={value}"));
            }
        };
        option("exec", self.exec.map(|pid| pid.to_string()));
        option("grace-ms", Some(self.grace_ms.to_string()));
        option("priority", self.priority.map(|nice| nice.to_string()));
        let cores: Vec<String> = self.cpu.iter().map(ToString::to_string).collect();
        option("cpu", (!cores.is_empty()).then(|| cores.join(",")));
        if let Some(cwd) = &self.cwd {
            command.arg("--cwd").arg(cwd);
        }
        // A group of its own: Ctrl-C at the terminal is for the launcher.
        command.arg("--").args(&self.command).process_group(0);
        command
    }
}

/// Guards, or becomes the program.
///
/// # Errors
/// If the guard cannot be set up.
pub fn run(args: &ChildArgs) -> Result<(), Failure> {
    if args.exec.is_some() {
        return become_program(args);
    }
    runtime()?.block_on(guard(args))
}

/// Returns only if that fails; why is written to standard input, where the guard reads it.
fn become_program(args: &ChildArgs) -> Result<(), Failure> {
    // A copy that the program does not get.
    let mut report = std::fs::File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let error = match set_up(args) {
        Ok(true) => {
            let mut command = Command::new(&args.command[0]);
            let error = command.args(&args.command[1..]).stdin(Stdio::null()).exec();
            format!("{}: {error}", args.command[0].to_string_lossy())
        }
        Ok(false) => return Ok(()),
        Err(error) => error,
    };
    let _ = report.write_all(error.as_bytes());
    std::process::exit(127)
}

/// False if the guard is gone already.
fn set_up(args: &ChildArgs) -> Result<bool, String> {
    let die = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    die.map_err(|error| format!("cannot be tied to the launcher: {error}"))?;
    // The guard may have died before that.
    let parent = rustix::process::getppid().map(Pid::as_raw_pid);
    if parent != args.exec {
        return Ok(false);
    }
    if let Some(priority) = args.priority {
        let set = rustix::process::setpriority_process(None, priority);
        set.map_err(|error| {
            format!("priority {priority}: {error}; below 0 needs CAP_SYS_NICE or `ulimit -e`")
        })?;
    }
    if !args.cpu.is_empty() {
        let mut cores = rustix::thread::CpuSet::new();
        args.cpu.iter().for_each(|core| cores.set(*core));
        let set = rustix::thread::sched_setaffinity(None, &cores);
        set.map_err(|error| format!("cpu {:?}: {error}; `nproc` counts what is there", args.cpu))?;
    }
    if let Some(cwd) = &args.cwd {
        let entered = std::env::set_current_dir(cwd);
        entered.map_err(|error| format!("cwd {}: {error}", cwd.display()))?;
    }
    Ok(true)
}

/// What the guard knows of its process.
struct Guarded {
    main: Pid,
    end: Option<WaitStatus>,
    /// Who was told to end: once, as a second time means something else to many.
    told: BTreeSet<i32>,
    is_killing: bool,
    kill_at: Option<Instant>,
    grace: Duration,
}

async fn guard(args: &ChildArgs) -> Result<(), Failure> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let mut ended = signal(SignalKind::child())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut launcher = stream(std::io::stdin().as_fd().try_clone_to_owned()?)?;
    let (main, mut starting) = spawn(args)?;
    let mut guarded = Guarded {
        main,
        end: None,
        told: BTreeSet::new(),
        is_killing: false,
        kill_at: None,
        grace: Duration::from_millis(args.grace_ms),
    };
    let (mut order, mut failure) = ([0; 1], Vec::new());
    let (mut is_starting, mut has_launcher) = (true, true);
    while guarded.advance() {
        let far = Instant::now() + Duration::from_secs(86_400);
        let look = if guarded.is_killing {
            Instant::now() + LOOK
        } else {
            guarded.kill_at.unwrap_or(far)
        };
        tokio::select! {
            read = starting.read_buf(&mut failure), if is_starting => {
                if !matches!(read, Ok(1..)) {
                    is_starting = false;
                    if failure.is_empty() {
                        say(&launcher, &format!("started {}", main.as_raw_pid()));
                    }
                }
            }
            read = launcher.read(&mut order), if has_launcher => match read {
                Ok(1..) if order[0] == KILL => guarded.is_killing = true,
                Ok(1..) => guarded.terminate(),
                _ => {
                    has_launcher = false;
                    guarded.terminate();
                }
            },
            _ = terminate.recv() => guarded.terminate(),
            _ = interrupt.recv() => guarded.terminate(),
            _ = hangup.recv() => guarded.terminate(),
            _ = ended.recv() => {}
            () = tokio::time::sleep_until(look) => {}
        }
    }
    while is_starting && matches!(starting.read_buf(&mut failure).await, Ok(1..)) {}
    if is_starting && failure.is_empty() {
        say(&launcher, &format!("started {}", main.as_raw_pid()));
    }
    let failure = String::from_utf8_lossy(&failure).replace('\n', " ");
    let (code, by_signal) = guarded.end.map_or((None, None), |end| {
        (end.exit_status(), end.terminating_signal())
    });
    let end = match (code, by_signal) {
        _ if !failure.is_empty() => format!("failed {failure}"),
        (Some(code), _) => format!("code {code}"),
        (_, Some(number)) => format!("signal {number}"),
        _ => "failed it is gone".to_owned(),
    };
    say(&launcher, &end);
    Ok(())
}

/// The program, not yet started for sure, and where it says why not.
fn spawn(args: &ChildArgs) -> Result<(Pid, UnixStream), Failure> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    let mut args = args.clone();
    args.exec = Some(rustix::process::getpid().as_raw_pid());
    let child = args.to_command().stdin(OwnedFd::from(theirs)).spawn()?;
    Ok((Pid::from_child(&child), stream(ours.into())?))
}

pub(super) fn stream(socket: OwnedFd) -> std::io::Result<UnixStream> {
    let socket = std::os::unix::net::UnixStream::from(socket);
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}

/// A line to the launcher. A few in a lifetime: there is room in the socket.
fn say(launcher: &UnixStream, text: &str) {
    let _ = launcher.try_write(format!("{text}\n").as_bytes());
}

impl Guarded {
    /// Tells all that it started to end, and waits for that no longer than the grace period.
    fn terminate(&mut self) {
        if self.kill_at.is_none() {
            self.kill_at = Some(Instant::now() + self.grace);
        }
        for pid in descendants() {
            if self.told.insert(pid.as_raw_pid()) {
                let _ = kill_process(pid, Signal::TERM);
                // One that is stopped would not hear it.
                let _ = kill_process(pid, Signal::CONT);
            }
        }
    }

    /// Looks who has ended, and what follows. False when all have.
    fn advance(&mut self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.main => {
                    self.end = Some(status);
                    // What is left of it ends, too.
                    self.terminate();
                }
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => break,
                Err(_) => return false,
            }
        }
        self.is_killing |= self.kill_at.is_some_and(|at| at <= Instant::now());
        if self.is_killing {
            // Those of a process that is killed become ours, and are killed next time. No other
            // process can have the number of a child that was not waited for.
            for pid in children() {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        true
    }
}
