//! The options of every tool that say which mesh it is of, and prove it.

use std::path::PathBuf;
use std::process::Command;

use clap::Args;

use super::Failure;
use crate::link::handshake::Credentials;
use crate::security::{AUTH_KEY_FILE_VARIABLE, AUTH_KEY_VARIABLE, MESH_VARIABLE};
use crate::{AuthKey, Coordinator, NodeBuilder, Tls, TlsFiles};

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
    /// channels only. Needs a build with `--features tls`
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "tls_ca"])]
    pub tls_cert: Option<PathBuf>,
    /// Private key of that certificate
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Authority that other ends' certificates are checked against
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_ca: Option<PathBuf>,
    /// Demand a certificate of those who dial, too
    #[arg(long, requires = "tls_cert")]
    pub tls_mutual: bool,
    /// Name that other ends' certificates must have [default: the host that was dialled]
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
        eprintln!(
            "warning: others can read --authkey in the list of processes; better --authkey-file or \
             {AUTH_KEY_VARIABLE}"
        );
        Ok(Some(AuthKey::from_text(key.0.as_bytes())?))
    }

    fn tls(&self) -> Result<Option<Tls>, Failure> {
        let files = (&self.tls_cert, &self.tls_key, &self.tls_ca);
        let (Some(cert), Some(key), Some(ca)) = files else {
            return Ok(None);
        };
        let files = TlsFiles {
            cert: cert.clone(),
            key: key.clone(),
            ca: ca.clone(),
            is_mutual: self.tls_mutual,
            server_name: self.tls_server_name.clone(),
        };
        Ok(Some(Tls::from_files(&files)?))
    }

    /// The TLS options, as they were given.
    pub(crate) fn tls_args(&self) -> Vec<std::ffi::OsString> {
        let mut args = Vec::new();
        let paths = [
            ("--tls-cert", &self.tls_cert),
            ("--tls-key", &self.tls_key),
            ("--tls-ca", &self.tls_ca),
        ];
        for (name, path) in paths {
            if let Some(path) = path {
                args.extend([name.into(), path.into()]);
            }
        }
        if let Some(name) = &self.tls_server_name {
            args.extend(["--tls-server-name".into(), name.into()]);
        }
        if self.tls_mutual {
            args.push("--tls-mutual".into());
        }
        args
    }

    /// Hands them on to a process of ours, by its environment, where others cannot see them.
    pub(crate) fn hand_on(&self, command: &mut Command) {
        if let Some(mesh) = &self.mesh {
            command.env(MESH_VARIABLE, mesh);
        }
        if let Some(path) = &self.authkey_file {
            command.env(AUTH_KEY_FILE_VARIABLE, path);
        }
        if let Some(key) = &self.authkey {
            command.env_remove(AUTH_KEY_FILE_VARIABLE);
            command.env(AUTH_KEY_VARIABLE, &key.0);
        }
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
