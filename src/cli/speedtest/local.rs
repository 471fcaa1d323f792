//! `local`: a coordinator here, a receiver and a sender as processes of their own.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::{RunArgs, once_more, verb};
use crate::cli::{Exit, Failure, runtime};
use crate::coordinator::Coordinator;

/// How long a process may take to leave, and how often it is looked at.
const PATIENCE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(5);

/// A process that ends with us: it watches its standard input, and we end it if we can.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        // So that it leaves the mesh, and nothing is left of it.
        self.0.stdin.take();
        let started = Instant::now();
        while started.elapsed() < PATIENCE && matches!(self.0.try_wait(), Ok(None)) {
            std::thread::sleep(LOOK);
        }
        // Fails only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) fn run(args: &RunArgs) -> Result<(), Failure> {
    let runtime = runtime()?;
    runtime.block_on(async {
        let coordinator = Coordinator::bind("127.0.0.1:0").await?;
        let coordinator = args.common.security.secure_coordinator(coordinator)?;
        let address = coordinator.local_addr()?.to_string();
        let measuring = tokio::task::spawn_blocking({
            let args = args.clone();
            move || measure(&args, &address)
        });
        let mut outcome = None;
        coordinator
            .run(async {
                outcome = tokio::select! {
                    measured = measuring => Some(measured),
                    _ = tokio::signal::ctrl_c() => None,
                };
            })
            .await;
        match outcome {
            Some(measured) => measured?,
            None => std::process::exit(130),
        }
    })
}

fn measure(args: &RunArgs, address: &str) -> Result<(), Failure> {
    let mut receiver = once_more("recv");
    receiver.args(["--until-eof", "--coordinator", address]);
    receiver.args(["--topic", &args.common.topic]);
    args.common.security.hand_on(&mut receiver)?;
    let _receiver = Owned(
        receiver
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?,
    );
    let mut sender = once_more("send");
    sender.args(["--until-eof", "--coordinator", address]);
    sender.args(choices()).stdin(Stdio::piped());
    args.common.security.hand_on(&mut sender)?;
    let mut sender = Owned(sender.spawn()?);
    // Ours until it is through: `wait` would close it first.
    let _stdin = sender.0.stdin.take();
    let status = sender.0.wait()?;
    if status.success() {
        return Ok(());
    }
    let exit = if status.code() == Some(2) {
        Exit::Usage
    } else {
        Exit::Failure
    };
    Err(Failure {
        exit,
        error: anyhow::anyhow!("the sender failed ({status})"),
    })
}

/// Arguments that the sender gets in another way: keys go where nobody else sees them.
const OURS: [&str; 2] = ["--authkey", "--authkey-file"];

/// Our own arguments, as the sender takes them.
fn choices() -> Vec<String> {
    let skipped = verb().map_or(2, |_| 3);
    let mut rest = std::env::args().skip(skipped);
    let mut passed = Vec::new();
    while let Some(arg) = rest.next() {
        let is_ours = |name: &str| arg == name || arg.starts_with(&format!("{name}="));
        let is_left_out = OURS.into_iter().any(is_ours);
        if is_left_out && !arg.contains('=') {
            rest.next();
        } else if !is_left_out {
            passed.push(arg);
        }
    }
    passed
}
