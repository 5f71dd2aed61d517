use ct_merkle::mem_backed_tree::MemoryBackedTree;
use ct_merkle::{ConsistencyProof as TheirConsistency, InclusionProof as TheirInclusion, RootHash};
use proptest::prelude::*;
use sha2::Sha256;

use super::*;
use crate::ledger::tree::{Frontier, Growth};

/// Tiles in memory.
#[derive(Default)]
struct Kept(BTreeMap<(u8, u64), Vec<Hash>>);

impl TileSource for &Kept {
    type Error = std::convert::Infallible;

    fn tile(&mut self, level: u8, index: u64) -> Result<Vec<Hash>, Self::Error> {
        Ok(self.0.get(&(level, index)).cloned().unwrap_or_default())
    }
}

fn data(number: u64) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

fn grow(size: u64) -> Kept {
    let mut growth = Growth::default();
    (0..size).for_each(|number| growth.push(leaf_hash(&data(number))));
    Kept(growth.take_tiles().into_iter().map(|tile| ((tile.level, tile.index), tile.hashes)).collect())
}

fn root_at(size: u64) -> Hash {
    let mut tree = Frontier::new();
    (0..size).for_each(|number| tree.push(leaf_hash(&data(number))));
    tree.root()
}

fn theirs(size: u64) -> MemoryBackedTree<Sha256, Vec<u8>> {
    let mut tree = MemoryBackedTree::new();
    (0..size).for_each(|number| tree.push(data(number)));
    tree
}

#[test]
fn another_implementation_makes_the_same_proofs() {
    for size in [1_u64, 2, 3, 7, 8, 255, 256, 257, 600] {
        let (tiles, other) = (grow(size), theirs(size));
        assert_eq!(root(&tiles, size).unwrap(), root_at(size));
        for index in [0, 1, size / 3, size / 2, size - 1].into_iter().filter(|index| *index < size) {
            let ours = inclusion(&tiles, index, size).unwrap();
            assert_eq!(ours.as_flattened(), other.prove_inclusion(index as usize).as_bytes());
            let theirs = TheirInclusion::<Sha256>::from_bytes(ours.as_flattened().to_vec());
            other.root().verify_inclusion(&data(index), index, &theirs).unwrap();
        }
        for old in [1, size / 3, size / 2, size - 1].into_iter().filter(|old| (1..size).contains(old)) {
            let ours = consistency(&tiles, old, size).unwrap();
            let proof = TheirConsistency::<Sha256>::try_from_bytes(ours.as_flattened().to_vec()).unwrap();
            let old_root = RootHash::<Sha256>::new(root_at(old).into(), old);
            other.root().verify_consistency(&old_root, &proof).unwrap();
        }
    }
}

#[test]
fn every_proof_of_small_trees_holds_and_no_other() {
    for size in 0..=40_u64 {
        let tiles = grow(size);
        let root = root_at(size);
        for index in 0..size {
            let path = inclusion(&tiles, index, size).unwrap();
            let leaf = leaf_hash(&data(index));
            assert!(verify_inclusion(&leaf, index, size, &path, &root));
            for other in (0..size + 2).filter(|other| *other != index) {
                assert!(!verify_inclusion(&leaf, other, size, &path, &root), "{index} as {other} of {size}");
            }
            let mut longer = path.clone();
            longer.push(leaf);
            assert!(!verify_inclusion(&leaf, index, size, &longer, &root));
            if let Some((_, shorter)) = path.split_last() {
                assert!(!verify_inclusion(&leaf, index, size, shorter, &root));
            }
        }
        for old in 0..=size {
            let path = consistency(&tiles, old, size).unwrap();
            assert!(verify_consistency(old, &root_at(old), size, &root, &path), "{old} of {size}");
            for other in (0..=size).filter(|other| *other != old) {
                assert!(
                    !verify_consistency(other, &root_at(old), size, &root, &path),
                    "{old} as {other} of {size}"
                );
            }
            if old > 0 {
                assert!(!verify_consistency(old, &root_at(old - 1), size, &root, &path));
            }
        }
        assert!(matches!(inclusion(&tiles, size, size), Err(ProofError::OutOfRange { .. })));
        assert!(matches!(consistency(&tiles, size + 1, size), Err(ProofError::OutOfRange { .. })));
    }
}

#[test]
fn a_missing_tile_is_no_proof() {
    let mut tiles = grow(600);
    tiles.0.remove(&(0, 1));
    assert_eq!(inclusion(&tiles, 300, 600), Err(ProofError::Missing { level: 0, index: 1 }));
    assert!(inclusion(&tiles, 3, 600).is_ok(), "the hash of a whole tile is kept above it");
}

#[test]
fn proofs_as_text() {
    let proof = InclusionProof { index: 7, path: vec![[1; 32], [2; 32]], checkpoint: "note\n".to_owned() };
    assert_eq!(InclusionProof::parse(&proof.to_text()).unwrap(), proof);
    let proof = ConsistencyProof { old: 7, path: vec![], checkpoint: "a\n\nb\n".to_owned() };
    assert_eq!(ConsistencyProof::parse(&proof.to_text()).unwrap(), proof);
    for text in ["", "old 07\n\nx", "old 7\nAA==\n\nx", "old 7\n", "old -1\n\nx"] {
        assert!(ConsistencyProof::parse(text).is_err(), "{text:?}");
    }
    assert!(InclusionProof::parse("c2sp.org/tlog-proof@v2\nindex 1\n\nx").is_err());
    let long = format!("old 7\n{}\nx", format!("{}\n", encode(&[0; 32])).repeat(64));
    assert_eq!(ConsistencyProof::parse(&long).unwrap_err().line, 65);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn proofs_of_large_trees_hold(size in 1_u64..3_000, index in 0_u64..3_000, old in 0_u64..3_000) {
        let (index, old) = (index % size, old % (size + 1));
        let tiles = grow(size);
        let root = root_at(size);
        let path = inclusion(&tiles, index, size).unwrap();
        prop_assert!(verify_inclusion(&leaf_hash(&data(index)), index, size, &path, &root));
        let path = consistency(&tiles, old, size).unwrap();
        prop_assert!(verify_consistency(old, &root_at(old), size, &root, &path));
        if let Some(first) = path.first() {
            let mut forged = path.clone();
            forged[0] = node_hash(first, first);
            prop_assert!(!verify_consistency(old, &root_at(old), size, &root, &forged));
        }
    }
}
