//! What launch files mean, and what is said of wrong ones.

use super::*;

fn yaml(text: &str) -> Result<LaunchFile, Wrong> {
    read(text, Language::Yaml)
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

#[test]
fn every_key_of_rosy_has_its_meaning() {
    let text = "
coordinator:
  host: 0.0.0.0
  port: 7000
  client_host: robot.local
  authkey: 0123456789abcdef0123456789abcdef
  post_delay: 1.5
  disabled: yes
  on_host: robot
nodes:
  camera:
    command: python -m camera --rate 30
    number: 3
    pre_delay: 1
    post_delay: .5
    disabled: true
    on_host: head
  arm:
    command: [arm, --port, 5]
  logger:
    command: [\"echo $0\", x]
    shell: true
";
    let file = yaml(text).unwrap();
    let coordinator = &file.coordinator;
    assert_eq!(coordinator.host.as_deref(), Some("0.0.0.0"));
    assert_eq!(coordinator.port, Some(7000));
    assert_eq!(coordinator.client_host.as_deref(), Some("robot.local"));
    assert_eq!(coordinator.post_delay, seconds(1.5));
    assert!(coordinator.is_disabled);
    assert_eq!(coordinator.on_host.as_deref(), Some("robot"));
    assert!(
        !format!("{file:?}").contains("0123456789"),
        "keys are secret"
    );
    let [camera, arm, logger] = &file.nodes[..] else {
        panic!("three nodes")
    };
    assert_eq!(
        camera.command,
        ["/bin/sh", "-c", "python -m camera --rate 30"]
    );
    assert_eq!((camera.number, camera.is_disabled), (3, true));
    assert_eq!(
        (camera.pre_delay, camera.post_delay),
        (seconds(1.0), seconds(0.5))
    );
    assert_eq!(camera.on_host.as_deref(), Some("head"));
    assert_eq!(arm.command, ["arm", "--port", "5"]);
    assert_eq!(
        (arm.number, arm.is_disabled, arm.restart),
        (1, false, Restart::Never)
    );
    assert_eq!(logger.command, ["/bin/sh", "-c", "echo $0", "x"]);
}

#[test]
fn what_is_ours_is_read_from_both_languages() {
    let as_yaml = yaml(
        "nodes:
  planner:
    command: [planner]
    env: {LEVEL: 3, EMPTY: '', GONE: null}
    cwd: maps
    restart: on-failure
    depends_on:
      - node: camera
      - topic: [pose, 'arm/*/joint']
      - service: plan
    depends_timeout: 5
    cpu: 0-1,3
    priority: -5
",
    );
    let as_toml = read(
        "[nodes.planner]
command = ['planner']
env = {LEVEL = 3, EMPTY = ''}
cwd = 'maps'
restart = 'on-failure'
depends_on = [{node = 'camera'}, {topic = ['pose', 'arm/*/joint']}, {service = 'plan'}]
depends_timeout = 5
cpu = '0-1,3'
priority = -5
",
        Language::Toml,
    );
    let (mut yaml, mut toml) = (as_yaml.unwrap().nodes, as_toml.unwrap().nodes);
    assert_eq!(yaml[0].env[2], ("GONE".to_owned(), None));
    yaml[0].env.pop();
    (yaml[0].line, toml[0].line) = (0, 0);
    assert_eq!(yaml, toml);
    let planner = &yaml[0];
    assert_eq!(planner.cpu, [0, 1, 3]);
    assert_eq!(
        (planner.priority, planner.restart),
        (Some(-5), Restart::OnFailure)
    );
    assert_eq!(planner.env[0], ("LEVEL".to_owned(), Some("3".to_owned())));
    let said: Vec<String> = planner.depends_on.iter().map(ToString::to_string).collect();
    let expected = [
        "node `camera`",
        "topic `pose`",
        "topic `arm/*/joint`",
        "service `plan`",
    ];
    assert_eq!(said, expected);
}

#[test]
#[allow(clippy::too_many_lines)] // a table
fn a_wrong_file_names_line_key_and_what_is_allowed() {
    let cases: [(&str, usize, &[&str]); 17] = [
        (
            "nodes:\n  a:\n    comand: x\n",
            3,
            &["nodes.a", "`comand`", "is it `command`?", "depends_on"],
        ),
        (
            "nodes:\n  a:\n    command: x\n    restart: alway\n",
            4,
            &["restart", "alway", "on-failure"],
        ),
        (
            "coordinator:\n  prot: 1\nnodes: {}\n",
            2,
            &["coordinator", "is it `port`?", "authkey"],
        ),
        ("node: {}\n", 1, &["`node`", "is it `nodes`?"]),
        (
            "nodes:\n  a:\n    command: x\n    number: many\n",
            4,
            &["number", "0 to 1024", "many"],
        ),
        (
            "nodes:\n  a:\n    command: x\n    number: '2'\n",
            4,
            &["number", "not the text"],
        ),
        (
            "nodes:\n  a:\n    command: x\n    pre_delay: -1\n",
            4,
            &["pre_delay", "seconds"],
        ),
        (
            "nodes:\n  a:\n    command: x\n    pre_delay: .inf\n",
            4,
            &["pre_delay", "seconds"],
        ),
        (
            "nodes:\n  a:\n    command: x\n    disabled: maybe\n",
            4,
            &["disabled", "true or false"],
        ),
        (
            "nodes:\n  a:\n    number: 1\n",
            2,
            &["nodes.a", "no `command`"],
        ),
        ("nodes:\n  a:\n", 2, &["nodes.a", "no `command`"]),
        (
            "nodes:\n  a:\n    command: x y\n    shell: false\n",
            3,
            &["command", "list"],
        ),
        (
            "nodes:\n  a:\n    command: []\n",
            3,
            &["command", "nothing to start"],
        ),
        ("nodes:\n  a b:\n    command: x\n", 2, &["nodes.a b"]),
        (
            "nodes:\n  a:\n    command: x\n    cpu: 3-1\n",
            4,
            &["cpu", "0-2,5"],
        ),
        (
            "nodes:\n  a:\n    command: x\n    depends_on: [b]\n",
            4,
            &["depends_on", "node: NAME"],
        ),
        (
            "coordinator:\n  authkey: short\nnodes: {}\n",
            2,
            &["authkey", "32"],
        ),
    ];
    for (text, line, parts) in cases {
        let wrong = yaml(text).expect_err(text);
        assert_eq!(wrong.line, line, "{text}{wrong:?}");
        for part in parts {
            assert!(wrong.text.contains(part), "{text}{wrong:?}: {part}");
        }
    }
    assert!(yaml("").unwrap_err().text.contains("no `nodes`"));
    let bomb = format!(
        "nodes: {{a: {{command: x, number: {}}}}}",
        LAUNCH_PROCESSES_MAX
    );
    assert!(yaml(&bomb).is_ok());
    let long = " ".repeat(LAUNCH_FILE_BYTES_MAX + 1);
    assert!(yaml(&long).unwrap_err().text.contains("longer"));
}

#[test]
fn a_circle_is_named() {
    let file = |depends: [&str; 4]| {
        let mut text = "nodes:\n".to_owned();
        for (name, on) in ["a", "b", "c", "d"].iter().zip(depends) {
            text += &format!("  {name}: {{command: x, depends_on: [{on}]}}\n");
        }
        yaml(&text)
    };
    let wrong = file(["{node: b}", "{node: c}", "{node: d}", "{node: b}"]).unwrap_err();
    assert!(wrong.text.ends_with("b -> c -> d -> b"), "{wrong:?}");
    let wrong = file(["", "", "{node: c}", ""]).unwrap_err();
    assert!(wrong.text.ends_with("c -> c"), "{wrong:?}");
    assert_eq!(wrong.line, 4);
    // Two ways to the same node are no circle, nor is what others provide.
    let fine = [
        "{node: b}, {node: c}",
        "{node: d}",
        "{node: d}",
        "{topic: a}, {node: z}",
    ];
    assert!(file(fine).is_ok());
}

#[test]
fn a_long_chain_of_dependencies_costs_no_stack() {
    let mut text = "nodes:\n".to_owned();
    for idx in 0..LAUNCH_PROCESSES_MAX {
        text += &format!(
            "  n{idx}: {{command: x, depends_on: {{node: n{}}}}}\n",
            idx + 1
        );
    }
    assert_eq!(yaml(&text).unwrap().nodes.len(), LAUNCH_PROCESSES_MAX);
}
