//! Who has the key is let in, and nobody else hears more than a hello.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shmesh::link::handshake::{HELLO_BYTES, Hello, PROOF_BYTES, Purpose, Side};
use shmesh::link::session::LinkFrame;
use shmesh::link::wire::{Kind, MessageHeader, encode};
use shmesh::{AuthKey, Coordinator, Error, Node, NodeBuilder, NodeId, Raw, Transports};

use crate::hostile::Peer;
use crate::support::{
    Mesh, PATIENCE, TempDir, eventually, free_address, is_intact, number, payload,
};

/// What no output may have.
pub(crate) const KEY: &str = "7d1c5f-a-key-that-is-never-to-be-printed";

pub(crate) fn key() -> AuthKey {
    AuthKey::new(KEY.as_bytes()).unwrap()
}

/// A file with the key; gone with its directory.
pub(crate) fn key_file(dir: &TempDir, text: &str, mode: u32) -> String {
    use std::os::unix::fs::PermissionsExt as _;
    let path = dir.path().join("key");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path.to_string_lossy().into_owned()
}

fn keyed_mesh() -> Mesh {
    Mesh::start_with(|coordinator| coordinator.with_auth_key(key()))
}

/// Joins, or says why not: at once, for it would be tried for an hour otherwise.
pub(crate) fn join(builder: NodeBuilder) -> Result<Node, Error> {
    let builder = builder.join_timeout(Duration::from_secs(3600));
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = tell.send(builder.build_blocking());
    });
    told.recv_timeout(PATIENCE)
        .expect("an answer long before the time to join is over")
}

#[test]
fn nodes_with_the_key_exchange_messages_whichever_way() {
    let keys = TempDir::new();
    let file = key_file(&keys, KEY, 0o600);
    for (transports, way) in [
        (Transports::SharedMemory, "shm"),
        (Transports::Network, "tcp"),
        (Transports::Auto, ""),
    ] {
        let mesh = keyed_mesh();
        let builder = mesh.builder("one").auth_key(key()).transports(transports);
        let node = join(builder).unwrap();
        let mut publisher = node.publisher::<Raw>("there").build().unwrap();
        let mut back = node.subscriber::<Raw>("back").build().unwrap();
        let mut other = mesh.child_with("other", &format!("key={file} {way}"));
        assert_eq!(other.ask("sub there 30000 16 8"), "ok");
        assert_eq!(other.ask("pub back 1000000"), "ok");
        publisher.wait_for_listener_blocking(PATIENCE).unwrap();
        for (number, size) in (0..).zip([8, 5000]) {
            publisher.publish_bytes(&payload(number, size)).unwrap();
        }
        let answer = other.ask("recv 2");
        assert!(
            answer.starts_with("received 2 lost 0 damaged 0"),
            "{answer}"
        );
        assert_eq!(other.ask("heard"), "ok");
        assert_eq!(other.ask("send 1 3000"), "sent 1 refused 0");
        assert!(is_intact(&back.recv_blocking(PATIENCE).unwrap(), 0));
    }
}

#[test]
fn a_key_on_one_side_only_is_said_at_once() {
    let (keyed, open) = (keyed_mesh(), Mesh::start());
    for (builder, hint) in [
        (keyed.builder("keyless"), "NodeBuilder::auth_key"),
        (open.builder("keyed").auth_key(key()), "it has none"),
    ] {
        let error = join(builder).unwrap_err();
        assert!(matches!(error, Error::Unproven(_)), "{error}");
        let text = error.to_string();
        assert!(text.contains("key") && text.contains(hint), "{text}");
    }
    join(keyed.builder("good").auth_key(key())).unwrap();
    join(open.builder("good")).unwrap();
}

#[test]
fn another_key_is_said_at_once() {
    let mesh = keyed_mesh();
    let other = AuthKey::new(&[7; 32]).unwrap();
    let error = join(mesh.builder("stranger").auth_key(other)).unwrap_err();
    assert!(matches!(error, Error::Unproven(_)), "{error}");
    assert!(error.to_string().contains("key is another"), "{error}");
    join(mesh.builder("good").auth_key(key())).unwrap();
}

#[test]
fn another_mesh_is_said_with_both_names() {
    let named = Mesh::start_with(|coordinator| coordinator.with_mesh("harbour").unwrap());
    for (builder, name) in [
        (named.builder("n").mesh("airport"), "airport"),
        (named.builder("n"), ""),
    ] {
        let error = join(builder).unwrap_err();
        let Error::OtherMesh { ours, theirs } = &error else {
            panic!("{error}")
        };
        assert_eq!((ours.as_str(), theirs.as_str()), (name, "harbour"));
        let text = error.to_string();
        assert!(text.contains("`harbour`"), "{text}");
        assert!(text.contains(&format!("`{name}`")), "{text}");
    }
    let open = Mesh::start();
    let error = join(open.builder("n").mesh("harbour")).unwrap_err();
    assert!(matches!(error, Error::OtherMesh { .. }), "{error}");
    join(named.builder("good").mesh("harbour")).unwrap();
}

#[test]
fn the_name_is_proven_with_the_key() {
    let set_up = |coordinator: Coordinator| {
        let coordinator = coordinator.with_auth_key(key());
        coordinator.with_mesh("harbour").unwrap()
    };
    let mesh = Mesh::start_with(set_up);
    let builder = mesh.builder("n").auth_key(key());
    let error = join(builder.clone().mesh("airport")).unwrap_err();
    assert!(matches!(error, Error::OtherMesh { .. }), "{error}");
    let error = join(mesh.builder("n").mesh("harbour")).unwrap_err();
    assert!(matches!(error, Error::Unproven(_)), "{error}");
    join(builder.mesh("harbour")).unwrap();
}

#[test]
fn two_meshes_of_one_computer_never_see_each_other() {
    let one = Mesh::start_with(|coordinator| coordinator.with_mesh("one").unwrap());
    let two = Mesh::start_with(|coordinator| coordinator.with_mesh("two").unwrap());
    let dir = TempDir::new();
    let node = |mesh: &Mesh, name: &str| {
        let builder = mesh.builder("n").mesh(name).runtime_dir(dir.path());
        join(builder).unwrap()
    };
    // In this order, so that each finds sockets of the other's when it starts.
    let nodes = [
        node(&one, "one"),
        node(&two, "two"),
        node(&one, "one"),
        node(&two, "two"),
    ];
    let mut senders: Vec<_> = nodes[..2]
        .iter()
        .map(|node| node.publisher::<Raw>("t").build().unwrap())
        .collect();
    let mut receivers: Vec<_> = nodes[2..]
        .iter()
        .map(|node| node.subscriber::<Raw>("t").build().unwrap())
        .collect();
    for (idx, sender) in senders.iter_mut().enumerate() {
        sender.wait_for_listener_blocking(PATIENCE).unwrap();
        sender.publish_bytes(&[u8::try_from(idx).unwrap()]).unwrap();
    }
    for (idx, receiver) in receivers.iter_mut().enumerate() {
        let sample = receiver.recv_blocking(PATIENCE).unwrap();
        assert_eq!(sample.bytes(), [u8::try_from(idx).unwrap()]);
        assert!(receiver.try_recv().unwrap().is_none());
        assert_eq!(receiver.publisher_count(), 1);
    }
    for (idx, node) in nodes.iter().enumerate() {
        // One may hear of the other after it has got its message.
        eventually("each knows its own", || {
            let known: Vec<NodeId> = node.peers().iter().map(|(_, id)| *id).collect();
            assert!(known.len() < 2, "{known:?}");
            known == [nodes[(idx + 2) % 4].id()]
        });
    }
}

#[test]
fn an_embedded_coordinator_demands_its_nodes_key() {
    let (address, dir) = (free_address(), TempDir::new());
    let builder = |name: &str| {
        let builder = Node::builder(name).coordinator(&address);
        builder.runtime_dir(dir.path()).without_signal_handling()
    };
    let one = join(builder("one").auth_key(key()).embedded_coordinator()).unwrap();
    let error = join(builder("keyless")).unwrap_err();
    assert!(matches!(error, Error::Unproven(_)), "{error}");
    let two = join(builder("two").auth_key(key())).unwrap();
    eventually("they know of each other", || one.peers().len() == 1);
    drop(two);
}

/// What a server says to somebody who says these words, until it hangs up.
fn heard(address: &str, words: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // It may hang up at the first of them.
    let _ = stream.write_all(words);
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return said,
            Ok(count) => said.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return said,
            Err(error) => panic!("it does not hang up: {error}"),
        }
    }
}

fn hello(purpose: Purpose) -> Hello {
    Hello::ours(Side::Node, purpose, NodeId::random().unwrap()).unwrap()
}

fn keyed_hello(purpose: Purpose) -> [u8; HELLO_BYTES] {
    let is_keyed = true;
    let hello = Hello {
        is_keyed,
        ..hello(purpose)
    };
    hello.encode()
}

/// What a stranger may say in the place of a proof.
fn no_proofs() -> Vec<Vec<u8>> {
    let mut forged = b"shmesh\0p\x01".to_vec();
    forged.resize(PROOF_BYTES, 0);
    let mut frame = encode(Kind::Link, &LinkFrame::Detach { channel: 1 }).unwrap();
    frame.resize(PROOF_BYTES, 0);
    let message = MessageHeader {
        channel: 1,
        sequence: 1,
        sent_ns: 0,
        len: 32,
    };
    let message = [message.encode(), [0x55; 32]].concat();
    vec![forged, frame, message, vec![0x55; PROOF_BYTES]]
}

fn is_refusal(words: &[u8]) -> bool {
    let mut refusal = b"shmesh\0p\x02".to_vec();
    refusal.resize(PROOF_BYTES, 0);
    words == refusal
}

#[test]
fn a_stranger_hears_nothing_but_a_hello() {
    let mesh = keyed_mesh();
    let door = free_address();
    let node = join(mesh.builder("victim").auth_key(key()).listen(&door)).unwrap();
    let mut publisher = node.publisher::<Raw>("t").build().unwrap();
    for (address, purpose) in [
        (&door, Purpose::NetworkLink),
        (&mesh.address, Purpose::Membership),
    ] {
        assert!(heard(address, &[0x55; HELLO_BYTES]).is_empty());
        let mut unknown_mode = keyed_hello(purpose);
        unknown_mode[11] = 2;
        assert!(heard(address, &unknown_mode).is_empty(), "neither way open");
        let keyless = hello(purpose).encode();
        let said = heard(address, &keyless);
        let answer: [u8; HELLO_BYTES] = said.try_into().expect("one hello");
        assert!(Hello::decode(&answer).unwrap().is_keyed);
        for no_proof in no_proofs() {
            let words = [&keyed_hello(purpose)[..], &no_proof].concat();
            let said = heard(address, &words);
            assert!(is_refusal(&said[HELLO_BYTES..]), "{said:02x?}");
        }
    }
    assert_eq!(publisher.listener_count(), 0);
    assert!(node.peers().is_empty());
    let keys = TempDir::new();
    let file = key_file(&keys, KEY, 0o600);
    let mut friend = mesh.child_with("friend", &format!("key={file} tcp"));
    assert_eq!(friend.ask("sub t keep 4 4"), "ok");
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    publisher.publish_bytes(&payload(0, 10)).unwrap();
    assert_eq!(number(&friend.ask("recv 1"), "damaged"), 0);
}

#[test]
fn a_stranger_at_the_host_socket_hears_nothing_but_a_hello() {
    let mesh = keyed_mesh();
    let node = join(mesh.builder("victim").auth_key(key())).unwrap();
    let publisher = node.publisher::<Raw>("t").build().unwrap();
    let garbage = Peer::dial(&mesh);
    garbage.send(&[0x55; HELLO_BYTES], &[]);
    assert_eq!(garbage.receive(), None);
    let keyless = Peer::dial(&mesh);
    keyless.send(&hello(Purpose::HostLink).encode(), &[]);
    assert_eq!(keyless.receive().unwrap().len(), HELLO_BYTES);
    assert_eq!(keyless.receive(), None);
    for no_proof in no_proofs() {
        let peer = Peer::dial(&mesh);
        peer.send(&keyed_hello(Purpose::HostLink), &[]);
        assert_eq!(peer.receive().unwrap().len(), HELLO_BYTES);
        peer.send(&no_proof, &[]);
        assert!(is_refusal(&peer.receive().unwrap()));
        assert_eq!(peer.receive(), None);
    }
    assert_eq!(publisher.listener_count(), 0);
    join(mesh.builder("good").auth_key(key())).unwrap();
}

/// Passes one connection on to `target`; what either side said.
fn listen_in(target: &str) -> (String, Arc<Mutex<[Vec<u8>; 2]>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let recorded = Arc::new(Mutex::new([Vec::new(), Vec::new()]));
    let (target, record) = (target.to_owned(), Arc::clone(&recorded));
    std::thread::spawn(move || {
        let (near, _) = listener.accept().unwrap();
        drop(listener);
        let far = TcpStream::connect(target).unwrap();
        let ways = [
            (near.try_clone().unwrap(), far.try_clone().unwrap()),
            (far, near),
        ];
        for (idx, (mut from, mut to)) in ways.into_iter().enumerate() {
            let record = Arc::clone(&record);
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = from.read(&mut buffer) {
                    record.lock().unwrap()[idx].extend_from_slice(&buffer[..count]);
                    if to.write_all(&buffer[..count]).is_err() {
                        break;
                    }
                }
                let _ = to.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    (address, recorded)
}

/// A server that has one visitor, to whom `talk` talks.
fn impostor(talk: impl FnOnce(&mut TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        talk(&mut stream);
        // Hears it out, so that nothing on its way is torn down.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    address
}

fn read_words(stream: &mut TcpStream, len: usize) -> Vec<u8> {
    let mut words = vec![0; len];
    stream.read_exact(&mut words).unwrap();
    words
}

#[test]
fn what_was_heard_before_proves_nothing_later() {
    let mesh = keyed_mesh();
    let (address, recorded) = listen_in(&mesh.address);
    let builder = mesh.builder("n").auth_key(key()).coordinator(&address);
    drop(join(builder.clone()).unwrap());
    let [node, coordinator] = recorded.lock().unwrap().clone();
    assert!(node.len() > HELLO_BYTES + PROOF_BYTES, "and its register");
    let said = heard(&mesh.address, &node);
    assert!(is_refusal(&said[HELLO_BYTES..]), "{said:02x?}");
    let replaying = impostor(move |stream| {
        read_words(stream, HELLO_BYTES);
        let _ = stream.write_all(&coordinator);
    });
    let error = join(builder.coordinator(replaying)).unwrap_err();
    assert!(matches!(error, Error::Unproven(_)), "{error}");
}

#[test]
fn words_sent_back_to_their_maker_prove_nothing() {
    let mesh = Mesh::start();
    let builder = mesh.builder("n").auth_key(key());
    let echo = impostor(|stream| {
        let mut reader = stream.try_clone().unwrap();
        let _ = std::io::copy(&mut reader, stream);
    });
    let error = join(builder.clone().coordinator(echo)).unwrap_err();
    assert!(matches!(error, Error::Protocol(_)), "{error}");
    // Its hello under another nonce, and then its own proof.
    let mirror = impostor(|stream| {
        let mut hello = read_words(stream, HELLO_BYTES);
        hello[10] = 2; // a coordinator's
        hello[40] ^= 1; // in the nonce
        let _ = stream.write_all(&hello);
        let proof = read_words(stream, PROOF_BYTES);
        let _ = stream.write_all(&proof);
    });
    let error = join(builder.coordinator(mirror)).unwrap_err();
    assert!(matches!(error, Error::Unproven(_)), "{error}");
}

#[test]
fn no_debug_output_has_the_key() {
    let builder = Node::builder("n").auth_key(key());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let coordinator = runtime.block_on(Coordinator::bind("127.0.0.1:0")).unwrap();
    let coordinator = coordinator.with_auth_key(key());
    for text in [
        format!("{builder:?}"),
        format!("{coordinator:?}"),
        format!("{:?} {:#?}", key(), key()),
    ] {
        assert!(
            !text.contains(KEY) && text.contains("AuthKey(..)"),
            "{text}"
        );
    }
}
