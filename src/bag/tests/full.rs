//! Disks with no room for all: what is counted is in a file, and the file says what is not.

use super::*;

fn told(bytes: &[u8]) -> Summary {
    let summary = Summary::read(&mut Cursor::new(bytes), bytes.len() as u64, true).unwrap();
    assert!(summary.damages.is_empty() && !summary.is_cut, "{summary:?}");
    summary
}

fn lost(summary: &Summary) -> u64 {
    summary.channels.iter().filter_map(|found| found.lost).sum()
}

#[test]
fn last_seconds_that_do_not_fit_are_saved_in_part_and_said_to_be() {
    let disk = Disk::new(20_000);
    let config = Config {
        last_ns: Some(1_000_000_000),
        chunk_bytes: 500,
        ..Config::default()
    };
    let mut recorder = Recorder::new(config, disk.clone()).unwrap();
    let id = recorder.add(channel("a", 1)).unwrap();
    for number in 0..100 {
        recorder.record(&message(id, number, &[7; 300])).unwrap();
    }
    let saved = recorder.save(1_100_000_000).unwrap().unwrap();
    assert!(matches!(saved.failure, Some(BagError::Full)), "{saved:?}");
    let summary = told(&disk.file(0));
    assert!((30..100).contains(&summary.messages), "{summary:?}");
    assert_eq!(
        (saved.messages, lost(&summary)),
        (summary.messages, 100 - summary.messages)
    );
    let total = recorder.total();
    assert_eq!((total.taken, total.recorded), (100, summary.messages));
    assert_eq!(total.bytes, 300 * summary.messages);
}

#[test]
fn the_message_that_begins_a_part_for_which_there_is_no_room_is_counted() {
    for capacity in (5_000..20_000).step_by(501) {
        let disk = Disk::new(capacity);
        let split = Split {
            bytes: Some(4_000),
            ns: None,
        };
        let config = Config {
            chunk_bytes: 500,
            split,
            ..Config::default()
        };
        let mut recorder = Recorder::new(config, disk.clone()).unwrap();
        let id = recorder.add(channel("a", 1)).unwrap();
        let mut taken = 0;
        for number in 0..100 {
            taken += 1;
            if recorder.record(&message(id, number, &[7; 300])).is_err() {
                break;
            }
        }
        let files = disk.files.borrow().clone();
        // The last may have had no room for its beginning.
        let whole = files.iter().filter(|file| file.len() > 100);
        let messages: u64 = whole.map(|file| told(file).messages).sum();
        let total = recorder.total();
        assert_eq!(
            (total.recorded, total.taken),
            (messages, taken),
            "{capacity}"
        );
    }
}
