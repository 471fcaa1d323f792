//! Setting up the calling end of a service.

use std::marker::PhantomData;
use std::time::Duration;

use super::caller::Settings;
use super::{Caller, Client};
use crate::balance::Balance;
use crate::error::Error;
use crate::limits::{CALL_MS_DEFAULT, CALLS_DEFAULT, CALLS_MAX};
use crate::message::{Body, Payload, Untyped};
use crate::node::Node;
use crate::topology::TopicType;

/// Sets up a [`Caller`]; made by [`Node::caller`](crate::Node::caller).
#[derive(Debug)]
#[must_use = "call build() to call"]
pub struct CallerBuilder<Q, R> {
    node: Node,
    service: String,
    timeout: Duration,
    in_flight_max: u32,
    balance: Balance,
    ty: Option<TopicType>,
    carries: PhantomData<fn(Q) -> R>,
}

impl<Q: Body, R: Payload> CallerBuilder<Q, R> {
    pub(crate) fn new(node: Node, service: &str) -> Self {
        Self {
            node,
            service: service.into(),
            timeout: Duration::from_millis(CALL_MS_DEFAULT),
            in_flight_max: CALLS_DEFAULT,
            balance: Balance::default(),
            ty: None,
            carries: PhantomData,
        }
    }

    /// How long a call waits for its reply; ten seconds unless set.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Most calls under way at once; 64 unless set.
    pub fn in_flight_max(mut self, count: u32) -> Self {
        self.in_flight_max = count;
        self
    }

    /// Which of several providers gets a call; one after the other unless set.
    /// [`Balance::Everybody`] means the first, unless [`Caller::start_all`] is used.
    pub fn balance(mut self, balance: Balance) -> Self {
        self.balance = balance;
        self
    }

    /// Makes a [`Client`], which any number of tasks may use.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn client(self) -> Result<Client<Q, R>, Error> {
        Ok(Client::new(self.build()?))
    }

    /// Makes the caller. Providers that are there already, and those that come later, are found on
    /// their own. Does not wait for any.
    ///
    /// # Errors
    /// A name or bound out of its limits; a provider with other types; no memory or descriptors.
    pub fn build(self) -> Result<Caller<Q, R>, Error> {
        let max = self.in_flight_max;
        if !(1..=CALLS_MAX).contains(&max) {
            let (found, min, max) = (u64::from(max), 1, u64::from(CALLS_MAX));
            return Err(Error::OutOfBounds {
                what: "in_flight_max",
                found,
                min,
                max,
            });
        }
        let settings = Settings {
            timeout: self.timeout,
            in_flight_max: self.in_flight_max,
            balance: self.balance,
            ty: self.ty,
        };
        Caller::new(self.node, self.service, settings)
    }
}

impl<R: Payload> CallerBuilder<Untyped, R> {
    /// What its requests are announced as; as those of [`Raw`](crate::Raw) unless set. Nobody
    /// looks whether the bytes are that before the provider does.
    pub fn ty(mut self, ty: TopicType) -> Self {
        self.ty = Some(ty);
        self
    }
}
