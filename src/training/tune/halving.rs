//! Which training comes next: successive halving (Jamieson, Talwalkar 2016, arXiv 1502.07943) by the rule of its asynchronous
//! form (Li et al. 2020, arXiv 1810.05934) with one worker.
//!
//! Every setting is trained for a few epochs; the best third of a rung is trained anew for three times as many. A setting
//! moves up as soon as it is among the best third of those that its rung has seen, so that a search that is stopped early
//! has something to show. What comes next follows from the losses so far alone, so that a search that was killed goes on as
//! if nothing had been. The job's own setting, trial 0, is trained on every rung first: all others are held against it.

use std::collections::BTreeMap;

/// One in so many settings moves up, to so many times the epochs.
const ETA: usize = 3;
/// Rungs at most: the lowest has a ninth of the epochs.
const RUNGS: u32 = 3;

/// A loss per trial; infinite where the training failed.
pub type Rung = BTreeMap<usize, f64>;

/// The epochs of each rung, fewest first; the last has all of them.
pub fn rungs(epochs: usize) -> Vec<usize> {
    let mut rungs: Vec<usize> = (0..RUNGS).rev().map(|down| epochs.div_ceil(ETA.pow(down))).collect();
    rungs.dedup();
    rungs
}

/// The trial and the rung that come next for a search of `trials` settings; `None` when all is done.
pub fn next(done: &[Rung], trials: usize) -> Option<(usize, usize)> {
    if let Some(rung) = done.iter().position(|rung| !rung.contains_key(&0)) {
        return Some((0, rung));
    }
    for (rung, pair) in done.windows(2).enumerate().rev() {
        let best = ranking(&pair[0]).take(pair[0].len() / ETA).find(|trial| !pair[1].contains_key(trial));
        if let Some(trial) = best {
            return Some((trial, rung + 1));
        }
    }
    if let Some(trial) = (0..trials).find(|trial| !done.first().is_some_and(|rung| rung.contains_key(trial))) {
        return Some((trial, 0));
    }
    // A search of few settings still brings one challenger to the top.
    done.windows(2).enumerate().find_map(|(rung, pair)| {
        let nobody = pair[1].keys().all(|trial| *trial == 0);
        let best = ranking(&pair[0]).find(|trial| *trial > 0).filter(|_| nobody)?;
        Some((best, rung + 1))
    })
}

/// The trials of a rung that did not fail, best first.
pub fn ranking(rung: &Rung) -> impl Iterator<Item = usize> + use<> {
    let mut order: Vec<(f64, usize)> = rung.iter().map(|(trial, loss)| (*loss, *trial)).collect();
    order.retain(|(loss, _)| loss.is_finite());
    order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    order.into_iter().map(|(_, trial)| trial)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Runs a search to its end over known losses: `losses[rung][trial]`. Gives the rungs and the order.
    fn search(losses: &[Vec<f64>], trials: usize) -> (Vec<Rung>, Vec<(usize, usize)>) {
        let (mut done, mut order) = (vec![Rung::new(); losses.len()], Vec::new());
        while let Some((trial, rung)) = next(&done, trials) {
            assert!(done[rung].insert(trial, losses[rung][trial]).is_none(), "{trial} twice on rung {rung}");
            order.push((trial, rung));
        }
        (done, order)
    }

    #[test]
    fn rungs_have_a_ninth_a_third_and_all_of_the_epochs() {
        assert_eq!(rungs(50), [6, 17, 50]);
        assert_eq!(rungs(9), [1, 3, 9]);
        assert_eq!((rungs(2), rungs(1)), (vec![1, 2], vec![1]));
    }

    #[test]
    fn the_best_third_moves_up_in_this_order() {
        // By hand: nine settings, the higher the number the better, on every rung alike.
        let losses = vec![(0..9).map(|trial| 9.0 - trial as f64).collect::<Vec<_>>(); 3];
        let (done, order) = search(&losses, 9);
        let lowest = [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2), (4, 0)];
        assert_eq!(order[..10], lowest, "2 is the best of three; 3 the best of four, and of three on the next rung");
        let up: Vec<usize> = done[1].keys().copied().collect();
        assert!(up.ends_with(&[6, 7, 8]) && done[2].contains_key(&8), "{done:?}");
    }

    #[test]
    fn few_settings_still_bring_one_to_the_top() {
        let losses = vec![vec![1.0, 3.0, 2.0]; 3];
        let (done, order) = search(&losses, 3);
        assert_eq!(order[3..], [(1, 0), (2, 0), (2, 1), (2, 2)]);
        assert_eq!(done[2].len(), 2);
    }

    #[test]
    fn what_failed_never_moves_up() {
        let mut losses = vec![vec![1.0, f64::INFINITY, f64::INFINITY, f64::INFINITY]; 2];
        assert_eq!(search(&losses, 4).0[1].len(), 1);
        losses[0][2] = 5.0;
        assert_eq!(search(&losses, 4).0[1].keys().copied().collect::<Vec<_>>(), [0, 2]);
    }

    proptest! {
        #[test]
        fn the_best_third_of_every_rung_is_on_the_next(
            losses in prop::collection::vec(prop::collection::vec(0.0..1.0f64, 40), 3),
            trials in 2..40usize,
        ) {
            let (done, _) = search(&losses, trials);
            prop_assert_eq!(done[0].len(), trials);
            for rung in 0..2 {
                // The oracle: sort, cut.
                let mut sorted: Vec<usize> = done[rung].keys().copied().collect();
                sorted.sort_by(|a, b| losses[rung][*a].total_cmp(&losses[rung][*b]));
                for trial in &sorted[..sorted.len() / 3] {
                    prop_assert!(done[rung + 1].contains_key(trial), "{} {:?}", trial, done);
                }
                prop_assert!(done[rung + 1].keys().all(|trial| done[rung].contains_key(trial)));
                prop_assert!(done[rung + 1].len() >= 2);
            }
        }

        #[test]
        fn more_trials_go_on_where_fewer_ended(
            losses in prop::collection::vec(prop::collection::vec(0.0..1.0f64, 30), 3),
            first in 2..30usize,
        ) {
            let (mut done, _) = search(&losses, first);
            while let Some((trial, rung)) = next(&done, 30) {
                prop_assert!(done[rung].insert(trial, losses[rung][trial]).is_none());
            }
            prop_assert_eq!(done[0].len(), 30);
        }
    }
}
