//! What training minimises, per head, and the same for the members' common prediction.
//!
//! The tensor forms take raw outputs [members, n, width], labels `[n]` and a mask `[n]` (0 where a customer has no label) and
//! give the mean over members and labelled rows. They stay finite, gradients included, for raw outputs of ±1e4.

use tch::{Kind, Reduction, Tensor};

use crate::Result;
use crate::model::heads::{Head, MIN_SIGMA, Ziln, mean_softmax, sigmoid};
use crate::spec::Loss;

/// ln(2π) / 2: the constant of the log-normal density.
const HALF_LN_TAU: f64 = 0.918_938_533_204_672_7;
/// Logs of expected values are kept this near to 0, so that the deviance stays finite.
const FAR: f64 = 15.0;

/// The loss of one head. A bce label is 0 or 1, a ziln label ≥ 0, an mse label standardised, a softmax label a class number.
pub fn of_head(head: &Head, raw: &Tensor, labels: &Tensor, mask: &Tensor) -> Result<Tensor> {
    match head.loss {
        Loss::Bce => bce(&raw.f_select(2, 0)?, labels, mask),
        Loss::Ziln => ziln(raw, labels, mask)?.f_add(&direct(raw, labels, mask, head.scale.1)?).map_err(Into::into),
        Loss::Mse => mse(&raw.f_select(2, 0)?, labels, mask),
        Loss::Softmax => softmax(raw, labels, mask),
    }
}

/// Binary cross-entropy of logits [members, n].
pub fn bce(logits: &Tensor, labels: &Tensor, mask: &Tensor) -> Result<Tensor> {
    masked_mean(&bce_rows(logits, labels)?, mask)
}

/// Zero-inflated log-normal (Wang, Liu, Miao 2019, arXiv 1912.07753, equation 6): the cross-entropy of value > 0, plus the
/// negative log density of the positive values. Raw outputs: logit, mu, and sigma before softplus; [`direct`] has the fourth.
pub fn ziln(raw: &Tensor, labels: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let positive = labels.f_gt(0.0)?;
    let mu = raw.f_select(2, 1)?;
    let sigma = raw.f_select(2, 2)?.f_softplus()?.f_clamp_min(MIN_SIGMA)?;
    // Where the label is 0 the density is not asked; 1 keeps its gradient free of NaN.
    let value = labels.f_where_self(&positive, &labels.f_ones_like()?)?.f_log()?;
    let z = value.f_sub(&mu)?.f_div(&sigma)?;
    let density = z.f_square()?.f_mul_scalar(0.5)?.f_add(&sigma.f_log()?)?.f_add(&value)?.f_add_scalar(HALF_LN_TAU)?;
    let positive = positive.f_to_kind(Kind::Float)?;
    let rows = bce_rows(&raw.f_select(2, 0)?, &positive)?.f_add(&density.f_mul(&positive)?)?;
    masked_mean(&rows, mask)
}

/// Poisson deviance, less its constant, of the expected value that a ziln head states directly, in units of `scale`: whatever
/// the label's distribution, its minimum is the mean, so that predicted and real totals agree on the training rows.
pub fn direct(raw: &Tensor, labels: &Tensor, mask: &Tensor, scale: f64) -> Result<Tensor> {
    let log_mean = raw.f_select(2, Head::DIRECT as i64)?.f_clamp(-FAR, FAR)?;
    let units = labels.f_div_scalar(scale)?;
    masked_mean(&log_mean.f_exp()?.f_sub(&log_mean.f_mul(&units)?)?, mask)
}

/// Squared error of outputs [members, n].
pub fn mse(outputs: &Tensor, labels: &Tensor, mask: &Tensor) -> Result<Tensor> {
    masked_mean(&outputs.f_sub(labels)?.f_square()?, mask)
}

/// Cross-entropy of class logits [members, n, classes]; labels are class numbers.
pub fn softmax(raw: &Tensor, labels: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let (members, n, _) = raw.size3()?;
    let classes = labels.f_to_kind(Kind::Int64)?.f_view([1, n, 1])?.f_expand([members, n, 1], false)?;
    let log_p = raw.f_log_softmax(2, Kind::Float)?.f_gather(2, &classes, false)?.f_squeeze_dim(2)?;
    masked_mean(&log_p.f_neg()?, mask)
}

fn bce_rows(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let labels = labels.f_expand_as(logits)?;
    Ok(logits.f_binary_cross_entropy_with_logits::<Tensor>(&labels, None, None, Reduction::None)?)
}

fn masked_mean(rows: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let (members, _) = rows.size2()?;
    let labelled = mask.f_sum(Kind::Float)?.f_clamp_min(1.0)?.f_mul_scalar(members)?;
    Ok(rows.f_mul(mask)?.f_sum(Kind::Float)?.f_div(&labelled)?)
}

/// The mean loss of the members' common prediction, which is what scoring publishes. `raw` holds n × members × outputs
/// numbers, of which this head's start at `offset`; NaN labels are left out.
pub fn of_ensemble(head: &Head, raw: &[f64], members: usize, outputs: usize, offset: usize, labels: &[f32]) -> f64 {
    let rows = rows_of_ensemble(head, raw, members, outputs, offset, labels);
    let (total, known) = rows.flatten().fold((0.0, 0_usize), |(sum, n), loss| (sum + loss, n + 1));
    total / known.max(1) as f64
}

/// Per head, the loss of each row; `None` where there is no label.
pub type RowLosses = Vec<Vec<Option<f64>>>;

/// The losses of rows by their raw outputs, n × members × outputs, before any calibration.
pub fn of_rows(heads: &[Head], raw: &[f64], members: usize, labels: &[Vec<f32>]) -> RowLosses {
    let outputs = heads.iter().map(Head::width).sum();
    let mut offset = 0;
    let of = |(head, labels): (&Head, &Vec<f32>)| {
        let losses = rows_of_ensemble(head, raw, members, outputs, offset, labels).collect();
        offset += head.width();
        losses
    };
    heads.iter().zip(labels).map(of).collect()
}

/// As [`of_ensemble`], row by row; `None` where there is no label.
fn rows_of_ensemble<'a>(
    head: &'a Head,
    raw: &'a [f64],
    members: usize,
    outputs: usize,
    offset: usize,
    labels: &'a [f32],
) -> impl Iterator<Item = Option<f64>> + 'a {
    raw.chunks_exact(members * outputs).zip(labels).map(move |(row, label)| {
        let parts: Vec<&[f64]> = row.chunks_exact(outputs).map(|m| &m[offset..offset + head.width()]).collect();
        (!label.is_nan()).then(|| of_row(head, &parts, f64::from(*label)))
    })
}

/// The heads' mean losses together, where each row counts so many times; a head without labels adds nothing.
pub fn together(losses: &[Vec<Option<f64>>], weight: impl Fn(usize) -> f64) -> f64 {
    let mean = |losses: &Vec<Option<f64>>| {
        let known = losses.iter().enumerate().filter_map(|(row, loss)| loss.map(|loss| (loss, weight(row))));
        let (sum, weights) = known.fold((0.0, 0.0), |(sum, all), (loss, w)| (sum + w * loss, all + w));
        if weights > 0.0 { sum / weights } else { 0.0 }
    };
    losses.iter().map(mean).sum()
}

fn of_row(head: &Head, members: &[&[f64]], label: f64) -> f64 {
    let n = members.len() as f64;
    match head.loss {
        Loss::Bce => cross_entropy(members.iter().map(|raw| sigmoid(raw[0])).sum::<f64>() / n, label),
        Loss::Mse => (members.iter().map(|raw| raw[0]).sum::<f64>() / n - label).powi(2),
        Loss::Softmax => -mean_softmax(members).get(label as usize).copied().unwrap_or(0.0).max(1e-12).ln(),
        Loss::Ziln => {
            let parts: Vec<Ziln> = members.iter().map(|raw| Ziln::of_raw(raw)).collect();
            let mix = Ziln::mix(&parts);
            let log_mean = |raw: &&[f64]| raw[Head::DIRECT].clamp(-FAR, FAR).exp();
            let mean = members.iter().map(log_mean).sum::<f64>() / n;
            let direct = mean - label / head.scale.1 * mean.ln();
            let zero = cross_entropy(mix.p, f64::from(label > 0.0)) + direct;
            if label <= 0.0 {
                return zero;
            }
            let z = (label.ln() - mix.mu) / mix.sigma;
            zero + z * z / 2.0 + mix.sigma.ln() + label.ln() + HALF_LN_TAU
        }
    }
}

fn cross_entropy(p: f64, label: f64) -> f64 {
    let p = p.clamp(1e-9, 1.0 - 1e-9);
    -(label * p.ln() + (1.0 - label) * (1.0 - p).ln())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::Place;
    use crate::spec::HeadSpec;

    fn head(loss: Loss) -> Head {
        let spec = HeadSpec {
            name: "h".into(),
            label: "l".into(),
            loss,
            weight: 1.0,
            family: None,
            direction: None,
            place: Place::file("job.yaml"),
        };
        Head { classes: vec!["a".into(), "b".into(), "c".into()], cap: 20.0, ..Head::new(&spec) }
    }

    fn raw(values: &[f32], width: i64) -> Tensor {
        Tensor::from_slice(values).view([1, -1, width]).set_requires_grad(true)
    }

    fn loss_and_gradient(head: &Head, raw: &Tensor, labels: &[f32]) -> (f64, Vec<f32>) {
        let labels = Tensor::from_slice(labels);
        let loss = of_head(head, raw, &labels, &labels.ones_like()).unwrap();
        loss.backward();
        (f64::try_from(&loss).unwrap(), Vec::try_from(raw.grad().view([-1])).unwrap())
    }

    proptest! {
        #[test]
        fn losses_and_gradients_are_finite_for_raw_outputs_of_any_sane_size(
            values in prop::collection::vec(-1e4..1e4f32, 16),
            labels in prop::collection::vec(prop_oneof![Just(0.0f32), Just(1e9f32), 0.0..1e9f32], 4),
        ) {
            for (loss, width) in [(Loss::Bce, 1), (Loss::Ziln, 4), (Loss::Mse, 1), (Loss::Softmax, 3)] {
                let labels: Vec<f32> = match loss {
                    Loss::Bce => labels.iter().map(|l| f32::from(*l > 0.0)).collect(),
                    Loss::Softmax => labels.iter().map(|l| (*l as i64 % 3) as f32).collect(),
                    _ => labels.clone(),
                };
                let (value, gradient) = loss_and_gradient(&head(loss), &raw(&values[..4 * width], width as i64), &labels);
                prop_assert!(value.is_finite());
                prop_assert!(gradient.iter().all(|g| g.is_finite()));
            }
        }
    }

    #[test]
    fn losses_are_finite_at_the_corners() {
        let corners = [-1e4_f32, 1e4];
        for logit in corners {
            for mu in corners {
                for sigma in corners {
                    for label in [0.0, 1e-6, 1e9] {
                        let (value, gradient) =
                            loss_and_gradient(&head(Loss::Ziln), &raw(&[logit, mu, sigma, -mu], 4), &[label]);
                        assert!(
                            value.is_finite() && gradient.iter().all(|g| g.is_finite()),
                            "{logit} {mu} {sigma} {label}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn ziln_is_the_papers_formula() {
        // By hand: p = 0.5 gives ln 2 for either label; sigma = softplus(0) = ln 2; the value e has ln = 1.
        let sigma = 2.0_f64.ln();
        let density = (1.0 / sigma).powi(2) / 2.0 + sigma.ln() + 1.0 + HALF_LN_TAU;
        let loss = |label: f32| {
            let labels = Tensor::from_slice(&[label]);
            f64::try_from(ziln(&raw(&[0.0, 0.0, 0.0], 3), &labels, &labels.ones_like()).unwrap()).unwrap()
        };
        assert!((loss(0.0) - 2.0_f64.ln()).abs() < 1e-6);
        assert!((loss(std::f32::consts::E) - (2.0_f64.ln() + density)).abs() < 1e-5);
    }

    #[test]
    fn the_direct_value_is_the_labels_mean_where_its_loss_is_least() {
        let labels = Tensor::from_slice(&[0.0_f32, 0.0, 3.0, 9.0]);
        let slope = |log_mean: f64| {
            let raw = Tensor::full([1, 4, 4], log_mean, (Kind::Float, tch::Device::Cpu)).set_requires_grad(true);
            direct(&raw, &labels, &labels.ones_like(), 1.5).unwrap().backward();
            f64::try_from(raw.grad().sum(Kind::Float)).unwrap()
        };
        let least = (3.0_f64 / 1.5).ln();
        assert!(slope(least).abs() < 1e-6 && slope(least - 0.1) < 0.0 && slope(least + 0.1) > 0.0);
    }

    #[test]
    fn the_gradient_is_that_of_finite_differences() {
        let at = [0.3_f32, 1.2, 0.4, 0.7];
        let (_, gradient) = loss_and_gradient(&head(Loss::Ziln), &raw(&at, 4), &[7.0]);
        for i in 0..4 {
            let moved = |by: f32| {
                let mut values = at;
                values[i] += by;
                let parts: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
                of_ensemble(&head(Loss::Ziln), &parts, 1, 4, 0, &[7.0])
            };
            let slope = (moved(1e-3) - moved(-1e-3)) / 2e-3;
            assert!((f64::from(gradient[i]) - slope).abs() < 1e-3, "{i}: {} {slope}", gradient[i]);
        }
    }

    #[test]
    fn one_member_has_the_loss_of_its_ensemble() {
        let values = [0.3_f32, -1.2, 0.9, 2.0, 0.1, -0.7, 0.4, 1.1];
        let cases: [(Loss, usize, [f32; 2]); 4] = [
            (Loss::Bce, 1, [1.0, 0.0]),
            (Loss::Ziln, 4, [0.0, 12.5]),
            (Loss::Mse, 1, [0.4, -2.0]),
            (Loss::Softmax, 3, [2.0, 0.0]),
        ];
        for (loss, width, labels) in cases {
            let head = head(loss);
            let used = &values[..2 * width];
            let (tensors, _) = loss_and_gradient(&head, &raw(used, width as i64), &labels);
            let plain: Vec<f64> = used.iter().map(|v| f64::from(*v)).collect();
            let together = of_ensemble(&head, &plain, 1, width, 0, &labels);
            assert!((tensors - together).abs() < 1e-5, "{:?}: {tensors} {together}", head.loss);
        }
    }

    #[test]
    fn heads_are_added_up_and_rows_without_a_label_left_out() {
        let losses = [vec![Some(1.0), Some(3.0), None], vec![None, Some(10.0), Some(20.0)], vec![None; 3]];
        assert_eq!(together(&losses, |_| 1.0), 2.0 + 15.0);
        assert_eq!(together(&losses, |row| [3.0, 1.0, 0.0][row]), 1.5 + 10.0);
    }

    #[test]
    fn a_row_without_a_label_has_no_say() {
        let labels = Tensor::from_slice(&[1.0_f32, 0.0]);
        let mask = Tensor::from_slice(&[1.0_f32, 0.0]);
        let loss = of_head(&head(Loss::Bce), &raw(&[0.0, 99.0], 1), &labels, &mask).unwrap();
        assert!((f64::try_from(&loss).unwrap() - 2.0_f64.ln()).abs() < 1e-6);
        assert!((of_ensemble(&head(Loss::Bce), &[0.0, 99.0], 1, 1, 0, &[1.0, f32::NAN]) - 2.0_f64.ln()).abs() < 1e-9);
    }
}
