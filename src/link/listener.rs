//! The listening socket, with room for all nodes that a restart brings at once.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket, lookup_host};

use crate::limits::ACCEPT_QUEUE_MAX;

/// Listens at the first address of that name which can be had.
///
/// tokio's own way has a queue of 128: of 200 nodes that dialled at once, those beyond it were
/// heard only when they repeated themselves, a second later.
pub(super) async fn listen_at(address: &str) -> io::Result<TcpListener> {
    let mut last_error = io::ErrorKind::AddrNotAvailable.into();
    for address in lookup_host(address).await? {
        match listen(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => last_error = error,
        }
    }
    Err(last_error)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // Connections of an earlier run that linger must not keep this one from its port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(ACCEPT_QUEUE_MAX)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn five_hundred_nodes_may_dial_before_any_is_let_in() {
        let listener = listen_at("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let patience = Duration::from_secs(10);
        let dial = |_| TcpStream::connect_timeout(&address, patience).unwrap();
        let dialled: Vec<TcpStream> = (0..500).map(dial).collect();
        assert_eq!(dialled.len(), 500);
    }
}
