//! Maps and sets whose keys are structures and the like.

use std::collections::{BTreeSet, HashSet};
use std::hash::Hash;
use std::ops::RangeInclusive;

use super::*;

#[derive(
    Archive,
    Serialize,
    serde::Serialize,
    Message,
    Clone,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
)]
#[rkyv(derive(PartialEq, Eq, PartialOrd, Ord, Hash))]
struct Cell {
    x: i16,
    y: i16,
    layer: Layer,
    name: String,
}

#[derive(
    Archive,
    Serialize,
    serde::Serialize,
    Message,
    Clone,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
)]
#[rkyv(derive(PartialEq, Eq, PartialOrd, Ord, Hash))]
enum Layer {
    Ground,
    Above(Option<u32>),
    Named { deep: Box<str> },
}

#[derive(
    Archive,
    Serialize,
    serde::Serialize,
    Message,
    Clone,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
)]
#[rkyv(derive(PartialEq, Eq, PartialOrd, Ord, Hash))]
enum Only {
    One(bool, char),
}

#[derive(
    Archive,
    Serialize,
    serde::Serialize,
    Message,
    Clone,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
)]
#[rkyv(derive(PartialEq, Eq, PartialOrd, Ord, Hash))]
enum Grade {
    Low = 3,
    High = 200,
}

/// Every kind of key of which the hash is known.
type Wide = (
    (Cell, Only, Grade, ()),
    ([u8; 3], [i64; 2], Vec<(u8, String)>),
    (u128, i128, isize, NonZeroU16),
    (Duration, Option<bool>, [Option<u32>; 2]),
);

fn cell(number: i16) -> Cell {
    Cell {
        x: number.wrapping_mul(7_919),
        y: -number,
        layer: match number % 3 {
            0 => Layer::Ground,
            1 => Layer::Above((number % 2 == 0).then_some(u32::MAX)),
            _ => Layer::Named {
                deep: format!("a longer text {number}").into(),
            },
        },
        name: format!("{number}"),
    }
}

fn wide(number: i16) -> Wide {
    let large = i64::from(number) << 40;
    let small = number.to_le_bytes()[0];
    (
        (
            cell(number),
            Only::One(number > 0, 'x'),
            [Grade::High, Grade::Low][usize::from(number % 2 == 0)].clone(),
            (),
        ),
        (
            [small; 3],
            [large, -large],
            vec![(small, "a longer text".into())],
        ),
        (
            u128::from(u64::MAX - u64::from(small)),
            -i128::from(large),
            -5,
            NonZeroU16::MAX,
        ),
        (Duration::new(7, 9), Some(true), [None, Some(5)]),
    )
}

/// Pairs as JSON has them.
fn pairs<K: serde::Serialize, V: serde::Serialize>(
    entries: impl IntoIterator<Item = (K, V)>,
) -> String {
    let pairs: Vec<_> = entries.into_iter().collect();
    serde_json::to_string(&pairs).unwrap()
}

#[test]
fn trees_with_keys_of_any_kind_are_those_of_rkyv() {
    for len in [0, 1, 2, 5, 6, 35, 36, 100] {
        let map: BTreeMap<Cell, u16> = (0..len).map(|n| (cell(n), n.cast_unsigned())).collect();
        let set: BTreeSet<Wide> = (0..len).map(wide).collect();
        let (reader, mut writer) = tools::<(BTreeMap<Cell, u16>, BTreeSet<Wide>)>();
        let json = format!("[{},{}]", pairs(&map), serde_json::to_string(&set).unwrap());
        let archive = archive_of(&(map, set));
        assert_eq!(reader.json_text(&archive).unwrap(), json);
        assert_eq!(writer.write(&json).unwrap(), &archive[..], "{len}");
    }
}

#[test]
fn trees_are_in_the_order_of_rust() {
    let text = |text: &str| text.to_owned();
    let texts = [
        text(""),
        text("a"),
        text("a\0"),
        text("a\0b"),
        text("aa"),
        text("b"),
    ];
    let lists: Vec<Vec<i16>> = vec![vec![], vec![-1], vec![-1, 0], vec![0, -7], vec![3]];
    let all: BTreeSet<(String, Vec<i16>)> = texts
        .iter()
        .flat_map(|text| lists.iter().map(|list| (text.clone(), list.clone())))
        .collect();
    let mut listed: Vec<_> = all.iter().collect();
    listed.reverse();
    let (_, mut writer) = tools::<BTreeSet<(String, Vec<i16>)>>();
    let written = writer
        .write(&serde_json::to_string(&listed).unwrap())
        .unwrap();
    assert_eq!(written, &archive_of(&all)[..]);
}

/// A table of one entry has it where rkyv has it; of many each is found.
#[test]
fn tables_with_keys_of_any_kind_are_those_of_rkyv() {
    let one = HashMap::from([(wide(77), 1_u8)]);
    let (reader, mut writer) = tools::<HashMap<Wide, u8>>();
    let json = pairs(&one);
    let archive = archive_of(&one);
    assert_eq!(reader.json_text(&archive).unwrap(), json);
    assert_eq!(writer.write(&json).unwrap(), &archive[..]);
    for len in [2, 15, 100] {
        let map: HashMap<Cell, i16> = (0..len).map(|n| (cell(n), n)).collect();
        let set: HashSet<Cell> = map.keys().cloned().collect();
        let (_, mut writer) = tools::<(HashMap<Cell, i16>, HashSet<Cell>)>();
        let json = format!("[{},{}]", pairs(&map), serde_json::to_string(&set).unwrap());
        let mut aligned = AlignedVec::<16>::new();
        aligned.extend_from_slice(writer.write(&json).unwrap());
        type Both = (HashMap<Cell, i16>, HashSet<Cell>);
        let archived = access::<Archived<Both>>(&aligned).unwrap();
        for number in 0..len {
            let key = archive_of(&cell(number));
            let key = access::<Archived<Cell>>(&key).unwrap();
            assert_eq!(archived.0.get(key).unwrap().to_native(), number);
            assert!(archived.1.contains(key));
        }
        assert_eq!(
            archived.0.len() + archived.1.len(),
            2 * usize::try_from(len).unwrap()
        );
    }
}

proptest! {
    /// The hash of a key says where it lies, so a wrong one lies elsewhere among many places.
    #[test]
    fn hashes_are_those_of_rust(number in any::<i16>(), text in ".{0,20}", count in 0_u8..4) {
        type Key = (i16, String, [u16; 2], Vec<bool>, Option<Box<str>>);
        fn check<K: Archivable + serde::Serialize + Hash + Eq>(key: K)
        where
            HashMap<K, ()>: Archivable,
            Archived<HashMap<K, ()>>: Portable,
        {
            let map = HashMap::from([(key, ())]);
            let (_, mut writer) = tools::<HashMap<K, ()>>();
            assert_eq!(writer.write(&pairs(&map)).unwrap(), &archive_of(&map)[..]);
        }
        let list = (0..count).map(|n| n % 2 == 0).collect();
        let key: Key = (number, text.clone(), [1, number.cast_unsigned()], list, Some(text.into()));
        check(key);
    }
}

#[test]
fn a_map_has_no_key_twice_and_pairs_alone() {
    let (_, mut writer) = tools::<(BTreeMap<(u8, u8), String>, u8)>();
    for (json, expected) in [
        (
            r#"[[[[1,2],"a"],[[1,2],"b"]],0]"#,
            "[0][1][0]: expected a key that is not there before",
        ),
        (r#"[[[[1,300],"a"]],0]"#, "[0][0][0]: expected (u8, u8)"),
        (r#"[[[[1,2],7]],0]"#, "[0][0][1]: expected a text, found 7"),
        (
            r#"[[[[1,2]]],0]"#,
            "[0][0]: expected an array of a key and a value",
        ),
        (r#"[{},0]"#, "[0]: expected an array of keys with values"),
    ] {
        let error = writer.write(json).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[derive(Archive, Serialize, Message, PartialEq, Eq, Hash)]
#[rkyv(derive(PartialEq, Eq, Hash))]
struct Listed(Vec<u16>, u8);

#[derive(Archive, Serialize, Message, PartialEq, Eq, Hash)]
#[rkyv(derive(PartialEq, Eq, Hash))]
struct Native([usize; 2], u8);

#[derive(Archive, Serialize, Message, PartialEq, Eq, Hash)]
#[rkyv(derive(PartialEq, Eq, Hash))]
struct Ranged(RangeInclusive<u8>, u8);

#[test]
fn keys_whose_hashes_cannot_be_known_are_read_and_not_written() {
    fn check<K: Archivable + Hash + Eq>(key: K, expected: &str)
    where
        HashMap<K, bool>: Archivable,
        Archived<HashMap<K, bool>>: Portable,
    {
        let (reader, mut writer) = tools::<HashMap<K, bool>>();
        let archive = archive_of(&HashMap::from([(key, true)]));
        assert_eq!(reader.json_text(&archive).unwrap(), expected);
        let refused = writer.write(expected).unwrap_err().to_string();
        let why = "keys of this type cannot be written";
        assert!(refused.contains(why), "{refused}");
    }
    check(Listed(vec![1, 2], 3), "[[[[1,2],3],true]]");
    check(Native([1, 2], 3), "[[[[1,2],3],true]]");
    check(Ranged(1..=2, 3), r#"[[[{"start":1,"end":2},3],true]]"#);
}

#[test]
fn a_json_schema_tells_maps_of_such_keys_as_arrays_of_pairs() {
    let schema = Schema::of::<BTreeMap<Cell, u16>>().unwrap().json_schema();
    let found: serde_json::Value = serde_json::from_str(&schema).unwrap();
    let pair = &found["items"];
    assert_eq!(
        (&found["type"], &pair["type"]),
        (&"array".into(), &"array".into())
    );
    assert_eq!(
        (&pair["minItems"], &pair["maxItems"]),
        (&2.into(), &2.into())
    );
    assert_eq!(pair["prefixItems"][0]["type"], "object");
    assert_eq!(pair["prefixItems"][1]["type"], "integer");
}
