//! Two hosts, as far as their networks go: namespaces joined by a cable that is cut, swallows or is
//! slow. And the other kinds of addresses.

use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use shmesh::{Node, NodeId, Raw, Transports};

use crate::coordinator::Server;
use crate::support::{Mesh, PATIENCE, Puppet, TempDir, eventually, is_intact, number, payload};

fn ip(args: &str) -> bool {
    let output = Command::new("ip").args(args.split_whitespace()).output();
    output.is_ok_and(|output| output.status.success())
}

/// Two namespaces, `near` with 10.x.y.1 and `far` with 10.x.y.2; gone with their owner.
struct Hosts {
    near: String,
    far: String,
    /// First three numbers of their addresses.
    net: String,
}

impl Hosts {
    /// None where that is not permitted, which is said.
    fn new() -> Option<Self> {
        let unique = format!("{:.8}", NodeId::random().unwrap().to_string());
        let number = u16::from_str_radix(&unique[..4], 16).unwrap();
        let hosts = Self {
            near: format!("sm{unique}n"),
            far: format!("sm{unique}f"),
            net: format!("10.{}.{}", number >> 8, number & 0xff),
        };
        let Self { near, far, net } = &hosts;
        let is_made = [
            format!("netns add {near}"),
            format!("netns add {far}"),
            format!("link add cable netns {near} type veth peer name cable netns {far}"),
            format!("-n {near} address add {net}.1/24 dev cable"),
            format!("-n {far} address add {net}.2/24 dev cable"),
            format!("-n {near} link set lo up"),
            format!("-n {far} link set lo up"),
            format!("-n {near} link set cable up"),
            format!("-n {far} link set cable up"),
        ]
        .iter()
        .all(|step| ip(step));
        if !is_made {
            println!("skipped: no network namespaces here");
            return None;
        }
        Some(hosts)
    }

    /// That command, on that host.
    fn on(host: &str, command: &Command) -> Command {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", host]);
        inside.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            inside.env(name, value.unwrap_or_default());
        }
        inside
    }

    fn slow_down(&self) -> bool {
        let tc = |host: &str| {
            let mut command = Command::new("tc");
            let rate = "qdisc add dev cable root tbf rate 1mbit burst 16kb latency 50ms";
            let output = Self::on(host, command.args(rate.split_whitespace())).output();
            output.is_ok_and(|output| output.status.success())
        };
        let is_slow = tc(&self.near) && tc(&self.far);
        if !is_slow {
            println!("skipped: no token bucket in this kernel");
        }
        is_slow
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        // The cable goes with either of them.
        ip(&format!("netns delete {}", self.near));
        ip(&format!("netns delete {}", self.far));
    }
}

/// A publisher and a subscriber on different hosts. What was sent is counted.
struct Pair {
    sender: Puppet,
    receiver: Puppet,
    sent: u64,
    _neighbour: Puppet,
    _server: Server,
    _dirs: [TempDir; 3],
    // Outlives its processes.
    hosts: Hosts,
}

impl Pair {
    /// The sender beside the coordinator, or beyond the cable; with a reliable subscriber or one
    /// that keeps the last.
    fn new(is_sender_near: bool, overflow: &str) -> Option<Self> {
        let hosts = Hosts::new()?;
        let mut server = Command::new(env!("CARGO_BIN_EXE_mesh"));
        let address = format!("{}.1", hosts.net);
        server.args(["coordinator", "--json", "--port", "0", "--host", &address]);
        let server = Server::spawn(&mut Hosts::on(&hosts.near, &server));
        let dirs = [TempDir::new(), TempDir::new(), TempDir::new()];
        let node = |host: &str, name: &str, dir: &TempDir| {
            let mut child = Puppet::spawn(&mut Hosts::on(host, &Puppet::command()));
            let (address, dir) = (&server.address, dir.path().display());
            let order = format!("node {name} {address} {dir} tcp patient");
            assert_eq!(child.ask(&order), "ok");
            child
        };
        let (here, there) = if is_sender_near {
            (&hosts.near, &hosts.far)
        } else {
            (&hosts.far, &hosts.near)
        };
        let mut sender = node(here, "sender", &dirs[0]);
        let mut receiver = node(there, "receiver", &dirs[1]);
        let mut neighbour = node(here, "neighbour", &dirs[2]);
        assert_eq!(sender.ask("pub t 200000000"), "ok");
        assert_eq!(receiver.ask(&format!("sub t {overflow} 4096 8")), "ok");
        assert_eq!(neighbour.ask("sub t keep 4096 8"), "ok");
        eventually("both listen", || sender.ask("listeners") == "2");
        Some(Self {
            sender,
            receiver,
            sent: 0,
            _neighbour: neighbour,
            _server: server,
            _dirs: dirs,
            hosts,
        })
    }

    fn send(&mut self, count: u64, size: usize) {
        let answer = self.sender.ask(&format!("send {count} {size}"));
        self.sent += count;
        assert_eq!(number(&answer, "sent"), self.sent);
    }

    /// Traffic while the cable is what it is made to be, for that long.
    fn send_for(&mut self, time: Duration) {
        let started = Instant::now();
        while started.elapsed() < time {
            self.send(10, 500);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// In the end every message was received or is counted as lost, none twice, none damaged.
    fn must_add_up(&mut self) {
        eventually("all are counted", || {
            self.send(1, 8);
            let answer = self.receiver.ask("drain");
            assert_eq!(number(&answer, "damaged"), 0, "{answer}");
            let counted = number(&answer, "received") + number(&answer, "lost");
            assert!(counted <= self.sent, "{answer} of {}: twice", self.sent);
            counted == self.sent
        });
        let before = number(&self.receiver.ask("drain"), "lost");
        self.send(20, 3000);
        let sent = self.sent;
        eventually("traffic flows", || {
            let answer = self.receiver.ask("drain");
            number(&answer, "received") + number(&answer, "lost") == sent
        });
        let after = number(&self.receiver.ask("drain"), "lost");
        assert_eq!(after, before, "nothing is lost any more");
    }

    /// Nothing gets through, and nothing says so.
    fn swallow(&self, is_swallowing: bool) {
        let change = if is_swallowing { "add" } else { "delete" };
        let Hosts { near, far, net } = &self.hosts;
        assert!(ip(&format!(
            "-n {near} route {change} blackhole {net}.2/32"
        )));
        assert!(ip(&format!("-n {far} route {change} blackhole {net}.1/32")));
    }
}

#[test]
fn a_cable_that_is_cut_costs_what_is_counted() {
    cut_cable(true);
}

#[test]
fn it_is_counted_also_by_who_is_with_the_coordinator() {
    cut_cable(false);
}

fn cut_cable(is_sender_near: bool) {
    let Some(mut pair) = Pair::new(is_sender_near, "keep") else {
        return;
    };
    pair.send(100, 2000);
    pair.must_add_up();
    let near = pair.hosts.near.clone();
    for time in [Duration::from_millis(500), Duration::from_secs(5)] {
        assert!(ip(&format!("-n {near} link set cable down")));
        pair.send_for(time);
        assert!(ip(&format!("-n {near} link set cable up")));
        pair.must_add_up();
    }
}

#[test]
fn a_route_that_swallows_costs_what_is_counted() {
    let Some(mut pair) = Pair::new(true, "keep") else {
        return;
    };
    pair.send(100, 2000);
    pair.must_add_up();
    pair.swallow(true);
    pair.send_for(Duration::from_secs(1));
    eventually("silence ends the link", || {
        pair.send(1, 100);
        pair.sender.ask("listeners") == "1"
    });
    pair.swallow(false);
    pair.must_add_up();
}

#[test]
fn a_slow_cable_costs_what_is_counted() {
    for overflow in ["keep", "30000"] {
        let Some(mut pair) = Pair::new(true, overflow) else {
            return;
        };
        pair.send(10, 1000);
        pair.must_add_up();
        if !pair.hosts.slow_down() {
            return;
        }
        // Some seconds of what it carries.
        pair.send(300, 2000);
        pair.must_add_up();
        if overflow != "keep" {
            let answer = pair.receiver.ask("drain");
            assert_eq!(number(&answer, "lost"), 0, "{answer}");
        }
    }
}

/// That command on a host that has a boot and shared memory of its own, too.
fn apart(host: &str, command: &Command, boot_id: &std::path::Path) -> Command {
    let mut own = Command::new("sh");
    let boot = "mount -t tmpfs none /dev/shm \
        && mount --bind $0 /proc/sys/kernel/random/boot_id && exec \"$@\"";
    own.args(["-c", boot]).arg(boot_id);
    own.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        own.env(name, value.unwrap_or_default());
    }
    Hosts::on(host, &own)
}

/// A coordinator and the node `top-here` on the near host, `top-far` on the far one.
struct MeshApart {
    server: Server,
    nodes: [Puppet; 2],
    _dirs: [TempDir; 2],
}

impl MeshApart {
    fn start(hosts: &Hosts) -> Self {
        let mut server = Command::new(env!("CARGO_BIN_EXE_mesh"));
        let address = format!("{}.1", hosts.net);
        server.args(["coordinator", "--json", "--port", "0", "--host", &address]);
        let server = Server::spawn(&mut Hosts::on(&hosts.near, &server));
        let dirs = [TempDir::new(), TempDir::new()];
        let boot_id = dirs[1].path().join("boot_id");
        std::fs::write(&boot_id, NodeId::random().unwrap().to_string()).unwrap();
        let far = apart(&hosts.far, &Puppet::command(), &boot_id);
        let near = Hosts::on(&hosts.near, &Puppet::command());
        let nodes = [("top-far", far), ("top-here", near)].map(|(name, mut command)| {
            let mut child = Puppet::spawn(&mut command);
            let dir = &dirs[usize::from(name == "top-far")];
            let (address, dir) = (&server.address, dir.path().display());
            assert_eq!(child.ask(&format!("node {name} {address} {dir}")), "ok");
            child
        });
        Self {
            server,
            nodes,
            _dirs: dirs,
        }
    }
}

#[test]
fn tools_say_of_nodes_of_other_hosts_what_these_count_and_no_more() {
    let Some(hosts) = Hosts::new() else {
        return;
    };
    let mut mesh = MeshApart::start(&hosts);
    let [far, near] = &mut mesh.nodes;
    assert_eq!(far.ask("pub top/far 1000000"), "ok");
    assert_eq!(near.ask("sub top/far keep 16 8"), "ok");
    assert_eq!(far.ask("heard"), "ok");
    far.ask("send 5 100");
    assert_eq!(number(&near.ask("recv 5"), "received"), 5);

    let tool = |args: &[&str]| {
        let mut tool = Command::new(env!("CARGO_BIN_EXE_mesh"));
        let out = Hosts::on(&hosts.near, tool.args(args)).output().unwrap();
        assert!(out.status.success(), "{out:?}");
        String::from_utf8(out.stdout).unwrap()
    };
    let said = tool(&[
        "top",
        "--json",
        "--interval",
        "0.05",
        "--coordinator",
        &mesh.server.address,
    ]);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let all = said["nodes"].as_array().unwrap();
    let node = |name| all.iter().find(|node| node["node"] == name).unwrap();
    let (far, near) = (node("top-far"), node("top-here"));
    assert_eq!(far["state"], "far");
    assert_eq!(
        (&far["publisher_count"], &far["subscriber_count"]),
        (&1.into(), &0.into())
    );
    assert_eq!((&far["sent"], &far["sent_bytes"]), (&5.into(), &500.into()));
    assert_eq!(far["sent_per_s"], 0.0, "it was asked twice");
    for unknown in ["fill", "latency"] {
        assert!(far[unknown].is_null(), "{unknown} of {far}");
    }
    let endpoint = &far["endpoints"][0];
    assert_eq!(
        (&endpoint["topic"], &endpoint["peers"]),
        (&"top/far".into(), &1.into())
    );
    assert_eq!(
        (&near["state"], &near["received"]),
        (&"live".into(), &5.into())
    );
    let text = tool(&["metrics", "--once"]);
    let its = |line: &&str| line.contains("top/far");
    let names = text
        .lines()
        .filter(its)
        .filter_map(|line| line.split('{').next());
    let names: Vec<_> = names.collect();
    assert!(names.contains(&"shmesh_messages_total"), "{names:?}");
    let is_time = |name: &&str| name.contains("latency");
    assert!(
        !names.iter().any(is_time),
        "clocks of two hosts say no latency"
    );
}

/// Two nodes, both found as said, exchange messages over the network.
fn must_meet(coordinator: &str, listen: &str, advertise: Option<&str>) {
    let dir = TempDir::new();
    let node = |name: &str| {
        let builder = Node::builder(name).coordinator(coordinator);
        let builder = builder.runtime_dir(dir.path()).join_timeout(PATIENCE);
        builder
            .transports(Transports::Network)
            .without_signal_handling()
    };
    let one = node("one").listen(listen);
    let one = match advertise {
        Some(address) => one.advertise(address),
        None => one,
    };
    let one = one.build_blocking().unwrap();
    let two = node("two").listen(listen.rsplit_once(':').map_or(listen, |(host, _)| host));
    let two = two.build_blocking().unwrap();
    let mut publisher = one.publisher::<Raw>("t").build().unwrap();
    let mut subscriber = two.subscriber::<Raw>("t").build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    publisher.publish_bytes(&payload(0, 3000)).unwrap();
    assert!(is_intact(&subscriber.recv_blocking(PATIENCE).unwrap(), 0));
}

fn free_port(host: &str) -> Option<u16> {
    let spare = TcpListener::bind((host, 0)).ok()?;
    Some(spare.local_addr().unwrap().port())
}

#[test]
fn version_six_addresses_do() {
    let Some(port) = free_port("::1") else {
        println!("skipped: no IPv6 here");
        return;
    };
    let mesh = Mesh::at("[::1]:0", |coordinator| coordinator);
    assert!(mesh.address.starts_with("[::1]:"), "{}", mesh.address);
    let listen = format!("[::1]:{port}");
    must_meet(&mesh.address, &listen, Some(&listen));
    for host in ["::1", "[::1]"] {
        let mut server = Command::new(env!("CARGO_BIN_EXE_mesh"));
        server.args(["coordinator", "--json", "--port", "0", "--host", host]);
        let server = Server::spawn(&mut server);
        must_meet(&server.address, "[::1]:0", None);
    }
}

#[test]
fn host_names_do() {
    let port = free_port("127.0.0.1").unwrap();
    let mesh = Mesh::at("localhost:0", |coordinator| coordinator);
    let coordinator_port = mesh.address.rsplit(':').next().unwrap();
    let coordinator = format!("localhost:{coordinator_port}");
    let listen = format!("localhost:{port}");
    must_meet(&coordinator, &listen, Some(&listen));
    must_meet(&coordinator, "localhost", None);
    let mut server = Command::new(env!("CARGO_BIN_EXE_mesh"));
    server.args([
        "coordinator",
        "--json",
        "--port",
        "0",
        "--host",
        "localhost",
    ]);
    let server = Server::spawn(&mut server);
    must_meet(&server.address, "localhost:0", None);
}
