//! The callers and providers of a service, as one.

use shmesh_shm::{Counter, Histogram};

use super::{EndpointSeen, merge, more};
use crate::metrics::{METRICS, Whose};

/// The outcomes of calls or requests, with their names.
pub(crate) fn outcomes(whose: Whose) -> impl Iterator<Item = (&'static str, Counter)> {
    let metrics = METRICS.iter().filter(move |metric| metric.is_of(whose));
    metrics.filter_map(|metric| Some((metric.label?.1, metric.counter)))
}

/// What became of calls, or of requests.
#[derive(Clone, Debug)]
pub(crate) struct Calls {
    pub(crate) count: usize,
    /// By outcome.
    ended: Vec<(Counter, u64)>,
    pub(crate) rate: Option<f64>,
    pub(crate) failed_rate: Option<f64>,
    pub(crate) latency: Option<Histogram>,
    /// False if nothing of it is counted here.
    is_counted: bool,
}

impl Calls {
    /// Of those among the endpoints that are such.
    pub(crate) fn of<'a>(
        whose: Whose,
        endpoints: impl IntoIterator<Item = &'a EndpointSeen>,
    ) -> Self {
        let mut calls = Self {
            count: 0,
            ended: outcomes(whose).map(|(_, outcome)| (outcome, 0)).collect(),
            rate: None,
            failed_rate: None,
            latency: None,
            is_counted: false,
        };
        let its = endpoints.into_iter().filter(|it| it.whose == whose);
        its.for_each(|endpoint| calls.add(endpoint));
        calls
    }

    fn add(&mut self, endpoint: &EndpointSeen) {
        self.count += 1;
        let Some(counts) = &endpoint.counts else {
            return;
        };
        self.is_counted = true;
        for (outcome, sum) in &mut self.ended {
            *sum = sum.saturating_add(counts.value(*outcome));
            let rate = counts.per_second(*outcome);
            more(&mut self.rate, rate);
            more(&mut self.failed_rate, rate.filter(|_| !is_fine(*outcome)));
        }
        merge(&mut self.latency, counts.latency());
    }

    /// How many ended so; none if it is not known, or cannot be.
    pub(crate) fn ended(&self, outcome: Counter) -> Option<u64> {
        let mut ended = self.ended.iter().filter(|_| self.is_counted);
        let found = ended.find(|(its, _)| *its == outcome)?;
        Some(found.1)
    }

    /// How many ended in another way than those.
    pub(crate) fn ended_otherwise(&self, outcomes: &[Counter]) -> Option<u64> {
        let others = self.ended.iter();
        let others = others.filter(|(outcome, _)| !outcomes.contains(outcome));
        let sum = others.fold(0_u64, |sum, (_, count)| sum.saturating_add(*count));
        self.is_counted.then_some(sum)
    }
}

/// True if nobody is to blame.
const fn is_fine(outcome: Counter) -> bool {
    matches!(outcome, Counter::CallsOk | Counter::CallsCancelled)
}
