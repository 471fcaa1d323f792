//! Latencies, calls and shares, as `mesh top` and `mesh metrics` say them.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use shmesh::{CallError, Raw};

use crate::metrics::value;
use crate::support::{Mesh, PATIENCE, eventually};
use crate::top::json;

/// What everything that is measured here takes at least.
const LEAST: Duration = Duration::from_millis(3);

/// Something that is done again and again, on a thread of its own, until this is dropped.
pub(crate) struct Again {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Again {
    pub(crate) fn start(mut step: impl FnMut() + Send + 'static) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                step();
            }
        });
        Self {
            is_over,
            thread: Some(thread),
        }
    }
}

impl Drop for Again {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || ended.is_some_and(|ended| ended.is_ok()));
    }
}

fn metrics() -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_mesh"))
        .args(["metrics", "--once"])
        .output();
    String::from_utf8(out.unwrap().stdout).unwrap()
}

/// The entry of that name in a list of the document.
fn of(document: &Value, list: &str, key: &str, name: &str) -> Option<Value> {
    let all = document[list].as_array().unwrap();
    all.iter().find(|it| it[key] == name).cloned()
}

/// Its percentiles are in order, and neither too short nor too long.
fn must_be_plausible(latency: &Value, started: Instant) {
    assert!(latency["measured"].as_u64().unwrap() > 0, "{latency}");
    let seconds = ["p50_s", "p99_s", "max_s"].map(|name| latency[name].as_f64().unwrap());
    assert!(seconds.is_sorted(), "{latency}");
    // A sixteenth off at most.
    assert!(seconds[0] >= LEAST.as_secs_f64() * 15.0 / 16.0, "{latency}");
    let longest = started.elapsed().as_secs_f64() * 17.0 / 16.0;
    assert!(seconds[2] <= longest, "{latency}");
}

#[test]
fn latencies_are_those_of_the_messages_and_not_known_of_those_without_times() {
    let mesh = Mesh::start();
    let node = mesh.node("top-timed");
    let bare = node.publisher::<Raw>("top/bare").without_timestamps();
    let mut publishers = [
        node.publisher::<Raw>("top/timed").build().unwrap(),
        bare.build().unwrap(),
    ];
    let subscriber = |topic| node.subscriber::<Raw>(topic).build().unwrap();
    let mut subscribers = ["top/timed", "top/bare"].map(subscriber);
    for publisher in &mut publishers {
        publisher.wait_for_listener_blocking(PATIENCE).unwrap();
    }
    let started = Instant::now();
    let again = Again::start(move || {
        for publisher in &mut publishers {
            publisher.publish_bytes(b"x").unwrap();
        }
        std::thread::sleep(LEAST);
        for subscriber in &mut subscribers {
            subscriber.recv_blocking(PATIENCE).unwrap();
        }
    });
    let mut seen = Value::Null;
    let topic = |seen: &Value, name| of(seen, "topics", "topic", name).unwrap();
    eventually("some are measured", || {
        seen = json(&[]);
        !topic(&seen, "top/timed")["latency"].is_null()
    });
    must_be_plausible(&topic(&seen, "top/timed")["latency"], started);
    let bare = topic(&seen, "top/bare");
    assert!(bare["received"].as_u64().unwrap() > 0);
    assert_eq!(bare["latency"], Value::Null);

    let text = metrics();
    let [timed, bare] = ["top/timed", "top/bare"].map(|topic| format!("topic=\"{topic}\""));
    let count = value(&text, "shmesh_latency_seconds_count", &[&timed]).unwrap();
    let of_edge = |edge: &str| {
        let edge = format!("le=\"{edge}\"");
        value(&text, "shmesh_latency_seconds_bucket", &[&timed, &edge])
    };
    assert!(count > 0.0);
    assert_eq!(of_edge("+Inf"), Some(count));
    assert_eq!(of_edge("0.001048576"), Some(0.0), "all took longer");
    let sum = value(&text, "shmesh_latency_seconds_sum", &[&timed]).unwrap();
    assert!(sum >= count * LEAST.as_secs_f64());
    assert_eq!(value(&text, "shmesh_latency_seconds_count", &[&bare]), None);
    drop(again);
}

#[test]
fn latencies_are_also_those_of_nodes_that_hang_and_of_links_on_one_host() {
    let mesh = Mesh::start();
    let node = mesh.node("top-sender");
    let mut publisher = node.publisher::<Raw>("top/hanging").build().unwrap();
    let mut hanging = [mesh.child("top-near"), mesh.remote("top-by-tcp")];
    for child in &mut hanging {
        assert_eq!(child.ask("sub top/hanging keep 16 8"), "ok");
    }
    eventually("both listen", || publisher.listener_count() == 2);
    let started = Instant::now();
    for _ in 0..5 {
        publisher.publish_bytes(b"x").unwrap();
    }
    std::thread::sleep(LEAST);
    for child in &mut hanging {
        child.ask("recv 5");
        child.signal(Signal::STOP);
    }
    let longest = started.elapsed().as_secs_f64();
    let node = |seen: &Value, name| of(seen, "nodes", "node", name);
    eventually("both hang", || {
        let seen = json(&[]);
        let states = ["top-near", "top-by-tcp"].map(|name| node(&seen, name));
        states
            .iter()
            .flatten()
            .filter(|node| node["state"] == "stopped")
            .count()
            == 2
    });
    let (text, seen) = (metrics(), json(&[]));
    for name in ["top-near", "top-by-tcp"] {
        assert_eq!(node(&seen, name).unwrap()["received"], 5, "{name}");
        let labels = [&*format!("node=\"{name}\""), "topic=\"top/hanging\""];
        let said = |what: &str| {
            let found = value(&text, &format!("shmesh_latency_seconds_{what}"), &labels);
            found.unwrap_or_else(|| panic!("no {what} of {name}"))
        };
        // Of several at once only some are measured.
        let count = said("count");
        assert!((1.0..=5.0).contains(&count), "{name}: {count}");
        let mean = said("sum") / count;
        let plausible = LEAST.as_secs_f64()..=longest;
        assert!(
            plausible.contains(&mean),
            "{name}: {mean}, not {plausible:?}"
        );
    }
    for child in &hanging {
        child.signal(Signal::CONT);
    }
}

#[test]
fn calls_are_counted_and_measured_where_they_are_made_and_where_they_are_served() {
    let mesh = Mesh::start();
    let node = mesh.node("top-calls");
    let threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    let runtime = threads.unwrap();
    let provider = node.provider::<Raw, Raw>("top/serve").build().unwrap();
    let inside = runtime.enter();
    let serving = provider.serve(|request| async move {
        tokio::time::sleep(LEAST).await;
        if request[0] == 0 {
            Err("zero")
        } else {
            Ok(request.to_vec())
        }
    });
    drop(inside);
    let mut caller = node.caller::<Raw, Raw>("top/serve").build().unwrap();
    let alone = node.caller::<Raw, Raw>("top/nobody").build();
    let refused = alone.unwrap().start(b"x");
    assert!(matches!(refused, Err(CallError::NoProvider { .. })));
    caller.wait_for_provider_blocking(PATIENCE).unwrap();
    for word in [1, 2, 0, 3] {
        assert_eq!(caller.call_blocking(&[word]).is_ok(), word > 0);
    }
    let given_up = caller.start(b"x").unwrap();
    caller.cancel(given_up);
    let service = |seen: &Value| of(seen, "services", "service", "top/serve").unwrap();
    let mut seen = Value::Null;
    eventually("the provider has heard of the end", || {
        seen = service(&json(&[]));
        seen["providers"]["ended"]["cancelled"] == 1
    });
    for (end, others) in [("callers", 15), ("providers", 6)] {
        let ended = seen[end]["ended"].as_object().unwrap();
        assert_eq!(
            (seen[end]["count"].as_u64(), ended.len()),
            (Some(1), others)
        );
        for (outcome, count) in [("ok", 3), ("failed", 1), ("cancelled", 1), ("panicked", 0)] {
            assert_eq!(ended[outcome], count, "{outcome} of {end}: {seen}");
        }
    }

    let text = metrics();
    for name in ["shmesh_calls_total", "shmesh_requests_total"] {
        let labels = ["service=\"top/serve\"", "outcome=\"failed\""];
        assert_eq!(value(&text, name, &labels), Some(1.0));
    }
    let labels = ["service=\"top/nobody\"", "outcome=\"no_provider\""];
    assert_eq!(
        value(&text, "shmesh_calls_total", &labels),
        None,
        "it is gone"
    );

    let started = Instant::now();
    let again = Again::start(move || drop(caller.call_blocking(&[1]).unwrap()));
    eventually("some are measured at both ends", || {
        seen = service(&json(&[]));
        ["callers", "providers"]
            .iter()
            .all(|end| !seen[end]["latency"].is_null())
    });
    for end in ["callers", "providers"] {
        must_be_plausible(&seen[end]["latency"], started);
        assert_eq!(seen[end]["failed_per_s"], 0.0);
    }
    drop((again, serving));
}

#[test]
fn what_a_pattern_receives_is_with_each_of_its_topics() {
    let mesh = Mesh::start();
    let node = mesh.node("top-patterned");
    let publisher = |topic| node.publisher::<Raw>(topic).build().unwrap();
    let mut publishers = ["top/of/x", "top/of/y", "top/apart"].map(publisher);
    let subscriber = node.subscriber::<Raw>("top/of/*").also("top/apart");
    let mut subscriber = subscriber.build().unwrap();
    for (publisher, count) in publishers.iter_mut().zip([3, 5, 20]) {
        publisher.wait_for_listener_blocking(PATIENCE).unwrap();
        for _ in 0..count {
            publisher.publish_bytes(b"words").unwrap();
        }
    }
    let mut received = 0;
    while subscriber.try_recv().unwrap().is_some() {
        received += 1;
    }
    assert_eq!(received, 3 + 5 + 16);
    let seen = json(&[]);
    for (topic, received, lost) in [
        ("top/of/x", 3, 0),
        ("top/of/y", 5, 0),
        ("top/apart", 16, 4),
        ("top/of/*", 24, 4),
    ] {
        let said = of(&seen, "topics", "topic", topic).unwrap();
        assert_eq!(said["subscriber_count"], 1, "{said}");
        assert_eq!(said["received"], received, "{said}");
        assert_eq!(said["received_bytes"], received * 5, "{said}");
        assert_eq!(said["lost"]["overwritten"], lost, "{said}");
    }
    let id = node.id().to_string();
    let said = of(&seen, "nodes", "id", &id).unwrap();
    assert_eq!(
        (&said["subscriber_count"], &said["received"]),
        (&1.into(), &24.into())
    );
    drop(publishers);
    eventually("who publishes no more takes its share with it", || {
        let _ = subscriber.try_recv();
        let seen = json(&[]);
        of(&seen, "topics", "topic", "top/of/x").is_none()
    });
}
