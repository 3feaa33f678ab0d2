//! The right edge of the Merkle tree in memory: enough to append, to know the root, and to cut tiles. Not a store: whole tiles are
//! handed out and forgotten. The maths is `tlog_tiles`'; this file holds hashes.

use tlog_tiles::{EMPTY_HASH, Error, HASH_SIZE, Hash, HashReader, Tile, split_stored_hash_index, tree_hash};

/// The height of tiles in C2SP tlog-tiles: 2⁸ hashes.
pub(super) const HEIGHT: u8 = 8;

/// Hashes in a full tile, and entries in a full bundle.
pub(super) const FULL: u64 = 1 << HEIGHT;

/// A full tile of hashes.
#[derive(Debug, Clone)]
pub(super) struct FullTile {
    /// Tree level divided by [`HEIGHT`].
    pub(super) level: u8,
    /// Position within its level.
    pub(super) n: u64,
    /// 256 hashes.
    pub(super) data: Vec<u8>,
}

impl FullTile {
    /// How many entries the tree has when this tile is full.
    pub(super) fn end(&self) -> u64 {
        (self.n + 1) << (u32::from(HEIGHT) * (u32::from(self.level) + 1))
    }
}

/// The incomplete tiles of each level.
#[derive(Debug, Clone, Default)]
pub(super) struct Edge {
    // Invariant: each has under 256 hashes; `levels[l].len()` is digit `l` of `size` in base 256.
    levels: Vec<Vec<Hash>>,
    size: u64,
}

impl Edge {
    /// How many leaves the tree has.
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// The incomplete tiles, level by level; empty where a level ends with a full one.
    pub(super) fn partial(&self) -> impl Iterator<Item = (u8, &[Hash])> {
        (0_u8..).zip(self.levels.iter().map(Vec::as_slice))
    }

    /// Appends a leaf and hands out the tiles that it filled, lowest level first.
    pub(super) fn push(&mut self, leaf: Hash, mut full: impl FnMut(FullTile)) {
        self.size += 1;
        let mut carry = leaf;
        for level in 0_u8.. {
            let index = usize::from(level);
            if self.levels.len() <= index {
                self.levels.push(Vec::with_capacity(256));
            }
            let Some(hashes) = self.levels.get_mut(index) else {
                return;
            };
            hashes.push(carry);
            if (hashes.len() as u64) < FULL {
                return;
            }
            let data = flat(hashes);
            hashes.clear();
            carry = Tile::subtree_hash(&data);
            full(FullTile {
                level,
                n: (self.size >> (u32::from(HEIGHT) * (u32::from(level) + 1))) - 1,
                data,
            });
        }
    }

    /// The root of the tree (RFC 6962 §2.1).
    ///
    /// # Errors
    /// Never, unless a hash is missing from the edge.
    pub(super) fn root(&self) -> Result<Hash, Error> {
        if self.size == 0 {
            return Ok(EMPTY_HASH);
        }
        tree_hash(self.size, self)
    }
}

impl HashReader for Edge {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, Error> {
        indexes
            .iter()
            .map(|index| {
                let (level, n) = split_stored_hash_index(*index);
                let (tile_level, within) = (level / HEIGHT, level % HEIGHT);
                let hashes = self
                    .levels
                    .get(usize::from(tile_level))
                    .ok_or(Error::IndexesNotInTree)?;
                let first = (self.size >> (u32::from(HEIGHT) * u32::from(tile_level))) & !(FULL - 1);
                let start = (n << within).checked_sub(first).ok_or(Error::IndexesNotInTree)?;
                let start = usize::try_from(start).map_err(|_| Error::IndexesNotInTree)?;
                let subtree = hashes
                    .get(start..start + (1 << within))
                    .ok_or(Error::IndexesNotInTree)?;
                Ok(Tile::subtree_hash(&flat(subtree)))
            })
            .collect()
    }
}

/// Hashes as a tile's bytes.
pub(super) fn flat(hashes: &[Hash]) -> Vec<u8> {
    let mut data = Vec::with_capacity(hashes.len() * HASH_SIZE);
    for hash in hashes {
        data.extend_from_slice(&hash.0);
    }
    data
}

/// The path of a tile of hashes, `width` 256 for a full one (C2SP tlog-tiles). `tlog_tiles` writes the Go checksum
/// database's paths, which also name the height.
pub(super) fn tile_path(level: u8, n: u64, width: usize) -> String {
    format!("tile/{level}/{}", position(n, width))
}

/// The path of an entry bundle, `width` 256 for a full one.
pub(super) fn bundle_path(n: u64, width: usize) -> String {
    format!("tile/entries/{}", position(n, width))
}

fn position(n: u64, width: usize) -> String {
    let mut text = format!("{:03}", n % 1000);
    let mut rest = n / 1000;
    while rest > 0 {
        text = format!("x{:03}/{text}", rest % 1000);
        rest /= 1000;
    }
    if (width as u64) < FULL {
        text = format!("{text}.p/{width}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest as _, Sha256};
    use tlog_tiles::record_hash;

    /// RFC 6962 §2.1, word for word: MTH({}) = SHA-256(), MTH({d}) = SHA-256(0x00 || d), MTH(D[n]) splits at the largest power of
    /// two below n.
    fn independent_root(leaves: &[[u8; 32]]) -> [u8; 32] {
        match leaves.len() {
            0 => Sha256::digest([]).into(),
            1 => leaves[0],
            n => {
                let k = 1 << (usize::BITS - 1 - (n - 1).leading_zeros());
                let mut hasher = Sha256::new();
                hasher.update([1]);
                hasher.update(independent_root(&leaves[..k]));
                hasher.update(independent_root(&leaves[k..]));
                hasher.finalize().into()
            }
        }
    }

    #[test]
    fn the_root_is_what_rfc_6962_says_at_every_size() {
        let mut edge = Edge::default();
        let mut leaves = Vec::new();
        let mut tiles = 0;
        assert_eq!(edge.root().unwrap().0, independent_root(&leaves));
        for n in 0..70_000_u32 {
            let leaf = record_hash(&n.to_be_bytes());
            leaves.push(leaf.0);
            edge.push(leaf, |_| tiles += 1);
            if n < 600 || n % 20_011 == 0 || (65_534..65_538).contains(&n) {
                assert_eq!(
                    edge.root().unwrap().0,
                    independent_root(&leaves),
                    "size {}",
                    n + 1
                );
            }
        }
        assert_eq!(tiles, 70_000 / 256 + 1);
    }

    #[test]
    fn paths_are_those_of_c2sp_tlog_tiles() {
        assert_eq!(tile_path(0, 0, 256), "tile/0/000");
        assert_eq!(tile_path(1, 1_234_067, 5), "tile/1/x001/x234/067.p/5");
        assert_eq!(bundle_path(1000, 256), "tile/entries/x001/000");
    }
}
