//! The verbs of `mesh` that look at a mesh, as real binaries: what they print, how they end.

use std::io::{Read as _, Write as _};
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;
use serde_json::Value;
use shmesh::link::handshake::Purpose;
use shmesh::link::wire::{Kind, encode};
use shmesh::membership::FromNode;
use shmesh::{End, Json, Node, NodeId, Raw, Untyped};

use crate::security::{KEY, key, key_file};
use crate::snapshot::{assert_snapshot, masked};
use crate::stranger::Stranger;
use crate::support::{Mesh, PATIENCE, eventually, free_address, mesh_tool};

const MESH: &str = env!("CARGO_BIN_EXE_mesh");

/// `mesh` with these words, for no mesh in particular.
fn tool(words: &str) -> Command {
    let mut command = mesh_tool();
    command.args(words.split_whitespace());
    command
        .env_remove("SHMESH_COORDINATOR")
        .env("NO_COLOR", "1");
    command.stdin(Stdio::null());
    command
}

/// The same, of that mesh.
pub(crate) fn tool_of(mesh: &Mesh, words: &str) -> Command {
    let mut command = tool(words);
    command.env("SHMESH_COORDINATOR", &mesh.address);
    command.env("SHMESH_RUNTIME_DIR", mesh.dir.path());
    command
}

/// What it printed, when all went well.
pub(crate) fn out_of(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = text(&output.stderr);
    assert_eq!(
        (output.status.code(), &*errors),
        (Some(0), ""),
        "{command:?}"
    );
    text(&output.stdout)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Its exit code, and the one line that says why.
pub(crate) fn failure_of(command: &mut Command) -> (Option<i32>, String) {
    let output: Output = command.output().unwrap();
    assert!(output.stdout.is_empty(), "{command:?} {output:?}");
    let said = text(&output.stderr);
    assert_eq!(said.lines().count(), 1, "{said}");
    (output.status.code(), said)
}

/// A robot of two nodes.
struct Robot {
    nodes: [Node; 2],
    _ends: Box<dyn std::any::Any>,
}

impl Robot {
    fn start(mesh: &Mesh, runtime: &tokio::runtime::Runtime) -> Self {
        let nodes = ["arm", "camera"].map(|name| mesh.node(name));
        let [arm, camera] = &nodes;
        let _entered = runtime.enter();
        let echo = |request: shmesh::Request<Raw>| async move { Ok::<_, String>(request.to_vec()) };
        let ends = (
            camera.publisher::<Raw>("camera/left").build().unwrap(),
            arm.publisher::<Json<Vec<f64>>>("arm/joints")
                .build()
                .unwrap(),
            arm.subscriber::<Raw>("camera/left").build().unwrap(),
            camera.subscriber::<Untyped>("arm/**").build().unwrap(),
            camera
                .subscriber::<Json<Vec<f64>>>("wanted")
                .build()
                .unwrap(),
            arm.serve::<Raw, Raw, _, _, _, _>("grip", echo).unwrap(),
            camera.caller::<Raw, Raw>("weigh").build().unwrap(),
        );
        let robot = Self {
            nodes,
            _ends: Box::new(ends),
        };
        eventually("the coordinator knows it all", || {
            let listed = out_of(&mut tool_of(mesh, "topic list --json"));
            let topics: Value = serde_json::from_str(&listed).unwrap();
            let services = out_of(&mut tool_of(mesh, "service list"));
            topics["topics"].as_array().unwrap().len() == 4 && services.lines().count() == 3
        });
        robot
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}

#[test]
fn help_of_every_verb_has_examples_and_exit_codes() {
    for verb in [
        "",
        "bag",
        "bag convert",
        "bag info",
        "bag play",
        "bag record",
        "completions",
        "coordinator",
        "doctor",
        "launch",
        "man",
        "metrics",
        "node",
        "node list",
        "node info",
        "node kill",
        "top",
        "topic",
        "topic list",
        "topic info",
        "topic type",
        "topic hz",
        "topic bw",
        "topic delay",
        "topic echo",
        "topic send",
        "service",
        "service list",
        "service info",
        "service call",
    ] {
        let help = out_of(&mut tool(&format!("{verb} --help")));
        let is_group = ["bag", "node", "topic", "service"].contains(&verb);
        if !is_group {
            assert!(
                help.contains("Examples:") && help.contains("Exit codes:"),
                "{help}"
            );
        }
        let name = match verb {
            "" => "mesh".to_owned(),
            verb => verb.replace(' ', "_"),
        };
        assert_snapshot(&format!("help_{name}"), &help);
    }
}

#[test]
fn tables_say_who_does_what() {
    let (mesh, runtime) = (Mesh::start(), runtime());
    let _robot = Robot::start(&mesh, &runtime);
    for words in [
        "node list",
        "topic list",
        "topic list -v",
        "topic info arm/joints",
        "topic info arm/*",
        "service list",
        "service list -v",
        "service info grip",
        "service info weigh",
    ] {
        let table = masked(&out_of(&mut tool_of(&mesh, words)));
        assert_snapshot(
            &words
                .replace([' ', '/'], "_")
                .replace("_-", "_")
                .replace('*', "any"),
            &table,
        );
    }
    let info = out_of(&mut tool_of(&mesh, "node info arm"));
    let sockets = info
        .lines()
        .filter(|line| line.contains("socket") || line.contains("address"));
    assert_eq!(sockets.count(), 2, "{info}");
    let plain = |line: &&str| !line.contains("socket") && !line.contains("address");
    let plain: Vec<&str> = info.lines().filter(plain).collect();
    assert_snapshot("node_info_arm", &masked(&plain.join("\n")));
    let verbose = out_of(&mut tool_of(&mesh, "node list -v"));
    assert!(
        verbose.contains(&mesh.dir.path().display().to_string()),
        "{verbose}"
    );
}

#[test]
fn json_is_one_document_with_the_same() {
    let (mesh, runtime) = (Mesh::start(), runtime());
    let robot = Robot::start(&mesh, &runtime);
    let said = |words: &str| -> Value {
        serde_json::from_str(&out_of(&mut tool_of(&mesh, &format!("{words} --json")))).unwrap()
    };
    let nodes = said("node list");
    assert_eq!(nodes["nodes"][0]["name"], "arm");
    assert_eq!(nodes["nodes"][0]["id"], robot.nodes[0].id().to_string());
    assert_eq!(nodes["nodes"][1]["pid"], std::process::id());
    assert_eq!(
        said("node info camera")["nodes"][0]["subscribes"][0]["name"],
        "arm/**"
    );
    let topics = said("topic list");
    assert_eq!(topics["topics"][1]["types"][0]["encoding"], "raw");
    let info = said("topic info arm/joints");
    assert_eq!(info["types"][0]["name"], "Vec<f64>");
    assert_eq!(info["subscribers"][0]["topic"], "arm/**");
    assert_eq!(said("service info grip")["providers"][0]["name"], "arm");
    assert_eq!(
        said("service list")["services"][1]["callers"],
        serde_json::json!(["camera"])
    );
    assert_eq!(nodes["nodes"][0]["provider_count"], 1);
    // By its id, too.
    let id = robot.nodes[1].id();
    assert_eq!(
        said(&format!("node info {id}"))["nodes"][0]["name"],
        "camera"
    );
}

#[test]
fn what_is_not_there_is_said_in_a_line() {
    let mesh = Mesh::start();
    for (words, needle) in [
        ("node info nobody", "`mesh node list`"),
        ("node kill nobody", "no node nobody"),
        ("topic info nothing", "`mesh topic list`"),
        ("topic info a//b", "invalid name"),
        ("topic hz a//b", "invalid name"),
        ("topic hz a --interval=-1", "--interval"),
        ("service info none", "`mesh service list`"),
        ("node list --authkey short", "bytes"),
    ] {
        let output = tool_of(&mesh, words).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words}: {said}");
        assert!(said.contains(needle), "{words}: {said}");
    }
    for verb in [
        "topic info",
        "node info",
        "service info",
        "node kill",
        "topic bw",
    ] {
        let mut command = tool_of(&mesh, verb);
        let (code, said) = failure_of(command.arg("a\x1b]52;c;evil\x07\nb"));
        assert_eq!(code, Some(2), "{said}");
        let is_plain = |c: char| c.is_ascii_graphic() || c == ' ' || c == '\n';
        assert!(said.chars().all(is_plain), "{said:?}");
    }
}

#[test]
fn without_a_coordinator_each_verb_says_so_in_a_line() {
    // One that takes connections and says nothing, and none at all.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for address in [free_address(), silent.local_addr().unwrap().to_string()] {
        for verb in [
            "node list",
            "node info a",
            "node kill a",
            "topic list",
            "topic info a",
            "topic hz a",
            "topic bw a",
            "topic delay a",
            "service list",
            "service info a",
        ] {
            let mut command = tool(verb);
            let (code, said) = failure_of(command.args(["--coordinator", &address]));
            assert_eq!(code, Some(1), "{verb}: {said}");
            let expected = format!("no coordinator at {address}");
            assert!(
                said.contains(&expected) && said.contains("`mesh coordinator`"),
                "{said}"
            );
        }
    }
}

#[test]
fn a_node_that_is_killed_leaves_and_says_why() {
    let mesh = Mesh::start();
    let nodes = ["a", "b", "b", "c"].map(|name| mesh.node(name));
    let waiting = nodes
        .clone()
        .map(|node| std::thread::spawn(move || node.forever_blocking()));
    eventually("all are there", || {
        out_of(&mut tool_of(&mesh, "node list")).lines().count() == 5
    });
    let said = out_of(&mut tool_of(&mesh, "node kill b --yes"));
    let pid = std::process::id();
    assert_eq!(said, format!("b left (process {pid})\n").repeat(2));
    let [a, b, b2, c] = waiting;
    for killed in [b, b2] {
        assert_eq!(killed.join().unwrap().unwrap(), End::Dismissed);
    }
    assert!(nodes[1].publisher::<Raw>("t").build().is_err());
    assert!(!a.is_finished() && !c.is_finished());
    let rest = out_of(&mut tool_of(&mesh, "node kill --all --yes --json"));
    let rest: Value = serde_json::from_str(&rest).unwrap();
    assert_eq!(rest["left"].as_array().unwrap().len(), 2);
    for killed in [a, c] {
        assert_eq!(killed.join().unwrap().unwrap(), End::Dismissed);
    }
    assert_eq!(out_of(&mut tool_of(&mesh, "node kill --all")), "");
}

#[test]
fn a_node_that_is_stopped_is_named_as_one_that_did_not_leave() {
    let mesh = Mesh::start_with(|coordinator| coordinator.with_lease(PATIENCE));
    let child = mesh.child("stopped");
    child.signal(Signal::STOP);
    let (code, said) = failure_of(&mut tool_of(
        &mesh,
        "node kill stopped --yes --timeout 200ms",
    ));
    assert_eq!(code, Some(1));
    assert!(
        said.contains("did not leave within 0.2 s: stopped (process "),
        "{said}"
    );
    child.signal(Signal::CONT);
    eventually("it leaves", || {
        out_of(&mut tool_of(&mesh, "node list")).lines().count() == 1
    });
}

#[test]
fn who_has_no_key_neither_looks_nor_kills() {
    let mesh = Mesh::start_with(|coordinator| coordinator.with_auth_key(key()));
    let node = mesh.builder("n").auth_key(key()).build_blocking().unwrap();
    for words in ["node list", "node kill n", "topic list", "topic hz t"] {
        let (code, said) = failure_of(&mut tool_of(&mesh, words));
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("not let in"), "{said}");
    }
    let file = key_file(&mesh.dir, KEY, 0o600);
    let with_key = |words| {
        let mut command = tool_of(&mesh, words);
        out_of(command.arg("--authkey-file").arg(&file))
    };
    assert!(with_key("node list").contains("\nn "));
    assert!(with_key("node kill n --yes").contains("n left"));
    assert_eq!(node.forever_blocking().unwrap(), End::Dismissed);
}

#[test]
fn a_visitor_is_no_member_and_may_not_ask_without_end() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    eventually("the node is there", || {
        out_of(&mut tool_of(&mesh, "node list")).contains("\nn ")
    });
    let join = || {
        Stranger::join(
            &mesh.address,
            Purpose::Membership,
            NodeId::random().unwrap(),
        )
    };
    let word = |word: &FromNode| encode(Kind::FromNode, word).unwrap();
    // It cannot go on as a node, nor begin as one and ask.
    for words in [
        [FromNode::Look, FromNode::Heartbeat],
        [FromNode::Heartbeat, FromNode::Look],
    ] {
        let mut stranger = join();
        stranger.send(&words.map(|one| word(&one)).concat());
        assert!(stranger.is_cut_off());
    }
    let nobody = || vec![NodeId(7); 1000];
    let of_nobody = [FromNode::Dismiss(nobody()), FromNode::WantCounts(nobody())];
    for question in of_nobody.into_iter().chain([FromNode::Look]) {
        let stranger = join();
        let mut reader = stranger.stream.try_clone().unwrap();
        let reading = std::thread::spawn(move || {
            let _ = std::io::copy(&mut reader, &mut std::io::sink());
        });
        assert!(stranger.repeat_until_cut_off(&word(&question)));
        reading.join().unwrap();
    }
    assert!(node.peers().is_empty(), "nobody was told of them");
    assert!(out_of(&mut tool_of(&mesh, "node list")).contains("\nn "));
}

#[test]
fn rates_sizes_and_delays_are_measured() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let mut publisher = node.publisher::<Raw>("t").build().unwrap();
    for (verb, key) in [
        ("hz", "rate_hz"),
        ("bw", "bytes_per_s"),
        ("delay", "delay_s"),
    ] {
        let mut command = tool_of(&mesh, &format!("topic {verb} t -c 200 --window 50 --json"));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        publisher.wait_for_listener_blocking(PATIENCE).unwrap();
        let mut sent = 0_u64;
        while child.try_wait().unwrap().is_none() {
            publisher.publish_bytes(&[7; 1000]).unwrap();
            sent += 1;
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
        let mut said = String::new();
        child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let last: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
        assert_eq!(
            (&last["topic"], &last["window"]),
            (&"t".into(), &50.into()),
            "{last}"
        );
        assert_eq!(last["messages"], 200);
        assert!(last["lost"].as_u64().unwrap() <= sent);
        match verb {
            "delay" => assert!(last[key]["mean"].as_f64().unwrap() > 0.0, "{last}"),
            _ => assert!(last[key].as_f64().unwrap() > 0.0, "{last}"),
        }
        if verb == "bw" {
            assert_eq!(last["bytes"]["max"], 1000.0);
        }
    }
}

#[test]
fn who_measures_nothing_yet_says_so_and_waits_for_a_signal() {
    let mesh = Mesh::start();
    let mut command = tool_of(&mesh, "topic hz none a/* --interval 0.01");
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut errors = std::io::BufReader::new(child.stderr.take().unwrap());
    std::io::BufRead::read_line(&mut errors, &mut line).unwrap();
    assert_eq!(line, "mesh: nobody sends to none, a/* yet: waiting\n");
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn output_that_nobody_reads_is_no_failure() {
    let (mesh, runtime) = (Mesh::start(), runtime());
    let _robot = Robot::start(&mesh, &runtime);
    for words in [
        "node list",
        "node info arm",
        "topic list --json",
        "service list",
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let status = tool_of(&mesh, words).stdout(writer).status().unwrap();
        assert_eq!(status.code(), Some(0), "{words}");
    }
}

#[test]
fn where_nobody_can_be_asked_nobody_is_killed_without_yes() {
    let mesh = Mesh::start();
    let _node = mesh.node("n");
    eventually("the node is there", || {
        out_of(&mut tool_of(&mesh, "node list")).contains("\nn ")
    });
    for words in ["node kill n", "node kill --all"] {
        let (code, said) = failure_of(&mut tool_of(&mesh, words));
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("--yes") && said.contains(" n;"), "{said}");
    }
    assert!(out_of(&mut tool_of(&mesh, "node list")).contains("\nn "));
}

#[test]
fn before_it_kills_it_asks_who_sits_at_a_terminal() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    eventually("the node is there", || {
        out_of(&mut tool_of(&mesh, "node list")).contains("\nn ")
    });
    for (answer, is_left) in [("n", false), ("", false), ("y", true)] {
        // util-linux's `script` makes a terminal.
        let mut script = Command::new("script");
        script.args(["-qec", &format!("{MESH} node kill n"), "/dev/null"]);
        script.env("SHMESH_COORDINATOR", &mesh.address);
        script.stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = script.spawn().unwrap();
        writeln!(child.stdin.as_ref().unwrap(), "{answer}").unwrap();
        let output = child.wait_with_output().unwrap();
        let said = text(&output.stdout);
        assert!(
            said.contains("Ask 1 node to leave the mesh: n? [y/N]"),
            "{said}"
        );
        assert_eq!(said.contains("n left"), is_left, "{said}");
        assert_eq!(said.contains("nobody was told to leave"), !is_left);
        assert_eq!(output.status.code(), Some(if is_left { 0 } else { 1 }));
    }
    assert_eq!(node.forever_blocking().unwrap(), End::Dismissed);
}
