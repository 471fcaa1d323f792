//! Where peers of other hosts come in: accepts their connections, bounds how many may try at once
//! (see `gate`), and hands over those that got through the handshake.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::auth::Prover;
use super::handshake::{Credentials, Handshake, Hello, Purpose, Side};
use super::listener::listen_at;
use super::stream::{Secured, shake_hands};
use crate::endpoint::lock;
use crate::error::Error;
use crate::gate::{Arrival, Gate, Ticket};
use crate::id::NodeId;
use crate::limits::{ACCEPT_PAUSE_MS, HANDSHAKE_MS_MAX};

/// Who answers at a door, and whom it lets in.
#[derive(Clone, Debug)]
pub(crate) struct Doorkeeper {
    pub(crate) id: NodeId,
    pub(crate) side: Side,
    pub(crate) purpose: Purpose,
    /// True if it compresses payloads.
    pub(crate) packs: bool,
    pub(crate) credentials: Credentials,
}

/// One that got through.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) stream: Secured,
    pub(crate) hello: Hello,
    pub(crate) address: SocketAddr,
}

#[derive(Debug)]
pub(crate) struct Door {
    /// At least one.
    listeners: Vec<TcpListener>,
    /// Which of them is asked first.
    turn: usize,
    keeper: Doorkeeper,
    gate: Arc<Mutex<Gate<oneshot::Sender<()>>>>,
    greetings: JoinSet<Option<Guest>>,
    warnings: Warnings,
}

impl Door {
    /// Listens at `address` (`host:port`; port 0 takes a free one).
    ///
    /// # Errors
    /// [`Error::AddressInUse`], or [`Error::Io`] if the address cannot be listened at.
    pub(crate) async fn open(address: &str, keeper: Doorkeeper) -> Result<Self, Error> {
        let listeners = vec![listen(address).await?];
        Ok(Self {
            listeners,
            turn: 0,
            keeper,
            gate: Arc::new(Mutex::new(Gate::new())),
            greetings: JoinSet::new(),
            warnings: Warnings::default(),
        })
    }

    /// Listens at a further address.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) async fn open_also(&mut self, address: &str) -> Result<(), Error> {
        self.listeners.push(listen(address).await?);
        Ok(())
    }

    /// Whom to let in; to be said before the first comes.
    pub(crate) fn keeper_mut(&mut self) -> &mut Doorkeeper {
        &mut self.keeper
    }

    pub(crate) fn keeper(&self) -> &Doorkeeper {
        &self.keeper
    }

    /// Where it listens, in the order asked for.
    pub(crate) fn local_addrs(&self) -> Result<Vec<SocketAddr>, Error> {
        let addresses = self.listeners.iter().map(TcpListener::local_addr);
        let addresses: std::io::Result<_> = addresses.collect();
        addresses.map_err(|source| Error::Io {
            what: "ask for the own address",
            source,
        })
    }

    pub(crate) fn local_addr(&self) -> Result<SocketAddr, Error> {
        Ok(self.local_addrs()?[0])
    }

    /// The next that got through. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Guest {
        loop {
            let accepted = tokio::select! {
                accepted = accept(&self.listeners, &mut self.turn) => accepted,
                Some(greeted) = self.greetings.join_next() => match greeted {
                    Ok(Some(guest)) => return guest,
                    _ => continue,
                },
            };
            match accepted {
                Ok((stream, address)) => self.greet(stream, address),
                Err(error) if is_exhausted(&error) => {
                    // The listener stays ready, so that without a pause this would spin; those who
                    // are in are served meanwhile.
                    if self.warnings.is_due(Instant::now()) {
                        tracing::warn!(%error, "cannot let more peers in; raise `ulimit -n`");
                    }
                    tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                }
                // The connection that was to be accepted is gone already; the next may be well.
                Err(error) => tracing::debug!(%error, "a peer went before it was let in"),
            }
        }
    }

    fn greet(&mut self, stream: TcpStream, address: SocketAddr) {
        let (end, ended) = oneshot::channel();
        let arrival = lock(&self.gate).arrive(address.ip(), end, Instant::now());
        let ticket = match arrival {
            // Dropping its sender ends the one that gives way.
            Arrival::Admitted { ticket, .. } => ticket,
            Arrival::TurnedAway => {
                tracing::debug!(%address, "turned away after too many failures");
                return;
            }
        };
        let (gate, keeper) = (Arc::clone(&self.gate), self.keeper.clone());
        let is_loud = self.warnings.clone();
        self.greetings.spawn(async move {
            let greeted = tokio::select! {
                greeted = keeper.receive(stream) => greeted,
                _ = ended => Err(Error::Protocol("too many connections are in their handshake")),
            };
            settle(&gate, ticket, greeted.is_ok());
            match greeted {
                Ok((stream, hello)) => Some(Guest {
                    stream,
                    hello,
                    address,
                }),
                Err(error) => {
                    report(&is_loud, address, &error);
                    None
                }
            }
        });
    }
}

async fn listen(address: &str) -> Result<TcpListener, Error> {
    let listening = listen_at(address).await;
    listening.map_err(|source| Error::of_listening(address, "listen at that address", source))
}

/// The next connection at any of them, in turns that `turn` keeps. Cancel-safe.
async fn accept(
    listeners: &[TcpListener],
    turn: &mut usize,
) -> std::io::Result<(TcpStream, SocketAddr)> {
    poll_fn(|cx| {
        // All that have nobody wake us.
        for step in 0..listeners.len() {
            let idx = (*turn + step) % listeners.len();
            let accepted = listeners[idx].poll_accept(cx);
            if accepted.is_ready() {
                *turn = idx + 1;
                return accepted;
            }
        }
        Poll::Pending
    })
    .await
}

fn settle(gate: &Mutex<Gate<oneshot::Sender<()>>>, ticket: Ticket, is_good: bool) {
    lock(gate).settle(ticket, is_good, Instant::now());
}

/// What its owner should know of is a warning, but no more often than now and then.
fn report(warnings: &Warnings, address: SocketAddr, error: &Error) {
    let is_telling = matches!(
        error,
        Error::Version { .. } | Error::OtherMesh { .. } | Error::Unproven(_)
    );
    if is_telling && warnings.is_due(Instant::now()) {
        tracing::warn!(%address, %error, "peer refused");
    } else {
        tracing::debug!(%address, %error, "peer refused");
    }
}

impl Doorkeeper {
    async fn receive(&self, stream: TcpStream) -> Result<(Secured, Hello), Error> {
        let io = |source| Error::Io {
            what: "set up the connection",
            source,
        };
        stream.set_nodelay(true).map_err(io)?;
        let limit = Duration::from_millis(HANDSHAKE_MS_MAX);
        let accepted = timeout(limit, Secured::accepted(stream, &self.credentials)).await;
        let mut stream = accepted.map_err(|_| Error::Timeout(limit))??;
        let mut ours = Hello::ours(self.side, self.purpose, self.id)?;
        ours.packs = self.packs;
        let handshake = Handshake::new(
            Prover::Responder,
            ours,
            Side::Node,
            &self.credentials,
            stream.binding(),
        );
        let hello = shake_hands(&mut stream, handshake).await?;
        Ok((stream, hello))
    }
}

/// Says when a warning that may come very often is due.
#[derive(Clone, Debug, Default)]
struct Warnings {
    last: Arc<Mutex<Option<Instant>>>,
}

const WARNING_EVERY: Duration = Duration::from_secs(10);

impl Warnings {
    fn is_due(&self, now: Instant) -> bool {
        let mut last = lock(&self.last);
        let is_due = last.is_none_or(|last| now - last >= WARNING_EVERY);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}

/// True if `accept` failed for want of something that only time gives back.
fn is_exhausted(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|code| exhausted.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exhaustion_makes_accepting_pause() {
        use rustix::io::Errno;
        for code in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
            assert!(is_exhausted(&code.into()), "{code}");
        }
        for code in [Errno::CONNABORTED, Errno::INTR, Errno::PERM] {
            assert!(!is_exhausted(&code.into()), "{code}");
        }
    }
}
