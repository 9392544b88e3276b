//! Domains as KubeVirt sends them, with the VMIs they are made of, and what becomes of them: one folder of `golden` for
//! each case, in which
//!
//! * `in.xml` and `vmi.json` are what the hook is called with,
//! * `place.json`, if it is there, is what is different about the pod (see [`Place`]),
//! * `out.xml` is the answer, or `error.txt` the reason why there is none.
//!
//! `SLUICE_RENEW_GOLDEN=1 cargo test --test golden` writes the answers again, to be read as a diff.
#![expect(
    clippy::panic,
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "the whole file is a test"
)]

mod roundtrip;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use binding_sidecar::define::{self, Surroundings};
use binding_sidecar::vmi;

const CASES_MIN: usize = 30;

/// What is known of container and pod.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Place {
    binding: String,
    container: String,
    /// The pod's links and their MTUs.
    links: BTreeMap<String, u32>,
    search: Vec<String>,
    /// Of the container, in bytes.
    memory_limit: Option<u64>,
}

impl Default for Place {
    fn default() -> Self {
        Self {
            binding: "sluice".to_owned(),
            container: "hook-sidecar-0".to_owned(),
            links: BTreeMap::from([("eth0".to_owned(), 1500)]),
            search: Vec::new(),
            memory_limit: None,
        }
    }
}

#[derive(Debug)]
struct Case {
    folder: PathBuf,
    name: String,
    document: String,
    vmi: Vec<u8>,
    place: Place,
}

impl Case {
    fn read(folder: PathBuf) -> Self {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let text = |file: &str| {
            fs::read_to_string(folder.join(file)).unwrap_or_else(|error| panic!("{name}/{file}: {error}"))
        };
        let place = match fs::read_to_string(folder.join("place.json")) {
            Ok(text) => serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}")),
            Err(_) => Place::default(),
        };
        Self { document: text("in.xml"), vmi: text("vmi.json").into_bytes(), place, name, folder }
    }

    /// What the hook answers, and the names of our NICs.
    fn define(&self, document: &str) -> Result<(String, Vec<String>), String> {
        let Place { binding, container, links, search, memory_limit } = self.place.clone();
        let place = vmi::Place { binding, links, search };
        let surroundings = Surroundings { container, place, memory_limit };
        let defined = define::define(document.as_bytes(), &self.vmi, &surroundings);
        let defined = defined.map_err(|error| error.to_string())?;
        Ok((defined.domain, defined.plan.nics.into_iter().map(|nic| nic.name).collect()))
    }

    fn answered(&self) -> Option<(String, Vec<String>)> {
        self.define(&self.document).ok()
    }
}

fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut folders: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    folders.into_iter().map(Case::read).collect()
}

#[test]
fn each_case_has_its_answer() {
    let renew = std::env::var_os("SLUICE_RENEW_GOLDEN").is_some();
    let cases = cases();
    assert!(cases.len() >= CASES_MIN, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        let (file, other, answer) = match case.define(&case.document) {
            Ok((document, _)) => ("out.xml", "error.txt", document),
            Err(error) => ("error.txt", "out.xml", format!("{error}\n")),
        };
        if renew {
            fs::write(case.folder.join(file), &answer).unwrap();
            let _ = fs::remove_file(case.folder.join(other));
        }
        let expected = fs::read_to_string(case.folder.join(file)).unwrap_or_default();
        if expected != answer || case.folder.join(other).exists() {
            wrong.push(format!("{}: {file} should be\n{answer}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn answer_given_again_stays_as_it_is() {
    for case in cases() {
        let Some((once, _)) = case.answered() else { continue };
        let (twice, _) = case.define(&once).unwrap();
        assert!(once == twice, "{}: a second call makes\n{twice}", case.name);
    }
}

#[test]
fn answer_that_went_through_go_gives_the_same_interfaces() {
    for case in cases() {
        let Some((once, names)) = case.answered() else { continue };
        let (again, _) = case.define(&roundtrip::lossy(&once)).unwrap();
        for name in names {
            let first = roundtrip::interface(&once, &name);
            assert!(first.is_some(), "{}: no {name}", case.name);
            assert_eq!(roundtrip::interface(&again, &name), first, "{}", case.name);
        }
    }
}

#[test]
fn answer_differs_in_what_is_ours_only() {
    for case in cases() {
        let Some((answer, names)) = case.answered() else { continue };
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let before = roundtrip::without_ours(&case.document, &names);
        assert_eq!(roundtrip::without_ours(&answer, &names), before, "{}", case.name);
    }
}

#[test]
fn answer_is_one_that_another_reader_takes_too() {
    for case in cases() {
        let Some((answer, _)) = case.answered() else { continue };
        assert_eq!(
            roundtrip::is_well_formed(&answer),
            roundtrip::is_well_formed(&case.document),
            "{}",
            case.name
        );
    }
}
