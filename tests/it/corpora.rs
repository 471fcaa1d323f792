//! What fuzzing found interesting once, tried again.

#![allow(unreachable_pub)] // the fuzz crate's files are public there

use std::path::Path;

#[path = "../../fuzz/src/bag_files.rs"]
mod bag_files;
#[path = "../../fuzz/src/codec_values.rs"]
mod codec_values;
#[path = "../../fuzz/src/handshake.rs"]
mod handshake;
#[path = "../../fuzz/src/ring_ops.rs"]
mod ring_ops;
#[path = "../../fuzz/src/schema_walk.rs"]
mod schema_walk;
#[path = "../../fuzz/src/segment_attach.rs"]
mod segment_attach;
#[path = "../../fuzz/src/session_ops.rs"]
mod session_ops;
#[path = "../../fuzz/src/topology_ops.rs"]
mod topology_ops;
#[path = "../../fuzz/src/wire_frames.rs"]
mod wire_frames;

fn replay(target: &str, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut count = 0;
    for file in std::fs::read_dir(&corpus).unwrap() {
        let path = file.unwrap().path();
        println!("{}", path.display());
        run(&std::fs::read(path).unwrap());
        count += 1;
    }
    assert!(count > 10, "{count} inputs in {}", corpus.display());
}

#[test]
fn any_sequence_of_ring_operations_is_counted_exactly() {
    replay("ring_ops", ring_ops::run);
}

#[test]
fn memory_of_any_content_is_opened_or_refused() {
    replay("segment_attach", segment_attach::run);
}

#[test]
fn a_stream_is_the_same_items_wherever_it_is_cut() {
    replay("wire_frames", wire_frames::run);
}

#[test]
fn no_key_is_proven_by_words_that_were_touched() {
    replay("handshake", handshake::run);
}

#[test]
fn any_sequence_of_link_frames_is_taken_in_turn_and_in_bounds() {
    replay("session_ops", session_ops::run);
}

#[test]
fn any_sequence_of_changes_is_the_same_mesh_for_all() {
    replay("topology_ops", topology_ops::run);
}

#[test]
fn any_bytes_are_read_by_any_schema_or_refused() {
    replay("schema_walk", schema_walk::run);
}

#[test]
fn any_bytes_are_a_value_or_refused() {
    replay("codec_values", codec_values::run);
}

#[test]
fn any_bytes_are_a_recording_or_refused_in_bounded_memory() {
    replay("bag_files", bag_files::run);
}
