//! `mesh bag` against a real mesh: what was sent is recorded, said and sent again.

mod explained;
mod faults;
mod names;
mod parts;
mod replaced;
mod tool;
mod written;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use shmesh::bag::{Channel, Config, Message as BagMessage, Recorder, Target};
use shmesh::rkyv::{Archive, Serialize};
use shmesh::topology::{Encoding, TopicType};
use shmesh::{Json, Message, MsgPack, Node, Overflow, Publisher, Raw, Subscriber, Untyped};

use self::tool::{Signal, Tool, bag, bag_in};
use crate::support::{Mesh, PATIENCE, TempDir, eventually, payload};

#[derive(Archive, Serialize, Message)]
#[rkyv(crate = shmesh::rkyv)]
struct Pose {
    x: f64,
    frame: String,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Coded {
    number: u64,
    text: String,
}

/// Records what `send` sends into `run.mcap`; what the recorder said at its end.
fn record(mesh: &Mesh, dir: &Path, options: &[&str], send: impl FnOnce()) -> Value {
    let file = dir.join("run.mcap");
    let args = [&["record", "--json", "-o", file.to_str().unwrap()], options].concat();
    let mut recorder = Tool::start(mesh, &args);
    assert_eq!(recorder.event()["event"], "recording");
    send();
    recorder.signal(Signal::INT);
    let end = recorder.event();
    assert_eq!(end["event"], "end", "{end}");
    assert_eq!(recorder.wait(), Some(0));
    end
}

/// A publisher with somebody who listens.
fn heard(node: &Node, topic: &str) -> Publisher<Raw> {
    let mut publisher = node.publisher::<Raw>(topic).build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    publisher
}

/// Hears all that a player sends.
fn ear(node: &Node, pattern: &str) -> Subscriber<Untyped> {
    let overflow = Overflow::Block {
        depth: 4096,
        deadline: PATIENCE,
    };
    let builder = node.subscriber::<Untyped>(pattern).overflow(overflow);
    builder.max_held(64).build().unwrap()
}

/// Records `count` raw messages of some topics, by turns, `size` bytes each.
fn record_raw(mesh: &Mesh, dir: &Path, topics: &[&str], count: u64, options: &[&str]) -> Value {
    let options = [topics, options].concat();
    record(mesh, dir, &options, || {
        let node = mesh.node("sender");
        let publishers = topics.iter().map(|topic| heard(&node, topic));
        let mut publishers: Vec<_> = publishers.collect();
        for number in 0..count {
            for publisher in &mut publishers {
                publisher.publish_bytes(&payload(number, 100)).unwrap();
            }
        }
    })
}

fn info(dir: &Path, options: &[&str]) -> Value {
    let file = dir.join("run.mcap");
    let ended = bag(&[&["info", "--json", file.to_str().unwrap()], options].concat());
    assert_eq!(ended.code, Some(0), "{}", ended.errors);
    ended.json()
}

#[test]
fn every_encoding_is_recorded_and_played_byte_for_byte() {
    let mesh = Mesh::start();
    let dir = TempDir::new();
    let node = mesh.node("robot");
    let mut reference = ear(&node, "all/**");
    let mut sent = Vec::new();
    let end = record(&mesh, dir.path(), &["all/**"], || {
        let mut raw = node.publisher::<Raw>("all/raw").build().unwrap();
        let mut json = node.publisher::<Json<Coded>>("all/json").build().unwrap();
        let mut pack = node
            .publisher::<MsgPack<Coded>>("all/pack")
            .build()
            .unwrap();
        // The recorder has never heard of it.
        let mut pose = node.publisher::<Pose>("all/deep/pose").build().unwrap();
        eventually("both listen to all", || {
            let counts = [
                raw.listener_count(),
                json.listener_count(),
                pack.listener_count(),
            ];
            counts == [2; 3] && pose.listener_count() == 2
        });
        for number in 0..50 {
            let text = "x".repeat(number as usize * 7 % 300);
            let size = number as usize * 6_131 % 200_000;
            raw.publish_bytes(&payload(number, size)).unwrap();
            let coded = Coded { number, text };
            json.publish(&coded).unwrap();
            pack.publish(&coded).unwrap();
            let (x, frame) = (number as f64, coded.text);
            pose.publish(&Pose { x, frame }).unwrap();
            for _ in 0..4 {
                let sample = reference.recv_blocking(PATIENCE).unwrap();
                let ty = sample.topic_type().clone();
                sent.push((sample.topic().to_owned(), ty, sample.to_vec()));
            }
        }
    });
    assert_eq!((&end["messages"], &end["lost"]), (&200.into(), &0.into()));
    let told = info(dir.path(), &["--check"]);
    let topics = told["topics"].as_array().unwrap();
    let encoding = |topic: &str| {
        let found = topics.iter().find(|found| found["topic"] == topic).unwrap();
        assert_eq!(
            (&found["messages"], &found["lost"]),
            (&50.into(), &0.into())
        );
        found["encoding"].as_str().unwrap().to_owned()
    };
    let names = ["raw", "json", "pack", "deep/pose"].map(|name| encoding(&format!("all/{name}")));
    assert_eq!(names, ["shmesh-raw", "json", "msgpack", "shmesh-rkyv"]);

    let file = dir.path().join("run.mcap");
    let args = [
        "play",
        file.to_str().unwrap(),
        "--immediate",
        "--json",
        "--wait",
        "30s",
    ];
    let mut player = Tool::start(&mesh, &args);
    let mut typed = node.subscriber::<Pose>("all/deep/pose").build().unwrap();
    let mut played = Vec::new();
    for _ in 0..sent.len() {
        let sample = reference.recv_blocking(PATIENCE).unwrap();
        let ty = sample.topic_type().clone();
        played.push((sample.topic().to_owned(), ty, sample.to_vec()));
    }
    assert!(played == sent, "order, types and bytes");
    assert_eq!(player.event()["messages"], 200);
    assert_eq!(player.wait(), Some(0));
    if let Ok(Some(pose)) = typed.try_recv() {
        assert!(
            pose.frame.chars().all(|c| c == 'x'),
            "who knows the type reads it"
        );
    }
    assert!(sent.iter().any(|(_, ty, _)| ty.encoding == Encoding::Rkyv));
}

#[test]
fn what_a_stopped_recorder_missed_is_said_exactly_and_slows_nobody() {
    let mesh = Mesh::start();
    let dir = TempDir::new();
    let file = dir.path().join("run.mcap");
    let args = [
        "record",
        "--json",
        "-o",
        file.to_str().unwrap(),
        "--depth",
        "16",
        "a",
        "b",
    ];
    let mut recorder = Tool::start(&mesh, &args);
    recorder.event();
    let node = mesh.node("sender");
    let (mut a, mut b) = (heard(&node, "a"), heard(&node, "b"));
    let mut witness = node.subscriber::<Raw>("a");
    witness = witness.overflow(Overflow::KeepLast(2048));
    let mut witness = witness.build().unwrap();
    eventually("it listens", || a.listener_count() == 2);
    recorder.signal(Signal::STOP);
    for number in 0..1_000 {
        a.publish_bytes(&payload(number, 8)).unwrap();
        if number % 100 == 0 {
            b.publish_bytes(&payload(number, 300_000)).unwrap();
        }
    }
    // Another subscriber got them all meanwhile.
    for _ in 0..1_000 {
        assert_eq!(witness.recv_blocking(PATIENCE).unwrap().lost_before(), 0);
    }
    recorder.signal(Signal::CONT);
    recorder.signal(Signal::INT);
    let end = recorder.event();
    assert_eq!(recorder.wait(), Some(0));
    let (recorded, lost) = (end["messages"].as_u64(), end["lost"].as_u64());
    assert_eq!(recorded.unwrap() + lost.unwrap(), 1_010, "{end}");
    assert!(lost.unwrap() >= 1_000 - 2 * 16, "{end}");
    for options in [&[][..], &["--check"]] {
        let told = info(dir.path(), options);
        assert_eq!(told["messages"].as_u64(), recorded);
        let of = |topic: &str| {
            let topics = told["topics"].as_array().unwrap();
            let found = topics.iter().find(|found| found["topic"] == topic).unwrap();
            found["messages"].as_u64().unwrap() + found["lost"].as_u64().unwrap()
        };
        // What was lost before the first is not between two that are there.
        assert!(
            options.len() == 1 || (of("a"), of("b")) == (1_000, 10),
            "{told}"
        );
    }
}

#[test]
fn a_split_recording_is_whole_in_its_files() {
    let mesh = Mesh::start();
    let dir = TempDir::new();
    let options = ["--split-size", "20kB", "--chunk-size", "2kB"];
    let end = record_raw(&mesh, dir.path(), &["a", "b"], 400, &options);
    let files = end["files"].as_array().unwrap();
    assert!(files.len() > 3, "{end}");
    assert!(files[1].as_str().unwrap().ends_with("run_1.mcap"));
    let mut messages = 0;
    for file in files {
        let told = bag(&["info", "--json", "--check", file.as_str().unwrap()]);
        assert_eq!(told.code, Some(0), "{}", told.errors);
        assert!(told.json()["bytes"].as_u64().unwrap() <= 20_000);
        messages += told.json()["messages"].as_u64().unwrap();
    }
    assert_eq!(messages, 800);
}

#[test]
fn a_black_box_writes_the_last_messages_at_each_signal_and_at_the_end() {
    let mesh = Mesh::start();
    let dir = TempDir::new();
    let file = dir.path().join("box.mcap");
    let args = [
        "record",
        "--json",
        "-o",
        file.to_str().unwrap(),
        "--last",
        "1h",
        "--all",
    ];
    let mut recorder = Tool::start(&mesh, &args);
    assert_eq!(recorder.event()["pid"], recorder.pid());
    assert!(!file.exists(), "nothing before it is told");
    let node = mesh.node("sender");
    let mut publisher = heard(&node, "a");
    for round in 1..3_u64 {
        for number in 0..100 {
            publisher.publish_bytes(&payload(number, 50)).unwrap();
        }
        // What was sent before the signal may still wait for the recorder.
        let mut messages = 0;
        while messages < 100 * round {
            recorder.signal(Signal::USR1);
            let saved = recorder.event();
            assert_eq!(saved["event"], "saved", "{saved}");
            messages = saved["messages"].as_u64().unwrap();
        }
        assert_eq!(messages, 100 * round, "what is saved stays");
    }
    recorder.signal(Signal::TERM);
    let saved = recorder.event();
    let end = recorder.event();
    assert_eq!(
        (&saved["messages"], &end["messages"]),
        (&200.into(), &200.into())
    );
    assert_eq!(recorder.wait(), Some(0));
    let told = bag(&["info", "--json", saved["file"].as_str().unwrap()]);
    assert_eq!(told.json()["messages"], 200);
}

#[test]
fn a_part_is_played_under_another_name_and_from_a_moment_on() {
    let mesh = Mesh::start();
    let dir = TempDir::new();
    record_raw(&mesh, dir.path(), &["arm/a", "arm/b", "leg"], 30, &[]);
    let node = mesh.node("listener");
    let mut all = ear(&node, "**");
    let play = |options: &[&str]| {
        let common = [
            "play", "-i", "run.mcap", "--json", "--wait", "30s", "--rate", "1000",
        ];
        let ended = bag_in(&mesh, dir.path(), &[&common[..], options].concat());
        assert_eq!(ended.code, Some(0), "{}", ended.errors);
        ended.json()["messages"].as_u64().unwrap()
    };
    assert_eq!(play(&["--topics", "arm/*", "--remap", "arm/a:=sim/a"]), 60);
    let mut topics = std::collections::BTreeMap::new();
    for _ in 0..60 {
        let sample = all.recv_blocking(PATIENCE).unwrap();
        *topics.entry(sample.topic().to_owned()).or_insert(0) += 1;
    }
    assert_eq!(
        topics.into_iter().collect::<Vec<_>>(),
        [("arm/b".into(), 30), ("sim/a".into(), 30)]
    );
    assert_eq!(play(&["--end", "1h", "--topics", "leg"]), 30);
}

#[test]
fn a_loop_goes_on_until_a_signal_and_ends_at_once() {
    let mesh = Mesh::start();
    let dir = TempDir::new();
    record_raw(&mesh, dir.path(), &["a"], 10, &[]);
    let node = mesh.node("listener");
    let mut all = ear(&node, "a");
    let file = dir.path().join("run.mcap");
    let args = [
        "play",
        file.to_str().unwrap(),
        "--loop",
        "--json",
        "--wait",
        "30s",
    ];
    let mut player = Tool::start(&mesh, &args);
    for number in 0..35 {
        let sample = all.recv_blocking(PATIENCE).unwrap();
        assert_eq!(*sample, payload(number % 10, 100));
    }
    player.signal(Signal::INT);
    assert!(player.event()["messages"].as_u64().unwrap() >= 35);
    assert_eq!(player.wait(), Some(0));
}

/// A recording made without a mesh.
struct OneFile(PathBuf);

impl Target for OneFile {
    type Storage = File;
    fn open(&mut self, _: u32) -> std::io::Result<File> {
        File::create(&self.0)
    }
}

#[test]
fn a_player_that_is_held_up_says_how_late_it_was() {
    let mesh = Mesh::start();
    let dir = TempDir::new();
    let file = dir.path().join("run.mcap");
    let mut recorder = Recorder::new(Config::default(), OneFile(file.clone())).unwrap();
    let ty = TopicType {
        encoding: Encoding::Raw,
        name: "bytes".into(),
        hash: 0,
    };
    let channel = Channel {
        topic: "a".into(),
        ty,
        publisher: None,
        schema: None,
    };
    let channel = recorder.add(channel).unwrap();
    // Half a minute, a message each 10 ms.
    for number in 0..3_000 {
        let ns = 1_000_000_000 + number * 10_000_000;
        let of = BagMessage {
            channel,
            sequence: number,
            log_ns: ns,
            publish_ns: ns,
            lost_before: 0,
            payload: b"x",
        };
        recorder.record(&of).unwrap();
    }
    recorder.finish().unwrap();
    let node = mesh.node("listener");
    let mut all = ear(&node, "a");
    let args = ["play", file.to_str().unwrap(), "--json", "--wait", "30s"];
    let mut player = Tool::start(&mesh, &args);
    all.recv_blocking(PATIENCE).unwrap();
    player.signal(Signal::STOP);
    // So long it stands still; that is what is to be said.
    std::thread::sleep(Duration::from_millis(200));
    player.signal(Signal::CONT);
    while all.try_recv().unwrap().is_some() {}
    all.recv_blocking(PATIENCE).unwrap();
    player.signal(Signal::INT);
    let played = player.event();
    assert_eq!(player.wait(), Some(0));
    let late_us = |quantile: &str| played["late_us"][quantile].as_u64().unwrap();
    assert!(late_us("max") >= 150_000, "{played}");
    assert!(late_us("p50") <= late_us("max"), "{played}");
}

#[test]
fn a_recording_becomes_json_smaller_or_whole_again() {
    let mesh = Mesh::start();
    let dir = TempDir::new();
    let node = mesh.node("robot");
    record(&mesh, dir.path(), &["pack"], || {
        let mut pack = node.publisher::<MsgPack<Coded>>("pack").build().unwrap();
        pack.wait_for_listener_blocking(PATIENCE).unwrap();
        for number in 0..100 {
            let text = "word ".repeat(30);
            pack.publish(&Coded { number, text }).unwrap();
        }
    });
    let convert = |output: &str, options: &[&str]| {
        let args = [&["convert", "run.mcap", "--json", "-o", output], options].concat();
        let ended = bag_in(&mesh, dir.path(), &args);
        assert_eq!(ended.code, Some(0), "{}", ended.errors);
        assert_eq!(ended.json()["messages"], 100);
        std::fs::read(dir.path().join(output)).unwrap()
    };
    let small = convert("small.mcap", &["--compress"]);
    let whole = std::fs::read(dir.path().join("run.mcap")).unwrap();
    assert!(
        small.len() < whole.len() / 2,
        "{} of {}",
        small.len(),
        whole.len()
    );
    let json = convert("json.mcap", &["--to", "json"]);
    let text = String::from_utf8_lossy(&json);
    assert!(text.contains(r#"{"number":99,"text":"word word"#));
    let again = bag_in(
        &mesh,
        dir.path(),
        &["convert", "run.mcap", "-o", "json.mcap"],
    );
    assert_eq!(again.code, Some(2), "what is there stays");
}

#[test]
fn python_reads_our_recordings() {
    let has_mcap = Command::new("python3")
        .args(["-c", "import mcap.reader"])
        .output();
    if !has_mcap.is_ok_and(|output| output.status.success()) {
        println!("skipped: no python3 with the package mcap (pip install mcap)");
        return;
    }
    let mesh = Mesh::start();
    let dir = TempDir::new();
    for options in [&["--overwrite"][..], &["--compress", "--overwrite"]] {
        record_raw(&mesh, dir.path(), &["a", "b"], 300, options);
        let script = "
import sys, mcap.reader
reader = mcap.reader.make_reader(open(sys.argv[1], 'rb'), validate_crcs=True)
summary = reader.get_summary()
count = 0
for schema, channel, message in reader.iter_messages():
    assert channel.metadata['shmesh.node'] == 'sender', channel
    assert len(message.data) == 100
    count += 1
names = [metadata.name for metadata in reader.iter_metadata()]
print(summary.statistics.message_count, count, sorted(c.topic for c in summary.channels.values()),
      names[-1])
";
        let file = dir.path().join("run.mcap");
        let output = Command::new("python3")
            .args(["-c", script])
            .arg(file)
            .output()
            .unwrap();
        let (out, errors) = (&output.stdout, &output.stderr);
        let out = String::from_utf8_lossy(out);
        let is_lz4_absent = String::from_utf8_lossy(errors).contains("No module named 'lz4'");
        if is_lz4_absent {
            println!("skipped: python3 has no lz4");
            continue;
        }
        assert_eq!(out.trim(), "600 600 ['a', 'b'] shmesh.losses", "{output:?}");
    }
}
