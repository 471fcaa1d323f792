//! The names that recordings get, and which of them is the most recent.

use std::process::Command;

use serde_json::Value;

use super::heard;
use super::tool::{Ended, MESH, Signal, Tool, ended};
use crate::support::{Mesh, TempDir};

/// Far from all others, and of half an hour; it needs no database of time zones.
pub(super) const ZONE: &str = "<+1330>-13:30";

/// The time there, by a program that is not ours.
fn time(format: &str) -> String {
    let output = Command::new("date").env("TZ", ZONE).arg(format).output();
    String::from_utf8(output.unwrap().stdout)
        .unwrap()
        .trim()
        .to_owned()
}

fn info(dir: &TempDir, options: &[&str]) -> Ended {
    let mut command = Command::new(MESH);
    let command = command.current_dir(dir.path()).env("TZ", ZONE);
    ended(command.args(["bag", "info"]).args(options))
}

/// Records a message without naming the file.
fn record(mesh: &Mesh, dir: &TempDir) -> Value {
    let mut command = Command::new(MESH);
    command.args(["bag", "record", "--json", "a"]);
    command.current_dir(dir.path()).env("TZ", ZONE);
    let mut recorder = Tool::spawn(&mut command, mesh);
    recorder.event();
    let node = mesh.node("sender");
    heard(&node, "a").publish_bytes(b"x").unwrap();
    recorder.signal(Signal::INT);
    let end = recorder.event();
    assert_eq!(recorder.wait(), Some(0));
    end
}

#[test]
fn recordings_are_named_by_the_local_time_of_their_beginning() {
    let mesh = Mesh::start();
    let dir = TempDir::new();
    let before = time("+record_%Y-%m-%d-%H-%M-%S.mcap");
    let end = record(&mesh, &dir);
    let after = time("+record_%Y-%m-%d-%H-%M-%S.mcap");
    let name = end["files"][0].as_str().unwrap();
    assert!(
        (&*before..=&*after).contains(&name),
        "{before} {name} {after}"
    );
    let told = info(&dir, &[]);
    let start = told.out.lines().find(|line| line.starts_with("start:"));
    assert!(start.unwrap().ends_with("+13:30"), "{}", told.out);
}

#[test]
fn the_most_recent_recording_is_the_last_by_the_time_in_its_name() {
    let mesh = Mesh::start();
    let dir = TempDir::new();
    let end = record(&mesh, &dir);
    let newest = end["files"][0].as_str().unwrap();
    // Whatever was written last, or would come last among names.
    for other in [
        "record_1999-12-31-23-59-59.mcap",
        "record_yesterday.mcap",
        "z.mcap",
    ] {
        std::fs::write(dir.path().join(other), b"no recording").unwrap();
    }
    let told = info(&dir, &["--json"]).json();
    assert_eq!(
        (&told["file"], &told["messages"]),
        (&newest.into(), &1.into())
    );
    let numbered = newest.replace(".mcap", "-2.mcap");
    std::fs::copy(dir.path().join(newest), dir.path().join(&numbered)).unwrap();
    assert_eq!(info(&dir, &["--json"]).json()["file"], numbered);
}
