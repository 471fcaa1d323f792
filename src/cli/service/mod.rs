//! `mesh service`: the services of a mesh.

mod call;
mod info;
mod list;

use clap::Subcommand;

use super::Failure;

/// The services of a mesh.
#[derive(Clone, Debug, Subcommand)]
pub enum ServiceVerb {
    /// List the services
    List(list::ListArgs),
    /// Say who provides a service, who calls it, and with which types
    Info(info::InfoArgs),
    /// Call a service with a request that is given as JSON
    Call(call::CallArgs),
}

/// Does what the verb says.
///
/// # Errors
/// If the coordinator cannot be reached, or there is no such service.
pub fn run(verb: &ServiceVerb) -> Result<(), Failure> {
    match verb {
        ServiceVerb::List(args) => list::run(args),
        ServiceVerb::Info(args) => info::run(args),
        ServiceVerb::Call(args) => call::run(args),
    }
}
