//! Two handshakes at once, and somebody in between who alters, cuts, swaps, keeps back, repeats
//! and reflects their words: nobody is let in by a key but who has it and was heard as it spoke.

use shmesh::NodeId;
use shmesh::link::auth::{AuthKey, BINDING_BYTES, Prover};
use shmesh::link::handshake::{
    Credentials, HELLO_BYTES, Handshake, Hello, Next, PROOF_BYTES, PROTOCOL_VERSION, Purpose, Side,
    Step,
};

/// A byte for each side says who it is. The others, by fours, which word is given to whom, and how
/// it is altered; what stays untouched gets to its end after that.
pub fn run(input: &[u8]) {
    let Some((sides, ops)) = input.split_first_chunk::<4>() else {
        return;
    };
    let mut mesh = Mesh::new(sides);
    for op in ops.chunks_exact(4) {
        mesh.act(op);
    }
    mesh.settle();
}

/// Who a side is.
#[derive(Clone, Copy, Debug)]
struct Identity {
    mesh: &'static str,
    key: Option<u8>,
    binding: u8,
    purpose: Purpose,
    layout: u64,
    side: Side,
}

impl Identity {
    fn of_byte(byte: u8) -> Self {
        Self {
            mesh: ["red", "blue"][usize::from(byte & 1)],
            key: [Some(1), None, Some(2), Some(1)][usize::from(byte >> 1 & 3)],
            binding: byte >> 3 & 1,
            purpose: [
                Purpose::NetworkLink,
                Purpose::HostLink,
                Purpose::Membership,
                Purpose::NetworkLink,
            ][usize::from(byte >> 4 & 3)],
            layout: u64::from(byte >> 6 & 1),
            // All expect nodes, so that nobody wants the others.
            side: [Side::Node, Side::Coordinator][usize::from(byte >> 7)],
        }
    }

    /// True if this side wants to speak with the other, as far as hellos tell.
    fn welcomes(&self, other: &Self) -> bool {
        let is_same_memory = self.purpose != Purpose::HostLink || self.layout == other.layout;
        self.mesh == other.mesh
            && self.key.is_some() == other.key.is_some()
            && self.purpose == other.purpose
            && other.side == Side::Node
            && is_same_memory
    }

    /// True if proofs of one verify with the other.
    fn trusts(&self, other: &Self) -> bool {
        self.key.is_none() || (self.key == other.key && self.binding == other.binding)
    }
}

struct Actor {
    identity: Identity,
    role: Prover,
    handshake: Handshake,
    nonce: [u8; 32],
    sent: Vec<Vec<u8>>,
    received: Vec<Vec<u8>>,
    /// True if it let its peer in, once it is over.
    outcome: Option<bool>,
}

impl Actor {
    fn new(idx: u8, byte: u8) -> Self {
        let identity = Identity::of_byte(byte);
        let role = [Prover::Initiator, Prover::Responder][usize::from(idx % 2)];
        let nonce = [idx + 1; 32];
        let hello = Hello {
            uses_tls: false,
            packs: idx.is_multiple_of(3),
            version: PROTOCOL_VERSION,
            side: identity.side,
            is_keyed: false,
            purpose: identity.purpose,
            id: NodeId(u128::from(idx)),
            nonce,
            layout: identity.layout,
            mesh: [0; 32],
        };
        let key = |byte| AuthKey::new(&[byte; 32]).expect("a key");
        let credentials = Credentials {
            tls: None,
            mesh: identity.mesh.into(),
            key: identity.key.map(key),
        };
        let binding = [identity.binding; BINDING_BYTES];
        let handshake = Handshake::new(role, hello, Side::Node, &credentials, binding);
        let sent = handshake.start().send.into_iter().collect();
        Self {
            identity,
            role,
            handshake,
            nonce,
            sent,
            received: Vec::new(),
            outcome: None,
        }
    }

    /// Gives it a word; its peer, if it lets it in now.
    fn receive(&mut self, word: &[u8]) -> Option<Hello> {
        let Step { send, next } = self.handshake.receive(word);
        if self.outcome.is_some() {
            let is_silent = send.is_none() && matches!(next, Next::Failed(_));
            assert!(is_silent, "nothing is said after the end");
            return None;
        }
        self.received.push(word.to_vec());
        let is_proving = send.as_ref().is_some_and(|word| is_proof(word));
        self.sent.extend(send);
        match next {
            Next::Receive(len) => {
                assert!([HELLO_BYTES, PROOF_BYTES].contains(&len));
                assert!(self.identity.key.is_some(), "without a key, hellos do");
                assert!(!is_proving || self.role == Prover::Initiator);
                None
            }
            Next::Done(theirs) => {
                self.outcome = Some(true);
                Some(theirs)
            }
            Next::Failed(_) => {
                assert!(!is_proving, "proofs are for those that are let in");
                self.outcome = Some(false);
                None
            }
        }
    }

    /// True if all that both have heard is what the other has said.
    fn has_heard(&self, other: &Self) -> bool {
        other.sent.starts_with(&self.received)
    }
}

/// Two pairs of sides: the even ones dial, each the one after it.
struct Mesh {
    actors: Vec<Actor>,
    /// Every word that was ever said, by whom in `actors`.
    words: Vec<Vec<u8>>,
}

impl Mesh {
    fn new(sides: &[u8; 4]) -> Self {
        let actors = (0..).zip(sides).map(|(idx, byte)| Actor::new(idx, *byte));
        let actors: Vec<Actor> = actors.collect();
        let words = actors.iter().flat_map(|actor| actor.sent.clone());
        Self {
            words: words.collect(),
            actors,
        }
    }

    fn act(&mut self, op: &[u8]) {
        let word =
            |back: u8| &self.words[self.words.len() - 1 - usize::from(back) % self.words.len()];
        let other = word(op[3]);
        let altered = altered(word(op[0]).clone(), other, &op[1..]);
        self.deliver(usize::from(op[1] % 4), &altered);
    }

    fn deliver(&mut self, to: usize, word: &[u8]) {
        let said = self.actors[to].sent.len();
        let met = self.actors[to].receive(word);
        self.words
            .extend(self.actors[to].sent[said..].iter().cloned());
        if let Some(theirs) = met {
            self.check_met(&self.actors[to], &theirs);
        }
    }

    /// Whom somebody let in: what it says is what came and what was wanted; with a key, it is one
    /// of the others, and both have heard each other as they spoke.
    fn check_met(&self, actor: &Actor, theirs: &Hello) {
        let mut mesh = [0; 32];
        mesh[..actor.identity.mesh.len()].copy_from_slice(actor.identity.mesh.as_bytes());
        assert_eq!((theirs.version, theirs.mesh), (PROTOCOL_VERSION, mesh));
        assert_eq!(theirs.side, Side::Node);
        assert_eq!(theirs.purpose, actor.identity.purpose);
        assert_eq!(theirs.is_keyed, actor.identity.key.is_some());
        assert_ne!(theirs.nonce, actor.nonce, "an echo");
        if actor.identity.key.is_none() {
            return;
        }
        let is_peer = |other: &&Actor| {
            let (heard, said) = (&actor.received, &other.sent);
            other.role != actor.role
                && other.identity.key == actor.identity.key
                && other.identity.binding == actor.identity.binding
                && other.identity.mesh == actor.identity.mesh
                && heard.first() == said.first()
                && other.received.first() == actor.sent.first()
                && said.get(1).map(|word| meaning(word)) == Some(meaning(&heard[1]))
                // The responder proves last, and only to whom it let in.
                && (actor.role == Prover::Responder || other.outcome == Some(true))
        };
        assert!(
            self.actors.iter().any(|other| is_peer(&other)),
            "{theirs:?}"
        );
    }

    /// Two that were left alone come to what their credentials say.
    fn settle(mut self) {
        for (one, two) in [(0, 1), (2, 3)] {
            let is_untouched = |mesh: &Self| {
                let (one, two) = (&mesh.actors[one], &mesh.actors[two]);
                one.has_heard(two) && two.has_heard(one)
            };
            if !is_untouched(&self) {
                continue;
            }
            while let Some((to, word)) = self.on_its_way(one, two) {
                self.deliver(to, &word);
            }
            assert!(is_untouched(&self));
            let [one, two] = [one, two].map(|idx| &self.actors[idx]);
            for (ours, theirs) in [(one, two), (two, one)] {
                let welcomes = |one: &Actor, two: &Actor| one.identity.welcomes(&two.identity);
                let is_keyed = ours.identity.key.is_some();
                let is_let_in = welcomes(ours, theirs)
                    && ours.identity.trusts(&theirs.identity)
                    && (!is_keyed || welcomes(theirs, ours));
                assert_eq!(ours.outcome == Some(true), is_let_in, "{:?}", ours.identity);
            }
        }
    }

    /// The next word between two, and to whom.
    fn on_its_way(&self, one: usize, two: usize) -> Option<(usize, Vec<u8>)> {
        [(one, two), (two, one)].into_iter().find_map(|(from, to)| {
            let (from, receiver) = (&self.actors[from], &self.actors[to]);
            let word = from.sent.get(receiver.received.len())?;
            receiver.outcome.is_none().then(|| (to, word.clone()))
        })
    }
}

fn altered(mut word: Vec<u8>, other: &[u8], op: &[u8]) -> Vec<u8> {
    let (how, at, value) = (op[0] >> 2, usize::from(op[1]), op[2]);
    match how % 8 {
        1 => {
            if let Some(byte) = word.get_mut(at) {
                *byte ^= value;
            }
        }
        2 => {
            if let Some(byte) = word.get_mut(at) {
                *byte = value;
            }
        }
        3 => word.truncate(at),
        4 => word.resize(word.len() + at, value),
        5 => drop(word.drain(..at.min(word.len()))),
        6 => {
            // The first bytes of one, the others of another.
            word.truncate(at.min(other.len()));
            word.extend_from_slice(&other[word.len()..]);
        }
        _ => {}
    }
    word
}

fn is_proof(word: &[u8]) -> bool {
    word.len() == PROOF_BYTES && word[8] == 1
}

/// What of a proof counts: the reserved bytes in its middle are not looked at.
fn meaning(proof: &[u8]) -> (usize, &[u8], &[u8]) {
    let (head, tail) = proof.split_at(PROOF_BYTES / 2);
    (proof.len(), &head[..9], tail)
}
