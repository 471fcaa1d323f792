//! Texts of the tools, held against files beside the tests. `UPDATE_SNAPSHOTS=1` writes the files.

use std::path::PathBuf;

pub(crate) fn assert_snapshot(name: &str, text: &str) {
    let file = format!("tests/it/snapshots/{name}.txt");
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(&file);
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == text,
        "{file} says:\n{expected}\nbut now it is:\n{text}"
    );
}

/// Without what differs from run to run: ids, this process's number, and how wide columns are.
pub(crate) fn masked(text: &str) -> String {
    let pid = std::process::id().to_string();
    let is_id = |word: &str| word.len() == 32 && word.chars().all(|c| c.is_ascii_hexdigit());
    let mask = |word: &str| match word {
        id if is_id(id) => "ID".to_owned(),
        number if number == pid => "PID".to_owned(),
        other => other.to_owned(),
    };
    let mask_line = |line: &str| {
        let columns = line
            .split("  ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty());
        let columns = columns.map(|cell| {
            let words = cell.split(' ');
            let masked = words.map(|word| {
                let plain = word.trim_end_matches([')', ',', ':']);
                mask(plain) + &word[plain.len()..]
            });
            masked.collect::<Vec<_>>().join(" ")
        });
        let indent = if line.starts_with(' ') { "  " } else { "" };
        format!("{indent}{}\n", columns.collect::<Vec<_>>().join("  "))
    };
    text.lines().map(mask_line).collect()
}
