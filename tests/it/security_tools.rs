//! The key of a mesh as the tools take it: from a file, the environment or their arguments.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use shmesh::{Error, Node, Raw};

use crate::security::{KEY, key, key_file};
use crate::speedtest::children;
use crate::support::{PATIENCE, TempDir, eventually};

const MESH: &str = env!("CARGO_BIN_EXE_mesh");
const SPEEDTEST: &str = env!("CARGO_BIN_EXE_mesh-speedtest");

/// `mesh coordinator` with a key, however it got it.
struct Keyed {
    child: Child,
    out: BufReader<ChildStdout>,
    address: String,
}

impl Keyed {
    fn start(command: &mut Command) -> Self {
        let command = command.args(["--port", "0", "--json"]);
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let said: serde_json::Value = serde_json::from_str(&line).expect("it listens");
        let address = said["listening"].as_str().unwrap().to_owned();
        Self {
            child,
            out,
            address,
        }
    }

    /// Lets in who has the key, and nobody else.
    fn must_demand_the_key(&self) {
        let dir = TempDir::new();
        let builder = |name: &str| {
            let builder = Node::builder(name).coordinator(&self.address);
            let builder = builder.runtime_dir(dir.path()).join_timeout(PATIENCE);
            builder.without_signal_handling()
        };
        let error = builder("keyless").build_blocking().unwrap_err();
        assert!(matches!(error, Error::Unproven(_)), "{error}");
        let node = |name| builder(name).auth_key(key()).build_blocking().unwrap();
        let (one, two) = (node("one"), node("two"));
        let mut publisher = one.publisher::<Raw>("t").build().unwrap();
        let mut subscriber = two.subscriber::<Raw>("t").build().unwrap();
        publisher.wait_for_listener_blocking(PATIENCE).unwrap();
        publisher.publish_bytes(b"known").unwrap();
        assert_eq!(&*subscriber.recv_blocking(PATIENCE).unwrap(), b"known");
    }

    /// What it said besides its first line.
    fn end(mut self) -> String {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let mut said = String::new();
        self.out.read_to_string(&mut said).unwrap();
        let errors = self.child.stderr.as_mut().unwrap();
        errors.read_to_string(&mut said).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0), "{said}");
        said
    }
}

impl Drop for Keyed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_coordinator_takes_the_key_from_file_environment_or_arguments() {
    let dir = TempDir::new();
    let file = key_file(&dir, &format!("{KEY}\n"), 0o600);
    for (number, verb) in (0..8).zip([&["coordinator"][..], &[]].into_iter().cycle()) {
        let mut command = Command::new(MESH);
        command.args(verb).env("RUST_LOG", "trace");
        let is_argument = number / 2 == 3;
        match number / 2 {
            0 => command.args(["--authkey-file", &file]),
            1 => command.env("SHMESH_AUTHKEY_FILE", &file),
            2 => command.env("SHMESH_AUTHKEY", KEY),
            _ => command.args(["--authkey", KEY]),
        };
        let server = Keyed::start(&mut command);
        server.must_demand_the_key();
        let said = server.end();
        assert!(!said.contains(KEY), "{said}");
        let is_warned = said.contains("warning: others can read --authkey");
        assert_eq!(is_warned, is_argument, "{said}");
    }
}

fn output(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = [&output.stdout[..], &output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(!said.contains(KEY), "{said}");
    output
}

#[test]
fn a_key_that_cannot_be_used_opens_nothing() {
    let dir = TempDir::new();
    let refused = |command: &mut Command, reason: &str| {
        let output = output(command.args(["coordinator", "--port", "0"]));
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(reason), "{said}");
        assert!(output.stdout.is_empty(), "it never listened");
    };
    for mode in [0o644, 0o640, 0o604, 0o620, 0o606] {
        let file = key_file(&dir, KEY, mode);
        refused(
            Command::new(MESH).env("SHMESH_AUTHKEY_FILE", &file),
            "chmod 600",
        );
    }
    for text in ["", "\n", "short\n", " ".repeat(64).as_str()] {
        let file = key_file(&dir, text, 0o600);
        refused(
            Command::new(MESH).env("SHMESH_AUTHKEY_FILE", &file),
            "bytes",
        );
        refused(Command::new(MESH).env("SHMESH_AUTHKEY", text), "bytes");
    }
    let missing = dir.path().join("missing");
    refused(
        Command::new(MESH).env("SHMESH_AUTHKEY_FILE", &missing),
        "missing",
    );
    refused(Command::new(MESH).env("SHMESH_AUTHKEY_FILE", ""), "key");
}

#[test]
fn two_keys_at_once_are_wrong_usage() {
    let dir = TempDir::new();
    let file = key_file(&dir, KEY, 0o600);
    for tool in [&[MESH, "coordinator"][..], &[SPEEDTEST, "local"]] {
        let both = ["--authkey-file", &file, "--authkey", KEY];
        let output = output(Command::new(tool[0]).args(&tool[1..]).args(both));
        assert_eq!(output.status.code(), Some(2));
    }
}

/// The lines of a short speed test, which must succeed.
fn measured(command: &mut Command) -> Vec<serde_json::Value> {
    let short = ["--json", "--seconds", "0.05", "--message-size", "1k"];
    let output = output(command.args(short).env("RUST_LOG", "trace"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |line: &str| serde_json::from_str(line).unwrap();
    text.lines().map(line).collect()
}

#[test]
fn the_speed_test_works_with_a_key() {
    let dir = TempDir::new();
    let file = key_file(&dir, KEY, 0o600);
    let local = || {
        let mut command = Command::new(SPEEDTEST);
        command.arg("local");
        command
    };
    for mut command in [local(), local(), local(), local()]
        .into_iter()
        .enumerate()
        .map(|(number, mut command)| {
            match number {
                0 => command.args(["--authkey-file", &file]),
                1 => command.args(["--authkey-file", &file, "--transport", "tcp"]),
                2 => command.env("SHMESH_AUTHKEY", KEY),
                _ => command.args(["--authkey", KEY]),
            };
            command
        })
    {
        let lines = measured(&mut command);
        assert_eq!(lines.len(), 3);
        let args: Vec<_> = command.get_args().collect();
        let transport = if args.contains(&"tcp".as_ref()) {
            "tcp"
        } else {
            "shm"
        };
        for line in lines {
            assert!(line["messages"].as_u64().unwrap() > 0, "{line}");
            assert_eq!(line["transport"], transport, "{line}");
        }
    }
}

#[test]
fn the_speed_test_says_that_a_key_is_missing_or_another() {
    let dir = TempDir::new();
    let file = key_file(&dir, KEY, 0o600);
    let server = Keyed::start(Command::new(MESH).args(["coordinator", "--authkey-file", &file]));
    let send = |key: Option<&str>| {
        let mut command = Command::new(SPEEDTEST);
        command.args(["send", "--coordinator", &server.address]);
        if let Some(key) = key {
            command.env("SHMESH_AUTHKEY", key);
        }
        let output = output(&mut command);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let said = send(None);
    assert!(said.contains("--authkey-file"), "{said}");
    let said = send(Some("another key than that of the coordinator"));
    assert!(said.contains("key is another"), "{said}");
}

#[test]
fn no_debug_output_of_the_tools_arguments_has_the_key() {
    let security = shmesh::cli::security::SecurityArgs {
        authkey: KEY.parse().ok(),
        ..Default::default()
    };
    let text = format!("{security:?}");
    assert!(!text.contains(KEY), "{text}");
}

#[test]
fn the_speed_tests_processes_do_not_show_the_key() {
    let mut local = Command::new(SPEEDTEST)
        .args(["local", "--authkey", KEY, "--pattern", "ping"])
        .args(["--message-size", "64", "--seconds", "600"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = Vec::new();
    eventually("both ends run", || {
        let line = |pid: &String| std::fs::read(format!("/proc/{pid}/cmdline")).ok();
        lines = children(local.id()).iter().filter_map(line).collect();
        let has = |word: &[u8]| {
            let is_it = |line: &Vec<u8>| line.split(|byte| *byte == 0).any(|arg| arg == word);
            lines.iter().any(is_it)
        };
        has(b"recv") && has(b"send")
    });
    local.kill().unwrap();
    local.wait().unwrap();
    for line in lines {
        let text = String::from_utf8(line).unwrap();
        assert!(!text.contains(KEY), "{text:?}");
    }
}
