//! Recordings of several files, which of them are meant, and what is asked for that they lack.

use std::path::Path;

use serde_json::{Value, json};

use super::tool::{Ended, bag_in};
use super::{ear, record_raw};
use crate::support::{Mesh, PATIENCE, TempDir, payload};

/// 300 messages on `a` and `b` each, in files; their names, the last one first.
fn split(mesh: &Mesh, dir: &TempDir) -> Vec<String> {
    let options = ["--split-size", "10kB", "--chunk-size", "1kB"];
    let end = record_raw(mesh, dir.path(), &["a", "b"], 300, &options);
    let files = end["files"].as_array().unwrap().iter().rev();
    let files: Vec<_> = files
        .map(|file| file.as_str().unwrap().to_owned())
        .collect();
    assert!(files.len() > 3, "{end}");
    files
}

fn run(mesh: &Mesh, dir: &TempDir, verb: &[&str], files: &[String]) -> Ended {
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    bag_in(mesh, dir.path(), &[verb, &files].concat())
}

const PLAY: [&str; 5] = ["play", "--json", "--immediate", "--wait", "30s"];

#[test]
fn the_files_of_a_split_recording_are_one() {
    let mesh = Mesh::start();
    let dir = TempDir::new();
    let files = split(&mesh, &dir);
    let told = run(&mesh, &dir, &["info", "--json", "--check"], &files);
    assert_eq!(told.code, Some(0), "{}", told.errors);
    let told = told.json();
    assert_eq!((&told["messages"], &told["lost"]), (&600.into(), &0.into()));
    assert_eq!(told["topics"].as_array().unwrap().len(), 2, "{told}");
    let first = Path::new(told["file"].as_str().unwrap());
    assert_eq!(first.file_name().unwrap(), "run.mcap");

    let node = mesh.node("listener");
    let mut all = ear(&node, "played");
    let play = [&PLAY[..], &["--topics", "a", "--remap", "a:=played"]].concat();
    let played = run(&mesh, &dir, &play, &files);
    assert_eq!(played.code, Some(0), "{}", played.errors);
    assert_eq!(played.json()["messages"], 300);
    for number in 0..300 {
        assert_eq!(*all.recv_blocking(PATIENCE).unwrap(), payload(number, 100));
    }

    let one = run(&mesh, &dir, &["convert", "-o", "one"], &files);
    assert_eq!(
        one.out, "wrote 600 messages to one.mcap\n",
        "{}",
        one.errors
    );
    let one = run(&mesh, &dir, &["info", "--json", "--check", "one.mcap"], &[]);
    for key in ["messages", "lost", "start_ns", "end_ns", "topics"] {
        assert_eq!(one.json()[key], told[key], "{key}");
    }
    let args = ["convert", "one.mcap", "-o", "many", "--split-size", "10kB"];
    let many = run(&mesh, &dir, &[&args[..], &["--overwrite"]].concat(), &[]);
    assert!(many.out.ends_with("more files\n"), "{}", many.out);
    let args = ["convert", "run_1.mcap", "-o", "run", "--overwrite"];
    let itself = run(&mesh, &dir, &args, &[]);
    assert_eq!(itself.code, Some(2), "its source would be removed");
    assert!(
        itself.errors.contains("one of its parts"),
        "{}",
        itself.errors
    );
}

#[test]
fn what_a_file_of_a_split_recording_lacks_is_lost() {
    let mesh = Mesh::start();
    let dir = TempDir::new();
    let mut files = split(&mesh, &dir);
    files.remove(files.len() / 2);
    let there = run(&mesh, &dir, &["info", "--json"], &files).json();
    let there = there["messages"].as_u64().unwrap();
    let one = run(&mesh, &dir, &["convert", "-o", "one"], &files);
    assert_eq!(one.code, Some(0), "{}", one.errors);
    let told = run(&mesh, &dir, &["info", "--json", "one.mcap"], &[]).json();
    assert_eq!(
        (&told["messages"], &told["lost"]),
        (&there.into(), &(600 - there).into())
    );
}

#[test]
fn without_a_name_the_most_recent_recording_is_read_with_its_parts() {
    let mesh = Mesh::start();
    let dir = TempDir::new();
    let files = split(&mesh, &dir);
    for file in &files {
        let name = Path::new(file).file_name().unwrap().to_str().unwrap();
        let name = name.replace("run", "record_2026-11-22-06-00-00-2");
        std::fs::rename(file, dir.path().join(name)).unwrap();
    }
    let newer = "record_2026-11-22-07-00-00";
    std::fs::write(dir.path().join(format!("{newer}.mcap")), b"").unwrap();
    std::fs::create_dir(dir.path().join(format!("{newer}_1.mcap"))).unwrap();
    let older = "record_2026-11-22-06-00-00_1.mcap";
    std::fs::write(dir.path().join(older), b"no recording").unwrap();
    let told = run(&mesh, &dir, &["info", "--json"], &[]).json();
    assert_eq!(told["messages"], 600, "{told}");
    assert_eq!(told["files"].as_array().unwrap().len(), files.len());
}

#[test]
fn an_option_that_takes_a_topic_takes_no_file() {
    let mesh = Mesh::start();
    let dir = TempDir::new();
    record_raw(&mesh, dir.path(), &["a", "arm/b"], 20, &[]);
    let other = dir.path().join("record_2099-01-01-00-00-00.mcap");
    std::fs::copy(dir.path().join("run.mcap"), other).unwrap();
    let node = mesh.node("listener");
    let _all = ear(&node, "**");
    for (options, messages) in [
        (&["--topics", "a"][..], 20),
        (&["--topics", "a,arm/*"], 40),
        (&["--topics", "a", "--topics", "/arm/b"], 40),
        (&["--remap", "a:=c"], 40),
    ] {
        let args = [&PLAY[..], options, &["run.mcap"]].concat();
        let played = bag_in(&mesh, dir.path(), &args);
        assert_eq!(played.code, Some(0), "{options:?}: {}", played.errors);
        let (file, found) = (&played.json()["file"], &played.json()["messages"]);
        assert_eq!((file, found), (&json!("run.mcap"), &json!(messages)));
    }
}

#[test]
fn what_a_recording_lacks_is_refused_before_anything_is_sent() {
    let mesh = Mesh::start();
    let dir = TempDir::new();
    record_raw(&mesh, dir.path(), &["a", "arm/b"], 20, &[]);
    let node = mesh.node("listener");
    let mut all = ear(&node, "**");
    for (options, text) in [
        (
            &["--topics", "a", "--topics", "pose"][..],
            "no such topic; it has a, arm/b",
        ),
        (&["--topics", "a,leg/*"], "no such topic; it has a, arm/b"),
        (
            &["--remap", "a:=c", "--remap", "a:=d"],
            "a is to be sent as c and as d",
        ),
        (&["--start", "1h"], "long"),
        (
            &["--start", "0.000002ms", "--end", "0.000001ms"],
            "before --start",
        ),
        (&["run.mcap"], "named twice"),
    ] {
        let args = [&PLAY[..], &["run.mcap"], options].concat();
        let played = bag_in(&mesh, dir.path(), &args);
        assert_eq!(played.code, Some(2), "{options:?}: {}", played.errors);
        assert!(
            played.errors.contains(text),
            "{options:?}: {}",
            played.errors
        );
    }
    assert!(all.try_recv().unwrap().is_none());
}

#[test]
fn what_a_conversion_leaves_out_is_a_failure() {
    let mesh = Mesh::start();
    let dir = TempDir::new();
    record_raw(&mesh, dir.path(), &["a"], 200, &["--chunk-size", "2kB"]);
    let mut bytes = std::fs::read(dir.path().join("run.mcap")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x41;
    std::fs::write(dir.path().join("spoiled.mcap"), bytes).unwrap();
    let saved = run(
        &mesh,
        &dir,
        &["convert", "spoiled.mcap", "-o", "saved", "--json"],
        &[],
    );
    assert_eq!(saved.code, Some(1), "{}", saved.out);
    assert!(saved.errors.contains("1 damaged part") || saved.errors.contains("a damaged part"));
    assert!(
        !saved.errors.contains("mesh bag convert"),
        "{}",
        saved.errors
    );
    let messages = saved.json()["messages"].as_u64().unwrap();
    assert!((150..200).contains(&messages), "{messages}");
    let told: Value = run(&mesh, &dir, &["info", "saved.mcap", "--json"], &[]).json();
    assert_eq!(told["messages"], messages);
    let told = run(&mesh, &dir, &["info", "spoiled.mcap", "--check"], &[]);
    assert_eq!(told.code, Some(1));
    assert!(
        told.errors.contains("mesh bag convert"),
        "the next step: {}",
        told.errors
    );
}
