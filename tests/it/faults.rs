//! What runs out: the coordinator, /dev/shm, descriptors, permissions.

use std::process::Command;
use std::time::Duration;

use shmesh::{Error, Node, Overflow, Raw};

use crate::coordinator::Server;
use crate::support::{Mesh, PATIENCE, Puppet, TempDir, eventually, is_intact, payload};

#[test]
fn traffic_outlives_the_coordinator_and_new_listeners_are_found_after_its_return() {
    let server = Server::start("0");
    let dir = TempDir::new();
    let node = |name: &str| {
        let builder = Node::builder(name)
            .coordinator(&server.address)
            .runtime_dir(dir.path());
        builder.without_signal_handling().build_blocking().unwrap()
    };
    let (one, two) = (node("one"), node("two"));
    let block = Overflow::Block {
        depth: 64,
        deadline: PATIENCE,
    };
    let mut messages = two.subscriber::<Raw>("t").overflow(block).build().unwrap();
    let mut publisher = one.publisher::<Raw>("t").build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    let mut sent = 0;
    let mut exchange = |publisher: &mut shmesh::Publisher<Raw>| {
        for _ in 0..100 {
            publisher.publish_bytes(&payload(sent, 100)).unwrap();
            let sample = messages.recv_blocking(PATIENCE).unwrap();
            assert_eq!((sample.sequence(), sample.lost_before()), (sent, 0));
            sent += 1;
        }
    };
    exchange(&mut publisher);
    let address = server.address.clone();
    let port = address.rsplit(':').next().unwrap().to_owned();
    server.kill();
    exchange(&mut publisher);
    let mut late = two.subscriber::<Raw>("t").build().unwrap();
    exchange(&mut publisher);
    let _server = Server::start(&port);
    eventually("the new listener is found", || {
        publisher.listener_count() == 2
    });
    exchange(&mut publisher);
    assert!(late.try_recv().unwrap().is_some());
}

/// Runs a child with commands before it, as root may; says so where it may not.
fn restricted(script: &str) -> Option<Puppet> {
    let role = Puppet::command();
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "sh",
        "-c",
        &format!("{script} && exec \"$0\" \"$@\""),
    ]);
    command
        .arg(role.get_program())
        .args(role.get_args())
        .env("SHMESH_TEST_ROLE", "1");
    let probe = Command::new("unshare").args(["--mount", "true"]).status();
    if !probe.is_ok_and(|status| status.success()) {
        println!("skipped: no private mount namespace here");
        return None;
    }
    Some(Puppet::spawn(&mut command))
}

/// A child with a node and a /dev/shm of `size`, where that may be had.
fn cramped(mesh: &Mesh, size: &str) -> Option<Puppet> {
    let mount = format!("mount -t tmpfs -o size={size} tmpfs /dev/shm");
    let mut cramped = restricted(&mount)?;
    let dir = mesh.dir.path().display();
    let join = format!("node cramped {} {dir}", mesh.address);
    assert_eq!(cramped.ask(&join), "ok");
    Some(cramped)
}

/// Lets a child receive `count` messages, after which it must have had `total`, all whole.
fn must_receive(child: &mut Puppet, count: u64, total: u64) {
    let answer = child.ask(&format!("recv {count}"));
    let expected = format!("received {total} lost 0 damaged 0");
    assert!(answer.starts_with(&expected), "{answer}");
}

#[test]
fn a_node_runs_without_its_status_page_when_dev_shm_is_full() {
    let mesh = Mesh::start();
    let Some(mut cramped) = cramped(&mesh, "16k") else {
        return;
    };
    assert_eq!(cramped.ask("sub t keep 64 4"), "ok");
    let node = mesh.node("camera");
    let mut publisher = node.publisher::<Raw>("t").build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    for number in 0..10 {
        publisher.publish_bytes(&payload(number, 100_000)).unwrap();
    }
    must_receive(&mut cramped, 10, 10);
}

#[test]
fn traffic_goes_on_while_dev_shm_fills_up() {
    let mesh = Mesh::start();
    let Some(mut cramped) = cramped(&mesh, "4m") else {
        return;
    };
    assert_eq!(cramped.ask("sub there 30000 64 4"), "ok");
    assert_eq!(cramped.ask("pub back 100000000"), "ok");
    let node = mesh.node("camera");
    let mut publisher = node.publisher::<Raw>("there").build().unwrap();
    let mut back = node.subscriber::<Raw>("back").build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    assert_eq!(cramped.ask("heard"), "ok");
    let mut exchange = |round: u64| {
        for number in 10 * round..10 * (round + 1) {
            publisher.publish_bytes(&payload(number, 100_000)).unwrap();
        }
        must_receive(&mut cramped, 10, 10 * (round + 1));
        // Memory that was not there before is needed in either direction.
        let size = 200_000 << round;
        assert!(
            cramped
                .ask(&format!("send 3 {size}"))
                .ends_with("refused 0")
        );
        for _ in 0..3 {
            let sample = back.recv_blocking(PATIENCE).unwrap();
            assert!(sample.len() == size && is_intact(&sample, sample.sequence()));
        }
        if round == 0 {
            let answer = cramped.ask("fill /dev/shm");
            assert!(answer.starts_with("filled"), "{answer}");
            // What is made later does without a place on the status page, or has one.
            assert_eq!(cramped.ask("many 20"), "made 20");
        }
    };
    exchange(0);
    exchange(1);
}

#[test]
fn memory_at_the_processs_limit_is_an_error_and_others_go_on() {
    let mesh = Mesh::start();
    let mut poor = mesh.child("poor");
    assert_eq!(poor.ask("pub back 4000000000"), "ok");
    assert_eq!(poor.ask("sub there keep 64 4"), "ok");
    let node = mesh.node("camera");
    let mut publisher = node.publisher::<Raw>("there").build().unwrap();
    let mut back = node.subscriber::<Raw>("back").build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    assert_eq!(poor.ask("heard"), "ok");
    assert_eq!(poor.ask("send 1 100000"), "sent 1 refused 0");
    assert_eq!(poor.ask("memory 100000000"), "ok");
    let answer = poor.ask("loan 500000000");
    assert!(answer.starts_with("error"), "{answer}");
    assert!(answer.contains("memory"), "{answer}");
    // What needs no new memory still goes, both ways.
    assert_eq!(poor.ask("send 1 100000"), "sent 2 refused 0");
    for sequence in 0..2 {
        let sample = back.recv_blocking(PATIENCE).unwrap();
        assert_eq!((sample.sequence(), sample.lost_before()), (sequence, 0));
        assert!(is_intact(&sample, sequence));
    }
    for number in 0..10 {
        publisher.publish_bytes(&payload(number, 64)).unwrap();
    }
    must_receive(&mut poor, 10, 10);
}

/// A control group with so much memory; gone with its owner, who must outlive its members.
struct MemoryGroup(std::path::PathBuf);

impl MemoryGroup {
    fn new(bytes: u64) -> Option<Self> {
        let name = format!("shmesh-test-{}", std::process::id());
        let groups = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ];
        for (root, limit) in groups {
            let group = Self(std::path::Path::new(root).join(&name));
            let is_made = std::fs::create_dir(&group.0)
                .and_then(|()| std::fs::write(group.0.join(limit), bytes.to_string()));
            if is_made.is_ok() {
                return Some(group);
            }
        }
        println!("skipped: no control group of one's own here");
        None
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn memory_at_a_control_groups_limit_hurts_nobody_outside() {
    let Some(group) = MemoryGroup::new(64 << 20) else {
        return;
    };
    let mesh = Mesh::start();
    let join = format!("echo $$ > {}/cgroup.procs", group.0.display());
    let Some(mut poor) = restricted(&join) else {
        return;
    };
    let dir = mesh.dir.path().display();
    assert_eq!(poor.ask(&format!("node poor {} {dir}", mesh.address)), "ok");
    assert_eq!(poor.ask("pub t 4000000000"), "ok");
    let node = mesh.node("viewer");
    let mut from_poor = node.subscriber::<Raw>("t").build().unwrap();
    assert_eq!(poor.ask("heard"), "ok");
    assert_eq!(poor.ask("send 3 100000"), "sent 3 refused 0");
    // The kernel refuses the memory or ends the process: there is no third way.
    poor.tell("loan 500000000");
    if let Some(answer) = poor.answer_or_end() {
        assert!(answer.starts_with("error"), "{answer}");
        assert_eq!(poor.ask("send 1 100000"), "sent 4 refused 0");
    }
    for sequence in 0..3 {
        let sample = from_poor.recv_blocking(PATIENCE).unwrap();
        assert!(sample.sequence() == sequence && is_intact(&sample, sequence));
    }
    poor.kill();
    let mut publisher = node.publisher::<Raw>("well").build().unwrap();
    let mut well = mesh.child("well");
    assert_eq!(well.ask("sub well keep 64 4"), "ok");
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    publisher.publish_bytes(&payload(0, 500_000)).unwrap();
    must_receive(&mut well, 1, 1);
}

#[test]
fn descriptors_running_out_is_an_error_and_others_go_on() {
    let mesh = Mesh::start();
    let mut command = Command::new("sh");
    let role = Puppet::command();
    command
        .args(["-c", "ulimit -n 48 && exec \"$0\" \"$@\""])
        .arg(role.get_program());
    command.args(role.get_args()).env("SHMESH_TEST_ROLE", "1");
    let mut poor = Puppet::spawn(&mut command);
    let dir = mesh.dir.path().display();
    assert_eq!(poor.ask(&format!("node poor {} {dir}", mesh.address)), "ok");
    assert_eq!(poor.ask("sub t keep 64 4"), "ok");
    let node = mesh.node("camera");
    let mut publisher = node.publisher::<Raw>("t").build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    let answer = poor.ask("many 100");
    assert!(answer.contains("ulimit -n"), "{answer}");
    for number in 0..10 {
        publisher.publish_bytes(&payload(number, 8)).unwrap();
    }
    must_receive(&mut poor, 10, 10);
    assert_eq!(
        poor.ask("many 3"),
        "made 3",
        "what was given back can be used again"
    );
}

#[test]
fn another_users_runtime_directory_is_refused() {
    let mesh = Mesh::start();
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can play another user");
        return;
    }
    let foreign = TempDir::new();
    std::os::unix::fs::chown(foreign.path(), Some(65_534), None).unwrap();
    let error = mesh
        .builder("n")
        .runtime_dir(foreign.path())
        .build_blocking()
        .unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    use std::os::unix::fs::PermissionsExt as _;
    let open = TempDir::new();
    std::fs::set_permissions(open.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let error = mesh
        .builder("n")
        .runtime_dir(open.path())
        .build_blocking()
        .unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
}

#[test]
fn a_message_evicted_for_room_is_counted() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let keep = Overflow::KeepLast(64);
    let mut messages = node.subscriber::<Raw>("t").overflow(keep).build().unwrap();
    let mut publisher = node
        .publisher::<Raw>("t")
        .arena_bytes_max(4 << 20)
        .build()
        .unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    // The bound is reached long before the depth: the oldest give way all the same.
    for number in 0..50 {
        publisher.publish_bytes(&payload(number, 1 << 20)).unwrap();
    }
    let mut received = 0;
    while let Some(sample) = messages.try_recv().unwrap() {
        assert!(is_intact(&sample, sample.sequence()));
        received += 1;
    }
    let stats = messages.stats();
    assert_eq!(
        (stats.received, stats.received + stats.lost),
        (received, 50)
    );
    assert!(received >= 2, "the newest are there");
    let timeout = Duration::from_millis(1);
    assert!(messages.recv_blocking(timeout).is_err());
}
