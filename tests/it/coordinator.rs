//! The coordinator as a process and as a server of strangers.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use shmesh::link::handshake::{HELLO_BYTES, Hello, Purpose, Side};
use shmesh::link::wire::{Kind, encode};
use shmesh::membership::FromNode;
use shmesh::topology::{Change, Endpoint, Role, TopicType};
use shmesh::{Node, NodeId, Raw};

use crate::support::{Mesh, PATIENCE, TempDir, eventually};

/// `mesh coordinator` as a process.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
}

impl Server {
    pub(crate) fn start(port: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mesh"));
        Self::spawn(command.args(["coordinator", "--json", "--port", port]))
    }

    /// The same, by a command that says where it listens in JSON.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert!(said["epoch"].as_u64().unwrap() > 0);
        Self {
            child,
            address: said["listening"].as_str().unwrap().to_owned(),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn it_ends_well_at_a_signal_and_says_when_its_port_is_taken() {
    let mut server = Server::start("0");
    let port = server.address.rsplit(':').next().unwrap().to_owned();
    let second = Command::new(env!("CARGO_BIN_EXE_mesh"))
        .args(["--port", &port])
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("in use"), "{said}");
    let pid = rustix::process::Pid::from_child(&server.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

#[test]
fn one_coordinator_listens_at_several_addresses() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mesh"));
    command.args(["coordinator", "--json", "--port", "0"]);
    let server = Server::spawn(command.args(["--host", "127.0.0.1, 127.0.0.2"]));
    let port = server.address.strip_prefix("127.0.0.1:").unwrap();
    let dir = TempDir::new();
    let join = |name: &str, address: &str| {
        let builder = Node::builder(name).coordinator(address);
        let builder = builder.runtime_dir(dir.path()).without_signal_handling();
        builder.build_blocking().unwrap()
    };
    let one = join("one", &server.address);
    let two = join("two", &format!("127.0.0.2:{port}"));
    eventually("they know each other", || {
        [&one, &two].iter().all(|node| node.peers().len() == 1)
    });
    // If one of them cannot be had, it does not begin.
    let taken = std::net::TcpListener::bind("127.0.0.3:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let second = Command::new(env!("CARGO_BIN_EXE_mesh"))
        .args(["coordinator", "--port", &port])
        .args(["--host", "127.0.0.1,127.0.0.3"])
        .output()
        .unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(
        said.contains("127.0.0.3") && said.contains("in use"),
        "{said}"
    );
}

#[test]
fn help_has_examples_and_wrong_usage_is_code_two() {
    for args in [
        &["--help"][..],
        &["coordinator", "--help"],
        &["speedtest", "--help"],
    ] {
        let said = Command::new(env!("CARGO_BIN_EXE_mesh"))
            .args(args)
            .output()
            .unwrap();
        let text = String::from_utf8(said.stdout).unwrap();
        assert!(text.contains("Examples:"), "{args:?}: {text}");
    }
    let wrong = Command::new(env!("CARGO_BIN_EXE_mesh"))
        .args(["nonsense"])
        .output()
        .unwrap();
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn many_nodes_that_come_at_once_all_see_each_other() {
    let mesh = Mesh::start();
    let nodes: Vec<_> = std::thread::scope(|scope| {
        let start = |number| {
            let mesh = &mesh;
            scope.spawn(move || {
                mesh.builder(&format!("n{number}"))
                    .build_blocking()
                    .unwrap()
            })
        };
        let started: Vec<_> = (0..40).map(start).collect();
        started
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    for node in &nodes {
        eventually("all are known", || node.peers().len() == nodes.len() - 1);
    }
}

#[test]
fn an_embedded_coordinator_serves_where_none_answers() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let dir = TempDir::new();
    let start = |name: &str| {
        let builder = Node::builder(name)
            .coordinator(&address)
            .embedded_coordinator();
        builder
            .runtime_dir(dir.path())
            .without_signal_handling()
            .build_blocking()
            .unwrap()
    };
    let (one, two) = (start("one"), start("two"));
    let mut publisher = one.publisher::<Raw>("t").build().unwrap();
    let _messages = two.subscriber::<Raw>("t").build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
}

#[test]
fn an_embedded_coordinator_takes_a_free_port_that_can_be_asked_for() {
    let dir = TempDir::new();
    let build = |name: &str, address: &str| {
        let builder = Node::builder(name).coordinator(address);
        let builder = builder.runtime_dir(dir.path()).without_signal_handling();
        builder.embedded_coordinator().build_blocking().unwrap()
    };
    let (one, other) = (build("one", "localhost:0"), build("other", "127.0.0.1:0"));
    let (host, port) = one.coordinator().rsplit_once(':').unwrap();
    assert_eq!(host, "localhost");
    assert_ne!(port, "0");
    assert_ne!(one.coordinator(), other.coordinator());
    let two = build("two", one.coordinator());
    assert_eq!(two.coordinator(), one.coordinator());
    assert_eq!(two.peers(), [("one".to_owned(), one.id())]);
    let mut publisher = one.publisher::<Raw>("t").build().unwrap();
    let _messages = two.subscriber::<Raw>("t").build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
}

#[test]
fn who_is_built_knows_who_was_there() {
    let mesh = Mesh::start();
    let there = mesh.node("there");
    let first = mesh.node("first");
    eventually("all know of the first one", || there.peers().len() == 1);
    let expected = [first.id(), there.id()];
    // Nodes of one process share what they know; by another address they do as those of another.
    let elsewhere = mesh.address.replace("127.0.0.1", "localhost");
    for (address, of_whom) in [(&mesh.address, "this"), (&elsewhere, "another")] {
        for _ in 0..10 {
            let late = mesh.builder("late").coordinator(address);
            let late = late.build_blocking().unwrap();
            let known: Vec<_> = late.peers().into_iter().map(|(_, id)| id).collect();
            let missing = expected.iter().find(|id| !known.contains(id));
            assert_eq!(missing, None, "of {of_whom} process");
        }
    }
}

/// A connection by hand.
struct Stranger(TcpStream);

impl Stranger {
    fn dial(mesh: &Mesh) -> Self {
        let stream = TcpStream::connect(&mesh.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    fn greet(&mut self, hello: &[u8]) -> std::io::Result<[u8; HELLO_BYTES]> {
        self.0.write_all(hello)?;
        let mut answer = [0; HELLO_BYTES];
        self.0.read_exact(&mut answer)?;
        Ok(answer)
    }

    /// True if the coordinator hangs up.
    fn cut_off(mut self) -> bool {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

fn hello() -> Hello {
    Hello::ours(Side::Node, Purpose::Membership, NodeId::random().unwrap()).unwrap()
}

#[test]
fn strangers_are_cut_off_and_do_no_harm() {
    let mesh = Mesh::start();
    let mut garbage = Stranger::dial(&mesh);
    garbage.0.write_all(&[0x55; HELLO_BYTES]).unwrap();
    assert!(garbage.cut_off());
    let mut old = Stranger::dial(&mesh);
    let mut bytes = hello().encode();
    bytes[8] = 0x77;
    let answer = old.greet(&bytes).unwrap();
    assert!(
        Hello::decode(&answer).is_ok(),
        "the old one learns our version"
    );
    assert!(old.cut_off());
    let mut silent_type = Stranger::dial(&mesh);
    silent_type.greet(&hello().encode()).unwrap();
    silent_type
        .0
        .write_all(&encode(Kind::FromNode, &FromNode::Heartbeat).unwrap())
        .unwrap();
    assert!(silent_type.cut_off(), "register first");
    let mut bomb = Stranger::dial(&mesh);
    bomb.greet(&hello().encode()).unwrap();
    bomb.0
        .write_all(b"sM\x01\x00\xff\xff\xff\xff\0\0\0\0\0\0\0\0")
        .unwrap();
    assert!(bomb.cut_off(), "a length beyond the limit");
    let mut meddler = Stranger::dial(&mesh);
    let hello = hello();
    meddler.greet(&hello.encode()).unwrap();
    let info = shmesh::topology::NodeInfo {
        id: hello.id,
        name: "meddler".into(),
        host: shmesh::HostId(1),
        uid: 0,
        pid: 0,
        socket: String::new(),
        addresses: Vec::new(),
    };
    let register = FromNode::Register(info);
    meddler
        .0
        .write_all(&encode(Kind::FromNode, &register).unwrap())
        .unwrap();
    let victim = Change::NodeDown(NodeId(1));
    let update = FromNode::Update(vec![victim]);
    meddler
        .0
        .write_all(&encode(Kind::FromNode, &update).unwrap())
        .unwrap();
    assert!(meddler.cut_off(), "a node may change itself only");
    mesh.node("still-served");
}

#[test]
fn a_silent_node_is_forgotten_after_its_lease() {
    let mesh = Mesh::start();
    let node = mesh.node("witness");
    let mut silent = Stranger::dial(&mesh);
    let hello = hello();
    silent.greet(&hello.encode()).unwrap();
    let info = shmesh::topology::NodeInfo {
        id: hello.id,
        name: "silent".into(),
        host: shmesh::HostId(1),
        uid: 0,
        pid: 0,
        socket: String::new(),
        addresses: Vec::new(),
    };
    let register = FromNode::Register(info);
    silent
        .0
        .write_all(&encode(Kind::FromNode, &register).unwrap())
        .unwrap();
    let ty = TopicType {
        encoding: shmesh::topology::Encoding::Raw,
        name: "b".into(),
        hash: 0,
    };
    let endpoint = Endpoint {
        id: 0,
        role: Role::Publisher,
        topic: "t".into(),
        ty,
    };
    let update = FromNode::Update(vec![Change::EndpointUp {
        node: hello.id,
        endpoint,
    }]);
    silent
        .0
        .write_all(&encode(Kind::FromNode, &update).unwrap())
        .unwrap();
    eventually("it is known", || {
        node.peers().iter().any(|(name, _)| name == "silent")
    });
    eventually("it is forgotten", || node.peers().is_empty());
    assert!(silent.cut_off());
}
