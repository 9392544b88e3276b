//! The variables a runtime sets: which verb, for whom, where. It must never look at the namespace or at the configuration.
//!
//! Go's `skel` judges the names after the configuration, this module before; that shows only where both are wrong.

use std::path::PathBuf;

use super::arguments::Arguments;
use super::cni_error::{CniError, Code};

/// The verbs of CNI 1.1.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Command {
    pub const ALL: [Self; 6] = [Self::Add, Self::Del, Self::Check, Self::Gc, Self::Status, Self::Version];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// `None` if no verb is given: a person ran the program, who is told what it is.
    ///
    /// # Errors
    /// Code 4 for a verb that is none.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, CniError> {
        let Some(text) = lookup("CNI_COMMAND").filter(|text| !text.is_empty()) else { return Ok(None) };
        let command = Self::ALL.into_iter().find(|command| command.as_str() == text);
        command.map(Some).ok_or_else(|| invalid(format!("unknown CNI_COMMAND: {text}"), ""))
    }

    /// Whether the verb is about one interface of one container.
    pub const fn has_attachment(self) -> bool {
        matches!(self, Self::Add | Self::Del | Self::Check)
    }

    const fn requires(self, variable: Variable) -> bool {
        match variable {
            Variable::ContainerId | Variable::Ifname => self.has_attachment(),
            Variable::Netns => matches!(self, Self::Add | Self::Check),
            Variable::Path => !matches!(self, Self::Version),
        }
    }
}

/// What the verb needs; what it does not need is empty, whatever the variable says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    pub command: Command,
    pub container_id: String,
    /// As given, not resolved. Always there for ADD and CHECK.
    pub netns: Option<PathBuf>,
    /// At most 15 bytes, valid for the kernel.
    pub interface: String,
    /// `CNI_ARGS`.
    pub arguments: Arguments,
    /// Where plugins are, in order of search. Empty entries of `CNI_PATH` would mean the working directory: left out.
    pub path: Vec<PathBuf>,
    /// The plugin may be in the namespace it wires (`CNI_NETNS_OVERRIDE`, only Go's library has it).
    pub netns_override: bool,
}

impl Environment {
    /// # Errors
    /// Code 4: no verb or none that is known, variables missing (all named at once), a container's id or an interface's
    /// name that cannot be, `CNI_ARGS` that cannot be read (not for DEL).
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, CniError> {
        let given = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let Some(command) = Command::read(&lookup)? else { return Err(missing(&["CNI_COMMAND"])) };

        let absent: Vec<&str> = Variable::ALL
            .into_iter()
            .filter(|variable| command.requires(*variable))
            .map(Variable::name)
            .filter(|name| given(name).is_none())
            .collect();
        if !absent.is_empty() {
            return Err(missing(&absent));
        }

        let mut environment = Self {
            command,
            container_id: String::new(),
            netns: None,
            interface: String::new(),
            arguments: Arguments::default(),
            path: Vec::new(),
            netns_override: given("CNI_NETNS_OVERRIDE")
                .is_some_and(|value| value == "1" || value.eq_ignore_ascii_case("true")),
        };
        if command.requires(Variable::Path) {
            let path = given("CNI_PATH").unwrap_or_default();
            environment.path = path.split(':').filter(|entry| !entry.is_empty()).map(PathBuf::from).collect();
        }
        if command.has_attachment() {
            environment.container_id = given("CNI_CONTAINERID").unwrap_or_default();
            environment.interface = given("CNI_IFNAME").unwrap_or_default();
            environment.netns = given("CNI_NETNS").map(PathBuf::from);
            check_container_id(&environment.container_id)?;
            check_interface(&environment.interface, command)?;
            let arguments = given("CNI_ARGS").unwrap_or_default();
            environment.arguments = match command {
                Command::Del => Arguments::parse_leniently(&arguments),
                Command::Add | Command::Check | Command::Gc | Command::Status | Command::Version => {
                    Arguments::parse(&arguments)?
                }
            };
        }
        Ok(environment)
    }
}

/// Those that some verb requires, in the order they are named in when missing.
#[derive(Clone, Copy)]
enum Variable {
    ContainerId,
    Netns,
    Ifname,
    Path,
}

impl Variable {
    const ALL: [Self; 4] = [Self::ContainerId, Self::Netns, Self::Ifname, Self::Path];

    const fn name(self) -> &'static str {
        match self {
            Self::ContainerId => "CNI_CONTAINERID",
            Self::Netns => "CNI_NETNS",
            Self::Ifname => "CNI_IFNAME",
            Self::Path => "CNI_PATH",
        }
    }
}

/// A letter or digit, then those and `_`, `.`, `-`: the specification's rule for names of networks and containers,
/// which both become names of files.
pub(super) fn is_plain_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// Bytes that a link's name may have: `IFNAMSIZ` of linux/if.h without the closing zero.
const LONGEST_LINK_NAME: usize = 15;

/// # Errors
/// Why the kernel would refuse a link of this name, in Go's words.
pub fn check_link_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        Err("interface name is empty")
    } else if name.len() > LONGEST_LINK_NAME {
        Err("interface name is too long")
    } else if name == "." || name == ".." {
        Err("interface name is . or ..")
    } else if name.contains(|letter: char| letter == '/' || letter == ':' || letter.is_whitespace()) {
        Err("interface name contains / or : or whitespace characters")
    } else {
        Ok(())
    }
}

fn check_container_id(id: &str) -> Result<(), CniError> {
    if is_plain_name(id) { Ok(()) } else { Err(invalid("invalid characters in containerID", id)) }
}

fn check_interface(name: &str, command: Command) -> Result<(), CniError> {
    check_link_name(name).map_err(|why| invalid(why, format!("CNI_IFNAME {name:?}")))?;
    // The kernel would number such a link (`dev_alloc_name`), so what is made had another name than asked for.
    // A removal of one has nothing to remove.
    if name.contains('%') && command != Command::Del {
        return Err(invalid("interface name contains %", format!("CNI_IFNAME {name:?}")));
    }
    Ok(())
}

fn missing(names: &[&str]) -> CniError {
    invalid(format!("required env variables [{}] missing", names.join(",")), "")
}

fn invalid(msg: impl Into<String>, details: impl Into<String>) -> CniError {
    CniError::new(Code::InvalidEnvironment, msg).with_details(details)
}
