//! The release's backports suite: derived from the Debian sources that are already configured, so that whatever mirror
//! and keys this machine uses stay in use.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::apt;
use crate::process::Runner;

const SOURCES: &str = "/etc/apt/sources.list.d/debian.sources";
const SOURCES_ONE_LINE: &str = "/etc/apt/sources.list";
const OURS: &str = "/etc/apt/sources.list.d/sluice-backports";

/// Makes sure the suite is configured; its name, for `apt-get -t`.
pub(super) fn enable(runner: &Runner) -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    let codename = codename(&release).context("/etc/os-release names no release")?;
    let suite = format!("{codename}-backports");
    if configured(&suite)? {
        return Ok(suite);
    }
    let (file, text) = match (fs::read_to_string(SOURCES), fs::read_to_string(SOURCES_ONE_LINE)) {
        (Ok(stanzas), _) => (format!("{OURS}.sources"), from_stanza(&stanzas, &suite)),
        (Err(_), Ok(lines)) => (format!("{OURS}.list"), from_line(&lines, codename, &suite)),
        (Err(_), Err(_)) => {
            bail!("neither {SOURCES} nor {SOURCES_ONE_LINE} is there: add {suite} to apt's sources")
        }
    };
    let text =
        text.with_context(|| format!("apt's sources name no Debian release to derive {suite} from"))?;
    eprintln!(
        "xtask: adding {suite} to apt's sources, as {file} (the release itself has too old a QEMU or libvirt)"
    );
    fs::write(&file, text).with_context(|| format!("writing {file}"))?;
    apt(runner, &["update", "-qq"])?;
    Ok(suite)
}

/// Whether any sources file names `suite`, by whoever's hand.
fn configured(suite: &str) -> Result<bool> {
    let folder = fs::read_dir("/etc/apt/sources.list.d").context("reading /etc/apt/sources.list.d")?;
    let files = folder.flatten().map(|entry| entry.path()).filter(|path| is_sources(path));
    let mut all = files.chain([SOURCES_ONE_LINE.into()]);
    Ok(all.any(|file| {
        fs::read_to_string(file).is_ok_and(|text| text.split_whitespace().any(|word| word == suite))
    }))
}

fn is_sources(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "sources" || extension == "list")
}

fn codename(release: &str) -> Option<&str> {
    release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).map(|name| name.trim_matches('"'))
}

/// The first stanza with another suite. Comments go: they speak of the original.
fn from_stanza(stanzas: &str, suite: &str) -> Option<String> {
    let lines = stanzas.lines().filter(|line| !line.starts_with('#'));
    let stanza: Vec<&str> =
        lines.skip_while(|line| line.trim().is_empty()).take_while(|line| !line.trim().is_empty()).collect();
    stanza.iter().find(|line| line.starts_with("Suites:"))?;
    let renamed = stanza.iter().map(|line| match line.strip_prefix("Suites:") {
        Some(_) => format!("Suites: {suite}\n"),
        None => format!("{line}\n"),
    });
    Some(renamed.collect())
}

/// The release's own line of the old format with another suite.
fn from_line(lines: &str, codename: &str, suite: &str) -> Option<String> {
    let line = lines
        .lines()
        .find(|line| line.starts_with("deb ") && line.split_whitespace().any(|word| word == codename))?;
    Some(format!("{}\n", line.replacen(&format!(" {codename} "), &format!(" {suite} "), 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stanza_keeps_everything_but_the_suite() {
        let file = "Types: deb\n# of a day\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n\
                    Components: main\nSigned-By: /k.gpg\n\nTypes: deb\nURIs: http://mirror.example/security\n";
        let derived = from_stanza(file, "bookworm-backports").unwrap();
        assert_eq!(
            derived,
            "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm-backports\n\
             Components: main\nSigned-By: /k.gpg\n"
        );
    }

    #[test]
    fn line_of_the_old_format_keeps_everything_but_the_suite() {
        let file = "# comment\ndeb [signed-by=/k.gpg] http://mirror.example/debian bookworm main\n";
        let derived = from_line(file, "bookworm", "bookworm-backports").unwrap();
        assert_eq!(derived, "deb [signed-by=/k.gpg] http://mirror.example/debian bookworm-backports main\n");
    }

    #[test]
    fn release_is_read_from_os_release() {
        assert_eq!(codename("ID=debian\nVERSION_CODENAME=bookworm\n"), Some("bookworm"));
        assert_eq!(codename("ID=other\n"), None);
    }
}
