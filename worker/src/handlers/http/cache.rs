//! The small files that were read within this second.
//!
//! **What is sent is what would be read now.** Before each answer the path is checked again, part by part, without
//! following links: the answer is sent only if each part is a directory and the last one is the same regular file,
//! unchanged. So the next request shows any change, including one on the way to the file: another directory in its
//! place, a link where there was none, a served path that leads elsewhere. A file whose last change is so recent that
//! another one could leave the same times behind is not kept.
//!
//! **Nothing from outside is ever sent.** The kept content was read through a handle that was opened below the served
//! directory, so it was inside within this second. Checking the path decides only whether the content is sent again:
//! nothing is read through that path, and what it leads to counts only if it is the same file. If the path changes
//! between two checks of one request, the answer may be that of the moment before.
//!
//! **For one second,** because the answer carries its date. That also limits how long a change can go unnoticed if it
//! leaves no trace in the file's times: one by a process that has mapped the file into its memory, or one on another
//! machine whose file system is mounted here.

use std::collections::HashMap;
use std::fmt;
use std::mem;
use std::sync::{Arc, PoisonError, RwLock};

use super::date::Now;
use super::small_file::SmallFile;

/// How much is kept, in bytes.
pub(super) const CAPACITY: usize = 8 * 1024 * 1024;

/// Roughly what a file takes besides its answer and its path.
const OVERHEAD: usize = 256;

/// Answers by requested path.
#[derive(Default)]
pub(super) struct Cache(RwLock<Second>);

/// What was read within one second.
#[derive(Default)]
struct Second {
    second: u64,
    files: HashMap<Box<[u8]>, Arc<SmallFile>>,
    size: usize,
}

impl Cache {
    pub(super) fn get(&self, path: &[u8], now: Now) -> Option<Arc<SmallFile>> {
        // The lock is not held during system calls: they may take as long as a disk.
        let file = self.0.read().unwrap_or_else(PoisonError::into_inner).files.get(path).map(Arc::clone);
        file.filter(|file| file.second == now.second() && file.is_unchanged())
    }

    pub(super) fn put(&self, path: &[u8], file: &Arc<SmallFile>, now: Now) {
        if file.is_settled(now) {
            let mut kept = self.0.write().unwrap_or_else(PoisonError::into_inner);
            let outdated = kept.put(path, file);
            // Freeing what was kept may take a while.
            drop(kept);
            drop(outdated);
        }
    }
}

impl Second {
    /// Returns what was kept before, if that is out of date.
    fn put(&mut self, path: &[u8], file: &Arc<SmallFile>) -> Option<Second> {
        let outdated = (self.second != file.second)
            .then(|| mem::replace(self, Second { second: file.second, ..Second::default() }));
        let size = file.answer().len() + path.len() + OVERHEAD;
        if self.size + size <= CAPACITY && self.files.insert(path.into(), Arc::clone(file)).is_none() {
            self.size += size;
        }
        outdated
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Cache").finish_non_exhaustive()
    }
}
