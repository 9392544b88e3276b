//! A program that does nothing, and an image with it: what a pod's sandbox runs. It must never need a compiler, a registry or
//! a C library.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde_json::json;

/// What the program is called, also as the kernel knows it.
pub(super) const PAUSE_NAME: &str = "pause";

/// A name in a domain that no registry can have (RFC 6761).
pub(super) const PAUSE_IMAGE: &str = "sluice.test/pause:1";

/// Of containerd: the one that copies files, and so works on every file system.
pub(super) const SNAPSHOTTER: &str = "native";

/// Where the program is in memory: any page that a process may have.
const BASE: u64 = 0x40_0000;

/// Bytes of the two headers before the code.
const HEADERS: u64 = 64 + 56;

/// What the architecture is called in an ELF header (`e_machine`), in an image, and the code: sleep until a signal, and again.
#[cfg(target_arch = "x86_64")]
const MACHINE: (u16, &str, &[u8]) = (
    62,
    "amd64",
    &[
        0xb8, 34, 0, 0, 0, // mov eax, 34: pause(2)
        0x0f, 0x05, // syscall
        0xeb, 0xf7, // jmp to the first
    ],
);
#[cfg(target_arch = "aarch64")]
const MACHINE: (u16, &str, &[u8]) = (
    183,
    "arm64",
    &[
        0x00, 0x00, 0x80, 0xd2, // mov x0, 0: no descriptors
        0x01, 0x00, 0x80, 0xd2, // mov x1, 0
        0x02, 0x00, 0x80, 0xd2, // mov x2, 0: no deadline
        0x03, 0x00, 0x80, 0xd2, // mov x3, 0: no other signals blocked
        0x28, 0x09, 0x80, 0xd2, // mov x8, 73: ppoll(2)
        0x01, 0x00, 0x00, 0xd4, // svc 0
        0xfa, 0xff, 0xff, 0x17, // b to the first
    ],
);

/// Writes the program: an ELF file of one segment (elf(5)).
pub(super) fn write_pause(place: &Path) -> anyhow::Result<()> {
    std::fs::write(place, elf()).with_context(|| format!("write {}", place.display()))?;
    std::fs::set_permissions(place, std::fs::Permissions::from_mode(0o755)).context("make it a program")
}

fn elf() -> Vec<u8> {
    let (machine, _, code) = MACHINE;
    let size = HEADERS + code.len() as u64;
    // 64 bits, little endian, version 1.
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let half = |file: &mut Vec<u8>, value: u16| file.extend(value.to_le_bytes());
    let word = |file: &mut Vec<u8>, value: u32| file.extend(value.to_le_bytes());
    let long = |file: &mut Vec<u8>, value: u64| file.extend(value.to_le_bytes());
    half(&mut file, 2); // ET_EXEC
    half(&mut file, machine);
    word(&mut file, 1); // version
    long(&mut file, BASE + HEADERS); // entry
    long(&mut file, 64); // program headers
    long(&mut file, 0); // no section headers
    word(&mut file, 0); // flags
    for size in [64, 56, 1, 0, 0, 0] {
        half(&mut file, size); // of this header, of program headers, their number; no sections
    }
    word(&mut file, 1); // PT_LOAD
    word(&mut file, 5); // read and execute
    for value in [0, BASE, BASE, size, size, 0x1000] {
        long(&mut file, value); // offset, addresses, sizes, alignment
    }
    file.extend(code);
    file
}

/// Makes an archive as `docker save` does, of an image with nothing but the program, from a folder that has it. Its path.
pub(super) fn archive(folder: &Path) -> anyhow::Result<PathBuf> {
    let image = folder.join("image");
    std::fs::create_dir_all(&image).context("create a folder for an image")?;
    let layer = image.join("layer.tar");
    tar(&layer, &folder.join("rootfs"), &[PAUSE_NAME])?;
    let (_, architecture, _) = MACHINE;
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": { "Entrypoint": [format!("/{PAUSE_NAME}")] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer)?)] },
    });
    let manifest = json!([{ "Config": "config.json", "RepoTags": [PAUSE_IMAGE], "Layers": ["layer.tar"] }]);
    for (name, value) in [("config.json", config), ("manifest.json", manifest)] {
        std::fs::write(image.join(name), value.to_string()).with_context(|| format!("write {name}"))?;
    }
    let archive = folder.join("pause.tar");
    tar(&archive, &image, &["manifest.json", "config.json", "layer.tar"])?;
    Ok(archive)
}

fn tar(archive: &Path, folder: &Path, names: &[&str]) -> anyhow::Result<()> {
    output(Command::new("tar").arg("-cf").arg(archive).arg("-C").arg(folder).args(names)).map(drop)
}

fn sha256(file: &Path) -> anyhow::Result<String> {
    let text = output(Command::new("sha256sum").arg(file))?;
    text.split_whitespace().next().map(str::to_owned).context("sha256sum says nothing")
}

fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::{HEADERS, MACHINE, elf};

    #[test]
    fn code_follows_the_headers() {
        let file = elf();
        assert_eq!(file.get(usize::try_from(HEADERS).expect("a small number")..), Some(MACHINE.2));
    }
}
