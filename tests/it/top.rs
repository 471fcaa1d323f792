//! `mesh top`, on the screen of a pseudo-terminal and without one.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Output};
use std::sync::{Arc, Mutex};

use rustix::process::{Signal, geteuid};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use serde_json::Value;
use shmesh::Raw;

use crate::support::{Mesh, PATIENCE, Puppet, eventually, free_address, mesh_tool};
use crate::top_numbers::Again;

const MESH: &str = env!("CARGO_BIN_EXE_mesh");
const ENTERED: &str = "\u{1b}[?1049h";
const LEFT: &str = "\u{1b}[?1049l";
const CURSOR: &str = "\u{1b}[?25h";

/// `mesh top` on a terminal of its own.
struct Screen {
    child: Child,
    master: File,
    /// Kept, so that the terminal does not go with the process.
    slave: Option<OwnedFd>,
    shown: Arc<Mutex<Vec<u8>>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Screen {
    fn start(columns: u16, rows: u16, args: &[&str]) -> Self {
        Self::start_with(columns, rows, args, "")
    }

    /// With that as NO_COLOR.
    fn start_with(columns: u16, rows: u16, args: &[&str], no_color: &str) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        resize(&master, columns, rows);
        let path = ptsname(&master, Vec::new()).unwrap();
        let mut options = File::options();
        let slave: OwnedFd = options
            .read(true)
            .write(true)
            .open(path.to_str().unwrap())
            .unwrap()
            .into();
        let master = File::from(master);
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut from, to) = (master.try_clone().unwrap(), Arc::clone(&shown));
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut bytes) {
                to.lock().unwrap().extend_from_slice(&bytes[..count]);
            }
        });
        let end = || slave.try_clone().unwrap();
        let mut command = mesh_tool();
        command
            .arg("top")
            .args(args)
            .env("TERM", "xterm")
            .env("NO_COLOR", no_color);
        let command = command.stdin(end()).stdout(end()).stderr(end());
        let child = command.spawn().unwrap();
        Self {
            child,
            master,
            slave: Some(slave),
            shown,
            reader: Some(reader),
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    fn wait_for(&self, what: &str) {
        eventually(what, || self.text().contains(what));
    }

    /// What it draws when it has to draw everything anew.
    fn redrawn(&self, filter: &str) -> String {
        let before = self.shown.lock().unwrap().len();
        let mut drawn = String::new();
        eventually("it is drawn anew", || {
            self.signal(Signal::CONT);
            let text = String::from_utf8_lossy(&self.shown.lock().unwrap()[before..]).into_owned();
            // The last line of a whole screen has the filter.
            let mut screens = text.split("\u{1b}[2J").skip(1);
            let whole = screens.find_map(|screen| screen.split_once(&format!("/{filter}")));
            drawn = whole.map_or(String::new(), |(screen, _)| screen.into());
            whole.is_some()
        });
        drawn
    }

    fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    fn signal(&self, signal: Signal) {
        crate::support::signal(&self.child, signal);
    }

    fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.master).unwrap().local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO)
    }

    /// Waits for its end; its status and what came after the screen was left.
    fn end(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        assert!(!self.is_raw(), "the terminal is as it was");
        self.slave.take();
        self.reader.take().unwrap().join().unwrap();
        let text = self.text();
        let (_, after) = text.rsplit_once(ENTERED).expect("it took the screen");
        let (_, after) = after.split_once(LEFT).expect("it left the screen");
        assert!(
            after.contains(CURSOR),
            "the cursor is seen again: {after:?}"
        );
        (status, after.replace(CURSOR, ""))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.slave.take();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn resize(master: impl AsFd, columns: u16, rows: u16) {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(master, size).unwrap();
}

fn top(args: &[&str]) -> Output {
    Command::new(MESH).arg("top").args(args).output().unwrap()
}

pub(crate) fn json(args: &[&str]) -> Value {
    let out = top(&[&["--json", "--interval", "0.05"], args].concat());
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    serde_json::from_slice(&out.stdout).unwrap()
}

/// The node of that process, if it is seen.
fn of_pid(document: &Value, pid: u32) -> Option<Value> {
    let nodes = document["nodes"].as_array().unwrap();
    nodes.iter().find(|node| node["pid"] == pid).cloned()
}

#[test]
fn it_gives_the_terminal_back_after_its_key_and_its_signals() {
    type End = fn(&mut Screen);
    let ends: [End; 5] = [
        |screen| screen.press("q"),
        |screen| screen.press("\u{3}"),
        |screen| screen.signal(Signal::TERM),
        |screen| screen.signal(Signal::INT),
        |screen| screen.signal(Signal::HUP),
    ];
    for end in ends {
        // Nothing but a key or a signal wakes it.
        let mut screen = Screen::start(80, 24, &["--interval", "3600"]);
        screen.wait_for("TOPIC");
        assert!(screen.is_raw());
        end(&mut screen);
        let (status, after) = screen.end();
        assert_eq!((status.code(), after.as_str()), (Some(0), ""));
    }
}

#[test]
fn it_shows_nodes_that_come_hang_and_die() {
    let mesh = Mesh::start();
    let mut screen = Screen::start(120, 200, &["--interval", "0.05"]);
    screen.wait_for("TOPIC");
    let mut victim = mesh.child("top-victim");
    assert_eq!(victim.ask("pub top/topic 1000000"), "ok");
    screen.wait_for("top/topic");
    screen.press("\t/top-victim\r");
    let is_drawn = |words: [&str; 2]| {
        let drawn = screen.redrawn("top-victim");
        words.iter().any(|word| drawn.contains(word))
    };
    eventually("it lives", || is_drawn(["live", "live"]));
    victim.signal(Signal::STOP);
    eventually("it hangs", || is_drawn(["stopped", "stopped"]));
    Puppet::kill(victim);
    // Whoever starts next removes the page.
    eventually("it is dead, or gone", || is_drawn(["dead", "nothing"]));
    screen.press("q");
    assert_eq!(screen.end().0.code(), Some(0));
}

#[test]
fn colours_are_left_out_where_they_are_not_wanted() {
    let mesh = Mesh::start();
    let hanging = mesh.child("top-coloured");
    hanging.signal(Signal::STOP);
    for (no_color, has_colours) in [("", true), ("1", false)] {
        let mut screen = Screen::start_with(120, 200, &["--interval", "0.05"], no_color);
        screen.wait_for("TOPIC");
        screen.press("\t/top-coloured\r");
        eventually("it is seen", || {
            screen.redrawn("top-coloured").contains("stopped")
        });
        let yellow = "\u{1b}[38;5;3";
        assert_eq!(screen.text().contains(yellow), has_colours);
        screen.press("q");
        assert_eq!(screen.end().0.code(), Some(0));
    }
}

#[test]
fn a_coordinator_that_goes_is_said_and_so_is_its_return() {
    let mut mesh = Mesh::start();
    let args = ["--interval", "0.05", "--coordinator", &mesh.address.clone()];
    let mut screen = Screen::start(100, 10, &args);
    // Otherwise what is drawn is what changed.
    let has = |address: &str| {
        screen.signal(Signal::CONT);
        let text = screen.text();
        let last = text.rsplit("\u{1b}[2J").nth(1).unwrap_or_default();
        let is_other = last.contains("there:") || last.contains("is asked");
        last.contains(address) && !is_other
    };
    eventually("it is found", || has(&mesh.address));
    mesh.restart();
    screen.wait_for("there:");
    eventually("it is found again", || has(&mesh.address));
    screen.press("q");
    assert_eq!(screen.end().0.code(), Some(0));
}

#[test]
fn the_smallest_terminals_will_do() {
    for (columns, rows) in [(20, 24), (80, 3), (1, 1)] {
        let mut screen = Screen::start(columns, rows, &["--interval", "0.05"]);
        screen.wait_for(ENTERED);
        eventually("it listens", || screen.is_raw());
        resize(&screen.master, rows, columns);
        screen.press("jj\t\r?x/a\rq");
        assert_eq!(screen.end().0.code(), Some(0), "{columns} x {rows}");
    }
}

/// Where each text of the last whole screen was put, and how long it is.
fn placed(shown: &str) -> Vec<(usize, usize, usize)> {
    let last = shown.rsplit("\u{1b}[2J").next().unwrap_or_default();
    let mut places = Vec::new();
    for part in last.split("\u{1b}[").skip(1) {
        let end = part.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(0);
        let (numbers, text) = part.split_at(end);
        let text = &text[text.len().min(1)..];
        if part[end..].starts_with('H') {
            let (row, column) = numbers.split_once(';').unwrap_or(("1", "1"));
            places.push((row.parse().unwrap(), column.parse().unwrap(), text.len()));
        } else if let Some((.., len)) = places.last_mut() {
            *len += text.len();
        }
    }
    places
}

#[test]
fn a_terminal_that_changes_its_size_is_filled_and_no_more() {
    let mesh = Mesh::start();
    let mut loud = mesh.child("top-of-a-long-name");
    assert_eq!(loud.ask("pub top/of/a/long/name 1000000"), "ok");
    let mut screen = Screen::start(20, 3, &["--interval", "0.05"]);
    screen.wait_for("TOPIC");
    for (columns, rows) in [(200, 50), (1, 1), (20, 3), (3, 20), (80, 24), (20, 3)] {
        let before = screen.shown.lock().unwrap().len();
        resize(&screen.master, columns, rows);
        screen.signal(Signal::WINCH);
        screen.press("j\tj?x");
        eventually("it is drawn anew", || {
            // Twice, so that one of them is whole.
            screen.signal(Signal::CONT);
            let text =
                String::from_utf8_lossy(&screen.shown.lock().unwrap()[before..]).into_owned();
            let Some((whole, _)) = text.rsplit_once("\u{1b}[2J") else {
                return false;
            };
            let places = placed(whole);
            let (columns, rows) = (usize::from(columns), usize::from(rows));
            !places.is_empty()
                && places
                    .iter()
                    .all(|(row, column, len)| *row <= rows && column + len <= columns + 1)
        });
    }
    screen.press("q");
    assert_eq!(screen.end().0.code(), Some(0));
}

#[test]
fn numbers_are_those_of_the_mesh() {
    let mesh = Mesh::start();
    let node = mesh.node("top-counted");
    let mut subscriber = node.subscriber::<Raw>("top/counted").build().unwrap();
    let mut publisher = node.publisher::<Raw>("top/counted").build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    for _ in 0..20 {
        publisher.publish_bytes(&[1; 1000]).unwrap();
    }
    while subscriber.try_recv().unwrap().is_some() {}
    let document = json(&[]);
    let nodes = document["nodes"].as_array().unwrap();
    let id = node.id().to_string();
    let ours = nodes.iter().find(|node| node["id"] == id.as_str()).unwrap();
    assert_eq!(ours["state"], "live");
    let topics = document["topics"].as_array().unwrap();
    let topic = topics.iter().find(|topic| topic["topic"] == "top/counted");
    for said in [ours, topic.unwrap()] {
        for (name, expected) in [
            ("publisher_count", 1),
            ("subscriber_count", 1),
            ("sent", 20),
            ("sent_bytes", 20_000),
            ("received", 16),
            ("arena_bytes", publisher.stats().arena_bytes),
        ] {
            assert_eq!(said[name], expected, "{name} of {said}");
        }
        assert_eq!(said["lost"]["overwritten"], 4);
        assert_eq!(
            said["sent_per_s"], 0.0,
            "nothing is sent between the readings"
        );
    }
}

#[test]
fn those_that_hang_and_those_that_died_are_told_apart() {
    let mesh = Mesh::start();
    let mut hanging = mesh.child("top-hanging");
    assert_eq!(hanging.ask("pub top/hanging 1000000"), "ok");
    let state = |pid| of_pid(&json(&[]), pid).map(|node| node["state"].clone());
    assert_eq!(state(hanging.id()).unwrap(), "live");
    hanging.signal(Signal::STOP);
    assert_eq!(state(hanging.id()).unwrap(), "stopped");
    // Any start of a node, of another test too, takes the page away; so again until it is seen.
    eventually("a dead one is seen", || {
        let dead = mesh.child("top-dead");
        let pid = dead.id();
        Puppet::kill(dead);
        let state = state(pid);
        assert!(
            state.as_ref().is_none_or(|state| state == "dead"),
            "{state:?}"
        );
        state.is_some()
    });
    let out = top(&["--once", "--interval", "0.05"]);
    let text = String::from_utf8(out.stdout).unwrap();
    let line = text.lines().find(|line| line.starts_with("top-hanging"));
    assert!(line.unwrap().contains("stopped"), "{text}");
    assert!(!text.contains('\u{1b}'));
    assert!(text.contains("\nTOPIC"), "{text}");
}

/// Removes the page of the node with that id: from then on it is as one of another host.
fn hide(id: &str) {
    let page = format!("/dev/shm/shmesh-{}-{id}", geteuid().as_raw());
    std::fs::remove_file(page).unwrap();
}

#[test]
fn nodes_whose_pages_cannot_be_read_are_asked_what_they_count() {
    // One that is stopped stays in the mesh.
    let mesh = Mesh::start_with(|coordinator| coordinator.with_lease(PATIENCE));
    let node = mesh.node("top-asked");
    hide(&node.id().to_string());
    let mut publisher = node.publisher::<Raw>("top/asked").build().unwrap();
    let _again = Again::start(move || {
        publisher.publish_bytes(&[7; 100]).unwrap();
        std::thread::yield_now();
    });
    let mut child = mesh.child("top-silent");
    assert_eq!(child.ask("pub top/silent 1000"), "ok");
    child.ask("send 3 10");
    let seen = json(&[]);
    hide(of_pid(&seen, child.id()).unwrap()["id"].as_str().unwrap());
    let said = || {
        let document = json(&["--coordinator", &mesh.address]);
        let of = |name| {
            let nodes = document["nodes"].as_array().unwrap();
            nodes.iter().find(|node| node["node"] == name).cloned()
        };
        ["top-asked", "top-silent"].map(|name| of(name).expect("the coordinator knows it"))
    };
    // On a busy machine an answer may come too late, and is missing then.
    let answers = |node: &Value| node["sent_per_s"].is_f64();
    let mut seen = said();
    eventually("both answer", || {
        seen = said();
        seen.iter().all(answers)
    });
    let [asked, silent] = seen;
    assert_eq!(asked["state"], "unseen");
    assert!(asked["sent"].as_u64().unwrap() > 0, "{asked}");
    assert!(asked["sent_per_s"].as_f64().unwrap() > 0.0, "{asked}");
    let bytes = asked["sent"].as_u64().unwrap() * 100;
    assert!(asked["sent_bytes"].as_u64().unwrap().abs_diff(bytes) <= 100);
    assert_eq!(
        (&silent["sent"], &silent["sent_per_s"]),
        (&3.into(), &0.0.into())
    );
    let mut screen = Screen::start(
        100,
        20,
        &["--coordinator", &mesh.address, "--interval", "0.05"],
    );
    screen.wait_for("top/asked");
    // One that does not answer is there, and the others are told of all the same.
    child.signal(Signal::STOP);
    eventually("the other answers", || {
        let [asked, silent] = said();
        assert_eq!(silent["sent"], Value::Null);
        answers(&asked)
    });
    let silent = &said()[1];
    assert_eq!(
        (&silent["publisher_count"], &silent["sent"]),
        (&1.into(), &Value::Null)
    );
    child.signal(Signal::CONT);
    eventually("it answers again", || said()[1]["sent"] == 3);
    // The screen asked meanwhile, and got the answers late.
    assert!(!screen.text().contains("is not there"), "{}", screen.text());
    screen.press("q");
    screen.end();
}

#[test]
fn a_coordinator_names_those_without_a_page_and_may_be_missing() {
    let mesh = Mesh::start();
    let node = mesh.node("top-paged");
    let paged = mesh.child("top-pageless");
    let seen = json(&[]);
    hide(of_pid(&seen, paged.id()).unwrap()["id"].as_str().unwrap());
    assert!(of_pid(&json(&[]), paged.id()).is_none());
    let document = json(&["--coordinator", &mesh.address]);
    let found = of_pid(&document, paged.id()).expect("the coordinator knows it");
    assert_eq!(found["state"], "unseen");
    assert_eq!(found["sent"], Value::Null);
    let expected = serde_json::json!({
        "address": mesh.address, "reached": true, "error": null,
    });
    assert_eq!(document["coordinator"], expected);
    assert_eq!(node.peers().len(), 1, "nobody is told of it");

    let nowhere = free_address();
    let document = json(&["--coordinator", &nowhere]);
    let said = &document["coordinator"];
    assert_eq!(
        (&said["address"], &said["reached"]),
        (&nowhere.clone().into(), &false.into())
    );
    let text = top(&["--once", "--interval", "0.05", "--coordinator", &nowhere]);
    let text = String::from_utf8(text.stdout).unwrap();
    for said in [said["error"].as_str().unwrap(), &text] {
        assert!(
            said.contains("`mesh coordinator`") && said.contains("--coordinator"),
            "{said}"
        );
    }
    assert!(
        text.contains(&format!("coordinator {nowhere} is not there")),
        "{text}"
    );
    let keyed = Mesh::start_with(|coordinator| coordinator.with_auth_key(crate::security::key()));
    let said = json(&["--coordinator", &keyed.address])["coordinator"].clone();
    assert_eq!(said["reached"], false);
    assert!(
        said["error"].as_str().unwrap().contains("--authkey-file"),
        "{said}"
    );
    let mut screen = Screen::start(100, 10, &["--coordinator", &nowhere]);
    screen.wait_for("127.0.0.1:");
    screen.press("q");
    assert_eq!(screen.end(), (ExitStatus::default(), String::new()));
}

#[test]
fn wrong_words_and_readers_that_went_end_it_well() {
    for wrong in ["0", "-1", "nan", "inf", "1e9", "soon"] {
        let out = top(&["--once", "--interval", wrong]);
        assert_eq!(out.status.code(), Some(2), "{wrong}");
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut unread = Command::new(MESH);
    let unread = unread.args(["top", "--interval", "0.05"]).stdout(writer);
    assert_eq!(unread.status().unwrap().code(), Some(0));
}
