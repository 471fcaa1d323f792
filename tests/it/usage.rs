//! What the tools are asked wrongly, and how they say so: the same of every verb.

use std::process::{Command, Output, Stdio};

use crate::mesh_verbs::{failure_of, tool_of};
use crate::security::{KEY, key_file};
use crate::support::{Mesh, TempDir, free_address};

const MESH: &str = env!("CARGO_BIN_EXE_mesh");
const SPEEDTEST: &str = env!("CARGO_BIN_EXE_mesh-speedtest");

fn mesh(words: &str) -> Command {
    let mut command = Command::new(MESH);
    command.args(words.split_whitespace()).stdin(Stdio::null());
    command.env_remove("SHMESH_COORDINATOR");
    command
}

fn run(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command.output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

/// Verbs that reach a coordinator.
const REACHING: [&str; 9] = [
    "node list",
    "node kill n",
    "topic echo t",
    "topic send t 1",
    "service call s 1",
    "bag record t",
    "doctor",
    "top --once",
    "speedtest recv",
];

#[test]
fn an_address_that_cannot_be_one_is_refused_by_every_verb() {
    for words in REACHING {
        for wrong in ["127.0.0.1:99999", "abc:def", "", ":7679", "robot:0"] {
            let mut option = mesh(words);
            option.args(["--coordinator", wrong]);
            let mut variable = mesh(words);
            variable.env("SHMESH_COORDINATOR", wrong);
            for command in [&mut option, &mut variable] {
                let (code, said) = run(command);
                assert_eq!(code, Some(2), "{command:?} {said}");
                assert!(
                    said.contains("expected HOST[:PORT], port 1-65535"),
                    "{said}"
                );
            }
        }
    }
    let (code, said) = run(Command::new(SPEEDTEST).args(["recv", "--coordinator", "a:b"]));
    assert!(code == Some(2) && said.contains("HOST[:PORT]"), "{said}");
}

#[test]
fn nobody_there_is_said_in_the_tools_own_words() {
    let address = free_address();
    for words in ["node list", "topic echo t", "service call s 1"] {
        let (code, said) = failure_of(mesh(words).args(["--coordinator", &address]));
        assert_eq!(code, Some(1), "{said}");
        let is_ours = said.contains("--coordinator or $SHMESH_COORDINATOR");
        assert!(is_ours && !said.contains("embedded"), "{said}");
    }
}

#[test]
fn times_have_one_form_for_every_verb() {
    let mesh = Mesh::start();
    let options = [
        "topic send t 1 --interval",
        "topic hz t --interval",
        "topic bw t -i",
        "service call s 1 --interval",
        "service call s 1 --timeout",
        "node kill n --yes --timeout",
        "top --once --interval",
        "launch --grace",
        "bag record t --duration",
    ];
    for words in options {
        for wrong in ["nan", "-1", "soon", "1 day", "", "inf"] {
            let (code, said) = run(tool_of(&mesh, words).arg(wrong));
            assert_eq!(code, Some(2), "{words} {wrong}: {said}");
            // Some of them take it for an option.
            let is_plain = said.contains("expected a time like 0.5, 200ms, 30s, 5m or 2h");
            assert!(
                is_plain || words.starts_with("bag"),
                "{words} {wrong}: {said}"
            );
        }
    }
    for right in ["0.5", "500ms", "1s", "2m"] {
        let (code, said) = run(tool_of(&mesh, "node kill n --yes --timeout").arg(right));
        assert!(code == Some(2) && said.contains("no node n"), "{said}");
    }
    let (code, said) = run(&mut tool_of(&mesh, "service call s 1 --timeout 0"));
    assert!(code == Some(2) && said.contains("more than 0"), "{said}");
}

#[test]
fn a_key_that_cannot_be_used_has_one_code() {
    let dir = TempDir::new();
    let key = key_file(&dir, KEY, 0o644);
    for words in REACHING.into_iter().chain(["coordinator --port 0"]) {
        // The doctor tells of it among the rest.
        if words == "doctor" {
            continue;
        }
        let mut command = mesh(words);
        command.args(["--authkey-file", &key]);
        let (code, said) = run(&mut command);
        assert_eq!(code, Some(2), "{words}: {said}");
        assert!(said.contains("chmod 600"), "{words}: {said}");
    }
}

#[test]
fn what_services_send_is_no_topic_for_people() {
    let world = Mesh::start();
    for words in ["echo", "hz", "bw", "delay", "send"] {
        let json = if words == "send" {
            " 1 --json-topic"
        } else {
            ""
        };
        let words = format!("topic {words} @requests/s{json}");
        let (code, said) = failure_of(&mut tool_of(&world, &words));
        assert_eq!(code, Some(2), "{words}: {said}");
        assert!(said.contains("belongs to a service"), "{said}");
    }
}

#[test]
fn names_of_files_give_no_orders_to_a_terminal() {
    let dir = TempDir::new();
    let name = "a\x1b]0;evil\x07\u{9b}31m\u{202e}.mcap";
    let there = dir.path().join(name);
    std::fs::write(&there, b"no recording").unwrap();
    let missing = dir.path().join(format!("missing{name}"));
    for words in ["bag info", "bag convert -o x", "bag play", "launch"] {
        for path in [&there, &missing] {
            let (code, said) = run(mesh(words).arg(path).current_dir(dir.path()));
            assert!(matches!(code, Some(1 | 2)), "{words}: {said}");
            assert!(
                said.contains("\\u{1b}]0;evil\\u{7}\\u{9b}31m\\u{202e}"),
                "{said:?}"
            );
            let is_order = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            assert!(!said.contains(is_order), "{words}: {said:?}");
        }
    }
}

#[test]
fn a_runtime_directory_that_cannot_be_made_is_named_with_what_to_do() {
    let world = Mesh::start();
    let mut command = tool_of(&world, "topic hz t");
    let (code, said) = failure_of(command.env("SHMESH_RUNTIME_DIR", "/proc/none/such"));
    assert_eq!(code, Some(1), "{said}");
    let is_named = said.contains("/proc/none/such") && said.contains("SHMESH_RUNTIME_DIR");
    assert!(is_named && said.contains("choose another"), "{said}");
}
