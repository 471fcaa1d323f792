//! `mesh doctor`, `mesh completions`, `mesh man`, and what the tools say of themselves.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Mesh, TempDir, eventually, free_address, has_signal, page_of, signal};

const MESH: &str = env!("CARGO_BIN_EXE_mesh");

fn mesh(args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(MESH);
    for name in [
        "SHMESH_COORDINATOR",
        "SHMESH_AUTHKEY",
        "SHMESH_AUTHKEY_FILE",
        "SHMESH_MESH",
    ] {
        command.env_remove(name);
    }
    let output = command.args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

fn checks(args: &[&str]) -> (Option<i32>, Vec<Value>) {
    let (code, out, err) = mesh(&[&["doctor", "--json"], args].concat());
    let all: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}"));
    (code, all["checks"].as_array().unwrap().clone())
}

fn check<'a>(all: &'a [Value], name: &str) -> &'a Value {
    let found = all.iter().find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("{name}: {all:#?}"))
}

#[test]
fn the_doctor_finds_a_healthy_mesh_healthy() {
    let world = Mesh::start();
    let _arm = world.node("arm");
    let (_, all) = checks(&["--coordinator", &world.address]);
    assert_eq!(check(&all, "coordinator")["level"], "ok");
    let mesh = check(&all, "mesh");
    assert_eq!(mesh["level"], "ok", "{mesh}");
    assert!(
        mesh["found"].as_str().unwrap().contains("1 nodes"),
        "{mesh}"
    );
    for check in &all {
        let is_ok = check["level"] == "ok";
        assert_eq!(is_ok, check["advice"].is_null(), "{check}");
    }
}

#[test]
fn a_coordinator_that_is_not_there_or_of_another_mesh_is_a_failure() {
    let (code, all) = checks(&["--coordinator", &free_address()]);
    assert_eq!(code, Some(1));
    assert_eq!(check(&all, "coordinator")["level"], "fail");
    let world = Mesh::start();
    let (code, all) = checks(&["--coordinator", &world.address, "--mesh", "other"]);
    assert_eq!(code, Some(1));
    assert_eq!(check(&all, "coordinator")["level"], "ok");
    let mesh = check(&all, "mesh");
    assert_eq!(mesh["level"], "fail", "{mesh}");
    assert!(mesh["found"].as_str().unwrap().contains("other"), "{mesh}");
    let (code, out, err) = mesh_text(&["--coordinator", &world.address, "--mesh", "other"]);
    assert_eq!(code, Some(1));
    assert!(out.contains("FAIL mesh"), "{out}");
    assert!(err.contains("failed: mesh"), "{err}");
}

fn mesh_text(args: &[&str]) -> (Option<i32>, String, String) {
    mesh(&[&["doctor"], args].concat())
}

#[test]
fn pages_of_the_dead_are_shown_and_removed_only_when_asked() {
    // Other tests start nodes meanwhile, which sweep, too.
    let world = Mesh::start();
    let child = world.child("doomed");
    let name = format!("process {}", child.id());
    let page_of = |pid: u32| {
        let entries = std::fs::read_dir("/dev/shm").unwrap().flatten();
        let mut names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.find(|name| {
            shmesh_shm::StatusReader::open(name).is_ok_and(|page| page.pid() == u64::from(pid))
        })
    };
    let page = page_of(child.id()).expect("its page");
    let path = Path::new("/dev/shm").join(&page);
    // A living node keeps its page.
    let (_, all) = checks(&["--clean"]);
    assert!(path.exists(), "{all:#?}");
    child.signal(Signal::STOP);
    let (_, all) = checks(&["--clean"]);
    assert!(path.exists(), "a stopped one, too: {all:#?}");
    child.kill();
    let (_, all) = checks(&[]);
    let found = check(&all, "status pages")["found"]
        .as_str()
        .unwrap()
        .to_owned();
    let was_swept_by_others = !path.exists();
    assert!(found.contains(&name) || was_swept_by_others, "{found}");
    checks(&["--clean"]);
    assert!(!path.exists());
}

#[test]
fn every_shell_gets_its_completions_without_what_is_hidden() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, out, err) = mesh(&["completions", shell]);
        assert_eq!((code, err.as_str()), (Some(0), ""));
        assert!(
            out.contains("launch") && out.contains("exclude"),
            "{shell}: {out}"
        );
        for hidden in ["launch-child", "kept", "until-eof", "reference"] {
            let is_bare = out.contains("The other end of the bare reference");
            assert!(!out.contains(hidden) && !is_bare, "{shell}: {hidden}");
        }
    }
    let (code, _, err) = mesh(&["completions", "csh"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("possible values: bash"), "{err}");
    let (_, script, _) = mesh(&["completions", "bash"]);
    let parsed = Command::new("bash").args(["-n", "-c", &script]).status();
    assert!(parsed.unwrap().success(), "bash reads it");
    for (line, function, word) in [
        ("mesh topic pu", "_mesh", "pub"),
        ("mesh-speedtest lo", "_mesh__speedtest", "local"),
    ] {
        let last = line.split(' ').count() - 1;
        let program = line.split(' ').next().unwrap();
        let asked = format!(
            "COMP_WORDS=({line}); COMP_CWORD={last}; {function} {program}; echo ${{COMPREPLY[@]}}"
        );
        let words = ["-c", &format!("{script}\n{asked}")];
        let output = Command::new("bash").args(words).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let is_offered = said.split_whitespace().any(|said| said == word);
        assert!(is_offered, "{line}: {said}");
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = Command::new(MESH)
        .args(["completions", "zsh"])
        .stdout(writer)
        .status();
    assert_eq!(
        status.unwrap().code(),
        Some(0),
        "a reader that went is no failure"
    );
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = TempDir::new();
    let pages = dir.path().join("man1");
    let (code, out, err) = mesh(&["man", "--dir", pages.to_str().unwrap()]);
    assert_eq!((code, out.as_str(), err.as_str()), (Some(0), "", ""));
    let names = std::fs::read_dir(&pages).unwrap().flatten();
    let mut names: Vec<String> = names
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    for name in [
        "mesh.1",
        "mesh-launch.1",
        "mesh-doctor.1",
        "mesh-speedtest-send.1",
    ] {
        assert!(names.iter().any(|there| there == name), "{name}: {names:?}");
    }
    assert!(
        !names
            .iter()
            .any(|name| name.contains("child") || name.contains("reference")),
        "{names:?}"
    );
    for name in &names {
        let text = std::fs::read_to_string(pages.join(name)).unwrap();
        assert!(text.contains(".TH ") && text.contains(".SH NAME"), "{name}");
        let title = text.lines().find(|line| line.starts_with(".TH ")).unwrap();
        let source = format!("\"mesh {}\"", env!("CARGO_PKG_VERSION"));
        assert!(title.contains(&source), "{name}: {title}");
    }
    let (code, out, _) = mesh(&["man"]);
    assert_eq!(code, Some(0));
    assert_eq!(out, std::fs::read_to_string(pages.join("mesh.1")).unwrap());
}

#[test]
fn a_terminal_that_closes_ends_tools_well_and_nohup_keeps_them() {
    let mesh = Mesh::start();
    let file = mesh.dir.path().join("hung-up.mcap");
    let record = format!("bag record --all --overwrite -o {}", file.display());
    for words in ["topic echo t", "topic hz t", "speedtest recv", &record] {
        let words: Vec<&str> = words.split(' ').collect();
        for is_kept in [false, true] {
            let script = match is_kept {
                true => "trap '' HUP; exec \"$@\"",
                false => "exec env --default-signal=HUP \"$@\"",
            };
            let mut tool = Command::new("sh")
                .args(["-c", script, "sh", MESH])
                .args(&words)
                .args(["--coordinator", &mesh.address])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let (pid, mask) = (tool.id(), if is_kept { "SigIgn" } else { "SigCgt" });
            eventually("it is in the mesh", || {
                let is_caught = has_signal(pid, "SigCgt", Signal::TERM);
                page_of(pid).is_some() && is_caught && has_signal(pid, mask, Signal::HUP)
            });
            assert_ne!(is_kept, has_signal(pid, "SigCgt", Signal::HUP), "{words:?}");
            let end = if is_kept { Signal::TERM } else { Signal::HUP };
            signal(&tool, end);
            if !is_kept {
                // Again when the first was seen, as a shell that ends and the kernel say it both.
                let is_pending = |pid| has_signal(pid, "ShdPnd", Signal::HUP);
                eventually("it was seen", || !is_pending(pid));
                signal(&tool, end);
            }
            let status = tool.wait().unwrap();
            assert_ne!(status.signal(), Some(Signal::HUP.as_raw()), "{words:?}");
            assert!(page_of(pid).is_none(), "{words:?}: {status}");
        }
    }
}
