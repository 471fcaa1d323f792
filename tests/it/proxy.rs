//! A network that misbehaves when told to: a TCP proxy in front of one node.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shmesh::{Node, NodeBuilder, Transports};

use crate::support::{Mesh, eventually};

#[derive(Debug)]
struct Faults {
    /// Nothing goes through, and nothing is lost.
    is_held: AtomicBool,
    /// Bytes go one at a time.
    is_trickling: AtomicBool,
    /// The next piece is cut in half and the connection closed behind it.
    is_cutting: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
    /// That went through, both ways.
    bytes: AtomicU64,
    /// Beyond so many, nothing goes through.
    bytes_max: AtomicU64,
}

#[derive(Debug)]
pub(crate) struct Proxy {
    address: String,
    /// Where the node behind it listens.
    target: String,
    faults: Arc<Faults>,
}

impl Proxy {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let spare = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = spare.local_addr().unwrap().to_string();
        drop(spare);
        let faults = Arc::new(Faults {
            is_held: AtomicBool::default(),
            is_trickling: AtomicBool::default(),
            is_cutting: AtomicBool::default(),
            connections: Mutex::default(),
            bytes: AtomicU64::default(),
            bytes_max: AtomicU64::new(u64::MAX),
        });
        let (shared, behind) = (Arc::clone(&faults), target.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(near) = stream else { return };
                let Ok(far) = TcpStream::connect(&behind) else {
                    continue;
                };
                let both = [near.try_clone().unwrap(), far.try_clone().unwrap()];
                shared.connections.lock().unwrap().extend(both);
                for (from, to) in [
                    (near.try_clone().unwrap(), far.try_clone().unwrap()),
                    (far, near),
                ] {
                    let faults = Arc::clone(&shared);
                    std::thread::spawn(move || forward(from, to, &faults));
                }
            }
        });
        Self {
            address,
            target,
            faults,
        }
    }

    /// A node of this process that is reached through the proxy: with an id so large that others,
    /// who are in the mesh already, dial it.
    pub(crate) fn node_behind(&self, mesh: &Mesh, name: &str) -> Node {
        loop {
            let node = self.node_behind_with(mesh, name, |builder| builder);
            eventually("it knows the others", || !node.peers().is_empty());
            // Of random ids; who has the smaller one dials.
            if node.peers().iter().all(|(_, peer)| *peer < node.id()) {
                return node;
            }
            node.close_blocking();
        }
    }

    /// A node that is reached through the proxy by those that have a smaller id; set up further.
    pub(crate) fn node_behind_with(
        &self,
        mesh: &Mesh,
        name: &str,
        set_up: impl Fn(NodeBuilder) -> NodeBuilder,
    ) -> Node {
        let builder = set_up(mesh.builder(name)).transports(Transports::Network);
        let builder = builder.listen(&self.target).advertise(&self.address);
        builder.build_blocking().unwrap()
    }

    /// Bytes that went through so far, both ways.
    pub(crate) fn bytes(&self) -> u64 {
        self.faults.bytes.load(Ordering::Acquire)
    }

    pub(crate) fn hold(&self, is_held: bool) {
        self.faults.is_held.store(is_held, Ordering::Release);
    }

    /// Lets so many more bytes through, and holds what comes then.
    pub(crate) fn hold_after(&self, bytes: u64) {
        let bytes_max = self.bytes().saturating_add(bytes);
        self.faults.bytes_max.store(bytes_max, Ordering::Release);
    }

    pub(crate) fn trickle(&self, is_trickling: bool) {
        self.faults
            .is_trickling
            .store(is_trickling, Ordering::Release);
    }

    /// Ends all connections with a reset.
    pub(crate) fn reset_all(&self) {
        for stream in self.faults.connections.lock().unwrap().drain(..) {
            let socket = socket2::SockRef::from(&stream);
            let _ = socket.set_linger(Some(Duration::ZERO));
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Ends each connection in the middle of what comes next.
    pub(crate) fn cut_in_mid_frame(&self) {
        self.faults.is_cutting.store(true, Ordering::Release);
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, faults: &Faults) {
    let mut buffer = vec![0; 65_536];
    to.set_nodelay(true).unwrap();
    loop {
        let limit = if faults.is_trickling.load(Ordering::Acquire) {
            1
        } else {
            buffer.len()
        };
        let count = match from.read(&mut buffer[..limit]) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let is_beyond = || {
            let bytes = faults.bytes.load(Ordering::Acquire);
            bytes >= faults.bytes_max.load(Ordering::Acquire)
        };
        while faults.is_held.load(Ordering::Acquire) || is_beyond() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let is_cut = count > 100 && faults.is_cutting.swap(false, Ordering::AcqRel);
        let count = if is_cut { count / 2 } else { count };
        faults.bytes.fetch_add(count as u64, Ordering::AcqRel);
        if to.write_all(&buffer[..count]).is_err() || is_cut {
            let _ = from.shutdown(Shutdown::Both);
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
