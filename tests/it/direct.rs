//! Calls in one line, and what is told to one node.

use shmesh::limits::CLIENTS_PER_NODE_MAX;
use shmesh::rkyv::{Archive, Serialize};
use shmesh::service::{Provider, Serving};
use shmesh::{CallError, Message, Node, NodeId, Raw, Request, Transports};
use shmesh_shm::StatusReader;

use crate::services::{Server, caller_node};
use crate::support::{Mesh, PATIENCE, WAYS, eventually, runtime};

#[derive(Archive, Serialize, Message)]
#[rkyv(crate = shmesh::rkyv)]
struct Pair {
    left: i64,
    note: String,
}

#[test]
fn one_line_calls_a_service_that_may_come_later_and_one_node_of_several() {
    for way in WAYS {
        let mesh = Mesh::start();
        let node = caller_node(&mesh, way);
        let early = node.clone();
        let calling = std::thread::spawn(move || {
            runtime().block_on(async {
                let reply = early.call::<Raw, Raw>("echo", b"early").await.unwrap();
                assert_eq!(*reply, *b"early");
            });
        });
        let _one = Server::start(&mesh, way, "one", "echo echo");
        calling.join().unwrap();
        let _two = Server::start(&mesh, way, "two", "echo echo");
        runtime().block_on(async {
            let client = node.client::<Raw, Raw>("echo").unwrap();
            eventually("both are known", || client.provider_count() == 2);
            let of = |name: &str| {
                let found = node.peers().into_iter().find(|(known, _)| known == name);
                found.unwrap().1
            };
            for _ in 0..3 {
                for name in ["one", "two"] {
                    let reply = client.start_to(name, b"x").unwrap().await.unwrap();
                    assert_eq!(reply.publisher_name(), name, "{way:?}");
                    let reply = client.start_to(of(name), b"x").unwrap().await.unwrap();
                    assert_eq!(reply.publisher_id().0, of(name));
                    client.tell_to(name, b"x").unwrap();
                    node.tell::<Raw, Raw>(of(name), "echo", b"x").await.unwrap();
                }
            }
            for nobody in ["three", "caller"] {
                let error = client.tell_to(nobody, b"x").unwrap_err();
                let CallError::NoSuchNode { node, service } = &error else {
                    panic!("{error}")
                };
                assert_eq!((node.as_str(), service.as_str()), (nobody, "echo"));
            }
            let error = client.start_to(NodeId(7), b"x").map(drop).unwrap_err();
            assert!(matches!(error, CallError::NoSuchNode { .. }), "{error}");
        });
    }
}

#[test]
fn what_is_told_to_a_node_comes_there_in_order_and_nowhere_else() {
    for transports in [Transports::Auto, Transports::Network] {
        let mesh = Mesh::start();
        let nodes = ["caller", "arm", "leg"].map(|name| {
            let builder = mesh.builder(name).transports(transports);
            builder.build_blocking().unwrap()
        });
        let [caller, arm, leg] = &nodes;
        let provider = |node: &Node| -> Provider<Pair, Raw> {
            node.provider::<Pair, Raw>("do").build().unwrap()
        };
        let (mut at_arm, mut at_leg) = (provider(arm), provider(leg));
        let order = |left| Pair {
            left,
            note: "n".repeat(200),
        };
        runtime().block_on(async {
            for number in 0..20 {
                let to = if number % 2 == 0 { "arm" } else { "leg" };
                let order = order(number);
                caller.tell::<Pair, Raw>(to, "do", &order).await.unwrap();
            }
        });
        for number in 0..20 {
            let provider = if number % 2 == 0 {
                &mut at_arm
            } else {
                &mut at_leg
            };
            let request = provider.recv_blocking(PATIENCE).unwrap();
            assert_eq!(
                (request.left.to_native(), request.note.len()),
                (number, 200)
            );
            assert!(!request.wants_reply());
        }
        assert!(at_arm.try_recv().unwrap().is_none() && at_leg.try_recv().unwrap().is_none());
        // One of that name that comes anew is not the one that went.
        let mut direct = caller.caller::<Pair, Raw>("do").build().unwrap();
        let (id, before) = (arm.id(), arm.clone());
        eventually("both are known", || direct.provider_count() == 2);
        before.close_blocking();
        let again = mesh.builder("arm").transports(transports);
        let again = again.build_blocking().unwrap();
        let mut anew = provider(&again);
        eventually("it is known", || direct.tell_to("arm", &order(5)).is_ok());
        assert_eq!(anew.recv_blocking(PATIENCE).unwrap().left.to_native(), 5);
        let error = direct.tell_to(id, &order(6)).unwrap_err();
        assert!(matches!(error, CallError::NoSuchNode { .. }), "{error}");
    }
}

/// Serves what it is asked under many names.
fn serve_many(node: &Node, count: usize) -> Vec<Serving> {
    let echo = |request: Request<Raw>| async move { Ok::<_, String>(request.to_vec()) };
    let serve = |number| node.serve::<Raw, Raw, _, _, _, _>(&format!("s{number}"), echo);
    (0..count).map(|number| serve(number).unwrap()).collect()
}

/// How many topics it publishes, as its status page says.
fn topics_of(node: &Node) -> usize {
    let names = shmesh_shm::status::list();
    let pages = names
        .iter()
        .filter_map(|name| StatusReader::open(name).ok());
    let mut pages = pages.filter(|page| page.node().0 == node.id().0);
    let endpoints = pages.next().unwrap().endpoints();
    let is_its = |topic: &str| topic.starts_with("@requests/");
    endpoints
        .iter()
        .filter(|known| is_its(&known.topic))
        .count()
}

#[test]
fn a_node_keeps_its_clients_up_to_a_bound_and_they_do_not_keep_it() {
    let mesh = Mesh::start();
    let (node, provider) = (mesh.node("caller"), mesh.node("provider"));
    runtime().block_on(async {
        let count = CLIENTS_PER_NODE_MAX + 3;
        let serving = serve_many(&provider, count);
        for number in 0..count {
            let name = format!("s{number}");
            for _ in 0..3 {
                let reply = node.call::<Raw, Raw>(&name, name.as_bytes()).await.unwrap();
                assert_eq!(*reply, *name.as_bytes());
            }
        }
        let is_bounded = || topics_of(&node) == CLIENTS_PER_NODE_MAX;
        eventually("the others are given up", is_bounded);
        let requests: u64 = serving.iter().map(|serving| serving.stats().requests).sum();
        assert_eq!(requests, 3 * count as u64);
    });
    drop(node);
    eventually("it has left", || provider.peers().is_empty());
}
