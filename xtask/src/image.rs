//! `cargo xtask image`: the programs that a cluster runs, static, checked on an empty root, and their images.

mod elf;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::install::find;
use crate::process::Runner;
use crate::target;

/// What the images consist of: package, program.
const PROGRAMS: [(&str, &str); 3] =
    [("binding-sidecar", "sluice-sidecar"), ("passt-rs", "passt-rs"), ("sluice-cni", "sluice-cni")];

/// The images' names, and what each is built by.
const IMAGES: [(&str, &str); 2] = [("sluice-sidecar", "Containerfile"), ("sluice-cni", "cni/Containerfile")];

/// A node's runtime reads the whole CNI plugin for every pod: it stays below this many bytes.
const LARGEST_PLUGIN: u64 = 4 << 20;

/// Whom KubeVirt runs it as: user and group.
const USER: u32 = 107;

/// How programs are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Profile {
    /// As the image has them.
    Release,
    /// Sooner; for the check alone.
    Dev,
}

pub(crate) fn run(runner: &Runner, arguments: &[String]) -> Result<()> {
    let tags = tags(arguments)?;
    let context = build(runner, Profile::Release)?;
    eprintln!("xtask: {} holds the programs, which need nothing else", context.display());
    let context = context.to_str().context("the target folder's name is not UTF-8")?;
    let tool = ["buildah", "podman"].into_iter().find(|tool| find(tool).is_some());
    for ((_, file), tag) in IMAGES.iter().zip(&tags) {
        let build = ["build", "--file", file, "--tag", tag, context];
        match tool {
            Some(tool) => runner.run(Command::new(tool).args(build))?,
            None => eprintln!(
                "xtask: NOT BUILT: {tag}, for want of buildah and podman. Where there is one, or docker:\n  podman {}",
                build.join(" ")
            ),
        }
    }
    Ok(())
}

/// The image's programs run where nothing but themselves exists.
pub(crate) fn check(runner: &Runner) -> Result<()> {
    build(runner, Profile::Dev).map(drop)
}

/// Builds the programs, checks them, and returns the folder with them and nothing else.
fn build(runner: &Runner, profile: Profile) -> Result<PathBuf> {
    let triple = host_triple()?;
    eprintln!("xtask: building static programs for {triple}");
    let packages = PROGRAMS.iter().flat_map(|(package, _)| ["--package", package]);
    let mut cargo = Command::new("cargo");
    // With a target named, build scripts and procedural macros are left as they are: those cannot be static.
    cargo.args(["build", "--bins", "--target", &triple]).args(packages);
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
    if profile == Profile::Release {
        // Names and lines are of use with perf, which the images have not.
        cargo.arg("--release").env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    }
    runner.run(&mut cargo)?;

    let (built, context) = match profile {
        Profile::Release => ("release", "image"),
        Profile::Dev => ("debug", "image-check"),
    };
    let built = target()?.join(triple).join(built);
    let context = target()?.join(context);
    if context.exists() {
        fs::remove_dir_all(&context).with_context(|| format!("clearing {}", context.display()))?;
    }
    fs::create_dir_all(&context).with_context(|| format!("making {}", context.display()))?;
    open_to_all(&context)?;
    for (_, program) in PROGRAMS {
        let from = built.join(program);
        let to = context.join(program);
        fs::copy(&from, &to).with_context(|| format!("copying {}", from.display()))?;
        open_to_all(&to)?;
        let bytes = fs::read(&to).with_context(|| format!("reading {}", to.display()))?;
        elf::is_static(&bytes).with_context(|| format!("{program} would not start on an empty root"))?;
        if profile == Profile::Release && program == "sluice-cni" {
            let size = bytes.len() as u64;
            eprintln!("xtask: {program} has {} KiB", size / 1024);
            anyhow::ensure!(size < LARGEST_PLUGIN, "{program} has {size} bytes, more than {LARGEST_PLUGIN}");
        }
    }
    for (_, program) in PROGRAMS {
        runner.run(&mut alone(&context, program)).context("on an empty root")?;
    }
    Ok(context)
}

/// Files keep their mode in the image, where they are root's and the user is another; umask may have withheld it.
fn open_to_all(path: &Path) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(0o755))
        .with_context(|| format!("opening {}", path.display()))
}

/// `program --version` with `root` as its root folder, as the image's user.
fn alone(root: &Path, program: &str) -> Command {
    let program = format!("/{program}");
    let user = USER.to_string();
    if rustix::process::geteuid().is_root() {
        let mut command = Command::new("chroot");
        command.arg(format!("--userspec={user}:{user}")).arg(root).args([&program, "--version"]);
        return command;
    }
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-user", &user, "--map-group", &user]);
    command.arg("--root").arg(root).args([&program, "--version"]);
    command
}

/// What this machine's compiler builds for.
fn host_triple() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("running rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let triple = text.lines().find_map(|line| line.strip_prefix("host: "));
    triple.map(str::to_owned).context("rustc -vV names no host")
}

/// The images' names and version: ours, or in the registry and of the version asked for with `--tag`.
fn tags(arguments: &[String]) -> Result<Vec<String>> {
    let (registry, version) = match arguments {
        [] => ("sluice", env!("CARGO_PKG_VERSION")),
        [flag, tag] if flag == "--tag" => {
            tag.rsplit_once(':').with_context(|| format!("--tag {tag}: no version behind a colon"))?
        }
        other => bail!("image takes --tag REGISTRY/FOLDER:VERSION, not {}", other.join(" ")),
    };
    Ok(IMAGES.iter().map(|(name, _)| format!("{registry}/{name}:{version}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_ours_unless_named() {
        let arguments = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let ours = tags(&[]).unwrap();
        assert_eq!(ours[0], concat!("sluice/sluice-sidecar:", env!("CARGO_PKG_VERSION")));
        assert_eq!(
            tags(&arguments(&["--tag", "a:5/b:1"])).unwrap(),
            ["a:5/b/sluice-sidecar:1", "a:5/b/sluice-cni:1"]
        );
        for (bad, word) in [(&["--push"][..], "--push"), (&["--tag", "a"], "colon")] {
            let error = tags(&arguments(bad)).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
