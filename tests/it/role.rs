//! The other process: plays what it is told over its standard input, one line, one answer.

use std::collections::VecDeque;
use std::time::Duration;

use shmesh::{Node, Overflow, Publisher, Raw, RecvError, Sample, Subscriber};

use crate::support::{PATIENCE, is_intact, payload};

#[derive(Default)]
struct Role {
    node: Option<Node>,
    publisher: Option<Publisher<Raw>>,
    subscriber: Option<Subscriber<Raw>>,
    held: VecDeque<Sample<Raw>>,
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
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = role
            .act(&words)
            .unwrap_or_else(|error| format!("error {error}"));
        println!("> {answer}");
    }
}

type Answer = Result<String, Box<dyn std::error::Error>>;

impl Role {
    fn act(&mut self, words: &[&str]) -> Answer {
        let ok = || Ok("ok".to_owned());
        match words {
            ["node", name, address, dir] => {
                let builder = Node::builder(*name).coordinator(*address).runtime_dir(*dir);
                self.node = Some(builder.build_blocking()?);
                ok()
            }
            ["pub", topic, arena] => {
                let node = self.node.as_ref().ok_or("no node")?;
                let publisher = node.publisher::<Raw>(topic).arena_bytes_max(arena.parse()?);
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
            ["heard"] => {
                self.publisher()?.wait_for_listener_blocking(PATIENCE)?;
                ok()
            }
            ["send", count, size] => self.send(count.parse()?, size.parse()?),
            ["flood", size] => {
                println!("> flooding");
                loop {
                    self.send(64, size.parse()?)?;
                }
            }
            ["recv", count] => self.receive(count.parse()?, false),
            ["hold", count] => self.receive(count.parse()?, true),
            ["release"] => {
                self.held.clear();
                ok()
            }
            ["drain"] => self.drain(),
            ["close"] => {
                *self = Self::default();
                ok()
            }
            ["many", count] => self.many(count.parse()?),
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
}
