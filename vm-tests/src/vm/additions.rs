//! What a guest's first file system has besides: kernel modules, and programs of this machine with the libraries this
//! machine runs them with. It must never leave out in silence what a program needs.
//!
//! A program is where the guest is to have it, and its loader and libraries are where this machine has them, instead of
//! those of the guest's packages: the kernel unpacks archives one after another, and what comes later replaces.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use super::cpio::Archive;
use super::modules;

/// A program and where the guest has it.
#[derive(Debug, Clone)]
pub struct Program {
    /// An absolute path in the guest.
    pub place: String,
    /// The file on this machine.
    pub file: PathBuf,
}

/// Modules and programs for [`super::Image::with`].
#[derive(Debug, Clone, Default)]
pub struct Additions {
    /// Names of kernel modules, loaded at the boot in this order, each after those it needs.
    pub modules: Vec<&'static str>,
    pub programs: Vec<Program>,
}

/// An archive with `additions`, and with the list of all modules, which begins with `first`. `tree` is where the guest's
/// modules are; what is made on the way goes to `directory`.
pub(super) fn archive(
    additions: &Additions,
    first: &[&str],
    tree: &Path,
    directory: &Path,
) -> anyhow::Result<Vec<u8>> {
    let mut archive = Archive::default();
    let wanted: Vec<&str> = first.iter().chain(&additions.modules).copied().collect();
    modules::store(&mut archive, tree, &wanted)?;
    let mut files = BTreeSet::new();
    for program in &additions.programs {
        let stripped = without_debug_information(&program.file, directory)?;
        put(&mut archive, &program.place, &stripped)?;
        files.extend(linked_libraries(&program.file)?);
    }
    for file in &files {
        put(&mut archive, &file.to_string_lossy(), file)?;
    }
    Ok(archive.finish())
}

/// A file and the folders above it.
fn put(archive: &mut Archive, place: &str, file: &Path) -> anyhow::Result<()> {
    let place = place.strip_prefix('/').with_context(|| format!("{place} is not absolute"))?;
    for (end, _) in place.match_indices('/') {
        archive.directory(place.split_at(end).0);
    }
    let content = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
    archive.file(place, &content, 0o755);
    Ok(())
}

/// The loader and the libraries of a program, as this machine's loader finds them. None for a static one.
fn linked_libraries(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("run ldd")?;
    libraries(&String::from_utf8_lossy(&output.stdout)).with_context(|| program.display().to_string())
}

/// The paths in lines of `NAME => PATH (ADDRESS)`, or `PATH (ADDRESS)` for the loader.
fn libraries(list: &str) -> anyhow::Result<Vec<PathBuf>> {
    if let Some(line) = list.lines().find(|line| line.contains("=> not found")) {
        anyhow::bail!("a library is missing: {}", line.trim());
    }
    let paths = list.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(PathBuf::from).collect())
}

/// A debug build is ten times as large with what debuggers want, and an emulated guest unpacks every byte of it.
fn without_debug_information(program: &Path, directory: &Path) -> anyhow::Result<PathBuf> {
    let name = program.file_name().with_context(|| format!("{} is no program", program.display()))?;
    let folder = directory.join("stripped");
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let stripped = folder.join(name);
    let output = Command::new("strip")
        .arg("--strip-debug")
        .arg("-o")
        .args([&stripped, program])
        .output()
        .context("run strip (binutils)")?;
    anyhow::ensure!(
        output.status.success(),
        "strip {}: {}",
        program.display(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(stripped)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::libraries;

    #[test]
    fn libraries_and_loader_are_those_with_a_path() {
        let list = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n\t/lib64/ld.so (0x3)\n";
        assert_eq!(libraries(list).unwrap(), [Path::new("/lib/libc.so.6"), Path::new("/lib64/ld.so")]);
        assert!(libraries("\tstatically linked\n").unwrap().is_empty());
    }

    #[test]
    fn missing_library_is_an_error() {
        let error = libraries("\tliba.so => not found\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n").unwrap_err();
        assert!(error.to_string().contains("liba.so"), "{error}");
    }
}
