//! What may be sent: typed messages (rkyv archives) and raw bytes, and how received bytes become
//! values again. Values that are decoded, as from JSON, are in `codec`.
//!
//! A typed message travels as the archive of its value: the subscriber reads it in place, without
//! decoding. The bytes are validated once per sample, with a bound on nesting, before any part of
//! them is believed.
//!
//! Non-goals: this module moves no bytes; see `publisher` and `sample`.

use core::any::type_name;
use core::marker::PhantomData;
use core::num::NonZeroUsize;

use rkyv::api::high::{HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor;
use rkyv::ser::Serializer;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::ser::sharing::Share;
use rkyv::util::with_arena;
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::validation::shared::SharedValidator;
use rkyv::{Archive, Archived, Portable, Serialize};
use shmesh_shm::{Received, Trusted, View};

use crate::error::Error;
use crate::limits::ARCHIVE_DEPTH_MAX;
use crate::publisher::{ArchiveWriter, Draft};
use crate::schema::{self, Describe};
use crate::topology::{Encoding, TopicType};

/// A type that can be the message of a topic: any type with rkyv's `Archive` and `Serialize`, and
/// a description, so that tools can read it ([`schema`](crate::schema)).
///
/// ```
/// use shmesh::Message;
/// use shmesh::rkyv::{Archive, Serialize};
///
/// #[derive(Archive, Serialize, Message)]
/// #[rkyv(crate = shmesh::rkyv)]
/// struct Pose { x: f64, y: f64, heading: f64 }
///
/// fn is_message<T: Message>() {}
/// is_message::<Pose>();
/// ```
///
/// Two programs agree on a type by its name without its path (`Pose`), the names, types and places
/// of all that is in it, and rkyv's format; what differs is refused when the two meet. Comments and
/// units may differ.
pub trait Message:
    Describe
    + Archive<Archived: for<'a> CheckBytes<HighValidator<'a, rancor::Error>> + 'static>
    + for<'a, 'b> Serialize<HighSerializer<ArchiveWriter<'a>, ArenaHandle<'b>, rancor::Error>>
    + 'static
{
}

impl<T> Message for T where
    T: Describe
        + Archive<Archived: for<'a> CheckBytes<HighValidator<'a, rancor::Error>> + 'static>
        + for<'a, 'b> Serialize<HighSerializer<ArchiveWriter<'a>, ArenaHandle<'b>, rancor::Error>>
        + 'static
{
}

/// Marks a topic of raw bytes: `node.publisher::<Raw>("blob")`.
#[derive(Clone, Copy, Debug)]
pub struct Raw;

/// Marks a topic whose type this program does not know: for tools, recorders, bridges.
///
/// A subscriber `node.subscriber::<Untyped>("camera/**")` gets the messages of all publishers,
/// whatever their types and encodings, as bytes; [`Sample::topic_type`](crate::Sample::topic_type)
/// says what each is. Where several types contend for a topic it gets them all, and is in nobody's
/// way. A publisher `node.publisher::<Untyped>("pose").ty(ty)` says itself
/// [what](crate::PublisherBuilder::ty) it sends. A caller may be of untyped requests, replies or
/// both.
///
/// The engine does not look at the bytes: whoever makes values of them validates them first.
///
/// ```
/// # async fn run(node: shmesh::Node) -> Result<(), Box<dyn std::error::Error>> {
/// use shmesh::Untyped;
///
/// let mut all = node.subscriber::<Untyped>("**").build()?;
/// let sample = all.recv().await?;
/// println!("{}: {}, {} bytes", sample.topic(), sample.topic_type(), sample.len());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Untyped;

/// What a topic carries: a [`Message`] type, [`Raw`], [`Untyped`], or a [`Coded`](crate::Coded)
/// value such as [`Json`](crate::Json). Implemented by this crate only.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is nothing that a topic can carry",
    note = "a message has `#[derive(Archive, Serialize, Message)]`, the first two of rkyv",
    note = "values of other serializers go as `Json<{Self}>`, `MsgPack<{Self}>` or `Coded<..>`"
)]
pub trait Payload: sealed::Sealed + 'static {
    /// What a sample derefs to.
    type View: ?Sized;
    /// What a sample keeps: the message, with the value or where it is.
    #[doc(hidden)]
    type Held: Send + 'static;
    #[doc(hidden)]
    fn topic_type() -> TopicType;
    /// Finds the value in a message, checked as asked.
    #[doc(hidden)]
    fn find(received: Received, validation: Validation) -> Result<Self::Held, InvalidPayload>;
    #[doc(hidden)]
    fn value(held: &Self::Held) -> &Self::View;
    #[doc(hidden)]
    fn received(held: &Self::Held) -> &Received;
    #[doc(hidden)]
    fn check(bytes: &[u8]) -> Result<(), InvalidPayload>;
}

/// A [`Payload`] that can be written: what services answer with, and are asked by.
pub trait Body: Payload {
    /// What is written: the value of a message, or bytes.
    type In: ?Sized;
    #[doc(hidden)]
    fn write(writer: ArchiveWriter<'_>, value: &Self::In) -> Result<Draft, Error>;
}

impl<T> Body for T
where
    T: Message + Payload,
    Archived<T>: Portable,
{
    type In = T;

    #[inline]
    fn write(writer: ArchiveWriter<'_>, value: &T) -> Result<Draft, Error> {
        with_arena(|arena| {
            let mut serializer = Serializer::new(writer, arena.acquire(), Share::new());
            match rkyv::api::serialize_using::<_, rancor::Error>(value, &mut serializer) {
                Ok(_) => Ok(serializer.writer.into_draft()),
                Err(error) => Err(serializer.writer.into_error(&error)),
            }
        })
    }
}

impl Body for Raw {
    type In = [u8];

    #[inline]
    fn write(mut writer: ArchiveWriter<'_>, bytes: &[u8]) -> Result<Draft, Error> {
        writer.append(bytes)?;
        Ok(writer.into_draft())
    }
}

impl Body for Untyped {
    type In = [u8];

    #[inline]
    fn write(writer: ArchiveWriter<'_>, bytes: &[u8]) -> Result<Draft, Error> {
        Raw::write(writer, bytes)
    }
}

/// A [`Payload`] that is sent as bytes: [`Raw`] and [`Untyped`].
pub trait Bytes: Body<In = [u8]> {}

impl Bytes for Raw {}
impl Bytes for Untyped {}

/// What the topics of a service carry: a head of ours before each payload, which is looked at
/// before the value is looked for.
#[derive(Debug)]
pub(crate) struct Enveloped<P>(PhantomData<fn() -> P>);

impl<P: Payload> Payload for Enveloped<P> {
    type View = [u8];
    type Held = View<()>;

    fn topic_type() -> TopicType {
        P::topic_type()
    }

    #[inline]
    fn find(received: Received, _: Validation) -> Result<View<()>, InvalidPayload> {
        Ok(View::of_bytes(received))
    }

    #[inline]
    fn value(view: &View<()>) -> &[u8] {
        view.received().bytes()
    }

    #[inline]
    fn received(view: &View<()>) -> &Received {
        view.received()
    }

    fn check(_: &[u8]) -> Result<(), InvalidPayload> {
        Ok(())
    }
}

/// How a subscription makes sure that what it received is a value of its type.
#[derive(Clone, Copy, Debug, Default)]
pub enum Validation {
    /// Checks the bytes where they lie, in the publisher's memory. Safe against mistakes and
    /// garbage; it trusts publishers (processes of the same user) not to change a message after
    /// sending it.
    #[default]
    InPlace,
    /// Copies the bytes to private memory, then checks them. Safe against publishers that change
    /// them meanwhile; allocates and copies for messages that do not fit inline.
    Copied,
    /// Checks nothing; the promise is the caller's.
    Trusted(Trusted),
}

/// Says why received bytes are no value of the topic's type.
#[derive(Debug)]
pub struct InvalidPayload(pub(crate) String);

impl<T> Payload for T
where
    T: Message,
    Archived<T>: Portable + Send,
{
    type View = Archived<T>;
    type Held = View<Archived<T>>;

    fn topic_type() -> TopicType {
        TopicType {
            encoding: Encoding::Rkyv,
            name: short_name(type_name::<T>()),
            hash: schema::hash_of::<T>(),
        }
    }

    #[inline]
    fn find(
        received: Received,
        validation: Validation,
    ) -> Result<View<Archived<T>>, InvalidPayload> {
        let received = match validation {
            Validation::InPlace => received,
            Validation::Copied => received.into_private().map_err(invalid)?,
            Validation::Trusted(promise) => {
                return View::trust(received, promise).map_err(|misfit| {
                    let (len, need) = (misfit.len, misfit.need);
                    InvalidPayload(format!("{len} bytes cannot hold a value of {need}"))
                });
            }
        };
        View::find(received, access::<Archived<T>>).map_err(invalid)
    }

    #[inline]
    fn value(view: &View<Archived<T>>) -> &Archived<T> {
        view
    }

    #[inline]
    fn received(view: &View<Archived<T>>) -> &Received {
        view.received()
    }

    fn check(bytes: &[u8]) -> Result<(), InvalidPayload> {
        let found = access::<Archived<T>>(bytes);
        found
            .map(|_| ())
            .map_err(|error| InvalidPayload(error.to_string()))
    }
}

impl Payload for Raw {
    type View = [u8];
    type Held = View<()>;

    fn topic_type() -> TopicType {
        TopicType {
            encoding: Encoding::Raw,
            name: "bytes".into(),
            hash: 0,
        }
    }

    #[inline(always)]
    fn find(received: Received, validation: Validation) -> Result<View<()>, InvalidPayload> {
        let received = match validation {
            Validation::Copied => received.into_private().map_err(invalid)?,
            Validation::InPlace | Validation::Trusted(_) => received,
        };
        Ok(View::of_bytes(received))
    }

    #[inline]
    fn value(view: &View<()>) -> &[u8] {
        view.received().bytes()
    }

    #[inline]
    fn received(view: &View<()>) -> &Received {
        view.received()
    }

    fn check(_: &[u8]) -> Result<(), InvalidPayload> {
        Ok(())
    }
}

impl Payload for Untyped {
    type View = [u8];
    type Held = View<()>;

    /// Of its subscribers: publishers are told theirs.
    fn topic_type() -> TopicType {
        TopicType {
            encoding: Encoding::Any,
            name: "any".into(),
            hash: 0,
        }
    }

    #[inline(always)]
    fn find(received: Received, validation: Validation) -> Result<View<()>, InvalidPayload> {
        Raw::find(received, validation)
    }

    #[inline]
    fn value(view: &View<()>) -> &[u8] {
        Raw::value(view)
    }

    #[inline]
    fn received(view: &View<()>) -> &Received {
        Raw::received(view)
    }

    fn check(_: &[u8]) -> Result<(), InvalidPayload> {
        Ok(())
    }
}

pub(crate) fn invalid(error: impl std::fmt::Display) -> InvalidPayload {
    InvalidPayload(error.to_string())
}

pub(crate) mod sealed {
    #[doc(hidden)]
    pub trait Sealed {}
    impl<T: super::Message> Sealed for T {}
    impl Sealed for super::Raw {}
    impl Sealed for super::Untyped {}
    impl<P> Sealed for super::Enveloped<P> {}
}

/// The value at the root of an archive, after all of it was checked, with nesting bounded.
///
/// rkyv's own `access` sets no bound, and an archive nested deeply enough overflows its stack.
pub(crate) fn access<A>(bytes: &[u8]) -> Result<&A, rancor::Error>
where
    A: Portable + for<'a> CheckBytes<HighValidator<'a, rancor::Error>>,
{
    let depth = NonZeroUsize::new(ARCHIVE_DEPTH_MAX);
    let archive = ArchiveValidator::with_max_depth(bytes, depth);
    let mut validator = Validator::new(archive, SharedValidator::new());
    rkyv::api::access_with_context::<A, _, rancor::Error>(bytes, &mut validator)
}

/// A type's name without the paths: `Vec<f32>` for `alloc::vec::Vec<f32>`.
pub(crate) fn short_name(full: &str) -> String {
    let mut short = String::with_capacity(full.len());
    let mut word_start = 0;
    let mut chars = full.char_indices().peekable();
    while let Some((idx, c)) = chars.next() {
        if c == ':' && full[idx..].starts_with("::") {
            short.truncate(word_start);
            chars.next();
        } else {
            short.push(c);
            if !(c.is_alphanumeric() || c == '_') {
                word_start = short.len();
            }
        }
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Archive, Serialize, shmesh_derive::Message)]
    struct Pose {
        x: f64,
        frame: String,
    }

    #[test]
    fn names_have_no_paths() {
        for (full, short) in [
            ("alloc::vec::Vec<f32>", "Vec<f32>"),
            ("a::b::C<d::E, (f::G, [h::I; 3])>", "C<E, (G, [I; 3])>"),
            ("u8", "u8"),
        ] {
            assert_eq!(short_name(full), short);
        }
        assert_eq!(Pose::topic_type().name, "Pose");
    }

    #[test]
    fn types_of_another_layout_have_another_hash() {
        let hash = Pose::topic_type().hash;
        assert_ne!(hash, <[u64; 3]>::topic_type().hash);
        assert_ne!(<[u64; 2]>::topic_type().hash, <[u64; 3]>::topic_type().hash);
        assert_eq!(hash, Pose::topic_type().hash);
    }

    #[test]
    fn garbage_is_no_value() {
        let value = Pose {
            x: 1.0,
            frame: "a frame name that is not short".into(),
        };
        let mut bytes = rkyv::to_bytes::<rancor::Error>(&value).unwrap();
        assert_eq!(access::<Archived<Pose>>(&bytes).unwrap().x, 1.0);
        let len = bytes.len();
        bytes[len - 8..].fill(0x85);
        assert!(access::<Archived<Pose>>(&bytes).is_err());
        assert!(access::<Archived<Pose>>(&bytes[..4]).is_err());
    }
}
