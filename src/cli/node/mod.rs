//! `mesh node`: the nodes of a mesh.

mod info;
mod kill;
mod list;

use clap::Subcommand;

use super::Failure;

/// The nodes of a mesh.
#[derive(Clone, Debug, Subcommand)]
pub enum NodeVerb {
    /// List the nodes
    List(list::ListArgs),
    /// Say what a node sends, receives, serves and calls
    Info(info::InfoArgs),
    /// Ask nodes to leave the mesh
    Kill(kill::KillArgs),
}

/// Does what the verb says.
///
/// # Errors
/// If the coordinator cannot be reached, or there is no such node.
pub fn run(verb: &NodeVerb) -> Result<(), Failure> {
    match verb {
        NodeVerb::List(args) => list::run(args),
        NodeVerb::Info(args) => info::run(args),
        NodeVerb::Kill(args) => kill::run(args),
    }
}
