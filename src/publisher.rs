//! The sending end of a topic.

mod coded;
mod draft;
mod history;
mod order;
mod outbox;
mod untyped;

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use rkyv::rancor;
use rkyv::ser::Serializer;
use rkyv::ser::sharing::Share;
use rkyv::util::with_arena;
use rkyv::{Archived, Portable};
use shmesh_shm::Counter;
use tokio::sync::watch;

pub use self::draft::{ArchiveWriter, Draft, Loan};
pub(crate) use self::history::{History, Wanted};
pub(crate) use self::order::Order;
pub(crate) use self::outbox::Outbox;
pub use self::outbox::Sent;
use crate::balance::Balance;
use crate::error::Error;
use crate::events::Events;
use crate::flow::listeners::Listeners;
use crate::limits::ARENA_BYTES_DEFAULT;
use crate::message::{Body, Message, Payload, access};
use crate::node::{Node, PublisherSetup};
use crate::priority::Priority;
use crate::topology::TopicType;

/// Sets up a [`Publisher`]; made by [`Node::publisher`](crate::Node::publisher).
#[derive(Debug)]
#[must_use = "call build() to publish"]
pub struct PublisherBuilder<P> {
    node: Node,
    setup: PublisherSetup,
    reserve: Option<(usize, usize)>,
    /// What it announces.
    ty: TopicType,
    carries: PhantomData<fn() -> P>,
}

impl<P: Payload> PublisherBuilder<P> {
    pub(crate) fn new(node: Node, topic: &str) -> Self {
        let setup = PublisherSetup {
            topic: topic.into(),
            arena_bytes_max: ARENA_BYTES_DEFAULT,
            is_stamping: true,
            balance: Balance::default(),
            history: 0,
            deadline: None,
            priority: Priority::default(),
        };
        Self {
            node,
            setup,
            reserve: None,
            ty: untyped::announced::<P>(),
            carries: PhantomData,
        }
    }

    /// Sends without the time: saves the reading of a clock, about 22 ns a message. Not while a
    /// subscription to several topics listens, which orders messages by their times.
    pub fn without_timestamps(mut self) -> Self {
        self.setup.is_stamping = false;
        self
    }

    /// Most memory for messages that do not fit inline, in bytes; 1 GiB unless set. Messages that
    /// are unread or held count.
    pub fn arena_bytes_max(mut self, bytes: usize) -> Self {
        self.setup.arena_bytes_max = bytes;
        self
    }

    /// How messages are shared out among subscribers whose nodes have the same name: to one after
    /// the other unless set.
    pub fn balance(mut self, balance: Balance) -> Self {
        self.setup.balance = balance;
        self
    }

    /// Keeps the last `count` messages for subscribers that come later and ask for them with
    /// [`latched`](crate::SubscriberBuilder::latched) or
    /// [`history`](crate::SubscriberBuilder::history); none unless set. They are served also while
    /// nothing more is sent.
    ///
    /// What is kept lies in the publisher's payload memory. At its bound the oldest kept messages
    /// give way first: a history never makes a publisher fail. Each send takes a lock then.
    pub fn history(mut self, count: u32) -> Self {
        self.setup.history = count;
        self
    }

    /// Promises to send at least that often. When it does not, [`Publisher::events`] say so: by
    /// between once and twice that time later, for the node's thread looks on from the side, and
    /// sending costs nothing more.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.setup.deadline = Some(deadline);
        self
    }

    /// How urgent its messages are on network links, where they share a connection with all others
    /// between the two nodes; [`Priority::Normal`] unless set. On one host it means nothing.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.setup.priority = priority;
        self
    }

    /// Gets memory for `count` messages of `bytes` bytes now, so that the first ones do not wait
    /// for it.
    pub fn reserve(mut self, bytes: usize, count: usize) -> Self {
        self.reserve = Some((bytes, count));
        self
    }

    /// Makes the publisher. Subscribers that exist already, and those that come later, are found
    /// on their own. Does not wait for any.
    ///
    /// # Errors
    /// A topic name, history or deadline out of bounds; no memory or descriptors; a closed node.
    pub fn build(self) -> Result<Publisher<P>, Error> {
        let mut outbox = self.node.add_publisher(self.setup, self.ty)?;
        let reserved = self
            .reserve
            .map_or(Ok(()), |(bytes, count)| outbox.reserve(bytes, count));
        let publisher = Publisher {
            node: self.node,
            outbox,
            guess: 0,
            carries: PhantomData,
        };
        reserved.map(|()| publisher)
    }
}

/// Counts of a publisher since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublisherStats {
    /// Messages sent, whoever listened.
    pub sent: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Messages that a subscriber had no room for, counted once for each subscriber; and those that
    /// a member of a group had not read when it went.
    pub refused: u64,
    /// System calls made to wake subscribers.
    pub wake_ups: u64,
    /// Subscribers now.
    pub listeners: usize,
    /// Payload memory in bytes.
    pub arena_bytes: u64,
}

/// The sending end of a topic. One thread at a time: make another publisher of the topic for
/// another thread.
///
/// Sending never waits, except where a subscription asked for it with
/// [`Overflow::Block`](crate::Overflow::Block): then the plain methods wait on this thread, and
/// those that end in `_async` in the runtime.
#[derive(Debug)]
pub struct Publisher<P: Payload> {
    node: Node,
    pub(crate) outbox: Outbox,
    /// Bytes the last archive had.
    guess: usize,
    carries: PhantomData<fn() -> P>,
}

impl<P: Payload> Publisher<P> {
    /// The topic's name.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.outbox.shared.endpoint.topic
    }

    /// Refuses a type that somebody on the topic is known not to share.
    pub(crate) fn check_type(&self) -> Result<(), Error> {
        self.node.check_type(&self.outbox.shared.endpoint)
    }

    /// How many subscribers are connected.
    #[must_use]
    pub fn listener_count(&self) -> usize {
        *self.outbox.shared.listeners.borrow()
    }

    /// Tells of changes of [`listener_count`](Self::listener_count).
    pub(crate) fn watch_listeners(&self) -> watch::Receiver<usize> {
        self.outbox.shared.listeners.subscribe()
    }

    /// Waits until a subscriber is connected, and readies what the first message will touch.
    /// Event-driven, no polling.
    ///
    /// # Errors
    /// [`Error::Closed`] if the node is closed meanwhile.
    pub async fn wait_for_listener(&mut self) -> Result<(), Error> {
        let mut listeners = self.outbox.shared.listeners.subscribe();
        let found = listeners.wait_for(|count| *count > 0);
        self.node.or_closed(found).await?;
        self.outbox.warm();
        Ok(())
    }

    /// The same on this thread, without a runtime. Not to be called from async code.
    ///
    /// # Errors
    /// [`Error::Timeout`] after `timeout`, [`Error::Closed`] if the node is closed meanwhile.
    pub fn wait_for_listener_blocking(&mut self, timeout: Duration) -> Result<(), Error> {
        crate::node::block_on(timeout, self.wait_for_listener())?
    }

    /// The number of subscribers, now and at each change: a stream that begins with the present
    /// one, and leaves out those that are past when it is asked. It ends with the publisher, and
    /// may go to another task.
    ///
    /// ```
    /// # use futures_util::StreamExt as _;
    /// # async fn run(node: shmesh::Node) -> Result<(), shmesh::Error> {
    /// let images = node.publisher::<shmesh::Raw>("images").build()?;
    /// let mut listeners = images.listeners();
    /// while let Some(count) = listeners.next().await {
    ///     println!("{count} look at the images");
    /// }
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn listeners(&self) -> Listeners {
        Listeners::new(self.watch_listeners())
    }

    /// True if a subscriber is connected.
    #[must_use]
    pub fn has_listeners(&self) -> bool {
        self.listener_count() > 0
    }

    /// Waits until no subscriber is connected, to end costly work that nobody wants.
    ///
    /// # Errors
    /// [`Error::Closed`] if the node is closed meanwhile.
    pub async fn wait_for_no_listener(&self) -> Result<(), Error> {
        let mut listeners = self.watch_listeners();
        let gone = listeners.wait_for(|count| *count == 0);
        self.node.or_closed(gone).await
    }

    /// Sends a loan. The message is not copied.
    ///
    /// # Errors
    /// [`Error::ForeignLoan`] for a loan of another publisher; [`Error::InvalidLoan`] if it does
    /// not hold a value of the topic's type; [`Error::Closed`] if the node is closed.
    pub fn send(&mut self, loan: Loan<P>) -> Result<Sent, Error> {
        self.check(&loan)?;
        self.outbox.send(loan.draft)
    }

    /// The same, waiting asynchronously.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_async(&mut self, loan: Loan<P>) -> Result<Sent, Error> {
        self.check(&loan)?;
        self.outbox.send_async(loan.draft).await
    }

    /// With [`Balance::Sticky`]: messages from now on belong to `key`, and go to the member of a
    /// group that has it.
    pub fn set_key(&mut self, key: u64) {
        self.outbox.set_key(key);
    }

    /// Deadlines of its own that it misses, if it promised any.
    #[must_use]
    pub fn events(&self) -> Events {
        Events::of(&self.outbox.shared.promise.queue)
    }

    /// Counts since it was made.
    #[must_use]
    pub fn stats(&self) -> PublisherStats {
        let counters = &self.outbox.counters;
        PublisherStats {
            sent: self.outbox.sequence(),
            bytes: counters.value(Counter::Bytes),
            refused: counters.value(Counter::LostDropped),
            wake_ups: counters.value(Counter::WakeUps),
            listeners: self.listener_count(),
            arena_bytes: counters.value(Counter::ArenaBytes),
        }
    }

    #[inline]
    fn lend(&mut self, len: usize) -> Result<Loan<P>, Error> {
        Ok(Loan {
            draft: Draft::with_len(&mut self.outbox, len)?,
            carries: PhantomData,
        })
    }

    #[inline]
    fn check(&self, loan: &Loan<P>) -> Result<(), Error> {
        if loan.draft.publisher() != self.outbox.publisher() {
            return Err(Error::ForeignLoan);
        }
        P::check(loan.bytes()).map_err(|invalid| Error::InvalidLoan(invalid.0))
    }
}

impl<T> Publisher<T>
where
    T: Message + Payload,
    Archived<T>: Portable,
{
    /// Sends `value`: archives it straight into the memory that subscribers read. Without
    /// subscribers it is only counted.
    ///
    /// # Errors
    /// [`Error::ArenaFull`] and the like for messages that do not fit inline, [`Error::TooLarge`],
    /// [`Error::Archive`], [`Error::Closed`] if the node is closed.
    pub fn publish(&mut self, value: &T) -> Result<Sent, Error> {
        let draft = self.draft_if_heard(value)?;
        self.outbox.send(draft)
    }

    /// The same, waiting asynchronously.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub async fn publish_async(&mut self, value: &T) -> Result<Sent, Error> {
        let draft = self.draft_if_heard(value)?;
        self.outbox.send_async(draft).await
    }

    /// Room for a value of a type without strings, vectors or the like. Write it with
    /// [`Loan::write`], or its archived form through [`Loan::bytes_mut`]; it is checked when sent.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn loan_uninit(&mut self) -> Result<Loan<T>, Error> {
        self.lend(size_of::<Archived<T>>())
    }

    /// A loan that holds `value`, archived in place, to be looked over before it is sent.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn loan_value(&mut self, value: &T) -> Result<Loan<T>, Error> {
        Ok(Loan {
            draft: self.draft(value)?,
            carries: PhantomData,
        })
    }

    fn draft_if_heard(&mut self, value: &T) -> Result<Draft, Error> {
        if self.outbox.has_listeners() {
            self.draft(value)
        } else {
            Draft::with_len(&mut self.outbox, 0)
        }
    }

    fn draft(&mut self, value: &T) -> Result<Draft, Error> {
        let draft = Draft::with_guess(&mut self.outbox, self.guess)?;
        let draft = T::write(ArchiveWriter::new(&mut self.outbox, draft), value)?;
        self.guess = draft.bytes().len();
        Ok(draft)
    }
}

impl<T: Message> Loan<T>
where
    Archived<T>: Portable,
{
    /// Writes `value`. The loan must be as long as its archive, as those of
    /// [`Publisher::loan_uninit`] are for types without strings, vectors or the like.
    ///
    /// # Errors
    /// [`Error::InvalidLoan`] if the archive has another length.
    pub fn write(&mut self, value: &T) -> Result<(), Error>
    where
        T: for<'a> rkyv::Serialize<
                rkyv::api::high::HighSerializer<
                    rkyv::ser::writer::Buffer<'a>,
                    rkyv::ser::allocator::ArenaHandle<'a>,
                    rancor::Error,
                >,
            >,
    {
        let room = self.bytes_mut();
        let len = room.len();
        let written = with_arena(|arena| {
            let buffer = rkyv::ser::writer::Buffer::from(room);
            let mut serializer = Serializer::new(buffer, arena.acquire(), Share::new());
            rkyv::api::serialize_using::<_, rancor::Error>(value, &mut serializer)
                .map(|_| serializer.writer.len())
        });
        match written {
            Ok(count) if count == len => Ok(()),
            Ok(count) => Err(Error::InvalidLoan(format!(
                "{count} of {len} bytes written"
            ))),
            Err(error) => Err(Error::InvalidLoan(error.to_string())),
        }
    }

    /// The archived value as it is now.
    ///
    /// # Errors
    /// [`Error::InvalidLoan`] if the bytes are none.
    pub fn value(&self) -> Result<&Archived<T>, Error> {
        access::<Archived<T>>(self.bytes()).map_err(|error| Error::InvalidLoan(error.to_string()))
    }
}

impl<P: Payload> Drop for Publisher<P> {
    fn drop(&mut self) {
        self.node.remove_publisher(&Arc::clone(&self.outbox.shared));
    }
}
