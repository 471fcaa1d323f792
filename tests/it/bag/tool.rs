//! `mesh bag` as a process of its own.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;

pub(super) use rustix::process::Signal;

use crate::support::{Mesh, PATIENCE};

pub(super) const MESH: &str = env!("CARGO_BIN_EXE_mesh");

/// A verb that goes on until told, and says what it does in JSON.
pub(super) struct Tool {
    child: Child,
    said: Receiver<String>,
}

impl Tool {
    pub(super) fn start(mesh: &Mesh, args: &[&str]) -> Self {
        Self::spawn(Command::new(MESH).arg("bag").args(args), mesh)
    }

    /// The same, by a command that runs it.
    pub(super) fn spawn(command: &mut Command, mesh: &Mesh) -> Self {
        of(command, mesh);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (tell, said) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
        Self { child, said }
    }

    pub(super) fn event(&mut self) -> Value {
        let line = self.said.recv_timeout(PATIENCE).expect("a line in time");
        serde_json::from_str(&line).unwrap()
    }

    pub(super) fn signal(&self, signal: Signal) {
        crate::support::signal(&self.child, signal);
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn wait(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In that mesh.
pub(super) fn of(command: &mut Command, mesh: &Mesh) {
    command.env("SHMESH_COORDINATOR", &mesh.address);
    command.env("SHMESH_RUNTIME_DIR", mesh.dir.path());
}

/// What a verb that ends by itself came to.
pub(super) struct Ended {
    pub(super) code: Option<i32>,
    pub(super) out: String,
    pub(super) errors: String,
}

impl Ended {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|_| panic!("{}{}", self.out, self.errors))
    }
}

/// Without a mesh.
pub(super) fn bag(args: &[&str]) -> Ended {
    ended(Command::new(MESH).arg("bag").args(args))
}

/// In a mesh, in that directory.
pub(super) fn bag_in(mesh: &Mesh, dir: &Path, args: &[&str]) -> Ended {
    let mut command = Command::new(MESH);
    of(&mut command, mesh);
    ended(command.current_dir(dir).arg("bag").args(args))
}

pub(super) fn ended(command: &mut Command) -> Ended {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended {
        code: output.status.code(),
        out: text(output.stdout),
        errors: text(output.stderr),
    }
}
