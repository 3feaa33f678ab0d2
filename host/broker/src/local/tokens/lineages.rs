//! Which versions of a refresh token are one credential: those that the server made of the one that an operator set. What was obtained
//! with one of them is as good under the next. In memory only, as the tokens are.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use claviger_core::audit::SecretRef;
use claviger_core::{KeyVersion, SecretName};

/// The newest lineage of each refresh token that was rotated here.
#[derive(Default)]
pub(super) struct Lineages(Mutex<HashMap<SecretName, Lineage>>);

/// Versions without a gap: a replacement by an operator is in none.
#[derive(Debug, Clone, Copy)]
struct Lineage {
    first: KeyVersion,
    last: KeyVersion,
}

impl Lineages {
    /// The server made the one of the other.
    pub(super) fn rotated(&self, from: &SecretRef, to: &SecretRef) {
        let mut lineages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lineage = lineages.entry(to.name.clone()).or_insert(Lineage {
            first: from.version,
            last: from.version,
        });
        if lineage.last != from.version {
            lineage.first = from.version;
        }
        lineage.last = to.version;
    }

    /// These secrets, each as the version that its lineage began with.
    pub(super) fn origins(&self, mut secrets: Vec<SecretRef>) -> Vec<SecretRef> {
        let lineages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for secret in &mut secrets {
            if let Some(lineage) = lineages.get(&secret.name)
                && (lineage.first..=lineage.last).contains(&secret.version)
            {
                secret.version = lineage.first;
            }
        }
        secrets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_operator_sets_begins_a_lineage() {
        let version = |version| SecretRef {
            name: "refresh".parse().unwrap(),
            version: KeyVersion(version),
        };
        let lineages = Lineages::default();
        let origin = |of| lineages.origins(vec![version(of)])[0].version.0;
        assert_eq!(origin(4), 4);
        lineages.rotated(&version(4), &version(5));
        lineages.rotated(&version(5), &version(6));
        assert_eq!([3, 4, 5, 6, 7].map(origin), [3, 4, 4, 4, 7]);
        // 7 is an operator's.
        lineages.rotated(&version(7), &version(8));
        assert_eq!([6, 7, 8, 9].map(origin), [6, 7, 7, 9]);
    }
}
