//! `mesh metrics`, scraped as Prometheus does, and a program's own recorder.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use shmesh::limits::SCRAPES_MAX;
use shmesh::{Overflow, Raw};

use crate::support::{Mesh, PATIENCE, Puppet, eventually};

const MESH: &str = env!("CARGO_BIN_EXE_mesh");

/// `mesh metrics` on a free port.
struct Exporter {
    child: Child,
    address: SocketAddr,
}

impl Exporter {
    fn start() -> Self {
        let mut command = Command::new(MESH);
        let command = command.args(["metrics", "--listen", "127.0.0.1:0", "--json"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = said["listening"].as_str().unwrap().parse().unwrap();
        Self { child, address }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// The head and the body of an answer.
    fn ask(&self, request: &str) -> (String, String) {
        let mut stream = self.connect();
        // By bytes, as a slow network would bring it.
        for byte in request.as_bytes() {
            stream.write_all(&[*byte]).unwrap();
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let len = format!("Content-Length: {}", body.len());
        assert!(head.contains(&len) || body.is_empty(), "{head}");
        (head.into(), body.into())
    }

    fn scrape(&self) -> String {
        let (head, body) = self.ask("GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("Content-Type: text/plain; version=0.0.4"));
        body
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The value of the one line that has all of this.
pub(crate) fn value(text: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let start = format!("{name}{{");
    let lines = text.lines().filter(|line| line.starts_with(&start));
    let mut lines = lines.filter(|line| labels.iter().all(|label| line.contains(label)));
    let (line, more) = (lines.next()?, lines.next());
    assert!(more.is_none(), "several: {line} and {more:?}");
    line.rsplit(' ').next().unwrap().parse().ok()
}

#[test]
fn a_scrape_says_what_nodes_count_also_of_those_that_hang_or_died() {
    let mesh = Mesh::start();
    let exporter = Exporter::start();
    let node = mesh.node("scraped");
    let mut frames = node.subscriber::<Raw>("frames").build().unwrap();
    let mut publisher = node.publisher::<Raw>("frames").build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    for _ in 0..20 {
        publisher.publish_bytes(&[1; 1000]).unwrap();
    }
    while frames.try_recv().unwrap().is_some() {}
    let id = format!("id=\"{}\"", node.id());
    let [sent, received] = ["publisher", "subscriber"].map(|role| format!("role=\"{role}\""));
    let text = exporter.scrape();
    let of = |name, labels: &[&str]| {
        let labels = [labels, &[&id, "node=\"scraped\"", "topic=\"frames\""]].concat();
        value(&text, name, &labels)
    };
    assert_eq!(of("shmesh_messages_total", &[&sent]), Some(20.0));
    assert_eq!(of("shmesh_messages_total", &[&received]), Some(16.0));
    let lost = [&*received, "cause=\"overwritten\""];
    assert_eq!(of("shmesh_lost_total", &lost), Some(4.0));
    assert_eq!(of("shmesh_bytes_total", &[&sent]), Some(20_000.0));
    assert_eq!(of("shmesh_peers", &[&sent]), Some(1.0));
    assert_eq!(
        of("shmesh_arena_bytes", &[&sent]),
        Some(publisher.stats().arena_bytes as f64)
    );
    assert_eq!(of("shmesh_arena_bytes", &[&received]), None);

    let mut hanging = mesh.child("hanging");
    assert_eq!(hanging.ask("pub t 1000000"), "ok");
    hanging.signal(Signal::STOP);
    let pid = format!("pid=\"{}\"", hanging.id());
    let up = || value(&exporter.scrape(), "shmesh_node_up", &[&pid]);
    assert_eq!(up(), Some(1.0), "it hangs, but lives");
    Puppet::kill(hanging);
    // Whoever starts next removes the page; until then it says that the node is dead.
    assert!(matches!(up(), Some(0.0) | None));
}

#[test]
fn what_waits_in_the_rings_of_a_subscriber_that_hangs_is_seen_on_every_path() {
    let mut mesh = Mesh::start();
    let exporter = Exporter::start();
    let node = mesh.node("slow");
    let overflow = Overflow::KeepLast(32);
    let subscriber = node.subscriber::<Raw>("t").overflow(overflow);
    let mut subscriber = subscriber.build().unwrap();
    let neighbour = mesh.node("neighbour");
    let mut publisher = neighbour.publisher::<Raw>("t").build().unwrap();
    publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    for _ in 0..3 {
        publisher.publish_bytes(&[1; 10]).unwrap();
    }
    let mut others = [mesh.child("same-host"), mesh.remote("another-host")];
    for (other, count) in others.iter_mut().zip([4, 50]) {
        assert_eq!(other.ask("pub t 1000000"), "ok");
        assert_eq!(other.ask("heard"), "ok");
        other.ask(&format!("send {count} 10"));
    }
    let id = format!("id=\"{}\"", node.id());
    let of = |name, more: &str| value(&exporter.scrape(), name, &[&id, more]);
    let unread = || of("shmesh_ring_unread", "topic=\"t\"");
    let room = || of("shmesh_ring_room", "topic=\"t\"");
    // Of the last there is room for so many.
    eventually("all wait", || unread() == Some(3.0 + 4.0 + 32.0));
    assert_eq!(room(), Some(3.0 * 32.0));
    for _ in 0..9 {
        subscriber.recv_blocking(PATIENCE).unwrap();
    }
    eventually("some are taken", || unread() == Some(30.0));
    drop((publisher, others));
    while unread() != Some(0.0) {
        let _ = subscriber.try_recv();
    }
    eventually("no ring is left", || room() == Some(0.0));

    let found_again = || of("shmesh_reconnects_total", "to=\"coordinator\"");
    assert_eq!(found_again(), Some(0.0));
    mesh.restart();
    eventually("the coordinator is back", || found_again() == Some(1.0));
}

#[test]
fn it_answers_what_it_must_and_ends_well() {
    let exporter = Exporter::start();
    let (head, body) = exporter.ask("HEAD /metrics HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK") && body.is_empty());
    let long = format!("GET /metrics HTTP/1.1\r\nX: {}", "x".repeat(8 << 10));
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "200"),
        ("GET /admin HTTP/1.1\r\n\r\n", "404"),
        ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
        ("nonsense\r\n\r\n", "400"),
        (&long[..8 << 10], "431"),
    ] {
        let (head, _) = exporter.ask(request);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    }
    let taken = exporter.address.to_string();
    let mut second = Command::new(MESH);
    let second = second.args(["metrics", "--listen", &taken]).output();
    let second = second.unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("in use"));

    let mut exporter = exporter;
    kill_process(Pid::from_child(&exporter.child), Signal::TERM).unwrap();
    assert_eq!(exporter.child.wait().unwrap().code(), Some(0));
}

#[test]
fn those_who_say_nothing_are_cut_off_and_others_served() {
    let exporter = Exporter::start();
    let silent: Vec<_> = (0..SCRAPES_MAX + 4).map(|_| exporter.connect()).collect();
    assert!(
        exporter
            .scrape()
            .contains("# TYPE shmesh_messages_total counter")
    );
    for mut stream in silent {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "");
    }
}

#[test]
fn once_prints_the_same_and_ends() {
    let mesh = Mesh::start();
    let node = mesh.node("printed");
    let out = Command::new(MESH).args(["metrics", "--once"]).output();
    let out = out.unwrap();
    assert_eq!(out.status.code(), Some(0));
    let text = String::from_utf8(out.stdout).unwrap();
    let id = format!("id=\"{}\"", node.id());
    assert_eq!(value(&text, "shmesh_node_up", &[&id]), Some(1.0));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut unread = Command::new(MESH);
    let unread = unread.args(["metrics", "--once"]).stdout(writer).status();
    let unread = unread.unwrap();
    assert_eq!(unread.code(), Some(0), "a reader that went is no failure");
    let wrong = ["metrics", "--once", "--json"];
    let wrong = Command::new(MESH).args(wrong).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn losses_with_several_publishers_add_up_on_the_status_page() {
    let mesh = Mesh::start();
    let node = mesh.node("n");
    let exporter = Exporter::start();
    let subscriber = node.subscriber::<Raw>("t").overflow(Overflow::KeepLast(2));
    let mut subscriber = subscriber.build().unwrap();
    let publisher = || node.publisher::<Raw>("t").build().unwrap();
    let mut publishers = [publisher(), publisher(), publisher()];
    for (publisher, count) in publishers.iter_mut().zip([12, 7, 3]) {
        publisher.wait_for_listener_blocking(PATIENCE).unwrap();
        for _ in 0..count {
            publisher.publish_bytes(b"x").unwrap();
        }
    }
    while subscriber.try_recv().unwrap().is_some() {}
    let id = format!("id=\"{}\"", node.id());
    let labels = [&*id, "role=\"subscriber\"", "cause=\"overwritten\""];
    let said = || value(&exporter.scrape(), "shmesh_lost_total", &labels);
    assert_eq!(said(), Some(10.0 + 5.0 + 1.0));
    let [mut first, second, third] = publishers;
    drop((second, third));
    for _ in 0..5 {
        first.publish_bytes(b"x").unwrap();
    }
    while subscriber.try_recv().unwrap().is_some() {}
    assert_eq!(said(), Some(19.0), "also of those that went");
    assert_eq!(subscriber.stats().lost_overwritten, 19);
}

#[cfg(feature = "metrics")]
mod recorder {
    use std::collections::HashMap;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, LazyLock, Mutex};

    use metrics::{
        Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata,
        Recorder, SharedString, Unit,
    };

    use shmesh::CallError;

    use super::*;
    use crate::proxy::Proxy;

    type Values = Mutex<HashMap<String, Arc<AtomicU64>>>;

    /// Keeps the last values, under texts like those of Prometheus.
    static VALUES: LazyLock<Values> = LazyLock::new(Mutex::default);

    struct Notes;

    struct Value(Arc<AtomicU64>);

    impl CounterFn for Value {
        fn increment(&self, value: u64) {
            self.0.fetch_add(value, Ordering::Relaxed);
        }
        fn absolute(&self, value: u64) {
            let before = self.0.swap(value, Ordering::Relaxed);
            assert!(before <= value, "a counter went back");
        }
    }

    impl GaugeFn for Value {
        fn increment(&self, _: f64) {}
        fn decrement(&self, _: f64) {}
        fn set(&self, value: f64) {
            self.0.store(value as u64, Ordering::Relaxed);
        }
    }

    impl HistogramFn for Value {
        fn record(&self, seconds: f64) {
            assert!(seconds > 0.0 && seconds < 30.0, "{seconds}");
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The recorder of this process.
    fn install() {
        static IS_THERE: LazyLock<()> = LazyLock::new(|| {
            metrics::set_global_recorder(Notes).unwrap();
        });
        LazyLock::force(&IS_THERE);
    }

    fn said(key: &str) -> u64 {
        let values = VALUES.lock().unwrap();
        values.get(key).map_or(0, |it| it.load(Ordering::Relaxed))
    }

    fn place(key: &Key) -> Arc<Value> {
        let labels = key
            .labels()
            .map(|label| format!("{}={}", label.key(), label.value()));
        let text = format!("{} {}", key.name(), labels.collect::<Vec<_>>().join(" "));
        let value = VALUES.lock().unwrap().entry(text).or_default().clone();
        Arc::new(Value(value))
    }

    impl Recorder for Notes {
        fn describe_counter(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
            let name = format!("described {}", name.as_str());
            VALUES.lock().unwrap().entry(name).or_default();
        }
        fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, text: SharedString) {
            self.describe_counter(name, unit, text);
        }
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(place(key))
        }
        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(place(key))
        }
        fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::from_arc(place(key))
        }
    }

    #[test]
    fn a_recorder_is_told_the_sums_of_each_topic() {
        install();
        shmesh::metrics::describe();
        assert!(VALUES.lock().unwrap().contains_key("described shmesh_held"));
        let mesh = Mesh::start();
        let node = mesh.node("recorded");
        let id = node.id();
        let said = |name: &str, role: &str| {
            let key = format!("{name} node=recorded id={id} role={role} topic=t");
            let values = VALUES.lock().unwrap();
            values.get(&key).map(|value| value.load(Ordering::Relaxed))
        };
        let mut subscriber = node.subscriber::<Raw>("t").build().unwrap();
        let mut total = 0;
        // Publishers come and go; what they sent stays counted.
        for round in 1..=2 {
            let mut publisher = node.publisher::<Raw>("t").build().unwrap();
            publisher.wait_for_listener_blocking(PATIENCE).unwrap();
            for _ in 0..5 {
                publisher.publish_bytes(b"abc").unwrap();
                subscriber.recv_blocking(PATIENCE).unwrap();
                total += 1;
            }
            eventually("both are told", || {
                said("shmesh_messages_total", "publisher") == Some(total)
                    && said("shmesh_messages_total", "subscriber") == Some(total)
            });
            assert_eq!(said("shmesh_bytes_total", "publisher"), Some(15 * round));
            eventually("it has a peer", || {
                said("shmesh_peers", "publisher") == Some(1)
            });
            drop(publisher);
            eventually("it has none", || {
                said("shmesh_peers", "publisher") == Some(0)
            });
            assert_eq!(said("shmesh_messages_total", "publisher"), Some(total));
        }
        let mut last = node.publisher::<Raw>("t").build().unwrap();
        last.wait_for_listener_blocking(PATIENCE).unwrap();
        last.publish_bytes(b"abc").unwrap();
        node.close_blocking();
        let said_last = said("shmesh_messages_total", "publisher");
        assert_eq!(said_last, Some(total + 1), "told when it leaves");
    }

    #[test]
    fn losses_and_sleeps_are_told() {
        install();
        let mesh = Mesh::start();
        let node = mesh.node("n");
        let of = |name: &str, role: &str, more: &str| {
            let id = node.id();
            said(&format!("{name} node=n id={id} role={role} topic=t{more}"))
        };
        let subscriber = node.subscriber::<Raw>("t").overflow(Overflow::KeepLast(1));
        let mut subscriber = subscriber.build().unwrap();
        let mut publisher = node.publisher::<Raw>("t").build().unwrap();
        publisher.wait_for_listener_blocking(PATIENCE).unwrap();
        for _ in 0..4 {
            publisher.publish_bytes(b"x").unwrap();
        }
        let small = node
            .subscriber::<Raw>("t")
            .overflow(Overflow::DropNewest(1));
        let small = small.build().unwrap();
        eventually("both listen", || publisher.listener_count() == 2);
        for _ in 0..4 {
            publisher.publish_bytes(b"x").unwrap();
        }
        while subscriber.try_recv().unwrap().is_some() {}
        eventually("losses are told", || {
            of("shmesh_lost_total", "subscriber", " cause=overwritten") == 7
                && of("shmesh_lost_total", "publisher", " cause=dropped") == 3
        });
        drop(small);
        let waiting =
            std::thread::spawn(
                move || {
                    while *subscriber.recv_blocking(PATIENCE).unwrap() != *b"end" {}
                },
            );
        eventually("somebody is woken", || {
            publisher.publish_bytes(b"x").unwrap();
            publisher.stats().wake_ups > 0
        });
        publisher.publish_bytes(b"end").unwrap();
        eventually("sleeps are told", || {
            of("shmesh_wake_ups_total", "publisher", "") > 0
                && of("shmesh_parkings_total", "subscriber", "") > 0
        });
        waiting.join().unwrap();
    }

    #[test]
    fn calls_are_told_by_outcome_and_answered_ones_by_their_time() {
        install();
        let mesh = Mesh::start();
        let (node, provider) = (mesh.node("asker"), mesh.node("provider"));
        let of = |name: &str, outcome: &str| {
            let id = node.id();
            said(&format!("{name} node=asker id={id} service=s{outcome}"))
        };
        let outcome = |outcome: &str| of("shmesh_calls_total", &format!(" outcome={outcome}"));
        let mut caller = node.caller::<Raw, Raw>("s").build().unwrap();
        let error = caller.call_blocking(b"x").unwrap_err();
        assert!(matches!(error, CallError::NoProvider { .. }));
        let mut server = provider.provider::<Raw, Raw>("s").build().unwrap();
        caller.wait_for_provider_blocking(PATIENCE).unwrap();
        for number in 0..5 {
            let id = caller.start(b"x").unwrap();
            let request = server.recv_blocking(PATIENCE).unwrap();
            match number {
                0 => server.fail(&request, "no"),
                1 => caller.cancel(id),
                _ => server.reply(&request, b"y").unwrap(),
            }
            if number != 1 {
                caller.reply_blocking().unwrap().1.map(drop).unwrap_or(());
            }
        }
        caller.start(b"x").unwrap();
        drop(server);
        let (_, lost) = caller.reply_blocking().unwrap();
        assert!(matches!(lost, Err(CallError::ProviderLost { .. })));
        let counts = ["ok", "failed", "cancelled", "no_provider", "provider_lost"].map(outcome);
        assert_eq!(counts, [3, 1, 1, 1, 1]);
        assert_eq!(of("shmesh_call_seconds", ""), 4);
    }

    #[test]
    fn links_and_coordinators_that_came_back_are_told() {
        install();
        let mut mesh = Mesh::start();
        let proxy = Proxy::start();
        let mut receiver = mesh.remote("receiver");
        assert_eq!(receiver.ask("sub t keep 4096 8"), "ok");
        let node = proxy.node_behind(&mesh, "sender");
        let mut publisher = node.publisher::<Raw>("t").build().unwrap();
        publisher.wait_for_listener_blocking(PATIENCE).unwrap();
        let to = |to: &str| {
            let id = node.id();
            said(&format!(
                "shmesh_reconnects_total node=sender id={id} to={to}"
            ))
        };
        assert_eq!((to("peer"), to("coordinator")), (0, 0));
        proxy.reset_all();
        eventually("the link is back", || to("peer") >= 1);
        mesh.restart();
        eventually("the coordinator is back", || to("coordinator") == 1);
    }
}
