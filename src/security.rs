//! Who is let in: the mesh's name and key, and the users with whom memory is shared.

use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::error::Error;
use crate::limits::AUTH_KEY_BYTES_MAX;
use crate::link::auth::AuthKey;
use crate::link::handshake::Credentials;
use crate::name;
use crate::tls::{Tls, TlsFiles};

/// Environment variable with the key of the mesh.
pub const AUTH_KEY_VARIABLE: &str = "SHMESH_AUTHKEY";
/// Environment variable with the file that has the key of the mesh.
pub const AUTH_KEY_FILE_VARIABLE: &str = "SHMESH_AUTHKEY_FILE";
/// Environment variable with the name of the mesh.
pub const MESH_VARIABLE: &str = "SHMESH_MESH";
/// Environment variable with the file of this end's certificate; with it go [`TLS_KEY_VARIABLE`]
/// and [`TLS_CA_VARIABLE`].
pub const TLS_CERT_VARIABLE: &str = "SHMESH_TLS_CERT";
/// Environment variable with the file of the private key of that certificate.
pub const TLS_KEY_VARIABLE: &str = "SHMESH_TLS_KEY";
/// Environment variable with the file of the authority that others' certificates are checked
/// against.
pub const TLS_CA_VARIABLE: &str = "SHMESH_TLS_CA";
/// Environment variable that says with `1` that those who dial must show a certificate, too.
pub const TLS_MUTUAL_VARIABLE: &str = "SHMESH_TLS_MUTUAL";
/// Environment variable with the name that others' certificates must have.
pub const TLS_SERVER_NAME_VARIABLE: &str = "SHMESH_TLS_SERVER_NAME";

/// All that say something of TLS.
pub(crate) const TLS_VARIABLES: [&str; 5] = [
    TLS_CERT_VARIABLE,
    TLS_KEY_VARIABLE,
    TLS_CA_VARIABLE,
    TLS_MUTUAL_VARIABLE,
    TLS_SERVER_NAME_VARIABLE,
];

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
    let tls = match tls {
        Some(tls) => Some(tls),
        None => tls_of_variables(|name| std::env::var_os(name))?,
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

/// One of these variables without the others that it needs is a mistake, too.
fn tls_of_variables(read: impl Fn(&str) -> Option<OsString>) -> Result<Option<Tls>, Error> {
    if TLS_VARIABLES.iter().all(|name| read(name).is_none()) {
        return Ok(None);
    }
    let file = |name| {
        let missing = || Error::Tls(format!("{name} is not set: {TLS_TOGETHER}"));
        read(name).map(PathBuf::from).ok_or_else(missing)
    };
    let is_mutual = match read(TLS_MUTUAL_VARIABLE) {
        None => false,
        Some(value) if value == "0" => false,
        Some(value) if value == "1" => true,
        Some(_) => return Err(Error::Tls(format!("{TLS_MUTUAL_VARIABLE} is 1 or 0"))),
    };
    let no_text = |_| Error::Tls(format!("{TLS_SERVER_NAME_VARIABLE} is no text"));
    let server_name = read(TLS_SERVER_NAME_VARIABLE).map(OsString::into_string);
    let files = TlsFiles {
        cert: file(TLS_CERT_VARIABLE)?,
        key: file(TLS_KEY_VARIABLE)?,
        ca: file(TLS_CA_VARIABLE)?,
        is_mutual,
        server_name: server_name.transpose().map_err(no_text)?,
    };
    Tls::from_files(&files).map(Some)
}

const TLS_TOGETHER: &str = "TLS needs SHMESH_TLS_CERT, SHMESH_TLS_KEY and SHMESH_TLS_CA";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_tls_go_together_or_are_refused() {
        let attempt = |set: &[(&str, &str)]| {
            let read = |name: &str| {
                let found = set.iter().find(|(one, _)| *one == name);
                found.map(|(_, value)| OsString::from(*value))
            };
            tls_of_variables(read)
        };
        assert!(attempt(&[]).unwrap().is_none());
        let files = [
            (TLS_CERT_VARIABLE, "/nowhere/cert"),
            (TLS_KEY_VARIABLE, "/nowhere/key"),
            (TLS_CA_VARIABLE, "/nowhere/ca"),
        ];
        for left_out in 0..files.len() {
            let mut some = files.to_vec();
            let (name, _) = some.remove(left_out);
            let error = attempt(&some).unwrap_err().to_string();
            assert!(error.contains(&format!("{name} is not set")), "{error}");
        }
        for alone in [(TLS_MUTUAL_VARIABLE, "1"), (TLS_SERVER_NAME_VARIABLE, "x")] {
            assert!(attempt(&[alone]).is_err(), "{alone:?} is not ignored");
        }
        let unclear = [&files[..], &[(TLS_MUTUAL_VARIABLE, "yes")]].concat();
        let error = attempt(&unclear).unwrap_err().to_string();
        assert!(error.contains("is 1 or 0"), "{error}");
        // All there: then the files are read, or it is said that this build cannot.
        assert!(attempt(&files).is_err());
    }
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
