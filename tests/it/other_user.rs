//! Processes of another user: memory is shared only where both sides name each other.

use std::process::Command;

use shmesh::{Raw, Transports};

use crate::security::join;
use crate::support::{Mesh, PATIENCE, Puppet, TempDir, eventually, is_intact, number, payload};

/// A child of user 65534 with a node whose runtime directory is its own.
struct OtherUser {
    child: Puppet,
    // Gone after the child.
    _dirs: [TempDir; 2],
}

const NOBODY: u32 = 65_534;

impl OtherUser {
    fn join(mesh: &Mesh, options: &str) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let (binary, runtime) = (TempDir::new(), TempDir::new());
        let copy = binary.path().join("other-user");
        // By a process of its own: otherwise what other tests start meanwhile would have the copy
        // open for writing, and it could not be run.
        let copied = Command::new("cp")
            .args([&std::env::current_exe().unwrap(), &copy])
            .status();
        assert!(copied.unwrap().success());
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(binary.path(), open).unwrap();
        std::os::unix::fs::chown(runtime.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        let mut command = Command::new("setpriv");
        let id = NOBODY.to_string();
        command
            .args(["--reuid", &id, "--regid", &id, "--clear-groups"])
            .arg(&copy)
            .args(Puppet::command().get_args())
            .env("SHMESH_TEST_ROLE", "1");
        let mut child = Puppet::spawn(&mut command);
        let dir = runtime.path().display();
        let order = format!("node other {} {dir} {options}", mesh.address);
        assert_eq!(child.ask(&order), "ok");
        let _dirs = [binary, runtime];
        Self { child, _dirs }
    }
}

fn cannot_play_others() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        println!("skipped: only root can play another user");
    }
    !is_root
}

#[test]
fn users_that_name_each_other_share_memory() {
    if cannot_play_others() {
        return;
    }
    let mesh = Mesh::start();
    let builder = mesh.builder("one").transports(Transports::SharedMemory);
    let node = join(builder.allow_user(NOBODY)).unwrap();
    let mut publisher = node.publisher::<Raw>("there").build().unwrap();
    let mut back = node.subscriber::<Raw>("back").build().unwrap();
    let mut other = OtherUser::join(&mesh, "shm allow=0");
    assert_eq!(other.child.ask("sub there 30000 16 8"), "ok");
    assert_eq!(other.child.ask("pub back 1000000"), "ok");
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    assert_eq!(other.child.ask("heard"), "ok");
    for (number, size) in (0..).zip([8, 5000]) {
        publisher.publish_bytes(&payload(number, size)).unwrap();
        assert_eq!(number_of_received(&other.child.ask("recv 1")), number + 1);
        other.child.ask(&format!("send 1 {size}"));
        assert!(is_intact(&back.recv_blocking(PATIENCE).unwrap(), number));
    }
    assert_eq!(other.child.ask("close"), "ok");
}

fn number_of_received(answer: &str) -> u64 {
    assert_eq!(number(answer, "damaged"), 0, "{answer}");
    number(answer, "received")
}

#[test]
fn a_user_that_not_both_sides_name_shares_no_memory() {
    if cannot_play_others() {
        return;
    }
    for (is_naming, options) in [(true, "shm"), (false, "shm allow=0"), (false, "")] {
        let mesh = Mesh::start();
        let builder = mesh.builder("one").transports(Transports::SharedMemory);
        let builder = if is_naming {
            builder.allow_user(NOBODY)
        } else {
            builder
        };
        let node = join(builder).unwrap();
        let mut publisher = node.publisher::<Raw>("t").build().unwrap();
        let mut other = OtherUser::join(&mesh, options);
        assert_eq!(other.child.ask("sub t keep 4 4"), "ok");
        eventually("they know of each other", || !node.peers().is_empty());
        let mut friend = mesh.child("friend");
        assert_eq!(friend.ask("sub t keep 4 4"), "ok");
        publisher.wait_for_listener_blocking(PATIENCE).unwrap();
        let answer = other.child.ask("drain");
        assert!(answer.ends_with("publishers 0"), "{answer}");
        assert_eq!(publisher.listener_count(), 1, "the friend alone");
        assert_eq!(other.child.ask("close"), "ok");
    }
}

#[test]
fn a_user_that_may_not_share_memory_takes_the_network() {
    if cannot_play_others() {
        return;
    }
    let mesh = Mesh::start();
    let node = join(mesh.builder("one").allow_user(NOBODY)).unwrap();
    let mut publisher = node.publisher::<Raw>("t").build().unwrap();
    let mut other = OtherUser::join(&mesh, "");
    assert_eq!(other.child.ask("sub t 30000 16 4"), "ok");
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    publisher.publish_bytes(&payload(0, 5000)).unwrap();
    assert_eq!(number_of_received(&other.child.ask("recv 1")), 1);
    assert_eq!(other.child.ask("close"), "ok");
}
