//! The coordinator over real sockets, with real members and with words said by hand.

pub(super) mod support;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use self::support::{Member, Raw, Running, endpoint, endpoint_up, info, soon};
use super::*;
use crate::limits::{
    CHANGES_PER_FRAME_MAX, ENDPOINTS_PER_NODE_MAX, NODE_NAME_BYTES_MAX, TOPIC_NAME_BYTES_MAX,
};
use crate::link::handshake::{HELLO_BYTES, Hello, PROTOCOL_VERSION};
use crate::link::wire::HEADER_BYTES;
use crate::metrics::Report;
use crate::topology::{NodeInfo, Role};
use crate::visit::Visit;

#[tokio::test]
async fn nodes_learn_of_each_other_and_of_every_change() {
    let running = Running::new().await;
    let mut first = Member::join(&running.address, 1);
    first.until_nodes(1).await;
    let mut second = Member::join(&running.address, 2);
    first.announce([endpoint(0, "a"), endpoint(1, "b")]);
    second.until_nodes(2).await;
    let both = |m: &Member| m.topology.endpoints(NodeId(1)).count() == 2;
    second.until("two endpoints are known", both).await;

    first.announce([endpoint(1, "b")]);
    let one = |m: &Member| m.topology.matching("a", Role::Publisher).count() == 0;
    second.until("an endpoint is gone", one).await;
    assert_eq!(
        second.topology.matching("b", Role::Publisher).count(),
        1,
        "the other stays"
    );
    first.leave().await;
    second.until_nodes(1).await;
    assert!(second.lost.is_empty(), "{:?}", second.lost);
}

#[tokio::test]
async fn a_restarted_coordinator_has_a_new_epoch_and_the_whole_mesh() {
    let running = Running::new().await;
    let mut members: Vec<Member> = (1..=3)
        .map(|id| Member::join(&running.address, id))
        .collect();
    for member in &members {
        let topic = format!("topic/{}", member.info.id);
        member.announce([endpoint(0, &topic)]);
    }
    let is_whole = |m: &Member| {
        let all = m.topology.nodes().flat_map(|n| m.topology.endpoints(n.id));
        all.count() == 3
    };
    for member in &mut members {
        member.until("the mesh is whole", is_whole).await;
    }
    let before = members[0].topology.snapshot();
    let old_epoch = running.epoch;

    let address = running.stop().await;
    let running = Running::start(&address, LEASE_MS).await;

    assert!(running.epoch > old_epoch);
    for member in &mut members {
        let is_back = |m: &Member| m.epoch == running.epoch && is_whole(m);
        member.until("the mesh is whole again", is_back).await;
        assert_eq!(member.topology.snapshot(), before);
        assert!(!member.lost.is_empty(), "it was told of the loss");
    }
}

#[tokio::test]
async fn a_stale_coordinator_is_not_joined_and_the_current_one_is_again() {
    let (current, stale) = (20, 10);
    let mut running = Running::of_epoch("127.0.0.1:0", current).await;
    let mut member = Member::join(&running.address, 1);
    member.announce([endpoint(0, "a")]);
    let is_whole = |m: &Member| m.topology.endpoints(NodeId(1)).count() == 1;
    member.until("it is known", is_whole).await;
    let known = member.topology.clone();

    let address = running.stop().await;
    running = Running::of_epoch(&address, stale).await;
    let refused = |m: &Member| {
        let is_stale = |e: &&Error| matches!(e, Error::StaleCoordinator { .. });
        m.lost.iter().filter(is_stale).count()
    };
    let again = |m: &Member| refused(m) == 3;
    member.until("it refuses, and tries on", again).await;
    assert_eq!(member.epoch, current);
    assert_eq!(member.topology, known, "what it knew stays");
    let said = member.lost.last().unwrap().to_string();
    for word in ["epoch is 10", "has seen 20", "stop it"] {
        assert!(said.contains(word), "{said}");
    }

    for epoch in [current, current + 1] {
        let address = running.stop().await;
        running = Running::of_epoch(&address, epoch).await;
        member.epoch = 0;
        let is_in = |m: &Member| m.epoch == epoch && is_whole(m);
        member.until("it joins", is_in).await;
    }
}

#[tokio::test]
async fn two_hundred_nodes_come_back_at_once() {
    let count = 200;
    let running = Running::new().await;
    let members = (1..=count).map(|id| Member::join(&running.address, id));
    let mut members: Vec<Member> = members.collect();
    let all = members.iter_mut().map(|member| member.until_nodes(200));
    join_all(all).await;

    let address = running.stop().await;
    let running = Running::start(&address, LEASE_MS).await;
    let epoch = running.epoch;
    let all = members.iter_mut().map(|member| {
        let is_back = move |m: &Member| m.epoch == epoch && m.topology.nodes().count() == 200;
        member.until("all are back", is_back)
    });
    join_all(all).await;
    for member in &members {
        assert_eq!(member.topology, members[0].topology);
    }
}

#[tokio::test]
async fn a_silent_node_is_gone_after_its_lease() {
    let running = Running::start("127.0.0.1:0", 1_500).await;
    let mut member = Member::join(&running.address, 1);
    let silent = Raw::register(&running.address, info(2)).await;
    member.until_nodes(2).await;
    member.until_nodes(1).await;
    assert!(member.topology.node(NodeId(1)).is_some());
    assert!(member.lost.is_empty(), "who speaks stays");
    drop(silent); // open until here: it was the silence
}

#[tokio::test]
async fn a_node_of_another_version_is_refused_and_sees_ours() {
    let running = Running::new().await;
    let mut hello = Hello::ours(Side::Node, Purpose::Membership, NodeId(1)).unwrap();
    hello.version = 99;
    let (theirs, mut raw) = Raw::greet(&running.address, &hello.encode()).await;
    assert_eq!(theirs.version, PROTOCOL_VERSION);
    assert!(raw.hear().await.is_err(), "the connection ends");
}

#[tokio::test]
async fn a_coordinator_of_another_version_is_named_with_both_versions() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut member = Member::join(&address, 1);
    let (mut stream, _) = soon("a node dials", listener.accept()).await.unwrap();
    let mut bytes = [0; HELLO_BYTES];
    stream.read_exact(&mut bytes).await.unwrap();
    let mut hello = Hello::ours(Side::Coordinator, Purpose::Membership, NodeId(1)).unwrap();
    hello.version = 99;
    stream.write_all(&hello.encode()).await.unwrap();
    member.until("it is lost", |m| !m.lost.is_empty()).await;
    let error = &member.lost[0];
    assert!(
        matches!(
            error,
            Error::Version {
                ours: PROTOCOL_VERSION,
                theirs: 99
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_coordinator_that_hangs_up_or_stalls_counts_as_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut member = Member::join(&address, 1);
    drop(soon("a node dials", listener.accept()).await.unwrap());
    let stalled = soon("it dials again", listener.accept()).await.unwrap();
    member.until("it lost both", |m| m.lost.len() == 2).await;
    for error in &member.lost {
        let is_so = matches!(error, Error::CoordinatorUnreachable { .. });
        assert!(is_so, "{error}");
    }
    drop(stalled); // open until here: it was the stall
}

#[tokio::test]
async fn nodes_beyond_the_limits_of_names_are_refused_with_the_reason() {
    let running = Running::new().await;
    let long = "x".repeat(NODE_NAME_BYTES_MAX + 1);
    for name in [long.as_str(), "", "a/b", "a\x1b]52;c"] {
        let named = NodeInfo {
            name: name.into(),
            ..info(1)
        };
        let mut raw = Raw::register(&running.address, named).await;
        let reason = raw.until_refused().await;
        assert!(reason.contains("invalid name"), "{reason}");
        assert!(!reason.contains('\x1b'), "{reason}");
    }
    let longest = NodeInfo {
        name: "x".repeat(NODE_NAME_BYTES_MAX),
        ..info(1)
    };
    let mut raw = Raw::register(&running.address, longest).await;
    let welcome = raw.hear().await.unwrap();
    assert_eq!(
        welcome,
        FromCoordinator::Welcome {
            epoch: running.epoch
        }
    );
}

#[tokio::test]
async fn a_node_that_breaks_the_rules_is_thrown_out_alone() {
    let running = Running::new().await;
    let mut witness = Member::join(&running.address, 1);
    witness.announce([endpoint(0, "mine")]);
    let wrongs = [
        FromNode::Update(vec![endpoint_up(1, endpoint(1, "not/mine"))]),
        FromNode::Update(vec![Change::NodeDown(NodeId(1))]),
        FromNode::Update(vec![Change::NodeDown(NodeId(2))]),
        FromNode::Update(vec![endpoint_up(2, endpoint(0, "/slashed"))]),
        FromNode::Update(vec![endpoint_up(
            2,
            endpoint(0, &"x".repeat(TOPIC_NAME_BYTES_MAX + 1)),
        )]),
        FromNode::Register(info(3)),
    ];
    for wrong in wrongs {
        let mut raw = Raw::register(&running.address, info(2)).await;
        raw.tell(&wrong).await;
        raw.until_refused().await;
        witness.until_nodes(1).await;
    }
    let mut raw = Raw::register(&running.address, info(2)).await;
    let all: Vec<u32> = (0..=ENDPOINTS_PER_NODE_MAX).collect();
    for part in all.chunks(CHANGES_PER_FRAME_MAX) {
        let changes = part.iter().map(|id| endpoint_up(2, endpoint(*id, "t")));
        raw.tell(&FromNode::Update(changes.collect())).await;
    }
    let reason = raw.until_refused().await;
    assert!(reason.contains("endpoints of a node"), "{reason}");
    witness.until_nodes(1).await;
    assert_eq!(witness.topology.endpoints(NodeId(1)).count(), 1);
    assert!(witness.lost.is_empty(), "{:?}", witness.lost);
}

#[tokio::test]
async fn a_newer_connection_of_a_node_replaces_the_older_unless_it_is_refused() {
    let running = Running::new().await;
    let mut witness = Member::join(&running.address, 1);
    let mut older = Raw::register(&running.address, info(2)).await;
    older
        .tell(&FromNode::Update(vec![endpoint_up(2, endpoint(0, "a"))]))
        .await;
    let has_it = |m: &Member| m.topology.endpoints(NodeId(2)).count() == 1;
    witness.until("the endpoint is known", has_it).await;

    let unnamed = NodeInfo {
        name: String::new(),
        ..info(2)
    };
    let mut refused = Raw::register(&running.address, unnamed).await;
    refused.until_refused().await;
    older
        .tell(&FromNode::Update(vec![endpoint_up(2, endpoint(1, "b"))]))
        .await;
    let has_both = |m: &Member| m.topology.endpoints(NodeId(2)).count() == 2;
    witness.until("the older one goes on", has_both).await;

    let _newer = Raw::register(&running.address, info(2)).await;
    let reason = older.until_refused().await;
    assert!(reason.contains("newer connection"), "{reason}");
    let starts_over = |m: &Member| {
        m.topology.node(NodeId(2)).is_some() && m.topology.endpoints(NodeId(2)).count() == 0
    };
    witness.until("the newer one is in", starts_over).await;
}

#[tokio::test]
async fn garbage_is_closed_and_hurts_nobody() {
    let running = Running::new().await;
    let mut witness = Member::join(&running.address, 1);
    witness.until_nodes(1).await;
    let hello = Hello::ours(Side::Node, Purpose::Membership, NodeId(9));
    let hello = hello.unwrap().encode();
    let mut bomb = wire::encode(Kind::FromNode, &FromNode::Heartbeat).unwrap();
    bomb[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut nonsense = wire::encode(Kind::FromNode, &FromNode::Heartbeat).unwrap();
    nonsense[HEADER_BYTES] = 0xc1; // the one byte that MessagePack never uses
    let heartbeat = wire::encode(Kind::FromNode, &FromNode::Heartbeat).unwrap();
    let first_words: [&[&[u8]]; 6] = [
        &[&[0xff; 4096]],
        &[b"GET / HTTP/1.1\r\n", &[b' '; 200]],
        &[&hello, &bomb],
        &[&hello, &nonsense],
        &[&hello, &hello],
        &[&hello, &heartbeat],
    ];
    for words in first_words {
        let mut stream = TcpStream::connect(&running.address).await.unwrap();
        // A reset on the way is a close as well.
        let _ = stream.write_all(&words.concat()).await;
        let mut answer = Vec::new();
        let _ = soon("it is closed", stream.read_to_end(&mut answer)).await;
        assert!(answer.len() <= HELLO_BYTES, "nothing but a hello is said");
    }
    let mut raw = Raw::register(&running.address, info(2)).await;
    raw.say(&bomb).await;
    let reason = raw.until_refused().await;
    assert!(reason.contains("longer than the limit"), "{reason}");
    Member::join(&running.address, 3).until_nodes(2).await;
    assert!(witness.lost.is_empty());
}

#[tokio::test]
async fn a_node_that_sends_changes_as_a_flood_is_cut_off_with_the_reason() {
    let running = Running::new().await;
    let mut witness = Member::join(&running.address, 1);
    let Raw {
        mut reader,
        mut writer,
    } = Raw::register(&running.address, info(2)).await;
    witness.until_nodes(2).await;
    let node = NodeId(2);
    let churn = (0..CHANGES_PER_FRAME_MAX).map(|idx| match idx % 2 {
        0 => endpoint_up(2, endpoint(0, "comes/and/goes")),
        _ => Change::EndpointDown { node, endpoint: 0 },
    });
    let update = FromNode::Update(churn.collect());
    let frame = wire::encode(Kind::FromNode, &update).unwrap();
    let flood = async { while writer.write_all(&frame).await.is_ok() {} };
    let refusal = async {
        loop {
            match reader.next(Kind::FromCoordinator).await.unwrap() {
                FromCoordinator::Refused { reason } => break reason,
                FromCoordinator::Delta { changes, .. } => panic!("told of churn: {changes:?}"),
                _ => {}
            }
        }
    };
    let both = async { tokio::join!(flood, refusal).1 };
    let reason = soon("it is cut off", both).await;
    assert!(reason.contains("ahead of the rate"), "{reason}");
    witness.until_nodes(1).await;
    assert!(witness.lost.is_empty());
}

#[tokio::test]
async fn who_does_not_finish_its_hello_is_closed() {
    let running = Running::new().await;
    let mut slow = TcpStream::connect(&running.address).await.unwrap();
    slow.write_all(b"s").await.unwrap();
    let mut answer = Vec::new();
    let _ = soon("it is closed", slow.read_to_end(&mut answer)).await;
    assert!(answer.is_empty());
}

#[tokio::test]
async fn a_visitor_hears_what_nodes_count_and_who_says_it_late_does_no_harm() {
    let running = Running::new().await;
    let mut silent = Raw::register(&running.address, info(1)).await;
    let mut member = Member::join(&running.address, 2);
    member.until_nodes(2).await;
    let credentials = Credentials::default();
    let visit = Visit::begin(&running.address, &credentials);
    let mut visit = soon("a visit", visit).await.unwrap();
    let nodes = [1, 2, 9].map(NodeId);
    // One that is kept from answering in time is asked again.
    let told = loop {
        let told = soon("an answer", visit.counts(&nodes)).await.unwrap();
        if !told.is_empty() {
            break told;
        }
    };
    assert_eq!(told.keys().collect::<Vec<_>>(), [&NodeId(2)]);
    assert!(told[&NodeId(2)].entries.is_empty(), "it has no page");

    let visitor = loop {
        if let FromCoordinator::WantCounts { visitor } = silent.hear().await.unwrap() {
            break visitor;
        }
    };
    let report = Report {
        at_ns: 1,
        part: 0,
        is_last: true,
        tallies: vec![],
    };
    silent.tell(&FromNode::Counts { visitor, report }).await;
    let change = endpoint_up(1, endpoint(0, "late"));
    silent.tell(&FromNode::Update(vec![change])).await;
    let is_known = |m: &Member| m.topology.endpoints(NodeId(1)).count() == 1;
    member.until("the coordinator heard both", is_known).await;
    for _ in 0..3 {
        let topology = soon("it looks on", visit.look()).await.unwrap();
        assert_eq!(topology.endpoints(NodeId(1)).count(), 1);
    }
    member.leave().await;
}

fn mesh() -> Arc<Mesh> {
    Arc::new(Mesh {
        epoch: 1,
        state: Mutex::default(),
        changed: Notify::new(),
    })
}

/// What one offer says, which is one frame here.
fn word_of(frames: &Frames) -> FromCoordinator {
    let [block] = &frames[..] else {
        panic!("{} blocks", frames.len());
    };
    let frame = wire::decode(block).unwrap().unwrap();
    assert_eq!(frame.len, block.len(), "one frame");
    wire::body(&frame, Kind::FromCoordinator).unwrap()
}

fn delta_of(frames: &Frames) -> (u64, Vec<Change>) {
    match word_of(frames) {
        FromCoordinator::Delta { version, changes } => (version, changes),
        other => panic!("no delta: {other:?}"),
    }
}

fn snapshot_of(frames: &Frames) -> (u64, Vec<Change>) {
    match word_of(frames) {
        FromCoordinator::Snapshot {
            version,
            is_first: true,
            is_last: true,
            changes,
        } => (version, changes),
        other => panic!("no snapshot: {other:?}"),
    }
}

#[test]
fn a_slow_watcher_gets_one_snapshot_instead_of_history() {
    let mesh = mesh();
    let (frames, mut queue) = mpsc::channel(2);
    mesh.register(&Change::NodeUp(info(1)), frames).unwrap();
    mesh.flush();
    let (mut version, _) = snapshot_of(&queue.try_recv().unwrap());
    mesh.catch_up(NodeId(1)).unwrap();
    assert!(queue.try_recv().is_err(), "it is not behind");

    for id in 0..10 {
        mesh.update(NodeId(1), &[endpoint_up(1, endpoint(id, "t"))])
            .unwrap();
        mesh.flush();
    }
    for _ in 0..2 {
        let (new, changes) = delta_of(&queue.try_recv().unwrap());
        assert_eq!((new, changes.len()), (version + 1, 1));
        version = new;
    }
    assert!(queue.try_recv().is_err(), "the queue is bounded");
    mesh.catch_up(NodeId(1)).unwrap();
    let (snapshot_version, changes) = snapshot_of(&queue.try_recv().unwrap());
    assert_eq!((snapshot_version, changes.len()), (version + 8, 11));
    mesh.catch_up(NodeId(1)).unwrap();
    assert!(queue.try_recv().is_err(), "only one");

    mesh.update(NodeId(1), &[endpoint_up(1, endpoint(10, "t"))])
        .unwrap();
    mesh.flush();
    let (new, _) = delta_of(&queue.try_recv().unwrap());
    assert_eq!(new, snapshot_version + 1, "deltas go on where it ended");
}

#[tokio::test(start_paused = true)]
async fn a_first_change_goes_out_at_once_and_the_next_together() {
    let mesh = mesh();
    let (frames, mut queue) = mpsc::channel(16);
    mesh.register(&Change::NodeUp(info(1)), frames).unwrap();
    let task = tokio::spawn(broadcast(Arc::clone(&mesh)));
    snapshot_of(&queue.recv().await.unwrap());
    // Past what the registration itself set off.
    tokio::time::sleep(Duration::from_millis(2 * DELTA_COALESCE_MS)).await;

    let began = Instant::now();
    mesh.update(NodeId(1), &[endpoint_up(1, endpoint(0, "t"))])
        .unwrap();
    assert_eq!(delta_of(&queue.recv().await.unwrap()).1.len(), 1);
    assert_eq!(began.elapsed(), Duration::ZERO, "at once");
    for id in 1..=20 {
        mesh.update(NodeId(1), &[endpoint_up(1, endpoint(id, "t"))])
            .unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(delta_of(&queue.recv().await.unwrap()).1.len(), 20);
    let waited = began.elapsed();
    assert!(
        waited >= Duration::from_millis(DELTA_COALESCE_MS)
            && waited <= Duration::from_millis(DELTA_COALESCE_MS + 2),
        "together, by the test's own clock: {waited:?}"
    );
    task.abort();
}

#[test]
fn epochs_grow_within_a_second() {
    let mut last = 0;
    for _ in 0..100 {
        let epoch = new_epoch().unwrap();
        assert!(epoch > last);
        last = epoch;
    }
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let running = Running::new().await;
    let error = Coordinator::bind(&running.address).await.unwrap_err();
    assert!(matches!(error, Error::AddressInUse { .. }), "{error}");
    assert!(error.to_string().contains(&running.address), "{error}");
}
