//! What reviewers need not look for.

use std::path::{Path, PathBuf};

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn files_are_short_plain_and_free_of_leftovers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    sources(root, &mut found);
    assert!(found.len() > 40, "the sources are found");
    let leftovers = [
        ["FIX", "ME"].concat(),
        ["db", "g!("].concat(),
        ["XX", "X"].concat(),
    ];
    for path in found {
        let text = std::fs::read_to_string(&path).unwrap();
        let shown = path.strip_prefix(root).unwrap().display();
        assert!(
            text.lines().count() <= 700,
            "{shown} is longer than 700 lines"
        );
        assert!(
            text.starts_with("//!") || text.starts_with("#!["),
            "{shown}: what is it?"
        );
        // The rivals' interfaces leave no choice.
        let rivals = root.join("bench/compare/src/systems");
        let is_shm = path.starts_with(root.join("shm")) || path.starts_with(rivals);
        for (number, line) in text.lines().enumerate() {
            let place = format!("{shown}:{}", number + 1);
            assert!(
                line.chars().count() <= 100,
                "{place} is longer than 100 characters"
            );
            assert!(
                !leftovers.iter().any(|word| line.contains(word)),
                "{place}: a leftover"
            );
            let code = line.split("//").next().unwrap_or_default();
            let words = ["{", "fn", "impl"].map(|word| ["unsafe", word].join(" "));
            let is_unsafe = words.iter().any(|words| code.contains(words.as_str()));
            assert!(
                is_shm || !is_unsafe,
                "{place}: unsafe code belongs into shm/"
            );
        }
    }
}

#[test]
fn the_readmes_commands_and_examples_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    for example in std::fs::read_dir(root.join("examples")).unwrap().flatten() {
        let path = example.path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(
            readme.contains(&name),
            "the README does not name the example {name}"
        );
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 60, "example {name} has {lines} lines");
    }
    let ran = readme.split("--example ").skip(1);
    for name in ran.filter_map(|rest| rest.split([' ', '`', '\n']).next()) {
        assert!(
            root.join(format!("examples/{name}.rs")).exists(),
            "no example {name}"
        );
    }
    let bins = readme.split("--bin ").skip(1);
    for name in bins.filter_map(|rest| rest.split([' ', '`', '\n']).next()) {
        assert!(
            root.join(format!("src/bin/{name}.rs")).exists(),
            "no binary {name}"
        );
    }
}

#[test]
fn logs_are_filed_under_the_documented_targets() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let table = std::fs::read_to_string(root.join("lib.rs")).unwrap();
    let mut found = Vec::new();
    sources(&root, &mut found);
    let mut count = 0;
    for path in found {
        let shown = path.strip_prefix(&root).unwrap().display().to_string();
        // Those of these modules are what is documented, or below it.
        let is_area = ["link", "coordinator"]
            .iter()
            .any(|area| shown.starts_with(area));
        let text = std::fs::read_to_string(&path).unwrap();
        for level in ["error", "warn", "info", "debug", "trace"] {
            for (at, call) in text.match_indices(&format!("tracing::{level}!(")) {
                let arguments = text[at + call.len()..].trim_start();
                let target = arguments.strip_prefix("target: \"");
                let target = target.and_then(|rest| rest.split('"').next());
                let is_documented =
                    target.map_or(is_area, |t| table.contains(&format!("//! | `{t}` |")));
                assert!(is_documented, "{shown}: a log under {target:?}");
                count += 1;
            }
        }
    }
    assert!(count > 20, "the logs are found");
}
