//! How replies are taken, and what they say.

use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use shmesh_shm::Received;

use super::{Call, CallError, CallId, Caller, Head, Kind, Reply};
use crate::error::RecvError;
use crate::id::NodeId;
use crate::message::{Body, Enveloped, Payload, Validation};
use crate::sample::Sample;
use crate::subscriber::Subscriber;

/// The value that a call ended with.
type Value<R> = (CallId, Sample<R>);

/// How to wait for a message, at most so long.
type Receive<R> =
    fn(&mut Subscriber<Enveloped<R>>, Duration) -> Result<Sample<Enveloped<R>>, RecvError>;

impl<Q: Body, R: Payload> Caller<Q, R> {
    /// Takes a reply if there is one, or the end of a call that will have none.
    ///
    /// # Errors
    /// Whatever keeps it from receiving at all.
    pub fn try_reply(&mut self) -> Result<Option<Reply<R>>, CallError> {
        if let Some((id, value)) = self.try_value()? {
            return Ok(Some((id, Ok(value))));
        }
        Ok(self.ended.pop().map(|(id, error)| (id, Err(error))))
    }

    /// Takes a value if one came before the end of a call without: that is in `ended`.
    ///
    /// It gives no [`Reply`]: that has room for an error, and is moved whole from hand to hand,
    /// which waits each time (some 10 ns) until what was just put into it can be had in one piece.
    #[inline]
    fn try_value(&mut self) -> Result<Option<Value<R>>, CallError> {
        while self.ended.is_empty() {
            match self.replies.try_recv() {
                Ok(Some(sample)) => {
                    if let Some(value) = self.take_in(sample.into_received()) {
                        return Ok(Some(value));
                    }
                }
                Ok(None) => break,
                Err(RecvError::Changed) => self.end_lost(),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Takes a value if one came, else waits for one with `receive`, until the first of the calls
    /// under way is given up. None if there is the end of a call instead, or something else to
    /// look at.
    #[inline]
    fn value(&mut self, receive: Receive<R>) -> Result<Option<Value<R>>, CallError> {
        let value = self.try_value()?;
        if value.is_some() || !self.ended.is_empty() {
            return Ok(value);
        }
        let until = self.earliest()?;
        let left = until.saturating_duration_since(Instant::now());
        match receive(&mut self.replies, left) {
            Ok(sample) => Ok(self.take_in(sample.into_received())),
            Err(error) => self.on_waited(error).map(|()| None),
        }
    }

    /// The next reply, whatever it is.
    #[inline]
    fn next(&mut self, receive: Receive<R>) -> Result<Reply<R>, CallError> {
        loop {
            if let Some((id, value)) = self.value(receive)? {
                return Ok((id, Ok(value)));
            }
            if let Some((id, error)) = self.ended.pop() {
                return Ok((id, Err(error)));
            }
        }
    }

    /// The value of that call; what other calls end with is dropped.
    #[inline]
    pub(super) fn wait_for(
        &mut self,
        id: CallId,
        receive: Receive<R>,
    ) -> Result<Sample<R>, CallError> {
        loop {
            match self.value(receive)? {
                Some((of, value)) if of == id => return Ok(value),
                Some(_) => {}
                None => match self.ended.pop() {
                    Some((of, error)) if of == id => return Err(error),
                    _ => {}
                },
            }
        }
    }

    /// Takes the next reply, without sleeping.
    ///
    /// # Errors
    /// Whatever keeps it from receiving at all; [`CallError::NoProvider`] if no call is under way.
    pub fn reply_spin(&mut self) -> Result<Reply<R>, CallError> {
        self.next(Subscriber::recv_spin)
    }

    /// Takes the next reply, sleeping on this thread until it comes.
    ///
    /// # Errors
    /// As [`reply_spin`](Self::reply_spin).
    pub fn reply_blocking(&mut self) -> Result<Reply<R>, CallError> {
        self.next(Subscriber::recv_blocking)
    }

    /// Takes the next reply, sleeping in tokio until it comes. Cancel-safe.
    ///
    /// # Errors
    /// As [`reply_spin`](Self::reply_spin).
    pub async fn reply(&mut self) -> Result<Reply<R>, CallError> {
        loop {
            if let Some(reply) = self.try_reply()? {
                return Ok(reply);
            }
            let until = self.earliest()?;
            match tokio::time::timeout_at(until.into(), self.replies.recv()).await {
                Ok(Ok(sample)) => {
                    if let Some((id, value)) = self.take_in(sample.into_received()) {
                        return Ok((id, Ok(value)));
                    }
                }
                Ok(Err(error)) => self.on_waited(error)?,
                Err(_) => self.end_late(),
            }
        }
    }

    /// As [`reply`](Self::reply), but for the time: see [`end_late`](Self::end_late).
    pub(in crate::service) fn poll_reply(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Reply<R>, CallError>> {
        loop {
            if let Some(reply) = self.try_reply()? {
                return Poll::Ready(Ok(reply));
            }
            match ready!(self.replies.poll_recv(cx, &mut None)) {
                Ok(sample) => {
                    if let Some((id, value)) = self.take_in(sample.into_received()) {
                        return Poll::Ready(Ok((id, Ok(value))));
                    }
                }
                Err(error) => self.on_waited(error)?,
            }
        }
    }

    /// The calls under way are looked at when waiting ended without a reply.
    fn on_waited(&mut self, error: RecvError) -> Result<(), CallError> {
        match error {
            RecvError::Timeout { .. } => self.end_late(),
            RecvError::Changed => self.end_lost(),
            error => return Err(error.into()),
        }
        Ok(())
    }

    /// When the first of the calls under way is given up.
    fn earliest(&self) -> Result<Instant, CallError> {
        let untils = self.calls.iter().flatten().map(|call| call.until);
        untils.min().ok_or_else(|| CallError::NoProvider {
            service: self.service.clone(),
        })
    }

    /// The value that a reply has, if somebody waits for it. The end of a call with an error goes
    /// to `ended`.
    #[inline]
    fn take_in(&mut self, mut received: Received) -> Option<Value<R>> {
        let head = Head::decode(received.take_front()?)?;
        let id = CallId(head.call);
        let call = self.end(id)?;
        if head.kind != Kind::Done {
            self.fail(&call, head.kind, &received);
            return None;
        }
        match R::find(received, Validation::InPlace) {
            Ok(held) => {
                self.meter.done(&call);
                Some((id, Sample { held }))
            }
            Err(invalid) => {
                let (provider, reason) = (self.provider_of(&call), invalid.0);
                self.end_with(&call, CallError::Invalid { provider, reason });
                None
            }
        }
    }

    /// Ends a call whose reply has no value.
    #[cold]
    fn fail(&mut self, call: &Call, kind: Kind, reply: &Received) {
        let provider = reply.origin().node_name.clone();
        let message = || String::from_utf8_lossy(reply.bytes()).into_owned();
        let error = match kind {
            Kind::Overloaded => CallError::Overloaded {
                service: self.service.clone(),
            },
            Kind::Closing => {
                let node = NodeId(reply.origin().node);
                let mut known = self.providers.iter_mut();
                if let Some(known) = known.find(|known| known.node == node) {
                    known.is_closing = true;
                }
                CallError::Closing { provider }
            }
            Kind::Panicked => CallError::Panicked {
                provider,
                message: message(),
            },
            _ => CallError::Failed {
                provider,
                message: message(),
            },
        };
        self.end_with(call, error);
    }

    #[cold]
    fn end_with(&mut self, call: &Call, error: CallError) {
        self.meter.failed(&error, call);
        self.ended.push((call.id, error));
    }
}
