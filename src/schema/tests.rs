//! Schemas against what rkyv and serde make of the same values.

use std::collections::{BTreeMap, HashMap};
use std::num::{NonZeroI64, NonZeroU16};
use std::time::Duration;

use proptest::prelude::*;
use rkyv::api::high::HighSerializer;
use rkyv::rancor::{Error, Source};
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::validation::ArchiveContext;
use rkyv::{Archive, Archived, Portable, Serialize};

mod collections;
mod hostile;
mod keys;
mod numbers;
mod pointers;
mod wanted;

use super::*;
use crate::Message;
use crate::message::access;

/// A command to a motor.
#[derive(Archive, Serialize, serde::Serialize, Message)]
struct Drive {
    /// Along the robot's axis.
    #[message(unit = "m/s")]
    speed: f64,
    label: String,
    gears: Vec<Gear>,
}

#[derive(Archive, Serialize, serde::Serialize, Message)]
struct Gear(u8, f32);

#[derive(Archive, Serialize, serde::Serialize, Message)]
struct Nothing;

#[derive(Archive, Serialize, serde::Serialize, Message)]
struct Generic<T> {
    small: u8,
    inner: T,
    optional: Option<T>,
}

#[derive(Archive, Serialize, serde::Serialize, Message)]
enum Mode {
    Off = 3,
    On = 200,
    Beyond,
}

#[derive(Archive, Serialize, serde::Serialize, Message)]
#[rkyv(
    serialize_bounds(
        __S: rkyv::ser::Writer + rkyv::ser::Allocator,
        __S::Error: Source,
    ),
    bytecheck(bounds(__C: ArchiveContext))
)]
#[expect(clippy::use_self, reason = "the archived one would be another `Self`")]
enum Tree {
    Leaf,
    Number(u64),
    Pair(u8, u32, u16),
    Named {
        flag: bool,
        wide: i128,
        text: String,
    },
    Inner(#[rkyv(omit_bounds)] Box<Tree>),
    List(#[rkyv(omit_bounds)] Vec<Tree>),
}

#[derive(Archive, Serialize, serde::Serialize, Message)]
struct All {
    scalars: (bool, char, u8, u16, u32, u64, i8, i16),
    more: (i32, i64, f32, f64, NonZeroU16, NonZeroI64),
    text: String,
    boxed: Box<str>,
    bytes: Vec<u8>,
    floats: Box<[f32]>,
    array: [u16; 3],
    unit: (),
    nothing: Nothing,
    mode: Mode,
    trees: Vec<Tree>,
    tree: Option<Box<Tree>>,
    span: Duration,
    generic: Generic<Gear>,
    generic_text: Generic<String>,
    r#type: Option<u64>,
    result: Result<(u8, String), Vec<i16>>,
    nested: Vec<Vec<(String, [Option<char>; 2])>>,
    same: Newtype,
}

#[derive(Archive, Serialize, serde::Serialize, Message)]
struct Newtype(Vec<String>);

/// Values from bytes, so that what fails gets smaller.
struct Seed<'a>(std::iter::Copied<std::slice::Iter<'a, u8>>);

impl Seed<'_> {
    fn u8(&mut self) -> u8 {
        self.0.next().unwrap_or(0)
    }

    fn bool(&mut self) -> bool {
        self.u8() % 2 == 1
    }

    fn u64(&mut self) -> u64 {
        let bytes = [(); 8].map(|()| self.u8());
        u64::from_le_bytes(bytes) >> (self.u8() % 64)
    }

    fn char(&mut self) -> char {
        char::from_u32(u32::try_from(self.u64() % 0x11_0000).unwrap()).unwrap_or('\u{1F600}')
    }

    fn text(&mut self) -> String {
        let len = self.u8() % 20;
        (0..len).map(|_| self.char()).collect()
    }

    fn f64(&mut self) -> f64 {
        Some(f64::from_bits(self.u64()))
            .filter(|f| f.is_finite())
            .unwrap_or(-0.5)
    }

    #[expect(clippy::cast_possible_truncation)]
    fn f32(&mut self) -> f32 {
        Some(f32::from_bits(self.u64() as u32))
            .filter(|f| f.is_finite())
            .unwrap_or(0.1)
    }

    fn list<T>(&mut self, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.u8() % 4).map(|_| one(self)).collect()
    }

    fn tree(&mut self, depth: u32) -> Tree {
        match self.u8() % 6 {
            1 => Tree::Number(self.u64()),
            2 => Tree::Pair(self.u8(), 7, 9),
            3 => Tree::Named {
                flag: self.bool(),
                wide: i128::from(self.u64().cast_signed()),
                text: self.text(),
            },
            4 if depth < 10 => Tree::Inner(Box::new(self.tree(depth + 1))),
            5 if depth < 10 => Tree::List(self.list(|seed| seed.tree(depth + 1))),
            _ => Tree::Leaf,
        }
    }

    fn gear(&mut self) -> Gear {
        Gear(self.u8(), self.f32())
    }

    #[expect(clippy::cast_possible_truncation)]
    fn all(&mut self) -> All {
        let number = self.u64();
        let (small, half, word) = (number as u8, number as u16, number as u32);
        All {
            scalars: (
                self.bool(),
                self.char(),
                small,
                half,
                word,
                self.u64(),
                small.cast_signed(),
                half.cast_signed(),
            ),
            more: (
                word.cast_signed(),
                self.u64().cast_signed(),
                self.f32(),
                self.f64(),
                NonZeroU16::new(half).unwrap_or(NonZeroU16::MAX),
                NonZeroI64::new(number.cast_signed()).unwrap_or(NonZeroI64::MIN),
            ),
            text: self.text(),
            boxed: self.text().into(),
            bytes: self.list(Self::u8),
            floats: self.list(Self::f32).into(),
            array: [half, 2, 3],
            unit: (),
            nothing: Nothing,
            mode: [Mode::Off, Mode::On, Mode::Beyond][usize::from(self.u8() % 3)],
            trees: self.list(|seed| seed.tree(0)),
            tree: self.bool().then(|| Box::new(self.tree(0))),
            span: Duration::new(self.u64(), 999_999_999 - u32::from(small)),
            generic: Generic {
                small,
                inner: self.gear(),
                optional: self.bool().then(|| self.gear()),
            },
            generic_text: Generic {
                small,
                inner: self.text(),
                optional: self.bool().then(|| self.text()),
            },
            r#type: self.bool().then(|| self.u64()),
            result: match self.bool() {
                true => Ok((small, self.text())),
                false => Err(vec![1, -1]),
            },
            nested: self.list(|seed| seed.list(|seed| (seed.text(), [Some(seed.char()), None]))),
            same: Newtype(self.list(Self::text)),
        }
    }
}

impl Clone for Mode {
    fn clone(&self) -> Self {
        *self
    }
}

impl Copy for Mode {}

fn tools<T: Describe>() -> (Reader, Writer) {
    let schema = Schema::of::<T>().unwrap();
    (
        Reader::new(Arc::clone(&schema)).unwrap(),
        Writer::new(schema).unwrap(),
    )
}

/// What is read is what serde writes, and what is written is what rkyv writes.
fn check_both<T: Archivable + serde::Serialize>(value: &T)
where
    Archived<T>: Portable,
{
    let archive = archive_of(value);
    let (reader, mut writer) = tools::<T>();
    let json = serde_json::to_string(value).unwrap();
    assert_eq!(reader.json_text(&archive).unwrap(), json);
    let written = writer.write(&json).unwrap();
    assert_eq!(written, &archive[..], "{json}");
}

/// What [`archive_of`] takes.
trait Archivable:
    Message + for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, Error>>
{
}

impl<T> Archivable for T where
    T: Message + for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, Error>>
{
}

fn archive_of<T: Archivable>(value: &T) -> AlignedVec
where
    Archived<T>: Portable,
{
    let bytes = rkyv::to_bytes::<Error>(value).unwrap();
    access::<Archived<T>>(&bytes).unwrap();
    bytes
}

proptest! {
    #[test]
    fn any_value_reads_as_serde_writes_it_and_writes_as_rkyv_does(
        seed in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        check_both(&Seed(seed.iter().copied()).all());
    }
}

#[test]
fn tags_are_the_ones_that_were_given() {
    for mode in [Mode::Off, Mode::On, Mode::Beyond] {
        check_both(&mode);
    }
    let schema = Schema::of::<Mode>().unwrap();
    let Kind::Enum(variants) = &schema.root().kind else {
        panic!("{schema}");
    };
    let tags: Vec<_> = variants.iter().map(|variant| variant.tag).collect();
    assert_eq!(tags, [3, 200, 201]);
}

#[test]
fn what_has_no_size_is_read_and_written_like_the_rest() {
    let none: [u64; 0] = [];
    check_both(&(
        none,
        vec![Nothing, Nothing],
        vec![(); 5],
        (Box::new(()), Vec::<String>::new()),
    ));
}

#[derive(Archive, Serialize, serde::Serialize, Message)]
struct Tables {
    texts: HashMap<String, Vec<u16>>,
    numbers: HashMap<i16, String>,
    wide: HashMap<u64, bool>,
    chars: HashMap<char, ()>,
    #[serde(skip)]
    #[message(opaque)]
    ordered: BTreeMap<String, u8>,
}

#[derive(Archive, Serialize, serde::Serialize, Message)]
struct Table {
    texts: HashMap<String, Vec<u16>>,
    numbers: HashMap<i16, String>,
    wide: HashMap<u64, bool>,
    chars: HashMap<char, ()>,
}

#[test]
fn maps_are_found_by_rkyv_whatever_their_size() {
    for len in [0, 1, 6, 7, 8, 15, 16, 17, 40, 300] {
        let keys = || 0..len;
        let table = Table {
            texts: keys().map(|n| (format!("key {n}"), vec![1, n])).collect(),
            numbers: keys()
                .map(|n| (-n.cast_signed(), "a longer text".into()))
                .collect(),
            wide: keys().map(|n| (u64::from(n) << 40, n % 2 == 0)).collect(),
            chars: keys()
                .map(|n| (char::from_u32(n.into()).unwrap(), ()))
                .collect(),
        };
        let (reader, mut writer) = tools::<Table>();
        let ours = reader.json_text(&archive_of(&table)).unwrap();
        let found: serde_json::Value = serde_json::from_str(&ours).unwrap();
        assert_eq!(found, serde_json::to_value(&table).unwrap());

        let written = writer.write(&ours).unwrap();
        let mut aligned = AlignedVec::<16>::new();
        aligned.extend_from_slice(written);
        let archived = access::<Archived<Table>>(&aligned).unwrap();
        for n in keys() {
            let found = archived.texts.get(format!("key {n}").as_str());
            assert_eq!(found.unwrap().as_slice(), [1, n]);
            let key: Archived<i16> = (-n.cast_signed()).into();
            assert_eq!(archived.numbers[&key], "a longer text");
            let wide: Archived<u64> = (u64::from(n) << 40).into();
            assert_eq!(archived.wide[&wide], n % 2 == 0);
        }
        assert_eq!(archived.chars.len(), usize::from(len));
    }
}

#[test]
fn what_is_opaque_is_passed_over_and_not_written() {
    let tables = Tables {
        texts: HashMap::new(),
        numbers: HashMap::new(),
        wide: HashMap::from([(7, true)]),
        chars: HashMap::new(),
        ordered: BTreeMap::from([("a".into(), 1)]),
    };
    let (reader, mut writer) = tools::<Tables>();
    let json = reader.json_text(&archive_of(&tables)).unwrap();
    let expected = r#"{"texts":{},"numbers":{},"wide":{"7":true},"chars":{},"ordered":null}"#;
    assert_eq!(json, expected);
    let error = writer.write(&json).unwrap_err().to_string();
    assert!(
        error.starts_with("ordered: expected nothing: this type is opaque"),
        "{error}"
    );
}

#[derive(Archive, Serialize, Message)]
struct Wrapped {
    #[rkyv(with = rkyv::with::AsBox)]
    #[message(opaque)]
    boxed: u64,
    /// After it.
    plain: u16,
}

#[test]
fn fields_behind_wrappers_have_their_place() {
    let archive = archive_of(&Wrapped {
        boxed: 5,
        plain: 77,
    });
    let (reader, _) = tools::<Wrapped>();
    assert_eq!(
        reader.json_text(&archive).unwrap(),
        r#"{"boxed":null,"plain":77}"#
    );
}

#[test]
fn the_hash_is_of_names_and_layout_alone() {
    mod other {
        use super::*;

        /// Another comment.
        #[derive(Archive, Serialize, Message)]
        pub(super) struct Drive {
            /// In another unit.
            #[message(unit = "km/h")]
            speed: f64,
            label: String,
            gears: Box<[super::Gear]>,
        }

        #[derive(Archive, Serialize, Message)]
        pub(super) struct Gear(u8, f64);
    }
    mod renamed {
        use super::*;

        #[derive(Archive, Serialize, Message)]
        pub(super) struct Drive {
            velocity: f64,
            label: String,
            gears: Vec<Gear>,
        }
    }
    let hash = Schema::of::<Drive>().unwrap().hash();
    assert_eq!(hash, Schema::of::<other::Drive>().unwrap().hash());
    assert_ne!(hash, Schema::of::<renamed::Drive>().unwrap().hash());
    let gear = Schema::of::<Gear>().unwrap().hash();
    assert_ne!(gear, Schema::of::<other::Gear>().unwrap().hash());
    // However deep the difference lies.
    let deep = hash_of::<Vec<Vec<Box<Option<Vec<Gear>>>>>>();
    let deep_other = hash_of::<Vec<Vec<Box<Option<Vec<other::Gear>>>>>>();
    assert_ne!(deep, deep_other);
    // A change of the hash parts all programs of before and after.
    assert_eq!(format!("{hash:016x}"), "c939ee9c27a5f110");
    // What is in itself has one, too, whatever is in the table twice.
    let [once, twice] = [hash_of::<(Tree, Vec<u8>)>(), hash_of::<(Tree, Box<[u8]>)>()];
    assert_eq!(once, twice);
    let both = hash_of::<(Vec<u8>, Box<[u8]>)>();
    assert_eq!(both, hash_of::<(Vec<u8>, Vec<u8>)>());
}

#[test]
fn a_schema_comes_back_from_its_bytes() {
    let schema = Schema::of::<All>().unwrap();
    let bytes = schema.encode().unwrap();
    assert_eq!(Schema::decode(&bytes).unwrap(), *schema);
    for cut in 0..bytes.len() {
        assert!(Schema::decode(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    let more = [&bytes[..], b"!"].concat();
    assert!(Schema::decode(&more).is_err());
}

#[test]
fn types_are_shown_as_in_rust() {
    let text = Schema::of::<Drive>().unwrap().to_string();
    let expected = "\
/// A command to a motor.
struct Drive {
    /// Along the robot's axis.
    speed: f64, // m/s
    label: String,
    gears: Vec<Gear>,
}

struct Gear(u8, f32);
";
    assert_eq!(text, expected);
    let text = Schema::of::<Tree>().unwrap().to_string();
    let inner = "    Inner(Box<Tree>),\n    List(Vec<Tree>),\n}\n";
    assert!(text.ends_with(inner), "{text}");
    let text = Schema::of::<Vec<(u8, Option<[f32; 3]>)>>()
        .unwrap()
        .to_string();
    assert_eq!(text, "type Message = Vec<(u8, Option<[f32; 3]>)>;\n");
}

#[test]
fn a_json_schema_has_a_plain_type_for_each_value() {
    let schema = Schema::of::<Drive>().unwrap().json_schema();
    let found: serde_json::Value = serde_json::from_str(&schema).unwrap();
    assert_eq!(found["type"], "object");
    assert_eq!(found["properties"]["speed"]["type"], "number");
    let said = "Along the robot's axis. [m/s]";
    assert_eq!(found["properties"]["speed"]["description"], said);
    assert_eq!(found["properties"]["gears"]["items"]["type"], "array");
    let schema = Schema::of::<All>().unwrap().json_schema();
    assert!(schema.len() < 100_000);
    let found: serde_json::Value = serde_json::from_str(&schema).unwrap();
    let required = found["required"].as_array().unwrap();
    assert!(!required.contains(&"type".into()) && required.contains(&"text".into()));
}

#[test]
fn paths_lead_to_parts() {
    let seed = [7_u8; 400];
    let all = All {
        result: Ok((1, "one".into())),
        same: Newtype(vec!["first".into()]),
        ..Seed(seed.iter().copied()).all()
    };
    let archive = archive_of(&all);
    let (reader, _) = tools::<All>();
    let at = |path: &str| reader.read(&archive).unwrap().at(path);
    let json = serde_json::to_string(&all).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    for (path, expected) in [
        ("", &json),
        ("text", &json["text"]),
        ("scalars.5", &json["scalars"][5]),
        ("scalars[5]", &json["scalars"][5]),
        ("more[5]", &json["more"][5]),
        ("generic.inner.1", &json["generic"]["inner"][1]),
        ("array[1]", &json["array"][1]),
        ("result.Ok", &json["result"]["Ok"]),
        ("result.Ok[1]", &json["result"]["Ok"][1]),
        ("tree.Number", &json["tree"]["Number"]),
        ("same[0]", &json["same"][0]),
        ("type", &json["type"]),
        ("span", &json["span"]),
    ] {
        let text = at(path).unwrap().json_text().unwrap();
        let found: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(found, *expected, "{path}");
    }
    assert_eq!(at("array[1]").unwrap().as_f64(), Some(2.0));
    assert_eq!(
        at("scalars[6]").unwrap().as_f64(),
        json["scalars"][6].as_f64()
    );
    assert_eq!(at("more[3]").unwrap().as_f64(), json["more"][3].as_f64());
    assert_eq!(
        at("generic_text.inner").unwrap().as_str(),
        json["generic_text"]["inner"].as_str()
    );
    for (path, expected) in [
        ("array[3]", "there is no `array[3]`: it has 3 items"),
        (
            "array.x",
            "there is no `array.x`: it has items: `[0]` is the first",
        ),
        (
            "generic.y.z",
            "there is no `generic.y`: it has small, inner, optional",
        ),
        ("text.x", "there is no `text.x`: nothing is in it"),
        (
            "result.Err",
            "there is no `result.Err`: it is Ok, and it has 0",
        ),
        ("nothing.x", "there is no `nothing.x`: it has no fields"),
    ] {
        assert_eq!(at(path).unwrap_err().to_string(), expected);
    }
}

#[test]
fn what_does_not_fit_is_named_with_its_path() {
    let (_, mut writer) = tools::<Drive>();
    let gears = r#"{"speed":1,"label":"","gears":[[1,2],[GEAR]]}"#;
    for (json, expected) in [
        ("GEAR", "no JSON: "),
        (
            "[]",
            "the message: expected an object (Drive), found an array of 0",
        ),
        (r#"{"speed":1}"#, "label: expected a text, found nothing"),
        (
            r#"{"speed":null,"label":"","gears":[]}"#,
            "speed: expected f64, found null",
        ),
        (
            r#"{"speed":1,"label":"","gears":[],"x":1}"#,
            "x: expected no field but speed, label, gears, found one of this name",
        ),
        (
            &gears.replace("GEAR", "256,1"),
            "gears[1][0]: expected u8, found 256",
        ),
        (
            &gears.replace("GEAR", "1.5,1"),
            "gears[1][0]: expected u8, found 1.5",
        ),
        (
            &gears.replace("GEAR", "-1,1"),
            "gears[1][0]: expected u8, found -1",
        ),
        (
            &gears.replace("GEAR", "1,1e39"),
            "gears[1][1]: expected f32, found 1e+39",
        ),
        (
            &gears.replace("GEAR", r#"1,"abc""#),
            r#"gears[1][1]: expected f32, found "abc""#,
        ),
        (
            &gears.replace("GEAR", "1"),
            "gears[1]: expected an array of 2, found an array of 1",
        ),
    ] {
        let error = writer.write(json).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
    let (_, mut writer) = tools::<(NonZeroU16, Mode, i128)>();
    let error = writer.write(r#"[0,"On",1]"#).unwrap_err().to_string();
    assert!(error.starts_with("[0]: expected a u16 above"), "{error}");
    let error = writer.write(r#"[1,"Up",1]"#).unwrap_err().to_string();
    let expected = r#"[1]: expected a variant of Mode (Off, On, Beyond), found "Up""#;
    assert_eq!(error, expected);
    let wide = format!(r#"[1,"On","{}"]"#, i128::MIN);
    assert!(writer.write(&wide).is_ok());
    // An option that is not there is none; after errors all works as before.
    let (reader, mut writer) = tools::<Generic<u16>>();
    let written = writer.write(r#"{"small":1,"inner":2}"#).unwrap();
    assert_eq!(
        written,
        &archive_of(&Generic {
            small: 1,
            inner: 2_u16,
            optional: None
        })[..]
    );
    assert!(
        reader
            .json_text(written)
            .unwrap()
            .ends_with(r#""optional":null}"#)
    );
}
