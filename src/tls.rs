//! TLS under coordinator connections and network links: certificates from files, both sides of a
//! channel, and what binds a handshake to it. Without the feature `tls` there is none.

use std::path::PathBuf;

#[cfg(feature = "tls")]
pub use self::with_rustls::Tls;
#[cfg(feature = "tls")]
pub(crate) use self::with_rustls::{Channel, TlsStream};
#[cfg(not(feature = "tls"))]
pub use self::without::Tls;
use crate::error::Error;

/// Where the certificates of a node or coordinator are, as PEM.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// Its certificate, with those between it and the authority.
    pub cert: PathBuf,
    /// The private key of that certificate.
    pub key: PathBuf,
    /// The authority that others' certificates are checked against.
    pub ca: PathBuf,
    /// True if those who dial us must show a certificate, too.
    pub is_mutual: bool,
    /// Name that others' certificates must have; the host that was dialled unless set.
    pub server_name: Option<String>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`Error::Tls`] says which file is wrong and how, or that this was built without TLS.
    pub fn from_files(files: &TlsFiles) -> Result<Self, Error> {
        Self::read(files)
    }
}

#[cfg(not(feature = "tls"))]
mod without {
    use super::{Error, TlsFiles};

    /// TLS; this was built without: there is none.
    #[derive(Clone, Debug)]
    pub enum Tls {}

    impl Tls {
        pub(super) fn read(_: &TlsFiles) -> Result<Self, Error> {
            let how = "this was built without TLS: build with `--features tls`";
            Err(Error::Tls(how.into()))
        }
    }
}

#[cfg(feature = "tls")]
mod with_rustls {
    use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
    use std::os::fd::OwnedFd;
    use std::path::Path;
    use std::sync::{Arc, Mutex};

    use rustix::io::Errno;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use rustls::server::WebPkiClientVerifier;
    use rustls::{ClientConfig, Connection, RootCertStore, ServerConfig};
    use tokio::net::TcpStream;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::{Error, TlsFiles};
    use crate::endpoint::lock;
    use crate::link::auth::BINDING_BYTES;

    /// A TCP connection in a TLS channel.
    pub(crate) type TlsStream = tokio_rustls::TlsStream<TcpStream>;

    /// Certificates, and whose are believed. Cheap to clone.
    #[derive(Clone, Debug)]
    pub struct Tls {
        server: Arc<ServerConfig>,
        client: Arc<ClientConfig>,
        server_name: Option<String>,
    }

    fn failed(what: impl std::fmt::Display, error: impl std::fmt::Display) -> Error {
        Error::Tls(format!("{what}: {error}"))
    }

    fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
        let wrong = |error| failed(path.display(), error);
        let found = CertificateDer::pem_file_iter(path).map_err(wrong)?;
        let found: Vec<_> = found.collect::<Result<_, _>>().map_err(wrong)?;
        if found.is_empty() {
            return Err(failed(path.display(), "there is no certificate in it"));
        }
        Ok(found)
    }

    impl Tls {
        pub(super) fn read(files: &TlsFiles) -> Result<Self, Error> {
            let key = || {
                let key = PrivateKeyDer::from_pem_file(&files.key);
                key.map_err(|error| failed(files.key.display(), error))
            };
            let certificate = certificates(&files.cert)?;
            let mut roots = RootCertStore::empty();
            for authority in certificates(&files.ca)? {
                let added = roots.add(authority);
                added.map_err(|error| failed(files.ca.display(), error))?;
            }
            let roots = Arc::new(roots);
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let versions = &[&rustls::version::TLS13];
            let wrong = |error| failed("cannot use TLS", error);
            let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(versions)
                .map_err(wrong)?;
            let server = if files.is_mutual {
                let roots = Arc::clone(&roots);
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
                let verifier = verifier.build();
                server.with_client_cert_verifier(
                    verifier.map_err(|error| failed(files.ca.display(), error))?,
                )
            } else {
                server.with_no_client_auth()
            };
            let misfit = |error| failed(files.cert.display(), error);
            let server = server
                .with_single_cert(certificate.clone(), key()?)
                .map_err(misfit)?;
            let client = ClientConfig::builder_with_provider(provider)
                .with_protocol_versions(versions)
                .map_err(wrong)?
                .with_root_certificates(roots)
                .with_client_auth_cert(certificate, key()?)
                .map_err(misfit)?;
            Ok(Self {
                server: Arc::new(server),
                client: Arc::new(client),
                server_name: files.server_name.clone(),
            })
        }

        /// The side that was dialled.
        pub(crate) async fn accept(&self, stream: TcpStream) -> Result<TlsStream, Error> {
            let acceptor = TlsAcceptor::from(Arc::clone(&self.server));
            let accepted = acceptor.accept(stream).await;
            let accepted = accepted.map_err(|error| failed("the peer's TLS handshake", error))?;
            Ok(TlsStream::Server(accepted))
        }

        /// The side that dialled `address`, `host:port`.
        pub(crate) async fn connect(
            &self,
            stream: TcpStream,
            address: &str,
        ) -> Result<TlsStream, Error> {
            let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let name = self.server_name.clone().unwrap_or_else(|| host.to_owned());
            let name = ServerName::try_from(name).map_err(|error| failed(address, error))?;
            let connector = TlsConnector::from(Arc::clone(&self.client));
            let connected = connector.connect(name, stream).await;
            let hint = "TLS with the peer (does it use TLS, with a certificate of our authority?)";
            let connected = connected.map_err(|error| failed(hint, error))?;
            Ok(TlsStream::Client(connected))
        }
    }

    /// What only the two ends of a channel know.
    pub(crate) fn binding(stream: &TlsStream) -> [u8; BINDING_BYTES] {
        let (_, channel) = stream.get_ref();
        let label = b"EXPORTER-shmesh-link";
        let exported = match stream {
            TlsStream::Client(stream) => {
                let (_, channel) = stream.get_ref();
                channel.export_keying_material([0; BINDING_BYTES], label, None)
            }
            TlsStream::Server(stream) => {
                let (_, channel) = stream.get_ref();
                channel.export_keying_material([0; BINDING_BYTES], label, None)
            }
        };
        debug_assert!(!channel.is_handshaking());
        exported.expect("invariant: a channel past its handshake exports")
    }

    /// The channel of a network link, for whoever reads or writes.
    #[derive(Debug)]
    pub(crate) struct Channel(Mutex<Connection>);

    impl Channel {
        /// Takes a stream apart.
        pub(crate) fn of(stream: TlsStream) -> (TcpStream, Self) {
            match stream {
                TlsStream::Client(stream) => {
                    let (stream, channel) = stream.into_inner();
                    (stream, Self(Mutex::new(channel.into())))
                }
                TlsStream::Server(stream) => {
                    let (stream, channel) = stream.into_inner();
                    (stream, Self(Mutex::new(channel.into())))
                }
            }
        }

        /// Takes bytes to be sent, and sends what it can of those it has.
        pub(crate) fn write(
            &self,
            socket: &OwnedFd,
            slices: &[IoSlice<'_>],
        ) -> Result<usize, Errno> {
            let mut channel = lock(&self.0);
            send(&mut channel, socket)?;
            let count = channel.writer().write_vectored(slices).map_err(errno)?;
            match send(&mut channel, socket) {
                Ok(()) | Err(Errno::AGAIN) => Ok(count),
                Err(error) => Err(error),
            }
        }

        /// Sends what it still has.
        pub(crate) fn flush(&self, socket: &OwnedFd) -> Result<(), Errno> {
            send(&mut lock(&self.0), socket)
        }

        pub(crate) fn read(
            &self,
            socket: &OwnedFd,
            slices: &mut [IoSliceMut<'_>],
        ) -> Result<usize, Errno> {
            let mut channel = lock(&self.0);
            loop {
                match channel.reader().read_vectored(slices) {
                    Ok(count) => return Ok(count),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(errno(error)),
                }
                if channel.read_tls(&mut Raw(socket)).map_err(errno)? == 0 {
                    return Ok(0);
                }
                if channel.process_new_packets().is_err() {
                    return Err(Errno::BADMSG);
                }
            }
        }
    }

    fn send(channel: &mut Connection, socket: &OwnedFd) -> Result<(), Errno> {
        while channel.wants_write() {
            channel.write_tls(&mut Raw(socket)).map_err(errno)?;
        }
        Ok(())
    }

    fn errno(error: io::Error) -> Errno {
        match error.kind() {
            ErrorKind::UnexpectedEof => Errno::PIPE,
            _ => Errno::from_io_error(&error).unwrap_or(Errno::BADMSG),
        }
    }

    /// The socket under a channel.
    struct Raw<'a>(&'a OwnedFd);

    impl Read for Raw<'_> {
        fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
            Ok(rustix::io::read(self.0, bytes)?)
        }
    }

    impl Write for Raw<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(rustix::net::send(
                self.0,
                bytes,
                rustix::net::SendFlags::NOSIGNAL,
            )?)
        }

        fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            let none = &mut rustix::net::SendAncillaryBuffer::default();
            let flags = rustix::net::SendFlags::NOSIGNAL;
            Ok(rustix::net::sendmsg(self.0, slices, none, flags)?)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}

#[cfg(feature = "tls")]
pub(crate) use self::with_rustls::binding;
