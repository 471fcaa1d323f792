//! Topics of JSON, MessagePack and a user's own encoding: on every path, and when what comes is no
//! value.

use std::io::{BufRead as _, Write};

use serde::{Deserialize, Serialize};
use shmesh::topology::Encoding;
use shmesh::{
    Codec, CodecError, Coded, Error, Json, JsonCodec, MsgPack, MsgPackCodec, Node, Overflow,
    Publisher, Raw, RecvError, Subscriber, Transports, Validation,
};

use crate::support::{Mesh, PATIENCE, Puppet, eventually};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Reading {
    sensor: String,
    values: Vec<f64>,
    error: Option<Box<Self>>,
}

fn reading(count: u32) -> Reading {
    Reading {
        sensor: "gripper \"left\"\u{1f916}".into(),
        values: (0..count).map(|number| f64::from(number) / 7.0).collect(),
        error: None,
    }
}

/// A user's own: lengths and little-endian numbers.
struct Plain;

impl Codec<Reading> for Plain {
    fn encoding() -> Encoding {
        Encoding::Custom("plain".into())
    }

    fn encode(value: &Reading, to: &mut impl Write) -> Result<(), CodecError> {
        to.write_all(&(value.sensor.len() as u32).to_le_bytes())?;
        to.write_all(value.sensor.as_bytes())?;
        for number in &value.values {
            to.write_all(&number.to_le_bytes())?;
        }
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<Reading, CodecError> {
        let (len, rest) = bytes.split_first_chunk().ok_or("no length")?;
        let len = u32::from_le_bytes(*len) as usize;
        let (sensor, numbers) = rest.split_at_checked(len).ok_or("cut short")?;
        let (numbers, []) = numbers.as_chunks::<8>() else {
            return Err("cut short".into());
        };
        Ok(Reading {
            sensor: std::str::from_utf8(sensor)?.into(),
            values: numbers.iter().copied().map(f64::from_le_bytes).collect(),
            error: None,
        })
    }
}

/// Encodings of a type of the same name that let through whatever bytes they are given.
mod verbatim {
    use super::{Codec, CodecError, Encoding, JsonCodec, MsgPackCodec, Write};

    pub(super) struct Reading(pub(super) Vec<u8>);
    pub(super) struct Like<C>(C);

    impl<C: Codec<u8>> Codec<Reading> for Like<C> {
        fn encoding() -> Encoding {
            C::encoding()
        }

        fn encode(value: &Reading, to: &mut impl Write) -> Result<(), CodecError> {
            Ok(to.write_all(&value.0)?)
        }

        fn decode(bytes: &[u8]) -> Result<Reading, CodecError> {
            Ok(Reading(bytes.to_vec()))
        }
    }

    pub(super) type LikeJson = Like<JsonCodec>;
    pub(super) type LikeMsgPack = Like<MsgPackCodec>;
}

/// Inline, in a chunk, beyond what one read of a socket takes, and small again.
const COUNTS: [u32; 5] = [0, 100, 300_000, 3, 40];

const WAITING: Overflow = Overflow::Block {
    depth: 4,
    deadline: PATIENCE,
};

type Ends<C> = (Subscriber<Coded<C, Reading>>, Publisher<Coded<C, Reading>>);

fn ends<C: Codec<Reading>>(node: &Node, from: &str, to: &str) -> Ends<C> {
    let subscriber = node.subscriber(from).overflow(WAITING).build().unwrap();
    (subscriber, node.publisher(to).build().unwrap())
}

/// Sends back what comes.
fn echo<C: Codec<Reading>>(node: &Node) {
    let (mut there, mut back) = ends::<C>(node, "there", "back");
    back.wait_for_listener_blocking(PATIENCE).unwrap();
    for _ in COUNTS {
        let sample = there.recv_blocking(PATIENCE).unwrap();
        back.publish(&sample).unwrap();
    }
    // What is on its way is not lost with the node.
    while back.listener_count() > 0 {
        std::thread::yield_now();
    }
}

fn echo_as(node: &Node, codec: &str) {
    match codec {
        "json" => echo::<JsonCodec>(node),
        "msgpack" => echo::<MsgPackCodec>(node),
        _ => echo::<Plain>(node),
    }
}

fn round_trips<C: Codec<Reading>>(node: &Node) {
    let (mut back, mut there) = ends::<C>(node, "back", "there");
    there.wait_for_listener_blocking(PATIENCE).unwrap();
    for count in COUNTS {
        there.publish(&reading(count)).unwrap();
        let sample = back.recv_blocking(PATIENCE).unwrap();
        assert_eq!(sample.values.len(), count as usize);
        assert_eq!(sample.lost_before(), 0);
        assert_eq!(sample.into_value(), reading(count));
    }
    assert_eq!((back.stats().received, back.stats().lost), (5, 0));
}

fn round_trips_as(node: &Node, codec: &str) {
    match codec {
        "json" => round_trips::<JsonCodec>(node),
        "msgpack" => round_trips::<MsgPackCodec>(node),
        _ => round_trips::<Plain>(node),
    }
}

const CODECS: [&str; 3] = ["json", "msgpack", "plain"];
const ROLE_VARIABLE: &str = "SHMESH_TEST_ECHO";

/// The other process: joins as told, and sends back what comes.
#[test]
fn play_echo() {
    if std::env::var_os(ROLE_VARIABLE).is_none() {
        return;
    }
    let order = std::io::stdin().lock().lines().next().unwrap().unwrap();
    let words: Vec<&str> = order.split_whitespace().collect();
    let [address, dir, transports, codec] = words[..] else {
        panic!("four words")
    };
    let builder = Node::builder("echo").coordinator(address).runtime_dir(dir);
    let builder = match transports {
        "network" => builder.transports(Transports::Network),
        _ => builder.transports(Transports::SharedMemory),
    };
    let node = builder.without_signal_handling().build_blocking().unwrap();
    echo_as(&node, codec);
    node.close_blocking();
    println!("> done");
}

fn between_processes(transports: Transports, word: &str) {
    for codec in CODECS {
        let mesh = Mesh::start();
        let node = mesh.builder("asker").transports(transports);
        let node = node.build_blocking().unwrap();
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "codecs::play_echo", "--nocapture"]);
        let mut child = Puppet::spawn(command.env(ROLE_VARIABLE, "1"));
        let dir = mesh.dir.path().display();
        child.tell(&format!("{} {dir} {word} {codec}", mesh.address));
        round_trips_as(&node, codec);
        assert_eq!(child.answer(), "done");
    }
}

#[test]
fn values_of_every_size_come_back_in_one_process() {
    for codec in CODECS {
        let mesh = Mesh::start();
        let (one, other) = (mesh.node("one"), mesh.node("other"));
        std::thread::scope(|scope| {
            scope.spawn(|| echo_as(&other, codec));
            round_trips_as(&one, codec);
        });
    }
}

#[test]
fn values_of_every_size_come_back_from_another_process() {
    between_processes(Transports::SharedMemory, "shm");
}

#[test]
fn values_of_every_size_come_back_over_a_network() {
    between_processes(Transports::Network, "network");
}

/// Whatever comes, only that is lost, and it is counted.
fn garbage_is_counted<C, Like>(node: &Node, other: &Node, topic: &str, garbage: &[Vec<u8>])
where
    C: Codec<Reading>,
    Like: Codec<verbatim::Reading>,
{
    for validation in [Validation::InPlace, Validation::Copied] {
        let mut readings = node
            .subscriber::<Coded<C, Reading>>(topic)
            .overflow(WAITING)
            .validation(validation)
            .max_held(1)
            .build()
            .unwrap();
        let mut liar = other
            .publisher::<Coded<Like, verbatim::Reading>>(topic)
            .build()
            .unwrap();
        liar.wait_for_listener_blocking(PATIENCE).unwrap();
        for (number, bytes) in garbage.iter().enumerate() {
            liar.publish(&verbatim::Reading(bytes.clone())).unwrap();
            let error = readings.recv_blocking(PATIENCE).unwrap_err();
            let RecvError::Invalid {
                sequence, reason, ..
            } = error
            else {
                panic!("{error}")
            };
            assert!(sequence == number as u64 && !reason.is_empty());
        }
        let mut good = Vec::new();
        C::encode(&reading(1000), &mut good).unwrap();
        liar.publish(&verbatim::Reading(good)).unwrap();
        let sample = readings.recv_blocking(PATIENCE).unwrap();
        assert_eq!(*sample, reading(1000));
        let stats = readings.stats();
        let is_copied = matches!(validation, Validation::Copied);
        assert_eq!((stats.received, stats.held), (1, usize::from(!is_copied)));
        assert_eq!(
            (stats.lost, stats.lost_invalid),
            (stats.lost_invalid, garbage.len() as u64)
        );
    }
}

fn garbage_of<C: Codec<Reading>>(open: &[u8]) -> Vec<Vec<u8>> {
    let mut good = Vec::new();
    C::encode(&reading(40), &mut good).unwrap();
    let trailing = [&good[..], b" x"].concat();
    let mut wrong = good.clone();
    wrong[10..20].fill(0xff);
    good.truncate(good.len() - 1);
    vec![
        Vec::new(),
        b"\xc1 garbage".to_vec(),
        good[..30].to_vec(),
        good,
        trailing,
        wrong,
        vec![0x93; 4_000_000],
        open.repeat(200_000),
    ]
}

#[test]
fn what_is_no_value_is_an_error_and_counted_on_every_path() {
    for transports in [Transports::SharedMemory, Transports::Network] {
        let mesh = Mesh::start();
        let [one, other] = ["one", "other"].map(|name| {
            let builder = mesh.builder(name).transports(transports);
            builder.build_blocking().unwrap()
        });
        let garbage = garbage_of::<JsonCodec>(br#"{"error":"#);
        garbage_is_counted::<JsonCodec, verbatim::LikeJson>(&one, &other, "json", &garbage);
        let garbage = garbage_of::<MsgPackCodec>(b"\x81\xa5error");
        garbage_is_counted::<MsgPackCodec, verbatim::LikeMsgPack>(&one, &other, "pack", &garbage);
    }
}

#[test]
fn another_encoding_of_the_same_type_is_refused_with_both_names() {
    let mesh = Mesh::start();
    let (one, other) = (mesh.node("one"), mesh.node("other"));
    let _publisher = one.publisher::<Json<Reading>>("t").build().unwrap();
    eventually("the mismatch is known", || {
        let Err(error) = other.subscriber::<MsgPack<Reading>>("t").build() else {
            return false;
        };
        let text = error.to_string();
        assert!(matches!(error, Error::TypeMismatch { .. }), "{text}");
        assert!(
            text.contains("Reading (Json)") && text.contains("Reading (MsgPack)"),
            "{text}"
        );
        true
    });
    let custom = other.subscriber::<Coded<Plain, Reading>>("t").build();
    assert!(custom.unwrap_err().to_string().contains("\"plain\""));
    assert!(other.subscriber::<Raw>("t").build().is_err());
    assert!(other.subscriber::<Json<Reading>>("t").build().is_ok());
}

/// Says that all is well, whatever it was told about its writes; and has no name.
struct Careless;

impl Codec<u32> for Careless {
    fn encoding() -> Encoding {
        Encoding::Custom("careless".into())
    }

    fn encode(value: &u32, to: &mut impl Write) -> Result<(), CodecError> {
        for _ in 0..*value {
            let _ = to.write_all(&[7; 1000]);
        }
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<u32, CodecError> {
        Ok((bytes.len() / 1000) as u32)
    }
}

struct Nameless;

impl Codec<u32> for Nameless {
    fn encoding() -> Encoding {
        Encoding::Custom("no \x1b name".into())
    }

    fn encode(_: &u32, _: &mut impl Write) -> Result<(), CodecError> {
        Err("never".into())
    }

    fn decode(_: &[u8]) -> Result<u32, CodecError> {
        Err("never".into())
    }
}

#[test]
fn a_value_that_cannot_be_written_whole_is_not_sent() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let mut values = node
        .subscriber::<Coded<Careless, u32>>("t")
        .build()
        .unwrap();
    let publisher = node.publisher::<Coded<Careless, u32>>("t");
    let mut publisher = publisher.arena_bytes_max(1 << 20).build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    let error = publisher.publish(&5000).unwrap_err();
    assert!(matches!(error, Error::ArenaFull { .. }), "{error}");
    publisher.publish(&100).unwrap();
    assert_eq!(*values.recv_blocking(PATIENCE).unwrap(), 100);
    assert_eq!((publisher.stats().sent, values.stats().lost), (1, 0));

    // A map whose keys are no texts has no JSON.
    let mut maps = node
        .publisher::<Json<Vec<Vec<(u8, u8)>>>>("fine")
        .build()
        .unwrap();
    maps.publish(&vec![vec![(1, 2)]]).unwrap();
    type Keyed = std::collections::BTreeMap<[u8; 2], u8>;
    let _listener = node.subscriber::<Json<Keyed>>("keyed").build().unwrap();
    let mut keyed = node.publisher::<Json<Keyed>>("keyed").build().unwrap();
    keyed.wait_for_listener_blocking(PATIENCE).unwrap();
    let error = keyed.publish(&Keyed::from([([1, 2], 3)])).unwrap_err();
    assert!(matches!(error, Error::Encode(_)), "{error}");

    let nameless = node.publisher::<Coded<Nameless, u32>>("u").build();
    assert!(matches!(nameless.unwrap_err(), Error::InvalidName { .. }));
}
