//! Looks through what comes back for the secrets that went out, in one pass and whatever the pieces it comes in. A tripwire, not a
//! boundary: which spellings it knows is in `forms`.
//!
//! The library that searches holds the first four bytes of each form, and cannot be told to wipe them. The forms themselves are wiped
//! when they are dropped: at the first request that anybody sends after their secret has ended, or with the client. They are not in
//! locked memory, as there may be 100 KiB of them.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use aho_corasick::{AhoCorasick, Input, MatchKind};
use bytes::{Bytes, BytesMut};
use claviger_core::Secret;

use crate::forms::{Form, forms};

/// So many bytes of a form are the library's to find; whether the rest follows is looked at here.
const PREFIX: usize = 4;

/// At most this many sets of forms are kept for later requests with the same secrets.
const MAX_KEPT: usize = 32;

/// A secret was found. Says neither which, nor in which form, nor where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Found;

/// What is looked for: every form of some secrets.
pub(crate) struct Watched {
    // Invariant: finds the first bytes of every form; none if there is nothing to look for.
    finder: Option<AhoCorasick>,
    forms: Vec<Form>,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watched")
    }
}

impl Watched {
    /// Every form of these secrets.
    pub(crate) fn new(secrets: &[Arc<Secret>]) -> Result<Self, Found> {
        let forms: Vec<Form> = secrets.iter().flat_map(|secret| forms(secret.expose())).collect();
        let mut prefixes: Vec<&[u8]> = forms
            .iter()
            .map(|form| form.get(..PREFIX).unwrap_or(form))
            .collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        let finder = if prefixes.is_empty() {
            None
        } else {
            // Too many patterns for the library: what cannot be looked for must not come back.
            let built = AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostFirst)
                .build(prefixes);
            Some(built.map_err(|_| Found)?)
        };
        Ok(Self { finder, forms })
    }

    /// Looks through one whole text.
    pub(crate) fn check(&self, text: &[u8]) -> Result<(), Found> {
        self.look(text).map(|_| ())
    }

    /// Looks through `text` and says from where on it may be the beginning of a form.
    fn look(&self, text: &[u8]) -> Result<usize, Found> {
        let Some(finder) = &self.finder else {
            return Ok(text.len());
        };
        let mut open = text.len();
        let mut from = 0;
        while let Some(hit) = finder.find(Input::new(text).range(from..)) {
            open = open.min(self.at(text, hit.start())?);
            from = hit.start() + 1;
        }
        // Where less is left than the finder wants.
        for start in text.len().saturating_sub(PREFIX - 1)..text.len() {
            open = open.min(self.at(text, start)?);
        }
        Ok(open)
    }

    /// Whether a form stands here, or its beginning up to the end of the text: then it says here, and else the end.
    fn at(&self, text: &[u8], start: usize) -> Result<usize, Found> {
        let rest = text.get(start..).unwrap_or_default();
        let mut open = text.len();
        for form in &self.forms {
            if rest.starts_with(form) {
                return Err(Found);
            }
            if form.starts_with(rest) {
                open = start;
            }
        }
        Ok(open)
    }
}

/// Looks through one stream.
pub struct Scrubber {
    watched: Arc<Watched>,
    // Invariant: the beginning of a form, or empty.
    held: BytesMut,
    // Invariant: never false again.
    tripped: bool,
}

impl fmt::Debug for Scrubber {
    /// Without what is held back, which may be most of a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrubber")
            .field("tripped", &self.tripped)
            .finish_non_exhaustive()
    }
}

impl Scrubber {
    /// Looks for these secrets.
    ///
    /// # Errors
    /// When there are more secrets than can be looked for.
    pub fn new(secrets: &[Arc<Secret>]) -> Result<Self, Found> {
        Ok(Self::of(Arc::new(Watched::new(secrets)?)))
    }

    pub(crate) fn of(watched: Arc<Watched>) -> Self {
        Self {
            watched,
            held: BytesMut::new(),
            tripped: false,
        }
    }

    /// Takes the next piece and gives what may be released: all but a tail that may be the beginning of a secret, which follows with
    /// the next piece or with [`Scrubber::finish`]. Whether a secret is found does not depend on where pieces begin and end.
    ///
    /// # Errors
    /// When a secret ends in this piece, and ever after. Nothing of it was released.
    pub fn scan(&mut self, piece: Bytes) -> Result<Bytes, Found> {
        if self.tripped {
            return Err(Found);
        }
        let mut text = if self.held.is_empty() {
            piece
        } else {
            self.held.extend_from_slice(&piece);
            self.held.split().freeze()
        };
        match self.watched.look(&text) {
            Ok(open) => {
                self.held.extend_from_slice(&text.split_off(open));
                Ok(text)
            }
            Err(Found) => {
                self.tripped = true;
                Err(Found)
            }
        }
    }

    /// What was held back, once nothing more comes.
    ///
    /// # Errors
    /// When a secret was found before.
    pub fn finish(&mut self) -> Result<Bytes, Found> {
        if self.tripped {
            return Err(Found);
        }
        Ok(self.held.split().freeze())
    }
}

/// Forms that were made before, for as long as the secrets live.
#[derive(Debug, Default)]
pub(crate) struct Kept(Mutex<Vec<Made>>);

/// Of which secrets, and what was made of them.
type Made = (Vec<Weak<Secret>>, Arc<Watched>);

impl Kept {
    /// The forms of these secrets; those of secrets that ended are forgotten.
    pub(crate) fn watched(&self, secrets: &[Arc<Secret>]) -> Result<Arc<Watched>, Found> {
        let same = |kept: &[Weak<Secret>]| {
            // A weak reference keeps its place from being used again, so that equal places are equal secrets.
            kept.len() == secrets.len()
                && kept
                    .iter()
                    .zip(secrets)
                    .all(|(kept, secret)| std::ptr::eq(kept.as_ptr(), Arc::as_ptr(secret)))
        };
        {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|(kept, _)| kept.iter().all(|secret| secret.strong_count() > 0));
            if let Some((_, watched)) = all.iter().find(|(kept, _)| same(kept)) {
                return Ok(Arc::clone(watched));
            }
        }
        let watched = Arc::new(Watched::new(secrets)?);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_KEPT {
            all.remove(0);
        }
        all.push((secrets.iter().map(Arc::downgrade).collect(), Arc::clone(&watched)));
        Ok(watched)
    }
}

#[cfg(test)]
mod tests;
