//! What the screen is about: which table, which row, which order. Keys and readings in; no
//! terminal.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::model::{Seen, State};
use super::table::{Key, Table, Which};
use crate::limits::TOPIC_NAME_BYTES_MAX;
use crate::name::escaped;

/// What a key led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Go,
    Quit,
}

/// The column in whose order a table is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Order {
    pub(crate) column: usize,
    pub(crate) is_reversed: bool,
}

/// All that the screen shows.
#[derive(Debug)]
pub(crate) struct App {
    seen: Seen,
    base: Which,
    /// The row of the base table that is looked into.
    detail: Option<Which>,
    orders: [Order; 5],
    pub(crate) filter: String,
    pub(crate) is_typing: bool,
    pub(crate) is_paused: bool,
    pub(crate) is_helping: bool,
    /// By its key, so that it stays on its row when the order changes.
    selected: Option<Key>,
    /// Where that row was, for when it goes.
    place: usize,
    /// Rows of a page, as drawn last.
    pub(crate) page_rows: usize,
    /// A line about the coordinator, if there is one.
    pub(crate) coordinator: Option<String>,
}

impl App {
    pub(crate) fn new() -> Self {
        Self {
            seen: Seen::default(),
            base: Which::Topics,
            detail: None,
            orders: Default::default(),
            filter: String::new(),
            is_typing: false,
            is_paused: false,
            is_helping: false,
            selected: None,
            place: 0,
            page_rows: 1,
            coordinator: None,
        }
    }

    /// Takes in a reading, unless it pauses.
    pub(crate) fn show(&mut self, seen: Seen) {
        if !self.is_paused {
            self.seen = seen;
        }
    }

    pub(crate) fn which(&self) -> &Which {
        self.detail.as_ref().unwrap_or(&self.base)
    }

    pub(crate) fn order(&self) -> Order {
        self.orders[self.order_idx()]
    }

    const fn order_idx(&self) -> usize {
        match (&self.detail, &self.base) {
            (Some(Which::Service(_)), _) => 4,
            (Some(_), _) => 3,
            (None, Which::Services) => 2,
            (None, Which::Nodes) => 1,
            (None, _) => 0,
        }
    }

    /// The table to show: filtered, in order.
    pub(crate) fn table(&self) -> Table {
        let mut table = Table::of(&self.seen, self.which());
        table.filter(&self.filter);
        let order = self.order();
        table.sort(order.column, order.is_reversed);
        table
    }

    /// Which row of the table is selected.
    pub(crate) fn selection(&self, table: &Table) -> Option<usize> {
        let wanted = self.selected.as_ref();
        let found = wanted.and_then(|key| table.rows.iter().position(|row| row.key == *key));
        let last = table.rows.len().checked_sub(1)?;
        Some(found.unwrap_or(self.place).min(last))
    }

    /// What it is, in a line.
    pub(crate) fn title(&self) -> String {
        let nodes = &self.seen.nodes;
        let count = |state| nodes.iter().filter(|node| node.state == state).count();
        let mut title = match self.which() {
            Which::Topics => "topics".into(),
            Which::Nodes => "nodes".into(),
            Which::Services => "services".into(),
            Which::Service(service) => format!("service {}", escaped(service)),
            Which::Topic(topic) => format!("topic {}", escaped(topic)),
            Which::Node(id) => nodes.iter().find(|node| node.id == *id).map_or_else(
                || "node: gone".into(),
                |node| {
                    let (name, state) = (escaped(&node.name), node.state.label());
                    format!("node {name} {state} pid {}", node.pid)
                },
            ),
        };
        if self.detail.is_none() {
            title.push_str(&format!(" | {} nodes", nodes.len()));
            for state in [State::Stopped, State::Dead, State::Unseen, State::Far] {
                let count = count(state);
                if count > 0 {
                    title.push_str(&format!(" {count} {}", state.label()));
                }
            }
        }
        title
    }

    /// Does as the key says.
    pub(crate) fn key(&mut self, key: KeyEvent) -> Next {
        if key.kind == KeyEventKind::Release {
            return Next::Go;
        }
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        if is_control {
            return match key.code {
                KeyCode::Char('c') => Next::Quit,
                _ => Next::Go,
            };
        }
        if self.is_helping {
            self.is_helping = false;
            return if key.code == KeyCode::Char('q') {
                Next::Quit
            } else {
                Next::Go
            };
        }
        if self.is_typing {
            self.type_key(key.code);
            return Next::Go;
        }
        match key.code {
            KeyCode::Char('q') => return Next::Quit,
            KeyCode::Char('p') => self.is_paused = !self.is_paused,
            KeyCode::Char('?') | KeyCode::F(1) => self.is_helping = true,
            KeyCode::Char('/') => self.is_typing = true,
            KeyCode::Char('s') => self.next_column(),
            KeyCode::Char('S') => {
                let idx = self.order_idx();
                self.orders[idx].is_reversed = !self.orders[idx].is_reversed;
            }
            KeyCode::Tab | KeyCode::Right => self.turn(1),
            KeyCode::BackTab | KeyCode::Left => self.turn(BASES.len() - 1),
            KeyCode::Enter => self.look_into(),
            KeyCode::Esc => self.back(),
            code => self.step(code),
        }
        Next::Go
    }

    fn type_key(&mut self, code: KeyCode) {
        match code {
            KeyCode::Char(c) if self.filter.len() + c.len_utf8() <= TOPIC_NAME_BYTES_MAX => {
                self.filter.push(c);
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Enter => self.is_typing = false,
            KeyCode::Esc => {
                self.is_typing = false;
                self.filter.clear();
            }
            _ => {}
        }
    }

    fn next_column(&mut self) {
        let columns = self.table().columns.len();
        let idx = self.order_idx();
        self.orders[idx] = Order {
            column: (self.orders[idx].column + 1) % columns,
            is_reversed: false,
        };
    }

    /// On to another table of all.
    fn turn(&mut self, steps: usize) {
        let at = BASES.iter().position(|base| *base == self.base);
        let to = (at.unwrap_or_default() + steps) % BASES.len();
        self.base = BASES[to].clone();
        self.leave(None);
    }

    fn look_into(&mut self) {
        let table = self.table();
        let Some(idx) = self.selection(&table) else {
            return;
        };
        let detail = match &table.rows[idx].key {
            Key::Topic(topic) => Which::Topic(topic.clone()),
            Key::Node(id) => Which::Node(*id),
            Key::Service(service) => Which::Service(service.clone()),
            Key::Endpoint(..) => return,
        };
        self.leave(None);
        self.detail = Some(detail);
    }

    /// Out of what was looked into; else out of the filter.
    fn back(&mut self) {
        match self.detail.take() {
            Some(Which::Topic(topic)) => self.leave(Some(Key::Topic(topic))),
            Some(Which::Node(id)) => self.leave(Some(Key::Node(id))),
            Some(Which::Service(service)) => self.leave(Some(Key::Service(service))),
            _ => self.filter.clear(),
        }
    }

    /// Another table: the filter was for the last one.
    fn leave(&mut self, selected: Option<Key>) {
        self.detail = None;
        self.filter.clear();
        self.selected = selected;
        self.place = 0;
    }

    fn step(&mut self, code: KeyCode) {
        let table = self.table();
        let Some(at) = self.selection(&table) else {
            return;
        };
        let last = table.rows.len() - 1;
        let to = match code {
            KeyCode::Up | KeyCode::Char('k') => at.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => at + 1,
            KeyCode::PageUp => at.saturating_sub(self.page_rows),
            KeyCode::PageDown => at + self.page_rows,
            KeyCode::Home | KeyCode::Char('g') => 0,
            KeyCode::End | KeyCode::Char('G') => last,
            _ => return,
        };
        self.place = to.min(last);
        self.selected = Some(table.rows[self.place].key.clone());
    }
}

/// The tables of all, in the order of Tab.
const BASES: [Which; 3] = [Which::Topics, Which::Nodes, Which::Services];
