//! The network: encoder, preprocessing, heads, bundle, scorer. The only room besides `training` that knows libtorch.

pub mod btyd;
pub mod bundle;
pub mod calibration;
pub mod device;
pub mod encoder;
pub mod files;
pub mod folder;
pub mod glm;
pub mod heads;
pub mod manifest;
pub mod network;
pub mod predict;
pub mod preprocess;
pub mod rfm;
pub mod scorer;
pub mod scores;
pub mod season;
pub mod text_classifier;
mod torch_error;
pub mod weights;

pub use bundle::Bundle;
pub use manifest::BundleManifest;
pub use scorer::{MINIMUM_DATA, ScoredBatch, ScoredStream, Scorer};
pub use scores::score_columns_of;
