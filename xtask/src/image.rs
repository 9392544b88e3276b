//! `cargo xtask image`: the sidecar's programs, static, checked on an empty root, and their image.

mod elf;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::install::find;
use crate::process::Runner;
use crate::target;

/// What the image consists of: package, program.
const PROGRAMS: [(&str, &str); 2] = [("binding-sidecar", "sluice-sidecar"), ("passt-rs", "passt-rs")];

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
    let tag = tag(arguments)?;
    let context = build(runner, Profile::Release)?;
    eprintln!("xtask: {} holds the programs, which need nothing else", context.display());
    let context = context.to_str().context("the target folder's name is not UTF-8")?;
    let build = ["build", "--file", "Containerfile", "--tag", &tag, context];
    match ["buildah", "podman"].into_iter().find(|tool| find(tool).is_some()) {
        Some(tool) => runner.run(Command::new(tool).args(build))?,
        None => eprintln!(
            "xtask: NOT BUILT: the image, for want of buildah and podman. Where there is one, or docker:\n  podman {}",
            build.join(" ")
        ),
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
        // Line tables are of use with perf, which the image has not.
        cargo.arg("--release").env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo");
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

/// The image's name and version: ours, or the one asked for with `--tag`.
fn tag(arguments: &[String]) -> Result<String> {
    match arguments {
        [] => Ok(format!("sluice/sluice-sidecar:{}", env!("CARGO_PKG_VERSION"))),
        [flag, tag] if flag == "--tag" => Ok(tag.clone()),
        other => bail!("image takes --tag NAME:VERSION, not {}", other.join(" ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_is_ours_unless_named() {
        let arguments = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(tag(&[]).unwrap(), concat!("sluice/sluice-sidecar:", env!("CARGO_PKG_VERSION")));
        assert_eq!(tag(&arguments(&["--tag", "a/b:1"])).unwrap(), "a/b:1");
        let error = tag(&arguments(&["--push"])).unwrap_err().to_string();
        assert!(error.contains("--push"), "{error}");
    }
}
