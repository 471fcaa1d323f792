//! What makes a node reachable for others: its socket, its door to the network, and a coordinator
//! of its own where one is asked for.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::DriverConfig;
use super::network::{self, NetThread, open_door};
use crate::coordinator::Coordinator;
use crate::error::Error;
use crate::limits::ACCEPT_PAUSE_MS;
use crate::link::LinkConfig;
use crate::link::host::{self, HostListener};
use crate::node::{NodeShared, Transports};
use crate::topology::NodeInfo;

/// Makes this node reachable, by whatever it may be reached; what it announces of itself.
pub(super) async fn listen(
    shared: &Arc<NodeShared>,
    config: &DriverConfig,
    links: &LinkConfig,
    net: &Arc<NetThread>,
    tasks: &mut JoinSet<()>,
) -> Result<NodeInfo, Error> {
    let mut info = shared.info.clone();
    if shared.transports != Transports::Network {
        let is_shared = config.users.len() > 1;
        let listener = HostListener::bind(&config.runtime_dir, info.id, is_shared)?;
        debug_assert_eq!(listener.path(), Path::new(&info.socket));
        tasks.spawn(accept(listener, links.clone()));
    }
    if shared.transports == Transports::SharedMemory {
        return Ok(info);
    }
    match open_door(&config.network, shared.coordinator(), links).await {
        Ok((door, addresses)) => {
            info.addresses = addresses;
            tasks.spawn(network::receive(door, Arc::clone(net)));
        }
        // Not what was asked for: memory may do.
        Err(error) if shared.transports == Transports::Auto && config.network.listen.is_none() => {
            tracing::warn!(target: "shmesh::link", %error, "not reachable over a network");
        }
        Err(error) => return Err(error),
    }
    Ok(info)
}

/// Starts a coordinator here, unless the address is taken, by another one most likely. Gives the
/// address where there is one now: of port 0 it is not the one that was asked for.
pub(super) async fn embed(
    config: &DriverConfig,
    shared: &Arc<NodeShared>,
    tasks: &mut JoinSet<()>,
) -> String {
    let mut address = config.address.clone();
    let bound = Coordinator::bind(&address).await;
    match bound.and_then(|coordinator| Ok((coordinator.local_addr()?, coordinator))) {
        Ok((listening, coordinator)) => {
            let host = address.rsplit_once(':').map_or("", |(host, _)| host);
            address = format!("{host}:{}", listening.port());
            let coordinator = coordinator.with_credentials(config.credentials.clone());
            tracing::info!(target: "shmesh::coordinator", address, "embedded coordinator");
            let mut shutdown = shared.shutdown.subscribe();
            tasks.spawn(async move {
                let over = async {
                    let _ = shutdown.wait_for(|is_over| *is_over).await;
                };
                coordinator.run(over).await;
            });
        }
        Err(error) => tracing::debug!(
            target: "shmesh::coordinator", address, %error, "no embedded coordinator"
        ),
    }
    address
}

async fn accept(listener: HostListener, links: LinkConfig) {
    let mut served = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(socket) => {
                    served.spawn(host::answer(links.clone(), socket));
                }
                Err(error) => {
                    tracing::warn!(target: "shmesh::link", %error, "cannot accept a peer");
                    tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                }
            },
            Some(_) = served.join_next() => {}
        }
    }
}
