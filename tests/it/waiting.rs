//! Tools that are nodes while they wait: what they say, and how a signal ends them.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use shmesh::{Json, Raw, Request};

use crate::mesh_verbs::{failure_of, out_of, tool_of};
use crate::support::{Mesh, PATIENCE, eventually, has_signal, page_of, signal};

/// A tool that is a node by now, and its page.
fn joined(mesh: &Mesh, words: &str) -> (Child, String) {
    let mut command = tool_of(mesh, words);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = child.spawn().unwrap();
    let mut page = None;
    eventually("it is a node", || {
        page = page_of(child.id());
        page.is_some()
    });
    (child, page.unwrap())
}

/// Ends it by a signal, which must leave no page; its exit code and what it says on standard error.
fn ended(mut child: Child, page: &str, by: Signal) -> (Option<i32>, String) {
    signal(&child, by);
    let mut said = String::new();
    let mut errors = child.stderr.take().unwrap();
    errors.read_to_string(&mut said).unwrap();
    let code = child.wait().unwrap().code();
    assert!(!std::path::Path::new(page).exists(), "its page is gone");
    (code, said)
}

const ENDS: [Signal; 3] = [Signal::INT, Signal::TERM, Signal::HUP];

#[test]
fn who_sends_says_that_it_waits_for_a_subscriber_and_a_signal_ends_it() {
    let mesh = Mesh::start();
    for by in ENDS {
        let mut command = tool_of(&mesh, "topic send t 1 --json-topic");
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut errors = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        errors.read_line(&mut line).unwrap();
        assert_eq!(
            line,
            "mesh: waiting for a subscriber of t (Ctrl-C ends, --no-wait sends without)\n"
        );
        let page = page_of(child.id()).expect("a node's page");
        kill_process(Pid::from_child(&child), by).unwrap();
        line.clear();
        errors.read_line(&mut line).unwrap();
        assert!(line.contains("nothing was sent"), "{line}");
        assert_eq!(child.wait().unwrap().code(), Some(1));
        assert!(!std::path::Path::new(&page).exists(), "{by:?}");
    }
}

#[test]
fn who_listens_ends_well_by_any_of_the_signals() {
    let mesh = Mesh::start();
    for (words, by) in ["echo", "hz", "bw", "delay"]
        .into_iter()
        .zip(ENDS.into_iter().cycle())
    {
        let (child, page) = joined(&mesh, &format!("topic {words} t"));
        assert_eq!(ended(child, &page, by).0, Some(0), "{words} {by:?}");
    }
    let (child, page) = joined(&mesh, "topic echo t");
    assert_eq!(ended(child, &page, Signal::HUP).0, Some(0));
}

#[test]
fn who_calls_ends_while_no_provider_answers() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    let (told, asked) = std::sync::mpsc::channel();
    let silent = move |_: Request<Raw>| {
        told.send(()).unwrap();
        std::future::pending::<Result<Vec<u8>, String>>()
    };
    let _serving = node.serve::<Raw, Raw, _, _, _, _>("s", silent).unwrap();
    for by in ENDS {
        let (child, page) = joined(&mesh, "service call s \"x\" --timeout 1m");
        asked.recv_timeout(PATIENCE).unwrap();
        let (code, said) = ended(child, &page, by);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("no reply"), "{said}");
    }
}

#[test]
fn what_nohup_ignores_stays_ignored() {
    let mesh = Mesh::start();
    let mut command = Command::new("sh");
    let tool = env!("CARGO_BIN_EXE_mesh");
    command.args(["-c", &format!("trap '' HUP; exec {tool} topic hz t")]);
    command.env("SHMESH_COORDINATOR", &mesh.address);
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    eventually("it is a node", || page_of(child.id()).is_some());
    assert!(has_signal(child.id(), "SigIgn", Signal::HUP));
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn none_of_them_is_done_at_once() {
    let mesh = Mesh::start();
    for words in [
        "topic send t 1 -c 0",
        "topic send t 1 -c 0 --interval 1m",
        "topic echo t -c 0",
        "service call s null -c 0",
    ] {
        assert_eq!(out_of(&mut tool_of(&mesh, words)), "", "{words}");
    }
}

#[test]
fn what_was_sent_before_is_echoed_unless_only_new_messages_are_wanted() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let maps = node.publisher::<Json<u32>>("map").history(1);
    let mut maps = maps.build().unwrap();
    maps.publish(&1).unwrap();
    for words in [
        "topic echo map --once",
        "topic echo map -1",
        "topic echo ** -c 1",
    ] {
        let said = out_of(&mut tool_of(&mesh, words));
        assert!(["1\n", "map: 1\n"].contains(&&*said), "{words}: {said}");
    }
    let gone = tokio::runtime::Runtime::new().unwrap();
    gone.block_on(maps.wait_for_no_listener()).unwrap();
    let mut command = tool_of(&mesh, "topic echo map --new -1");
    let child = command.stdout(Stdio::piped()).spawn().unwrap();
    maps.wait_for_listener_blocking(PATIENCE).unwrap();
    maps.publish(&2).unwrap();
    let said = child.wait_with_output().unwrap().stdout;
    assert_eq!(String::from_utf8(said).unwrap(), "2\n");
}

#[test]
fn of_several_topics_those_without_the_field_are_left_out() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let mut publishers = ["with", "without"].map(|topic| {
        let publisher = node.publisher::<Json<Value>>(topic).history(3);
        publisher.build().unwrap()
    });
    let [with, without] = &mut publishers;
    // Of one node they come in this order.
    without.publish(&json!({"b": 0})).unwrap();
    without.publish(&json!({"b": 0})).unwrap();
    with.publish(&json!({"a": 7})).unwrap();
    with.publish(&json!({"a": 8})).unwrap();
    for json in [false, true] {
        let mut command = tool_of(&mesh, "topic echo ** --field a --count 2");
        command.args(json.then_some("--json"));
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        let said = String::from_utf8(output.stdout).unwrap();
        match json {
            false => assert_eq!(said, "with: 7\nwith: 8\n"),
            true => assert!(said.lines().all(|line| line.contains("\"topic\":\"with\""))),
        }
        let notes = String::from_utf8(output.stderr).unwrap();
        assert!(notes.lines().count() <= 1, "once of a topic: {notes}");
        assert!(
            notes.is_empty() || notes.contains("without is left out"),
            "{notes}"
        );
    }
    let (code, said) = failure_of(&mut tool_of(&mesh, "topic echo without --field a"));
    assert_eq!(code, Some(2), "{said}");
}

#[test]
fn what_came_of_it_is_told_as_json() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let mut numbers = node.subscriber::<Json<u32>>("t").build().unwrap();
    let said = |words: &str| -> Value {
        let output = tool_of(&mesh, words).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(
            said.lines().count(),
            1,
            "{words}: {said} {:?}",
            output.stderr
        );
        let mut said: Value = serde_json::from_str(&said).unwrap();
        said["code"] = output.status.code().into();
        said
    };
    // By its old name, too.
    for verb in ["send", "pub"] {
        let sent = said(&format!("topic {verb} t 7 --json --interval 1ms --count 3"));
        let expected = json!({"topic": "t", "sent": 3, "subscriber_count": 1, "code": 0});
        assert_eq!(sent, expected);
    }
    assert_eq!(
        numbers
            .recv_blocking(PATIENCE)
            .map(|sample| *sample)
            .unwrap(),
        7
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    let half = |asked: Request<Json<u32>>| async move {
        match *asked % 2 {
            0 => Ok(*asked / 2),
            _ => Err("odd"),
        }
    };
    let _serving = node
        .serve::<Json<u32>, Json<u32>, _, _, _, _>("half", half)
        .unwrap();
    let answered = said("service call half 8 --json");
    assert_eq!(
        (&answered["service"], &answered["reply"]),
        (&json!("half"), &json!(4))
    );
    assert!(answered["seconds"].as_f64().unwrap() > 0.0 && answered["code"] == 0);
    let failed = said("service call half 7 --json");
    assert!(
        failed["error"].as_str().unwrap().contains("odd"),
        "{failed}"
    );
    assert!(failed.get("reply").is_none() && failed["code"] == 1);
    assert_eq!(out_of(&mut tool_of(&mesh, "topic type t")), "u32 (json)\n");
    let types = out_of(&mut tool_of(&mesh, "topic type t --json"));
    let types: Value = serde_json::from_str(&types).unwrap();
    assert_eq!(types["types"][0]["name"], "u32");
}
