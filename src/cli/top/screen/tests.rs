//! The terminal when something goes wrong, on a pseudo-terminal.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::process::{Command, ExitStatus};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use super::*;

/// Set for the process that panics.
const ROLE: &str = "SHMESH_TEST_PANICS";
const NAME: &str = "cli::top::screen::tests::a_panic_gives_the_terminal_back_before_it_speaks";

fn panic_on_the_screen() {
    let mut screen = Screen::enter().unwrap();
    screen.draw(&mut App::new(), Paint::Plain).unwrap();
    panic!("nobody foresaw this");
}

/// Plays the role on that terminal.
fn play_on(terminal: &OwnedFd) -> ExitStatus {
    let end = || terminal.try_clone().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    let command = command
        .args(["--exact", NAME, "--nocapture", "--test-threads", "1"])
        .env(ROLE, "1")
        .env("TERM", "xterm");
    let status = command.stdin(end()).stdout(end()).stderr(end()).status();
    status.unwrap()
}

#[test]
fn a_panic_gives_the_terminal_back_before_it_speaks() {
    if std::env::var_os(ROLE).is_some() {
        return panic_on_the_screen();
    }
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let size = Winsize {
        ws_row: 10,
        ws_col: 40,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&master, size).unwrap();
    let path = ptsname(&master, Vec::new()).unwrap();
    let mut options = File::options();
    let slave = options.read(true).write(true).open(path.to_str().unwrap());
    let slave = OwnedFd::from(slave.unwrap());
    let mut from = File::from(master.try_clone().unwrap());
    let reader = std::thread::spawn(move || {
        let (mut shown, mut bytes) = (Vec::new(), [0; 4096]);
        // Fails when the terminal is gone.
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            shown.extend_from_slice(&bytes[..count]);
        }
        String::from_utf8(shown).unwrap()
    });
    assert_eq!(play_on(&slave).code(), Some(101), "it panicked");
    let modes = tcgetattr(&master).unwrap().local_modes;
    assert!(modes.contains(LocalModes::ICANON | LocalModes::ECHO));
    drop(slave);
    let shown = reader.join().unwrap();
    let (_, after) = shown
        .split_once("\u{1b}[?1049h")
        .expect("it took the screen");
    let (_, after) = after
        .split_once("\u{1b}[?1049l")
        .expect("it left the screen");
    assert!(after.starts_with("\u{1b}[?25h"), "the cursor: {after:?}");
    assert!(after.contains("nobody foresaw this"), "{after:?}");
    assert!(!after.contains("\u{1b}[?1049l"), "twice: {after:?}");
}
