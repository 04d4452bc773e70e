//! BFGS for the few parameters of a parametric model (Nocedal, Wright 2006, algorithm 6.1), with a backtracking line search.

/// Steps at most.
const STEPS: usize = 200;
/// The gradient per unit of the objective at which it is taken for 0.
const FLAT: f64 = 1e-7;
/// The share of the promised decrease that a step must bring.
const ARMIJO: f64 = 1e-4;
/// The longest step in any coordinate: coordinates are logs.
const REACH: f64 = 2.0;

/// Where a minimisation ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Minimum<const N: usize> {
    /// The point.
    pub at: [f64; N],
    /// The objective there.
    pub value: f64,
    /// Steps taken.
    pub iterations: usize,
    /// Whether the gradient came to nothing, or no step made the objective smaller within its own precision.
    pub converged: bool,
}

/// Minimises a function that gives its value and gradient. A value that is not finite counts as too large.
pub fn minimise<const N: usize>(start: [f64; N], of: impl Fn(&[f64; N]) -> (f64, [f64; N])) -> Minimum<N> {
    let mut at = start;
    let (mut value, mut gradient) = of(&at);
    let mut inverse = identity::<N>();
    let mut fresh = true;
    for iterations in 0..STEPS {
        if norm(&gradient) <= FLAT * (1.0 + value.abs()) {
            return Minimum { at, value, iterations, converged: true };
        }
        let mut step: [f64; N] = std::array::from_fn(|i| -dot(&inverse[i], &gradient));
        let longest = step.iter().fold(0.0_f64, |most, s| most.max(s.abs()));
        if longest > REACH {
            step = step.map(|s| s * REACH / longest);
        }
        let Some((next, next_value, next_gradient)) = search(&at, value, &gradient, &step, &of) else {
            if fresh {
                // Not even the steepest descent goes on: the objective is as small as its rounding lets it be.
                let converged = norm(&gradient) <= 1e3 * FLAT * (1.0 + value.abs());
                return Minimum { at, value, iterations, converged };
            }
            (inverse, fresh) = (identity(), true);
            continue;
        };
        let moved: [f64; N] = std::array::from_fn(|i| next[i] - at[i]);
        let bent: [f64; N] = std::array::from_fn(|i| next_gradient[i] - gradient[i]);
        update(&mut inverse, &moved, &bent, fresh);
        (at, value, gradient, fresh) = (next, next_value, next_gradient, false);
    }
    Minimum { at, value, iterations: STEPS, converged: false }
}

/// The first of ever shorter steps that makes the objective small enough.
fn search<const N: usize>(
    at: &[f64; N],
    value: f64,
    gradient: &[f64; N],
    step: &[f64; N],
    of: impl Fn(&[f64; N]) -> (f64, [f64; N]),
) -> Option<([f64; N], f64, [f64; N])> {
    let slope = dot(gradient, step);
    if slope >= 0.0 {
        return None;
    }
    let mut length = 1.0;
    for _ in 0..40 {
        let next: [f64; N] = std::array::from_fn(|i| at[i] + length * step[i]);
        let (next_value, next_gradient) = of(&next);
        let finite = next_value.is_finite() && next_gradient.iter().all(|g| g.is_finite());
        if finite && next_value < value + ARMIJO * length * slope {
            return Some((next, next_value, next_gradient));
        }
        length *= 0.5;
    }
    None
}

/// The update of the inverse Hessian; one that would not stay positive definite is left out.
fn update<const N: usize>(inverse: &mut [[f64; N]; N], moved: &[f64; N], bent: &[f64; N], fresh: bool) {
    let curvature = dot(moved, bent);
    if curvature <= 1e-12 * norm(moved) * norm(bent) {
        return;
    }
    if fresh {
        let scale = curvature / dot(bent, bent);
        inverse.iter_mut().flatten().for_each(|v| *v *= scale);
    }
    let turned: [f64; N] = std::array::from_fn(|i| dot(&inverse[i], bent));
    let factor = (1.0 + dot(bent, &turned) / curvature) / curvature;
    for i in 0..N {
        for j in 0..N {
            inverse[i][j] += factor * moved[i] * moved[j] - (turned[i] * moved[j] + moved[i] * turned[j]) / curvature;
        }
    }
}

fn identity<const N: usize>() -> [[f64; N]; N] {
    std::array::from_fn(|i| std::array::from_fn(|j| if i == j { 1.0 } else { 0.0 }))
}

fn dot<const N: usize>(a: &[f64; N], b: &[f64; N]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm<const N: usize>(a: &[f64; N]) -> f64 {
    dot(a, a).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_finds_the_bottom_of_a_bent_valley() {
        let rosenbrock = |p: &[f64; 2]| {
            let (x, y) = (p[0], p[1]);
            let value = (1.0 - x).powi(2) + 100.0 * (y - x * x).powi(2);
            (value, [-2.0 * (1.0 - x) - 400.0 * x * (y - x * x), 200.0 * (y - x * x)])
        };
        let found = minimise([-1.2, 1.0], rosenbrock);
        assert!(found.converged, "{found:?}");
        assert!((found.at[0] - 1.0).abs() < 1e-5 && (found.at[1] - 1.0).abs() < 1e-5, "{found:?}");
    }

    #[test]
    fn it_backs_off_where_the_objective_is_not_finite() {
        let found = minimise([3.0], |p| (p[0] - p[0].ln(), [1.0 - 1.0 / p[0]]));
        assert!(found.converged && (found.at[0] - 1.0).abs() < 1e-5, "{found:?}");
    }
}
