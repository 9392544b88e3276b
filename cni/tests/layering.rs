//! A module uses only those declared above it in `lib.rs`, which are in the order a call passes them.
#![expect(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "the whole file is a test")]

use std::fs;
use std::path::{Path, PathBuf};

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// As declared, top to bottom.
fn modules() -> Vec<String> {
    let text = fs::read_to_string(source().join("lib.rs")).unwrap();
    let names = text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    names.map(str::to_owned).collect()
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

/// The first segments behind every `crate::` outside comments, of `use crate::{a, b}` all.
fn used(text: &str) -> Vec<String> {
    let code: String = text.lines().map(|line| format!("{}\n", line.split("//").next().unwrap())).collect();
    let mut names = Vec::new();
    for path in code.split("crate::").skip(1) {
        let list = path.strip_prefix('{').and_then(|list| list.split('}').next());
        let heads: Vec<&str> = list.map_or_else(|| vec![path], |list| list.split(',').collect());
        for head in heads {
            let head = head.trim();
            let end = head.find(|letter: char| !(letter.is_alphanumeric() || letter == '_'));
            names.push(head.get(..end.unwrap_or(head.len())).unwrap().to_owned());
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

#[test]
fn modules_use_only_those_above_them() {
    let modules = modules();
    assert!(modules.len() > 10, "{modules:?}");
    let rank = |name: &str| modules.iter().position(|module| module == name);
    let mut files = Vec::new();
    files_below(&source(), &mut files);
    let mut seen = 0;
    let mut faults = Vec::new();
    for file in files {
        let relative = file.strip_prefix(source()).unwrap().to_owned();
        let module = relative.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
        // Unit tests may build on what comes later.
        if module == "lib" || module == "main" || relative.ends_with("tests.rs") {
            continue;
        }
        let own = rank(&module).unwrap_or_else(|| panic!("lib.rs does not declare {module}"));
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for name in used(code) {
            let Some(other) = rank(&name) else {
                faults.push(format!("{}: crate::{name} is no module", relative.display()));
                continue;
            };
            seen += 1;
            if other > own {
                faults.push(format!(
                    "{}: {module} uses {name}, which is declared below it",
                    relative.display()
                ));
            }
        }
    }
    assert!(seen > 50, "only {seen} uses were found");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn uses_are_found_in_lists_and_not_in_comments() {
    let text = "use crate::{tap, netlink::Link};\nlet a = crate::nft::X; // crate::journal\nuse std::fmt;\n";
    assert_eq!(used(text), ["tap", "netlink", "nft"]);
}
