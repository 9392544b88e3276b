//! A file that no longer fits in a head is split by noun before it is merged.

use std::fs;

use anyhow::{Result, bail};

/// Lines before a file's tests. 300 is normal, 500 asks which noun is missing.
const LIMIT: usize = 800;

pub(super) fn check(files: &[String]) -> Result<()> {
    let mut long = Vec::new();
    for name in files.iter().filter(|name| is_production(name)) {
        let lines = production_lines(&fs::read_to_string(name)?);
        if lines > LIMIT {
            long.push(format!("{name}: {lines} production lines, more than {LIMIT}"));
        }
    }
    if !long.is_empty() {
        bail!("{}", long.join("\n"));
    }
    Ok(())
}

fn is_production(name: &str) -> bool {
    name.ends_with(".rs") && !name.ends_with("/tests.rs") && !name.split('/').any(|folder| folder == "tests")
}

/// Tests stand at a file's end.
fn production_lines(text: &str) -> usize {
    text.lines().take_while(|line| *line != "#[cfg(test)]").count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_do_not_count() {
        assert_eq!(production_lines("one\ntwo\n#[cfg(test)]\nmod tests {}\n"), 2);
        assert!(is_production("passt-rs/src/relay.rs"));
        assert!(!is_production("passt-rs/src/relay/tests.rs"));
        assert!(!is_production("vm-tests/tests/lab.rs"));
        assert!(!is_production("README.md"));
    }
}
