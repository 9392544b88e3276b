//! See [`vm_tests::traffic`].

fn main() -> anyhow::Result<()> {
    vm_tests::traffic::main(std::env::args())
}
