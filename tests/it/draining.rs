//! Nodes that close while they serve and call.

use std::time::Duration;

use shmesh::service::Outcome;
use shmesh::{CallError, Error, Json, Node, Raw, Request};
use tokio::sync::Semaphore;

use crate::role::Answer;
use crate::services::caller_node;
use crate::support::{Mesh, PATIENCE, Puppet, WAYS, Way, eventually, runtime};

/// Calls that wait here, and calls that were begun.
static GATE: Semaphore = Semaphore::const_new(0);
static BEGUN: Semaphore = Semaphore::const_new(0);

/// What a node does for these tests (see `role`), in this process or another one. `gate` serves
/// an echo that lets requests `wait` at the gate until `open`.
pub(crate) fn play(node: &Node, words: &[&str]) -> Answer {
    match words {
        ["gate", name] => {
            let (node, name) = (node.clone(), (*name).to_owned());
            let (ready, is_ready) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                runtime().block_on(async {
                    let handler = |request: Request<Raw>| async move {
                        if *request == *b"wait" {
                            BEGUN.add_permits(1);
                            GATE.acquire().await.unwrap().forget();
                        }
                        Ok::<_, String>(request.to_vec())
                    };
                    let serving = node.serve::<Raw, Raw, _, _, _, _>(&name, handler);
                    ready.send(serving.is_ok()).unwrap();
                    serving.unwrap().ended().await;
                });
            });
            assert!(is_ready.recv()?);
        }
        ["begun"] => eventually("it begins", || {
            BEGUN.try_acquire().is_ok_and(|permit| {
                permit.forget();
                true
            })
        }),
        ["open"] => GATE.add_permits(1),
        ["leave"] => {
            let node = node.clone();
            std::thread::spawn(move || node.close_blocking());
        }
        _ => return Err("what?".into()),
    }
    Ok("ok".into())
}

/// A node that serves and does what it is told.
enum Server {
    Here(Node),
    There(Puppet),
}

impl Server {
    fn start(mesh: &Mesh, way: Way) -> Self {
        let options = match way {
            Way::Inside => {
                let builder = mesh.builder("provider").grace(PATIENCE);
                return Self::Here(builder.build_blocking().unwrap());
            }
            Way::Memory => "shm grace",
            Way::Network => "tcp grace",
        };
        Self::There(mesh.child_with("provider", options))
    }

    fn tell(&mut self, order: &str) {
        let words: Vec<&str> = order.split(' ').collect();
        let answer = match self {
            Self::Here(node) => play(node, &words).unwrap(),
            Self::There(puppet) => puppet.ask(&format!("drain {order}")),
        };
        assert_eq!(answer, "ok");
    }
}

#[test]
fn a_provider_that_closes_ends_the_calls_it_has_and_turns_new_ones_away() {
    for way in WAYS {
        let mesh = Mesh::start();
        let mut server = Server::start(&mesh, way);
        server.tell("gate echo");
        let node = caller_node(&mesh, way);
        let caller = node.caller::<Raw, Raw>("echo").timeout(PATIENCE);
        let mut caller = caller.build().unwrap();
        caller.wait_for_provider_blocking(PATIENCE).unwrap();
        let first = caller.start(b"wait").unwrap();
        server.tell("begun");
        server.tell("leave");
        eventually("new calls are turned away", || {
            match caller.call_blocking(b"late") {
                Ok(reply) => assert_eq!(*reply, *b"late", "it does not drain yet"),
                Err(CallError::Closing { provider }) => {
                    assert_eq!(provider, "provider");
                    return true;
                }
                Err(error) => panic!("{way:?}: {error}"),
            }
            false
        });
        // Where there is another one, that is called, whoever's turn it would be.
        let mut other = Server::start(&mesh, way);
        other.tell("gate echo");
        eventually("both are known", || caller.provider_count() == 2);
        for _ in 0..10 {
            assert_eq!(*caller.call_blocking(b"more").unwrap(), *b"more");
        }
        assert_eq!(caller.in_flight(), 1);
        server.tell("open");
        let (of, reply) = caller.reply_blocking().unwrap();
        assert_eq!((of, &*reply.unwrap()), (first, &b"wait"[..]), "{way:?}");
        eventually("then it leaves", || caller.provider_count() == 1);
        other.tell("leave");
    }
}

#[test]
fn a_call_that_takes_too_long_is_given_up_when_its_provider_closes() {
    let mesh = Mesh::start();
    let node = mesh.builder("provider").grace(Duration::from_millis(50));
    let node = node.build_blocking().unwrap();
    let caller = mesh.node("caller");
    runtime().block_on(async {
        let begun = Semaphore::new(0);
        let begun: &'static Semaphore = Box::leak(Box::new(begun));
        let never = move |_: Request<Raw>| async move {
            begun.add_permits(1);
            std::future::pending::<Result<Vec<u8>, String>>().await
        };
        let serving = node.serve::<Raw, Raw, _, _, _, _>("never", never).unwrap();
        let client = caller.caller::<Raw, Raw>("never").timeout(PATIENCE);
        let client = client.client().unwrap();
        client.wait_for_provider().await.unwrap();
        let call = client.start(b"x").unwrap();
        begun.acquire().await.unwrap().forget();
        let (error, ()) = tokio::join!(call, node.close());
        let error = error.unwrap_err();
        assert!(matches!(error, CallError::ProviderLost { .. }), "{error}");
        assert!(matches!(serving.ended().await, Outcome::Stopped));
    });
}

#[test]
fn calls_of_a_node_that_closes_end_with_it() {
    let mesh = Mesh::start();
    let (node, provider) = (mesh.node("caller"), mesh.node("provider"));
    let _silent = provider.provider::<Raw, Raw>("silent").build().unwrap();
    let mut caller = node.caller::<Raw, Raw>("silent").build().unwrap();
    caller.wait_for_provider_blocking(PATIENCE).unwrap();
    runtime().block_on(async {
        let client = node.client::<Raw, Raw>("silent").unwrap();
        client.wait_for_provider().await.unwrap();
        let calls = [(); 2].map(|()| client.start(b"x").unwrap());
        let started = caller.start(b"y").unwrap();
        let [one, two] = calls;
        let (one, two, (of, three), ()) = tokio::join!(
            one,
            two,
            async { caller.reply().await.unwrap() },
            node.clone().close()
        );
        assert_eq!(of, started);
        for reply in [one, two, three] {
            let error = reply.unwrap_err();
            assert!(
                matches!(error, CallError::Other(Error::Closed)),
                "{error:?}"
            );
        }
        let error = client.call(b"x").await.unwrap_err();
        assert!(
            matches!(error, CallError::Other(Error::Closed)),
            "{error:?}"
        );
    });
}

#[test]
fn publishers_of_a_closed_node_refuse_whatever_way_one_sends() {
    for history in [0, 4] {
        let mesh = Mesh::start();
        let node = mesh.node("n");
        let make = || node.publisher::<Raw>("t").history(history);
        let (mut publisher, mut other) = (make().build().unwrap(), make().build().unwrap());
        let texts = node.publisher::<Json<u64>>("text").history(history);
        let mut texts = texts.build().unwrap();
        let late = publisher.loan(5000).unwrap();
        publisher.publish_bytes(b"before").unwrap();
        node.close_blocking();
        let is_closed = |sent: Result<shmesh::Sent, Error>| {
            assert!(matches!(sent, Err(Error::Closed)), "{sent:?}");
        };
        for size in [0, 64, 5000] {
            is_closed(publisher.publish_bytes(&vec![1; size]));
            is_closed(runtime().block_on(publisher.publish_bytes_async(&vec![1; size])));
        }
        is_closed(publisher.send(late));
        is_closed(texts.publish(&7));
        is_closed(runtime().block_on(texts.publish_async(&7)));
        // Not even memory is to be had.
        is_closed(other.publish_bytes(&[1; 1 << 20]));
        assert_eq!((publisher.stats().sent, other.stats().sent), (1, 0));
        assert_eq!(other.stats().arena_bytes, 0);
    }
}
