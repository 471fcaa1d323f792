//! Any schema with any archive and any JSON: refused, or JSON is read that is some, and archives
//! are written that can be read and written again as the same.

use std::sync::Arc;

use shmesh::schema::{Reader, Schema, Writer};

/// The first two bytes are the length of a schema, which comes next; what is left is an archive
/// and a JSON text. Without a schema it is that of a type of our own.
pub fn run(input: &[u8]) {
    let Some(([low, high], rest)) = input.split_first_chunk() else {
        return;
    };
    let len = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
    let (schema, rest) = rest.split_at(len);
    let schema = match schema {
        [] => Schema::of::<Sample>().expect("a small one"),
        bytes => match Schema::decode(bytes) {
            Ok(schema) => Arc::new(schema),
            Err(_) => return,
        },
    };
    let bytes = schema.encode().expect("what was decoded can be encoded");
    let again = Schema::decode(&bytes).expect("and decoded");
    assert_eq!((again.hash(), &again), (schema.hash(), &*schema));
    assert!(!schema.to_string().is_empty() && !schema.json_schema().is_empty());
    if let (Ok(reader), Ok(mut writer)) = (Reader::new(Arc::clone(&schema)), Writer::new(schema)) {
        read(&reader, rest);
        if let Ok(json) = str::from_utf8(rest) {
            write(&reader, &mut writer, json);
        }
    }
}

fn read(reader: &Reader, archive: &[u8]) {
    let Ok(value) = reader.read(archive) else {
        return;
    };
    if let Ok(json) = value.json_text() {
        let parsed = serde_json::from_str::<serde_json::Value>(&json);
        // Only what is nested deeper than parsers follow is none.
        assert!(
            parsed.is_ok() || json.matches(['[', '{']).count() > 127,
            "{json}"
        );
    }
    for path in ["0", "[0].x", "a.b[1]", "list[0]", "map.key", "Some.text"] {
        let _ = value
            .at(path)
            .map(|part| (part.as_f64(), part.as_str(), part.json_text()));
    }
}

fn write(reader: &Reader, writer: &mut Writer, json: &str) {
    let Ok(archive) = writer.write(json).map(<[u8]>::to_vec) else {
        return;
    };
    let read = reader
        .json_text(&archive)
        .expect("what was written can be read");
    // A schema of somebody else may have a name twice, of which JSON keeps the last.
    if let Ok(again) = writer.write(&read) {
        assert_eq!(again, archive, "{json} became {read}");
    }
}

type Sample = (
    Vec<(String, Option<f32>)>,
    std::collections::HashMap<u8, Box<[char; 2]>>,
    u64,
);
