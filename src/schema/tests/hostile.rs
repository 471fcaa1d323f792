//! Schemas and archives of somebody who means no good.

use super::*;
use crate::limits::{ARCHIVE_DEPTH_MAX, SCHEMA_FIELDS_MAX, SCHEMA_TYPES_MAX};

fn ty(size: u32, align: u32, kind: Kind) -> Type {
    Type {
        name: String::new(),
        doc: String::new(),
        size,
        align,
        kind,
    }
}

fn scalar(scalar: Scalar) -> Type {
    ty(scalar.size(), scalar.size(), Kind::Scalar(scalar))
}

fn field(name: &str, ty: u32, offset: u32) -> Field {
    Field {
        name: name.into(),
        unit: String::new(),
        doc: String::new(),
        place: Place { ty, offset },
    }
}

fn of_fields(list: Vec<Field>) -> Kind {
    let shape = Shape::Named;
    Kind::Struct(Fields { shape, list })
}

fn parts(types: Vec<Type>) -> Parts {
    Parts {
        format: Format::DEFAULT,
        root: 0,
        types,
    }
}

fn refused(types: Vec<Type>) -> String {
    let bytes = rmp_serde::to_vec(&parts(types)).unwrap();
    Schema::decode(&bytes).unwrap_err().to_string()
}

fn schema(types: Vec<Type>) -> Arc<Schema> {
    let bytes = rmp_serde::to_vec(&parts(types)).unwrap();
    Arc::new(Schema::decode(&bytes).unwrap())
}

/// Types that refer to what is not there, or lie where they cannot.
fn misplaced() -> Vec<(Vec<Type>, &'static str)> {
    let byte = || scalar(Scalar::U8);
    let in_itself = of_fields(vec![field("a", 0, 0)]);
    vec![
        (vec![], "not in its table"),
        (
            vec![ty(1, 1, of_fields(vec![field("a", 1, 0)]))],
            "not in its table",
        ),
        (vec![ty(8, 4, Kind::List(9))], "not in its table"),
        (vec![ty(8, 4, in_itself)], "too deep"),
        (
            vec![ty(1, 1, of_fields(vec![field("a", 1, 1)])), byte()],
            "outside",
        ),
        (
            vec![ty(4, 4, of_fields(vec![field("a", 1, u32::MAX)])), byte()],
            "outside",
        ),
        (
            vec![
                ty(8, 4, of_fields(vec![field("a", 1, 2)])),
                scalar(Scalar::U32),
            ],
            "alignment forbids",
        ),
    ]
}

/// Types that are not what they are said to be.
fn misshaped() -> Vec<(Vec<Type>, &'static str)> {
    let byte = || scalar(Scalar::U8);
    let tag = |first: u8, second: u8| {
        let variant = |tag| Variant {
            name: "v".into(),
            doc: String::new(),
            tag,
            fields: Fields {
                shape: Shape::Unit,
                list: vec![],
            },
        };
        Kind::Enum(vec![variant(first), variant(second)])
    };
    let escape = of_fields(vec![field("\x1b]52;", 1, 0)]);
    vec![
        (
            vec![
                ty(2, 1, of_fields(vec![field("a", 1, 1), field("b", 1, 1)])),
                byte(),
            ],
            "on each other",
        ),
        (vec![ty(3, 2, Kind::Opaque)], "alignment"),
        (vec![ty(4, 3, Kind::Opaque)], "alignment"),
        (vec![ty(0, 0, Kind::Opaque)], "alignment"),
        (vec![ty(8, 8, Kind::Scalar(Scalar::U32))], "size"),
        (vec![ty(4, 4, Kind::NonZero(Scalar::F32))], "whole"),
        (vec![ty(8, 8, Kind::String)], "size"),
        (
            vec![ty(9, 1, Kind::Array { item: 1, len: 8 }), byte()],
            "as long as",
        ),
        (
            vec![
                ty(
                    0,
                    1,
                    Kind::Array {
                        item: 1,
                        len: u32::MAX,
                    },
                ),
                byte(),
            ],
            "outside",
        ),
        (
            vec![ty(1, 1, Kind::Option(Place { ty: 1, offset: 0 })), byte()],
            "tag",
        ),
        (vec![ty(0, 1, tag(0, 1))], "tag"),
        (vec![ty(1, 1, tag(7, 7))], "same tag"),
        (vec![ty(1, 1, escape), byte()], "control characters"),
        (vec![byte(); SCHEMA_TYPES_MAX + 1], "types of a schema"),
        (
            vec![
                ty(
                    1,
                    1,
                    of_fields(vec![field("", 1, 0); SCHEMA_FIELDS_MAX + 1]),
                ),
                byte(),
            ],
            "are",
        ),
    ]
}

/// Pointers and collections that are not what they are said to be.
fn misshaped_collections() -> Vec<(Vec<Type>, &'static str)> {
    let byte = || scalar(Scalar::U8);
    let [key, value] = [0, 1].map(|offset| Place { ty: 1, offset });
    let (size, align) = (2, 1);
    let entry = Entry {
        size,
        align,
        key,
        value,
    };
    vec![
        (vec![ty(1, 1, Kind::Shared(1)), byte()], "pointed to"),
        (vec![ty(4, 4, Kind::Shared(0))], "pointed to"),
        (vec![ty(8, 8, Kind::TreeSet(1)), byte()], "size"),
        (vec![ty(12, 4, Kind::Set(entry)), byte()], "no values"),
    ]
}

#[test]
fn schemas_that_do_not_hold_together_are_refused() {
    for (types, expected) in misplaced()
        .into_iter()
        .chain(misshaped())
        .chain(misshaped_collections())
    {
        let why = refused(types);
        assert!(why.contains(expected), "{why}, expected {expected}");
    }
}

#[test]
fn another_format_has_another_hash_and_is_not_read() {
    let format = Format {
        is_big_endian: true,
        ..Format::DEFAULT
    };
    let foreign = Parts {
        format,
        ..parts(vec![scalar(Scalar::U8)])
    };
    let foreign = Arc::new(Schema::new(foreign).unwrap());
    assert_ne!(foreign.hash(), schema(vec![scalar(Scalar::U8)]).hash());
    let error = Reader::new(Arc::clone(&foreign)).unwrap_err().to_string();
    assert!(error.contains("big endian"), "{error}");
    assert!(Writer::new(foreign).is_err());
}

#[test]
fn types_that_lie_too_deep_in_each_other_are_refused_and_others_can_be_shown() {
    let nested = |count: u32| {
        let wrap = |idx| ty(1, 1, of_fields(vec![field("x", idx + 1, 0)]));
        let mut types: Vec<_> = (0..count).map(wrap).collect();
        types.push(scalar(Scalar::U8));
        types
    };
    assert!(refused(nested(64)).contains("too deep"));
    let deep = schema(nested(63));
    assert!(deep.json_schema().len() > 63);
    let reader = Reader::new(Arc::clone(&deep)).unwrap();
    let json = reader.json_text(&[7]).unwrap();
    assert!(json.starts_with(r#"{"x":{"x":"#) && json.contains('7'));
    assert_eq!(Writer::new(deep).unwrap().write(&json).unwrap(), [7]);
    // A list of itself has no name to be told by.
    let of_itself = schema(vec![ty(8, 4, Kind::List(0))]);
    assert!(of_itself.to_string().contains(".."));
}

#[test]
fn a_deep_archive_is_refused_where_rkyv_refuses_it() {
    let deep = |depth: usize| {
        let mut tree = Tree::Leaf;
        for _ in 0..depth {
            tree = Tree::Inner(Box::new(tree));
        }
        tree
    };
    let (reader, mut writer) = tools::<Tree>();
    // The message itself is one of them.
    let most = ARCHIVE_DEPTH_MAX - 2;
    check_both(&deep(most));
    let json = serde_json::to_string(&deep(most + 1)).unwrap();
    let error = writer.write(&json).unwrap_err().to_string();
    assert!(error.contains("levels of an archive"), "{error}");
    let archive = rkyv::to_bytes::<Error>(&deep(most + 1)).unwrap();
    assert!(access::<Archived<Tree>>(&archive).is_err());
    // Reading goes on a little longer, but not for ever.
    let archive = rkyv::to_bytes::<Error>(&deep(300)).unwrap();
    let error = reader.json_text(&archive).unwrap_err().to_string();
    assert!(error.contains("too deep"), "{error}");
    let mut path = String::new();
    (0..299).for_each(|_| path.push_str("Inner."));
    assert!(
        reader.read(&archive).unwrap().at(&path).is_ok(),
        "no recursion there"
    );
}

/// A list whose items are all the same list, and so on: a few bytes that say a great deal.
#[test]
fn an_archive_that_says_the_same_again_and_again_is_refused() {
    type Lists = Vec<Vec<Vec<Vec<Vec<Vec<Vec<Vec<String>>>>>>>>;
    let mut archive = Vec::new();
    let text = vec![b'x'; 60];
    archive.extend_from_slice(&text);
    let mut items = None::<u32>;
    for _ in 0..8 {
        let start = u32::try_from(archive.len()).unwrap();
        for _ in 0..64 {
            let at = u32::try_from(archive.len()).unwrap();
            let (word, target) = match items {
                None => (table::string_word(60), 0),
                Some(first) => (0, first),
            };
            let away = target.wrapping_sub(at).to_le_bytes();
            let parts = match items {
                None => [word.to_le_bytes(), away],
                Some(_) => [away, 64_u32.to_le_bytes()],
            };
            archive.extend(parts.concat());
        }
        items = Some(start);
    }
    let away = items
        .unwrap()
        .wrapping_sub(u32::try_from(archive.len()).unwrap());
    archive.extend([away.to_le_bytes(), 64_u32.to_le_bytes()].concat());
    let (reader, _) = tools::<Lists>();
    let mut written = Counted(0);
    let error = reader.json(&archive, &mut written).unwrap_err().to_string();
    assert!(error.contains("again and again"), "{error}");
    assert!(written.0 < 100 * archive.len() + 1_000_000, "{}", written.0);
    // Items without a size take no bytes at all.
    let (reader, _) = tools::<Vec<()>>();
    let many = [(-8_i32).to_le_bytes(), u32::MAX.to_le_bytes()].concat();
    let many = [&[0; 8][..], &many].concat();
    assert!(reader.json_text(&many).is_err());
    let (reader, _) = tools::<[[(); 1 << 31]; 1 << 31]>();
    assert!(reader.json_text(&[]).is_err());
}

#[test]
fn bytes_that_are_no_value_of_their_type_are_refused() {
    fn refused<T: Describe>(bytes: &[u8]) -> String {
        tools::<T>().0.json_text(bytes).unwrap_err().to_string()
    }
    let late = [&7_u64.to_le_bytes()[..], &[0xff; 8]].concat();
    let short_outside = [0x80 | 3, 0, 0, 0, 0xfd, 0xff, 0xff, 0xff];
    let ahead = [4_u32.to_le_bytes(), 1_u32.to_le_bytes()].concat();
    for (why, expected) in [
        (refused::<bool>(&[2]), "neither true nor false"),
        (
            refused::<char>(&0x11_0000_u32.to_le_bytes()),
            "no character",
        ),
        (refused::<Option<u8>>(&[2, 0]), "stands for nothing"),
        (refused::<Mode>(&[4]), "stands for nothing"),
        (refused::<NonZeroU16>(&[0, 0]), "zero"),
        (refused::<Duration>(&late), "nanoseconds"),
        (refused::<String>(&[0xc0; 8]), "UTF-8"),
        (refused::<String>(&short_outside), "a short text"),
        (refused::<Vec<u64>>(&ahead), "not there"),
        (refused::<Box<u64>>(&[1, 0, 0, 0]), "not there"),
        (refused::<u64>(&[0; 7]), "too short"),
    ] {
        assert!(why.contains(expected), "{why}, expected {expected}");
    }
}

struct Counted(usize);

impl std::io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

proptest! {
    /// What rkyv takes for a value is read, whatever was changed; what it does not may be read or
    /// not, but nothing else happens.
    #[test]
    fn whatever_rkyv_takes_is_read(
        seed in prop::collection::vec(any::<u8>(), 0..500),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        is_cut: bool,
    ) {
        let mut archive = archive_of(&Seed(seed.iter().copied()).all());
        for (at, byte) in changes {
            let at = at.index(archive.len());
            archive[at] = byte;
        }
        if is_cut {
            let whole = archive.clone();
            archive.clear();
            archive.extend_from_slice(&whole[cut.index(whole.len())..]);
        }
        let (reader, _) = tools::<All>();
        let read = reader.json_text(&archive);
        let mut aligned = AlignedVec::<16>::new();
        aligned.extend_from_slice(&archive);
        if access::<Archived<All>>(&aligned).is_ok() {
            prop_assert!(read.is_ok(), "{read:?}");
        }
    }

    #[test]
    fn any_json_is_written_as_rkyv_takes_it_or_refused(
        seed in prop::collection::vec(any::<u8>(), 0..500),
        at in any::<prop::sample::Index>(),
        with in "[0-9a-z\",.{}\\[\\]:-]{0,6}",
    ) {
        let json = serde_json::to_string(&Seed(seed.iter().copied()).all()).unwrap();
        let at = json.floor_char_boundary(at.index(json.len()));
        let end = json.ceil_char_boundary((at + with.len()).min(json.len()));
        let changed = [&json[..at], &with, &json[end..]].concat();
        let (reader, mut writer) = tools::<All>();
        if let Ok(written) = writer.write(&changed) {
            let mut aligned = AlignedVec::<16>::new();
            aligned.extend_from_slice(written);
            prop_assert!(access::<Archived<All>>(&aligned).is_ok(), "{changed}");
            prop_assert!(reader.json_text(&aligned).is_ok());
        }
    }
}
