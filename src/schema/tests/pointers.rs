//! Shared and weak pointers, ranges and their ends.

use std::ops::{Bound, Range, RangeFrom, RangeInclusive, RangeTo};
use std::rc::{self, Rc};
use std::sync;

use super::*;

#[derive(Archive, Serialize, Message)]
struct Pointers {
    shared: Arc<u64>,
    again: Arc<u64>,
    text: Arc<str>,
    list: Rc<[u16]>,
    inner: Rc<Vec<String>>,
    nothing: [Arc<()>; 2],
    none: [Arc<str>; 2],
    after: Option<Rc<f32>>,
}

#[test]
fn what_is_shared_is_read_as_often_as_it_is_pointed_to_and_written_apart() {
    let shared = Arc::new(7);
    let nothing = || [Arc::new(()), Arc::new(())];
    let value = |again| Pointers {
        shared: Arc::clone(&shared),
        again,
        text: "a text".into(),
        list: [1, 2, 3].into(),
        inner: Rc::new(vec!["a longer text".into(), "b".into()]),
        nothing: nothing(),
        none: ["".into(), "".into()],
        after: Some(Rc::new(0.5)),
    };
    let expected = concat!(
        r#"{"shared":7,"again":7,"text":"a text","list":[1,2,3],"#,
        r#""inner":["a longer text","b"],"nothing":[null,null],"none":["",""],"after":0.5}"#,
    );
    let (reader, mut writer) = tools::<Pointers>();
    let twice = archive_of(&value(Arc::clone(&shared)));
    assert_eq!(reader.json_text(&twice).unwrap(), expected);
    let apart = archive_of(&value(Arc::new(7)));
    assert_eq!(reader.json_text(&apart).unwrap(), expected);
    assert_eq!(writer.write(expected).unwrap(), &apart[..]);
    let found = reader.read(&twice).unwrap();
    assert_eq!(found.at("inner[1]").unwrap().as_str(), Some("b"));
    assert_eq!(found.at("text").unwrap().as_str(), Some("a text"));
    let shown = reader.schema().to_string();
    assert!(
        shown.contains("text: Arc<str>,\n    list: Arc<[u16]>,"),
        "{shown}"
    );
}

#[derive(Archive, Serialize, serde::Serialize, Message)]
struct Ranges {
    range: Range<f32>,
    inclusive: RangeInclusive<i16>,
    from: RangeFrom<u64>,
    to: RangeTo<u8>,
    texts: Range<String>,
}

#[test]
fn ranges_are_written_as_serde_and_rkyv_do() {
    check_both(&Ranges {
        range: -1.5..2.25,
        inclusive: -3..=4,
        from: 5..,
        to: ..6,
        texts: "a longer text".into().."b".into(),
    });
    let shown = Schema::of::<Range<f32>>().unwrap().to_string();
    assert_eq!(
        shown,
        "struct Range<f32> {\n    start: f32,\n    end: f32,\n}\n"
    );
}

#[test]
fn ends_of_ranges_are_written_as_serde_and_rkyv_do() {
    let wide = |number: u64| (number, "a longer text".to_owned());
    check_both(&(
        [Bound::Included(1_u8), Bound::Excluded(2), Bound::Unbounded],
        Bound::Included(wide(7)),
        vec![Bound::Unbounded, Bound::Excluded(wide(8))],
    ));
    let (reader, _) = tools::<Bound<f32>>();
    assert_eq!(
        reader.schema().to_string(),
        "enum Bound<f32> {\n    Included(f32),\n    Excluded(f32),\n    Unbounded,\n}\n"
    );
    let archive = archive_of(&Bound::Excluded(0.5_f32));
    let end = reader.read(&archive).unwrap().at("Excluded").unwrap();
    assert_eq!(end.as_f64(), Some(0.5));
}

#[derive(Archive, Serialize, Message)]
struct Weaks {
    number: rc::Weak<u64>,
    text: sync::Weak<str>,
    list: sync::Weak<[u16]>,
    inner: rc::Weak<Vec<String>>,
    nothing: [rc::Weak<()>; 2],
    after: u8,
}

#[test]
fn weak_pointers_are_those_of_rkyv_to_something_or_nothing() {
    let number = Rc::new(7);
    let text: Arc<str> = "a text".into();
    let list: Arc<[u16]> = [1, 2].into();
    let inner = Rc::new(vec!["a longer text".to_owned()]);
    let archive = archive_of(&Weaks {
        number: Rc::downgrade(&number),
        text: Arc::downgrade(&text),
        list: Arc::downgrade(&list),
        inner: Rc::downgrade(&inner),
        nothing: [rc::Weak::new(), rc::Weak::new()],
        after: 5,
    });
    let expected = concat!(
        r#"{"number":7,"text":"a text","list":[1,2],"inner":["a longer text"],"#,
        r#""nothing":[null,null],"after":5}"#
    );
    let (reader, mut writer) = tools::<Weaks>();
    assert_eq!(reader.json_text(&archive).unwrap(), expected);
    assert_eq!(writer.write(expected).unwrap(), &archive[..]);
    let found = reader.read(&archive).unwrap();
    assert_eq!(
        found.at("inner[0]").unwrap().as_str(),
        Some("a longer text")
    );
    let error = found.at("nothing[0].0").unwrap_err().to_string();
    assert!(error.contains("nothing in the option"), "{error}");

    let dangling = |text: Arc<str>, list: Arc<[u16]>| Weaks {
        number: rc::Weak::new(),
        text: Arc::downgrade(&text),
        list: Arc::downgrade(&list),
        inner: rc::Weak::new(),
        nothing: [rc::Weak::new(), rc::Weak::new()],
        after: 6,
    };
    let archive = archive_of(&dangling("gone".into(), [9].into()));
    let expected = concat!(
        r#"{"number":null,"text":null,"list":null,"inner":null,"#,
        r#""nothing":[null,null],"after":6}"#
    );
    assert_eq!(reader.json_text(&archive).unwrap(), expected);
    assert_eq!(writer.write(expected).unwrap(), &archive[..]);
    // What leads nowhere may be left out.
    let left_out = r#"{"nothing":[null,null],"after":6}"#;
    assert_eq!(writer.write(left_out).unwrap(), &archive[..]);

    let schema = reader.schema();
    let shown = schema.to_string();
    let types = "text: Weak<str>,\n    list: Weak<[u16]>,\n    inner: Weak<Vec<String>>,";
    assert!(shown.contains(types), "{shown}");
    assert_eq!(Schema::decode(&schema.encode().unwrap()).unwrap(), **schema);
    let strong = hash_of::<(Rc<u64>, u8)>();
    assert_ne!(hash_of::<(rc::Weak<u64>, u8)>(), strong);
}

#[test]
fn what_is_shared_in_a_message_is_seen_by_its_weak_pointers_too() {
    let shared = Rc::new(String::from("a longer text"));
    let both = archive_of(&(Rc::clone(&shared), Rc::downgrade(&shared)));
    let json = tools::<(Rc<String>, rc::Weak<String>)>().0.json_text(&both);
    assert_eq!(json.unwrap(), r#"["a longer text","a longer text"]"#);
}
