//! What is thought of computers that are fine, and of those that are not.

use super::*;

const LIMITS: &str = "\
Limit                     Soft Limit           Hard Limit           Units
Max processes             63432                63432                processes
Max open files            1024                 1048576              files
Max locked memory         8388608              8388608              bytes
Max address space         unlimited            unlimited            bytes
";

fn is(check: &Check, level: Level, part: &str) {
    assert_eq!(check.level, level, "{check}");
    assert!(check.to_string().contains(part), "{check}");
    assert_eq!(check.level == Level::Ok, check.advice.is_none(), "{check}");
}

#[test]
fn limits_are_read_as_the_kernel_writes_them() {
    is(&files(LIMITS), Level::Ok, "1024 (hard limit 1048576)");
    is(&locked_memory(LIMITS), Level::Ok, "8192 KiB");
    is(&processes(LIMITS, None, None), Level::Ok, "63432");
    let low = LIMITS.replace("1024 ", "256 ").replace("8388608", "65536");
    is(&files(&low), Level::Warn, "ulimit -n");
    is(&locked_memory(&low), Level::Warn, "64 KiB");
    is(&files(&LIMITS.replace("1024 ", "32 ")), Level::Fail, "32");
    let none = "Max open files  unlimited unlimited files\nMax locked memory unlimited unlimited b";
    is(&files(none), Level::Ok, "no limit");
    is(&locked_memory(none), Level::Ok, "no limit");
    for bad in ["", "Max open files", "Max open files x y"] {
        is(&files(bad), Level::Warn, "not known");
    }
}

#[test]
fn a_control_group_counts_before_the_user() {
    is(
        &processes(LIMITS, Some("max\n"), Some("5\n")),
        Level::Ok,
        "63432",
    );
    is(
        &processes(LIMITS, Some("100\n"), Some("5\n")),
        Level::Ok,
        "5 of 100",
    );
    is(
        &processes(LIMITS, Some("100\n"), Some("91\n")),
        Level::Warn,
        "TasksMax",
    );
    is(
        &processes(LIMITS, Some("100\n"), Some("99\n")),
        Level::Fail,
        "--pids-limit",
    );
}

#[test]
fn a_full_or_missing_dev_shm_is_said() {
    is(
        &space(Some((4 << 30, 3 << 30))),
        Level::Ok,
        "4096 MiB, 25 % used",
    );
    is(&space(Some((64 << 20, 3 << 20))), Level::Warn, "--clean");
    is(&space(Some((64 << 20, 1000))), Level::Fail, "100 % used");
    is(&space(Some((0, 0))), Level::Fail, "--shm-size");
    is(&space(None), Level::Fail, "is not there");
}

fn page(state: PageState) -> Page {
    Page {
        name: "shmesh-0-1".into(),
        state,
        node: "arm\x1b[2J".into(),
        pid: 7,
        age: Duration::from_secs(60),
        bytes: 1 << 20,
    }
}

#[test]
fn pages_of_the_dead_are_listed_and_names_are_safe_to_print() {
    let living = [page(PageState::Alive), page(PageState::NotReady)];
    is(&orphans(&living, &[]), Level::Ok, "1 nodes");
    is(
        &orphans(&living, &["x".into()]),
        Level::Ok,
        "1 of dead ones removed",
    );
    let dead = vec![page(PageState::Dead); 7];
    let check = orphans(&dead, &[]);
    is(&check, Level::Warn, "7 of dead nodes, 7168 KiB");
    is(&check, Level::Warn, "(process 7, 60 s old)");
    is(&check, Level::Warn, "and 2 more");
    assert!(!check.to_string().contains('\x1b'));
    let strange = [page(PageState::Strange("another layout".into()))];
    is(&versions(&strange), Level::Warn, "another layout");
    is(&versions(&living), Level::Ok, env!("CARGO_PKG_VERSION"));
}

#[test]
fn what_slows_a_computer_down_is_a_warning() {
    is(&cores(8, "0-7"), Level::Ok, "8");
    is(&cores(1, "0"), Level::Warn, "spin");
    let kinds = |kinds: &[&str]| {
        kinds
            .iter()
            .map(|kind| (*kind).to_owned())
            .collect::<Vec<_>>()
    };
    is(&governor(&[]), Level::Ok, "none");
    is(
        &governor(&kinds(&["performance", "performance"])),
        Level::Ok,
        "performance",
    );
    let check = governor(&kinds(&["powersave", "performance"]));
    is(&check, Level::Warn, "performance, powersave");
    for good in ["tsc\n", "kvm-clock\n", "arch_sys_counter\n"] {
        is(&clock(Some(good)), Level::Ok, good.trim());
    }
    is(&clock(Some("hpet\n")), Level::Warn, "hpet");
    let huge = huge_pages(
        Some("always [advise] never\n"),
        "HugePages_Total:      16\n",
    );
    is(&huge, Level::Ok, "advise; reserved: 16, free 0");
    is(&huge_pages(None, ""), Level::Ok, "not known");
}

#[test]
fn a_coordinator_that_was_named_must_answer() {
    let refused = || Err(std::io::ErrorKind::ConnectionRefused.into());
    is(&port("robot:1", true, Ok(())), Level::Ok, "robot:1 answers");
    is(&port("robot:1", true, refused()), Level::Fail, "firewall");
    is(
        &port("robot:1", false, refused()),
        Level::Warn,
        "SHMESH_COORDINATOR",
    );
    is(&entry(&Ok(vec!["a".into()])), Level::Ok, "1 nodes");
    is(
        &entry(&Err("wrong key".into())),
        Level::Fail,
        "--authkey-file",
    );
}
