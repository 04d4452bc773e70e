//! Embeddings of texts that were already seen in this run.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

type Key = [u8; 16];

/// Embeddings by text, up to a number of values in all; the first ones stay. One cache belongs to one encoder.
///
/// Half of the texts of a shop are the same few ("ok", "great", nothing at all), and a text that keeps coming is seen early, so
/// that plain first come, first kept does as well here as anything that has to count.
#[derive(Debug)]
pub struct EmbeddingCache {
    rows: HashMap<Key, usize>,
    values: Vec<f32>,
    width: usize,
    capacity: usize,
}

impl EmbeddingCache {
    /// A cache for embeddings of `width` values that holds at most `capacity` texts.
    pub fn new(width: usize, capacity: usize) -> Self {
        EmbeddingCache { rows: HashMap::new(), values: Vec::new(), width, capacity }
    }

    /// The embedding of a text, if it is kept.
    pub fn get(&self, text: &str) -> Option<&[f32]> {
        let row = *self.rows.get(&key(text))?;
        self.values.get(row * self.width..(row + 1) * self.width)
    }

    /// Keeps the embedding of a text if there is room; says whether it is kept now.
    pub fn keep(&mut self, text: &str, embedding: &[f32]) -> bool {
        if embedding.len() != self.width {
            return false;
        }
        let key = key(text);
        if self.rows.contains_key(&key) {
            return true;
        }
        if self.rows.len() >= self.capacity {
            return false;
        }
        self.rows.insert(key, self.rows.len());
        self.values.extend_from_slice(embedding);
        true
    }

    /// How many texts are kept.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether nothing is kept yet.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// Half of a SHA-256: two texts share it with a chance of 2⁻¹²⁸, and the text itself need not be kept.
fn key(text: &str) -> Key {
    let digest = Sha256::digest(text.as_bytes());
    let mut key = [0; 16];
    key.copy_from_slice(&digest[..16]);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_text_comes_back_and_a_full_cache_takes_no_more() {
        let mut cache = EmbeddingCache::new(2, 2);
        assert!(cache.is_empty());
        assert!(cache.keep("a", &[1.0, 2.0]));
        assert!(cache.keep("", &[3.0, 4.0]));
        assert!(cache.keep("a", &[9.0, 9.0]));
        assert!(!cache.keep("b", &[5.0, 6.0]));
        assert_eq!(cache.get("a"), Some(&[1.0, 2.0][..]));
        assert_eq!(cache.get(""), Some(&[3.0, 4.0][..]));
        assert_eq!(cache.get("b"), None);
        assert_eq!(cache.len(), 2);
    }

    #[test]
    fn an_embedding_of_another_width_is_refused() {
        let mut cache = EmbeddingCache::new(2, 2);
        assert!(!cache.keep("a", &[1.0]));
        assert!(cache.is_empty());
    }
}
