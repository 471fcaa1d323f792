//! How subscribers come into a node and leave it.

use std::sync::Arc;
use std::time::Duration;

use shmesh_shm::Parker;
use tokio::sync::watch;

use super::Node;
use crate::bounds::{check_bounds, check_duration, whole_ns};
use crate::driver::Command;
use crate::endpoint::{Inbox, Overflow, SubscriberShared, lock};
use crate::error::Error;
use crate::events::Watch;
use crate::limits::{DEPTH_MAX, HELD_MAX};
use crate::metrics::Whose;
use crate::name;
use crate::topology::{Endpoint, Role, TopicType};

#[derive(Clone, Debug)]
pub(crate) struct SubscriberSetup {
    /// Names and patterns, one at least.
    pub(crate) topics: Vec<String>,
    pub(crate) overflow: Overflow,
    pub(crate) held_max: u32,
    pub(crate) history: u32,
    pub(crate) lifespan: Option<Duration>,
    pub(crate) deadline: Option<Duration>,
}

impl Node {
    pub(crate) fn add_subscriber(
        &self,
        setup: SubscriberSetup,
        ty: TopicType,
    ) -> Result<(Arc<SubscriberShared>, Parker), Error> {
        let shared = &self.handle.shared;
        let topics = name::check_topics(&setup.topics)?;
        let depth = setup.overflow.depth();
        check_bounds(&[
            ("depth", depth, 1, DEPTH_MAX),
            ("max_held", setup.held_max, 1, HELD_MAX),
            ("history beside this depth", setup.history, 0, depth),
        ])?;
        check_duration("lifespan in nanoseconds", setup.lifespan)?;
        check_duration("deadline in nanoseconds", setup.deadline)?;
        ty.check()?;
        for topic in topics.iter().filter(|topic| !name::is_pattern(topic)) {
            shared.check_type(Role::Subscriber, topic, &ty)?;
        }
        let parker = Parker::new(&shared.bells)?;
        let bell = parker.event().try_clone()?;
        let mut registry = lock(&shared.registry);
        // Under the lock: the driver closes those that are there by then.
        if *shared.shutdown.borrow() {
            return Err(Error::Closed);
        }
        #[allow(clippy::cast_possible_truncation)] // bounded by `check_topics`
        let first = registry.take_ids(topics.len() as u32)?;
        let mut also: Vec<_> = (first..)
            .zip(topics)
            .map(|(id, topic)| Endpoint {
                id,
                role: Role::Subscriber,
                topic: topic.to_owned(),
                ty: ty.clone(),
            })
            .collect();
        let endpoint = also.remove(0);
        let whose = Whose::Endpoint(Role::Subscriber);
        let counters = Arc::new(shared.counters(whose, first, &endpoint.topic));
        let subscriber = Arc::new(SubscriberShared {
            endpoint,
            also,
            overflow: setup.overflow,
            history: setup.history,
            lifespan_ns: setup.lifespan.map(whole_ns),
            watch: Watch::new(setup.deadline.map(whole_ns), &shared.deadlines),
            ring: setup.overflow.ring(setup.held_max),
            inbox: Inbox::new(),
            publishers: watch::Sender::new(0),
            bell,
            bell_index: parker.index(),
            counters,
        });
        let ids = subscriber.endpoints().map(|endpoint| endpoint.id);
        let known = ids.map(|id| (id, Arc::clone(&subscriber)));
        registry.subscribers.extend(known);
        drop(registry);
        shared.announce(subscriber.endpoints().cloned());
        Ok((subscriber, parker))
    }

    pub(crate) fn remove_subscriber(&self, subscriber: &SubscriberShared) {
        let shared = &self.handle.shared;
        let ids = || subscriber.endpoints().map(|endpoint| endpoint.id);
        subscriber.watch.queue.close();
        let mut registry = lock(&shared.registry);
        ids().for_each(|id| drop(registry.subscribers.remove(&id)));
        drop(registry);
        shared.withdraw(ids());
        let subscriber = subscriber.endpoint.id;
        shared.command(Command::SubscriberGone { subscriber });
    }
}
