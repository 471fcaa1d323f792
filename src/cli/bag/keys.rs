//! Keys that are pressed while a recording is played.

use std::io::{IsTerminal as _, Read as _};
use std::sync::mpsc::{Receiver, sync_channel};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Pause,
    /// Send the next message, and pause again.
    Next,
    Faster,
    Slower,
    Quit,
}

/// The keys of a terminal, which is as it was when this is dropped.
#[derive(Debug)]
pub(super) struct Keys {
    pressed: Receiver<Key>,
    before: Option<Termios>,
}

impl Keys {
    /// Of standard input; none if that is no terminal.
    pub(super) fn listen() -> Option<Self> {
        let input = std::io::stdin();
        if !input.is_terminal() {
            return None;
        }
        let before = tcgetattr(&input).ok();
        if let Some(mut modes) = before.clone() {
            // Each key at once, and none shown. Ctrl-C stays a signal.
            modes.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
            let _ = tcsetattr(&input, OptionalActions::Now, &modes);
        }
        let (press, pressed) = sync_channel(KEYS_MAX);
        std::thread::spawn(move || {
            for byte in std::io::stdin().lock().bytes().map_while(Result::ok) {
                let Some(key) = key(byte) else { continue };
                if press.send(key).is_err() {
                    return;
                }
            }
        });
        Some(Self { pressed, before })
    }

    /// A key that was pressed since.
    pub(super) fn next(&self) -> Option<Key> {
        self.pressed.try_recv().ok()
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}

const fn key(byte: u8) -> Option<Key> {
    match byte {
        b' ' | b'p' => Some(Key::Pause),
        b'n' | b's' => Some(Key::Next),
        b'+' | b'=' => Some(Key::Faster),
        b'-' => Some(Key::Slower),
        b'q' => Some(Key::Quit),
        _ => None,
    }
}

/// Keys that may wait.
const KEYS_MAX: usize = 16;
