//! The encoder against `transformers` (`fixtures/parity/make_goldens.py`), and against itself in other batches.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde::Deserialize;
use tch::{Device, Kind, Tensor};
use tenure::model::encoder::{Encoder, Form, Mode, Padded, Unpadded};
use tenure::model::{device, weights};
use tenure::printer::render_error;
use tenure::text::batching::Budget;
use tenure::text::{EmbeddingCache, Tokenizer};

/// f32 against f32 with other kernels. A tanh-GELU is 30 times further away.
const PARITY: f64 = 1e-5;
/// The same text in another batch: the same kernels, other block sizes.
const INVARIANCE: f64 = 1e-6;

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/parity")
}

/// A copy of the tiny BERT that a test may change.
pub fn tiny_copy() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let from = fixtures().join("tiny-bert");
    std::fs::create_dir(dir.path().join("1_Pooling")).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json", "modules.json", "1_Pooling/config.json"] {
        std::fs::copy(from.join(name), dir.path().join(name)).unwrap();
    }
    dir
}

pub fn replace(file: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{from} in {text}");
    std::fs::write(file, text.replace(from, to)).unwrap();
}

pub fn read_json<T: serde::de::DeserializeOwned>(name: &str) -> T {
    serde_json::from_str(&std::fs::read_to_string(fixtures().join(name)).unwrap()).unwrap()
}

pub fn distance(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    f64::try_from((a - b).abs().max()).unwrap()
}

#[derive(Deserialize)]
struct Tiny {
    texts: Vec<String>,
    ids: Vec<Vec<u32>>,
}

impl Tiny {
    fn read() -> (Self, BTreeMap<String, Tensor>) {
        (read_json("tiny-bert.json"), weights::read(&fixtures().join("tiny-bert.safetensors")).unwrap())
    }

    fn texts(&self) -> Vec<&str> {
        self.texts.iter().map(String::as_str).collect()
    }
}

fn tiny() -> Encoder {
    Encoder::load(&fixtures().join("tiny-bert"), Device::Cpu).unwrap()
}

#[test]
fn tokens_are_those_of_the_checkpoint_without_its_padding_and_truncation() {
    let (golden, _) = Tiny::read();
    assert_eq!(tiny().tokenizer().encode(&golden.texts()).unwrap(), golden.ids);
    assert!(golden.ids.iter().any(|ids| ids.len() == 2), "an empty text is [CLS] [SEP]");
    assert!(golden.ids.iter().any(|ids| ids.len() > 16), "the file itself cuts and pads to 16");
}

#[test]
fn a_long_text_is_cut_and_keeps_its_special_tokens() {
    let (golden, _) = Tiny::read();
    let tokenizer = Tokenizer::load(&fixtures().join("tiny-bert"), 8).unwrap();
    for (cut, whole) in tokenizer.encode(&golden.texts()).unwrap().iter().zip(&golden.ids) {
        assert!(cut.len() <= 8);
        assert_eq!((cut.first(), cut.last()), (whole.first(), whole.last()));
        assert_eq!(cut[..cut.len() - 1], whole[..cut.len() - 1]);
    }
}

#[test]
fn every_layer_equals_transformers() {
    let (golden, tensors) = Tiny::read();
    let encoder = tiny();
    let _guard = tch::no_grad_guard();
    for (number, ids) in golden.ids.iter().enumerate() {
        let input = Padded::new(&[ids], 0, Device::Cpu).unwrap();
        let states = encoder.model().hidden_states(&input.ids, None, Mode::Infer).unwrap();
        assert_eq!(states.len(), 3);
        for (layer, state) in states.iter().enumerate() {
            let off = distance(&state.squeeze_dim(0), &tensors[&format!("{number}.hidden.{layer}")]);
            assert!(off <= PARITY, "text {number}, layer {layer}: {off:e}");
        }
    }
}

/// BERT in plain tensor algebra, one text at a time: the oracle, and the proof that the tolerance tells the GELUs apart.
fn naive(weights: &BTreeMap<String, Tensor>, ids: &[u32], gelu: &str) -> Tensor {
    let w = |name: String| &weights[&name];
    let norm = |x: Tensor, at: String| {
        let centred = &x - x.mean_dim(-1, true, Kind::Float);
        let variance = centred.square().mean_dim(-1, true, Kind::Float);
        centred / (variance + 1e-3).sqrt() * w(format!("{at}.LayerNorm.weight")) + w(format!("{at}.LayerNorm.bias"))
    };
    let dense = |x: &Tensor, at: String| x.matmul(&w(format!("{at}.weight")).tr()) + w(format!("{at}.bias"));
    let index: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    let words = w("embeddings.word_embeddings.weight".into()).index_select(0, &Tensor::from_slice(&index));
    let places = w("embeddings.position_embeddings.weight".into()).narrow(0, 0, ids.len() as i64);
    let mut x =
        norm(words + places + w("embeddings.token_type_embeddings.weight".into()).get(0), "embeddings".to_owned());
    for n in 0..2 {
        let at = format!("encoder.layer.{n}");
        let heads: Vec<Tensor> = (0..2)
            .map(|head| {
                let part = |what: &str| dense(&x, format!("{at}.attention.self.{what}")).narrow(1, head * 16, 16);
                let scores = part("query").matmul(&part("key").tr()) / 4.0;
                scores.softmax(-1, Kind::Float).matmul(&part("value"))
            })
            .collect();
        let attended = dense(&Tensor::cat(&heads, 1), format!("{at}.attention.output.dense"));
        x = norm(attended + &x, format!("{at}.attention.output"));
        let inner = dense(&x, format!("{at}.intermediate.dense")).gelu(gelu);
        x = norm(dense(&inner, format!("{at}.output.dense")) + &x, format!("{at}.output"));
    }
    x
}

#[test]
fn the_tolerance_tells_the_exact_gelu_from_the_tanh_one() {
    let (golden, tensors) = Tiny::read();
    let weights = weights::read(&fixtures().join("tiny-bert/model.safetensors")).unwrap();
    for (number, ids) in golden.ids.iter().enumerate() {
        let right = &tensors[&format!("{number}.hidden.2")];
        let (exact, tanh) =
            (distance(&naive(&weights, ids, "none"), right), distance(&naive(&weights, ids, "tanh"), right));
        assert!(exact <= PARITY, "text {number}: {exact:e}");
        assert!(tanh > 10.0 * PARITY, "text {number}: {tanh:e}");
    }
}

#[test]
fn embeddings_equal_transformers_with_mean_and_normalisation() {
    let (golden, tensors) = Tiny::read();
    let rows = tiny().embed(&golden.texts()).unwrap();
    for number in 0..golden.texts.len() {
        let off = distance(&rows.get(number as i64), &tensors[&format!("{number}.normalized")]);
        assert!(off <= PARITY, "text {number}: {off:e}");
    }
}

#[test]
fn the_folder_decides_on_pooling_and_normalisation() {
    let (golden, tensors) = Tiny::read();
    let dir = tiny_copy();
    let compare = |what: &str| {
        let rows = Encoder::load(dir.path(), Device::Cpu).unwrap().embed(&golden.texts()).unwrap();
        for number in 0..golden.texts.len() {
            let off = distance(&rows.get(number as i64), &tensors[&format!("{number}.{what}")]);
            assert!(off <= PARITY, "{what} of text {number}: {off:e}");
        }
    };
    std::fs::remove_file(dir.path().join("modules.json")).unwrap();
    compare("mean");
    let pooling = dir.path().join("1_Pooling/config.json");
    replace(&pooling, "\"pooling_mode_cls_token\": false", "\"pooling_mode_cls_token\": true");
    replace(&pooling, "\"pooling_mode_mean_tokens\": true", "\"pooling_mode_mean_tokens\": false");
    compare("cls");
    std::fs::remove_file(pooling).unwrap();
    compare("mean");
}

#[test]
fn a_text_in_a_batch_equals_the_text_alone_in_any_order_and_padding() {
    let (golden, _) = Tiny::read();
    let texts = golden.texts();
    let encoder = tiny();
    let alone: Vec<Tensor> = texts.iter().map(|text| encoder.embed(&[text]).unwrap().get(0)).collect();
    let budgets = [(1, 1), (30, 2), (90, 3), (10_000, 100)];
    for ((tokens, rows), form) in budgets.into_iter().flat_map(|b| [(b, Form::Padded), (b, Form::Unpadded)]) {
        let encoder = tiny().with_budget(Budget { tokens, rows }).with_form(form);
        for turn in 0..texts.len() {
            let mut order: Vec<usize> = (0..texts.len()).collect();
            order.rotate_left(turn);
            let turned: Vec<&str> = order.iter().map(|&n| texts[n]).collect();
            let batch = encoder.embed(&turned).unwrap();
            for (row, &n) in order.iter().enumerate() {
                let off = distance(&batch.get(row as i64), &alone[n]);
                assert!(off <= INVARIANCE, "text {n} at {row} with {tokens} tokens, {form:?}: {off:e}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn unpadded_rows_equal_padded_ones(
        rows in prop::collection::vec(prop::collection::vec(0u32..108, 1..40), 1..12),
    ) {
        let encoder = tiny();
        let _guard = tch::no_grad_guard();
        let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
        let input = Padded::new(&rows, 0, Device::Cpu).unwrap();
        let padded = encoder.model().forward(&input.ids, input.mask.as_ref(), Mode::Infer).unwrap();
        let joined = Unpadded::new(&rows, Device::Cpu).unwrap();
        let unpadded = encoder.model().forward_unpadded(&joined, Mode::Infer).unwrap();
        let mut start = 0;
        for (number, row) in rows.iter().enumerate() {
            let tokens = row.len() as i64;
            let off = distance(
                &unpadded.narrow(0, start, tokens), &padded.get(number as i64).narrow(0, 0, tokens));
            // Vectors here are up to 5 long, not 1 as embeddings are.
            prop_assert!(off <= 10.0 * INVARIANCE, "row {}: {:e}", number, off);
            start += tokens;
        }
    }
}

#[test]
fn what_stands_in_the_padding_changes_nothing() {
    let (golden, _) = Tiny::read();
    let encoder = tiny();
    let _guard = tch::no_grad_guard();
    let rows: Vec<&[u32]> = vec![&golden.ids[1], &golden.ids[3]];
    let states = |pad: i64| {
        let input = Padded::new(&rows, pad, Device::Cpu).unwrap();
        let last = encoder.model().forward(&input.ids, input.mask.as_ref(), Mode::Infer).unwrap();
        last.get(0).narrow(0, 0, 3)
    };
    assert_eq!(distance(&states(0), &states(50)), 0.0);
}

#[test]
fn equal_texts_have_equal_embeddings_and_no_texts_have_none() {
    let encoder = tiny();
    let rows = encoder.embed(&["love", "card", "love", ""]).unwrap();
    assert_eq!(rows.size(), [4, 32]);
    assert_eq!(distance(&rows.get(0), &rows.get(2)), 0.0);
    assert!(distance(&rows.get(0), &rows.get(1)) > 0.01);
    assert_eq!(encoder.embed(&[]).unwrap().size(), [0, 32]);
    assert_eq!(i64::try_from(rows.isfinite().all()).unwrap(), 1);
}

#[test]
fn the_cache_gives_the_same_embeddings_and_computes_each_text_once() {
    let encoder = tiny();
    let mut cache = EmbeddingCache::new(encoder.hidden_size(), 3);
    let first = ["love", "card", "love", ""];
    let second = ["card", "refund", "money", "refund", "love"];
    for texts in [&first[..], &second[..], &[][..]] {
        let (cached, plain) = (encoder.embed_cached(texts, &mut cache).unwrap(), encoder.embed(texts).unwrap());
        assert_eq!(cached.size(), plain.size());
        if !texts.is_empty() {
            assert!(distance(&cached, &plain) <= INVARIANCE);
        }
    }
    assert_eq!(cache.len(), 3);
}

#[test]
fn training_mode_drops_values_and_scoring_does_not() {
    let (golden, _) = Tiny::read();
    let _seeded = device::seed(1);
    let encoder = tiny();
    let input = Padded::new(&[&golden.ids[3]], 0, Device::Cpu).unwrap();
    let run = |mode| encoder.model().forward(&input.ids, None, mode).unwrap();
    assert_eq!(distance(&run(Mode::Infer), &run(Mode::Infer)), 0.0);
    assert!(distance(&run(Mode::Train), &run(Mode::Infer)) > 0.01);
}

#[test]
fn a_checkpoint_of_a_task_model_loads_and_one_with_other_tensors_does_not() {
    let dir = tiny_copy();
    let file = dir.path().join("model.safetensors");
    let tensors = weights::read(&file).unwrap();
    let mut prefixed: BTreeMap<String, Tensor> =
        tensors.iter().map(|(name, t)| (format!("bert.{name}"), t.shallow_clone())).collect();
    prefixed.insert("classifier.weight".into(), Tensor::zeros([3, 32], (Kind::Float, Device::Cpu)));
    weights::save(&prefixed, &file).unwrap();
    let rows = Encoder::load(dir.path(), Device::Cpu).unwrap().embed(&["love"]).unwrap();
    assert_eq!(distance(&rows, &tiny().embed(&["love"]).unwrap()), 0.0);

    let key = prefixed.remove("bert.encoder.layer.1.attention.self.key.bias").unwrap();
    prefixed.insert("bert.encoder.layer.1.attention.self.k.bias".into(), key);
    weights::save(&prefixed, &file).unwrap();
    let told = render_error(&Encoder::load(dir.path(), Device::Cpu).unwrap_err());
    assert!(told.contains("tensor `encoder.layer.1.attention.self.key.bias` is missing"), "{told}");
    assert!(told.contains("tensor `encoder.layer.1.attention.self.k.bias` is not part of the model"), "{told}");
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    let dir = tiny_copy();
    replace(&dir.path().join("config.json"), "\"vocab_size\": 108", "\"vocab_size\": 50");
    let told = render_error(&Encoder::load(dir.path(), Device::Cpu).unwrap_err());
    assert!(told.contains("the tokenizer has 108 word pieces, and the encoder 50"), "{told}");
    let told = render_error(&Encoder::load_cut(&fixtures().join("tiny-bert"), Device::Cpu, 65).unwrap_err());
    assert!(told.contains("65 tokens are longer than the encoder's 64 positions"), "{told}");
    let told = render_error(&Encoder::load(Path::new("/nowhere/at-all"), Device::Cpu).unwrap_err());
    assert!(told.contains("`/nowhere/at-all` is not there"), "{told}");
}

#[test]
fn an_encoder_can_move_to_the_thread_that_owns_it() {
    let encoder = tiny();
    let here = encoder.embed(&["love"]).unwrap();
    let there = std::thread::spawn(move || encoder.embed(&["love"]).unwrap()).join().unwrap();
    assert_eq!(distance(&here, &there), 0.0);
}

/// Where `scripts/encoder.sh` puts all-MiniLM-L6-v2; `make test` runs it first.
fn minilm() -> Encoder {
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME is set"));
    let cache = std::env::var_os("TENURE_CACHE").map(PathBuf::from).unwrap_or_else(|| {
        std::env::var_os("XDG_CACHE_HOME").map_or_else(|| home().join(".cache"), PathBuf::from).join("tenure")
    });
    let dir = cache.join("all-MiniLM-L6-v2");
    assert!(dir.is_dir(), "{} is not there: run scripts/encoder.sh", dir.display());
    Encoder::load(&dir, Device::Cpu).unwrap()
}

#[derive(Deserialize)]
struct MiniLm {
    texts: Vec<String>,
    tokens: Vec<usize>,
    embeddings: Vec<Vec<f32>>,
}

#[test]
fn minilm_sentence_embeddings_equal_transformers() {
    let golden: MiniLm = read_json("minilm.json");
    let texts: Vec<&str> = golden.texts.iter().map(String::as_str).collect();
    let encoder = minilm();
    assert_eq!(encoder.hidden_size(), 384);
    let tokens: Vec<usize> = encoder.tokenizer().encode(&texts).unwrap().iter().map(Vec::len).collect();
    assert_eq!(tokens, golden.tokens);
    let together = encoder.embed(&texts).unwrap();
    let encoder = encoder.with_form(Form::Padded);
    for (number, right) in golden.embeddings.iter().enumerate() {
        let off = distance(&together.get(number as i64), &Tensor::from_slice(right));
        assert!(off <= PARITY, "text {number}: {off:e}");
        let alone = encoder.embed(&texts[number..=number]).unwrap();
        let off = distance(&together.get(number as i64), &alone.get(0));
        assert!(off <= INVARIANCE, "text {number} alone: {off:e}");
    }
}
