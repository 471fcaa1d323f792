//! Who is let in: the mesh's name and key, and the users with whom memory is shared.

use std::io::Read as _;
use std::path::Path;

use zeroize::Zeroizing;

use crate::error::Error;
use crate::limits::AUTH_KEY_BYTES_MAX;
use crate::link::auth::AuthKey;
use crate::link::handshake::Credentials;
use crate::name;
use crate::tls::Tls;

/// Environment variable with the key of the mesh.
pub const AUTH_KEY_VARIABLE: &str = "SHMESH_AUTHKEY";
/// Environment variable with the file that has the key of the mesh.
pub const AUTH_KEY_FILE_VARIABLE: &str = "SHMESH_AUTHKEY_FILE";
/// Environment variable with the name of the mesh.
pub const MESH_VARIABLE: &str = "SHMESH_MESH";

impl AuthKey {
    /// The key in a file that only its owner can read. Space around it does not count.
    ///
    /// # Errors
    /// [`Error::Key`] if the file cannot be read, others can read it, or what is in it is no key.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, Error> {
        use std::os::unix::fs::MetadataExt as _;
        let path = path.as_ref();
        let unreadable = |error| Error::Key(format!("{}: {error}", path.display()));
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let mode = file.metadata().map_err(unreadable)?.mode();
        if mode & 0o077 != 0 {
            let path = path.display();
            return Err(Error::Key(format!(
                "others can read or write {path} (mode {:03o}): `chmod 600 {path}`",
                mode & 0o777
            )));
        }
        let mut text = Zeroizing::new(Vec::new());
        let most = AUTH_KEY_BYTES_MAX as u64 + 64;
        file.take(most).read_to_end(&mut text).map_err(unreadable)?;
        Self::from_text(&text)
    }
}

/// What is given explicitly, and else what the environment says.
pub(crate) fn credentials(
    mesh: Option<String>,
    key: Option<AuthKey>,
    tls: Option<Tls>,
) -> Result<Credentials, Error> {
    let mesh = mesh
        .or_else(|| std::env::var(MESH_VARIABLE).ok())
        .unwrap_or_default();
    name::check_mesh(&mesh)?;
    let key = match key {
        Some(key) => Some(key),
        None => key_of_environment()?,
    };
    Ok(Credentials { mesh, key, tls })
}

/// A variable that is set and empty is no key, but a mistake: it fails rather than opens the mesh.
fn key_of_environment() -> Result<Option<AuthKey>, Error> {
    if let Some(path) = std::env::var_os(AUTH_KEY_FILE_VARIABLE) {
        return AuthKey::from_file(Path::new(&path)).map(Some);
    }
    std::env::var_os(AUTH_KEY_VARIABLE)
        .map(|text| AuthKey::from_text(text.as_encoded_bytes()))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_file_must_be_private_and_hold_a_key() {
        let name = format!("shmesh-key-{}", crate::NodeId::random().unwrap());
        let path = std::env::temp_dir().join(name);
        let attempt = |text: &str, mode| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            AuthKey::from_file(&path).map_err(|error| error.to_string())
        };
        let good = format!("{}\n", "k".repeat(32));
        for mode in [0o644, 0o640, 0o604, 0o622] {
            let error = attempt(&good, mode).unwrap_err();
            assert!(error.contains("chmod 600"), "{error}");
        }
        assert!(attempt(&good, 0o600).is_ok());
        assert!(attempt(&good, 0o400).is_ok());
        for bad in ["", "\n", "short\n", &"k".repeat(AUTH_KEY_BYTES_MAX + 1)] {
            assert!(attempt(bad, 0o600).is_err());
        }
        std::fs::remove_file(&path).unwrap();
        assert!(AuthKey::from_file(&path).is_err());
    }
}
