use ct_merkle::mem_backed_tree::MemoryBackedTree;
use proptest::prelude::*;

use super::*;

/// The definition of RFC 9162, section 2.1.1, word by word.
fn by_definition(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty_root(),
        [one] => *one,
        many => {
            let half = many.len().next_power_of_two() / 2;
            node_hash(&by_definition(&many[..half]), &by_definition(&many[half..]))
        }
    }
}

fn leaves(count: u64) -> Vec<Hash> {
    (0..count).map(|number| leaf_hash(&number.to_be_bytes())).collect()
}

#[test]
fn published_vectors() {
    // The inputs that implementations of certificate transparency share, and their roots for each size.
    let inputs: [&[u8]; 8] = [
        b"",
        b"\x00",
        b"\x10",
        b"\x20\x21",
        b"\x30\x31",
        b"\x40\x41\x42\x43",
        b"\x50\x51\x52\x53\x54\x55\x56\x57",
        b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
    ];
    let roots = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    assert_eq!(to_hex(&empty_root()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    let mut tree = Frontier::new();
    for (input, root) in inputs.iter().zip(roots) {
        tree.push(leaf_hash(input));
        assert_eq!(to_hex(&tree.root()), root);
    }
}

#[test]
fn another_implementation_has_the_same_roots() {
    let mut theirs = MemoryBackedTree::<Sha256, Vec<u8>>::new();
    let mut ours = Frontier::new();
    let mut growth = Growth::default();
    for number in 0..700_u64 {
        theirs.push(number.to_be_bytes().to_vec());
        ours.push(leaf_hash(&number.to_be_bytes()));
        growth.push(leaf_hash(&number.to_be_bytes()));
        assert_eq!(ours.root().as_slice(), theirs.root().as_bytes().as_slice(), "{number}");
        assert_eq!(growth.root(), ours.root(), "{number}");
    }
}

#[test]
fn whole_tiles_count_as_their_entries() {
    let leaves = leaves(1_000);
    let mut tree = Frontier::new();
    for tile in leaves.chunks(256) {
        if tile.len() == 256 {
            assert!(tree.push_tile(root_of(tile).unwrap()));
        } else {
            tile.iter().for_each(|leaf| tree.push(*leaf));
        }
    }
    assert_eq!((tree.size(), tree.root()), (1_000, by_definition(&leaves)));
    assert!(!tree.push_tile(empty_root()), "the edge is not at a tile");
}

#[test]
fn hexadecimal_has_one_form() {
    let bytes = leaf_hash(b"x");
    assert_eq!(read_hex(to_hex(&bytes).as_bytes()), Some(bytes));
    assert_eq!(read_hex(to_hex(&bytes).to_uppercase().as_bytes()), None);
    assert_eq!(read_hex(&to_hex(&bytes).as_bytes()[1..]), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn growing_in_any_steps_gives_the_same_tiles(steps in proptest::collection::vec(1_u64..700, 1..6)) {
        let mut kept = std::collections::BTreeMap::new();
        let mut size = 0;
        for step in steps {
            let read = |level, index| Ok::<_, ()>(kept.get(&(level, index)).cloned().unwrap_or_default());
            let mut growth = Growth::resume(size, read).unwrap().unwrap();
            leaves(size + step).iter().skip(size as usize).for_each(|leaf| growth.push(*leaf));
            size += step;
            prop_assert_eq!(growth.root(), by_definition(&leaves(size)));
            for tile in growth.take_tiles() {
                kept.insert((tile.level, tile.index), tile.hashes);
            }
        }
        let all = leaves(size);
        for (index, tile) in all.chunks(256).enumerate() {
            prop_assert_eq!(&kept[&(0, index as u64)], tile);
        }
        let above: Vec<Hash> = all.chunks_exact(256).map(by_definition).collect();
        for (index, tile) in above.chunks(256).enumerate() {
            prop_assert_eq!(&kept[&(1, index as u64)], tile);
        }
    }
}
