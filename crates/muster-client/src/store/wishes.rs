//! Wishes of one process to the one that drives a lease: small files, so that they outlive both.

use std::fs;
use std::io;

use muster_core::ids::LeaseId;

use super::{ClientDir, StoreError};
use crate::durable;

/// The most wishes that one look takes in.
const WISHES_MAX: usize = 10_000;

/// What is wished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WishKind {
    /// Stop the lease.
    Stop,
    /// Look at the chain: the deposit grew.
    Look,
}

/// A wish about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wish {
    /// Which lease.
    pub lease: LeaseId,
    /// What.
    pub kind: WishKind,
}

impl WishKind {
    const fn suffix(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Look => "look",
        }
    }
}

impl Wish {
    fn file_name(&self) -> String {
        format!("{}.{}", hex::encode(self.lease.0), self.kind.suffix())
    }

    fn parse(name: &str) -> Option<Self> {
        let (lease, suffix) = name.split_once('.')?;
        let kind = [WishKind::Stop, WishKind::Look].into_iter().find(|k| k.suffix() == suffix)?;
        Some(Self { lease: lease.parse().ok()?, kind })
    }
}

impl ClientDir {
    /// Leaves a wish for whoever drives the lease, now or later. Durable when this returns.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn wish(&self, wish: Wish) -> Result<(), StoreError> {
        let path = self.root.join("wishes").join(wish.file_name());
        durable::replace(&path, b"", 0o600).map_err(StoreError::io(&path))
    }

    /// Whether a wish waits.
    #[must_use]
    pub fn has_wish(&self, wish: Wish) -> bool {
        self.root.join("wishes").join(wish.file_name()).exists()
    }

    /// The wishes that are not fulfilled yet.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn wishes(&self) -> Result<Vec<Wish>, StoreError> {
        let path = self.root.join("wishes");
        let mut found = Vec::new();
        for entry in fs::read_dir(&path).map_err(StoreError::io(&path))?.take(WISHES_MAX) {
            let name = entry.map_err(StoreError::io(&path))?.file_name();
            found.extend(name.to_str().and_then(Wish::parse));
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Takes a wish away once it is written down in the lease's record, or has lost its meaning.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn fulfilled(&self, wish: Wish) -> Result<(), StoreError> {
        let path = self.root.join("wishes").join(wish.file_name());
        match fs::remove_file(&path) {
            Err(reason) if reason.kind() != io::ErrorKind::NotFound => Err(StoreError::Io { path, reason }),
            _ => Ok(()),
        }
    }
}
