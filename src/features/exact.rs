//! Sums that do not depend on the order of the rows.
//!
//! A parallel hash aggregate merges partial sums in the order in which they arrive, so a plain float sum may differ in
//! its last bits from run to run. Here a running sum is kept as an unevaluated expansion of three doubles (about 159
//! bits; Knuth's TwoSum cascaded, as in Shewchuk 1997), and rounded once at the end: the order then shows in no bit.
//! Sums, averages, variances and standard deviations of floats are built on it; everything else stays DataFusion's.

/// The running sum of one group: the value is `parts[0] + parts[1] + parts[2]`, largest first.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct ExactSum {
    parts: [f64; 3],
}

impl ExactSum {
    /// Rebuilds a sum from its parts.
    pub(super) fn from_parts(parts: [f64; 3]) -> Self {
        ExactSum { parts }
    }

    /// The parts, to be stored or sent.
    pub(super) fn parts(&self) -> [f64; 3] {
        self.parts
    }

    /// Adds one number.
    #[inline]
    pub(super) fn add(&mut self, x: f64) {
        let (high, rest) = two_sum(self.parts[0], x);
        let (middle, rest) = two_sum(self.parts[1], rest);
        self.parts = [high, middle, self.parts[2] + rest];
    }

    /// Adds the square of a number without rounding it first.
    #[inline]
    pub(super) fn add_square(&mut self, x: f64) {
        let square = x * x;
        self.add(square);
        if square.is_finite() {
            self.add(x.mul_add(x, -square));
        }
    }

    /// Adds another sum.
    #[inline]
    pub(super) fn merge(&mut self, other: &ExactSum) {
        let [high, middle, low] = other.parts;
        self.add(high);
        // Whether the second part is 0 is hard to guess, and adding it changes nothing then: asking would cost more.
        self.add(middle);
        if low != 0.0 {
            self.add(low);
        }
    }

    /// The sum, rounded once; infinite or NaN if a number was, or if the sum left the range of doubles.
    pub(super) fn value(&self) -> f64 {
        self.double_double().0
    }

    /// The sum as a rounded double and what the rounding left over.
    fn double_double(&self) -> (f64, f64) {
        let [high, middle, low] = self.parts;
        if !high.is_finite() {
            return (high, 0.0);
        }
        let (high, middle) = two_sum(high, middle);
        let (middle, low) = two_sum(middle, low);
        let (high, middle) = two_sum(high, middle);
        (high, middle + low)
    }
}

/// The variance from the sum and the sum of squares of `count` numbers: `(Σx² − (Σx)²/n) / (n − correction)`, worked out
/// in twice the precision. `None` where there are not enough numbers.
pub(super) fn variance(count: u64, sum: &ExactSum, squares: &ExactSum, correction: u64) -> Option<f64> {
    if count <= correction {
        return None;
    }
    let n = count as f64;
    let (sum, sum_rest) = sum.double_double();
    let (squares, squares_rest) = squares.double_double();
    // (Σx)², then divided by n, each with its rounding error.
    let product = sum * sum;
    let product_rest = sum.mul_add(sum, -product) + 2.0 * sum * sum_rest;
    let mean = product / n;
    let mean_rest = ((-mean).mul_add(n, product) + product_rest) / n;
    let (difference, rest) = two_sum(squares, -mean);
    let spread = difference + (rest + (squares_rest - mean_rest));
    // Below this lies the rounding of the formula itself: equal numbers have no variance at all.
    let noise = squares * 1e-28;
    Some(if spread <= noise { 0.0 } else { spread / (count - correction) as f64 })
}

/// The rounded sum of two numbers and what the rounding left over (Knuth).
#[inline]
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let virtual_b = sum - a;
    (sum, (a - (sum - virtual_b)) + (b - virtual_b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum_of(numbers: impl IntoIterator<Item = f64>) -> ExactSum {
        let mut sum = ExactSum::default();
        numbers.into_iter().for_each(|x| sum.add(x));
        sum
    }

    #[test]
    fn what_a_plain_sum_loses_is_kept() {
        assert_eq!(sum_of([1e100, 1.0, -1e100]).value(), 1.0);
        assert_eq!(sum_of(std::iter::repeat_n(0.1, 10)).value(), 1.0);
    }

    #[test]
    fn infinities_and_nan_show() {
        assert_eq!(sum_of([1.0, f64::INFINITY, 2.0]).value(), f64::INFINITY);
        assert!(sum_of([f64::NEG_INFINITY, f64::INFINITY]).value().is_nan());
        assert!(sum_of([f64::NAN, 1.0]).value().is_nan());
    }

    #[test]
    fn equal_numbers_have_no_variance() {
        let (mut sum, mut squares) = (ExactSum::default(), ExactSum::default());
        for _ in 0..1000 {
            sum.add(0.1);
            squares.add_square(0.1);
        }
        assert_eq!(variance(1000, &sum, &squares, 1), Some(0.0));
        assert_eq!(variance(1, &sum, &squares, 1), None);
    }

    proptest! {
        #[test]
        fn neither_order_nor_grouping_changes_a_bit(
            numbers in prop::collection::vec(-1e6f64..1e6, 1..200), cut in 0usize..200, seed in any::<u64>()
        ) {
            let whole = sum_of(numbers.iter().copied());
            let mut shuffled = numbers.clone();
            let mut state = seed;
            for i in (1..shuffled.len()).rev() {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                shuffled.swap(i, (state >> 33) as usize % (i + 1));
            }
            let (left, right) = shuffled.split_at(cut.min(shuffled.len()));
            let mut merged = sum_of(right.iter().copied());
            merged.merge(&sum_of(left.iter().copied()));
            prop_assert_eq!(whole.value().to_bits(), merged.value().to_bits());
        }

        #[test]
        fn the_variance_is_that_of_the_two_pass_formula(numbers in prop::collection::vec(-1e3f64..1e3, 2..50)) {
            let (mut sum, mut squares) = (ExactSum::default(), ExactSum::default());
            for x in &numbers {
                sum.add(*x);
                squares.add_square(*x);
            }
            let mean = sum.value() / numbers.len() as f64;
            let spread: f64 = numbers.iter().map(|x| (x - mean).powi(2)).sum();
            let expected = spread / (numbers.len() - 1) as f64;
            let got = variance(numbers.len() as u64, &sum, &squares, 1).unwrap();
            prop_assert!((got - expected).abs() <= 1e-9 * expected.abs().max(1e-9), "{} {}", got, expected);
        }
    }
}
