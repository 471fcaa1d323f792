//! Services: calls and their replies on every path, and how calls end that have none.

use std::time::Duration;

use shmesh::rkyv::{Archive, Serialize};
use shmesh::service::{Provider, ProviderStats};
use shmesh::{Balance, CallError, Caller, Error, Message, Node, Raw, Serving, Transports};
use tokio::sync::watch;

use crate::support::{
    Mesh, PATIENCE, Puppet, WAYS, Way, eventually, is_intact, number, payload, runtime,
};

#[derive(Archive, Serialize, Message)]
#[rkyv(crate = shmesh::rkyv)]
struct Pair {
    left: i64,
    right: i64,
    note: String,
}

#[derive(Archive, Serialize, Message)]
#[rkyv(crate = shmesh::rkyv)]
struct Sum {
    value: i64,
    note: String,
}

/// Nodes of this process that can only talk on that path.
fn two_nodes(mesh: &Mesh, way: Way) -> (Node, Node) {
    let node = |name| {
        let builder = mesh.builder(name);
        let transports = match way {
            Way::Network => Transports::Network,
            Way::Inside | Way::Memory => Transports::Auto,
        };
        builder.transports(transports).build_blocking().unwrap()
    };
    (node("caller"), node("provider"))
}

/// Who serves, in this process or another one; ends when it is dropped, as suddenly as it can.
pub(crate) enum Server {
    Here(Node),
    There(#[allow(dead_code)] Puppet),
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Self::Here(node) = self {
            node.clone().close_blocking();
        }
    }
}

/// Serves `name`: see [`serve_as_child`].
fn server(mesh: &Mesh, way: Way, name: &str, how: &str) -> Server {
    Server::start(mesh, way, "provider", &format!("{name} {how}"))
}

impl Server {
    /// A node of that name serves `what`: see [`serve_as_child`].
    pub(crate) fn start(mesh: &Mesh, way: Way, node: &str, what: &str) -> Self {
        let mut server = match way {
            Way::Network => mesh.remote(node),
            Way::Memory => mesh.child(node),
            Way::Inside => {
                let node = mesh.node(node);
                let words: Vec<&str> = what.split(' ').collect();
                serve_as_child(node.clone(), &words).unwrap();
                return Self::Here(node);
            }
        };
        assert_eq!(server.ask(&format!("serve {what}")), "ok");
        Self::There(server)
    }
}

/// A node that can only talk on that path.
pub(crate) fn caller_node(mesh: &Mesh, way: Way) -> Node {
    let transports = match way {
        Way::Network => Transports::Network,
        Way::Inside | Way::Memory => Transports::Auto,
    };
    let builder = mesh.builder("caller").transports(transports);
    builder.build_blocking().unwrap()
}

/// What the other process does: serves raw bytes with a runtime of its own, until it ends.
/// `how`: `echo`; `never`; `fail`; `panic`; `large` (a reply beyond its arena is not tried: as many
/// bytes as the request says); and how many handlers and how many waiting requests there may be.
pub(crate) fn serve_as_child(node: Node, words: &[&str]) -> Result<String, Error> {
    let (name, how) = (words[0].to_owned(), words[1].to_owned());
    let count = |idx: usize| words.get(idx).map_or(64, |word| word.parse().unwrap());
    let (handlers, pending) = (count(2), count(3));
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = runtime();
        runtime.block_on(async {
            let provider = node.provider::<Raw, Raw>(&name);
            let serving = provider.concurrency(handlers).pending(pending);
            let serving = serving.serve(move |request: shmesh::Request<Raw>| {
                let how = how.clone();
                async move {
                    match how.as_str() {
                        "never" => std::future::pending().await,
                        "fail" => Err(format!("no {}", request.len())),
                        "panic" => panic!("on purpose"),
                        "large" => Ok(vec![
                            7;
                            u32::from_le_bytes(request[..4].try_into().unwrap())
                                as usize
                        ]),
                        _ => Ok(request.to_vec()),
                    }
                }
            });
            match serving {
                Ok(serving) => {
                    ready.send(Ok("ok".to_owned())).unwrap();
                    serving.ended().await;
                }
                Err(error) => ready.send(Err(error)).unwrap(),
            }
        });
    });
    is_ready.recv().unwrap()
}

fn raw_caller(node: &Node, name: &str) -> Caller<Raw, Raw> {
    let caller = node.caller::<Raw, Raw>(name).timeout(PATIENCE);
    let mut caller = caller.build().unwrap();
    caller.wait_for_provider_blocking(PATIENCE).unwrap();
    caller
}

#[test]
fn requests_and_replies_of_every_size_come_whole_in_all_ways_to_wait() {
    let mesh = Mesh::start();
    for way in WAYS {
        let _server = server(&mesh, way, "echo", "echo");
        let node = caller_node(&mesh, way);
        let mut caller = raw_caller(&node, "echo");
        let runtime = runtime();
        for (number, size) in (0..).zip([0, 1, 31, 64, 65, 96, 97, 4000, 100_000, 3_000_000]) {
            let request = payload(number, size);
            let reply = caller.call_spin(&request).unwrap();
            assert!(
                is_intact(&reply, number) && reply.len() == size,
                "{way:?} {size}"
            );
            assert_eq!(reply.publisher_name(), "provider");
            let reply = caller.call_blocking(&request).unwrap();
            assert!(is_intact(&reply, number) && reply.len() == size);
            let reply = runtime.block_on(caller.call(&request)).unwrap();
            assert!(is_intact(&reply, number) && reply.len() == size);
        }
        assert_eq!(caller.in_flight(), 0);
    }
}

#[test]
fn typed_requests_are_read_in_place_and_so_are_replies() {
    for way in [Way::Inside, Way::Network] {
        let mesh = Mesh::start();
        let (caller, provider) = two_nodes(&mesh, way);
        let runtime = runtime();
        runtime.block_on(async {
            let add = |pair: shmesh::Request<Pair>| async move {
                let sum = pair.left.to_native().checked_add(pair.right.to_native());
                let value = sum.ok_or("overflow")?;
                let note = format!("{} for {}", pair.note, pair.caller_name());
                Ok::<_, &str>(Sum { value, note })
            };
            let _serving = provider.serve::<Pair, Sum, _, _, _, _>("add", add).unwrap();
            let client = caller.client::<Pair, Sum>("add").unwrap();
            client.wait_for_provider().await.unwrap();
            let pair = |left, right| Pair {
                left,
                right,
                note: "n".repeat(200),
            };
            let sum = client.call(&pair(2, 40)).await.unwrap();
            assert_eq!(sum.value, 42);
            assert!(sum.note.ends_with("n for caller"));
            let error = client.call(&pair(i64::MAX, 1)).await.unwrap_err();
            let CallError::Failed { provider, message } = &error else {
                panic!("{error}")
            };
            assert_eq!(
                (provider.as_str(), message.as_str()),
                ("provider", "overflow")
            );
        });
    }
}

#[test]
fn every_way_to_have_no_reply_can_be_told_apart() {
    let mesh = Mesh::start();
    for way in WAYS {
        let node = caller_node(&mesh, way);
        let caller = node.caller::<Raw, Raw>("nobody").build();
        let error = caller.unwrap().call_blocking(b"x").unwrap_err();
        assert!(matches!(error, CallError::NoProvider { .. }), "{error}");

        let _failing = server(&mesh, way, "fail", "fail");
        let error = raw_caller(&node, "fail").call_blocking(b"abc").unwrap_err();
        let CallError::Failed { message, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(message, "no 3");

        let _panicking = server(&mesh, way, "panic", "panic");
        let mut caller = raw_caller(&node, "panic");
        for _ in 0..3 {
            let error = caller.call_blocking(b"x").unwrap_err();
            let CallError::Panicked { message, .. } = &error else {
                panic!("{error}")
            };
            assert_eq!(message, "on purpose", "it serves on");
        }

        let _silent = server(&mesh, way, "never", "never");
        let caller = node.caller::<Raw, Raw>("never");
        let mut caller = caller.timeout(Duration::from_millis(50)).build().unwrap();
        caller.wait_for_provider_blocking(PATIENCE).unwrap();
        let error = caller.call_blocking(b"x").unwrap_err();
        assert!(matches!(error, CallError::Timeout { .. }), "{error}");

        let _large = server(&mesh, way, "large", "large");
        let mut caller = raw_caller(&node, "large");
        let error = caller
            .call_blocking(&(1_u32 << 31).to_le_bytes())
            .unwrap_err();
        assert!(
            matches!(&error, CallError::Failed { message, .. }
            if message.contains("cannot be sent")),
            "{error}"
        );
        let reply = caller.call_blocking(&100_u32.to_le_bytes()).unwrap();
        assert_eq!(*reply, [7; 100], "and goes on");
    }
}

#[test]
fn other_types_are_refused_when_made_and_when_called() {
    let mesh = Mesh::start();
    let (caller, provider) = two_nodes(&mesh, Way::Inside);
    let early = caller.caller::<Pair, Sum>("add").build();
    let _provider = provider.provider::<Raw, Raw>("add").build();
    let mut early = early.unwrap();
    let pair = Pair {
        left: 1,
        right: 1,
        note: String::new(),
    };
    eventually("the mismatch is known", || {
        let error = early.call_blocking(&pair).unwrap_err();
        matches!(error, CallError::TypeMismatch(_))
    });
    let late = caller.caller::<Pair, Sum>("add").build();
    assert!(matches!(late, Err(Error::TypeMismatch { .. })));
}

#[test]
fn a_provider_killed_in_the_middle_of_a_call_ends_it_and_the_next_one_is_found() {
    let mesh = Mesh::start();
    for way in WAYS {
        let dying = server(&mesh, way, "work", "never");
        let node = caller_node(&mesh, way);
        let mut caller = raw_caller(&node, "work");
        let id = caller.start(b"x").unwrap();
        drop(dying);
        let (of, reply) = caller.reply_blocking().unwrap();
        assert_eq!(of, id);
        let error = reply.unwrap_err();
        let CallError::ProviderLost { provider } = &error else {
            panic!("{error}")
        };
        assert_eq!(provider, "provider");
        let _next = server(&mesh, way, "work", "echo");
        caller.wait_for_provider_blocking(PATIENCE).unwrap();
        assert_eq!(*caller.call_blocking(b"again").unwrap(), *b"again");
    }
}

/// A provider that never answers, watched from inside.
fn silent(node: &Node, limit: u32, pending: u32) -> (Serving, watch::Receiver<i64>) {
    struct Running(watch::Sender<i64>);
    impl Drop for Running {
        fn drop(&mut self) {
            self.0.send_modify(|count| *count -= 1);
        }
    }
    let (sender, running) = watch::channel(0);
    let provider = node.provider::<Raw, Raw>("silent");
    let provider = provider.concurrency(limit).pending(pending);
    let serving = provider.serve(move |_request: shmesh::Request<Raw>| {
        sender.send_modify(|count| *count += 1);
        let running = Running(sender.clone());
        async move {
            let _running = running;
            std::future::pending::<Result<Vec<u8>, String>>().await
        }
    });
    (serving.unwrap(), running)
}

fn stats_of(serving: &Serving) -> ProviderStats {
    serving.stats()
}

#[test]
fn handlers_of_callers_that_are_gone_or_gave_up_are_dropped_at_the_limit_too() {
    let mesh = Mesh::start();
    for way in WAYS {
        let transports = match way {
            Way::Network => Transports::Network,
            Way::Inside | Way::Memory => Transports::Auto,
        };
        let provider = mesh.builder("provider").transports(transports);
        let provider = provider.build_blocking().unwrap();
        runtime().block_on(async {
            let (serving, mut running) = silent(&provider, 2, 4);
            let mut puppet = match way {
                Way::Network => mesh.remote("caller"),
                Way::Inside | Way::Memory => mesh.child("caller"),
            };
            let ask = tokio::task::spawn_blocking(move || {
                assert_eq!(puppet.ask("calls silent 5"), "5 under way");
                puppet
            });
            let puppet = ask.await.unwrap();
            running.wait_for(|count| *count == 2).await.unwrap();
            puppet.kill();
            running.wait_for(|count| *count == 0).await.unwrap();
            // One that gives up.
            let node = mesh.builder("patient").transports(transports).build().await;
            let client = node.unwrap().client::<Raw, Raw>("silent").unwrap();
            client.wait_for_provider().await.unwrap();
            let calls: Vec<_> = (0..2).map(|_| client.start(b"x").unwrap()).collect();
            running.wait_for(|count| *count == 2).await.unwrap();
            drop(calls);
            running.wait_for(|count| *count == 0).await.unwrap();
            assert_eq!(stats_of(&serving).done, 0);
        });
    }
}

#[test]
fn ten_thousand_calls_against_a_limit_are_served_or_told_that_it_is_too_much() {
    let mesh = Mesh::start();
    for way in WAYS {
        let _server = server(&mesh, way, "echo", "echo 64 0");
        let node = caller_node(&mesh, way);
        let caller = node.caller::<Raw, Raw>("echo").in_flight_max(4000);
        let mut caller = caller.timeout(PATIENCE).build().unwrap();
        caller.wait_for_provider_blocking(PATIENCE).unwrap();
        let (mut served, mut refused) = (0, 0);
        let mut count = |reply: Result<_, CallError>| match reply {
            Ok(_) => served += 1,
            Err(CallError::Overloaded { .. }) => refused += 1,
            Err(error) => panic!("{way:?}: {error}; {served} served, {refused} refused"),
        };
        for number in 0..10_000_u32 {
            loop {
                match caller.start(&number.to_le_bytes()) {
                    Ok(_) => break,
                    Err(CallError::TooManyCalls { max: 4000 }) => {
                        let (_, reply) = caller.reply_blocking().unwrap();
                        count(reply.map(|reply| assert_eq!(reply.len(), 4)));
                    }
                    Err(error) => break count(Err(error)),
                }
            }
        }
        while caller.in_flight() > 0 {
            count(caller.reply_blocking().unwrap().1.map(|_| ()));
        }
        assert_eq!(served + refused, 10_000, "{way:?}");
        assert!(served >= 64, "{way:?}: {served}");
    }
}

#[test]
fn several_providers_share_the_calls_and_can_all_be_asked_at_once() {
    let mesh = Mesh::start();
    for way in WAYS {
        let servers = [0, 1, 2].map(|_| server(&mesh, way, "echo", "echo"));
        let node = caller_node(&mesh, way);
        let mut caller = raw_caller(&node, "echo");
        eventually("all three are there", || caller.provider_count() == 3);
        let mut counts = std::collections::HashMap::new();
        for _ in 0..30 {
            let (node, _) = caller.call_blocking(b"x").unwrap().publisher_id();
            *counts.entry(node).or_insert(0) += 1;
        }
        assert_eq!(counts.into_values().collect::<Vec<_>>(), [10, 10, 10]);
        let started = caller.start_all(b"all").unwrap();
        let mut replied: Vec<_> = (0..3).map(|_| caller.reply_blocking().unwrap().0).collect();
        replied.sort_unstable();
        assert_eq!(replied, started);
        drop(servers);
    }
}

#[test]
fn calls_of_many_tasks_through_one_client_all_get_their_own_reply() {
    let mesh = Mesh::start();
    for way in WAYS {
        let _server = server(&mesh, way, "echo", "echo");
        let node = caller_node(&mesh, way);
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let client = node.client::<Raw, Raw>("echo").unwrap();
            client.wait_for_provider().await.unwrap();
            let mut tasks = tokio::task::JoinSet::new();
            for task in 0..32_u64 {
                let client = client.clone();
                tasks.spawn(async move {
                    for number in 0..100_u64 {
                        let request = [task.to_le_bytes(), number.to_le_bytes()].concat();
                        let reply = client.call(&request).await.unwrap();
                        assert_eq!(*reply, *request);
                    }
                });
            }
            while let Some(done) = tasks.join_next().await {
                done.unwrap();
            }
        });
    }
}

#[test]
fn what_is_told_is_done_without_a_reply() {
    let mesh = Mesh::start();
    let (caller, provider) = two_nodes(&mesh, Way::Inside);
    let mut provider: Provider<Raw, Raw> = provider.provider("log").build().unwrap();
    let mut caller = raw_caller(&caller, "log");
    caller.tell(b"one").unwrap();
    let request = provider.recv_blocking(PATIENCE).unwrap();
    assert_eq!((&*request, request.wants_reply()), (&b"one"[..], false));
    provider.reply(&request, b"not wanted").unwrap();
    let id = caller.start(b"two").unwrap();
    let request = provider.recv_blocking(PATIENCE).unwrap();
    assert!(request.wants_reply());
    provider.reply(&request, b"yes").unwrap();
    let (of, reply) = caller.reply_blocking().unwrap();
    assert_eq!((of, &*reply.unwrap()), (id, &b"yes"[..]));
}

#[test]
fn nodes_of_one_name_share_a_topic_and_a_member_that_dies_takes_only_what_it_had_not_read() {
    let mesh = Mesh::start();
    for way in WAYS {
        let member = || match way {
            Way::Network => mesh.remote("worker"),
            Way::Inside | Way::Memory => mesh.child("worker"),
        };
        let node = caller_node(&mesh, way);
        let publisher = node.publisher::<Raw>("t").balance(Balance::RoundRobin);
        let mut publisher = publisher.build().unwrap();
        let mut members = [member(), member(), member()];
        for member in &mut members {
            assert_eq!(member.ask("sub t 20000 512 8"), "ok");
        }
        eventually("all listen", || publisher.listener_count() == 3);
        for number in 0..300 {
            let sent = publisher.publish_bytes(&payload(number, 50)).unwrap();
            assert_eq!((sent.listeners, sent.refused), (1, 0));
        }
        for member in &mut members {
            let answer = member.ask("drain");
            assert_eq!(number(&answer, "received"), 100, "{way:?}: {answer}");
            assert_eq!(
                number(&answer, "lost"),
                0,
                "others' messages are no loss: {answer}"
            );
        }
        // One that stops reading has 20 of the next 60, and dies with them.
        let [mut first, mut second, third] = members;
        for number in 300..360 {
            publisher.publish_bytes(&payload(number, 50)).unwrap();
        }
        let sum = |first: &mut Puppet, second: &mut Puppet| {
            let of = |member: &mut Puppet| number(&member.ask("drain"), "received");
            of(first) + of(second)
        };
        assert_eq!(sum(&mut first, &mut second), 240);
        third.kill();
        eventually("its death is seen", || publisher.listener_count() == 2);
        for number in 360..460 {
            publisher.publish_bytes(&payload(number, 50)).unwrap();
        }
        eventually("the others got all that followed", || {
            sum(&mut first, &mut second) == 340
        });
    }
}

#[test]
fn a_call_allocates_nothing() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let mut provider = node.provider::<Raw, Raw>("echo").build().unwrap();
    let mut caller = raw_caller(&node, "echo");
    let mut round = |bytes| {
        let request = payload(7, bytes);
        allocation_counter::measure(|| {
            for _ in 0..100 {
                let id = caller.start(&request).unwrap();
                let request = provider.try_recv().unwrap().unwrap();
                provider.reply(&request, &request).unwrap();
                let (of, reply) = caller.try_reply().unwrap().unwrap();
                assert_eq!((of, reply.unwrap().len()), (id, bytes));
            }
        })
        .count_total
    };
    for bytes in [64, 50_000] {
        round(bytes);
        assert_eq!(round(bytes), 0, "{bytes} bytes");
    }
}
