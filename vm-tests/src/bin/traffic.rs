//! See [`vm_tests::traffic`].

fn main() -> std::process::ExitCode {
    vm_tests::traffic::main(std::env::args())
}
