//! Recorders that are killed or have no disk, files that are cut or spoiled, tools asked wrongly.

use std::path::Path;
use std::process::Command;

use shmesh::{Publisher, Raw};

use super::tool::{MESH, Signal, Tool, bag, bag_in, ended};
use super::{ear, heard, info, record_raw};
use crate::support::{Mesh, PATIENCE, TempDir, eventually, free_address, payload};

/// A file system of so many bytes; it goes with the process that sees it.
const TMPFS: &str = "mount -t tmpfs -o size=$0 tmpfs \"$1\" && shift && exec \"$@\"";

pub(super) fn can_mount() -> bool {
    let probe = ["-m", "mount", "-t", "tmpfs", "tmpfs", "/tmp"];
    let output = Command::new("unshare").args(probe).output();
    output.is_ok_and(|output| output.status.success())
}

/// `mesh` in a namespace with a small disk at `dir`.
pub(super) fn on_small_disk(dir: &Path, size: &str, then: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", TMPFS, size]).arg(dir);
    command.args(["sh", "-c", then, MESH]).arg(dir);
    command
}

#[test]
fn a_killed_recorder_leaves_all_but_the_last_second() {
    let mesh = Mesh::start();
    let dir = TempDir::new();
    let file = dir.path().join("run.mcap");
    let file = file.to_str().unwrap();
    let args = ["record", "--json", "-o", file, "--chunk-size", "4kB", "a"];
    let mut recorder = Tool::start(&mesh, &args);
    recorder.event();
    let node = mesh.node("sender");
    let mut publisher = heard(&node, "a");
    let mut number = 0;
    // Until some chunks are there, whenever they come.
    while std::fs::metadata(file).unwrap().len() < 100_000 {
        publisher.publish_bytes(&payload(number, 100)).unwrap();
        number += 1;
    }
    recorder.signal(Signal::KILL);
    assert_eq!(recorder.wait(), None);
    let told = info(dir.path(), &[]);
    let messages = told["messages"].as_u64().unwrap();
    assert!(messages > 0 && messages <= number, "{told}");
    assert_eq!(told["is_cut"], true);
    let text = bag(&["info", file]);
    assert!(text.out.contains("cut off"), "{}", text.out);
    assert!(text.errors.contains("mesh bag convert"), "{}", text.errors);

    let mut all = ear(&node, "played");
    let args = [
        "play",
        "run.mcap",
        "--remap",
        "a:=played",
        "--immediate",
        "--wait",
        "30s",
    ];
    let played = bag_in(&mesh, dir.path(), &args);
    assert_eq!(played.code, Some(0), "{}", played.errors);
    assert!(played.errors.contains("has no end"), "{}", played.errors);
    for number in 0..messages {
        let sample = all.recv_blocking(PATIENCE).unwrap();
        // Some may have been lost: the first is not always number 0.
        assert_eq!(sample.len(), 100, "{number}");
    }
    let whole = bag_in(
        &mesh,
        dir.path(),
        &["convert", "run.mcap", "-o", "whole", "--json"],
    );
    assert_eq!(whole.json()["messages"], messages);
    let told = bag_in(&mesh, dir.path(), &["info", "whole.mcap", "--json"]).json();
    assert_eq!(
        (&told["is_cut"], &told["messages"]),
        (&false.into(), &messages.into())
    );
}

#[test]
fn spoiled_files_are_said_to_be_spoiled_and_never_played_wrong() {
    let mesh = Mesh::start();
    let dir = TempDir::new();
    record_raw(&mesh, dir.path(), &["a"], 200, &["--chunk-size", "2kB"]);
    let whole = std::fs::read(dir.path().join("run.mcap")).unwrap();
    let node = mesh.node("listener");
    let mut all = ear(&node, "a");
    for at in [
        9,
        20,
        60,
        300,
        whole.len() / 2,
        whole.len() - 300,
        whole.len() - 9,
    ] {
        let mut spoiled = whole.clone();
        spoiled[at] ^= 0x41;
        std::fs::write(dir.path().join("spoiled.mcap"), &spoiled).unwrap();
        for args in [
            &["info", "spoiled.mcap", "--check"][..],
            &["info", "spoiled.mcap"],
            &["play", "spoiled.mcap", "--immediate", "--wait", "30s"],
            &["convert", "spoiled.mcap", "-o", "again.mcap", "--overwrite"],
        ] {
            let ended = bag_in(&mesh, dir.path(), args);
            let code = ended.code.expect("no crash");
            assert!(
                code <= 2 && !ended.errors.contains("panicked"),
                "{}",
                ended.errors
            );
            assert!(code == 0 || !ended.errors.is_empty(), "{args:?} at {at}");
        }
        while let Ok(Some(sample)) = all.try_recv() {
            let first = sample[0];
            assert!(
                sample
                    .iter()
                    .zip(0..)
                    .all(|(b, idx)| *b == first.wrapping_add(idx))
            );
        }
    }
    let half = &whole[..whole.len() / 2];
    std::fs::write(dir.path().join("spoiled.mcap"), half).unwrap();
    let ended = bag_in(&mesh, dir.path(), &["info", "spoiled.mcap", "--json"]);
    assert_eq!(ended.json()["is_cut"], true);
    for no_bag in [
        &b""[..],
        b"hello",
        &[0x89, b'M', b'C', b'A', b'P', b'1', 13, 10],
    ] {
        std::fs::write(dir.path().join("spoiled.mcap"), no_bag).unwrap();
        for verb in ["info", "play"] {
            let ended = bag_in(&mesh, dir.path(), &[verb, "spoiled.mcap"]);
            assert_eq!(ended.code, Some(1));
            assert!(ended.errors.contains("no recording"), "{}", ended.errors);
        }
    }
}

#[test]
fn a_full_disk_ends_the_recording_with_a_whole_file() {
    if !can_mount() {
        println!("skipped: cannot mount a small disk here (needs root and unshare)");
        return;
    }
    let mesh = Mesh::start();
    let (disk, kept) = (TempDir::new(), TempDir::new());
    let then = format!(
        "\"$0\" bag record --json -o \"$1/run\" --chunk-size 16kB a; code=$?; \
         cp \"$1/run.mcap\" {}/run.mcap; exit $code",
        kept.path().display()
    );
    let mut command = on_small_disk(disk.path(), "256k", &then);
    let mut recorder = Tool::spawn(&mut command, &mesh);
    recorder.event();
    let node = mesh.node("sender");
    let mut publisher = heard(&node, "a");
    let mut sent = 0;
    // Until it ends by itself; messaging goes on.
    while publisher.listener_count() > 0 {
        publisher.publish_bytes(&payload(sent, 1_000)).unwrap();
        sent += 1;
    }
    publisher.publish_bytes(b"and on").unwrap();
    let end = recorder.event();
    assert_eq!(recorder.wait(), Some(1));
    let told = info(kept.path(), &["--check"]);
    assert_eq!(
        (&told["is_cut"], &told["damages"]),
        (&false.into(), &serde_json::json!([]))
    );
    let count = |value: &serde_json::Value| value.as_u64().unwrap();
    let kept = count(&told["messages"]);
    assert!(kept > 100, "{told}");
    assert_eq!(count(&end["messages"]), kept, "{end}");
    assert!(count(&end["unwritten"]) > 0, "{end}");
    let missing = count(&end["unwritten"]) + count(&end["lost"]);
    assert_eq!(
        count(&told["lost"]),
        missing,
        "the file says so, too: {end}"
    );
}

#[test]
fn a_directory_that_cannot_be_written_or_vanishes_is_said() {
    let mesh = Mesh::start();
    let dir = TempDir::new();
    let nowhere = dir.path().join("no/such/run");
    let ended = bag_in(
        &mesh,
        dir.path(),
        &["record", "a", "-o", nowhere.to_str().unwrap()],
    );
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.errors.contains("no/such/run.mcap"),
        "{}",
        ended.errors
    );
    if can_mount() {
        let then = "mount -o remount,ro \"$1\" && \"$0\" bag record a -o \"$1/run\"";
        let ended = ended_in(&mesh, &mut on_small_disk(dir.path(), "1m", then));
        assert_eq!(ended.code, Some(1));
        assert!(ended.errors.contains("Read-only"), "{}", ended.errors);
    } else {
        println!("skipped: cannot mount a read-only disk here (needs root and unshare)");
    }

    let gone = dir.path().join("gone");
    std::fs::create_dir(&gone).unwrap();
    let file = gone.join("run.mcap");
    let args = [
        "record",
        "--json",
        "-o",
        file.to_str().unwrap(),
        "--chunk-size",
        "1kB",
        "a",
    ];
    let mut recorder = Tool::start(&mesh, &args);
    recorder.event();
    let node = mesh.node("sender");
    let mut publisher = heard(&node, "a");
    std::fs::remove_dir_all(&gone).unwrap();
    publisher.publish_bytes(b"for nobody").unwrap();
    let end = recorder.event();
    assert_eq!(
        (&end["event"], &end["messages"]),
        (&"end".into(), &0.into())
    );
    assert_eq!(end["files"], serde_json::json!([]));
    assert_eq!(recorder.wait(), Some(1));
}

fn ended_in(mesh: &Mesh, command: &mut Command) -> super::tool::Ended {
    command.env("SHMESH_COORDINATOR", &mesh.address);
    command.env("SHMESH_RUNTIME_DIR", mesh.dir.path());
    ended(command)
}

#[test]
fn an_interrupted_recorder_has_all_that_was_sent_before() {
    let mesh = Mesh::start();
    let dir = TempDir::new();
    let file = dir.path().join("run.mcap");
    let args = ["record", "--json", "-o", file.to_str().unwrap(), "**"];
    let mut recorder = Tool::start(&mesh, &args);
    recorder.event();
    let node = mesh.node("sender");
    let mut publisher = heard(&node, "a");
    for number in 0..5_000 {
        publisher.publish_bytes(&payload(number, 40)).unwrap();
        if number == 4_000 {
            recorder.signal(Signal::INT);
        }
    }
    let end = recorder.event();
    let recorded = end["messages"].as_u64().unwrap();
    assert_eq!(recorder.wait(), Some(0));
    assert!(recorded >= 4_001 && end["lost"] == 0, "{end}");
    assert_eq!(info(dir.path(), &["--check"])["messages"], recorded);
    drop(publisher);
    drop(node.publisher::<Raw>("a"));
}

#[test]
fn a_recording_goes_on_without_a_coordinator_and_with_the_next() {
    let mut mesh = Mesh::start();
    let dir = TempDir::new();
    let file = dir.path().join("run.mcap");
    let args = ["record", "--json", "-o", file.to_str().unwrap(), "--all"];
    let mut recorder = Tool::start(&mesh, &args);
    recorder.event();
    let node = mesh.node("sender");
    let mut old = heard(&node, "old");
    let send = |publisher: &mut Publisher<Raw>| {
        for number in 0..100 {
            publisher.publish_bytes(&payload(number, 100)).unwrap();
        }
    };
    send(&mut old);
    mesh.restart_after(|| send(&mut old));
    send(&mut old);
    // Who comes now is told by the new coordinator.
    send(&mut heard(&node, "new"));
    eventually("all is written", || {
        std::fs::metadata(&file).unwrap().len() > 400 * 100
    });
    recorder.signal(Signal::INT);
    let end = recorder.event();
    assert_eq!(recorder.wait(), Some(0));
    assert_eq!(
        (&end["messages"], &end["lost"]),
        (&400.into(), &0.into()),
        "{end}"
    );
    assert_eq!(info(dir.path(), &["--check"])["messages"], 400);
}

#[test]
fn a_player_goes_on_without_a_coordinator_and_with_the_next() {
    let mut mesh = Mesh::start();
    let dir = TempDir::new();
    record_raw(&mesh, dir.path(), &["a"], 10, &[]);
    let file = dir.path().join("run.mcap");
    let file = file.to_str().unwrap();
    let node = mesh.node("listener");
    let mut all = ear(&node, "a");
    let args = [
        "play", file, "--json", "--loop", "--wait", "30s", "--rate", "0.01",
    ];
    let mut player = Tool::start(&mesh, &args);
    let mut number = 0;
    let mut hear = || {
        for _ in 0..25 {
            let sample = all.recv_blocking(PATIENCE).unwrap();
            assert_eq!(
                (&*sample, sample.lost_before()),
                (&*payload(number % 10, 100), 0)
            );
            number += 1;
        }
    };
    hear();
    mesh.restart_after(&mut hear);
    hear();
    // Who comes now is told of the player by the new coordinator.
    let late = mesh.node("late");
    ear(&late, "a").recv_blocking(PATIENCE).unwrap();
    player.signal(Signal::INT);
    assert!(player.event()["messages"].as_u64().unwrap() >= 75);
    assert_eq!(player.wait(), Some(0));
}

#[test]
fn what_is_asked_wrongly_is_refused_with_the_next_step() {
    let dir = TempDir::new();
    std::fs::write(dir.path().join("taken.mcap"), b"mine").unwrap();
    let mesh = Mesh::start();
    for (args, code, text) in [
        (&["record"][..], 2, "TOPIC|PATTERN"),
        (&["record", "a b"], 2, "invalid name"),
        (&["record", "--all", "a"], 2, "--all"),
        (&["record", "a", "--last", "soon"], 2, "30s"),
        (&["record", "a", "--split-size", "big"], 2, "500M"),
        (&["record", "a", "-o", "taken"], 2, "--overwrite"),
        (&["record", "a", "--chunk-size", "1TB"], 2, "allowed"),
        (&["play"], 2, "name a recording"),
        (&["info"], 2, "name a recording"),
        (&["info", "nothing.mcap"], 2, "nothing.mcap"),
        (&["info", "."], 1, "directory"),
        (&["play", "taken.mcap"], 1, "no recording"),
        (
            &["play", "taken.mcap", "--rate", "0"],
            2,
            "expected a number",
        ),
        (&["play", "taken.mcap", "--remap", "a=b"], 2, "old:=new"),
        (&["play", "taken.mcap", "--paused"], 2, "terminal"),
        (
            &["convert", "taken.mcap", "-o", "taken.mcap"],
            1,
            "no recording",
        ),
    ] {
        let ended = bag_in(&mesh, dir.path(), args);
        assert_eq!(ended.code, Some(code), "{args:?}: {}", ended.errors);
        assert!(ended.errors.contains(text), "{args:?}: {}", ended.errors);
    }
    assert_eq!(
        std::fs::read(dir.path().join("taken.mcap")).unwrap(),
        b"mine"
    );
    let nobody = free_address();
    let output = dir.path().join("none");
    let args = [
        "record",
        "a",
        "--coordinator",
        &nobody,
        "-o",
        output.to_str().unwrap(),
    ];
    let ended = bag(&args);
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.errors.contains("mesh coordinator"),
        "{}",
        ended.errors
    );
    assert!(
        !dir.path().join("none.mcap").exists(),
        "no empty file stays"
    );
}

#[test]
fn every_verb_helps_with_examples() {
    for verb in ["record", "play", "info", "convert"] {
        let help = bag(&[verb, "--help"]);
        assert_eq!(help.code, Some(0));
        assert!(
            help.out.contains("Examples:") && help.out.contains("Exit codes: 0"),
            "{verb}"
        );
    }
}
