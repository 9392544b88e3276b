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
    /// It is of another attachment than the runtime called for, of which the process's own variables say nothing.
    pub of_another: bool,
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
            of_another: false,
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

#[cfg(test)]
mod tests {
    use super::*;

    const COMPLETE: [(&str, &str); 5] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/a"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/opt/cni/bin"),
    ];

    /// A complete environment of ADD but for what is given; an empty value is as good as none.
    fn read(changes: &[(&str, &str)]) -> Result<Environment, CniError> {
        let lookup = |name: &str| {
            let all = changes.iter().chain(&COMPLETE);
            all.into_iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        Environment::read(lookup)
    }

    #[test]
    fn wrong_environments_are_told_in_gos_words() {
        let none = [("CNI_CONTAINERID", ""), ("CNI_NETNS", ""), ("CNI_IFNAME", ""), ("CNI_PATH", "")];
        let with = |command: &'static str| [&[("CNI_COMMAND", command)], &none[..]].concat();
        let rows: Vec<(Vec<(&str, &str)>, _, _)> = vec![
            (with(""), "required env variables [CNI_COMMAND] missing", ""),
            (
                with("ADD"),
                "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH] missing",
                "",
            ),
            (
                with("CHECK"),
                "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH] missing",
                "",
            ),
            (with("DEL"), "required env variables [CNI_CONTAINERID,CNI_IFNAME,CNI_PATH] missing", ""),
            (with("GC"), "required env variables [CNI_PATH] missing", ""),
            (with("STATUS"), "required env variables [CNI_PATH] missing", ""),
            (with("FOO"), "unknown CNI_COMMAND: FOO", ""),
            (with("add"), "unknown CNI_COMMAND: add", ""),
            (vec![("CNI_CONTAINERID", "a/b")], "invalid characters in containerID", "a/b"),
            (vec![("CNI_CONTAINERID", "-a")], "invalid characters in containerID", "-a"),
            (
                vec![("CNI_IFNAME", "pod37a8eec1ce1aa")],
                "interface name is too long",
                r#"CNI_IFNAME "pod37a8eec1ce1aa""#,
            ),
            (vec![("CNI_IFNAME", "éééééééé")], "interface name is too long", r#"CNI_IFNAME "éééééééé""#),
            (vec![("CNI_IFNAME", ".")], "interface name is . or ..", r#"CNI_IFNAME ".""#),
            (vec![("CNI_IFNAME", "..")], "interface name is . or ..", r#"CNI_IFNAME "..""#),
            (
                vec![("CNI_IFNAME", "a/b")],
                "interface name contains / or : or whitespace characters",
                r#"CNI_IFNAME "a/b""#,
            ),
            (
                vec![("CNI_IFNAME", "a:b")],
                "interface name contains / or : or whitespace characters",
                r#"CNI_IFNAME "a:b""#,
            ),
            (
                vec![("CNI_IFNAME", "a\tb")],
                "interface name contains / or : or whitespace characters",
                r#"CNI_IFNAME "a\tb""#,
            ),
            (vec![("CNI_IFNAME", "eth%d")], "interface name contains %", r#"CNI_IFNAME "eth%d""#),
            (vec![("CNI_ARGS", "FOO=1")], r#"CNI_ARGS: unknown args ["FOO=1"]"#, ""),
            (
                vec![("CNI_COMMAND", "CHECK"), ("CNI_ARGS", "FOO=1")],
                r#"CNI_ARGS: unknown args ["FOO=1"]"#,
                "",
            ),
        ];
        for (changes, msg, details) in rows {
            let error = read(&changes).unwrap_err();
            assert_eq!(
                (error.code, error.msg.as_str(), error.details.as_str()),
                (4, msg, details),
                "{changes:?}"
            );
        }
    }

    #[test]
    fn empty_link_name_is_refused() {
        assert_eq!(check_link_name(""), Err("interface name is empty"));
    }

    #[test]
    fn no_command_is_a_person_asking() {
        assert_eq!(Command::read(|_| None), Ok(None));
        assert_eq!(Command::read(|_| Some(String::new())), Ok(None));
    }

    #[test]
    fn complete_environment_is_read() {
        let changes = [("CNI_PATH", "/opt/cni/bin::/usr/lib/cni"), ("CNI_ARGS", "MAC=m")];
        let expected = Environment {
            command: Command::Add,
            container_id: "c1".to_owned(),
            netns: Some(PathBuf::from("/run/netns/a")),
            interface: "eth0".to_owned(),
            arguments: Arguments {
                text: "MAC=m".to_owned(),
                mac: Some("m".to_owned()),
                ..Arguments::default()
            },
            path: vec![PathBuf::from("/opt/cni/bin"), PathBuf::from("/usr/lib/cni")],
            netns_override: false,
            of_another: false,
        };
        assert_eq!(read(&changes), Ok(expected));
    }

    #[test]
    fn names_of_fifteen_bytes_and_odd_ids_pass() {
        for name in ["pod37a8eec1ce1a", "éééééééa", "a", "-", "..."] {
            assert_eq!(read(&[("CNI_IFNAME", name)]).unwrap().interface, name);
        }
        for id in ["0", "a_b.c-d", "A.."] {
            assert_eq!(read(&[("CNI_CONTAINERID", id)]).unwrap().container_id, id);
        }
    }

    #[test]
    fn removal_needs_no_namespace_and_takes_any_arguments() {
        let changes =
            [("CNI_COMMAND", "DEL"), ("CNI_NETNS", ""), ("CNI_IFNAME", "eth%d"), ("CNI_ARGS", "FOO;MAC=m")];
        let environment = read(&changes).unwrap();
        assert_eq!(environment.netns, None);
        assert_eq!(environment.arguments.mac.as_deref(), Some("m"));
        let kept = read(&[("CNI_COMMAND", "DEL")]).unwrap();
        assert_eq!(kept.netns, Some(PathBuf::from("/run/netns/a")));
    }

    #[test]
    fn what_a_verb_does_not_need_is_not_looked_at() {
        let bad = [("CNI_CONTAINERID", "/"), ("CNI_NETNS", "/x"), ("CNI_IFNAME", "a/b"), ("CNI_ARGS", "?")];
        for command in ["GC", "STATUS", "VERSION"] {
            let environment = read(&[&[("CNI_COMMAND", command)], &bad[..]].concat()).unwrap();
            assert_eq!(environment.container_id, "");
            assert_eq!(environment.netns, None);
            assert_eq!(environment.interface, "");
            assert_eq!(environment.arguments, Arguments::default());
            assert_eq!(environment.path.is_empty(), command == "VERSION");
        }
        assert_eq!(read(&[("CNI_COMMAND", "VERSION"), ("CNI_PATH", "")]).unwrap().command, Command::Version);
    }

    #[test]
    fn own_namespace_is_allowed_by_three_spellings() {
        for (value, expected) in
            [("1", true), ("true", true), ("TRUE", true), ("0", false), ("yes", false), ("", false)]
        {
            assert_eq!(read(&[("CNI_NETNS_OVERRIDE", value)]).unwrap().netns_override, expected, "{value}");
        }
    }

    #[test]
    fn every_command_is_read_by_its_name() {
        for command in Command::ALL {
            assert_eq!(Command::read(|_| Some(command.as_str().to_owned())), Ok(Some(command)));
        }
    }
}
