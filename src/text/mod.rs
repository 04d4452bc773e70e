//! From text to tokens: tokenizer, length batching, embedding cache.
//!
//! Plain data goes in and out (`&str`, `Vec<u32>`, row numbers); what becomes of the tokens is the encoder's business.

pub mod batching;
mod cache;
mod tokenizer;

pub use cache::EmbeddingCache;
pub use tokenizer::Tokenizer;
