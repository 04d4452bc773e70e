//! Blocks of states on their way from the store: what else a night reads is read in the meantime.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};

use super::block_file::Layout;
use super::days::Block;
use super::manifest::{BlockState, StateFile};
use super::packed::Packed;
use super::stored_block::StoredBlock;
use crate::lake::Store;
use crate::{Error, Result, failpoint};

/// Blocks that are asked for at once: mostly all of a night's, for a store far away takes its time with each.
const IN_FLIGHT: usize = 64;

/// Opens blocks.
pub(super) struct Opener {
    store: Store,
    requests: Semaphore,
    /// A turn for each thread that opens blocks.
    decoders: Semaphore,
}

/// Blocks that were asked for, each with a number of whoever asked; they come as they are opened, in any order.
#[derive(Debug, Default)]
pub(in crate::features::fusion) struct Coming(JoinSet<Result<(usize, Opened)>>);

/// A block, or what is wrong with it.
pub(in crate::features::fusion) type Opened = std::result::Result<StoredBlock, Broken>;

/// A block that is not what was written.
#[derive(Debug)]
pub(in crate::features::fusion) struct Broken {
    pub block: Block,
    pub why: String,
}

impl Coming {
    /// The next one.
    pub async fn next(&mut self) -> Result<Option<(usize, Opened)>> {
        let next = self.0.join_next().await.transpose();
        next.map_err(|e| Error::task("a reader of states", e))?.transpose()
    }
}

impl Opener {
    /// Opens blocks of a store on so many threads.
    pub fn new(store: Store, threads: usize) -> Self {
        Opener { store, requests: Semaphore::new(IN_FLIGHT), decoders: Semaphore::new(threads.max(1)) }
    }

    /// Asks for blocks whose columns are known, or that may have any.
    pub fn open(
        self: &Arc<Self>,
        blocks: impl IntoIterator<Item = (usize, BlockState)>,
        layout: Option<&Layout>,
    ) -> Coming {
        let mut coming = Coming::default();
        for (number, state) in blocks {
            let (opener, layout) = (Arc::clone(self), layout.cloned());
            coming.0.spawn(async move {
                let block = state.block;
                let opened = match state.file.clone() {
                    Some(file) => opener.open_file(state, &file, layout).await?,
                    None => Err("a block without rows has no file".to_owned()),
                };
                Ok((number, opened.map_err(|why| Broken { block, why })))
            });
        }
        coming
    }

    async fn open_file(
        &self,
        state: BlockState,
        file: &StateFile,
        layout: Option<Layout>,
    ) -> Result<std::result::Result<StoredBlock, String>> {
        let closed = |e| Error::bug("no reader of states is left").because(e);
        let _asked = self.requests.acquire().await.map_err(closed)?;
        let url = self.store.url_of(&file.path).to_string();
        // A file is read where it is decoded; what comes over the network comes while others are decoded.
        let here = self.store.local_path(&file.path)?;
        let fetched = if here.is_some() { None } else { self.store.find(&file.path).await? };
        let own = url.clone();
        let open = move || {
            failpoint::reach("state.open");
            let packed = match here {
                Some(path) => Packed::local(&path).map_err(|e| e.to_string())?,
                None => fetched.map(Packed::Here).ok_or_else(|| "it is gone".to_owned())?,
            };
            StoredBlock::open(own, packed, &state, layout.as_ref())
        };
        let _turn = self.decoders.acquire().await.map_err(closed)?;
        let opened = spawn_blocking(open).await.map_err(|e| Error::task("a reader of states", e))?;
        Ok(opened.map_err(|why| format!("`{url}`: {why}")))
    }
}
