//! Sets and trees.

use std::collections::{BTreeSet, HashSet};

use super::*;

#[derive(Archive, Serialize, serde::Serialize, Message)]
struct Ordered {
    texts: BTreeMap<String, Vec<u16>>,
    signed: BTreeMap<i16, String>,
    wide: BTreeMap<u64, u8>,
    keys: BTreeSet<String>,
    numbers: BTreeSet<i64>,
    chars: BTreeSet<char>,
    truths: BTreeMap<bool, ()>,
    small: BTreeMap<u8, BTreeSet<u8>>,
}

#[test]
fn trees_are_those_of_rkyv_whatever_their_size() {
    let sizes = (0..48).chain([71, 72, 215, 216, 217, 300, 1295, 1296, 1300]);
    for len in sizes {
        let keys = || (0..len).map(|n: u16| n.wrapping_mul(40_503));
        check_both(&Ordered {
            texts: keys().map(|n| (format!("{n} key"), vec![n; 3])).collect(),
            signed: keys()
                .map(|n| (n.cast_signed(), format!("a longer text {n}")))
                .collect(),
            wide: keys().map(|n| (u64::from(n) << 40, 7)).collect(),
            keys: keys()
                .map(|n| format!("a key that is not in place {n}"))
                .collect(),
            numbers: keys().map(|n| i64::from(n) - 30_000).collect(),
            chars: keys().filter_map(|n| char::from_u32(n.into())).collect(),
            truths: keys().take(2).map(|n| (n == 0, ())).collect(),
            small: [(1, BTreeSet::new()), (0, BTreeSet::from([2, 1]))].into(),
        });
    }
}

#[test]
fn sets_are_found_by_rkyv_whatever_their_size() {
    for len in [0_u16, 1, 6, 7, 8, 15, 16, 17, 40, 300] {
        let texts: HashSet<String> = (0..len).map(|n| format!("item {n}")).collect();
        let numbers: HashSet<i16> = (0..len).map(|n| -n.cast_signed()).collect();
        let sets = (texts, numbers);
        let (reader, mut writer) = tools::<(HashSet<String>, HashSet<i16>)>();
        let json = reader.json_text(&archive_of(&sets)).unwrap();
        let (texts, numbers): (HashSet<String>, HashSet<i16>) =
            serde_json::from_str(&json).unwrap();
        assert_eq!((texts, numbers), sets);

        let mut aligned = AlignedVec::<16>::new();
        aligned.extend_from_slice(writer.write(&json).unwrap());
        let archived = access::<Archived<(HashSet<String>, HashSet<i16>)>>(&aligned).unwrap();
        assert_eq!(archived.0.len(), usize::from(len));
        assert!(sets.0.iter().all(|text| archived.0.contains(text.as_str())));
        let found = |n: &i16| archived.1.contains(&Archived::<i16>::from(*n));
        assert!(sets.1.iter().all(found));
    }
}

#[test]
fn a_set_has_no_item_twice_and_none_of_another_type() {
    let (_, mut writer) = tools::<(HashSet<u8>, BTreeSet<String>)>();
    for (json, expected) in [
        (
            r"[[1,2,1],[]]",
            "[0][2]: expected an item that is not there before, found 1",
        ),
        (
            r#"[[],["a","a"]]"#,
            "[1][1]: expected an item that is not there before",
        ),
        (r#"[["1"],[]]"#, "expected u8, found \"1\""),
        (r"[[],[1]]", "[1][0]: expected String, found 1"),
        (r"[[300],[]]", "[0][0]: expected u8, found 300"),
        (r"[{},[]]", "[0]: expected an array"),
    ] {
        let error = writer.write(json).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn entries_of_trees_are_found_by_their_keys() {
    let tree: BTreeMap<String, u16> = (0..100).map(|n| (format!("key{n}"), n)).collect();
    let (reader, _) = tools::<BTreeMap<String, u16>>();
    let archive = archive_of(&tree);
    let found = reader.read(&archive).unwrap();
    assert_eq!(found.at("key77").unwrap().as_f64(), Some(77.0));
    let error = found.at("other").unwrap_err().to_string();
    assert!(error.contains("no such entry"), "{error}");
}

proptest! {
    /// Whatever was changed in a tree: what rkyv takes is read.
    #[test]
    fn whatever_rkyv_takes_for_collections_is_read(
        keys in prop::collection::btree_set(any::<u8>(), 0..60),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        type Tree = (BTreeMap<u8, u16>, BTreeSet<u8>, HashSet<u8>, Arc<[u8]>);
        let list: Vec<u8> = keys.iter().copied().collect();
        let map = keys.iter().map(|key| (*key, 1)).collect();
        let value: Tree = (map, keys, list.iter().copied().collect(), list.into());
        let mut archive = archive_of(&value);
        for (at, byte) in changes {
            let at = at.index(archive.len());
            archive[at] = byte;
        }
        let read = tools::<Tree>().0.json_text(&archive);
        if access::<Archived<Tree>>(&archive).is_ok() {
            prop_assert!(read.is_ok(), "{read:?}");
        }
    }
}

#[test]
fn trees_that_are_none_are_refused() {
    type Tree = BTreeMap<u8, u8>;
    let refused = |node: &[u8], root: i32, len: u32| {
        let archive = [node, &root.to_le_bytes(), &len.to_le_bytes()].concat();
        tools::<Tree>()
            .0
            .json_text(&archive)
            .map_err(|error| error.to_string())
    };
    let leaf = |kind: u8, len: u8| [kind, 3, 9, 0, 0, 0, 1, 2, 0, 0, 0, 0, len, 0, 0, 0];
    assert_eq!(refused(&leaf(0, 2), -16, 2).unwrap(), r#"{"3":1,"9":2}"#);
    // All pointers of an inner node lead to itself, or nowhere.
    let inner = |first: i32| {
        let pointers = [first, 1, 1, 1, 1, 1].map(i32::to_le_bytes).concat();
        [&[1][..], &[0; 11], &pointers].concat()
    };
    let all_keys = r#"{"0":0,"0":0,"0":0,"0":0,"0":0}"#;
    assert_eq!(refused(&inner(1), -36, 5).unwrap(), all_keys);
    for (found, expected) in [
        (refused(&leaf(0, 2), -16, 3), "miscounts"),
        (refused(&leaf(0, 2), -16, 1), "miscounts"),
        (refused(&leaf(0, 6), -16, 6), "more than it has room for"),
        (
            refused(&leaf(2, 2), -16, 2),
            "a node of a tree that is none",
        ),
        (refused(&leaf(1, 2), -16, 5), "not there"),
        (refused(&leaf(0, 2), -15, 2), "none"),
        (refused(&leaf(0, 2), -17, 2), "not there"),
        (
            refused(&leaf(0, 2), -16, u32::MAX),
            "more than there is room for",
        ),
        (refused(&inner(-12), -36, 20), "too high"),
    ] {
        let error = found.unwrap_err();
        assert!(error.contains(expected), "{error}, expected {expected}");
    }
}
