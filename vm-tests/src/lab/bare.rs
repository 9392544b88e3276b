//! Namespaces without wires, and a directory: for what makes its own network. It must never wire anything itself.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context as _;

use super::{Namespace, privilege, sweep};

/// Namespaces by the names they were asked for, `lo` up in each. Removed when dropped.
#[derive(Debug)]
pub struct Bare {
    namespaces: Vec<(String, Namespace)>,
    directory: PathBuf,
}

impl Bare {
    /// Names are of at most a few letters and digits.
    ///
    /// Without root the whole process starts again inside a user namespace of its own.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> anyhow::Result<Self> {
        privilege::ensure()?;
        let prefix = prefix();
        let directory = std::env::temp_dir().join(&prefix);
        let _lock = sweep::Lock::take()?;
        sweep::stale_labs();
        std::fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
        std::fs::set_permissions(&directory, Permissions::from_mode(0o1777))
            .context("open the directory to all")?;
        // From here on Drop removes what was made, also when a later step fails.
        let mut bare = Self { namespaces: Vec::new(), directory };
        for name in names {
            let namespace = Namespace::create(&format!("{prefix}-{name}"))?;
            namespace.ip("link set lo up\n")?;
            bare.namespaces.push((name.to_owned(), namespace));
        }
        Ok(bare)
    }

    pub fn namespace(&self, name: &str) -> anyhow::Result<&Namespace> {
        let found = self.namespaces.iter().find(|(candidate, _)| candidate == name);
        found.map(|(_, namespace)| namespace).with_context(|| format!("no namespace is called {name}"))
    }

    /// In the order they were asked for.
    pub fn namespaces(&self) -> impl Iterator<Item = (&str, &Namespace)> {
        self.namespaces.iter().map(|(name, namespace)| (name.as_str(), namespace))
    }

    /// Removed with the value, kept when a test fails.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        for (_, namespace) in self.namespaces.iter().rev() {
            namespace.remove();
        }
        super::leave(&self.directory);
    }
}

/// What the names of one lab begin with.
pub(super) fn prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);

    format!("{}{}-{}", sweep::PREFIX, std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
