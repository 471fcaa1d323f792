//! `mesh launch` with real processes: what it starts, what it says, and that nothing is left.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{PATIENCE, TempDir, eventually, free_address};

mod ends;

const MESH: &str = env!("CARGO_BIN_EXE_mesh");

/// A launch in a process of its own, and its events.
struct Launch {
    child: Child,
    events: Receiver<Value>,
    heard: Vec<Value>,
    _dir: TempDir,
    token: String,
}

impl Launch {
    fn command(dir: &TempDir, file: &str, args: &[&str]) -> Command {
        let path = dir.path().join("launch.yaml");
        std::fs::write(&path, file).unwrap();
        let mut command = Command::new(MESH);
        command.arg("launch").arg(path).args(args);
        // What a developer has set is not ours.
        for name in ["SHMESH_COORDINATOR", "SHMESH_AUTHKEY_FILE", "SHMESH_MESH"] {
            command.env_remove(name);
        }
        command
    }

    /// With a coordinator at a free port unless the file has one.
    fn start(nodes: &str) -> Self {
        Self::start_with(&format!("coordinator: {{port: 0}}\nnodes:\n{nodes}"), &[])
    }

    fn start_with(file: &str, args: &[&str]) -> Self {
        let dir = TempDir::new();
        let mut command = Self::command(&dir, file, &[&["--json"], args].concat());
        // All processes of this launch have this in their environment, wherever they go.
        let token = format!("LAUNCH_TEST={}", dir.path().display());
        let mut child = command
            .env("LAUNCH_TEST", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (tell, events) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = tell.send(serde_json::from_str(&line).expect(&line));
            }
        });
        Self {
            child,
            events,
            heard: Vec::new(),
            _dir: dir,
            token,
        }
    }

    /// The next event of this kind, of a node if one is named.
    fn await_event(&mut self, kind: &str, node: &str) -> Value {
        loop {
            let event = self.events.recv_timeout(PATIENCE);
            let event = event.unwrap_or_else(|_| panic!("no {kind} {node}: {:#?}", self.heard));
            self.heard.push(event.clone());
            if event["event"] == kind && (node.is_empty() || event["node"] == node) {
                return event;
            }
        }
    }

    /// Waits until a node has printed this, if it has not yet.
    fn await_line(&mut self, node: &str, line: &str) {
        let is_it = |event: &Value| event["node"] == node && event["line"] == line;
        while !self.heard.iter().any(is_it) {
            self.await_event("output", "");
        }
    }

    fn signal(&self, signal: Signal) {
        crate::support::signal(&self.child, signal);
    }

    /// Its exit code, with all events heard.
    fn end(&mut self) -> Option<i32> {
        let code = self.child.wait().unwrap().code();
        self.heard.extend(self.events.iter());
        code
    }

    fn count(&self, kind: &str, node: &str) -> usize {
        let of_kind = |event: &&Value| event["event"] == kind && event["node"] == node;
        self.heard.iter().filter(of_kind).count()
    }

    /// Processes that were started by this launch, however far they went, and are not dead.
    fn survivors(&self) -> Vec<(i32, String)> {
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let alive = entries.filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let environment = std::fs::read(entry.path().join("environ")).ok()?;
            let mut variables = environment.split(|byte| *byte == 0);
            variables.find(|one| *one == self.token.as_bytes())?;
            let name = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
            // A dead one that nobody waited for has no command line.
            (!name.is_empty()).then(|| (pid, name.replace('\0', " ")))
        });
        alive.collect()
    }

    fn assert_nobody_is_left(&self) {
        eventually("all processes of the launch end", || {
            self.survivors().is_empty()
        });
    }
}

impl Drop for Launch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Where a test failed.
        for (pid, _) in self.survivors() {
            let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
        }
    }
}

/// A launch that is over: its exit code, what it printed, and what it complained of.
fn over(file: &str, args: &[&str]) -> (Option<i32>, String, String) {
    let dir = TempDir::new();
    let output = Launch::command(&dir, file, args).output().unwrap();
    let text = |bytes: &[u8]| {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        text.replace(&dir.path().display().to_string(), "DIR")
    };
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    (output.status.code(), out, err)
}

/// Says that it is there, and ends when it is told to.
const GOOD: &str = r#"[sh, -c, 'echo ready; exec sleep 1000']"#;
/// Ignores SIGTERM, and so do its children.
const STUBBORN: &str = r#"[sh, -c, "trap '' TERM; echo ready; while :; do sleep 1000; done"]"#;
/// Leaves children that went their own ways: out of the group, out of the session, ignoring all.
const PARENT: &str = concat!(
    r#"[sh, -c, "sleep 1000 & setsid sleep 1001 & (trap '' TERM HUP; "#,
    r#"setsid sh -c 'setsid sleep 1002 & echo ready; sleep 1003' &) ; wait"]"#
);

#[test]
fn all_that_ends_well_is_success_and_what_is_printed_is_whole_and_named() {
    let file = "coordinator: {port: 0}
nodes:
  one: {command: 'echo hello; echo $SHMESH_NAME $SHMESH_INDEX $COLOUR $0', env: {COLOUR: red}}
  many: {command: [printf, 'a\\nb'], number: 2}
  sick: {command: 'echo oops >&2'}
";
    let (code, out, err) = over(file, &[]);
    assert_eq!(code, Some(0), "{err}");
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort_unstable();
    let expected = [
        "[many-0] a",
        "[many-0] b",
        "[many-1] a",
        "[many-1] b",
        "[one   ] hello",
        "[one   ] one 0 red /bin/sh",
    ];
    assert_eq!(lines, expected, "{out}{err}");
    assert!(err.contains("[sick  ] oops\n"), "{err}");
    assert!(
        !out.contains('\x1b') && !err.contains('\x1b'),
        "no terminal, no colour"
    );
}

#[test]
fn failures_are_named_and_are_exit_code_one() {
    let file = "coordinator: {port: 0}
nodes:
  fine: {command: 'true'}
  bad: {command: exit 3}
  gone: {command: [/no/such/program, --port]}
  hit: {command: kill -9 $$}
  lost: {command: ['true'], cwd: no/such/dir}
  far: {command: ['true'], cpu: 1023}
";
    let (code, _, err) = over(file, &[]);
    assert_eq!(code, Some(1), "{err}");
    for part in [
        "bad failed with exit code 3",
        "gone could not be started: /no/such/program: No such file",
        "hit was ended by signal 9",
        "lost could not be started: cwd DIR/no/such/dir: No such file",
        "far could not be started: cpu [1023]",
    ] {
        assert!(err.contains(part), "{part}: {err}");
    }
    let last = err.lines().last().unwrap();
    assert!(last.starts_with("mesh: failed: "), "{err}");
    assert!(!last.contains("fine") && last.contains("gone"), "{err}");
}

#[test]
fn a_wrong_file_is_exit_code_two_and_says_where() {
    let bomb: String = (1..30)
        .map(|level| format!("x-{level}: &a{level} [*a{0}, *a{0}, *a{0}]\n", level - 1))
        .collect();
    let bomb = format!("x-0: &a0 [x, x]\n{bomb}nodes: {{}}\n");
    let cases = [
        (
            "nodes:\n  a:\n    command: x\n    restrt: always\n",
            "DIR/launch.yaml:4: nodes.a: no key `restrt` (is it `restart`?); allowed: command,",
        ),
        (
            "nodes:\n  a: {command: x, depends_on: {node: b}}\n  \
             b: {command: x, depends_on: {node: a}}\n",
            "launch.yaml:2: depends_on goes round in a circle: a -> b -> a",
        ),
        (bomb.as_str(), "values, with those of aliases"),
        ("nodes: [\n", "launch.yaml:"),
        ("coordinator: {}\n", "no `nodes`"),
    ];
    for (file, part) in cases {
        let (code, out, err) = over(file, &[]);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
        assert!(err.contains(part), "{part}: {err}");
    }
    let (code, _, err) = over("nodes: {a: {command: x}}", &["--exclude", "b"]);
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("no such node; it has a"), "{err}");
}

#[test]
fn a_launch_file_behind_exclude_is_not_taken_for_a_node() {
    let dir = TempDir::new();
    let file = "nodes: {a: {command: x}, b: {command: x}}";
    // What would be launched instead.
    std::fs::write(dir.path().join("launch.yaml"), file).unwrap();
    std::fs::write(
        dir.path().join("robot.toml"),
        "[nodes.a]
command = 'x'
",
    )
    .unwrap();
    let mut command = Command::new(MESH);
    command.current_dir(dir.path());
    command.args(["launch", "--dry-run", "-e", "a", "robot.toml"]);
    let output = command.output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{errors}");
    let text = "robot.toml: that is a file";
    assert!(
        errors.contains(text) && errors.contains("before it"),
        "{errors}"
    );
}

#[test]
fn what_is_for_others_or_nobody_is_not_started() {
    let file = "coordinator: {port: 0, on_host: elsewhere}
nodes:
  here: {command: 'true'}
  there: {command: 'true', on_host: elsewhere}
  off: {command: 'true', disabled: yes}
  out: {command: 'true'}
  none: {command: 'true', number: 0}
";
    let mut launch = Launch::start_with(file, &["-e", "out"]);
    assert_eq!(launch.end(), Some(0));
    let started = launch
        .heard
        .iter()
        .filter(|event| event["event"] == "starting");
    let started: Vec<&Value> = started.map(|event| &event["node"]).collect();
    assert_eq!(started, ["here"]);
    assert_eq!(launch.count("coordinator", ""), 0);
    let (code, out, _) = over(file, &["--dry-run", "-e", "out"]);
    assert_eq!(code, Some(0));
    for part in [
        "no coordinator; nodes use 127.0.0.1:0",
        "there is not started: on host elsewhere",
        "off is not started: disabled",
        "out is not started: excluded",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
}

#[test]
fn a_dry_run_starts_nothing_and_shows_no_secret() {
    let dir = TempDir::new();
    let mark = dir.path().join("mark");
    let file = format!(
        "coordinator: {{port: 0, authkey: {}}}
nodes:
  a: {{command: [touch, {}], env: {{TOKEN: hunter2}}, priority: 5}}",
        "k".repeat(40),
        mark.display()
    );
    for args in [&["--dry-run"][..], &["--dry-run", "--json"]] {
        let (code, out, err) = over(&file, args);
        assert_eq!((code, err.as_str()), (Some(0), ""));
        assert!(out.contains("touch") && out.contains("TOKEN"), "{out}");
        assert!(!out.contains("hunter2") && !out.contains("kkkk"), "{out}");
    }
    assert!(!mark.exists());
}

#[test]
fn keys_reach_processes_by_their_environment_alone() {
    let key = "k".repeat(40);
    let file = format!(
        "coordinator: {{port: 0, authkey: {key}}}
nodes:
  a: {{command: 'echo \"$SHMESH_AUTHKEY\" $SHMESH_COORDINATOR; exec sleep 1000'}}"
    );
    let mut launch = Launch::start_with(&file, &[]);
    let address = launch.await_event("coordinator", "")["listening"].clone();
    let line = format!("{key} {}", address.as_str().unwrap());
    launch.await_line("a", &line);
    let survivors = launch.survivors();
    assert!(
        survivors.len() >= 3,
        "launcher, guard and process: {survivors:?}"
    );
    for (pid, command) in survivors {
        assert!(!command.contains(&key), "process {pid} shows the key");
    }
    launch.signal(Signal::TERM);
    assert_eq!(launch.end(), Some(143));
}

#[test]
fn one_that_fails_for_ever_is_started_again_in_growing_pauses_and_harms_no_other() {
    let nodes = format!(
        "  good: {{command: {GOOD}}}\n  bad: {{command: exit 1, restart: on-failure}}\n  \
         always: {{command: 'true', restart: always}}\n"
    );
    let mut launch = Launch::start(&nodes);
    let mut pauses = Vec::new();
    while pauses.len() < 3 {
        let ended = launch.await_event("ended", "bad");
        pauses.push(ended["restart_in_s"].as_f64().unwrap());
    }
    assert!(
        pauses.is_sorted_by(|one, two| 0.9 * one < *two),
        "{pauses:?}"
    );
    launch.signal(Signal::INT);
    assert_eq!(launch.end(), Some(130));
    assert!(launch.count("ended", "always") >= 2);
    let is_good_over = |event: &&Value| event["event"] == "ended" && event["node"] == "good";
    let good = launch.heard.iter().find(is_good_over).unwrap();
    assert_eq!(good["end"]["signal"], 15, "it ended when it was told to");
    launch.assert_nobody_is_left();
}

#[test]
fn who_depends_starts_when_the_mesh_has_it_and_what_is_missing_is_said() {
    let talker = example("talker");
    let file = format!(
        "coordinator: {{port: 0}}
nodes:
  after: {{command: {GOOD}, depends_on: [{{topic: pose}}, {{node: talker}}], depends_timeout: 600}}
  talker: {{command: [{}]}}
  never: {{command: {GOOD}, depends_on: [{{service: plan}}, {{node: alone}}], depends_timeout: 0.2}}
  alone: {{command: {GOOD}}}
",
        talker.display()
    );
    let mut launch = Launch::start_with(&file, &[]);
    launch.await_event("starting", "talker");
    launch.await_line("after", "ready");
    while launch.count("gave_up", "never") == 0 {
        launch.await_event("gave_up", "never");
    }
    let is_it = |event: &&Value| event["event"] == "gave_up";
    let reasons = launch.heard.iter().find(is_it).unwrap()["reasons"].to_string();
    assert!(
        reasons.contains("service `plan` has no provider"),
        "{reasons}"
    );
    assert!(
        reasons.contains("node `alone` is not in the mesh: its process runs"),
        "{reasons}"
    );
    assert_eq!(launch.count("starting", "never"), 0);
    launch.signal(Signal::INT);
    assert_eq!(launch.end(), Some(130));
    launch.assert_nobody_is_left();
}

#[test]
fn a_launcher_that_cannot_join_the_mesh_says_so() {
    let address = free_address();
    let port = address.rsplit(':').next().unwrap();
    let file = format!(
        "coordinator: {{port: {port}}}
nodes:
  a: {{command: 'true', depends_on: {{topic: pose}}, depends_timeout: 0.3}}
"
    );
    let (code, out, err) = over(&file, &["--no-coordinator"]);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    for part in [
        "a is not started: after 0.3 s topic `pose` has no publisher",
        "the launcher is not in the mesh: ",
        &address,
    ] {
        assert!(err.contains(part), "{part}: {err}");
    }
}

fn example(name: &str) -> PathBuf {
    let bin = PathBuf::from(MESH);
    let path = bin.with_file_name("examples").join(name);
    assert!(path.exists(), "{} is built with the tests", path.display());
    path
}

#[test]
fn logs_go_into_files() {
    let dir = TempDir::new();
    let logs = dir.path().join("logs");
    let file = "coordinator: {port: 0}
nodes:
  a: {command: 'echo out; echo err >&2'}
  b: {command: 'echo $SHMESH_INDEX', number: 2}
";
    for _ in 0..2 {
        let (code, out, err) = over(file, &["--log-dir", logs.to_str().unwrap()]);
        assert_eq!((code, out.as_str()), (Some(0), ""), "{err}");
    }
    let read = |name: &str| std::fs::read_to_string(logs.join(name)).unwrap();
    assert_eq!(read("a.log"), "out\nerr\nout\nerr\n");
    assert_eq!(
        (read("b-0.log"), read("b-1.log")),
        ("0\n0\n".into(), "1\n1\n".into())
    );
}

#[test]
fn long_lines_and_strange_bytes_are_bounded_and_whole() {
    let file = "coordinator: {port: 0}
nodes:
  long: {command: \"head -c 100000 /dev/zero | tr '\\\\0' x; printf 'a\\\\377b\\\\n'\"}
";
    let (code, out, err) = over(file, &[]);
    assert_eq!(code, Some(0), "{err}");
    let lines: Vec<&str> = out
        .lines()
        .map(|line| line.trim_start_matches("[long  ] "))
        .collect();
    assert!(lines.iter().all(|line| line.len() <= 8192));
    assert_eq!(lines.concat().matches('x').count(), 100_000);
    assert!(out.ends_with("a\u{fffd}b\n"), "{}", &out[out.len() - 20..]);
}

#[test]
fn a_terminal_that_nobody_reads_holds_up_no_node() {
    let (reader, writer) = std::io::pipe().unwrap();
    let dir = TempDir::new();
    let mark = dir.path().join("mark");
    let file = format!(
        "coordinator: {{port: 0}}\nnodes:\n  loud: {{command: 'yes | head -n 200000; touch {}'}}\n",
        mark.display()
    );
    let mut command = Launch::command(&dir, &file, &[]);
    let mut child = command
        .stdout(writer)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(command);
    eventually("the loud node ends", || mark.exists());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    drop(reader);
}

#[test]
fn a_narrow_terminal_gets_short_names_in_colour_and_whole_lines() {
    let file = "coordinator: {port: 0}
nodes:
  a_camera_with_a_long_name: {command: 'echo hello'}
";
    let seen = on_a_terminal(20, file, |_| {});
    assert!(seen.contains("\x1b[36m[a_~]\x1b[0m hello\r\n"), "{seen:?}");
    let seen = on_a_terminal(20, file, |command| {
        command.env("NO_COLOR", "1");
    });
    assert!(seen.contains("[a_~] hello\r\n"), "{seen:?}");
    assert!(!seen.contains('\x1b'), "{seen:?}");
    let seen = on_a_terminal(200, file, |_| {});
    assert!(
        seen.contains("[a_camera_with_a_long_name]\x1b[0m hello"),
        "{seen:?}"
    );
}

/// What a launch prints to a terminal of so many columns.
fn on_a_terminal(columns: u16, file: &str, set_up: impl Fn(&mut Command)) -> String {
    let size = nix::pty::Winsize {
        ws_row: 24,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let ends = nix::pty::openpty(Some(&size), None).unwrap();
    let dir = TempDir::new();
    let mut command = Launch::command(&dir, file, &[]);
    command.env("TERM", "xterm").env_remove("NO_COLOR");
    set_up(&mut command);
    let mut child = command
        .stdout(ends.slave)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(command);
    let mut seen = Vec::new();
    // Ends with an error when the last one who had the terminal is gone.
    let _ = std::fs::File::from(ends.master).read_to_end(&mut seen);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    String::from_utf8(seen).unwrap()
}

#[test]
fn a_taken_port_is_said_before_anything_starts() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let file = format!("coordinator: {{port: {port}}}\nnodes: {{a: {{command: echo hi}}}}");
    let (code, out, err) = over(&file, &[]);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    assert!(err.contains(&port.to_string()), "{err}");
    let (code, out, _) = over(&file, &["--no-coordinator"]);
    assert_eq!((code, out.as_str()), (Some(0), "[a     ] hi\n"));
}

#[test]
fn a_coordinator_listens_at_all_hosts_of_the_file() {
    let file =
        "coordinator: {host: '127.0.0.1,127.0.0.2', port: 0}\nnodes:\n  a: {command: 'true'}";
    let (code, out, err) = over(file, &["--dry-run"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.contains("127.0.0.1:0, 127.0.0.2:0"), "{out}");
    let (code, out, err) = over(file, &[]);
    assert_eq!(code, Some(0), "{err}");
    let listening = err.lines().find(|line| line.contains("listening on"));
    let places = listening.unwrap().matches("127.0.0.").count();
    assert_eq!(places, 2, "{out}");
}

#[test]
fn the_files_of_the_guide_and_the_examples_are_good() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide = std::fs::read_to_string(root.join("src/guide/launch.md")).unwrap();
    let example = std::fs::read_to_string(root.join("examples/launch.yaml")).unwrap();
    let blocks = guide.split("```yaml\n").skip(1);
    let blocks = blocks.map(|block| block.split("```").next().unwrap().to_owned());
    let files: Vec<String> = blocks.chain([example]).collect();
    assert!(files.len() >= 2);
    for file in files {
        let (code, out, err) = over(&file, &["--dry-run"]);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    }
}
