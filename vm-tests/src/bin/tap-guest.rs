//! See [`vm_tests::tap_guest`].

fn main() -> std::process::ExitCode {
    vm_tests::tap_guest::main(std::env::args())
}
