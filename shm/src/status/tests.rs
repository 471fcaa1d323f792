//! The page's life, and that of its name.

#![allow(clippy::unwrap_used)] // tests may panic

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use super::*;

fn unique() -> u128 {
    let random = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
    let digits: String = random.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).unwrap()
}

fn exists(name: &str) -> bool {
    path_of(name).exists()
}

#[test]
fn a_reader_sees_what_the_node_counts() {
    let node = unique();
    let page = StatusPage::create(node, "camera").unwrap();
    let counters = page.claim(1, 7, "image/raw").unwrap();
    counters.add(Counter::Messages, 2);
    counters.add(Counter::Messages, 3);
    counters.set(Counter::ArenaBytes, 99);
    counters.record(1_000);
    let reader = StatusReader::open(page.name()).unwrap();
    assert!(reader.is_alive());
    assert_eq!(reader.node(), (node, "camera".to_owned()));
    let endpoints = reader.endpoints();
    assert_eq!(endpoints.len(), 1);
    assert_eq!((endpoints[0].role, endpoints[0].endpoint), (1, 7));
    assert_eq!(endpoints[0].topic, "image/raw");
    assert_eq!(endpoints[0].value(Counter::Messages), 5);
    assert_eq!(endpoints[0].latency.sum_ns(), 1_000);
    assert_eq!(endpoints[0].latency, counters.latency());
    drop(counters);
    assert!(
        reader.endpoints().is_empty(),
        "a closed endpoint leaves the page"
    );
    let name = page.name().to_owned();
    drop(page);
    assert!(!exists(&name));
    assert!(!reader.is_alive(), "the lease went with the owner");
}

#[test]
fn full_pages_and_missing_pages_count_privately() {
    let page = StatusPage::create(unique(), "n").unwrap();
    let claimed: Vec<_> = (0..ENTRIES).map_while(|_| page.claim(0, 0, "t")).collect();
    assert_eq!(claimed.len(), ENTRIES);
    assert!(page.claim(0, 0, "t").is_none());
    let private = Counters::detached();
    private.add(Counter::Bytes, 4);
    assert_eq!(private.value(Counter::Bytes), 4);
}

#[test]
fn an_entry_takes_memory_when_it_is_used_and_starts_at_zero_again() {
    let page = StatusPage::create(unique(), "n").unwrap();
    let bytes = || page.file.metadata().unwrap().blocks() * 512;
    let empty = bytes();
    let one = page.claim(0, 0, "t").unwrap();
    let with_one = bytes();
    assert!(empty < with_one, "{empty} {with_one}");
    one.add(Counter::Messages, 1);
    one.record(5);
    drop(one);
    let again = page.claim(0, 0, "t").unwrap();
    assert_eq!(again.value(Counter::Messages), 0);
    assert_eq!(again.latency().count(), 0);
    let reader = StatusReader::open(page.name()).unwrap();
    assert_eq!(reader.endpoints().len(), 1);
    assert_eq!(bytes(), with_one, "who reads it takes none");
    assert!(with_one * 8 < PAGE_BYTES as u64);
}

#[test]
fn a_dead_nodes_page_is_swept_and_a_living_ones_is_not() {
    let living = StatusPage::create(unique(), "living").unwrap();
    let dead = StatusPage::create(unique(), "dead").unwrap();
    let name = dead.name().to_owned();
    // What a killed process leaves: the name without the lease.
    dead.is_removed.store(true, FlagOrdering::Relaxed);
    drop(dead);
    assert!(exists(&name));
    assert!(!StatusReader::open(&name).unwrap().is_alive());
    // Another test's start may sweep it first.
    sweep();
    assert!(!exists(&name));
    assert!(exists(living.name()));
}

#[test]
fn the_lease_survives_that_the_owner_opens_and_closes_the_file() {
    let page = StatusPage::create(unique(), "n").unwrap();
    drop(open(&path_of(page.name()), true).unwrap());
    assert!(StatusReader::open(page.name()).unwrap().is_alive());
    assert!(sweep().iter().all(|name| name != page.name()));
}

#[test]
fn a_successors_page_of_the_same_name_is_not_removed() {
    let page = StatusPage::create(unique(), "n").unwrap();
    let path = path_of(page.name());
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "successor").unwrap();
    drop(page);
    assert_eq!(std::fs::read(&path).unwrap(), b"successor");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_name_that_is_taken_is_an_error() {
    let node = unique();
    let page = StatusPage::create(node, "n").unwrap();
    assert!(matches!(
        StatusPage::create(node, "n"),
        Err(ShmError::InUse { .. })
    ));
    assert!(exists(page.name()), "and the owner keeps it");
    assert!(StatusReader::open(page.name()).unwrap().is_alive());
}

#[test]
fn garbage_is_refused_and_swept_only_when_it_is_old() {
    let uid = rustix::process::geteuid().as_raw();
    let garbage = |len: usize, mode| {
        let name = format!("{PREFIX}{uid}-{:032x}", unique());
        std::fs::write(path_of(&name), vec![0xa5; len]).unwrap();
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(path_of(&name), permissions).unwrap();
        name
    };
    let open_to_all = garbage(PAGE_BYTES, 0o666);
    assert!(matches!(
        StatusReader::open(&open_to_all),
        Err(ShmError::Foreign { .. })
    ));
    let short = garbage(10, 0o600);
    assert!(matches!(
        StatusReader::open(&short),
        Err(ShmError::Size { .. })
    ));
    let unready = garbage(PAGE_BYTES, 0o600);
    assert!(matches!(
        StatusReader::open(&unready),
        Err(ShmError::NotReady)
    ));
    sweep();
    assert!(exists(&unready), "it may be being made");
    for name in [open_to_all, short, unready] {
        let _ = std::fs::remove_file(path_of(&name));
    }
    assert!(StatusReader::open("../etc/passwd").is_err());
}

#[test]
fn a_page_is_for_its_user_alone_whatever_the_mask() {
    let page = StatusPage::create(unique(), "n").unwrap();
    let metadata = std::fs::metadata(path_of(page.name())).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o600);
}
