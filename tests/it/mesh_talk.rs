//! `mesh topic echo` and `send`, `mesh service call`: binaries among nodes that know the types.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};

use rustix::pipe::fcntl_getpipe_size;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shmesh::limits::ECHO_PIPE_BYTES;
use shmesh::rkyv::{self, Archive, rancor};
use shmesh::{Json, Message, MsgPack, Payload, Publisher, Raw, Request, Untyped};

use crate::mesh_verbs::{failure_of, out_of, tool_of};
use crate::snapshot::assert_snapshot;
use crate::support::{Mesh, PATIENCE, eventually};

/// Where the arm is to go.
#[derive(
    Archive,
    Message,
    Clone,
    Debug,
    PartialEq,
    rkyv::Serialize,
    rkyv::Deserialize,
    Serialize,
    Deserialize,
)]
#[rkyv(crate = shmesh::rkyv)]
struct Move {
    frame: String,
    speed: u8,
    joints: Vec<Joint>,
    note: Option<String>,
}

#[derive(
    Archive,
    Message,
    Clone,
    Debug,
    PartialEq,
    rkyv::Serialize,
    rkyv::Deserialize,
    Serialize,
    Deserialize,
)]
#[rkyv(crate = shmesh::rkyv)]
struct Joint {
    name: String,
    #[message(unit = "rad")]
    angle: f32,
}

fn example() -> Move {
    let joint = |name: &str, angle| Joint {
        name: name.into(),
        angle,
    };
    Move {
        frame: "map \"left\" \u{9b}31m\u{202e}".into(),
        speed: 200,
        joints: vec![joint("elbow", 0.5), joint("wrist", -1.25)],
        note: None,
    }
}

const TEXT: &str = r#"{"frame":"map","speed":7,"joints":[{"name":"elbow","angle":0.5}]}"#;

/// Runs `echo` with these words, and gives what it prints of what `send` sends meanwhile.
fn echoed<P: Payload>(
    mesh: &Mesh,
    words: &str,
    publisher: &mut Publisher<P>,
    send: impl FnOnce(&mut Publisher<P>),
) -> Vec<String> {
    let mut child = spawn(tool_of(mesh, &format!("topic echo {words}")));
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    send(publisher);
    let said = ended_well(&mut child);
    let gone = tokio::runtime::Runtime::new().unwrap();
    gone.block_on(publisher.wait_for_no_listener()).unwrap();
    said.lines().map(str::to_owned).collect()
}

/// Waits until a list of the tool's says so.
fn until_listed(mesh: &Mesh, words: &str, needle: &str) {
    eventually(needle, || {
        out_of(&mut tool_of(mesh, words)).contains(needle)
    });
}

fn spawn(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn ended_well(child: &mut Child) -> String {
    let (mut said, mut errors) = (String::new(), String::new());
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut errors)
        .unwrap();
    assert_eq!((child.wait().unwrap().code(), &*errors), (Some(0), ""));
    said
}

#[test]
fn archives_are_printed_as_json_whole_or_in_part() {
    let mesh = Mesh::start();
    let node = mesh.node("arm");
    let mut moves = node.publisher::<Move>("arm/move").build().unwrap();
    let send = |moves: &mut Publisher<Move>| {
        moves.publish(&example()).unwrap();
    };
    let whole = serde_json::to_string(&example()).unwrap();
    for (words, expected) in [
        ("arm/move", whole.clone()),
        ("arm/*", format!("arm/move: {whole}")),
        ("arm/move --field joints[1].angle", "-1.25".into()),
        ("arm/move --field joints --no-arr", "\"[2]\"".into()),
        ("arm/move --field joints[0].name --no-str", "\"<5>\"".into()),
        (
            "arm/move --no-arr",
            whole.replace(
                &serde_json::to_string(&example().joints).unwrap(),
                "\"[2]\"",
            ),
        ),
    ] {
        let said = echoed(&mesh, &format!("{words} --count 1"), &mut moves, send);
        assert_eq!(said, [expected], "{words}");
    }
    let said = echoed(&mesh, "arm/* --json --count 2", &mut moves, |moves| {
        send(moves);
        send(moves);
    });
    let said: Vec<Value> = said
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(said[1]["data"], serde_json::to_value(example()).unwrap());
    assert_eq!(
        (&said[1]["topic"], &said[1]["publisher"]),
        (&json!("arm/move"), &json!("arm"))
    );
    assert_eq!(
        said[1]["sequence"],
        said[0]["sequence"].as_u64().unwrap() + 1
    );
    assert!(said[1]["sent_ns"].as_u64() >= said[0]["sent_ns"].as_u64());
    assert_eq!(said[1]["lost"], 0);
}

#[test]
fn other_encodings_are_printed_too_and_what_is_none_is_said() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let mut texts = node.publisher::<Json<Move>>("json").build().unwrap();
    let whole = serde_json::to_string(&example()).unwrap();
    let said = echoed(&mesh, "json -c 1", &mut texts, |texts| {
        texts.publish(&example()).unwrap();
    });
    assert_eq!(said, [whole]);
    let mut packed = node.publisher::<MsgPack<Move>>("pack").build().unwrap();
    let said = echoed(
        &mesh,
        "pack -c 1 --field joints[0].name",
        &mut packed,
        |packed| {
            packed.publish(&example()).unwrap();
        },
    );
    assert_eq!(said, ["\"elbow\""]);
    let mut blobs = node.publisher::<Raw>("raw").build().unwrap();
    let said = echoed(&mesh, "raw -c 1", &mut blobs, |blobs| {
        blobs.publish_bytes(b"\x00\xff\x1b").unwrap();
    });
    assert_eq!(said, ["\"00ff1b\""]);
    let said = echoed(&mesh, "raw -c 1 --no-arr --no-str", &mut blobs, |blobs| {
        blobs.publish_bytes(b"\x00\xff\x1b").unwrap();
    });
    assert_eq!(said, ["\"[3]\""]);
    // Bytes that are not what they are announced as.
    let wrong = node.publisher::<Untyped>("wrong").ty(Move::topic_type());
    let mut wrong = wrong.build().unwrap();
    let said = echoed(&mesh, "wrong -c 2 --json", &mut wrong, |wrong| {
        wrong.publish_bytes(b"short").unwrap();
        wrong.publish_bytes(&[0xff; 200]).unwrap();
    });
    for line in said {
        let line: Value = serde_json::from_str(&line).unwrap();
        assert!(
            line["data"].is_null() && line["error"].is_string(),
            "{line}"
        );
    }
}

#[test]
fn a_field_that_is_not_there_ends_it_as_wrong_usage() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let mut moves = node.publisher::<Move>("move").build().unwrap();
    let mut child = spawn(tool_of(&mesh, "topic echo move --field joints[0].angel"));
    moves.wait_for_listener_blocking(PATIENCE).unwrap();
    moves.publish(&example()).unwrap();
    let mut errors = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut errors)
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(2));
    assert!(errors.contains("joints[0].angel"), "{errors}");
}

#[test]
fn each_message_is_there_before_the_next_and_the_end_by_signal_is_a_good_one() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let mut texts = node.publisher::<Json<u32>>("t").build().unwrap();
    let mut child = spawn(tool_of(&mesh, "topic echo t"));
    let out = child.stdout.take().unwrap();
    let pipe = out.as_fd().try_clone_to_owned().unwrap();
    let out = BufReader::new(out);
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut lines = out.lines().map_while(Result::ok);
        lines.try_for_each(|line| tell.send(line))
    });
    texts.wait_for_listener_blocking(PATIENCE).unwrap();
    for number in 0..3 {
        texts.publish(&number).unwrap();
        let line = told.recv_timeout(PATIENCE).expect("a line in time");
        assert_eq!(line, number.to_string());
    }
    // It made room for streams.
    assert!(fcntl_getpipe_size(&pipe).unwrap() >= ECHO_PIPE_BYTES);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn each_line_names_the_topic_and_publisher_of_its_own_message() {
    let mesh = Mesh::start();
    let ends = [("left", "arm/a"), ("left", "arm/b"), ("right", "arm/a")];
    let mut publishers = ends.map(|(name, topic)| {
        let node = mesh.node(name);
        let publisher = node.publisher::<Json<u32>>(topic).build().unwrap();
        (node, publisher)
    });
    let mut child = spawn(tool_of(&mesh, "topic echo arm/* --json --count 9"));
    for (_, publisher) in &mut publishers {
        publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    }
    let mut sent = Vec::new();
    for round in 0..3 {
        for (number, (_, publisher)) in (0..).zip(&mut publishers) {
            publisher.publish(&(10 * round + number)).unwrap();
            let (name, topic) = ends[number as usize];
            sent.push(format!("{name} {topic} {}", 10 * round + number));
        }
    }
    let said = ended_well(&mut child);
    let mut heard: Vec<_> = said
        .lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            let [name, topic] = ["publisher", "topic"].map(|key| line[key].as_str().unwrap());
            format!("{name} {topic} {}", line["data"])
        })
        .collect();
    sent.sort();
    heard.sort();
    assert_eq!(heard, sent);
}

#[test]
fn a_terminal_gets_no_orders_and_narrow_ones_get_paragraphs() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let mut moves = node.publisher::<Move>("arm/move").build().unwrap();
    let terminal = |words: &str| {
        let mut script = Command::new("script");
        let tool = env!("CARGO_BIN_EXE_mesh");
        script.args([
            "-qec",
            &format!("stty cols 20; {tool} {words}"),
            "/dev/null",
        ]);
        script
            .env("SHMESH_COORDINATOR", &mesh.address)
            .env_remove("NO_COLOR");
        script
            .env("SHMESH_RUNTIME_DIR", mesh.dir.path())
            .stdin(Stdio::null());
        spawn(script)
    };
    let mut echo = terminal("topic echo arm/move --count 1");
    moves.wait_for_listener_blocking(PATIENCE).unwrap();
    moves.publish(&example()).unwrap();
    let said = ended_well(&mut echo);
    assert!(
        said.contains("map \\\"left\\\" \\u009b31m\\u202e"),
        "{said:?}"
    );
    let list = ended_well(&mut terminal("topic list"));
    let first = "\x1b[1mTOPIC\x1b[0m arm/move\r\n\x1b[1mTYPE\x1b[0m Move (rkyv)\r\n";
    assert!(list.starts_with(first), "{list:?}");
}

#[test]
fn json_becomes_a_message_of_the_subscribers_type() {
    let mesh = Mesh::start();
    let node = mesh.node("arm");
    let mut moves = node.subscriber::<Move>("move").build().unwrap();
    until_listed(&mesh, "topic list", "Move (rkyv)");
    let send = |json: &str, more: &str| {
        let mut command = tool_of(&mesh, "topic send move");
        command.arg(json).args(more.split_whitespace());
        command
    };
    // Nothing of these is sent.
    for (json, needles) in [
        ("{\"frame\":", &["no JSON", "column"][..]),
        (
            &TEXT.replace("\"speed\":7", "\"speed\":7,\"sped\":1"),
            &["Move (rkyv)", "sped"],
        ),
        (&TEXT.replace("\"speed\":7,", ""), &["speed"]),
        (&TEXT.replace('7', "300"), &["speed", "u8", "300"]),
        (
            &TEXT.replace("0.5", "\"abc\""),
            &["joints[0].angle", "f32", "\"abc\""],
        ),
        ("{}", &["frame: expected a text, found nothing"]),
        (
            &TEXT.replace("\"map\"", "1"),
            &["frame: expected a text, found 1"],
        ),
        (
            &TEXT.replace("0.5", "1e400"),
            &["no JSON: at joints[0].angle: number out of range"],
        ),
        (
            &TEXT.replace("0.5", "0.5,\"angle\":1"),
            &["no JSON: at joints[0].angle: this field is there twice"],
        ),
    ] {
        let (code, said) = failure_of(&mut send(json, ""));
        assert_eq!(code, Some(2), "{json}: {said}");
        assert!(
            needles.iter().all(|needle| said.contains(needle)),
            "{json}: {said}"
        );
    }
    out_of(&mut send(TEXT, ""));
    let first = moves.recv_blocking(PATIENCE).unwrap();
    let first = rkyv::deserialize::<Move, rancor::Error>(&*first).unwrap();
    assert_eq!(first, serde_json::from_str(TEXT).unwrap());
    out_of(&mut send(TEXT, "--interval 0.001 --count 5 --no-wait"));
    for sequence in 0..5 {
        assert_eq!(moves.recv_blocking(PATIENCE).unwrap().sequence(), sequence);
    }
    let stats = moves.stats();
    assert_eq!((stats.received, stats.lost), (6, 0));
}

#[test]
fn other_topics_get_json_bytes_or_a_reason() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let send = |topic: &str, json: &str, more: &str| {
        let mut command = tool_of(&mesh, "topic send");
        command.arg(topic).arg(json).args(more.split_whitespace());
        command
    };
    let mut packed = node.subscriber::<MsgPack<Move>>("pack").build().unwrap();
    let mut blobs = node.subscriber::<Raw>("raw").build().unwrap();
    let mut values = node.subscriber::<Json<Value>>("new").build().unwrap();
    until_listed(&mesh, "topic list", "\nnew ");
    out_of(&mut send(
        "pack",
        &TEXT.replace("]}", "],\"note\":null}"),
        "",
    ));
    assert_eq!(packed.recv_blocking(PATIENCE).unwrap().speed, 7);
    out_of(&mut send("raw", "[0, 255]", ""));
    out_of(&mut send("raw", "\"text\"", ""));
    for expected in [&b"\x00\xff"[..], b"text"] {
        assert_eq!(&*blobs.recv_blocking(PATIENCE).unwrap(), expected);
    }
    out_of(&mut send("new", "-1.5", "--json-topic"));
    assert_eq!(*values.recv_blocking(PATIENCE).unwrap(), json!(-1.5));
    let _other = node.publisher::<Json<u8>>("both").build().unwrap();
    let _another = mesh.node("m").publisher::<Raw>("both").build().unwrap();
    eventually("both are known", || {
        let listed = out_of(&mut tool_of(&mesh, "topic info both"));
        listed.contains("u8 (json)") && listed.contains("bytes (raw)")
    });
    for (topic, json, expected, needle) in [
        ("raw", "[1, 2, 300]", 2, "raw bytes: [2]: "),
        ("raw", "{}", 2, "raw bytes"),
        ("nobody", "1", 1, "--json-topic"),
        ("both", "1", 2, "contended for by bytes (raw), u8 (json)"),
        ("a/*", "1", 2, "invalid name"),
        ("@requests/echo", "1", 2, "belongs to a service"),
        ("a\x1b[2J", "1", 2, "\\u{1b}"),
    ] {
        let (code, said) = failure_of(&mut send(topic, json, "--no-wait"));
        assert_eq!(code, Some(expected), "{topic}: {said}");
        assert!(
            said.contains(needle) && !said.contains('\x1b'),
            "{topic}: {said}"
        );
    }
    // Sent to nobody, as it was told.
    out_of(&mut send("nobody", "1", "--no-wait --json-topic"));
}

#[test]
fn services_are_called_with_json_and_answer_in_json() {
    let mesh = Mesh::start();
    let node = mesh.node("arm");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    let plan = |wanted: Request<Move>| async move {
        let mut wanted = rkyv::deserialize::<Move, rancor::Error>(&*wanted).unwrap();
        if wanted.joints.is_empty() {
            return Err("no joints".to_owned());
        }
        wanted.speed += 1;
        Ok(wanted)
    };
    let _serving = node.serve::<Move, Move, _, _, _, _>("plan", plan).unwrap();
    until_listed(&mesh, "service list", "Move (rkyv)");
    let call = |json: &str, more: &str| {
        let mut command = tool_of(&mesh, "service call plan");
        command.arg(json).args(more.split_whitespace());
        command
    };
    let mut expected: Move = serde_json::from_str(TEXT).unwrap();
    expected.speed += 1;
    let expected = serde_json::to_string(&expected).unwrap() + "\n";
    assert_eq!(out_of(&mut call(TEXT, "")), expected);
    assert_eq!(out_of(&mut call(TEXT, "-i 0.001 -c 3")), expected.repeat(3));
    let empty = TEXT.replace("{\"name\":\"elbow\",\"angle\":0.5}", "");
    for (json, code, needle) in [
        (&*empty, 1, "arm failed: no joints"),
        ("{", 2, "no JSON"),
        ("[]", 2, "Move (rkyv)"),
    ] {
        let (found, said) = failure_of(&mut call(json, ""));
        assert_eq!(found, Some(code), "{said}");
        assert!(said.contains(needle), "{said}");
    }
    let mut nobody = tool_of(&mesh, "service call fly null --no-wait");
    let (code, said) = failure_of(&mut nobody);
    assert!(
        code == Some(1) && said.contains("nobody provides fly"),
        "{said}"
    );
}

#[test]
fn a_topics_info_shows_what_its_type_looks_like() {
    let mesh = Mesh::start();
    let node = mesh.node("arm");
    let _moves = node.publisher::<Move>("move").build().unwrap();
    until_listed(&mesh, "topic list", "Move (rkyv)");
    let info = out_of(&mut tool_of(&mesh, "topic info move"));
    let (_, listing) = info.split_once("\n\n").unwrap();
    assert_snapshot("topic_info_schema", listing);
    let info = out_of(&mut tool_of(&mesh, "topic info move --json"));
    let info: Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["schemas"][0]["properties"]["speed"]["type"], "integer");
}

#[test]
fn without_a_coordinator_they_say_so_and_wrong_json_comes_first() {
    let address = crate::support::free_address();
    for words in ["topic echo a", "topic send a 1", "service call a 1"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mesh"));
        command
            .args(words.split_whitespace())
            .args(["--coordinator", &address]);
        let (code, said) = failure_of(&mut command);
        assert_eq!(code, Some(1));
        assert!(
            said.contains(&format!("no coordinator at {address}")),
            "{said}"
        );
        if !words.contains("echo") {
            command.arg("--mesh").arg("x");
            let mut wrong = Command::new(env!("CARGO_BIN_EXE_mesh"));
            let words = words.replace(" 1", " {");
            wrong
                .args(words.split_whitespace())
                .args(["--coordinator", &address]);
            assert_eq!(failure_of(&mut wrong).0, Some(2));
        }
    }
}

#[test]
fn a_shell_takes_part() {
    let root = env!("CARGO_MANIFEST_DIR");
    let bin = std::path::Path::new(env!("CARGO_BIN_EXE_mesh"))
        .parent()
        .unwrap();
    let dir = crate::support::TempDir::new();
    let mut script = Command::new(format!("{root}/examples/shell_node.sh"));
    let path = std::env::var("PATH").unwrap();
    script.env("PATH", format!("{}:{path}", bin.display()));
    script
        .env("SHMESH_RUNTIME_DIR", dir.path())
        .stdin(Stdio::null());
    let output = script.stderr(Stdio::null()).output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "2\n40\n600\n");
}
