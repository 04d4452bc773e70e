//! Blocks of days: a day, four days that begin at a multiple of four, sixteen, and so on. Any span of days is a few of them.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// A block has so many blocks of the level below. Two would make spans of fewer blocks, and twice as many to keep.
const CHILDREN: i32 = 4;
/// Days of which the rows are read at once at most, as a level: 64.
const MOST_SLICED: u32 = 3;
/// Blocks of eleven years are the greatest.
const MOST_LEVELS: u32 = 6;

/// `CHILDREN^level` days, beginning at a multiple of as many, counted from 1970-01-01.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Block {
    /// The power of 4.
    pub level: u32,
    /// Which one of its level, from 1970 on.
    pub index: i32,
}

impl Block {
    fn size(level: u32) -> i32 {
        CHILDREN.pow(level)
    }

    /// The block of a level that a day is in.
    fn of(level: u32, day: i32) -> Block {
        Block { level, index: day.div_euclid(Self::size(level)) }
    }

    /// The days of the block.
    pub fn days(self) -> Range<i32> {
        let size = Self::size(self.level);
        self.index * size..(self.index + 1) * size
    }

    /// What it is made of, the newest first; a day is made of nothing.
    fn children(self) -> impl Iterator<Item = Block> {
        let below = self.level.checked_sub(1);
        let children = below.into_iter().flat_map(|level| (0..CHILDREN).rev().map(move |n| (level, n)));
        children.map(move |(level, n)| Block { level, index: self.index * CHILDREN + n })
    }

    fn parent(self) -> Option<Block> {
        let level = self.level + 1;
        (level <= MOST_LEVELS).then_some(Block { level, index: self.index.div_euclid(CHILDREN) })
    }
}

/// Whether a block or one within it is stored.
fn any_within(block: Block, stored: &impl Fn(Block) -> bool) -> bool {
    stored(block) || block.children().any(|child| any_within(child, stored))
}

/// Which days there are at a date, and which of them windows cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calendar {
    /// The first day that has rows.
    pub origin: i32,
    /// The day after the last one that counts.
    pub as_of: i32,
    /// How many days the longest window with a beginning has; 0 without one.
    pub reach: i32,
}

/// A block of the days that a night looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub block: Block,
    /// Whether its states are there; else its rows are read.
    pub stored: bool,
}

impl Calendar {
    /// Whether tonight or a later night may need the states of a block: it is over, and what it is a part of is not, or may be
    /// cut by the edge of a window.
    pub fn wants(&self, block: Block) -> bool {
        let days = block.days();
        let whole = block.parent().is_some_and(|parent| parent.days().end <= self.as_of - self.reach);
        days.end <= self.as_of && days.end > self.origin && !whole
    }

    /// Every block that is wanted.
    pub fn wanted(&self) -> impl Iterator<Item = Block> {
        let levels = 0..=MOST_LEVELS;
        let blocks = levels.flat_map(|level| {
            let (first, last) = (Block::of(level, self.origin).index, Block::of(level, self.as_of - 1).index);
            (first..=last).map(move |index| Block { level, index })
        });
        blocks.filter(|block| self.origin < self.as_of && self.wants(*block))
    }

    /// All days before `as_of`, the newest first, in pieces that no edge cuts: stored blocks as great as may be, and rows of
    /// the rest. An edge is a day with which a window begins.
    pub fn pieces(&self, edges: &[i32], stored: &impl Fn(Block) -> bool) -> Vec<Piece> {
        let first = Block::of(MOST_LEVELS, self.origin).days().start;
        let mut cuts: Vec<i32> = edges.iter().copied().filter(|edge| (first..self.as_of).contains(edge)).collect();
        cuts.extend([first, self.as_of]);
        cuts.sort_unstable();
        cuts.dedup();
        let mut pieces = Vec::new();
        for cut in cuts.windows(2).rev() {
            let mut blocks = Vec::new();
            let mut day = cut[0];
            while day < cut[1] {
                let fits = |level: &u32| {
                    let block = Block::of(*level, day);
                    block.days().start == day && block.days().end <= cut[1]
                };
                let level = (0..=MOST_LEVELS).rev().find(fits).unwrap_or(0);
                let block = Block::of(level, day);
                day = block.days().end;
                blocks.push(block);
            }
            blocks.into_iter().rev().for_each(|block| self.resolve(block, stored, &mut pieces));
        }
        pieces
    }

    /// The block whose rows are read next, where too many days have no states: it holds the oldest of these days, and `fits` says
    /// whether the rows of a block are few enough to be read at once.
    pub fn slice(&self, pieces: &[Piece], fits: &impl Fn(&Range<i32>) -> bool) -> Option<Block> {
        let mut block = pieces.iter().rev().find(|piece| !piece.stored)?.block;
        let first = block.days().start.max(self.origin);
        while block.level > 0 && !fits(&block.days()) {
            block = Block::of(block.level - 1, first);
        }
        while let Some(parent) = block.parent().filter(|parent| parent.level <= MOST_SLICED && fits(&parent.days())) {
            block = parent;
        }
        Some(block)
    }

    fn resolve(&self, block: Block, stored: &impl Fn(Block) -> bool, pieces: &mut Vec<Piece>) {
        if block.days().end <= self.origin {
            return;
        }
        if stored(block) {
            pieces.push(Piece { block, stored: true });
        } else if block.children().any(|child| self.wants(child) || any_within(child, stored)) {
            block.children().for_each(|child| self.resolve(child, stored, pieces));
        } else {
            pieces.push(Piece { block, stored: false });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn days_of(pieces: &[Piece]) -> Vec<i32> {
        pieces.iter().flat_map(|piece| piece.block.days().rev()).collect()
    }

    #[test]
    fn a_night_reads_the_newest_day_and_few_blocks() {
        let mut last = 0;
        for days in [400, 1600] {
            let calendar = Calendar { origin: 20_000, as_of: 20_000 + days, reach: 365 };
            let edges: Vec<i32> = [7, 30, 90, 180, 365].map(|window| calendar.as_of - window).to_vec();
            let yesterday = Calendar { as_of: calendar.as_of - 1, ..calendar };
            let stored: BTreeSet<Block> = yesterday.wanted().collect();
            let pieces = calendar.pieces(&edges, &|block| stored.contains(&block));
            let rows: Vec<&Piece> = pieces.iter().filter(|piece| !piece.stored).collect();
            assert_eq!(rows.len(), 1, "{rows:?}");
            assert_eq!(rows[0].block, Block { level: 0, index: calendar.as_of - 1 });
            assert!(pieces.len() < 70, "{}", pieces.len());
            assert!(stored.len() < 500 + days as usize / 50, "{}", stored.len());
            last = last.max(stored.len());
        }
        assert!(last < 520, "{last}");
    }

    proptest! {
        #[test]
        fn pieces_are_all_days_once_and_no_edge_cuts_them(
            origin in -40i32..40, days in 1i32..700, windows in prop::collection::vec(1i32..400, 0..6),
            steps in prop::collection::vec(1i32..9, 0..5), lost in any::<u64>(),
        ) {
            let reach = windows.iter().copied().max().unwrap_or(0);
            let mut calendar = Calendar { origin, as_of: origin + days, reach };
            let mut stored: BTreeSet<Block> = BTreeSet::new();
            for step in [0].into_iter().chain(steps) {
                calendar.as_of += step;
                let edges: Vec<i32> = windows.iter().map(|window| calendar.as_of - window).collect();
                let pieces = calendar.pieces(&edges, &|block| stored.contains(&block));
                let all = days_of(&pieces);
                prop_assert!(all.windows(2).all(|pair| pair[0] == pair[1] + 1), "{:?}", pieces);
                prop_assert_eq!(all.first(), Some(&(calendar.as_of - 1)));
                prop_assert!(all.last().is_some_and(|day| *day <= origin));
                for piece in &pieces {
                    let days = piece.block.days();
                    prop_assert!(edges.iter().all(|edge| *edge <= days.start.max(origin) || *edge >= days.end));
                }
                // What is wanted can be put together from the pieces.
                for block in calendar.wanted().filter(|block| !stored.contains(block)) {
                    let days = block.days();
                    let within = |piece: &&Piece| {
                        let own = piece.block.days();
                        own.start < days.end && days.start < own.end
                    };
                    prop_assert!(pieces.iter().filter(within).all(|piece| {
                        let own = piece.block.days();
                        days.start <= own.start && own.end <= days.end
                    }), "{:?} of {:?}", block, pieces);
                }
                stored.extend(calendar.wanted());
                stored.retain(|block| calendar.wants(*block));
                // Lost blocks lose what they are a part of, as their days do when they change.
                if lost % 3 == 0 {
                    let day = origin + (lost % days as u64) as i32;
                    stored.retain(|block| !block.days().contains(&day));
                }
            }
        }
    }
}
