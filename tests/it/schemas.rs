//! What nodes say of their types, and who is told.

use std::io::Read as _;

use shmesh::limits::SCHEMAS_LEFT_MAX;
use shmesh::link::handshake::Purpose;
use shmesh::link::wire::{Kind, body, decode, encode};
use shmesh::membership::{FromCoordinator, FromNode};
use shmesh::rkyv::{Archive, Serialize};
use shmesh::schema::{Schema, SchemaBytes};
use shmesh::topology::{Change, Encoding, NodeInfo, TopicType};
use shmesh::{Error, HostId, Message, NodeId};

use crate::stranger::Stranger;
use crate::support::{Mesh, eventually};

/// Only said by the node of a test.
#[derive(Archive, Serialize, Message)]
#[rkyv(crate = shmesh::rkyv)]
struct Question {
    /// How many.
    #[message(unit = "apples")]
    count: u32,
}

#[derive(Archive, Serialize, Message)]
#[rkyv(crate = shmesh::rkyv)]
struct Answer {
    text: String,
}

/// A member by hand, who says and hears the words of the coordinator connection.
struct Member {
    stranger: Stranger,
    unread: Vec<u8>,
}

impl Member {
    fn join(mesh: &Mesh) -> Self {
        let id = NodeId::random().unwrap();
        let stranger = Stranger::join(&mesh.address, Purpose::Membership, id);
        let unread = Vec::new();
        let mut member = Self { stranger, unread };
        member.say(&FromNode::Register(NodeInfo {
            id,
            name: "by-hand".into(),
            host: HostId(1),
            uid: 0,
            pid: 0,
            socket: String::new(),
            addresses: Vec::new(),
        }));
        member
    }

    fn say(&mut self, word: &FromNode) {
        self.stranger.send(&encode(Kind::FromNode, word).unwrap());
    }

    fn hear(&mut self) -> FromCoordinator {
        loop {
            if let Some(frame) = decode(&self.unread).unwrap() {
                let said = body(&frame, Kind::FromCoordinator).unwrap();
                let len = frame.len;
                self.unread.drain(..len);
                return said;
            }
            let mut buffer = [0; 4096];
            let count = self.stranger.stream.read(&mut buffer).unwrap();
            assert!(count > 0, "the coordinator hangs up");
            self.unread.extend_from_slice(&buffer[..count]);
        }
    }

    fn ask(&mut self, hash: u64) -> Option<Vec<u8>> {
        self.say(&FromNode::WantSchema { hash });
        loop {
            if let FromCoordinator::Schema { hash: of, schema } = self.hear() {
                assert_eq!(of, hash);
                return schema.map(|SchemaBytes(bytes)| bytes);
            }
        }
    }

    /// The hash of the type of the first topic of this name that is heard of.
    fn hash_of(&mut self, name: &str) -> u64 {
        loop {
            let changes = match self.hear() {
                FromCoordinator::Snapshot { changes, .. } => changes,
                FromCoordinator::Delta { changes, .. } => changes,
                _ => continue,
            };
            for change in changes {
                if let Change::EndpointUp { endpoint, .. } = change
                    && endpoint.topic == name
                {
                    return endpoint.ty.hash;
                }
            }
        }
    }
}

/// A schema of a type that this program has not, and its type.
fn foreign(name: &str) -> (TopicType, Vec<u8>) {
    let ours = Schema::of::<Answer>().unwrap().encode().unwrap();
    let at = ours.windows(6).position(|bytes| bytes == b"Answer");
    let mut theirs = ours;
    theirs[at.unwrap()..][..6].copy_from_slice(name.as_bytes());
    let ty = TopicType {
        encoding: Encoding::Rkyv,
        name: name.into(),
        hash: Schema::decode(&theirs).unwrap().hash(),
    };
    (ty, theirs)
}

fn announce(member: &mut Member, ty: &TopicType, bytes: Vec<u8>) {
    member.say(&FromNode::Schema {
        hash: ty.hash,
        schema: SchemaBytes(bytes),
    });
    // Heard in order, so it has been taken in.
    let _ = member.ask(0);
}

#[tokio::test]
async fn a_node_tells_of_its_types_before_its_topics() {
    let mut mesh = Mesh::start();
    let node = mesh.builder("asker").build().await.unwrap();
    let publisher = node.publisher::<Question>("count").build().unwrap();
    for restarts in 0..2 {
        let mut member = Member::join(&mesh);
        let hash = member.hash_of("count");
        let bytes = member.ask(hash).expect("it was announced");
        let schema = Schema::decode(&bytes).unwrap();
        assert_eq!(schema, *Schema::of::<Question>().unwrap());
        assert!(schema.to_string().contains("count: u32, // apples"));
        assert_eq!(member.ask(hash + 1), None);
        if restarts == 0 {
            // Another one knows nothing, and is told again.
            mesh = tokio::task::spawn_blocking(|| {
                mesh.restart();
                mesh
            })
            .await
            .unwrap();
        }
    }
    drop(publisher);
}

#[tokio::test]
async fn services_tell_of_what_they_are_asked_and_answer() {
    let mesh = Mesh::start();
    let node = mesh.builder("server").build().await.unwrap();
    let provider = node.provider::<Question, Answer>("eden").build().unwrap();
    let mut member = Member::join(&mesh);
    for hash in [
        Schema::of::<Question>().unwrap().hash(),
        Schema::of::<Answer>().unwrap().hash(),
    ] {
        let mut told = None;
        eventually("it is announced", || {
            told = member.ask(hash);
            told.is_some()
        });
        assert_eq!(Schema::decode(&told.unwrap()).unwrap().hash(), hash);
    }
    drop(provider);
}

#[tokio::test]
async fn a_foreign_type_is_told_of_after_all_who_had_it_have_left() {
    let mesh = Mesh::start();
    let [early, late] = ["early", "late"].map(|name| mesh.builder(name).build());
    let (early, late) = (early.await.unwrap(), late.await.unwrap());
    let (ty, bytes) = foreign("Abcdef");
    assert_eq!(early.schema(&ty).await.unwrap(), None, "nobody has it");

    let mut member = Member::join(&mesh);
    announce(&mut member, &ty, bytes.clone());
    let told = early.schema(&ty).await.unwrap().expect("somebody has it");
    assert_eq!(told.encode().unwrap(), bytes);
    assert_eq!(told.root().name, "Abcdef");

    drop(member);
    let mut witness = Member::join(&mesh);
    // As many as are kept of those whose nodes left.
    let mut passing = Member::join(&mesh);
    for number in 0..SCHEMAS_LEFT_MAX {
        let (ty, bytes) = foreign(&format!("T{number:05}"));
        announce(&mut passing, &ty, bytes);
    }
    assert_eq!(witness.ask(ty.hash), Some(bytes), "its node has left");
    drop(passing);
    eventually("it is forgotten", || witness.ask(ty.hash).is_none());
    assert_eq!(late.schema(&ty).await.unwrap(), None);
    // Who was told once knows it.
    assert!(early.schema(&ty).await.unwrap().is_some());
}

#[tokio::test]
async fn what_is_not_what_it_was_announced_as_is_not_believed() {
    let mesh = Mesh::start();
    let node = mesh.builder("doubter").build().await.unwrap();
    let mut member = Member::join(&mesh);
    let (junk, _) = foreign("Junkkk");
    announce(&mut member, &junk, b"no schema".to_vec());
    assert_eq!(node.schema(&junk).await.unwrap(), None);
    let [(one, _), (_, other)] = [foreign("Onexxx"), foreign("Otherx")];
    announce(&mut member, &one, other);
    assert_eq!(node.schema(&one).await.unwrap(), None);
    // Our own types and other encodings need nobody.
    let raw = TopicType {
        encoding: Encoding::Json,
        name: "Json".into(),
        hash: 0,
    };
    assert_eq!(node.schema(&raw).await.unwrap(), None);
    let (foreign, _) = foreign("Closed");
    let waiting = node.clone();
    node.close().await;
    assert!(matches!(waiting.schema(&foreign).await, Err(Error::Closed)));
}
