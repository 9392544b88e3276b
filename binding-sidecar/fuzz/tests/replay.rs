//! Seeds, and every input that once broke a promise, keep them.
#![expect(clippy::tests_outside_test_module, reason = "the whole file is a test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use binding_sidecar_fuzz::TARGETS;

/// Of a seed, which may be a whole domain.
const PREFIXES: usize = 64;

#[test]
fn every_seed_and_prefixes_of_it_keep_the_promises() {
    for target in TARGETS {
        for seed in (target.seeds)() {
            for len in (0..seed.len()).step_by(seed.len() / PREFIXES + 1) {
                (target.run)(&seed[..len]);
            }
            (target.run)(&seed);
        }
    }
}

#[test]
fn what_was_found_stays_fixed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    let Ok(entries) = fs::read_dir(folder) else { return }; // nothing was found yet
    for entry in entries {
        let folder = entry.unwrap().path();
        let target = TARGETS.iter().find(|target| folder.ends_with(target.name)).unwrap();
        for input in fs::read_dir(&folder).unwrap() {
            let path = input.unwrap().path();
            println!("{}", path.display());
            (target.run)(&fs::read(path).unwrap());
        }
    }
}

#[test]
fn no_two_targets_share_a_name() {
    let names: BTreeSet<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(names.len(), TARGETS.len());
}
