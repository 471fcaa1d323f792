//! What nodes wait for, looked up in the mesh. The launcher is a node of it only while one waits.

use std::time::Duration;

use crate::cli::Failure;
use crate::cli::security::SecurityArgs;
use crate::launch::config::{Dependency, Key};
use crate::limits::RECONNECT_MS_MAX;
use crate::service::REQUESTS;
use crate::topology::Role;
use crate::{AuthKey, Node, NodeBuilder};

/// The launcher's name in the mesh.
const NAME: &str = "mesh-launch";

/// How to join.
#[derive(Clone, Debug)]
pub(super) struct Entrance {
    pub(super) coordinator: Option<String>,
    pub(super) security: SecurityArgs,
    pub(super) key: Option<Key>,
}

impl Entrance {
    fn builder(&self) -> Result<NodeBuilder, Failure> {
        let mut builder = Node::builder(NAME).without_signal_handling();
        if let Some(coordinator) = &self.coordinator {
            builder = builder.coordinator(coordinator);
        }
        builder = self.security.secure_node(builder)?;
        if let Some(key) = &self.key {
            builder = builder.auth_key(AuthKey::from_text(key.0.as_bytes())?);
        }
        Ok(builder.join_timeout(Duration::from_millis(RECONNECT_MS_MAX)))
    }

    /// One attempt to join, and what was wrong with it.
    pub(super) async fn join(self) -> Result<Node, String> {
        let builder = self
            .builder()
            .map_err(|failure| super::super::full_text(&failure.error))?;
        let joined = builder.build().await;
        joined.map_err(|error| super::super::full_text(&error.into()))
    }
}

/// Those of the wanted that are there.
pub(super) fn look(node: &Node, wanted: &[Dependency]) -> Vec<Dependency> {
    node.shared().view.with(|topology| {
        let is_there = |one: &&Dependency| match one {
            Dependency::Node(name) => topology.nodes().any(|there| there.name == *name),
            Dependency::Topic(topic) => topology.matching(topic, Role::Publisher).next().is_some(),
            Dependency::Service(service) => {
                let topic = format!("{REQUESTS}{service}");
                topology.matching(&topic, Role::Subscriber).next().is_some()
            }
        };
        wanted.iter().filter(is_there).cloned().collect()
    })
}
