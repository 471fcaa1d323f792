//! The options of every tool that say which mesh it is of, and prove it.

use std::path::PathBuf;
use std::process::Command;

use clap::Args;

use super::Failure;
use crate::link::handshake::Credentials;
use crate::security::{AUTH_KEY_FILE_VARIABLE, AUTH_KEY_VARIABLE, MESH_VARIABLE, TLS_VARIABLES};
use crate::{AuthKey, Coordinator, NodeBuilder, Tls, TlsFiles};
use crate::{TLS_CA_VARIABLE, TLS_CERT_VARIABLE, TLS_KEY_VARIABLE};
use crate::{TLS_MUTUAL_VARIABLE, TLS_SERVER_NAME_VARIABLE};

/// Which mesh, and its key.
#[derive(Args, Clone, Debug, Default)]
pub struct SecurityArgs {
    /// Name of the mesh: those of another name never mix with it [default: $SHMESH_MESH or none]
    #[arg(long, value_name = "NAME")]
    pub mesh: Option<String>,
    /// File with the key of the mesh, at least 32 bytes, readable by its owner alone
    /// [default: $SHMESH_AUTHKEY_FILE, else the key in $SHMESH_AUTHKEY, else none]
    #[arg(long, value_name = "FILE")]
    pub authkey_file: Option<PathBuf>,
    /// The key itself; other users of this computer can see it: better --authkey-file
    #[arg(long, value_name = "KEY", conflicts_with = "authkey_file")]
    pub authkey: Option<Secret>,
    /// Certificate of this end as PEM, with those between it and the authority: talk inside TLS
    /// channels only. Needs a build with `--features tls` [default: $SHMESH_TLS_CERT, else no TLS]
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "tls_ca"])]
    pub tls_cert: Option<PathBuf>,
    /// Private key of that certificate [default: $SHMESH_TLS_KEY]
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Authority that other ends' certificates are checked against [default: $SHMESH_TLS_CA]
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_ca: Option<PathBuf>,
    /// Demand a certificate of those who dial, too [default: if $SHMESH_TLS_MUTUAL is 1]
    #[arg(long, requires = "tls_cert")]
    pub tls_mutual: bool,
    /// Name that other ends' certificates must have [default: $SHMESH_TLS_SERVER_NAME, else the
    /// host that was dialled]
    #[arg(long, value_name = "NAME", requires = "tls_cert")]
    pub tls_server_name: Option<String>,
}

/// A text that is not printed.
#[derive(Clone)]
pub struct Secret(String);

impl std::str::FromStr for Secret {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl SecurityArgs {
    fn key(&self) -> Result<Option<AuthKey>, Failure> {
        if let Some(path) = &self.authkey_file {
            return Ok(Some(AuthKey::from_file(path)?));
        }
        let Some(key) = &self.authkey else {
            return Ok(None);
        };
        note!(
            "warning: others can read --authkey in the list of processes; better --authkey-file or \
             {AUTH_KEY_VARIABLE}"
        );
        Ok(Some(AuthKey::from_text(key.0.as_bytes())?))
    }

    fn tls_files(&self) -> Option<TlsFiles> {
        Some(TlsFiles {
            cert: self.tls_cert.clone()?,
            key: self.tls_key.clone()?,
            ca: self.tls_ca.clone()?,
            is_mutual: self.tls_mutual,
            server_name: self.tls_server_name.clone(),
        })
    }

    fn tls(&self) -> Result<Option<Tls>, Failure> {
        let files = self.tls_files();
        Ok(files.map(|files| Tls::from_files(&files)).transpose()?)
    }

    /// Hands them on to a process of ours, by its environment, where others cannot see them.
    pub(crate) fn hand_on(&self, command: &mut Command) -> std::io::Result<()> {
        if let Some(mesh) = &self.mesh {
            command.env(MESH_VARIABLE, mesh);
        }
        // It may run in another directory.
        if let Some(path) = &self.authkey_file {
            command.env(AUTH_KEY_FILE_VARIABLE, std::path::absolute(path)?);
        }
        if let Some(key) = &self.authkey {
            command.env_remove(AUTH_KEY_FILE_VARIABLE);
            command.env(AUTH_KEY_VARIABLE, &key.0);
        }
        let Some(files) = self.tls_files() else {
            return Ok(());
        };
        for name in TLS_VARIABLES {
            command.env_remove(name);
        }
        command.env(TLS_CERT_VARIABLE, std::path::absolute(files.cert)?);
        command.env(TLS_KEY_VARIABLE, std::path::absolute(files.key)?);
        command.env(TLS_CA_VARIABLE, std::path::absolute(files.ca)?);
        command.env(TLS_MUTUAL_VARIABLE, if files.is_mutual { "1" } else { "0" });
        if let Some(name) = files.server_name {
            command.env(TLS_SERVER_NAME_VARIABLE, name);
        }
        Ok(())
    }

    /// They, and what the environment says.
    pub(crate) fn credentials(&self) -> Result<Credentials, Failure> {
        let (mesh, key, tls) = (self.mesh.clone(), self.key()?, self.tls()?);
        Ok(crate::security::credentials(mesh, key, tls)?)
    }

    /// Applies them to a node.
    ///
    /// # Errors
    /// A key that cannot be used.
    pub fn secure_node(&self, mut builder: NodeBuilder) -> Result<NodeBuilder, Failure> {
        if let Some(mesh) = &self.mesh {
            builder = builder.mesh(mesh);
        }
        if let Some(key) = self.key()? {
            builder = builder.auth_key(key);
        }
        if let Some(tls) = self.tls()? {
            builder = builder.tls(tls);
        }
        Ok(builder)
    }

    /// Applies them, and what the environment says, to a coordinator.
    ///
    /// # Errors
    /// A key or a name that cannot be used.
    pub fn secure_coordinator(&self, coordinator: Coordinator) -> Result<Coordinator, Failure> {
        Ok(coordinator.with_credentials(self.credentials()?))
    }
}
