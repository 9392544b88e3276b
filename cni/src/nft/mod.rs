//! Rules of nf_tables for an attachment, each marked with the attachment's id, put in and taken out as one. It must
//! never read or change a table of anybody else's, nor need the `nft` program.
//!
//! A rule's mark is its comment, `sluice:<id>:<kind>`, as `nft list ruleset` shows it. All that is kept about a rule is
//! the rule: who removes one looks for the mark, so nothing needs to have been written down. Beside the comment, where
//! `nft` does not show it, is the id of the attachment's network: what is left of a network can be found with nothing
//! written down at all.
//!
//! Many processes do this at a time. Each change is one batch, which the kernel takes whole or not at all
//! (include/uapi/linux/netfilter/nfnetlink.h). Our table and chains come with the first rule, in the same batch, and
//! stay: whoever deletes them has to know that nobody is about to use them, and the kernel to wait for every processor;
//! an empty chain costs less. A rule is deleted by a number that is unique only within its table's life, so that batch
//! is valid only for the generation of the rules in which the number was read; when somebody else was faster, we read
//! again.

mod abi;
mod wire;
mod expression;
mod rule;
mod transport;
mod conntrack;
mod mark;

use std::collections::BTreeSet;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};
use rustix::io::Errno;

use abi::*;
pub use mark::Mark;
use rule::Place;
pub use rule::{Chain, Rule, TABLE, loopback_guard, masquerade, port_mappings, spoof_check};
use transport::{Failure, Found, Transport};
use wire::{Attributes, Message, covers_list};

use crate::protocol::{PortMapping, Protocol};

/// Why rules could not be read or changed. Whatever it is, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    #[error(
        "the kernel has no nf_tables, or lacks what {what} needs (nft_chain_nat, nft_masq, nft_fib_inet...)"
    )]
    Unavailable { what: String, source: Errno },
    #[error("the kernel refuses {what}")]
    Refused { what: String, source: Errno },
    #[error("{what}: others kept changing the rules for {} s", PATIENCE.as_secs())]
    Contended { what: String },
    #[error("an attachment's id is 16 hexadecimal digits, not {0:?}")]
    Id(String),
    #[error("the kernel's answer ends early")]
    Malformed,
    #[error("netlink socket of netfilter")]
    Io(#[source] io::Error),
}

/// How what is there differs from what was installed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    #[error("rule {kind} is not in {chain}, or not as it was installed")]
    Missing { chain: Chain, kind: &'static str },
    #[error("a rule in {chain} with comment {comment} is not one that was installed")]
    Unexpected { chain: String, comment: String },
}

/// A connection to the nf_tables of the network namespace that the thread was in when it was opened.
#[derive(Debug)]
pub struct Nft {
    transport: Transport,
    /// Marked on rules that are installed.
    network: Option<String>,
}

impl Nft {
    /// Fails with [`NftError::Unavailable`] where the kernel has no nfnetlink; then there are no rules of ours either.
    pub fn open() -> Result<Self, NftError> {
        Ok(Self { transport: Transport::open()?, network: None })
    }

    /// The same, for attachments of the network with this id.
    #[must_use]
    pub fn of_network(self, id: String) -> Self {
        Self { network: Some(id), ..self }
    }

    /// Adds `rules` for attachment `id`, all or none, and before them whatever of our table and chains is missing.
    ///
    /// Rules that are there are not looked for: installed twice, they are there twice, and [`Nft::remove`] takes both.
    pub fn install(&mut self, id: &str, rules: &[Rule]) -> Result<(), NftError> {
        self.patiently("install rules", |nft| {
            let mut batch = nft.installation(id, rules)?;
            batch.push(end());
            nft.transport.change(None, batch).map_err(|failure| failure.of_addition())
        })
    }

    /// Whether the kernel would take `rules`; nothing is changed. What STATUS asks.
    pub fn supports(&mut self, rules: &[Rule]) -> Result<(), NftError> {
        self.patiently("try rules", |nft| {
            let batch = nft.installation(NOBODY, rules)?;
            nft.transport.change(None, batch).map_err(|failure| failure.of_addition())
        })
    }

    /// How the rules of attachment `id` differ from `rules`: empty if they do not. Their order is not looked at.
    ///
    /// Compared are chain, comment and every value of every expression that we set; counters are not.
    pub fn check(&mut self, id: &str, rules: &[Rule]) -> Result<Vec<Difference>, NftError> {
        let (_, mut found) = self.patiently("list rules", |nft| nft.listing(Some(id)))?;
        let mut differences = Vec::new();
        for rule in rules {
            let same = |found: &Found| {
                found.family == rule.chain.family()
                    && found.chain == rule.chain.name()
                    && found.comment == comment(id, rule.kind)
                    && covers_list(rule.expressions.attributes().bytes(), &found.expressions)
            };
            match found.iter().position(same) {
                Some(position) => drop(found.swap_remove(position)),
                None => differences.push(Difference::Missing { chain: rule.chain, kind: rule.kind }),
            }
        }
        let unexpected = |Found { chain, comment, .. }| Difference::Unexpected { chain, comment };
        differences.extend(found.into_iter().map(unexpected));
        Ok(differences)
    }

    /// Deletes every rule of attachment `id`, all or none, and says how many there were. That there is none, no
    /// table, or no nf_tables, is success.
    pub fn remove(&mut self, id: &str) -> Result<usize, NftError> {
        let removed = self.patiently("remove rules", |nft| {
            let (generation, found) = nft.listing(Some(id))?;
            nft.delete(generation, &found)?;
            Ok(found.len())
        });
        match removed {
            Err(NftError::Unavailable { .. }) => Ok(0),
            other => other,
        }
    }

    /// Makes clients that have been sending UDP to the ports of `mappings` new to the kernel, so that rules for them
    /// that were installed or removed just now apply; says how many flows that were. Needed after [`Nft::install`]
    /// and [`Nft::remove`]; where the flows go is not looked at, since one that is forgotten is only found again.
    pub fn forget_udp(&mut self, target: IpNet, mappings: &[PortMapping]) -> Result<usize, NftError> {
        let udp = mappings.iter().filter(|mapping| mapping.protocol == Protocol::Udp);
        let ports: Vec<u16> = udp.map(|mapping| mapping.host_port).collect();
        if ports.is_empty() {
            return Ok(0);
        }
        let family = if target.addr().is_ipv4() { NFPROTO_IPV4 } else { NFPROTO_IPV6 };
        self.patiently("forget flows", |nft| conntrack::forget_udp(&mut nft.transport, family, &ports))
    }

    /// The ids of all attachments that have rules which are marked as this network's, for GC.
    pub fn attachments_of(&mut self, network: &str) -> Result<BTreeSet<String>, NftError> {
        let (_, found) = self.patiently("list rules", |nft| nft.listing(None))?;
        let of_it = found.iter().filter(|found| found.network.as_deref() == Some(network));
        Ok(of_it.filter_map(|found| id_of(&found.comment)).map(str::to_owned).collect())
    }

    /// Our rules of one attachment, or of all, and the generation in which they are all there is.
    ///
    /// The kernel makes a list a datagram at a time, counting rules to know where it was; while a change is under way
    /// that puts rules in or takes them out, a rule may come twice or not at all. Of that it tells only what it has
    /// finished between two datagrams (`NLM_F_DUMP_INTR`). So the list counts only if no change was under way when it
    /// began, and none finished since. A change that was given up meanwhile is what remains unseen: GC finds what DEL
    /// missed.
    fn listing(&mut self, id: Option<&str>) -> Result<(u32, Vec<Found>), Attempt> {
        let generation = self.transport.generation()?;
        self.transport.wait_for_changes(generation)?;
        let mut all: Vec<Found> = Vec::new();
        for family in [NFPROTO_INET, NFPROTO_BRIDGE] {
            let found = self.transport.rules(family, TABLE)?;
            all.extend(found.into_iter().filter(|found| match (id_of(&found.comment), id) {
                (Some(theirs), Some(id)) => theirs == id,
                (theirs, _) => theirs.is_some(),
            }));
        }
        self.transport.wait_for_changes(generation)?;
        all.sort_by_key(|found| (found.family, found.handle));
        all.dedup_by_key(|found| (found.family, found.handle));
        Ok((generation, all))
    }

    /// Deletes rules as they were listed in `generation`.
    fn delete(&mut self, generation: u32, rules: &[Found]) -> Result<(), Attempt> {
        if rules.is_empty() {
            return Ok(());
        }
        let mut batch: Vec<_> = rules.iter().map(deletion).collect();
        batch.push(end());
        self.transport.change(Some(generation), batch).map_err(Failure::of_deletion)
    }

    fn installation(&self, id: &str, rules: &[Rule]) -> Result<Vec<(String, Message)>, Attempt> {
        if !is_id(id) {
            return Err(NftError::Id(id.to_owned()).into());
        }
        let chains: BTreeSet<Chain> = rules.iter().map(|rule| rule.chain).collect();
        let families: BTreeSet<u8> = chains.iter().map(|chain| chain.family()).collect();
        let tables = families.into_iter().map(table_creation);
        let chains = chains.into_iter().map(chain_creation);
        let rules = rules.iter().map(|rule| rule_creation(id, self.network.as_deref(), rule));
        Ok(tables.chain(chains).chain(rules).collect())
    }

    /// Does `what` until it is done, fails for good, or too long a time has passed.
    fn patiently<T>(
        &mut self,
        what: &str,
        mut attempt: impl FnMut(&mut Self) -> Result<T, Attempt>,
    ) -> Result<T, NftError> {
        let end = Instant::now() + PATIENCE;
        let mut pause = Duration::ZERO;
        loop {
            match attempt(self) {
                Ok(done) => return Ok(done),
                Err(Attempt::Failed(error)) => return Err(error),
                Err(Attempt::Again) if Instant::now() >= end => {
                    return Err(NftError::Contended { what: what.to_owned() });
                }
                Err(Attempt::Again) => thread::sleep(pause),
            }
            pause = (pause + Duration::from_micros(50)).min(LONGEST_PAUSE);
        }
    }
}

/// Why an attempt did not succeed.
#[derive(Debug)]
enum Attempt {
    /// Somebody else changed the rules meanwhile.
    Again,
    Failed(NftError),
}

impl From<NftError> for Attempt {
    fn from(error: NftError) -> Self {
        Self::Failed(error)
    }
}

fn table_creation(family: u8) -> (String, Message) {
    let attributes = Attributes::default().text(NFTA_TABLE_NAME, TABLE);
    (format!("table {TABLE}"), Message::new(NFT_MSG_NEWTABLE, NLM_F_CREATE, family, attributes))
}

/// Of a chain that is there and is as ours should be, the kernel changes nothing; of another by its name, it refuses.
fn chain_creation(chain: Chain) -> (String, Message) {
    let hook = Attributes::default()
        .number(NFTA_HOOK_HOOKNUM, chain.hook())
        .put(NFTA_HOOK_PRIORITY, &chain.priority().to_be_bytes());
    let attributes = Attributes::default()
        .text(NFTA_CHAIN_TABLE, TABLE)
        .text(NFTA_CHAIN_NAME, chain.name())
        .nest(NFTA_CHAIN_HOOK, &hook)
        .text(NFTA_CHAIN_TYPE, chain.chain_type());
    (format!("chain {chain}"), Message::new(NFT_MSG_NEWCHAIN, NLM_F_CREATE, chain.family(), attributes))
}

fn rule_creation(id: &str, network: Option<&str>, rule: &Rule) -> (String, Message) {
    let attributes = Attributes::default()
        .text(NFTA_RULE_TABLE, TABLE)
        .text(NFTA_RULE_CHAIN, rule.chain.name())
        .nest(NFTA_RULE_EXPRESSIONS, rule.expressions.attributes())
        .put(NFTA_RULE_USERDATA, &user_data(&comment(id, rule.kind), network));
    let flags = match rule.place {
        Place::First => NLM_F_CREATE,
        Place::Last => NLM_F_CREATE | NLM_F_APPEND,
    };
    let what = format!("rule {} in {}", rule.kind, rule.chain);
    (what, Message::new(NFT_MSG_NEWRULE, flags, rule.chain.family(), attributes))
}

fn end() -> (String, Message) {
    ("batch".to_owned(), Message::batch_end())
}

fn deletion(found: &Found) -> (String, Message) {
    let attributes = Attributes::default()
        .text(NFTA_RULE_TABLE, TABLE)
        .text(NFTA_RULE_CHAIN, &found.chain)
        .put(NFTA_RULE_HANDLE, &found.handle.to_be_bytes());
    (
        format!("deletion of rule {}", found.comment),
        Message::new(NFT_MSG_DELRULE, 0, found.family, attributes),
    )
}

fn comment(id: &str, kind: &str) -> String {
    format!("{TABLE}:{id}:{kind}")
}

/// Whose rule it is, by its comment; `None` if not one of ours.
fn id_of(comment: &str) -> Option<&str> {
    let (id, _kind) = comment.strip_prefix(TABLE)?.strip_prefix(':')?.split_once(':')?;
    is_id(id).then_some(id)
}

fn is_id(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn user_data(comment: &str, network: Option<&str>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let network = network.map(|id| (UDATA_RULE_NETWORK, id));
    for (kind, text) in [(NFTNL_UDATA_RULE_COMMENT, comment)].into_iter().chain(network) {
        let length = u8::try_from(text.len() + 1).unwrap_or(0); // ours are below 64 bytes
        bytes.extend([kind, length]);
        bytes.extend(text.as_bytes());
        bytes.push(0);
    }
    bytes
}

/// Whose rules are only tried.
const NOBODY: &str = "0000000000000000";

/// For how long others may keep us from a change: each of theirs takes below a millisecond.
const PATIENCE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(2);

#[cfg(test)]
#[path = "../../tests/nft/lab.rs"]
#[expect(dead_code, reason = "most of it is for the tests with packets")]
mod lab;

#[cfg(test)]
mod tests {
    use super::lab::Net;
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbb";

    /// A table that is made again counts its rules from one again: the numbers mean other rules then.
    #[test]
    fn numbers_of_rules_are_void_once_anything_has_changed() {
        let net = Net::new();
        let mut nft = net.run(Nft::open).unwrap();
        let rule = masquerade("10.88.1.5/24".parse().unwrap());
        nft.install(A, std::slice::from_ref(&rule)).unwrap();
        let (generation, listed) = nft.listing(Some(A)).unwrap();
        net.sh("nft flush ruleset");
        nft.install(B, std::slice::from_ref(&rule)).unwrap();
        let (_, now) = nft.listing(Some(B)).unwrap();
        assert_eq!(listed[0].handle, now[0].handle);
        assert!(matches!(nft.delete(generation, &listed), Err(Attempt::Again)));
        assert!(matches!(nft.transport.wait_for_changes(generation), Err(Attempt::Again)));
        assert_eq!(nft.check(B, &[rule]).unwrap(), []);
    }

    #[test]
    fn rule_that_is_gone_at_its_deletion_is_looked_for_again() {
        let net = Net::new();
        let mut nft = net.run(Nft::open).unwrap();
        nft.install(A, &[masquerade("10.88.1.5/24".parse().unwrap())]).unwrap();
        let (_, listed) = nft.listing(Some(A)).unwrap();
        nft.remove(A).unwrap();
        let (generation, _) = nft.listing(Some(A)).unwrap();
        assert!(matches!(nft.delete(generation, &listed), Err(Attempt::Again)));
    }

    #[test]
    fn mark_is_of_sixteen_digits_between_our_name_and_a_kind() {
        for (comment, id) in [
            ("sluice:aaaaaaaaaaaaaaaa:masquerade", Some(A)),
            ("sluice:aaaaaaaaaaaaaaaa", None),
            ("sluice:aaaaaaaaaaaaaaa:masquerade", None),
            ("sluice:aaaaaaaaaaaaaaaaa:masquerade", None),
            ("sluice:aaaaaaaaaaaaaaag:masquerade", None),
            ("sluices:aaaaaaaaaaaaaaaa:masquerade", None),
            ("", None),
        ] {
            assert_eq!(id_of(comment), id, "{comment}");
        }
    }

    #[test]
    fn comment_is_type_length_and_text_with_a_zero_byte() {
        assert_eq!(user_data("sluice", None), *b"\x00\x07sluice\x00");
        assert_eq!(user_data("sluice", Some("net")), *b"\x00\x07sluice\x00\xc1\x04net\x00");
    }
}
