//! The house rules that a compiler does not know: which layer may import which, where unsafe code lives, that the documents
//! name what exists.

use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What each top module of `src` may import: everything to the right of it, and leaves.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    ("cli", &["server", "put", "proto", "config", "error", "limits"]),
    ("put", &["proto", "error"]),
    ("server", &["router", "handler", "http", "rt", "driver", "config", "telemetry", "error", "limits"]),
    ("router", &["http", "proto"]),
    ("handler", &["http", "rt", "driver", "proto", "config", "telemetry", "error", "limits"]),
    ("http", &["rt", "driver", "proto", "config", "telemetry", "error", "limits"]),
    ("rt", &["driver", "proto"]),
    ("driver", &[]),
    ("proto", &[]),
    ("config", &["proto", "error", "limits"]),
    ("telemetry", &[]),
    ("error", &[]),
    ("limits", &[]),
];

fn rust_files(under: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(under).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The code of a file without comments and without its own tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The top modules that a piece of code names by `crate::`.
fn imports(code: &str) -> Vec<String> {
    let names = code.split("crate::").skip(1).flat_map(|rest| match rest.strip_prefix('{') {
        Some(list) => list.split('}').next().unwrap_or_default().split(',').map(first_name).collect::<Vec<_>>(),
        None => vec![first_name(rest)],
    });
    names.filter(|name| name.starts_with(|c: char| c.is_ascii_lowercase())).collect()
}

fn first_name(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

fn top_module(path: &Path) -> String {
    let inside = path.strip_prefix(Path::new(ROOT).join("src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

#[test]
fn imports_run_rightwards_only() {
    let mut seen = 0;
    for path in rust_files(&Path::new(ROOT).join("src")) {
        let module = top_module(&path);
        // The crate's root names every module, and the simulation is a test of all of them.
        if module == "lib" || module == "simulation" || path.ends_with("driver/contract.rs") {
            continue;
        }
        let (_, allowed) =
            MAY_IMPORT.iter().find(|(name, _)| *name == module).unwrap_or_else(|| panic!("{module}: no layer"));
        for import in imports(&code(&path)) {
            seen += 1;
            let fine = import == module || allowed.contains(&import.as_str());
            assert!(fine, "{} ({module}) imports {import}", path.display());
        }
    }
    assert!(seen > 100, "the scan found only {seen} imports: it no longer reads them");
}

#[test]
fn handlers_do_not_know_each_other() {
    for path in rust_files(&Path::new(ROOT).join("src/handler")) {
        let code = code(&path);
        let own = path.strip_prefix(Path::new(ROOT).join("src/handler")).unwrap();
        let own = own.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned();
        for other in
            ["media", "live", "upload", "events", "queue", "admin", "guard"].iter().filter(|other| **other != own)
        {
            assert!(!code.contains(&format!("handler::{other}")), "{} imports {other}", path.display());
        }
    }
}

#[test]
fn unsafe_code_is_in_the_driver_only_and_says_why_it_is_sound() {
    for path in rust_files(&Path::new(ROOT).join("src")) {
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let statement = line.split("//").next().unwrap();
            if !statement.contains("unsafe {") && !statement.contains("unsafe impl") && !statement.contains("unsafe fn")
            {
                continue;
            }
            assert_eq!(top_module(&path), "driver", "{}:{}", path.display(), number + 1);
            let before = &lines[number.saturating_sub(8)..number];
            assert!(before.iter().any(|line| line.contains("SAFETY:")), "{}:{}", path.display(), number + 1);
        }
    }
}

#[test]
fn what_the_documents_name_exists() {
    let documents = [
        "README.md",
        "CHANGELOG.md",
        "docs/ARCHITECTURE.md",
        "docs/DECISIONS.md",
        "docs/CONFIG.md",
        "docs/HACKING.md",
        "docs/BENCHMARKS.md",
    ];
    let folders = ["src/", "docs/", "tests/", "tools/", "benches/", "examples/", "media/"];
    let mut named = 0;
    for document in documents {
        let text = fs::read_to_string(Path::new(ROOT).join(document)).unwrap();
        for quoted in text.split('`').skip(1).step_by(2) {
            let path = quoted.split([' ', ':']).next().unwrap();
            if folders.iter().any(|folder| path.starts_with(folder)) {
                named += 1;
                assert!(Path::new(ROOT).join(path).exists(), "{document} names {path}");
            }
        }
    }
    assert!(named > 20, "the scan found only {named} paths: it no longer reads them");
}

#[test]
fn nothing_unfinished_is_left() {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("todo", "!("), concat!("unimplemented", "!(")];
    for folder in ["src", "tests", "benches", "examples", "tools"] {
        for path in rust_files(&Path::new(ROOT).join(folder)) {
            let text = fs::read_to_string(&path).unwrap();
            for mark in marks {
                assert!(!text.contains(mark), "{} has {mark}", path.display());
            }
        }
    }
}
