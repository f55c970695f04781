//! Whole epochs of made-up networks.

mod outcomes;
mod random;
mod verdicts;

use std::sync::Arc;

use super::synthetic::{self, Sizes};
use super::*;
use crate::epoch::{Assignment, Draw, EpochNo, EpochParams, RegistryView, Seed, TaskKind};
use crate::units::TokenAmount;

const STAKE: TokenAmount = TokenAmount(1_000 * TokenAmount::ONE.0);

/// A network that lives from epoch to epoch.
struct Net {
    view: RegistryView,
    epochs: EpochParams,
    params: RewardParams,
    state: State,
    next: u64,
}

impl Net {
    fn new(sizes: Sizes) -> Self {
        let view = synthetic::view(7, sizes, EpochNo(0), STAKE).unwrap();
        let (epochs, params) = (EpochParams::production(), RewardParams::production());
        Self { view, epochs, params, state: State::default(), next: 0 }
    }

    fn draw(&self) -> Draw {
        let view = self.state.freeze(self.view.at(EpochNo(self.next)));
        Draw::new(Arc::new(view), self.epochs.clone(), Seed([(self.next % 250) as u8; 32]))
    }

    fn settle(&mut self, draw: &Draw, bundle: &Bundle) -> Settled {
        self.settle_with(draw, bundle, &ChainFacts::default())
    }

    fn settle_with(&mut self, draw: &Draw, bundle: &Bundle, chain: &ChainFacts) -> Settled {
        let settled = settle(&self.state, draw, bundle, chain, &self.params).unwrap();
        self.state = settled.state.clone();
        self.next += 1;
        settled
    }

    fn honest_epoch(&mut self) -> Settled {
        let draw = self.draw();
        let bundle = synthetic::bundle(&draw, |a| Some(synthetic::honest(&draw, a)));
        let bundle = answered(&draw, bundle, |_| Reexecution::Good);
        self.settle(&draw, &bundle)
    }

    /// An epoch in which findings are honest but for what `find` says otherwise.
    fn epoch(
        &mut self,
        find: impl Fn(&Draw, &Assignment) -> Option<Finding>,
        truth: impl Fn(&Doubt) -> Reexecution,
    ) -> Settled {
        let draw = self.draw();
        let bundle = synthetic::bundle(&draw, |a| Some(find(&draw, a).unwrap_or_else(|| synthetic::honest(&draw, a))));
        let bundle = answered(&draw, bundle, truth);
        self.settle(&draw, &bundle)
    }
}

/// The bundle with what came of running again whatever has to be.
fn answered(draw: &Draw, mut bundle: Bundle, truth: impl Fn(&Doubt) -> Reexecution) -> Bundle {
    bundle.reexecuted = doubts(draw, &bundle).unwrap().into_iter().map(|doubt| (doubt, truth(&doubt))).collect();
    bundle
}

fn small() -> Sizes {
    Sizes { containers: 20, checkers: 25, licences: 60, indexers: 2 }
}

const fn is_test(a: &Assignment) -> bool {
    matches!(a.task.kind, TaskKind::Capacity | TaskKind::Dispute)
}
