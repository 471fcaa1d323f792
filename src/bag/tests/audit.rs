//! Checks of whole files.

use mcap::records::op;

use super::*;

#[test]
fn no_changed_byte_passes_a_check() {
    for is_compressed in [false, true] {
        let disk = Disk::new(usize::MAX);
        let config = Config {
            is_compressed,
            chunk_bytes: 400,
            ..Config::default()
        };
        let mut recorder = Recorder::new(config, disk.clone()).unwrap();
        let id = recorder.add(channel("a", 1)).unwrap();
        for number in 0..10 {
            let of = message(id, number, &[9; 100]);
            let lost_before = number % 2;
            recorder.record(&Message { lost_before, ..of }).unwrap();
        }
        recorder.finish().unwrap();
        let bytes = disk.file(0);
        let check = |bytes: &[u8]| {
            let len = bytes.len() as u64;
            Summary::read(&mut Cursor::new(bytes), len, true)
        };
        let whole = check(&bytes).unwrap();
        assert!(whole.damages.is_empty() && !whole.is_cut, "{whole:?}");
        for at in 0..bytes.len() {
            let mut spoiled = bytes.clone();
            spoiled[at] ^= 1 << (at % 8);
            let passes = check(&spoiled).is_ok_and(|summary| summary.damages.is_empty());
            assert!(!passes, "byte {at} of {}", bytes.len());
        }
    }
}

#[test]
fn an_index_of_another_recording_does_not_pass_a_check() {
    let [short, long] = [10, 20].map(|count| {
        let disk = Disk::new(usize::MAX);
        recorded(Config::default(), &disk, count).finish().unwrap();
        disk.file(0)
    });
    // The data of one, the index of the other, and checksums that are right.
    let data_end = |bytes: &[u8]| {
        let end = bytes
            .windows(9)
            .rposition(|head| head == [op::DATA_END, 4, 0, 0, 0, 0, 0, 0, 0]);
        end.unwrap() + 9 + 4
    };
    let mut mixed = long[..data_end(&long)].to_vec();
    let start = mixed.len();
    let footer_at = short.len() - mcap::MAGIC.len() - 20;
    mixed.extend_from_slice(&short[data_end(&short)..footer_at]);
    mixed.extend_from_slice(&(start as u64).to_le_bytes());
    mixed.extend_from_slice(&[0; 8]);
    let crc = crc32fast::hash(&mixed[start..]);
    mixed.extend_from_slice(&crc.to_le_bytes());
    mixed.extend_from_slice(mcap::MAGIC);
    let len = mixed.len() as u64;
    let damages = Summary::read(&mut Cursor::new(&mixed), len, true)
        .unwrap()
        .damages;
    let has = |text: &str| damages.iter().any(|damage| damage.contains(text));
    assert!(
        has("of other chunks") && has("of other messages"),
        "{damages:?}"
    );
}
