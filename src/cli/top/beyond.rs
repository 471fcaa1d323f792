//! Beyond this host: who is there, as the coordinator knows, and what those count whose pages
//! cannot be read here. It is asked as a visitor, so nobody is told, and no page is made or
//! removed.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use crate::cli::reach::ReachArgs;
use crate::cli::{Failure, NO_COORDINATOR};
use crate::error::Error;
use crate::id::{HostId, NodeId};
use crate::limits::{TOP_LOOK_MS, TOP_LOOK_MS_MIN};
use crate::metrics::Told;
use crate::name::escaped;
use crate::topology::Topology;
use crate::visit::Visit;

/// What is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Beyond {
    pub(crate) topology: Topology,
    /// What the others count, of those who said it when last asked.
    pub(crate) told: BTreeMap<NodeId, Told>,
    standing: Standing,
}

/// How it is with the coordinator.
#[derive(Clone, Debug, Default)]
enum Standing {
    #[default]
    Asked,
    /// When that was asked for.
    Known { since: Instant },
    /// Who was there then stays.
    Lost(String),
}

/// Looks that go on until it is dropped, and what came of them.
#[derive(Debug)]
pub(crate) struct Watch {
    address: String,
    pub(crate) host: HostId,
    pub(crate) known: watch::Receiver<Beyond>,
    again: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Watch {
    /// Starts asking, as often as readings are made if that is bearable. That nobody answers is
    /// not an error.
    ///
    /// # Errors
    /// A key or name that cannot be used.
    pub(crate) fn start(reach: &ReachArgs, interval: Duration) -> Result<Self, Failure> {
        // Now, so that a key that cannot be used is said.
        reach.security.credentials()?;
        let (tell, known) = watch::channel(Beyond::default());
        let again = Arc::new(Notify::new());
        let following = follow(reach.clone(), interval, Arc::clone(&again), tell);
        Ok(Self {
            address: reach.address()?,
            host: HostId::of_this_host()?,
            known,
            again,
            task: tokio::spawn(following),
        })
    }

    /// Waits until it is known who is there, or that nobody says so.
    pub(crate) async fn settle(&mut self) {
        let is_settled = |beyond: &Beyond| !matches!(beyond.standing, Standing::Asked);
        let _ = self.known.wait_for(is_settled).await;
    }

    /// True if somebody was asked what it counts, and said so.
    pub(crate) fn has_told(&self) -> bool {
        !self.known.borrow().told.is_empty()
    }

    /// Has another look made, and waits for it; or not, if nobody says anything.
    pub(crate) async fn look_again(&mut self) {
        let now = Instant::now();
        self.again.notify_one();
        let is_newer = |beyond: &Beyond| match beyond.standing {
            Standing::Asked => false,
            Standing::Known { since } => since >= now,
            Standing::Lost(_) => true,
        };
        let _ = self.known.wait_for(is_newer).await;
    }

    /// How it is, in a line.
    pub(crate) fn line(&self) -> String {
        let address = escaped(&self.address);
        match &self.known.borrow().standing {
            Standing::Asked => format!("coordinator {address} is asked"),
            Standing::Known { .. } => format!("coordinator {address}"),
            Standing::Lost(why) => format!("coordinator {address} is not there: {}", escaped(why)),
        }
    }

    /// The same, for programs.
    pub(crate) fn document(&self) -> Value {
        let known = self.known.borrow();
        let error = match &known.standing {
            Standing::Lost(why) => Some(why),
            Standing::Asked | Standing::Known { .. } => None,
        };
        json!({
            "address": self.address,
            "reached": matches!(known.standing, Standing::Known { .. }),
            "error": error,
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Keeps `tell` up to date for ever.
async fn follow(
    reach: ReachArgs,
    interval: Duration,
    again: Arc<Notify>,
    tell: watch::Sender<Beyond>,
) {
    let mut visit = None;
    let bounds = [TOP_LOOK_MS_MIN, TOP_LOOK_MS].map(Duration::from_millis);
    let mut looks = tokio::time::interval(interval.clamp(bounds[0], bounds[1]));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            () = again.notified() => {}
        }
        match look(&reach, &mut visit).await {
            Ok(beyond) => {
                tell.send_replace(beyond);
            }
            Err(why) => {
                visit = None;
                tell.send_modify(|beyond| {
                    beyond.told.clear();
                    beyond.standing = Standing::Lost(why);
                });
            }
        }
    }
}

/// Who is there now, and what those count whom we cannot look at; or why nobody says so.
async fn look(reach: &ReachArgs, visit: &mut Option<Visit>) -> Result<Beyond, String> {
    let since = Instant::now();
    let visit = match visit {
        Some(visit) => visit,
        None => {
            let begun = reach.visit().await;
            visit.insert(begun.map_err(|failure| full_text(failure.error))?)
        }
    };
    let in_words = |error: Error| full_text(error.into());
    let topology = visit.look().await.map_err(in_words)?;
    let pages = shmesh_shm::status::list();
    let ids = pages.iter().filter_map(|name| name.rsplit_once('-'));
    let ids: HashSet<&str> = ids.map(|(_, id)| id).collect();
    let has_page = |node: &NodeId| ids.contains(&*format!("{:032x}", node.0));
    let unread = topology.nodes().map(|info| info.id);
    let unread: Vec<NodeId> = unread.filter(|node| !has_page(node)).collect();
    Ok(Beyond {
        told: visit.counts(&unread).await.map_err(in_words)?,
        topology,
        standing: Standing::Known { since },
    })
}

/// Without the address, which is said before it.
fn full_text(error: anyhow::Error) -> String {
    match error.downcast_ref() {
        Some(Error::CoordinatorUnreachable { source, .. }) => {
            format!("{source}; {NO_COORDINATOR}")
        }
        _ => crate::cli::full_text(&error),
    }
}
