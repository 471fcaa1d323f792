//! The systems: one file each, behind one small trait.

mod bare;
mod iceoryx;
mod shmesh_;
#[cfg(feature = "tachyon")]
mod tachyon;

use anyhow::Result;
use clap::ValueEnum;

use crate::measure::{Figure, OtherEnd, Setting, Task, Visit};

/// What can be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum System {
    /// A cache line passed back and forth: the limit.
    Bare,
    Shmesh,
    Iceoryx2,
    #[cfg(feature = "tachyon")]
    Tachyon,
}

impl System {
    pub fn all() -> Vec<Self> {
        Self::value_variants().to_vec()
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Shmesh => "shmesh",
            Self::Iceoryx2 => "iceoryx2",
            #[cfg(feature = "tachyon")]
            Self::Tachyon => "tachyon",
        }
    }

    pub fn of_name(name: &str) -> Option<Self> {
        Self::value_variants()
            .iter()
            .copied()
            .find(|system| system.name() == name)
    }

    /// The bare line has no payload and no queue. Tachyon has no call that looks for a message and
    /// does not wait for it.
    pub fn can(self, task: Task, size: usize) -> bool {
        match self {
            Self::Bare => task == Task::Ping && size == 64,
            #[cfg(feature = "tachyon")]
            Self::Tachyon => task != Task::Idle,
            Self::Shmesh | Self::Iceoryx2 => true,
        }
    }
}

/// Which of the two processes this is.
pub enum Side<'a> {
    /// The one that measures.
    Here(&'a mut OtherEnd),
    /// The other one.
    There,
}

/// Two connected ends in one process: one to send, one to receive.
pub trait Ends {
    /// Sends a message, waiting for room.
    fn send(&mut self, number: u64) -> Result<()>;
    /// Takes a message if there is one.
    fn try_receive(&mut self) -> Result<bool>;
}

/// Connects the ends and hands them to `visit`.
pub fn with_ends(setting: &Setting, mut side: Side<'_>, visit: &mut impl Visit) -> Result<Figure> {
    match setting.system {
        System::Bare => with(setting, visit, |_| bare::connect(&mut side)),
        System::Shmesh => with(setting, visit, |setting| shmesh_::connect(setting, &side)),
        System::Iceoryx2 => with(setting, visit, |setting| iceoryx::connect(setting, &side)),
        #[cfg(feature = "tachyon")]
        System::Tachyon => with(setting, visit, |setting| tachyon::connect(setting, &side)),
    }
}

fn with<E: Ends>(
    setting: &Setting,
    visit: &mut impl Visit,
    mut connect: impl FnMut(&Setting) -> Result<E>,
) -> Result<Figure> {
    let ends = connect(setting)?;
    visit.visit(ends, |channel| {
        let setting = setting.clone();
        connect(&Setting { channel, ..setting })
    })
}
