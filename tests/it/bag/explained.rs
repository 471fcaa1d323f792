//! Recorded types: who plays messages tells tools what they look like.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use serde_json::json;
use shmesh::bag::{BagReader, Channel, Config, Message as BagMessage, Recorder, SchemaRecord};
use shmesh::rkyv::{Archive, Serialize, rancor, to_bytes};
use shmesh::schema::Schema;
use shmesh::topology::{Encoding, TopicType};
use shmesh::{Message, Payload as _, Untyped};

use super::faults::can_mount;
use super::tool::{Ended, MESH, Signal, Tool, ended, of};
use super::{OneFile, Pose, record};
use crate::mesh_verbs::{out_of, tool_of};
use crate::support::{Mesh, PATIENCE, TempDir, eventually};

#[derive(Archive, Serialize, Message)]
#[rkyv(crate = shmesh::rkyv)]
struct Battery {
    volts: f32,
}

/// What `mesh topic echo` prints of the first message.
fn echo(mesh: &Mesh, command: &mut Command, topic: &str) -> Ended {
    of(command, mesh);
    ended(command.args(["topic", "echo", topic, "--count", "1"]))
}

/// Slowly and again and again, until it is dropped.
fn play(mesh: &Mesh, file: &Path, options: &[&str]) -> Tool {
    let file = file.to_str().unwrap();
    let args = ["play", file, "--json", "--loop", "--wait", "30s"];
    Tool::start(mesh, &[&args[..], options].concat())
}

#[test]
fn what_is_played_is_printed_as_json_where_nobody_has_its_type() {
    let dir = TempDir::new();
    let mesh = Mesh::start();
    let file = dir.path().join("run.mcap");
    record(&mesh, dir.path(), &["pose"], || {
        let node = mesh.node("robot");
        let mut publisher = node.publisher::<Pose>("pose").build().unwrap();
        publisher.wait_for_listener_blocking(PATIENCE).unwrap();
        for number in 0..20 {
            let (x, frame) = (f64::from(number), "map".into());
            publisher.publish(&Pose { x, frame }).unwrap();
        }
    });

    // Another mesh, where nobody ever said what it is.
    let mesh = Mesh::start();
    let mut player = play(
        &mesh,
        &file,
        &["--rate", "0.001", "--remap", "pose:=played"],
    );
    let is_pose = |echoed: &Ended| {
        let value = echoed.json();
        assert_eq!(value["frame"], "map", "{value}");
        assert!(value["x"].is_number(), "{value}");
    };
    is_pose(&echo(&mesh, &mut Command::new(MESH), "played"));
    if can_mount() {
        // On another host, as far as it can see: the way to it is the network.
        let hidden = "mount -t tmpfs -o mode=700 tmpfs \"$0\" && exec \"$@\"";
        let mut far = Command::new("unshare");
        let far = far.args(["-m", "sh", "-c", hidden]).arg(mesh.dir.path());
        is_pose(&echo(&mesh, far.arg(MESH), "played"));
    } else {
        println!("skipped: cannot hide a directory here (needs root and unshare)");
    }
    player.signal(Signal::INT);
    assert_eq!(player.wait(), Some(0));
}

#[test]
fn a_spoiled_description_is_said_and_its_messages_are_played_without_it() {
    let dir = TempDir::new();
    let file = dir.path().join("run.mcap");
    let mut recorder = Recorder::new(Config::default(), OneFile(file.clone())).unwrap();
    let whole = SchemaRecord::of(&Schema::of::<Battery>().unwrap()).unwrap();
    let with = |data: Vec<u8>| {
        Some(SchemaRecord {
            data,
            ..whole.clone()
        })
    };
    let half = whole.data.len() / 2;
    let channels = [
        ("whole", Some(whole.clone())),
        ("junk", with(vec![0xff; 100])),
        ("cut", with(whole.data[..half].to_vec())),
        ("none", with(vec![])),
        (
            "other",
            SchemaRecord::of(&Schema::of::<Pose>().unwrap()).ok(),
        ),
    ];
    let payload = to_bytes::<rancor::Error>(&Battery { volts: 12.5 }).unwrap();
    let channels = channels.map(|(topic, schema)| {
        let channel = Channel {
            topic: topic.into(),
            ty: Battery::topic_type(),
            publisher: None,
            schema,
        };
        recorder.add(channel).unwrap()
    });
    for number in 0..10 {
        for channel in channels {
            let ns = 1_000_000_000 + number * 50_000_000;
            let message = BagMessage {
                channel,
                sequence: number,
                log_ns: ns,
                publish_ns: ns,
                lost_before: 0,
                payload: &payload,
            };
            recorder.record(&message).unwrap();
        }
    }
    recorder.finish().unwrap();

    let file = file.to_str().unwrap();
    let mesh = Mesh::start();
    let errors = dir.path().join("errors");
    let mut command = Command::new(MESH);
    command.args(["bag", "play", file, "--json", "--loop", "--wait", "0"]);
    command.stderr(File::create(&errors).unwrap());
    let mut player = Tool::spawn(&mut command, &mesh);
    let echoed = echo(&mesh, &mut Command::new(MESH), "whole");
    assert_eq!(echoed.out.trim(), r#"{"volts":12.5}"#, "{}", echoed.errors);
    player.signal(Signal::INT);
    assert!(player.event()["messages"].as_u64().unwrap() >= 5);
    assert_eq!(player.wait(), Some(0));
    let errors = std::fs::read_to_string(errors).unwrap();
    let warned = |topic: &str| errors.contains(&format!("playing {topic} without"));
    let expected = [false, true, true, true, true];
    assert_eq!(
        ["whole", "junk", "cut", "none", "other"].map(warned),
        expected,
        "{errors}"
    );
}

/// A type of its own for each number: only who is told knows it.
fn renamed(number: u32) -> Schema {
    let mut bytes = Schema::of::<Battery>().unwrap().encode().unwrap();
    let at = bytes.windows(7).position(|bytes| bytes == b"Battery");
    bytes[at.unwrap()..][..7].copy_from_slice(name_of(number).as_bytes());
    Schema::decode(&bytes).unwrap()
}

fn name_of(number: u32) -> String {
    format!("Batt{number:03}")
}

/// A node that is there for one message.
fn pass_by(mesh: &Mesh, number: u32, between: impl FnOnce()) {
    let node = mesh.node("passing");
    let schema = renamed(number);
    let ty = TopicType {
        encoding: Encoding::Rkyv,
        name: name_of(number),
        hash: schema.hash(),
    };
    node.add_schema(Arc::new(schema)).unwrap();
    let topic = format!("passing/{number}");
    let mut publisher = node.publisher::<Untyped>(&topic).ty(ty).build().unwrap();
    eventually("both listen", || publisher.listener_count() == 2);
    between();
    let volts = number as f32;
    let bytes = to_bytes::<rancor::Error>(&Battery { volts }).unwrap();
    publisher.publish_bytes(&bytes).unwrap();
    node.close_blocking();
}

#[test]
fn a_publisher_that_sends_one_message_and_ends_is_explained() {
    let mesh = Mesh::start();
    let dir = TempDir::new();
    let file = dir.path().join("run.mcap");
    let args = ["record", "--json", "passing/*", "-o"];
    let mut recorder = Tool::start(&mesh, &[&args[..], &[file.to_str().unwrap()]].concat());
    assert_eq!(recorder.event()["event"], "recording");
    let mut command = Command::new(MESH);
    let mut echo = Tool::spawn(
        command.args(["topic", "echo", "passing/*", "--json"]),
        &mesh,
    );
    let count = 20;
    for number in 0..count {
        pass_by(&mesh, number, || ());
    }
    // Nobody of the tools has seen it before it was gone.
    pass_by(&mesh, count, || {
        for tool in [&recorder, &echo] {
            tool.signal(Signal::STOP);
        }
    });
    eventually("it has left", || {
        !out_of(&mut tool_of(&mesh, "node list")).contains("passing")
    });
    for tool in [&recorder, &echo] {
        tool.signal(Signal::CONT);
    }

    for number in 0..=count {
        let line = echo.event();
        let expected = json!({ "volts": f64::from(number) });
        assert_eq!(line["data"], expected, "{line}");
    }
    recorder.signal(Signal::INT);
    assert_eq!(recorder.event()["messages"], count + 1);
    assert_eq!(recorder.wait(), Some(0));
    let file = File::open(file).unwrap();
    let len = file.metadata().unwrap().len();
    let mut reader = BagReader::new(BufReader::new(file), len).unwrap();
    for number in 0..=count {
        let message = reader.next_message().unwrap().unwrap();
        let schema = message.channel.schema.as_ref().expect("it is described");
        assert_eq!(schema.schema().unwrap(), Some(renamed(number)));
    }
}
