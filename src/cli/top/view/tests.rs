//! The screen, as plain text beside this file.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use shmesh_shm::{Counter, Histogram};

use super::*;
use crate::cli::metrics::Page;
use crate::cli::top::app::Next;
use crate::cli::top::model::{Model, Seen, State};
use crate::metrics::{Counted, Whose};
use crate::topology::Role;

fn entry(role: Role, endpoint: u32, topic: &str, numbers: &[(Counter, u64)]) -> Counted {
    let mut counts = [0; Counter::ALL.len()];
    for (counter, value) in numbers {
        counts[*counter as usize] = *value;
    }
    Counted {
        whose: Whose::Endpoint(role),
        endpoint,
        topic: topic.into(),
        counts,
        latency: Histogram::default(),
    }
}

/// So many times of 0.1 ms, and one of 20 ms in fifty.
fn times(count: u64) -> Histogram {
    let mut latency = Histogram::default();
    for number in 0..count {
        latency.record(if number % 50 == 0 {
            20_000_000
        } else {
            100_000
        });
    }
    latency
}

/// Cameras, a planner that is behind and a recorder that died, after so many seconds.
fn pages(seconds: u64) -> Vec<(Page, State)> {
    use Counter::{ArenaBytes, Bytes, Held, LostOverwritten, Messages, Room, Unread};
    let page = |node: &str, id, state, entries| {
        let page = Page {
            node: node.into(),
            id,
            pid: 100 + u64::try_from(id).unwrap(),
            is_alive: state != State::Dead,
            at_ns: 1_000_000_000 * seconds,
            entries,
        };
        (page, state)
    };
    let frames = |role, topic: &str, number, more: &[(Counter, u64)]| {
        let both = [(Messages, 30 * seconds), (Bytes, 36_000_000 * seconds)];
        entry(role, number, topic, &[&both, more].concat())
    };
    let end = |whose, failed| Counted {
        whose,
        latency: times(60 * seconds),
        ..entry(
            Role::Publisher,
            9,
            "plan",
            &[(Counter::CallsOk, 50 * seconds), (failed, 10 * seconds)],
        )
    };
    let behind = [
        (LostOverwritten, 7 * seconds),
        (Unread, 16),
        (Room, 16),
        (Held, 2),
    ];
    vec![
        page(
            "camera",
            1,
            State::Live,
            vec![
                frames(Role::Publisher, "images/front", 0, &[(ArenaBytes, 8 << 20)]),
                frames(Role::Publisher, "images/rear", 1, &[(ArenaBytes, 4 << 20)]),
                end(Whose::Caller, Counter::CallsTimeout),
            ],
        ),
        page(
            "planner",
            2,
            State::Stopped,
            vec![
                Counted {
                    latency: times(30 * seconds),
                    ..frames(Role::Subscriber, "images/front", 0, &behind)
                },
                end(Whose::Provider, Counter::CallsOverloaded),
            ],
        ),
        page(
            "recorder\u{1b}[2J",
            3,
            State::Dead,
            vec![entry(Role::Subscriber, 0, "images/**", &[(Room, 64)])],
        ),
    ]
}

fn seen() -> Seen {
    let mut model = Model::default();
    model.read(pages(10));
    model.read(pages(11))
}

fn app() -> App {
    let mut app = App::new();
    app.show(seen());
    app
}

fn press(app: &mut App, keys: &str) {
    for c in keys.chars() {
        let code = match c {
            '\n' => KeyCode::Enter,
            '\t' => KeyCode::Tab,
            '\u{1b}' => KeyCode::Esc,
            '\u{8}' => KeyCode::Backspace,
            c => KeyCode::Char(c),
        };
        assert_eq!(app.key(KeyEvent::from(code)), Next::Go);
    }
}

fn drawn(app: &mut App, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let frame = terminal
        .draw(|frame| draw(frame, app, Paint::Plain))
        .unwrap();
    let lines = frame.buffer.content().chunks(width.max(1).into());
    let lines = lines.map(|line| {
        // The selected row is marked by its look, which text does not have.
        let is_selected = line[0].modifier.contains(Modifier::REVERSED);
        let text: String = line.iter().map(|cell| cell.symbol()).collect();
        let mark = if is_selected { '>' } else { ' ' };
        format!("{mark}{}\n", text.trim_end())
    });
    lines.collect()
}

/// Compares with the file; `UPDATE_SNAPSHOTS=1` writes it anew.
fn assert_looks_like(name: &str, found: &str) {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cli/top/snapshots");
    let path = format!("{directory}/{name}.txt");
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, expected, "{name} looks otherwise:\n{found}");
}

#[test]
fn tables_look_like_this() {
    let mut app = app();
    for (name, keys, width, height) in [
        ("topics", "", 100, 8),
        ("topics_by_losses", "sss", 100, 8),
        ("nodes", "\t", 100, 8),
        ("node", "\n", 120, 8),
        ("services", "\u{1b}\t", 120, 6),
        ("service", "\n", 120, 6),
        ("topic", "\u{1b}\tj\n", 120, 8),
        ("filtered", "\u{1b}/front", 60, 6),
        ("help", "\n?", 40, 14),
    ] {
        press(&mut app, keys);
        assert_looks_like(name, &drawn(&mut app, width, height));
    }
}

#[test]
fn the_smallest_terminals_show_what_they_can() {
    let mut app = app();
    app.coordinator = Some("coordinator 127.0.0.1:1 is not there: Connection refused".into());
    assert_looks_like("narrow", &drawn(&mut app, 20, 8));
    assert_looks_like("low", &drawn(&mut app, 80, 3));
    press(&mut app, "jj");
    for width in 0..24 {
        for height in 0..8 {
            drawn(&mut app, width, height);
            let mut helping = App::new();
            press(&mut helping, "?");
            drawn(&mut helping, width, height);
        }
    }
    let selected = drawn(&mut app, 20, 3);
    assert!(selected.contains(">images/rear"), "{selected}");
}

#[test]
fn the_selection_stays_with_its_row_and_near_it_when_it_goes() {
    let mut app = app();
    press(&mut app, "j");
    assert!(drawn(&mut app, 40, 6).contains(">images/front"));
    press(&mut app, "S");
    assert!(drawn(&mut app, 40, 6).contains(">images/front"));
    press(&mut app, "S");
    let mut model = Model::default();
    let mut fewer = pages(12);
    fewer.remove(1);
    fewer[0].0.entries.remove(0);
    app.show(model.read(fewer));
    assert!(drawn(&mut app, 40, 6).contains(">images/rear"));
    app.show(Seen::default());
    assert!(drawn(&mut app, 40, 6).contains("nothing to see"));
    press(&mut app, "jkgG\n");
}

#[test]
fn a_pause_keeps_what_is_shown() {
    let mut app = app();
    press(&mut app, "p");
    let before = drawn(&mut app, 80, 8);
    assert!(before.contains("PAUSED"));
    app.show(Seen::default());
    assert_eq!(drawn(&mut app, 80, 8), before);
    press(&mut app, "p");
    app.show(Seen::default());
    assert!(drawn(&mut app, 80, 8).contains("nothing to see"));
}

#[test]
fn q_and_control_c_end_it_wherever_it_is() {
    let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    for keys in ["", "?", "\t", "\n", "/abc", "p"] {
        let mut app = app();
        press(&mut app, keys);
        assert_eq!(app.key(control_c), Next::Quit, "{keys:?}");
        // In a filter it is a letter.
        let is_typing = app.is_typing;
        let next = app.key(KeyEvent::from(KeyCode::Char('q')));
        assert_eq!(next == Next::Quit, !is_typing, "{keys:?}");
    }
}

#[test]
fn filters_are_typed_kept_and_left() {
    let mut app = app();
    press(&mut app, "/rearx\u{8}\n");
    assert!(!app.is_typing);
    let screen = drawn(&mut app, 60, 8);
    assert!(screen.contains("/rear") && !screen.contains("images/front"));
    press(&mut app, "\u{1b}");
    assert!(drawn(&mut app, 60, 8).contains("images/front"));
    // Not longer than a name can be.
    press(&mut app, "/");
    press(&mut app, &"x".repeat(1000));
    assert!(app.filter.len() <= 128);
}

#[test]
fn colours_are_for_what_means_something_and_only_if_wanted() {
    let colours = |paint| {
        let mut app = app();
        press(&mut app, "\tG");
        let mut terminal = Terminal::new(TestBackend::new(100, 8)).unwrap();
        let frame = terminal.draw(|frame| draw(frame, &mut app, paint)).unwrap();
        let cells = frame.buffer.content().iter();
        let coloured = cells.filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset);
        let text: String = coloured.map(|cell| cell.symbol()).collect();
        text.replace(' ', "")
    };
    assert_eq!(colours(Paint::Plain), "");
    // The planner is stopped, loses, has lost and is full; the recorder is dead.
    assert_eq!(colours(Paint::Colours), "stopped7.077100%dead");
}
