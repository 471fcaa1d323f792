//! `mesh topic echo`: what it cannot read, and who does not read it.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::sync::mpsc::channel;

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use shmesh::topology::{Encoding, TopicType};
use shmesh::{Json, Raw, Untyped};

use crate::mesh_verbs::tool_of;
use crate::support::{Mesh, PATIENCE, eventually};
use crate::top;

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

/// More than a pipe or socket takes.
const LONG: usize = 500_000;

/// What the tool writes to, which this process has, too, and where it is read.
fn pipe() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = std::io::pipe().unwrap();
    (reader.into(), writer.into())
}

fn socket() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = UnixStream::pair().unwrap();
    (reader.into(), writer.into())
}

/// An echo in the middle of a line, the first of two, which nobody has read yet.
fn blocked(mesh: &Mesh, words: &str, writer: OwnedFd, reader: &OwnedFd) -> Child {
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
        rustix::io::ioctl_fionread(reader).unwrap() > 0
    });
    child
}

fn ends_well(child: &mut Child) {
    eventually("it ends", || child.try_wait().unwrap().is_some());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_signal_ends_it_while_a_reader_is_there_and_does_not_read() {
    let mesh = Mesh::start();
    for (signal, made) in [
        (Signal::TERM, pipe as fn() -> _),
        (Signal::INT, pipe),
        (Signal::TERM, socket),
    ] {
        let (reader, writer) = made();
        let mut child = blocked(&mesh, "topic echo t", writer, &reader);
        kill_process(Pid::from_child(&child), signal).unwrap();
        ends_well(&mut child);
        let mut said = String::new();
        let mut errors = child.stderr.take().unwrap();
        errors.read_to_string(&mut said).unwrap();
        assert!(
            said.contains("were not written: nobody read them"),
            "{said}"
        );
        drop(reader);
    }
}

#[test]
fn a_reader_that_comes_back_gets_whole_lines() {
    let mesh = Mesh::start();
    for made in [pipe, socket] {
        let (reader, writer) = made();
        let mut child = blocked(&mesh, "topic echo t --count 2", writer, &reader);
        let text = format!("\"{}\"", "x".repeat(LONG));
        let lines = BufReader::new(File::from(reader)).lines();
        let lines: Vec<String> = lines.map_while(Result::ok).collect();
        assert!(lines.iter().all(|line| *line == text), "no line is cut");
        assert_eq!(lines.len(), 2);
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn a_measurement_that_nobody_reads_ends_by_a_signal() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    for made in [pipe, socket] {
        let (reader, writer) = made();
        fill(&writer);
        let mut command = tool_of(&mesh, "topic hz t --count 2 --interval 3600");
        let mut child = command.stdout(writer).spawn().unwrap();
        let mut blobs = node.publisher::<Raw>("t").build().unwrap();
        blobs.wait_for_listener_blocking(PATIENCE).unwrap();
        for _ in 0..2 {
            blobs.publish_bytes(b"a").unwrap();
        }
        // Then it does nothing any more but write.
        eventually("it has both", || {
            let seen = top::json(&[]);
            let nodes = seen["nodes"].as_array().unwrap().iter();
            let mut of_tool = nodes.filter(|node| node["pid"] == child.id());
            of_tool.any(|node| node["received"] == 2)
        });
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        ends_well(&mut child);
        drop(reader);
    }
}

#[test]
fn calls_whose_replies_nobody_reads_end_by_a_signal() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    let runtime = threads.unwrap();
    let provider = node.provider::<Raw, Raw>("s").build().unwrap();
    let (told, asked) = channel();
    let inside = runtime.enter();
    let serving = provider.serve(move |request| {
        let told = told.send(());
        async move { told.map(|()| request.to_vec()) }
    });
    drop(inside);
    let (reader, writer) = socket();
    fill(&writer);
    let mut command = tool_of(&mesh, "service call s \"x\" --interval 0.001");
    let mut child = command.stdout(writer).spawn().unwrap();
    asked.recv_timeout(PATIENCE).unwrap();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    ends_well(&mut child);
    drop((reader, serving));
}

/// Leaves no room for a line, and the flags as they are.
fn fill(writer: &OwnedFd) {
    let flags = rustix::fs::fcntl_getfl(writer).unwrap();
    rustix::fs::fcntl_setfl(writer, flags | OFlags::NONBLOCK).unwrap();
    while rustix::io::write(writer, b"x").is_ok() {}
    rustix::fs::fcntl_setfl(writer, flags).unwrap();
}

#[test]
fn others_with_the_same_output_block_as_before() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    for made in [pipe, socket] {
        let mut blobs = node.publisher::<Raw>("t").build().unwrap();
        let (reader, writer) = made();
        let mut command = tool_of(&mesh, "topic echo t --count 1");
        let mut child = command.stdout(writer.try_clone().unwrap()).spawn().unwrap();
        blobs.wait_for_listener_blocking(PATIENCE).unwrap();
        blobs.publish_bytes(b"a").unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let flags = rustix::fs::fcntl_getfl(&writer).unwrap();
        assert!(!flags.contains(OFlags::NONBLOCK), "{flags:?}");
        drop((command, writer));
        let mut said = String::new();
        File::from(reader).read_to_string(&mut said).unwrap();
        assert_eq!(said, "\"61\"\n");
    }
}
