//! The models against goldens (`fixtures/btyd/make_btyd.py`) and against themselves.

use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn golden() -> Value {
    serde_json::from_str(include_str!("../../../fixtures/btyd/btyd.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn beta_geometric(p: [f64; 4], first_may_be_last: bool) -> PurchaseModel {
    let [r, alpha, a, b] = p;
    PurchaseModel::BetaGeometric(BetaGeometric { r, alpha, a, b, first_may_be_last })
}

fn pareto([r, alpha, s, beta]: [f64; 4]) -> PurchaseModel {
    PurchaseModel::ParetoNbd(ParetoNbd { r, alpha, s, beta })
}

/// The three processes at the same parameters.
fn models(p: [f64; 4]) -> [PurchaseModel; 3] {
    [beta_geometric(p, false), beta_geometric(p, true), pareto(p)]
}

#[test]
fn likelihoods_and_predictions_are_those_of_the_definitions() {
    let golden = golden();
    let cases = [
        ("bg_nbd", beta_geometric([0.6, 30.0, 0.8, 2.5], false)),
        ("mbg_nbd", beta_geometric([0.6, 30.0, 0.8, 2.5], true)),
        ("pareto_nbd", pareto([0.7, 60.0, 0.5, 80.0])),
    ];
    for (name, model) in cases {
        for row in golden[name].as_array().unwrap() {
            let h = numbers(&row["history"]);
            let history = History { repeats: h[0], last: h[1], age: h[2] };
            let close = |what: &str, ours: f64, theirs: f64| {
                let error = (ours - theirs).abs() / theirs.abs().max(1e-9);
                assert!(error < 1e-9, "{name} {history:?} {what}: {ours} {theirs}");
            };
            close("ln L", model.log_likelihood(&history), row["log_likelihood"].as_f64().unwrap());
            close("P(alive)", model.p_alive(&history), row["p_alive"].as_f64().unwrap());
            for (place, days) in numbers(&golden["horizons"]).into_iter().enumerate() {
                let expected = model.expected_purchases(&history, days);
                close("purchases", expected, row["expected"][place].as_f64().unwrap());
                close("none", model.p_none(&history, days), row["p_none"][place].as_f64().unwrap());
            }
        }
    }
}

#[test]
fn expected_purchases_are_those_of_lifetimes() {
    let golden = golden();
    let p = &golden["fits"]["bg_nbd"]["parameters"];
    let model = beta_geometric(["r", "alpha", "a", "b"].map(|k| p[k].as_f64().unwrap()), false);
    let theirs = numbers(&golden["bg_nbd_expected_90"]);
    for (row, theirs) in golden["bg_nbd"].as_array().unwrap().iter().zip(theirs) {
        let h = numbers(&row["history"]);
        let ours = model.expected_purchases(&History { repeats: h[0], last: h[1], age: h[2] }, 90.0);
        assert!((ours / theirs - 1.0).abs() < 1e-8, "{h:?}: {ours} {theirs}");
    }
}

#[test]
fn expected_spend_is_that_of_lifetimes() {
    let golden = golden();
    let p = &golden["fits"]["gamma_gamma"]["parameters"];
    let [p, q, v] = ["p", "q", "v"].map(|k| p[k].as_f64().unwrap());
    for row in golden["expected_spend"].as_array().unwrap() {
        let row = numbers(row);
        let ours = GammaGamma { p, q, v }.expected_spend(row[0], row[1]);
        assert!((ours / row[2] - 1.0).abs() < 1e-9, "{row:?}: {ours}");
    }
}

#[test]
fn a_one_time_buyer_is_surely_alive_in_the_bg_nbd_alone() {
    let [bg, mbg, pareto] = models([0.6, 30.0, 0.8, 2.5]);
    let once = History { repeats: 0.0, last: 0.0, age: 400.0 };
    assert_eq!(bg.p_alive(&once), 1.0);
    assert!(mbg.p_alive(&once) < 0.9 && pareto.p_alive(&once) < 0.9);
}

#[test]
fn what_a_one_time_buyer_spent_counts() {
    let money = GammaGamma { p: 4.0, q: 3.0, v: 20.0 };
    let mean = money.expected_spend(0.0, 0.0);
    assert!((mean - 40.0).abs() < 1e-12, "4 · 20 / (3 − 1)");
    assert!(money.expected_spend(1.0, 10.0) < mean && money.expected_spend(1.0, 100.0) > mean);
}

fn any_history() -> impl Strategy<Value = History> {
    (0u32..300, 0u32..1500, 0u32..1500).prop_map(|(repeats, last, silence)| {
        let last = if repeats == 0 { 0 } else { last.max(repeats) };
        History { repeats: f64::from(repeats), last: f64::from(last), age: f64::from(last + silence) }
    })
}

fn any_parameters() -> impl Strategy<Value = [f64; 4]> {
    prop::array::uniform4(-4.0..4.0f64)
        .prop_map(|[r, alpha, a, b]| [r.exp(), (alpha + 3.0).exp(), a.exp(), (b + 1.0).exp()])
}

proptest! {
    #[test]
    fn predictions_are_probabilities_and_finite_numbers(h in any_history(), p in any_parameters(), days in 1.0..1000.0f64) {
        for model in models(p) {
            let (alive, none) = (model.p_alive(&h), model.p_none(&h, days));
            let (one, two) = (model.expected_purchases(&h, days), model.expected_purchases(&h, 2.0 * days));
            prop_assert!((0.0..=1.0).contains(&alive) && (0.0..=1.0).contains(&none), "{} {alive} {none}", model.name());
            prop_assert!(model.log_likelihood(&h).is_finite());
            prop_assert!(one.is_finite() && one >= 0.0 && one <= two * (1.0 + 1e-9), "{} {one} {two}", model.name());
            prop_assert!(none >= 1.0 - alive - 1e-9, "who has left buys nothing: {} {none} {alive}", model.name());
            prop_assert!(1.0 - none <= one + 1e-9, "somebody who buys buys at least once: {} {none} {one}", model.name());
            prop_assert!(model.p_none(&h, 2.0 * days) <= none + 1e-12);
        }
    }

    #[test]
    fn gradients_are_those_of_small_steps(h in any_history(), p in any_parameters()) {
        for model in models(p) {
            let (value, gradient) = model.value_and_gradient(&h);
            prop_assert!((value - model.log_likelihood(&h)).abs() <= 1e-12 * (1.0 + value.abs()));
            for i in 0..4 {
                let at = |factor: f64| {
                    let mut moved = p;
                    moved[i] *= factor;
                    model.with(moved).log_likelihood(&h)
                };
                let step = 1e-5;
                let slope = (at(1.0 + step) - at(1.0 - step)) / (2.0 * step);
                let error = (gradient[i] * p[i] - slope).abs();
                prop_assert!(error < 1e-5 * (1.0 + value.abs()), "{} {i}: {} {slope}", model.name(), gradient[i] * p[i]);
            }
        }
    }

    #[test]
    fn the_spend_models_gradient_is_that_of_small_steps(
        days in 1u32..200, mean in 0.01..1e4f64, logs in prop::array::uniform3(-2.0..4.0f64),
    ) {
        let [p, q, v] = logs.map(f64::exp);
        let of = |m: [f64; 3]| GammaGamma { p: m[0], q: m[1], v: m[2] };
        let (days, model) = (f64::from(days), of([p, q, v]));
        let value = model.log_likelihood(days, mean);
        for (i, ours) in model.gradient(days, mean).into_iter().enumerate() {
            let at = |factor: f64| {
                let mut moved = [p, q, v];
                moved[i] *= factor;
                of(moved).log_likelihood(days, mean)
            };
            let slope = (at(1.0 + 1e-5) - at(1.0 - 1e-5)) / 2e-5;
            let theirs = ours * [p, q, v][i];
            prop_assert!((theirs - slope).abs() < 1e-5 * (1.0 + value.abs() + theirs.abs()), "{i}: {theirs} {slope}");
        }
    }
}
