//! How far an encoder learns: corrections of low rank against torch, frozen encoders, and what their bundles hold.

use std::collections::BTreeMap;

use serde::Deserialize;
use tch::{Device, Tensor};
use tenure::model::encoder::{Checkpoint, Mode};
use tenure::model::text_classifier::{TextClassifier, TextManifest};
use tenure::model::{device, weights};
use tenure::spec::{LoraSpec, LoraTarget, TextClassifierTask, TuneSpec};
use tenure::training::fine_tuning::{Fit, Recipe};
use tenure::training::schedule::LinearSchedule;

use crate::encoder::{distance, fixtures, read_json, replace, tiny_copy};
use crate::text_classifier::{run, task, toy};

#[derive(Deserialize)]
struct Golden {
    settings: Settings,
    texts: Vec<String>,
    labels: Vec<i64>,
    steps: Vec<GoldenStep>,
}

#[derive(Deserialize)]
struct Settings {
    learning_rate: f64,
    weight_decay: f64,
    clip_norm: f64,
    steps: usize,
    warmup_steps: usize,
    rank: usize,
    alpha: f64,
    layer_decay: f64,
}

#[derive(Deserialize)]
struct GoldenStep {
    rows: Vec<usize>,
    loss: f64,
    norm: f64,
    learning_rate: f64,
}

/// The tiny BERT without dropout, which draws other numbers in another program, and a head of three labels.
fn steady(seed: u64) -> TextClassifier {
    let dir = tiny_copy();
    replace(&dir.path().join("config.json"), "dropout_prob\": 0.1", "dropout_prob\": 0.0");
    let labels = ["a", "b", "c"].map(str::to_owned).to_vec();
    TextClassifier::fresh(Checkpoint::open(dir.path()).unwrap(), labels, 64, Device::Cpu, seed).unwrap()
}

fn recipe(tune: TuneSpec) -> Recipe {
    let schedule = LinearSchedule::new(1e-2, 10, 0.1);
    Recipe { tune, schedule, layer_decay: 1.0, weight_decay: 0.01, clip_norm: 1.0, seed: 1 }
}

#[test]
fn corrections_and_layer_wise_rates_learn_as_in_torch_and_merge_into_the_same_weights() {
    let golden: Golden = read_json("lora.json");
    let tensors = weights::read(&fixtures().join("lora.safetensors")).unwrap();
    let settings = &golden.settings;
    let targets = vec![LoraTarget::Query, LoraTarget::AttentionOutput, LoraTarget::Intermediate];
    let lora = LoraSpec { rank: settings.rank, alpha: settings.alpha, targets, dropout: 0.0 };
    let warmup = settings.warmup_steps as f64 / settings.steps as f64;
    let recipe = Recipe {
        schedule: LinearSchedule::new(settings.learning_rate, settings.steps, warmup),
        layer_decay: settings.layer_decay,
        weight_decay: settings.weight_decay,
        clip_norm: settings.clip_norm,
        ..recipe(TuneSpec::Lora(lora))
    };
    let mut fit = Fit::new(steady(1), &recipe).unwrap();
    let variables = |fit: &Fit| -> BTreeMap<String, Tensor> {
        fit.learners().into_iter().map(|learner| (learner.name, learner.variable)).collect()
    };
    let learning = variables(&fit);
    assert_eq!(learning.len(), 2 * 3 * 2 + 2, "{:?}", learning.keys());
    for (name, mut variable) in learning {
        tch::no_grad(|| variable.copy_(&tensors[&format!("before.{name}")]));
    }

    let texts: Vec<&str> = golden.texts.iter().map(String::as_str).collect();
    let tokens = fit.classifier().tokenizer().encode(&texts).unwrap();
    for (number, right) in golden.steps.iter().enumerate() {
        let rows: Vec<&[u32]> = right.rows.iter().map(|&row| tokens[row].as_slice()).collect();
        let targets: Vec<i64> = right.rows.iter().map(|&row| golden.labels[row]).collect();
        let step = fit.step(&rows, &targets).unwrap();
        assert!((step.learning_rate - right.learning_rate).abs() < 1e-12, "step {number}");
        assert!((step.loss - right.loss).abs() < 2e-5, "step {number}: {} and {}", step.loss, right.loss);
        assert!((step.norm - right.norm).abs() < 2e-4, "step {number}: {} and {}", step.norm, right.norm);
    }
    for (name, variable) in variables(&fit) {
        let off = distance(&variable, &tensors[&format!("after.{name}")]);
        // A whole step of the lower block, taken at the rate of the upper one, is off by 1e-3 or more.
        assert!(off < 5e-5, "{name}: {off:e}");
    }
    let all: Vec<&[u32]> = tokens.iter().map(Vec::as_slice).collect();
    let apart = fit.classifier().logits(&all, Mode::Infer).unwrap();
    let merged = fit.into_classifier().unwrap();
    let together = merged.logits(&all, Mode::Infer).unwrap();
    assert!(distance(&apart, &together) < 1e-5, "merging changes the scores by {:e}", distance(&apart, &together));
    assert!(distance(&together, &tensors["logits"]) < 2e-4);
    for block in 0..2 {
        let query = &merged.store().variables()[&format!("encoder.layer.{block}.attention.self.query.weight")];
        assert!(distance(query, &tensors[&format!("merged.encoder.layer.{block}.query")]) < 5e-5);
    }
}

#[test]
fn a_frozen_encoder_learns_the_same_from_stored_vectors_as_from_texts() {
    let rows = toy(24, 0);
    let texts: Vec<&str> = rows.texts.iter().map(String::as_str).collect();
    let targets: Vec<i64> = (0..24).map(|row| row % 3).collect();
    let (mut stored, mut each) = (
        Fit::new(steady(4), &recipe(TuneSpec::Frozen)).unwrap(),
        Fit::new(steady(4), &recipe(TuneSpec::Frozen)).unwrap(),
    );
    let pooled = stored.classifier().pooled(&texts).unwrap();
    let tokens = each.classifier().tokenizer().encode(&texts).unwrap();
    let tokens: Vec<&[u32]> = tokens.iter().map(Vec::as_slice).collect();
    for _ in 0..5 {
        let (a, b) =
            (stored.step_pooled(pooled.shallow_clone(), &targets).unwrap(), each.step(&tokens, &targets).unwrap());
        assert!((a.loss - b.loss).abs() < 1e-5 && (a.norm - b.norm).abs() < 1e-4, "{a:?} and {b:?}");
    }
}

fn weights_of(folder: &std::path::Path) -> BTreeMap<String, Tensor> {
    weights::read(&folder.join("model.safetensors")).unwrap()
}

/// The names of the encoder's weights in which a bundle differs from where it began.
fn moved(bundle: &std::path::Path) -> Vec<String> {
    let before = weights_of(&fixtures().join("tiny-bert"));
    let after = weights_of(bundle).into_iter().filter(|(name, _)| !name.starts_with("classifier."));
    after.filter(|(name, tensor)| distance(tensor, &before[name]) > 0.0).map(|(name, _)| name).collect()
}

#[test]
fn each_mode_learns_the_toy_problem_and_moves_its_own_weights_alone() {
    let dir = tempfile::tempdir().unwrap();
    let lora = LoraSpec { targets: vec![LoraTarget::Query, LoraTarget::Output], ..LoraSpec::default() };
    for (name, tune, learning_rate, least) in [
        ("frozen", TuneSpec::Frozen, 3e-2, 0.6),
        ("lora", TuneSpec::Lora(lora), 1e-2, 0.7),
        ("full", TuneSpec::Full, 3e-3, 0.9),
    ] {
        let bundle = dir.path().join(name);
        let report = run(&TextClassifierTask { tune, learning_rate, ..task(&bundle, 1) }, None).unwrap();
        assert!(report.accuracy > least, "{name}: {}", report.table());
        let tuned = TextManifest::read(&bundle).unwrap().tuned;
        assert_eq!(tuned.mode, name);
        let moved = moved(&bundle);
        match name {
            "frozen" => assert_eq!(moved, [""; 0]),
            "lora" => {
                let both = ["attention.self.query", "output.dense"];
                let right: Vec<String> =
                    (0..2).flat_map(|n| both.map(|layer| format!("encoder.layer.{n}.{layer}.weight"))).collect();
                assert_eq!(moved, right);
                assert_eq!(tuned.trainable, 2 * 8 * ((32 + 32) + (64 + 32)) + 3 * 32 + 3);
            }
            _ => {
                assert!(moved.len() > 30, "{moved:?}");
                assert_eq!(tuned.trainable, tuned.parameters);
            }
        }
        // Scoring knows nothing of corrections: the bundle is a plain checkpoint.
        let classifier = TextClassifier::open(&bundle, Device::Cpu).unwrap();
        let test = toy(60, 3);
        let texts: Vec<&str> = test.texts.iter().map(String::as_str).collect();
        let predictions = classifier.classify(&texts).unwrap();
        let right = predictions.iter().zip(&test.labels).filter(|(p, label)| classifier.labels()[p.label] == **label);
        assert_eq!(right.count() as f64 / 60.0, report.accuracy, "{name}");
    }
}

#[test]
fn with_layer_decay_the_lower_a_block_the_less_it_moves() {
    let _seeded = device::seed(5);
    let moved = |layer_decay: f64| -> [f64; 3] {
        let classifier = steady(5);
        let names =
            ["embeddings.LayerNorm.bias", "encoder.layer.0.output.dense.bias", "encoder.layer.1.output.dense.bias"];
        let before = names.map(|name| classifier.store().variables()[name].copy());
        let mut fit = Fit::new(classifier, &Recipe { layer_decay, ..recipe(TuneSpec::Full) }).unwrap();
        let rows = [[2u32, 40, 41, 3].as_slice(), &[2, 50, 3]];
        for _ in 0..3 {
            fit.step(&rows, &[0, 1]).unwrap();
        }
        let after = fit.classifier().store().variables();
        [0, 1, 2].map(|n| (&after[names[n]] - &before[n]).abs().mean(tch::Kind::Float).double_value(&[]))
    };
    let ([all, lower, upper], [embeddings, less, same]) = (moved(1.0), moved(0.1));
    assert!(all > 0.3 * upper && lower > 0.3 * upper, "{all} {lower} {upper}");
    assert!(embeddings < 0.05 * same && less < 0.2 * same && embeddings < less, "{embeddings} {less} {same}");
}
