//! A module uses only those declared above it in `lib.rs`, and never what its row forbids.
//!
//! The table is the one of `docs/architecture.md`, whose last column is in words; `lib.rs` gives the order.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::tests_outside_test_module,
    reason = "the whole file is a test"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// Rank, module, and which modules of lower rank it must not know.
const TABLE: [(u8, &str, &[&str]); 21] = [
    (0, "wire", &[]),
    (0, "time", &["wire"]),
    (0, "iovec", &["wire", "time"]),
    (1, "drop_reason", &["wire", "time"]),
    (1, "reserve", &["wire", "time", "drop_reason"]),
    (1, "flow", &["reserve"]),
    (1, "answer", &["time"]),
    (2, "classify", &["flow", "time"]),
    (2, "transport", &["flow", "answer", "classify"]),
    (3, "guest", &["wire", "flow", "answer", "classify", "transport"]),
    (3, "host", &["wire", "flow", "answer", "classify", "transport", "guest"]),
    (4, "capture", &["flow", "guest", "host", "transport"]),
    (4, "ledger", &["guest", "host", "transport", "capture"]),
    (4, "stats", &["guest", "host", "transport"]),
    (4, "control", &["guest", "transport"]),
    (5, "relay", &[]),
    (6, "cli", &["guest", "host", "transport", "relay"]),
    (7, "config", &["guest", "transport"]),
    (8, "logging", &["guest", "host", "transport", "relay"]),
    (8, "sandbox", &["guest", "transport", "relay"]),
    (9, "assemble", &["transport"]),
];

/// What a row allows in spite of its last column, item by item.
const EXCEPTIONS: [(&str, &str, &str); 4] = [
    // What a frame leaves to the device travels beside it, and the virtio-net header says it in bytes.
    ("guest", "wire", "Offload"),
    ("guest", "wire", "Checksum"),
    ("guest", "wire", "Segmentation"),
    ("guest", "wire", "VNET_HEADER_LEN"),
];

/// One use of another module: where, and the path behind `crate::`.
#[derive(Debug)]
struct Use {
    module: String,
    place: String,
    path: String,
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every `crate::...` outside comments.
fn uses() -> Vec<Use> {
    let source = source();
    let mut files = Vec::new();
    files_below(&source, &mut files);
    let mut uses = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&source).unwrap();
        let first = relative.iter().next().unwrap().to_str().unwrap();
        let module = first.trim_end_matches(".rs").to_owned();
        if module == "lib" || module == "main" {
            continue;
        }
        for (line, number) in fs::read_to_string(&file).unwrap().lines().zip(1..) {
            let code = line.split("//").next().unwrap();
            for path in code.split("crate::").skip(1) {
                let end = path.find(|letter: char| !(letter.is_alphanumeric() || "_:{}, ".contains(letter)));
                let path = path.get(..end.unwrap_or(path.len())).unwrap().to_owned();
                let place = format!("{}:{number}", relative.display());
                uses.push(Use { module: module.clone(), place, path });
            }
        }
    }
    uses
}

/// Modules in the order of `lib.rs`.
fn declared() -> Vec<String> {
    let lib = fs::read_to_string(source().join("lib.rs")).unwrap();
    let names = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    names.map(str::to_owned).collect()
}

fn row(module: &str) -> (usize, &'static [&'static str]) {
    let at = TABLE.iter().position(|(_, name, _)| *name == module);
    let at = at.unwrap_or_else(|| panic!("{module} is not in the table"));
    (at, TABLE.get(at).unwrap().2)
}

#[test]
fn modules_are_declared_in_the_order_of_the_table() {
    let names: Vec<_> = TABLE.iter().map(|(_, name, _)| (*name).to_owned()).collect();
    assert_eq!(declared(), names);
    assert!(TABLE.is_sorted_by_key(|(rank, ..)| *rank));
}

#[test]
fn the_architecture_page_has_the_same_table() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/architecture.md");
    let page = fs::read_to_string(page).unwrap();
    let rows = page.lines().filter_map(|line| {
        let (rank, rest) = line.strip_prefix("| ")?.split_once(" | `")?;
        Some((rank.parse::<u8>().ok()?, rest.split_once('`')?.0))
    });
    let rows: Vec<_> = rows.filter(|(_, module)| *module != "main").collect();
    assert_eq!(rows, TABLE.map(|(rank, module, _)| (rank, module)));
}

#[test]
fn a_module_uses_only_those_above_it() {
    for found in uses() {
        let target = found.path.split("::").next().unwrap();
        assert!(
            target.chars().all(|letter| letter.is_alphanumeric() || letter == '_'),
            "{found:?} cannot be read"
        );
        let (own, theirs) = (row(&found.module).0, row(target).0);
        assert!(theirs <= own, "{} uses {}, which stands below {}", found.place, found.path, found.module);
    }
}

#[test]
fn a_module_does_not_know_what_its_row_forbids() {
    for found in uses() {
        let (target, rest) = found.path.split_once("::").unwrap_or((&found.path, ""));
        let mut items = rest.split(|letter: char| !(letter.is_alphanumeric() || letter == '_'));
        let excepted = |item: &str| EXCEPTIONS.contains(&(found.module.as_str(), target, item));
        let allowed = items.all(|item| item.is_empty() || excepted(item));
        let forbidden = row(&found.module).1.contains(&target);
        assert!(
            allowed || !forbidden,
            "{} uses {}, which {} must not know",
            found.place,
            found.path,
            found.module
        );
    }
}

#[test]
fn modules_are_found_at_all() {
    let uses = uses();
    assert!(uses.iter().any(|found| found.module == "relay" && found.path.starts_with("transport::tcp")));
    assert!(uses.len() > 100, "{}", uses.len());
}
