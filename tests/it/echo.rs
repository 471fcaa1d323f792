//! `mesh topic echo`: what it cannot read, and who does not read it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::AsFd as _;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use shmesh::topology::{Encoding, TopicType};
use shmesh::{Json, Raw, Untyped};

use crate::mesh_verbs::tool_of;
use crate::support::{Mesh, PATIENCE, eventually};

#[test]
fn what_nobody_can_read_comes_with_its_encoding_and_bytes() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let ty = |encoding| TopicType {
        name: "Blob".into(),
        encoding,
        hash: 7,
    };
    let own = ty(Encoding::Custom("cdr.le".into()));
    let cases = [
        ("own", own, "cdr.le", ""),
        ("archive", ty(Encoding::Rkyv), "rkyv", "Blob"),
    ];
    for (topic, ty, encoding, note) in cases {
        let mut blobs = node.publisher::<Untyped>(topic).ty(ty).build().unwrap();
        for json in [false, true] {
            let mut command = tool_of(&mesh, &format!("topic echo {topic} -c 1"));
            command.args(json.then_some("--json"));
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            let child = command.spawn().unwrap();
            blobs.wait_for_listener_blocking(PATIENCE).unwrap();
            blobs.publish_bytes(b"\x00\xff\x1b").unwrap();
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(0), "{said}");
            assert!(
                said.contains(note) && said.is_empty() == note.is_empty(),
                "{said}"
            );
            let line: Value = serde_json::from_slice(&output.stdout).unwrap();
            let data = if json { &line["data"] } else { &line };
            let expected = json!({"encoding": encoding, "len": 3, "bytes": "00ff1b"});
            assert_eq!(*data, expected);
            let gone = tokio::runtime::Runtime::new().unwrap();
            gone.block_on(blobs.wait_for_no_listener()).unwrap();
        }
    }
}

/// More than a pipe takes.
const LONG: usize = 200_000;

/// An echo in the middle of a line, the first of two, which nobody has read yet.
fn blocked(mesh: &Mesh, words: &str) -> (Child, std::io::PipeReader) {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = tool_of(mesh, words);
    let child = command
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(command);
    let node = mesh.node("n");
    let mut texts = node.publisher::<Json<String>>("t").build().unwrap();
    texts.wait_for_listener_blocking(PATIENCE).unwrap();
    for _ in 0..2 {
        texts.publish(&"x".repeat(LONG)).unwrap();
    }
    eventually("something comes", || {
        rustix::io::ioctl_fionread(reader.as_fd()).unwrap() > 0
    });
    (child, reader)
}

#[test]
fn a_signal_ends_it_while_a_reader_is_there_and_does_not_read() {
    let mesh = Mesh::start();
    for signal in [Signal::TERM, Signal::INT] {
        let (mut child, reader) = blocked(&mesh, "topic echo t");
        kill_process(Pid::from_child(&child), signal).unwrap();
        eventually("it ends", || child.try_wait().unwrap().is_some());
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let mut said = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert!(
            said.contains("were not written: nobody read them"),
            "{said}"
        );
        drop(reader);
    }
}

#[test]
fn a_reader_that_comes_back_gets_whole_lines_and_a_pipe_stays_as_it_was() {
    let mesh = Mesh::start();
    let (mut child, reader) = blocked(&mesh, "topic echo t --count 2");
    let text = format!("\"{}\"", "x".repeat(LONG));
    let lines = BufReader::new(reader).lines();
    let lines: Vec<String> = lines.map_while(Result::ok).collect();
    assert!(lines.iter().all(|line| *line == text), "no line is cut");
    assert_eq!(lines.len(), 2);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn others_with_the_same_output_block_as_before() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let mut blobs = node.publisher::<Raw>("t").build().unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut command = tool_of(&mesh, "topic echo t --count 1");
    let mut child = command.stdout(writer.try_clone().unwrap()).spawn().unwrap();
    blobs.wait_for_listener_blocking(PATIENCE).unwrap();
    blobs.publish_bytes(b"a").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let flags = rustix::fs::fcntl_getfl(&writer).unwrap();
    assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK), "{flags:?}");
    drop((command, writer));
    let mut said = String::new();
    reader.read_to_string(&mut said).unwrap();
    assert_eq!(said, "\"61\"\n");
}
