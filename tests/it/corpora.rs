//! What fuzzing found interesting once, tried again.

#![allow(unreachable_pub)] // the fuzz crate's files are public there

use std::path::Path;

#[path = "../../fuzz/src/ring_ops.rs"]
mod ring_ops;
#[path = "../../fuzz/src/segment_attach.rs"]
mod segment_attach;

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
