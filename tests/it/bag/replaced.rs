//! Files that are removed, replaced, or have several names: only what may be is written over.

use std::path::Path;

use serde_json::{Value, json};
use shmesh::bag::{BagReader, Channel, Config, Ending, Message, Recorder};
use shmesh::topology::{Encoding, TopicType};

use super::faults::{can_mount, on_small_disk};
use super::tool::{Ended, Signal, Tool, bag_in};
use super::written::{names, save, start};
use super::{OneFile, heard, info, record_raw};
use crate::support::{Mesh, TempDir, eventually};

fn has(dir: &TempDir, name: &str) -> bool {
    dir.path().join(name).exists()
}

fn ends(mut recorder: Tool) -> (Option<i32>, Value) {
    let end = recorder.event();
    assert_eq!(end["event"], "end", "{end}");
    (recorder.wait(), end)
}

#[test]
fn a_recorder_leaves_what_others_made_in_its_place() {
    let mesh = Mesh::start();
    let node = mesh.node("sender");
    for overwrite in [&[][..], &["--overwrite"]] {
        let dir = TempDir::new();
        let options = [&["-o", "run"][..], overwrite].concat();
        let first = start(&mesh, dir.path(), &options);
        // So that it learns of it when the other file is there.
        first.signal(Signal::STOP);
        if overwrite.is_empty() {
            std::fs::remove_file(dir.path().join("run.mcap")).unwrap();
        }
        let second = start(&mesh, dir.path(), &options);
        first.signal(Signal::CONT);
        let (code, end) = ends(first);
        assert_eq!((code, &end["files"]), (Some(1), &json!([])), "{end}");
        assert!(has(&dir, "run.mcap"), "{options:?}");

        let mut publisher = heard(&node, "a");
        eventually("only the second listens", || {
            publisher.listener_count() == 1
        });
        publisher.publish_bytes(b"x").unwrap();
        second.signal(Signal::INT);
        let (code, end) = ends(second);
        assert_eq!((code, &names(&end)[..]), (Some(0), &["run.mcap"][..]));
        let told = info(dir.path(), &["--check"]);
        assert_eq!(
            (&told["messages"], &told["is_cut"]),
            (&1.into(), &false.into())
        );
    }
}

#[test]
fn a_black_box_replaces_one_recording_with_its_parts_and_no_other() {
    let mesh = Mesh::start();
    let dir = TempDir::new();
    let split = ["--split-size", "5kB", "--chunk-size", "1kB"];
    record_raw(&mesh, dir.path(), &["a"], 100, &split);
    assert!(has(&dir, "run_1.mcap"));
    // The second recording of this name, and a part of a third one.
    for other in ["run-2.mcap", "run-3_1.mcap"] {
        std::fs::copy(dir.path().join("run.mcap"), dir.path().join(other)).unwrap();
    }
    let others = || ["run-2.mcap", "run-3_1.mcap"].map(|name| std::fs::read(dir.path().join(name)));
    let before = others().map(Result::unwrap);

    let options = ["--last", "1h", "-o", "run", "--overwrite"];
    let mut recorder = start(&mesh, dir.path(), &options);
    assert!(has(&dir, "run_1.mcap"), "nothing before it is told");
    let node = mesh.node("sender");
    heard(&node, "a").publish_bytes(b"x").unwrap();
    let saved = save(&mut recorder, 1);
    let file = dir.path().join(saved["file"].as_str().unwrap());
    let len = std::fs::metadata(file).unwrap().len();
    assert_eq!(saved["bytes"], len, "all of it");
    recorder.signal(Signal::INT);
    assert_eq!(recorder.event()["event"], "saved");
    let (code, end) = ends(recorder);
    assert_eq!(code, Some(0), "{end}");
    assert_eq!(names(&end)[0], "run.mcap");
    assert!(!names(&end).contains(&"run-3.mcap"), "{end}");
    assert!(!has(&dir, "run_1.mcap"), "it is no part of the new one");
    assert_eq!(others().map(Result::unwrap), before);
}

#[test]
fn recordings_with_numbers_of_their_own_are_no_parts() {
    let mesh = Mesh::start();
    let dir = TempDir::new();
    record_raw(&mesh, dir.path(), &["a"], 10, &[]);
    let copy = |name: &str| std::fs::copy(dir.path().join("run.mcap"), dir.path().join(name));
    let others = [
        "run_007.mcap",
        "run_0.mcap",
        "run_99999999999.mcap",
        "run_20261122.mcap",
        "arm_20261122.mcap",
    ];
    for name in others.iter().chain(&["run_1.mcap", "run_2.mcap"]) {
        copy(name).unwrap();
    }
    let args = ["convert", "run_007.mcap", "-o", "arm"];
    let converted = bag_in(&mesh, dir.path(), &args);
    assert_eq!(converted.code, Some(0), "{}", converted.errors);
    let args = ["convert", "run_007.mcap", "-o", "run", "--overwrite"];
    let converted = bag_in(&mesh, dir.path(), &args);
    let text = &converted.errors;
    assert_eq!(converted.code, Some(0), "{text}");
    for part in ["run_1.mcap", "run_2.mcap"] {
        assert!(text.contains(&format!("removed {part}")), "{text}");
        assert!(!has(&dir, part));
    }
    assert!(others.iter().all(|name| has(&dir, name)));
}

#[test]
fn a_file_of_two_names_is_one() {
    let mesh = Mesh::start();
    let dir = TempDir::new();
    record_raw(&mesh, dir.path(), &["a"], 10, &[]);
    let run = dir.path().join("run.mcap");
    std::fs::hard_link(&run, dir.path().join("hard.mcap")).unwrap();
    std::os::unix::fs::symlink(&run, dir.path().join("soft.mcap")).unwrap();
    let before = std::fs::read(&run).unwrap();
    let convert = |args: &[&str]| -> Ended {
        bag_in(
            &mesh,
            dir.path(),
            &[&["convert", "run.mcap"], args].concat(),
        )
    };
    for output in ["hard", "soft", "./run"] {
        let refused = convert(&["-o", output, "--overwrite"]);
        assert_eq!(refused.code, Some(2), "{output}: {}", refused.out);
        assert!(refused.errors.contains("the recording itself"));
    }
    for again in ["./run.mcap", "hard.mcap", "soft.mcap"] {
        let refused = convert(&[again, "-o", "twice"]);
        assert_eq!(refused.code, Some(2), "{again}: {}", refused.out);
        assert!(refused.errors.contains("named twice"), "{}", refused.errors);
    }
    assert!(!has(&dir, "twice.mcap"));
    assert_eq!(std::fs::read(&run).unwrap(), before);

    // What replaces one name leaves the other.
    let other = dir.path().join("other.mcap");
    std::fs::copy(&run, &other).unwrap();
    std::fs::remove_file(dir.path().join("hard.mcap")).unwrap();
    std::fs::hard_link(&other, dir.path().join("hard.mcap")).unwrap();
    std::fs::write(&other, b"mine").unwrap();
    let converted = convert(&["-o", "hard", "--overwrite"]);
    assert_eq!(converted.code, Some(0), "{}", converted.errors);
    assert_eq!(std::fs::read(&other).unwrap(), b"mine");
}

/// A recording with a message on each of so many topics.
fn with_topics(file: &Path, topics: u16) {
    let mut recorder = Recorder::new(Config::default(), OneFile(file.to_owned())).unwrap();
    for number in 0..topics {
        let ty = TopicType {
            encoding: Encoding::Raw,
            name: "bytes".into(),
            hash: 0,
        };
        let channel = Channel {
            topic: format!("topics_{topics}/{number}"),
            ty,
            publisher: None,
            schema: None,
        };
        let message = Message {
            channel: recorder.add(channel).unwrap(),
            sequence: 0,
            log_ns: u64::from(topics),
            publish_ns: 0,
            lost_before: 0,
            payload: b"x",
        };
        recorder.record(&message).unwrap();
    }
    recorder.finish().unwrap();
}

#[test]
fn what_was_read_before_a_conversion_fails_is_a_whole_file() {
    let mesh = Mesh::start();
    let dir = TempDir::new();
    // Together they have one too many.
    with_topics(&dir.path().join("few.mcap"), 1);
    with_topics(&dir.path().join("many.mcap"), u16::MAX);
    let args = ["convert", "few.mcap", "many.mcap", "-o", "run"];
    let failed = bag_in(&mesh, dir.path(), &args);
    assert_eq!(failed.code, Some(1), "{}", failed.errors);
    assert!(failed.errors.contains("65535"), "{}", failed.errors);
    assert!(
        failed.errors.contains("are in run.mcap"),
        "{}",
        failed.errors
    );
    let bytes = std::fs::read(dir.path().join("run.mcap")).unwrap();
    let mut reader = BagReader::new(&*bytes, bytes.len() as u64).unwrap();
    let mut messages = 0;
    while reader.next_message().unwrap().is_some() {
        messages += 1;
    }
    assert_eq!((messages, reader.ending()), (u16::MAX, Some(Ending::Whole)));
}

#[test]
fn a_black_box_without_room_for_a_header_leaves_no_file() {
    if !can_mount() {
        println!("skipped: cannot mount a small disk here (needs root and unshare)");
        return;
    }
    let mesh = Mesh::start();
    let disk = TempDir::new();
    let then = "head -c 64k /dev/zero >\"$1/full\"; \
                exec \"$0\" bag record --json -o \"$1/run\" --last 1h a";
    let mut recorder = Tool::spawn(&mut on_small_disk(disk.path(), "64k", then), &mesh);
    recorder.event();
    let node = mesh.node("sender");
    heard(&node, "a").publish_bytes(b"x").unwrap();
    // As the recorder sees it.
    let seen = format!("/proc/{}/root{}", recorder.pid(), disk.path().display());
    for _ in 0..2 {
        loop {
            recorder.signal(Signal::USR1);
            let saved = recorder.event();
            if saved["event"] == "unsaved" {
                break;
            }
            assert_eq!(saved["messages"], 0, "it has not come yet: {saved}");
        }
        let files = std::fs::read_dir(&seen).unwrap();
        let files: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
        assert_eq!(files, ["full"]);
    }
    recorder.signal(Signal::INT);
    assert_eq!(recorder.event()["event"], "unsaved");
    assert_eq!(ends(recorder).0, Some(1));
}

#[test]
fn a_directory_of_that_name_without_the_ending_is_in_nobodys_way() {
    let mesh = Mesh::start();
    let dir = TempDir::new();
    std::fs::create_dir(dir.path().join("run")).unwrap();
    let end = record_raw(&mesh, dir.path(), &["a"], 1, &[]);
    assert_eq!(names(&end), ["run.mcap"]);
}
