//! What is expected is said in the same words, whether something else is there or nothing.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::*;

#[derive(Archive, Serialize, Message)]
struct Wanted {
    text: String,
    fixed: Box<str>,
    shared: Arc<str>,
    list: Vec<u8>,
    array: [u8; 3],
    tuple: (u8, f32),
    number: u16,
    above: NonZeroU16,
    object: Drive,
    boxed: Box<Drive>,
    one_of: Mode,
    nothing: Nothing,
    time: Duration,
    set: HashSet<u8>,
    ordered: BTreeSet<u8>,
    map: HashMap<String, u8>,
    sorted: BTreeMap<(u8, u8), u8>,
}

#[test]
fn a_field_that_is_missing_and_one_that_is_another_thing_are_expected_alike() {
    let wanted = Wanted {
        text: String::new(),
        fixed: "".into(),
        shared: "".into(),
        list: Vec::new(),
        array: [0; 3],
        tuple: (1, 2.0),
        number: 1,
        above: NonZeroU16::MIN,
        object: drive(),
        boxed: Box::new(drive()),
        one_of: Mode::Off,
        nothing: Nothing,
        time: Duration::ZERO,
        set: HashSet::new(),
        ordered: BTreeSet::new(),
        map: HashMap::new(),
        sorted: BTreeMap::new(),
    };
    let (reader, mut writer) = tools::<Wanted>();
    let archive = rkyv::to_bytes::<Error>(&wanted).unwrap();
    let whole: serde_json::Value =
        serde_json::from_str(&reader.json_text(&archive).unwrap()).unwrap();
    writer.write_value(&whole).unwrap();
    let mut expected = |json: &serde_json::Value| match writer.write_value(json) {
        Err(SchemaError::Mismatch { path, expected, .. }) => (path, expected),
        other => panic!("{json}: {other:?}"),
    };
    for name in whole.as_object().unwrap().keys() {
        let (mut missing, mut wrong) = (whole.clone(), whole.clone());
        missing.as_object_mut().unwrap().remove(name);
        wrong[name] = true.into();
        let (missing, wrong) = (expected(&missing), expected(&wrong));
        assert_eq!((&missing.0, &missing), (name, &wrong));
    }
}

fn drive() -> Drive {
    Drive {
        speed: 0.0,
        label: String::new(),
        gears: Vec::new(),
    }
}
