//! See [`vm_tests::vhost::cable`].

fn main() -> std::process::ExitCode {
    vm_tests::vhost::cable::main(std::env::args())
}
