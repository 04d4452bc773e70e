//! Which texts share a batch: texts of like length, so that padding costs little; and equal texts only once.

use std::collections::HashMap;

/// How large a batch may grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Rows times the longest row's tokens, padding included. A single longer row is a batch of its own.
    pub tokens: usize,
    /// Rows.
    pub rows: usize,
}

/// Cuts rows of the given token counts into batches of row numbers, longest rows first (the greatest memory is needed
/// at once, not at the end). Every row is in exactly one batch; equal lengths keep their order.
pub fn plan(lengths: &[usize], budget: Budget) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&row| std::cmp::Reverse(lengths[row]));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for row in order {
        match batches.last_mut() {
            Some(batch) if batch.len() < room => batch.push(row),
            _ => {
                // The first row of a batch is its longest, so it says how many fit.
                room = (budget.tokens / lengths[row].max(1)).clamp(1, budget.rows.max(1));
                batches.push(vec![row]);
            }
        }
    }
    batches
}

/// The distinct texts in order of their first appearance, and for every text the number of its distinct one.
pub fn distinct<'a>(texts: &[&'a str]) -> (Vec<&'a str>, Vec<usize>) {
    let mut numbers: HashMap<&str, usize> = HashMap::with_capacity(texts.len());
    let mut kept = Vec::new();
    let which = texts
        .iter()
        .map(|text| {
            *numbers.entry(text).or_insert_with(|| {
                kept.push(*text);
                kept.len() - 1
            })
        })
        .collect();
    (kept, which)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_row_is_in_one_batch_and_no_batch_is_over_budget(
            lengths in prop::collection::vec(0usize..50, 0..200), tokens in 1usize..300, rows in 1usize..40,
        ) {
            let batches = plan(&lengths, Budget { tokens, rows });
            let mut seen: Vec<usize> = batches.iter().flatten().copied().collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
            for batch in &batches {
                let longest = batch.iter().map(|&row| lengths[row]).max().unwrap_or(0);
                prop_assert!(batch.len() == 1 || batch.len() * longest.max(1) <= tokens);
                prop_assert!(batch.len() <= rows);
            }
        }

        // Of full batches only: a shorter last one may happen to be the one with the long text.
        #[test]
        fn full_sorted_batches_pad_no_more_than_batches_in_order_of_arrival(
            (rows, lengths) in (1usize..40, 1usize..20).prop_flat_map(|(rows, batches)| {
                (Just(rows), prop::collection::vec(1usize..50, rows * batches))
            }),
        ) {
            let padded = |batches: Vec<Vec<usize>>| -> usize {
                batches.iter().map(|b| b.len() * b.iter().map(|&row| lengths[row]).max().unwrap_or(0)).sum()
            };
            let sorted = plan(&lengths, Budget { tokens: usize::MAX, rows });
            let arrived = (0..lengths.len()).collect::<Vec<_>>().chunks(rows).map(<[usize]>::to_vec).collect();
            prop_assert!(padded(sorted) <= padded(arrived));
        }
    }

    #[test]
    fn equal_texts_share_a_number() {
        let (kept, which) = distinct(&["b", "a", "b", "", "a", ""]);
        assert_eq!(kept, ["b", "a", ""]);
        assert_eq!(which, [0, 1, 0, 2, 1, 2]);
    }
}
