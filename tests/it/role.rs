//! The other process: plays what it is told over its standard input, one line, one answer.

use std::collections::VecDeque;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shmesh::{
    AuthKey, Caller, Node, NodeBuilder, Overflow, Publisher, PublisherBuilder, Raw, RecvError,
    Sample, Subscriber, Transports,
};

use crate::band::Band;
use crate::support::{PATIENCE, is_intact, payload};

#[derive(Default)]
struct Role {
    node: Option<Node>,
    publisher: Option<Publisher<Raw>>,
    band: Option<Band>,
    subscriber: Option<Subscriber<Raw>>,
    caller: Option<Caller<Raw, Raw>>,
    held: VecDeque<Sample<Raw>>,
    prepared: Vec<u8>,
    received: u64,
    damaged: u64,
}

/// Not a test of its own: what this binary does as a child of the others.
#[test]
fn play() {
    if std::env::var_os("SHMESH_TEST_ROLE").is_none() {
        return;
    }
    let mut role = Role::default();
    let mut lines = std::io::stdin().lines().map_while(Result::ok);
    while let Some(line) = lines.next() {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        // To be watched: says by which thread, and waits for the word.
        if words.first() == Some(&"arm") {
            words.remove(0);
            println!("> {}", rustix::thread::gettid().as_raw_nonzero());
            assert_eq!(lines.next().as_deref(), Some("go"));
        }
        let answer = role
            .act(&words)
            .unwrap_or_else(|error| format!("error {error}"));
        println!("> {answer}");
    }
}

pub(crate) type Answer = Result<String, Box<dyn std::error::Error>>;

impl Role {
    fn act(&mut self, words: &[&str]) -> Answer {
        let ok = || Ok("ok".to_owned());
        match words {
            ["node", name, address, dir, options @ ..] => {
                let builder = Node::builder(*name).coordinator(*address).runtime_dir(*dir);
                let builder = options.iter().try_fold(builder, choose)?;
                self.node = Some(builder.build_blocking()?);
                ok()
            }
            ["pub", topic, arena, options @ ..] => {
                let node = self.node.as_ref().ok_or("no node")?;
                let publisher = node.publisher::<Raw>(topic).arena_bytes_max(arena.parse()?);
                let publisher = options.iter().try_fold(publisher, choose_for_publisher)?;
                self.publisher = Some(publisher.build()?);
                ok()
            }
            ["sub", topic, overflow, depth, held] => {
                let node = self.node.as_ref().ok_or("no node")?;
                let depth = depth.parse()?;
                let overflow = match *overflow {
                    "keep" => Overflow::KeepLast(depth),
                    "drop" => Overflow::DropNewest(depth),
                    ms => {
                        let deadline = Duration::from_millis(ms.parse()?);
                        Overflow::Block { depth, deadline }
                    }
                };
                let subscriber = node.subscriber::<Raw>(topic).overflow(overflow);
                self.subscriber = Some(subscriber.max_held(held.parse()?).build()?);
                ok()
            }
            ["recv", count] => self.receive(count.parse()?, false),
            ["hold", count] => self.receive(count.parse()?, true),
            ["take"] => {
                let subscriber = self.subscriber.as_mut().ok_or("no subscriber")?;
                self.held.push_back(subscriber.recv_blocking(PATIENCE)?);
                ok()
            }
            ["release"] => {
                self.held.clear();
                ok()
            }
            ["drain"] => self.drain(),
            ["forget"] => {
                self.subscriber = None;
                self.received = 0;
                ok()
            }
            ["close"] => {
                *self = Self::default();
                ok()
            }
            ["many", count] => self.many(count.parse()?),
            ["peers"] => {
                let node = self.node.as_ref().ok_or("no node")?;
                Ok(node.peers().len().to_string())
            }
            ["descriptors"] => Ok(std::fs::read_dir("/proc/self/fd")?.count().to_string()),
            ["quiet", calls, size] => self.quiet(calls.parse()?, size.parse()?),
            ["fill", directory] => fill(directory),
            ["memory", bytes] => {
                let most = Some(bytes.parse()?);
                let limit = rustix::process::Rlimit {
                    current: most,
                    maximum: most,
                };
                rustix::process::setrlimit(rustix::process::Resource::As, limit)?;
                ok()
            }
            _ => self.act_as_publisher(words),
        }
    }

    fn act_for_service(&mut self, words: &[&str]) -> Answer {
        let node = self.node.as_ref().ok_or("no node")?;
        match words {
            ["calls", service, count] => {
                let mut caller = node.caller::<Raw, Raw>(service).build()?;
                caller.wait_for_provider_blocking(PATIENCE)?;
                for _ in 0..count.parse()? {
                    caller.start(b"x")?;
                }
                let answer = format!("{} under way", caller.in_flight());
                self.caller = Some(caller);
                Ok(answer)
            }
            [_, words @ ..] => Ok(crate::services::serve_as_child(node.clone(), words)?),
            [] => Err("what?".into()),
        }
    }

    fn act_as_publisher(&mut self, words: &[&str]) -> Answer {
        let ok = || Ok("ok".to_owned());
        match words {
            ["end", how, address, dir] => crate::lifetime::play(&self.node, how, address, dir),
            ["drain", words @ ..] => {
                let node = self.node.as_ref().ok_or("no node")?;
                crate::draining::play(node, words)
            }
            ["serve", ..] | ["calls", ..] => self.act_for_service(words),
            ["heard"] => {
                self.publisher()?.wait_for_listener_blocking(PATIENCE)?;
                ok()
            }
            ["blank", size] => {
                let publisher = self.publisher()?;
                let loan = publisher.loan(size.parse()?)?;
                Ok(format!("sent to {}", publisher.send(loan)?.listeners))
            }
            // In two, so that the second is nothing but the sending.
            ["prepare", size] => {
                let number = self.publisher()?.stats().sent;
                self.prepared = payload(number, size.parse()?);
                ok()
            }
            ["push"] => {
                let publisher = self.publisher.as_mut().ok_or("no publisher")?;
                publisher.publish_bytes(&self.prepared)?;
                ok()
            }
            ["quit"] => {
                let publisher = self.publisher.as_mut().ok_or("no publisher")?;
                publisher.publish_bytes(&self.prepared)?;
                std::process::exit(0);
            }
            ["listeners"] => Ok(self.publisher()?.listener_count().to_string()),
            ["alone"] => {
                while self.publisher()?.listener_count() > 0 {
                    std::thread::yield_now();
                }
                ok()
            }
            ["send", count, size] => self.send(count.parse()?, size.parse()?),
            ["loan", size] => {
                let loan = self.publisher()?.loan(size.parse()?)?;
                Ok(format!("loaned {}", loan.len()))
            }
            ["flood", size] => {
                println!("> flooding");
                loop {
                    self.send(64, size.parse()?)?;
                }
            }
            ["band", prefix, count] => {
                let node = self.node.as_ref().ok_or("no node")?;
                self.band = Some(Band::new(node, prefix, count.parse()?));
                ok()
            }
            ["play", count, size] => {
                let band = self.band.as_mut().ok_or("no band")?;
                band.wait_for_listeners();
                Ok(format!("sent {}", band.play(count.parse()?, size.parse()?)))
            }
            ["storm", count] => {
                let band = self.band.as_mut().ok_or("no band")?;
                band.wait_for_listeners();
                Ok(format!("sent {}", band.storm(count.parse()?)))
            }
            _ => Err(format!("unknown order {words:?}").into()),
        }
    }

    fn publisher(&mut self) -> Result<&mut Publisher<Raw>, String> {
        self.publisher
            .as_mut()
            .ok_or_else(|| "no publisher".to_owned())
    }

    fn send(&mut self, count: u64, size: usize) -> Answer {
        let publisher = self.publisher()?;
        let mut refused = 0;
        for _ in 0..count {
            let number = publisher.stats().sent;
            refused += publisher.publish_bytes(&payload(number, size))?.refused;
        }
        let sent = publisher.stats().sent;
        Ok(format!("sent {sent} refused {refused}"))
    }

    /// Receives `count` messages, lost ones included.
    fn receive(&mut self, count: u64, is_holding: bool) -> Answer {
        let subscriber = self.subscriber.as_mut().ok_or("no subscriber")?;
        let mut passed = 0;
        while passed < count {
            let sample = subscriber.recv_blocking(PATIENCE)?;
            passed += 1 + sample.lost_before();
            self.received += 1;
            self.damaged += u64::from(!is_intact(&sample, sample.sequence()));
            if is_holding {
                self.held.push_back(sample);
            }
        }
        self.report()
    }

    /// Receives what is there.
    fn drain(&mut self) -> Answer {
        let subscriber = self.subscriber.as_mut().ok_or("no subscriber")?;
        loop {
            match subscriber.recv_blocking(Duration::from_millis(200)) {
                Ok(sample) => {
                    self.received += 1;
                    self.damaged += u64::from(!is_intact(&sample, sample.sequence()));
                }
                Err(RecvError::Timeout { .. }) => return self.report(),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn report(&self) -> Answer {
        let stats = self.subscriber.as_ref().ok_or("no subscriber")?.stats();
        assert_eq!(stats.received, self.received);
        let damaged =
            self.damaged + u64::from(!self.held.iter().all(|s| is_intact(s, s.sequence())));
        Ok(format!(
            "received {} lost {} damaged {damaged} held {} publishers {}",
            stats.received, stats.lost, stats.held, stats.publishers
        ))
    }

    /// Subscribes until something runs out.
    fn many(&mut self, count: u32) -> Answer {
        let node = self.node.as_ref().ok_or("no node")?;
        let mut made = Vec::new();
        for number in 0..count {
            made.push(node.subscriber::<Raw>(&format!("many/{number}")).build()?);
        }
        Ok(format!("made {}", made.len()))
    }

    /// Streams to itself, many times round the ring, on a thread that the kernel kills at its
    /// first system call; makes `calls` calls on top. Says whether there was one.
    fn quiet(&mut self, calls: u32, size: usize) -> Answer {
        let mut publisher = self.publisher.take().ok_or("no publisher")?;
        let mut subscriber = self.subscriber.take().ok_or("no subscriber")?;
        publisher.wait_for_listener_blocking(PATIENCE)?;
        subscriber.wait_for_publisher_blocking(PATIENCE)?;
        let is_through = Arc::new(AtomicBool::new(false));
        let tell = Arc::clone(&is_through);
        let (tell_id, id) = std::sync::mpsc::channel();
        let bytes = payload(0, size);
        let mut exchange = move |count| {
            for _ in 0..count {
                publisher.publish_bytes(&bytes).unwrap();
                while subscriber.try_recv().unwrap().is_none() {
                    std::hint::spin_loop();
                }
            }
        };
        std::thread::spawn(move || {
            exchange(200);
            tell_id.send(rustix::thread::gettid()).unwrap();
            forbid_calls();
            exchange(10_000);
            (0..calls).for_each(|_| std::thread::yield_now());
            tell.store(true, Ordering::Release);
            // Even ending a thread takes calls.
            loop {
                std::hint::spin_loop();
            }
        });
        let thread = format!("/proc/self/task/{}", id.recv()?.as_raw_nonzero());
        while !is_through.load(Ordering::Acquire) {
            if !std::fs::exists(&thread)? {
                return Ok("a call".into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok("no call".into())
    }
}

/// Sets what an option of a `pub` order says.
fn choose_for_publisher(
    builder: PublisherBuilder<Raw>,
    option: &&str,
) -> Result<PublisherBuilder<Raw>, Box<dyn std::error::Error>> {
    let (name, value) = option.split_once('=').unwrap_or((option, ""));
    Ok(match name {
        "history" => builder.history(value.parse()?),
        "unstamped" => builder.without_timestamps(),
        _ => return Err(format!("unknown option {option}").into()),
    })
}

/// Sets what an option of a `node` order says.
fn choose(builder: NodeBuilder, option: &&str) -> Result<NodeBuilder, Box<dyn std::error::Error>> {
    let (name, value) = option.split_once('=').unwrap_or((option, ""));
    Ok(match name {
        "tcp" => builder.transports(Transports::Network),
        "shm" => builder.transports(Transports::SharedMemory),
        "allow" => builder.allow_user(value.parse()?),
        "key" => builder.auth_key(AuthKey::from_file(value)?),
        "listen" => builder.listen(value),
        "advertise" => builder.advertise(value),
        "grace" => builder.grace(PATIENCE),
        "patient" => builder.join_timeout(PATIENCE),
        _ => return Err(format!("unknown option {option}").into()),
    })
}

/// The kernel ends this thread at its next system call. (Its strict mode would forbid the clock,
/// too, which needs none.)
fn forbid_calls() {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
    let (forbid, allow) = (SeccompAction::KillThread, SeccompAction::Allow);
    let none_allowed = SeccompFilter::new(
        std::collections::BTreeMap::new(),
        forbid,
        allow,
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = none_allowed.unwrap().try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

/// Fills the file system of `directory`.
fn fill(directory: &str) -> Answer {
    let mut file = std::fs::File::create(format!("{directory}/filler"))?;
    let mut written = 0;
    loop {
        match file.write(&[0x55; 4096]) {
            Ok(count) => written += count,
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(format!("filled {written}"))
}
