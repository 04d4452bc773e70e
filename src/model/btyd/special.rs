//! The special functions behind the likelihoods: ln Γ, its derivative, and Gauss-Legendre quadrature.

use std::sync::LazyLock;

/// Lanczos' coefficients for g = 7 (Lanczos 1964, as tabulated by Godfrey).
#[allow(clippy::excessive_precision)]
const LANCZOS: [f64; 9] = [
    0.999_999_999_999_809_93,
    676.520_368_121_885_1,
    -1_259.139_216_722_402_8,
    771.323_428_777_653_13,
    -176.615_029_162_140_59,
    12.507_343_278_686_905,
    -0.138_571_095_265_720_12,
    9.984_369_578_019_571_6e-6,
    1.505_632_735_149_311_6e-7,
];

/// Points of one panel of the quadrature.
pub const POINTS: usize = 10;

/// ln Γ(x) for x > 0.
pub fn ln_gamma(x: f64) -> f64 {
    if x < 0.5 {
        return ln_gamma(x + 1.0) - x.ln();
    }
    let x = x - 1.0;
    let series = LANCZOS[1..].iter().zip(1..).fold(LANCZOS[0], |sum, (c, i)| sum + c / (x + f64::from(i)));
    let t = x + 7.5;
    0.5 * (2.0 * std::f64::consts::PI).ln() + (x + 0.5) * t.ln() - t + series.ln()
}

/// ψ(x) = d ln Γ(x) / dx for x > 0: recurrence up to 10, then the asymptotic series (Abramowitz, Stegun 6.3.18).
pub fn digamma(x: f64) -> f64 {
    let (mut x, mut below) = (x, 0.0);
    while x < 10.0 {
        below += 1.0 / x;
        x += 1.0;
    }
    let y = 1.0 / (x * x);
    let series = y * (1.0 / 12.0 - y * (1.0 / 120.0 - y * (1.0 / 252.0 - y * (1.0 / 240.0 - y / 132.0))));
    x.ln() - 0.5 / x - series - below
}

/// ln(e^a + e^b) without overflow; −∞ stands for nothing.
pub fn ln_sum(a: f64, b: f64) -> f64 {
    let top = a.max(b);
    if top == f64::NEG_INFINITY { top } else { top + (-(a - b).abs()).exp().ln_1p() }
}

/// Nodes and weights of Gauss-Legendre quadrature on [0, 1].
pub fn legendre() -> &'static [(f64, f64); POINTS] {
    static NODES: LazyLock<[(f64, f64); POINTS]> = LazyLock::new(|| std::array::from_fn(node));
    &NODES
}

/// The i-th root of the Legendre polynomial by Newton's method.
fn node(i: usize) -> (f64, f64) {
    let n = POINTS as f64;
    let mut x = (std::f64::consts::PI * (i as f64 + 0.75) / (n + 0.5)).cos();
    let mut slope = 1.0;
    for _ in 0..50 {
        let (mut below, mut value) = (1.0, x);
        for k in 2..=POINTS {
            let k = k as f64;
            (below, value) = (value, ((2.0 * k - 1.0) * x * value - (k - 1.0) * below) / k);
        }
        slope = n * (x * value - below) / (x * x - 1.0);
        x -= value / slope;
    }
    ((1.0 + x) / 2.0, 1.0 / ((1.0 - x * x) * slope * slope))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ln_gamma_is_that_of_factorials_and_halves() {
        let factorials = [1.0, 1.0, 2.0, 6.0, 24.0, 120.0, 720.0];
        for (n, factorial) in (1..).zip(factorials) {
            assert!((ln_gamma(f64::from(n)) - f64::ln(factorial)).abs() < 1e-13, "{n}");
        }
        let root_pi = std::f64::consts::PI.sqrt();
        assert!((ln_gamma(0.5) - root_pi.ln()).abs() < 1e-14);
        // ln Γ(1e-3) and ln Γ(1000.5) from mpmath 1.4.1.
        assert!((ln_gamma(1e-3) - 6.907_178_885_383_853).abs() < 1e-12);
        assert!((ln_gamma(1000.5) / 5_908.674_175_848_678 - 1.0).abs() < 1e-14);
    }

    #[test]
    fn digamma_is_the_derivative_of_ln_gamma() {
        // ψ(1) = −γ, and ψ(x + 1) = ψ(x) + 1/x.
        assert!((digamma(1.0) + 0.577_215_664_901_532_9).abs() < 1e-13);
        for x in [1e-3, 0.3, 2.5, 9.99, 50.0] {
            assert!((digamma(x + 1.0) - digamma(x) - 1.0 / x).abs() < 1e-11 / x, "{x}");
            let h = 1e-5 * x;
            let slope = (ln_gamma(x + h) - ln_gamma(x - h)) / (2.0 * h);
            assert!((digamma(x) - slope).abs() < 1e-6 * (1.0 + slope.abs()), "{x}");
        }
    }

    #[test]
    fn the_quadrature_is_exact_for_polynomials() {
        for power in 0..2 * POINTS as i32 {
            let sum: f64 = legendre().iter().map(|(x, w)| w * x.powi(power)).sum();
            assert!((sum - 1.0 / f64::from(power + 1)).abs() < 1e-14, "{power}: {sum}");
        }
    }

    #[test]
    fn sums_of_logs_do_not_overflow() {
        assert!((ln_sum(1000.0, 1000.0) - 1000.0 - 2.0_f64.ln()).abs() < 1e-12);
        assert_eq!(ln_sum(-5.0, f64::NEG_INFINITY), -5.0);
        assert_eq!(ln_sum(f64::NEG_INFINITY, f64::NEG_INFINITY), f64::NEG_INFINITY);
    }
}
