//! Names that are taken, and what is counted of what could not be written.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::names::ZONE;
use super::tool::{MESH, Signal, Tool, bag_in};
use super::{heard, record_raw};
use crate::support::{Mesh, TempDir, eventually, payload};

pub(super) fn names(end: &Value) -> Vec<&str> {
    let files = end["files"].as_array().unwrap().iter();
    let names = files.map(|file| Path::new(file.as_str().unwrap()).file_name().unwrap());
    names.map(|name| name.to_str().unwrap()).collect()
}

pub(super) fn start(mesh: &Mesh, dir: &Path, options: &[&str]) -> Tool {
    let mut command = Command::new(MESH);
    let command = command
        .current_dir(dir)
        .args(["bag", "record", "a", "--json"]);
    let mut recorder = Tool::spawn(command.args(options), mesh);
    assert_eq!(recorder.event()["event"], "recording");
    recorder
}

/// Asks for a file until all of so many messages, which may still wait, are in it.
pub(super) fn save(recorder: &mut Tool, messages: u64) -> Value {
    loop {
        recorder.signal(Signal::USR1);
        let saved = recorder.event();
        assert_eq!(saved["event"], "saved", "{saved}");
        if saved["messages"] == messages {
            return saved;
        }
    }
}

#[test]
fn a_black_box_passes_over_names_that_are_taken() {
    let mesh = Mesh::start();
    let node = mesh.node("sender");
    // One of them may be replaced.
    for (overwrite, expected) in [
        (&[][..], ["rg-3.mcap", "rg-5.mcap"]),
        (&["--overwrite"], ["rg.mcap", "rg-3.mcap"]),
    ] {
        let dir = TempDir::new();
        let names_taken = ["rg.mcap", "rg-2.mcap", "rg-4.mcap"];
        for taken in names_taken {
            std::fs::write(dir.path().join(taken), b"mine").unwrap();
        }
        let options = [&["--last", "1h", "-o", "rg"][..], overwrite].concat();
        let mut recorder = start(&mesh, dir.path(), &options);
        let mut publisher = heard(&node, "a");
        publisher.publish_bytes(b"x").unwrap();
        save(&mut recorder, 1);
        recorder.signal(Signal::INT);
        assert_eq!(recorder.event()["event"], "saved");
        let end = recorder.event();
        assert_eq!(recorder.wait(), Some(0));
        assert_eq!(end["messages"], 1, "in two files, but one message: {end}");
        assert_eq!(names(&end)[..2], expected, "{end}");
        for taken in &names_taken[overwrite.len()..] {
            assert_eq!(std::fs::read(dir.path().join(taken)).unwrap(), b"mine");
        }
    }
}

#[test]
fn a_black_box_that_cannot_save_says_so_and_fails() {
    let mesh = Mesh::start();
    let dir = TempDir::new();
    let gone = dir.path().join("gone");
    std::fs::create_dir(&gone).unwrap();
    let file = gone.join("rg");
    let options = ["--last", "1h", "-o", file.to_str().unwrap()];
    let mut recorder = start(&mesh, dir.path(), &options);
    let node = mesh.node("sender");
    let mut publisher = heard(&node, "a");
    publisher.publish_bytes(b"x").unwrap();
    save(&mut recorder, 1);
    std::fs::remove_dir_all(&gone).unwrap();
    for number in 0..5 {
        publisher.publish_bytes(&payload(number, 10)).unwrap();
    }
    recorder.signal(Signal::INT);
    let unsaved = recorder.event();
    assert_eq!(unsaved["event"], "unsaved");
    let error = unsaved["error"].as_str().unwrap();
    assert_eq!(error.matches("os error").count(), 1, "{error}");
    let end = recorder.event();
    assert_eq!(recorder.wait(), Some(1));
    assert_eq!((&end["messages"], &end["unsaved"]), (&1.into(), &1.into()));
    assert_eq!(end["files"], json!([]), "it is not there any more");
}

#[test]
fn what_would_look_like_a_part_is_refused_or_removed() {
    let mesh = Mesh::start();
    let dir = TempDir::new();
    let path = |name: &str| dir.path().join(name);
    let split = ["--split-size", "5kB", "--chunk-size", "1kB"];
    record_raw(&mesh, dir.path(), &["a"], 100, &split);
    assert!(path("run_2.mcap").exists());
    std::fs::remove_file(path("run.mcap")).unwrap();
    let args = ["record", "a", "-o", "run", "--duration", "1ms"];
    let refused = bag_in(&mesh, dir.path(), &args);
    assert_eq!(refused.code, Some(2), "{}", refused.out);
    assert!(refused.errors.contains("like a part"), "{}", refused.errors);
    let mut numbers = (1..).map(|number| format!("run_{number}.mcap"));
    let next = numbers.find(|name| !path(name).exists()).unwrap();
    std::fs::write(path(&next), b"mine").unwrap();
    let args = [&args[..], &["--overwrite"]].concat();
    let refused = bag_in(&mesh, dir.path(), &args);
    assert_eq!(refused.code, Some(2), "{}", refused.out);
    assert!(refused.errors.contains(&next), "{}", refused.errors);
    assert!(path("run_2.mcap").exists(), "nothing was touched");
    std::fs::remove_file(path(&next)).unwrap();
    let end = record_raw(&mesh, dir.path(), &["a"], 10, &["--overwrite"]);
    assert_eq!(names(&end), ["run.mcap"]);
    assert!(!path("run_1.mcap").exists() && !path("run_2.mcap").exists());
}

#[test]
fn a_recorder_that_is_refused_leaves_what_it_may_write_over() {
    let mesh = Mesh::start();
    let dir = TempDir::new();
    record_raw(&mesh, dir.path(), &["a"], 10, &[]);
    let before = std::fs::read(dir.path().join("run.mcap")).unwrap();
    let nobody = crate::support::free_address();
    let args = ["record", "a", "-o", "run", "--overwrite"];
    for (more, code) in [
        (["--coordinator", &*nobody], 1),
        (["--chunk-size", "1TB"], 2),
    ] {
        let refused = bag_in(&mesh, dir.path(), &[&args[..], &more].concat());
        assert_eq!(refused.code, Some(code));
    }
    assert_eq!(std::fs::read(dir.path().join("run.mcap")).unwrap(), before);
}

#[test]
fn a_part_whose_name_is_taken_meanwhile_gets_the_next() {
    let mesh = Mesh::start();
    let dir = TempDir::new();
    let options = ["-o", "run", "--split-size", "5kB", "--chunk-size", "1kB"];
    let mut recorder = start(&mesh, dir.path(), &options);
    std::fs::write(dir.path().join("run_1.mcap"), b"mine").unwrap();
    let node = mesh.node("sender");
    let mut publisher = heard(&node, "a");
    for number in 0..100 {
        publisher.publish_bytes(&payload(number, 100)).unwrap();
    }
    recorder.signal(Signal::INT);
    let end = recorder.event();
    assert_eq!(recorder.wait(), Some(0), "{end}");
    assert_eq!(names(&end)[..3], ["run.mcap", "run_2.mcap", "run_3.mcap"]);
    assert_eq!(
        std::fs::read(dir.path().join("run_1.mcap")).unwrap(),
        b"mine"
    );
}

#[test]
fn a_recording_without_a_name_finds_a_free_one() {
    let mesh = Mesh::start();
    let dir = TempDir::new();
    // Whichever second it is begun in, its name is taken, or would have a part.
    let script = "now=$(date +%s); for s in $(seq $now 2 $((now + 240))); do \
        touch record_$(date -d @$s +%Y-%m-%d-%H-%M-%S).mcap; s=$((s + 1)); \
        touch record_$(date -d @$s +%Y-%m-%d-%H-%M-%S)_1.mcap; done";
    let mut taker = Command::new("sh");
    let taker = taker.current_dir(dir.path()).env("TZ", ZONE);
    assert!(taker.args(["-c", script]).status().unwrap().success());
    let record = || {
        let mut command = Command::new(MESH);
        let command = command.current_dir(dir.path()).env("TZ", ZONE);
        let mut recorder = Tool::spawn(command.args(["bag", "record", "a", "--json"]), &mesh);
        assert_eq!(recorder.event()["event"], "recording");
        recorder
    };
    let mut recorders = [record(), record()];
    let node = mesh.node("sender");
    let mut publisher = heard(&node, "a");
    eventually("both listen", || publisher.listener_count() == 2);
    publisher.publish_bytes(b"x").unwrap();
    for recorder in &mut recorders {
        recorder.signal(Signal::INT);
        let end = recorder.event();
        assert_eq!(recorder.wait(), Some(0), "{end}");
        let name = end["files"][0].as_str().unwrap();
        assert!(
            name.contains("-2.mcap") || name.contains("-3.mcap"),
            "{end}"
        );
        assert_eq!(end["messages"], 1);
    }
}

#[test]
fn what_cannot_be_a_file_is_refused_with_the_next_step() {
    let mesh = Mesh::start();
    let dir = TempDir::new();
    std::fs::create_dir(dir.path().join("runs")).unwrap();
    for (output, text) in [
        (".", "./run"),
        ("runs", "runs/run"),
        ("none/", "name a file in it"),
        ("-", "needs a file"),
        ("/dev/null", "no regular file"),
    ] {
        for last in [&[][..], &["--last", "1s"]] {
            let args = [&["record", "a", "-o", output][..], last].concat();
            let refused = bag_in(&mesh, dir.path(), &args);
            assert_eq!(refused.code, Some(2), "{output}: {}", refused.errors);
            assert!(
                refused.errors.contains(text),
                "{output}: {}",
                refused.errors
            );
        }
    }
    record_raw(&mesh, dir.path(), &["a"], 1, &[]);
    std::fs::create_dir(dir.path().join("run")).unwrap();
    let end = record_raw(&mesh, dir.path(), &["a"], 1, &["--overwrite"]);
    assert_eq!(end["messages"], 1, "run.mcap is not the directory run");
}

#[test]
fn a_topic_that_nobody_publishes_is_named() {
    let mesh = Mesh::start();
    let dir = TempDir::new();
    let node = mesh.node("sender");
    let publisher = node.publisher::<shmesh::Raw>("arm/a").build().unwrap();
    let args = [
        "record",
        "/arm/*",
        "arm/a",
        "nope",
        "leg/**",
        "--duration",
        "1ms",
    ];
    eventually("it is known", || {
        let recorded = bag_in(&mesh, dir.path(), &args);
        assert_eq!(recorded.code, Some(0), "{}", recorded.errors);
        let notes: Vec<&str> = recorded.errors.lines().collect();
        let named = |topic: &str| {
            notes
                .iter()
                .any(|note| note.contains(&format!(" {topic} yet")))
        };
        assert!(named("nope") && named("leg/**"), "{notes:?}");
        assert!(
            recorded.out.contains("no messages, no file"),
            "{}",
            recorded.out
        );
        notes.len() == 2
    });
    drop(publisher);
}
