//! Strangers in numbers: connections that dawdle, flood, announce more than they bring, or take all
//! descriptors, while others are served.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::process::Command;

use shmesh::Node;
use shmesh::limits::{FRAME_BYTES_MAX, MESSAGE_BYTES_MAX};
use shmesh::link::handshake::{HELLO_BYTES, Purpose};
use shmesh::link::wire::HEADER_BYTES;

use crate::coordinator::Server;
use crate::stranger::{ELSEWHERE, Stranger, announced, dial_from, is_cut_off};
use crate::support::{Mesh, PATIENCE, Puppet, TempDir, eventually, free_address, number};

/// A node in a process of its own, with a publisher and a door whose address is known.
pub(crate) struct Victim {
    pub(crate) mesh: Mesh,
    pub(crate) child: Puppet,
    pub(crate) door: String,
}

impl Victim {
    pub(crate) fn new() -> Self {
        Self::spawn(&mut Puppet::command())
    }

    fn spawn(command: &mut Command) -> Self {
        let (mesh, door) = (Mesh::start(), free_address());
        let mut child = Puppet::spawn(command);
        let (address, dir) = (&mesh.address, mesh.dir.path().display());
        let order = format!("node victim {address} {dir} tcp listen={door}");
        assert_eq!(child.ask(&order), "ok");
        assert_eq!(child.ask("pub t 100000000"), "ok");
        Self { mesh, child, door }
    }

    /// It lets a friend in and does for it what it is for.
    pub(crate) fn must_be_well(&mut self) {
        let mut friend = self.mesh.child_with("friend", "tcp patient");
        assert_eq!(friend.ask("sub t keep 64 4"), "ok");
        eventually("the friend is served", || {
            let sent = self.child.ask("send 1 3000");
            assert_eq!(number(&sent, "refused"), 0);
            let answer = friend.ask("drain");
            assert_eq!(number(&answer, "damaged"), 0);
            number(&answer, "received") > 0
        });
    }

    pub(crate) fn memory_kb(&self) -> u64 {
        memory_kb(self.child.id())
    }
}

/// Memory that a process has in use.
pub(crate) fn memory_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    number(&status, "VmRSS:")
}

fn descriptor_count(pid: u32) -> usize {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd"));
    descriptors.unwrap().count()
}

/// A node joins there, whoever else tries.
fn must_let_in(coordinator: &str) {
    let dir = TempDir::new();
    let builder = Node::builder("good").coordinator(coordinator);
    let builder = builder.runtime_dir(dir.path()).join_timeout(PATIENCE);
    drop(builder.without_signal_handling().build_blocking().unwrap());
}

fn dawdlers(source: IpAddr, address: &str) -> Vec<TcpStream> {
    let one = |_| {
        let mut stream = dial_from(source, address);
        // It may have had to give way already.
        let _ = stream.write_all(b"s");
        stream
    };
    (0..500).map(one).collect()
}

#[test]
fn hundreds_that_dawdle_keep_nobody_out() {
    for source in [ELSEWHERE, Ipv4Addr::LOCALHOST.into()] {
        let server = Server::start("0");
        let dawdling = dawdlers(source, &server.address);
        must_let_in(&server.address);
        assert!(dawdling.iter().all(is_cut_off), "a handshake has its time");
        must_let_in(&server.address);

        let mut victim = Victim::new();
        let dawdling = dawdlers(source, &victim.door);
        victim.must_be_well();
        assert!(dawdling.iter().all(is_cut_off), "a handshake has its time");
        victim.must_be_well();
    }
}

#[test]
fn a_flood_of_connections_leaves_nothing_behind() {
    let server = Server::start("0");
    let mut victim = Victim::new();
    for (address, pid) in [
        (server.address.clone(), server.id()),
        (victim.door.clone(), victim.child.id()),
    ] {
        must_let_in(&server.address);
        let (descriptors, memory) = (descriptor_count(pid), memory_kb(pid));
        for number in 0..4000 {
            let mut stream = dial_from(ELSEWHERE, &address);
            if number % 2 == 0 {
                let _ = stream.write_all(&[0x55; HELLO_BYTES]);
            }
        }
        eventually("its descriptors are free again", || {
            descriptor_count(pid) <= descriptors
        });
        let risen = memory_kb(pid).saturating_sub(memory);
        assert!(risen < 8 << 10, "{risen} KiB more");
    }
    must_let_in(&server.address);
    victim.must_be_well();
}

#[test]
fn a_length_that_is_announced_takes_no_memory() {
    let server = Server::start("0");
    let mut victim = Victim::new();
    let frame_len = u32::try_from(FRAME_BYTES_MAX - HEADER_BYTES).unwrap();
    let message_len = u32::try_from(MESSAGE_BYTES_MAX).unwrap();
    // A frame's kind is the third byte of its header.
    let frame = |kind: u8| {
        let mut header = announced(0, frame_len)[..HEADER_BYTES].to_vec();
        header[2] = kind;
        header
    };
    for (address, pid, purpose, header) in [
        (&server.address, server.id(), Purpose::Membership, frame(1)),
        (
            &victim.door,
            victim.child.id(),
            Purpose::NetworkLink,
            frame(3),
        ),
        (
            &victim.door,
            victim.child.id(),
            Purpose::NetworkLink,
            announced(1, message_len),
        ),
    ] {
        let memory = memory_kb(pid);
        let bomb = |_| {
            let id = shmesh::NodeId::random().unwrap();
            let mut stranger = Stranger::join(address, purpose, id);
            stranger.send(&[&header[..], &[0x55; 100]].concat());
            stranger
        };
        let bombs: Vec<Stranger> = (0..400).map(bomb).collect();
        assert!(bombs.iter().all(Stranger::is_cut_off), "it says no more");
        let risen = memory_kb(pid).saturating_sub(memory);
        // 400 of the least that was announced are 25 MiB.
        assert!(risen < 16 << 10, "{purpose:?}: {risen} KiB more");
    }
    must_let_in(&server.address);
    victim.must_be_well();
}

#[test]
fn a_door_that_ran_out_of_descriptors_opens_again_by_itself() {
    let role = Puppet::command();
    let mut command = Command::new("sh");
    let limited = "ulimit -n 64 && exec \"$0\" \"$@\"";
    command.args(["-c", limited]).arg(role.get_program());
    command.args(role.get_args()).env("SHMESH_TEST_ROLE", "1");
    let mut victim = Victim::spawn(&mut command);
    let mut early = victim.mesh.remote("early");
    assert_eq!(early.ask("sub t 30000 16 4"), "ok");
    assert_eq!(victim.child.ask("heard"), "ok");
    assert_eq!(victim.child.ask("send 10 3000"), "sent 10 refused 0");
    let pid = victim.child.id();
    // They are thrown out in time; others take their places.
    let mut hogs = Vec::new();
    eventually("all descriptors are taken", || {
        hogs.extend((0..16).map(|_| dial_from(ELSEWHERE, &victim.door)));
        descriptor_count(pid) >= 64
    });
    // What needs no new descriptor goes on.
    assert_eq!(victim.child.ask("send 10 3000"), "sent 20 refused 0");
    let answer = early.ask("recv 20");
    assert!(
        answer.starts_with("received 20 lost 0 damaged 0"),
        "{answer}"
    );
    drop(hogs);
    drop(early);
    victim.must_be_well();
}
