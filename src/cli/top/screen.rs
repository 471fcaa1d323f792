//! The terminal: taken over, and given back whatever happens.

use std::io::{Stdout, stdout};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{Event, read};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use tokio::sync::mpsc;

use super::app::App;
use super::view::{Paint, draw};
use crate::limits::TOP_EVENTS_MAX;

/// The whole screen. Dropping it gives the terminal back.
pub(crate) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    _taken: Taken,
}

impl Screen {
    /// Takes the terminal over.
    ///
    /// # Errors
    /// If it is none, or is gone.
    pub(crate) fn enter() -> std::io::Result<Self> {
        restore_on_panic();
        let taken = Taken::new();
        enable_raw_mode()?;
        execute!(stdout(), EnterAlternateScreen)?;
        let terminal = Terminal::new(CrosstermBackend::new(stdout()))?;
        Ok(Self {
            terminal,
            _taken: taken,
        })
    }

    pub(crate) fn draw(&mut self, app: &mut App, paint: Paint) -> std::io::Result<()> {
        self.terminal.draw(|frame| draw(frame, app, paint))?;
        Ok(())
    }

    /// After others wrote to the terminal, or it was another's for a while.
    pub(crate) fn retake(&mut self) -> std::io::Result<()> {
        enable_raw_mode()?;
        execute!(stdout(), EnterAlternateScreen)?;
        // Clears without asking where the cursor is: the thread that reads would take the answer.
        let size = self.terminal.size()?;
        self.terminal.resize(size.into())
    }
}

/// The terminal is ours, in whole or in part, until this is dropped.
struct Taken(());

impl Taken {
    fn new() -> Self {
        IS_TAKEN.store(true, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        restore();
    }
}

/// True while the terminal is ours. Given back twice, it would put the cursor where it once was,
/// over a panic's message. Relaxed: nothing else is told by it.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// Gives the terminal back, unless that was done.
fn restore() {
    if !IS_TAKEN.swap(false, Ordering::Relaxed) {
        return;
    }
    // A terminal that is gone needs nothing.
    let _ = disable_raw_mode();
    let _ = execute!(stdout(), LeaveAlternateScreen, Show);
}

/// So that the panic's message is where it can be read.
fn restore_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            before(info);
        }));
    });
}

/// What comes from the terminal: keys and sizes. A thread waits for it, which ends with the
/// process: nothing interrupts a read from a terminal.
pub(crate) fn events() -> std::io::Result<mpsc::Receiver<std::io::Result<Event>>> {
    let (tell, events) = mpsc::channel(TOP_EVENTS_MAX);
    std::thread::Builder::new()
        .name("shmesh-keys".into())
        .spawn(move || {
            loop {
                let event = read();
                let is_over = event.is_err();
                if tell.blocking_send(event).is_err() || is_over {
                    return;
                }
            }
        })?;
    Ok(events)
}

#[cfg(test)]
mod tests;
