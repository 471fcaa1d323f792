//! How tools reach a mesh: as visitors of its coordinator, or as nodes.

use super::security::SecurityArgs;
use super::{Failure, runtime};
use crate::id::NodeId;
use crate::limits::VISIT_MS_MAX;
use crate::name::escaped;
use crate::node::{COORDINATOR_VARIABLE, Node, NodeBuilder, is_address, with_port};
use crate::topology::Topology;
use crate::visit::Visit;
use clap::Args;

/// Which mesh a tool looks at.
#[derive(Args, Clone, Debug, Default)]
pub struct ReachArgs {
    /// Coordinator of the mesh [default: $SHMESH_COORDINATOR or 127.0.0.1:7679]
    #[arg(long, value_name = "HOST[:PORT]", value_parser = parse_address)]
    pub coordinator: Option<String>,
    /// Which mesh, and its key.
    #[command(flatten)]
    pub security: SecurityArgs,
}

impl ReachArgs {
    pub(super) async fn visit(&self) -> Result<Visit, Failure> {
        let credentials = self.security.credentials()?;
        Ok(Visit::begin(&self.address()?, &credentials).await?)
    }

    /// Where the coordinator is.
    pub(super) fn address(&self) -> Result<String, Failure> {
        let named = named_coordinator(self.coordinator.as_ref())?;
        Ok(with_port(named.as_deref().unwrap_or("127.0.0.1")))
    }

    /// Who is in the mesh now.
    pub(super) fn look(&self) -> Result<Topology, Failure> {
        runtime()?.block_on(async { Ok(self.visit().await?.look().await?) })
    }

    /// A node for this tool. Its name is its own: nodes of one name share messages.
    pub(super) async fn join(&self, verb: &str) -> Result<Node, Failure> {
        // Says at once, and in the right words, that nobody is there.
        self.visit().await?;
        Ok(self.builder(verb)?.build().await?)
    }

    /// The same, for who has no runtime.
    pub(super) fn join_blocking(&self, verb: &str) -> Result<Node, Failure> {
        runtime()?.block_on(self.join(verb))
    }

    fn builder(&self, verb: &str) -> Result<NodeBuilder, Failure> {
        let own = format!("{TOOL}{verb}-{:.8}", NodeId::random()?.to_string());
        let builder = Node::builder(own)
            .join_timeout(std::time::Duration::from_millis(VISIT_MS_MAX))
            .without_signal_handling();
        let builder = match &self.coordinator {
            Some(address) => builder.coordinator(address),
            None => builder,
        };
        self.security.secure_node(builder)
    }
}

/// An address as people write it, for clap.
pub(super) fn parse_address(text: &str) -> Result<String, String> {
    match is_address(text) {
        true => Ok(text.to_owned()),
        false => Err(ADDRESS_FORM.into()),
    }
}

/// Where the coordinator is, as far as it was said: by that option, or else by the environment.
pub(super) fn named_coordinator(option: Option<&String>) -> Result<Option<String>, Failure> {
    if let Some(named) = option {
        return Ok(Some(named.clone()));
    }
    let Some(named) = std::env::var_os(COORDINATOR_VARIABLE) else {
        return Ok(None);
    };
    match named.to_str().map(parse_address) {
        Some(Ok(named)) => Ok(Some(named)),
        _ => {
            let named = escaped(&named.to_string_lossy());
            let text = format!("{COORDINATOR_VARIABLE} is `{named}`: {ADDRESS_FORM}");
            Err(Failure::usage(text))
        }
    }
}

/// What an address looks like.
const ADDRESS_FORM: &str = "expected HOST[:PORT], port 1-65535";

/// The names of tools' nodes begin with this.
const TOOL: &str = "mesh-";
