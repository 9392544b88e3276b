//! The generated code is what the `.proto` files say.
#![expect(clippy::tests_outside_test_module, reason = "a file of integration tests is a test module")]

use std::path::Path;

/// Writes the code instead of comparing it.
const RENEW: &str = "SLUICE_RENEW_GENERATED";

const FILES: [&str; 5] =
    ["info.proto", "v1alpha1.proto", "v1alpha2.proto", "v1alpha3.proto", "plugins_v1alpha1.proto"];

#[test]
fn generated_code_is_what_the_proto_files_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let kept = root.join("src/generated");
    let fresh = tempfile::tempdir().unwrap();
    let descriptors = protox::compile(FILES, [root.join("proto")]).unwrap();
    tonic_prost_build::configure().out_dir(fresh.path()).compile_fds(descriptors).unwrap();

    let mut names: Vec<_> =
        std::fs::read_dir(fresh.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names.len(), FILES.len(), "one file for each package: {names:?}");
    for name in names {
        let code = std::fs::read_to_string(fresh.path().join(&name)).unwrap();
        let place = kept.join(&name);
        if std::env::var_os(RENEW).is_some() {
            std::fs::write(&place, code).unwrap();
            continue;
        }
        assert!(
            std::fs::read_to_string(&place).is_ok_and(|kept| kept == code),
            "{} is out of date: run `{RENEW}=1 cargo test --package kubevirt-hooks`",
            place.display()
        );
    }
}
