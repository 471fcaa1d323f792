//! Calls in one line: `node.call("add", &pair)`. The node keeps the client for the next one.

use std::any::{Any, TypeId};
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::caller::To;
use super::{CallError, Client};
use crate::endpoint::lock;
use crate::error::Error;
use crate::limits::{CALL_MS_DEFAULT, CLIENTS_PER_NODE_MAX, ENDPOINTS_PER_NODE_MAX};
use crate::message::{Body, Payload};
use crate::node::Node;
use crate::sample::Sample;

impl Node {
    /// Calls a service, and sleeps in tokio until the reply comes. If nobody provides it, or is
    /// connected yet, it waits for that: ten seconds at most for both.
    ///
    /// The node keeps the [`Client`] for further calls. It keeps those of 64 services; beyond that
    /// the one that was called longest ago gives way, and is made anew when it is called again.
    ///
    /// ```
    /// # use shmesh::{Node, Raw, Request};
    /// # let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// # let node = Node::builder("n").coordinator(port).embedded_coordinator().build().await?;
    /// let echo = |request: Request<Raw>| async move { Ok::<_, String>(request.to_vec()) };
    /// let _serving = node.provider::<Raw, Raw>("echo").serve(echo)?;
    /// let reply = node.call::<Raw, Raw>("echo", b"hello").await?;
    /// assert_eq!(*reply, *b"hello");
    /// # Ok::<_, Box<dyn std::error::Error>>(()) })?;
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`CallError`] says why there is no reply; [`CallError::NoProvider`] if nobody provided it
    /// in time; [`CallError::Timeout`] if somebody did, and did not answer in time.
    pub async fn call<Q, R>(&self, service: &str, request: &Q::In) -> Result<Sample<R>, CallError>
    where
        Q: Body,
        R: Payload,
        Client<Q, R>: Send + Sync,
    {
        let client = self.kept_client::<Q, R>(service)?;
        let until = Instant::now() + PATIENCE;
        let calling = client.once_there(until, || client.start(request)).await?;
        // Dropped, it is given up, and the provider told.
        match timeout_at(until, calling).await {
            Ok(reply) => reply,
            Err(_) => Err(CallError::Timeout {
                service: service.into(),
                timeout: PATIENCE,
            }),
        }
    }

    /// Sends a request that has no reply to one node, by its name or id. If that does not provide
    /// the service, or is not connected yet, it waits for that: ten seconds at most.
    ///
    /// That it was sent does not mean that it will be carried out: the node may end before.
    ///
    /// ```
    /// # use shmesh::{CallError, Node, NodeId, Raw};
    /// # async fn run(node: Node, id: NodeId) -> Result<(), CallError> {
    /// node.tell::<Raw, Raw>("arm", "gripper", b"open").await?;
    /// node.tell::<Raw, Raw>(id, "gripper", b"close").await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`CallError::NoSuchNode`] if that node was not there in time; else as
    /// [`Caller::tell_to`](super::Caller::tell_to).
    pub async fn tell<'a, Q, R>(
        &self,
        node: impl Into<To<'a>>,
        service: &str,
        request: &Q::In,
    ) -> Result<(), CallError>
    where
        Q: Body,
        R: Payload,
        Client<Q, R>: Send + Sync,
    {
        let client = self.kept_client::<Q, R>(service)?;
        let (to, until) = (node.into(), Instant::now() + PATIENCE);
        client
            .once_there(until, || client.tell_to(to, request))
            .await
    }

    fn kept_client<Q, R>(&self, service: &str) -> Result<Client<Q, R>, Error>
    where
        Q: Body,
        R: Payload,
        Client<Q, R>: Send + Sync,
    {
        let make = |node: &Self| node.client::<Q, R>(service);
        self.clients().find_or(self, service, make)
    }
}

impl<Q: Body, R: Payload> Client<Q, R> {
    /// What `attempt` gives, once there is somebody to attempt it with.
    async fn once_there<T>(
        &self,
        until: Instant,
        mut attempt: impl FnMut() -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        loop {
            // Before the attempt, so that no change goes by unseen.
            let changed = self.changed();
            let error = match attempt() {
                Err(error @ (CallError::NoProvider { .. } | CallError::NoSuchNode { .. })) => error,
                outcome => return outcome,
            };
            match timeout_at(until, changed).await {
                Ok(changed) => changed?,
                Err(_) => return Err(error),
            }
        }
    }
}

/// The clients that a node keeps.
#[derive(Debug, Default)]
pub(crate) struct Clients(Mutex<Vec<Kept>>);

#[derive(Debug)]
struct Kept {
    service: String,
    types: TypeId,
    client: Box<dyn Any + Send + Sync>,
}

impl Clients {
    /// The client of that service and these types.
    fn find_or<C: Clone + Send + Sync + 'static>(
        &self,
        node: &Node,
        service: &str,
        make: impl FnOnce(&Node) -> Result<C, Error>,
    ) -> Result<C, Error> {
        let types = TypeId::of::<C>();
        let mut kept = lock(&self.0);
        let is_it = |known: &Kept| known.types == types && known.service == service;
        if let Some(idx) = kept.iter().position(is_it)
            && let Some(client) = kept[idx].client.downcast_ref::<C>().cloned()
        {
            // Those at the end were called last.
            kept[idx..].rotate_left(1);
            return Ok(client);
        }
        // What the node itself keeps must not keep the node.
        let client = make(&node.guest())?;
        let oldest = (kept.len() >= CLIENTS_PER_NODE_MAX).then(|| kept.remove(0));
        kept.push(Kept {
            service: service.into(),
            types,
            client: Box::new(client.clone()),
        });
        drop(kept);
        drop(oldest);
        Ok(client)
    }

    /// Drops them all.
    pub(crate) fn clear(&self) {
        let kept = std::mem::take(&mut *lock(&self.0));
        drop(kept);
    }
}

const PATIENCE: Duration = Duration::from_millis(CALL_MS_DEFAULT);
// Each has a publisher and a subscriber.
const _: () = assert!(CLIENTS_PER_NODE_MAX * 2 <= ENDPOINTS_PER_NODE_MAX as usize / 4);
