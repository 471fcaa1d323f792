//! How many listen to a publisher, as a stream.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use tokio::sync::watch;

/// Waits for another count; gives the receiver back, or nothing if the publisher is no more.
type Change = Pin<Box<dyn Future<Output = Option<watch::Receiver<usize>>> + Send + Sync>>;

/// The number of a publisher's listeners, now and at each change; made by
/// [`Publisher::listeners`](crate::Publisher::listeners).
pub struct Listeners {
    change: Option<Change>,
    last: Option<usize>,
}

impl Listeners {
    pub(crate) fn new(mut counts: watch::Receiver<usize>) -> Self {
        // The first is news, too.
        counts.mark_changed();
        Self {
            change: Some(next(counts)),
            last: None,
        }
    }
}

fn next(mut counts: watch::Receiver<usize>) -> Change {
    Box::pin(async move { counts.changed().await.is_ok().then_some(counts) })
}

impl Stream for Listeners {
    type Item = usize;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<usize>> {
        while let Some(change) = &mut self.change {
            let Some(mut counts) = ready!(change.as_mut().poll(cx)) else {
                self.change = None;
                break;
            };
            let count = *counts.borrow_and_update();
            self.change = Some(next(counts));
            // One that came and went meanwhile is no change.
            if self.last.replace(count) != Some(count) {
                return Poll::Ready(Some(count));
            }
        }
        Poll::Ready(None)
    }
}

impl fmt::Debug for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listeners")
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    #[test]
    fn it_begins_with_the_present_tells_changes_and_ends() {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(async {
            let counts = watch::Sender::new(2);
            let mut stream = Listeners::new(counts.subscribe());
            assert_eq!(stream.next().await, Some(2));
            counts.send_replace(3);
            counts.send_replace(4);
            assert_eq!(stream.next().await, Some(4));
            counts.send_replace(4);
            counts.send_replace(0);
            drop(counts);
            assert_eq!(stream.next().await, Some(0), "what is past is left out");
            assert_eq!(stream.next().await, None, "the publisher is no more");
            assert_eq!(stream.next().await, None, "and it stays so");
        });
    }
}
