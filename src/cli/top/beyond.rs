//! Beyond this host: what the coordinator knows. It is asked as a visitor, so nobody is told, and
//! no page is made or removed.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::cli::Failure;
use crate::cli::reach::ReachArgs;
use crate::error::Error;
use crate::id::HostId;
use crate::limits::TOP_LOOK_MS;
use crate::name::escaped;
use crate::topology::Topology;
use crate::visit::Visit;

/// What is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Beyond {
    pub(crate) topology: Topology,
    standing: Standing,
}

/// How it is with the coordinator.
#[derive(Clone, Debug, Default)]
enum Standing {
    #[default]
    Asked,
    Known,
    /// What was known then stays.
    Lost(String),
}

/// Looks that go on until it is dropped, and what came of them.
#[derive(Debug)]
pub(crate) struct Watch {
    address: String,
    pub(crate) host: HostId,
    pub(crate) known: watch::Receiver<Beyond>,
    task: JoinHandle<()>,
}

impl Watch {
    /// Starts asking. That nobody answers is not an error.
    ///
    /// # Errors
    /// A key or name that cannot be used.
    pub(crate) fn start(reach: &ReachArgs) -> Result<Self, Failure> {
        // Now, so that a key that cannot be used is said.
        reach.security.credentials()?;
        let (tell, known) = watch::channel(Beyond::default());
        Ok(Self {
            address: reach.address(),
            host: HostId::of_this_host()?,
            known,
            task: tokio::spawn(follow(reach.clone(), tell)),
        })
    }

    /// Waits until it is known who is there, or that nobody says so.
    pub(crate) async fn settle(&mut self) {
        let is_settled = |beyond: &Beyond| !matches!(beyond.standing, Standing::Asked);
        let _ = self.known.wait_for(is_settled).await;
    }

    /// How it is, in a line.
    pub(crate) fn line(&self) -> String {
        let address = escaped(&self.address);
        match &self.known.borrow().standing {
            Standing::Asked => format!("coordinator {address} is asked"),
            Standing::Known => format!("coordinator {address}"),
            Standing::Lost(why) => format!("coordinator {address} is not there: {}", escaped(why)),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Keeps `tell` up to date for ever.
async fn follow(reach: ReachArgs, tell: watch::Sender<Beyond>) {
    let mut visit = None;
    let mut looks = tokio::time::interval(Duration::from_millis(TOP_LOOK_MS));
    loop {
        looks.tick().await;
        match look(&reach, &mut visit).await {
            Ok(topology) => {
                let standing = Standing::Known;
                let _ = tell.send_replace(Beyond { topology, standing });
            }
            Err(why) => {
                visit = None;
                tell.send_modify(|beyond| beyond.standing = Standing::Lost(why));
            }
        }
    }
}

/// Who is there now; or why nobody says so.
async fn look(reach: &ReachArgs, visit: &mut Option<Visit>) -> Result<Topology, String> {
    let visit = match visit {
        Some(visit) => visit,
        None => {
            let begun = reach.visit().await;
            visit.insert(begun.map_err(|failure| full_text(failure.error))?)
        }
    };
    visit.look().await.map_err(|error| full_text(error.into()))
}

/// Without the address, which is said before it.
fn full_text(error: anyhow::Error) -> String {
    match error.downcast_ref() {
        Some(Error::CoordinatorUnreachable { source, .. }) => source.to_string(),
        _ => crate::cli::full_text(&error),
    }
}
