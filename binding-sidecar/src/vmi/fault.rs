//! What is wrong with a VMI. It must never grow with the VMI: a list of a million bad ports is one long list of faults,
//! and gRPC carries them in a header.

use std::fmt;

use super::Identity;

/// Why nothing is done for a VMI. One line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("VirtualMachineInstance{}: {}{}", Who(.identity), Joined(.faults), More(.more))]
pub struct Refusal {
    /// None where not even this can be read.
    pub identity: Option<Identity>,
    /// In the order they were found: the first 4 KiB, and at least one.
    pub faults: Vec<Fault>,
    /// How many there are besides.
    pub more: usize,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Fault {
    /// Where in the VMI, as `spec.domain.devices.interfaces[1] "blue": ports[0].port`.
    pub field: String,
    /// What is there, and what is allowed.
    pub problem: String,
}

impl Refusal {
    pub(super) fn unreadable(identity: Option<Identity>, error: &serde_json::Error) -> Self {
        let text = error.to_string();
        let mut problem: String =
            text.chars().filter(|char| !char.is_control()).take(PROBLEM_CHARS_MAX).collect();
        if problem.len() < text.len() {
            problem.push_str(&format!("... at line {} column {}", error.line(), error.column()));
        }
        Self { identity, faults: vec![Fault { field: "JSON".to_owned(), problem }], more: 0 }
    }
}

/// The faults found so far.
#[derive(Debug, Default)]
pub(super) struct Faults {
    kept: Vec<Fault>,
    kept_bytes: usize,
    more: usize,
}

impl Faults {
    /// Nothing is formatted that is not kept.
    pub(super) fn add(&mut self, field: impl fmt::Display, problem: impl fmt::Display) {
        if self.kept_bytes < KEPT_BYTES_MAX {
            let fault = Fault { field: field.to_string(), problem: problem.to_string() };
            self.kept_bytes += fault.field.len() + fault.problem.len();
            self.kept.push(fault);
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    pub(super) fn at_interface<'a>(&'a mut self, position: usize, name: &'a str) -> AtInterface<'a> {
        AtInterface { faults: self, position, name }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    pub(super) fn refuse(self, identity: Identity) -> Refusal {
        Refusal { identity: Some(identity), faults: self.kept, more: self.more }
    }
}

/// Faults of one interface.
#[derive(Debug)]
pub(super) struct AtInterface<'a> {
    faults: &'a mut Faults,
    position: usize,
    name: &'a str,
}

impl AtInterface<'_> {
    /// `field` is one of the interface's.
    pub(super) fn add(&mut self, field: impl fmt::Display, problem: impl fmt::Display) {
        let Self { faults, position, name } = self;
        let name = Quoted(name);
        faults.add(format_args!("spec.domain.devices.interfaces[{position}] {name}: {field}"), problem);
    }
}

/// Text of a VMI, as it may stand in a line of ours: short, and without control characters.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", Shown(self.0, QUOTED_CHARS_MAX))
    }
}

/// A text's first characters.
struct Shown<'a>(&'a str, usize);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(text, most) = *self;
        match text.char_indices().nth(most) {
            None => write!(f, "{}", text.escape_debug()),
            Some((end, _)) => write!(f, "{}...", text.get(..end).unwrap_or_default().escape_debug()),
        }
    }
}

struct Who<'a>(&'a Option<Identity>);

impl fmt::Display for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => Ok(()),
            Some(Identity { namespace, name, uid: _ }) => {
                write!(f, " {}/{}", Shown(namespace, NAME_CHARS_MAX), Shown(name, NAME_CHARS_MAX))
            }
        }
    }
}

struct Joined<'a>(&'a [Fault]);

impl fmt::Display for Joined<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for fault in self.0 {
            write!(f, "{separator}{fault}")?;
            separator = "; ";
        }
        Ok(())
    }
}

struct More<'a>(&'a usize);

impl fmt::Display for More<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self.0 > 0 { write!(f, "; and {} more", self.0) } else { Ok(()) }
    }
}

/// About 40 faults. HTTP/2 takes 16 KiB of headers unless told otherwise, and percent-encoding may add to the text.
const KEPT_BYTES_MAX: usize = 4096;
/// Enough to recognise a value by.
const QUOTED_CHARS_MAX: usize = 64;
/// serde repeats values in what it says, and says where they are behind them.
const PROBLEM_CHARS_MAX: usize = 256;
/// Longest name of an object (RFC 1123's subdomain, as Kubernetes has it).
const NAME_CHARS_MAX: usize = 253;
