//! `mesh` as people and scripts use it: what it prints, how it ends, what it does when short.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use rustix::process::{Pid, Signal, kill_process};
use shmesh::{Node, Raw};

use crate::support::{PATIENCE, TempDir};

const MESH: &str = env!("CARGO_BIN_EXE_mesh");

/// A coordinator in a process of its own, with what it prints.
struct Tool {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
    warnings: Receiver<String>,
}

impl Tool {
    fn spawn(command: &mut Command) -> Self {
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let errors = BufReader::new(child.stderr.take().unwrap());
        let (tell, warnings) = channel();
        std::thread::spawn(move || {
            for line in errors.lines().map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
        Self {
            child,
            out,
            warnings,
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line
    }

    /// Where it listens, from its line of JSON.
    fn address(&mut self) -> SocketAddr {
        let said: serde_json::Value = serde_json::from_str(&self.line()).unwrap();
        said["listening"].as_str().unwrap().parse().unwrap()
    }

    /// Signals it; its exit code and what else it printed.
    fn end(mut self, signal: Signal) -> (Option<i32>, String) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn join(name: &str, address: SocketAddr, dir: &TempDir) -> Node {
    let builder = Node::builder(name)
        .coordinator(address.to_string())
        .runtime_dir(dir.path())
        .join_timeout(PATIENCE)
        .without_signal_handling();
    builder.build_blocking().unwrap()
}

#[test]
fn with_and_without_its_verb_it_serves_this_computer_until_a_signal() {
    let dir = TempDir::new();
    for args in [
        &["coordinator", "--port", "0", "--json"][..],
        &["--port", "0", "--json"],
    ] {
        for signal in [Signal::INT, Signal::TERM] {
            let mut tool = Tool::spawn(Command::new(MESH).args(args));
            let address = tool.address();
            assert!(address.ip().is_loopback(), "others only if asked");
            let node = join("n", address, &dir);
            assert_eq!(tool.end(signal), (Some(0), String::new()), "{args:?}");
            drop(node);
        }
    }
}

#[test]
fn the_line_for_people_says_the_address() {
    let mut tool = Tool::spawn(Command::new(MESH).args(["--port", "0"]));
    let line = tool.line();
    let address = line.trim().strip_prefix("coordinator listening on ");
    let address = address.and_then(|text| text.parse::<SocketAddr>().ok());
    assert!(address.is_some_and(|a| a.port() != 0), "{line}");
    assert_eq!(tool.end(Signal::TERM), (Some(0), String::new()));
}

#[test]
fn a_reader_that_went_is_no_failure() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = Command::new(MESH)
        .args(["--port", "0"])
        .stdout(writer)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn short_of_descriptors_it_keeps_its_nodes_warns_once_and_recovers() {
    let dir = TempDir::new();
    let limited = "ulimit -n 32 && exec \"$0\" coordinator --port 0 --json";
    let mut tool = Tool::spawn(Command::new("sh").args(["-c", limited, MESH]));
    let address = tool.address();
    let early = join("early", address, &dir);
    let mut sender = early.publisher::<Raw>("t").build().unwrap();

    let dial = |_| TcpStream::connect(address).unwrap();
    let hogs: Vec<TcpStream> = (0..64).map(dial).collect();
    let warning = tool.warnings.recv_timeout(PATIENCE).expect("a warning");
    assert!(warning.contains("ulimit -n"), "{warning}");
    drop(hogs);

    let late = join("late", address, &dir);
    let mut receiver = late.subscriber::<Raw>("t").build().unwrap();
    sender.wait_for_listener_blocking(PATIENCE).unwrap();
    sender.publish_bytes(b"still here").unwrap();
    let sample = receiver.recv_blocking(PATIENCE).unwrap();
    assert_eq!(&*sample, b"still here");
    let more: Vec<String> = tool.warnings.try_iter().collect();
    assert!(more.is_empty(), "{more:?}");
}
