//! Every path and command the documentation names exists: a text that outlived what it describes is found here.
//!
//! Looked at: links, and code in lines and in blocks, of README.md and everything below docs. A word of code is a path of the
//! repository if its first part is one of the repository's own top-level names, or if it ends like a file of ours.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

use crate::COMMANDS;

const COMMAND: &str = "cargo xtask ";

/// Endings of files that we write. Others' files have other endings, or are named with a leading `/`.
const ENDINGS: [&str; 6] = [".rs", ".md", ".toml", ".proto", ".yaml", ".sh"];

pub(super) fn check(files: &[String]) -> Result<()> {
    let mut wrong = Vec::new();
    for document in files.iter().filter(|name| is_document(name)) {
        let text = fs::read_to_string(document)?;
        let repository = Repository::new(files, document);
        wrong.extend(
            repository.faults(&text).into_iter().map(|(line, fault)| format!("{document}:{line}: {fault}")),
        );
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}

fn is_document(name: &str) -> bool {
    name == "README.md" || (name.starts_with("docs/") && name.ends_with(".md"))
}

/// What a document may name.
#[derive(Debug)]
struct Repository {
    /// Files and the folders they are in, from the root.
    paths: BTreeSet<String>,
    /// Where a document's relative links start.
    folder: String,
}

impl Repository {
    fn new(files: &[String], document: &str) -> Self {
        let ancestors = files.iter().flat_map(|file| Path::new(file).ancestors());
        let paths =
            ancestors.filter_map(Path::to_str).filter(|path| !path.is_empty()).map(str::to_owned).collect();
        let folder = document.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
        Self { paths, folder }
    }

    /// Names of nothing, each with its line.
    fn faults(&self, text: &str) -> Vec<(usize, String)> {
        let mut faults = Vec::new();
        let mut in_block = false;
        for (number, line) in (1..).zip(text.lines()) {
            if line.trim_start().starts_with("```") {
                in_block = !in_block;
                continue;
            }
            let code: Vec<&str> =
                if in_block { vec![line] } else { line.split('`').skip(1).step_by(2).collect() };
            let words = code.iter().flat_map(|code| code.split_whitespace());
            let missing = words.filter(|word| self.is_path(word) && !self.has(word));
            faults.extend(missing.map(|word| (number, format!("no such path: {word}"))));
            let links = links(line).filter(|link| !in_block && !self.has(link));
            faults.extend(links.map(|link| (number, format!("no such file to link to: {link}"))));
            faults.extend(
                unknown_commands(line).map(|name| (number, format!("no such command: {COMMAND}{name}"))),
            );
        }
        faults
    }

    fn is_path(&self, word: &str) -> bool {
        let word = trim(word);
        let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "._-/*".contains(c));
        if !plain || word.starts_with('/') || word.starts_with("target/") {
            return false;
        }
        let first = word.split('/').next().unwrap_or_default();
        // A program has the name of its folder; only with a slash is the folder meant.
        let ours = word.contains('/') && self.paths.contains(first);
        // `.rs` alone is an ending, `x.example/y.md` is on somebody's server.
        ours || ENDINGS.iter().any(|end| word.strip_suffix(end).is_some_and(|stem| !stem.is_empty()))
            && (!word.contains('/') || !first.contains('.') || first.starts_with('.'))
    }

    fn has(&self, word: &str) -> bool {
        let word = trim(word);
        // Of a pattern, what comes before it.
        let fixed = word
            .split_once('*')
            .map_or(word, |(fixed, _)| fixed.rsplit_once('/').map_or("", |(path, _)| path));
        let fixed = fixed.trim_end_matches('/');
        let mut nearby = self.folder.clone() + fixed;
        while let Some((before, after)) = nearby.split_once("../") {
            let parent = before
                .trim_end_matches('/')
                .rsplit_once('/')
                .map_or(String::new(), |(up, _)| format!("{up}/"));
            nearby = parent + after;
        }
        fixed.is_empty() || self.paths.contains(fixed) || self.paths.contains(&nearby)
    }
}

/// A word without what surrounds it: quotes, a leading `./`, a place in the file, the sentence's end.
fn trim(word: &str) -> &str {
    let word = word.trim_matches(['"', '\'', '(', ')', ',', ';', ':']);
    let word = word.strip_prefix("./").unwrap_or(word);
    word.split_once(['#', ':']).map_or(word, |(path, _)| path).trim_end_matches('.')
}

/// Targets of `[text](target)` that are files.
fn links(line: &str) -> impl Iterator<Item = &str> {
    let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| {
        !target.contains("://") && !target.starts_with('#') && !target.starts_with("mailto:")
    })
}

fn unknown_commands(line: &str) -> impl Iterator<Item = &str> {
    let names =
        line.split(COMMAND).skip(1).filter_map(|rest| rest.split(|c: char| !c.is_ascii_lowercase()).next());
    // A placeholder is written in capitals.
    names.filter(|name| !name.is_empty() && !COMMANDS.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        let files = [
            "README.md",
            "passt-rs/src/relay/mod.rs",
            "docs/adr/0001-name.md",
            ".ci/run",
            "docs/performance.md",
        ];
        let repository = Repository::new(&files.map(str::to_owned), "docs/performance.md");
        repository.faults(text).into_iter().map(|(_, fault)| fault).collect()
    }

    #[test]
    fn names_of_something_pass() {
        let texts = [
            "`passt-rs/src/relay/mod.rs`, `passt-rs/src/relay/mod.rs:12`, `passt-rs/src/` and `./.ci/run`",
            "[one](adr/0001-name.md), [up](../README.md#part), [out](https://example.org/x.md)",
            "`docs/adr/*.md`, `adr/0001-name.md`",
            "run `cargo xtask test` or cargo xtask COMMAND",
            "`/etc/apt/sources.list`, `10.244.1.1/24`, `target/demo/x.md`, `sluice.dev/ports`, `passt-rs --help`, `.rs`",
            "plain prose about gone/file.rs",
        ];
        for text in texts {
            assert!(faults(text).is_empty(), "{text}: {:?}", faults(text));
        }
    }

    #[test]
    fn names_of_nothing_fail() {
        let texts = [
            "see `passt-rs/src/gone.rs`",
            "see `gone.toml`",
            "see [this](adr/0002-gone.md)",
            "```\n./docs/gone\n```",
            "`docs/gone/*.md`",
            "cargo xtask dance",
        ];
        for text in texts {
            assert_eq!(faults(text).len(), 1, "{text}: {:?}", faults(text));
        }
    }
}
