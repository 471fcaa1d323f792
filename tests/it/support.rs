//! What the tests share: a mesh of their own, and children that do as they are told.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use shmesh::{Coordinator, Error, Node, NodeBuilder, NodeId};

/// Longest wait for anything; nothing passes or fails by being faster.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A coordinator in this process and a runtime directory, both for one test.
#[derive(Debug)]
pub(crate) struct Mesh {
    pub(crate) address: String,
    pub(crate) dir: TempDir,
    set_up: SetUp,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// What a test wants of its coordinator.
type SetUp = fn(Coordinator) -> Coordinator;

impl Mesh {
    pub(crate) fn start() -> Self {
        Self::at("127.0.0.1:0", |coordinator| coordinator)
    }

    pub(crate) fn start_with(set_up: SetUp) -> Self {
        Self::at("127.0.0.1:0", set_up)
    }

    /// Ends the coordinator and starts another one at its address.
    pub(crate) fn restart(&mut self) {
        self.restart_after(|| {});
    }

    /// The same, with something to happen while there is none.
    pub(crate) fn restart_after(&mut self, meanwhile: impl FnOnce()) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        meanwhile();
        let mut again = Self::at(&self.address, self.set_up);
        self.stop = again.stop.take();
        self.thread = again.thread.take();
    }

    pub(crate) fn at(address: &str, set_up: SetUp) -> Self {
        let address = address.to_owned();
        let (tell, told) = channel();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let coordinator = set_up(bind(&address).await);
                tell.send(coordinator.local_addr().unwrap().to_string())
                    .unwrap();
                coordinator.run(async { drop(stopped.await) }).await;
            });
        });
        let address = told.recv().unwrap();
        Self {
            address,
            dir: TempDir::new(),
            set_up,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// A node of this process, not yet built.
    pub(crate) fn builder(&self, name: &str) -> NodeBuilder {
        Node::builder(name)
            .coordinator(&self.address)
            .runtime_dir(self.dir.path())
            .without_signal_handling()
    }

    pub(crate) fn node(&self, name: &str) -> Node {
        self.builder(name).build_blocking().unwrap()
    }

    /// A node of a child process.
    pub(crate) fn child(&self, name: &str) -> Puppet {
        self.child_of(&mut Puppet::command(), &format!("node {name}"), "")
    }

    /// The same, that takes the network alone.
    pub(crate) fn remote(&self, name: &str) -> Puppet {
        self.child_of(&mut Puppet::command(), &format!("node {name}"), "tcp")
    }

    /// The same, with options (see `role`).
    pub(crate) fn child_with(&self, name: &str, options: &str) -> Puppet {
        self.child_of(&mut Puppet::command(), &format!("node {name}"), options)
    }

    fn child_of(&self, command: &mut Command, node: &str, options: &str) -> Puppet {
        let mut child = Puppet::spawn(command);
        let dir = self.dir.path().display();
        let order = format!("{node} {} {dir} {options}", self.address);
        assert_eq!(child.ask(&order), "ok");
        child
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A process that another test starts has what this one listens with until it executes its
/// program: so an address may be in use for a moment after its coordinator went.
async fn bind(address: &str) -> Coordinator {
    let started = std::time::Instant::now();
    loop {
        match Coordinator::bind(address).await {
            Err(Error::AddressInUse { .. }) if started.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            bound => return bound.unwrap(),
        }
    }
}

/// `mesh`, which takes the end of a terminal for its own, whatever whoever started the tests (with
/// `nohup`) has ignored.
pub(crate) fn mesh_tool() -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal=HUP", env!("CARGO_BIN_EXE_mesh")]);
    command
}

/// The path of that process's status page, if it has one.
pub(crate) fn page_of(pid: u32) -> Option<String> {
    let entries = std::fs::read_dir("/dev/shm").unwrap().flatten();
    let mut names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let name = names.find(|name| {
        shmesh_shm::StatusReader::open(name).is_ok_and(|page| page.pid() == u64::from(pid))
    });
    name.map(|name| format!("/dev/shm/{name}"))
}

/// Whether a process catches a signal, or ignores it: `mask` is "SigCgt" or "SigIgn".
pub(crate) fn has_signal(pid: u32, mask: &str, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mut lines = status.lines().filter_map(|line| line.strip_prefix(mask));
    let bits = lines.next().unwrap().trim_start_matches(':').trim();
    let bits = u64::from_str_radix(bits, 16).unwrap();
    bits >> (signal.as_raw() - 1) & 1 == 1
}

/// A directory that goes with its owner.
#[derive(Debug)]
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        let path = PathBuf::from(format!(
            "/tmp/shmesh-it-{:.16}",
            NodeId::random().unwrap().to_string()
        ));
        std::fs::create_dir(&path).unwrap();
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A process that plays a role (see `role`): it gets a line and answers one.
#[derive(Debug)]
pub(crate) struct Puppet {
    child: Child,
    stdin: ChildStdin,
    answers: Receiver<String>,
}

impl Puppet {
    /// This test binary in its role.
    pub(crate) fn command() -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([
            "--exact",
            "role::play",
            "--nocapture",
            "--test-threads",
            "1",
        ]);
        command.env("SHMESH_TEST_ROLE", "1");
        command
    }

    pub(crate) fn spawn(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (tell, answers) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // The test harness talks too; ours are marked.
                if let Some(at) = line.find("> ")
                    && tell.send(line[at + 2..].to_owned()).is_err()
                {
                    return;
                }
            }
        });
        Self {
            child,
            stdin,
            answers,
        }
    }

    pub(crate) fn tell(&mut self, order: &str) {
        writeln!(self.stdin, "{order}").unwrap();
    }

    pub(crate) fn answer(&mut self) -> String {
        self.answers
            .recv_timeout(PATIENCE)
            .expect("an answer in time")
    }

    /// The answer, or none if the process ended instead.
    pub(crate) fn answer_or_end(&mut self) -> Option<String> {
        use std::sync::mpsc::RecvTimeoutError;
        match self.answers.recv_timeout(PATIENCE) {
            Ok(answer) => Some(answer),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("neither an answer nor an end"),
        }
    }

    /// An answer, if there is one by now.
    pub(crate) fn answer_now(&mut self) -> Option<String> {
        self.answers.try_recv().ok()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn ask(&mut self, order: &str) -> String {
        self.tell(order);
        self.answer()
    }

    pub(crate) fn signal(&self, to_send: Signal) {
        signal(&self.child, to_send);
    }

    /// SIGKILL, and waits for the end.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A payload that says which message it is in every byte.
pub(crate) fn payload(number: u64, size: usize) -> Vec<u8> {
    (0..size).map(|idx| byte(number, idx)).collect()
}

pub(crate) fn is_intact(bytes: &[u8], number: u64) -> bool {
    bytes
        .iter()
        .enumerate()
        .all(|(idx, found)| *found == byte(number, idx))
}

fn byte(number: u64, idx: usize) -> u8 {
    number
        .wrapping_mul(31)
        .wrapping_add(idx as u64)
        .to_le_bytes()[0]
}

/// An address of this computer at which nobody listens.
pub(crate) fn free_address() -> String {
    let spare = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    spare.local_addr().unwrap().to_string()
}

/// Sends a signal to a child. Once it was told to stop, all its threads stand still.
pub(crate) fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_child(child);
    kill_process(pid, signal).unwrap();
    if signal == Signal::STOP {
        waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED).unwrap();
    }
}

/// Polls a condition that no event announces.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let started = std::time::Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "{what}: not in time");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The number behind `key` in an answer like `received 3 lost 0`.
pub(crate) fn number(answer: &str, key: &str) -> u64 {
    let mut words = answer.split_whitespace();
    words
        .find(|word| *word == key)
        .unwrap_or_else(|| panic!("{key} in `{answer}`"));
    words.next().unwrap().parse().unwrap()
}

/// All the ways that messages go.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    /// Between two nodes of this process.
    Inside,
    /// Between processes of this host.
    Memory,
    /// Between processes, over TCP.
    Network,
}

pub(crate) const WAYS: [Way; 3] = [Way::Inside, Way::Memory, Way::Network];

/// A runtime on this thread.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}
