//! Byte streams under the conversations: the handshake on any of them, and the frames of a
//! coordinator connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf, ReadHalf, WriteHalf,
};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::auth::{BINDING_BYTES, Prover};
#[cfg(feature = "tls")]
use super::handshake::HELLO_MAGIC;
use super::handshake::{Credentials, Handshake, Hello, Next, Side};
use super::wire::{self, Kind};
use crate::error::Error;
use crate::limits::{FRAME_BYTES_MAX, HANDSHAKE_MS_MAX, LEASE_MS};
#[cfg(feature = "tls")]
use crate::tls::TlsStream;

/// What carries the words of a handshake.
pub(crate) trait Words {
    /// Sends one.
    async fn send(&mut self, word: &[u8]) -> Result<(), Error>;
    /// Receives one of `len` bytes.
    async fn receive(&mut self, len: usize) -> Result<Vec<u8>, Error>;
}

/// Runs a handshake within its deadline.
///
/// # Errors
/// What the handshake came to; [`Error::Timeout`].
pub(crate) async fn shake_hands(
    words: &mut impl Words,
    mut handshake: Handshake,
) -> Result<Hello, Error> {
    let deadline = Duration::from_millis(HANDSHAKE_MS_MAX);
    let shaken = async {
        let mut step = handshake.start();
        loop {
            if let Some(word) = step.send {
                words.send(&word).await?;
            }
            step = match step.next {
                Next::Receive(len) => handshake.receive(&words.receive(len).await?),
                Next::Done(peer) => return Ok(peer),
                Next::Failed(error) => return Err(error),
            };
        }
    };
    let shaken = timeout(deadline, shaken).await;
    shaken.map_err(|_| Error::Timeout(deadline))?
}

impl Words for Secured {
    async fn send(&mut self, word: &[u8]) -> Result<(), Error> {
        let written = self.write_all(word).await;
        written.map_err(write_failed)?;
        self.flush().await.map_err(write_failed)
    }

    async fn receive(&mut self, len: usize) -> Result<Vec<u8>, Error> {
        let mut word = vec![0; len];
        let read = self.read_exact(&mut word).await;
        read.map_err(read_failed)?;
        Ok(word)
    }
}

fn write_failed(source: io::Error) -> Error {
    let what = "write to the peer";
    Error::Io { what, source }
}

fn read_failed(source: io::Error) -> Error {
    let what = "read from the peer";
    Error::Io { what, source }
}

/// Dials `address`, `host:port`, says `ours`, and expects a peer of that side there.
///
/// # Errors
/// [`Error::Io`] and [`Error::Timeout`] if nobody answers; what the handshake came to.
pub(crate) async fn dial(
    address: &str,
    ours: Hello,
    expected: Side,
    credentials: &Credentials,
) -> Result<(Secured, Hello), Error> {
    let what = "reach the peer's address";
    let io = |source| Error::Io { what, source };
    let limit = Duration::from_millis(HANDSHAKE_MS_MAX);
    let stream = timeout(limit, TcpStream::connect(address)).await;
    let stream = stream.map_err(|_| Error::Timeout(limit))?.map_err(io)?;
    stream.set_nodelay(true).map_err(io)?;
    let secured = timeout(limit, Secured::dialled(stream, address, credentials)).await;
    let mut stream = secured.map_err(|_| Error::Timeout(limit))??;
    let binding = stream.binding();
    let handshake = Handshake::new(Prover::Initiator, ours, expected, credentials, binding);
    let hello = shake_hands(&mut stream, handshake).await?;
    Ok((stream, hello))
}

/// A TCP connection, as it is or in a TLS channel.
#[derive(Debug)]
pub(crate) enum Secured {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<TlsStream>),
}

impl Secured {
    /// The side that dialled `address`.
    pub(crate) async fn dialled(
        stream: TcpStream,
        address: &str,
        credentials: &Credentials,
    ) -> Result<Self, Error> {
        match &credentials.tls {
            None => Ok(Self::Plain(stream)),
            #[cfg(feature = "tls")]
            Some(tls) => Ok(Self::Tls(Box::new(tls.connect(stream, address).await?))),
            #[cfg(not(feature = "tls"))]
            Some(none) => {
                let _ = address;
                match *none {}
            }
        }
    }

    /// The side that was dialled. One that speaks in the clear where TLS is used is heard in the
    /// clear, and then told so.
    pub(crate) async fn accepted(
        stream: TcpStream,
        credentials: &Credentials,
    ) -> Result<Self, Error> {
        match &credentials.tls {
            None => Ok(Self::Plain(stream)),
            #[cfg(feature = "tls")]
            Some(tls) => {
                let mut first = [0];
                stream.peek(&mut first).await.map_err(read_failed)?;
                if first[0] == HELLO_MAGIC[0] {
                    return Ok(Self::Plain(stream));
                }
                Ok(Self::Tls(Box::new(tls.accept(stream).await?)))
            }
            #[cfg(not(feature = "tls"))]
            Some(none) => match *none {},
        }
    }

    /// What only the two ends of its TLS channel know; zeroes without one.
    pub(crate) fn binding(&self) -> [u8; BINDING_BYTES] {
        match self {
            Self::Plain(_) => [0; BINDING_BYTES],
            #[cfg(feature = "tls")]
            Self::Tls(stream) => crate::tls::binding(stream),
        }
    }

    fn as_stream(self: Pin<&mut Self>) -> Pin<&mut dyn Duplex> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Pin::new(&mut **stream),
        }
    }
}

trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Duplex for S {}

impl AsyncRead for Secured {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.as_stream().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.as_stream().poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.as_stream().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.as_stream().poll_shutdown(cx)
    }
}

/// Both halves of a connection that is past its handshake.
pub(crate) fn split(stream: Secured) -> (FrameReader, FrameWriter) {
    let (reader, writer) = tokio::io::split(stream);
    let reader = FrameReader {
        reader,
        buffer: Vec::new(),
        lease: Duration::from_millis(LEASE_MS),
    };
    (reader, FrameWriter { writer })
}

/// Writes frames.
#[derive(Debug)]
pub(crate) struct FrameWriter {
    writer: WriteHalf<Secured>,
}

impl FrameWriter {
    /// Writes within the lease: who does not read for that long is gone.
    pub(crate) async fn write_all(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let lease = Duration::from_millis(LEASE_MS);
        let written = timeout(lease, async {
            self.writer.write_all(bytes).await?;
            self.writer.flush().await
        });
        let written = written.await.map_err(|_| Error::Timeout(lease))?;
        written.map_err(write_failed)
    }
}

/// Frames of a connection, read within the lease.
#[derive(Debug)]
pub(crate) struct FrameReader {
    reader: ReadHalf<Secured>,
    buffer: Vec<u8>,
    lease: Duration,
}

impl FrameReader {
    pub(crate) fn set_lease(&mut self, lease: Duration) {
        self.lease = lease;
    }

    /// The next frame. Cancel-safe: bytes that came stay in the buffer, which grows with what
    /// comes and never beyond one frame and one read.
    pub(crate) async fn next<T>(&mut self, kind: Kind) -> Result<T, Error>
    where
        T: serde::de::DeserializeOwned,
    {
        loop {
            if let Some(frame) = wire::decode(&self.buffer)? {
                let word = wire::body(&frame, kind)?;
                let len = frame.len;
                self.buffer.drain(..len);
                return Ok(word);
            }
            debug_assert!(self.buffer.len() <= FRAME_BYTES_MAX);
            self.buffer.reserve(READ_BYTES);
            let read = timeout(self.lease, self.reader.read_buf(&mut self.buffer)).await;
            let read = read.map_err(|_| Error::Timeout(self.lease))?;
            if read.map_err(read_failed)? == 0 {
                return Err(read_failed(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

/// Bytes asked for at once.
const READ_BYTES: usize = 4096;
