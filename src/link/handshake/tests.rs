//! Two sides of a handshake, with whatever may stand between them.

use super::*;

fn hello(id: u128) -> Hello {
    Hello::ours(Side::Node, Purpose::NetworkLink, NodeId(id)).unwrap()
}

fn credentials(mesh: &str, key: Option<u8>) -> Credentials {
    Credentials {
        mesh: mesh.into(),
        key: key.map(|byte| AuthKey::new(&[byte; 32]).unwrap()),
        tls: None,
    }
}

fn side(role: Prover, id: u128, credentials: &Credentials) -> Handshake {
    Handshake::new(role, hello(id), Side::Node, credentials, [0; BINDING_BYTES])
}

fn initiator(credentials: &Credentials) -> Handshake {
    side(Prover::Initiator, 1, credentials)
}

fn responder(credentials: &Credentials) -> Handshake {
    side(Prover::Responder, 2, credentials)
}

/// Runs two sides against each other; what each of them came to.
fn run(mut one: Handshake, mut two: Handshake) -> (Result<Hello, Error>, Result<Hello, Error>) {
    let (mut outcome_one, mut outcome_two) = (None, None);
    let mut on_its_way = one.start().send;
    while let Some(bytes) = on_its_way.take() {
        let step = two.receive(&bytes);
        settle(&mut outcome_two, step.next);
        let Some(answer) = step.send else { break };
        let step = one.receive(&answer);
        settle(&mut outcome_one, step.next);
        on_its_way = step.send;
    }
    let hung_up = || Err(Error::Protocol("hung up"));
    (
        outcome_one.unwrap_or_else(hung_up),
        outcome_two.unwrap_or_else(hung_up),
    )
}

fn settle(outcome: &mut Option<Result<Hello, Error>>, next: Next) {
    match next {
        Next::Receive(_) => {}
        Next::Done(theirs) => *outcome = Some(Ok(theirs)),
        Next::Failed(error) => *outcome = Some(Err(error)),
    }
}

#[test]
fn a_hello_arrives_as_it_was() {
    let ours = Hello {
        is_keyed: true,
        mesh: *b"a mesh with a name\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        ..hello(7)
    };
    assert_eq!(Hello::decode(&ours.encode()).unwrap(), ours);
    assert_eq!(ours.mesh_name(), "a mesh with a name");
}

#[test]
fn both_sides_get_through_with_the_same_key_or_none() {
    for key in [None, Some(3)] {
        let both = credentials("field", key);
        let (one, two) = run(initiator(&both), responder(&both));
        assert_eq!(one.unwrap().id, NodeId(2));
        assert_eq!(two.unwrap().id, NodeId(1));
    }
}

#[test]
fn another_key_is_refused_and_both_sides_know() {
    let (ours, theirs) = (credentials("", Some(1)), credentials("", Some(2)));
    let (one, two) = run(initiator(&ours), responder(&theirs));
    for outcome in [one, two] {
        assert!(matches!(outcome, Err(Error::Unproven(KEYS_DIFFER))));
    }
}

#[test]
fn a_key_on_one_side_only_is_refused_and_both_sides_know() {
    let (keyed, keyless) = (credentials("", Some(1)), credentials("", None));
    let (one, two) = run(initiator(&keyed), responder(&keyless));
    assert!(matches!(one, Err(Error::Unproven(KEY_MISSING_THERE))));
    assert!(matches!(two, Err(Error::Unproven(KEY_MISSING_HERE))));
    let (one, two) = run(initiator(&keyless), responder(&keyed));
    assert!(matches!(one, Err(Error::Unproven(KEY_MISSING_HERE))));
    assert!(matches!(two, Err(Error::Unproven(KEY_MISSING_THERE))));
}

#[test]
fn another_mesh_is_refused_and_both_sides_know_both_names() {
    for key in [None, Some(1)] {
        let (ours, theirs) = (credentials("red", key), credentials("blue", key));
        let (one, two) = run(initiator(&ours), responder(&theirs));
        let text = one.unwrap_err().to_string();
        assert!(text.contains("red") && text.contains("blue"), "{text}");
        assert!(matches!(two, Err(Error::OtherMesh { .. })));
    }
}

#[test]
fn the_mesh_is_part_of_what_is_proven() {
    // Somebody in between renames the mesh in both hellos: they fit, but the proofs do not.
    let (red, blue) = (credentials("red", Some(1)), credentials("blue", Some(1)));
    let (mut one, mut two) = (initiator(&red), responder(&blue));
    let rename = |mut bytes: Vec<u8>, name: &[u8; 4]| {
        bytes[HELLO_BYTES - 56..][..4].copy_from_slice(name);
        bytes
    };
    let hello = one.start().send.unwrap();
    assert_eq!(&hello[HELLO_BYTES - 56..][..4], b"red\0");
    let answer = two.receive(&rename(hello, b"blue")).send.unwrap();
    let proof = one.receive(&rename(answer, b"red\0")).send.unwrap();
    assert!(matches!(
        two.receive(&proof).next,
        Next::Failed(Error::Unproven(_))
    ));
}

#[test]
fn another_version_is_answered_so_that_both_sides_know() {
    let both = credentials("", Some(1));
    let mut bytes = hello(1).encode();
    bytes[8] = 99;
    let step = responder(&both).receive(&bytes);
    assert!(step.send.is_some(), "our version is said");
    let Next::Failed(Error::Version { ours, theirs: 99 }) = step.next else {
        panic!("{step:?}")
    };
    assert_eq!(ours, PROTOCOL_VERSION);
    let step = initiator(&both).receive(&bytes);
    assert!(matches!(step.next, Next::Failed(Error::Version { .. })));
    let step = responder(&both).receive(&[0; HELLO_BYTES]);
    assert!(step.send.is_none(), "nothing is said to garbage");
}

#[test]
fn our_own_words_coming_back_are_refused() {
    for key in [None, Some(1)] {
        let both = credentials("", key);
        let mut one = initiator(&both);
        let echo = one.start().send.unwrap();
        assert!(matches!(one.receive(&echo).next, Next::Failed(_)));
    }
}

#[test]
fn a_proof_reflected_over_a_second_connection_is_refused() {
    // The attacker has no key. It is dialled by the victim and lets the victim, which it dials in
    // its turn, answer: nonces and roles do not fit.
    let both = credentials("", Some(1));
    let mut dialling = initiator(&both);
    let mut dialled = responder(&both);
    let hello = dialling.start().send.unwrap();
    let answer = dialled.receive(&hello).send.unwrap();
    let proof = dialling.receive(&answer).send.unwrap();
    // Back to its maker, as the responder's proof.
    let step = dialling.receive(&proof);
    assert!(matches!(step.next, Next::Failed(Error::Unproven(_))));
}

#[test]
fn a_recorded_handshake_does_not_open_another_connection() {
    let both = credentials("", Some(1));
    let (mut one, mut two) = (initiator(&both), responder(&both));
    let hello = one.start().send.unwrap();
    let answer = two.receive(&hello).send.unwrap();
    let proof = one.receive(&answer).send.unwrap();
    let mut later = responder(&both);
    assert!(later.receive(&hello).send.is_some());
    let step = later.receive(&proof);
    assert!(matches!(step.next, Next::Failed(Error::Unproven(_))));
}

#[test]
fn proofs_of_another_form_or_channel_are_refused_alike() {
    let both = credentials("", Some(1));
    let attempt = |change: &dyn Fn(&mut Vec<u8>)| {
        let (mut one, mut two) = (initiator(&both), responder(&both));
        let answer = two.receive(&one.start().send.unwrap()).send.unwrap();
        let mut proof = one.receive(&answer).send.unwrap();
        change(&mut proof);
        let step = two.receive(&proof);
        (step.send, matches!(step.next, Next::Done(_)))
    };
    assert!(attempt(&|_| {}).1);
    let refusal = attempt(&|proof| proof[40] ^= 1);
    assert!(!refusal.1);
    for idx in (0..9).chain(PROOF_BYTES - TAG_BYTES..PROOF_BYTES) {
        assert_eq!(attempt(&|proof| proof[idx] ^= 0x80), refusal, "byte {idx}");
    }
    for len in 0..PROOF_BYTES {
        assert_eq!(
            attempt(&|proof| proof.truncate(len)),
            refusal,
            "{len} bytes"
        );
    }
    assert_eq!(attempt(&|proof| proof.push(0)), refusal);
    let mut elsewhere = initiator(&both);
    elsewhere.binding = [9; BINDING_BYTES];
    let (one, two) = run(elsewhere, responder(&both));
    assert!(one.is_err() && two.is_err(), "another channel");
}

#[test]
fn modes_sides_and_purposes_fail_closed() {
    let both = credentials("", None);
    let refused =
        |bytes: [u8; HELLO_BYTES]| matches!(responder(&both).receive(&bytes).next, Next::Failed(_));
    assert!(!refused(hello(1).encode()));
    for (at, value) in [
        (10, 3),
        (11, 2),
        (11, 255),
        (12, 0),
        (12, 4),
        (12, 1),
        (13, 1),
        (13, 2),
    ] {
        let mut bytes = hello(1).encode();
        bytes[at] = value;
        assert!(refused(bytes), "byte {at} is {value}");
    }
    let layout = Hello {
        layout: 1,
        ..hello(1)
    };
    assert!(!refused(layout.encode()), "other hosts may differ");
    let on_host = |id| Hello::ours(Side::Node, Purpose::HostLink, NodeId(id)).unwrap();
    let layout = Hello {
        layout: 1,
        ..on_host(1)
    };
    let checked = on_host(2).check(&layout, Side::Node);
    assert!(matches!(checked, Err(Error::Layout)));
}

proptest::proptest! {
    #[test]
    fn garbage_ends_a_handshake_and_nothing_else(
        words in proptest::collection::vec(
            proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), 1..4),
        is_keyed in proptest::prelude::any::<bool>(),
    ) {
        let both = credentials("m", is_keyed.then_some(1));
        for mut side in [initiator(&both), responder(&both)] {
            for word in &words {
                let step = side.receive(word);
                proptest::prop_assert!(!matches!(step.next, Next::Done(_)));
            }
        }
    }
}
