//! Any bytes as a JSON or MessagePack value: refused, or a value that is written and read again as
//! the same.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shmesh::{Codec, JsonCodec, MsgPackCodec};

/// Something of everything that nests, repeats or announces lengths.
#[derive(Debug, Serialize, Deserialize)]
enum Value {
    Nothing,
    Number(f64),
    Whole(i64),
    Text(String),
    List(Vec<Self>),
    Pair(Box<Self>, Option<char>),
    Only(Box<Self>),
    Named {
        left: Box<Self>,
        right: Option<Box<Self>>,
    },
    Map(BTreeMap<String, Self>),
    Point(Point),
}

#[derive(Debug, Serialize, Deserialize)]
struct Point {
    x: f64,
    y: u8,
    #[serde(default)]
    next: Option<Box<Self>>,
}

/// The first byte chooses the encoding.
pub fn run(input: &[u8]) {
    match input.split_first() {
        Some((first, bytes)) if first % 2 == 0 => check::<JsonCodec>(bytes),
        Some((_, bytes)) => check::<MsgPackCodec>(bytes),
        None => {}
    }
}

fn check<C: Codec<Value>>(bytes: &[u8]) {
    let Ok(value) = C::decode(bytes) else {
        return;
    };
    // Compared as bytes: not every number equals itself.
    let once = encoded::<C>(&value);
    let again = C::decode(&once).expect("what was written can be read");
    assert_eq!(encoded::<C>(&again), once, "{value:?}");
    for cut in 0..once.len().min(64) {
        assert!(C::decode(&once[..cut]).is_err(), "cut at {cut}");
    }
}

fn encoded<C: Codec<Value>>(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    C::encode(value, &mut bytes).expect("what was read can be written");
    bytes
}
