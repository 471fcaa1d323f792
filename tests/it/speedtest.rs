//! `mesh-speedtest` as its users run it.

use std::process::{Command, Output, Stdio};

use crate::support::{eventually, page_of};

fn speedtest(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mesh-speedtest"));
    command.args(args).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn every_pattern_and_wait_says_what_it_measured_in_json() {
    for pattern in ["ping", "paced", "stream", "call"] {
        for wait in ["spin", "block", "async"] {
            let out = speedtest(&[
                "local",
                "--json",
                "--seconds",
                "0.1",
                "--pattern",
                pattern,
                "--wait",
                wait,
                "--message-size",
                "1k",
            ]);
            let text = String::from_utf8(out.stdout).unwrap();
            let said = String::from_utf8(out.stderr).unwrap();
            assert!(out.status.success(), "{pattern} {wait}: {said}");
            assert_eq!(text.lines().count(), 1, "{text}");
            let line: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(
                (&line["pattern"], &line["wait"]),
                (&pattern.into(), &wait.into())
            );
            assert_eq!(line["message_size"], 1000);
            assert!(line["messages"].as_u64().unwrap() > 0, "{text}");
            if pattern == "stream" {
                assert_eq!(line["lost"], 0, "{text}");
                assert!(line["latency_ns"].is_null() && line["reference_ns"].is_null());
            } else {
                assert!(line["latency_ns"]["p50"].as_u64().unwrap() > 0);
                assert!(line["reference_ns"].as_u64().unwrap() > 0);
            }
        }
    }
}

#[test]
fn verified_messages_of_all_sizes_arrive_as_they_were_sent() {
    for size in ["0", "64", "96", "97", "1MB"] {
        let args = [
            "local",
            "--json",
            "--seconds",
            "0.05",
            "--payload",
            "verify",
        ];
        let out = speedtest(&[&args[..], &["--message-size", size]].concat());
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{size}: {said}");
        assert_eq!(String::from_utf8(out.stdout).unwrap().lines().count(), 3);
    }
}

#[test]
fn wrong_usage_is_said_clearly() {
    for (args, word) in [
        (
            &["local", "--transport", "carrier-pigeon"][..],
            "possible values",
        ),
        (&["local", "--message-size", "2q"], "unit"),
        (&["local", "--seconds", "0"], "seconds"),
        (&["fly"], "unrecognized"),
    ] {
        let out = speedtest(args);
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(2), "{said}");
        assert!(said.contains(word), "{said}");
    }
    let own = speedtest(&["local", "--coordinator", "127.0.0.1:1"]);
    assert_eq!(own.status.code(), Some(2));
    let nobody = speedtest(&["send", "--coordinator", "127.0.0.1:1"]);
    let said = String::from_utf8(nobody.stderr).unwrap();
    assert_eq!(nobody.status.code(), Some(1));
    assert!(said.contains("mesh coordinator"), "{said}");
}

#[test]
fn the_table_goes_to_a_pipe_that_may_close() {
    let mut command = Command::new("sh");
    let tool = env!("CARGO_BIN_EXE_mesh-speedtest");
    let script = format!("{tool} local --seconds 0.02 --hgrm $0 | head -1");
    let file = std::env::temp_dir().join(format!("shmesh-{}.hgrm", std::process::id()));
    let out = command.args(["-c", &script]).arg(&file).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(
        text.starts_with("pattern") && text.contains("p99.9"),
        "{text}"
    );
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(!said.contains("panicked"), "{said}");
    let hgrm = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(hgrm.is_empty() || hgrm.contains("1/(1-Percentile)"));
    let _ = std::fs::remove_file(&file);
}

/// The children of a process, whichever thread started them.
pub(crate) fn children(pid: u32) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let children = tasks.filter_map(|task| {
        let path = task.ok()?.path().join("children");
        std::fs::read_to_string(path).ok()
    });
    let children: Vec<String> = children.collect();
    let words = children.iter().flat_map(|line| line.split_whitespace());
    words.map(str::to_owned).collect()
}

#[test]
fn the_verb_measures_as_the_tool_does_and_leaves_nothing_behind() {
    let mut local = Command::new(env!("CARGO_BIN_EXE_mesh"))
        .args(["speedtest", "local", "--pattern", "ping", "--json"])
        .args(["--message-size", "64", "--seconds", "1"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ends = Vec::new();
    eventually("both ends have their pages", || {
        let started = children(local.id());
        ends = started.iter().map(|pid| pid.parse().unwrap()).collect();
        ends.len() == 2 && ends.iter().all(|pid| page_of(*pid).is_some())
    });
    let mut said = String::new();
    let mut stdout = local.stdout.take().unwrap();
    std::io::Read::read_to_string(&mut stdout, &mut said).unwrap();
    assert!(local.wait().unwrap().success());
    let measured: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert!(measured["reference_ns"].as_u64() > Some(0), "{said}");
    assert!(!ends.iter().any(|pid| page_of(*pid).is_some()));
}

/// Time a process has used, in clock ticks (10 ms).
fn user_ticks(pid: &str) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().nth(11);
    ticks.map_or(0, |ticks| ticks.parse().unwrap())
}

#[test]
fn nothing_runs_on_when_local_is_killed() {
    let mut local = Command::new(env!("CARGO_BIN_EXE_mesh-speedtest"))
        .args(["local", "--pattern", "ping", "--message-size", "64"])
        .args(["--seconds", "600"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut started = Vec::new();
    // Before that they end because there is no coordinator to join.
    eventually("both ends spin", || {
        started = children(local.id());
        started.len() == 2 && started.iter().all(|pid| user_ticks(pid) > 20)
    });
    local.kill().unwrap();
    local.wait().unwrap();
    eventually("both ends are gone", || {
        let is_there = |pid: &String| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
            status.is_ok_and(|status| !status.contains("State:\tZ"))
        };
        !started.iter().any(is_there)
    });
}
