//! What keeps a node in the mesh.

use std::sync::Arc;

use super::{NodeShared, forget_in_process};
use crate::endpoint::lock;
use crate::service::Clients;

#[derive(Debug)]
pub(super) struct NodeHandle {
    pub(super) shared: Arc<NodeShared>,
    pub(super) clients: Clients,
    /// True if it does not keep the node in the mesh.
    is_guest: bool,
}

impl NodeHandle {
    pub(super) fn new(shared: Arc<NodeShared>, is_guest: bool) -> Arc<Self> {
        let clients = Clients::default();
        Arc::new(Self {
            shared,
            clients,
            is_guest,
        })
    }
}

impl Drop for NodeHandle {
    fn drop(&mut self) {
        if self.is_guest {
            return;
        }
        self.clients.clear();
        self.shared.shutdown.send_replace(true);
        let driver = lock(&self.shared.driver).take();
        if let Some(driver) = driver {
            // Ends within milliseconds: the driver waits for nobody when it shuts down. No driver
            // can drop the last handle of a node, for it has none.
            driver.join();
        }
        forget_in_process(self.shared.info.id);
    }
}
