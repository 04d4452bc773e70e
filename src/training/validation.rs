//! Which validating rows stop a fit, and which calibrate it and are reported on.

use std::collections::BTreeMap;

/// Customers are parted into so many parts by their keys.
pub const PARTS: u8 = 5;
/// The parts below this one stop the fit early; the others calibrate and are reported on.
const STOPPING: u8 = 2;

/// The validating rows by what they are for. A customer is in one part at every date, so nobody has two roles:
///
/// - two fifths of the customers stop the fit;
/// - three fifths calibrate and are reported on, in turn: what is reported of one of these fifths was calibrated on the other
///   two. The bundle's calibration comes from all three.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidationParts {
    /// Rows that stop the fit.
    pub stopping: Vec<usize>,
    /// Rows that calibrate and are reported on, with their part.
    judged: Vec<(usize, u8)>,
}

/// One part's turn to be reported on. The numbers are places among the judged rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// The places that calibrate.
    pub calibrating: Vec<usize>,
    /// The places that are reported on with that calibration.
    pub reported: Vec<usize>,
}

impl ValidationParts {
    /// Parts validating rows; `parts` has the part of every row of the table.
    pub fn of(validating: &[usize], parts: &[u8]) -> Self {
        let (stopping, judged): (Vec<usize>, Vec<usize>) = validating.iter().partition(|row| parts[**row] < STOPPING);
        ValidationParts { stopping, judged: judged.into_iter().map(|row| (row, parts[row])).collect() }
    }

    /// The rows that calibrate and are reported on, in the order of the table.
    pub fn judged(&self) -> Vec<usize> {
        self.judged.iter().map(|(row, _)| *row).collect()
    }

    /// Every judged row is reported on in one turn.
    pub fn turns(&self) -> Vec<Turn> {
        let mut members: BTreeMap<u8, Vec<usize>> = BTreeMap::new();
        for (place, (_, part)) in self.judged.iter().enumerate() {
            members.entry(*part).or_default().push(place);
        }
        let others = |part: &u8| (0..self.judged.len()).filter(|place| self.judged[*place].1 != *part).collect();
        let turn =
            |(part, reported): (&u8, &Vec<usize>)| Turn { calibrating: others(part), reported: reported.clone() };
        members.iter().map(turn).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_customer_has_two_roles(
            // Two snapshots of the same customers, and some rows that train.
            customers in prop::collection::vec((0..PARTS, any::<bool>()), 1..80),
        ) {
            let n = customers.len();
            let parts: Vec<u8> = (0..2 * n).map(|row| customers[row % n].0).collect();
            let validating: Vec<usize> = (0..2 * n).filter(|row| customers[row % n].1).collect();
            let found = ValidationParts::of(&validating, &parts);
            let judged = found.judged();

            let mut rows = [found.stopping.clone(), judged.clone()].concat();
            rows.sort_unstable();
            prop_assert_eq!(&rows, &validating, "every validating row has one role, and no other row has one");
            let customers_of = |rows: &[usize]| rows.iter().map(|row| row % n).collect::<std::collections::BTreeSet<_>>();
            prop_assert!(customers_of(&found.stopping).is_disjoint(&customers_of(&judged)));

            let mut reported = Vec::new();
            for turn in found.turns() {
                let row = |places: &[usize]| places.iter().map(|place| judged[*place]).collect::<Vec<_>>();
                prop_assert!(customers_of(&row(&turn.calibrating)).is_disjoint(&customers_of(&row(&turn.reported))));
                prop_assert_eq!(turn.calibrating.len() + turn.reported.len(), judged.len());
                reported.extend(turn.reported);
            }
            reported.sort_unstable();
            prop_assert_eq!(reported, (0..judged.len()).collect::<Vec<_>>(), "every judged row is reported once");
        }
    }

    #[test]
    fn two_fifths_stop_and_three_fifths_are_judged_in_three_turns() {
        let parts: Vec<u8> = (0..100).map(|row| row % PARTS).collect();
        let found = ValidationParts::of(&(0..100).collect::<Vec<_>>(), &parts);
        assert_eq!((found.stopping.len(), found.judged().len()), (40, 60));
        let turns = found.turns();
        assert_eq!(turns.len(), 3);
        assert!(turns.iter().all(|turn| (turn.calibrating.len(), turn.reported.len()) == (40, 20)));
    }
}
