//! Who does not know a topic's type: it hears and sends on every path, and is in nobody's way.

use serde::{Deserialize, Serialize};
use shmesh::rkyv::{self, Archive, Archived, rancor};
use shmesh::topology::{Encoding, TopicType};
use shmesh::{
    CallError, Error, Json, Message, Node, NodeBuilder, Overflow, Payload, Publisher, Raw,
    RecvError, Subscriber, Transports, Untyped,
};

use crate::support::{Mesh, PATIENCE, Puppet, WAYS, Way, eventually, payload};

#[derive(
    Archive,
    Message,
    Clone,
    Debug,
    PartialEq,
    rkyv::Serialize,
    rkyv::Deserialize,
    Serialize,
    Deserialize,
)]
#[rkyv(crate = shmesh::rkyv)]
struct Pose {
    x: f64,
    frame: String,
    cloud: Vec<f32>,
}

fn pose(number: usize) -> Pose {
    Pose {
        x: number as f64 / 7.0,
        frame: format!("frame {number}"),
        cloud: (0..number).map(|point| point as f32).collect(),
    }
}

/// Inline, in a chunk, beyond what one read of a socket takes.
const SIZES: [usize; 4] = [0, 5, 3_000, 300_000];

const WAITING: Overflow = Overflow::Block {
    depth: 4,
    deadline: PATIENCE,
};

/// The ends of a process that knows the types: it sends back what it gets.
struct Knowing {
    poses: (Subscriber<Pose>, Publisher<Pose>),
    texts: (Subscriber<Json<Pose>>, Publisher<Json<Pose>>),
    blobs: (Subscriber<Raw>, Publisher<Raw>),
}

impl Knowing {
    fn new(node: &Node) -> Self {
        fn ends<P: Payload>(node: &Node, kind: &str) -> (Subscriber<P>, Publisher<P>) {
            let there = node.subscriber(&format!("there/{kind}")).overflow(WAITING);
            let back = node.publisher(&format!("back/{kind}"));
            (there.build().unwrap(), back.build().unwrap())
        }
        Self {
            poses: ends(node, "pose"),
            texts: ends(node, "json"),
            blobs: ends(node, "raw"),
        }
    }

    /// Sends back what comes, and serves, until it is told to end.
    fn echo(mut self, node: &Node, end: impl Future) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async {
            let add = |pair: shmesh::Request<Pose>| async move {
                let mut sum = rkyv::deserialize::<Pose, rancor::Error>(&*pair).unwrap();
                sum.x += 1.0;
                Ok::<_, String>(sum)
            };
            let serving = node.serve::<Pose, Json<Pose>, _, _, _, _>("add", add);
            let _serving = serving.unwrap();
            let (mut end, blobs) = (std::pin::pin!(end), &mut self.blobs);
            loop {
                tokio::select! {
                    pose = self.poses.0.recv() => {
                        let pose = value(pose.unwrap().bytes());
                        self.poses.1.publish_async(&pose).await.unwrap();
                    }
                    text = self.texts.0.recv() => {
                        self.texts.1.publish_async(&text.unwrap()).await.unwrap();
                    }
                    blob = blobs.0.recv() => {
                        blobs.1.publish_bytes_async(&blob.unwrap()).await.unwrap();
                    }
                    _ = &mut end => break,
                }
            }
        });
    }
}

/// The value in an archive, which must lie where archives may.
fn value(archive: &[u8]) -> Pose {
    let pose = rkyv::access::<Archived<Pose>, rancor::Error>(archive).unwrap();
    rkyv::deserialize::<Pose, rancor::Error>(pose).unwrap()
}

fn archive_of(pose: &Pose) -> Vec<u8> {
    rkyv::to_bytes::<rancor::Error>(pose).unwrap().to_vec()
}

fn builder(mesh: &Mesh, way: Way) -> NodeBuilder {
    match way {
        Way::Network => mesh.builder("tool").transports(Transports::Network),
        Way::Inside | Way::Memory => mesh.builder("tool").transports(Transports::SharedMemory),
    }
}

const ROLE_VARIABLE: &str = "SHMESH_TEST_KNOWING";

/// The other process, which ends with its standard input.
#[test]
fn play_knowing() {
    if std::env::var_os(ROLE_VARIABLE).is_none() {
        return;
    }
    let order = std::io::stdin().lines().next().unwrap().unwrap();
    let words: Vec<&str> = order.split_whitespace().collect();
    let [address, dir, transports] = words[..] else {
        panic!("three words")
    };
    let builder = Node::builder("knowing").coordinator(address);
    let builder = match transports {
        "Network" => builder.transports(Transports::Network),
        _ => builder.transports(Transports::SharedMemory),
    };
    let builder = builder.runtime_dir(dir).without_signal_handling();
    let node = builder.build_blocking().unwrap();
    let (ended, end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().lines().count();
        let _ = ended.send(());
    });
    Knowing::new(&node).echo(&node, end);
    node.close_blocking();
    println!("> done");
}

/// Has somebody who knows the types at the other end while `test` runs.
fn beside(way: Way, test: impl FnOnce(&Node)) {
    let mesh = Mesh::start();
    let node = builder(&mesh, way).build_blocking().unwrap();
    if let Way::Inside = way {
        let other = mesh.node("knowing");
        let (ended, end) = tokio::sync::oneshot::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| Knowing::new(&other).echo(&other, end));
            test(&node);
            drop::<tokio::sync::oneshot::Sender<()>>(ended);
        });
        return;
    }
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "untyped::play_knowing", "--nocapture"]);
    let mut child = Puppet::spawn(command.env(ROLE_VARIABLE, "1"));
    child.tell(&format!(
        "{} {} {way:?}",
        mesh.address,
        mesh.dir.path().display()
    ));
    test(&node);
}

/// What is sent to each topic, and what it is.
fn messages(size: usize) -> [(&'static str, TopicType, Vec<u8>); 3] {
    let json = serde_json::to_vec(&pose(size)).unwrap();
    [
        ("pose", Pose::topic_type(), archive_of(&pose(size))),
        ("json", Json::<Pose>::topic_type(), json),
        ("raw", Raw::topic_type(), payload(size as u64, size)),
    ]
}

fn round_trips(node: &Node, patterns: &[&str]) {
    let mut subscriber = node.subscriber::<Untyped>(patterns[0]).overflow(WAITING);
    for pattern in &patterns[1..] {
        subscriber = subscriber.also(pattern);
    }
    let mut back = subscriber.build().unwrap();
    let publisher = |(kind, ty, _): (&str, TopicType, Vec<u8>)| {
        let builder = node.publisher::<Untyped>(&format!("there/{kind}")).ty(ty);
        let mut publisher = builder.build().unwrap();
        publisher.wait_for_listener_blocking(PATIENCE).unwrap();
        publisher
    };
    let mut publishers = messages(0).map(publisher);
    eventually("three publishers", || {
        assert!(back.try_recv().unwrap().is_none());
        back.stats().publishers == 3
    });
    for size in SIZES {
        for (publisher, (kind, ty, bytes)) in publishers.iter_mut().zip(messages(size)) {
            publisher.publish_bytes(&bytes).unwrap();
            let sample = back.recv_blocking(PATIENCE).unwrap();
            assert_eq!(sample.topic(), format!("back/{kind}"));
            assert_eq!(sample.publisher_name(), "knowing");
            assert_eq!(*sample.topic_type(), ty);
            assert!(*sample == *bytes, "{kind} {size}");
            assert_eq!(sample.as_ptr() as usize % 16, 0);
        }
    }
    assert_eq!((back.stats().received, back.stats().lost), (12, 0));
}

#[test]
fn what_it_sends_comes_back_byte_for_byte_by_name_and_by_pattern() {
    for way in WAYS {
        beside(way, |node| {
            round_trips(node, &["back/pose", "back/json", "back/raw"]);
            round_trips(node, &["back/**"]);
            round_trips(node, &["back/raw/**", "back/*", "back/pose"]);
        });
    }
}

#[test]
fn it_calls_services_whose_types_it_does_not_know() {
    for way in WAYS {
        beside(way, |node| {
            let caller = node
                .caller::<Untyped, Untyped>("add")
                .ty(Pose::topic_type());
            let mut caller = caller.build().unwrap();
            caller.wait_for_provider_blocking(PATIENCE).unwrap();
            for size in SIZES {
                let reply = caller.call_blocking(&archive_of(&pose(size))).unwrap();
                assert_eq!(*reply.topic_type(), Json::<Pose>::topic_type());
                let sum: Pose = serde_json::from_slice(&reply).unwrap();
                assert_eq!((sum.x, sum.cloud), (pose(size).x + 1.0, pose(size).cloud));
            }
            // What is no request is the provider's to refuse.
            let reply = caller.call_blocking(b"no archive");
            assert!(matches!(reply, Err(CallError::Failed { .. })), "{reply:?}");
            // Of types that are known to be others it is said at once.
            let other = node.caller::<Untyped, Untyped>("add").ty(Raw::topic_type());
            let refused = other.build().unwrap_err();
            assert!(matches!(refused, Error::TypeMismatch { .. }), "{refused}");
        });
    }
}

#[test]
fn a_topic_that_types_contend_for_is_heard_from_both_and_nobody_is_refused() {
    for transports in [Transports::Auto, Transports::Network] {
        let mesh = Mesh::start();
        let node = |name| {
            let builder = mesh.builder(name).transports(transports);
            builder.build_blocking().unwrap()
        };
        let (tool, one, other) = (node("tool"), node("one"), node("other"));
        let both = || tool.subscriber::<Untyped>("t").overflow(WAITING);
        let mut ears = [both().build().unwrap()];
        let mut poses = one.publisher::<Pose>("t").build().unwrap();
        let mut blobs = other.publisher::<Raw>("t").build().unwrap();
        poses.wait_for_listener_blocking(PATIENCE).unwrap();
        blobs.wait_for_listener_blocking(PATIENCE).unwrap();
        for (number, ear) in ears.iter_mut().enumerate() {
            eventually("both", || {
                assert!(ear.try_recv().unwrap().is_none());
                ear.stats().publishers == 2
            });
            poses.publish(&pose(number)).unwrap();
            blobs.publish_bytes(b"blob").unwrap();
            for _ in 0..2 {
                let sample = ear.recv_blocking(PATIENCE).unwrap();
                match &sample.topic_type().encoding {
                    Encoding::Rkyv => assert_eq!(value(&sample), pose(number)),
                    encoding => assert_eq!((encoding, &*sample), (&Encoding::Raw, &b"blob"[..])),
                }
            }
        }
        drop((poses, blobs));
        // Nobody who knows a type is refused for its sake.
        eventually("the others are forgotten", || {
            one.subscriber::<Json<Pose>>("t").build().is_ok()
        });
        assert!(other.publisher::<Json<Pose>>("t").build().is_ok());
    }
}

#[test]
fn one_that_comes_late_gets_what_was_kept() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let mut poses = node.publisher::<Pose>("t").history(1).build().unwrap();
    let mut texts = node
        .publisher::<Json<Pose>>("u")
        .history(1)
        .build()
        .unwrap();
    // Kept without a listener, too.
    poses.publish(&pose(1)).unwrap();
    texts.publish(&pose(2)).unwrap();
    let late = node.subscriber::<Untyped>("*").latched();
    let mut late = late.build().unwrap();
    let mut heard = [(); 2].map(|()| {
        let sample = late.recv_blocking(PATIENCE).unwrap();
        (
            sample.topic().to_owned(),
            sample.topic_type().encoding.clone(),
        )
    });
    heard.sort_by(|one, other| one.0.cmp(&other.0));
    let expected = [("t", Encoding::Rkyv), ("u", Encoding::Json)];
    assert_eq!(
        heard,
        expected.map(|(topic, encoding)| (topic.to_owned(), encoding))
    );
}

#[test]
fn bytes_that_are_no_value_are_lost_at_those_who_know_the_type() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let mut poses = node.subscriber::<Pose>("t").build().unwrap();
    let untyped = node.publisher::<Untyped>("t").ty(Pose::topic_type());
    let mut untyped = untyped.build().unwrap();
    untyped.wait_for_listener_blocking(PATIENCE).unwrap();
    untyped.publish_bytes(b"no archive").unwrap();
    let mut loan = untyped.loan(archive_of(&pose(3)).len()).unwrap();
    loan.copy_from_slice(&archive_of(&pose(3)));
    untyped.send(loan).unwrap();
    let garbage = poses.recv_blocking(PATIENCE);
    assert!(
        matches!(garbage, Err(RecvError::Invalid { .. })),
        "{garbage:?}"
    );
    let sample = poses.recv_blocking(PATIENCE).unwrap();
    assert_eq!(
        (sample.x, poses.stats().lost_invalid),
        (pose(3).x.into(), 1)
    );
}

#[test]
fn a_publisher_says_what_it_sends_and_says_raw_unless_told() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let mut blobs = node.subscriber::<Raw>("t").build().unwrap();
    let mut untold = node.publisher::<Untyped>("t").build().unwrap();
    untold.wait_for_listener_blocking(PATIENCE).unwrap();
    untold.publish_bytes(b"blob").unwrap();
    assert_eq!(&*blobs.recv_blocking(PATIENCE).unwrap(), b"blob");
    let any = Untyped::topic_type();
    let refused = node.publisher::<Untyped>("u").ty(any).build().unwrap_err();
    assert!(
        refused.to_string().contains("only subscribers"),
        "{refused}"
    );
    let mismatch = node
        .publisher::<Untyped>("t")
        .ty(Pose::topic_type())
        .build();
    assert!(
        matches!(mismatch, Err(Error::TypeMismatch { .. })),
        "{mismatch:?}"
    );
}
