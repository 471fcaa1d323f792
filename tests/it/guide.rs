//! The guide: what it shows can be found and run, and what it names exists. Its examples are tests
//! of their own (`cargo test --doc`).

use std::collections::BTreeMap;
use std::path::Path;

/// Chapters by name.
fn chapters() -> BTreeMap<String, String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/guide");
    let files = std::fs::read_dir(dir).unwrap().flatten();
    let pages = files.map(|file| file.path());
    let pages = pages.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    pages
        .map(|path| {
            (
                path.file_stem().unwrap().to_string_lossy().into_owned(),
                read(&path),
            )
        })
        .collect()
}

fn file(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Tables alone have no example.
const TABLES: &str = "coming_from";

#[test]
fn every_chapter_is_listed_and_has_an_example_that_runs() {
    let chapters = chapters();
    assert!(chapters.len() >= 10, "the chapters are found");
    let (module, library) = (file("src/guide/mod.rs"), file("src/lib.rs"));
    let readme = file("README.md");
    for (name, text) in chapters.iter() {
        assert!(
            module.contains(&format!("include_str!(\"{name}.md\")")),
            "{name} is no module"
        );
        assert!(
            module.contains(&format!("//! | [{name}] |")),
            "{name} is not in the guide's list"
        );
        assert!(
            library.contains(&format!("guide::{name})")),
            "{name} is not in the crate's list"
        );
        assert!(
            readme.contains(&format!("src/guide/{name}.md")),
            "{name} is not in the README"
        );
        if name == TABLES {
            continue;
        }
        let fences: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("```"))
            .collect();
        assert!(!fences.is_empty(), "{name} has no example");
        // Launch files are looked at by a test of theirs.
        let all_run = fences
            .iter()
            .all(|fence| ["```", "```yaml"].contains(fence));
        assert!(
            all_run,
            "{name} has an example that does not run: {fences:?}"
        );
        assert!(
            text.contains("assert"),
            "{name}: an example asserts what it shows"
        );
        assert!(
            !text.contains("sleep("),
            "{name}: an example waits for events, not for time"
        );
        assert!(
            text.contains("## What can go wrong"),
            "{name}: what can go wrong?"
        );
    }
    for link in readme.split("](src/guide/").skip(1) {
        let name = link.split(".md)").next().unwrap();
        assert!(
            chapters.contains_key(name),
            "the README links to the chapter {name}"
        );
    }
}

/// Rustdoc looks up what is linked, so all that the tables say is ours is a link.
#[test]
fn what_the_tables_name_is_linked() {
    let text = &chapters()[TABLES];
    let rows = text
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("|---"));
    let mut links = 0;
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        assert_eq!(cells.len(), 2, "a row of two cells: {row}");
        let parts: Vec<&str> = cells[1].split('`').collect();
        for at in (1..parts.len()).step_by(2) {
            let (span, after) = (parts[at], parts.get(at + 1).copied().unwrap_or_default());
            if parts[at - 1].ends_with('[') && after.starts_with(']') {
                links += 1;
                continue;
            }
            assert!(is_no_item(span), "`{span}` is not linked: {row}");
        }
    }
    assert!(links > 200, "{links} links found");
}

/// What is no item of the crate: commands, options, variables, and words of others.
fn is_no_item(span: &str) -> bool {
    const OTHERS: [&str; 14] = [
        "mesh",
        "--",
        "SHMESH_",
        "RUST_LOG",
        "cargo run ",
        "tracing",
        "join!",
        "JoinSet",
        "sleep",
        "Notify",
        "main",
        "Archive",
        "Serialize",
        "CLOCK_MONOTONIC",
    ];
    OTHERS.iter().any(|other| span.starts_with(other))
}

#[test]
fn commands_and_examples_that_the_guide_names_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = 0;
    for (name, text) in chapters() {
        for span in text.split('`').skip(1).step_by(2) {
            let mut words = span.split([' ', '\n']);
            if words.next() == Some("mesh")
                && let Some(verb) = words.next().filter(|word| !word.starts_with('-'))
            {
                let source = format!("src/cli/{verb}");
                let exists =
                    root.join(format!("{source}.rs")).exists() || root.join(source).exists();
                assert!(exists, "{name}: no `mesh {verb}`");
                found += 1;
            }
            if let Some(example) = span.strip_prefix("cargo run --example ") {
                let exists = root.join(format!("examples/{example}.rs")).exists();
                assert!(exists, "{name}: no example {example}");
                found += 1;
            }
        }
    }
    assert!(found > 10, "{found} commands found");
}
