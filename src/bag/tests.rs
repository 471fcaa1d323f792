//! Files that are written, spoiled, and read again, by us and by the `mcap` crate.

mod audit;
mod full;

use std::cell::{Cell, RefCell};
use std::io::{self, Cursor};
use std::rc::Rc;

use super::*;
use crate::events::PublisherId;
use crate::id::NodeId;
use crate::schema::Schema;
use crate::topology::{Encoding, TopicType};

/// A disk of so many bytes, with the files on it.
#[derive(Clone, Debug)]
struct Disk {
    files: Rc<RefCell<Vec<Vec<u8>>>>,
    capacity: usize,
    /// Writes until one fails half-way.
    good_writes: Rc<Cell<u32>>,
}

#[derive(Debug)]
struct OnDisk {
    disk: Disk,
    number: usize,
}

impl Disk {
    fn new(capacity: usize) -> Self {
        Self {
            files: Rc::default(),
            capacity,
            good_writes: Rc::new(Cell::new(u32::MAX)),
        }
    }

    fn used(&self) -> usize {
        self.files.borrow().iter().map(Vec::len).sum()
    }

    fn file(&self, number: usize) -> Vec<u8> {
        self.files.borrow()[number].clone()
    }
}

impl Target for Disk {
    type Storage = OnDisk;
    fn open(&mut self, number: u32) -> io::Result<OnDisk> {
        let mut files = self.files.borrow_mut();
        assert_eq!(files.len(), number as usize);
        files.push(Vec::new());
        Ok(OnDisk {
            disk: self.clone(),
            number: number as usize,
        })
    }

    fn discard(&mut self) {
        self.files.borrow_mut().pop();
    }
}

impl Storage for OnDisk {
    /// Writes as much as fits, as a disk does.
    fn append(&mut self, pieces: &[&[u8]]) -> io::Result<()> {
        let bytes = pieces.concat();
        let room = self.disk.capacity - self.disk.used();
        let good = self.disk.good_writes.get();
        self.disk.good_writes.set(good.wrapping_sub(1));
        let room = if good == 0 { bytes.len() / 2 } else { room };
        let fitting = &bytes[..bytes.len().min(room)];
        self.disk.files.borrow_mut()[self.number].extend_from_slice(fitting);
        match fitting.len() == bytes.len() {
            true => Ok(()),
            false if good == 0 => Err(io::Error::other("a bad block")),
            false => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.disk.files.borrow_mut()[self.number].truncate(len.try_into().unwrap());
        Ok(())
    }
}

fn channel(topic: &str, endpoint: u32) -> Channel {
    Channel {
        topic: topic.into(),
        ty: TopicType {
            encoding: Encoding::Rkyv,
            name: "Pose".into(),
            hash: 42,
        },
        publisher: Some(PublisherId {
            node: NodeId(7),
            endpoint,
            node_name: "arm".into(),
        }),
        schema: Some(SchemaRecord {
            name: "Pose".into(),
            encoding: "shmesh".into(),
            data: b"x, y".to_vec(),
        }),
    }
}

fn message(channel: u16, number: u64, payload: &[u8]) -> Message<'_> {
    Message {
        channel,
        sequence: number,
        log_ns: 1_000_000_000 + number * 1_000_000,
        publish_ns: 999_999_000 + number * 1_000_000,
        lost_before: 0,
        payload,
    }
}

fn payload(number: u64) -> Vec<u8> {
    let len = usize::try_from(number * 97 % 400).unwrap();
    vec![u8::try_from(number % 251).unwrap(); len]
}

/// A recording of two topics: this many messages of each.
fn recorded(config: Config, disk: &Disk, count: u64) -> Recorder<Disk> {
    let mut recorder = Recorder::new(config, disk.clone()).unwrap();
    for topic in ["pose", "image"] {
        recorder.add(channel(topic, recorder.files())).unwrap();
    }
    for number in 0..count {
        let recorded = recorder.record(&message(1, number, &payload(number)));
        let recorded = recorded.and_then(|()| {
            let large = vec![3; crate::limits::BAG_ALONE_BYTES];
            let payload = if number % 50 == 0 { &large[..] } else { b"" };
            recorder.record(&message(2, number, payload))
        });
        if recorded.is_err() {
            return recorder;
        }
    }
    recorder
}

/// What became of one file.
fn convert(bytes: &[u8], recorder: &mut Recorder<Disk>, to: To) -> Converted {
    let converted = Converter::new(to)
        .add(&mut reader(bytes), recorder)
        .unwrap();
    recorder.finish().unwrap();
    converted
}

fn unwritten(recorder: &Recorder<Disk>) -> u64 {
    recorder.total().taken - recorder.total().recorded
}

fn reader(bytes: &[u8]) -> BagReader<&[u8]> {
    BagReader::new(bytes, bytes.len() as u64).unwrap()
}

/// Times, topics and payloads' lengths, as we read them.
fn all(bytes: &[u8]) -> Vec<(u64, u64, u32, String, Vec<u8>)> {
    let mut reader = reader(bytes);
    let mut all = Vec::new();
    while let Some(found) = reader.next_message().unwrap() {
        let topic = found.channel.topic.clone();
        let payload = found.payload.to_vec();
        all.push((
            found.log_ns,
            found.publish_ns,
            found.sequence,
            topic,
            payload,
        ));
    }
    all
}

#[test]
fn other_programs_read_the_same_messages() {
    for is_compressed in [false, true] {
        let disk = Disk::new(usize::MAX);
        let config = Config {
            is_compressed,
            chunk_bytes: 5_000,
            ..Config::default()
        };
        recorded(config, &disk, 120).finish().unwrap();
        let bytes = disk.file(0);
        let ours = all(&bytes);
        assert_eq!(ours.len(), 240);
        let summary = mcap::Summary::read(&bytes).unwrap().expect("a summary");
        let stats = summary.stats.as_ref().unwrap();
        assert_eq!(stats.message_count, 240);
        assert_eq!((stats.channel_count, stats.schema_count), (2, 1));
        assert_eq!(stats.message_start_time, 1_000_000_000);
        assert_eq!(stats.message_end_time, 1_119_000_000);
        assert_eq!(summary.metadata_indexes.len(), 1);
        // It has no decompressor of its own here.
        if is_compressed {
            assert!(bytes.len() < 60_000, "{} bytes", bytes.len());
            assert!(
                summary
                    .chunk_indexes
                    .iter()
                    .all(|chunk| chunk.compression == "lz4")
            );
            continue;
        }
        let theirs = mcap::MessageStream::new(&bytes)
            .unwrap()
            .map(Result::unwrap);
        let theirs: Vec<_> = theirs
            .map(|m| {
                let topic = m.channel.topic.clone();
                assert_eq!(m.channel.schema.as_ref().unwrap().name, "Pose");
                assert_eq!(m.channel.message_encoding, "shmesh-rkyv");
                (
                    m.log_time,
                    m.publish_time,
                    m.sequence,
                    topic,
                    m.data.to_vec(),
                )
            })
            .collect();
        assert_eq!(ours, theirs);
        let options = mcap::sans_io::LinearReaderOptions::default()
            .with_validate_data_section_crc(true)
            .with_validate_summary_section_crc(true);
        let mut theirs = mcap::sans_io::LinearReader::new_with_options(options);
        let mut rest = bytes.as_slice();
        while let Some(event) = theirs.next_event() {
            if let mcap::sans_io::LinearReadEvent::ReadRequest(want) = event.unwrap() {
                let len = io::Read::read(&mut rest, theirs.insert(want)).unwrap();
                theirs.notify_read(len);
            }
        }
        // By its indexes, too: each message is where they say.
        let mut indexed = 0;
        for chunk in &summary.chunk_indexes {
            for (channel, entries) in summary.read_message_indexes(&bytes, chunk).unwrap() {
                for entry in entries {
                    let found = summary.seek_message(&bytes, chunk, &entry).unwrap();
                    assert_eq!(found.channel, channel);
                    assert_eq!(found.log_time, entry.log_time);
                    indexed += 1;
                }
            }
        }
        assert_eq!(indexed, 240);
    }
}

#[test]
fn files_of_other_programs_are_read() {
    let mut bytes = Vec::new();
    let options = mcap::WriteOptions::new().chunk_size(Some(1_000));
    let mut writer = mcap::Writer::with_options(Cursor::new(&mut bytes), options).unwrap();
    let schema = writer.add_schema("Image", "ros2msg", b"uint8 x").unwrap();
    let metadata = std::collections::BTreeMap::new();
    let camera = writer
        .add_channel(schema, "/camera", "cdr", &metadata)
        .unwrap();
    for sequence in 0..100 {
        let header = mcap::records::MessageHeader {
            channel_id: camera,
            sequence: sequence * 3,
            log_time: u64::from(sequence),
            publish_time: 5,
        };
        writer.write_to_known_channel(&header, &[9; 100]).unwrap();
    }
    writer.finish().unwrap();
    drop(writer);
    let found = all(&bytes);
    assert_eq!(found.len(), 100);
    assert_eq!(found[99], (99, 5, 297, "/camera".into(), vec![9; 100]));
    for is_thorough in [false, true] {
        let len = bytes.len() as u64;
        let summary = Summary::read(&mut Cursor::new(&bytes), len, is_thorough).unwrap();
        assert_eq!((summary.messages, summary.is_cut), (100, false));
        assert_eq!(summary.channels[0].lost, None, "nobody knows");
        assert_eq!(summary.channels[0].channel.ty.name, "Image");
    }
}

#[test]
fn what_was_lost_is_said_by_index_and_by_sequence() {
    let disk = Disk::new(usize::MAX);
    let mut recorder = Recorder::new(Config::default(), disk.clone()).unwrap();
    let [quick, slow] = [("a", 1), ("b", 2)].map(|(topic, id)| channel(topic, id));
    let (quick, slow) = (recorder.add(quick).unwrap(), recorder.add(slow).unwrap());
    for number in [0, 1, 5, 6, 16] {
        let lost_before = match number {
            5 => 3,
            16 => 9,
            _ => 0,
        };
        let of = message(quick, number, b"x");
        recorder.record(&Message { lost_before, ..of }).unwrap();
        recorder.record(&message(slow, number % 5, b"y")).unwrap();
    }
    recorder.tick(5_000_000_000).unwrap();
    let cut = disk.file(0);
    recorder.finish().unwrap();
    let whole = disk.file(0);
    for (bytes, is_thorough, is_cut) in [
        (&whole, false, false),
        (&whole, true, false),
        (&cut, false, true),
    ] {
        let len = bytes.len() as u64;
        let summary = Summary::read(&mut Cursor::new(bytes), len, is_thorough).unwrap();
        let lost: Vec<_> = summary
            .channels
            .iter()
            .map(|c| (c.messages, c.lost))
            .collect();
        assert_eq!(lost[0], (5, Some(12)));
        assert_eq!((summary.is_cut, summary.messages), (is_cut, 10));
    }
}

#[test]
fn a_file_cut_anywhere_has_all_chunks_before_it() {
    let disk = Disk::new(usize::MAX);
    let config = Config {
        chunk_bytes: 2_000,
        ..Config::default()
    };
    recorded(config, &disk, 40).finish().unwrap();
    let bytes = disk.file(0);
    let whole = all(&bytes);
    let data_end = bytes.len() - 29 - 8;
    let mut last = 0;
    for len in (8..bytes.len()).step_by(61) {
        let mut reader = reader(&bytes[..len]);
        let mut count = 0;
        while let Some(found) = reader.next_message().unwrap() {
            assert_eq!(found.payload, whole[count].4);
            count += 1;
        }
        assert!(count >= last, "more of the file has no fewer messages");
        last = count;
        if len < data_end / 2 {
            assert_eq!(reader.ending(), Some(Ending::Cut));
        }
        let len = len as u64;
        let summary = Summary::read(&mut Cursor::new(&bytes), len, false).unwrap();
        assert_eq!(summary.messages, count as u64);
    }
    assert_eq!(last, whole.len());
}

#[test]
fn a_flipped_bit_is_never_given_out_as_a_message() {
    for is_compressed in [false, true] {
        let disk = Disk::new(usize::MAX);
        let config = Config {
            is_compressed,
            chunk_bytes: 2_000,
            ..Config::default()
        };
        recorded(config, &disk, 15).finish().unwrap();
        let bytes = disk.file(0);
        let whole = all(&bytes);
        for bit in (8 * 60..8 * bytes.len()).step_by(8 * 97 + 1) {
            let mut spoiled = bytes.clone();
            spoiled[bit / 8] ^= 1 << (bit % 8);
            let mut reader = reader(&spoiled);
            loop {
                match reader.next_message() {
                    Ok(Some(found)) => {
                        let is_known = |m: &&(u64, u64, u32, String, Vec<u8>)| {
                            m.0 == found.log_ns && m.4 == found.payload
                        };
                        assert!(whole.iter().find(is_known).is_some(), "bit {bit}");
                    }
                    Ok(None) => break,
                    Err(error) if error.is_fatal() => break,
                    Err(_) => {}
                }
            }
        }
    }
}

#[test]
fn behind_a_damaged_chunk_reading_goes_on() {
    let disk = Disk::new(usize::MAX);
    let config = Config {
        chunk_bytes: 1_000,
        ..Config::default()
    };
    let mut recorder = Recorder::new(config, disk.clone()).unwrap();
    let id = recorder.add(channel("a", 1)).unwrap();
    for number in 0..100 {
        recorder.record(&message(id, number, &[9; 100])).unwrap();
    }
    recorder.finish().unwrap();
    let mut bytes = disk.file(0);
    let middle = bytes.len() / 2;
    bytes[middle..middle + 4].fill(0xAA);
    let len = bytes.len() as u64;
    let summary = Summary::read(&mut Cursor::new(&bytes), len, true).unwrap();
    let damages = summary.damages.join("; ");
    assert!(damages.contains("checksum of a chunk"), "{damages}");
    assert!(damages.contains("checksum of all data"), "{damages}");
    assert!((85..100).contains(&summary.messages));
    assert_eq!(summary.channels[0].lost, Some(100 - summary.messages));

    let repaired = Disk::new(usize::MAX);
    let mut again = Recorder::new(Config::default(), repaired.clone()).unwrap();
    let converted = convert(&bytes, &mut again, To::Same);
    assert_eq!(
        (converted.messages, converted.damages.len()),
        (summary.messages, 1)
    );
    let bytes = repaired.file(0);
    let len = bytes.len() as u64;
    let after = Summary::read(&mut Cursor::new(&bytes), len, false).unwrap();
    assert_eq!(after.channels, summary.channels, "losses are still known");
}

#[test]
fn a_full_disk_leaves_a_whole_file() {
    for capacity in (1_000..200_000).step_by(3_777) {
        let disk = Disk::new(capacity);
        let config = Config {
            chunk_bytes: 4_000,
            ..Config::default()
        };
        let mut recorder = recorded(config, &disk, 200);
        let end = recorder.finish();
        let bytes = disk.file(0);
        assert!(bytes.len() <= capacity);
        let len = bytes.len() as u64;
        let summary = Summary::read(&mut Cursor::new(&bytes), len, false).unwrap();
        let taken = recorder.total().taken;
        assert_eq!(
            summary.messages + unwritten(&recorder),
            taken,
            "all are accounted for"
        );
        let lost: u64 = summary.channels.iter().filter_map(|found| found.lost).sum();
        // With no room for a message, there may be none for that.
        assert!(
            lost == unwritten(&recorder) || summary.messages == 0,
            "{capacity}: {lost}"
        );
        assert!(!summary.is_cut, "{capacity}");
        let other = Disk::new(usize::MAX);
        let mut again = Recorder::new(Config::default(), other.clone()).unwrap();
        convert(&bytes, &mut again, To::Same);
        let bytes = other.file(0);
        let len = bytes.len() as u64;
        let told = Summary::read(&mut Cursor::new(&bytes), len, true).unwrap();
        let count = |found: &ChannelSummary| (found.channel.clone(), found.messages, found.lost);
        let counts = |summary: &Summary| summary.channels.iter().map(count).collect::<Vec<_>>();
        assert!(
            summary.messages == 0 || counts(&told) == counts(&summary),
            "{told:?}"
        );
        assert!(told.damages.is_empty(), "{told:?}");
        assert!(summary.damages.is_empty());
        drop(end);
    }
}

#[test]
fn what_was_written_in_part_is_not_in_the_file() {
    for good_writes in [2, 5, 9] {
        let disk = Disk::new(usize::MAX);
        disk.good_writes.set(good_writes);
        let config = Config {
            chunk_bytes: 1_000,
            ..Config::default()
        };
        let recorder = recorded(config, &disk, 200);
        let bytes = disk.file(0);
        let len = bytes.len() as u64;
        for is_thorough in [false, true] {
            let summary = Summary::read(&mut Cursor::new(&bytes), len, is_thorough).unwrap();
            assert!(!summary.is_cut && summary.damages.is_empty(), "{summary:?}");
            let all = summary.messages + unwritten(&recorder);
            assert_eq!(all, recorder.total().taken);
        }
    }
}

#[test]
fn files_are_split_by_size_and_by_time_and_lose_nothing() {
    for split in [
        Split {
            bytes: Some(20_000),
            ns: None,
        },
        Split {
            bytes: None,
            ns: Some(10_000_000),
        },
    ] {
        let disk = Disk::new(usize::MAX);
        let config = Config {
            chunk_bytes: 1_000,
            split,
            ..Config::default()
        };
        let mut recorder = Recorder::new(config, disk.clone()).unwrap();
        let id = recorder.add(channel("a", 1)).unwrap();
        for number in 0..300 {
            recorder
                .record(&message(id, number, &payload(number)))
                .unwrap();
        }
        recorder.finish().unwrap();
        let files = disk.files.borrow().clone();
        assert!(files.len() > 2, "{} files", files.len());
        assert_eq!(files.len(), recorder.files() as usize);
        let mut sequences = Vec::new();
        for file in &files {
            assert!(split.bytes.is_none_or(|bytes| file.len() as u64 <= bytes));
            let found = all(file);
            let span = found.last().unwrap().0 - found[0].0;
            assert!(split.ns.is_none_or(|ns| span < ns));
            sequences.extend(found.iter().map(|m| u64::from(m.2)));
        }
        assert_eq!(sequences, (0..300).collect::<Vec<_>>());
    }
}

#[test]
fn a_ring_saves_the_last_seconds_each_time() {
    let disk = Disk::new(usize::MAX);
    let config = Config {
        last_ns: Some(50_000_000),
        chunk_bytes: 500,
        ..Config::default()
    };
    let mut recorder = Recorder::new(config, disk.clone()).unwrap();
    assert!(
        recorder.save(0).unwrap().is_none(),
        "nothing there, no file"
    );
    let id = recorder.add(channel("a", 1)).unwrap();
    let record = |recorder: &mut Recorder<Disk>, range: std::ops::Range<u64>| {
        for number in range {
            let payload = payload(number);
            let of = message(id, number, &payload);
            recorder.record(&of).unwrap();
            recorder.tick(of.log_ns).unwrap();
        }
    };
    record(&mut recorder, 0..1_000);
    let saved = recorder.save(1_999_000_000).unwrap().unwrap();
    assert_eq!((saved.number, saved.is_short), (0, false));
    record(&mut recorder, 1_000..1_010);
    assert_eq!(recorder.save(2_009_000_000).unwrap().unwrap().number, 1);
    for (file, newest) in [(0, 999), (1, 1_009)] {
        let found = all(&disk.file(file));
        let (first, last) = (found[0].2, found.last().unwrap().2);
        assert_eq!(last, newest);
        assert!((newest - 70..newest - 48).contains(&first), "{first}");
        assert_eq!(found.len(), (last - first) as usize + 1);
    }
}

#[test]
fn a_ring_leaves_no_file_that_has_nothing() {
    let config = Config {
        last_ns: Some(u64::MAX),
        ..Config::default()
    };
    // No room for the header, and none for messages.
    for capacity in [5, 200] {
        let mut recorder = recorded(config.clone(), &Disk::new(capacity), 10);
        for _ in 0..3 {
            let messages = recorder.save(0).map(|saved| saved.unwrap().messages);
            assert!(
                matches!(messages, Ok(0) | Err(BagError::Full)),
                "{messages:?}"
            );
            assert!(recorder.target().files.borrow().is_empty());
            assert_eq!((recorder.files(), recorder.total().recorded), (0, 0));
        }
    }
}

#[test]
fn what_is_no_recording_is_said_to_be_none() {
    for bytes in [&b""[..], b"MCAP", &[0; 100], b"\x89MCAP1\r\n....."] {
        let len = bytes.len() as u64;
        assert!(matches!(BagReader::new(bytes, len), Err(BagError::NotABag)));
        let summary = Summary::read(&mut Cursor::new(bytes), len, false);
        assert!(matches!(summary, Err(BagError::NotABag)));
    }
}

#[test]
fn message_pack_becomes_json_and_what_is_none_is_counted() {
    let disk = Disk::new(usize::MAX);
    let mut recorder = Recorder::new(Config::default(), disk.clone()).unwrap();
    let mut coded = channel("m", 1);
    coded.ty.encoding = Encoding::MsgPack;
    coded.schema = None;
    let (coded, raw) = (
        recorder.add(coded).unwrap(),
        recorder.add(channel("r", 2)).unwrap(),
    );
    let value = rmp_serde::to_vec_named(&serde_json::json!({"x": 1.5, "y": [1, 2]})).unwrap();
    recorder.record(&message(coded, 0, &value)).unwrap();
    recorder.record(&message(coded, 1, &value[..3])).unwrap();
    recorder.record(&message(raw, 0, b"??")).unwrap();
    recorder.finish().unwrap();
    let bytes = disk.file(0);
    let json = Disk::new(usize::MAX);
    let mut again = Recorder::new(Config::default(), json.clone()).unwrap();
    let converted = convert(&bytes, &mut again, To::Json);
    assert_eq!((converted.messages, converted.invalid), (2, 1));
    assert_eq!(converted.unchanged, ["r"]);
    let found = all(&json.file(0));
    assert_eq!(found[0].4, br#"{"x":1.5,"y":[1,2]}"#);
    assert_eq!(found[1].4, b"??");
}

#[test]
fn archives_become_json_with_a_schema_and_keep_their_bytes_without() {
    let value = ("left".to_owned(), vec![1.5_f32, 2.0], Some(7_u64));
    let schema = Schema::of::<(String, Vec<f32>, Option<u64>)>().unwrap();
    let archive = rkyv::to_bytes::<rkyv::rancor::Error>(&value).unwrap();
    let disk = Disk::new(usize::MAX);
    let mut recorder = Recorder::new(Config::default(), disk.clone()).unwrap();
    let mut described = channel("described", 1);
    described.schema = Some(SchemaRecord::of(&schema).unwrap());
    let mut spoiled = channel("spoiled", 2);
    spoiled.schema = Some(SchemaRecord {
        data: b"nonsense".to_vec(),
        ..SchemaRecord::of(&schema).unwrap()
    });
    let (described, spoiled) = (
        recorder.add(described).unwrap(),
        recorder.add(spoiled).unwrap(),
    );
    recorder.record(&message(described, 0, &archive)).unwrap();
    recorder
        .record(&message(described, 1, &archive[1..4]))
        .unwrap();
    recorder.record(&message(spoiled, 0, &archive)).unwrap();
    recorder.finish().unwrap();
    let bytes = disk.file(0);
    let json = Disk::new(usize::MAX);
    let mut again = Recorder::new(Config::default(), json.clone()).unwrap();
    let converted = convert(&bytes, &mut again, To::Json);
    assert_eq!((converted.messages, converted.invalid), (2, 1));
    assert_eq!(converted.unchanged, ["spoiled"]);
    let bytes = json.file(0);
    let found = all(&bytes);
    assert_eq!(found[0].4, br#"["left",[1.5,2.0],7]"#);
    assert_eq!(found[1].4, &archive[..]);
    let theirs = mcap::Summary::read(&bytes).unwrap().unwrap();
    let channel = theirs
        .channels
        .values()
        .find(|c| c.topic == "described")
        .unwrap();
    assert_eq!(channel.message_encoding, "json");
    assert_eq!(channel.schema.as_ref().unwrap().encoding, "jsonschema");
}
